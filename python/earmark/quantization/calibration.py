"""Runs recordings through the float32 plan and keeps what quantization needs of every tensor."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.plan import INPUT, PlanBuilder, make_engine, trace
from earmark.quantization.inputs import InputMoments, layer_inputs
from earmark.quantization.observers import OBSERVERS, Moments, Observer

Array = NDArray[Any]


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
    recordings: int = 0
    frames: int = 0
    observers: dict[str, Observer] = field(default_factory=dict)
    vectors: dict[str, VectorRange] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    inputs: dict[str, InputMoments] = field(default_factory=dict)  # of layers, by name
    rounded: dict[Hashable, Any] = field(default_factory=dict)  # weights, for further plans

    def range(self, tensor: str) -> tuple[float, float]:
        """Range of a frames tensor, widened to contain 0 so that 0 is exact in int8."""
        low, high = self.observers[tensor].range()
        return min(low, 0.0), max(high, 0.0)

    def update(self, features: Array, tensors: dict[str, Array]) -> None:
        self.recordings += 1
        self.frames += len(features)
        for name, values in {INPUT: features, **tensors}.items():
            self.moments.setdefault(name, Moments()).update(values)
            if values.ndim == 1:
                if name not in self.vectors:
                    self.vectors[name] = VectorRange(values.copy(), values.copy())
                self.vectors[name].update(values)
            else:
                self.observers.setdefault(name, OBSERVERS[self.observer]()).update(values)


def calibrate(
    network: PlanBuilder,
    features: Iterable[Array],
    observer: str,
    layers: Collection[str] = (),
) -> Calibration:
    """Observe every tensor of a float32 plan.

    features: one (frames, bands) float32 array a recording, in a fixed order. observer: a key of
    ``OBSERVERS``. layers: names of those whose inputs' covariance is wanted as well. Raises
    ValueError for an unknown observer or when there is no recording.
    """
    if observer not in OBSERVERS:
        raise ValueError(f"unknown observer {observer!r}: known are {', '.join(OBSERVERS)}")
    calibration = Calibration(observer)
    engine = make_engine(network.plan, network.arrays)
    for recording in features:
        tensors = trace(engine, recording)
        calibration.update(recording, tensors)
        for name, rows in layer_inputs(network, recording, tensors, layers):
            if name not in calibration.inputs:
                calibration.inputs[name] = InputMoments(rows.shape[1])
            calibration.inputs[name].update(rows)
    if calibration.recordings == 0:
        raise ValueError("calibration needs at least one recording")
    return calibration
