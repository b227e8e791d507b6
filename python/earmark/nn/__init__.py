"""Networks and layers in torch.

torch is imported with the first use of a network or layer, so that ``earmark.nn.config`` and
``earmark.nn.piecewise`` can be read without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from earmark.nn.config import EcapaConfig, SoundResNetConfig
from earmark.nn.piecewise import PiecewiseLinear

if TYPE_CHECKING:
    from earmark.nn.ecapa import EcapaTdnn
    from earmark.nn.replace import replace_softmax
    from earmark.nn.resnet import SoundResNet
    from earmark.nn.softmax import LookupTableSoftmax, PiecewiseLinearSoftmax

__all__ = [
    "EcapaConfig",
    "EcapaTdnn",
    "LookupTableSoftmax",
    "PiecewiseLinear",
    "PiecewiseLinearSoftmax",
    "SoundResNet",
    "SoundResNetConfig",
    "replace_softmax",
]

_LAZY = {
    "EcapaTdnn": "earmark.nn.ecapa",
    "LookupTableSoftmax": "earmark.nn.softmax",
    "PiecewiseLinearSoftmax": "earmark.nn.softmax",
    "SoundResNet": "earmark.nn.resnet",
    "replace_softmax": "earmark.nn.replace",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
