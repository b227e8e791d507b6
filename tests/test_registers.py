"""Inner loops of the tiles keep their accumulators in registers.

A tile whose accumulators go through the stack runs at about half its speed and returns the same
bits, so that no other test would notice. Speed itself is not tested here.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from earmark import _C

# By kernel: what multiplies, and how often in a turn of a full tile's innermost loop; the turn also
# broadcasts the inputs of its rows. AVX2 has a second tile, of pairs.
TILES = {
    "earmark::avx512_vnni::conv_s8": ("vpdpbusd", 24, 6),
    "earmark::avx512_vnni::conv_acc_s8": ("vpdpbusd", 24, 6),
    "earmark::avx512_vnni::conv_s8_f32": ("vpdpbusd", 24, 6),
    "earmark::avx512_vnni::conv_f32": ("vfmadd", 24, 12),
    "earmark::avx_vnni::conv_s8": ("vpdpbusd", 12, 6),
    "earmark::avx_vnni::conv_acc_s8": ("vpdpbusd", 12, 6),
    "earmark::avx_vnni::conv_s8_f32": ("vpdpbusd", 12, 6),
    "earmark::avx2::conv_s8": ("vpmaddwd", 12, 6),
    "earmark::avx2::conv_s8, paired": ("vpmaddubsw", 16, 8),
    "earmark::avx2::conv_s8_f32": ("vpmaddwd", 12, 6),
    "earmark::avx2::conv_s8_f32, paired": ("vpmaddubsw", 16, 8),
    "earmark::avx2::conv_acc_s8": ("vpmaddwd", 12, 6),
    "earmark::avx2::conv_acc_s8, paired": ("vpmaddubsw", 16, 8),
    "earmark::avx2::conv_f32": ("vfmadd", 12, 6),
}

LINE = re.compile(r"\s*([0-9a-f]+):\s+(.*)")
JUMP = re.compile(r"j\w+\s+([0-9a-f]+)")


@pytest.fixture(scope="module")
def functions() -> dict[str, list[tuple[int, str]]]:
    """(address, instruction) of each function of the extension, by its name without arguments."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("there is no objdump")
    command = [objdump, "-d", "-C", "--no-show-raw-insn", _C.__file__]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[tuple[int, str]]] = {}
    lines: list[tuple[int, str]] = []
    for line in text.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            lines = found.setdefault(start[1].split("(")[0], [])
        elif match := LINE.match(line):
            lines.append((int(match[1], 16), match[2]))
    assert "earmark::scalar::conv_s8" in found, "stripped; make test builds it with its symbols"
    return found


def innermost_loops(lines: list[tuple[int, str]]) -> list[list[str]]:
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


@pytest.mark.parametrize("name", TILES)
def test_no_accumulator_on_the_stack(
    name: str, functions: dict[str, list[tuple[int, str]]]
) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("kernels of another processor")
    if name not in functions and "avx_vnni::" in name:
        pytest.skip("the compiler does not know AVX-VNNI")
    multiply, products, rows = TILES[name]
    name = name.removesuffix(", paired")
    tiles = [
        loop
        for loop in innermost_loops(functions[name])
        if sum(multiply in text for text in loop) == products
        and sum("broadcast" in text for text in loop) == rows
    ]
    assert tiles
    for loop in tiles:
        assert not [text for text in loop if "mm" in text and "(%rsp" in text]
