"""The report's own figures; those of sensitivity and search are ``earmark.plots``'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from earmark.pareto import is_on_front
from earmark.plots import new_figure
from earmark.report.contents import Model
from earmark.report.curves import (
    FrontPoint,
    SoftmaxFit,
    det_of,
    probit,
    score_counts,
)
from earmark.report.results import Bench, Scored
from earmark.report.words import figure_label

__all__ = [
    "MOST_LAYERS",
    "det_figure",
    "front_figure",
    "latency_figure",
    "place_name",
    "range_figure",
    "score_figure",
    "softmax_figure",
]

MOST_LAYERS = 200

_MAIN, _OTHER, _QUIET = "tab:blue", "tab:orange", "tab:gray"
_CYCLE = (_MAIN, _OTHER, "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", _QUIET)
_TICKS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_WIDTH, _HALF = 9.8, 4.8
_ROW = 0.17


def det_figure(evaluations: Sequence[Scored]) -> Figure:
    """DET curves on normal-deviate axes, with the points of equal error and of the least cost."""
    curves = [det_of(one.scores, one.labels) for one in evaluations]
    firsts = [
        _finest(max(one.nontarget for one in evaluations)),
        _finest(max(one.target for one in evaluations)),
    ]
    marked = [rate for one in evaluations for rate in (0.4, 1.5 * one.eer)]
    marked += [rate for curve in curves for rate in curve.least_cost]
    last = next(tick for tick in _TICKS if tick >= min(max(marked), _TICKS[-1]))
    floor = min(firsts) / 10
    ends = probit([[firsts[0], last], [firsts[1], last]], floor)
    is_alone = len(evaluations) == 1
    figure, axes = _placed(_HALF if is_alone else _WIDTH, 4.1 if is_alone else 5.6, ends)
    for index, (one, curve) in enumerate(zip(evaluations, curves, strict=True)):
        colour = _CYCLE[index % len(_CYCLE)]
        axes.plot(
            probit(curve.false_accept, floor),
            probit(curve.false_reject, floor),
            color=colour,
            lw=1.4,
            ls="-" if index < len(_CYCLE) else "--",
            label=f"{100 * one.eer:.2f} %  {figure_label(Path(one.model).name)}",
            gid="det-curve",
        )
        for point, marker in (((one.eer, one.eer), "o"), (curve.least_cost, "D")):
            # A rate beyond the axes is shown on their edge.
            x, y = probit(np.clip(point, firsts, last), floor)
            axes.plot(x, y, marker, color=colour, ms=5, clip_on=False, zorder=3)
    diagonal = probit([max(firsts), last], floor)
    axes.plot(diagonal, diagonal, color=_QUIET, lw=0.6, ls=":")
    named = ((axes.xaxis, "false acceptances"), (axes.yaxis, "false rejections"))
    for (axis, name), first in zip(named, firsts, strict=True):
        ticks = [tick for tick in _TICKS if first <= tick <= last]
        axis.set_ticks(probit(ticks, floor), [f"{100 * tick:g}" for tick in ticks])
        axis.set_label_text(f"{name}, %")
    axes.grid(alpha=0.4, lw=0.6)
    place = {"loc": "upper right"} if is_alone else {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    axes.legend(title="EER  ●,  least cost  ◆", title_fontsize=8, alignment="left", **place)
    return figure


def _placed(width: float, inner: float, ends: np.ndarray) -> tuple[Figure, Axes]:
    """A figure of a width whose axes have an inner width, in inches, and a unit for both axes.

    ends: of either axis, (2, 2). Layouts that a library finds cut labels of such axes.
    """
    spans = np.diff(ends)
    height = inner * float(spans[1, 0] / spans[0, 0])
    left, below, above = 0.6, 0.55, 0.15
    whole = below + height + above
    figure = new_figure(width, whole)
    figure.set_layout_engine("none")
    axes = figure.add_axes((left / width, below / whole, inner / width, height / whole))
    axes.set_xlim(*ends[0])
    axes.set_ylim(*ends[1])
    return figure, axes


def _finest(trials: int) -> float:
    """Where an axis begins: at one error in all trials of a class, but at 1 % at most."""
    return max(tick for tick in _TICKS if tick <= min(max(1 / trials, _TICKS[0]), 0.01))


def score_figure(
    evaluations: Sequence[Scored], thresholds: Sequence[tuple[float | None, float]]
) -> Figure:
    """Densities of both classes' scores, a panel each model.

    thresholds: of each, the file's, if any, and that of the equal error rate on these trials.
    """
    columns = 1 if len(evaluations) == 1 else 2
    rows = math.ceil(len(evaluations) / columns)
    figure = new_figure(*((_HALF, 4.2) if columns == 1 else (_WIDTH, 2.7 * rows)))
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    low = min(one.scores.min() for one in evaluations)
    high = max(one.scores.max() for one in evaluations)
    for panel in panels[len(evaluations) :]:
        panel.set_axis_off()
    for panel, one, (stored, equal) in zip(panels, evaluations, thresholds, strict=False):
        counts = score_counts(one.scores, one.labels)
        widths = np.diff(counts.edges)
        for kind, name, colour in (
            (counts.nontarget, f"{one.nontarget:,} different speakers", _OTHER),
            (counts.target, f"{one.target:,} same speaker", _MAIN),
        ):
            density = kind / (kind.sum() * widths)
            panel.stairs(density, counts.edges, fill=True, color=colour, alpha=0.35)
            panel.stairs(density, counts.edges, color=colour, lw=1.2, label=name)
        panel.axvline(equal, color="black", lw=0.9, ls=":", label=f"equal errors, {equal:.3f}")
        if stored is not None:
            label = f"the file's threshold, {stored:.3f}"
            panel.axvline(stored, color="black", lw=0.9, label=label)
        if len(evaluations) > 1:
            panel.set_title(figure_label(Path(one.model).name))
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        panel.set_ylim(bottom=0)
        panel.set_xlim(low - 0.02, high + 0.02)
        panel.legend(fontsize=7, loc="upper left")
        # Room for the legend.
        panel.set_ylim(top=panel.get_ylim()[1] * 1.45)
    return figure


def front_figure(points: Sequence[FrontPoint]) -> Figure:
    """EER over size; those that no other beats in both are joined."""
    figure = new_figure(_WIDTH, 4)
    axes = figure.subplots()
    sizes, rates = ([100 * getattr(p, key) for p in points] for key in ("size", "eer"))
    on_front = is_on_front(sizes, rates)
    order = sorted(np.flatnonzero(on_front), key=lambda i: sizes[i])
    axes.step([sizes[i] for i in order], [rates[i] for i in order], where="post", color=_MAIN)
    for point, size, rate, is_best in zip(points, sizes, rates, on_front, strict=True):
        axes.plot(size, rate, "o", color=_MAIN if is_best else _QUIET)
        axes.annotate(
            figure_label(point.name),
            (size, rate),
            fontsize=8,
            textcoords="offset points",
            xytext=(6, 5),
        )
    axes.set_xlabel("file, % of float32 parameters")
    axes.set_ylabel("EER, %")
    axes.margins(0.12)
    axes.grid(alpha=0.4, lw=0.6)
    return figure


def range_figure(model: Model) -> Figure:
    """Weights, outputs and bytes of each layer."""
    layers = model.info["layers"][:MOST_LAYERS]
    figure = new_figure(_WIDTH, 0.9 + _ROW * max(len(layers), 4))
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.3, 1))
    at = np.arange(len(layers))
    _spans(panels[0], at, [layer["weight"] for layer in layers])
    panels[0].set_xlabel("weights as trained")
    panels[0].set_yticks(at, [figure_label(layer["name"]) for layer in layers], fontsize=7)
    panels[0].set_ylim(len(layers) - 0.4, -0.6)
    _spans(panels[1], at, [layer["activation"] for layer in layers])
    for y, layer in zip(at, layers, strict=True):
        limits = model.limits.get(layer["name"])
        if limits and all(abs(limit) < _DRAWN for limit in limits):
            panels[1].plot(limits, (y, y), "|", color=_OTHER, ms=7, mew=1.5)
    panels[1].set_xlabel("outputs in calibration, | what integers hold")
    precisions = list(dict.fromkeys(layer["precision"] for layer in layers))
    colours = {name: _CYCLE[i % len(_CYCLE)] for i, name in enumerate(precisions)}
    panels[2].barh(
        at,
        [layer["bytes"] / 1024 for layer in layers],
        color=[colours[layer["precision"]] for layer in layers],
        height=0.7,
    )
    panels[2].set_xlabel("KiB in the file")
    handles = [Patch(color=colours[name]) for name in precisions]
    panels[2].legend(handles, [figure_label(name) for name in precisions], loc="lower right")
    for panel in panels:
        panel.grid(axis="x", alpha=0.4, lw=0.6)
        panel.tick_params(axis="y", length=0)
    return figure


# Beyond it a figure could not place what it draws; a trained layer is far below.
_DRAWN = 1e9


def _spans(axes: Axes, at: np.ndarray, statistics: Sequence[dict[str, float] | None]) -> None:
    """Thin bars from the least to the largest value, thick ones over a deviation from the mean."""
    for y, found in zip(at, statistics, strict=True):
        if found and all(abs(value) < _DRAWN for value in found.values()):
            low, high, mean, std = (found[key] for key in ("min", "max", "mean", "std"))
            axes.plot((low, high), (y, y), color=_MAIN, lw=1, solid_capstyle="butt")
            axes.plot((mean - std, mean + std), (y, y), color=_MAIN, lw=4, solid_capstyle="butt")
    axes.axvline(0, color="black", lw=0.6)


def softmax_figure(fit: SoftmaxFit) -> Figure:
    """The function beside exp, and its error."""
    figure = new_figure(_WIDTH, 3.4)
    panels = figure.subplots(1, 2)
    panels[0].plot(fit.logits, fit.expected, color="black", lw=1.6, label="exp")
    panels[0].plot(fit.logits, fit.values, color=_MAIN, lw=1.6, label="piecewise linear")
    panels[0].set_ylabel("numerator, the largest exp is 1")
    panels[0].legend(loc="upper left")
    panels[1].plot(fit.logits, fit.values - fit.expected, color=_MAIN, lw=1.4)
    panels[1].axhline(0, color="black", lw=0.6)
    panels[1].set_ylabel("its error")
    for panel in panels:
        panel.set_xlabel("logit")
        panel.grid(alpha=0.4, lw=0.6)
    return figure


def latency_figure(bench: Bench) -> Figure:
    """Median latencies with quartiles and the fastest call, a panel each thread count."""
    places = bench.places
    names = list(dict.fromkeys(name for engines in places.values() for name in engines))
    slowest = {
        name: max(engines[name].median_ms for engines in places.values() if name in engines)
        for name in names
    }
    names.sort(key=lambda name: slowest[name])
    figure = new_figure(_WIDTH, 1.1 + 0.28 * len(names))
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for panel, (place, engines) in zip(panels, places.items(), strict=True):
        for y, name in enumerate(names):
            if name not in engines:
                continue
            one = engines[name]
            own = not bench.has_peers or name == "earmark"
            panel.barh(y, one.median_ms, color=_MAIN if own else _QUIET, alpha=0.55, height=0.66)
            panel.plot((one.quartile1_ms, one.quartile3_ms), (y, y), color="black", lw=1.4)
            panel.plot(one.min_ms, y, "|", color="black", ms=6)
            end = max(one.median_ms, one.quartile3_ms)
            offset = {"textcoords": "offset points", "xytext": (5, 0), "va": "center"}
            panel.annotate(f"{one.median_ms:.1f}", (end, y), fontsize=8, **offset)
        panel.set_title(place_name(place))
        panel.set_xlabel("ms")
        panel.margins(x=0.16)
        panel.set_xlim(left=0)
        panel.grid(axis="x", alpha=0.4, lw=0.6)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), [figure_label(name) for name in names])
    panels[0].invert_yaxis()
    return figure


def place_name(place: str) -> str:
    """Where a latency was measured, in words: a number of threads, or a device."""
    return f"{place} thread{'' if place == '1' else 's'}" if place.isdecimal() else place
