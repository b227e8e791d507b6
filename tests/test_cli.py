"""The command line: results, exit statuses, one-line errors, clean JSON, what is imported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import earmark
from earmark.metrics import cosine_score

from .commands import Cli, Outcome

DATA = Path(earmark.__file__).parent / "data"
MODEL = str(DATA / "demo-int8.earmark")
RECORDINGS = DATA / "recordings"
SAME = (str(RECORDINGS / "adam-1.flac"), str(RECORDINGS / "adam-2.flac"))
DIFFERENT = (str(RECORDINGS / "adam-1.flac"), str(RECORDINGS / "travis-2.flac"))


@pytest.fixture
def trial_list(tmp_path: Path) -> Path:
    """Six trials over the embedded recordings."""
    path = tmp_path / "trials.txt"
    path.write_text(
        "1 adam-1.flac adam-2.flac\n"
        "1 fiona-1.flac fiona-2.flac\n"
        "1 steph-1.flac steph-2.flac\n"
        "0 adam-1.flac travis-1.flac\n"
        "0 fiona-1.flac steph-2.flac\n"
        "0 fiona-2.flac adam-2.flac\n",
        encoding="utf-8",
    )
    return path


def process(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "earmark", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def assert_one_line_error(outcome: Outcome, *parts: str) -> None:
    assert outcome.status == 2
    assert outcome.err.startswith("earmark: error: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err


# --- demo, info, verify, embed, eval -----------------------------------------------------------


def test_demo_tells_the_speakers_apart(cli: Cli) -> None:
    outcome = cli("demo", "--json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["correct"] is True
    assert {pair["truth"] for pair in result["pairs"]} == {"same", "different"}
    for pair in result["pairs"]:
        assert pair["verdict"] == pair["truth"]
        assert pair["int8_score"] == pytest.approx(pair["fp32_score"], abs=0.02)
    models = result["models"]
    assert models["int8"]["size_fraction"] < 0.28
    assert models["int8"]["file_bytes"] < models["fp32"]["file_bytes"]
    assert result["isa"] == earmark.load(MODEL).isa


def test_demo_prints_a_table(cli: Cli) -> None:
    outcome = cli("demo", "--quiet")
    assert outcome.status == 0
    assert "adam-1" in outcome.out
    assert "median latency ms" in outcome.out
    assert outcome.err == ""


def test_info_shows_layers_and_checksum(cli: Cli) -> None:
    info = json.loads(cli("info", MODEL, "--json").out)
    without = [
        {key: value for key, value in layer.items() if "entropy" not in key}
        for layer in info["layers"]
    ]
    assert {**info, "layers": without} == json.loads(json.dumps(earmark.load(MODEL).info()))
    for layer in info["layers"]:
        assert 0 < layer["first_order_entropy_bits"] < layer["entropy_bits"] + 0.1 < 8
    text = cli("info", MODEL).out
    assert info["sha256"] in text
    for layer in info["layers"]:
        assert layer["name"] in text


@pytest.mark.parametrize(("pair", "status"), [(SAME, 0), (DIFFERENT, 1)])
def test_verify_says_by_its_exit_status(cli: Cli, pair: tuple[str, str], status: int) -> None:
    outcome = cli("verify", MODEL, *pair, "--json")
    assert outcome.status == status, outcome.err
    result = json.loads(outcome.out)
    model = earmark.load(MODEL)
    a, b = model.embed(list(pair))
    assert result["score"] == float(cosine_score(a, b))
    assert result["threshold"] == model.threshold
    assert result["same"] is (status == 0)


def test_verify_takes_another_threshold(cli: Cli) -> None:
    assert cli("verify", MODEL, *SAME, "--threshold", "1").status == 1
    assert cli("verify", MODEL, *DIFFERENT, "--threshold", "-1").status == 0


def test_embed_writes_what_the_model_returns(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    outcome = cli("embed", MODEL, *SAME, "-o", output, "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out) == {"output": str(output), "recordings": 2, "failed": []}
    with np.load(output) as arrays:
        assert sorted(arrays.files) == ["embedding", "error", "path"]
        assert arrays["path"].tolist() == list(SAME)
        assert arrays["error"].tolist() == ["", ""]
        assert arrays["embedding"].dtype == np.float32
        np.testing.assert_array_equal(arrays["embedding"], earmark.load(MODEL).embed(list(SAME)))
    assert os.listdir(tmp_path) == ["out.npz"]


def test_embed_keeps_the_good_rows_when_others_fail(cli: Cli, tmp_path: Path) -> None:
    output, missing = tmp_path / "out.npz", str(tmp_path / "none.wav")
    output.write_bytes(b"an older file")
    outcome = cli("embed", MODEL, missing, SAME[0], "-o", output, "--json")
    assert_one_line_error(outcome, "1 of 2", missing)
    result = json.loads(outcome.out)
    assert [row["path"] for row in result["failed"]] == [missing]
    with np.load(output) as arrays:
        assert missing in arrays["error"][0]
        assert arrays["error"][1] == ""
        assert np.isnan(arrays["embedding"][0]).all()
        np.testing.assert_array_equal(arrays["embedding"][1:], earmark.load(MODEL).embed(SAME[0]))


def test_embed_leaves_an_existing_output_when_it_cannot_start(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    output.write_bytes(b"an older file")
    assert_one_line_error(cli("embed", tmp_path / "none.earmark", *SAME, "-o", output), "none")
    assert output.read_bytes() == b"an older file"
    assert os.listdir(tmp_path) == ["out.npz"]


def test_embed_leaves_nothing_behind_when_interrupted(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(earmark.Embedder, "embed_each", interrupted)
    outcome = cli("embed", MODEL, *SAME, "-o", tmp_path / "out.npz")
    assert outcome == (130, "", "earmark: error: interrupted\n")
    assert os.listdir(tmp_path) == []


def test_embed_replaces_the_target_of_a_link(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "target.npz")
    assert cli("embed", MODEL, SAME[0], "-o", tmp_path / "link.npz").status == 0
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "target.npz").is_file()


def test_eval_gives_fractions_and_counts(cli: Cli, trial_list: Path) -> None:
    outcome = cli("eval", MODEL, "--trials", trial_list, "--root", RECORDINGS, "--json")
    assert outcome.status == 0, outcome.err
    info = earmark.load(MODEL).info()
    expected = {"eer": 0.0, "min_dcf": 0.0, "trials": 6, "target": 3, "nontarget": 3}
    expected |= {key: info[key] for key in ("scheme", "sha256", "size_fraction")}
    assert json.loads(outcome.out) == {**expected, "model": MODEL, "trial_list": "trials.txt"}


def test_eval_keeps_the_scores_where_asked(cli: Cli, trial_list: Path) -> None:
    words = ("eval", MODEL, "--trials", trial_list, "--root", RECORDINGS, "--scores")
    result = json.loads(cli(*words, "--json").out)
    assert result["labels"] == [1, 1, 1, 0, 0, 0]
    assert min(result["scores"][:3]) > max(result["scores"][3:])
    assert_one_line_error(cli(*words), "--scores is for --trials with --json")


def test_eval_embeds_each_recording_once(
    cli: Cli, trial_list: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = earmark.Embedder.embed_each

    def counted(self: earmark.Embedder, items: Any, *args: Any) -> Any:
        seen.extend(Path(item).name for item in items)
        return original(self, items, *args)

    monkeypatch.setattr(earmark.Embedder, "embed_each", counted)
    assert cli("eval", MODEL, "--trials", trial_list, "--root", RECORDINGS).status == 0
    assert len(seen) == len(set(seen)) == 7


# --- errors --------------------------------------------------------------------------------------


@pytest.fixture
def bad_file(tmp_path: Path) -> Callable[[str], Path]:
    """Make one unusable recording of the named kind."""

    def make(kind: str) -> Path:
        path = tmp_path / f"{kind}.wav"
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
        if kind == "empty_file":
            path.write_bytes(b"")
        elif kind == "text":
            path.write_text("not a recording\n" * 50, encoding="utf-8")
        elif kind == "truncated_header":
            path.write_bytes((RECORDINGS / "adam-1.flac").read_bytes()[:20])
        elif kind == "folder":
            path.mkdir()
        elif kind == "no_samples":
            soundfile.write(path, noise[:0], 16000)
        elif kind == "too_short":
            soundfile.write(path, noise[:100], 16000)
        elif kind == "nan":
            noise[500] = np.nan
            soundfile.write(path, noise, 16000, subtype="FLOAT")
        elif kind == "infinite":
            noise[500] = np.inf
            soundfile.write(path, noise, 16000, subtype="FLOAT")
        else:
            assert kind == "missing"
        return path

    return make


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty_file",
        "text",
        "truncated_header",
        "folder",
        "no_samples",
        "too_short",
        "nan",
        "infinite",
    ],
)
def test_an_unusable_recording_is_named(
    cli: Cli, bad_file: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    path = bad_file(kind)
    assert_one_line_error(cli("verify", MODEL, SAME[0], path), path.name)
    outcome = cli("embed", MODEL, path, *SAME, "-o", tmp_path / "out.npz", "--quiet")
    assert_one_line_error(outcome, "1 of 3", path.name)
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.isfinite(arrays["embedding"]).all(axis=1).tolist() == [False, True, True]


def test_a_recording_that_fails_makes_eval_fail(
    cli: Cli, bad_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = bad_file("nan")
    soundfile.write(tmp_path / "good.wav", soundfile.read(SAME[0])[0], 16000)
    (tmp_path / "list").write_text(
        f"1 good.wav good.wav\n0 good.wav {path.name}\n", encoding="utf-8"
    )
    outcome = cli("eval", MODEL, "--trials", tmp_path / "list", "--root", tmp_path, "--json")
    assert_one_line_error(outcome, "1 of 2", path.name)
    assert outcome.out == ""


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "recording", "folder"])
def test_an_unusable_model_is_named(cli: Cli, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.earmark"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a model\n" * 50, encoding="utf-8")
    elif kind == "truncated":
        path.write_bytes(Path(MODEL).read_bytes()[:-1])
    elif kind == "recording":
        path.write_bytes(Path(SAME[0]).read_bytes())
    elif kind == "folder":
        path.mkdir()
    for command in (["info", path], ["verify", path, *SAME]):
        outcome = cli(*command)
        assert_one_line_error(outcome, path.name)
        assert outcome.out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 adam-1.flac adam-2.flac\n3 adam-1.flac adam-2.flac\n", "trials.txt:2: label"),
        ("1 adam-1.flac\n", "trials.txt:1: a trial is"),
        ("1 adam-1.flac none.flac\n", "trials.txt:1: no such file"),
        ("1 adam-1.flac adam-2.flac\n", "trials.txt: all 1 trials are of one class"),
        ("", "trials.txt: holds no trial"),
    ],
)
def test_an_unusable_trial_list_is_named(
    cli: Cli, trial_list: Path, content: str, message: str
) -> None:
    trial_list.write_text(content, encoding="utf-8")
    outcome = cli("eval", MODEL, "--trials", trial_list, "--root", RECORDINGS, "--json")
    assert_one_line_error(outcome, message)
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["listen"], "'listen'"),
        (["verify", MODEL, SAME[0]], "required: B"),
        (["verify", MODEL, *SAME, "--threshold", "nan"], "must be a number in [-1, 1], got 'nan'"),
        (["verify", MODEL, *SAME, "--threshold", "1.5"], "'1.5'"),
        (["verify", MODEL, *SAME, "--threads", "0"], "must be a whole number from 1, got '0'"),
        (["embed", MODEL, *SAME], "-o"),
        (["embed", MODEL, *SAME, "-o", "/nowhere/out.npz"], "/nowhere"),
        (["embed", MODEL, *SAME, "-o", "."], "is a folder"),
        (["eval", MODEL, "--trials", "none.txt", "--root", "."], "none.txt"),
        (["info", MODEL, "--verbose"], "--verbose"),
    ],
)
def test_a_wrong_command_line_is_one_line(cli: Cli, argv: list[str], message: str) -> None:
    outcome = cli(*argv)
    assert_one_line_error(outcome, message)
    assert outcome.out == ""


def test_an_unexpected_error_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(earmark, "load", broken)
    outcome = cli("info", MODEL)
    assert_one_line_error(outcome, "internal error, ZeroDivisionError: two lines", "EARMARK_DEBUG")
    monkeypatch.setenv("EARMARK_DEBUG", "1")
    outcome = cli("info", MODEL)
    assert outcome.status == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("earmark: error: ")


def test_a_closed_stdout_is_one_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "earmark", "info", MODEL],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert_one_line_error(Outcome(done.returncode, "", done.stderr), "Broken pipe")


# --- processes -----------------------------------------------------------------------------------


def test_exit_statuses_of_the_process(tmp_path: Path) -> None:
    assert process("verify", MODEL, *SAME).returncode == 0
    assert process("verify", MODEL, *DIFFERENT).returncode == 1
    missing = process("verify", MODEL, SAME[0], str(tmp_path / "none.wav"))
    assert_one_line_error(Outcome(missing.returncode, missing.stdout, missing.stderr), "none.wav")
    assert missing.stdout == ""
    traced = process("verify", MODEL, SAME[0], str(tmp_path / "none.wav"), EARMARK_DEBUG="1")
    assert traced.returncode == 2
    assert "Traceback" in traced.stderr


@pytest.mark.parametrize("command", ["demo", "info", "embed", "verify", "eval"])
def test_json_is_one_object_and_torch_stays_out(
    command: str, tmp_path: Path, trial_list: Path
) -> None:
    argv = {
        "demo": [],
        "info": [MODEL],
        "embed": [MODEL, *SAME, "-o", str(tmp_path / "out.npz")],
        "verify": [MODEL, *SAME],
        "eval": [MODEL, "--trials", str(trial_list), "--root", str(RECORDINGS)],
    }[command]
    script = (
        "import sys; from earmark.cli import main; status = main(sys.argv[1:]);"
        "sys.exit('torch was imported' if 'torch' in sys.modules else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, command, *argv, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stdout.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from earmark.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        "sys.stderr.write(' '.join({'torch', 'soundfile', 'soxr', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    for command in ("demo", "info", "embed", "verify", "eval", "quantize"):
        assert f"  {command} " in done.stdout
