"""``earmark verify``: are two recordings of one speaker?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from earmark.cli._output import (
    CommandError,
    add_command,
    add_device,
    add_threads,
    cosine_threshold,
    print_result,
)

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers

_DIFFERENT = 1


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "verify",
        run,
        "Cosine score and verdict for two recordings; exit status 0 same speaker, 1 different.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    parser.add_argument("a", metavar="A", help="recording")
    parser.add_argument("b", metavar="B", help="recording")
    parser.add_argument(
        "--threshold",
        type=cosine_threshold,
        metavar="X",
        help="same speaker from this score on (default: the model file's own threshold)",
    )
    add_threads(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Score the pair and print the verdict."""
    import earmark
    from earmark.metrics import cosine_score

    model = earmark.Embedder(args.model, threads=args.threads, device=args.device)
    threshold = model.threshold if args.threshold is None else args.threshold
    if threshold is None:
        raise CommandError(f"{args.model} has no threshold of its own: give one with --threshold")
    a, b = model.embed(args.a)[0], model.embed(args.b)[0]
    score = float(cosine_score(a, b))
    same = score >= threshold
    verdict = "same speaker" if same else "different speakers"
    print_result(
        args,
        {"score": score, "threshold": threshold, "same": same},
        [f"{verdict}: score {score:.4f}, threshold {threshold:.4f}"],
    )
    return 0 if same else _DIFFERENT
