"""The front end of SpeechBrain's speaker models.

The same features as ``speechbrain.lobes.features.Fbank(n_mels=80)`` followed by
``InputNormalization(norm_type="sentence", std_norm=False)``, for one recording at a time.
"""

from __future__ import annotations

from earmark import _C
from earmark.frontend.filterbank import MelFrontEnd

__all__ = ["SpeechBrainFbank"]


class SpeechBrainFbank(MelFrontEnd):
    """Mel filterbank energies in dB with the recording's mean subtracted.

    Frames of 400 samples, one each 160, centred on their time with zeros beyond the ends; periodic
    Hamming window; power spectrum; triangular filters over 0 to 8000 Hz; ``10 log10`` of at least
    1e-10; values more than 80 dB below the recording's maximum raised to that; the mean over all
    frames subtracted. n samples give n // 160 + 1 frames. Computed in float64, rounded to float32;
    the same bits on every instruction set (docs/arithmetic.md).

    >>> SpeechBrainFbank().frames(16000)
    101
    """

    name = "speechbrain"

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__(n_mels)

    @staticmethod
    def _compile(n_mels: int) -> _C.FrontEnd:
        return _C.SpeechBrainFbank(n_mels)
