"""From a float32 plan and its calibration to an integer plan, op by op (docs/arithmetic.md).

Each op runs in the precision of its layer. A frames tensor is int8 unless every op that writes into
its memory is float32 or dynamic; conversions are inserted where an op reads or writes the other
kind. Vectors stay float32 between ops; an integer dense layer quantizes its own input, channel by
channel, a dynamic one with the range found at run time.
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
from earmark.quantization.epilogue import in_steps, sigmoid_table, tanh_table
from earmark.quantization.precision import Precision
from earmark.quantization.softmax import integer_softmax
from earmark.quantization.weights import quantize_weights

Array = NDArray[Any]

_TANH_SCALE = 1.0 / 127.0
# A recording's statistics may leave the range that a few hundred calibration recordings span: on
# the bootstrap model the worst cosine of 290 unseen recordings is 0.986, 0.9935, 0.9992 at margins
# of 1, 1.6, 3, the mean best at 2.5 to 3.
_VECTOR_MARGIN = 3.0
# How far the steps of a vector's channels level the weights that read them, as a part of what would
# level all: more would cost the vector itself more than the weights gain.
_LEVELLING = 0.5
# Of an int8 output, whose one range is the largest of all its channels and recordings.
_OUTPUT_MARGIN = 1.25


@dataclass(frozen=True)
class Quantization:
    """x = scale * (q - zero_point)."""

    scale: float
    zero_point: int

    @staticmethod
    def of_range(low: float, high: float) -> Quantization:
        """The quantization whose 256 steps cover [low, high], which contains 0."""
        scale = float(np.float32(max(high - low, 1e-12) / 255))
        return Quantization(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


@dataclass
class _Operand:
    """An int8 tensor as an op reads it: each channel with its scale and zero point."""

    name: str
    scale: Array
    zero: Array

    @property
    def uniform(self) -> Quantization:
        if len(set(self.zero.tolist())) > 1 or len(set(self.scale.tolist())) > 1:
            raise ValueError(f"the parts of {self.name!r} are quantized differently")
        return Quantization(float(self.scale[0]), int(self.zero[0]))


def quantize_plan(
    network: PlanBuilder,
    calibration: Calibration | None,
    precision: Mapping[str, Precision],
    integer_ends: bool = False,
    balanced: bool = True,
) -> PlanBuilder:
    """The integer plan of a float32 plan.

    calibration: None where no op is integer and the ends are float32. precision: of every op by its
    name. Weights of layers whose inputs calibration has the covariance of are rounded with
    compensation, others balanced or to the nearest. integer_ends: the plan's input and output are
    int8.
    """
    seen = calibration or Calibration("none")
    return _Quantizer(network, seen, precision, integer_ends, balanced).run()


class _Quantizer:
    def __init__(
        self,
        network: PlanBuilder,
        calibration: Calibration,
        precision: Mapping[str, Precision],
        integer_ends: bool,
        balanced: bool,
    ) -> None:
        self.balanced = balanced
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

    def run(self) -> PlanBuilder:
        if self.written[INPUT] == "s8":
            self._declare(INPUT)
            self._set_channels(INPUT, self._quantization(INPUT))
        for op in self.source.ops:
            kind = op["op"].removesuffix("_f32")
            chosen = self.precision[op["name"]]
            suffix = "_s8" if chosen.is_integer else "_f32"
            if chosen.is_dynamic and "weight" in op["arrays"]:
                suffix = "_dynamic"
            getattr(self, f"_{kind}{suffix}")(op)
            self.found.forget(op["out"])
        return self.builder

    # --- tensors

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
            return Quantization(_TANH_SCALE, 0)
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

    def _is_s8(self, name: str) -> bool:
        if self.source.tensors[name]["kind"] == "vector":
            return name in self.integer_outputs
        return self.written[base_of(self.source.plan, name)] == "s8"

    def _read_s8(self, op: JSON, role: str) -> _Operand:
        name = op[role]
        desc = self.source.tensors[name]
        if self._is_s8(name):
            scale, zero = self._channels(name)
            return _Operand(self._declare(name), scale.copy(), zero.copy())
        if name in self.tanh_outputs:
            quantization = self._quantization(name)
        else:
            quantization = Quantization.of_range(*self._observed_range(name))
        copy = self._new(f"{op['name']}.{role}.s8", "s8", desc, quantization)
        self._quantize(f"{op['name']}.{role}.quantize", self._declare(name), copy, quantization)
        ones = np.ones(desc["channels"])
        return _Operand(
            copy,
            (ones * quantization.scale).astype(np.float32),
            (ones * quantization.zero_point).astype(np.int8),
        )

    def _read_dynamic(self, op: JSON, role: str) -> tuple[_Operand, str | None]:
        """Int8 as it is where the plan has it or its range is known; else with a found range.

        The second is the vector that holds the quantization; the operand has a scale of 1 then.
        """
        name = op[role]
        if self._is_s8(name) or name in self.tanh_outputs:
            return self._read_s8(op, role), None
        copy = self.found.read(self._declare(name), f"{op['name']}.{role}")
        channels = self.source.tensors[name]["channels"]
        operand = _Operand(copy.name, np.ones(channels, np.float32), np.zeros(channels, np.int8))
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
        self._write_f32(op, op["op"], self._arrays(op), {**_attributes(op), **changed})

    def _write_f32(self, op: JSON, kind: str, arrays: Arrays, attributes: JSON) -> None:
        """An op with a float32 result, and a conversion where the plan has int8 there."""
        out = op["out"]
        converts = self._is_s8(out)
        like = self.source.tensors[out]
        target = self._new(f"{op['name']}.out.f32", "f32", like) if converts else self._declare(out)
        over = self.builder.tensors[target].get("over")
        if over is not None and over != attributes.get("in"):
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
        self.builder.op("quantize_s8", name, _stored(arrays), **{"in": source}, out=out)

    def _vector_s8(self, op: JSON, weight: Array) -> tuple[str, Array, Array]:
        """Quantize an op's input vector; returns its name, scale and centre of each channel.

        For weights (out, channels) of few bits, columns of small ones get a larger step, so that
        what they multiply is nearer to the large ones.
        """
        name = self._declare(op["in"])
        seen = self.calibration.vectors[name]
        low, high = seen.low.astype(np.float64), seen.high.astype(np.float64)
        centre = (low + high) / 2
        half = (high - low) / 2 * _VECTOR_MARGIN
        # A channel that calibration never saw move still gets a step of its own size.
        half = np.maximum(half, np.maximum(np.abs(centre), 1e-6) * 1e-3)
        if self.precision[op["name"]].weight_bits < 8:
            largest = np.maximum(np.abs(weight.astype(np.float64)).max(axis=0), 1e-12)
            half = np.maximum(half, _LEVELLING * np.max(half * largest) / largest)
        multiplier = (127 / half).astype(np.float32)
        offset = (-centre * multiplier).astype(np.float32)
        out = self.builder.tensor(f"{op['name']}.in.s8", "vector", "s8", len(centre), zero_point=0)
        self.builder.op(
            "quantize_s8",
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
        affine = _stored({"multiplier": 1 / deviation, "offset": -mean / deviation})
        self.builder.op("affine_f32", f"{op['name']}.in.normalise", affine, **{"in": name}, out=out)
        wide = affine["multiplier"].astype(np.float64)
        return out, 1 / wide, -affine["offset"] / wide

    # --- ops

    def _conv_s8(self, op: JSON) -> None:
        self._integer_conv(op, self._read_s8(op, "in"))

    def _conv_dynamic(self, op: JSON) -> None:
        x, found = self._read_dynamic(op, "in")
        self._integer_conv(op, x, found, real=op.get("activation") != "tanh")

    def _integer_conv(
        self, op: JSON, x: _Operand, found: str | None = None, real: bool = False
    ) -> None:
        """``conv_s8``; ``real``: its result is float32 where it is not int8 in the plan."""
        arrays = self._arrays(op)
        weight, scale, lost = self._weights(op, arrays["weight"], x.scale)
        stored: Arrays = {"weight": weight}
        rows = _rows(arrays["epilogue"])
        if "bias" in op:
            self._add_to_vector(op["bias"], lost)
            self._declare(op["bias"])
            if "gain" not in rows:
                raise ValueError(f"op {op['name']!r}: a bias vector needs an affine after the ReLU")
        else:
            rows["offset"] += lost
        if found is None and np.any(x.zero != self.builder.tensors[x.name]["zero_point"]):
            stored["input_zero"] = x.zero
        attributes = {**_attributes(op), "in": x.name, "quantization": found}
        tanh = attributes.pop("activation", None) == "tanh"
        if real:
            stored["epilogue"] = in_steps(1.0, scale, rows)
            self._write_f32(op, "conv_s8", _stored(stored), attributes)
            return
        _, quantization = self._written_s8(op, reads=x.name)
        step = quantization.scale
        if tanh:
            step, stored["table"] = tanh_table(quantization.scale)
        stored["epilogue"] = in_steps(step, scale, rows)
        self.builder.op("conv_s8", op["name"], _stored(stored), **attributes)

    def _add_s8(self, op: JSON) -> None:
        x = self._read_s8(op, "in")
        residual = self._read_s8(op, "residual")
        x_step, residual_step = x.uniform.scale, residual.uniform.scale
        out, quantization = self._written_s8(op)
        if "gate" in op:
            self._declare(op["gate"])
        stored = {
            "multiplier": np.array([x_step / quantization.scale]),
            "residual_multiplier": np.array([residual_step / quantization.scale]),
        }
        changed = {"in": x.name, "residual": residual.name, "out": out}
        self.builder.op("add_s8", op["name"], _stored(stored), **{**_attributes(op), **changed})

    def _max_pool_s8(self, op: JSON) -> None:
        """Values are picked, not computed: channels keep their scale and zero point."""
        x = self._read_s8(op, "in")
        out = self._declare(op["out"])
        source = self.builder.tensors[x.name]
        self.builder.tensors[out] |= {key: source[key] for key in ("scale", "zero_point")}
        scale, zero = self._channels(out)
        scale[:] = x.scale
        zero[:] = x.zero
        self.builder.op("max_pool_s8", op["name"], **{**_attributes(op), "in": x.name})

    def _stats_s8(self, op: JSON) -> None:
        x = self._read_s8(op, "in")
        self._declare(op["out"])
        attributes = _attributes(op)
        if "min_variance" in attributes:
            attributes["min_variance"] /= x.uniform.scale**2
        stored = {"multiplier": np.array([x.uniform.scale])}
        self.builder.op("stats_s8", op["name"], _stored(stored), **{**attributes, "in": x.name})

    def _dense_s8(self, op: JSON) -> None:
        arrays = self._arrays(op)
        x, x_scale, centre = self._vector_s8(op, arrays["weight"])
        weight, scale, lost = self._weights(op, arrays["weight"], x_scale, centre)
        moved = arrays["weight"].astype(np.float64) @ centre
        self._integer_dense(op, x, weight, scale, moved + lost)

    def _dense_dynamic(self, op: JSON) -> None:
        source, x_scale, centre = self._normalised(op)
        copy = self.found.read(source, f"{op['name']}.in")
        stored = self._arrays(op)["weight"]
        weight, scale, lost = self._weights(op, stored, x_scale, centre)
        moved = stored.astype(np.float64) @ centre
        self._integer_dense(
            op, copy.name, weight, scale, moved + lost, quantization=copy.quantization
        )

    def _integer_dense(
        self, op: JSON, x: str, weight: Array, scale: Array, moved: Array, **attributes: str | None
    ) -> None:
        """``dense_s8`` of int8 ``x``; ``scale`` is of the sums, ``moved`` joins the offset."""
        rows = _rows(self._arrays(op)["epilogue"])
        if "gain" in rows:
            raise ValueError(f"op {op['name']!r}: an affine after a dense layer is not lowered yet")
        rows["offset"] += moved
        changed: JSON = {**_attributes(op), "in": x, **attributes}
        activation = changed.pop("activation", None)
        changed["relu"] = activation == "relu"
        stored: Arrays = {"weight": weight}
        if activation == "sigmoid":
            step, stored["table"] = sigmoid_table()
        else:
            step = self._output(op["out"]).scale if op["out"] in self.integer_outputs else 1.0
        stored["epilogue"] = in_steps(step, scale, rows)
        if activation == "sigmoid":
            self._write_f32(op, "dense_s8", _stored(stored), changed)
        else:
            self._declare(op["out"])
            self.builder.op("dense_s8", op["name"], _stored(stored), **changed)

    def _attentive_pool_s8(self, op: JSON) -> None:
        self._integer_pool(op, self._read_s8(op, "in"), self._read_s8(op, "values"))

    def _attentive_pool_dynamic(self, op: JSON) -> None:
        hidden, found = self._read_dynamic(op, "in")
        if found is not None:
            raise ValueError(f"op {op['name']!r}: the attention's hidden layer needs a tanh")
        self._integer_pool(op, hidden, *self._read_dynamic(op, "values"))

    def _integer_pool(
        self, op: JSON, hidden: _Operand, values: _Operand, found: str | None = None
    ) -> None:
        """``attentive_pool_s8``; ``found``: the vector of the values' quantization, if any."""
        arrays = self._arrays(op)
        weight, scale, lost = self._weights(op, arrays["weight"], hidden.scale)
        self._declare(op["out"])
        attributes = {**_attributes(op), "in": hidden.name, "values": values.name}
        stored = {"weight": weight, "multiplier": scale}
        if found is None:
            attributes["min_variance"] /= values.uniform.scale**2
            stored["value_multiplier"] = np.array([values.uniform.scale])
        else:
            attributes["values_quantization"] = found
        # The exact softmax does not see the layer's bias.
        if attributes.get("softmax", "exact") != "exact":
            bias = arrays["epilogue"][0].astype(np.float64) + lost
            stored |= integer_softmax(attributes["softmax"], arrays, weight, scale, bias)
        self.builder.op("attentive_pool_s8", op["name"], _stored(stored), **attributes)

    def _conv_f32(self, op: JSON) -> None:
        if "bias" in op:
            self._declare(op["bias"])
        self._emit_f32(op, ("in",))

    def _add_f32(self, op: JSON) -> None:
        if "gate" in op:
            self._declare(op["gate"])
        self._emit_f32(op, ("in", "residual"))

    def _max_pool_f32(self, op: JSON) -> None:
        self._emit_f32(op, ("in",))

    def _stats_f32(self, op: JSON) -> None:
        self._emit_f32(op, ("in",))

    def _dense_f32(self, op: JSON) -> None:
        self._emit_f32(op, ("in",))

    def _attentive_pool_f32(self, op: JSON) -> None:
        self._emit_f32(op, ("in", "values"))

    def _arrays(self, op: JSON) -> Arrays:
        return self.source.arrays_of(op)

    def _weights(
        self, op: JSON, weight: Array, scale: Array, centre: Array | float = 0.0
    ) -> tuple[Array, Array, Array]:
        """Integers and steps of weights whose input is ``scale * q + centre``, channel by channel.

        The third is what rounding takes from the mean of each output, where the inputs' mean is
        known: an offset can give it back.
        """
        bits = self.precision[op["name"]].weight_bits
        # Rounding takes time, and the plans of a search share most layers.
        key = op["name"], bits, scale.tobytes(), np.asarray(centre).tobytes()
        known = self.calibration.rounded
        if key not in known:
            known[key] = self._rounded(op["name"], weight, scale, centre, bits)
        integers, steps, lost = known[key]
        return integers, steps, lost

    def _rounded(
        self, name: str, weight: Array, scale: Array, centre: Array | float, bits: int
    ) -> tuple[Array, Array, Array]:
        wide = weight * scale.astype(np.float64)
        moments = self.calibration.inputs.get(name) if bits < 8 else None
        if moments is None:
            integers, steps = quantize_weights(wide, bits, balanced=self.balanced)
            return integers, steps, np.zeros(len(weight))
        taps = weight[0].size // len(scale)
        seen = moments.scaled(np.tile(scale.astype(np.float64), taps))
        integers, steps = quantize_weights(wide, bits, seen)
        error = (wide - integers * _columns(steps, wide)).reshape(len(wide), -1)
        mean = seen.mean() - np.tile(centre / scale.astype(np.float64), taps)
        return integers, steps, error @ mean

    def _add_to_vector(self, name: str, values: Array) -> None:
        """To the offset of the dense layer that wrote a vector."""
        if not np.any(values):
            return
        layer = next(op["name"] for op in self.builder.ops if op["out"] == name)
        row = self.builder.arrays[f"{layer}.epilogue"]
        self.builder.arrays[f"{layer}.epilogue"] = np.stack(
            [*row[:-1], (row[-1] + values).astype(np.float32)]
        )


def _columns(steps: Array, like: Array) -> Array:
    return steps.astype(np.float64).reshape(-1, *[1] * (like.ndim - 1))


def _attributes(op: JSON) -> JSON:
    return {k: v for k, v in op.items() if k not in ("op", "name", "arrays")}


def _rows(epilogue: Array) -> Arrays:
    """The rows of a float32 op's epilogue by name."""
    return dict(zip(("offset", "gain", "shift"), epilogue.astype(np.float64), strict=False))


def _stored(arrays: Arrays) -> Arrays:
    """Floats as float32, subnormals as 0: files hold none."""
    out: Arrays = {}
    for role, array in arrays.items():
        if array.dtype == np.int8:
            out[role] = array
        else:
            values = array.astype(np.float32)
            out[role] = np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, values).astype(
                np.float32
            )
    return out
