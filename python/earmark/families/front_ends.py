"""Which front end belongs to which family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from earmark.frontend import FrontEnd, KaldiFbank, NemoFbank, SpeechBrainFbank, TaoRuijieFbank

__all__ = ["front_end_of"]

_FRONT_ENDS: dict[str, Callable[[int], FrontEnd]] = {
    "speechbrain": SpeechBrainFbank,
    "3dspeaker": partial(KaldiFbank, window="povey", scale=1),
    "wespeaker": partial(KaldiFbank, window="hamming", scale=32768),
    "taoruijie": TaoRuijieFbank,
    "nemo": NemoFbank,
}


def front_end_of(family: str, n_mels: int) -> FrontEnd:
    """The features that a family's published ECAPA-TDNNs were trained on, n_mels of them a frame.

    family: a key of the table. Raises ValueError for numbers that the front end refuses.
    """
    return _FRONT_ENDS[family](n_mels)
