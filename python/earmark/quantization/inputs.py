"""What each layer's weights are multiplied with: mean and covariance of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.plan import INPUT, JSON, PlanBuilder, base_of

__all__ = ["InputMoments", "from_zero", "layer_inputs", "played", "sources", "unfold"]

Array = NDArray[Any]


class InputMoments:
    """Mean and covariance of the columns that a layer's weight rows are multiplied with.

    Sums are of the differences to the first recording's mean: float32 products then keep the
    digits that the covariance has.
    """

    def __init__(self, columns: int) -> None:
        self._count = 0
        self._origin = np.zeros(columns)
        self._sum = np.zeros(columns)
        self._products = np.zeros((columns, columns))

    def update(self, rows: Array) -> None:
        """Take in rows (n, columns), float32."""
        if self._count == 0:
            self._origin = rows.mean(axis=0)
        moved = rows - self._origin
        self._count += len(rows)
        self._sum += moved.sum(axis=0, dtype=np.float64)
        self._products += moved.T @ moved

    @property
    def rows(self) -> int:
        """How many it took in."""
        return self._count

    def mean(self) -> Array:
        """(columns,), float64."""
        return self._origin + self._sum / self._count

    def covariance(self) -> Array:
        """(columns, columns), float64."""
        mean = self._sum / self._count
        covariance: Array = self._products / self._count - np.outer(mean, mean)
        return covariance

    def scaled(self, scale: Array) -> InputMoments:
        """The moments of the columns divided by ``scale`` (columns,)."""
        result = InputMoments(len(scale))
        result._count = self._count
        result._origin = self._origin / scale
        result._sum = self._sum / scale
        result._products = self._products / np.outer(scale, scale)
        return result


def layer_inputs(
    network: PlanBuilder, features: Array, outputs: dict[str, Array], layers: Collection[str]
) -> Iterator[tuple[str, Array]]:
    """(name, rows) of each of some layers: what its weights are multiplied with, float32.

    network: a plan of any precision. features: its input. outputs: of every op, by tensor name. The
    columns are in the order of the weight's axes behind the first. Integer inputs are counted from
    their zero point, so that padding is 0.
    """
    for op, read in played(network, features, outputs):
        if op["name"] in layers:
            weight = network.arrays_of(op)["weight"]
            yield op["name"], unfold(op, from_zero(network, op, read), weight.shape)


def played(
    network: PlanBuilder, features: Array, outputs: dict[str, Array]
) -> Iterator[tuple[JSON, Callable[[str], Array]]]:
    """Each op of a plan, and what reads a tensor by its name as the op finds it.

    Names of frames are views of memory that ops overwrite, so the memory is played back: what was
    read stays as it is only until the next op.
    """
    memory = {INPUT: _as_input(network.tensors[INPUT], features)}
    for op in network.ops:
        yield op, partial(_read, network, memory)
        _write(network, memory, op["out"], outputs[op["out"]])


def _as_input(tensor: JSON, features: Array) -> Array:
    """Features (frames, bands) in the form and the dtype of the plan's input."""
    if tensor["dtype"] == "s8" and features.dtype.kind == "f":
        zero = tensor.get("zero_point", 0)
        steps = np.rint(features * np.float32(1 / tensor["scale"]))
        features = (np.clip(steps, -128 - zero, 127 - zero) + zero).astype(np.int8)
    is_image = tensor.get("width", 1) > 1
    return features[..., None] if is_image and features.ndim == 2 else features


def from_zero(network: PlanBuilder, op: JSON, read: Callable[[str], Array]) -> Array:
    """The input of an op with weights, float32; of integers, how far they are from the zero."""
    x = read(op["in"])
    if x.dtype.kind == "f":
        return x
    if "quantization" in op:
        zero: Any = np.clip(read(op["quantization"])[2], -128, 127)
    elif "input_zero" in op["arrays"]:
        zero = network.arrays_of(op)["input_zero"].astype(np.float32)
    else:
        zero = network.tensors[op["in"]].get("zero_point", 0)
    centred: Array = x.astype(np.float32) - np.float32(zero)
    return centred


def _read(network: PlanBuilder, memory: dict[str, Array], name: str) -> Array:
    desc = network.tensors[name]
    values = memory[base_of(network.plan, name)]
    if desc["kind"] == "vector":
        return values
    begin = desc.get("offset", 0)
    return values[..., begin : begin + desc["channels"]]


def _write(network: PlanBuilder, memory: dict[str, Array], name: str, values: Array) -> None:
    desc = network.tensors[name]
    base = base_of(network.plan, name)
    if base == name:
        memory[name] = values
        return
    if base not in memory or len(memory[base]) != len(values):
        channels = network.tensors[base]["channels"]
        memory[base] = np.zeros((*values.shape[:-1], channels), values.dtype)
    begin = desc["offset"]
    memory[base][..., begin : begin + desc["channels"]] = values


def unfold(op: JSON, x: Array, weight: tuple[int, ...]) -> Array:
    """Rows (positions, inputs of one output) of a layer's input (channels,) or (..., channels)."""
    if len(weight) == 2:
        return x.reshape(-1, x.shape[-1])
    frames = x[:, None] if x.ndim == 2 else x
    time, time_inside = sources(op, 0, weight[1], frames.shape[0])
    width, width_inside = sources(op, 1, weight[2], frames.shape[1])
    rows = frames[time[:, None, :, None], width[None, :, None, :]]
    rows = rows * (time_inside[:, None, :, None] & width_inside[None, :, None, :])[..., None]
    return rows.reshape(time.shape[0] * width.shape[0], -1)


def sources(op: JSON, axis: int, kernel: int, size: int) -> tuple[Array, Array]:
    """Where each output of an axis reads, (outputs, kernel), and whether that is inside."""
    stride, dilation = op.get("stride", [1, 1])[axis], op.get("dilation", [1, 1])[axis]
    padding = op.get("padding", [0, 0])[axis]
    multiple = op.get("pad_to") if axis == 0 else None
    padded = size + multiple - size % multiple if multiple else size
    outputs = (padded + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    at = stride * np.arange(outputs)[:, None] + dilation * np.arange(kernel) - padding
    inside = np.ones_like(at, dtype=bool)
    if op.get("pad_mode") == "reflect":
        at = size - 1 - np.abs(size - 1 - np.abs(at))
    else:
        inside = (at >= 0) & (at < size)
    return np.clip(at, 0, size - 1), inside
