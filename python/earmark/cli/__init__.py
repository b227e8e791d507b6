"""The command line, ``earmark …``.

Every command is a module with ``add_parser(subparsers)`` and ``run(args) -> int`` (the exit
status). Modules import numpy, torch or the engine inside ``run`` only, so that ``earmark --help``
answers at once. Every error is one line on stderr and exit status 2; ``EARMARK_DEBUG=1`` shows the
traceback before it.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from earmark.cli import (
    _bench,
    _classify,
    _compress,
    _demo,
    _embed,
    _eval,
    _export,
    _info,
    _quantize,
    _report,
    _search,
    _sensitivity,
    _train,
    _verify,
)
from earmark.cli._output import CommandError, print_error, warnings_on_one_line

__all__ = ["main", "make_parser"]

_COMMANDS = (
    _demo,
    _info,
    _embed,
    _verify,
    _eval,
    _classify,
    _quantize,
    _sensitivity,
    _search,
    _compress,
    _export,
    _train,
    _bench,
    _report,
)
_FAILED = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line like every other error: one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it refuses is a CommandError."""
    parser = _Parser(
        prog="earmark",
        description="Small, integer-only speaker verification and sound recognition.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` is without the program name and defaults to ``sys.argv[1:]``.

    Returns the exit status: 0, 1 for `verify` of different speakers, 2 for any error, 130 when
    interrupted.
    """
    try:
        args = make_parser().parse_args(argv)
        with warnings.catch_warnings():
            warnings_on_one_line(quiet=args.quiet)
            status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print_error("interrupted")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 (the one place where every error ends)
        if os.environ.get("EARMARK_DEBUG") == "1":
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):
            # The reader of stdout has gone: the interpreter's flush at exit must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(_describe(error))
        return _FAILED
    return status


def _describe(error: Exception) -> str:
    """What the user needs to know about an error."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "yaml"):
        return f"this command needs {error.name}: pip install earmark[torch]"
    if isinstance(error, ModuleNotFoundError) and error.name == "onnx":
        return "this command needs onnx: pip install earmark[onnx]"
    if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib":
        return "this command needs matplotlib: pip install earmark[plots]"
    if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt_rtx":
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in ("av", "zstandard"):
        return f"weights in this coding need {error.name}: pip install earmark[compress]"
    if isinstance(error, ModuleNotFoundError) and error.name in ("pyroomacoustics", "scipy"):
        return f"simulated rooms need {error.name}: pip install earmark[train], or --rooms 0"
    if isinstance(error, CommandError | OSError | ValueError | RuntimeError) and str(error):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return f"internal error, {type(error).__name__}: {error} (EARMARK_DEBUG=1 shows where)"
