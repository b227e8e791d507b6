"""Plots of results (matplotlib, an extra); the same figures give the same file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from earmark.candidates import Measured
    from earmark.search import Budget, Point

__all__ = ["new_figure", "save_figure", "search_figure", "sensitivity_figure"]

_ROW_INCHES = 0.17
_MAIN, _OTHER, _QUIET = "tab:blue", "tab:orange", "tab:gray"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no window system knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike[str], form: str) -> None:
    """Write a figure; form: "svg" or "png"."""
    from matplotlib import rc_context

    metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "earmark"}):
        figure.savefig(path, format=form, metadata=metadata)


def sensitivity_figure(rows: Sequence[Measured]) -> Figure:
    """EER change, distance to float32 and size of each row; the first row is float32."""
    others = rows[1:]
    figure = new_figure(9, 1.2 + _ROW_INCHES * len(others))
    panels = figure.subplots(1, 3, sharey=True)
    at = np.arange(len(others))
    changes = 100 * np.array([row.eer_change for row in others]).T
    errors = np.maximum([changes[0] - changes[1], changes[2] - changes[0]], 0)
    panels[0].errorbar(changes[0], at, xerr=errors, fmt="o", color=_MAIN, elinewidth=0.8)
    panels[0].axvline(0, color="black", linewidth=0.8)
    panels[0].set_xlabel("EER minus float32's, % (95 %)")
    panels[0].set_yticks(at, [row.unit for row in others], fontsize=7, parse_math=False)
    panels[0].invert_yaxis()
    panels[1].plot([1 - row.cosine for row in others], at, "o", color=_MAIN, label="mean")
    worst = [1 - row.worst_cosine for row in others]
    panels[1].plot(worst, at, "o", color=_MAIN, mfc="none", label="worst")
    panels[1].set_xscale("log")
    _plain_numbers(panels[1].xaxis)
    panels[1].set_xlabel("1 - cosine to float32")
    panels[1].legend(fontsize=7)
    panels[2].barh(at, [100 * row.size_fraction for row in others], color=_QUIET)
    panels[2].set_xlabel("size, % of float32")
    for panel in panels:
        panel.grid(axis="x", alpha=0.3)
    return figure


def search_figure(points: Sequence[Point], chosen: Point, budget: Budget) -> Figure:
    """Distance and EER change of all points over size, or over latency where that is the budget."""
    by_latency = budget.latency_ms is not None
    figure = new_figure(9, 4)
    panels = figure.subplots(1, 2)

    def cost(points: Sequence[Point]) -> list[float]:
        if by_latency:
            return [point.choosing.latency_ms for point in points]
        return [100 * point.choosing.size_fraction for point in points]

    named = [point for point in points if not point.name.startswith("front-")]
    front = sorted((point for point in points if point.on_front), key=lambda p: cost([p])[0])
    # Float32 itself has no distance.
    seen = [point for point in points if point.distance > 0]
    panels[0].plot(cost(seen), [p.distance for p in seen], "o", color=_QUIET, label="measured")
    moved = [point for point in front if point.distance > 0]
    panels[0].plot(cost(moved), [p.distance for p in moved], "-o", color=_MAIN, label="front")
    predicted = [point for point in points if point.predicted_distance]
    panels[0].plot(
        cost(predicted),
        [p.predicted_distance or 0 for p in predicted],
        "x",
        color=_OTHER,
        label="predicted",
    )
    panels[0].set_yscale("log")
    _plain_numbers(panels[0].yaxis)
    panels[0].set_ylabel("1 - cosine to float32, choosing half")
    changes = np.array([point.reporting.eer_change for point in points]).T * 100
    panels[1].errorbar(
        cost(points),
        changes[0],
        np.maximum([changes[0] - changes[1], changes[2] - changes[0]], 0),
        fmt="o",
        color=_MAIN,
        elinewidth=0.8,
        label="reporting half, 95 %",
    )
    panels[1].plot(
        cost(points),
        [100 * point.choosing.eer_change[0] for point in points],
        "o",
        color=_QUIET,
        mfc="none",
        label="choosing half",
    )
    ordered = sorted(points, key=lambda point: point.distance)
    panels[1].plot(
        cost(ordered),
        [100 * point.smoothed_eer_change for point in ordered],
        "_",
        color="black",
        label="choosing half, smoothed",
    )
    if budget.eer_change is not None:
        panels[1].axhline(100 * budget.eer_change, color="black", ls=":", lw=0.8)
    panels[1].set_ylabel("EER minus float32's, %")
    heights = {p.name: (p.distance, 100 * p.reporting.eer_change[0]) for p in points}
    for number, panel in enumerate(panels):
        at = cost([chosen]), [heights[chosen.name][number]]
        panel.plot(*at, "o", ms=13, mfc="none", color=_OTHER, label="chosen")
        for point in named if number else [p for p in named if p.distance > 0]:
            place = cost([point])[0], heights[point.name][number]
            offset = {"textcoords": "offset points", "xytext": (5, 5)}
            panel.annotate(point.name, place, fontsize=8, parse_math=False, **offset)
        panel.set_xlabel("ms for 3 s, one thread" if by_latency else "size, % of float32")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    return figure


def _plain_numbers(axis: Axis) -> None:
    """Numbers of a logarithmic axis without formulas; between powers of ten where these are few."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(LogFormatter())
