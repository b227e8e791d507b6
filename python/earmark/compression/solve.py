"""The coarsest steps that a limit allows, by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

__all__ = ["STEPS", "coarsest_within", "finest_within"]

T = TypeVar("T")

STEPS = (1e-7, 1e-2)
"""What a step may cost, from next to nothing to much too much (``Requantizer.at``)."""

_PROBES = 10
_NEAR = 0.995


def finest_within(
    at: Callable[[float], T], size: Callable[[T], float], limit: float, low: float, high: float
) -> tuple[float, T]:
    """The finest step in [low, high] whose result is no larger than ``limit``, and the result.

    at: what a step gives. size: of that, smaller for coarser steps; measured in any unit. The size
    is within about half a percent of the limit, if steps can be chosen so. Raises ValueError where
    even the coarsest step's is larger.
    """
    best = at(high)
    smallest = size(best)
    if smallest > limit:
        raise ValueError(f"cannot be made smaller than {smallest:.6g}, asked for {limit:.6g}")
    finest = at(low)
    largest = size(finest)
    if largest <= limit:
        return low, finest
    step = high
    for _ in range(_PROBES):
        # Between the two a line through the logarithms comes near, halves make sure.
        part = math.log(largest / limit) / math.log(largest / smallest)
        middle = low * (high / low) ** min(max(part, 0.1), 0.9)
        tried = at(middle)
        found = size(tried)
        if found > limit:
            low, largest = middle, found
            continue
        step, best, high, smallest = middle, tried, middle, found
        if found > _NEAR * limit or found == largest:
            break
    return step, best


def coarsest_within(
    at: Callable[[float], T], loss: Callable[[T], float], limit: float, low: float, high: float
) -> tuple[float, T]:
    """The coarsest step found in [low, high] that loses no more than ``limit``, and the result.

    at: what a step gives. loss: of that, larger for coarser steps, but for chance: steps are probed
    downwards from ``high`` by octaves until one is good enough, then between it and the last that
    was not. Raises ValueError where none of them is.
    """
    step = high
    tried = at(step)
    lost = loss(tried)
    while lost > limit:
        high = step
        if step <= low:
            raise ValueError(f"loses {lost:.6g} at least, at most {limit:.6g} is allowed")
        step = max(step / 2, low)
        tried = at(step)
        lost = loss(tried)
    best = tried
    for _ in range(_PROBES // 2):
        if high / step < 1.02:
            break
        middle = (step * high) ** 0.5
        tried = at(middle)
        if loss(tried) <= limit:
            step, best = middle, tried
        else:
            high = middle
    return step, best
