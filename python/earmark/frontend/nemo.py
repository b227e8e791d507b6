"""The front end of NeMo's speaker models.

The same features as the valid frames of ``FilterbankFeatures(n_window_size=400, n_fft=512,
nfilt=80, normalize="per_feature")`` in evaluation, for one recording at a time.
"""

from __future__ import annotations

from earmark import _C
from earmark.frontend.filterbank import MelFrontEnd

__all__ = ["NemoFbank"]


class NemoFbank(MelFrontEnd):
    """Logarithms of mel filterbank energies, normalised over the recording.

    Pre-emphasis of 0.97, the first sample kept; frames of 400 samples, one each 160, centred on
    their time with zeros beyond the ends; symmetric Hann window; power spectrum of 512 samples;
    Slaney's mel filters over 0 to 8000 Hz, each of area 1; natural logarithm of the energy plus
    2^-24; from each feature its mean over the frames subtracted, then divided by its standard
    deviation (of n - 1) plus 1e-5. n samples, at least 320, give n // 160 frames: the last one that
    a centred transform has, and that NeMo masks, is left out. Computed in float64, rounded to
    float32; the same bits on every instruction set (docs/arithmetic.md).

    >>> NemoFbank().frames(16000)
    100
    """

    name = "nemo"

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__(n_mels)

    @staticmethod
    def _compile(n_mels: int) -> _C.FrontEnd:
        return _C.NemoFbank(n_mels)
