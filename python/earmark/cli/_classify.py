"""``earmark classify``: what sounds recordings hold, as a whole and window by window."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from earmark.cli._output import (
    CommandError,
    add_command,
    add_device,
    add_threads,
    positive_int,
    print_result,
    progress,
)

if TYPE_CHECKING:
    from earmark import Classifier, Sounds
    from earmark.cli._output import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "classify",
        run,
        "Sounds in recordings: the most probable classes of each, the mean over its windows. A "
        "recording that fails has its error in its place, and the exit status is 2.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark) of a sound network")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recording")
    parser.add_argument(
        "--top", type=positive_int, default=3, metavar="N", help="classes shown (default: 3)"
    )
    parser.add_argument("--timeline", action="store_true", help="each window's classes as well")
    add_threads(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Classify every recording."""
    import earmark

    model = earmark.Classifier(args.model, threads=args.threads, device=args.device)
    count = len(args.audio)
    rows = []
    for index, sounds, error in progress(args, model.classify_each(args.audio), count, "classify"):
        row: dict[str, Any] = {"path": args.audio[index]}
        rows.append(row | ({"error": error} if sounds is None else _described(args, model, sounds)))
    print_result(args, {"recordings": rows}, _lines(rows))
    failed = [row["error"] for row in rows if "error" in row]
    if failed:
        raise CommandError(f"{len(failed)} of {count} recordings failed: {failed[0]}")
    return 0


def _described(args: argparse.Namespace, model: Classifier, sounds: Sounds) -> dict[str, Any]:
    described: dict[str, Any] = {"sounds": _top(sounds.top(args.top))}
    if args.timeline:
        described["timeline"] = [
            {
                "start": float(start),
                "end": float(start) + model.window_seconds,
                "sounds": _top(window.top(args.top)),
            }
            for start, window in zip(sounds.starts, sounds.split(), strict=True)
        ]
    return described


def _top(pairs: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": probability} for label, probability in pairs]


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        if "error" in row:
            yield f"failed: {row['error']}"
            continue
        yield f"{row['path']}: {_text(row['sounds'])}"
        for window in row.get("timeline", []):
            yield f"  {window['start']:7.1f} s  {_text(window['sounds'])}"


def _text(sounds: list[dict[str, Any]]) -> str:
    return ", ".join(f"{sound['label']} {100 * sound['probability']:.1f} %" for sound in sounds)
