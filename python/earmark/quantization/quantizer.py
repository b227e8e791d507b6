"""From a float32 plan and its calibration to an integer plan, op by op (docs/arithmetic.md).

Each op runs in the precision of its layer; what it reads and writes is of ``PlanTensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays
from earmark.plan import INPUT, JSON, PlanBuilder
from earmark.quantization.calibration import Calibration
from earmark.quantization.epilogue import (
    in_steps,
    sigmoid_lines,
    sigmoid_table,
    tanh_lines,
    tanh_table,
)
from earmark.quantization.precision import Precision
from earmark.quantization.softmax import integer_softmax
from earmark.quantization.tensors import Operand, PlanTensors, as_stored, attributes_of
from earmark.quantization.weights import quantize_weights

Array = NDArray[Any]


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


class _Quantizer(PlanTensors):
    def __init__(
        self,
        network: PlanBuilder,
        calibration: Calibration,
        precision: Mapping[str, Precision],
        integer_ends: bool,
        balanced: bool,
    ) -> None:
        super().__init__(network, calibration, precision, integer_ends)
        self.balanced = balanced

    def run(self) -> PlanBuilder:
        if self.written[INPUT] == "s8":
            self._declare(INPUT)
            self._set_channels(INPUT, self._quantization(INPUT))
        for op in self.source.ops:
            kind = op["op"].removesuffix("_f32")
            chosen = self.precision[op["name"]]
            suffix = "_s8" if chosen.is_integer else "_f32"
            if "weight" in op["arrays"] and (chosen.is_dynamic or chosen.is_wide):
                suffix = "_dynamic" if chosen.is_dynamic else "_wide"
            getattr(self, f"_{kind}{suffix}")(op)
            self.found.forget(op["out"])
        return self.builder

    def _conv_s8(self, op: JSON) -> None:
        self._integer_conv(op, self._read_integer(op, "in"))

    def _conv_dynamic(self, op: JSON) -> None:
        x, found = self._read_dynamic(op, "in")
        self._integer_conv(op, x, found, real=op.get("activation") != "tanh")

    def _conv_wide(self, op: JSON) -> None:
        x = self._read_integer(op, "in", self._activation_bits(op))
        stored, scale, rows = self._conv_arrays(op, x)
        attributes = {**attributes_of(op), "in": x.name}
        step, centre = 1.0, 0.0
        if attributes.pop("activation", None) == "tanh":
            step, centre, stored["table"] = tanh_lines()
        stored["epilogue"] = in_steps(step, scale, rows, centre)
        self._write_f32(op, "conv_s16", as_stored(stored), attributes)

    def _integer_conv(
        self, op: JSON, x: Operand, found: str | None = None, real: bool = False
    ) -> None:
        """``conv_s8``; ``real``: its result is float32 where it is not int8 in the plan."""
        stored, scale, rows = self._conv_arrays(op, x, found)
        attributes = {**attributes_of(op), "in": x.name, "quantization": found}
        tanh = attributes.pop("activation", None) == "tanh"
        if real:
            stored["epilogue"] = in_steps(1.0, scale, rows)
            self._write_f32(op, "conv_s8", as_stored(stored), attributes)
            return
        _, quantization = self._written_s8(op, reads=x.name)
        step = quantization.scale
        if tanh:
            step, stored["table"] = tanh_table(quantization.scale)
        stored["epilogue"] = in_steps(step, scale, rows)
        self.builder.op("conv_s8", op["name"], as_stored(stored), **attributes)

    def _conv_arrays(
        self, op: JSON, x: Operand, found: str | None = None
    ) -> tuple[Arrays, Array, Arrays]:
        """Weights and zero points of a convolution, the scale of its sums, its epilogue's rows."""
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
        return stored, scale, rows

    def _add_s8(self, op: JSON) -> None:
        x = self._read_integer(op, "in")
        residual = self._read_integer(op, "residual")
        x_step, residual_step = x.uniform.scale, residual.uniform.scale
        out, quantization = self._written_s8(op)
        if "gate" in op:
            self._declare(op["gate"])
        stored = {
            "multiplier": np.array([x_step / quantization.scale]),
            "residual_multiplier": np.array([residual_step / quantization.scale]),
        }
        changed = {"in": x.name, "residual": residual.name, "out": out}
        self.builder.op("add_s8", op["name"], as_stored(stored), **{**attributes_of(op), **changed})

    def _max_pool_s8(self, op: JSON) -> None:
        """Values are picked, not computed: channels keep their scale and zero point."""
        x = self._read_integer(op, "in")
        out = self._declare(op["out"])
        source = self.builder.tensors[x.name]
        self.builder.tensors[out] |= {key: source[key] for key in ("scale", "zero_point")}
        scale, zero = self._channels(out)
        scale[:] = x.scale
        zero[:] = x.zero
        self.builder.op("max_pool_s8", op["name"], **{**attributes_of(op), "in": x.name})

    def _stats_s8(self, op: JSON) -> None:
        x = self._read_integer(op, "in")
        self._declare(op["out"])
        attributes = attributes_of(op)
        for name in {"min_variance", "added_variance"} & attributes.keys():
            attributes[name] /= x.uniform.scale**2
        stored = {"multiplier": np.array([x.uniform.scale])}
        self.builder.op("stats_s8", op["name"], as_stored(stored), **{**attributes, "in": x.name})

    def _dense_s8(self, op: JSON) -> None:
        arrays = self._arrays(op)
        bits = self._activation_bits(op)
        x, x_scale, centre = self._vector_integer(op, arrays["weight"], bits)
        weight, scale, lost = self._weights(op, arrays["weight"], x_scale, centre)
        moved = arrays["weight"].astype(np.float64) @ centre
        self._integer_dense(op, x, weight, scale, moved + lost)

    _dense_wide = _dense_s8

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
        """``scale`` is of the sums over ``x``, ``moved`` joins the offset."""
        wide = self.precision[op["name"]].is_wide
        rows = _rows(self._arrays(op)["epilogue"])
        if "gain" in rows:
            raise ValueError(f"op {op['name']!r}: an affine after a dense layer is not lowered yet")
        rows["offset"] += moved
        changed: JSON = {**attributes_of(op), "in": x, **attributes}
        activation = changed.pop("activation", None)
        changed["relu"] = activation == "relu"
        stored: Arrays = {"weight": weight}
        step, centre = 1.0, 0.0
        if activation == "sigmoid" and wide:
            step, centre, stored["table"] = sigmoid_lines()
        elif activation == "sigmoid":
            step, stored["table"] = sigmoid_table()
        elif op["out"] in self.integer_outputs and not wide:
            step = self._output(op["out"]).scale
        stored["epilogue"] = in_steps(step, scale, rows, centre)
        if wide or activation == "sigmoid":
            kind = "dense_s16" if wide else "dense_s8"
            self._write_f32(op, kind, as_stored(stored), changed)
        else:
            self._declare(op["out"])
            self.builder.op("dense_s8", op["name"], as_stored(stored), **changed)

    def _attentive_pool_s8(self, op: JSON) -> None:
        self._integer_pool(op, self._read_integer(op, "in"), self._read_integer(op, "values"))

    def _attentive_pool_dynamic(self, op: JSON) -> None:
        hidden, found = self._read_dynamic(op, "in")
        if found is not None:
            raise ValueError(f"op {op['name']!r}: the attention's hidden layer needs a tanh")
        self._integer_pool(op, hidden, *self._read_dynamic(op, "values"))

    def _integer_pool(
        self, op: JSON, hidden: Operand, values: Operand, found: str | None = None
    ) -> None:
        """``attentive_pool_s8``; ``found``: the vector of the values' quantization, if any."""
        arrays = self._arrays(op)
        weight, scale, lost = self._weights(op, arrays["weight"], hidden.scale)
        self._declare(op["out"])
        attributes = {**attributes_of(op), "in": hidden.name, "values": values.name}
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
        self.builder.op("attentive_pool_s8", op["name"], as_stored(stored), **attributes)

    def _attentive_pool_wide(self, op: JSON) -> None:
        hidden = self._read_integer(op, "in", self._activation_bits(op))
        values = self._read_f32(op, "values")
        arrays = self._arrays(op)
        weight, scale, lost = self._weights(op, arrays["weight"], hidden.scale)
        self._declare(op["out"])
        # The exact softmax does not see the layer's bias.
        numerators: Arrays = {"multiplier": scale, "offset": np.zeros_like(scale)}
        if op.get("softmax", "exact") != "exact":
            bias = arrays["epilogue"][0].astype(np.float64) + lost
            bits = 8 if self.builder.tensors[hidden.name]["dtype"] == "s8" else 16
            numerators |= integer_softmax(op["softmax"], arrays, weight, scale, bias, bits)
        epilogue = np.stack([numerators.pop("multiplier"), numerators.pop("offset")])
        self.builder.op(
            "attentive_pool_s16",
            op["name"],
            as_stored({"weight": weight, "epilogue": epilogue, **numerators}),
            **{**attributes_of(op), "in": hidden.name, "values": values},
        )

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

    def _activation_bits(self, op: JSON) -> int:
        return self.precision[op["name"]].activation_bits

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


def _rows(epilogue: Array) -> Arrays:
    """The rows of a float32 op's epilogue by name."""
    return dict(zip(("offset", "gain", "shift"), epilogue.astype(np.float64), strict=False))
