"""Batches of training examples, made ahead by threads.

Every random choice follows from (seed, epoch, example), so that a batch does not depend on the
number of threads, on the batches before it, or on where a run was interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earmark.frontend import FrontEnd
from earmark.training.augment import Noises, Wave, crop, mask, reverberate
from earmark.training.config import Augmentation
from earmark.training.dataset import SAMPLE_RATE_HZ, Corpus

__all__ = ["ExampleSource", "Examples", "batches", "stacked"]

Features = NDArray[np.float32]
Target = int | NDArray[np.float32]

# Enough that a thread that waits for a disk does not hold up the network.
_BATCHES_AHEAD = 3


class ExampleSource(Protocol):
    """What batches are made of."""

    def __len__(self) -> int:
        """Examples of an epoch."""
        ...

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The examples of an epoch, shuffled."""
        ...

    def make(self, epoch: int, index: int) -> tuple[Features, Target]:
        """Features (T, n_mels) of an example in an epoch, and its target."""
        ...


class Examples:
    """Every utterance of a corpus at every speed: features of a crop, and a class.

    Example ``variant * len(corpus) + row`` is that row of the corpus at that speed.
    """

    def __init__(
        self,
        corpus: Corpus,
        front_end: FrontEnd,
        augmentation: Augmentation,
        seed: int,
        noises: Noises | None = None,
        rooms: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        self._corpus = corpus
        self._front_end = front_end
        self._augmentation = augmentation
        self._seed = seed
        self._noises = noises
        self._rooms = rooms
        self.classes = len(corpus.speakers) * len(augmentation.speeds)

    def __len__(self) -> int:
        return len(self._corpus) * len(self._augmentation.speeds)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The examples of an epoch, shuffled."""
        return np.random.default_rng([self._seed, epoch]).permutation(len(self))

    def make(self, epoch: int, index: int) -> tuple[Features, int]:
        """Features (T, n_mels) of example ``index`` in ``epoch``, and its class."""
        how = self._augmentation
        rng = np.random.default_rng([self._seed, epoch, index])
        wave, label = self._speech(index, rng)
        if self._rooms and rng.random() < how.room:
            wave = reverberate(wave, self._rooms[int(rng.integers(len(self._rooms)))])
        if self._noises is not None and rng.random() < how.noise:
            wave = self._noises.add(wave, rng)
        features = self._front_end(wave)
        mask(features, how.mask_mels, how.mask_frames, rng)
        return features, label

    def make_clean(self, index: int) -> tuple[Features, int]:
        """As :meth:`make`, the speed apart without augmentation."""
        wave, label = self._speech(index, np.random.default_rng([self._seed, index]))
        return self._front_end(wave), label

    def of_each_class(self, most: int) -> NDArray[np.int64]:
        """The first ``most`` examples of each class."""
        labels = self._corpus.labels
        by_speaker = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[by_speaker], np.arange(len(self._corpus.speakers)))
        rank = np.arange(len(labels)) - starts[labels[by_speaker]]
        first = by_speaker[rank < most]
        variants = np.arange(len(self._augmentation.speeds))
        return (first + len(labels) * variants[:, None]).reshape(-1)

    def _speech(self, index: int, rng: np.random.Generator) -> tuple[Wave, int]:
        """A crop at the example's speed, and the class."""
        how = self._augmentation
        variant, row = divmod(index, len(self._corpus))
        samples, speaker = self._corpus.read(row)
        length = round(how.crop_seconds * SAMPLE_RATE_HZ)
        wave = crop(samples, length, how.speeds[variant], rng)
        return wave, speaker + variant * len(self._corpus.speakers)


def stacked(made: Iterable[tuple[Features, Target]]) -> tuple[Tensor, Tensor]:
    """Features (B, T, n_mels) and targets (B, ...) of examples."""
    features, targets = zip(*made, strict=True)
    return torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(targets))


def batches(
    examples: ExampleSource, size: int, first: int, end: int, threads: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Features (size, T, n_mels) and targets (size, ...) of the steps ``first`` to ``end`` - 1.

    An epoch has ``len(examples) // size`` steps; what is left over has its turn in another epoch.
    """
    per_epoch = len(examples) // size

    def indices() -> Iterator[tuple[int, NDArray[np.int64]]]:
        for epoch in range(first // per_epoch, -(-end // per_epoch)):
            order = examples.order(epoch)
            begin = epoch * per_epoch
            for step in range(max(first, begin), min(end, begin + per_epoch)):
                yield epoch, order[(step - begin) * size :][:size]

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[tuple[Features, Target]]]] = deque()
        steps = indices()
        try:
            while True:
                while len(waiting) < _BATCHES_AHEAD and (step := next(steps, None)) is not None:
                    epoch, rows = step
                    waiting.append([pool.submit(examples.make, epoch, int(i)) for i in rows])
                if not waiting:
                    return
                yield stacked(future.result() for future in waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
