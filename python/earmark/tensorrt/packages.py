"""Which TensorRT is installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

__all__ = ["environment_of", "installed_package"]

# The full TensorRT first: who has both has taken more trouble for it.
_PACKAGES = ("tensorrt", "tensorrt_rtx")


def installed_package() -> str:
    """``tensorrt`` or ``tensorrt_rtx``. Raises ModuleNotFoundError where neither is."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is not None:
            return name
    raise ModuleNotFoundError(
        "neither tensorrt nor tensorrt_rtx is installed: pip install tensorrt-rtx",
        name=_PACKAGES[-1],
    )


def environment_of(package: str, folder: Path) -> dict[str, str]:
    """Of a process that builds with the package; links that it needs are made in the folder.

    TensorRT-RTX's parser opens ``libtensorrt_rtx.so``, which its wheel has under the name of a
    version alone.
    """
    environment = dict(os.environ)
    spec = importlib.util.find_spec(f"{package}_libs") if package == "tensorrt_rtx" else None
    if spec is None or spec.origin is None:
        return environment
    for library in Path(spec.origin).parent.glob("libtensorrt_rtx.so.*"):
        (folder / "libtensorrt_rtx.so").symlink_to(library)
        break
    paths = [str(folder), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    return environment
