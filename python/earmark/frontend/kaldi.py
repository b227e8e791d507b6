"""Kaldi's filterbank, the front end of 3D-Speaker's and WeSpeaker's models."""

from __future__ import annotations

from earmark import _C
from earmark.errors import FormatError
from earmark.frontend.filterbank import MelFrontEnd

__all__ = ["KaldiFbank"]

_WINDOWS = ("povey", "hamming")
_SCALES = (1, 32768)


class KaldiFbank(MelFrontEnd):
    """Logarithms of Kaldi's mel filterbank energies with the recording's mean subtracted.

    The same features as ``torchaudio.compliance.kaldi.fbank(scale * wave, num_mel_bins=n_mels,
    window_type=window)``, without dither, less their mean over all frames. Frames of 400 samples,
    one each 160, all within the recording; each frame's mean removed, then pre-emphasis of 0.97
    within the frame; power spectrum of 512 samples; triangles on the mel scale over 20 to 8000 Hz;
    natural logarithm of at least 2^-23. n samples, at least 400, give (n - 400) // 160 + 1 frames.
    Computed in float64, rounded to float32; the same bits on every instruction set
    (docs/arithmetic.md).

    window: ``"povey"`` (3D-Speaker) or ``"hamming"`` (WeSpeaker's ECAPA-TDNN). scale: 1
    (3D-Speaker) or 32768 (WeSpeaker), by which samples in [-1, 1] are multiplied; it is seen where
    the logarithm's floor is. Both are a matter of the model: WeSpeaker runs CAM++ and ERes2Net with
    the others' values. Raises FormatError for other values.

    >>> KaldiFbank(window="hamming", scale=32768).frames(16000)
    98
    """

    name = "kaldi"
    options = ("window", "scale")

    def __init__(self, n_mels: int = 80, window: str = "povey", scale: int = 1) -> None:
        if not isinstance(window, str) or window not in _WINDOWS:
            raise FormatError(f"window must be {' or '.join(_WINDOWS)}, got {window!r}")
        if type(scale) is not int or scale not in _SCALES:
            raise FormatError(f"scale must be {' or '.join(map(str, _SCALES))}, got {scale!r}")
        super().__init__(n_mels, window=window, scale=scale)

    @staticmethod
    def _compile(n_mels: int, window: str = "povey", scale: int = 1) -> _C.FrontEnd:
        return _C.KaldiFbank(n_mels, window, scale)
