"""What the GPU benchmarks say where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHECK = BENCHMARKS / "gpu_check.sh"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: "),
        (["{out}", "nonsense"], "unknown stage 'nonsense'"),
        (["{out}", "build"], "no nvidia-smi"),
    ],
)
def test_the_check_says_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    """In one line, with status 2."""
    given = [argument.replace("{out}", str(tmp_path / "out")) for argument in arguments]
    # A PATH without the driver's tools.
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "mkdir", "dirname", "env"):
        (tools / tool).symlink_to(next(p for p in search(tool)))
    done = subprocess.run(
        [str(CHECK), *given], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_check: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def search(tool: str) -> list[Path]:
    folders = map(Path, os.environ["PATH"].split(os.pathsep))
    return [folder / tool for folder in folders if (folder / tool).exists()]


@pytest.mark.parametrize("script", ["gpu_kernels", "gpu_network", "gpu_lengths", "gpu_table"])
def test_scripts_explain_themselves(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout
