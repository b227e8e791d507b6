"""The float network: shapes, masks, limits, and embedding from waveforms."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from earmark.errors import AudioError  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.frontend import SpeechBrainFbank  # noqa: E402
from earmark.nn import EcapaConfig, EcapaTdnn  # noqa: E402

from .paths import CHECKPOINT, dev_recordings, needs_data, one_torch_thread  # noqa: E402

SMALL = EcapaConfig(
    n_mels=20,
    channels=(16, 16, 16, 16, 48),
    attention_channels=8,
    res2_scale=4,
    se_channels=8,
    embedding=12,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def make(config: EcapaConfig = SMALL, seed: int = 0) -> EcapaTdnn:
    """A network with random weights and statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    net = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain").eval()
    for key, tensor in net.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.5, 0.5, generator=generator)
    return net.requires_grad_(False)


def features(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_published_size() -> None:
    """SpeechBrain's model: 20.77 million parameters, 192 values."""
    with torch.device("meta"):
        net = EcapaTdnn(EcapaConfig(), SpeechBrainFbank(), "speechbrain")
    assert sum(parameter.numel() for parameter in net.parameters()) == 20_767_552
    assert net(torch.empty(2, 30, 80, device="meta")).shape == (2, 1, 192)


@pytest.mark.parametrize("frames", [5, 6, 9, 50])
def test_shapes(frames: int) -> None:
    found = make()(features(3, frames, 20))
    assert found.shape == (3, 1, 12)
    assert found.isfinite().all()


@given(frames=st.lists(st.integers(5, 60), min_size=1, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_batch_of_equal_lengths_is_each_alone(frames: list[int], seed: int) -> None:
    net = make(seed=seed)
    feats = features(len(frames), frames[0], 20, seed=seed)
    alone = torch.cat([net(item[None]) for item in feats])
    torch.testing.assert_close(net(feats), alone, rtol=1e-4, atol=1e-5)


def test_full_lengths_are_no_lengths() -> None:
    net, feats = make(), features(3, 40, 20)
    torch.testing.assert_close(net(feats, torch.ones(3)), net(feats), rtol=1e-4, atol=1e-5)


def test_masked_frames_count_only_through_the_convolutions() -> None:
    """Beyond the convolutions' reach from the valid frames, padding has no influence."""
    net, feats = make(), features(1, 400, 20)
    changed = feats.clone()
    changed[:, 120:] = 100 * features(1, 280, 20, seed=1)
    lengths = torch.tensor([0.25])
    torch.testing.assert_close(net(feats, lengths), net(changed, lengths))
    assert not torch.allclose(net(feats), net(changed))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 20), "at least 5 frames, got 4"),
        ((1, 0, 20), "at least 5 frames, got 0"),
        ((1, 50, 80), r"\(batch, time, 20\), got \(1, 50, 80\)"),
        ((50, 20), r"got \(50, 20\)"),
        ((1, 1, 50, 20), r"got \(1, 1, 50, 20\)"),
    ],
)
def test_bad_features(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1.0], r"must be \(2,\), got \(1,\)"),
        ([[1.0, 1.0]], r"got \(1, 2\)"),
        ([1.0, 0.0], r"in \(0, 1\], got \[1.0, 0.0\]"),
        ([1.0, 1.5], "got .*1.5"),
        ([1.0, float("nan")], "got .*nan"),
    ],
)
def test_bad_lengths(lengths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(features(2, 20, 20), torch.tensor(lengths))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_sizes": (5, 3, 3, 4, 1)}, "kernel_sizes must be odd"),
        ({"channels": (16, 16, 16, 32, 48)}, "all channels but the last must be equal"),
        ({"dilations": (1, 2, 3, 4)}, "one entry for each"),
        ({"dilations": (1, 2, 3, 0, 1)}, "dilations must be positive"),
        ({"channels": (16, 48), "kernel_sizes": (3, 1), "dilations": (1, 1)}, "at least 3 layers"),
        ({"res2_scale": 5}, "divide the 16 channels, got 5"),
        ({"res2_scale": 1}, "at least 2"),
        ({"embedding": 0}, "embedding must be positive, got 0"),
    ],
)
def test_bad_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EcapaConfig(**{**SMALL.to_dict(), **changes})


def test_config_knows_its_shortest_input() -> None:
    assert EcapaConfig().min_frames == 5
    assert EcapaConfig(dilations=(1, 1, 1, 1, 1)).min_frames == 3
    assert EcapaConfig(dilations=(1, 2, 3, 4, 9)).min_frames == 5
    assert EcapaConfig(kernel_sizes=(5, 3, 3, 5, 1)).min_frames == 9


def test_front_end_must_fit() -> None:
    with pytest.raises(ValueError, match="gives 80 features a frame, the network takes 20"):
        EcapaTdnn(SMALL, SpeechBrainFbank(80), "speechbrain")


def test_copies_and_pickles_compute_the_same() -> None:
    net, feats = make(), features(1, 30, 20)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(feats), net(feats))
        assert (twin.family, twin.config) == ("speechbrain", SMALL)
        assert twin.front_end.spec() == net.front_end.spec()


def test_exported_graph_computes_the_same() -> None:
    """With a dynamic number of frames, as an exporter needs it."""
    net, feats = make(), features(1, 30, 20)
    time = torch.export.Dim("time", min=5, max=3000)
    program = torch.export.export(net, (features(1, 41, 20),), dynamic_shapes=({1: time},))
    torch.testing.assert_close(program.module()(feats), net(feats))


def test_embed_takes_one_recording_or_a_list(tmp_path: Path) -> None:
    import soundfile

    net = make()
    waves = [np.random.default_rng(i).uniform(-0.5, 0.5, 4000 + 700 * i) for i in range(3)]
    path = tmp_path / "a.wav"
    soundfile.write(path, waves[2], 16000, subtype="DOUBLE")
    found = net.embed([waves[0], torch.from_numpy(waves[1]), path])
    assert found.dtype == np.float32
    assert found.shape == (3, 12)
    for row, wave in enumerate(waves):
        np.testing.assert_array_equal(net.embed(wave), found[row : row + 1])
        feats = torch.from_numpy(net.front_end(wave.astype(np.float32)))[None]
        np.testing.assert_allclose(net(feats)[0], found[row : row + 1], rtol=1e-6)
    assert net.embed([]).shape == (0, 12)


def test_embed_resamples() -> None:
    net = make()
    wave = np.sin(np.arange(16000) * 0.1)
    np.testing.assert_array_equal(net.embed(wave, 8000), net.embed([wave], sample_rate=8000.0))
    assert not np.allclose(net.embed(wave, 8000), net.embed(wave))


def test_embed_refuses_what_is_too_short_for_the_network() -> None:
    net = make()
    assert np.isfinite(net.embed(np.ones(640))).all()
    with pytest.raises(AudioError, match=r"^array: is too short: 639 samples .* at least 640"):
        net.embed(np.ones(639))
    with pytest.raises(AudioError, match=r"^array 1: is empty"):
        net.embed([np.ones(900), np.ones(0)])


def test_embed_refuses_training_mode() -> None:
    with pytest.raises(RuntimeError, match=r"call net.eval\(\) first"):
        make().train().embed(np.zeros(1000))


def test_silence_has_an_embedding() -> None:
    assert np.isfinite(make().embed(np.zeros(16000))).all()


@needs_data
def test_same_and_different_speakers() -> None:
    """Two recordings each of two speakers: nearer to each other than to the other speaker's."""
    by_speaker: dict[str, list[Path]] = {}
    for path in dev_recordings():
        if "librispeech" in path.parts:
            by_speaker.setdefault(path.parent.name, []).append(path)
    first, second = list(by_speaker.values())[:2]
    net = load_checkpoint(CHECKPOINT, family="speechbrain")
    found = net.embed([first[0], first[1], second[0], second[1]])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    scores = found @ found.T
    assert min(scores[0, 1], scores[2, 3]) > 0.4 > scores[:2, 2:].max()
