"""What each part of the report says: text, tables and figures of its contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from earmark.metrics import eer_threshold
from earmark.plots import search_figure, sensitivity_figure
from earmark.report import figures
from earmark.report.contents import Comparison, Contents
from earmark.report.curves import front_points
from earmark.report.models import model_part, overview, overview_of_one
from earmark.report.page import details, element, figure, page, paragraph, section, table
from earmark.report.results import Bench, Evaluation, Scored, Search, Sensitivity
from earmark.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["render"]

Draw = Callable[[Callable[[], "Figure"], str, str], Element]


def render(contents: Contents) -> str:
    """The HTML file of a report, as text; the same contents give the same text."""
    numbers = count(1)

    def draw(make: Callable[[], Figure], alt: str, caption: str) -> Element:
        return figure(inline_svg(make, f"f{next(numbers)}", alt), caption)

    models = contents.models
    parts = [
        ("Overview", overview_of_one(contents) if len(models) == 1 else overview(models)),
        ("Error rates", _error_rates(contents, draw)),
        ("Size and accuracy", _fronts(contents, draw)),
        ("What each layer costs", _sensitivities(contents, draw)),
        ("Speed", _benches(contents, draw)),
        ("Layers", _layers(contents, draw)),
        ("Notes", _notes(contents)),
    ]
    made = [(title, list(children)) for title, children in parts]
    return page(
        contents.title,
        _subtitle(contents),
        [section(title, children) for title, children in made if children],
    )


def _subtitle(contents: Contents) -> str:
    counts = [(len(contents.models), "model file"), (len(contents.results), "result")]
    return ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in counts if n)


# --- error rates ---------------------------------------------------------------------------------


def _error_rates(contents: Contents, draw: Draw) -> Iterator[Element]:
    thresholds = {model.info["sha256"]: model.info.get("threshold") for model in contents.models}
    lists = groupby(sorted(contents.of(Evaluation), key=_trials_of), key=_trials_of)
    for (name, target, nontarget), group in lists:
        evaluations = list(group)
        yield element("h3", name)
        yield paragraph(f"{target:,} trials of one speaker, {nontarget:,} of two.")
        scored = [one for one in evaluations if isinstance(one, Scored)]
        if scored:
            marks = [
                (thresholds.get(one.sha256), eer_threshold(one.scores, one.labels))
                for one in scored
            ]
            both = [_det(scored, draw), _histograms(scored, marks, draw)]
            yield from both if len(scored) > 1 else [element("div", *both, class_="side")]
        yield _table_of_rates(evaluations, contents.comparisons)
        if len(scored) < len(evaluations):
            yield paragraph(
                "Where no curve is drawn the scores were not kept: earmark eval --json --scores."
            )


def _trials_of(one: Evaluation) -> tuple[str, int, int]:
    return one.trial_list, one.target, one.nontarget


def _det(scored: Sequence[Scored], draw: Draw) -> Element:
    rates = "; ".join(f"{_name(one)}: EER {100 * one.eer:.2f} %" for one in scored)
    return draw(
        partial(figures.det_figure, scored),
        f"Detection error tradeoff. {rates}",
        "Detection error tradeoff on normal-deviate axes: the nearer to the lower left corner, "
        "the better. Circles: both errors are equal. Diamonds: the detection cost is least, one "
        "trial of a hundred being a target and both errors costing the same.",
    )


def _histograms(
    scored: Sequence[Scored], marks: Sequence[tuple[float | None, float]], draw: Draw
) -> Element:
    return draw(
        partial(figures.score_figure, scored, marks),
        f"Densities of the scores of both classes of trials, {len(scored)} models",
        "Densities of the cosine scores. Where they overlap, any threshold makes errors.",
    )


def _table_of_rates(evaluations: Sequence[Evaluation], comparisons: list[Comparison]) -> Element:
    known = {(one.sha256, one.trial_list): one for one in comparisons}
    beside = [known.get((one.sha256, one.trial_list)) for one in evaluations]
    header = ["model", "scheme", "EER %", "min DCF"]
    rows = [
        [_name(one), one.scheme, f"{100 * one.eer:.3f}", f"{one.min_dcf:.4f}"]
        for one in evaluations
    ]
    if any(beside):
        header += ["EER change", "95 %", "cosine", "worst", "SQNR dB", "beside"]
        rows = [row + _comparison_cells(one) for row, one in zip(rows, beside, strict=True)]
    return table(header, rows, text_columns=2)


def _comparison_cells(one: Comparison | None) -> list[str]:
    if one is None:
        return [""] * 6
    return [
        f"{100 * one.eer_change[0]:+.3f}",
        _interval(one.eer_change),
        f"{one.cosine:.6f}",
        f"{one.worst_cosine:.6f}",
        "" if one.sqnr_db is None else f"{one.sqnr_db:.1f}",
        one.baseline,
    ]


def _name(one: Evaluation) -> str:
    return Path(one.model).name


# --- fronts, layers' costs, speed ----------------------------------------------------------------


def _fronts(contents: Contents, draw: Draw) -> Iterator[Element]:
    for data, points in front_points(contents.models, contents.of(Evaluation)).items():
        listed = "; ".join(
            f"{p.name}: {100 * p.size:.1f} %, EER {100 * p.eer:.2f} %" for p in points
        )
        yield draw(
            partial(figures.front_figure, points),
            f"EER over file size. {listed}",
            f"EER over the size of the file, of {data}. Blue: no other file is as small and as "
            "accurate.",
        )
    for found in contents.of(Search):
        yield element("h3", f"Search over {found.trial_list}")
        yield draw(
            partial(search_figure, found.points, found.chosen, found.budget),
            f"Mixed precisions by size or latency; chosen: {found.chosen.name}",
            f"Mixed precisions that earmark search tried; chosen on {found.trials[0]:,} trials of "
            f"one half of the speakers, reported on {found.trials[1]:,} of the other. Chosen: "
            f"{found.chosen.name}, EER {_change(found.chosen.reporting.eer_change)}.",
        )
        chosen = ",".join(f"{key}={value}" for key, value in found.chosen.precision.items())
        yield paragraph("The chosen precisions: ", element("code", f"--precision {chosen}"))


def _sensitivities(contents: Contents, draw: Draw) -> Iterator[Element]:
    for found in contents.of(Sensitivity):
        alone, others = "float32", found.precision
        if not found.all_but_one:
            alone, others = others, alone
        yield draw(
            partial(sensitivity_figure, found.rows),
            f"EER change, distance to float32 and size: each layer in {alone}, others in {others}",
            f"Each layer alone in {alone}, all others in {others}: {found.trials:,} trials of "
            f"{found.trial_list}. Where an interval crosses 0 the trials do not show a change; "
            "distances rank layers better than error rates.",
        )
        rows = [
            [
                row.unit,
                f"{100 * row.eer:.3f}",
                f"{100 * row.eer_change[0]:+.3f}",
                _interval(row.eer_change),
                f"{row.cosine:.6f}",
                f"{row.worst_cosine:.6f}",
                "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
                f"{100 * row.size_fraction:.2f}",
                f"{row.latency_ms:.2f}",
            ]
            for row in found.rows
        ]
        header = ["layer", "EER %", "change", "95 %", "cosine", "worst", "SQNR dB", "size %", "ms"]
        yield details("The figures", [table(header, rows)], is_open=False)


def _change(change: Sequence[float]) -> str:
    """A change of a rate in percent, and its interval in brackets."""
    return f"{100 * change[0]:+.3f} % ({_interval(change)})"


def _interval(change: Sequence[float]) -> str:
    return f"{100 * change[1]:+.3f} to {100 * change[2]:+.3f}"


def _benches(contents: Contents, draw: Draw) -> Iterator[Element]:
    for bench in contents.of(Bench):
        model = Path(bench.model).name
        what = "features to embedding" if bench.has_peers else "to the embedding"
        peers = " The peers run the same shape with random weights." if bench.has_peers else ""
        yield element("h3", model)
        yield draw(
            partial(figures.latency_figure, bench),
            f"Latency of {model}{' and other engines' if bench.has_peers else ''}",
            f"Latency of one recording of {bench.seconds:.2f} s, {what}, on {bench.machine}. Bars: "
            f"median; lines: from the first to the third quartile; ticks: the fastest call.{peers}",
        )
        rows = [
            [
                name,
                figures.place_name(place),
                f"{one.median_ms:.2f}",
                f"{one.min_ms:.2f}",
                f"{one.quartile1_ms:.2f} to {one.quartile3_ms:.2f}",
                "" if one.cosine is None else f"{one.cosine:.5f}",
                "" if one.peak_rss_mib is None else f"{one.peak_rss_mib:.0f}",
            ]
            for place, engines in bench.places.items()
            for name, one in engines.items()
        ]
        header = ["engine", "on", "median ms", "fastest", "quartiles", "cosine to FP32", "peak MiB"]
        yield details("The figures", [table(header, rows, text_columns=2)], is_open=False)
        for failure in bench.failed:
            yield paragraph(f"Failed: {failure}")


# --- models and notes ----------------------------------------------------------------------------


def _layers(contents: Contents, draw: Draw) -> Iterator[Element]:
    for model in contents.models:
        part = list(model_part(model, draw, is_alone=len(contents.models) == 1))
        if len(contents.models) == 1:
            yield from part
        else:
            yield details(f"{model.name}, {model.info['scheme']}", part, is_open=False)


def _notes(contents: Contents) -> Iterator[Element]:
    if contents.notes:
        yield element("ul", *(element("li", note) for note in contents.notes))
