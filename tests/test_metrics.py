"""Error rates against their definition, computed here with loops and exact fractions."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.metrics import classification_rates, cosine_score, eer, eer_threshold, min_dcf

Rates = list[tuple[float, Fraction, Fraction]]


@st.composite
def scored_trials(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Scores with many ties, at least one trial of each class, in any order."""
    score = st.integers(-4, 4).map(lambda step: step / 4)
    targets = draw(st.lists(score, min_size=1, max_size=12))
    nontargets = draw(st.lists(score, min_size=1, max_size=12))
    trials = [(value, 1) for value in targets] + [(value, 0) for value in nontargets]
    trials = draw(st.permutations(trials))
    return [value for value, _ in trials], [label for _, label in trials]


def operating_points(scores: list[float], labels: list[int]) -> Rates:
    """(threshold, false acceptance, false rejection) at each distinct score and above all."""
    points: Rates = []
    for threshold in [*sorted(set(scores)), float("inf")]:
        accepted = [value >= threshold for value in scores]
        false_accepts = sum(a and not label for a, label in zip(accepted, labels, strict=True))
        false_rejects = sum(not a and label for a, label in zip(accepted, labels, strict=True))
        points.append(
            (
                threshold,
                Fraction(false_accepts, labels.count(0)),
                Fraction(false_rejects, labels.count(1)),
            )
        )
    return points


def exact_eer(points: Rates) -> Fraction:
    """Where the line through the operating points meets false acceptance = false rejection."""
    met = set()
    for (_, accept_1, reject_1), (_, accept_2, reject_2) in itertools.pairwise(points):
        gap_1, gap_2 = accept_1 - reject_1, accept_2 - reject_2
        if gap_1 >= 0 >= gap_2:
            met.add((reject_2 * gap_1 - reject_1 * gap_2) / (gap_1 - gap_2))
    assert len(met) == 1
    return met.pop()


@given(scored_trials())
def test_eer_is_where_the_operating_curve_meets_the_diagonal(
    trials: tuple[list[float], list[int]],
) -> None:
    assert eer(*trials) == pytest.approx(float(exact_eer(operating_points(*trials))), abs=1e-12)


@given(scored_trials())
def test_eer_is_symmetric_in_the_classes(trials: tuple[list[float], list[int]]) -> None:
    scores, labels = trials
    mirrored = eer([-value for value in scores], [1 - label for label in labels])
    assert eer(scores, labels) == pytest.approx(mirrored, abs=1e-12)


@given(scored_trials(), st.sampled_from([np.exp, lambda x: 3 * x - 7, lambda x: x**3]))
def test_rates_depend_on_the_order_of_scores_only(trials, monotone) -> None:  # type: ignore[no-untyped-def]
    scores, labels = trials
    moved = monotone(np.array(scores))
    assert eer(moved, labels) == eer(scores, labels)
    assert min_dcf(moved, labels) == min_dcf(scores, labels)


@given(scored_trials())
def test_eer_threshold_lies_between_the_two_thresholds_that_eer_interpolates(
    trials: tuple[list[float], list[int]],
) -> None:
    points = operating_points(*trials)
    threshold = eer_threshold(*trials)
    below = max(t for t, accept, reject in points if accept > reject)
    above = min(t for t, accept, reject in points if accept <= reject)
    assert below <= threshold <= above
    assert np.isfinite(threshold)


@given(scored_trials(), st.sampled_from([0.01, 0.05, 0.5, 0.9]), st.sampled_from([1.0, 10.0]))
def test_min_dcf_is_the_least_cost_over_all_thresholds(
    trials: tuple[list[float], list[int]], p_target: float, c_miss: float
) -> None:
    costs = [
        c_miss * p_target * float(reject) + (1 - p_target) * float(accept)
        for _, accept, reject in operating_points(*trials)
    ]
    normalised = min(costs) / min(c_miss * p_target, 1 - p_target)
    assert min_dcf(*trials, p_target=p_target, c_miss=c_miss) == pytest.approx(normalised)
    assert 0.0 <= min_dcf(*trials, p_target=p_target) <= 1.0


def test_perfect_separation_has_no_errors_and_its_threshold_half_way() -> None:
    scores, labels = [0.75, 0.5, 0.25, -0.25], [1, 1, 0, 0]
    assert eer(scores, labels) == 0.0
    assert min_dcf(scores, labels) == 0.0
    assert eer_threshold(scores, labels) == 0.375


def test_reversed_scores_are_always_wrong() -> None:
    assert eer([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == 1.0


def test_constant_scores_tell_nothing() -> None:
    assert eer([0.3] * 5, [1, 0, 0, 1, 0]) == 0.5
    assert min_dcf([0.3] * 5, [1, 0, 0, 1, 0]) == 1.0
    assert eer_threshold([0.3] * 5, [1, 0, 0, 1, 0]) == 0.3


def test_a_tie_between_the_classes_is_interpolated() -> None:
    # Thresholds 0.1, 0.5, 0.9 give (FA, FR) = (1, 0), (1/2, 0), (0, 1/2): equal half way, at 1/4.
    assert eer([0.5, 0.9, 0.5, 0.1], [1, 1, 0, 0]) == 0.25
    assert eer_threshold([0.5, 0.9, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(0.7)


@pytest.mark.parametrize("metric", [eer, eer_threshold, min_dcf])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [1, 1], "2 target and 0 non-target"),
        ([0.1, 0.2], [0, 0], "0 target and 2 non-target"),
        ([], [], "0 target and 0 non-target"),
        ([0.1, float("nan")], [1, 0], "score 1 is nan"),
        ([float("inf"), 0.2], [1, 0], "score 0 is inf"),
        ([0.1, 0.2], [1, 2], "must be 0 or 1, got 2"),
        ([0.1, 0.2], [1], r"\(2,\) and \(1,\)"),
        ([[0.1, 0.2]], [[1, 0]], r"\(1, 2\)"),
    ],
)
def test_unusable_trials_are_refused(metric, scores, labels, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


@pytest.mark.parametrize("p_target", [0.0, 1.0, -0.1, float("nan")])
def test_min_dcf_refuses_a_p_target_that_is_no_prior(p_target: float) -> None:
    with pytest.raises(ValueError, match="p_target"):
        min_dcf([0.1, 0.2], [1, 0], p_target=p_target)


def test_min_dcf_refuses_costs_that_are_not_positive() -> None:
    with pytest.raises(ValueError, match="c_miss=0"):
        min_dcf([0.1, 0.2], [1, 0], c_miss=0.0)


def test_cosine_score_of_rows_is_that_of_each_pair() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 7, 192)).astype(np.float32)
    rows = cosine_score(a, b)
    assert rows.shape == (7,)
    assert rows.dtype == np.float64
    for row, x, y in zip(rows, a, b, strict=True):
        assert row == cosine_score(x, y)
        assert row == pytest.approx(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    np.testing.assert_array_equal(cosine_score(a, b), cosine_score(b, a))


def test_cosine_score_ignores_scale_and_stays_in_range() -> None:
    v = np.array([1e-30, 3e-30, -2e-30], dtype=np.float32)
    assert cosine_score(v, 1e38 * v) == pytest.approx(1.0)
    assert cosine_score(np.full(192, 0.1), np.full(192, 0.1)) <= 1.0
    assert cosine_score(v, -v) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], "dimension"),
        (1.0, 1.0, "dimension"),
        ([0.0, 0.0], [1.0, 1.0], "a is zero"),
        ([1.0, 1.0], [[1.0, 1.0], [0.0, 0.0]], "b is zero"),
        ([1.0, float("nan")], [1.0, 1.0], "a has a NaN"),
    ],
)
def test_cosine_score_refuses_what_has_no_direction(a, b, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        cosine_score(a, b)


# --- classifications


def test_classification_rates_by_hand() -> None:
    #            predicted 0  1  2
    # actual 0             2  1  0
    #        1             0  1  0
    #        2             1  0  0
    rates = classification_rates([0, 0, 0, 1, 2], [0, 0, 1, 1, 0], 3)
    assert rates["precision"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert rates["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert rates["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert rates["accuracy"] == pytest.approx(3 / 5)


def test_classes_that_are_not_there_count_in_no_average() -> None:
    rates = classification_rates([1, 1, 3], [1, 0, 3], 5)
    assert rates["recall"] == pytest.approx(3 / 4)
    assert rates["precision"] == pytest.approx(1)
    assert classification_rates([0], [0], 1) == dict.fromkeys(rates, 1.0)


@pytest.mark.parametrize(
    ("actual", "predicted", "message"),
    [
        ([], [], "expected"),
        ([0], [0, 1], "expected"),
        ([[0]], [[0]], "expected"),
        ([0, 3], [0, 1], "actual: class numbers must be whole, from 0 to 2"),
        ([0, 1], [-1, 1], "predicted"),
        ([0.0], [0.0], "actual"),
    ],
)
def test_bad_classifications(actual: Any, predicted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_rates(actual, predicted, 3)
