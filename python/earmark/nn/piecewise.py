"""Piecewise-linear functions in the place of a softmax's exponential. Without torch.

"On-device speaker recognition through piecewise-linear approximation" (P2): a continuous
piecewise-linear function, clipped to a positive lower bound, gives the numerators of the attention
weights. A factor common to all of them cancels, so exp is fitted relative to its largest value on
the range: no range overflows, and an error is that of a numerator beside the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FIT_METHODS", "PiecewiseLinear", "check_range", "fit_exp"]

Array = NDArray[Any]

FIT_METHODS = ("least_squares", "minimax")

# exp of minus this is a normal float32 still.
_WIDEST = 80.0
# At which least squares compares the functions, or a few more.
_POINTS = 4096
# Steps of a knot, in widths of the range, and gains, in squared errors, that no longer matter; and
# how many steps are enough where logits are so few that there is hardly a best function.
_STEP = 1e-8
_GAIN = 1e-10
_MOST_STEPS = 100
# Of logits everywhere, beside those given: the least that makes the function a sensible one.
_EVEN_SHARES = (1e-6, 1e-3, 1.0)
_TINY = 1e-300


@dataclass(frozen=True)
class PiecewiseLinear:
    """``f(v) = min(max(slopes[j] * v + intercepts[j], low), high)`` with j the number of
    breakpoints <= v.

    ``breakpoints`` (n - 1,) rise (equal ones leave an empty piece between them), ``slopes`` and
    ``intercepts`` are (n,), 0 < low < high. Raises ValueError for other shapes, a NaN or Inf,
    breakpoints out of order, or a jump at one of them.

    >>> f = PiecewiseLinear((0.0,), (0.5, 1.0), (1.0, 1.0), low=0.25)
    >>> f([-4.0, -1.0, 2.0]).tolist()
    [0.25, 0.5, 3.0]
    """

    breakpoints: tuple[float, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    low: float
    high: float = math.inf

    def __post_init__(self) -> None:
        for name in ("breakpoints", "slopes", "intercepts"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be finite, got {values}")
        pieces = len(self.slopes)
        if pieces < 1 or len(self.intercepts) != pieces or len(self.breakpoints) != pieces - 1:
            raise ValueError(
                "n slopes need n intercepts and n - 1 breakpoints, got "
                f"{pieces}, {len(self.intercepts)} and {len(self.breakpoints)}"
            )
        if not 0 < self.low < self.high or math.isinf(self.low):
            raise ValueError(f"low and high must be 0 < low < high, got {self.low}, {self.high}")
        if any(after < before for before, after in pairwise(self.breakpoints)):
            raise ValueError(f"breakpoints must rise, got {self.breakpoints}")
        lines = pairwise(zip(self.slopes, self.intercepts, strict=True))
        for point, (left, right) in zip(self.breakpoints, lines, strict=True):
            terms = (right[0] * point, right[1], -left[0] * point, -left[1])
            # What rounding to float32 leaves is no jump.
            if abs(sum(terms)) > 1e-6 * sum(map(abs, terms)):
                raise ValueError(f"the function jumps by {sum(terms):g} at {point:g}")

    @classmethod
    def continuous(
        cls,
        breakpoints: Sequence[float],
        slopes: Sequence[float],
        intercept: float,
        low: float,
        high: float = math.inf,
    ) -> PiecewiseLinear:
        """The function with this ``intercept`` of its first piece, and no jump anywhere."""
        intercepts = [intercept]
        for point, (left, right) in zip(breakpoints, pairwise(slopes), strict=True):
            intercepts.append(intercepts[-1] + (left - right) * point)
        return cls(tuple(breakpoints), tuple(slopes), tuple(intercepts), low, high)

    def __call__(self, v: ArrayLike) -> NDArray[np.float64]:
        """Values in float64, of the shape of ``v``."""
        x = np.asarray(v, dtype=np.float64)
        piece = np.searchsorted(self.breakpoints, x, side="right")
        values = x * np.array(self.slopes)[piece] + np.array(self.intercepts)[piece]
        return np.asarray(np.clip(values, self.low, self.high))


def check_range(range: tuple[float, float]) -> tuple[float, float]:
    """The two ends. Raises ValueError for an empty range or one wider than 80."""
    a, b = range
    if not (math.isfinite(a) and math.isfinite(b) and 0 < b - a <= _WIDEST):
        raise ValueError(f"range must be a < b, at most {_WIDEST:g} apart, got {a}, {b}")
    return a, b


def fit_exp(
    range: tuple[float, float],
    segments: int,
    method: str = "least_squares",
    density: ArrayLike | None = None,
) -> PiecewiseLinear:
    """The function of ``segments`` pieces above its lower bound nearest to ``exp(v - b)``, v in
    [a, b] = ``range``.

    Bound, breakpoints and slopes are all free. 0 segments is the paper's clip alone,
    ``max(v, low)``, as near as a multiple of it comes; it needs b > 0. "least_squares" makes the
    mean squared error small, over logits spread evenly or as ``density`` (k,) says: how much those
    in each of k equal parts of the range count. A millionth as much counts everywhere, and more
    where these are too few to make the slopes positive and rising. "minimax" makes the largest
    error small; that same error then lies on all clipped logits, too much where these are most.

    Raises ValueError for an unknown method, a negative number of segments, a range that
    ``check_range`` refuses, and a density that is negative, not finite, all 0, or for "minimax".
    """
    a, b = check_range(range)
    if segments < 0:
        raise ValueError(f"segments must be at least 0, got {segments}")
    if method not in FIT_METHODS:
        raise ValueError(f"unknown method {method!r}, known are {', '.join(FIT_METHODS)}")
    if segments == 0 and b <= 0:
        raise ValueError(f"a clip alone needs logits above 0, got none above {b}")
    if method == "minimax":
        if density is not None:
            raise ValueError("minimax takes no density")
        return _minimax(a, b, segments) if segments else _minimax_clip(a, b)
    for share in _EVEN_SHARES:
        x, weights = _sampled(a, b, density, share)
        if segments == 0:
            return _least_squares_clip(x, weights, b)
        function = _least_squares(x, weights, b, segments)
        if all(left < right for left, right in pairwise((0.0, *function.slopes))):
            break
    return function


def _minimax(a: float, b: float, segments: int) -> PiecewiseLinear:
    """Errors of one size, with alternating signs.

    exp is convex: the function is below it by most at the ends of a piece, above it by most once
    between them. So all knots lie below exp by the same error, each chord between two points of
    exp is above it by at most twice that, and exp rises by twice the error in the clipped part.
    The error is the one with which the last chord ends at b.
    """
    floor = math.exp(a - b)

    def knots(error: float) -> list[float]:
        """Relative to b, up to the first that is not below it; the first ends the clipped part."""
        found = [math.log(floor + 2 * error)]
        while len(found) <= segments and found[-1] < 0:
            found.append(found[-1] + _chord(2 * error * math.exp(-found[-1]), b - a))
        return found

    error = _root(lambda error: knots(error)[-1], 0.0, (1 - floor) / 2)
    x = [*knots(error)[:-1], 0.0]
    slopes = [math.exp(p) * math.expm1(q - p) / (q - p) for p, q in pairwise(x)]
    intercept = math.exp(x[0]) - error - slopes[0] * (x[0] + b)
    return PiecewiseLinear.continuous([p + b for p in x[1:-1]], slopes, intercept, floor + error)


def _chord(excess: float, longest: float) -> float:
    """Length of the chord of exp from 0 on that is above exp by ``excess`` at most."""

    def over(length: float) -> float:
        # It is farthest above where exp has its slope, 1 + rise.
        rise = math.expm1(length) / length - 1
        return (1 + rise) * math.log1p(rise) - rise - excess

    return _root(over, 0.0, longest) if over(longest) > 0 else longest


def _minimax_clip(a: float, b: float) -> PiecewiseLinear:
    def largest(factor: float, low: float) -> float:
        """Error at the four places where it can be largest."""
        clipped = min(max(a, low), b)
        touching = min(max(b + math.log(factor), clipped), b)
        places = (a, clipped, touching, b)
        return max(abs(factor * max(v, low) - math.exp(v - b)) for v in places)

    def error(low: float) -> float:
        return largest(_argmin(lambda factor: largest(factor, low), 1e-9 / b, 2 / b), low)

    return PiecewiseLinear((), (1.0,), (0.0,), _argmin(error, max(a, 1e-9 * b), b))


def _sampled(
    a: float, b: float, density: ArrayLike | None, even_share: float
) -> tuple[Array, Array]:
    """Evenly spaced logits relative to b, and the roots of how much they count."""
    counts = np.ones(1) if density is None else np.asarray(density, dtype=np.float64)
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise ValueError("density must be (k,), finite, not negative and not all 0")
    counts = counts / counts.mean() + even_share
    weights = np.sqrt(np.repeat(counts, -(-_POINTS // len(counts))))
    return (a - b) * (1 - (np.arange(len(weights)) + 0.5) / len(weights)), weights


def _least_squares(x: Array, weights: Array, b: float, segments: int) -> PiecewiseLinear:
    """Newton's method over the knots; with these fixed, bound and slopes are a linear problem.

    x, weights: as ``_sampled`` returns them.
    """
    width = x[1] - x[0]
    # Without the 1, so that on narrow ranges rounding stays below the errors.
    target = weights * np.expm1(x)
    knots = _first_knots(x, weights, segments)

    def solve(knots: Array) -> tuple[Array, Array, Array]:
        """The best bound and bends (1 + segments,), what they leave of ``target``, and how that
        changes with each knot while bound and bends stay the best.
        """
        # Means over each point's part of the range, which are smooth in the knots.
        above = np.clip(x[:, None] + width / 2 - knots, 0.0, width)
        hinges = np.maximum(x[:, None] - width / 2 - knots, 0.0) + above**2 / (2 * width)
        basis = np.column_stack([weights, hinges * weights[:, None]])
        q, sizes, turn = np.linalg.svd(basis, full_matrices=False)
        # Where no logits are, pieces have no weight.
        there = sizes > 1e-13 * sizes[0]
        q, inverse = q[:, there], turn[there].T / sizes[there]
        values = inverse @ (q.T @ target)
        moves = values[1:] * above / width * weights[:, None]
        return values, target - q @ (q.T @ target), moves - q @ (q.T @ moves)

    values, error, moves = solve(knots)
    span = x[-1] - x[0]
    for _ in range(_MOST_STEPS):
        at = np.searchsorted(x, knots - width / 2)
        hessian = moves.T @ moves - np.diag(values[1:] * error[at] * weights[at] / width)
        # Where the curvature is negative a Newton step goes uphill; its size is right still.
        curvatures, axes = np.linalg.eigh(hessian)
        sizes = np.maximum(np.abs(curvatures), 1e-12 * np.abs(curvatures).max() + _TINY)
        step = np.clip(-axes @ (axes.T @ (moves.T @ error) / sizes), -span, span)
        while np.abs(step).max() > _STEP * span:
            moved = knots + step
            if (np.diff([x[0], *moved, x[-1]]) > 0).all():
                nearer = solve(moved)
                # Two knots that run into each other make a jump, a trap: exp has no bend downwards.
                convex = (nearer[0][1:] > 0).all() or not (values[1:] > 0).all()
                if convex and nearer[1] @ nearer[1] < (1 - _GAIN) * (error @ error):
                    knots, (values, error, moves) = moved, nearer
                    break
            step = step / 2
        else:
            break
    slopes = np.cumsum(values[1:])
    bound = 1 + values[0]
    intercept = bound - slopes[0] * (knots[0] + b)
    # exp is smaller nowhere; only where no logits are could the bound come out below.
    low = max(bound, math.exp(x[0]))
    return PiecewiseLinear.continuous(
        (knots[1:] + b).tolist(), slopes.tolist(), float(intercept), float(low)
    )


def _first_knots(x: Array, weights: Array, segments: int) -> Array:
    """Knots (segments,) that are best for very many: all pieces have the same squared error.

    Between two of them that is s^5 / 720, s the integral of (density * curvature^2)^(1/5) (H. G.
    Burchard, "Splines (with optimal knots) are better", Applicable Analysis 3, 1974).
    """
    width, density, rise = x[1] - x[0], weights**2, np.expm1(x)
    total, first, second = (np.cumsum(density * v) * width for v in (1.0, rise, rise**2))
    clipped = second - first**2 / np.maximum(total, _TINY)
    share = np.cumsum((weights * np.exp(x)) ** 0.4) * width
    left = share[-1] - share
    start = int(np.argmax(clipped >= (left / segments) ** 5 / 720))
    ends = share[start] + left[start] * np.arange(segments) / segments
    return np.asarray(np.interp(ends, share, x))


def _least_squares_clip(x: Array, weights: Array, b: float) -> PiecewiseLinear:
    target = weights * np.exp(x)

    def error(low: float) -> float:
        line = weights * np.maximum(x + b, low)
        left = target - line * (line @ target / (line @ line))
        return float(left @ left)

    return PiecewiseLinear((), (1.0,), (0.0,), _argmin(error, max(x[0] + b, 1e-9 * b), b))


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function becomes 0 between ``low``, excluded, and ``high``: bisection."""
    while low < (middle := (low + high) / 2) < high:
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return high


def _argmin(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between ``low`` and ``high`` is smallest: golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-9 * abs(high):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return right
