"""The precisions that a layer can have, and known choices of them, by the names in commands."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRECISIONS", "PRESETS", "Precision"]

_FLOAT_BITS = 32


@dataclass(frozen=True)
class Precision:
    """How a layer's weights are stored, and in which arithmetic the layer runs.

    weight_bits: of a stored weight. activation_bits: of what the weights multiply; 32 are float32.
    is_dynamic: activations are quantized with a range found at run time, others with one that
    calibration saw.
    """

    name: str
    weight_bits: int
    activation_bits: int = _FLOAT_BITS
    is_dynamic: bool = False

    @property
    def is_float(self) -> bool:
        """Float32 arithmetic."""
        return self.activation_bits == _FLOAT_BITS

    @property
    def is_calibrated(self) -> bool:
        """Needs ranges that calibration saw."""
        return not (self.is_float or self.is_dynamic)

    @property
    def is_wide(self) -> bool:
        """16 bits on one side or both: activations are float32 between layers, sums of 64 bits."""
        return self.is_calibrated and max(self.weight_bits, self.activation_bits) > 8

    @property
    def has_few_bits(self) -> bool:
        """Weights so coarse that rounding is worth the inputs' covariance."""
        return self.weight_bits < 7

    @property
    def is_integer(self) -> bool:
        """Int8 between layers too, and int32 sums."""
        return self.is_calibrated and not self.is_wide


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("int8", 8, 8),
        Precision("int7", 7, 8),
        Precision("int4", 4, 8),
        Precision("int3", 3, 8),
        Precision("int2", 2, 8),
        Precision("int16", 16, 16),
        Precision("w8a16", 8, 16),
        Precision("w4a16", 4, 16),
        Precision("w3a16", 3, 16),
        Precision("w2a16", 2, 16),
        Precision("w16a8", 16, 8),
        Precision("dynamic", 8, 8, is_dynamic=True),
        Precision("float16", 16),
        Precision("fp32", 32),
    )
}

PRESETS = {
    # Paper P1, Table 2: all INT8 but SE-Res2Blocks 2 and 3.
    "p1": {"all": "int8", "blocks.2": "fp32", "blocks.3": "fp32"},
    # The first layer is small, and what it loses goes through all others; with 3 bits the last
    # one costs nearly as much.
    "w4": {"all": "int4", "blocks.0": "int8"},
    "w3": {"all": "int3", "blocks.0": "int8", "fc": "int4"},
}
"""Choices of precisions that have a name, as ``quantize`` takes them."""
