"""The tensors of an integer plan: which are int8, their scales and zero points, and conversions.

A frames tensor is int8 unless every op that writes into its memory has a float32 result. Where an
op reads or writes the other kind a conversion is inserted. Vectors stay float32 between ops; an
integer dense layer quantizes its own input, channel by channel, a dynamic one with the range found
at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays
from earmark.plan import INPUT, JSON, OUTPUT, SCORES, PlanBuilder, base_of
from earmark.quantization.calibration import Calibration
from earmark.quantization.dynamic import FoundRanges
from earmark.quantization.precision import Precision

__all__ = ["Operand", "PlanTensors", "Quantization", "as_stored", "attributes_of"]

Array = NDArray[Any]

# A recording's statistics may leave the range that a few hundred calibration recordings span: on
# the bootstrap model the worst cosine of 290 unseen recordings is 0.986, 0.9935, 0.9992 at margins
# of 1, 1.6, 3, the mean best at 2.5 to 3.
_VECTOR_MARGIN = 3.0
# How far the steps of a vector's channels level the weights that read them, as a part of what would
# level all: more would cost the vector itself more than the weights gain.
_LEVELLING = 0.5
# Of a 16-bit tensor: a bit less of resolution, for recordings that are louder or stranger than
# those of the calibration. In a vector all channels reach as far: one that was zero in the
# calibration may not be in another recording.
_WIDE_MARGIN = 2.0
# Below what a file may hold, 2^40.
_MAX_MULTIPLIER = 2.0**39
# Of an int8 output, whose one range is the largest of all its channels and recordings.
_OUTPUT_MARGIN = 1.25


@dataclass(frozen=True)
class Quantization:
    """x = scale * (q - zero_point)."""

    scale: float
    zero_point: int

    @staticmethod
    def of_range(low: float, high: float, bits: int = 8) -> Quantization:
        """The quantization whose 2^bits steps cover [low, high], which contains 0."""
        half = 1 << (bits - 1)
        scale = float(np.float32(max(high - low, 1e-12) / (2 * half - 1)))
        return Quantization(scale, int(np.clip(np.rint(-half - low / scale), -half, half - 1)))


@dataclass
class Operand:
    """An integer tensor as an op reads it: each channel with its scale and zero point."""

    name: str
    scale: Array
    zero: Array

    @property
    def uniform(self) -> Quantization:
        if len(set(self.zero.tolist())) > 1 or len(set(self.scale.tolist())) > 1:
            raise ValueError(f"the parts of {self.name!r} are quantized differently")
        return Quantization(float(self.scale[0]), int(self.zero[0]))


class PlanTensors:
    """What ops read and write in the plan that is being built.

    source: the float32 plan. precision: of every op of it by its name. integer_ends: the plan's
    input and output are int8.
    """

    def __init__(
        self,
        network: PlanBuilder,
        calibration: Calibration,
        precision: Mapping[str, Precision],
        integer_ends: bool,
    ) -> None:
        self.source = network
        self.calibration = calibration
        self.precision = precision
        self.builder = PlanBuilder()
        self.found = FoundRanges(self.builder)
        self.tanh_outputs = {op["out"] for op in network.ops if op.get("activation") == "tanh"}
        self.integer_outputs = {OUTPUT, SCORES} if integer_ends else set()
        self.written: dict[str, str] = {}  # base -> dtype
        for op in network.ops:
            if network.tensors[op["out"]]["kind"] == "frames":
                base = base_of(network.plan, op["out"])
                chosen = self.precision[op["name"]]
                # The range of a tanh is known without any data.
                bounded = chosen.is_dynamic and op["out"] in self.tanh_outputs
                if chosen.is_integer or bounded:
                    self.written[base] = "s8"
                self.written.setdefault(base, "f32")
        self.written[INPUT] = "s8" if integer_ends else "f32"
        self.scales: dict[str, Array] = {}  # base -> scale of each channel now in it
        self.zeros: dict[str, Array] = {}

    def _declare(self, name: str, **changes: Any) -> str:
        """Declare a tensor of the source plan, and its base, in the dtype it has here."""
        if name in self.builder.tensors:
            return name
        desc = {**self.source.tensors[name], **changes}
        if desc["kind"] == "frames":
            base = base_of(self.source.plan, name)
            if base != name:
                self._declare(base)
            desc["dtype"] = self.written[base]
            if desc["dtype"] == "s8":
                quantization = self._quantization(name)
                desc["scale"] = quantization.scale
                desc["zero_point"] = quantization.zero_point
        elif name in self.integer_outputs:
            # Symmetric: a cosine of the integers is one of what they stand for.
            seen = self.calibration.vectors[name]
            largest = max(float(np.abs(values).max()) for values in (seen.low, seen.high))
            step = np.float32(max(_OUTPUT_MARGIN * largest, 1e-12) / 127)
            desc |= {"dtype": "s8", "scale": float(step), "zero_point": 0}
        self.builder.tensors[name] = desc
        return name

    def _quantization(self, name: str) -> Quantization:
        """Of a tensor that an op writes, or else of what now lies in its channels."""
        if name in self.tanh_outputs:
            return _of_tanh()
        if name in self.calibration.observers:
            return Quantization.of_range(*self.calibration.range(name))
        scale, zero = self._channels(name)
        return Quantization(float(scale[0]), int(zero[0]))

    def _channels(self, name: str) -> tuple[Array, Array]:
        """Scale and zero point of each channel that lies there now, for reading and writing."""
        desc = self.source.tensors[name]
        base = base_of(self.source.plan, name)
        channels = self.source.tensors[base]["channels"]
        scales = self.scales.setdefault(base, np.ones(channels, dtype=np.float32))
        zeros = self.zeros.setdefault(base, np.zeros(channels, dtype=np.int8))
        part = slice(desc.get("offset", 0), desc.get("offset", 0) + desc["channels"])
        return scales[part], zeros[part]

    def _set_channels(self, name: str, quantization: Quantization) -> None:
        scale, zero = self._channels(name)
        scale[:] = quantization.scale
        zero[:] = quantization.zero_point

    def _arrays(self, op: JSON) -> Arrays:
        return self.source.arrays_of(op)

    def _is_s8(self, name: str) -> bool:
        if self.source.tensors[name]["kind"] == "vector":
            return name in self.integer_outputs
        return self.written[base_of(self.source.plan, name)] == "s8"

    def _read_integer(self, op: JSON, role: str, bits: int = 8) -> Operand:
        """Int8 as it is where the plan has it; else quantized with the range that was seen."""
        name = op[role]
        desc = self.source.tensors[name]
        if self._is_s8(name):
            scale, zero = self._channels(name)
            return Operand(self._declare(name), scale.copy(), zero.copy())
        if name in self.tanh_outputs:
            quantization = _of_tanh(bits)
        else:
            margin = 1.0 if bits == 8 else _WIDE_MARGIN
            low, high = self._observed_range(name)
            quantization = Quantization.of_range(margin * low, margin * high, bits)
        copy = self._new(f"{op['name']}.{role}.s{bits}", f"s{bits}", desc, quantization)
        self._quantize(f"{op['name']}.{role}.quantize", self._declare(name), copy, quantization)
        ones = np.ones(desc["channels"])
        return Operand(
            copy,
            (ones * quantization.scale).astype(np.float32),
            (ones * quantization.zero_point).astype(np.int16 if bits > 8 else np.int8),
        )

    def _read_dynamic(self, op: JSON, role: str) -> tuple[Operand, str | None]:
        """Int8 as it is where the plan has it or its range is known; else with a found range.

        The second is the vector that holds the quantization; the operand has a scale of 1 then.
        """
        name = op[role]
        if self._is_s8(name) or name in self.tanh_outputs:
            return self._read_integer(op, role), None
        copy = self.found.read(self._declare(name), f"{op['name']}.{role}")
        channels = self.source.tensors[name]["channels"]
        operand = Operand(copy.name, np.ones(channels, np.float32), np.zeros(channels, np.int8))
        return operand, copy.quantization

    def _observed_range(self, name: str) -> tuple[float, float]:
        """Of the tensor itself, or of all tensors that lie in its channels."""
        if name in self.calibration.observers:
            return self.calibration.range(name)
        desc = self.source.tensors[name]
        begin = desc.get("offset", 0)
        ranges = [
            self.calibration.range(other)
            for other, d in self.source.tensors.items()
            if other in self.calibration.observers
            and base_of(self.source.plan, other) == base_of(self.source.plan, name)
            and d.get("offset", 0) < begin + desc["channels"]
            and begin < d.get("offset", 0) + d["channels"]
        ]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def _read_f32(self, op: JSON, role: str) -> str:
        name: str = op[role]
        desc = self.source.tensors[name]
        if not self._is_s8(name):
            return self._declare(name)
        scale, zero = (channels.copy() for channels in self._channels(name))
        copy = self._new(f"{op['name']}.{role}.f32", "f32", desc)
        base = self._declare(base_of(self.source.plan, name))
        shape: JSON = {"width": desc["width"]} if "width" in desc else {}
        # One conversion for each run of channels with the same zero point.
        borders = [0, *(np.flatnonzero(np.diff(zero)) + 1).tolist(), len(zero)]
        for begin, end in pairwise(borders):
            source = self.builder.tensor(
                f"{copy}.from.{begin}",
                "frames",
                "s8",
                end - begin,
                of=base,
                offset=desc.get("offset", 0) + begin,
                scale=float(scale[begin]),
                zero_point=int(zero[begin]),
                **shape,
            )
            part = self.builder.tensor(
                f"{copy}.part.{begin}", "frames", "f32", end - begin, of=copy, offset=begin, **shape
            )
            self.builder.op(
                "dequantize_f32",
                f"{copy}.dequantize.{begin}",
                {"multiplier": scale[begin:end]},
                **{"in": source},
                out=part,
            )
        return copy

    def _new(
        self, name: str, dtype: str, like: JSON, quantization: Quantization | None = None
    ) -> str:
        attributes: JSON = {"width": like["width"]} if "width" in like else {}
        if quantization is not None:
            attributes["scale"] = quantization.scale
            attributes["zero_point"] = quantization.zero_point
        return self.builder.tensor(name, like["kind"], dtype, like["channels"], **attributes)

    def _written_s8(self, op: JSON, reads: str = "") -> tuple[str, Quantization]:
        """Declare the output of an int8 op; ``reads`` is the tensor that it may lie over."""
        name = op["out"]
        over = self.source.tensors[name].get("over")
        self._declare(name)
        if over is not None and over != reads:
            del self.builder.tensors[name]["over"]
        quantization = self._quantization(name)
        self._set_channels(name, quantization)
        return name, quantization

    def _emit_f32(self, op: JSON, reads: tuple[str, ...]) -> None:
        """The op as it is, between conversions where its tensors are int8."""
        changed = {role: self._read_f32(op, role) for role in reads if role in op}
        self._write_f32(op, op["op"], self._arrays(op), {**attributes_of(op), **changed})

    def _write_f32(self, op: JSON, kind: str, arrays: Arrays, attributes: JSON) -> None:
        """An op with a float32 result, and a conversion where the plan has int8 there."""
        out = op["out"]
        converts = self._is_s8(out)
        like = self.source.tensors[out]
        target = self._new(f"{op['name']}.out.f32", "f32", like) if converts else self._declare(out)
        over = self.builder.tensors[target].get("over")
        if over is not None and (over != attributes.get("in") or self._is_s8(over)):
            del self.builder.tensors[target]["over"]
        self.builder.op(kind, op["name"], arrays, **{**attributes, "out": target})
        if converts and like["kind"] == "vector":
            self._quantize(f"{op['name']}.out.quantize", target, out, self._output(out))
        elif converts:
            name, quantization = self._written_s8(op)
            self._quantize(f"{op['name']}.out.quantize", target, name, quantization)

    def _output(self, name: str) -> Quantization:
        """Of an int8 output of the plan."""
        desc = self.builder.tensors[self._declare(name)]
        return Quantization(desc["scale"], desc["zero_point"])

    def _quantize(self, name: str, source: str, out: str, quantization: Quantization) -> None:
        arrays = {"multiplier": np.array([1.0 / quantization.scale]), "offset": np.zeros(1)}
        kind = f"quantize_{self.builder.tensors[out]['dtype']}"
        self.builder.op(kind, name, as_stored(arrays), **{"in": source}, out=out)

    def _vector_integer(self, op: JSON, weight: Array, bits: int = 8) -> tuple[str, Array, Array]:
        """Quantize an op's input vector; returns its name, scale and centre of each channel.

        For weights (out, channels) of few bits, columns of small ones get a larger step, so that
        what they multiply is nearer to the large ones.
        """
        name = self._declare(op["in"])
        seen = self.calibration.vectors[name]
        low, high = seen.low.astype(np.float64), seen.high.astype(np.float64)
        centre = (low + high) / 2
        half = (high - low) / 2 * _VECTOR_MARGIN
        if bits > 8:
            half = np.maximum(half, _WIDE_MARGIN * np.maximum(high, -low).max())
        # A channel that calibration never saw move still gets a step of its own size.
        half = np.maximum(half, np.maximum(np.abs(centre), 1e-6) * 1e-3)
        limit = (1 << (bits - 1)) - 1
        half = np.maximum(half, limit / _MAX_MULTIPLIER)
        if self.precision[op["name"]].has_few_bits:
            largest = np.maximum(np.abs(weight.astype(np.float64)).max(axis=0), 1e-12)
            half = np.maximum(half, _LEVELLING * np.max(half * largest) / largest)
        multiplier = (limit / half).astype(np.float32)
        offset = (-centre * multiplier).astype(np.float32)
        dtype = f"s{bits}"
        out = self.builder.tensor(
            f"{op['name']}.in.{dtype}", "vector", dtype, len(centre), zero_point=0
        )
        self.builder.op(
            f"quantize_{dtype}",
            f"{op['name']}.in.quantize",
            {"multiplier": multiplier, "offset": offset},
            **{"in": name},
            out=out,
        )
        wide = multiplier.astype(np.float64)
        return out, 1 / wide, -offset / wide

    def _normalised(self, op: JSON) -> tuple[str, Array, Array]:
        """An op's input vector, its channels made alike where the network knows their statistics.

        One range for all channels then suits each. Returns its name, scale and centre.
        """
        name = self._declare(op["in"])
        size = self.source.tensors[name]["channels"]
        if name not in self.source.statistics:
            return name, np.ones(size), np.zeros(size)
        mean, deviation = self.source.statistics[name]
        out = self.builder.tensor(f"{op['name']}.in.normalised", "vector", "f32", size)
        affine = as_stored({"multiplier": 1 / deviation, "offset": -mean / deviation})
        self.builder.op("affine_f32", f"{op['name']}.in.normalise", affine, **{"in": name}, out=out)
        wide = affine["multiplier"].astype(np.float64)
        return out, 1 / wide, -affine["offset"] / wide


def _of_tanh(bits: int = 8) -> Quantization:
    """Its values lie in [-1, 1], whatever the data."""
    return Quantization(1 / ((1 << (bits - 1)) - 1), 0)


def attributes_of(op: JSON) -> JSON:
    """All but what it is called and its arrays."""
    return {k: v for k, v in op.items() if k not in ("op", "name", "arrays")}


def as_stored(arrays: Arrays) -> Arrays:
    """Floats as float32, subnormals as 0: files hold none."""
    out: Arrays = {}
    for role, array in arrays.items():
        if array.dtype.kind == "i":
            out[role] = array
        else:
            values = array.astype(np.float32)
            out[role] = np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, values).astype(
                np.float32
            )
    return out
