"""An ONNX graph as it is put together: nodes, constants, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OPSET", "Graph"]

OPSET = 17
# 1.18 of the format is what every reader of opset 17 takes.
_IR_VERSION = 8
_DTYPES = {"f32": TensorProto.FLOAT, "s8": TensorProto.INT8}

Array = NDArray[Any]


class Graph:
    """Collects nodes; values are known by name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._names: set[str] = set()
        self._domains: set[str] = set()
        self.layer = ""

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output; its name, which begins with that of the present layer."""
        name = self._new(kind)
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def custom(
        self, kind: str, domain: str, inputs: Sequence[str], attributes: Mapping[str, Any]
    ) -> str:
        """As ``node``, of another domain; arrays become tensors."""
        name = self._new(kind)
        given = {
            key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()
        }
        self._nodes.append(
            helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **given)
        )
        self._domains.add(domain)
        return name

    def constant(self, values: Any, dtype: Any = np.float32, role: str = "constant") -> str:
        """A constant; its name."""
        name = self._new(role)
        # Of a number a scalar: with [1] parsers take a scale for one of channels.
        self._constants[name] = np.asarray(values, dtype, order="C")
        return name

    def _new(self, role: str) -> str:
        name, number = f"{self.layer}/{role}" if self.layer else role, 1
        while name in self._names:
            number += 1
            name = f"{self.layer}/{role}_{number}" if self.layer else f"{role}_{number}"
        self._names.add(name)
        return name

    # --- what many ops are made of

    def quantized(self, x: str) -> str:
        """Float values that are about integers as these, int8: rounded, halves to even, clipped."""
        return self.node("QuantizeLinear", x, self.constant(1.0), self.constant(0, np.int8))

    def integers(self, q: str) -> str:
        """int8 values as floats."""
        return self.node("DequantizeLinear", q, self.constant(1.0), self.constant(0, np.int8))

    def weights(self, w: Array) -> str:
        """int8 weights (out, ...) as floats, quantized by row with scales of 1."""
        scale, zero = self.constant(np.ones(len(w))), self.constant(np.zeros(len(w)), np.int8)
        return self.node(
            "DequantizeLinear", self.constant(w, np.int8, "weight"), scale, zero, axis=0
        )

    def add(self, x: str, values: Any) -> str:
        """Plus constants that broadcast, where they are not all 0."""
        return x if not np.any(values) else self.node("Add", x, self.constant(values))

    def times(self, x: str, values: Any) -> str:
        """Times constants that broadcast, where they are not all 1."""
        return x if np.all(np.equal(values, 1)) else self.node("Mul", x, self.constant(values))

    def cut(self, x: str, begin: int, end: int, axis: int = 1) -> str:
        """[begin, end) of an axis; where negative, from its end."""
        return self.node("Slice", x, *(self.constant([n], np.int64) for n in (begin, end, axis)))

    def first(self, x: str, count: str, axis: int) -> str:
        """As many of an axis as a value [1] says."""
        begin, axes = (self.constant([n], np.int64) for n in (0, axis))
        return self.node("Slice", x, begin, count, axes)

    def as_long_as(self, x: str, other: str, axis: int) -> str:
        """As many of an axis as another value has."""
        return self.first(x, self.node("Shape", other, start=axis, end=axis + 1), axis)

    def join(self, parts: Sequence[str], axis: int = 1) -> str:
        """Side by side."""
        return self.node("Concat", *parts, axis=axis)

    def unsqueezed(self, x: str, axes: Sequence[int]) -> str:
        """With axes of length 1."""
        return self.node("Unsqueeze", x, self.constant(list(axes), np.int64)) if axes else x

    def reflected(self, x: str, padding: int, axis: int) -> str:
        """Padded by mirrored values, as slices: parsers differ in what they make of Pad."""
        if padding == 0:
            return x
        left = [self.cut(x, i, i + 1, axis) for i in range(padding, 0, -1)]
        right = [self.cut(x, -i - 1, -i, axis) for i in range(1, padding + 1)]
        return self.join([*left, x, *right], axis)

    def model(
        self,
        inputs: Mapping[str, tuple[str, Sequence[int | str]]],
        outputs: Mapping[str, tuple[str, str, Sequence[int | str]]],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """The checked model.

        inputs: dtype and shape by name. outputs: value, dtype and shape by name.
        """
        for name, (value, _, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        graph = helper.make_graph(
            self._nodes,
            "earmark",
            [helper.make_tensor_value_info(n, _DTYPES[d], s) for n, (d, s) in inputs.items()],
            [helper.make_tensor_value_info(n, _DTYPES[d], s) for n, (_, d, s) in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", OPSET),
                *(helper.make_opsetid(domain, 1) for domain in sorted(self._domains)),
            ],
            ir_version=_IR_VERSION,
            producer_name="earmark",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=not self._domains)
        return model
