"""The NEON kernels on other processors: cross-built, and run by qemu on emulated Arm cores.

Needs aarch64-linux-gnu-g++ and qemu-aarch64-static (Debian: g++-aarch64-linux-gnu and
qemu-user-static).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from programs import ROOT, Lines, build, functions, innermost_loops, tool

BUILD = ROOT / "build" / "neon"

# As in test_registers.py: what multiplies, how often in a turn of a full tile's innermost loop.
TILES = {
    "earmark::neon_dotprod::conv_s8": ("sdot", 96),
    "earmark::neon_dotprod::conv_acc_s8": ("sdot", 96),
    "earmark::neon_dotprod::conv_s8_f32": ("sdot", 96),
    "earmark::neon_dotprod::conv_f32": ("fmla", 24),
    "earmark::neon_i8mm::conv_s8": ("usmmla", 24),
    "earmark::neon_i8mm::conv_acc_s8": ("usmmla", 24),
    "earmark::neon_i8mm::conv_s8_f32": ("usmmla", 24),
    "earmark::neon_i8mm::conv_f32": ("fmla", 24),
}


@pytest.fixture(scope="module")
def program() -> Path:
    """`isa_agreement` for aarch64."""
    compiler = tool("aarch64-linux-gnu-g++")
    options = [
        "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_EXE_LINKER_FLAGS=-static",
        f"-DPython_EXECUTABLE={sys.executable}", "-DEARMARK_CUDA=OFF",
    ]  # fmt: skip
    build(BUILD, options, ["isa_agreement"])
    return BUILD / "isa_agreement"


@pytest.fixture(scope="module")
def machine_code(program: Path) -> dict[str, Lines]:
    return functions(tool("aarch64-linux-gnu-objdump"), program)


@pytest.mark.parametrize(
    ("core", "plans", "expected"),
    [
        ("max", 60, ["scalar", "neon_dotprod", "neon_i8mm"]),
        ("cortex-a76", 8, ["scalar", "neon_dotprod"]),
        ("cortex-a72", 4, ["scalar"]),
    ],
)
def test_kernels_agree(core: str, plans: int, expected: list[str], program: Path) -> None:
    """Each core runs the kernels that it has instructions for, and no others."""
    command = [tool("qemu-aarch64-static"), "-cpu", core, program, str(plans)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line = rf"(\w+): {plans} plans, \d{{2,}} tensors equal, by \d{{2}} kernels"
    assert re.findall(line, done.stdout) == expected


@pytest.mark.parametrize("name", TILES)
def test_no_accumulator_on_the_stack(name: str, machine_code: dict[str, Lines]) -> None:
    multiply, products = TILES[name]
    tiles = [
        loop
        for loop in innermost_loops(machine_code[name])
        if sum(text.startswith(multiply) for text in loop) == products
    ]
    assert tiles
    for loop in tiles:
        assert not [text for text in loop if re.match(r"(ld|st)\w+ q.*\[sp", text)]
