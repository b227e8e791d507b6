"""Inner loops of the tiles keep their accumulators in registers.

A tile whose accumulators go through the stack runs at about half its speed and returns the same
bits, so that no other test would notice. Speed itself is not tested here.
"""

from __future__ import annotations

import platform

import pytest

from earmark import _C
from programs import Lines, functions, innermost_loops, tool

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


@pytest.fixture(scope="module")
def extension() -> dict[str, Lines]:
    found = functions(tool("objdump"), _C.__file__)
    assert "earmark::scalar::conv_s8" in found, "stripped; make test builds it with its symbols"
    return found


@pytest.mark.parametrize("name", TILES)
def test_no_accumulator_on_the_stack(name: str, extension: dict[str, Lines]) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("kernels of another processor")
    if name not in extension and "avx_vnni::" in name:
        pytest.skip("the compiler does not know AVX-VNNI")
    multiply, products, rows = TILES[name]
    name = name.removesuffix(", paired")
    tiles = [
        loop
        for loop in innermost_loops(extension[name])
        if sum(multiply in text for text in loop) == products
        and sum("broadcast" in text for text in loop) == rows
    ]
    assert tiles
    for loop in tiles:
        assert not [text for text in loop if "mm" in text and "(%rsp" in text]
