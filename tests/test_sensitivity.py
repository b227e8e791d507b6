"""What each layer's precision costs: rows, figures, resumption, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

import earmark
from earmark.cli import main
from earmark.errors import FormatError
from earmark.metrics import cosine_score, eer, min_dcf
from earmark.nn import EcapaTdnn
from earmark.sensitivity import Measured, blocks, sensitivity, signal_to_noise_db
from earmark.trials import Trials, read_trials
from networks import SMALL, random_state, torch_network

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
    mark = next(path for path in kept if path.name.startswith("mfa-"))
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "latency_ms": 12345.0}))
    gone = next(path for path in kept if path.name.startswith("fc-"))
    gone.unlink()
    again = {row.unit: row for row in measure(trials, trials.paths)}
    assert again["mfa"].latency_ms == 12345.0
    assert sorted(tmp_path.iterdir()) == kept
    gone.write_text("[1]")
    with pytest.raises(FormatError, match=gone.name):
        measure(trials, trials.paths)
    gone.unlink()
    measure(trials, trials.paths)
    # Another calibration or other trials are other measurements, but for the float32 network's.
    measure(trials, trials.paths[:1])
    assert len(list(tmp_path.iterdir())) == 2 * len(kept) - 1
    fewer = Trials(trials.paths, trials.labels[:4], trials.enrolment[:4], trials.test[:4])
    measure(fewer, trials.paths)
    assert len(list(tmp_path.iterdir())) == 3 * len(kept) - 1


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
    assert main([*calibrated, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        row["unit"] for row in result["rows"]
    ]
    assert err == ""
    assert main(command) == 2
    assert "precision int8 needs --calibrate" in capsys.readouterr().err
