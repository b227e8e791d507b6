"""Every family's network: what the toolkit computes, in float; the oracle's bits, in int8."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import earmark  # noqa: E402
from earmark import _C  # noqa: E402
from earmark.frontend import SpeechBrainFbank  # noqa: E402
from earmark.lowering import lower  # noqa: E402
from earmark.nn import EcapaTdnn  # noqa: E402
from earmark.plan import OUTPUT, PlanBuilder, make_engine, trace  # noqa: E402
from networks import int8_plan, random_features  # noqa: E402
from oracle import network  # noqa: E402
from paths import one_torch_thread  # noqa: E402
from plans import equal_bits  # noqa: E402
from toolkit_networks import (  # noqa: E402
    SMALL,
    VARIANTS,
    features,
    write_nemo,
)

each_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def loaded(name: str, path: Path, seed: int = 0, **sizes: Any) -> tuple[Any, EcapaTdnn]:
    """The toolkit's network and earmark's, of one checkpoint."""
    variant = VARIANTS[name]
    theirs = variant.network(seed, **sizes)
    return theirs, variant.load(theirs, path / "weights.ckpt")


def plan_of(net: EcapaTdnn) -> PlanBuilder:
    return lower(net, {key: value.numpy() for key, value in net.state_dict().items()})


def cosine(a: Any, b: Any) -> float:
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@each_variant
def test_the_toolkits_embeddings(name: str, tmp_path: Path) -> None:
    theirs, ours = loaded(name, tmp_path)
    shortest = ours.config.min_frames
    for frames in (shortest, shortest + 1, 9, 50, 201):
        feats = features(3, frames, seed=frames)
        expected, found = theirs(feats), ours(feats)[:, 0]
        assert found.shape == (3, SMALL["embedding"])
        assert min(map(cosine, found, expected)) > 0.999999
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each_variant
def test_the_engine_in_float(name: str, tmp_path: Path) -> None:
    """The plan, in float64 and in the engine's float32."""
    theirs, ours = loaded(name, tmp_path)
    b = plan_of(ours)
    engine = make_engine(b.plan, b.arrays)
    assert engine.min_length == ours.config.min_frames
    for frames in (engine.min_length, 9, 120):
        feats = features(1, frames, seed=frames)
        expected = theirs(feats)[0].numpy()
        exact = network.run(b.plan, b.arrays, feats[0].numpy())[OUTPUT]
        np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(engine.run([feats[0].numpy()])[0], exact, rtol=1e-4, atol=1e-5)


@each_variant
def test_the_oracles_bits_in_int8(name: str, tmp_path: Path) -> None:
    """Every tensor, on every instruction set; the shortest lengths, odd ones, a long one."""
    theirs, ours = loaded(name, tmp_path)
    b = int8_plan(plan_of(ours), [features(1, 80, seed=i)[0].numpy() for i in range(6)])
    assert {op["op"] for op in b.ops if op["op"].endswith("_f32")} == set()
    shortest = ours.config.min_frames
    for frames in (shortest, shortest + 1, shortest + 2, 33, 130):
        x = random_features(frames, frames, SMALL["mels"])
        expected = network.run(b.plan, b.arrays, x)
        for isa in _C.available_isas():
            engine = make_engine(b.plan, b.arrays, isa=isa, threads=2)
            assert engine.min_length == shortest
            found = trace(engine, x)
            assert set(found) == set(expected)
            for tensor, values in expected.items():
                equal_bits(found[tensor], values, f"{tensor} on {isa}")
    feats = features(8, 130, seed=50)
    found = make_engine(b.plan, b.arrays).run(list(feats.numpy()))
    # So small a network has few channels to average over; at 128 and more it is above 0.99.
    assert np.mean(list(map(cosine, found, theirs(feats)))) > 0.98


@each_variant
@pytest.mark.parametrize("scheme", ["dynamic", "int8-full", "w8a16", "equalized"])
def test_other_schemes(name: str, scheme: str, tmp_path: Path) -> None:
    """What else a network is quantized to; the same bits as the oracle's."""
    theirs, ours = loaded(name, tmp_path)
    waves = [np.random.default_rng(i).normal(size=16000) * 0.1 for i in range(4)]
    how: dict[str, Any] = {"scheme": scheme}
    if scheme == "w8a16":
        how = {"precision": {"all": scheme}}
    elif scheme == "equalized":
        how = {"equalize": True}
    quantized = earmark.quantize(ours, waves, **how)
    path = tmp_path / "m.earmark"
    quantized.save(path)
    metadata, arrays = network.load(path)
    model = earmark.load(path)
    assert model.min_frames == ours.config.min_frames
    x = ours.front_end(waves[0].astype(np.float32))[:77]
    found = model.embed_features(x)[0]
    run = network.run(metadata["plan"], arrays, x)[OUTPUT]
    if scheme == "int8-full":
        run = run.astype(np.float32) * np.float32(metadata["plan"]["tensors"][OUTPUT]["scale"])
    equal_bits(found, run, OUTPUT)
    assert cosine(found, theirs(torch.from_numpy(x)[None])[0]) > 0.95


@pytest.mark.parametrize("name", ["taoruijie", "wespeaker"])
def test_too_short_for_an_unbiased_variance(name: str, tmp_path: Path) -> None:
    _, ours = loaded(name, tmp_path)
    assert ours.config.min_frames == 2
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        ours(features(1, 1))
    b = plan_of(ours)
    with pytest.raises(ValueError, match="an unbiased variance needs at least 2 positions"):
        make_engine(b.plan, b.arrays).run([random_features(0, 1, SMALL["mels"])])
    with pytest.raises(ValueError, match="needs 2 valid frames"):
        ours(features(2, 10), torch.tensor([1.0, 0.1]))


@each_variant
def test_masked_lengths(name: str, tmp_path: Path) -> None:
    """Beyond the convolutions' reach from the valid frames, what is there has no influence."""
    _, ours = loaded(name, tmp_path)
    feats = features(1, 200)
    changed = feats.clone()
    changed[:, 120:] = 100 * features(1, 80, seed=1)
    lengths = torch.tensor([0.4])
    torch.testing.assert_close(ours(feats, lengths), ours(changed, lengths))
    whole = torch.ones(1)
    torch.testing.assert_close(ours(feats, whole), ours(feats), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes", "millions"),
    [
        ("3dspeaker", {}, 20.77),
        ("taoruijie", {}, 15.45),
        ("wespeaker", {"width": 512}, 6.19),
        ("wespeaker", {}, 14.66),
        ("nemo", {}, 20.92),
    ],
)
def test_published_sizes(name: str, sizes: dict[str, int], millions: float, tmp_path: Path) -> None:
    """Inference parameters of the published models, of the toolkit's network and of earmark's."""
    from earmark.families.ecapa import config_from_shapes

    variant = VARIANTS[name]
    with torch.device("meta"):
        theirs = variant.make(**variant.options, **sizes)
        heads = theirs.decoder.final.weight.numel() if name == "nemo" else 0
        state = theirs.state_dict()
        module = import_module(f"earmark.families.{name.replace('3d', 'threed')}")
        toolkit = module.TOOLKIT
        config = config_from_shapes(toolkit.inference(state, tmp_path), tmp_path, toolkit)
        ours = EcapaTdnn(config, SpeechBrainFbank(80), name).eval()
    counts = [sum(p.numel() for p in net.parameters()) for net in (theirs, ours)]
    assert counts[0] - heads == counts[1]
    assert counts[1] / 1e6 == pytest.approx(millions, abs=0.006)
    assert ours(torch.empty(1, 30, 80, device="meta")).shape == (1, 1, 192)


@pytest.mark.parametrize(("pad_to", "read"), [(0, 1), (1, 1), (8, 8), (16, 16)])
def test_padding_of_a_nemo_archive(pad_to: int, read: int, tmp_path: Path) -> None:
    """Without padding there still is the frame that NeMo masks."""
    from toolkit_networks import NEMO_CONFIG

    theirs = VARIANTS["nemo"].network(pad_to=pad_to)
    config = NEMO_CONFIG.format(dilations=[1] * 5)
    config = config.replace("  dither", f"  pad_to: {pad_to}\n  pad_value: 0.0\n  dither")
    ours = earmark.load_checkpoint(write_nemo(tmp_path / "m.nemo", theirs.state_dict(), config))
    assert isinstance(ours, EcapaTdnn)
    assert ours.config.pad_to == read
    for frames in (15, 16, 40):
        feats = features(2, frames, seed=frames)
        torch.testing.assert_close(ours(feats)[:, 0], theirs(feats), rtol=1e-4, atol=1e-5)


def test_dilations_of_a_nemo_archive(tmp_path: Path) -> None:
    from toolkit_networks import NEMO_CONFIG

    theirs = VARIANTS["nemo"].network(dilations=(1, 2, 3, 4, 1))
    config = NEMO_CONFIG.format(dilations=[1, 2, 3, 4, 1])
    path = write_nemo(tmp_path / "m.nemo", theirs.state_dict(), config)
    ours = earmark.load_checkpoint(path)
    assert (ours.family, ours.config.dilations) == ("nemo", (1, 2, 3, 4, 1))
    feats = features(2, 40)
    torch.testing.assert_close(ours(feats)[:, 0], theirs(feats), rtol=1e-4, atol=1e-5)
