"""replace_softmax: on earmark's network, on nn.Softmax, and on modules that call softmax."""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from earmark.errors import FormatError  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.frontend import SpeechBrainFbank  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402
from earmark.nn import (  # noqa: E402
    EcapaTdnn,
    LookupTableSoftmax,
    PiecewiseLinear,
    PiecewiseLinearSoftmax,
    replace_softmax,
)

from .networks import SMALL, random_features, random_state  # noqa: E402
from .paths import CHECKPOINT, SHARED_DATA, dev_recordings, needs_data, one_torch_thread  # noqa: E402
from .speechbrain_parts import imported_speechbrain  # noqa: E402

FINE_TABLE = LookupTableSoftmax(entries=4096)
GIVEN = PiecewiseLinearSoftmax(function=PiecewiseLinear((), (0.5,), (1.0,), 0.25))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def small_net(seed: int = 0) -> EcapaTdnn:
    net = EcapaTdnn(SMALL, SpeechBrainFbank(SMALL.n_mels), "speechbrain")
    state = {key: torch.from_numpy(value) for key, value in random_state(SMALL, seed).items()}
    net.load_state_dict(state, strict=False)
    return net.eval().requires_grad_(False)


def features(frames: int, seed: int = 0) -> Any:
    return torch.from_numpy(random_features(seed, frames, SMALL.n_mels))[None]


CALIBRATION = [features(80 + 20 * i, i) for i in range(4)]


class Functional(nn.Module):
    """Calls softmax in all the ways there are, of the same logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Any, way: str = "functional") -> Any:
        x = self.layer(x)
        if way == "functional":
            return functional.softmax(x, dim=1)
        if way == "torch":
            return torch.softmax(x, 1)
        if way == "method":
            return x.softmax(1)
        if way == "special":
            return torch.special.softmax(x, 1)
        if way == "keywords":
            return torch.softmax(input=x, dim=-2)
        if way == "transposed":
            return functional.softmax(x.transpose(1, 2), 2).transpose(1, 2)
        if way == "dtype":
            return functional.softmax(x, 1, dtype=torch.float64).float()
        return torch.softmax(x.double().requires_grad_(), 1, torch.float32)


WAYS = ("functional", "torch", "method", "special", "keywords", "transposed", "dtype", "other")


class Pair(nn.Module):
    """One that calls, one that has a module, and the same module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Functional()
        self.shared = nn.Softmax(dim=2)
        self.rest = nn.Sequential(nn.BatchNorm1d(5), self.shared, nn.Dropout(0.5))

    def forward(self, x: Any) -> Any:
        return self.rest(self.shared(x) + self.first(x))


def batch(seed: int = 0) -> Any:
    return 2 * torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_a_network_has_the_exact_one_and_no_state_of_it() -> None:
    net = small_net()
    assert isinstance(net.asp.softmax, nn.Softmax)
    assert not any("softmax" in key for key in net.state_dict())


@pytest.mark.parametrize("segments", [0, 1, 2, 3])
def test_ecapa(segments: int) -> None:
    net, feats = small_net(), features(150, 9)
    exact = net(feats)
    same = replace_softmax(net, PiecewiseLinearSoftmax(segments=segments), CALIBRATION)
    assert same is net
    layer = net.asp.softmax
    assert isinstance(layer, PiecewiseLinearSoftmax)
    assert (layer.segments, layer.dim) == (segments, 2)
    cosine = cosine_score(net(feats)[0, 0], exact[0, 0])
    assert cosine > (0.97 if segments < 2 else 0.99)


def test_shifting_the_channels_leaves_the_exact_network_alone() -> None:
    """A fine table is as good as exact on the range it knows; the bias is another one."""
    net, feats = small_net(), CALIBRATION[0]
    exact, bias = net(feats), net.asp.conv.conv.bias.clone()
    replace_softmax(net, FINE_TABLE, CALIBRATION)
    assert not torch.equal(net.asp.conv.conv.bias, bias)
    assert net.asp.softmax.limits[1].abs() < 0.01
    torch.testing.assert_close(net(feats), exact, rtol=1e-3, atol=1e-3)
    peaks = []
    hook = net.asp.conv.register_forward_hook(lambda m, a, out: peaks.append(out.amax((0, 2))))
    for item in CALIBRATION:
        net(item)
    hook.remove()
    assert torch.stack(peaks).amax(0).abs().max() < 1e-5


@pytest.mark.parametrize("segments", [1, 2])
def test_sharing_a_maximum_brings_the_weights_nearer(segments: int) -> None:
    """Against the same fit of the range of all channels as they are."""
    errors = []
    for shift in (0.0, 1.0):
        nets = [small_net() for _ in range(2)]
        for net in nets:
            generator = torch.Generator().manual_seed(0)
            net.asp.conv.conv.bias.normal_(0, 5, generator=generator)
        exact, net = nets
        softmax = PiecewiseLinearSoftmax(segments=segments)
        if shift == 0:
            # Not known as an ECAPA-TDNN's.
            net.asp.__class__ = type("OtherPooling", (type(net.asp),), {})
        replace_softmax(net, softmax, CALIBRATION)
        feats = features(150, 9)
        errors.append(1 - cosine_score(net(feats)[0, 0], exact(feats)[0, 0]))
    assert errors[1] < errors[0] / 2


def test_a_clip_is_as_near_as_one_segment() -> None:
    clip, line = small_net(), small_net()
    replace_softmax(clip, PiecewiseLinearSoftmax(segments=0), CALIBRATION)
    replace_softmax(line, PiecewiseLinearSoftmax(segments=1), CALIBRATION)
    feats = features(120, 7)
    torch.testing.assert_close(clip(feats), line(feats), rtol=1e-3, atol=1e-3)


def test_masks_go_through_the_pooling() -> None:
    net = small_net()
    lengths = torch.tensor([0.5, 1.0])
    replace_softmax(net, PiecewiseLinearSoftmax(), [(torch.cat([features(90)] * 2), lengths)])
    weights = []
    hook = net.asp.softmax.register_forward_hook(lambda m, a, out: weights.append(out))
    net(torch.cat([features(90, 3)] * 2), lengths)
    hook.remove()
    assert (weights[0][0, :, 45:] == 0).all()
    assert (weights[0][0, :, :45] > 0).all()
    torch.testing.assert_close(weights[0].sum(2), torch.ones(2, SMALL.channels[-1]))


def test_calibration_on_recordings() -> None:
    net, twin = small_net(), small_net()
    waves = [np.random.default_rng(i).normal(size=8000 + 999 * i) for i in range(2)]
    replace_softmax(net, PiecewiseLinearSoftmax(), waves)
    feats = [torch.from_numpy(net.front_end(wave.astype(np.float32)))[None] for wave in waves]
    replace_softmax(twin, PiecewiseLinearSoftmax(), feats)
    assert net.asp.softmax.function() == twin.asp.softmax.function()


def test_a_given_function_is_not_fitted_and_needs_no_calibration() -> None:
    nets = [small_net(), small_net()]
    replace_softmax(nets[0], GIVEN)
    replace_softmax(nets[1], GIVEN, CALIBRATION)
    for net in nets:
        assert net.asp.softmax.function() == GIVEN.function()
        assert torch.equal(net.asp.conv.conv.bias, small_net().asp.conv.conv.bias)


def test_learnable_coefficients_get_gradients() -> None:
    net = replace_softmax(small_net(), PiecewiseLinearSoftmax(learnable=True), CALIBRATION)
    net(features(60)).square().sum().backward()
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert names == [f"asp.softmax.{v}" for v in ("slopes", "breakpoints", "intercept", "log_low")]
    for name in names:
        gradient = net.get_parameter(name).grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_modules() -> None:
    """In place, each with its dimension, the shared one as one."""
    model = nn.Sequential(nn.Softmax(dim=1), nn.ModuleDict({"a": nn.Softmax(dim=-1)}))
    assert replace_softmax(model, GIVEN) is model
    assert repr(model[0]) == "PiecewiseLinearSoftmax(dim=1, segments=1, learnable=False)"
    assert model[1]["a"].dim == -1
    alone = replace_softmax(nn.Softmax(dim=1), GIVEN)
    x = batch()
    assert torch.equal(alone(x), model[0](x))


def test_modules_and_calls() -> None:
    model = Pair().eval()
    exact = model(batch())
    replace_softmax(model, FINE_TABLE, [batch(i) for i in range(20)])
    assert model.shared is model.rest[1]
    assert model.shared.dim == 2
    assert model.first.softmax.dim == 1
    torch.testing.assert_close(model(batch()), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_call(way: str) -> None:
    model = Functional()
    x = batch()
    expected = GIVEN.function()(model.layer(x).detach())
    replace_softmax(model, GIVEN, [(x, way)])
    found = model(x, way)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(
        found.detach(), expected / expected.sum(axis=1, keepdims=True), rtol=1e-4
    )


def test_masked_calls() -> None:
    class Masked(Functional):
        def forward(self, x: Any) -> Any:
            return functional.softmax(self.layer(x).masked_fill(x < 0, -math.inf), dim=1)

    model = Masked()
    x = batch()
    x[:, 0] = 1.0
    replace_softmax(model, PiecewiseLinearSoftmax(), [x])
    found = model(x)
    assert ((found == 0) == (x < 0)).all()
    found.square().sum().backward()
    assert model.layer.weight.grad.isfinite().all()


def test_a_redirected_module_keeps_its_class_names_copies_and_pickles() -> None:
    model = Functional()
    names = list(model.state_dict())
    replace_softmax(model, PiecewiseLinearSoftmax(learnable=True), [batch()])
    assert isinstance(model, Functional)
    assert type(model).__name__ == "Functional"
    assert [key for key in model.state_dict() if not key.startswith("softmax.")] == names
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved):
        assert type(twin) is type(model)
        assert torch.equal(twin(batch()), model(batch()))
        with torch.no_grad():
            twin.softmax.slopes += 1
        assert not torch.equal(twin(batch()), model(batch()))


def test_only_the_softmax_of_that_module_and_thread_is_redirected() -> None:
    other: list[Any] = []

    class Waiting(Functional):
        def forward(self, x: Any) -> Any:
            thread = threading.Thread(target=lambda: other.append(torch.softmax(x, 1)))
            thread.start()
            thread.join()
            return super().forward(x)

    model = Waiting()
    x = batch()
    replace_softmax(model, GIVEN, [x])
    model(x)
    for found in (other[-1], torch.softmax(x, 1)):
        torch.testing.assert_close(found, x.exp() / x.exp().sum(1, keepdim=True))


def test_compiles_and_exports() -> None:
    model = replace_softmax(Functional(), PiecewiseLinearSoftmax(), [batch()])
    x = batch(3)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_calibration_leaves_no_trace() -> None:
    """Evaluation mode while it runs, no hooks, no statistics, no gradients."""
    model = Pair()
    model.rest[2].eval()
    mean = model.rest[0].running_mean.clone()
    replace_softmax(model, PiecewiseLinearSoftmax(), [batch()])
    assert torch.equal(model.rest[0].running_mean, mean)
    assert model.training
    assert model.shared.training
    assert not model.rest[2].training
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


@given(st.integers(0, 1000), st.integers(1, 4), st.floats(0.1, 5))
@settings(max_examples=20, deadline=None)
def test_the_range_is_what_calibration_saw(seed: int, count: int, scale: float) -> None:
    items = [scale * batch(seed + i) for i in range(count)]
    layer = replace_softmax(nn.Softmax(dim=1), LookupTableSoftmax(), items)
    low, high = layer.limits.tolist()
    both = torch.stack(items)
    assert both.min() - 0.002 <= low <= both.min()
    assert both.max() <= high <= both.max() + 0.002


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Softmax(dim=1)
        self.second = nn.Softmax(dim=1)

    def forward(self, x: Any) -> Any:
        return self.first(x)


class Named(Functional):
    softmax = "a word"


@pytest.mark.parametrize(
    ("model", "items", "message"),
    [
        (nn.Linear(2, 2), None, "no nn.Softmax in the model"),
        (Functional(), None, "called as a function is found by running"),
        (nn.Linear(6, 6), [batch()], "calibration came by no softmax"),
        (nn.Softmax(dim=1), [], "calibration came by no softmax"),
        (Unused(), [batch()], "second: calibration does not reach this softmax"),
        (Named(), [batch()], "the model: calls softmax and has an attribute of that name"),
        (nn.Softmax(dim=1), [batch() * math.nan], "the model: not all logits are finite"),
        (nn.Softmax(dim=1), [batch() + math.inf], "the model: not all logits are finite"),
        (
            nn.Softmax(dim=1),
            [batch().masked_fill(batch() < 0, -1e9)],
            r"the model: the logits are from -1e\+09 to .*, too far apart .* must be -inf",
        ),
        (nn.Sequential(nn.Softmax()), None, "without a dimension cannot be replaced"),
    ],
)
def test_refuses(model: Any, items: Any, message: str) -> None:
    model = copy.deepcopy(model)
    before = repr(model)
    with pytest.raises(ValueError, match=message) as caught:
        replace_softmax(model, PiecewiseLinearSoftmax(), items)
    assert "\n" not in str(caught.value)
    assert repr(model) == before


def test_a_clip_needs_logits_above_zero() -> None:
    with pytest.raises(ValueError, match=r"the model: a clip alone needs logits above 0"):
        replace_softmax(nn.Softmax(dim=1), PiecewiseLinearSoftmax(segments=0), [-batch().abs()])


def test_a_pooling_that_only_has_the_name_of_one() -> None:
    """Its bias is not that of the logits: it is put back."""

    class AttentiveStatisticsPooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.ModuleDict({"conv": nn.Conv1d(5, 5, 1)})

        def forward(self, x: Any) -> Any:
            return torch.softmax(-3 * self.conv["conv"](x), dim=2)

    model = AttentiveStatisticsPooling()
    bias = model.conv["conv"].bias.clone()
    with pytest.raises(
        ValueError, match=r"the model: its logits do not move with conv\.conv\.bias"
    ):
        replace_softmax(model, PiecewiseLinearSoftmax(), [batch()])
    torch.testing.assert_close(model.conv["conv"].bias, bias)
    assert not hasattr(model, "softmax")


def test_what_stays_exact_is_told() -> None:
    model = Functional()
    model.forward = functional.softmax  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the model: still computes an exact softmax"):
        replace_softmax(model, PiecewiseLinearSoftmax(), [(batch(), 1)])


@pytest.mark.parametrize(
    "softmax",
    [
        PiecewiseLinearSoftmax(segments=0),
        PiecewiseLinearSoftmax(segments=3, learnable=True),
        PiecewiseLinearSoftmax(function=PiecewiseLinear((), (0.5,), (1.0,), 0.25, 2.0)),
        LookupTableSoftmax(entries=40),
    ],
    ids=["clip", "three", "bounded", "table"],
)
def test_checkpoints_are_loaded(softmax: Any, tmp_path: Path) -> None:
    net = replace_softmax(small_net(), softmax, CALIBRATION)
    path = tmp_path / "net.ckpt"
    torch.save(net.state_dict(), path)
    loaded = load_checkpoint(path, "speechbrain")
    assert type(loaded.asp.softmax) is type(softmax)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded(CALIBRATION[0]), net(CALIBRATION[0]))
    assert loaded.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize(
    ("softmax", "key", "value", "message"),
    [
        ("pwl", "slopes", None, r"asp.softmax.breakpoints \(1,\) is not part"),
        ("pwl", "log_low", None, "asp.softmax.log_low is missing"),
        ("pwl", "intercept", None, "asp.softmax.intercept is missing"),
        ("pwl", "slopes", torch.ones(3), r"asp.softmax.breakpoints is \(1,\), expected \(2,\)"),
        ("pwl", "slopes", torch.ones(0), r"asp.softmax.slopes is \(0,\), expected \(1,\)"),
        ("pwl", "slopes", torch.ones(1, 2), r"asp.softmax.slopes is \(1, 2\), expected \(2,\)"),
        ("pwl", "slopes", torch.ones(9999), r"slopes is \(9999,\), expected \(1024,\)"),
        ("pwl", "slopes", torch.tensor([1.0, math.nan]), "asp.softmax.slopes holds nan"),
        ("pwl", "breakpoints", torch.tensor([1]), "asp.softmax.breakpoints is torch.int64"),
        ("pwl", "log_low", torch.tensor(-500.0), "asp.softmax: .* got 0.0, inf|does not fit"),
        ("pwl", "log_low", torch.tensor(1e9), "asp.softmax: "),
        ("pwl", "log_high", torch.tensor(-90.0), "asp.softmax: low and high must be"),
        ("pwl", "other", torch.tensor(1.0), r"asp.softmax.other \(\) is not part"),
        ("table", "limits", None, "asp.softmax.limits is missing"),
        ("table", "limits", torch.tensor([1.0, 1.0]), "asp.softmax: a table needs rising limits"),
        ("table", "table", torch.zeros(40), "asp.softmax: .* positive entries"),
        ("table", "table", torch.ones(1), r"asp.softmax.table is \(1,\), expected \(2,\)"),
    ],
)
def test_nonsense_in_checkpoints(
    softmax: str, key: str, value: Any, message: str, tmp_path: Path
) -> None:
    layer = LookupTableSoftmax(entries=40) if softmax == "table" else PiecewiseLinearSoftmax()
    state = dict(replace_softmax(small_net(), layer).state_dict())
    if value is None:
        del state[f"asp.softmax.{key}"]
    else:
        state[f"asp.softmax.{key}"] = value
    path = tmp_path / "net.ckpt"
    torch.save(state, path)
    with pytest.raises(FormatError, match=message) as caught:
        load_checkpoint(path, "speechbrain")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@needs_data
def test_trained_network() -> None:
    """Cosine to the exact network, on recordings that calibration did not see."""
    lines = (SHARED_DATA / "speakers" / "train.txt").read_text().split()[::300]
    calibration = [SHARED_DATA / "speakers" / line for line in lines]
    paths = dev_recordings()[100::60]
    exact = load_checkpoint(CHECKPOINT, "speechbrain")
    expected = exact.embed(paths)
    for softmax, least in (
        (PiecewiseLinearSoftmax(segments=0), 0.93),
        (PiecewiseLinearSoftmax(segments=2), 0.98),
        (LookupTableSoftmax(), 0.999),
    ):
        net = replace_softmax(copy.deepcopy(exact), softmax, calibration)
        assert cosine_score(net.embed(paths), expected).min() > least


@pytest.fixture(scope="module")
def speechbrain() -> Iterator[SimpleNamespace]:
    if find_spec("speechbrain") is None:
        pytest.skip("speechbrain is not installed")
    with imported_speechbrain() as parts:
        yield parts


@pytest.mark.parametrize("segments", [0, 2])
def test_speechbrain(speechbrain: SimpleNamespace, segments: int, tmp_path: Path) -> None:
    """Its network becomes what earmark's becomes, also through a checkpoint, masks included."""
    net = small_net()
    model = speechbrain.ECAPA_TDNN(
        SMALL.n_mels,
        lin_neurons=SMALL.embedding,
        channels=list(SMALL.channels),
        kernel_sizes=list(SMALL.kernel_sizes),
        dilations=list(SMALL.dilations),
        attention_channels=SMALL.attention_channels,
        res2net_scale=SMALL.res2_scale,
        se_channels=SMALL.se_channels,
    ).eval()
    model.load_state_dict(net.state_dict())
    lengths = torch.tensor([0.6, 1.0])
    items = [(torch.cat([features(90, i), features(90, i + 5)]), lengths) for i in range(2)]
    softmax = PiecewiseLinearSoftmax(segments=segments)
    exact = model(*items[0]).detach()
    replace_softmax(model, softmax, items)
    replace_softmax(net, softmax, items)
    found = model(*items[0]).detach()
    torch.testing.assert_close(found, net(*items[0]), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, exact, rtol=1e-3, atol=1e-3)
    assert model.state_dict().keys() == net.state_dict().keys()
    path = tmp_path / "embedding_model.ckpt"
    torch.save(model.state_dict(), path)
    loaded = load_checkpoint(path, "speechbrain")
    torch.testing.assert_close(loaded(*items[0]), found, rtol=1e-3, atol=1e-3)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(*items[0]), model(*items[0]))
