"""Weights that are stored coarser than the plan has them.

The stream holds integers u, the plan gets ``clip(rint((u - zero) * step[o]), -127, 127)``: the step
is that many quanta of the int8 weights of output o. Nothing else of the plan changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C
from earmark.storage.group import in_parallel

__all__ = ["WeightLevels", "levels_of", "parse", "restored"]

Array = NDArray[Any]

# That are restored together.
_WEIGHTS = 1 << 18
_LARGEST_STEP = 256.0


@dataclass(frozen=True)
class WeightLevels:
    """Levels (out, ...), int8 or uint8, what they are counted from, and their step.

    A weight is ``(level - zero) * step[o]`` quanta of the int8 weights of output o. step: float32,
    (out,).
    """

    levels: Array
    step: Array
    zero: int = 0

    def restored(self) -> Array:
        """The int8 weights that they stand for."""
        return restored(self.levels, self.step, self.zero)


def parse(levels: Any) -> dict[str, tuple[str, int]]:
    """(name of the steps, zero) by array, from the metadata. Raises ValueError."""
    if not isinstance(levels, dict):
        raise ValueError("has levels that are not an object")
    parsed = {}
    for name, entry in levels.items():
        match entry:
            case {"step": str(step), "zero": int(zero), **rest} if not rest and -128 <= zero <= 255:
                parsed[name] = (step, zero)
            case _:
                raise ValueError(f"has levels of {name!r} that cannot be")
    return parsed


def restored(levels: Array, step: Array, zero: int = 0) -> Array:
    """The int8 weights of levels (out, ...), int8 or uint8.

    step: float32, (out,) or (1,). Raises ValueError for anything else.
    """
    if levels.dtype.itemsize != 1 or levels.ndim < 1:
        raise ValueError(f"has levels of {levels.dtype.name}")
    if step.dtype != np.float32 or step.shape not in ((1,), (len(levels),)):
        raise ValueError(f"has {step.dtype.name} steps of shape {step.shape}")
    if not (np.isfinite(step) & (step > 0) & (step <= _LARGEST_STEP)).all():
        raise ValueError(f"has a step that is not between 0 and {_LARGEST_STEP:g}")
    matrix = levels.reshape(len(levels), math.prod(levels.shape[1:]))
    steps = np.ascontiguousarray(np.broadcast_to(step, (len(matrix),)))
    weights = np.empty(matrix.shape, np.int8)
    size = max(1, _WEIGHTS // max(1, matrix.shape[1]))
    parts = [slice(begin, begin + size) for begin in range(0, len(matrix), size)]
    in_parallel(
        _C.restore_levels, [(matrix[part], steps[part], zero, weights[part]) for part in parts]
    )
    return weights.reshape(levels.shape)


def levels_of(weights: Array, step: Array) -> Array:
    """The int8 levels (out, ...) whose zero is 0 that weights were ``restored`` from.

    Of weights that are no multiples of their steps, rounded, the nearest.
    """
    wide = step.reshape(-1, *[1] * (weights.ndim - 1)).astype(np.float32)
    levels = np.rint(weights / wide).astype(np.int8)
    # What was cut at the largest weight may have been the next level.
    further = (levels + np.sign(weights)).astype(np.int8)
    was_cut = (restored(levels, step) != weights) & (restored(further, step) == weights)
    return np.where(was_cut, further, levels)
