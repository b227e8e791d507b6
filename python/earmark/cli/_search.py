"""``earmark search``: the precision of each layer under a budget (paper P1, Table 2)."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._eval import add_trials, read_both_classes
from earmark.cli._output import (
    add_checkpoint,
    add_command,
    add_crops,
    add_work,
    atomic_output,
    fraction,
    interval,
    positive_int,
    print_result,
    progress_callback,
    speaker_network,
    table,
)
from earmark.cli._quantize import check_precision

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers
    from earmark.search import Point, SearchResult

_STAGES = ("calibrate", "layers", "candidates")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "search",
        run,
        "Choose the precision of each layer under a budget, on one half of the speakers (a "
        "recording's folder is its speaker), and report the front of size and accuracy on the "
        "other half.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--calibrate",
        metavar="DIR|LIST",
        help="recordings that set the ranges (dynamic and float16: none)",
    )
    add_trials(parser, required=True)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--max-eer-change",
        type=fraction,
        metavar="X",
        help="the smallest file whose EER is at most so much above float32's: 0.1%% or 0.001",
    )
    budget.add_argument(
        "--max-size",
        type=fraction,
        metavar="Y",
        help="the nearest to float32 of at most this size: 20%% or 0.2 of 4 bytes a parameter",
    )
    budget.add_argument(
        "--max-latency",
        type=_milliseconds,
        metavar="MS",
        help="the nearest to float32 that takes at most so long for 3 s on one thread of this "
        "machine",
    )
    parser.add_argument(
        "--precisions",
        type=_names,
        default=("int8", "int4", "float16", "fp32"),
        metavar="P,...",
        help="that a layer may have (default: int8,int4,float16,fp32)",
    )
    parser.add_argument("--blocks", action="store_true", help="one precision for each whole block")
    parser.add_argument(
        "--points",
        type=positive_int,
        default=10,
        metavar="N",
        help="measured along the front, beside some near the budget (default: 10)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the speakers' halves (default: 0)")
    add_crops(parser, 8)
    add_work(parser)
    parser.add_argument(
        "--results", metavar="DIR", help="folder that keeps each result: a later run goes on"
    )
    parser.add_argument("-o", "--output", metavar="MODEL", help="file to write the chosen model to")


def run(args: argparse.Namespace) -> int:
    """Search, write the chosen model and the plot, print a table."""
    from earmark import _C
    from earmark.search import Budget, search
    from earmark.trials import read_recordings

    for name in args.precisions:
        check_precision(name, args)
    trials = read_both_classes(args.trials, args.root)
    recordings = read_recordings(args.calibrate) if args.calibrate else []
    net = speaker_network(args)
    with contextlib.ExitStack() as stack:
        # Before hours of work, not after.
        model_path = stack.enter_context(atomic_output(args.output)) if args.output else None
        plot_path = stack.enter_context(atomic_output(args.plot)) if args.plot else None
        bars = {stage: stack.enter_context(progress_callback(args, stage)) for stage in _STAGES}
        result = search(
            net,
            list(recordings),
            trials,
            Budget(args.max_eer_change, args.max_size, args.max_latency),
            precisions=args.precisions,
            by_block=args.blocks,
            crops=args.crops,
            points=args.points,
            seed=args.seed,
            processes=args.processes or _C.default_threads(),
            ray=args.ray,
            folder=args.results,
            progress=lambda stage, done, total: bars[stage](done, total),
        )
        if model_path is not None:
            figures = _figures(args, result)
            result.model.save(model_path, threshold=result.chosen.threshold, measured=figures)
        if plot_path is not None:
            from earmark.plots import save_figure, search_figure

            figure = search_figure(result.points, result.chosen, result.budget)
            save_figure(figure, plot_path, Path(args.plot).suffix[1:])
    summary: dict[str, Any] = {
        "budget": {key: value for key, value in asdict(result.budget).items() if value is not None},
        "trial_list": Path(args.trials).name,
        "seed": args.seed,
        "crops": args.crops,
        "speakers": list(result.speakers),
        "trials": list(result.trials),
        "precisions": list(args.precisions),
        "chosen": result.chosen.name,
        "output": args.output,
        "points": [
            {**asdict(point), "distance": point.distance, "quantize": _option(point)}
            for point in result.points
        ],
        "alone": [asdict(one) for one in result.alone],
    }
    print_result(args, summary, _lines(summary))
    return 0


def _figures(args: argparse.Namespace, result: SearchResult) -> dict[str, Any]:
    """What the file says was measured: on the half of the speakers that chose nothing."""
    chosen = result.chosen.reporting
    reference = next(point.reporting for point in result.points if point.name == "fp32")
    change, low, high = chosen.eer_change
    return {
        "eer": chosen.eer,
        "min_dcf": chosen.min_dcf,
        "trials": result.trials[1],
        "trial_list": Path(args.trials).name,
        "speakers": result.speakers[1],
        "crops": args.crops,
        "fp32_eer": reference.eer,
        "fp32_min_dcf": reference.min_dcf,
        "eer_change": change,
        "eer_change_95": [low, high],
        "mean_cosine_to_fp32": chosen.cosine,
        "worst_cosine_to_fp32": chosen.worst_cosine,
        "chosen_on": f"the other {result.speakers[0]} speakers, seed {args.seed}",
    }


def _option(point: Point) -> str:
    """As ``earmark quantize --precision`` takes it."""
    return ",".join(f"{layer}={precision}" for layer, precision in point.precision.items())


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"chosen on {summary['speakers'][0]} speakers ({summary['trials'][0]} trials), reported on "
        f"{summary['speakers'][1]} others ({summary['trials'][1]} trials) of "
        f"{summary['trial_list']}; EER minus float32's, latency of 3 s on one thread"
    )
    header = ["", "size %", "ms", "1 - cosine", "predicted", "chosen on, %", "smoothed"]
    yield from table(
        [*header, "reported, %", "95 %", "front"],
        [
            [
                point["name"],
                f"{100 * point['choosing']['size_fraction']:.2f}",
                f"{point['choosing']['latency_ms']:.2f}",
                f"{point['distance']:.6f}",
                "" if point["predicted_distance"] is None else f"{point['predicted_distance']:.6f}",
                f"{100 * point['choosing']['eer_change'][0]:+.3f}",
                f"{100 * point['smoothed_eer_change']:+.3f}",
                f"{100 * point['reporting']['eer_change'][0]:+.3f}",
                interval(point["reporting"]["eer_change"]),
                ("*" if point["on_front"] else "")
                + (" <- chosen" if point["name"] == summary["chosen"] else ""),
            ]
            for point in summary["points"]
        ],
    )
    chosen = next(point for point in summary["points"] if point["name"] == summary["chosen"])
    yield f"--precision {chosen['quantize']}"
    if summary["output"]:
        yield f"written: {summary['output']}"


def _milliseconds(text: str) -> float:
    """argparse type: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def _names(text: str) -> tuple[str, ...]:
    """argparse type: names between commas."""
    return tuple(text.split(","))
