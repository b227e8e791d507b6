"""``earmark quantize`` on a small random network: the file it writes, its figures, its errors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import earmark
from earmark.cli import main

torch = pytest.importorskip("torch", reason="quantizing needs torch")

RECORDINGS = Path(earmark.__file__).parent / "data" / "recordings"
C, MFA, ATTENTION, SE = 64, 192, 32, 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict with SpeechBrain's keys."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, c_out: int, c_in: int, kernel_size: int = 1) -> None:
        shape = (c_out, c_in, kernel_size)
        bound = (c_in * kernel_size) ** -0.5
        state[f"{name}.conv.weight"] = 2 * bound * torch.randn(shape, generator=generator)
        state[f"{name}.conv.bias"] = bound * torch.randn(c_out, generator=generator)

    def norm(name: str, channels: int) -> None:
        for key in ("weight", "running_var"):
            state[f"{name}.norm.{key}"] = torch.rand(channels, generator=generator) + 0.5
        for key in ("bias", "running_mean"):
            state[f"{name}.norm.{key}"] = 0.2 * torch.randn(channels, generator=generator)
        state[f"{name}.norm.num_batches_tracked"] = torch.tensor(1)

    def tdnn(name: str, c_out: int, c_in: int, kernel_size: int = 1) -> None:
        conv(f"{name}.conv", c_out, c_in, kernel_size)
        norm(f"{name}.norm", c_out)

    tdnn("blocks.0", C, 80, 5)
    for block in (1, 2, 3):
        tdnn(f"blocks.{block}.tdnn1", C, C)
        for chunk in range(7):
            tdnn(f"blocks.{block}.res2net_block.blocks.{chunk}", C // 8, C // 8, 3)
        tdnn(f"blocks.{block}.tdnn2", C, C)
        conv(f"blocks.{block}.se_block.conv1", SE, C)
        conv(f"blocks.{block}.se_block.conv2", C, SE)
    tdnn("mfa", MFA, 3 * C)
    tdnn("asp.tdnn", ATTENTION, 3 * MFA)
    conv("asp.conv", MFA, ATTENTION)
    norm("asp_bn", 2 * MFA)
    conv("fc", 192, 2 * MFA)
    path = tmp_path_factory.mktemp("checkpoint") / "embedding_model.ckpt"
    torch.save(state, path)
    return path


@pytest.fixture
def trial_list(tmp_path: Path) -> Path:
    """Two target and two non-target trials over six recordings."""
    path = tmp_path / "trials.txt"
    path.write_text(
        "1 adam-1.flac adam-2.flac\n1 fiona-1.flac fiona-2.flac\n"
        "0 adam-1.flac travis-1.flac\n0 fiona-1.flac steph-2.flac\n",
        encoding="utf-8",
    )
    return path


Quantize = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quantize(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Quantize:
    """Run ``earmark quantize`` on the checkpoint, calibrated on the embedded recordings."""
    monkeypatch.delenv("EARMARK_DEBUG", raising=False)

    def run(output: Path, *argv: str | Path, **replaced: str | Path) -> tuple[int, str, str]:
        options = {"family": "speechbrain", "calibrate": RECORDINGS, **replaced}
        words: list[str | Path] = ["quantize", options.pop("checkpoint", checkpoint)]
        for name, value in options.items():
            words += [f"--{name}", value]
        capsys.readouterr()
        status = main([str(word) for word in [*words, "-o", output, *argv]])
        return status, *capsys.readouterr()

    return run


def test_the_file_holds_what_the_summary_says(quantize: Quantize, tmp_path: Path) -> None:
    output = tmp_path / "m.earmark"
    status, out, err = quantize(output, "--json")
    assert status == 0, err
    result, info = json.loads(out), earmark.load(output).info()
    for key in ("scheme", "parameters", "file_bytes", "size_fraction", "sha256", "threshold"):
        assert result[key] == info[key]
    assert result["scheme"] == "int8"
    assert result["calibration_recordings"] == 8
    assert result["threshold"] is None
    assert result["file_bytes"] == output.stat().st_size
    assert {layer["precision"] for layer in info["layers"]} == {"int8"}
    assert [path.name for path in tmp_path.iterdir()] == ["m.earmark"]


def test_equal_input_gives_equal_files(quantize: Quantize, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert quantize(tmp_path / name, "--observer", "percentile")[0] == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_trials_give_measured_figures_and_a_threshold(
    quantize: Quantize, tmp_path: Path, trial_list: Path
) -> None:
    output = tmp_path / "m.earmark"
    argv = ("--trials", trial_list, "--root", RECORDINGS)
    status, out, err = quantize(output, *argv, "--json")
    assert status == 0, err
    model = earmark.load(output)
    measured = json.loads(out)["measured"]
    assert measured == model.info()["measured"]
    assert measured["trial_list"] == "trials.txt"
    assert (measured["trials"], measured["recordings"]) == (4, 6)
    for key in ("eer", "fp32_eer", "min_dcf", "fp32_min_dcf"):
        assert 0.0 <= measured[key] <= 1.0
    # Of random weights: one recording brings a channel to where its smallest steps count.
    assert 0.9 < measured["worst_cosine_to_fp32"] <= measured["mean_cosine_to_fp32"] <= 1.0
    assert measured["mean_cosine_to_fp32"] > 0.98
    assert model.threshold is not None
    assert -1.0 <= model.threshold <= 1.0
    assert "EER" in quantize(output, *argv)[1]


@pytest.mark.parametrize(
    "argv",
    [
        ("--scheme", "dynamic"),
        ("--scheme", "fp32", "--precision", "all=dynamic,fc=float16"),
    ],
)
def test_dynamic_needs_no_recordings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    output = tmp_path / "m.earmark"
    words = ["quantize", checkpoint, "--family", "speechbrain", "-o", output, *argv, "--json"]
    assert main([str(word) for word in words]) == 0
    result, info = json.loads(capsys.readouterr().out), earmark.load(output).info()
    assert result["calibration_recordings"] == 0
    assert info["calibration"] is None
    precisions = {layer["name"]: layer["precision"] for layer in info["layers"]}
    assert precisions["mfa"] == "dynamic"
    assert precisions["fc"] == ("float16" if "fp32" in argv else "dynamic")


def test_int8_full_needs_recordings(
    checkpoint: Path, quantize: Quantize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.earmark"
    words = ["quantize", checkpoint, "--family", "speechbrain", "-o", output]
    # Its ends have a range even where no layer has one.
    words += ["--scheme", "int8-full", "--precision", "all=fp32"]
    assert main([str(word) for word in words]) == 2
    assert "scheme int8-full needs --calibrate" in capsys.readouterr().err
    status, _, err = quantize(output, "--scheme", "int8-full", "--precision", "all=fp32")
    assert status == 0, err
    info = earmark.load(output).info()
    assert [info[end]["dtype"] for end in ("input", "output")] == ["int8", "int8"]
    assert info["calibration"]["recordings"] > 0


def test_equalized_tensors_are_told(
    quantize: Quantize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.earmark"
    status, _, err = quantize(output, "--equalize")
    assert status == 0, err
    assert earmark.load(output).info()["calibration"]["equalized"] == ["mfa.out"]
    assert main(["info", str(output)]) == 0
    assert "  equalized   mfa.out\n" in capsys.readouterr().out


def test_equalization_needs_recordings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", checkpoint, "--family", "speechbrain", "-o", tmp_path / "m.earmark"]
    assert main([*map(str, words), "--scheme", "dynamic", "--equalize"]) == 2
    assert "--equalize needs --calibrate" in capsys.readouterr().err


def test_a_layer_may_stay_in_fp32(quantize: Quantize, tmp_path: Path) -> None:
    output = tmp_path / "m.earmark"
    status, _, err = quantize(output, "--precision", "fc=fp32")
    assert status == 0, err
    precision = {
        layer["name"]: layer["precision"] for layer in earmark.load(output).info()["layers"]
    }
    assert precision.pop("fc") == "fp32"
    assert set(precision.values()) == {"int8"}


@pytest.mark.parametrize(
    ("argv", "replaced", "message"),
    [
        (["--scheme", "int4"], {}, "int4"),
        (["--precision", "fc"], {}, "LAYER=PRECISION,... or a preset (p1, w4, w3), got 'fc'"),
        (["--precision", "fc=fp32,fc=int8"], {}, "'fc' twice"),
        (["--precision", "nothing=fp32"], {}, "nothing"),
        (["--precision", "fc=int5"], {}, "int5"),
        (["--observer", "median"], {}, "median"),
        (["--rounding", "up"], {}, "up"),
        (["--trials", "trials.txt"], {}, "--root"),
        (["--trials", "none.txt", "--root", "."], {}, "none.txt"),
        ([], {"family": "nobody"}, "nobody"),
        ([], {"checkpoint": "none.ckpt"}, "none.ckpt"),
        ([], {"checkpoint": str(RECORDINGS / "adam-1.flac")}, "adam-1.flac"),
        ([], {"calibrate": "none"}, "none"),
        ([], {"calibrate": str(RECORDINGS.parent.parent / "cli")}, "no recordings"),
    ],
)
def test_an_error_is_one_line_and_writes_nothing(
    quantize: Quantize, tmp_path: Path, argv: list[str], replaced: dict[str, str], message: str
) -> None:
    output = tmp_path / "m.earmark"
    output.write_bytes(b"an older file")
    status, out, err = quantize(output, *argv, "--json", **replaced)
    assert status == 2
    assert out == ""
    assert err.startswith("earmark: error: ")
    assert err.count("\n") == 1, err
    assert message in err
    assert output.read_bytes() == b"an older file"
    assert [path.name for path in tmp_path.iterdir()] == ["m.earmark"]
