"""Long recordings in windows: where they lie, and what their scores say together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRIDE_SECONDS", "WINDOW_SECONDS", "Sounds", "window_starts", "windows"]

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


@dataclass(frozen=True, eq=False)
class Sounds:
    """What is heard in a recording.

    ``labels``: names of the classes. ``probabilities``: (classes,) float32 of the whole recording,
    the mean of the windows'. ``timeline``: (windows, classes) float32; ``starts``: where each
    window begins, in seconds.

    >>> scores = np.array([[4.0, 0.0], [1.0, 2.0]], np.float32)
    >>> heard = Sounds.of_scores(("dog", "rain"), scores, stride_seconds=1.6)
    >>> heard.label, heard.starts.tolist()
    ('dog', [0.0, 1.6])
    >>> [window.label for window in heard.split()]
    ['dog', 'rain']
    """

    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]
    timeline: NDArray[np.float32]
    starts: NDArray[np.float64]

    @classmethod
    def of_scores(cls, labels: tuple[str, ...], scores: Scores, stride_seconds: float) -> Sounds:
        """From the network's scores (windows, classes), before any softmax.

        Each window has one vote: a mean of scores before the softmax would multiply probabilities,
        and one window that is sure of the wrong class could overrule all others. A window in which
        nothing sounds, and for which a network has learnt to say so, shifts nothing.
        """
        timeline = _softmax(scores)
        mean: Scores = timeline.mean(axis=0, dtype=np.float64).astype(np.float32)
        starts = stride_seconds * np.arange(len(scores), dtype=np.float64)
        return cls(labels, mean, timeline, starts)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[int(self.probabilities.argmax())]

    def split(self) -> list[Sounds]:
        """The windows, each by itself."""
        return [
            Sounds(self.labels, row, row[None], self.starts[i : i + 1])
            for i, row in enumerate(self.timeline)
        ]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes, best first, with their probabilities."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


def _softmax(scores: Scores) -> Scores:
    """Over the last axis, computed in float64."""
    numerators = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    shares: Scores = (numerators / numerators.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares
