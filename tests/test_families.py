"""Loading checkpoints: what is accepted, and the message for what is not."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from earmark.errors import FormatError  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402
from earmark.frontend import SpeechBrainFbank  # noqa: E402
from earmark.nn import EcapaConfig, EcapaTdnn  # noqa: E402

from .paths import CHECKPOINT, needs_data, one_torch_thread  # noqa: E402

CONFIG = EcapaConfig(
    n_mels=20,
    channels=(16, 16, 16, 16, 48),
    attention_channels=8,
    res2_scale=4,
    se_channels=6,
    embedding=12,
)

YAML = """\
# As in SpeechBrain's savedir, with what has no meaning here.
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
n_mels: 20
sample_rate: 16000
emb_dim: 12
width: 16
date: 2020-02-02
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [!ref <width>, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    groups: [1, 1, 1, 1, 1]
    attention_channels: 8
    res2net_scale: 4
    se_channels: 6
    lin_neurons: !ref <emb_dim>
    activation: !name:torch.nn.ReLU
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: !ref <emb_dim>
    out_neurons: 7205
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
seed: !apply:os.system ["touch {marker}"]
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""

State = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def make_state(seed: int = 0) -> State:
    """A small network's weights and statistics."""
    torch.manual_seed(seed)
    net = EcapaTdnn(CONFIG, SpeechBrainFbank(20), "speechbrain")
    net(torch.randn(2, 20, 20))
    return {key: tensor.clone() for key, tensor in net.state_dict().items()}


@pytest.fixture
def state() -> State:
    return make_state()


@pytest.fixture
def savedir(tmp_path: Path, state: State) -> Path:
    folder = tmp_path / "savedir"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(YAML.format(marker=tmp_path / "executed"))
    torch.save(state, folder / "embedding_model.ckpt")
    torch.save({"count": 1, "glob_mean": torch.ones(12)}, folder / "mean_var_norm_emb.ckpt")
    return folder


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def embedding(net: EcapaTdnn) -> Any:
    return net.embed(np.sin(np.arange(8000) * 0.2))


@needs_data
def test_the_real_checkpoint() -> None:
    net = load_checkpoint(CHECKPOINT, "speechbrain")
    assert net.config == EcapaConfig(channels=(256, 256, 256, 256, 768))
    assert sum(parameter.numel() for parameter in net.parameters()) == 2_049_952
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_every_form_gives_the_same_network(savedir: Path, state: State) -> None:
    save_file(state, savedir / "weights.safetensors")
    torch.save(state, savedir / "old.pt", _use_new_zipfile_serialization=False)
    from_folder = load_checkpoint(savedir)
    assert from_folder.config == CONFIG
    expected = embedding(from_folder)
    assert np.isfinite(expected).all()
    for name in ("", "embedding_model.ckpt", "weights.safetensors", "old.pt"):
        net = load_checkpoint(str(savedir / name), family="speechbrain")
        assert (net.config, net.family) == (CONFIG, "speechbrain")
        assert net.front_end.spec() == {"name": "speechbrain", "n_mels": 20}
        np.testing.assert_array_equal(embedding(net), expected)
        for key, tensor in net.state_dict().items():
            assert torch.equal(tensor, state[key]), key


def test_nothing_in_the_yaml_is_executed(savedir: Path) -> None:
    load_checkpoint(savedir)
    assert not (savedir.parent / "executed").exists()


def test_the_mean_of_embeddings_is_not_subtracted(savedir: Path) -> None:
    with_mean = embedding(load_checkpoint(savedir))
    (savedir / "mean_var_norm_emb.ckpt").unlink()
    np.testing.assert_array_equal(embedding(load_checkpoint(savedir)), with_mean)


def test_dilations_of_the_yaml_count(savedir: Path) -> None:
    recipe = savedir / "hyperparams.yaml"
    recipe.write_text(recipe.read_text().replace("[1, 2, 3, 4, 1]", "[1, 1, 1, 1, 1]"))
    assert load_checkpoint(savedir).config.dilations == (1, 1, 1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path: Path, state: State, dtype: Any) -> None:
    path = save(tmp_path / "w.ckpt", {k: v.to(dtype) if v.ndim else v for k, v in state.items()})
    net = load_checkpoint(path, "speechbrain")
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}


def test_the_network_does_not_share_memory_with_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(make_state(), path)
    before = path.read_bytes()
    net = load_checkpoint(path, "speechbrain")
    net.fc.conv.weight.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            "kaldi",
            "'kaldi' is unknown; supported: 3dspeaker, nemo, sound-resnet, speechbrain, "
            "taoruijie, wespeaker",
        ),
        ("", "'' is unknown"),
    ],
)
def test_families(tmp_path: Path, family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "w.ckpt", family)


def test_family_is_not_guessed(tmp_path: Path, state: State) -> None:
    path = save(tmp_path / "embedding_model.ckpt", state)
    for source in (path, tmp_path):
        with pytest.raises(FormatError, match="the family cannot be told") as caught:
            load_checkpoint(source)
        assert str(source) in str(caught.value)


def write_described(path: Path, state: State, described: Any) -> Path:
    text = described if isinstance(described, str) else json.dumps(described)
    save_file(state, path, metadata={"earmark": text})
    return path


def test_a_file_that_says_its_family_and_shape(tmp_path: Path, state: State) -> None:
    """As `earmark train` writes it; dilations could not be told from the weights."""
    config = dataclasses.replace(CONFIG, dilations=(1, 1, 2, 1, 1))
    described = {"family": "speechbrain", "config": config.to_dict(), "measured": {}}
    path = write_described(tmp_path / "model.safetensors", state, described)
    for family in (None, "speechbrain"):
        assert load_checkpoint(path, family).config == config


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("{", "broken metadata"),
        ("[" * 100_000, "broken metadata"),
        ([], "its metadata are list"),
        ({}, "its metadata name the family None"),
        ({"family": "nobody"}, "'nobody' is unknown"),
        ({"family": "speechbrain"}, "no config of a network"),
        ({"family": "speechbrain", "config": {"width": 5}}, "unexpected keyword argument 'width'"),
        ({"family": "speechbrain", "config": {"embedding": "x"}}, "embedding is 'x'"),
        ({"family": "speechbrain", "config": {"embedding": 1 << 40}}, "embedding is 1099511627776"),
        ({"family": "speechbrain", "config": {"channels": [16] * 17}}, "channels is"),
        ({"family": "speechbrain", "config": {"channels": 16}}, "model.safetensors: "),
        ({"family": "speechbrain", "config": {"padding": 5}}, "padding is 5, expected str"),
        (
            {"family": "speechbrain", "config": {"padding": "wrap"}},
            "padding is 'wrap', expected",
        ),
        ({"family": "speechbrain", "config": {"res2": "second"}}, "res2 is 'second', expected one"),
        ({"family": "speechbrain", "config": {"mfa_norm": 1}}, "mfa_norm is 1, expected bool"),
        (
            {"family": "speechbrain", "config": {"pooled_floor": "x"}},
            "pooled_floor is 'x'",
        ),
        (
            {"family": "speechbrain", "config": {"pooled_floor": float("nan")}},
            "pooled_floor must",
        ),
        ({"family": "speechbrain", "config": {"context_added": -1.0}}, "context_added must be in"),
        ({"family": "speechbrain", "config": {}}, r"blocks\.1\..* is missing"),
    ],
)
def test_nonsense_in_metadata(tmp_path: Path, state: State, described: Any, message: str) -> None:
    path = write_described(tmp_path / "model.safetensors", state, described)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt"):
        load_checkpoint(tmp_path / "absent.ckpt", "speechbrain")
    with pytest.raises(FormatError, match=r"no hyperparams\.yaml in this folder"):
        load_checkpoint(tmp_path, "speechbrain")


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def put(key: str, value: Any) -> Callable[[State], State]:
    return lambda state: {**state, key: value}


def poke(key: str, value: float) -> Callable[[State], State]:
    def change(state: State) -> State:
        state[key].view(-1)[1] = value
        return state

    return change


class Exploit:
    """Pickled, it asks the loader to call a function."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("executed",))


FC = "fc.conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(FC), f"{FC} is missing"),
        (without("asp_bn.norm.running_var"), "asp_bn.norm.running_var is missing"),
        (without("blocks.2.tdnn2.conv.conv.bias"), "blocks.2.tdnn2.conv.conv.bias is missing"),
        (put("speaker", torch.zeros(3)), r"speaker \(3,\) is not part of an ECAPA-TDNN"),
        (put(FC, torch.zeros(12, 95, 1)), rf"{FC} is \(12, 95, 1\), expected \(12, 96, 1\)"),
        (put(FC, torch.zeros(12, 96)), rf"{FC} is \(12, 96\), expected 3 axes"),
        (put("mfa.norm.norm.bias", torch.zeros(47)), r"mfa.norm.norm.bias is \(47,\)"),
        (put(FC, torch.zeros(12, 96, 1, dtype=torch.int32)), f"{FC} is torch.int32"),
        (put(FC, torch.zeros(12, 96, 1, dtype=torch.complex64)), f"{FC} is torch.complex64"),
        (put(FC, torch.zeros(1).expand(12, 96, 1)), "larger than its data"),
        (put(FC, torch.zeros(12, 96, 1).to_sparse()), "not a plain tensor"),
        (poke(FC, float("nan")), f"{FC} holds nan"),
        (poke("mfa.conv.conv.bias", float("-inf")), "mfa.conv.conv.bias holds -inf"),
        (poke("mfa.norm.norm.running_var", -2.0), "running_var holds -2, a variance"),
        (put("epoch", 3), "'epoch' is int, not a tensor"),
        (lambda state: {"model": state}, "'model' is dict, not a tensor"),
        (lambda state: {}, "holds dict, not a state dict"),
        (lambda state: list(state.values()), "holds list, not a state dict"),
        (put("x", Exploit()), "not a plain state dict"),
    ],
)
def test_bad_state_dicts(
    tmp_path: Path, state: State, change: Callable[[State], Any], message: str
) -> None:
    path = save(tmp_path / "w.ckpt", change(state))
    with pytest.raises(FormatError, match=message) as caught:
        load_checkpoint(path, "speechbrain")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_number_of_blocks_without_a_yaml(tmp_path: Path, state: State) -> None:
    path = save(
        tmp_path / "w.ckpt", {k: v for k, v in state.items() if not k.startswith("blocks.3.")}
    )
    with pytest.raises(FormatError, match="2 SE-Res2 blocks: only a model folder"):
        load_checkpoint(path, "speechbrain")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"RIFF" * 9, b"\x80\x02}q\x00", b"\x00" * 99]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.ckpt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"broken torch file|not a plain state dict|not a state"):
        load_checkpoint(path, "speechbrain")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    path.write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(FormatError, match=r"not a plain state dict|broken torch file"):
        load_checkpoint(path, "speechbrain")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    torch.save(make_state(), folder / "w.ckpt")
    save_file(make_state(), folder / "w.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_cut_and_damaged_files_give_format_errors(
    contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(contents)))
    whole = contents[name]
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    for place in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=3)):
        if damaged:
            damaged[place] ^= 0x55
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(damaged)
    with pytest.raises(FormatError) as caught:
        load_checkpoint(path, "speechbrain")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("norm_type: sentence", "norm_type: global", "mean_var_norm: norm_type is 'global'"),
        ("std_norm: False", "std_norm: True", "std_norm is True, only False is supported"),
        ("    std_norm: False\n", "", "std_norm is None"),
        ("features.Fbank", "features.MFCC", "is !new:speechbrain.lobes.features.MFCC, expected"),
        ("    n_mels: !ref <n_mels>\n", "    n_mels: 20\n    n_fft: 512\n", "n_fft = 512 is not"),
        ("ECAPA_TDNN.ECAPA_TDNN", "ResNet.ResNet", "expected !new:...ECAPA_TDNN"),
        ("groups: [1, 1, 1, 1, 1]", "groups: [1, 2, 1, 1, 1]", "only groups of 1 and ReLU"),
        ("torch.nn.ReLU", "torch.nn.LeakyReLU", "only groups of 1 and ReLU"),
        ("    lin_neurons", "    global_context: False\n    lin_neurons", "global_context = False"),
        ("input_size: !ref <n_mels>", "input_size: 80", "input_size is not n_mels, 20"),
        ("n_mels: 20", "n_mels: !ref <n_mels>", "go round in a circle"),
        ("<emb_dim>", "<emb_dim> * 2", "cannot follow the reference '<emb_dim> \\* 2'"),
        ("<width>", "<nothing>", "cannot follow the reference '<nothing>'"),
        ("width: 16", "width: 16.0", "channels is 16.0, expected a positive integer"),
        ("[5, 3, 3, 3, 1]", "5", "kernel_sizes is 5, expected a list"),
        ("[5, 3, 3, 3, 1]", "[5, 3, 3, 2, 1]", "kernel_sizes must be odd"),
        ("[5, 3, 3, 3, 1]", "[5, 3, 3, 3]", "one entry for each"),
        ("16, 48]", "16, 64]", r"embedding_model.ckpt: mfa.conv.conv.weight is \(48, 48, 1\)"),
        ("date: 2020-02-02", "date: 2020-02-31", "broken yaml"),
        ("seed: ", "seed: [", "broken yaml"),
        ("mean_var_norm:", "other:", "mean_var_norm is missing"),
        ("sample_rate: 16000", "sample_rate: 8000", "sample_rate is 8000, only 16000"),
    ],
)
def test_bad_yaml(savedir: Path, old: str, new: str, message: str) -> None:
    recipe = savedir / "hyperparams.yaml"
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(FormatError, match=message) as caught:
        load_checkpoint(savedir)
    assert str(caught.value).startswith(str(savedir))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "text", "\xff", "[" * 2000, "&a [*a]", "a: &a {b: *a}"]
)
def test_yaml_that_is_no_recipe(savedir: Path, content: str) -> None:
    (savedir / "hyperparams.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(FormatError, match=r"hyperparams\.yaml: "):
        load_checkpoint(savedir)


def test_weights_missing_from_the_folder(savedir: Path) -> None:
    (savedir / "embedding_model.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"embedding_model\.ckpt"):
        load_checkpoint(savedir)
