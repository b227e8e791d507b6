"""The numbers that the report's own figures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from earmark.metrics import det_curve, min_dcf_threshold
from earmark.report.contents import Model, PiecewiseSoftmax
from earmark.report.results import Evaluation

__all__ = [
    "Det",
    "FrontPoint",
    "ScoreCounts",
    "SoftmaxFit",
    "det_of",
    "front_points",
    "probit",
    "score_counts",
    "softmax_fit",
]

Array = NDArray[np.float64]

_BINS = 60
_SAMPLES = 801


@dataclass(frozen=True)
class Det:
    """Rates (n,) along a curve, and those where the detection cost is least (``min_dcf``)."""

    false_accept: Array
    false_reject: Array
    least_cost: tuple[float, float]


def det_of(scores: ArrayLike, labels: ArrayLike) -> Det:
    """The detection error tradeoff of scores; arguments and errors as ``earmark.metrics.eer``."""
    thresholds, false_accept, false_reject = det_curve(scores, labels)
    at = int(np.searchsorted(thresholds, min_dcf_threshold(scores, labels)))
    return Det(false_accept, false_reject, (float(false_accept[at]), float(false_reject[at])))


def probit(rates: ArrayLike, floor: float) -> Array:
    """Normal deviates of rates, which are taken to be within [floor, 1 - floor]."""
    deviate = NormalDist().inv_cdf
    clipped = np.clip(np.asarray(rates, np.float64), floor, 1 - floor)
    return np.array([deviate(rate) for rate in clipped.reshape(-1).tolist()]).reshape(clipped.shape)


@dataclass(frozen=True)
class ScoreCounts:
    """How many scores of each class lie between edges (bins + 1,)."""

    edges: Array
    target: NDArray[np.int64]
    nontarget: NDArray[np.int64]


def score_counts(scores: ArrayLike, labels: ArrayLike) -> ScoreCounts:
    """Counts of both classes in the same bins, from the least score to the largest."""
    score, label = np.asarray(scores, np.float64), np.asarray(labels)
    edges = np.histogram_bin_edges(score, _BINS)
    target, nontarget = (np.histogram(score[label == kind], edges)[0] for kind in (1, 0))
    return ScoreCounts(edges, target, nontarget)


@dataclass(frozen=True)
class SoftmaxFit:
    """A function beside exp over ``logits`` (n,), both relative to the largest exp.

    worst, rms: errors of ``values`` against ``expected``.
    """

    logits: Array
    values: Array
    expected: Array
    worst: float
    rms: float


def softmax_fit(softmax: PiecewiseSoftmax) -> SoftmaxFit:
    """A piecewise-linear function against exp.

    A factor common to all numerators cancels: the one of least squared error is taken. A file does
    not tell over which logits its function was fitted. They begin a fifth before it leaves its
    bound and end at 0, where functions fitted to recordings end (docs/softmax.md), or 2 beyond its
    last bend if that is higher.
    """
    low, high = softmax.bounds
    bends = softmax.breakpoints.tolist()
    if softmax.slopes[0] > 0:
        bends.insert(0, (low - softmax.intercepts[0]) / softmax.slopes[0])
    first = min(bends, default=-1.0)
    last = 0.0 if max(bends, default=-1.0) < 0 else max(bends) + 2
    logits = np.linspace(first - (last - first) / 5, last, _SAMPLES)
    piece = np.searchsorted(softmax.breakpoints, logits, side="right")
    values = np.clip(logits * softmax.slopes[piece] + softmax.intercepts[piece], low, high)
    expected = np.exp(logits - last)
    values = values * ((values @ expected) / (values @ values))
    error = np.abs(values - expected)
    rms = float(np.sqrt(np.mean(error**2)))
    return SoftmaxFit(logits, values, expected, float(error.max()), rms)


@dataclass(frozen=True)
class FrontPoint:
    """A file's share of float32's size, and its EER; both fractions."""

    name: str
    size: float
    eer: float


def front_points(
    models: Sequence[Model], evaluations: Sequence[Evaluation]
) -> dict[str, list[FrontPoint]]:
    """Sizes and error rates by what trials they are of; at least two each.

    A model's evaluation counts more than what its own file says was measured on the same trials.
    """
    found: dict[str, dict[str, FrontPoint]] = {}
    names = {model.info["sha256"]: model.name for model in models}
    for model in models:
        measured = model.info["measured"]
        rate = measured.get("eer")
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            continue
        data = _data(measured.get("trial_list"), measured.get("trials"), measured.get("crops"))
        point = FrontPoint(model.name, model.info["size_fraction"], rate)
        found.setdefault(data, {})[model.info["sha256"]] = point
    for one in evaluations:
        data = _data(one.trial_list, one.target + one.nontarget, None)
        point = FrontPoint(names.get(one.sha256, one.model), one.size_fraction, one.eer)
        found.setdefault(data, {})[one.sha256] = point
    return {data: list(points.values()) for data, points in found.items() if len(points) > 1}


def _data(trial_list: object, trials: object, crops: object) -> str:
    drawn = f", mean over {crops} draws of 2 s" if crops else ""
    return f"{trial_list}, {trials} trials{drawn}"
