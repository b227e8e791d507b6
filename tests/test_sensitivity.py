"""What each layer's precision costs: rows, figures, resumption, the command."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

import earmark
from earmark.audio import read_audio
from earmark.candidates import Measured, signal_to_noise_db
from earmark.cli import main
from earmark.crops import draw_crops
from earmark.errors import FormatError
from earmark.metrics import cosine_score, eer, min_dcf
from earmark.nn import EcapaTdnn
from earmark.report.results import Sensitivity, read_result
from earmark.sensitivity import blocks, sensitivity
from earmark.trials import Trials, read_trials
from networks import SMALL, random_state, torch_network
from voices import voice, write, write_corpus

Array = NDArray[Any]


@pytest.fixture(scope="module")
def network() -> EcapaTdnn:
    return torch_network(SMALL, random_state(SMALL))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings and six trials of them."""
    import soundfile

    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(2)
    for name in "abcd":
        wave = rng.normal(size=9000) * np.repeat(rng.uniform(0.01, 0.2, 15), 600)
        soundfile.write(folder / f"{name}.flac", wave, 16000)
    lines = ["1 a.flac b.flac", "1 c.flac d.flac", "0 a.flac c.flac", "0 a.flac d.flac"]
    lines += ["0 b.flac c.flac", "1 b.flac d.flac"]
    (folder / "trials.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trials(recordings: Path) -> Trials:
    return read_trials(recordings / "trials.txt", recordings)


def test_blocks_are_leading_parts() -> None:
    layers = [
        "blocks.0",
        "blocks.1.tdnn1",
        "blocks.1.se_block.conv1",
        "mfa",
        "asp.tdnn",
        "asp.conv",
    ]
    assert blocks([*layers, "fc"]) == ["blocks.0", "blocks.1", "mfa", "asp", "fc"]


def test_noise_in_decibels() -> None:
    signal = np.array([[3.0, 4.0]])
    assert signal_to_noise_db(signal, signal) is None
    assert signal_to_noise_db(signal, np.array([[3.5, 4.0]])) == pytest.approx(20.0)


@pytest.mark.parametrize("all_but_one", [False, True])
def test_each_row_is_the_network_quantized_so(
    network: EcapaTdnn, trials: Trials, all_but_one: bool
) -> None:
    done: list[tuple[int, int]] = []
    rows = sensitivity(
        network,
        list(trials.paths),
        trials,
        by_block=True,
        all_but_one=all_but_one,
        progress=lambda *counts: done.append(counts),
    )
    units = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "mfa", "asp", "fc"]
    assert [row.unit for row in rows] == ["fp32", *units, "all"]
    assert done == [(i, 9) for i in range(1, 10)]
    reference = earmark.quantize(network, scheme="fp32").embed(trials.paths)
    for row in rows:
        others, alone = ("int8", "fp32") if all_but_one else ("fp32", "int8")
        precision = {"fp32": {"all": "fp32"}, "all": {"all": "int8"}}.get(
            row.unit, {"all": others, row.unit: alone}
        )
        model = earmark.quantize(network, trials.paths, precision=precision)
        embeddings = model.embed(trials.paths)
        scores = cosine_score(embeddings[trials.enrolment], embeddings[trials.test])
        assert row.eer == eer(scores, trials.labels)
        assert row.min_dcf == min_dcf(scores, trials.labels)
        cosines = cosine_score(embeddings, reference)
        assert row.cosine == pytest.approx(cosines.mean(), abs=1e-12)
        assert row.worst_cosine == cosines.min()
        assert row.sqnr_db == signal_to_noise_db(reference, embeddings)
        assert row.latency_ms > 0
    sizes = {row.unit: row.size_fraction for row in rows}
    assert sizes["all"] == min(sizes.values())


def test_a_layer_is_quantized_without_those_below_its_name(
    network: EcapaTdnn, trials: Trials
) -> None:
    """``asp.tdnn`` alone leaves ``asp.tdnn.context`` as it is."""
    rows = {row.unit: row for row in sensitivity(network, list(trials.paths), trials)}
    reference = earmark.quantize(network, scheme="fp32").embed(trials.paths)
    precision = {"all": "fp32", "asp.tdnn": "int8", "asp.tdnn.context": "fp32"}
    model = earmark.quantize(network, trials.paths, precision=precision)
    cosines = cosine_score(model.embed(trials.paths), reference)
    assert rows["asp.tdnn"].worst_cosine == cosines.min()
    assert "asp.tdnn.context" in rows


def test_few_bits_are_compensated_as_in_quantize(network: EcapaTdnn, trials: Trials) -> None:
    row = sensitivity(network, list(trials.paths), trials, precision="int3", by_block=True)[-1]
    reference = earmark.quantize(network, scheme="fp32").embed(trials.paths)
    model = earmark.quantize(network, trials.paths, precision={"all": "int3"})
    assert row.worst_cosine == cosine_score(model.embed(trials.paths), reference).min()


def test_kept_results_are_not_measured_again(
    tmp_path: Path, network: EcapaTdnn, trials: Trials, recordings: Path
) -> None:
    def measure(trials: Trials, calibration: Any) -> list[Measured]:
        return sensitivity(network, calibration, trials, by_block=True, folder=tmp_path)

    first = measure(trials, trials.paths)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == len(first)
    # What is kept is what comes back, and only what is gone is measured.
    mark, gone = kept[:2]
    with safe_open(mark, framework="numpy") as file:
        embeddings, figures = file.get_tensor("embeddings"), json.loads(file.metadata()["earmark"])
    figures["latency_ms"] = 12345.0
    safetensors.numpy.save_file({"embeddings": embeddings}, mark, {"earmark": json.dumps(figures)})
    gone.unlink()
    again = measure(trials, trials.paths)
    assert [row.latency_ms for row in again].count(12345.0) == 1
    assert [row.cosine for row in again] == [row.cosine for row in first]
    assert sorted(tmp_path.iterdir()) == kept
    for damage in (
        b"[1]",
        mark.read_bytes()[:-4],
        mark.read_bytes().replace(b"12345.0", b'"slow"'),
    ):
        gone.write_bytes(damage)
        with pytest.raises(FormatError, match=gone.name):
            measure(trials, trials.paths)
    safetensors.numpy.save_file({"embeddings": embeddings[1:]}, gone, {"earmark": "{}"})
    with pytest.raises(FormatError, match=gone.name):
        measure(trials, trials.paths)
    gone.unlink()
    measure(trials, trials.paths)
    # Another calibration makes other models, but for the float32 one; other trials none.
    measure(trials, trials.paths[:1])
    assert len(list(tmp_path.iterdir())) == 2 * len(kept) - 1
    fewer = Trials(trials.paths, trials.labels[:4], trials.enrolment[:4], trials.test[:4])
    measure(fewer, trials.paths)
    assert len(list(tmp_path.iterdir())) == 2 * len(kept) - 1


def test_error_rates_are_the_mean_over_sets_of_crops(network: EcapaTdnn, tmp_path: Path) -> None:
    root = write_corpus(tmp_path, speakers=3, utterances=2)
    for path in root.rglob("*.flac"):
        write(path, np.tile(voice(int(path.parent.name[1:]), int(path.stem)), 4))
    lines = ["1 s0/0.flac s0/1.flac", "1 s1/0.flac s1/1.flac", "0 s0/0.flac s1/1.flac"]
    (tmp_path / "trials.txt").write_text("\n".join([*lines, "0 s2/0.flac s1/0.flac"]))
    trials = read_trials(tmp_path / "trials.txt", root)
    rows = sensitivity(network, [], trials, precision="float16", by_block=True, crops=3)
    model = earmark.quantize(network, scheme="fp32")
    waves = [read_audio(path, target_rate=16000).samples for path in trials.paths]
    rates = []
    for crops in draw_crops(waves, 16000, 3):
        assert {len(crop) for crop in crops} == {32000}
        embeddings = model.embed(crops)
        scores = cosine_score(embeddings[trials.enrolment], embeddings[trials.test])
        rates.append((eer(scores, trials.labels), min_dcf(scores, trials.labels)))
    assert (rows[0].eer, rows[0].min_dcf) == tuple(np.mean(rates, axis=0))


def test_short_recordings_are_not_cropped() -> None:
    short, long = np.zeros(31999), np.arange(40000)
    first, second = draw_crops([short, long], 16000, 2)
    assert len(first[0]) == len(second[0]) == 31999
    assert len(first[1]) == len(second[1]) == 32000
    assert first[1][0] != second[1][0]


def test_a_ray_cluster_returns_the_same(network: EcapaTdnn, trials: Trials) -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'earmark[ray]')")
    options: dict[str, Any] = {"precision": "float16", "by_block": True}
    expected = sensitivity(network, [], trials, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what ray itself does
        rows = sensitivity(network, [], trials, ray=True, **options)
    for row, other in zip(rows, expected, strict=True):
        assert replace(row, latency_ms=0) == replace(other, latency_ms=0)


def test_a_missing_ray_is_said(
    network: EcapaTdnn, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="ray is not installed"):
        sensitivity(network, [], trials, precision="float16", ray=True)


def test_unknown_precisions_are_refused(network: EcapaTdnn, trials: Trials) -> None:
    with pytest.raises(ValueError, match="int5"):
        sensitivity(network, [], trials, precision="int5")
    with pytest.raises(ValueError, match="at least one recording"):
        sensitivity(network, [], trials)


def test_the_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    network: EcapaTdnn,
    recordings: Path,
) -> None:
    checkpoint = tmp_path / "net.safetensors"
    save_file({key: t.contiguous() for key, t in network.state_dict().items()}, checkpoint)
    command = ["sensitivity", str(checkpoint), "--family", "speechbrain", "--blocks"]
    command += ["--trials", str(recordings / "trials.txt"), "--root", str(recordings)]
    calibrated = [*command, "--calibrate", str(recordings), "-o", str(tmp_path / "results")]
    assert main([*calibrated, "--processes", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["precision"] == "int8"
    assert result["trials"] == 6
    assert [row["unit"] for row in result["rows"]][:2] == ["fp32", "blocks.0"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    read = read_result(tmp_path / "result.json")
    assert isinstance(read, Sensitivity)
    assert json.loads(json.dumps([asdict(row) for row in read.rows])) == result["rows"]
    plot = tmp_path / "plot.svg"
    assert main([*calibrated, "--quiet", "--plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        row["unit"] for row in result["rows"]
    ]
    assert err == ""
    drawn = plot.read_bytes()
    assert b"</svg>" in drawn
    assert main([*calibrated, "--quiet", "--plot", str(plot)]) == 0
    assert plot.read_bytes() == drawn
    capsys.readouterr()
    assert main([*calibrated, "--plot", str(tmp_path / "plot.pdf")]) == 2
    assert "must end in .svg or .png" in capsys.readouterr().err
    assert main(command) == 2
    assert "precision int8 needs --calibrate" in capsys.readouterr().err
    for name, message in (
        ("w4a16", "precision w4a16 needs --calibrate"),
        ("int5", "unknown precision 'int5', known are int8, "),
    ):
        assert main([*command, "--precision", name]) == 2
        assert message in capsys.readouterr().err
