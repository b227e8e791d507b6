"""``earmark train`` and ``earmark finetune``: what they print and write, and their errors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from earmark.cli import main  # noqa: E402
from earmark.families import load_checkpoint  # noqa: E402

from .commands import Outcome  # noqa: E402
from .paths import CHECKPOINT, SHARED_DATA, needs_data, one_torch_thread  # noqa: E402
from .voices import write_corpus  # noqa: E402

SMALL = (
    *("--channels=16", "--mfa=24", "--attention-channels=8", "--se-channels=8", "--res2-scale=4"),
    *("--embedding=12", "--n-mels=20", "--dilations=1,2,1,1", "--kernel-sizes=5,3,3,1"),
)
QUICK = ("--epochs=2", "--batch=8", "--crop=0.3", "--speeds=1", "--rooms=0", "--threads=1")

Run = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=4)
    (folder / "trials.txt").write_text(
        "1 s0/0.flac s0/1.flac\n1 s1/0.flac s1/1.flac\n0 s0/0.flac s1/0.flac\n"
    )
    return folder


@pytest.fixture
def earmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("EARMARK_DEBUG", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def run(*argv: object) -> Outcome:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--softmax=pwl",), "PiecewiseLinearSoftmax(dim=2, segments=2, learnable=False)"),
        (
            ("--softmax=pwl", "--segments=3", "--learnable"),
            "PiecewiseLinearSoftmax(dim=2, segments=3, learnable=False)",
        ),
        (("--softmax=table", "--entries=9"), "LookupTableSoftmax(dim=2, entries=9)"),
    ],
)
def test_finetune_with_another_softmax(
    options: tuple[str, ...], expected: str, earmark: Run, folder: Path, tmp_path: Path
) -> None:
    run, finetuned = tmp_path / "run", tmp_path / "finetuned"
    assert earmark("train", folder, "-o", run, *SMALL, *QUICK).status == 0
    command = ("finetune", run / "model.safetensors", folder, "-o", finetuned, *QUICK, *options)
    assert earmark(*command).status == 0
    net = load_checkpoint(finetuned / "model.safetensors")
    assert repr(net.asp.softmax) == expected
    # Done already: goes on where it ended.
    assert earmark(*command).status == 0
    model = tmp_path / "model.earmark"
    source = finetuned / "model.safetensors"
    assert earmark("quantize", source, "--calibrate", folder, "-o", model).status == 0
    again = earmark("finetune", source, folder, "-o", tmp_path / "x", *QUICK, *options)
    assert (again.status, again.err.count("\n")) == (2, 1)
    assert "no softmax to replace" in again.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--learnable",), "--softmax pwl"),
        (("--segments=3", "--softmax=table"), "--softmax pwl"),
        (("--entries=9", "--softmax=pwl"), "--softmax table"),
    ],
)
def test_options_of_another_softmax_are_refused(
    options: tuple[str, ...], reason: str, earmark: Run, folder: Path, tmp_path: Path
) -> None:
    outcome = earmark("finetune", tmp_path / "none", folder, "-o", tmp_path / "x", *options)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert reason in outcome.err


def test_finetune_calibrates_on_what_can_be_read(earmark: Run, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", speakers=3, utterances=2)
    run = tmp_path / "run"
    assert earmark("train", folder, "-o", run, *SMALL, *QUICK).status == 0
    (folder / "s0" / "0.flac").write_bytes(b"nonsense")
    command = ("finetune", run / "model.safetensors", folder, "-o", tmp_path / "x", *QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = earmark(*command, "--softmax=pwl")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("0.flac") == 1


def test_train_then_finetune(earmark: Run, folder: Path, tmp_path: Path) -> None:
    trials = ("--trials", folder / "trials.txt", "--root", folder, "--eval-every", 2)
    run = tmp_path / "run"
    options = (folder, "-o", run, "--noise", folder, *QUICK, *trials)
    status, out, err = earmark("train", *options, *SMALL, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (result["epoch"], result["speakers"], result["utterances"]) == (2, 4, 16)
    assert 0 <= result["eer"] <= 1
    path = run / "model.safetensors"
    assert result["output"] == str(path)
    net = load_checkpoint(path)
    assert net.config.channels == (16, 16, 16, 24)
    assert net.config.dilations == (1, 2, 1, 1)
    assert sum(parameter.numel() for parameter in net.parameters()) == result["parameters"]
    assert {file.name for file in run.iterdir()} == {
        "log.csv",
        "model.safetensors",
        "recipe.json",
        "state.safetensors",
    }
    again = earmark("train", *options, *SMALL)
    assert again.status == 0
    assert "2 epochs, 4 steps" in again.out
    assert "EER" in again.out
    tuned = earmark("finetune", path, folder, "-o", tmp_path / "tuned", *QUICK, "--json")
    assert tuned.status == 0, tuned.err
    assert load_checkpoint(tmp_path / "tuned" / "model.safetensors").config == net.config
    refused = earmark("train", *options, *SMALL, "--lr", "0.1")
    assert refused.status == 2
    assert "training.learning_rate is 0.001, not 0.1" in refused.err


def test_a_trained_file_needs_no_family_to_be_quantized(
    earmark: Run, folder: Path, tmp_path: Path
) -> None:
    assert earmark("train", folder, "-o", tmp_path, *QUICK, *SMALL).status == 0
    output = tmp_path / "m.earmark"
    quantized = earmark(
        "quantize", tmp_path / "model.safetensors", "--calibrate", folder, "-o", output, "--json"
    )
    assert quantized.status == 0, quantized.err
    assert output.is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", "0"], "learning_rate is 0.0"),
        (["--lr", "x"], "invalid float value"),
        (["--crop", "0.01"], "crop_seconds is 0.01"),
        (["--speeds", "1,x"], "must be numbers X,..., got '1,x'"),
        (["--speeds", "0"], "speeds is (0.0,)"),
        (["--epochs", "0"], "must be a whole number from 1, got '0'"),
        (["--batch", "1"], "batch is 1"),
        (["--seed", "-1"], "must be a whole number from 0"),
        (["--precision", "int8"], "invalid choice"),
        (["--dilations", "1,2,3"], "one entry for each"),
        (["--dilations", "1,x,3"], "got 'x'"),
        (["--res2-scale", "7"], "divide the 16 channels"),
        (["--trials", "trials.txt"], "--trials and --root are given together"),
        (["--noise", "nothing"], "nothing"),
        (["--noise", "{folder}/trials.txt"], "trials.txt:1: no such file"),
    ],
)
def test_errors_are_one_line(
    earmark: Run, folder: Path, tmp_path: Path, argv: list[str], message: str
) -> None:
    words = [word.format(folder=folder) for word in argv]
    status, out, err = earmark("train", folder, "-o", tmp_path / "run", *QUICK, *SMALL, *words)
    assert (status, out) == (2, "")
    assert err.startswith("earmark: error: ")
    assert err.count("\n") == 1, err
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["nothing", "{folder}/s0", "{folder}/s0/0.flac"])
def test_bad_data(earmark: Run, folder: Path, tmp_path: Path, data: str) -> None:
    given = data.format(folder=folder)
    status, out, err = earmark("train", given, "-o", tmp_path / "run", "--quiet", *QUICK, *SMALL)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert given in err


def test_bad_recordings_are_named_on_a_line_each(
    earmark: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"junk")
    lines = tmp_path / "list.txt"
    lines.write_text(f"a bad.wav\nb {folder}/s0/0.flac\nc {folder}/s1/0.flac\nd gone.wav\n")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        status, _, err = earmark("train", lines, "-o", tmp_path / "run", *QUICK, *SMALL)
    assert status == 0, err
    first, second = err.splitlines()
    assert first.startswith("earmark: warning: ")
    assert "list.txt:4: left out, no such file" in first
    assert "bad.wav: cannot be read as audio" in second


def test_a_missing_checkpoint(earmark: Run, folder: Path, tmp_path: Path) -> None:
    status, _, err = earmark("finetune", tmp_path / "x.ckpt", folder, "-o", tmp_path / "run")
    assert (status, err) == (2, f"earmark: error: {tmp_path}/x.ckpt: No such file or directory\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu(earmark: Run, folder: Path, tmp_path: Path) -> None:
    status, _, err = earmark("train", folder, "-o", tmp_path, "--device", "cuda")
    assert (status, err) == (2, "earmark: error: --device cuda: torch finds no GPU\n")


@needs_data
def test_finetune_a_real_checkpoint(earmark: Run, tmp_path: Path) -> None:
    """On real recordings, all kinds of augmentation."""
    pytest.importorskip("pyroomacoustics")
    names = (SHARED_DATA / "speakers" / "train.txt").read_text().split()[250:330:5]
    lines = tmp_path / "list.txt"
    lines.write_text("\n".join(str(SHARED_DATA / "speakers" / name) for name in names))
    sounds = tmp_path / "sounds.txt"
    clips = sorted((SHARED_DATA / "sounds").rglob("*.flac"))[::40]
    sounds.write_text("\n".join(map(str, clips)))
    status, out, err = earmark(
        *("finetune", CHECKPOINT, lines, "--family=speechbrain", "-o", tmp_path / "run"),
        *("--noise", sounds, "--rooms=3", "--epochs=1", "--batch=16", "--crop=2", "--json"),
    )
    assert status == 0, err
    assert json.loads(out)["accuracy"] > 0.5
