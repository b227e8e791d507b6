"""Long recordings in windows: where they lie, and what their scores say together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "STRIDE_SECONDS",
    "WINDOW_SECONDS",
    "pooled",
    "probabilities",
    "window_starts",
    "windows",
]

# As in the paper on sound recognition with a lightweight ResNet-50: neighbours share 0.4 s, so that
# a short sound at a border is whole in one of them.
WINDOW_SECONDS, STRIDE_SECONDS = 2.0, 1.6

Wave = NDArray[np.float32]
Scores = NDArray[np.float32]


def window_starts(samples: int, window: int, stride: int) -> list[int]:
    """First samples of the windows of a recording: as many as it takes to cover it, at least one.

    >>> window_starts(80000, 32000, 25600)
    [0, 25600, 51200]
    """
    more = -(-max(0, samples - window) // stride)
    return [stride * i for i in range(more + 1)]


def windows(wave: Wave, window: int, stride: int) -> Iterator[Wave]:
    """The windows (window,) of a recording (samples,), zeros behind its end; views but the last."""
    for start in window_starts(len(wave), window, stride):
        piece = wave[start : start + window]
        yield piece if len(piece) == window else np.pad(piece, (0, window - len(piece)))


def probabilities(scores: Scores) -> Scores:
    """Softmax over the last axis, computed in float64."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    numerators = np.exp(shifted)
    shares: Scores = (numerators / numerators.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def pooled(timeline: Scores) -> Scores:
    """Probabilities (classes,) of a recording from those of its windows (windows, classes): their
    mean.

    Each window thus has one vote. A mean of scores before the softmax would multiply probabilities,
    and one window that is sure of the wrong class could overrule all others.
    """
    mean: Scores = timeline.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
