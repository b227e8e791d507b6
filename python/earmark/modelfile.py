"""The ``.earmark`` file: one safetensors file with canonical JSON and a digest (docs/file-format.md)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from earmark.errors import FormatError

FORMAT_VERSION = 1
_NO_DIGEST = "0" * 64
_DTYPES = {"int8", "float32"}

Arrays = dict[str, NDArray[Any]]

# What using metadata of a wrong form can raise; a reader turns these into FormatError.
JSON_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError)


@dataclass
class ModelFile:
    """A model as stored: the JSON (without its digest) and the named arrays it refers to."""

    metadata: dict[str, Any]
    arrays: Arrays

    @property
    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = self.metadata["plan"]
        return plan


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN or Inf."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(metadata: dict[str, Any], arrays: Arrays) -> str:
    """SHA-256 over the JSON with the digest zeroed, the sorted tensor table and all bytes."""
    sha = hashlib.sha256(canonical_json({**metadata, "sha256": _NO_DIGEST}).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        shape = ",".join(str(n) for n in array.shape)
        sha.update(f"{name} {array.dtype.name} {shape}\n".encode())
        sha.update(array.reshape(-1).view(np.uint8))
    return sha.hexdigest()


def to_bytes(model: ModelFile) -> bytes:
    """The file's bytes; equal models give equal bytes."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in model.arrays.items()}
    metadata = {**model.metadata, "format": FORMAT_VERSION}
    metadata["sha256"] = digest(metadata, arrays)
    return bytes(save(arrays, metadata={"earmark": canonical_json(metadata)}))


def write(model: ModelFile, path: str | os.PathLike[str]) -> None:
    """Write a model file; an existing file is replaced at once or not at all."""
    data = to_bytes(model)
    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        # mkstemp makes private files; a model is as readable as any other new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read and verify a model file.

    Raises FormatError, with the file's name and the reason, for anything but an intact file of this
    format. Executes nothing; allocates no more than the arrays that the header names.
    """
    from safetensors import SafetensorError, safe_open

    def refuse(reason: str) -> NoReturn:
        raise FormatError(f"{os.fspath(path)}: {reason}")

    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            stored = file.metadata() or {}
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        refuse("no such file")
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        refuse(f"not an .earmark file: {_one_line(error)}")
    if set(stored) != {"earmark"}:
        refuse(f"not an .earmark file: metadata keys are {sorted(stored)}, expected ['earmark']")
    try:
        metadata = json.loads(stored["earmark"], parse_constant=_no_constant)
        if not isinstance(metadata, dict):
            refuse("the metadata is not a JSON object")
        canonical = canonical_json(metadata)
    except (ValueError, RecursionError) as error:
        refuse(f"the metadata is not JSON: {_one_line(error)}")
    version = metadata.get("format")
    if version != FORMAT_VERSION:
        refuse(f"format {version!r} is not supported, expected {FORMAT_VERSION}")
    if canonical != stored["earmark"]:
        refuse("the metadata is not in canonical form")
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            refuse(f"tensor {name!r} is {array.dtype.name}, expected int8 or float32")
    expected = metadata.pop("sha256", None)
    actual = digest(metadata, arrays)
    if expected != actual:
        refuse(f"the file is damaged: sha256 is {actual[:12]}…, expected {str(expected)[:12]}…")
    return ModelFile({**metadata, "sha256": actual}, arrays)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
