"""What nvcc makes of the integer kernels: every float operation is rounded on its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def ptx(name: str, folder: Path) -> str:
    nvcc = shutil.which("nvcc", path="/usr/local/cuda/bin") or shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    out = folder / f"{name}.ptx"
    # The option of CMakeLists.txt.
    assert "-fmad=false" in (ROOT / "CMakeLists.txt").read_text()
    command = [nvcc, "-std=c++17", "-arch=compute_80", "-fmad=false", "--ptx", "-I", ROOT / "csrc"]
    subprocess.run([*command, ROOT / f"csrc/cuda/{name}.cu", "-o", out], check=True)
    return out.read_text()


@pytest.mark.parametrize("name", ["attentive_pool_s8", "conv_s8", "range_f32"])
def test_nothing_is_contracted(name: str, tmp_path: Path) -> None:
    text = ptx(name, tmp_path)
    assert re.search(r"\bmul\.rn\.f32\b", text)
    # Without .rn the assembler may fuse.
    assert not re.findall(
        r"\b(?:fma\S*|(?:mul|add|sub|mad)\.f(?:32|64)|\S*\.(?:approx|ftz)\S*)\b.*", text
    )
    if name == "conv_s8":
        for instruction in ("mma.sync.aligned.m16n8k32", "ldmatrix", "cp.async.cg"):
            assert instruction in text
