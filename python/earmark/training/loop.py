"""The training loop: one network, one objective, augmented examples; resumable at any step."""

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from earmark.errors import FormatError, first_line
from earmark.training.batches import ExampleSource, batches
from earmark.training.checkpoint import atomic_file, read_state, write_json, write_tensors
from earmark.training.config import OptimizerConfig
from earmark.training.dataset import Progress
from earmark.training.process import alone_in, keep_freed_memory, noted_signals
from earmark.training.schedule import learning_rate

__all__ = ["MODEL", "Evaluation", "Objective", "Training", "digest_of", "fit", "run_folder"]

MODEL = "model.safetensors"
_STATE, _RECIPE, _LOG = "state.safetensors", "recipe.json", "log.csv"
_COLUMNS = (
    "epoch",
    "step",
    "loss",
    "accuracy",
    "learning_rate",
    "gradient_norm",
    "crops_per_second",
    "seconds",
)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(nn.Module):
    """What is minimised, with the parameters that are trained for it beside the network's."""

    def loss(
        self, outputs: Tensor, targets: Tensor, step: int, total: int
    ) -> tuple[Tensor, Tensor]:
        """Mean loss and number of right answers of a batch, in step ``step`` of ``total``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Evaluation:
    """What is measured after each ``every`` epochs and after the last.

    ``measure`` takes the network that would be saved, in evaluation mode, and returns rates with
    ``rate`` among them, which the log shows; ``name`` stands for the data in the recipe.
    """

    measure: Callable[[Any], dict[str, Any]]
    every: int
    name: str
    rate: str = "eer"


@contextlib.contextmanager
def run_folder(run: Path, recipe: dict[str, Any], device: str) -> Iterator[None]:
    """Be alone in the folder of a run, which has this recipe or gets it.

    Raises ValueError when it holds a run with another recipe, RuntimeError when another process
    trains there.
    """
    run.mkdir(parents=True, exist_ok=True)
    memory = keep_freed_memory() if device == "cpu" else contextlib.nullcontext()
    with alone_in(run), memory:
        _check_recipe(run / _RECIPE, recipe)
        yield


def fit(
    training: Training,
    run: Path,
    description: dict[str, Any],
    *,
    rate: str,
    evaluation: Evaluation | None = None,
    begin: Callable[[], None] | None = None,
    workers: int = 1,
    save_seconds: float = 120.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train to the end, from the state that is in ``run`` if there is one.

    ``description``: what the model's file says of itself; ``rate``: the column of the log for what
    is measured; ``begin``: called before the first step of a new run. Returns the last row of the
    log. Raises KeyboardInterrupt after a signal, RuntimeError when the loss is no longer finite.
    """
    log = _Log(run, description, rate, evaluation)
    if (run / _STATE).is_file():
        log.restore(training)
    elif begin is not None:
        begin()
    with noted_signals() as signals:
        _loop(training, log, workers, save_seconds, progress, signals)
    return log.rows[-1]


class Training:
    """All that changes from step to step."""

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        examples: ExampleSource,
        config: OptimizerConfig,
        device: str,
    ) -> None:
        self.net = net.to(device).requires_grad_(True).train()
        self.examples = examples
        self.config = config
        self.device = torch.device(device)
        self.batch = min(config.batch, len(examples))
        self.steps_per_epoch = len(examples) // self.batch
        self.total = self.steps_per_epoch * config.epochs
        self.step = 0
        self.learning_rate = 0.0
        # Over the epoch so far: loss, correct examples, norm of the gradient.
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.objective = objective.to(device)
        self.parameters = [*net.parameters(), *objective.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters if p.ndim > 1]},
            # Biases and batch normalisation.
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.scaler = torch.amp.GradScaler(device, enabled=config.precision == "fp16")
        self.averages = (
            {key: value.clone() for key, value in self._floats().items()} if config.average else {}
        )

    def advance(self, features: Tensor, targets: Tensor) -> None:
        """One step, on features (B, T, n_mels) and targets (B, ...)."""
        config = self.config
        warmup = int(config.warmup * self.total)
        self.learning_rate = learning_rate(self.step, self.total, warmup, config.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        dtype = _AUTOCAST.get(config.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            outputs = self.net(features.to(self.device))
        loss, correct = self.objective.loss(outputs, targets.to(self.device), self.step, self.total)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averages:
            # At first about the mean of all weights so far.
            decay = min(config.average, (1 + self.step) / (10 + self.step))
            weights = self._floats()
            torch._foreach_lerp_(
                list(self.averages.values()), [weights[key] for key in self.averages], 1 - decay
            )
        # fp16 skips a step whose gradient overflowed.
        finite_norm = torch.where(norm.isfinite(), norm, 0)
        self.sums += torch.stack([loss.detach(), correct, finite_norm])
        self.step += 1

    def model(self) -> dict[str, Tensor]:
        """The state dict to save: averaged where weights are averaged."""
        return {**self.net.state_dict(), **self.averages}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors from which :meth:`restore` makes the same state."""
        named = {
            **_prefixed("model", self.net.state_dict()),
            **_prefixed("average", self.averages),
            **_prefixed("head", self.objective.state_dict()),
            "sums": self.sums,
        }
        for index, state in self.optimizer.state_dict()["state"].items():
            named.update(_prefixed(f"optimizer.{index}", state))
        return named

    def restore(self, tensors: dict[str, Tensor], step: int, scaler: dict[str, Any]) -> None:
        """Take what :meth:`tensors` gave."""

        def below(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}

        self.net.load_state_dict(below("model"))
        self.objective.load_state_dict(below("head"))
        for key, average in below("average").items():
            self.averages[key].copy_(average)
        self.sums.copy_(tensors["sums"])
        groups = self.optimizer.state_dict()["param_groups"]
        ordered = [p for group in self.optimizer.param_groups for p in group["params"]]
        indices = [index for group in groups for index in group["params"]]
        state = {
            index: {
                key: _laid_out(tensor, parameter)
                for key, tensor in below(f"optimizer.{index}").items()
            }
            for index, parameter in zip(indices, ordered, strict=True)
        }
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(scaler)
        self.step = step

    def _floats(self) -> dict[str, Tensor]:
        return {
            key: value for key, value in self.net.state_dict().items() if value.is_floating_point()
        }


class _Log:
    """The files of a run, and the time it took."""

    def __init__(
        self, run: Path, description: dict[str, Any], rate: str, evaluation: Evaluation | None
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.epoch_seconds = 0.0
        self._run = run
        self._description = description
        self._rate = rate
        self._evaluation = evaluation
        self._measured: dict[str, Any] = {}

    def restore(self, training: Training) -> None:
        """Take the state that was saved last."""
        path = self._run / _STATE
        tensors, saved = read_state(path)
        try:
            training.restore(tensors, saved["step"], saved["scaler"])
            self.rows, self.seconds = saved["rows"], saved["seconds"]
            self.epoch_seconds, self._measured = saved["epoch_seconds"], saved["measured"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise FormatError(f"{path}: not the state of this run: {first_line(error)}") from error
        # Killed between the two, the model would be older than the state.
        self._write_results(training)

    def end_epoch(self, training: Training) -> None:
        """Add the row of the epoch that ends."""
        _check_finite(training)
        epoch = training.step // training.steps_per_epoch
        loss, correct, norm = training.sums.tolist()
        training.sums.zero_()
        steps = training.steps_per_epoch
        row = {
            "epoch": epoch,
            "step": training.step,
            "loss": loss / steps,
            "accuracy": correct / (steps * training.batch),
            "learning_rate": training.learning_rate,
            "gradient_norm": norm / steps,
            "crops_per_second": steps * training.batch / self.epoch_seconds,
            "seconds": self.seconds,
            self._rate: None,
        }
        self.epoch_seconds = 0.0
        evaluation = self._evaluation
        last = training.step == training.total
        if evaluation is not None and (last or epoch % evaluation.every == 0):
            net = copy.deepcopy(training.net)
            net.load_state_dict(training.model())
            self._measured = evaluation.measure(net.eval().requires_grad_(False))
            row[self._rate] = self._measured[self._rate]
        self.rows.append(row)

    def save(self, training: Training) -> None:
        """Write the state, which alone counts, then all that follows from it."""
        _check_finite(training)
        saved = {
            "step": training.step,
            "scaler": training.scaler.state_dict(),
            "rows": self.rows,
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            "measured": self._measured,
        }
        write_tensors(self._run / _STATE, training.tensors(), saved)
        self._write_results(training)

    def _write_results(self, training: Training) -> None:
        described = {
            **self._description,
            "step": training.step,
            "measured": self._measured,
        }
        write_tensors(self._run / MODEL, training.model(), described)
        with atomic_file(self._run / _LOG) as temporary, temporary.open("w", newline="") as out:
            writer = csv.DictWriter(out, (*_COLUMNS, self._rate))
            writer.writeheader()
            writer.writerows(self.rows)


def digest_of(net: nn.Module) -> str:
    """Of the weights a run starts from."""
    sha = hashlib.sha256()
    for tensor in net.state_dict().values():
        sha.update(tensor.cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def _loop(
    training: Training,
    log: _Log,
    workers: int,
    save_seconds: float,
    progress: Progress | None,
    signals: list[int],
) -> None:
    saved = lap = time.monotonic()

    def seconds() -> float:
        """Since it was asked last."""
        nonlocal lap
        before, lap = lap, time.monotonic()
        log.seconds += lap - before
        return lap - before

    data = batches(training.examples, training.batch, training.step, training.total, workers)
    with contextlib.closing(data):
        for features, classes in data:
            training.advance(features, classes)
            log.epoch_seconds += seconds()
            if progress is not None:
                progress(training.step, training.total)
            if training.step % training.steps_per_epoch == 0:
                log.end_epoch(training)
            elif lap - saved < save_seconds and not signals:
                continue
            log.save(training)
            if signals:
                raise KeyboardInterrupt
            seconds()
            saved = lap


def _check_finite(training: Training) -> None:
    loss = float(training.sums[0])
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss is {loss} by step {training.step}: try a lower learning rate")


def _check_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """Write the recipe of a new run; ValueError when the one that is there differs."""
    if not path.is_file():
        write_json(path, recipe)
        return
    try:
        old = _flat(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise FormatError(f"{path}: not the recipe of a run: {first_line(error)}") from error
    new = _flat(recipe)
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{path.parent}: holds a run whose {key} is {old.get(key)!r}, not {new.get(key)!r}"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": tensor for key, tensor in tensors.items()}


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A state of the optimizer in memory as its parameter is: the fused step counts on it."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
