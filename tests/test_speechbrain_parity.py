"""earmark's SpeechBrain family against the real speechbrain package, from waveform to embedding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from earmark.families import load_checkpoint
from earmark.frontend import SpeechBrainFbank
from earmark.metrics import cosine_score
from earmark.nn import (
    EcapaConfig,
    EcapaTdnn,
    LookupTableSoftmax,
    PiecewiseLinearSoftmax,
    replace_softmax,
)

from .paths import CHECKPOINT, dev_recordings, needs_data, one_torch_thread
from .speechbrain_parts import imported_speechbrain

pytestmark = pytest.mark.skipif(
    find_spec("speechbrain") is None, reason="speechbrain is not installed"
)

# Published with speechbrain/spkrec-ecapa-voxceleb, with the width of the checkpoint used here.
HYPERPARAMS = """\
pretrained_path: elsewhere/spkrec-ecapa

n_mels: 80
sample_rate: 16000
n_classes: 331
emb_dim: 192

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [256, 256, 256, 256, 768]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    groups: [1, 1, 1, 1, 1]
    attention_channels: 128
    lin_neurons: !ref <emb_dim>

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: !ref <emb_dim>
    out_neurons: !ref <n_classes>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
"""

Reference = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def speechbrain() -> Iterator[SimpleNamespace]:
    with imported_speechbrain() as parts:
        yield parts


def as_encode_batch(modules: Any) -> Reference:
    """What EncoderClassifier.encode_batch does with one waveform (n,)."""

    @torch.inference_mode()
    def embed(wave: torch.Tensor) -> torch.Tensor:
        lengths = torch.ones(1)
        feats = modules.compute_features(wave[None])
        feats = modules.mean_var_norm(feats, lengths)
        return modules.embedding_model(feats, lengths)

    return embed


@pytest.fixture(scope="module")
def savedir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("savedir")
    (folder / "hyperparams.yaml").write_text(HYPERPARAMS)
    (folder / "embedding_model.ckpt").symlink_to(CHECKPOINT.resolve())
    return folder


@pytest.fixture(scope="module")
def modules(speechbrain: SimpleNamespace, savedir: Path) -> SimpleNamespace:
    """SpeechBrain's own modules, made by its own yaml loader, with the same weights."""
    parts = speechbrain.load_hyperpyyaml((savedir / "hyperparams.yaml").read_text())["modules"]
    state = torch.load(savedir / "embedding_model.ckpt", weights_only=True)
    parts["embedding_model"].load_state_dict(state, strict=True)
    for part in parts.values():
        part.eval()
    return SimpleNamespace(**parts)


@needs_data
def test_every_dev_recording(modules: SimpleNamespace, savedir: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    net = load_checkpoint(savedir)
    reference = as_encode_batch(modules)
    paths = dev_recordings()
    cosines, differences = [], []
    for path in paths:
        wave, rate = soundfile.read(path, dtype="float32")
        assert rate == 16000
        expected = reference(torch.from_numpy(wave))[0, 0].double().numpy()
        found = net.embed(path)[0].astype(np.float64)
        norms = np.linalg.norm(expected) * np.linalg.norm(found)
        cosines.append(expected @ found / norms)
        differences.append(np.abs(expected - found).max())
    logging.getLogger(__name__).info(
        "%d recordings: worst cosine 1 - %.3g, largest difference %.3g",
        len(paths),
        1 - min(cosines),
        max(differences),
    )
    assert len(paths) == 290
    assert min(cosines) >= 0.99999, paths[int(np.argmin(cosines))]


@needs_data
def test_features_of_dev_recordings(modules: SimpleNamespace) -> None:
    soundfile = pytest.importorskip("soundfile")
    front_end = SpeechBrainFbank()
    for path in dev_recordings()[::29]:
        wave = soundfile.read(path, dtype="float32")[0]
        feats = modules.compute_features(torch.from_numpy(wave)[None])
        expected = modules.mean_var_norm(feats, torch.ones(1))[0].numpy()
        # dB; SpeechBrain's filters, in float32, are off by up to 0.0022 dB themselves.
        np.testing.assert_allclose(front_end(wave), expected, rtol=0, atol=5e-3, err_msg=str(path))


@needs_data
@pytest.mark.parametrize("lengths", [[1.0, 1.0, 1.0], [0.3, 1.0, 0.77], [0.051, 0.5, 0.999]])
def test_masked_batch(modules: SimpleNamespace, lengths: list[float]) -> None:
    net = load_checkpoint(CHECKPOINT, "speechbrain")
    feats = 10 * torch.randn(3, 157, 80, generator=torch.Generator().manual_seed(1))
    relative = torch.tensor(lengths)
    with torch.inference_mode():
        expected = modules.embedding_model(feats, relative)
        found = net(feats, relative)
    assert found.shape == (3, 1, 192)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_data
def test_masked_batch_without_lengths(modules: SimpleNamespace) -> None:
    net = load_checkpoint(CHECKPOINT, "speechbrain")
    feats = 10 * torch.randn(2, 5, 80, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(net(feats), modules.embedding_model(feats), rtol=1e-4, atol=1e-4)


def test_training_gradients_are_the_same(speechbrain: SimpleNamespace) -> None:
    """In training mode too: batch statistics, running statistics and gradients."""
    torch.manual_seed(3)
    config = EcapaConfig(n_mels=20, channels=(32, 32, 32, 32, 96), res2_scale=4, embedding=16)
    reference = speechbrain.ECAPA_TDNN(
        20,
        lin_neurons=16,
        channels=list(config.channels),
        kernel_sizes=list(config.kernel_sizes),
        dilations=list(config.dilations),
        res2net_scale=4,
    )
    net = EcapaTdnn(config, SpeechBrainFbank(20), "speechbrain")
    net.load_state_dict(reference.state_dict(), strict=True)
    feats, lengths = torch.randn(4, 40, 20), torch.tensor([1.0, 0.5, 0.8, 1.0])
    for module in (reference, net):
        module.train()
        module(feats, lengths).square().sum().backward()
    expected = dict(reference.named_parameters())
    for key, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-3, atol=1e-4)
    buffers = dict(reference.named_buffers())
    for key, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, buffers[key], rtol=1e-4, atol=1e-5)


@needs_data
def test_softmax_is_replaced_inside_speechbrains_pooling(modules: SimpleNamespace) -> None:
    """Its pooling calls F.softmax on logits of -inf where a recording has ended."""
    model = copy.deepcopy(modules.embedding_model)
    feats = torch.randn(2, 120, 80, generator=torch.Generator().manual_seed(0)) * 10
    lengths = torch.tensor([1.0, 0.6])
    with torch.inference_mode():
        exact = model(feats, lengths)[:, 0].numpy()
        replace_softmax(model, LookupTableSoftmax(entries=2000), [(feats, lengths)])
        assert isinstance(model.asp.get_submodule("approximate_softmax"), LookupTableSoftmax)
        near = model(feats, lengths)[:, 0].numpy()
    assert (cosine_score(near, exact) > 0.99999).all()
    assert not np.array_equal(near, exact)
    # Its channels' logits are shifted too, or so few pieces would not do.
    model = copy.deepcopy(modules.embedding_model)
    replace_softmax(model, PiecewiseLinearSoftmax(segments=3), [(feats, lengths)])
    with torch.inference_mode():
        near = model(feats, lengths)[:, 0].numpy()
    assert (cosine_score(near, exact) > 0.97).all()
