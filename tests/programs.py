"""Programs that tests run: where they are, how a build is made, what machine code is in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LINE = re.compile(r"\s*([0-9a-f]+):\s+(.*)")
# Of x86 and of aarch64.
JUMP = re.compile(r"(?:j\w+|b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+([0-9a-f]+)\b")

Lines = list[tuple[int, str]]


def tool(name: str) -> str:
    """A program of this environment or of the system; skips where there is none."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"there is no {name}")
    return found


def build(folder: Path, options: Sequence[str], targets: Sequence[str]) -> None:
    """Makes CMake's ``targets`` in ``folder``."""
    pybind11 = pytest.importorskip("pybind11", reason="building needs pybind11")
    configure = [
        tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *options,
    ]  # fmt: skip
    for command in (configure, [tool("cmake"), "--build", folder, "--target", *targets]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def functions(objdump: str, program: str | Path) -> dict[str, Lines]:
    """(address, instruction) of each function of a program, by its name without arguments."""
    command = [objdump, "-d", "-C", "--no-show-raw-insn", program]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Lines] = {}
    lines: Lines = []
    for line in text.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            lines = found.setdefault(start[1].split("(")[0], [])
        elif match := LINE.match(line):
            lines.append((int(match[1], 16), match[2].replace("\t", " ")))
    return found


def innermost_loops(lines: Lines) -> list[list[str]]:
    """Instructions between a jump back and its target, where no other such jump is between."""
    index = {address: i for i, (address, _) in enumerate(lines)}
    loops = []
    for i, (address, instruction) in enumerate(lines):
        jump = JUMP.match(instruction)
        if jump is None or int(jump[1], 16) > address:
            continue
        loops.append((index.get(int(jump[1], 16), i), i))
    return [
        [text for _, text in lines[begin : end + 1]]
        for begin, end in loops
        if not any(begin <= b and e < end for b, e in loops)
    ]
