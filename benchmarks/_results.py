"""What the scripts share: engines that are installed, and result files with their head."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from earmark.bench import report
from earmark.bench.peers import ENGINES, Engine

_RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Machine, versions, commit and command line."""
    return {
        **report.environment(),
        "commit": _commit(),
        "command": shlex.join([Path(sys.executable).name, *map(_portable, sys.orig_argv[1:])]),
    }


def _portable(argument: str) -> str:
    """Without the folders of files that are not of this repository."""
    path = Path(argument)
    outside = path.is_absolute() or argument.startswith("..")
    return path.name if outside else argument


def write_json(name: str, result: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/<name>.json``; its path."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def read_json(name: str) -> dict[str, Any]:
    """What :func:`write_json` wrote under a name."""
    result: dict[str, Any] = json.loads((_RESULTS / f"{name}.json").read_text())
    return result


def known_json(name: str) -> dict[str, Any]:
    """As :func:`read_json`; nothing where nothing was written yet."""
    return read_json(name) if (_RESULTS / f"{name}.json").is_file() else {}


def installed(names: Iterable[str]) -> dict[str, Engine]:
    """The engines of those names that can run here; stderr says what the others lack."""
    engines = {}
    for name in names:
        if missing := ENGINES[name].missing():
            print(f"{name} is left out: {', '.join(missing)} not installed", file=sys.stderr)
        else:
            engines[name] = ENGINES[name]
    return engines


def _commit() -> str | None:
    """The checked-out commit, marked when code differs from it; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    results = (":!/benchmarks/results", ":!/docs/results")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *results)
    return f"{commit}-dirty" if changed else commit or None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
