"""Training of sound-event networks: soft targets on mixed pieces of clips."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from earmark.frontend import FrontEnd
from earmark.nn.resnet import SoundResNet
from earmark.training.augment import Wave, mask
from earmark.training.config import SoundAugmentation, SoundTrainingConfig
from earmark.training.dataset import FULL_SCALE, SAMPLE_RATE_HZ, Corpus, Progress
from earmark.training.loop import Evaluation, Objective, digest_of
from earmark.training.task import Task, carry_out

__all__ = ["SoundExamples", "sound_task", "train_sounds"]

_SILENCE = 1e-6  # mean square, -60 dB of full scale
_DRAWS = 5  # of a piece that is not silent
_BEYOND = 0.25  # of a piece may lie behind the clip's end, where zeros are


class SoundExamples:
    """Pieces of clips with targets (classes,), float32 of sum 1.

    ``corpus``: its speakers are the classes. A piece in which nothing sounds is drawn again; one of
    a clip that is mostly silent may remain so, and then its target says that it can be anything.
    Two pieces are mixed at the same level in a ratio that is the targets' as well (Y. Tokozume,
    Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
    arXiv:1711.10282).
    """

    def __init__(
        self,
        corpus: Corpus,
        front_end: FrontEnd,
        augmentation: SoundAugmentation,
        seed: int,
        undersample: bool = False,
    ) -> None:
        self._corpus = corpus
        self._front_end = front_end
        self._augmentation = augmentation
        self._seed = seed
        self.classes = len(corpus.speakers)
        self.counts = np.bincount(corpus.labels, minlength=self.classes)
        self._each = int(self.counts.min()) if undersample else None

    def __len__(self) -> int:
        return len(self._corpus) if self._each is None else self._each * self.classes

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The clips of an epoch, shuffled; with undersampling as many of each class."""
        shuffled = np.random.default_rng([self._seed, epoch]).permutation(len(self._corpus))
        if self._each is None:
            return shuffled
        labels = self._corpus.labels[shuffled]
        kept = [np.flatnonzero(labels == i)[: self._each] for i in range(self.classes)]
        return shuffled[np.sort(np.concatenate(kept))]

    def make(self, epoch: int, index: int) -> tuple[Wave, Wave]:
        """Features (T, n_mels) of a piece of clip ``index`` in ``epoch``, and its target."""
        how = self._augmentation
        rng = np.random.default_rng([self._seed, epoch, index])
        wave, target = self._piece(index, rng)
        if rng.random() < how.mix:
            other, other_target = self._piece(int(rng.integers(len(self._corpus))), rng)
            share = np.float32(rng.random())
            level, other_level = _level(wave), _level(other)
            if min(level, other_level) > np.sqrt(_SILENCE):
                norm = np.float32(np.hypot(share, 1 - share))
                rest = 1 - share
                wave = (share / norm) * wave + (rest / norm * level / other_level) * other
                target = share * target + rest * other_target
        gain = np.float32(10 ** (rng.uniform(*how.gain_db) / 20))
        features = self._front_end(gain * wave)
        mask(features, how.mask_mels, how.mask_frames, rng)
        return features, target.astype(np.float32, copy=False)

    def _piece(self, index: int, rng: np.random.Generator) -> tuple[Wave, Wave]:
        """A piece at a random speed, (samples,), and its target."""
        length = round(self._augmentation.seconds * SAMPLE_RATE_HZ)
        clip, label = self._corpus.read(index)
        speed = rng.uniform(*self._augmentation.speed)
        taken = int(np.ceil(length * speed)) + 1
        for _ in range(_DRAWS):
            start = int(rng.integers(max(0, len(clip) - round((1 - _BEYOND) * taken)) + 1))
            wave = clip[start : start + taken].astype(np.float32) / FULL_SCALE
            if np.mean(wave**2) > _SILENCE:
                break
        wave = soxr.resample(wave, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ, "MQ")[:length]
        piece: Wave = np.pad(wave, (0, length - len(wave)))
        target = np.zeros(self.classes, np.float32)
        target[label] = 1
        if np.mean(piece**2) <= _SILENCE:
            target[:] = 1 / self.classes
        return piece, target


def train_sounds(
    net: SoundResNet,
    corpus: Corpus,
    folder: str | os.PathLike[str],
    config: SoundTrainingConfig,
    *,
    pretrained: bool = False,
    evaluation: Evaluation | None = None,
    device: str = "cpu",
    workers: int = 1,
    save_seconds: float = 120.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train ``net`` in place on clips, whose ``speakers`` are its classes, or go on.

    ``pretrained``: the run's recipe names the weights that training starts from. Files, other
    arguments and errors are those of :func:`earmark.training.train`; the log shows the share of
    ``clips_right`` that ``evaluation`` measures. Raises ValueError when the corpus has other
    classes than the network.
    """
    task = sound_task(net, corpus, config, evaluation)
    # A tenth faster on CPUs.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return carry_out(
        task,
        folder,
        {"start": digest_of(net) if pretrained else "random"},
        lambda examples: (net, task.labelled(examples)[0], None),
        lambda _: {},
        device=device,
        workers=workers,
        save_seconds=save_seconds,
        progress=progress,
    )


def sound_task(
    net: SoundResNet, corpus: Corpus, config: SoundTrainingConfig, evaluation: Evaluation | None
) -> Task:
    """To tell the classes of clips. Raises ValueError for a corpus of other classes."""
    if tuple(corpus.speakers) != net.labels:
        raise ValueError(
            f"the clips are of the classes {', '.join(corpus.speakers)}, the network knows "
            f"{', '.join(net.labels)}"
        )

    def examples(run: Path, progress: Progress | None) -> SoundExamples:
        return SoundExamples(
            corpus, net.front_end, config.augmentation, config.seed, config.undersample
        )

    def labelled(examples: SoundExamples) -> tuple[Objective, Callable[[int], None]]:
        weights = examples.counts.mean() / examples.counts if config.class_weights else None
        return _SoftTargets(config.smoothing, weights), lambda workers: None

    return Task(
        config,
        evaluation,
        {
            "family": net.family,
            "network": net.config.to_dict(),
            "training": config.to_dict(),
            "data": corpus.summary(),
            "evaluation": {"clips": evaluation.name, "every": evaluation.every}
            if evaluation
            else {},
        },
        {"family": net.family, "config": net.config.to_dict(), "labels": net.labels},
        {
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "classes": len(net.labels),
            "clips": len(corpus),
        },
        "clips_right",
        examples,
        labelled,
        _Taught,
    )


class _Taught(Objective):
    """The Kullback-Leibler divergence of a student's probabilities from its teacher's, in nats; of
    scores (B, 2, classes)."""

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        student, teacher = outputs.float().log_softmax(dim=2).unbind(dim=1)
        loss = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return loss, (student.argmax(dim=1) == teacher.argmax(dim=1)).sum()


class _SoftTargets(Objective):
    """Cross entropy with targets (B, classes) of sum 1, each class counted with its weight."""

    def __init__(self, smoothing: float, weights: NDArray[np.float64] | None) -> None:
        super().__init__()
        self._smoothing = smoothing
        self.weights: Tensor | None
        tensor = None if weights is None else torch.from_numpy(weights).float()
        self.register_buffer("weights", tensor, persistent=False)

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        scores = outputs.float()
        loss = functional.cross_entropy(
            scores, targets, self.weights, label_smoothing=self._smoothing
        )
        return loss, (scores.argmax(dim=1) == targets.argmax(dim=1)).sum()


def _level(wave: Wave) -> Any:
    """Root mean square, a float32."""
    return np.sqrt(np.mean(wave**2))
