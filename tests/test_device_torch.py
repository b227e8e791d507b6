"""torch's CUDA tensors in and out, streams, graphs: on a machine with a GPU alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import earmark  # noqa: E402
from earmark.devices import cuda_devices  # noqa: E402
from earmark.nn import PiecewiseLinearSoftmax  # noqa: E402
from earmark.quantization import quantize  # noqa: E402

from .networks import SMALL, random_features, random_state, torch_network  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not cuda_devices(), reason="there is no GPU"
)

DEMO = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"


@pytest.fixture(scope="module")
def model() -> Any:
    return earmark.load(DEMO, device="cuda")


@pytest.fixture(scope="module")
def features() -> Any:
    return torch.from_numpy(np.stack([random_features(i, 120) for i in range(3)]))


def test_gpu_tensors_in_and_out(model: Any, features: Any) -> None:
    expected = earmark.load(DEMO).embed_features(features.numpy())
    given = features.cuda()
    assert model.embed_features(given).tobytes() == expected.tobytes()
    result = torch.from_dlpack(model.embed_features(given, out="device"))
    assert result.is_cuda
    assert result.cpu().numpy().tobytes() == expected.tobytes()
    out = torch.zeros(3, 192, device="cuda")
    assert model.embed_features(list(given), out=out) is out
    assert out.cpu().numpy().tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="must be contiguous"):
        model.embed_features(given.transpose(1, 2).contiguous().transpose(1, 2))


def test_gpu_streams_are_respected(model: Any, features: Any) -> None:
    """The features are still being made when the engine is called, again and again."""
    expected = earmark.load(DEMO).embed_features(features.numpy())
    source = features.cuda()
    slow = torch.randn(4096, 4096, device="cuda")
    for stream in (torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            for _ in range(5):
                given = torch.full_like(source, torch.nan)
                for _ in range(10):
                    slow = slow @ slow / 64
                given.copy_(source)
                out = torch.zeros(3, 192, device="cuda")
                model.embed_features(given, out=out)
                assert out.cpu().numpy().tobytes() == expected.tobytes()


def test_gpu_quantized_networks_and_compile(features: Any) -> None:
    net = torch_network(SMALL, random_state(SMALL))
    waves = [random_features(i, 4000, 4)[:, 0] / 100 for i in range(2)]
    quantized = quantize(net, waves, scheme="int8")
    given = features[:, :, : SMALL.n_mels].contiguous()
    expected = quantized(given)
    assert torch.equal(quantized(given.cuda()).cpu(), expected)
    lengths = torch.tensor([1.0, 0.5, 0.25])
    assert torch.equal(quantized(given.cuda(), lengths.cuda()).cpu(), quantized(given, lengths))
    compiled = torch.compile(quantized, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(given.cuda()).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, -1])
def test_gpu_softmax(dtype: Any, dim: int) -> None:
    layer = PiecewiseLinearSoftmax(dim=dim, segments=4)
    x = 2 * torch.randn(4, 33, 50, generator=torch.Generator().manual_seed(0))
    x[0, 0] = -torch.inf
    expected = layer(x.to(dtype).float().requires_grad_(True)).detach()
    layer, given = layer.cuda(), x.to(dtype).cuda()
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    with torch.no_grad():
        found = layer(given)
        torch.testing.assert_close(found.float().cpu(), expected, rtol=tolerance, atol=1e-6)
        # Recorded in a CUDA graph: nothing waits for the host.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            again = layer(given)
        graph.replay()
        torch.testing.assert_close(again, found, rtol=0, atol=0)
