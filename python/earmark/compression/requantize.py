"""A plan's weights in coarser steps: few bits where they matter little, one price for all layers.

Where the cost of an error is known for every weight, the least cost for so many bits has a bit buy
as much in every layer: steps whose errors cost the same (reverse water-filling). So there is one
number to choose, the cost of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.compression.rate import RateModel
from earmark.compression.rounding import round_layer, steps
from earmark.compression.sensitivity import Sensitivity
from earmark.modelfile import Arrays
from earmark.plan import PlanBuilder
from earmark.quantization.gptq import Compensation
from earmark.storage.levels import WeightLevels
from earmark.storage.spreads import spreads

__all__ = ["Requantized", "Requantizer"]

Array = NDArray[Any]

# Of the mean variance: directions that the recordings did not show matter too.
_DAMPING = 0.1
# Of a bit, where the error of a whole step costs 1. At high rates a bit is worth 2 ln 2 / 12, but
# what one weight loses for its bits others must make up for: much less is better.
_PRICE = 0.015
_ROUNDS = 2
# Rounding towards zero takes from an output, hardly ever this much.
_GAINS = (0.8, 1.5)


@dataclass(frozen=True)
class Requantized:
    """The levels of each layer by name; all arrays of the plan, decoded, with the weights that the
    levels stand for and what follows them changed to suit; bits of all levels, estimated.
    """

    levels: dict[str, WeightLevels]
    arrays: Arrays
    bits: float


class Requantizer:
    """Chooses levels for the weights of a plan, as many times as asked.

    network: an integer plan with its arrays; not changed. sensitivities: of its layers by name;
    others stay as they are.
    """

    def __init__(self, network: PlanBuilder, sensitivities: Mapping[str, Sensitivity]) -> None:
        self.network = network
        self.sensitivities = dict(sensitivities)
        self._compensations = {
            name: Compensation.of(found.columns, _DAMPING)
            for name, found in self.sensitivities.items()
        }

    @property
    def weights(self) -> int:
        """How many weights there are to choose levels for."""
        return sum(self.network.arrays[f"{name}.weight"].size for name in self.sensitivities)

    def at(self, step: float, price: float = _PRICE) -> Requantized:
        """Levels whose steps each change the output by ``step``, in parts of its length.

        price: of a bit, in squares of steps.
        """
        rate = RateModel()
        layers: dict[str, tuple[Array, Array]] = {}
        tables: dict[str, Array] = {}
        for name, found in self.sensitivities.items():
            weight = self._weight(name)
            row = steps(found, self._compensations[name], step * step)
            layers[name] = weight, row
            tables[name] = _tables(weight / row[:, None])
        levels: dict[str, WeightLevels] = {}
        for _ in range(_ROUNDS):
            for name, (weight, row) in layers.items():
                compensation = self._compensations[name]
                levels[name] = round_layer(
                    weight, compensation, row, rate.bits, tables[name], price
                )
                tables[name] = _tables(levels[name].levels)
            rate.count((tables[name], found.levels) for name, found in levels.items())
        bits = sum(rate.cost(tables[name], found.levels) for name, found in levels.items())
        return Requantized(levels, self._arrays(levels), bits)

    def _weight(self, name: str) -> Array:
        weight = self.network.arrays[f"{name}.weight"]
        return weight.reshape(len(weight), -1).astype(np.float64)

    def _arrays(self, levels: Mapping[str, WeightLevels]) -> Arrays:
        """The plan's arrays with the weights that levels stand for.

        Each row gets the gain and the offset with which its sums come closest to what they were.
        """
        arrays = dict(self.network.arrays)
        moved: dict[str, Array] = {}  # vectors that take the place of an offset
        for op in self.network.ops:
            name = op["name"]
            if name not in levels:
                continue
            found, weight = self.sensitivities[name], self._weight(name)
            stored = levels[name].restored()
            wide = stored.astype(np.float64)
            gain = _gains(weight, wide, found.columns)
            lost = (weight - gain[:, None] * wide) @ found.mean
            arrays[f"{name}.weight"] = stored.reshape(arrays[f"{name}.weight"].shape)
            if "epilogue" not in op["arrays"]:
                arrays[f"{name}.multiplier"] = _f32(arrays[f"{name}.multiplier"] * gain)
                if "offset" in op["arrays"]:
                    multiplier = self.network.arrays[f"{name}.multiplier"]
                    arrays[f"{name}.offset"] = _f32(arrays[f"{name}.offset"] + lost * multiplier)
                continue
            epilogue = arrays[f"{name}.epilogue"].astype(np.float64)
            lost = lost * epilogue[0]
            epilogue[0] *= gain
            if "bias" in op:
                moved[op["bias"]] = lost
            else:
                epilogue[1] += lost
            arrays[f"{name}.epilogue"] = _f32(epilogue)
        for op in self.network.ops:
            if op["out"] in moved:
                epilogue = arrays[f"{op['name']}.epilogue"].astype(np.float64)
                epilogue[-1] += moved[op["out"]]
                arrays[f"{op['name']}.epilogue"] = _f32(epilogue)
        return arrays


def _tables(integers: Array) -> Array:
    row, column = spreads(integers)
    return RateModel.table(row[:, None], column)


def _gains(weight: Array, stored: Array, columns: Array) -> Array:
    """(out,): what to multiply rows with, so that their errors cost least."""
    weighed = stored @ columns
    square = (weighed * stored).sum(axis=1)
    gain = (weighed * weight).sum(axis=1) / np.where(square > 0, square, 1.0)
    return np.where(square > 0, np.clip(gain, *_GAINS), 1.0)


def _f32(values: Array) -> Array:
    """float32; what a file may not hold, a subnormal number, is 0."""
    rounded = values.astype(np.float32)
    return np.where(np.abs(rounded) < np.finfo(np.float32).tiny, np.float32(0), rounded)
