"""earmark: small, integer-only speaker verification without torch.

>>> import earmark
>>> earmark.__version__
'0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from earmark.errors import AudioError, FormatError

if TYPE_CHECKING:
    from earmark.embedder import Embedder, load
    from earmark.families import load_checkpoint
    from earmark.quantization import quantize

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "Embedder",
    "FormatError",
    "__version__",
    "load",
    "load_checkpoint",
    "quantize",
]

# Imported at first use: `import earmark` stays quick, and torch stays out unless it is needed.
_LAZY = {
    "Embedder": "earmark.embedder",
    "load": "earmark.embedder",
    "load_checkpoint": "earmark.families",
    "quantize": "earmark.quantization",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
