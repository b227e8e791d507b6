"""``earmark bench``: what it reports, and what it refuses. No speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import earmark
from commands import Cli, Outcome
from earmark import _C
from earmark.bench import compare, measure, peers
from earmark.cli import main
from earmark.nn import EcapaTdnn
from earmark.report.results import Bench, read_result
from networks import SMALL
from paths import one_torch_thread

MODEL = str(Path(earmark.__file__).parent / "data" / "demo-int8.earmark")


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command with few calls, in this process."""
    monkeypatch.delenv("EARMARK_DEBUG", raising=False)
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    monkeypatch.setattr(compare, "in_own_process", lambda function, *args: function(*args))

    def run(*argv: str) -> Outcome:
        capsys.readouterr()
        status = main(["bench", *argv])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An fp32 file of a tiny network."""
    from earmark.frontend import SpeechBrainFbank

    path = tmp_path_factory.mktemp("bench") / "small.earmark"
    net = EcapaTdnn(SMALL, SpeechBrainFbank(SMALL.n_mels), "speechbrain").eval()
    earmark.quantize(net, [], scheme="fp32").save(path)
    return str(path)


def check_measured(measured: dict[str, Any], threads: int) -> None:
    assert measured["threads"] == threads
    assert measured["isa"] == _C.default_isa()
    assert measured["load_s"] > 0
    assert measured["first_call_s"] > 0
    assert measured["peak_rss_mib"] > 10
    for figure in ("latency", "throughput"):
        assert set(measured[figure]) == {"waveform", "features"}
    for latency in measured["latency"].values():
        assert latency["min_ms"] <= latency["quartile1_ms"] <= latency["median_ms"]
        assert latency["median_ms"] <= latency["quartile3_ms"]
    seconds = measured["recording"]["seconds"]
    for throughput in measured["throughput"].values():
        per_s = throughput["utterances_per_s"]
        assert throughput["real_time_factor"] == pytest.approx(1 / (per_s * seconds))
    ops = measured["ops"]
    assert sum(op["share_of_time"] for op in ops) == pytest.approx(1)
    peak = measured["peak_gmac_per_s"]
    for op in ops:
        assert op["kernel"].endswith(f"/{measured['isa']}")
        assert op["gmac_per_s"] == pytest.approx(op["macs"] / op["ms"] / 1e6)
        dtype = op["op"].rpartition("_")[2]
        assert op["share_of_peak"] == pytest.approx(op["gmac_per_s"] / peak[dtype])


def test_json_has_every_figure(bench: Cli) -> None:
    outcome = bench(MODEL, "--threads", "1", "2", "--seconds", "0.5", "--batch", "3", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    assert result["model"] == MODEL
    assert result["scheme"] == "int8"
    assert result["file_bytes"] == Path(MODEL).stat().st_size
    assert result["environment"]["cpu"]["model"]
    assert set(result["threads"]) == {"1", "2"}
    for threads, measured in result["threads"].items():
        check_measured(measured, int(threads))
        assert measured["recording"] == {"seconds": 0.5, "samples": 8000, "frames": 51}
        assert measured["throughput"]["features"]["batch"] == 3
        rate = measured["gmac_nominal"] / measured["latency"]["features"]["median_ms"] * 1e3
        assert measured["gmac_per_s_nominal"] == pytest.approx(rate)
        peak = measured["peak_gmac_per_s"]["s8"]
        assert measured["share_of_peak"] == pytest.approx(rate / peak)
    assert "peers" not in result


def test_frames_are_exact(bench: Cli) -> None:
    outcome = bench(MODEL, "--frames", "40", "--batch", "1", "--json")
    (measured,) = json.loads(outcome.out)["threads"].values()
    check_measured(measured, _C.default_threads())
    assert measured["recording"]["frames"] == 40


def test_a_float_model_is_held_against_the_float_peak(
    bench: Cli, small_model: str, tmp_path: Path
) -> None:
    outcome = bench(small_model, "--frames", "40", "--batch", "1", "--threads", "1", "--json")
    assert list(as_a_report_reads_it(outcome.out, tmp_path).places["1"]) == ["waveform", "features"]
    (measured,) = json.loads(outcome.out)["threads"].values()
    check_measured(measured, 1)
    share = measured["gmac_per_s_nominal"] / measured["peak_gmac_per_s"]["f32"]
    assert measured["share_of_peak"] == pytest.approx(share)


def test_text_shows_the_machine_the_figures_and_the_ops(bench: Cli) -> None:
    outcome = bench(MODEL, "--frames", "40", "--batch", "2", "--threads", "1")
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"{MODEL}: int8, 2.05 M parameters")
    assert "load average" in lines[1]
    assert f"1 thread, {_C.default_isa()}; recordings of 0.39 s, 40 frames" in lines
    assert any(line.startswith("waveform ") for line in lines)
    # One row for the three times seven convolutions of the Res2 chains, with their GMAC/s.
    (chain,) = (line for line in lines if "res2net_block.blocks.0, ..." in line)
    assert chain.split()[0] == "conv_s8"
    assert chain.split()[3] == "21"
    assert chain.count("%") == 2
    # No share of the peak where nothing is multiplied.
    (added,) = (line for line in lines if "blocks.1.residual, ..." in line)
    assert added.count("%") == 1


def test_as_users_run_it() -> None:
    command = [sys.executable, "-m", "earmark", "bench", MODEL, "--seconds", "0.3", "--json"]
    done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check_measured(json.loads(done.stdout)["threads"]["1"], 1)


def as_a_report_reads_it(out: str, folder: Path) -> Bench:
    (folder / "result.json").write_text(out)
    read = read_result(folder / "result.json")
    assert isinstance(read, Bench)
    return read


def test_peers_are_measured_beside_the_model(
    bench: Cli, small_model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = peers.Engine(("no_such_engine",), peers.ENGINES["openvino-fp32"].load)
    monkeypatch.setitem(peers.ENGINES, "openvino-fp32", missing)
    monkeypatch.setattr(peers, "PEERS", ("torch-fp32-eager", "openvino-fp32"))
    argv = (small_model, "--peers", "--frames", "40", "--batch", "1", "--threads", "1", "--quiet")
    with one_torch_thread():
        outcome = bench(*argv, "--json")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["peers_left_out"] == {"openvino-fp32": ["no_such_engine"]}
    engines = result["peers"]["1"]
    assert list(engines) == ["earmark", "torch-fp32-eager"]
    assert engines["earmark"]["cosine"] is None
    assert engines["torch-fp32-eager"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert engines["earmark"]["calls"] == engines["torch-fp32-eager"]["calls"] == 30
    read = as_a_report_reads_it(outcome.out, tmp_path)
    assert read.has_peers
    assert read.places["1"]["earmark"].median_ms == engines["earmark"]["median_ms"]


def test_peers_need_torch(bench: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = bench(MODEL, "--peers")
    assert outcome.status == 2
    assert outcome.err == "earmark: error: --peers needs torch: pip install earmark[torch]\n"


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--threads", "0"], "--threads: must be a whole number from 1, got '0'"),
        (["--threads", "1", "many"], "--threads: must be a whole number from 1, got 'many'"),
        (["--threads", "4000"], "threads is 4000, expected 1 to 1024"),
        (["--seconds", "0"], "--seconds: must be a number above 0 and at most 3600, got '0'"),
        (["--seconds", "nan"], "--seconds: must be a number above 0 and at most 3600, got 'nan'"),
        (["--seconds", "1e9"], "--seconds: must be a number above 0 and at most 3600, got '1e9'"),
        (["--frames", "-3"], "--frames: must be a whole number from 1, got '-3'"),
        (["--frames", "999999"], "--frames: must be at most 360000, got '999999'"),
        (["--frames", "100", "--seconds", "1"], "not allowed with argument"),
        (["--frames", "2"], "is too short"),
        (["--seconds", "0.001"], "is too short"),
        (["--batch", "0"], "--batch: must be a whole number from 1, got '0'"),
        (["--batch", "2000"], "--batch: must be at most 1024, got '2000'"),
    ],
)
def test_bad_options_are_one_line(bench: Cli, argv: list[str], reason: str) -> None:
    outcome = bench(MODEL, *argv, "--json")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("earmark: error: ")
    assert outcome.err.count("\n") == 1
    assert reason in outcome.err


def test_bad_files_are_one_line(bench: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.earmark").write_text("not a model")
    for name in ("nothing.earmark", "text.earmark"):
        outcome = bench(str(tmp_path / name))
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("earmark: error: ")
        assert name in outcome.err
        assert outcome.err.count("\n") == 1
