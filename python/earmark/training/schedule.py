"""What changes from step to step."""

from __future__ import annotations

import math

__all__ = ["learning_rate", "ramp"]

_FINAL_SHARE = 0.01


def ramp(step: int, steps: int) -> float:
    """From 1 / ``steps`` in step 0 to 1 in the last of ``steps``, and 1 ever after."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Linear warm-up over ``warmup`` steps, then half a cosine down to a hundredth of ``peak``.

    ``step``: from 0; ``total``: of the whole training, more than ``warmup``.

    >>> [round(learning_rate(step, 6, 2, 1.0), 3) for step in range(6)]
    [0.5, 1.0, 0.855, 0.505, 0.155, 0.01]
    """
    if step < warmup:
        return peak * ramp(step, warmup)
    share = (step - warmup + 1) / (total - warmup)
    falling = 0.5 * (1 + math.cos(math.pi * share))
    return peak * (_FINAL_SHARE + (1 - _FINAL_SHARE) * falling)
