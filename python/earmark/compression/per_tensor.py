"""One scale for all weights of a layer, as P4 has it, in place of one for each output.

The plan keeps a scale for each output. What is stored are the levels of the whole tensor, and how
many of its quanta a level is for each output (``storage/levels.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import ModelFile
from earmark.storage.levels import WeightLevels

__all__ = ["channel_scales", "of_plan", "quantize"]

Array = NDArray[Any]

# Of a signed level; and a step with which all weights of an output are level 0.
_LIMIT, _MAX_STEP = 127, 255.0


def quantize(weight: Array, symmetric: bool = True) -> tuple[Array, float, int]:
    """Levels, scale and zero of real weights: one scale for the whole tensor.

    Symmetric: int8, ``scale = max |w| / 127``, zero 0. Asymmetric: uint8, ``scale = (max - min) /
    255``, both with 0 in the range, so that 0 is a level. (P4 gives the inverse of these scales and
    counts the asymmetric levels from -128.) Raises ValueError for weights that are not finite.
    """
    low, high = (float(edge(weight, initial=0.0)) for edge in (np.min, np.max))
    if not np.isfinite([low, high]).all():
        raise ValueError("NaN or Inf cannot be quantized")
    if symmetric:
        scale = max(-low, high) / _LIMIT or 1.0
        return np.rint(weight / scale).astype(np.int8), scale, 0
    scale = (high - low) / 255 or 1.0
    zero = int(np.rint(-low / scale))
    return np.clip(np.rint(weight / scale) + zero, 0, 255).astype(np.uint8), scale, zero


def of_plan(weight: Array, scales: Array, symmetric: bool = True) -> WeightLevels:
    """Of a plan's int8 weights (out, ...); scales: (out,), what a quantum of each output is worth,
    in any unit."""
    wide = scales.astype(np.float64)
    real = weight * wide.reshape(-1, *[1] * (weight.ndim - 1))
    levels, scale, zero = quantize(real, symmetric)
    # Where that is cut, all levels of the output are 0.
    return WeightLevels(levels, np.minimum(scale / wide, _MAX_STEP).astype(np.float32), zero)


def channel_scales(model: ModelFile, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What a quantum of each output's int8 weights is worth beside the others' of its layer, by
    the name of the weights. arrays: of the plan, decoded."""
    scales = {}
    for op in model.plan["ops"]:
        name = op["name"]
        weight = arrays.get(f"{name}.weight")
        if weight is None or weight.dtype != np.int8:
            continue
        # What the sums are multiplied with first is all but the inputs' and the result's scale.
        rows = arrays[f"{name}.epilogue"][0] if "epilogue" in op["arrays"] else None
        scale = np.abs(arrays[f"{name}.multiplier"] if rows is None else rows)
        scales[f"{name}.weight"] = np.where(scale > 0, scale, scale.max(initial=0) or 1)
    return scales
