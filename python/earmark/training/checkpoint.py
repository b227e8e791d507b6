"""The files of a run: replaced at once or not at all, whatever kills the process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from earmark.errors import FormatError, first_line

__all__ = ["atomic_file", "read_state", "write_json", "write_tensors"]

_KEY = "earmark"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, whose file takes the place of ``path`` if the block succeeds.

    The file is on the disk before its name changes, so that even a power failure leaves the old or
    the new one. A leftover of a killed process is overwritten.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file with one metadata key, ``earmark``, that holds JSON."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Bytes, for safetensors would write a file that nobody else may read.
    data = save(plain, metadata={_KEY: json.dumps(metadata)})
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and metadata of a file that :func:`write_tensors` wrote.

    Raises FormatError for any other file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: not the state of a run: {first_line(error)}") from error


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
