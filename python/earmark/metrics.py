"""Speaker-verification scores and error rates: cosine score, EER, minimum detection cost; rates of
classifications.

Scores are higher when two recordings are more likely of one speaker. Labels are 1 for a target
trial (same speaker) and 0 for a non-target one. A trial is accepted when its score is at or above
the threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "classification_rates",
    "cosine_score",
    "det_curve",
    "eer",
    "eer_difference",
    "eer_threshold",
    "min_dcf",
    "min_dcf_threshold",
]


def cosine_score(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Cosine of the angle between speaker embeddings, computed in float64.

    ``a`` and ``b``: (..., dim), broadcast against each other. Returns (...,), in [-1, 1]; two
    vectors give a 0-d array. Raises ValueError for unequal ``dim``, for a NaN or Inf, and for a
    zero embedding, which has no direction.

    >>> float(cosine_score([3.0, 4.0], [4.0, 3.0]))
    0.96
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"embeddings of shapes {x.shape} and {y.shape} differ in dimension")
    for name, value in (("a", x), ("b", y)):
        if not np.isfinite(value).all():
            raise ValueError(f"embedding {name} has a NaN or Inf value")
        if not np.any(value != 0.0, axis=-1).all():
            raise ValueError(f"embedding {name} is zero")
    # Scaled by the largest magnitude first, so that no square overflows or vanishes.
    x = x / np.abs(x).max(axis=-1, keepdims=True)
    y = y / np.abs(y).max(axis=-1, keepdims=True)
    norms = np.sqrt(np.sum(x * x, axis=-1) * np.sum(y * y, axis=-1))
    return np.asarray(np.clip(np.sum(x * y, axis=-1) / norms, -1.0, 1.0))


def det_curve(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds, false acceptance and false rejection rates: the detection error tradeoff.

    Thresholds rise: the distinct scores, then +inf; rates are fractions, of what is accepted at or
    above the threshold. All three are (n_thresholds,). Arguments and errors as ``eer``. Drawn on
    normal-deviate axes after A. Martin et al., "The DET Curve in Assessment of Detection Task
    Performance", Eurospeech 1997.

    >>> _, false_accept, false_reject = det_curve([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
    >>> false_accept.tolist(), false_reject.tolist()
    ([1.0, 0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 1.0])
    """
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if score.ndim != 1 or score.shape != label.shape:
        raise ValueError(
            f"scores and labels must both be (n_trials,), got {score.shape} and {label.shape}"
        )
    finite = np.isfinite(score)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"score {row} is {score[row]}")
    known = (label == 0) | (label == 1)
    if not known.all():
        raise ValueError(f"label must be 0 or 1, got {label[int(np.argmin(known))]}")
    target = int((label == 1).sum())
    if target in (0, len(label)):
        raise ValueError(
            f"both classes are needed, got {target} target "
            f"and {len(label) - target} non-target trials"
        )
    distinct, index = np.unique(score, return_inverse=True)
    return np.append(distinct, np.inf), *_rates_of_counts(index, label == 1, np.ones(len(score)))


def eer(scores: ArrayLike, labels: ArrayLike) -> float:
    """Equal error rate, a fraction in [0, 1].

    ``scores`` and ``labels``: (n_trials,). It is the rate at the threshold where false acceptance
    equals false rejection, linearly interpolated between the two nearest thresholds. Equal scores
    are accepted or rejected together, so constant scores give 0.5. Raises ValueError for unequal
    shapes, a score that is NaN or Inf, a label other than 0 and 1, or when one of the classes has
    no trial.

    >>> eer([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
    0.5
    """
    return _eer(*det_curve(scores, labels)[1:])


def eer_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """Threshold of the equal error rate, in units of ``scores``; arguments and errors as ``eer``.

    Where a whole interval of thresholds has equal error rates its middle is returned (perfectly
    separated scores: half way between the classes); otherwise the two nearest thresholds are
    interpolated as in ``eer``.

    >>> eer_threshold([0.75, 0.625, 0.375, 0.25], [1, 1, 0, 0])
    0.5
    """
    thresholds, false_accept, false_reject = det_curve(scores, labels)
    i, weight = _crossing(false_accept, false_reject)
    if (
        i == len(thresholds) - 1
    ):  # thresholds[i] is +inf: nothing is accepted above the highest score
        return float(thresholds[i - 1])
    if false_reject[i] == false_accept[i]:
        weight = 0.5
    return float((1.0 - weight) * thresholds[i - 1] + weight * thresholds[i])


def eer_difference(
    scores: ArrayLike,
    baseline: ArrayLike,
    labels: ArrayLike,
    speakers: ArrayLike,
    samples: int = 200,
) -> tuple[float, float, float]:
    """EER of scores minus that of a baseline on the same trials, and its 95 % interval.

    ``scores``, ``baseline``: (n_trials,), or (sets, n_trials) for the mean over sets of recordings
    of the same trials. ``labels``: (n_trials,). ``speakers``: whole numbers from 0, (2, n_trials),
    of each trial's sides. The interval is a bootstrap over speakers, from a fixed seed: those of a
    sample count as often as they were drawn, a trial as often as its two speakers together. Samples
    that lack a class are drawn again. Errors as ``eer``.
    """
    label, sides = np.asarray(labels), np.asarray(speakers)
    mean = float(
        np.mean(
            [
                eer(x, label) - eer(y, label)
                for x, y in zip(np.atleast_2d(scores), np.atleast_2d(baseline), strict=True)
            ]
        )
    )
    ranks = [
        [np.unique(row, return_inverse=True)[1] for row in np.atleast_2d(array)]
        for array in (scores, baseline)
    ]
    rng = np.random.default_rng(0)
    count = int(sides.max()) + 1
    changes: list[float] = []
    while len(changes) < samples:
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        # A target trial has one speaker, not two.
        times = np.where(label == 1, drawn[sides[0]], drawn[sides[0]] * drawn[sides[1]])
        if not (times[label == 1].any() and times[label == 0].any()):
            continue
        ours, theirs = (
            np.mean([_eer(*_rates_of_counts(index, label == 1, times)) for index in rows])
            for rows in ranks
        )
        changes.append(float(ours - theirs))
    low, high = np.percentile(changes, [2.5, 97.5])
    return mean, float(low), float(high)


def min_dcf(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Minimum normalised detection cost, as in the NIST speaker recognition evaluations.

    The minimum over all thresholds of ``c_miss * p_target * false_reject + c_fa * (1 - p_target) *
    false_accept``, divided by ``min(c_miss * p_target, c_fa * (1 - p_target))``, the cost of the
    better constant decision; hence in [0, 1]. ``scores``, ``labels`` and errors as ``eer``;
    ValueError too unless 0 < ``p_target`` < 1 and costs > 0.

    >>> min_dcf([0.9, 0.8, 0.2], [1, 1, 0])
    0.0
    """
    return float(_costs(scores, labels, p_target, c_miss, c_fa)[1].min())


def min_dcf_threshold(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """The lowest threshold of the least cost that ``min_dcf`` gives; arguments and errors as there.

    It is a score, or +inf where to accept nothing costs least.

    >>> min_dcf_threshold([0.9, 0.8, 0.2], [1, 1, 0])
    0.8
    """
    thresholds, costs = _costs(scores, labels, p_target, c_miss, c_fa)
    return float(thresholds[costs.argmin()])


def _costs(
    scores: ArrayLike, labels: ArrayLike, p_target: float, c_miss: float, c_fa: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds as ``det_curve`` has them, and the normalised detection cost at each."""
    if not 0.0 < p_target < 1.0:
        raise ValueError(f"p_target must be between 0 and 1, got {p_target}")
    if not (c_miss > 0.0 and c_fa > 0.0):
        raise ValueError(f"costs must be positive, got c_miss={c_miss}, c_fa={c_fa}")
    thresholds, false_accept, false_reject = det_curve(scores, labels)
    miss, alarm = c_miss * p_target, c_fa * (1.0 - p_target)
    return thresholds, (miss * false_reject + alarm * false_accept) / min(miss, alarm)


def _rates_of_counts(
    index: NDArray[np.int64], is_target: NDArray[np.bool_], times: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False acceptance and rejection rates at each distinct score and above all.

    index: each trial's place among the distinct scores. times: how often it counts.
    """
    size = int(index.max()) + 1
    below = [
        np.append(0.0, np.cumsum(np.bincount(index[part], times[part], size)))
        for part in (is_target, ~is_target)
    ]
    false_reject, rejected = below[0] / below[0][-1], below[1]
    return (rejected[-1] - rejected) / rejected[-1], false_reject


def _eer(false_accept: NDArray[np.float64], false_reject: NDArray[np.float64]) -> float:
    i, weight = _crossing(false_accept, false_reject)
    return float(false_reject[i - 1] + weight * (false_reject[i] - false_reject[i - 1]))


def _crossing(
    false_accept: NDArray[np.float64], false_reject: NDArray[np.float64]
) -> tuple[int, float]:
    """Index ``i`` >= 1 and weight in (0, 1]: rates meet at ``(1 - weight)[i - 1] + weight[i]``."""
    # Rising from -1 to 1; flat only where no trial counts, and nowhere at 0 from below.
    difference = false_reject - false_accept
    i = int(np.searchsorted(difference, 0.0, side="left"))
    return i, float(-difference[i - 1] / (difference[i] - difference[i - 1]))


def classification_rates(actual: ArrayLike, predicted: ArrayLike, classes: int) -> dict[str, float]:
    """Macro-averaged precision, recall and F1, and accuracy, as fractions.

    ``actual`` and ``predicted``: (n,), class numbers below ``classes``. The averages are over the
    classes, each of which counts once; the precision of a class that was never predicted is 0, and
    a class that is not in ``actual`` counts in none of them. Raises ValueError for unequal shapes,
    no examples, or a class out of range.

    >>> classification_rates([0, 0, 1, 1], [0, 1, 1, 1], 2)["accuracy"]
    0.75
    """
    truth, found = np.asarray(actual), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != found.shape or len(truth) == 0:
        raise ValueError(f"classes of shapes {truth.shape} and {found.shape}, expected (n,) twice")
    for name, values in (("actual", truth), ("predicted", found)):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= classes:
            raise ValueError(f"{name}: class numbers must be whole, from 0 to {classes - 1}")
    table = np.zeros((classes, classes))
    np.add.at(table, (truth, found), 1)
    right, there, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    kept = there > 0
    precision = (right / np.maximum(said, 1))[kept]
    recall = (right / np.maximum(there, 1))[kept]
    f1 = (2 * right / np.maximum(there + said, 1))[kept]
    return {
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "accuracy": float(right.sum() / len(truth)),
    }
