"""What a kind of network is trained for, and the run that all kinds have."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from earmark.training.batches import ExampleSource
from earmark.training.config import OptimizerConfig
from earmark.training.dataset import Progress
from earmark.training.loop import MODEL, Evaluation, Objective, Training, fit, run_folder

__all__ = ["Made", "Task", "carry_out"]

Begin = Callable[[], None]
Made = tuple[nn.Module, Objective, Begin | None]


@dataclass(frozen=True)
class Task:
    """Data, losses and what is measured.

    recipe: what has to be the same for a run to go on. description: what the model's file says of
    itself. summary: of the data, for the result. rate: the log's column of ``evaluation``.
    examples: made in a run's folder, with the progress of that. labelled: the loss of the network's
    outputs, and what to call before the first step to have it begin where the network is, with a
    number of threads. taught: the loss of outputs (B, 2, n), a student's and its teacher's.
    """

    config: OptimizerConfig
    evaluation: Evaluation | None
    recipe: dict[str, Any]
    description: dict[str, Any]
    summary: dict[str, Any]
    rate: str
    examples: Callable[[Path, Progress | None], ExampleSource]
    labelled: Callable[[Any], tuple[Objective, Callable[[int], None]]]
    taught: Callable[[], Objective]


def carry_out(
    task: Task,
    folder: str | os.PathLike[str],
    start: dict[str, Any],
    make: Callable[[ExampleSource], Made],
    finish: Callable[[Training], dict[str, Any]],
    *,
    device: str,
    workers: int,
    save_seconds: float,
    progress: Progress | None,
    room_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train what ``make`` returns, with the loss it returns, from there or from the run's state.

    start: the recipe's part that says from what. make: also returns what is called before the first
    step of a new run, if anything. finish: called after the last; its figures are part of the
    result. Raises as ``loop.run_folder`` and ``loop.fit`` do.
    """
    run = Path(folder)
    recipe = {**start, **task.recipe}
    with run_folder(run, recipe, device):
        examples = task.examples(run, room_progress)
        net, objective, begin = make(examples)
        training = Training(net, objective, examples, task.config, device)
        last = fit(
            training,
            run,
            {**task.description, "recipe": recipe},
            rate=task.rate,
            evaluation=task.evaluation,
            begin=begin,
            workers=workers,
            save_seconds=save_seconds,
            progress=progress,
        )
        return {"output": str(run / MODEL), **task.summary, **last, **finish(training)}
