"""``earmark compress``: the same embeddings from a smaller file."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

import earmark
from commands import Cli
from earmark import modelfile
from earmark.compression.statistics import entropies
from modelfiles import network_model

DEMO = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"
RECORDING = sorted((DEMO.parent / "recordings").glob("*.flac"))[0]


def embedding(path: Path) -> np.ndarray:
    return earmark.Embedder(path).embed(RECORDING)


@pytest.mark.parametrize("codec", ["rans", "zstd", "raw"])
def test_the_model_stays_as_it_is(cli: Cli, tmp_path: Path, codec: str) -> None:
    if codec == "zstd":
        pytest.importorskip("zstandard")
    out = tmp_path / "small.earmark"
    outcome = cli("compress", str(DEMO), "-o", str(out), "--codec", codec, "--json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["file_bytes"] == out.stat().st_size
    assert result["file_bytes_before"] == DEMO.stat().st_size
    np.testing.assert_array_equal(embedding(out), embedding(DEMO))
    before, after = (modelfile.read(path) for path in (DEMO, out))
    assert {**before.metadata, "storage": 0, "sha256": 0} == {
        **after.metadata,
        "storage": 0,
        "sha256": 0,
    }
    if codec == "raw":
        assert out.read_bytes() == DEMO.read_bytes()
    else:
        assert result["file_bytes"] < 0.9 * result["file_bytes_before"]
        assert result["ratio"] == pytest.approx(4 * result["parameters"] / result["file_bytes"])


def test_back_to_the_same_bytes(cli: Cli, tmp_path: Path) -> None:
    """Decoded again, and coded twice: equal input gives equal files."""
    files = [tmp_path / f"{i}.earmark" for i in range(3)]
    for source, target, codec in (
        (DEMO, files[0], "rans"),
        (files[0], files[1], "raw"),
        (files[0], files[2], "rans"),
    ):
        assert cli("compress", str(source), "-o", str(target), "--codec", codec).status == 0
    assert files[1].read_bytes() == DEMO.read_bytes()
    assert files[2].read_bytes() == files[0].read_bytes()


def test_a_codec_for_some_layers(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "mixed.earmark"
    codecs = "blocks=raw,blocks.1.tdnn1=rans,fc=raw"
    assert cli("compress", str(DEMO), "-o", str(out), "--codec", codecs).status == 0
    outcome = cli("info", str(out), "--json")
    layers = {layer["name"]: layer for layer in json.loads(outcome.out)["layers"]}
    codings = {name: layer["coding"] for name, layer in layers.items()}
    assert codings["blocks.0"] == codings["blocks.2.tdnn1"] == codings["fc"] == "raw"
    assert codings["blocks.1.tdnn1"] == codings["mfa"] == "rans"
    assert layers["fc"]["bytes"] == layers["fc"]["decoded_bytes"]
    assert layers["mfa"]["bytes"] < layers["mfa"]["decoded_bytes"]
    assert layers["mfa"]["bits_per_weight"] < 1.01 * layers["mfa"]["entropy_bits"]
    np.testing.assert_array_equal(embedding(out), embedding(DEMO))


def test_info_shows_storage(cli: Cli) -> None:
    lines = cli("info", str(DEMO)).out.splitlines()
    header = next(line for line in lines if line.startswith("name "))
    assert header.split()[3:10] == ["coding", "params", "bytes", "decoded", "bits/w", "H0", "H1"]


def test_entropies() -> None:
    uniform = np.arange(256, dtype=np.uint8).view(np.int8).reshape(16, 16)
    assert entropies(uniform) == (8.0, 0.0)
    assert entropies(np.zeros((3, 5), np.int8)) == (0.0, 0.0)
    assert entropies(np.array([[1], [2]], np.int8)) == (1.0, 1.0)
    # Each tells the next; across rows there is no next.
    assert entropies(np.tile(np.array([0, 1], np.int8), (8, 8))) == (1.0, 0.0)
    rng = np.random.default_rng(1)
    weights = rng.choice(4, (1000, 300), p=[0.5, 0.25, 0.125, 0.125]).astype(np.int8)
    order_0, order_1 = entropies(weights)
    assert order_0 == pytest.approx(1.75, abs=0.01)
    assert order_1 == pytest.approx(1.75, abs=0.01)


@pytest.mark.parametrize(
    ("codec", "reason"),
    [
        ("zip", "LAYER=CODEC,... or a codec (raw, rans, zstd, hevc), got 'zip'"),
        ("fc=deflate", "unknown codec 'deflate': known are raw, rans"),
        ("nowhere=rans", "there is no layer 'nowhere'"),
        ("fc=", "got 'fc='"),
        ("raw,fc=raw,rans", "names layer 'all' twice"),
        ("fc=raw,fc=rans", "names layer 'fc' twice"),
    ],
)
def test_wrong_codecs(cli: Cli, tmp_path: Path, codec: str, reason: str) -> None:
    out = tmp_path / "out.earmark"
    outcome = cli("compress", str(DEMO), "-o", str(out), "--codec", codec)
    assert outcome.status == 2
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
    assert not out.exists()


def test_damaged_streams_are_refused(tmp_path: Path) -> None:
    """Whose checksum fits: FormatError, whatever the stream has become."""
    from earmark.compression import compress

    coded = compress(network_model(), "rans")
    path = tmp_path / "spoilt.earmark"
    rng = np.random.default_rng(2)
    names = sorted(name for name in coded.arrays if name.startswith("coded."))
    assert names == ["coded.deflate.float32", "coded.rans.int8"]
    refused = 0
    for name in names:
        for _ in range(40):
            stream = coded.arrays[name].copy()
            at = rng.integers(stream.size)
            stream[at] ^= rng.integers(1, 256)
            cut = stream[: rng.integers(stream.size)] if rng.random() < 0.3 else stream
            spoilt = modelfile.ModelFile(coded.metadata, {**coded.arrays, name: cut})
            modelfile.write(spoilt, path)
            with contextlib.suppress(earmark.FormatError):
                earmark.load(path)
                continue
            refused += 1
    assert refused > 60


def test_pictures_with_errors(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("av")
    out = tmp_path / "small.earmark"
    command = ("compress", str(DEMO), "-o", str(out), "--codec", "hevc", "--qp", "23", "--json")
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["qp"] == 23
    assert result["file_bytes"] < 0.7 * result["file_bytes_before"]
    exact, close = (embedding(path).ravel() for path in (DEMO, out))
    cosine = exact @ close / np.linalg.norm(exact) / np.linalg.norm(close)
    assert 0.98 < cosine < 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [(("--codec", "hevc", "--qp", "52"), "QP 52"), (("--qp", "23"), "a QP is of HEVC alone")],
)
def test_a_qp_that_cannot_be(cli: Cli, tmp_path: Path, given: tuple[str, ...], reason: str) -> None:
    pytest.importorskip("av")
    outcome = cli("compress", str(DEMO), "-o", str(tmp_path / "small.earmark"), *given)
    assert outcome.status == 2
    assert reason in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_hevc_needs_integer_weights(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.earmark"
    added = "blocks.1.res2net_block.add.2=hevc"
    for model, codec in ((DEMO.with_name("demo-fp32.earmark"), "hevc"), (DEMO, added)):
        outcome = cli("compress", str(model), "-o", str(out), "--codec", codec)
        assert outcome.status == 2
        assert "HEVC is for int8 weights, of which these layers have none" in outcome.err
        assert not out.exists()
