"""A plan in torch, to be trained: integer ops round as the engine does, gradients pass through.

Values of int8 tensors are the integers themselves, as float32; every rounding has the gradient of
the identity, every clamp its own (B. Jacob et al., arXiv:1712.05877, section 3). Convolutions sum
in float32, so that a result differs from the engine's by a quantum where a sum lies next to the
border between two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from earmark.plan import INPUT, JSON, OUTPUT, SCORES, PlanBuilder
from earmark.storage.levels import levels_of
from earmark.views import Views

__all__ = ["FakeQuantizedPlan"]

Array = NDArray[Any]

# Quanta by which a weight or an offset changes where its parameter changes by 1: at a learning rate
# of 1e-4 Adam moves it by a hundredth of a quantum a step.
_QUANTA = 100.0
_LIMIT = 127  # of int8 weights
_SLOPE_OVER = 16  # entries of a table
_EPILOGUE_S8 = ("multiplier", "offset", "gain", "shift")
_SOFTMAX_UNIT = float(1 << 24)


class FakeQuantizedPlan(nn.Module):
    """The ops of an integer or mixed plan on features (batch, time, bands).

    Trained are the weights of integer layers, the affine functions behind all layers, and the
    weights of float32 layers. Parameters are differences to what the plan holds, so that all are 0
    at first. limits: the largest integer of each layer's weights. steps: of layers whose weights
    are multiples of a step in each row, (out,) by name: they stay so (``storage.levels``).

    Raises ValueError for an op that cannot be trained.
    """

    def __init__(
        self,
        plan: PlanBuilder,
        limits: Mapping[str, int],
        steps: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__()
        self._plan = plan
        self._limits = limits
        self._steps = steps or {}
        self._output = OUTPUT if OUTPUT in plan.tensors else SCORES
        for op in plan.ops:
            if op["op"] not in _RUNNERS:
                raise ValueError(f"op {op['name']!r}: {op['op']} cannot be trained")
            for role, array in plan.arrays_of(op).items():
                key = _key(op, role)
                start = array.astype(np.float32)
                if role == "weight" and op["name"] in self._steps:
                    step = self._steps[op["name"]]
                    start = levels_of(array, step).astype(np.float32)
                    self.register_buffer(f"{key}/step", torch.from_numpy(_of_rows(step, array)))
                self.register_buffer(f"{key}/start", torch.from_numpy(start))
                if role in ("weight", "epilogue"):
                    self.register_parameter(key, nn.Parameter(torch.zeros(array.shape)))
                if role == "table" and op["op"] in ("conv_s8", "dense_s8"):
                    slope = _slope(array.astype(np.float64))
                    self.register_buffer(f"{key}/slope", torch.from_numpy(slope))

    def forward(self, feats: Tensor) -> Tensor:
        """The plan's output (batch, channels)."""
        memory = Views(self._plan.plan, _cut, _joined)
        is_image = self._plan.tensors[INPUT].get("width", 1) > 1
        # (batch, channels, time, width)
        memory.write(INPUT, feats[:, None] if is_image else feats.transpose(1, 2)[..., None])
        for op in self._plan.ops:
            memory.write(op["out"], _RUNNERS[op["op"]](_Step(self, op, memory)))
        return memory.read(self._output)

    def array(self, op: JSON, role: str) -> Tensor:
        """An array of the plan as it is now; the weights of an integer layer rounded."""
        key = _key(op, role)
        start: Tensor = self.get_buffer(f"{key}/start")
        if role not in ("weight", "epilogue"):
            return start
        change = self.get_parameter(key)
        if role == "epilogue":
            return start + change * self._units(op, start)
        if op["op"].endswith("_f32"):
            return start + change
        limit = self._limits[op["name"]]
        rounded = _round((start + _QUANTA * change).clamp(-limit, limit))
        if op["name"] not in self._steps:
            return rounded
        return _round((rounded * self.get_buffer(f"{key}/step")).clamp(-_LIMIT, _LIMIT))

    def rate(self) -> Tensor:
        """About the bits of a weight, on the mean over all that are multiples of steps.

        log2(1 + 2 |u|) of each, which is 0 for 0 and 1.6 for 1: it draws weights towards 0.
        """
        total, count = torch.zeros(()), 0
        for op in self._plan.ops:
            if op["name"] in self._steps:
                key = _key(op, "weight")
                u = self.get_buffer(f"{key}/start") + _QUANTA * self.get_parameter(key)
                total = total.to(u) + torch.log2(1 + 2 * u.abs()).sum()
                count += u.numel()
        return total / max(1, count)

    def learnt(self) -> PlanBuilder:
        """The plan with what was learnt."""
        learnt = PlanBuilder()
        learnt.tensors, learnt.ops = self._plan.tensors, self._plan.ops
        learnt.arrays = arrays = dict(self._plan.arrays)
        with torch.no_grad():
            for op in self._plan.ops:
                for role in {"weight", "epilogue"}.intersection(op["arrays"]):
                    name = f"{op['name']}.{role}"
                    values = self.array(op, role).cpu().numpy()
                    tiny = np.abs(values) < np.finfo(np.float32).tiny
                    arrays[name] = np.where(tiny, 0, values).astype(arrays[name].dtype)
        return learnt

    def _units(self, op: JSON, start: Tensor) -> Tensor:
        """What a change of 1 means for each row: factors change by themselves, offsets by quanta.

        Where what comes out is no integer, offsets change by their own mean size.
        """
        rows = _EPILOGUE_S8 if op["op"].endswith("_s8") else _EPILOGUE_S8[1:]
        quantized = self._plan.tensors[op["out"]]["dtype"] == "s8"
        units = []
        for name, row in zip(rows, start, strict=False):
            if name in ("multiplier", "gain"):
                units.append(row)
            else:
                size = torch.tensor(_QUANTA) if quantized else row.abs().mean()
                units.append(size.to(row).expand_as(row))
        return torch.stack(units)


def _cut(values: Tensor, begin: int, end: int) -> Tensor:
    return values[:, begin:end]


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, dim=1)


class _Step:
    """One op with what it reads."""

    def __init__(self, plan: FakeQuantizedPlan, op: JSON, memory: Views[Tensor]) -> None:
        self.op = op
        self._module = plan
        self._tensors = plan._plan.tensors
        self._memory = memory

    def read(self, role: str = "in") -> Tensor:
        return self._memory.read(self.op[role])

    def counted(self, x: Tensor) -> Tensor:
        """Of frames (batch, channels, time, ...), those that pooling counts."""
        return x[:, :, : self.read("valid").shape[2]] if "valid" in self.op else x

    def array(self, role: str) -> Tensor:
        return self._module.array(self.op, role)

    def has(self, role: str) -> bool:
        return role in self.op["arrays"]

    def zero(self, role: str = "in") -> int:
        return int(self._tensors[self.op[role]].get("zero_point", 0))

    def centred(self) -> Tensor:
        """The input without its zero point."""
        x = self.read()
        zero = self.array("input_zero") if self.has("input_zero") else torch.tensor(self.zero())
        return x - _channels(zero.to(x), x)

    def epilogue(self, sums: Tensor) -> Tensor:
        """The affine functions behind a layer's sums."""
        rows = list(self.array("epilogue"))
        if self.op["op"].endswith("_s8"):
            sums = sums * _channels(rows.pop(0), sums)
        offset = self.read("bias") if "bias" in self.op else rows[0]
        v = sums + _channels(offset, sums)
        if self.op.get("relu") or self.op.get("activation") == "relu":
            v = functional.relu(v)
        if len(rows) > 1:
            v = v * _channels(rows[1], v) + _channels(rows[2], v)
        return v

    def result(self, v: Tensor) -> Tensor:
        """Rounded where the output is int8."""
        if self._tensors[self.op["out"]]["dtype"] != "s8":
            return v
        zero = self.zero("out")
        return _round(v.clamp(-128 - zero, 127 - zero)) + zero

    def in_table(self, v: Tensor) -> Tensor:
        """What the layer's table holds at v, with the slope around it as the gradient."""
        key = _key(self.op, "table")
        table = self._module.get_buffer(f"{key}/start")
        half = len(table) // 2
        v = v.clamp(-half, half - 1)
        index = (v.detach().round() + half).long()
        slope = self._module.get_buffer(f"{key}/slope").to(v)
        return table[index] + slope[index] * (v - v.detach())


def _key(op: JSON, role: str) -> str:
    return f"{op['name']}/{role}".replace(".", "/")


def _round(v: Tensor) -> Tensor:
    """To the nearest, halves to even, with the gradient of the identity."""
    return v + (v.round() - v).detach()


def _channels(values: Tensor, like: Tensor) -> Tensor:
    """One value, (channels,) or (batch, channels), to be combined with (batch, channels, ...)."""
    if values.ndim == 0:
        return values
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))


def _of_rows(step: Array, weight: Array) -> Array:
    """Steps (out,) to be multiplied with weights (out, ...)."""
    return step.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))


def _slope(table: Array) -> Array:
    """The mean rise of a table over ``_SLOPE_OVER`` entries around each."""
    reach = _SLOPE_OVER // 2
    padded = np.pad(table, reach, mode="edge")
    rise: Array = (padded[2 * reach :] - padded[: -2 * reach]) / (2 * reach)
    return rise.astype(np.float32)


def _convolved(step: _Step, x: Tensor) -> Tensor:
    op = step.op
    weight = step.array("weight").permute(0, 3, 1, 2)
    padding = op.get("padding", [0, 0])
    if op.get("pad_mode") == "reflect":
        x = functional.pad(x, [padding[1], padding[1], padding[0], padding[0]], mode="reflect")
        padding = [0, 0]
    if "pad_to" in op:
        x = functional.pad(x, [0, 0, 0, op["pad_to"] - x.shape[2] % op["pad_to"]])
    return functional.conv2d(
        x,
        weight,
        stride=op.get("stride", [1, 1]),
        padding=padding,
        dilation=op.get("dilation", [1, 1]),
    )


def _quantize_s8(step: _Step) -> Tensor:
    x = step.read()
    v = x * _channels(step.array("multiplier"), x) + _channels(step.array("offset"), x)
    return step.result(v)


def _dequantize_f32(step: _Step) -> Tensor:
    x = step.centred()
    return x * _channels(step.array("multiplier"), x)


def _conv_s8(step: _Step) -> Tensor:
    v = step.epilogue(_convolved(step, step.centred()))
    return step.in_table(v) if step.has("table") else step.result(v)


def _conv_f32(step: _Step) -> Tensor:
    v = step.epilogue(_convolved(step, step.read()))
    return torch.tanh(v) if step.op.get("activation") == "tanh" else v


def _add(step: _Step, x: Tensor, residual: Tensor) -> Tensor:
    v = x + residual
    return functional.relu(v) if step.op.get("relu") else v


def _add_s8(step: _Step) -> Tensor:
    x, residual = step.centred(), step.read("residual") - step.zero("residual")
    x = x * _channels(step.array("multiplier"), x)
    if "gate" in step.op:
        x = x * _channels(step.read("gate"), x)
    residual = residual * _channels(step.array("residual_multiplier"), residual)
    return step.result(_add(step, x, residual))


def _add_f32(step: _Step) -> Tensor:
    x = step.read()
    if "gate" in step.op:
        x = x * _channels(step.read("gate"), x)
    return _add(step, x, step.read("residual"))


def _max_pool(step: _Step) -> Tensor:
    op = step.op
    kernel, stride, padding = (
        op.get(k, d) for k, d in (("kernel", 1), ("stride", 1), ("padding", 0))
    )
    return functional.max_pool2d(step.read(), kernel, stride, padding)


def _statistics(step: _Step, x: Tensor) -> Tensor:
    x = step.counted(x)
    mean = x.mean(dim=(2, 3))
    if not step.op.get("std"):
        return mean
    variance = x.var(dim=(2, 3), correction=int(step.op.get("unbiased", False)))
    variance = variance.clamp(min=step.op["min_variance"]) + step.op.get("added_variance", 0.0)
    return torch.cat([mean, variance.sqrt()], dim=1)


def _stats_s8(step: _Step) -> Tensor:
    x = step.centred()
    multiplier = step.array("multiplier")
    vector = _statistics(step, x)
    return vector * multiplier.repeat(vector.shape[1] // len(multiplier))


def _stats_f32(step: _Step) -> Tensor:
    return _statistics(step, step.read())


def _dense_s8(step: _Step) -> Tensor:
    v = step.epilogue(functional.linear(step.centred(), step.array("weight")))
    return step.in_table(v) if step.has("table") else step.result(v)


def _dense_f32(step: _Step) -> Tensor:
    v = step.epilogue(functional.linear(step.read(), step.array("weight")))
    return torch.sigmoid(v) if step.op.get("activation") == "sigmoid" else v


def _pooled(step: _Step, logits: Tensor, x: Tensor) -> Tensor:
    """Mean and standard deviation of x (batch, channels, time), weighted by the softmax."""
    logits, x = step.counted(logits), step.counted(x)
    kind = step.op.get("softmax", "exact")
    if kind == "exact":
        weights = logits.softmax(dim=2)
    else:
        numerators = _piecewise(step, logits) if kind == "pwl" else _tabulated(step, logits)
        weights = numerators / numerators.sum(dim=2, keepdim=True)
    mean = (weights * x).sum(dim=2)
    variance = (weights * (x - mean[..., None]).square()).sum(dim=2)
    return torch.cat([mean, variance.clamp(min=step.op["min_variance"]).sqrt()], dim=1)


def _piecewise(step: _Step, v: Tensor) -> Tensor:
    piece = torch.bucketize(v.detach().contiguous(), step.array("breakpoints"), right=True)
    low, high = step.array("bounds")
    line = v * step.array("slopes")[piece] + step.array("intercepts")[piece]
    return line.clamp(low, high) / _SOFTMAX_UNIT


def _tabulated(step: _Step, v: Tensor) -> Tensor:
    table = step.array("table")
    if step.has("range"):
        low, high = step.array("range")
        v = (v - low) * ((len(table) - 1) / (high - low))
    v = v.clamp(0, len(table) - 1)
    left = v.detach().floor().long().clamp(max=len(table) - 2)
    return (table[left] + (v - left) * (table[left + 1] - table[left])) / _SOFTMAX_UNIT


def _attentive_pool_s8(step: _Step) -> Tensor:
    hidden = step.centred()
    logits = _time(functional.conv2d(hidden, step.array("weight")[..., None, None]))
    logits = logits * _channels(step.array("multiplier"), logits)
    if step.has("offset"):
        logits = logits + _channels(step.array("offset"), logits)
    vector = _pooled(step, logits, _time(step.read("values") - step.zero("values")))
    multiplier = step.array("value_multiplier")
    return vector * multiplier.repeat(vector.shape[1] // len(multiplier))


def _attentive_pool_f32(step: _Step) -> Tensor:
    logits = step.epilogue(functional.conv2d(step.read(), step.array("weight")[..., None, None]))
    return _pooled(step, _time(logits), _time(step.read("values")))


def _time(x: Tensor) -> Tensor:
    """(batch, channels, time) of frames of width 1."""
    return x[..., 0]


_RUNNERS: dict[str, Callable[[_Step], Tensor]] = {
    "quantize_s8": _quantize_s8,
    "dequantize_f32": _dequantize_f32,
    "conv_s8": _conv_s8,
    "conv_f32": _conv_f32,
    "add_s8": _add_s8,
    "add_f32": _add_f32,
    "max_pool_s8": _max_pool,
    "max_pool_f32": _max_pool,
    "stats_s8": _stats_s8,
    "stats_f32": _stats_f32,
    "dense_s8": _dense_s8,
    "dense_f32": _dense_f32,
    "attentive_pool_s8": _attentive_pool_s8,
    "attentive_pool_f32": _attentive_pool_f32,
}
