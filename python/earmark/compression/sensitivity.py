"""What an error in each weight costs: the squared change of the embedding or the scores.

The derivatives of the output by a layer's weights are taken along random directions, recording by
recording. Their products, summed over recordings and directions, say what errors cost together (a
Gauss-Newton matrix); of each layer's its Kronecker factors are kept, one over the inputs and the
diagonal of one over the outputs (V. Gupta, T. Koren, Y. Singer, "Shampoo: Preconditioned
Stochastic Tensor Optimization", arXiv:1802.09568).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.compression.gradients import answers
from earmark.plan import SCORES, PlanBuilder, make_engine, trace
from earmark.quantization.inputs import layer_inputs

__all__ = ["Sensitivity", "measure_sensitivity"]

Array = NDArray[Any]

_DIRECTIONS = 4


@dataclass(frozen=True)
class Sensitivity:
    """What errors in a layer's weights cost.

    An error ``e`` (out, in), in quanta, costs ``sum over o of rows[o] * e[o] @ columns @ e[o]``:
    the mean over recordings of the squared change of the output, in parts of its square. Where the
    output is an embedding, half of it is 1 - cosine. mean: (in,), of the inputs, as far as it is
    known; an error times it is taken to be made up for in an offset.
    """

    rows: Array
    columns: Array
    mean: Array

    def cost(self, error: Array) -> float:
        """Of an error (out, in)."""
        return float(self.rows @ ((error @ self.columns) * error).sum(axis=1))


@dataclass
class _Sums:
    """Over recordings: positions and their inputs; then the products of derivatives."""

    positions: int = 0
    inputs: Array | float = 0.0
    rows: Array | float = 0.0
    columns: Array | float = 0.0
    mean: Array = field(default_factory=lambda: np.zeros(0))


def measure_sensitivity(
    network: PlanBuilder,
    features: Sequence[Array],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Sensitivity]:
    """Of each layer with weights, by name.

    network: an integer plan. features: of recordings, (frames, bands) each. progress: called with
    (done, total). Raises ValueError when there is no recording, or for an op that has no derivative
    in ``gradients``.
    """
    if not features:
        raise ValueError("needs at least one recording")
    layers = [op["name"] for op in network.ops if "weight" in op["arrays"]]
    engine = make_engine(network.plan, network.arrays)
    sums = {name: _Sums() for name in layers}
    for item in features:
        for name, rows in layer_inputs(network, item, trace(engine, item), layers):
            sums[name].positions += len(rows)
            sums[name].inputs = sums[name].inputs + rows.sum(axis=0, dtype=np.float64)
    # What an input is counted from is not known where its range is found at run time.
    counted = {op["name"] for op in network.ops if "quantization" not in op}
    for name, found in sums.items():
        found.mean = np.asarray(found.inputs / found.positions) * (name in counted)
    rng = np.random.default_rng(0)
    for done, item in enumerate(features, 1):
        outputs = trace(engine, item)
        directions = _directions(network, outputs[network.ops[-1]["out"]], rng)
        for name, inputs, by_sums in answers(network, item, outputs, directions):
            rows, columns = _products(inputs - sums[name].mean.astype(np.float32), by_sums)
            sums[name].rows = sums[name].rows + rows
            sums[name].columns = sums[name].columns + columns
        if progress is not None:
            progress(done, len(features))
    count = _DIRECTIONS * len(features)
    return {name: _of_sums(found, count) for name, found in sums.items()}


def _directions(network: PlanBuilder, output: Array, rng: np.random.Generator) -> Array:
    """Random (n, channels); the mean square of an error times them is its part that matters.

    Neither the length of an embedding matters, nor what is added to all scores.
    """
    real = output.astype(np.float64)
    drawn = rng.normal(size=(_DIRECTIONS, len(real)))
    if network.ops[-1]["out"] == SCORES:
        real = real - real.mean()
        drawn -= drawn.mean(axis=1, keepdims=True)
        return np.asarray(drawn / np.linalg.norm(real))
    unit = real / np.linalg.norm(real)
    drawn -= np.outer(drawn @ unit, unit)
    return np.asarray(drawn / np.linalg.norm(real))


def _products(inputs: Array, by_sums: Array) -> tuple[Array, Array]:
    """Of derivatives by weights, ``by_sums^T inputs`` for each direction: what rows and columns
    have of their squares, (out,) and (in, in).
    """
    count, positions, out = by_sums.shape
    if positions > count * out:
        derivatives = by_sums.transpose(0, 2, 1) @ inputs
        flat = derivatives.reshape(count * out, -1)
        return np.square(derivatives).sum(axis=(0, 2)), flat.T @ flat
    # Fewer products, the same sums.
    together = by_sums.transpose(1, 0, 2).reshape(positions, -1)
    between = together @ together.T
    rows = (by_sums * (inputs @ inputs.T @ by_sums)).sum(axis=(0, 1))
    return rows, inputs.T @ between @ inputs


def _of_sums(found: _Sums, count: int) -> Sensitivity:
    rows, columns = np.asarray(found.rows, np.float64), np.asarray(found.columns)
    total = float(np.trace(columns))
    # float32: the largest layers have many inputs, and few digits are known.
    scaled = columns / np.float32(total if total > 0 else 1.0)
    return Sensitivity(rows / count, scaled, found.mean)
