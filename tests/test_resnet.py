"""The sound ResNet: in torch, as a float32 plan beside it, and in INT8 with the oracle's bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from earmark import _C
from earmark.nn import SoundResNet, SoundResNetConfig
from earmark.plan import SCORES, PlanBuilder, make_engine
from networks import SMALL_RESNET, int8_plan, random_features, random_resnet, resnet_plan
from oracle import network
from plans import equal_bits

Array = NDArray[Any]

each_isa = pytest.mark.parametrize("isa", _C.available_isas())


def spectrograms(config: SoundResNetConfig, *frames: int) -> list[Array]:
    return [random_features(100 + n, n, config.n_mels) for n in frames]


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


# In torch.


def test_resnet50_has_torchvisions_keys_and_size() -> None:
    with torch.device("meta"):
        net = SoundResNet(SoundResNetConfig(classes=1000))
    state = net.state_dict()
    assert len(state) == 320
    # 25,557,032 with three colours.
    assert sum(p.numel() for p in net.parameters()) == 25_557_032 - 2 * 64 * 49
    shapes = {
        "conv1.weight": (64, 1, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer1.2.conv1.weight": (64, 256, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.bias": (1024,),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert net.get_submodule("layer2.0.conv1").stride == (1, 1)
    assert net.get_submodule("layer2.0.conv2").stride == (2, 2)


def test_weights_for_pictures_see_a_grey_one() -> None:
    """A spectrogram in all three colours of the network for pictures gives the same scores."""
    grey = random_resnet(SMALL_RESNET, 1)
    colours = torch.randn(9, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    state = {**random_resnet(SMALL_RESNET, 2).state_dict(), "conv1.weight": colours}
    grey.load_torchvision(state)
    x = torch.from_numpy(random_features(0, 40, SMALL_RESNET.n_mels))[None]
    picture = x[:, None].expand(-1, 3, -1, -1)
    first = torch.nn.functional.conv2d(picture, colours, stride=2, padding=3)
    close = 1e-6 * float(first.abs().max())
    torch.testing.assert_close(grey.conv1(x[:, None]), first, rtol=0, atol=close)
    for key, value in grey.state_dict().items():
        assert key == "conv1.weight" or torch.equal(value, state[key])
    # Other classes keep their own last layer.
    own = random_resnet(SMALL_RESNET, 3)
    kept = own.fc.weight.clone()
    own.load_torchvision({**state, "fc.weight": torch.ones(5, 72), "fc.bias": torch.ones(5)})
    assert torch.equal(own.fc.weight, kept)
    assert torch.equal(own.layer1[0].conv2.weight, grey.layer1[0].conv2.weight)
    with pytest.raises(RuntimeError, match=r"conv1\.weight"):
        grey.load_torchvision({key: v for key, v in state.items() if key != "conv1.weight"})


@pytest.mark.parametrize("shape", [(1, 9, 20), (9, 21), (1, 1, 9, 21), (1, 0, 21)])
def test_features_that_do_not_fit(shape: tuple[int, ...]) -> None:
    net = random_resnet(SMALL_RESNET)
    with pytest.raises(ValueError, match=r"\(batch, time, 21\)"):
        net(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": 0}, "classes must be positive, got 0"),
        ({"n_mels": -1}, "n_mels must be positive, got -1"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"blocks": ()}, r"blocks must be positive, one for each stage, got \(\)"),
        ({"blocks": (3, 0)}, r"blocks must be positive, one for each stage, got \(3, 0\)"),
    ],
)
def test_numbers_that_fit_no_network(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SoundResNetConfig(**{"classes": 10, **changes})


# As a plan in float32.


@each_isa
def test_float_plan_beside_torch(isa: str) -> None:
    """The float32 plan errs hardly more than torch's float32 does; float64 torch is the truth."""
    for config in (SMALL_RESNET, SoundResNetConfig(5, n_mels=64, blocks=(1, 1, 2, 1), width=32)):
        net = random_resnet(config, 4)
        b = resnet_plan(net)
        engine = make_engine(b.plan, b.arrays, isa=isa)
        assert engine.min_length == 1
        for x in spectrograms(config, 1, 2, 61, 150):
            traced, kernels = engine.trace(x)
            assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
            batch = torch.from_numpy(x)[None]
            single = net.float()(batch)[0].numpy()
            exact = net.double()(batch.double())[0].numpy()
            oracle = network.run(b.plan, b.arrays, x)[SCORES]
            # Folding the batch norms rounds the weights once.
            scale = np.abs(exact).max()
            np.testing.assert_allclose(oracle, exact, rtol=0, atol=2e-6 * scale)
            allowed = 2 * np.abs(single - exact).max() + 8 * np.spacing(np.float32(scale))
            assert np.abs(traced[SCORES] - exact).max() <= allowed


# In INT8.


@pytest.fixture(scope="module")
def small() -> PlanBuilder:
    plan = resnet_plan(random_resnet(SMALL_RESNET))
    return int8_plan(plan, spectrograms(SMALL_RESNET, 60, 100, 140))


def check_trace(b: PlanBuilder, features: Array, isa: str) -> None:
    """All tensors are the oracle's, and every kernel that ran was one of that ISA."""
    expected = network.run(b.plan, b.arrays, features)
    for threads in (1, 2):
        engine = make_engine(b.plan, b.arrays, isa=isa, threads=threads)
        traced, kernels = engine.trace(features)
        assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
        assert set(traced) == set(expected)
        for name, values in expected.items():
            equal_bits(traced[name], values, name)
        equal_bits(engine.run([features])[0], expected[SCORES], SCORES)


@each_isa
@pytest.mark.parametrize("frames", [1, 2, 61, 97])
def test_int8_bits(isa: str, small: PlanBuilder, frames: int) -> None:
    assert {op["op"] for op in small.ops} == {
        "quantize_s8", "conv_s8", "max_pool_s8", "add_s8", "stats_s8", "dense_s8",
    }  # fmt: skip
    [x] = spectrograms(SMALL_RESNET, frames)
    check_trace(small, x, isa)


@pytest.mark.parametrize(
    "config",
    [
        SoundResNetConfig(3, n_mels=1, blocks=(1,), width=1),
        SoundResNetConfig(50, n_mels=64, blocks=(1, 2, 1, 1), width=17),
    ],
)
def test_int8_bits_of_other_shapes(config: SoundResNetConfig) -> None:
    seen = spectrograms(config, 60, 90)
    b = int8_plan(resnet_plan(random_resnet(config, 3)), seen)
    for isa in _C.available_isas():
        check_trace(b, seen[0][:33], isa)


@pytest.mark.parametrize("frames", [2049, 5000])
def test_long_recordings_have_the_bits_of_one_chunk(small: PlanBuilder, frames: int) -> None:
    [x] = spectrograms(SMALL_RESNET, frames)
    engine = make_engine(small.plan, small.arrays, threads=2)
    equal_bits(engine.run([x])[0], engine.trace(x)[0][SCORES], SCORES)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_recording_as_if_alone(small: PlanBuilder, threads: int) -> None:
    recordings = spectrograms(SMALL_RESNET, 300, 1, 17, 4200, 61, 33)
    alone = make_engine(small.plan, small.arrays, threads=1)
    expected = np.stack([alone.run([x])[0] for x in recordings])
    engine = make_engine(small.plan, small.arrays, threads=threads)
    equal_bits(engine.run(recordings), expected, SCORES)


def test_int8_keeps_the_scores() -> None:
    """On spectrograms that calibration did not see. Random weights amplify any error from block to
    block, float32's too, so that the network is not deep.
    """
    config = SoundResNetConfig(classes=20, n_mels=64, blocks=(1, 1, 1, 1), width=16)
    net = random_resnet(config, 5)
    b = int8_plan(resnet_plan(net), spectrograms(config, *range(100, 108)))
    unseen = spectrograms(config, *range(120, 152))
    scores = make_engine(b.plan, b.arrays).run(unseen)
    exact = np.stack([net(torch.from_numpy(x)[None])[0].numpy() for x in unseen])
    assert cosine(scores, exact) > 0.99
    # What all recordings have in common taken off.
    common = exact.mean(axis=0)
    assert cosine(scores - common, exact - common) > 0.95


def tones(seed: int, count: int) -> tuple[Array, Array]:
    """Spectrograms (count, 60, 32) of noise with a tone that rises, falls or stays, and their
    classes: three in each of four bands."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(12, size=count)
    images = rng.normal(size=(count, 60, 32)) * 8
    for image, k in zip(images, classes, strict=True):
        t = rng.integers(30) + np.arange(30)
        band = 4 + 8 * (k // 3) + 0.3 * (k % 3 - 1) * (t - 30)
        image[t, band.astype(int) % 32] += 30
    return images.astype(np.float32), classes


def test_int8_keeps_what_was_learnt() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SoundResNet(SoundResNetConfig(12, n_mels=32, blocks=(1, 1, 1, 1), width=8))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(60):
        images, classes = (torch.from_numpy(values) for values in tones(step, 32))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), classes).backward()
        optimizer.step()
    net.eval().requires_grad_(False)
    images, classes = tones(1000, 200)
    exact = net(torch.from_numpy(images)).numpy()
    assert (exact.argmax(axis=1) == classes).mean() > 0.9
    b = int8_plan(resnet_plan(net), list(tones(2000, 32)[0]))
    scores = make_engine(b.plan, b.arrays).run(list(images))
    assert (scores.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.98
    assert cosine(scores, exact) > 0.999


MIXED: dict[str, Callable[[str], bool]] = {
    "float stem": lambda name: name in ("conv1", "maxpool"),
    "float pool": lambda name: name == "maxpool",
    "float bottleneck": lambda name: name.startswith("layer1.1."),
    "float additions": lambda name: name.endswith(".add"),
    "float end": lambda name: name in ("avgpool", "fc"),
    "integer 3x3 only": lambda name: not name.endswith("conv2"),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision(name: str) -> None:
    """Close to the float network, on every ISA; integer ops between float ones are exact."""
    plan = resnet_plan(random_resnet(SMALL_RESNET, 6))
    seen = spectrograms(SMALL_RESNET, 60, 80)
    b = int8_plan(plan, seen, MIXED[name])
    assert {op["op"][-3:] for op in b.ops} == {"_s8", "f32"}
    exact = network.run(plan.plan, plan.arrays, seen[1])[SCORES]
    oracle = network.run(b.plan, b.arrays, seen[1])[SCORES]
    assert cosine(oracle, exact) > 0.995
    for isa in _C.available_isas():
        scores = make_engine(b.plan, b.arrays, isa=isa).run([seen[1]])[0]
        # A float sum that differs in its last bit may turn a tie, and a quantum goes on from there.
        assert cosine(scores, oracle) > 0.9999


def test_every_op_in_float_is_the_float_network() -> None:
    plan = resnet_plan(random_resnet(SMALL_RESNET))
    seen = spectrograms(SMALL_RESNET, 60)
    assert int8_plan(plan, seen, lambda name: True).plan == plan.plan
