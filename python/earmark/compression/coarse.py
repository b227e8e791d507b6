"""Model files whose weights are stored coarser than they were (lossy)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from earmark.audio import read_audio
from earmark.classifier import Classifier
from earmark.compression import with_levels
from earmark.compression.floats import round_mantissa
from earmark.compression.requantize import Requantized, Requantizer
from earmark.compression.sensitivity import measure_sensitivity
from earmark.crops import CROP_SECONDS
from earmark.modelfile import Arrays, ModelFile
from earmark.plan import JSON, PlanBuilder
from earmark.runner import Runner
from earmark.storage import decode_arrays
from earmark.storage.levels import WeightLevels, levels_of

__all__ = ["calibration_pieces", "coarse_file", "requantizer", "steps_of", "with_arrays"]

Array = NDArray[Any]

# Binary digits behind the first one of what follows the sums: errors of a thousandth.
_MANTISSA = 8
_ROUNDED = ("epilogue", "multiplier", "offset")


def calibration_pieces(
    runner: Runner,
    recordings: Sequence[Any],
    progress: Callable[[int, int], None] | None = None,
) -> list[Array]:
    """Features (frames, bands) of what shows which weights matter.

    Of a classifier each recording's windows, else pieces of 2 s, of a shorter recording all of it.
    recordings: as ``embed`` takes them. progress: called with (done, total) recordings. Raises
    AudioError for one that cannot be used.
    """
    pieces: list[Array] = []
    for done, item in enumerate(recordings, 1):
        pieces += map(runner.front_end, _pieces(runner, item))
        if progress is not None:
            progress(done, len(recordings))
    return pieces


def _pieces(runner: Runner, item: Any) -> Iterator[Array]:
    rate = runner.front_end.sample_rate_hz
    wave = read_audio(item, rate, target_rate=rate, min_samples=runner.min_samples).samples
    if isinstance(runner, Classifier):
        yield from runner.windows_of(wave)
        return
    length = round(CROP_SECONDS * rate)
    for begin in range(0, max(len(wave) - length, 0) + 1, length):
        yield wave[begin : begin + length]


def requantizer(
    model: ModelFile, pieces: Sequence[Array], progress: Callable[[int, int], None] | None = None
) -> Requantizer:
    """Of a model's int8 weights, by how much they matter on pieces of recordings.

    progress: called with (done, total) pieces. Raises ValueError for a model with an op that has no
    derivative in ``gradients``, such as a float32 layer.
    """
    network = PlanBuilder.of(model.plan, model.decoded_arrays())
    return Requantizer(network, measure_sensitivity(network, pieces, progress))


def coarse_file(model: ModelFile, found: Requantized) -> ModelFile:
    """The model with the levels in its weights' place, in the entropy coder."""
    levels = {
        f"{name}.weight": replace(level, levels=_shaped(level.levels, found.arrays, name))
        for name, level in found.levels.items()
    }
    return with_levels(model, _rounded(found.arrays), levels)


def steps_of(model: ModelFile) -> Arrays:
    """The steps (out,) of each layer that is stored in levels, by its name."""
    storage = model.metadata.get("storage", {})
    arrays = decode_arrays(model.arrays, {name: _plain(found) for name, found in storage.items()})
    return {
        name.rpartition(".")[0]: arrays[entry["step"]]
        for found in storage.values()
        for name, entry in found.get("levels", {}).items()
    }


def with_arrays(model: ModelFile, arrays: Arrays) -> ModelFile:
    """The file with other arrays of the plan, stored in the same steps.

    Weights that are no multiples of their steps, rounded, are not kept.
    """
    levels = {
        f"{name}.weight": WeightLevels(levels_of(arrays[f"{name}.weight"], step), step)
        for name, step in steps_of(model).items()
    }
    return with_levels(model, _rounded(arrays), levels)


def _shaped(levels: Array, arrays: Arrays, layer: str) -> Array:
    return levels.reshape(arrays[f"{layer}.weight"].shape)


def _rounded(arrays: Arrays) -> Arrays:
    """What follows the sums with fewer digits."""
    return {
        name: round_mantissa(array, _MANTISSA) if name.rpartition(".")[2] in _ROUNDED else array
        for name, array in arrays.items()
    }


def _plain(coding: JSON) -> JSON:
    """A coding whose levels are left as they are."""
    return {key: value for key, value in coding.items() if key != "levels"}
