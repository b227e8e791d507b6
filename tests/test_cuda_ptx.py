"""What nvcc makes of the kernels: every float operation is rounded on its own, unless the source
says otherwise, and the tensor cores are used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu"))

# Kernels of float32 layers, which ask for `multiply_add` by name (core/softmax.h).
FUSED = {"attentive_pool_f32", "conv_f32", "softmax"}
MULTIPLIES = ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8", "ldmatrix", "cp.async.cg")
INSTRUCTIONS = {
    "attentive_pool_s16": MULTIPLIES,
    "attentive_pool_s8": MULTIPLIES,
    "conv_s16": MULTIPLIES,
    "conv_s8": MULTIPLIES,
    "dense_s8": ("dp4a",),
    "res2_s8": MULTIPLIES,
    "squeeze_excitation_s8": ("dp4a",),
}
# Without .rn the assembler may contract, or an approximation is meant.
INEXACT = (
    r"\b(?:mul|add|sub|mad)\.f(?:32|64)\b.*"
    r"|\b(?:div|sqrt|rcp)\.(?!rn\.f|[su]\d)\S*"
    r"|\S*\.(?:approx|ftz)\b.*"
)


def ptx(name: str, folder: Path, architecture: str) -> str:
    nvcc = shutil.which("nvcc", path="/usr/local/cuda/bin") or shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    out = folder / f"{name}.ptx"
    # The option of CMakeLists.txt.
    assert "-fmad=false" in (ROOT / "CMakeLists.txt").read_text()
    options = ["-std=c++17", f"-arch={architecture}", "-fmad=false", "--ptx", "-I", ROOT / "csrc"]
    command = [nvcc, *options, ROOT / f"csrc/cuda/{name}.cu", "-o", out]
    subprocess.run(command, check=True)
    return out.read_text()


def check_arithmetic(name: str, text: str) -> None:
    assert not re.findall(INEXACT, text)
    fused = set(re.findall(r"\bfma\S*", text))
    assert fused == ({"fma.rn.f32"} if name in FUSED else set())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_contracted(name: str, tmp_path: Path) -> None:
    text = ptx(name, tmp_path, "compute_80")
    check_arithmetic(name, text)
    for instruction in INSTRUCTIONS.get(name, ()):
        assert instruction in text
    assert "wgmma" not in text


def test_hopper(tmp_path: Path) -> None:
    text = ptx("conv_s8", tmp_path, "compute_90a")
    check_arithmetic("conv_s8", text)
    for instruction in (*MULTIPLIES, "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8"):
        assert instruction in text
    # What the threads have copied is shown to the tensor cores before each barrier of the loop.
    assert "fence.proxy.async.shared::cta" in text
