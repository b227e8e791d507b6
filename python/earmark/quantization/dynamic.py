"""Quantizations that are found at run time, for each recording and layer (docs/arithmetic.md)."""

from __future__ import annotations

from dataclasses import dataclass

from earmark.plan import JSON, PlanBuilder, base_of

__all__ = ["FoundRanges", "Quantized"]

_SCALE_INVERSE_ZERO = 3


@dataclass(frozen=True)
class Quantized:
    """An int8 copy of a float32 tensor, and the vector that holds its quantization."""

    name: str
    quantization: str


class FoundRanges:
    """Int8 copies of a plan's float32 tensors; ops that read the same content share one."""

    def __init__(self, builder: PlanBuilder) -> None:
        self._builder = builder
        self._copies: dict[str, Quantized] = {}  # by the name of what was copied

    def read(self, source: str, reader: str) -> Quantized:
        """The copy of ``source``, made under the name ``reader`` where there is none yet."""
        if source not in self._copies:
            self._copies[source] = self._quantize(source, reader)
        return self._copies[source]

    def forget(self, written: str) -> None:
        """An op has written that tensor: copies of what lay in its memory are old."""
        base = base_of(self._builder.plan, written)
        self._copies = {
            source: copy
            for source, copy in self._copies.items()
            if base_of(self._builder.plan, source) != base
        }

    def _quantize(self, source: str, reader: str) -> Quantized:
        b, desc = self._builder, self._builder.tensors[source]
        shape: JSON = {"width": desc["width"]} if "width" in desc else {}
        found = b.tensor(f"{reader}.quantization", "vector", "f32", _SCALE_INVERSE_ZERO)
        b.op("range_f32", f"{reader}.range", **{"in": source}, out=found)
        copy = b.tensor(f"{reader}.s8", desc["kind"], "s8", desc["channels"], **shape)
        b.op("quantize_s8", f"{reader}.quantize", **{"in": source}, quantization=found, out=copy)
        return Quantized(copy, found)
