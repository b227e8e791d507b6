"""The torch ops: values, fake kernels, and one graph under torch.compile."""

from __future__ import annotations

import copy
import gc
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from earmark.nn import EcapaTdnn, PiecewiseLinearSoftmax  # noqa: E402
from earmark.nn.ops import network  # noqa: E402
from earmark.quantization import quantize  # noqa: E402

from .networks import SMALL, random_features, random_state, torch_network  # noqa: E402

ARGUMENTS = {
    "breakpoints": torch.tensor([-1.0, 0.5]),
    "slopes": torch.tensor([0.5, 2.0, 0.25]),
    "intercepts": torch.tensor([1.0, 2.5, 3.375]),
    "bounds": torch.tensor([0.125, 4.0]),
}


def softmax_op(x: Any, dim: int) -> Any:
    return torch.ops.earmark.pwl_softmax(x, dim, *ARGUMENTS.values())


def expected_softmax(x: Any, dim: int) -> Any:
    wide = x.double()
    piece = torch.searchsorted(ARGUMENTS["breakpoints"].double(), wide.contiguous(), right=True)
    values = wide * ARGUMENTS["slopes"].double()[piece] + ARGUMENTS["intercepts"].double()[piece]
    values = values.clamp(*ARGUMENTS["bounds"].tolist()).masked_fill(wide == -math.inf, 0.0)
    return values / values.sum(dim, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_of_any_layout(dtype: Any, dim: int) -> None:
    x = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 0, 1] = -math.inf
    for given in (x, x.transpose(0, 2)):
        found = softmax_op(given, dim)
        assert (found.dtype, found.shape) == (dtype, given.shape)
        assert found.is_contiguous()
        tolerance = 1e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
        expected = expected_softmax(given, dim)
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=1e-7)
    assert softmax_op(x[:0], dim).shape == (0, 4, 9)


def test_softmax_is_an_op_that_torch_can_trust() -> None:
    x = torch.randn(2, 7)
    torch.library.opcheck(torch.ops.earmark.pwl_softmax, (x, 1, *ARGUMENTS.values()))
    torch.library.opcheck(torch.ops.earmark.pwl_softmax, (x.half(), 0, *ARGUMENTS.values()))


class Graphs:
    """A backend that keeps the names of what it was given to compile."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.targets += [str(node.target) for node in module.graph.nodes]
        return module.forward


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """What other tests compiled counts towards torch's limit of recompilations."""
    torch.compiler.reset()


@pytest.mark.parametrize(
    "layer",
    [
        PiecewiseLinearSoftmax(segments=0),
        PiecewiseLinearSoftmax(dim=1),
        PiecewiseLinearSoftmax(segments=5, learnable=True),
    ],
    ids=repr,
)
def test_a_compiled_layer_keeps_its_op(layer: PiecewiseLinearSoftmax) -> None:
    x = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(1))
    graphs = Graphs()
    with torch.no_grad():
        expected = layer(x.clone())
        compiled = torch.compile(layer, backend=graphs, fullgraph=True)(x)
        traced = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    assert any("earmark.pwl_softmax" in target for target in graphs.targets)
    torch.testing.assert_close(compiled, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(traced, compiled, rtol=0, atol=0)
    # With gradients it is torch's own operations.
    layer(x.requires_grad_(True)).sum().backward()


@pytest.fixture(scope="module")
def quantized() -> Any:
    net = torch_network(SMALL, random_state(SMALL))
    waves = [random_features(i, 4000, 4)[:, 0] / 100 for i in range(2)]
    return quantize(net, waves, scheme="int8")


class Scores(torch.nn.Module):
    """A network with torch's own layers around it."""

    def __init__(self, embedder: EcapaTdnn) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, a: Any, b: Any) -> Any:
        embeddings = self.embedder(torch.cat([a, b]) * 1.5)[:, 0]
        return torch.nn.functional.cosine_similarity(*embeddings.split([len(a), len(b)]))


def test_a_network_in_a_compiled_model(quantized: Any) -> None:
    a, b = (torch.from_numpy(random_features(i, 30, SMALL.n_mels))[None] for i in range(2))
    model = Scores(quantized)
    graphs = Graphs()
    expected = model(a, b)
    torch.testing.assert_close(torch.compile(model, backend=graphs, fullgraph=True)(a, b), expected)
    assert any("earmark.network" in target for target in graphs.targets)
    for _ in range(2):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(a, b), expected)
    other = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(other(a, b), expected)
    longer = torch.from_numpy(random_features(5, 44, SMALL.n_mels))[None]
    torch.testing.assert_close(other(longer, longer), model(longer, longer))


def test_a_network_is_an_op_that_torch_can_trust(quantized: Any) -> None:
    features = torch.from_numpy(random_features(0, 20, SMALL.n_mels))[None].repeat(2, 1, 1)
    lengths = torch.tensor([1.0, 0.5])
    torch.library.opcheck(network, (features, lengths, quantized._number))
    torch.library.opcheck(network, (features, None, quantized._number))


def test_copies_are_networks_of_their_own(quantized: Any) -> None:
    features = torch.from_numpy(random_features(0, 20, SMALL.n_mels))[None]
    expected = quantized(features)
    other = copy.deepcopy(quantized)
    number = other._number
    assert number != quantized._number
    torch.testing.assert_close(other(features), expected, rtol=0, atol=0)
    del other
    gc.collect()
    with pytest.raises(ValueError, match="is no more"):
        network(features, None, number)
