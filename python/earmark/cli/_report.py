"""``earmark report``: one HTML file of tables and plots of a model, or of a folder of results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._eval import add_trials, embed_recordings, read_given_trials
from earmark.cli._output import (
    CommandError,
    add_command,
    add_device,
    add_threads,
    atomic_output,
    print_result,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from earmark import Embedder
    from earmark.cli._output import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "report",
        run,
        "One self-contained HTML file about a model file, or about the model files of a folder and "
        "what eval, sensitivity, search and bench printed there with --json into files *.json. "
        "What cannot be read is noted. Needs earmark[plots].",
    )
    parser.add_argument(
        "source",
        metavar="MODEL|DIR",
        help="model file (.earmark), or folder of such and of results",
    )
    parser.add_argument("-o", "--output", metavar="HTML", required=True, help="file to write")
    add_trials(parser, required=False)
    add_threads(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Collect, score where trials are given, draw, write."""
    from earmark.report.contents import collect
    from earmark.report.scoring import score
    from earmark.report.sections import render

    trials = read_given_trials(args)

    def embed(model: Embedder) -> NDArray[np.float32]:
        try:
            return embed_recordings(args, model, trials.paths if trials else [])
        except CommandError as error:
            raise ValueError(str(error)) from error

    with atomic_output(args.output) as temporary:
        contents = collect(
            args.source, device=args.device, threads=args.threads, leave_out=Path(args.output)
        )
        if trials is not None:
            score(contents, trials, Path(args.trials).name, embed)
        html = render(contents)
        temporary.write_text(html, encoding="utf-8")
    result = {
        "output": args.output,
        "file_bytes": len(html.encode()),
        "models": [model.name for model in contents.models],
        "results": len(contents.results),
        "notes": contents.notes,
    }
    print_result(args, result, _lines(result))
    return 0


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{result['output']}: {len(result['models'])} model files, {result['results']} results, "
        f"{result['file_bytes']:,} bytes"
    )
    for note in result["notes"]:
        yield f"note: {note}"
