"""The front end of TaoRuijie/ECAPA-TDNN.

The same features as its ``PreEmphasis`` and ``torchaudio.transforms.MelSpectrogram``, logarithm and
mean, for one recording at a time.
"""

from __future__ import annotations

from earmark import _C
from earmark.frontend.filterbank import MelFrontEnd

__all__ = ["TaoRuijieFbank"]


class TaoRuijieFbank(MelFrontEnd):
    """Logarithms of mel filterbank energies with the recording's mean subtracted.

    Pre-emphasis of 0.97, the sample before the first being the second; frames of 400 samples, one
    each 160, centred on their time, the emphasised recording reflected beyond its ends; periodic
    Hamming window; power spectrum of 512 samples; triangles over 20 to 7600 Hz with corners on the
    mel scale; natural logarithm of the energy plus 1e-6; the mean over all frames subtracted.
    n samples, at least 257, give n // 160 + 1 frames. Computed in float64, rounded to float32; the
    same bits on every instruction set (docs/arithmetic.md).

    >>> TaoRuijieFbank().frames(16000)
    101
    """

    name = "taoruijie"

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__(n_mels)

    @staticmethod
    def _compile(n_mels: int) -> _C.FrontEnd:
        return _C.TaoRuijieFbank(n_mels)
