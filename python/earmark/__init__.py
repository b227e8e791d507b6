"""earmark: small, integer-only speaker verification and sound recognition without torch.

>>> import earmark
>>> earmark.__version__
'0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from earmark.errors import AudioError, FormatError

if TYPE_CHECKING:
    from earmark.classifier import Classifier
    from earmark.embedder import Embedder
    from earmark.families import load_checkpoint
    from earmark.loading import load
    from earmark.quantization import quantize
    from earmark.windows import Sounds

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "Classifier",
    "Embedder",
    "FormatError",
    "Sounds",
    "__version__",
    "load",
    "load_checkpoint",
    "quantize",
]

# Imported at first use: `import earmark` stays quick, and torch stays out unless it is needed.
_LAZY = {
    "Classifier": "earmark.classifier",
    "Embedder": "earmark.embedder",
    "Sounds": "earmark.windows",
    "load": "earmark.loading",
    "load_checkpoint": "earmark.families",
    "quantize": "earmark.quantization",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
