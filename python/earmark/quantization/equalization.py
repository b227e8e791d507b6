"""Channels of one tensor brought to alike sizes, so that its one int8 range suits them all.

A channel divided by a factor where it is written and multiplied by it in the weights that read it
leaves the float32 network as it was: cross-layer equalization (M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.1). The
factors are those of SmoothQuant (G. Xiao et al., arXiv:2211.10438, equation 4, alpha 0.5), which
weighs the activations against the weights that read them. Weights have a scale for each output
channel: those that write the channels do not count, and those that read them count as parts of the
largest weight of their output.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.lowering.arrays import stored_f32
from earmark.plan import JSON, OUTPUT, SCORES, PlanBuilder, make_engine, trace

__all__ = ["Adjustable", "adjustable", "channel_sizes", "equalize"]

Array = NDArray[Any]

_READ = ("in", "residual", "gate", "bias", "values")
# Of the largest: smaller channels, and weights, count as so large. A channel that calibration
# hardly saw move must not grow without bounds.
_SMALLEST = 1e-5
# Of variances: a larger floor is a part of the network, and counts for more where channels are
# divided.
_LARGEST_FLOOR = 1e-6


@dataclass
class Adjustable:
    """A frames tensor whose channels can be divided by factors of their own."""

    tensor: str
    writer: str  # the op
    readers: list[str] = field(default_factory=list)  # ops whose weights multiply its channels
    vectors: list[str] = field(default_factory=list)  # its statistics over time
    dense: list[str] = field(default_factory=list)  # ops whose weights multiply those


def adjustable(network: PlanBuilder) -> list[Adjustable]:
    """The tensors of a float32 plan that can be equalized, in the plan's order.

    Written by a convolution that no table, tanh or sigmoid follows; read, perhaps through a max
    pool, by weights, or as means and deviations by dense layers, and by nothing else.
    """
    found = []
    for op in network.ops:
        tensor = Adjustable(op["out"], op["name"])
        if _is_homogeneous(network, op) and _follow(network, op["out"], tensor):
            found.append(tensor)
    return found


def channel_sizes(
    network: PlanBuilder, recordings: Iterable[Array], tensors: Collection[str]
) -> dict[str, Array]:
    """The largest magnitude (channels,) of each channel of some frames tensors, by name.

    recordings: features (frames, bands), float32. Raises ValueError when there is none.
    """
    engine = make_engine(network.plan, network.arrays)
    sizes = {name: np.zeros(network.tensors[name]["channels"], np.float32) for name in tensors}
    count = 0
    for features in recordings:
        count += 1
        seen = trace(engine, features)
        for name, size in sizes.items():
            rows = seen[name].reshape(-1, len(size))
            np.maximum(size, np.maximum(rows.max(axis=0), -rows.min(axis=0)), out=size)
    if count == 0:
        raise ValueError("equalization needs at least one recording")
    return sizes


def equalize(network: PlanBuilder, sizes: Mapping[str, Array]) -> PlanBuilder:
    """The plan that computes the same with channels of alike sizes.

    sizes: as ``channel_sizes`` returns them, of tensors that ``adjustable`` names. The same but for
    rounding and for the floor of variances, which is far below those of channels that move.
    """
    result = copy.copy(network)
    result.arrays, result.statistics = dict(network.arrays), dict(network.statistics)
    for tensor in adjustable(network):
        if tensor.tensor in sizes:
            weights = [result.arrays[f"{name}.weight"] for name in tensor.readers]
            _divide(result, tensor, _factors(sizes[tensor.tensor], weights))
    return result


def _is_homogeneous(network: PlanBuilder, op: JSON) -> bool:
    """Whether an op's output channels are divided by dividing constants of the op."""
    if op["op"] != "conv_f32" or op.get("activation") is not None:
        return False
    # Without an affine behind it a bias vector would have to be divided too.
    return "bias" not in op or len(network.arrays[f"{op['name']}.epilogue"]) > 1


def _follow(network: PlanBuilder, name: str, found: Adjustable) -> bool:
    """Note all that reads a frames tensor; False where something does that cannot be adjusted."""
    if not _has_own_memory(network, name):
        return False
    for op, role in _readers(network, name):
        if role == "in" and "weight" in op["arrays"]:
            found.readers.append(op["name"])
        elif op["op"] == "max_pool_f32":
            if not _follow(network, op["out"], found):
                return False
        elif op["op"] == "stats_f32" or role == "values":
            dense = list(_readers(network, op["out"]))
            floor = max(op.get("min_variance", 0.0), op.get("added_variance", 0.0))
            if op["out"] in (OUTPUT, SCORES) or floor > _LARGEST_FLOOR:
                return False
            if any(reader["op"] != "dense_f32" for reader, _ in dense):
                return False
            found.vectors.append(op["out"])
            found.dense += [reader["name"] for reader, _ in dense]
        else:
            return False
    return True


def _readers(network: PlanBuilder, name: str) -> Iterator[tuple[JSON, str]]:
    """Each op that reads a tensor, and as what."""
    return ((op, role) for op in network.ops for role in _READ if op.get(role) == name)


def _has_own_memory(network: PlanBuilder, name: str) -> bool:
    """Whether a frames tensor is no view, nothing is a view of it, and one op writes it."""
    views = [name, *(other for other, desc in network.tensors.items() if desc.get("of") == name)]
    writers = [op for op in network.ops if op["out"] in views]
    return "of" not in network.tensors[name] and len(views) == len(writers) == 1


def _factors(size: Array, weights: list[Array]) -> Array:
    """What each channel is divided by, (channels,), float64; their geometric mean is 1.

    size: (channels,). weights: (..., channels) each. Channels that never moved get 1. Where no
    weights read the channels themselves nothing is weighed against their sizes, for the
    statistics of each have a step of their own.
    """
    moved = size > 0
    factors = np.ones(len(size))
    if not moved.any():
        return factors
    factors = np.maximum(size.astype(np.float64), _SMALLEST * float(size.max()))
    if weights:
        parts = np.max([_parts(weight, len(size)) for weight in weights], axis=0)
        factors = np.sqrt(factors / np.maximum(parts, _SMALLEST))
    factors /= np.exp(np.log(factors[moved]).mean())
    return np.where(moved, factors, 1.0)


def _parts(weight: Array, channels: int) -> Array:
    """The largest magnitude of each channel's weights (..., channels), as a part of their row's."""
    rows = np.abs(weight.astype(np.float64)).reshape(len(weight), -1, channels)
    largest = rows.max(axis=(1, 2), keepdims=True)
    parts: Array = (rows / np.where(largest > 0, largest, 1.0)).max(axis=(0, 1))
    return parts


def _divide(network: PlanBuilder, tensor: Adjustable, factors: Array) -> None:
    """Divide the channels where they are written, multiply what reads them."""
    arrays, name = network.arrays, tensor.writer
    epilogue = arrays[f"{name}.epilogue"].astype(np.float64)
    if len(epilogue) > 1:
        epilogue[1:] /= factors
    else:
        epilogue /= factors
        weight = arrays[f"{name}.weight"]
        rows = factors.reshape(-1, *[1] * (weight.ndim - 1))
        arrays[f"{name}.weight"] = stored_f32(weight / rows)
    arrays[f"{name}.epilogue"] = stored_f32(epilogue)
    for reader in [*tensor.readers, *tensor.dense]:
        weight = arrays[f"{reader}.weight"]
        # Mean and deviation of each channel lie one behind the other.
        columns = np.tile(factors, weight.shape[-1] // len(factors))
        arrays[f"{reader}.weight"] = stored_f32(weight * columns)
    for vector in set(tensor.vectors) & set(network.statistics):
        columns = np.tile(factors, network.tensors[vector]["channels"] // len(factors))
        mean, deviation = network.statistics[vector]
        network.statistics[vector] = (mean / columns, deviation / columns)
