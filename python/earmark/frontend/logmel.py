"""The front end of sound-event networks."""

from __future__ import annotations

from earmark import _C
from earmark.frontend.filterbank import MelFrontEnd

__all__ = ["LogMel"]


class LogMel(MelFrontEnd):
    """Mel filterbank energies in dB on a fixed scale: (dB + 20) / 25.

    Frames of 400 samples, one each 320, and filters as :class:`SpeechBrainFbank` has them; values
    more than 80 dB below the maximum, and those below -60 dB, raised to that. No mean is
    subtracted, for unlike a channel's colour in speech, a steady spectrum is what tells rain from a
    clock. n samples give n // 320 + 1 frames. Computed in float64, rounded to float32, scaled; the
    same bits on every instruction set (docs/arithmetic.md).

    >>> LogMel().frames(16000)
    51
    """

    name = "log-mel"

    def __init__(self, n_mels: int = 64) -> None:
        super().__init__(n_mels)

    @staticmethod
    def _compile(n_mels: int) -> _C.FrontEnd:
        return _C.LogMel(n_mels)
