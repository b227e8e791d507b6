"""Runs recordings through the float32 plan and keeps what quantization needs of every tensor."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.plan import INPUT, PlanBuilder, make_engine, trace
from earmark.quantization.inputs import InputMoments, layer_inputs
from earmark.quantization.observers import OBSERVERS, Moments, Observer

Array = NDArray[Any]

# So many examples at most, half as many at least where there are pieces enough; frames of the
# longest, about 20 s.
_EXAMPLES, _FRAMES = 128, 2000


@dataclass
class VectorRange:
    """Smallest and largest value of each channel of a vector."""

    low: Array
    high: Array

    def update(self, values: Array) -> None:
        np.minimum(self.low, values, out=self.low)
        np.maximum(self.high, values, out=self.high)


@dataclass
class Calibration:
    """What calibration saw of each tensor of a float32 plan, by tensor name."""

    observer: str
    pieces: int = 0
    frames: int = 0
    observers: dict[str, Observer] = field(default_factory=dict)
    vectors: dict[str, VectorRange] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    inputs: dict[str, InputMoments] = field(default_factory=dict)  # of layers, by name
    rounded: dict[Hashable, Any] = field(default_factory=dict)  # weights, for further plans
    examples: list[tuple[Array, Array]] = field(default_factory=list)  # features, outputs
    every: int = 1  # how many pieces to an example

    def range(self, tensor: str) -> tuple[float, float]:
        """Range of a frames tensor, widened to contain 0 so that 0 is exact in int8."""
        low, high = self.observers[tensor].range()
        return min(low, 0.0), max(high, 0.0)

    def keep(self, features: Array, output: Array) -> None:
        """Keep this piece as an example, or not, so that examples come from all over."""
        if self.pieces % self.every == 0 and len(features) <= _FRAMES:
            self.examples.append((features, output))
        if len(self.examples) > _EXAMPLES:
            self.examples, self.every = self.examples[::2], 2 * self.every

    def update(self, features: Array, tensors: dict[str, Array]) -> None:
        self.pieces += 1
        self.frames += len(features)
        for name, values in {INPUT: features, **tensors}.items():
            self.moments.setdefault(name, Moments()).update(values)
            if values.ndim == 1:
                if name not in self.vectors:
                    self.vectors[name] = VectorRange(values.copy(), values.copy())
                self.vectors[name].update(values)
            else:
                self.observers.setdefault(name, OBSERVERS[self.observer]()).update(values)

    def update_inputs(self, inputs: Iterable[tuple[str, Array]]) -> None:
        for name, rows in inputs:
            if name not in self.inputs:
                self.inputs[name] = InputMoments(rows.shape[1])
            self.inputs[name].update(rows)


def calibrate(
    network: PlanBuilder,
    pieces: Iterable[tuple[Array, Sequence[Array]]],
    observer: str,
    layers: Collection[str] = (),
) -> Calibration:
    """Observe every tensor of a float32 plan.

    pieces: whole recordings, or their windows: features (frames, bands), float32, of each and of
    its excerpts, in a fixed order.
    observer: a key of ``OBSERVERS``. layers: names of those whose inputs' covariance is wanted as
    well; dense ones, which see one vector a recording, see those of the excerpts too. Raises
    ValueError for an unknown observer or when there is no recording.
    """
    if observer not in OBSERVERS:
        raise ValueError(f"unknown observer {observer!r}: known are {', '.join(OBSERVERS)}")
    calibration = Calibration(observer)
    engine = make_engine(network.plan, network.arrays)
    dense = {op["name"] for op in network.ops if op["op"] == "dense_f32"}.intersection(layers)
    for features, excerpts in pieces:
        tensors = trace(engine, features)
        calibration.keep(features, tensors[network.ops[-1]["out"]])
        calibration.update(features, tensors)
        calibration.update_inputs(layer_inputs(network, features, tensors, layers))
        for excerpt in excerpts if dense else ():
            seen = trace(engine, excerpt)
            calibration.update_inputs(layer_inputs(network, excerpt, seen, dense))
    if calibration.pieces == 0:
        raise ValueError("calibration needs at least one recording")
    return calibration
