"""How a network's output answers to the weights of its integer layers.

The derivatives of each op of an integer plan (docs/arithmetic.md), taken backwards; what is rounded
counts as what it was before, and what is clamped does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.plan import INPUT, JSON, PlanBuilder, base_of
from earmark.quantization.inputs import from_zero, played, sources, unfold

__all__ = ["DIFFERENTIABLE", "answers"]

Array = NDArray[Any]
Read = Callable[[str], Array]
Step = tuple[JSON, dict[str, Array]]

# A table's slope is read this many entries to each side: its entries may be rounded.
_TABLE_REACH = 8
# Roles of what an op reads.
_READ = ("in", "residual", "gate", "values", "valid", "bias", "quantization", "values_quantization")


def answers(
    network: PlanBuilder, features: Array, outputs: dict[str, Array], directions: Array
) -> Iterator[tuple[str, Array, Array]]:
    """(name, inputs, answers) of each layer with weights, the last layer first.

    network: an integer plan. features: its input (frames, bands). outputs: of every op, by tensor
    name. directions: (n, channels), in the space of the plan's output: n scalars, each a sum of the
    output times a direction. inputs: float32 (positions, inputs of one output), what the weights
    are multiplied with. answers: float32 (n, positions, out), the derivatives of the scalars by the
    layer's sums, so that those by the weights are answers^T inputs. Raises ValueError for an op
    that has no derivative here.
    """
    steps: list[Step] = [
        (op, _remembered(network, op, read)) for op, read in played(network, features, outputs)
    ]
    back = _Backwards(network, outputs, len(directions))
    back.begin(steps[-1][0]["out"], directions)
    for op, seen in reversed(steps):
        derive = DIFFERENTIABLE.get(op["op"])
        if derive is None:
            raise ValueError(f"op {op['name']!r}: {op['op']} has no derivative here")
        found = derive(back, op, seen, back.take(op["out"]))
        if found is not None:
            yield op["name"], *found


def _remembered(network: PlanBuilder, op: JSON, read: Read) -> dict[str, Array]:
    """What an op reads, by role; copies, for later ops may write over it."""
    seen = {role: read(op[role]).copy() for role in _READ if role in op}
    if "weight" in op["arrays"]:
        seen["centred"] = from_zero(network, op, read)
    return seen


class _Backwards:
    """Derivatives (n, ...) by what lies in memory, while ops are undone."""

    def __init__(self, network: PlanBuilder, outputs: dict[str, Array], count: int) -> None:
        self.network = network
        self.outputs = outputs
        self.count = count
        self.memory: dict[str, Array] = {}

    def begin(self, output: str, directions: Array) -> None:
        self.memory[output] = directions.astype(np.float32)

    def arrays(self, op: JSON) -> dict[str, Array]:
        return self.network.arrays_of(op)

    def take(self, name: str) -> Array:
        """Derivatives by a tensor that an op writes; before the op, they are none."""
        shape = (self.count, *self.outputs[name].shape)
        part = self._part(name, shape)
        taken = part.copy()
        part[...] = 0
        return np.asarray(taken)

    def add(self, name: str, values: Array) -> None:
        """Add to the derivatives by a tensor that an op reads."""
        self._part(name, values.shape)[...] += values

    def _part(self, name: str, shape: tuple[int, ...]) -> Array:
        """A view of the derivatives by a tensor of this shape."""
        desc = self.network.tensors[name]
        base = base_of(self.network.plan, name)
        if base not in self.memory:
            channels = self.network.tensors[base]["channels"]
            self.memory[base] = np.zeros((*shape[:-1], channels), np.float32)
        if desc["kind"] == "vector":
            return self.memory[base]
        begin = desc.get("offset", 0)
        return self.memory[base][..., begin : begin + desc["channels"]]

    def inside(self, name: str, values: Array) -> Array:
        """Where a result was not clamped."""
        zero = self.network.tensors[name].get("zero_point", 0)
        return np.asarray((values > -128 - zero) & (values < 127 - zero))

    def is_integer(self, name: str) -> bool:
        return str(self.network.tensors[name]["dtype"]) == "s8"


Found = tuple[Array, Array] | None


def _layer(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> Found:
    """conv_s8, dense_s8."""
    arrays = back.arrays(op)
    weight = arrays["weight"]
    columns = weight.reshape(len(weight), -1).astype(np.float32)
    rows = unfold(op, seen["centred"], weight.shape)
    multiplier, offset, *affine = arrays["epilogue"]
    if "quantization" in seen:
        multiplier = multiplier * seen["quantization"][0]
    values = (rows @ columns.T) * multiplier + seen.get("bias", offset)
    slope = np.ones_like(values)
    if op.get("relu"):
        slope *= values > 0
        values = np.maximum(values, 0)
    if affine:
        slope *= affine[0]
        values = values * affine[0] + affine[1]
    if "table" in arrays:
        slope *= _slope_of(arrays["table"], values)
    elif back.is_integer(op["out"]):
        slope *= back.inside(op["out"], values)
    before = given.reshape(back.count, *values.shape) * slope
    if "bias" in op:
        back.add(op["bias"], before.sum(axis=1))
    sums = before * multiplier
    if op["in"] != INPUT:
        back.add(op["in"], _fold(op, sums @ columns, seen["in"].shape, weight.shape))
    return rows, sums


def _slope_of(table: Array, values: Array) -> Array:
    half = len(table) // 2
    index = np.clip(np.rint(values), -half, half - 1).astype(np.int64) + half
    above = np.minimum(index + _TABLE_REACH, len(table) - 1)
    below = np.maximum(index - _TABLE_REACH, 0)
    rise = table[above].astype(np.float32) - table[below].astype(np.float32)
    return np.asarray(rise / np.maximum(above - below, 1).astype(np.float32))


def _fold(op: JSON, rows: Array, x: tuple[int, ...], weight: tuple[int, ...]) -> Array:
    """The transpose of ``unfold``: rows (n, positions, inputs of one output) to (n, *x)."""
    count = len(rows)
    if len(weight) == 2:
        return rows.reshape(count, *x)
    size = (x[0], 1 if len(x) == 2 else x[1], x[-1])
    (time, time_inside), (width, width_inside) = (
        sources(op, axis, weight[1 + axis], size[axis]) for axis in (0, 1)
    )
    taps = rows.reshape(count, len(time), len(width), *weight[1:])
    result = np.zeros((count, *size), np.float32)
    for i in range(weight[1]):
        for j in range(weight[2]):
            at, inside = time[:, i], time_inside[:, i]
            across = np.flatnonzero(width_inside[:, j])
            part = taps[:, :, across, i, j]
            # A mirrored frame may be read twice by one tap, others once.
            _, first = np.unique(at, return_index=True)
            once = first[inside[first]]
            result[:, at[once][:, None], width[across, j][None]] += part[:, once]
            for k in np.setdiff1d(np.flatnonzero(inside), first):
                result[:, at[k], width[across, j]] += part[:, k]
    return result.reshape(count, *x)


def _quantize(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    if op["in"] == INPUT:
        return
    if "quantization" in seen:
        multiplier, offset = seen["quantization"][1], np.float32(0)
    else:
        arrays = back.arrays(op)
        multiplier, offset = arrays["multiplier"], arrays["offset"]
    slope = multiplier * back.inside(op["out"], seen["in"] * multiplier + offset)
    back.add(op["in"], given * slope)


def _dequantize(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    back.add(op["in"], given * back.arrays(op)["multiplier"])


def _range(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    """A range found at run time is taken as given."""


def _affine(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    back.add(op["in"], given * back.arrays(op)["multiplier"])


def _add(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    """add_s8, add_f32."""
    terms, steps = [], []
    for role, array in (("in", "multiplier"), ("residual", "residual_multiplier")):
        values, step = seen[role].astype(np.float32), np.float32(1)
        if op["op"] == "add_s8":
            values = values - back.network.tensors[op[role]].get("zero_point", 0)
            step = back.arrays(op)[array]
        terms.append(values)
        steps.append(step)
    gate = seen.get("gate", np.float32(1))
    total = terms[0] * steps[0] * gate + terms[1] * steps[1]
    slope = np.ones(total.shape, bool)
    if op.get("relu"):
        slope &= total > 0
    if op["op"] == "add_s8":
        slope &= back.inside(op["out"], np.maximum(total, 0) if op.get("relu") else total)
    given = given * slope
    if "gate" in op:
        positions = tuple(range(1, given.ndim - 1))
        back.add(op["gate"], (given * terms[0] * steps[0]).sum(axis=positions))
    back.add(op["in"], given * steps[0] * gate)
    back.add(op["residual"], given * steps[1])


def _max_pool(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    """To the first of the largest values of a window."""
    x = seen["in"].astype(np.float32)
    frames = x[:, None] if x.ndim == 2 else x
    kernel = op.get("kernel", [1, 1])
    shape = (1, *kernel, frames.shape[-1])
    (time, time_inside), (width, width_inside) = (
        sources(op, axis, kernel[axis], frames.shape[axis]) for axis in (0, 1)
    )
    windows = frames[time[:, None, :, None], width[None, :, None, :]]
    inside = time_inside[:, None, :, None] & width_inside[None, :, None, :]
    windows = np.where(inside[..., None], windows, -np.inf)
    windows = windows.reshape(len(time), len(width), -1, frames.shape[-1])
    chosen = np.arange(windows.shape[2])[:, None] == windows.argmax(axis=2)[:, :, None]
    rows = given.reshape(back.count, len(time), len(width), 1, -1) * chosen
    back.add(op["in"], _fold(op, rows, x.shape, shape))


def _stats(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> None:
    """stats_s8, stats_f32."""
    x = seen["in"][: _counted(seen)].astype(np.float32)
    flat = x.reshape(-1, x.shape[-1])
    channels = flat.shape[1]
    step = back.arrays(op)["multiplier"] if op["op"] == "stats_s8" else np.float32(1)
    slope = np.broadcast_to((given[:, None, :channels] * step), (back.count, *flat.shape))
    if op.get("std"):
        mean = flat.mean(axis=0)
        ratio = len(flat) / (len(flat) - 1) if op.get("unbiased") else 1.0
        variance = np.maximum(flat.var(axis=0) * ratio, op["min_variance"])
        std = np.sqrt(variance + op.get("added_variance", 0.0))
        slope = slope + given[:, None, channels:] * step * (flat - mean) * (ratio / std)
    back.add(op["in"], _of_all((slope / len(flat)).reshape(back.count, *x.shape), seen))


def _counted(seen: dict[str, Array]) -> int:
    """Frames that pooling counts."""
    return len(seen.get("valid", seen["in"]))


def _of_all(values: Array, seen: dict[str, Array]) -> Array:
    """Derivatives (n, frames, ...) by the counted frames, and by the others, none."""
    beyond = np.zeros((len(values), len(seen["in"]) - values.shape[1], *values.shape[2:]), "f4")
    return np.concatenate([values, beyond], axis=1)


def _attentive_pool(back: _Backwards, op: JSON, seen: dict[str, Array], given: Array) -> Found:
    """attentive_pool_s8; a softmax in pieces answers as the exact one does."""
    arrays = back.arrays(op)
    count = _counted(seen)
    hidden, x = seen["centred"][:count], seen["values"][:count].astype(np.float32)
    weight = arrays["weight"].astype(np.float32)
    least = op["min_variance"]
    if "values_quantization" in seen:
        value_step = seen["values_quantization"][0]
        least = least / value_step**2
    else:
        value_step = arrays["value_multiplier"]
    logits = (hidden @ weight.T) * arrays["multiplier"]
    numerators = np.exp(logits - logits.max(axis=0))
    shares = numerators / numerators.sum(axis=0)
    channels = x.shape[1]
    mean = (shares * x).sum(axis=0)
    moved = x - mean
    std = np.sqrt(np.maximum((shares * moved * moved).sum(axis=0), least))
    by_mean, by_std = given[:, None, :channels] * value_step, given[:, None, channels:] * value_step
    # d std / d share of a frame, and d std / d x of it, but for the share.
    back.add(op["values"], _of_all(shares * (by_mean + by_std * moved / std), seen))
    worth = by_mean * moved + by_std * moved * moved / (2 * std)
    sums = shares * (worth - (shares * worth).sum(axis=1, keepdims=True)) * arrays["multiplier"]
    back.add(op["in"], _of_all(sums @ weight, seen))
    return hidden, sums


DIFFERENTIABLE: dict[str, Callable[[_Backwards, JSON, dict[str, Array], Array], Any]] = {
    "quantize_s8": _quantize,
    "dequantize_f32": _dequantize,
    "range_f32": _range,
    "affine_f32": _affine,
    "conv_s8": _layer,
    "dense_s8": _layer,
    "add_s8": _add,
    "add_f32": _add,
    "max_pool_s8": _max_pool,
    "max_pool_f32": _max_pool,
    "stats_s8": _stats,
    "stats_f32": _stats,
    "attentive_pool_s8": _attentive_pool,
}
"""The ops whose derivatives are known, by kind."""
