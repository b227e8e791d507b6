"""The ops of a plan as ONNX nodes.

An int8 tensor of the plan is an int8 tensor of the graph, with the plan's integers; its scale is 1
and its zero point 0 in every QuantizeLinear and DequantizeLinear, for TensorRT takes no other zero
point. The plan's zero points are constants of the arithmetic between: of a layer, part of its
offset. Frames are (batch, channels, time), images (batch, channels, time, width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from earmark.export.graph import Graph
from earmark.plan import JSON, PlanBuilder

__all__ = ["RUNNERS", "Step"]

Array = NDArray[Any]

_SOFTMAX_UNIT = float(1 << 24)


class Values(Protocol):
    """What earlier ops wrote."""

    def read(self, name: str) -> str:
        """A tensor's value."""
        ...


class Step:
    """One op, what it reads and the graph that it is appended to."""

    def __init__(self, graph: Graph, plan: PlanBuilder, op: JSON, values: Values) -> None:
        self.graph = graph
        self.op = op
        self.arrays = plan.arrays_of(op)
        self._tensors = plan.tensors
        self._values = values

    def tensor(self, role: str = "in") -> JSON:
        tensor: JSON = self._tensors[self.op[role]]
        return tensor

    def axes(self, role: str = "in") -> int:
        """Of the values: 2 of a vector, 3 of frames, 4 of images."""
        tensor = self.tensor(role)
        if tensor["kind"] == "vector":
            return 2
        return 4 if tensor.get("width", 1) > 1 else 3

    def read(self, role: str = "in") -> str:
        return self._values.read(self.op[role])

    def floats(self, role: str = "in") -> str:
        """The input; of int8 its integers."""
        values = self.read(role)
        return self.graph.integers(values) if self.tensor(role)["dtype"] == "s8" else values

    def counted(self, x: str) -> str:
        """Of values (batch, channels, time, ...), those that pooling counts."""
        return self.graph.as_long_as(x, self.read("valid"), 2) if "valid" in self.op else x

    def zero(self, role: str = "in") -> Array:
        """Zero point of each channel of an int8 tensor."""
        if role == "in" and "input_zero" in self.arrays:
            return self.arrays["input_zero"].astype(np.float64)
        tensor = self.tensor(role)
        return np.full(tensor["channels"], float(tensor.get("zero_point", 0)))

    def centred(self, role: str = "in") -> str:
        """The input's integers without their zero points."""
        return self.graph.add(self.floats(role), self.by_channel(-self.zero(role), role))

    def by_channel(self, values: Array, role: str = "in") -> Array:
        """(channels,) or (1,), to be combined with the values of a tensor."""
        return values.reshape(1, -1, *[1] * (self.axes(role) - 2))

    def vector(self, role: str, like: str = "in") -> str:
        """A vector (batch, channels), likewise."""
        return self.graph.unsqueezed(self.read(role), range(2, self.axes(like)))

    def result(self, v: str) -> str:
        """Rounded where the output is int8, the zero point added before."""
        if self.tensor("out")["dtype"] != "s8":
            return v
        zero = np.float32(self.tensor("out").get("zero_point", 0))
        return self.graph.quantized(self.graph.add(v, zero))

    def behind_sums(self, v: str, rows: list[Array]) -> str:
        """ReLU and the affine function behind it, then what the layer gives."""
        if self.op.get("relu") or self.op.get("activation") == "relu":
            v = self.graph.node("Relu", v)
        if len(rows) > 2:
            gain, shift = (self.by_channel(row, "out") for row in rows[2:])
            v = self.graph.add(self.graph.times(v, gain), shift)
        if "table" in self.arrays and self.op["op"].endswith("_s8"):
            return self._in_table(v)
        if self.op.get("activation") in ("tanh", "sigmoid"):
            v = self.graph.node(self.op["activation"].capitalize(), v)
        return self.result(v)

    def _in_table(self, v: str) -> str:
        table = self.arrays["table"]
        half = len(table) // 2
        limits = (self.graph.constant(float(n)) for n in (-half, half - 1))
        rounded = self.graph.node("Round", self.graph.node("Clip", v, *limits))
        index = self.graph.node("Cast", self.graph.add(rounded, np.float32(half)), to=7)
        # As floats: to TensorRT an int8 constant is a weight.
        found = self.graph.node("Gather", self.graph.constant(table), index)
        return self.graph.quantized(found) if table.dtype == np.int8 else found


def _weighed(step: Step, x: str, kind: str, **attributes: Any) -> tuple[str, list[Array]]:
    """Sums of an integer layer times their multipliers, plus offsets; and the epilogue's rows.

    x: the integers of its input, as floats. kind: of the node that multiplies and adds.
    """
    graph = step.graph
    rows = [row.astype(np.float64) for row in step.arrays["epilogue"]]
    weight = step.arrays["weight"].astype(np.int64)
    zeros = weight.reshape(len(weight), -1, weight.shape[-1]).sum(axis=1) @ step.zero()
    # Sums of integers are exact in float32 as far as it holds them; what scales them comes after,
    # in the engine's order.
    v = graph.node(kind, x, graph.weights(_onnx_weight(step)), **attributes)
    v = graph.add(v, step.by_channel(-zeros, "out"))
    v = graph.times(v, step.by_channel(rows[0], "out"))
    if "bias" in step.op:
        return graph.node("Add", v, step.vector("bias")), rows
    return graph.add(v, step.by_channel(rows[1], "out")), rows


def _onnx_weight(step: Step) -> Array:
    """(out, in), or (out, in, time[, width])."""
    weight = step.arrays["weight"]
    if weight.ndim == 2:
        return weight
    moved = np.moveaxis(weight, 3, 1)
    return moved[..., 0] if step.axes() == 3 else moved


def _spatial(step: Step) -> dict[str, list[int]]:
    """Attributes of a convolution or a pooling, of as many axes as its input has."""
    axes = step.axes() - 2
    return {f"{key}s": list(step.op.get(key, [1, 1]))[:axes] for key in ("stride", "dilation")}


def _padded(step: Step, x: str) -> str:
    """With the padding around it that the op asks for; int8 with its zero points."""
    padding = step.op.get("padding", [0, 0])[: step.axes() - 2]
    multiple = step.op.get("pad_to", 0)
    if not any(padding) and not multiple:
        return x
    if step.op.get("pad_mode") == "reflect":
        for axis, n in enumerate(padding, 2):
            x = step.graph.reflected(x, n, axis)
        return x
    zero = set(step.zero().tolist()) if step.tensor()["dtype"] == "s8" else {0.0}
    if len(zero) > 1:
        raise ValueError(
            f"layer {step.op['name']!r}: channels of several zero points cannot be padded"
        )
    behind = [padding[0] + multiple, *padding[1:]]
    pads = step.graph.constant([0, 0, *padding, 0, 0, *behind], np.int64)
    x = step.graph.node("Pad", x, pads, step.graph.constant(zero.pop()), mode="constant")
    return step.graph.first(x, _padded_frames(step, multiple, padding[0]), 2) if multiple else x


def _padded_frames(step: Step, multiple: int, padding: int) -> str:
    """The next multiple above the frames of the input, and the padding at both ends."""
    graph = step.graph
    one, size, both = (graph.constant([n], np.int64) for n in (1, multiple, 2 * padding))
    frames = graph.node("Shape", step.read(), start=2, end=3)
    multiples = graph.node("Add", graph.node("Div", frames, size), one)
    return graph.node("Add", graph.node("Mul", multiples, size), both)


def _conv_s8(step: Step) -> str:
    return step.behind_sums(*_weighed(step, _padded(step, step.floats()), "Conv", **_spatial(step)))


def _conv_f32(step: Step) -> str:
    weight = step.graph.constant(_onnx_weight(step), role="weight")
    v = step.graph.node("Conv", _padded(step, step.read()), weight, **_spatial(step))
    return _behind_f32(step, v)


def _dense_s8(step: Step) -> str:
    return step.behind_sums(*_weighed(step, step.floats(), "Gemm", transB=1))


def _dense_f32(step: Step) -> str:
    weight = step.graph.constant(step.arrays["weight"], role="weight")
    return _behind_f32(step, step.graph.node("Gemm", step.read(), weight, transB=1))


def _behind_f32(step: Step, v: str) -> str:
    offset, *affine = step.arrays["epilogue"]
    if "bias" in step.op:
        v = step.graph.node("Add", v, step.vector("bias"))
    else:
        v = step.graph.add(v, step.by_channel(offset, "out"))
    return step.behind_sums(v, [offset, offset, *affine])


def _quantize_s8(step: Step) -> str:
    multiplier, offset = (step.by_channel(step.arrays[key]) for key in ("multiplier", "offset"))
    return step.result(step.graph.add(step.graph.times(step.read(), multiplier), offset))


def _dequantize_f32(step: Step) -> str:
    return step.graph.times(step.centred(), step.by_channel(step.arrays["multiplier"]))


def _add_s8(step: Step) -> str:
    graph = step.graph
    x = graph.times(step.centred(), step.by_channel(step.arrays["multiplier"]))
    residual = step.by_channel(step.arrays["residual_multiplier"])
    return _added(step, x, graph.times(step.centred("residual"), residual))


def _add_f32(step: Step) -> str:
    return _added(step, step.read(), step.read("residual"))


def _added(step: Step, x: str, residual: str) -> str:
    if "gate" in step.op:
        x = step.graph.node("Mul", x, step.vector("gate"))
    v = step.graph.node("Add", x, residual)
    return step.result(step.graph.node("Relu", v) if step.op.get("relu") else v)


def _max_pool(step: Step) -> str:
    axes = step.axes() - 2
    padding = list(step.op.get("padding", [0, 0]))[:axes]
    v = step.graph.node(
        "MaxPool",
        step.floats(),
        kernel_shape=list(step.op.get("kernel", [1, 1]))[:axes],
        strides=list(step.op.get("stride", [1, 1]))[:axes],
        pads=padding * 2,
    )
    return step.graph.quantized(v) if step.tensor()["dtype"] == "s8" else v


def _stats(step: Step) -> str:
    """Of int8 the mean and deviation of integers, times their unit."""
    graph = step.graph
    is_s8 = step.tensor()["dtype"] == "s8"
    x = step.centred() if is_s8 else step.read()
    vector = _moments(step, step.counted(x), None)
    if not is_s8:
        return vector
    multiplier = np.broadcast_to(step.arrays["multiplier"], (step.tensor()["channels"],))
    return graph.times(vector, np.tile(multiplier, 2 if step.op.get("std") else 1)[None])


def _moments(step: Step, x: str, weights: str | None) -> str:
    """Mean (batch, channels), and behind it the standard deviation where the op has one.

    weights: of sum 1 over time; None weighs all alike.
    """
    graph, axes = step.graph, list(range(2, step.axes()))

    def mean(values: str, keepdims: int) -> str:
        if weights is None:
            return graph.node("ReduceMean", values, axes=axes, keepdims=keepdims)
        weighed = graph.node("Mul", weights, values)
        return graph.node("ReduceSum", weighed, graph.constant(axes, np.int64), keepdims=keepdims)

    first = mean(x, 0)
    if weights is None and not step.op.get("std"):
        return first
    centred = graph.node("Sub", x, graph.unsqueezed(first, axes))
    variance = mean(graph.node("Mul", centred, centred), 0)
    if step.op.get("unbiased"):
        variance = graph.node("Mul", variance, _correction(graph, x))
    variance = graph.node("Max", variance, graph.constant(step.op["min_variance"]))
    if "added_variance" in step.op:
        variance = graph.node("Add", variance, graph.constant(step.op["added_variance"]))
    return graph.join([first, graph.node("Sqrt", variance)])


def _correction(graph: Graph, x: str) -> str:
    """n / (n - 1) of the n positions of x (batch, channels, positions...)."""
    sizes = graph.node("Shape", x, start=2)
    count = graph.node("Cast", graph.node("ReduceProd", sizes, keepdims=0), to=TensorProto.FLOAT)
    return graph.node("Div", count, graph.node("Sub", count, graph.constant(1.0)))


def _attentive_pool_s8(step: Step) -> str:
    graph, arrays = step.graph, step.arrays
    zeros = arrays["weight"].astype(np.int64) @ step.zero()
    logits = graph.node("Conv", step.floats(), graph.weights(arrays["weight"][..., None]))
    logits = graph.add(logits, -zeros.reshape(1, -1, 1))
    logits = graph.times(logits, arrays["multiplier"].reshape(1, -1, 1))
    if "offset" in arrays:
        logits = graph.add(logits, arrays["offset"].reshape(1, -1, 1))
    vector = _pooled(step, logits, step.centred("values"))
    channels = step.tensor("values")["channels"]
    multiplier = np.broadcast_to(arrays["value_multiplier"], (channels,))
    return graph.times(vector, np.tile(multiplier, 2)[None])


def _attentive_pool_f32(step: Step) -> str:
    weight = step.graph.constant(step.arrays["weight"][..., None], role="weight")
    logits = step.graph.node("Conv", step.read(), weight)
    logits = step.graph.add(logits, step.arrays["epilogue"][0].reshape(1, -1, 1))
    return _pooled(step, logits, step.read("values"))


def _pooled(step: Step, logits: str, x: str) -> str:
    """Mean and standard deviation of x, weighted by the softmax of logits over time."""
    graph = step.graph
    logits, x = step.counted(logits), step.counted(x)
    kind = step.op.get("softmax", "exact")
    if kind == "exact":
        return _moments(step, x, graph.node("Softmax", logits, axis=2))
    numerators = _piecewise(step, logits) if kind == "pwl" else _tabulated(step, logits)
    total = graph.node("ReduceSum", numerators, graph.constant([2], np.int64), keepdims=1)
    return _moments(step, x, graph.node("Div", numerators, total))


def _piecewise(step: Step, v: str) -> str:
    graph, arrays = step.graph, step.arrays
    line = _line(graph, v, arrays["slopes"][0], arrays["intercepts"][0])
    pieces = zip(arrays["breakpoints"], arrays["slopes"][1:], arrays["intercepts"][1:], strict=True)
    for breakpoint_, slope, intercept in pieces:
        beyond = graph.node("GreaterOrEqual", v, graph.constant(breakpoint_))
        line = graph.node("Where", beyond, _line(graph, v, slope, intercept), line)
    low, high = (graph.constant(bound) for bound in arrays["bounds"])
    return graph.times(graph.node("Clip", line, low, high), 1 / _SOFTMAX_UNIT)


def _line(graph: Graph, v: str, slope: float, intercept: float) -> str:
    return graph.node("Add", graph.node("Mul", v, graph.constant(slope)), graph.constant(intercept))


def _tabulated(step: Step, v: str) -> str:
    graph, table = step.graph, step.arrays["table"].astype(np.float32)
    last = len(table) - 1
    if "range" in step.arrays:
        low, high = (float(end) for end in step.arrays["range"])
        v = graph.times(graph.add(v, np.float32(-low)), np.float32(last / (high - low)))
    v = graph.node("Clip", v, graph.constant(0.0), graph.constant(float(last)))
    left = graph.node("Min", graph.node("Floor", v), graph.constant(float(last - 1)))
    index = graph.node("Cast", left, to=7)
    at = graph.node("Gather", graph.constant(table), index)
    rise = graph.node("Gather", graph.constant(np.diff(table)), index)
    part = graph.node("Mul", rise, graph.node("Sub", v, left))
    return graph.times(graph.node("Add", at, part), 1 / _SOFTMAX_UNIT)


RUNNERS: dict[str, Callable[[Step], str]] = {
    "quantize_s8": _quantize_s8,
    "dequantize_f32": _dequantize_f32,
    "conv_s8": _conv_s8,
    "conv_f32": _conv_f32,
    "dense_s8": _dense_s8,
    "dense_f32": _dense_f32,
    "add_s8": _add_s8,
    "add_f32": _add_f32,
    "max_pool_s8": _max_pool,
    "max_pool_f32": _max_pool,
    "stats_s8": _stats,
    "stats_f32": _stats,
    "attentive_pool_s8": _attentive_pool_s8,
    "attentive_pool_f32": _attentive_pool_f32,
}
