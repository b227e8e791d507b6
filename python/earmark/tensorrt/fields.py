"""Ops of a plan as plugins of TensorRT: which, and with what fields (``plugins/``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.plan import JSON, PlanBuilder

__all__ = ["add_fields", "conv_fields", "pool_fields", "res2_fields", "squeeze_fields"]

Array = NDArray[Any]
Fields = dict[str, Any]


def _zero(plan: PlanBuilder, tensor: str) -> int:
    return int(plan.tensors[tensor].get("zero_point", 0))


def _input_zero(plan: PlanBuilder, op: JSON) -> Array:
    """Zero point of each channel of an op's input."""
    if "input_zero" in op["arrays"]:
        return plan.arrays[f"{op['name']}.input_zero"]
    tensor = plan.tensors[op["in"]]
    return np.full(tensor["channels"], tensor.get("zero_point", 0), np.int8)


def _of_channels(values: Array, channels: int) -> Array:
    """One value for each, where an array has one for all."""
    return np.ascontiguousarray(np.broadcast_to(values.astype(np.float32), (channels,)))


def _flat(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(-1)


def _geometry(op: JSON) -> Fields:
    """Of a convolution over time that keeps the length."""
    return {
        "kernel": int(op["kernel"][0]) if "kernel" in op else 1,
        "dilation": int(op.get("dilation", [1])[0]),
        "reflect": int(op.get("pad_mode", "zero") == "reflect"),
        "relu": int(bool(op.get("relu", False))),
    }


def conv_fields(plan: PlanBuilder, op: JSON, parts: Sequence[int]) -> Fields:
    """Of ``EarmarkConvS8``, for a conv_s8 over time with an int8 output.

    parts: channels of each of its inputs.
    """
    arrays = plan.arrays_of(op)
    table = {"table": _flat(arrays["table"])} if "table" in arrays else {}
    return {
        "channels": int(plan.tensors[op["out"]]["channels"]),
        **_geometry(op),
        "padding": int(op.get("padding", [0])[0]),
        "weight": _flat(arrays["weight"]),
        "input_zero": _input_zero(plan, op),
        "epilogue": _flat(arrays["epilogue"]),
        "zero": _zero(plan, op["out"]),
        "bias": int("bias" in op),
        "parts": np.array(parts, np.int32),
        **table,
    }


def add_fields(plan: PlanBuilder, op: JSON) -> Fields:
    """Of ``EarmarkAddS8``, for an add_s8."""
    arrays = plan.arrays_of(op)
    channels = plan.tensors[op["out"]]["channels"]
    return {
        "multiplier": _of_channels(arrays["multiplier"], channels),
        "residual_multiplier": arrays["residual_multiplier"],
        "in_zero": _zero(plan, op["in"]),
        "residual_zero": _zero(plan, op["residual"]),
        "zero": _zero(plan, op["out"]),
        "relu": int(bool(op.get("relu", False))),
        "gate": int("gate" in op),
    }


def res2_fields(
    plan: PlanBuilder, chain_in: str, chain_out: str, convs: Sequence[JSON], adds: Sequence[JSON]
) -> Fields:
    """Of ``EarmarkRes2S8``, for a chain: each addition before the convolution of the next step.

    chain_in, chain_out: tensors of all channels that it reads and leaves.
    """
    width = plan.tensors[convs[0]["out"]]["channels"]
    sources = [convs[0]["in"], *(op["in"] for op in adds)]
    arrays = [plan.arrays_of(op) for op in convs]
    added = [plan.arrays_of(op) for op in adds]
    return {
        "steps": len(convs),
        "width": int(width),
        **_geometry(convs[0]),
        "weight": np.concatenate([_flat(a["weight"]) for a in arrays]),
        "epilogue": np.concatenate([_flat(a["epilogue"]) for a in arrays]),
        "multiplier": np.concatenate([_of_channels(a["multiplier"], width) for a in added]),
        "residual_multiplier": np.concatenate([a["residual_multiplier"] for a in added]),
        "in_at": _chunks(plan, chain_in, sources),
        "out_at": _chunks(plan, chain_out, [op["out"] for op in convs]),
        "in_zero": _zeros(plan, sources),
        "sum_zero": _zeros(plan, [op["out"] for op in adds]),
        "zero": _zeros(plan, [op["out"] for op in convs]),
    }


def _chunks(plan: PlanBuilder, whole: str, parts: Sequence[str]) -> Array:
    """Which chunk of a tensor each part is, before them the one that is none of these."""
    first = plan.tensors[whole].get("offset", 0)
    at = [
        (plan.tensors[part].get("offset", 0) - first) // plan.tensors[part]["channels"]
        for part in parts
    ]
    (rest,) = set(range(len(parts) + 1)) - set(at)
    return np.array([rest, *at], np.int32)


def _zeros(plan: PlanBuilder, tensors: Sequence[str]) -> Array:
    return np.array([_zero(plan, name) for name in tensors], np.int32)


def squeeze_fields(plan: PlanBuilder, ops: Sequence[JSON]) -> Fields:
    """Of ``EarmarkSqueezeExcitationS8``: stats_s8, quantize_s8, dense_s8, quantize_s8, dense_s8."""
    stats, squeezed, reduce, hidden, expand = ops
    channels = int(plan.tensors[stats["in"]]["channels"])
    inner = int(plan.tensors[reduce["out"]]["channels"])
    arrays = {op["name"]: plan.arrays_of(op) for op in ops}

    def quantization(op: JSON, size: int) -> Array:
        found = arrays[op["name"]]
        rows = [_of_channels(found[key], size) for key in ("multiplier", "offset")]
        return np.concatenate(rows)

    table = arrays[expand["name"]].get("table")
    return {
        "channels": channels,
        "hidden": inner,
        "in_zero": _zero(plan, stats["in"]),
        "mean_multiplier": _of_channels(arrays[stats["name"]]["multiplier"], channels),
        "squeezed": quantization(squeezed, channels),
        "squeezed_zero": _zero(plan, squeezed["out"]),
        "reduce": _flat(arrays[reduce["name"]]["weight"]),
        "reduce_epilogue": _flat(arrays[reduce["name"]]["epilogue"]),
        "hidden_values": quantization(hidden, inner),
        "hidden_zero": _zero(plan, hidden["out"]),
        "expand": _flat(arrays[expand["name"]]["weight"]),
        "expand_epilogue": _flat(arrays[expand["name"]]["epilogue"]),
        **({} if table is None else {"table": _flat(table)}),
    }


def pool_fields(plan: PlanBuilder, op: JSON) -> Fields:
    """Of ``EarmarkAttentivePoolS8``, for an attentive_pool_s8."""
    arrays = plan.arrays_of(op)
    channels = int(plan.tensors[op["values"]]["channels"])
    function: Fields = {
        role: _flat(arrays[role])
        for role in ("offset", "breakpoints", "slopes", "intercepts", "bounds", "table")
        if role in arrays
    }
    return {
        "channels": channels,
        "hidden": int(plan.tensors[op["in"]]["channels"]),
        "weight": _flat(arrays["weight"]),
        "input_zero": _input_zero(plan, op),
        "multiplier": _of_channels(arrays["multiplier"], channels),
        "value_multiplier": _of_channels(arrays["value_multiplier"], channels),
        "value_zero": _zero(plan, op["values"]),
        "min_variance": repr(float(op["min_variance"])),
        "softmax": op.get("softmax", "exact"),
        **function,
    }
