"""Training of ECAPA-TDNNs: additive angular margin softmax on augmented crops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earmark.frontend import FrontEnd
from earmark.nn.ecapa import EcapaTdnn
from earmark.training.augment import Noises
from earmark.training.batches import Examples
from earmark.training.centres import mean_embeddings
from earmark.training.config import TrainingConfig
from earmark.training.dataset import Corpus, Progress, Recordings
from earmark.training.loop import MODEL, Evaluation, Objective, Training, digest_of, fit, run_folder
from earmark.training.loss import AngularMargin
from earmark.training.rooms import room_responses
from earmark.training.schedule import ramp

__all__ = ["Head", "augmented", "recipe_of", "train"]

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
    run = Path(folder)
    start = digest_of(net) if pretrained else "random"
    recipe = {"start": start, **recipe_of(net, corpus, config, noise, evaluation)}
    with run_folder(run, recipe, device):
        examples = augmented(corpus, net.front_end, config, run, noise, room_progress)
        head = Head(examples.classes, net.config.embedding, config)
        training = Training(net, head, examples, config, device)

        def place() -> None:
            head.centres.place(mean_embeddings(net, examples, workers))

        last = fit(
            training,
            run,
            {"family": net.family, "config": net.config.to_dict(), "recipe": recipe},
            rate="eer",
            evaluation=evaluation,
            begin=place if pretrained else None,
            workers=workers,
            save_seconds=save_seconds,
            progress=progress,
        )
    return {
        "output": str(run / MODEL),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "speakers": len(corpus.speakers),
        "utterances": len(corpus),
        **last,
    }


def recipe_of(
    net: EcapaTdnn,
    corpus: Corpus,
    config: TrainingConfig,
    noise: Recordings | None,
    evaluation: Evaluation | None,
) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    return {
        "family": net.family,
        "network": net.config.to_dict(),
        "training": config.to_dict(),
        "data": corpus.summary(),
        "noise": noise.summary() if noise is not None else {},
        "evaluation": {"trials": evaluation.name, "every": evaluation.every} if evaluation else {},
    }


def augmented(
    corpus: Corpus,
    front_end: FrontEnd,
    config: TrainingConfig,
    run: Path,
    noise: Recordings | None,
    room_progress: Progress | None,
) -> Examples:
    """What a run is trained on; its folder keeps the simulated rooms."""
    how = config.augmentation
    rooms = []
    if how.room and how.rooms:
        rooms = room_responses(how.rooms, config.seed, run / _ROOMS, room_progress)
    noises = Noises(noise, how.snr_db) if noise is not None else None
    return Examples(corpus, front_end, how, config.seed, noises, rooms)


class Head(Objective):
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
