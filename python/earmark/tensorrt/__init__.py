"""TensorRT: the plugins that come with the package, engines built with them, and their runner."""

from __future__ import annotations

from pathlib import Path

from earmark import _C
from earmark.tensorrt.building import BuiltEngine, build_engine
from earmark.tensorrt.running import TensorRTEmbedder

__all__ = ["BuiltEngine", "TensorRTEmbedder", "build_engine", "plugin_path"]


def plugin_path() -> Path:
    """The library of plugins, to be given to ``IPluginRegistry.load_library``.

    Raises RuntimeError where the package was built without CUDA.
    """
    # Beside the extension, which an editable installation keeps apart from the Python sources.
    path = Path(_C.__file__).with_name("libearmark_trt.so")
    if not path.is_file():
        raise RuntimeError("earmark was built without CUDA: it has no plugins of TensorRT")
    return path
