"""What the scripts share: commands, interpreters, folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """Exit with a message where the command fails; it has printed its own."""
    if (status := subprocess.run(command, env=env, cwd=cwd, check=False).returncode) != 0:
        line = " ".join(map(str, command))
        sys.exit(f"{line if len(line) < 200 else line[:200] + ' ...'}: status {status}")


def interpreters(commands: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Path and version ("311") of those that are there; stderr names the others."""
    program = "import sys; print(sys.executable, '%d%d' % sys.version_info[:2], sep='\\n')"
    for python in commands:
        shown = ""
        if shutil.which(python):  # may be pyenv's, of a version that it has not
            command = [python, "-c", program]
            shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if len(lines := shown.split()) == 2:
            yield lines[0], lines[1]
        else:
            print(f"{python}: not there, left out", file=sys.stderr)


def need(command: str, package: str) -> None:
    """Exit with the name of Debian's package where a command is missing."""
    if shutil.which(command) is None:
        sys.exit(f"{command} is missing; it is in Debian's package {package}")
