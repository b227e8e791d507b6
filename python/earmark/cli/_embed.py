"""``earmark embed``: speaker embeddings of recordings, into one .npz file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from earmark.cli._output import (
    CommandError,
    add_command,
    add_device,
    add_threads,
    atomic_output,
    print_result,
    progress,
)

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "embed",
        run,
        "Speaker embeddings of recordings: arrays path, embedding (n, 192) and error. A recording "
        "that fails has NaN and its error there; the others are written, and the exit status is 2.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="recording")
    parser.add_argument("-o", "--output", metavar="OUT.npz", required=True, help="file to write")
    add_threads(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Embed every recording and write the file."""
    import numpy as np

    import earmark

    model = earmark.Embedder(args.model, threads=args.threads, device=args.device)
    count = len(args.audio)
    errors = [""] * count
    with atomic_output(args.output) as temporary:
        found: dict[int, np.ndarray] = {}
        for row, embedding, error in progress(args, model.embed_each(args.audio), count, "embed"):
            if embedding is None:
                errors[row] = error
            else:
                found[row] = embedding
        embeddings = np.full((count, model.embedding_size), np.nan, dtype=np.float32)
        for row, embedding in found.items():
            embeddings[row] = embedding
        with temporary.open("wb") as file:
            np.savez(file, path=np.array(args.audio), embedding=embeddings, error=np.array(errors))
    failed = [
        {"path": path, "error": error}
        for path, error in zip(args.audio, errors, strict=True)
        if error
    ]
    print_result(
        args,
        {"output": args.output, "recordings": count, "failed": failed},
        [f"{args.output}: {count - len(failed)} of {count} recordings embedded"]
        + [f"failed: {row['error']}" for row in failed],
    )
    if failed:
        raise CommandError(f"{len(failed)} of {count} recordings failed: {failed[0]['error']}")
    return 0
