"""The precisions that a layer can have, and known choices of them, by the names in commands."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRECISIONS", "PRESETS", "Precision"]


@dataclass(frozen=True)
class Precision:
    """How a layer's weights are stored, and in which arithmetic the layer runs.

    weight_bits: of a stored weight. is_integer: int8 activations, of ranges that calibration saw,
    and int32 sums. is_dynamic: the same sums, but activations are float32 between layers and
    quantized with a range found at run time. Neither: float32.
    """

    name: str
    weight_bits: int
    is_integer: bool
    is_dynamic: bool = False


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("int8", 8, True),
        Precision("int4", 4, True),
        Precision("int3", 3, True),
        Precision("int2", 2, True),
        Precision("dynamic", 8, False, is_dynamic=True),
        Precision("float16", 16, False),
        Precision("fp32", 32, False),
    )
}

PRESETS = {
    # Paper P1, Table 2: all INT8 but SE-Res2Blocks 2 and 3.
    "p1": {"all": "int8", "blocks.2": "fp32", "blocks.3": "fp32"},
    # The first layer is small, and what it loses goes through all others.
    "w4": {"all": "int4", "blocks.0": "int8"},
    "w3": {"all": "int3", "blocks.0": "int8"},
}
"""Choices of precisions that have a name, as ``quantize`` takes them."""
