"""Training of quantized networks: with labels, or with the float32 network as the teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from earmark.nn.ecapa import EcapaTdnn
from earmark.plan import PlanBuilder
from earmark.quantization import LoweredNetwork
from earmark.training.centres import mean_embeddings
from earmark.training.config import TrainingConfig
from earmark.training.dataset import Corpus, Progress, Recordings
from earmark.training.fake_quantization import FakeQuantizedPlan
from earmark.training.loop import MODEL, Evaluation, Objective, Training, digest_of, fit, run_folder
from earmark.training.trainer import Head, augmented, recipe_of

__all__ = ["train_quantized"]

_QUANTIZED = "model.earmark"


def train_quantized(
    net: EcapaTdnn,
    corpus: Corpus,
    folder: str | os.PathLike[str],
    config: TrainingConfig,
    *,
    calibration: Sequence[Any],
    precision: Mapping[str, str] | None = None,
    distill: bool = False,
    noise: Recordings | None = None,
    evaluation: Evaluation | None = None,
    device: str = "cpu",
    workers: int = 1,
    save_seconds: float = 120.0,
    progress: Progress | None = None,
    room_progress: Progress | None = None,
    calibration_progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantize ``net`` as ``earmark.quantize`` does, then train what that rounded.

    The forward pass is that of the quantized plan, integers rounded as in the engine; gradients
    pass through the rounding (B. Jacob et al., arXiv:1712.05877). Ranges of activations stay as
    calibrated; weights, multipliers and offsets are trained.

    ``precision``: of layers, as ``earmark.quantize`` takes it, beside "int8" for all. ``distill``:
    no labels, the loss is 1 - the cosine to the embedding that ``net`` in float32 has of the same
    crop (G. Hinton, O. Vinyals, J. Dean, arXiv:1503.02531). Otherwise as in ``train``, of which
    ``folder`` gets the files and ``model.earmark``; its ``model.safetensors`` holds the differences
    to the quantized network that training began with, for a run to go on from.

    Returns and raises as ``train`` does, ValueError also for a precision that cannot be trained;
    ``accuracy`` of a distillation is the share of crops whose nearest teacher's embedding in the
    batch is their own.
    """
    run = Path(folder)
    lowered = LoweredNetwork(net)
    chosen = lowered.precisions("int8", precision or {})
    for name in lowered.layers:
        if not (chosen[name].is_integer or chosen[name].is_float):
            raise ValueError(f"layer {name!r}: precision {chosen[name].name} cannot be trained")
    recipe = {
        "start": digest_of(net),
        "precision": {name: chosen[name].name for name in lowered.layers},
        "calibration": len(calibration),
        "distill": distill,
        **recipe_of(net, corpus, config, noise, evaluation),
    }
    with run_folder(run, recipe, device):
        lowered.calibrate(
            list(calibration), "minmax", lowered.of_few_bits(chosen), calibration_progress
        )
        limits = {name: (1 << (chosen[name].weight_bits - 1)) - 1 for name in lowered.layers}

        def model(plan: PlanBuilder) -> Any:
            return lowered.model("int8", chosen, plan)

        plan = FakeQuantizedPlan(lowered.quantized_plan("int8", chosen), limits)
        student = _Student(plan, net if distill else None, device, model)
        examples = augmented(corpus, net.front_end, config, run, noise, room_progress)
        head = Head(examples.classes, net.config.embedding, config)
        objective = _Distillation() if distill else head
        training = Training(student, objective, examples, config, device)

        def place() -> None:
            head.centres.place(mean_embeddings(net, examples, workers))

        last = fit(
            training,
            run,
            {"family": net.family, "config": net.config.to_dict(), "recipe": recipe},
            rate="eer",
            evaluation=evaluation,
            begin=None if distill else place,
            workers=workers,
            save_seconds=save_seconds,
            progress=progress,
        )
        student.load_state_dict(training.model())
        student.quantized().save(run / _QUANTIZED)
    return {
        "output": str(run / _QUANTIZED),
        "state": str(run / MODEL),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "speakers": len(corpus.speakers),
        "utterances": len(corpus),
        **last,
    }


class _Student(nn.Module):
    """The plan, and beside it the float32 network whose embeddings it is to have."""

    def __init__(
        self,
        plan: FakeQuantizedPlan,
        teacher: EcapaTdnn | None,
        device: str,
        model: Callable[[PlanBuilder], Any],
    ) -> None:
        super().__init__()
        self.plan = plan
        # In a tuple, for it is no part of what is trained and saved.
        self._teacher = () if teacher is None else (teacher.to(device).eval(),)
        self._model = model

    def forward(self, feats: Tensor) -> Tensor:
        """Embeddings (B, 1, E), and the teacher's behind them if there is one: (B, 2, E)."""
        embeddings = [self.plan(feats)[:, None]]
        for teacher in self._teacher:
            with torch.no_grad():
                embeddings.append(teacher(feats))
        return torch.cat(embeddings, dim=1)

    def quantized(self) -> Any:
        """The engine's network."""
        return self._model(self.plan.learnt())

    def embed(self, recordings: Any) -> NDArray[Any]:
        """As ``QuantizedEcapa.embed``."""
        embeddings: NDArray[Any] = self.quantized().embed(recordings)
        return embeddings


class _Distillation(Objective):
    """1 - the cosine of student and teacher."""

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        student, teacher = functional.normalize(outputs.float(), dim=2).unbind(dim=1)
        cosines = student @ teacher.T
        own = torch.arange(len(cosines), device=cosines.device)
        return 1 - cosines.diagonal().mean(), (cosines.argmax(dim=1) == own).sum()
