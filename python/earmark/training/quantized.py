"""Training of quantized networks: with labels, or with the float32 network as the teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from earmark.compression.coarse import steps_of, with_arrays
from earmark.modelfile import ModelFile, digest
from earmark.nn.ecapa import EcapaTdnn
from earmark.nn.resnet import SoundResNet
from earmark.plan import PlanBuilder
from earmark.quantization import LoweredNetwork
from earmark.quantized import quantized
from earmark.training.batches import ExampleSource
from earmark.training.config import SoundTrainingConfig, TrainingConfig
from earmark.training.dataset import Corpus, Progress, Recordings
from earmark.training.fake_quantization import FakeQuantizedPlan
from earmark.training.loop import MODEL, Evaluation, Objective, Training, digest_of
from earmark.training.sounds import sound_task
from earmark.training.task import Made, Task, carry_out
from earmark.training.trainer import speaker_task

__all__ = ["train_compressed", "train_quantized"]

_QUANTIZED = "model.earmark"


def train_quantized(
    net: EcapaTdnn | SoundResNet,
    corpus: Corpus,
    folder: str | os.PathLike[str],
    config: TrainingConfig | SoundTrainingConfig,
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
    no labels, but ``net`` in float32 as the teacher (G. Hinton, O. Vinyals, J. Dean,
    arXiv:1503.02531): the loss is 1 - the cosine of the embeddings of the same crop, of a sound
    network the divergence of the classes' probabilities. Otherwise as in ``train`` and
    ``train_sounds``, of which ``folder`` gets the files and ``model.earmark``; its
    ``model.safetensors`` holds the differences to the quantized network that training began with,
    for a run to go on from. ``noise`` is for speakers alone.

    Returns and raises as those do, ValueError also for a precision that cannot be trained;
    ``accuracy`` of a distillation is the share of crops whose nearest teacher's embedding in the
    batch is their own, or whose class is the teacher's.
    """
    task = _task(net, corpus, config, noise, evaluation)
    lowered = LoweredNetwork(net)
    chosen = lowered.precisions("int8", precision or {})
    for name in lowered.layers:
        if not (chosen[name].is_integer or chosen[name].is_float):
            raise ValueError(f"layer {name!r}: precision {chosen[name].name} cannot be trained")

    def student() -> Student:
        lowered.calibrate(
            list(calibration), "minmax", lowered.of_few_bits(chosen), calibration_progress
        )
        limits = {name: (1 << (chosen[name].weight_bits - 1)) - 1 for name in lowered.layers}
        plan = FakeQuantizedPlan(lowered.quantized_plan("int8", chosen), limits)
        return Student(
            plan, net, distill, device, lambda learnt: lowered.model("int8", chosen, learnt)
        )

    def make(examples: ExampleSource) -> Made:
        if distill:
            return student(), task.taught(), None
        objective, place = task.labelled(examples)
        return student(), objective, partial(place, workers)

    return carry_out(
        task,
        folder,
        {
            "start": digest_of(net),
            "precision": {name: chosen[name].name for name in lowered.layers},
            "calibration": len(calibration),
            "distill": distill,
        },
        make,
        partial(_save, Path(folder)),
        device=device,
        workers=workers,
        save_seconds=save_seconds,
        progress=progress,
        room_progress=room_progress,
    )


def train_compressed(
    net: EcapaTdnn | SoundResNet,
    corpus: Corpus,
    folder: str | os.PathLike[str],
    config: TrainingConfig | SoundTrainingConfig,
    *,
    compressed: ModelFile,
    price: float = 0.001,
    noise: Recordings | None = None,
    evaluation: Evaluation | None = None,
    device: str = "cpu",
    workers: int = 1,
    save_seconds: float = 120.0,
    progress: Progress | None = None,
    room_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the coarse weights of ``compressed``, which ``earmark compress`` made within a budget.

    They stay multiples of their steps, and change towards what ``net``, the network in float32,
    makes of the same crops; no labels are needed. ``price``: what a bit a weight costs, in the loss
    of ``train_quantized``'s distillation, so that the file does not grow
    (``FakeQuantizedPlan.rate``). Otherwise as ``train_quantized`` distils.

    Raises as that, ValueError also for a file without such weights.
    """
    task = _task(net, corpus, config, noise, evaluation)
    steps = steps_of(compressed)
    if not steps:
        raise ValueError("the file's weights have no steps: it was not compressed within a budget")
    network = PlanBuilder.of(compressed.plan, compressed.decoded_arrays())
    limits = {op["name"]: 127 for op in network.ops if "weight" in op["arrays"]}

    def make(_: ExampleSource) -> Made:
        plan = FakeQuantizedPlan(network, limits, steps)
        student = Student(
            plan,
            net,
            True,
            device,
            lambda learnt: quantized(with_arrays(compressed, learnt.arrays)),
        )
        return student, _Priced(task.taught(), plan, price), None

    return carry_out(
        task,
        folder,
        {"start": digest_of(net), "compressed": digest(compressed), "price": price},
        make,
        partial(_save, Path(folder)),
        device=device,
        workers=workers,
        save_seconds=save_seconds,
        progress=progress,
        room_progress=room_progress,
    )


def _task(
    net: EcapaTdnn | SoundResNet,
    corpus: Corpus,
    config: TrainingConfig | SoundTrainingConfig,
    noise: Recordings | None,
    evaluation: Evaluation | None,
) -> Task:
    """Of either kind. Raises ValueError where the parts are not of one."""
    if isinstance(net, EcapaTdnn) and isinstance(config, TrainingConfig):
        return speaker_task(net, corpus, config, noise, evaluation)
    if isinstance(net, SoundResNet) and isinstance(config, SoundTrainingConfig):
        if noise is not None:
            raise ValueError("noise is for networks of speakers alone")
        return sound_task(net, corpus, config, evaluation)
    raise ValueError(f"a {type(config).__name__} is not for a {type(net).__name__}")


def _save(run: Path, training: Training) -> dict[str, Any]:
    """What became of a run, after its last step."""
    student = training.net
    assert isinstance(student, Student)
    student.load_state_dict(training.model())
    student.quantized().save(run / _QUANTIZED)
    return {"output": str(run / _QUANTIZED), "state": str(run / MODEL)}


class Student(nn.Module):
    """A quantized plan in training, and beside it the float32 network that may teach it."""

    def __init__(
        self,
        plan: FakeQuantizedPlan,
        net: EcapaTdnn | SoundResNet,
        is_taught: bool,
        device: str,
        model: Callable[[PlanBuilder], Any],
    ) -> None:
        super().__init__()
        self.plan = plan
        self._embeds = isinstance(net, EcapaTdnn)
        # In a tuple, for it is no part of what is trained and saved.
        self._teachers = (net.to(device).eval(),) if is_taught else ()
        self._model = model

    def forward(self, feats: Tensor) -> Tensor:
        """As the network does; beside a teacher (B, 2, n), the teacher's behind the student's."""
        outputs: Tensor = self.plan(feats)
        if not self._teachers:
            return outputs[:, None] if self._embeds else outputs
        with torch.no_grad():
            taught = self._teachers[0](feats)
        return torch.stack([outputs, taught.reshape(outputs.shape)], dim=1)

    def quantized(self) -> Any:
        """The engine's network."""
        return self._model(self.plan.learnt())

    def embed(self, recordings: Any) -> NDArray[Any]:
        """As ``QuantizedEcapa.embed``."""
        embeddings: NDArray[Any] = self.quantized().embed(recordings)
        return embeddings

    def classify_each(self, recordings: Any) -> Any:
        """As ``Classifier.classify_each``."""
        return self.quantized().classifier.classify_each(recordings)


class _Priced(Objective):
    """A loss with the plan's rate, at a price."""

    def __init__(self, objective: Objective, plan: FakeQuantizedPlan, price: float) -> None:
        super().__init__()
        self._objective = objective
        # In a tuple, for its parameters are the student's.
        self._plans = (plan,)
        self._price = price

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        loss, right = self._objective.loss(outputs, targets, step, total)
        return loss + self._price * self._plans[0].rate(), right
