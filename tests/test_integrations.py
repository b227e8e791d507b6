"""Models behind other toolkits' interfaces: the examples of the page, the bits of the engine."""

from __future__ import annotations

import json
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="the interfaces are torch's")

import earmark  # noqa: E402
from earmark import FormatError, modelfile  # noqa: E402
from earmark.audio import read_audio  # noqa: E402
from earmark.integrations.nemo import EncDecSpeakerLabelModel  # noqa: E402
from earmark.integrations.pyannote import SpeakerEmbedding  # noqa: E402
from earmark.integrations.speechbrain import embedding_model, patch  # noqa: E402
from earmark.integrations.wespeaker import Speaker  # noqa: E402
from earmark.metrics import cosine_score  # noqa: E402

from .pages import DOCS, blocks  # noqa: E402
from .paths import CHECKPOINT, needs_data  # noqa: E402
from .sounds import LABELS, small_network, sound  # noqa: E402

DATA = Path(earmark.__file__).parent / "data"
EXAMPLES = {block.heading: block.text for block in blocks(DOCS / "integrations.md", "python")}


# What a published folder has beside it, without the parts that nobody asks for here.
PRETRAINER = """
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an example runs: with a model and two recordings."""
    shutil.copy(DATA / "demo-int8.earmark", tmp_path / "model.earmark")
    for name, flac in zip("ab", sorted((DATA / "recordings").glob("*.flac")), strict=False):
        soundfile.write(tmp_path / f"{name}.wav", read_audio(flac).samples, 16000, "FLOAT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(folder: Path) -> Any:
    """Embeddings of both recordings."""
    return earmark.load("model.earmark").embed(["a.wav", "b.wav"])


def run(toolkit: str, **given: Any) -> dict[str, Any]:
    """Names that the page's example leaves."""
    names = dict(given)
    exec(EXAMPLES[toolkit], names)
    return names


def test_wespeaker(folder: Path, expected: Any) -> None:
    names = run("WeSpeaker")
    similarity = (cosine_score(expected[:1], expected[1:])[0] + 1) / 2
    assert names["similarity"] == pytest.approx(similarity, abs=1e-6)
    assert names["found"] == {"name": "alice", "confidence": names["similarity"]}
    speaker: Speaker = names["speaker"]
    np.testing.assert_array_equal(speaker.extract_embedding("a.wav"), expected[0])
    (folder / "wav.scp").write_text("one a.wav\n\ntwo b.wav\n")
    found, rows = speaker.extract_embedding_list("wav.scp")
    assert found == ["one", "two"]
    np.testing.assert_array_equal(rows, expected)
    (folder / "bad.wav").write_bytes(b"no audio")
    assert speaker.extract_embedding("bad.wav") is None
    assert speaker.compute_similarity("a.wav", "bad.wav") == 0.0
    speaker.set_device("cpu")
    with pytest.raises(ValueError, match="'alice' is enrolled already"):
        speaker.register("alice", "b.wav")
    with pytest.raises(ValueError, match="no speaker is enrolled"):
        Speaker("model.earmark").recognize("a.wav")
    (folder / "wav.scp").write_text("alone\n")
    with pytest.raises(ValueError, match=r"wav\.scp: line 1 is 'alone'"):
        speaker.extract_embedding_list("wav.scp")


def test_nemo(folder: Path, expected: Any) -> None:
    entries = [{"audio_filepath": f"{name}.wav", "label": name} for name in "ab"]
    text = "\n".join(json.dumps(entry) for entry in entries)
    (folder / "manifest.json").write_text(text)
    names = run("NeMo")
    similarity = (cosine_score(expected[:1], expected[1:])[0] + 1) / 2
    assert names["same"] is bool(similarity >= 0.7)
    np.testing.assert_array_equal(names["embeddings"], expected)
    assert names["logits"].shape == (2, 0)
    assert (names["labels"], names["trained"]) == (["a", "b"], [])
    model: EncDecSpeakerLabelModel = names["model"]
    np.testing.assert_array_equal(model.get_embedding("b.wav"), expected[1:])
    pairs = [("a.wav", "b.wav"), ("a.wav", "a.wav")]
    assert model.verify_speakers_batch(pairs, threshold=0.99999).tolist() == [False, True]
    (folder / "manifest.json").write_text(text + "\n[]\n")
    with pytest.raises(ValueError, match=r"manifest\.json: line 3 is no entry"):
        model.batch_inference("manifest.json")
    with pytest.raises(earmark.AudioError, match=r"none\.wav"):
        model.get_embedding("none.wav")


def test_pyannote(folder: Path, expected: Any) -> None:
    waves = [torch.from_numpy(read_audio(f"{name}.wav").samples) for name in "ab"]
    size = min(map(len, waves))
    waveforms = torch.stack([wave[:size] for wave in waves])[:, None]
    masks = torch.ones(2, 100)
    masks[1, 37:] = 0
    names = run("pyannote.audio", waveforms=waveforms, masks=masks)
    embedding: SpeakerEmbedding = names["embedding"]
    kept = round(0.37 * size)
    engine = earmark.load("model.earmark")
    first = engine.embed([waves[0][:size].numpy()])[0]
    np.testing.assert_array_equal(names["rows"][0], first)
    # Where a frame of the mask ends between two samples either may be the last.
    second = [engine.embed([waves[1][: kept + i].numpy()])[0] for i in (-1, 0, 1)]
    assert any(np.array_equal(names["rows"][1], row) for row in second)
    np.testing.assert_array_equal(embedding(waveforms)[0], first)
    assert (embedding.sample_rate, embedding.dimension, embedding.metric) == (16000, 192, "cosine")
    short = embedding.min_num_samples
    assert np.isfinite(embedding(waveforms[:, :, :short])).all()
    assert np.isnan(embedding(waveforms[:, :, : short - 1])).all()
    masks[0] = 0
    rows = embedding(waveforms, masks)
    assert np.isnan(rows[0]).all()
    np.testing.assert_array_equal(rows[1], names["rows"][1])
    assert embedding.to(torch.device("cpu")) is embedding
    assert embedding.device == torch.device("cpu")
    with pytest.raises(ValueError, match=r"waveforms must be \(batch, 1, samples\)"):
        embedding(waveforms[:, 0])
    with pytest.raises(ValueError, match=r"masks must be \(2, frames\)"):
        embedding(waveforms, masks[:1])


def test_the_module_of_speechbrain(folder: Path, tmp_path: Path) -> None:
    """Lengths, pickling, weights that are none, torch.compile."""
    module = embedding_model("model.earmark")
    engine = earmark.load("model.earmark")
    feats = torch.randn(2, 150, 80, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([1.0, 0.6])
    found = module(feats, lengths)
    assert found.shape == (2, 1, 192)
    alone = engine.embed_features([feats[0].numpy(), feats[1, :90].numpy()])
    np.testing.assert_array_equal(found[:, 0], alone)
    state = module.state_dict()
    assert module.load_state_dict(state, strict=True)
    again = pickle.loads(pickle.dumps(module))
    np.testing.assert_array_equal(again(feats, lengths), found)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    np.testing.assert_array_equal(compiled(feats, lengths), found)


@needs_data
def test_speechbrain(folder: Path, expected: Any, tmp_path: Path) -> None:
    for name in ("speechbrain", "sentencepiece", "huggingface_hub"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from .speechbrain_parts import imported_speechbrain
    from .test_speechbrain_parity import HYPERPARAMS

    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(CHECKPOINT, source / "embedding_model.ckpt")
    recipe = HYPERPARAMS.replace("elsewhere/spkrec-ecapa", str(source)) + PRETRAINER
    (source / "hyperparams.yaml").write_text(recipe)
    waves = {name: torch.from_numpy(read_audio(f"{name}.wav").samples)[None] for name in "ab"}
    with imported_speechbrain():
        given = {"SOURCE": str(source), "SAVEDIR": str(source)}
        names = run("SpeechBrain", first=waves["a"], second=waves["b"], **given)
        verification = names["verification"]
        # Its features are float32's, so that a quantum may differ.
        rows = [verification.encode_batch(wave)[0, 0].numpy() for wave in waves.values()]
    assert cosine_score(np.stack(rows), expected).min() > 0.9999
    score = float(cosine_score(expected[:1], expected[1:])[0])
    assert float(names["score"]) == pytest.approx(score, abs=2e-3)
    assert bool(names["same"]) == (float(names["score"]) > 0.25)


def test_models_that_do_not_belong(folder: Path) -> None:
    class Classifier:
        mods = torch.nn.Module()

    with pytest.raises(FormatError, match=r"none\.earmark: no such file"):
        patch(Classifier(), folder / "none.earmark")
    waves = [sound(label, 3).astype(np.float32) for label in LABELS]
    sounds = earmark.quantize(small_network(), waves, scheme="fp32").model_file
    modelfile.write(sounds, folder / "sounds.earmark")
    with pytest.raises(FormatError, match=r"sounds\.earmark: the model gives class scores"):
        patch(Classifier(), folder / "sounds.earmark")
    other = modelfile.read(folder / "model.earmark")
    other.metadata["front_end"] = {"name": "log-mel", "n_mels": 80}
    modelfile.write(other, folder / "other.earmark")
    with pytest.raises(ValueError, match=r"other\.earmark: the model's front end is 'log-mel'"):
        patch(Classifier(), folder / "other.earmark")
