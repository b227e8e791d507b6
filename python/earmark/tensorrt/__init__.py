"""TensorRT: the plugins that come with the package, engines built with them, and their runner."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earmark.tensorrt.building import BuiltEngine, build_engine
    from earmark.tensorrt.running import TensorRTEmbedder

__all__ = ["BuiltEngine", "TensorRTEmbedder", "build_engine", "plugin_path"]

# At first use: the command line asks for the default sizes of an engine and no more.
_LAZY = {
    "BuiltEngine": "earmark.tensorrt.building",
    "TensorRTEmbedder": "earmark.tensorrt.running",
    "build_engine": "earmark.tensorrt.building",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def plugin_path() -> Path:
    """The library of plugins, to be given to ``IPluginRegistry.load_library``.

    Raises RuntimeError where the package was built without CUDA.
    """
    from earmark import _C

    # Beside the extension, which an editable installation keeps apart from the Python sources.
    path = Path(_C.__file__).with_name("libearmark_trt.so")
    if not path.is_file():
        raise RuntimeError("earmark was built without CUDA: it has no plugins of TensorRT")
    return path
