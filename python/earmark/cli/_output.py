"""What the commands share: output as text or JSON, progress bars, common options, atomic files."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias, TypeVar

if TYPE_CHECKING:
    from earmark.nn import EcapaTdnn

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")


class CommandError(Exception):
    """An error that is the whole message for the user."""


def add_command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], description: str
) -> argparse.ArgumentParser:
    """Add a command's parser with the options that every command has."""
    parser = subparsers.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no warnings")
    parser.set_defaults(run=run)
    return parser


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads`` for a command that runs a model."""
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="threads of the engine (default: the physical cores this process may use)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` for a command that runs a model."""
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="D",
        help="where the model runs: cpu, cuda or such as cuda:1 (default: cpu)",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``CKPT`` and ``--family``."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="state dict, safetensors file or a toolkit's model folder or archive",
    )
    parser.add_argument(
        "--family",
        metavar="F",
        help="such as speechbrain (not needed where a model folder, an archive, the names of the "
        "weights or a file of `earmark train` say so)",
    )


def speaker_network(args: argparse.Namespace) -> EcapaTdnn:
    """The network of ``CKPT``; CommandError for one of another kind."""
    from earmark.families import load_checkpoint
    from earmark.nn import EcapaTdnn

    net = load_checkpoint(args.checkpoint, args.family)
    if not isinstance(net, EcapaTdnn):
        raise CommandError(f"{args.checkpoint}: is a {net.family}, this command takes ECAPA-TDNNs")
    return net


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add what commands that run many precisions of a network have in common."""
    parser.add_argument(
        "--processes",
        type=positive_int,
        metavar="N",
        default=None,
        help="side by side, of one thread each (default: the physical cores)",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="work on the Ray cluster of RAY_ADDRESS, or on one begun here (needs earmark[ray])",
    )
    parser.add_argument(
        "--plot",
        type=_plot,
        metavar="FILE",
        help="draw the result, .svg or .png (needs earmark[plots])",
    )


def _plot(path: str) -> str:
    """argparse type: a file that can be drawn, said before hours of work."""
    from importlib.util import find_spec

    if Path(path).suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"must end in .svg or .png, got {path!r}")
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("needs matplotlib: pip install 'earmark[plots]'")
    return path


def add_crops(parser: argparse.ArgumentParser, default: int) -> None:
    """Add ``--crops``."""
    parser.add_argument(
        "--crops",
        type=_count,
        default=default,
        metavar="N",
        help="error rates are the mean over N draws of 2 s of each recording; 0: whole recordings "
        f"(default: {default})",
    )


def _count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    return 0 if text == "0" else positive_int(text)


def positive_int(text: str) -> int:
    """argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return value


def fraction(text: str) -> float:
    """argparse type: ``0.1%`` or 0.001."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be such as 0.1% or 0.001, got {text!r}")
    return value


def layer_choices(
    text: str, what: str, named: Mapping[str, Mapping[str, str]], names: str
) -> dict[str, str]:
    """Choices of the form ``layer=choice,...``, for an argparse type.

    what: a choice is, in capitals. named: entries that a name stands for; names: those, in words.
    """
    chosen: dict[str, str] = {}
    for item in text.split(","):
        layer, equals, choice = item.partition("=")
        if not equals and layer in named:
            entries = named[layer]
        elif layer and equals and choice:
            entries = {layer: choice}
        else:
            raise argparse.ArgumentTypeError(
                f"must be LAYER={what},... or {names} ({', '.join(named)}), got {item!r}"
            )
        if twice := sorted(chosen.keys() & entries.keys()):
            raise argparse.ArgumentTypeError(f"names layer {twice[0]!r} twice")
        chosen |= entries
    return chosen


def cosine_threshold(text: str) -> float:
    """argparse type: a number in [-1, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number in [-1, 1], got {text!r}")
    return value


def print_result(args: argparse.Namespace, result: dict[str, Any], lines: Iterable[str]) -> None:
    """Print ``result`` as one JSON object under ``--json``, else ``lines``."""
    if args.json:
        print(json.dumps(result, allow_nan=False))
    else:
        for line in lines:
            print(_encodable(line, sys.stdout))


def print_error(message: str) -> None:
    """Print one line on stderr, whatever line breaks ``message`` has."""
    print(_encodable(f"earmark: error: {' '.join(message.split())}", sys.stderr), file=sys.stderr)


def warnings_on_one_line(quiet: bool) -> None:
    """Show Python warnings as single lines on stderr, or not at all.

    To be called within ``warnings.catch_warnings``, which puts the old way back.
    """

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if not quiet:
            line = f"earmark: warning: {' '.join(str(message).split())}"
            print(_encodable(line, sys.stderr), file=sys.stderr)

    warnings.showwarning = show


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a text table; columns of numbers are aligned to the right."""
    cells = [list(row) for row in rows]
    columns = list(zip(header, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(header), *cells]
    ]


def interval(change: Sequence[float]) -> str:
    """The interval of a rate's change, in percent."""
    return f"{100 * change[1]:+.3f} to {100 * change[2]:+.3f}"


def progress(
    args: argparse.Namespace, items: Iterable[T], total: int, description: str
) -> Iterator[T]:
    """Pass ``items`` on under a progress bar, if stderr is a terminal and not ``--quiet``."""
    from tqdm import tqdm

    # disable=None is tqdm's word for "only on a terminal".
    yield from tqdm(
        items, desc=description, total=total, delay=0.5, disable=args.quiet or None, leave=False
    )


@contextlib.contextmanager
def progress_callback(
    args: argparse.Namespace, description: str
) -> Iterator[Callable[[int, int], None]]:
    """As ``progress``, for work that reports ``(done, total)`` by a callback."""
    from tqdm import tqdm

    with tqdm(desc=description, delay=0.5, disable=args.quiet or None, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


@contextlib.contextmanager
def atomic_output(path: str) -> Iterator[Path]:
    """Yield a path to write to that takes ``path``'s place only when the block succeeds.

    Raises OSError before the block when the folder cannot be written. A device or pipe is written
    to directly.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise CommandError(f"{path}: is a folder, not a file to write")
    if target.exists() and not target.is_file():
        yield target
        return
    if not target.parent.is_dir():
        raise CommandError(f"{path}: the folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _is_number(cell: str) -> bool:
    if not cell:
        return True
    try:
        float(cell.rstrip("%").replace(",", ""))
    except ValueError:
        return False
    return True


def _encodable(text: str, stream: TextIO) -> str:
    """``text`` with escapes for what the stream cannot encode (file names may be any bytes)."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
