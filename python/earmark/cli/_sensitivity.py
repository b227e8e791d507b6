"""``earmark sensitivity``: what each layer's precision costs (paper P1, Table 1)."""

from __future__ import annotations

import argparse
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
    interval,
    print_result,
    progress_callback,
    speaker_network,
    table,
)
from earmark.cli._quantize import check_precision

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "sensitivity",
        run,
        "Quantize each layer alone and measure what that costs: error rates, distance to float32, "
        "size and latency. An interrupted run goes on where the results' folder is given.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--calibrate",
        metavar="DIR|LIST",
        help="recordings that set the ranges (dynamic and float16: none)",
    )
    add_trials(parser, required=True)
    parser.add_argument(
        "--precision",
        metavar="P",
        default="int8",
        help="that each layer gets, as in quantize --precision (default: int8)",
    )
    parser.add_argument("--blocks", action="store_true", help="whole blocks in place of layers")
    parser.add_argument(
        "--all-but-one",
        action="store_true",
        help="each layer alone in float32, the others quantized",
    )
    add_crops(parser, 0)
    add_work(parser)
    parser.add_argument("-o", "--output", metavar="DIR", help="folder that keeps each result")


def run(args: argparse.Namespace) -> int:
    """Measure and print a table."""
    from earmark import _C
    from earmark.sensitivity import sensitivity
    from earmark.trials import read_recordings

    trials = read_both_classes(args.trials, args.root)
    check_precision(args.precision, args)
    recordings = read_recordings(args.calibrate) if args.calibrate else []
    net = speaker_network(args)
    with (
        progress_callback(args, "calibrate") as calibration_progress,
        progress_callback(args, "measure") as progress,
    ):
        rows = sensitivity(
            net,
            list(recordings),
            trials,
            precision=args.precision,
            by_block=args.blocks,
            crops=args.crops,
            all_but_one=args.all_but_one,
            processes=args.processes or _C.default_threads(),
            ray=args.ray,
            folder=args.output,
            progress=progress,
            calibration_progress=calibration_progress,
        )
    result: dict[str, Any] = {
        "precision": args.precision,
        "all_but_one": args.all_but_one,
        "trial_list": Path(args.trials).name,
        "trials": len(trials.labels),
        "crops": args.crops,
        "rows": [asdict(row) for row in rows],
    }
    if args.plot:
        from earmark.plots import save_figure, sensitivity_figure

        with atomic_output(args.plot) as temporary:
            save_figure(sensitivity_figure(rows), temporary, Path(args.plot).suffix[1:])
    print_result(args, result, _lines(result))
    return 0


def _lines(result: dict[str, Any]) -> Iterator[str]:
    what = "the others" if result["all_but_one"] else "alone"
    yield (
        f"{result['precision']} {what}: {result['trials']} trials of {result['trial_list']}; "
        "distances to float32, latency of 3 s on one thread"
    )
    yield from table(
        [
            "layer",
            "EER %",
            "change",
            "95 %",
            "min DCF",
            "cosine",
            "worst",
            "SQNR dB",
            "size %",
            "ms",
        ],
        [
            [
                row["unit"],
                f"{100 * row['eer']:.3f}",
                f"{100 * row['eer_change'][0]:+.3f}",
                interval(row["eer_change"]),
                f"{row['min_dcf']:.4f}",
                f"{row['cosine']:.6f}",
                f"{row['worst_cosine']:.6f}",
                "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
                f"{100 * row['size_fraction']:.2f}",
                f"{row['latency_ms']:.2f}",
            ]
            for row in result["rows"]
        ],
    )
