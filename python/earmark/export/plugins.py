"""Networks whose layers over time are plugins of TensorRT (``plugins/``), nodes of the domain
``earmark``.

Frames are (batch, time, channels) between plugins, as these take them; what has no plugin is done
with standard nodes between two transpositions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from earmark.export.graph import Graph
from earmark.export.ops import RUNNERS, Step
from earmark.plan import INPUT, JSON, PlanBuilder, base_of
from earmark.tensorrt import fields as plugin_fields
from earmark.views import Views

__all__ = ["DOMAIN", "append_plugins"]

DOMAIN = "earmark"
_VERSION = "1"
# What the steps of a chain have in common.
_SHAPE = ("kernel", "dilation", "padding", "pad_mode", "relu")


class _ChannelsFirst:
    """Values for standard nodes: frames as (batch, channels, time)."""

    def __init__(self, graph: Graph, plan: PlanBuilder, values: Views[str]) -> None:
        self._graph, self._plan, self._values = graph, plan, values

    def read(self, name: str) -> str:
        value = self._values.read(name)
        if self._plan.tensors[name]["kind"] == "vector":
            return value
        return self._graph.node("Transpose", value, perm=[0, 2, 1])

    def write(self, name: str, value: str) -> None:
        if self._plan.tensors[name]["kind"] != "vector":
            value = self._graph.node("Transpose", value, perm=[0, 2, 1])
        self._values.write(name, value)


def append_plugins(graph: Graph, plan: PlanBuilder) -> Views[str]:
    """All ops of a plan of width 1; what every tensor holds behind them."""
    values: Views[str] = Views(
        plan.plan,
        lambda x, begin, end: graph.cut(x, begin, end, -1),
        lambda parts: graph.join(parts, -1),
    )
    values.write(INPUT, "features")
    first = _ChannelsFirst(graph, plan, values)
    rest = list(plan.ops)
    while rest:
        op = rest[0]
        graph.layer = op["name"]
        chain, gate = _chain(plan, rest), _gate(plan, rest)
        if chain is not None:
            convs, adds, chain_in, chain_out = chain
            fields = plugin_fields.res2_fields(plan, chain_in, chain_out, convs, adds)
            values.write(chain_out, _node(graph, "Res2S8", fields, values.read(chain_in)))
            rest = rest[len(convs) + len(adds) :]
            continue
        if gate is not None:
            fields = plugin_fields.squeeze_fields(plan, gate)
            frames = _counted(graph, gate[0], values, "in")
            values.write(gate[-1]["out"], _node(graph, "SqueezeExcitationS8", fields, frames))
            rest = rest[len(gate) :]
            continue
        made = _alone(graph, plan, op, values)
        if made is not None:
            values.write(op["out"], made)
        else:
            step = Step(graph, plan, op, first)
            first.write(op["out"], RUNNERS[op["op"]](step))
        rest = rest[1:]
    return values


def _node(graph: Graph, plugin: str, fields: dict[str, Any], *inputs: str) -> str:
    versions = {"plugin_version": _VERSION, "plugin_namespace": ""}
    return graph.custom(f"Earmark{plugin}", DOMAIN, inputs, {**fields, **versions})


def _alone(graph: Graph, plan: PlanBuilder, op: JSON, values: Views[str]) -> str | None:
    """The op as one plugin; None where there is none for it."""
    if op["op"] == "conv_s8" and _keeps_length(plan, op):
        parts = values.parts(op["in"])
        fields = plugin_fields.conv_fields(plan, op, [channels for channels, _ in parts])
        bias = [values.read(op["bias"])] if "bias" in op else []
        return _node(graph, "ConvS8", fields, *(value for _, value in parts), *bias)
    if op["op"] == "add_s8":
        inputs = [values.read(op["in"]), values.read(op["residual"])]
        if "gate" in op:
            inputs.append(values.read(op["gate"]))
        return _node(graph, "AddS8", plugin_fields.add_fields(plan, op), *inputs)
    if op["op"] == "attentive_pool_s8":
        inputs = [_counted(graph, op, values, role) for role in ("in", "values")]
        return _node(graph, "AttentivePoolS8", plugin_fields.pool_fields(plan, op), *inputs)
    return None


def _counted(graph: Graph, op: JSON, values: Views[str], role: str) -> str:
    """Frames (batch, time, channels) that pooling counts."""
    frames = values.read(op[role])
    return graph.as_long_as(frames, values.read(op["valid"]), 1) if "valid" in op else frames


def _keeps_length(plan: PlanBuilder, op: JSON) -> bool:
    reach = op.get("dilation", [1])[0] * (op.get("kernel", [1])[0] - 1)
    return bool(
        plan.tensors[op["out"]]["dtype"] == "s8"
        and op.get("stride", [1])[0] == 1
        and "pad_to" not in op
        and 2 * op.get("padding", [0])[0] == reach
    )


def _chain(plan: PlanBuilder, ops: list[JSON]) -> tuple[list[JSON], list[JSON], str, str] | None:
    """The Res2 chain that ``ops`` begin with: convolutions, additions, and the tensors of all
    channels that it reads and leaves."""
    convs, adds = ops[:1], []
    if not _links(plan, convs[0], convs[0]):
        return None
    for add, conv in zip(ops[1::2], ops[2::2], strict=False):
        if not (
            add["op"] == "add_s8"
            and add["residual"] == convs[-1]["out"]
            and "gate" not in add
            and not add.get("relu")
            and conv["in"] == add["out"]
            and _links(plan, conv, convs[0])
        ):
            break
        convs.append(conv)
        adds.append(add)
    if not adds:
        return None
    sources = [convs[0]["in"], *(op["in"] for op in adds)]
    ends = [_holding(plan, names) for names in (sources, [op["out"] for op in convs])]
    return None if None in ends else (convs, adds, str(ends[0]), str(ends[1]))


def _links(plan: PlanBuilder, op: JSON, first: JSON) -> bool:
    """Whether an op is a convolution of such a chain, alike with its first."""
    if op["op"] != "conv_s8" or "bias" in op or "table" in op["arrays"]:
        return False
    width = plan.tensors[op["out"]]["channels"]
    return bool(
        _keeps_length(plan, op)
        and "input_zero" not in op["arrays"]
        and op.get("kernel", [1])[0] > 1
        and plan.tensors[op["in"]]["channels"] == width
        and width % 32 == 0
        and all(op.get(key) == first.get(key) for key in _SHAPE)
    )


def _holding(plan: PlanBuilder, parts: list[str]) -> str | None:
    """The tensor that has all these parts, and one chunk of their size beside them."""
    tensors = plan.tensors

    def span(name: str) -> range:
        begin = tensors[name].get("offset", 0)
        return range(begin, begin + tensors[name]["channels"])

    base = base_of(plan.plan, parts[0])
    size = (len(parts) + 1) * tensors[parts[0]]["channels"]
    for name in tensors:
        within = span(name)
        if base_of(plan.plan, name) == base and len(within) == size:
            inside = (
                base_of(plan.plan, part) == base
                and span(part)[0] in within
                and span(part)[-1] in within
                for part in parts
            )
            if all(inside):
                return name
    return None


_GATE = ("stats_s8", "quantize_s8", "dense_s8", "quantize_s8", "dense_s8")


def _gate(plan: PlanBuilder, ops: list[JSON]) -> list[JSON] | None:
    """The ops of squeeze-excitation that ``ops`` begin with."""
    found = ops[: len(_GATE)]
    if tuple(op["op"] for op in found) != _GATE or found[0].get("std"):
        return None
    follows = all(after["in"] == before["out"] for before, after in pairwise(found))
    is_plain = found[2].get("relu") and not found[4].get("relu")
    floats = all(plan.tensors[op["out"]]["dtype"] == "f32" for op in (found[2], found[4]))
    own_zero = any("input_zero" in op["arrays"] for op in found)
    return found if follows and is_plain and floats and not own_zero else None
