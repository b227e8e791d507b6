"""The exported graph with plugins, walked by ONNX's reference evaluator: standard nodes its own,
the plugins in a host of ours over emulated kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip(
    "earmark._plugin_host", reason="the package was built without EARMARK_EMULATED_ISA"
)

import torch  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

import earmark  # noqa: E402
from earmark.export import to_onnx  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402
from earmark.modelfile import ModelFile  # noqa: E402

from .networks import random_features, wave  # noqa: E402
from .plugin_checks import NAMES  # noqa: E402
from .test_plugins import Array, Library  # noqa: E402
from .toolkit_networks import SMALL, VARIANTS  # noqa: E402

# Chunks of 32 channels, which the chain's plugin takes.
SIZES = {"width": 128, "aggregated": 160}
_VERSIONS = ("plugin_version", "plugin_namespace")


def fields_of(node: Any) -> dict[str, Any]:
    """A plugin's fields as its node holds them."""
    fields = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.TENSOR:
            value = numpy_helper.to_array(value)
        fields[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return {name: value for name, value in fields.items() if name not in _VERSIONS}


class QuantizeLinear(OpRun):  # type: ignore[misc]
    """Which the evaluator has of later versions only; with the scale and zero point of exports."""

    def _run(self, x: Array, scale: Array, zero: Array, **_: Any) -> tuple[Array]:
        assert (scale, zero) == (1, 0)
        return (np.clip(np.rint(x), -128, 127).astype(np.int8),)


class DequantizeLinear(OpRun):  # type: ignore[misc]
    def _run(self, x: Array, scale: Array, zero: Array, **_: Any) -> tuple[Array]:
        assert (scale == 1).all()
        assert (zero == 0).all()
        return (x.astype(np.float32),)


def evaluator(model: ModelFile, ran: list[str]) -> ReferenceEvaluator:
    """Of the graph with plugins; ``ran``: takes the names of those that run."""
    library = Library("emulated")

    class Plugin(OpRun):  # type: ignore[misc]
        op_domain = "earmark"

        def _run(self, *inputs: Array, **_: Any) -> tuple[Array]:
            node = self.onnx_node
            ran.append(node.op_type)
            return (library.run(library.create(node.op_type, fields_of(node)), *inputs),)

    kinds = [type(name, (Plugin,), {}) for name in NAMES]
    kinds += [QuantizeLinear, DequantizeLinear]
    return ReferenceEvaluator(to_onnx(model, plugins=True), new_ops=kinds)


@pytest.mark.parametrize("name", ["3dspeaker", "wespeaker", "nemo"])
def test_the_graph_gives_the_engine_s_answer(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    net = variant.load(variant.network(**SIZES), tmp_path / "weights.ckpt")
    with torch.no_grad():
        model = earmark.quantize(net, [wave(seed) for seed in range(4)]).model_file
    engine = earmark.Embedder(model)
    for frames in (9, 16, 37):
        items = [random_features(seed, frames, SMALL["mels"]) for seed in range(2)]
        ran: list[str] = []
        found = evaluator(model, ran).run(None, {"features": np.stack(items)})[0]
        expected = engine.embed_features(items)
        assert cosine_score(found, expected).min() > 0.9999
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
        assert set(ran) == set(NAMES) - {"EarmarkSoftmax"} - (
            {"EarmarkRes2S8"} if name == "nemo" else set()
        )
