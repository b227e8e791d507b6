"""Piecewise-linear functions: their checks, and that fits to exp are the best ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earmark.nn import PiecewiseLinear
from earmark.nn.piecewise import FIT_METHODS, fit_exp

Array = NDArray[Any]

RANGES = [(-10.0, 0.0), (-3.0, 8.0), (-0.5, 0.25), (0.0, 1e-3), (-60.0, 20.0)]

ranges = st.tuples(st.floats(-40, 40), st.floats(0.01, 40)).map(lambda v: (v[0], v[0] + v[1]))


def points(range_: tuple[float, float], count: int = 20001) -> Array:
    return np.linspace(*range_, count)


def error(function: Any, range_: tuple[float, float]) -> Array:
    x = points(range_)
    return np.asarray(function(x) - np.exp(x - range_[1]))


def scaled_error(function: Any, range_: tuple[float, float], method: str) -> float:
    """The error of the best multiple of the function."""
    x = points(range_, 501)
    target, values = np.exp(x - range_[1]), function(x)
    if method == "least_squares":
        left = target - values * (values @ target / (values @ values))
        return float(left @ left)
    factors = np.linspace(0, 2 / values.max(), 201)
    for _ in range(3):
        errors = np.abs(factors[:, None] * values - target).max(axis=1)
        best = factors[errors.argmin()]
        factors = best + (factors - best) / 50
    return float(errors.min())


@st.composite
def functions(draw: st.DrawFn) -> PiecewiseLinear:
    pieces = draw(st.integers(1, 5))
    values = st.floats(-8, 8)
    return PiecewiseLinear.continuous(
        sorted(draw(st.lists(values, min_size=pieces - 1, max_size=pieces - 1))),
        draw(st.lists(values, min_size=pieces, max_size=pieces)),
        draw(values),
        draw(st.floats(1e-3, 2)),
        draw(st.one_of(st.just(math.inf), st.floats(3, 9))),
    )


@given(functions(), st.lists(st.floats(-20, 20), min_size=1, max_size=20))
def test_values(function: PiecewiseLinear, x: list[float]) -> None:
    for v, found in zip(x, function(x), strict=True):
        piece = sum(point <= v for point in function.breakpoints)
        line = function.slopes[piece] * v + function.intercepts[piece]
        assert found == min(max(line, function.low), function.high)


@given(functions())
def test_continuous_at_the_breakpoints(function: PiecewiseLinear) -> None:
    for point in function.breakpoints:
        below, above = function([np.nextafter(point, -np.inf), point])
        assert abs(below - above) < 1e-12


def test_keeps_the_shape() -> None:
    function = PiecewiseLinear((), (1.0,), (0.0,), 0.5)
    assert function(np.zeros((2, 3))).shape == (2, 3)
    assert function(7.0).shape == ()
    assert function([-math.inf, math.inf]).tolist() == [0.5, math.inf]
    assert np.isnan(function(math.nan))


def test_arrays_become_tuples() -> None:
    rows = np.float32([1.0]), np.float32([0.5, 2.0]), np.float32([0.0, -1.5])
    function = PiecewiseLinear(*rows, low=0.25)  # type: ignore[arg-type]
    assert function == PiecewiseLinear((1.0,), (0.5, 2.0), (0.0, -1.5), 0.25)
    assert hash(function) == hash(PiecewiseLinear((1.0,), (0.5, 2.0), (0.0, -1.5), 0.25))


def test_rounding_to_float32_is_no_jump() -> None:
    exact = fit_exp((-300.0, -290.0), 6)
    rounded = [np.float32(v) for v in (exact.breakpoints, exact.slopes, exact.intercepts)]
    PiecewiseLinear(*map(tuple, rounded), exact.low)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((), (), (), 1.0), "got 0, 0 and 0"),
        (((0.0,), (1.0,), (0.0,), 1.0), "n - 1 breakpoints, got 1, 1 and 1"),
        (((), (1.0,), (0.0, 0.0), 1.0), "got 1, 2 and 0"),
        (((), (math.nan,), (0.0,), 1.0), r"slopes must be finite, got \(nan,\)"),
        (((math.inf,), (1.0, 1.0), (0.0, 0.0), 1.0), "breakpoints must be finite"),
        (((), (1.0,), (-math.inf,), 1.0), "intercepts must be finite"),
        (((2.0, 1.0), (1.0,) * 3, (0.0,) * 3, 1.0), r"must rise, got \(2.0, 1.0\)"),
        (((1.0,), (1.0, 2.0), (0.0, 0.0), 1.0), "jumps by 1 at 1"),
        (((), (1.0,), (0.0,), 0.0), "0 < low < high, got 0.0, inf"),
        (((), (1.0,), (0.0,), math.nan), "got nan, inf"),
        (((), (1.0,), (0.0,), math.inf), "got inf, inf"),
        (((), (1.0,), (0.0,), 2.0, 2.0), "got 2.0, 2.0"),
        (((), (1.0,), (0.0,), 1.0, math.nan), "got 1.0, nan"),
    ],
)
def test_refuses(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PiecewiseLinear(*fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize("segments", [1, 2, 3, 7])
def test_minimax_has_errors_of_one_size_and_alternating_signs(
    range_: tuple[float, float], segments: int
) -> None:
    """As many as the function has numbers, and one more: no other has a smaller largest error."""
    function = fit_exp(range_, segments, "minimax")
    a, b = range_
    clip = (function.low - function.intercepts[0]) / function.slopes[0]
    ends = np.array([clip, *function.breakpoints, b])
    between = b + np.log(function.slopes)
    assert a < clip
    assert (np.sort([*ends, *between]) == np.insert(between, np.arange(segments + 1), ends)).all()
    places = np.array([a, *np.insert(between, np.arange(segments + 1), ends)])
    errors = function(places) - np.exp(places - b)
    assert np.abs(error(function, range_)).max() <= errors[0] * (1 + 1e-9) + 1e-14
    expected = errors[0] * (-1.0) ** np.arange(2 * segments + 2)
    np.testing.assert_allclose(errors, expected, rtol=1e-7, atol=1e-14)


def largest_error(function: PiecewiseLinear, range_: tuple[float, float]) -> float:
    """At the ends of the pieces, and where exp has their slopes."""
    a, b = range_
    lines = zip(function.slopes, function.intercepts, strict=True)
    clips = [(function.low - intercept) / slope for slope, intercept in lines]
    places = np.array([a, b, *clips, *function.breakpoints, *(b + np.log(function.slopes))])
    places = np.clip(places, a, b)
    return float(np.abs(function(places) - np.exp(places - b)).max())


@given(ranges, st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_nothing_near_a_minimax_fit_is_better(
    range_: tuple[float, float], segments: int, seed: int
) -> None:
    function = fit_exp(range_, segments, "minimax")
    best = largest_error(function, range_)
    for other in neighbours(function, range_, seed):
        assert largest_error(other, range_) > best - 1e-6 * best - 1e-13


@given(ranges, st.integers(1, 6), st.integers(0, 1000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_nothing_near_a_least_squares_fit_is_better(
    range_: tuple[float, float], segments: int, seed: int, even: bool
) -> None:
    rng = np.random.default_rng(seed)
    density = np.ones(1) if even else rng.uniform(0.1, 1, 40)
    function = fit_exp(range_, segments, "least_squares", None if even else density)
    a, b = range_
    x = a + (b - a) * (np.arange(8000) + 0.5) / 8000
    counts = np.repeat(density, 8000 // len(density))
    exact = np.exp(x - b)
    best = counts @ (function(x) - exact) ** 2
    for other in neighbours(function, range_, seed):
        assert counts @ (other(x) - exact) ** 2 > best - 1e-5 * best - 1e-20


def neighbours(
    function: PiecewiseLinear, range_: tuple[float, float], seed: int
) -> list[PiecewiseLinear]:
    """Functions with every number a little different, by steps of several sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for size in np.repeat([1e-1, 1e-2, 1e-3, 1e-4], 5):
        points, slopes = np.array(function.breakpoints), np.array(function.slopes)
        middle = np.mean(range_)
        value = slopes[0] * middle + function.intercepts[0]
        points = np.sort(points + size * (range_[1] - range_[0]) * rng.normal(size=len(points)))
        slopes = slopes * np.exp(size * rng.normal(size=len(slopes)))
        value = value * (1 + size * rng.normal())
        low = function.low * math.exp(size * rng.normal())
        intercept = value - slopes[0] * middle
        found.append(PiecewiseLinear.continuous(points.tolist(), slopes.tolist(), intercept, low))
    return found


@pytest.mark.parametrize("range_", [(-5.0, 5.0), (-1.0, 0.5), (1.0, 4.0), (-20.0, 2.0)])
@pytest.mark.parametrize("method", FIT_METHODS)
def test_the_clip_alone_is_the_best(range_: tuple[float, float], method: str) -> None:
    function = fit_exp(range_, 0, method)
    assert (function.breakpoints, function.slopes, function.intercepts) == ((), (1.0,), (0.0,))
    best = scaled_error(function, range_, method)
    for low in np.linspace(0, range_[1], 101)[1:]:
        other = PiecewiseLinear((), (1.0,), (0.0,), float(low))
        assert scaled_error(other, range_, method) > 0.999 * best - 1e-6


@given(ranges, st.integers(1, 8), st.sampled_from(FIT_METHODS))
@settings(max_examples=40, deadline=None)
def test_fits_are_convex_rising_and_no_smaller_than_exp_is(
    range_: tuple[float, float], segments: int, method: str
) -> None:
    function = fit_exp(range_, segments, method)
    assert len(function.slopes) == segments
    assert function.slopes[0] > 0
    assert (np.diff(function.slopes) > 0).all()
    assert (np.diff(function.breakpoints) > 0).all()
    assert function.low >= math.exp(range_[0] - range_[1])
    assert function.high == math.inf


@pytest.mark.parametrize("method", FIT_METHODS)
def test_more_segments_are_nearer(method: str) -> None:
    """By a factor of about n^2, as splines are."""
    fits = [fit_exp((-8.0, 0.0), n, method) for n in (1, 2, 4, 8, 16)]
    errors = np.array([np.abs(error(fit, (-8.0, 0.0))).mean() for fit in fits])
    assert (errors[1:] < errors[:-1] / 2).all()
    assert errors[-1] < 0.001


@pytest.mark.parametrize("method", FIT_METHODS)
def test_the_range_may_lie_anywhere(method: str) -> None:
    here, there = (fit_exp((b - 9, b), 2, method) for b in (0.0, 1000.0))
    x = points((-9.0, 0.0))
    np.testing.assert_allclose(there(x + 1000), here(x), atol=1e-9)


def test_density_says_where_errors_count() -> None:
    x = points((-10.0, 0.0))
    exact = np.exp(x)
    top = np.array([0.001] * 9 + [1.0])
    plain, weighted = fit_exp((-10, 0), 2), fit_exp((-10, 0), 2, density=top)
    here, there = x > -1, x < -3
    for part, better, worse in ((here, weighted, plain), (there, plain, weighted)):
        errors = [np.square(f(x) - exact)[part].mean() for f in (better, worse)]
        assert errors[0] < errors[1] / 2


@pytest.mark.parametrize(
    "density", [[1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1] * 9999]
)
def test_any_density_gives_a_function(density: list[float]) -> None:
    for segments in (0, 1, 2, 5):
        function = fit_exp((-8.0, 1.0), segments, density=density)
        x = points((-8.0, 1.0))
        assert (function(x) >= function.low).all()
        assert function(x).max() < 3 or segments == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.0, 0.0), 1), "range must be a < b, at most 80 apart, got 0.0, 0.0"),
        (((1.0, 0.0), 1), "got 1.0, 0.0"),
        (((-90.0, 0.0), 1), "got -90.0, 0.0"),
        (((math.nan, 0.0), 1), "got nan"),
        (((0.0, math.inf), 1), "got 0.0, inf"),
        (((0.0, 1.0), -1), "segments must be at least 0, got -1"),
        (((0.0, 1.0), 1, "taylor"), "unknown method 'taylor', known are least_squares, minimax"),
        (((-4.0, 0.0), 0), "logits above 0, got none above 0.0"),
        (((0.0, 1.0), 1, "minimax", [1.0]), "minimax takes no density"),
        (((0.0, 1.0), 1, "least_squares", [0.0, 0.0]), "density must be"),
        (((0.0, 1.0), 1, "least_squares", []), "density must be"),
        (((0.0, 1.0), 1, "least_squares", [1.0, -1.0]), "density must be"),
        (((0.0, 1.0), 1, "least_squares", [math.nan]), "density must be"),
        (((0.0, 1.0), 1, "least_squares", [[1.0]]), "density must be"),
    ],
)
def test_fit_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_exp(*arguments)
