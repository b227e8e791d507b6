"""Which front end belongs to which family."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from earmark.frontend import FrontEnd

__all__ = ["front_end_of"]

# Class in earmark.frontend, and its arguments beside n_mels.
_FRONT_ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "speechbrain": ("SpeechBrainFbank", {}),
    "3dspeaker": ("KaldiFbank", {"window": "povey", "scale": 1}),
    "wespeaker": ("KaldiFbank", {"window": "hamming", "scale": 32768}),
    "taoruijie": ("TaoRuijieFbank", {}),
    "nemo": ("NemoFbank", {}),
}


def front_end_of(family: str, n_mels: int) -> FrontEnd:
    """The features that a family's published ECAPA-TDNNs were trained on, n_mels of them a frame.

    family: a key of the table. Raises ValueError for numbers that the front end refuses.
    """
    name, arguments = _FRONT_ENDS[family]
    front_end: FrontEnd = getattr(import_module("earmark.frontend"), name)(
        n_mels=n_mels, **arguments
    )
    return front_end
