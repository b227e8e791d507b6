"""From waveform to embedding: the toolkits' own packages beside earmark's reading of a checkpoint
that they wrote. SpeechBrain's is compared in test_speechbrain_parity.py; TaoRuijie/ECAPA-TDNN is in
no package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import yaml  # noqa: E402

from earmark.audio import read_audio  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402
from earmark.nn import EcapaTdnn  # noqa: E402
from paths import CHECKPOINT, dev_recordings, one_torch_thread  # noqa: E402
from signals import RECORDINGS  # noqa: E402
from toolkit_networks import randomised, write_nemo  # noqa: E402
from toolkit_packages import (  # noqa: E402
    imported_nemo,
    imported_speakerlab,
    imported_wespeaker,
)

Embed = Callable[[Any], Any]  # a waveform tensor (samples,) to an embedding (192,)

# Every tenth of the dev speakers', too.
PATHS = [*RECORDINGS, *(dev_recordings()[::10] if CHECKPOINT.is_file() else [])]
WAVES = [read_audio(path).samples for path in PATHS]
CROPS = [torch.from_numpy(wave[:32000]) for wave in WAVES if len(wave) >= 32000]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def speakerlab() -> Iterator[SimpleNamespace]:
    with imported_speakerlab() as parts:
        yield parts


@pytest.fixture
def wespeaker() -> Iterator[SimpleNamespace]:
    with imported_wespeaker() as parts:
        yield parts


@pytest.fixture
def nemo() -> Iterator[SimpleNamespace]:
    with imported_nemo() as parts:
        yield parts


def cosines(net: Any, embed: Embed) -> Any:
    """Of earmark's and the toolkit's embeddings of each recording."""
    assert isinstance(net, EcapaTdnn)
    with torch.inference_mode():
        expected = np.stack([embed(torch.from_numpy(wave)).numpy() for wave in WAVES])
    assert np.isfinite(expected).all()
    found = cosine_score(net.embed(WAVES), expected)
    report = "%s: %d recordings, worst cosine 1 - %.3g"
    logging.getLogger(__name__).info(report, net.family, len(WAVES), 1 - found.min())
    # What does not hear the speech would be near it, too.
    assert cosine_score(expected[:1], expected[1:]).min() < 0.9
    return found


def test_3dspeaker(speakerlab: SimpleNamespace, tmp_path: Path) -> None:
    features = speakerlab.FBank(80, 16000, mean_nor=True)
    torch.manual_seed(0)
    theirs = randomised(speakerlab.ECAPA_TDNN(80), [torch.stack([*map(features, CROPS)])])
    torch.save(theirs.state_dict(), tmp_path / "ecapa_tdnn.bin")
    ours = load_checkpoint(tmp_path / "ecapa_tdnn.bin", "3dspeaker")
    assert cosines(ours, lambda wave: theirs(features(wave)[None])[0]).min() >= 0.99999


@pytest.mark.parametrize(
    ("name", "emb_bn"), [("ECAPA_TDNN_GLOB_c512", False), ("ECAPA_TDNN_c512", True)]
)
def test_wespeaker(wespeaker: SimpleNamespace, name: str, emb_bn: bool, tmp_path: Path) -> None:
    arguments = {"feat_dim": 80, "embed_dim": 192, "pooling_func": "ASTP", "emb_bn": emb_bn}
    recipe = {"model": name, "model_args": arguments}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recipe))
    torch.manual_seed(0)
    net = wespeaker.get_speaker_model(name)(**arguments)
    torch.save(net.state_dict(), tmp_path / "avg_model.pt")
    speaker = wespeaker.Speaker(str(tmp_path))

    def samples(wave: Any) -> Any:
        """As its reader gives them: of 16 bits, in a channel."""
        return (32768 * wave)[None]

    crops = [speaker.compute_features(samples(wave))[0] for wave in CROPS]
    torch.save(randomised(net, [torch.stack(crops)]).state_dict(), tmp_path / "avg_model.pt")
    speaker = wespeaker.Speaker(str(tmp_path))
    ours = load_checkpoint(tmp_path / "avg_model.pt")
    assert ours.config.context == ("GLOB" in name)
    found = cosines(ours, lambda wave: speaker.extract_embedding_from_pcm(samples(wave), 16000))
    assert found.min() >= 0.99999


NEMO = {
    "preprocessor": {
        "normalize": "per_feature",
        "window_size": 0.025,
        "sample_rate": 16000,
        "window_stride": 0.01,
        "window": "hann",
        "features": 80,
        "n_fft": 512,
        "frame_splicing": 1,
        "dither": 1e-5,
    },
    "encoder": {
        "feat_in": 80,
        "filters": [512, 512, 512, 512, 1536],
        "kernel_sizes": [5, 3, 3, 3, 1],
        "dilations": [1, 1, 1, 1, 1],
        "scale": 8,
    },
    "decoder": {
        "feat_in": 1536,
        "num_classes": 5,
        "pool_mode": "attention",
        "emb_sizes": 192,
        "angular": True,
    },
}


class NemoModel(torch.nn.Module):
    """The parts of its ``EncDecSpeakerLabelModel``, which are called as there."""

    def __init__(self, nemo: SimpleNamespace) -> None:
        super().__init__()
        self.preprocessor = nemo.Preprocessor(**NEMO["preprocessor"])
        self.encoder = nemo.ECAPAEncoder(**NEMO["encoder"])
        self.decoder = nemo.SpeakerDecoder(**NEMO["decoder"])

    def features(self, waves: Sequence[Any]) -> Any:
        """Of recordings of one length, padded as it pads, and their lengths."""
        samples = torch.tensor([len(wave) for wave in waves])
        return self.preprocessor(input_signal=torch.stack([*waves]), length=samples)

    def forward(self, features: Any, lengths: Any = None) -> Any:
        if lengths is None:
            lengths = torch.tensor([features.shape[2]] * len(features))
        encoded, lengths = self.encoder(audio_signal=features, length=lengths)
        return self.decoder(encoder_output=encoded, length=lengths)[1]


def test_nemo(nemo: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = NemoModel(nemo).eval()

    features, lengths = theirs.features(CROPS)
    randomised(theirs, [features[:, :, : lengths[0]]])
    targets = ("AudioToMelSpectrogramPreprocessor", "ECAPAEncoder", "SpeakerDecoder")
    recipe = {
        name: {"_target_": f"nemo.collections.asr.modules.{target}", **NEMO[name]}
        for name, target in zip(NEMO, targets, strict=True)
    }
    state = theirs.state_dict()
    ours = load_checkpoint(write_nemo(tmp_path / "a.nemo", state, yaml.safe_dump(recipe)))
    # Its features are padded to a multiple of 16 frames, and its convolutions see that.
    assert ours.config.pad_to == 16
    assert cosines(ours, lambda wave: theirs(*theirs.features([wave]))[0]).min() >= 0.99999
