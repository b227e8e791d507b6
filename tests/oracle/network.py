"""Walks the plan of an `.earmark` file with the equations of `ops`."""

import hashlib
import json
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from safetensors import safe_open

from . import ops, ops_f32, ops_s16
from .ops import Array

Plan = dict[str, Any]
Op = dict[str, Any]

EPILOGUE = ("multiplier", "offset", "gain", "shift")


class Network:
    """The tensors of one recording, filled op by op.

    float32 layers run in float64 and their results stay float64, so that a float32 network is a
    reference without rounding; an integer op that reads such a tensor rounds it to float32 once.
    Ops without weights on float32 tensors, such as integer ops leave, have defined bits.
    """

    def __init__(self, tensors: dict[str, Any], arrays: dict[str, Array]) -> None:
        self.tensors = tensors
        self.arrays = arrays
        self._memory: dict[str, Array] = {}
        self._written: dict[str, Array] = {}

    def read(self, name: str) -> Array:
        """A copy of the tensor: frames `(T, C)` (`(T, W, C)` where the width is not 1)."""
        base, channels = self._place(name)
        if base not in self._memory or not self._written[base][channels].all():
            raise ValueError(f"{name} is read before all of it is written")
        values: Array = self._memory[base][..., channels].copy()
        return values[:, 0] if values.ndim == 3 and values.shape[1] == 1 else values

    def write(self, name: str, values: Array) -> None:
        """Stores an op's result; a view is written into its base."""
        tensor = self.tensors[name]
        base, channels = self._place(name)
        if tensor["kind"] == "frames" and values.ndim == 2:
            values = values[:, None, :]
        expected: tuple[int, ...] = (tensor["channels"],)
        actual = values.shape
        if tensor["kind"] == "frames":
            expected, actual = (tensor.get("width", 1), *expected), values.shape[1:]
        if actual != expected:
            raise ValueError(f"{name} should be {expected}, got {values.shape}")
        if {"int8": "s8", "int16": "s16"}.get(values.dtype.name, "f32") != tensor["dtype"]:
            raise ValueError(f"{name} should be {tensor['dtype']}, got {values.dtype}")
        total = self.tensors[base]["channels"]
        if base not in self._memory:
            self._memory[base] = np.zeros((*values.shape[:-1], total), values.dtype)
            self._written[base] = np.zeros(total, np.bool_)
        if self._memory[base].shape[:-1] != values.shape[:-1]:
            raise ValueError(f"{name} has {len(values)} frames, {base} {len(self._memory[base])}")
        # A float32 layer's float64 result may join an integer op's float32 in one base.
        wider = np.result_type(self._memory[base], values)
        self._memory[base] = self._memory[base].astype(wider, copy=False)
        self._memory[base][..., channels] = values
        self._written[base][channels] = True
        # An engine may have put this result where `over` was, so nothing may read that any more.
        if "over" in tensor:
            self._written[tensor["over"]][:] = False

    def step(self, op: Op) -> Array:
        """Runs one op and returns a copy of its output."""
        if op["op"] not in RUNNERS:
            raise ValueError(f"unknown op {op['op']!r}")
        self.write(op["out"], RUNNERS[op["op"]](self, op))
        return self.read(op["out"])

    def zero_point(self, name: str) -> int:
        return int(self.tensors[name].get("zero_point", 0))

    def counted(self, op: Op, role: str = "in") -> Array:
        """The frames of an input that statistics count: as many as `valid` has, or all."""
        x = self.read(op[role])
        if "valid" not in op:
            return x
        count = len(self.read(op["valid"]))
        if not 1 <= count <= len(x):
            raise ValueError(f"{op['name']} counts {count} of {len(x)} frames")
        return x[:count]

    def array(self, op: Op, role: str) -> Array:
        if role not in op["arrays"]:
            raise ValueError(f"{op['name']} has no array {role!r}")
        return self.arrays[f"{op['name']}.{role}"]

    def optional(self, op: Op, *roles: str) -> dict[str, Array]:
        return {role: self.array(op, role) for role in roles if role in op["arrays"]}

    def epilogue(self, op: Op) -> dict[str, Array]:
        """The rows of `epilogue` by name; the bias vector in place of `offset` if there is one."""
        is_integer = op["op"].endswith(("_s8", "_s16"))
        roles = EPILOGUE[0 if is_integer else 1 :]
        stored = self.array(op, "epilogue")
        if len(stored) not in (len(roles) - 2, len(roles)):
            raise ValueError(f"{op['name']}: epilogue {stored.shape}")
        rows: dict[str, Array] = dict(zip(roles, stored, strict=False))
        if "quantization" in op:
            rows["multiplier"] = ops.multiply(rows["multiplier"], self.found(op["quantization"])[0])
        if "bias" in op:
            rows["offset"] = self.read_f32(op["bias"]) if is_integer else self.read(op["bias"])
        return rows

    def read_f32(self, name: str) -> Array:
        return ops.f32(self.read(name))

    def input_zero(self, op: Op) -> Array | int:
        if "input_zero" in op["arrays"]:
            if "quantization" in op:
                raise ValueError(f"{op['name']} has two zero points")
            return self.array(op, "input_zero")
        if "quantization" in op:
            return self.found(op["quantization"])[2]
        return self.zero_point(op["in"])

    def found(self, name: str) -> tuple[Array, Array, int]:
        """Scale, inverse and zero point that `range_f32` left in a vector."""
        scale, inverse, zero = self.read_f32(name)
        return scale, inverse, int(np.clip(zero, -128, 127))

    def is_exact(self, *names: str) -> bool:
        """Whether all tensors are of integer ops, or made from such."""
        return all(self.read(name).dtype == np.float32 for name in names)

    def output_zero(self, op: Op) -> int | None:
        """Of an int8 output, None of a float32 one."""
        return self.zero_point(op["out"]) if self.tensors[op["out"]]["dtype"] == "s8" else None

    def _place(self, name: str) -> tuple[str, slice]:
        tensor = self.tensors[name]
        if "of" not in tensor:
            return name, slice(0, tensor["channels"])
        if "of" in self.tensors[tensor["of"]]:
            raise ValueError(f"{name} is a view of a view")
        stop = tensor["offset"] + tensor["channels"]
        if stop > self.tensors[tensor["of"]]["channels"]:
            raise ValueError(f"{name} ends outside {tensor['of']}")
        return tensor["of"], slice(tensor["offset"], stop)


def _geometry(op: Op) -> dict[str, Any]:
    keys = ("stride", "dilation", "padding", "pad_mode", "pad_to")
    return {key: op[key] for key in keys if key in op}


def _kernel(net: Network, op: Op) -> Array:
    weight = net.array(op, "weight")
    if list(weight.shape[1:3]) != list(op.get("kernel", (1, 1))):
        raise ValueError(f"{op['name']}: kernel {op.get('kernel')}, weight {weight.shape}")
    return weight


def _quantize_s8(net: Network, op: Op) -> Array:
    x = net.read_f32(op["in"])
    if "quantization" in op:
        _, inverse, zero = net.found(op["quantization"])
        return ops.quantize_s8(x, inverse, ops.f32(0), zero)
    constants = (net.array(op, "multiplier"), net.array(op, "offset"))
    return ops.quantize_s8(x, *constants, net.zero_point(op["out"]))


def _quantize_s16(net: Network, op: Op) -> Array:
    constants = (net.array(op, "multiplier"), net.array(op, "offset"))
    return ops_s16.quantize_s16(net.read_f32(op["in"]), *constants, net.zero_point(op["out"]))


def _affine_f32(net: Network, op: Op) -> Array:
    x = net.read_f32(op["in"])
    return ops.affine_f32(x, net.array(op, "multiplier"), net.array(op, "offset"))


def _range_f32(net: Network, op: Op) -> Array:
    return ops.find_quantization(net.read_f32(op["in"]))


def _dequantize_f32(net: Network, op: Op) -> Array:
    multiplier = net.array(op, "multiplier")
    return ops.dequantize_f32(net.read(op["in"]), multiplier, net.zero_point(op["in"]))


def _conv_s8(net: Network, op: Op) -> Array:
    extra = net.optional(op, "table")
    return ops.conv_s8(
        net.read(op["in"]),
        _kernel(net, op),
        net.input_zero(op),
        zero_point=0 if extra else net.output_zero(op),
        relu=op.get("relu", False),
        **net.epilogue(op),
        **extra,
        **_geometry(op),
    )


def _conv_s16(net: Network, op: Op) -> Array:
    return ops_s16.conv_s16(
        net.read(op["in"]),
        _kernel(net, op),
        net.input_zero(op),
        relu=op.get("relu", False),
        **net.epilogue(op),
        **net.optional(op, "table"),
        **_geometry(op),
    )


def _conv_f32(net: Network, op: Op) -> Array:
    return ops_f32.conv_f32(
        net.read(op["in"]),
        _kernel(net, op),
        relu=op.get("relu", False),
        activation=op.get("activation"),
        **net.epilogue(op),
        **_geometry(op),
    )


def _add_s8(net: Network, op: Op) -> Array:
    return ops.add_s8(
        net.read(op["in"]),
        net.read(op["residual"]),
        net.zero_point(op["in"]),
        net.zero_point(op["residual"]),
        net.array(op, "multiplier"),
        net.array(op, "residual_multiplier"),
        net.zero_point(op["out"]),
        gate=net.read_f32(op["gate"]) if "gate" in op else None,
        relu=op.get("relu", False),
    )


def _add_f32(net: Network, op: Op) -> Array:
    gate = net.read(op["gate"]) if "gate" in op else None
    roles = [op[role] for role in ("in", "residual", "gate") if role in op]
    add = ops.add_exact if net.is_exact(*roles) else ops_f32.add_f32
    return add(net.read(op["in"]), net.read(op["residual"]), gate, relu=op.get("relu", False))


def _window(op: Op) -> dict[str, Any]:
    if op.get("pad_mode", "zero") != "zero" or any(n != 1 for n in op.get("dilation", ())):
        raise ValueError(f"{op['name']}: pooling neither reflects nor dilates")
    return {key: op[key] for key in ("stride", "padding") if key in op}


def _max_pool_s8(net: Network, op: Op) -> Array:
    if net.zero_point(op["in"]) != net.zero_point(op["out"]):
        raise ValueError(f"{op['name']}: the zero points differ")
    return ops.max_pool_s8(net.read(op["in"]), op.get("kernel", (1, 1)), **_window(op))


def _max_pool_f32(net: Network, op: Op) -> Array:
    x, kernel = net.read(op["in"]), op.get("kernel", (1, 1))
    if net.is_exact(op["in"]):
        return ops.max_pool(x, kernel, lowest=-np.inf, **_window(op))
    return ops_f32.max_pool_f32(x, kernel, **_window(op))


def _statistics(op: Op) -> dict[str, Any]:
    if not op.get("std", False):
        return {}
    more = {key: op[key] for key in ("unbiased", "added_variance") if key in op}
    return {"std": True, "min_variance": op["min_variance"], **more}


def _stats_s8(net: Network, op: Op) -> Array:
    x, zero = net.counted(op), net.zero_point(op["in"])
    return ops.stats_s8(x, zero, net.array(op, "multiplier"), **_statistics(op))


def _stats_f32(net: Network, op: Op) -> Array:
    stats = ops.stats_exact if net.is_exact(op["in"]) else ops_f32.stats_f32
    return stats(net.counted(op), **_statistics(op))


def _dense_s8(net: Network, op: Op) -> Array:
    return ops.dense_s8(
        net.read(op["in"]),
        net.array(op, "weight"),
        net.input_zero(op),
        relu=op.get("relu", False),
        zero_point=net.output_zero(op),
        **net.epilogue(op),
        **net.optional(op, "table"),
    )


def _dense_s16(net: Network, op: Op) -> Array:
    return ops_s16.dense_s16(
        net.read(op["in"]),
        net.array(op, "weight"),
        net.input_zero(op),
        relu=op.get("relu", False),
        **net.epilogue(op),
        **net.optional(op, "table"),
    )


def _dense_f32(net: Network, op: Op) -> Array:
    return ops_f32.dense_f32(
        net.read(op["in"]),
        net.array(op, "weight"),
        activation=op.get("activation"),
        **net.epilogue(op),
    )


SOFTMAX_ARRAYS = ("breakpoints", "slopes", "intercepts", "bounds", "table")


def _attentive_pool_s8(net: Network, op: Op) -> Array:
    value_zero, min_variance = net.zero_point(op["values"]), op["min_variance"]
    if "values_quantization" in op:
        scale, _, value_zero = net.found(op["values_quantization"])
        min_variance = np.float64(min_variance) / (np.float64(scale) * np.float64(scale))
    else:
        scale = net.array(op, "value_multiplier")
    return ops.attentive_pool_s8(
        net.counted(op),
        net.counted(op, "values"),
        net.array(op, "weight"),
        net.input_zero(op),
        value_zero,
        net.array(op, "multiplier"),
        scale,
        min_variance=min_variance,
        softmax=op.get("softmax", "exact"),
        **net.optional(op, "offset", *SOFTMAX_ARRAYS),
    )


def _attentive_pool_s16(net: Network, op: Op) -> Array:
    return ops_s16.attentive_pool_s16(
        net.counted(op),
        ops.f32(net.counted(op, "values")),
        net.array(op, "weight"),
        net.input_zero(op),
        min_variance=op["min_variance"],
        softmax=op.get("softmax", "exact"),
        **net.epilogue(op),
        **net.optional(op, *SOFTMAX_ARRAYS),
    )


def _attentive_pool_f32(net: Network, op: Op) -> Array:
    return ops_f32.attentive_pool_f32(
        net.counted(op),
        net.counted(op, "values"),
        net.array(op, "weight"),
        min_variance=op["min_variance"],
        softmax=op.get("softmax", "exact"),
        **net.epilogue(op),
        **net.optional(op, *SOFTMAX_ARRAYS, "range"),
    )


RUNNERS: dict[str, Callable[[Network, Op], Array]] = {
    "quantize_s8": _quantize_s8,
    "quantize_s16": _quantize_s16,
    "dequantize_f32": _dequantize_f32,
    "affine_f32": _affine_f32,
    "range_f32": _range_f32,
    "conv_s8": _conv_s8,
    "conv_s16": _conv_s16,
    "conv_f32": _conv_f32,
    "add_s8": _add_s8,
    "add_f32": _add_f32,
    "max_pool_s8": _max_pool_s8,
    "max_pool_f32": _max_pool_f32,
    "stats_s8": _stats_s8,
    "stats_f32": _stats_f32,
    "dense_s8": _dense_s8,
    "dense_s16": _dense_s16,
    "dense_f32": _dense_f32,
    "attentive_pool_s8": _attentive_pool_s8,
    "attentive_pool_s16": _attentive_pool_s16,
    "attentive_pool_f32": _attentive_pool_f32,
}


def run(plan: Plan, arrays: dict[str, Array], features: Array) -> dict[str, Array]:
    """Every op's output, as it was right after that op, keyed by the name of its tensor.

    `features` are `(T, C)` or `(T, W, C)` as the plan's input is; so are frames that come back.
    An input of one channel is also read from `(T, W)`; float32 features are quantized for an int8
    input.
    """
    net = Network(plan["tensors"], arrays)
    tensor = plan["tensors"]["input"]
    if tensor["dtype"] == "s8" and features.dtype == np.float32:
        features = ops.quantize_s8(
            features, ops.f32(1 / tensor["scale"]), ops.f32(0), tensor["zero_point"]
        )
    dtype = np.int8 if tensor["dtype"] == "s8" else np.float32
    width = tensor.get("width", 1)
    shape = (tensor["channels"],) if width == 1 else (width, tensor["channels"])
    if shape == (width, 1) and features.ndim == 2:
        features = features[..., None]
    if features.dtype != dtype or features.shape[1:] != shape:
        raise ValueError(
            f"features {features.shape} {features.dtype} do not fit the input {tensor}"
        )
    net.write("input", features)
    return {op["out"]: net.step(op) for op in plan["ops"]}


def canonical(metadata: dict[str, Any]) -> str:
    """The one text a metadata value has."""
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(metadata: dict[str, Any], arrays: dict[str, Array]) -> str:
    """The `sha256` a file with this metadata and these tensors carries."""
    state = hashlib.sha256(canonical({**metadata, "sha256": "0" * 64}).encode())
    for name in sorted(arrays):
        array = arrays[name]
        shape = ",".join(str(n) for n in array.shape)
        state.update(f"{name} {array.dtype.name} {shape}\n".encode())
        state.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()


def load(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Reads an `.earmark` file: its metadata and its arrays, the checksum verified."""
    with safe_open(path, framework="numpy") as file:
        stored = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if set(stored) != {"earmark"}:
        raise ValueError(f"{path}: metadata keys are {sorted(stored)}, not 'earmark' alone")
    metadata: dict[str, Any] = json.loads(stored["earmark"])
    if canonical(metadata) != stored["earmark"]:
        raise ValueError(f"{path}: the metadata is not canonical JSON")
    if digest(metadata, arrays) != metadata["sha256"]:
        raise ValueError(f"{path}: sha256 does not match")
    return metadata, arrays
