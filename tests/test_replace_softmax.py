"""replace_softmax: on ECAPA-TDNN, nn.Softmax modules, and calls inside a forward."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import earmark
from earmark.errors import FormatError
from earmark.families import load_checkpoint
from earmark.metrics import cosine_score
from earmark.nn import (
    EcapaTdnn,
    LookupTableSoftmax,
    PiecewiseLinear,
    PiecewiseLinearSoftmax,
    replace_softmax,
)
from earmark.nn.softmax import ApproximateSoftmax

from .networks import random_state, torch_network
from .paths import CHECKPOINT, SHARED_DATA, dev_recordings, needs_data

CONFIG = earmark.nn.EcapaConfig(
    channels=(32, 32, 32, 32, 96), attention_channels=16, res2_scale=4, se_channels=8, embedding=24
)
LAYERS: dict[str, ApproximateSoftmax] = {
    "clip": PiecewiseLinearSoftmax(segments=0),
    "one segment": PiecewiseLinearSoftmax(segments=1),
    "two segments": PiecewiseLinearSoftmax(segments=2),
    "minimax": PiecewiseLinearSoftmax(segments=3, method="minimax"),
    "learnable": PiecewiseLinearSoftmax(segments=2, learnable=True),
    "given": PiecewiseLinearSoftmax(function=PiecewiseLinear((), (0.3,), (1.0,), 0.1, 9.0)),
    "table": LookupTableSoftmax(entries=200),
}


@pytest.fixture
def net() -> EcapaTdnn:
    return torch_network(CONFIG, random_state(CONFIG))


@pytest.fixture
def waves() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, 16000 + 4000 * i).astype(np.float32) for i in range(3)]


def logits_of(net: EcapaTdnn, waves: list[np.ndarray]) -> list[Tensor]:
    seen: list[Tensor] = []
    hook = net.asp.conv.register_forward_hook(lambda module, args, out: seen.append(out))
    net.embed(waves)
    hook.remove()
    return seen


@pytest.mark.parametrize("name", LAYERS)
def test_ecapa(name: str, net: EcapaTdnn, waves: list[np.ndarray]) -> None:
    before = net.embed(waves)
    assert replace_softmax(net, LAYERS[name], waves) is net
    layer = net.asp.softmax
    assert type(layer) is type(LAYERS[name])
    assert layer is not LAYERS[name]
    assert layer.dim == 2
    largest = torch.stack([x.amax(dim=2)[0] for x in logits_of(net, waves)]).amax(dim=0)
    moved = name not in ("clip", "given")
    assert bool((largest.abs() < 1e-5).all()) == moved
    after = net.embed(waves)
    assert (cosine_score(before, after) > 0.8).all()
    if name == "table":
        assert (cosine_score(before, after) > 0.9999).all()
    # The given function stays; it is the prototype's that is never touched.
    if name == "given":
        assert layer.function().slopes[0] == pytest.approx(0.3)


def test_padded_frames_weigh_nothing(net: EcapaTdnn, waves: list[np.ndarray]) -> None:
    replace_softmax(net, PiecewiseLinearSoftmax(segments=2), waves)
    weights: list[Tensor] = []
    net.asp.softmax.register_forward_hook(lambda module, args, out: weights.append(out))
    feats = torch.randn(2, 60, 80, generator=torch.Generator().manual_seed(0))
    net(feats, torch.tensor([1.0, 0.5]))
    assert not weights[0][1, :, 30:].any()
    torch.testing.assert_close(weights[0].sum(dim=2), torch.ones(2, 96))


def test_without_calibration_only_modules_are_found(net: EcapaTdnn) -> None:
    bias = net.asp.conv.conv.bias.clone()
    layer = PiecewiseLinearSoftmax(segments=1, range=(-3, 3))
    replace_softmax(net, layer)
    assert net.asp.softmax.function() == layer.function()
    assert torch.equal(net.asp.conv.conv.bias, bias)


class Calls(nn.Module):
    """Calls softmax in its forward, as SpeechBrain's pooling does."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.linear(x)
        if mask is not None:
            y = y.masked_fill(mask == 0, -math.inf)
        if self.way == "functional":
            return functional.softmax(y, dim=1)
        if self.way == "torch":
            return torch.softmax(y, 1)
        if self.way == "dtype":
            return functional.softmax(y, dim=1, dtype=torch.float64)
        return y.softmax(dim=1)


WAYS = ["functional", "torch", "method", "dtype"]


@pytest.mark.parametrize("way", WAYS)
def test_calls_in_a_forward(way: str) -> None:
    torch.manual_seed(0)
    inner = Calls(way)
    model = nn.Sequential(nn.Linear(6, 6), inner)
    x, mask = torch.randn(4, 9, 6), torch.ones(4, 9, 6)
    exact = model(x)
    replace_softmax(model, LookupTableSoftmax(entries=4000), [x])
    layer = inner.get_submodule("approximate_softmax")
    assert isinstance(layer, LookupTableSoftmax)
    assert layer.dim == 1
    out = model(x)
    assert out.dtype == exact.dtype
    torch.testing.assert_close(out, exact, rtol=1e-3, atol=1e-4)
    assert not torch.equal(out, exact)
    mask[:, 4:] = 0
    assert not inner(x, mask)[:, 4:].any()
    assert "1.approximate_softmax.table" in model.state_dict()
    # Elsewhere a softmax stays a softmax.
    assert torch.equal(torch.softmax(x, 1), functional.softmax(x, dim=1))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), out)
        twin.get_submodule("1.approximate_softmax").table.fill_(1.0)
        torch.testing.assert_close(twin(x), torch.full_like(out, 1 / 9))
        assert torch.equal(model(x), out)


def test_learnable_in_a_forward_gets_gradients() -> None:
    model = nn.Sequential(Calls("torch"))
    replace_softmax(
        model, PiecewiseLinearSoftmax(segments=2, learnable=True), [torch.randn(2, 5, 6)]
    )
    model(torch.randn(2, 5, 6)).square().sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if "softmax" in key}
    assert len(gradients) == 4
    assert all(gradient is not None for gradient in gradients.values())


def test_modules_keep_their_axes_and_training_modes() -> None:
    model = nn.ModuleDict({"a": nn.Softmax(dim=1), "b": nn.Sequential(nn.Softmax(dim=-1))})
    model["a"].eval()
    replace_softmax(model, PiecewiseLinearSoftmax(segments=2))
    assert (model["a"].dim, model["b"][0].dim) == (1, -1)
    assert (model["a"].training, model["b"][0].training) == (False, True)


def test_a_softmax_that_stands_in_two_places() -> None:
    softmax = nn.Softmax(dim=1)
    model = nn.Sequential(nn.Sequential(softmax, softmax), softmax)
    replace_softmax(model, PiecewiseLinearSoftmax(segments=2))
    assert not any(isinstance(module, nn.Softmax) for module in model.modules())
    assert model[1] is model[0][0]
    assert model[1] is model[0][1]


def test_models_without_a_softmax_are_refused() -> None:
    layer = PiecewiseLinearSoftmax()
    with pytest.raises(ValueError, match=r"Linear has no softmax to replace; calls .* calibration"):
        replace_softmax(nn.Linear(2, 2), layer)
    with pytest.raises(ValueError, match=r"has no softmax to replace$"):
        replace_softmax(nn.Linear(2, 2), layer, [torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="reaches the softmax '1'"):
        replace_softmax(nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1)), layer, [])
    with pytest.raises(ValueError, match="itself"):
        replace_softmax(nn.Softmax(dim=1), layer)
    with pytest.raises(ValueError, match="finite"):
        replace_softmax(nn.Sequential(Calls("torch")), layer, [torch.full((1, 5, 6), math.nan)])


@pytest.mark.parametrize("name", LAYERS)
def test_networks_with_another_softmax_are_read_back(
    name: str, net: EcapaTdnn, waves: list[np.ndarray], tmp_path: Path
) -> None:
    replace_softmax(net, LAYERS[name], waves)
    path = tmp_path / "model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in net.state_dict().items()}, path)
    again = load_checkpoint(path, family="speechbrain")
    np.testing.assert_array_equal(again.embed(waves), net.embed(waves))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("slopes", torch.tensor([1.0, math.nan]), "slopes.* nan"),
        ("slopes", torch.zeros(0), "asp.softmax"),
        ("slopes", torch.ones(3), "breakpoints"),
        ("log_low", torch.tensor(math.inf), "log_low.* inf"),
        ("log_low", torch.tensor(1e9), "asp.softmax"),
        ("log_low", torch.ones(2), "log_low"),
        ("steps", torch.ones(2), "steps"),
    ],
)
def test_nonsense_in_a_softmax_is_refused(
    key: str, value: Tensor, reason: str, net: EcapaTdnn, waves: list[np.ndarray], tmp_path: Path
) -> None:
    replace_softmax(net, LAYERS["two segments"], waves)
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    state[f"asp.softmax.{key}"] = value
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    with pytest.raises(FormatError, match=rf"model.safetensors: .*{reason}"):
        load_checkpoint(path, family="speechbrain")


@needs_data
def test_real_recordings_keep_their_embeddings() -> None:
    net = load_checkpoint(CHECKPOINT, family="speechbrain")
    listed = (SHARED_DATA / "speakers" / "train.txt").read_text().split()[::60]
    calibration = [SHARED_DATA / "speakers" / name for name in listed]
    recordings = dev_recordings()[::40]
    before = net.embed(recordings)
    replace_softmax(net, PiecewiseLinearSoftmax(segments=2), calibration)
    assert (cosine_score(before, net.embed(recordings)) > 0.95).all()
