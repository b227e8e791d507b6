"""Models for other engines."""

from __future__ import annotations

from typing import Any

import onnx

from earmark.export.graph import Graph
from earmark.export.ops import RUNNERS, Step
from earmark.export.plugins import append_plugins
from earmark.modelfile import ModelFile, canonical_json
from earmark.plan import INPUT, OUTPUT, SCORES, PlanBuilder
from earmark.views import Views

__all__ = ["to_onnx"]

_TOLD = ("family", "scheme", "sample_rate_hz", "front_end", "labels", "window", "threshold")


def to_onnx(model: ModelFile, plugins: bool = False) -> onnx.ModelProto:
    """The network as ONNX of opset 17, integers in QuantizeLinear and DequantizeLinear.

    Its input ``features`` is (batch, time, bands), its output ``embedding`` (batch, dim) or
    ``scores`` (batch, classes); of ``int8-full`` both are int8. All recordings of a batch have the
    same length. plugins: integer layers over time are nodes of the domain ``earmark``, for TensorRT
    with the library of plugins. Metadata: what the file says of family, front end, sample rate,
    labels and window.

    Raises ValueError for a network with layers of 16 bits or of ranges found at run time, which
    QuantizeLinear has no form for, and for plugins in a network of images.
    """
    plan = PlanBuilder.of(model.plan, model.decoded_arrays())
    for op in plan.ops:
        ranged = "quantization" in op or "values_quantization" in op
        if op["op"] not in RUNNERS or ranged:
            raise ValueError(
                f"layer {op['name']!r}: {op['op']}{' of a range found at run time' * ranged} "
                "has no form in ONNX"
            )
    graph = Graph()
    tensor = plan.tensors[INPUT]
    width = tensor.get("width", 1)
    if plugins and width > 1:
        raise ValueError("there are no plugins for networks of images")
    values = append_plugins(graph, plan) if plugins else _append(graph, plan)
    graph.layer = ""
    output = OUTPUT if OUTPUT in plan.tensors else SCORES
    bands = width if width > 1 else tensor["channels"]
    given = {"features": (tensor["dtype"], ["batch", "time", bands])}
    out = plan.tensors[output]
    made = {output: (values.read(output), out["dtype"], ["batch", out["channels"]])}
    return graph.model(given, made, _metadata(model))


def _append(graph: Graph, plan: PlanBuilder) -> Views[str]:
    """All ops, as standard nodes; what every tensor holds behind them."""
    values: Views[str] = Views(plan.plan, graph.cut, graph.join)
    if plan.tensors[INPUT].get("width", 1) > 1:
        values.write(INPUT, graph.unsqueezed("features", [1]))
    else:
        values.write(INPUT, graph.node("Transpose", "features", perm=[0, 2, 1]))
    for op in plan.ops:
        graph.layer = op["name"]
        values.write(op["out"], RUNNERS[op["op"]](Step(graph, plan, op, values)))
    return values


def _metadata(model: ModelFile) -> dict[str, str]:
    """What another program needs to know of the file, each value as JSON."""
    told: dict[str, Any] = {k: model.metadata[k] for k in _TOLD if k in model.metadata}
    for name in (INPUT, OUTPUT, SCORES):
        tensor = model.plan["tensors"].get(name, {})
        if tensor.get("dtype") == "s8":
            quantization = {"scale": tensor["scale"], "zero_point": tensor.get("zero_point", 0)}
            told[f"{name}_quantization"] = quantization
    return {f"earmark.{key}": canonical_json(value) for key, value in told.items()}
