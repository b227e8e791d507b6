"""Checkpoints of the other toolkits: which family a file is of, and the message for what is not."""

from __future__ import annotations

import contextlib
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from earmark.errors import FormatError  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.families.scoring import SCORING  # noqa: E402
from paths import one_torch_thread  # noqa: E402
from toolkit_networks import (  # noqa: E402
    NEMO_CONFIG,
    VARIANTS,
    State,
    features,
    members,
    write_nemo,
)

each_variant = pytest.mark.parametrize("name", VARIANTS)
PLAIN_CONFIG = NEMO_CONFIG.format(dilations=[1] * 5)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def checkpoint(name: str) -> State:
    """As the toolkit writes it, its heads and front end's constants included."""
    variant = VARIANTS[name]
    return variant.checkpoint(variant.network())


@pytest.fixture(scope="module")
def nemo_state() -> State:
    return {
        **checkpoint("nemo"),
        "preprocessor.featurizer.window": torch.ones(400),
        "preprocessor.featurizer.fb": torch.ones(1, 20, 257),
    }


@each_variant
def test_every_form_gives_the_same_network(name: str, tmp_path: Path) -> None:
    state, family = checkpoint(name), VARIANTS[name].family
    save(tmp_path / "a.pt", state)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "a.safetensors")
    # An average of checkpoints has fractions of steps; some tools leave the steps out.
    averaged = {k: v / 3.0 if k.endswith("num_batches_tracked") else v for k, v in state.items()}
    save(tmp_path / "averaged.pt", averaged)
    bare = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save(tmp_path / "bare.pt", bare)
    nets = [load_checkpoint(path, family) for path in sorted(tmp_path.iterdir())]
    for net in nets:
        assert net.family == family
        assert not net.training
        assert torch.equal(net(features(1, 30)), nets[0](features(1, 30)))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "3dspeaker"])
def test_families_that_their_keys_tell(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "embedding_model.ckpt", checkpoint(name))
    assert load_checkpoint(path).family == VARIANTS[name].family


@pytest.mark.parametrize("file", ["ecapa_tdnn.bin", "ecapa-tdnn.ckpt", "embedding_model.ckpt"])
def test_two_families_have_the_same_keys(file: str, tmp_path: Path) -> None:
    """Not even a name tells: the front end would be another one."""
    path = save(tmp_path / file, checkpoint("3dspeaker"))
    with pytest.raises(FormatError, match="3dspeaker and speechbrain have the same keys"):
        load_checkpoint(path)
    for family in ("3dspeaker", "speechbrain"):
        assert load_checkpoint(path, family).family == family


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def put(key: str, value: Any) -> Callable[[State], State]:
    return lambda state: {**state, key: value}


def poke(key: str, value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        moved = state[key].clone()
        moved.view(-1)[1] = value
        return {**state, key: moved}

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("taoruijie", without("speaker_encoder.bn6.bias"), "bn6.bias is missing"),
        ("taoruijie", without("speaker_encoder.layer2.bns.1.weight"), "layer2.bns.1.weight is mis"),
        ("taoruijie", without("speaker_encoder.layer4.weight"), "layer4.weight is missing: not an"),
        ("taoruijie", put("speaker_encoder.layer5.weight", torch.zeros(2)), "layer5.weight .* is"),
        ("taoruijie", poke("speaker_encoder.fc6.weight", float("nan")), "fc6.weight holds nan"),
        (
            "taoruijie",
            put("speaker_encoder.fc6.weight", torch.zeros(24, 95)),
            r"fc6.weight is \(24, 95, 1\), expected \(24, 96, 1\)",
        ),
        ("wespeaker", without("module.layer3.se_res2block.2.bn.weight"), "layer3.se_res2block.2.b"),
        ("wespeaker", without("module.layer3.se_res2block.0.conv.weight"), "3.se_res2block.0.conv"),
        ("wespeaker", without("module.pool.linear1.weight"), "pool.linear1.weight is missing"),
        ("wespeaker", put("module.bn2.weight", torch.ones(24)), "bn2.bias is missing"),
        (
            "wespeaker",
            put("module.pool.linear1.weight", torch.zeros(16, 96, 1)),
            r"pool.linear1.weight is \(16, 96, 1\), expected \(16, 144, 1\)",
        ),
        ("wespeaker", poke("module.layer1.bn.running_var", -1.0), "running_var holds -1, a varian"),
        ("wespeaker", without("module.layer4.se_res2block.0.conv.weight"), "2 SE-Res2 blocks"),
        ("nemo", without("encoder.feature_agg.bn.bias"), "encoder.feature_agg.bn.bias is missing"),
        (
            "nemo",
            poke("decoder.emb_layers.0.1.bias", float("inf")),
            "emb_layers.0.1.bias holds inf",
        ),
        (
            "nemo",
            put("encoder.layers.1.group_tdnn_block.1.weight", torch.zeros(32, 0, 3)),
            r"group_tdnn_block.1.weight is \(32, 0, 3\), expected",
        ),
        (
            "nemo",
            put("encoder.layers.2.se_layer.se_layer.2.bias", torch.zeros(7)),
            r"2.bias is \(7",
        ),
        ("taoruijie", put("bn1.bias", torch.zeros(32)), "bn1.bias is there twice"),
        ("3dspeaker", without("fc.conv.bias"), "fc.conv.bias is missing"),
        ("3dspeaker", put("x", torch.zeros(1)), r"x \(1,\) is not part of an ECAPA-TDNN"),
    ],
)
def test_bad_state_dicts(
    name: str, change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "w.ckpt", change(checkpoint(name)))
    with pytest.raises(FormatError, match=message) as caught:
        load_checkpoint(path, VARIANTS[name].family)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["3dspeaker", "nemo", "speechbrain", "taoruijie", "wespeaker"])
@each_variant
def test_wrong_families(name: str, family: str, tmp_path: Path) -> None:
    """The key that is missing, and whose network the file then is not."""
    own = VARIANTS[name].family
    if family == own or {family, own} == {"3dspeaker", "speechbrain"}:
        return
    path = save(tmp_path / "w.ckpt", checkpoint(name))
    title = {
        "3dspeaker": "3D-Speaker",
        "nemo": "NeMo",
        "speechbrain": "SpeechBrain",
        "taoruijie": "TaoRuijie",
        "wespeaker": "WeSpeaker",
    }[family]
    with pytest.raises(FormatError, match=f"is missing: not an ECAPA-TDNN of {title}'s"):
        load_checkpoint(path, family)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_nemo_archives(mode: str, nemo_state: State, tmp_path: Path) -> None:
    path = write_nemo(tmp_path / "m.nemo", nemo_state, mode=mode)
    bare = load_checkpoint(save(tmp_path / "w.ckpt", nemo_state), "nemo")
    expected = bare(features(1, 40))
    for family in (None, "nemo"):
        assert torch.equal(load_checkpoint(path, family)(features(1, 40)), expected)
    # A file is an archive by what it holds, not only by its name.
    other = path.rename(tmp_path / "archive.bin")
    assert load_checkpoint(other).family == "nemo"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive.bin", "w.ckpt"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("per_feature", "all_features", "preprocessor: normalize = 'all_features' is not supp"),
        ("window_size: 0.025", "window_size: 0.02", "window_size = 0.02 is not"),
        ("  window_size: 0.025\n", "", "window_size = 0.02 is not"),
        ("window: hann", "window: hamming", "window = 'hamming' is not"),
        ("n_fft: 512", "n_fft: 1024", "n_fft = 1024 is not"),
        ("frame_splicing: 1", "frame_splicing: 2", "frame_splicing = 2"),
        ("frame_splicing: 1", "mag_power: 1.0", "mag_power = 1.0"),
        ("frame_splicing: 1", "highfreq: 7600", "highfreq = 7600"),
        ("frame_splicing: 1", "pad_value: -1", "pad_value = -1 is not"),
        ("frame_splicing: 1", "pad_to: max", "pad_to = 'max' is not supported"),
        ("frame_splicing: 1", "pad_to: -1", "pad_to = -1 is not supported"),
        ("frame_splicing: 1", "pad_to: 4097", "pad_to must be from 1 to 4096, got 4097"),
        ("frame_splicing: 1", "pad_to: 16.0", "pad_to = 16.0 is not supported"),
        ("  sample_rate: 16000", "  sample_rate: 8000", "sample_rate = 8000"),
        ("AudioToMelSpectrogramPreprocessor", "AudioToMFCCPreprocessor", "expected AudioToMelSp"),
        ("pool_mode: attention", "pool_mode: xvector", "pool_mode = 'xvector' is not supported"),
        ("ECAPAEncoder", "ConvASREncoder", "expected ECAPAEncoder"),
        ("encoder:", "coder:", "encoder is missing"),
        ("[1, 1, 1, 1, 1]", "[1, 1, 1, 1, -1]", "dilations is"),
        ("[1, 1, 1, 1, 1]", "five", "dilations is 'five'"),
        ("[1, 1, 1, 1, 1]", "[1, 1, 1, 1]", "3 SE-Res2 blocks"),
        ("[1, 1, 1, 1, 1]", "[1", "broken yaml"),
        ("train_ds:", "train_ds: !!python/object/apply:os.system [echo]\nx:", "broken yaml"),
    ],
)
def test_bad_nemo_configs(
    old: str, new: str, message: str, nemo_state: State, tmp_path: Path
) -> None:
    assert old in PLAIN_CONFIG
    path = write_nemo(tmp_path / "m.nemo", nemo_state, PLAIN_CONFIG.replace(old, new, 1))
    with pytest.raises(FormatError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"text", b"\xff\xfe\x00", b"- a\n" * 3, b"a: &a [*a]"]
)
def test_configs_that_are_none(config: bytes, nemo_state: State, tmp_path: Path) -> None:
    path = write_nemo(tmp_path / "m.nemo", nemo_state, config)
    with pytest.raises(FormatError, match=r"model_config\.yaml"):
        load_checkpoint(path)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:xz"])
def test_cut_and_damaged_archives(mode: str, nemo_state: State, tmp_path: Path) -> None:
    path = write_nemo(tmp_path / "m.nemo", nemo_state, mode=mode)
    good = path.read_bytes()
    for size in (0, 1, 300, 512, len(good) // 3, len(good) // 2):
        path.write_bytes(good[:size])
        with pytest.raises(FormatError) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
    for at in range(0, len(good), len(good) // 40):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        # Bits of padding, or of a weight, are not seen; others give this error, and no other.
        with contextlib.suppress(FormatError):
            load_checkpoint(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(FormatError, match=r"broken \.nemo archive"):
        load_checkpoint(path)


def archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:") as file:
        for member, data in entries:
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def test_hostile_archives(nemo_state: State, tmp_path: Path) -> None:
    """Nothing is written outside, followed, or executed."""
    good = dict(members(write_nemo(tmp_path / "good.nemo", nemo_state)))
    config, weights = (good[f"./model_{name}"] for name in ("config.yaml", "weights.ckpt"))
    plain = (tarfile.TarInfo("model_config.yaml"), config)
    outside = tmp_path / "outside"

    # Beside a good network: not looked at.
    escape = (tarfile.TarInfo("../outside"), b"written")
    good_weights = (tarfile.TarInfo("model_weights.ckpt"), weights)
    load_checkpoint(archive(tmp_path / "a.nemo", escape, plain, good_weights))
    assert not outside.exists()

    link = tarfile.TarInfo("model_weights.ckpt")
    link.type, link.linkname = tarfile.SYMTYPE, str(save(tmp_path / "w.ckpt", nemo_state))
    path = archive(tmp_path / "b.nemo", plain, (link, b""))
    with pytest.raises(FormatError, match="is no plain file"):
        load_checkpoint(path)

    elsewhere = (tarfile.TarInfo("../model_weights.ckpt"), weights)
    with pytest.raises(FormatError, match=r"no model_weights\.ckpt in this"):
        load_checkpoint(archive(tmp_path / "c.nemo", plain, elsewhere))

    with pytest.raises(FormatError, match="there twice"):
        load_checkpoint(archive(tmp_path / "d.nemo", plain, plain))

    class Exploit:
        def __reduce__(self) -> Any:
            return (outside.write_text, ("executed",))

    for data in (pickle.dumps(Exploit()), pickle.dumps({"a": Exploit()})):
        entry = (tarfile.TarInfo("model_weights.ckpt"), data)
        with pytest.raises(FormatError, match=r"not a plain state dict|broken torch file"):
            load_checkpoint(archive(tmp_path / "e.nemo", plain, entry))
    assert not outside.exists()

    large = (tarfile.TarInfo("model_config.yaml"), b"#" * (1 << 21))
    with pytest.raises(FormatError, match="too large"):
        load_checkpoint(archive(tmp_path / "f.nemo", large))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for family in (None, "3dspeaker", "nemo", "taoruijie", "wespeaker"):
        with pytest.raises(FileNotFoundError, match=r"absent\.nemo"):
            load_checkpoint(tmp_path / "absent.nemo", family)


def test_how_families_score() -> None:
    assert set(SCORING) == {variant.family for variant in VARIANTS.values()} | {"speechbrain"}
    assert SCORING["nemo"].threshold == pytest.approx(2 * 0.7 - 1)  # of (cosine + 1) / 2
