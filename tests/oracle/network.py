"""Walks the plan of an `.earmark` file with the equations of `ops`."""

import hashlib
import json
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from safetensors import safe_open

from . import ops
from .ops import Array

Plan = dict[str, Any]
Op = dict[str, Any]


class Network:
    """The tensors of one recording, filled op by op.

    float32 layers run in float64 and their results stay float64, so that a float32 network is a
    reference without rounding; an integer op that reads such a tensor rounds it to float32 once.
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
        if (values.dtype == np.int8) != (tensor["dtype"] == "s8"):
            raise ValueError(f"{name} should be {tensor['dtype']}, got {values.dtype}")
        total = self.tensors[base]["channels"]
        if base not in self._memory:
            self._memory[base] = np.zeros((*values.shape[:-1], total), values.dtype)
            self._written[base] = np.zeros(total, np.bool_)
        if self._memory[base].shape[:-1] != values.shape[:-1]:
            raise ValueError(f"{name} has {len(values)} frames, {base} {len(self._memory[base])}")
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
        return int(self.tensors[name]["zero_point"])

    def array(self, op: Op, role: str) -> Array:
        return self.arrays[op["arrays"][role]]

    def optional(self, op: Op, *roles: str) -> dict[str, Array]:
        return {role: self.array(op, role) for role in roles if role in op["arrays"]}

    def read_f32(self, name: str) -> Array:
        return ops.f32(self.read(name))

    def input_zero(self, op: Op) -> Array | int:
        if "input_zero" in op["arrays"]:
            return self.array(op, "input_zero")
        return self.zero_point(op["in"])

    def offset(self, op: Op) -> Array:
        return self.read_f32(op["bias"]) if "bias" in op else self.array(op, "offset")

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
    return {key: op[key] for key in ("stride", "dilation", "padding", "pad_mode")}


def _kernel(net: Network, op: Op) -> Array:
    weight = net.array(op, "weight")
    if list(weight.shape[1:3]) != list(op["kernel"]):
        raise ValueError(f"{op['name']}: kernel {op['kernel']}, weight {weight.shape}")
    return weight


def _quantize_s8(net: Network, op: Op) -> Array:
    x = net.read_f32(op["in"])
    constants = (net.array(op, "multiplier"), net.array(op, "offset"))
    return ops.quantize_s8(x, *constants, net.zero_point(op["out"]))


def _dequantize_f32(net: Network, op: Op) -> Array:
    multiplier = net.array(op, "multiplier")
    return ops.dequantize_f32(net.read(op["in"]), multiplier, net.zero_point(op["in"]))


def _conv_s8(net: Network, op: Op) -> Array:
    extra = net.optional(op, "gain", "shift", "table")
    return ops.conv_s8(
        net.read(op["in"]),
        _kernel(net, op),
        net.input_zero(op),
        net.array(op, "multiplier"),
        net.offset(op),
        0 if "table" in extra else net.zero_point(op["out"]),
        relu=op["relu"],
        **extra,
        **_geometry(op),
    )


def _conv_f32(net: Network, op: Op) -> Array:
    return ops.conv_f32(
        net.read(op["in"]),
        _kernel(net, op),
        net.read(op["bias"]) if "bias" in op else net.array(op, "offset"),
        relu=op["relu"],
        activation=op["activation"],
        **net.optional(op, "gain", "shift"),
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
    )


def _add_f32(net: Network, op: Op) -> Array:
    gate = net.read(op["gate"]) if "gate" in op else None
    return ops.add_f32(net.read(op["in"]), net.read(op["residual"]), gate)


def _stats_s8(net: Network, op: Op) -> Array:
    return ops.stats_s8(
        net.read(op["in"]),
        net.zero_point(op["in"]),
        net.array(op, "multiplier"),
        std=op["std"],
        min_variance=op["min_variance"],
    )


def _stats_f32(net: Network, op: Op) -> Array:
    return ops.stats_f32(net.read(op["in"]), std=op["std"], min_variance=op["min_variance"])


def _dense_s8(net: Network, op: Op) -> Array:
    return ops.dense_s8(
        net.read(op["in"]),
        net.array(op, "weight"),
        net.input_zero(op),
        net.array(op, "multiplier"),
        net.array(op, "offset"),
        relu=op["relu"],
        **net.optional(op, "gain", "shift", "table"),
    )


def _dense_f32(net: Network, op: Op) -> Array:
    return ops.dense_f32(
        net.read(op["in"]),
        net.array(op, "weight"),
        net.array(op, "offset"),
        activation=op["activation"],
        **net.optional(op, "gain", "shift"),
    )


def _attentive_pool_s8(net: Network, op: Op) -> Array:
    return ops.attentive_pool_s8(
        net.read(op["in"]),
        net.read(op["values"]),
        net.array(op, "weight"),
        net.zero_point(op["in"]),
        net.zero_point(op["values"]),
        net.array(op, "multiplier"),
        net.array(op, "value_multiplier"),
        min_variance=op["min_variance"],
        softmax=op["softmax"],
        **net.optional(op, "offset", "breakpoints", "slopes", "intercepts", "bounds"),
    )


def _attentive_pool_f32(net: Network, op: Op) -> Array:
    return ops.attentive_pool_f32(
        net.read(op["in"]),
        net.read(op["values"]),
        net.array(op, "weight"),
        net.array(op, "offset"),
        min_variance=op["min_variance"],
    )


RUNNERS: dict[str, Callable[[Network, Op], Array]] = {
    "quantize_s8": _quantize_s8,
    "dequantize_f32": _dequantize_f32,
    "conv_s8": _conv_s8,
    "conv_f32": _conv_f32,
    "add_s8": _add_s8,
    "add_f32": _add_f32,
    "stats_s8": _stats_s8,
    "stats_f32": _stats_f32,
    "dense_s8": _dense_s8,
    "dense_f32": _dense_f32,
    "attentive_pool_s8": _attentive_pool_s8,
    "attentive_pool_f32": _attentive_pool_f32,
}


def run(plan: Plan, arrays: dict[str, Array], features: Array) -> dict[str, Array]:
    """Every op's output, as it was right after that op, keyed by the name of its tensor.

    `features` are `(T, n_mels)` float32; frames come back as `(T, C)`, or `(T, W, C)`.
    """
    net = Network(plan["tensors"], arrays)
    tensor = plan["tensors"]["input"]
    if features.dtype != np.float32 or features.ndim != 2:
        raise ValueError(f"features are (T, n_mels) float32, got {features.shape} {features.dtype}")
    if features.shape[1] != tensor.get("width", 1) * tensor["channels"]:
        raise ValueError(f"features {features.shape} do not fit the input {tensor}")
    shape = (len(features), tensor.get("width", 1), tensor["channels"])
    net.write("input", features.reshape(shape))
    return {op["out"]: net.step(op) for op in plan["ops"]}


def canonical(metadata: dict[str, Any]) -> str:
    """The one text a metadata value has."""
    return json.dumps(
        metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


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
