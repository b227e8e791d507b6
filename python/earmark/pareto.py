"""Fronts of costs and losses that add up, and functions that never fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["additive_front", "is_on_front", "never_falling"]

Array = NDArray[Any]


def additive_front(
    costs: Sequence[ArrayLike], losses: Sequence[ArrayLike], states: int = 4096
) -> NDArray[np.int64]:
    """All best ways to pick one option a row, where costs and losses add up over the rows.

    costs, losses: (options,) of each row, finite. Returns (picks, rows) option indices, by rising
    cost: no other way costs at most as much and loses less. Exact while at most ``states`` partial
    sums are worth keeping; of more, the best of each of so many steps of cost is kept. Dynamic
    programming after G. Nemhauser and Z. Ullmann, "Discrete Dynamic Programming and Capital
    Allocation", Management Science 15, 1969.

    >>> additive_front([[0, 2], [0, 1]], [[5, 0], [2, 0]]).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    cost, loss = np.zeros(1), np.zeros(1)
    steps: list[tuple[Array, Array]] = []
    for row_costs, row_losses in zip(costs, losses, strict=True):
        c, loss_of = np.asarray(row_costs, np.float64), np.asarray(row_losses, np.float64)
        all_costs = (cost[:, None] + c).reshape(-1)
        all_losses = (loss[:, None] + loss_of).reshape(-1)
        order = np.lexsort((all_losses, all_costs))
        least = np.minimum.accumulate(all_losses[order])
        kept = order[np.append(True, least[1:] < least[:-1])]
        if len(kept) > states:
            # Losses fall along the front, so the last of a step is its best.
            span = all_costs[kept[-1]] - all_costs[kept[0]]
            step = np.floor((all_costs[kept] - all_costs[kept[0]]) * (states / span))
            is_last = np.append(step[1:] > step[:-1], True)
            is_last[0] = True
            kept = kept[is_last]
        cost, loss = all_costs[kept], all_losses[kept]
        steps.append((kept // len(c), kept % len(c)))
    picks = np.empty((len(cost), len(steps)), np.int64)
    at = np.arange(len(cost))
    for row in reversed(range(len(steps))):
        before, option = steps[row]
        picks[:, row] = option[at]
        at = before[at]
    return picks


def is_on_front(costs: ArrayLike, losses: ArrayLike) -> NDArray[np.bool_]:
    """Whether each point (n,) has no other that is as good in both and better in one.

    >>> is_on_front([1.0, 2.0, 3.0], [5.0, 6.0, 1.0]).tolist()
    [True, False, True]
    """
    cost, loss = np.asarray(costs), np.asarray(losses)
    no_worse = (cost[:, None] <= cost) & (loss[:, None] <= loss)
    better = (cost[:, None] < cost) | (loss[:, None] < loss)
    on_front: NDArray[np.bool_] = ~np.any(no_worse & better, axis=0)
    return on_front


def never_falling(values: ArrayLike) -> NDArray[np.float64]:
    """The never falling sequence (n,) of least squared distance to ``values`` (n,).

    Pools adjacent violators (M. Ayer, H. Brunk, G. Ewing, W. Reid, E. Silverman, "An Empirical
    Distribution Function for Sampling with Incomplete Information", 1955).

    >>> never_falling([0.0, 3.0, 1.0, 5.0]).tolist()
    [0.0, 2.0, 2.0, 5.0]
    """
    sums: list[tuple[float, int]] = []
    for value in np.asarray(values, np.float64).tolist():
        total, count = value, 1
        while sums and sums[-1][0] / sums[-1][1] >= total / count:
            earlier, width = sums.pop()
            total, count = total + earlier, count + width
        sums.append((total, count))
    return np.array([total / count for total, count in sums for _ in range(count)])
