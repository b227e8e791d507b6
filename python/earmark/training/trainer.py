"""Training of ECAPA-TDNNs: additive angular margin softmax on augmented crops."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from earmark.nn.ecapa import EcapaTdnn
from earmark.training.augment import Noises
from earmark.training.batches import Examples, ExampleSource
from earmark.training.centres import mean_embeddings
from earmark.training.config import TrainingConfig
from earmark.training.dataset import Corpus, Progress, Recordings
from earmark.training.loop import Evaluation, Objective, digest_of
from earmark.training.loss import AngularMargin
from earmark.training.rooms import room_responses
from earmark.training.schedule import ramp
from earmark.training.task import Made, Task, carry_out

__all__ = ["speaker_task", "train"]

_ROOMS = "rooms.npz"


def train(
    net: EcapaTdnn,
    corpus: Corpus,
    folder: str | os.PathLike[str],
    config: TrainingConfig,
    *,
    pretrained: bool = False,
    noise: Recordings | None = None,
    evaluation: Evaluation | None = None,
    device: str = "cpu",
    workers: int = 1,
    save_seconds: float = 120.0,
    progress: Progress | None = None,
    room_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train ``net`` in place, or go on where the run in ``folder`` was interrupted.

    ``folder`` gets ``model.safetensors``, the (averaged) weights with SpeechBrain's keys, which
    ``earmark.load_checkpoint`` reads; ``log.csv``, a row an epoch; ``recipe.json``; and
    ``state.safetensors``, from which a run goes on: written each ``save_seconds``, after each epoch
    and on SIGINT or SIGTERM, replaced at once or not at all. On the same CPU with as many torch
    threads, a resumed run computes the same bits as one that was never interrupted; ``workers``,
    the threads that make batches, change nothing. On the CPU the whole process keeps memory that is
    freed until training ends.

    ``pretrained``: start the class centres from the embeddings that ``net`` has for each speaker.
    ``noise``: recordings to mix in. ``progress``: called with (steps done, steps);
    ``room_progress``: with (rooms done, rooms), which a new run simulates first. ``net`` is left on
    ``device``, in training mode, with its weights as they are, not averaged.

    Returns the last row of the log with the numbers of speakers, utterances and parameters. Raises
    ValueError when ``folder`` holds a run with another recipe, KeyboardInterrupt after a signal,
    RuntimeError when the loss is no longer finite or another process trains there.
    """
    task = speaker_task(net, corpus, config, noise, evaluation)

    def make(examples: ExampleSource) -> Made:
        objective, place = task.labelled(examples)
        return net, objective, partial(place, workers) if pretrained else None

    return carry_out(
        task,
        folder,
        {"start": digest_of(net) if pretrained else "random"},
        make,
        lambda _: {},
        device=device,
        workers=workers,
        save_seconds=save_seconds,
        progress=progress,
        room_progress=room_progress,
    )


def speaker_task(
    net: EcapaTdnn,
    corpus: Corpus,
    config: TrainingConfig,
    noise: Recordings | None,
    evaluation: Evaluation | None,
) -> Task:
    """To tell the corpus's speakers by their embeddings."""
    how = config.augmentation

    def examples(run: Path, room_progress: Progress | None) -> Examples:
        rooms = []
        if how.room and how.rooms:
            rooms = room_responses(how.rooms, config.seed, run / _ROOMS, room_progress)
        noises = Noises(noise, how.snr_db) if noise is not None else None
        return Examples(corpus, net.front_end, how, config.seed, noises, rooms)

    def labelled(examples: Examples) -> tuple[Objective, Callable[[int], None]]:
        head = _Head(examples.classes, net.config.embedding, config)

        def place(workers: int) -> None:
            head.centres.place(mean_embeddings(net, examples, workers))

        return head, place

    description = {"family": net.family, "config": net.config.to_dict()}
    measured = {"trials": evaluation.name, "every": evaluation.every} if evaluation else {}
    return Task(
        config,
        evaluation,
        {
            "family": net.family,
            "network": net.config.to_dict(),
            "training": config.to_dict(),
            "data": corpus.summary(),
            "noise": noise.summary() if noise is not None else {},
            "evaluation": measured,
        },
        description,
        {
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "speakers": len(corpus.speakers),
            "utterances": len(corpus),
        },
        "eer",
        examples,
        labelled,
        _Cosine,
    )


class _Cosine(Objective):
    """1 - the cosine of student and teacher, of embeddings (B, 2, E)."""

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        student, teacher = functional.normalize(outputs.float(), dim=2).unbind(dim=1)
        cosines = student @ teacher.T
        own = torch.arange(len(cosines), device=cosines.device)
        return 1 - cosines.diagonal().mean(), (cosines.argmax(dim=1) == own).sum()


class _Head(Objective):
    """The loss of :class:`AngularMargin`, on embeddings (B, 1, E), with a margin that grows."""

    def __init__(self, classes: int, dim: int, config: TrainingConfig) -> None:
        super().__init__()
        self._margin, self._warmup = config.margin, config.margin_warmup
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.centres = AngularMargin(classes, dim, config.scale)

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        margin = self._margin * ramp(step, int(self._warmup * total))
        loss, correct = self.centres(outputs[:, 0], targets, margin)
        return loss, correct
