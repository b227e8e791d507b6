"""What the report's figures show: curves through known points, counts, bars; their SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from earmark.metrics import eer, min_dcf
from earmark.nn.piecewise import fit_exp
from earmark.report import figures
from earmark.report.contents import Model, PiecewiseSoftmax, collect
from earmark.report.curves import (
    FrontPoint,
    det_of,
    front_points,
    probit,
    score_counts,
    softmax_fit,
)
from earmark.report.results import Bench, Latency, Scored
from earmark.report.svg import inline_svg
from earmark.report.words import figure_label, visible
from reports import MODEL


def scored(target: Sequence[float], nontarget: Sequence[float], name: str = "m") -> Scored:
    scores = np.array([*target, *nontarget])
    labels = np.array([1] * len(target) + [0] * len(nontarget))
    return Scored(
        model=name,
        scheme="int8",
        sha256=name,
        size_fraction=0.25,
        trial_list="list",
        eer=eer(scores, labels),
        min_dcf=min_dcf(scores, labels),
        target=len(target),
        nontarget=len(nontarget),
        scores=scores,
        labels=labels,
    )


def gaussian(count: int = 4000, distance: float = 2.0) -> Scored:
    """Classes of equal spread: on normal-deviate axes a straight line falling by one a unit."""
    quantiles = (np.arange(count) + 0.5) / count
    normal = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    return scored(normal + distance, normal)


@pytest.fixture(scope="module")
def demo() -> Model:
    return collect(MODEL).models[0]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def bars(panel: Any) -> list[float]:
    return [patch.get_width() for patch in panel.patches]


# --- error rates ---------------------------------------------------------------------------------


def test_a_det_curve_passes_through_known_points() -> None:
    curve = det_of([0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1], [1, 1, 1, 0, 0, 0, 0])
    points = set(zip(curve.false_accept.tolist(), curve.false_reject.tolist(), strict=True))
    assert {(1, 0), (0.25, 0), (0.25, 1 / 3), (0, 1 / 3), (0, 1)} <= points
    assert curve.least_cost == (0, 1 / 3)


def test_gaussian_classes_make_a_straight_line() -> None:
    one = gaussian()
    axes = figures.det_figure([one]).axes[0]
    (line,) = (line for line in axes.lines if line.get_gid() == "det-curve")
    x, y = line.get_data()
    inside = np.flatnonzero((abs(x) < 2) & (abs(y) < 2))
    assert len(inside) > 1000
    # False rejection at threshold t: t - 2 in deviates; false acceptance: -t.
    np.testing.assert_allclose(x[inside] + y[inside], -2, atol=0.02)
    marks = [line.get_data() for line in axes.lines if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(np.ravel(marks[0]), -1, atol=0.01)  # equal errors
    cost = det_of(one.scores, one.labels).least_cost
    np.testing.assert_allclose(np.ravel(marks[1]), probit(cost, 1e-5), atol=1e-9)
    costs = 0.01 * cost[1] + 0.99 * cost[0]
    assert costs / 0.01 == pytest.approx(one.min_dcf)
    ticks = dict(
        zip(axes.get_xticks(), (t.get_text() for t in axes.get_xticklabels()), strict=True)
    )
    assert ticks[probit(0.05, 1e-5).item()] == "5"


@pytest.mark.parametrize(
    ("target", "nontarget"),
    [([0.9, 0.8], [0.1, 0.2, 0.3]), ([0.1, 0.2], [0.8, 0.9]), ([0.5], [0.5]), ([-1], [1])],
)
def test_few_and_hopeless_trials_are_drawn(target: list[float], nontarget: list[float]) -> None:
    one = scored(target, nontarget)
    for axes in figures.det_figure([one, one]).axes:
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        assert np.isfinite([low, high]).all()
        for mark in (line for line in axes.lines if len(line.get_xdata()) == 1):
            assert (low <= np.ravel(mark.get_data())).all()
            assert (np.ravel(mark.get_data()) <= high).all()
    assert figures.score_figure([one], [(None, 0.5)]).axes


def test_counts_of_scores_add_up() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 500)
    scores = rng.normal(labels, 0.5)
    counts = score_counts(scores, labels)
    assert counts.target.sum() == labels.sum()
    assert counts.nontarget.sum() == 500 - labels.sum()
    assert (counts.edges[0], counts.edges[-1]) == (scores.min(), scores.max())
    low, high = counts.edges[7:9]
    inside = (scores >= low) & (scores < high)
    assert counts.target[7] == (inside & (labels == 1)).sum()


def test_densities_of_both_classes_have_an_area_of_one() -> None:
    one = scored([0.9, 0.8, 0.7, 0.65], list(np.linspace(-0.5, 0.6, 200)))
    figure = figures.score_figure([one, replace(one, model="/a/b/n.earmark")], [(0.6, 0.62)] * 2)
    for panel in figure.axes:
        for stairs in panel.patches:
            values, edges, _ = stairs.get_data()
            assert values @ np.diff(edges) == pytest.approx(1)
        assert {line.get_xdata()[0] for line in panel.lines} == {0.6, 0.62}
    assert {"m", "n.earmark", "200 different speakers", "4 same speaker"} <= set(texts(figure))


# --- models --------------------------------------------------------------------------------------


def test_ranges_are_those_of_the_file(demo: Model) -> None:
    weights, outputs, sizes = figures.range_figure(demo).axes
    layers = demo.info["layers"]
    assert [text.get_text() for text in weights.get_yticklabels()] == [x["name"] for x in layers]
    spans = [tuple(line.get_xdata()) for line in weights.lines]
    assert (layers[0]["weight"]["min"], layers[0]["weight"]["max"]) in spans
    found = [tuple(line.get_xdata()) for line in outputs.lines if line.get_marker() == "|"]
    assert found == [demo.limits[x["name"]] for x in layers if x["name"] in demo.limits]
    # Calibrated by minimum and maximum: what was seen fits into what 256 levels hold.
    step = (found[0][1] - found[0][0]) / 255
    seen = layers[0]["activation"]
    assert found[0][0] == pytest.approx(seen["min"], abs=step)
    assert found[0][1] == pytest.approx(seen["max"], abs=step)
    assert bars(sizes) == [layer["bytes"] / 1024 for layer in layers]


def test_layers_beyond_the_most_are_left_out(demo: Model) -> None:
    many = [demo.info["layers"][0]] * (figures.MOST_LAYERS + 5)
    figure = figures.range_figure(replace(demo, info={**demo.info, "layers": many}))
    assert len(bars(figure.axes[2])) == figures.MOST_LAYERS


def piecewise(scale: float = 1.0, segments: int = 2) -> PiecewiseSoftmax:
    function = fit_exp((-6.0, 0.0), segments)
    return PiecewiseSoftmax(
        "asp.conv",
        np.array(function.breakpoints),
        scale * np.array(function.slopes),
        scale * np.array(function.intercepts),
        np.array([scale * function.low, 2.0**24]),
    )


def test_a_fit_is_compared_with_exp() -> None:
    fit = softmax_fit(piecewise())
    assert fit.logits[-1] == 0
    np.testing.assert_allclose(fit.expected, np.exp(fit.logits))
    function = fit_exp((-6.0, 0.0), 2)
    factor = fit.values / function(fit.logits)
    np.testing.assert_allclose(factor, factor[0])
    assert factor[0] == pytest.approx(1, abs=0.05)
    assert fit.worst == abs(fit.values - fit.expected).max()
    assert fit.rms < fit.worst < 0.2
    # More segments are nearer, and a factor makes no difference: integer files have one.
    assert softmax_fit(piecewise(segments=6)).worst < fit.worst / 3
    assert softmax_fit(piecewise(scale=1e6)).worst == pytest.approx(fit.worst)
    panels = figures.softmax_figure(fit).axes
    np.testing.assert_array_equal(panels[0].lines[1].get_ydata(), fit.values)


def test_a_clip_alone_has_a_fit() -> None:
    one = np.ones(1)
    fit = softmax_fit(PiecewiseSoftmax("a", one[:0], one, 0 * one, np.array([0.5, 100.0])))
    assert fit.logits[0] < 0.5 < fit.logits[-1]
    assert np.isfinite(fit.values).all()


# --- fronts and speed ----------------------------------------------------------------------------


def test_points_are_grouped_by_trials(demo: Model) -> None:
    trials = {"trial_list": "a", "trials": 10, "eer": 0.1}

    def model(name: str, **measured: Any) -> Model:
        return replace(demo, name=name, info={**demo.info, "sha256": name, "measured": measured})

    models = [
        model("x", **trials),
        model("y", **{**trials, "eer": 0.2}),
        model("z", **trials, crops=8),
        model("w", eer="much"),
        model("v"),
    ]
    (points,) = front_points(models, []).values()
    assert [(point.name, point.eer) for point in points] == [("x", 0.1), ("y", 0.2)]
    # What was scored counts more than what a file says of the same trials.
    now = replace(scored([0.9], [0.1] * 9, "y"), trial_list="a", eer=0.15)
    (points,) = front_points(models, [now]).values()
    assert [(point.name, point.eer) for point in points] == [("x", 0.1), ("y", 0.15)]
    assert front_points(models[:1], []) == {}


def test_the_front_is_marked() -> None:
    points = [FrontPoint("a", 0.2, 0.06), FrontPoint("b", 0.3, 0.05), FrontPoint("c", 0.4, 0.055)]
    axes = figures.front_figure(points).axes[0]
    line, *dots = axes.lines
    np.testing.assert_allclose(line.get_xydata(), [[20, 6], [30, 5]])
    assert [dot.get_color() for dot in dots] == ["tab:blue", "tab:blue", "tab:gray"]


def test_latencies_are_bars_by_place() -> None:
    def latency(median: float) -> Latency:
        return Latency(median, 0.8 * median, 0.9 * median, 1.1 * median, None, None)

    places = {
        "1": {"earmark": latency(5), "slow": latency(50), "other": latency(9)},
        "2": {"earmark": latency(3), "other": latency(6)},
    }
    figure = figures.latency_figure(Bench("m", "a CPU", 3.0, True, places, []))
    one, two = figure.axes
    assert [text.get_text() for text in one.get_yticklabels()] == ["earmark", "other", "slow"]
    assert (bars(one), bars(two)) == ([5, 9, 50], [3, 6])
    assert tuple(one.lines[0].get_xdata()) == (4.5, 5.5)
    assert [one.get_title(), two.get_title()] == ["1 thread", "2 threads"]
    assert figures.place_name("cuda:0") == "cuda:0"


# --- SVG and words -------------------------------------------------------------------------------


def drawn(text: str) -> Element:
    def figure() -> Figure:
        made = Figure(figsize=(3, 2))
        axes = made.subplots()
        axes.set_title(figure_label(text))
        axes.plot([1, 2], [1, 2], color="tab:blue", label=f"x {figure_label(text)}")
        axes.plot([1, 2], [2, 1], color="black", clip_on=False)
        axes.legend()
        return made

    return inline_svg(figure, "f7", "what it shows")


def test_svg_is_that_of_the_page() -> None:
    root = drawn("a name")
    assert root.attrib["aria-label"] == "what it shows"
    found = list(root.iter())
    assert {"svg", "g", "path", "text"} <= {element.tag for element in found}
    assert not {"metadata", "style"} & {element.tag for element in found}
    styles = " ".join(element.attrib.get("style", "") for element in found)
    assert "#1f77b4" not in styles
    assert "var(--blue)" in styles
    assert "currentColor" in styles
    assert "font-family" not in styles
    ids = {element.attrib["id"] for element in found if "id" in element.attrib}
    assert ids
    assert all(name.startswith("f7-") for name in ids)
    used = {e.attrib["href"][1:] for e in found if "href" in e.attrib}
    used |= {e.attrib["clip-path"][5:-1] for e in found if "clip-path" in e.attrib}
    assert used == ids


@pytest.mark.parametrize("text", ["$x_1$", "$", "a\\$b$c", "<b>&", "漢字", "_hidden", "\ud800"])
def test_names_are_drawn_as_they_are(text: str) -> None:
    shown = [element.text for element in drawn(text).iter("text")]
    assert {visible(text), f"x {visible(text)}"} <= set(shown)


def test_long_names_are_cut_in_the_middle() -> None:
    assert figure_label("a" * 40) == "a" * 40
    cut = figure_label("a" * 100 + "z" * 100)
    assert (len(cut), cut[0], cut[-1]) == (39, "a", "z")
    assert visible("a\nb\u202e\ud800é") == "a\\nb\\u202e\\ud800é"


def test_curves_are_named_by_the_file() -> None:
    one = scored([0.9, 0.2], [0.1, 0.3], "some/folder/name.earmark")
    figure = figures.det_figure([one])
    label = "50.00 %  name.earmark"
    assert label in texts(figure)
    root = inline_svg(partial(figures.det_figure, [one]), "f", "alt")
    assert label in [element.text for element in root.iter("text")]
