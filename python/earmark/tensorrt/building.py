"""Engines of TensorRT from ONNX, built by whichever of its packages is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earmark.tensorrt.packages import environment_of, installed_package

__all__ = ["BATCH", "FRAMES", "BuiltEngine", "Extent", "build_engine"]

# The least, the usual and the most of a dimension.
Extent = tuple[int, int, int]

BATCH: Extent = (1, 1, 8)
FRAMES: Extent = (50, 300, 3000)


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, and what its builder told of it."""

    data: bytes
    builder: str  # such as "tensorrt_rtx 1.7.1.116"
    seconds: float
    # Name, type and inputs' data types of each layer; empty where the builder does not tell.
    layers: list[dict[str, Any]]


def build_engine(
    model: bytes, batch: Extent = BATCH, frames: Extent = FRAMES, library: Path | None = None
) -> BuiltEngine:
    """Build an engine of an ONNX model, with ``tensorrt`` or ``tensorrt_rtx``.

    model: as ``earmark.export.to_onnx(...).SerializeToString()`` has it. batch and frames: of its
    one input (batch, time, bands) the least, the usual and the most. library: of the plugins that
    it needs, ``plugin_path()``. TensorRT-RTX builds without a GPU.

    Works in a process of its own, which a builder that fails may end. Raises ModuleNotFoundError
    where neither package is installed, ValueError for an extent that is none, RuntimeError with the
    builder's words where it has made no engine.
    """
    for name, extent in {"batch": batch, "frames": frames}.items():
        if not 1 <= extent[0] <= extent[1] <= extent[2]:
            raise ValueError(f"{name} is {extent}, expected 1 <= least <= usual <= most")
    package = installed_package()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        given = {
            "package": package,
            "library": None if library is None else str(library),
            "batch": batch,
            "frames": frames,
        }
        (folder / "given.json").write_text(json.dumps(given))
        done = subprocess.run(
            [sys.executable, "-m", "earmark.tensorrt.builder", folder],
            env=environment_of(package, folder),
            capture_output=True,
            text=True,
            check=False,
        )
        made = folder / "made.json"
        if not made.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            reason = said[-1] if said else f"exit status {done.returncode}"
            raise RuntimeError(f"{package} ended without an engine: {reason}")
        told = json.loads(made.read_text())
        if told["errors"] or not (folder / "engine").exists():
            reason = " ".join(" ".join(told["errors"]).split()) or "no reason given"
            raise RuntimeError(f"{told['builder']} made no engine: {reason}")
        return BuiltEngine(
            (folder / "engine").read_bytes(), told["builder"], told["seconds"], told["layers"]
        )
