"""Fronts against trying everything; the never falling fit against scipy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from earmark.pareto import additive_front, is_on_front, never_falling

NUMBERS = st.integers(0, 12)
ROWS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3), max_size=5)


@given(ROWS)
def test_front_is_that_of_all_ways(rows: list[list[tuple[int, int]]]) -> None:
    costs = [[cost for cost, _ in row] for row in rows]
    losses = [[loss for _, loss in row] for row in rows]
    picks = additive_front(costs, losses)
    sums = [
        tuple(sum(values[row][pick] for row, pick in enumerate(way)) for values in (costs, losses))
        for way in picks
    ]
    ways = itertools.product(*rows)
    everything = {(sum(c for c, _ in way), sum(x for _, x in way)) for way in ways}
    best = [
        a
        for a in everything
        if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in everything)
    ]
    assert sums == sorted(best)


def test_many_states_are_thinned_out() -> None:
    rng = np.random.default_rng(0)
    costs, losses = rng.uniform(size=(2, 30, 4))
    exact = additive_front(costs, losses, states=1 << 20)
    thin = additive_front(costs, losses, states=256)
    rows = np.arange(30)

    def at(picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return costs[rows, picks].sum(axis=1), losses[rows, picks].sum(axis=1)

    cost, loss = at(thin)
    assert np.all(np.diff(cost) > 0)
    assert np.all(np.diff(loss) < 0)
    assert len(thin) <= 257
    # Nowhere much worse than the best of the same cost.
    all_costs, all_losses = at(exact)
    best = all_losses[np.searchsorted(all_costs, cost, side="right") - 1]
    assert np.all(loss - best < 0.02 * (all_losses[0] - all_losses[-1]))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_points_on_a_front(points: list[tuple[int, int]]) -> None:
    expected = [not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in points) for a in points]
    assert is_on_front(*zip(*points, strict=True)).tolist() == expected


@given(st.lists(st.floats(-100, 100), max_size=20))
def test_never_falling_fit(values: list[float]) -> None:
    if values:
        expected = isotonic_regression(values).x
        assert never_falling(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert never_falling(values).size == 0
