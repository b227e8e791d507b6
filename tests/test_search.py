"""The precision of each layer under a budget: what is measured, what is chosen, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import earmark
from earmark.cli import main
from earmark.metrics import cosine_score, eer, eer_difference
from earmark.nn import EcapaTdnn
from earmark.quantization import LoweredNetwork
from earmark.quantization.precision import PRESETS
from earmark.report.results import Search, read_result
from earmark.search import Budget, SearchResult, _choose, _owners, _shortened, search
from earmark.trials import Trials, read_trials, split_by_speaker
from networks import SMALL, random_state, torch_network
from voices import write_corpus

OPTIONS: dict[str, Any] = {"by_block": True, "points": 4, "crops": 2}


@pytest.fixture(scope="module")
def network() -> EcapaTdnn:
    return torch_network(SMALL, random_state(SMALL))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers of three recordings, and every trial among them."""
    root = write_corpus(tmp_path_factory.mktemp("corpus"), speakers=6, utterances=3)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.flac"))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    lines = [f"{int(a[:2] == b[:2])} {a} {b}" for a, b in pairs]
    (root / "trials.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def trials(corpus: Path) -> Trials:
    return read_trials(corpus / "trials.txt", corpus)


@pytest.fixture(scope="module")
def found(
    network: EcapaTdnn, trials: Trials, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SearchResult, Path]:
    folder = tmp_path_factory.mktemp("results")
    budget = Budget(size_fraction=0.8)
    return search(network, trials.paths, trials, budget, folder=folder, **OPTIONS), folder


def test_points_are_what_quantize_makes(
    network: EcapaTdnn, trials: Trials, found: tuple[SearchResult, Path]
) -> None:
    result, _ = found
    points = {point.name: point for point in result.points}
    assert {"fp32", "float16", "int8", "int4", "p1", "front-1"} <= set(points)
    assert points["p1"].precision == PRESETS["p1"]
    half = split_by_speaker(trials, 0)[1]
    reference = earmark.quantize(network, scheme="fp32").embed(half.paths)
    for name in ("int4", "p1", result.chosen.name):
        model = earmark.quantize(network, trials.paths, precision=points[name].precision)
        # Recordings are shorter than a crop.
        embeddings = model.embed(half.paths)
        figures = points[name].reporting
        assert figures.cosine == pytest.approx(cosine_score(embeddings, reference).mean())
        scores = cosine_score(embeddings[half.enrolment], embeddings[half.test])
        assert figures.eer == eer(scores, half.labels)
    chosen = earmark.quantize(network, trials.paths, precision=result.chosen.precision)
    assert chosen.model_file.plan == result.model.model_file.plan
    for key, array in chosen.model_file.arrays.items():
        assert np.array_equal(array, result.model.model_file.arrays[key]), key


def test_choice_and_front(found: tuple[SearchResult, Path]) -> None:
    result, _ = found
    sizes = [point.choosing.size_fraction for point in result.points]
    assert sizes == sorted(sizes)
    kept = [point for point in result.points if point.choosing.size_fraction <= 0.8]
    assert result.chosen.distance == min(point.distance for point in kept)
    front = [point for point in result.points if point.on_front]
    assert [p.distance for p in front] == sorted((p.distance for p in front), reverse=True)
    by_distance = sorted(result.points, key=lambda point: point.distance)
    smoothed = [point.smoothed_eer_change for point in by_distance]
    assert smoothed == sorted(smoothed)
    low, high = result.chosen.reporting.eer_change[1:]
    assert low <= high
    assert {(one.unit, one.precision) for one in result.alone} >= {("mfa", "int4"), ("fc", "fp32")}
    assert all(one.distance == 0 for one in result.alone if one.precision == "fp32")


def test_other_budgets_go_on_from_kept_results(
    network: EcapaTdnn, trials: Trials, found: tuple[SearchResult, Path]
) -> None:
    first, folder = found
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    def go_on(budget: Budget) -> SearchResult:
        return search(network, trials.paths, trials, budget, folder=folder, **OPTIONS)

    again = go_on(Budget(eer_change=0.05))
    assert again.alone[0].distance == first.alone[0].distance
    passing = [p for p in again.points if p.on_front and p.smoothed_eer_change <= 0.05]
    assert again.chosen == passing[0]
    # The fastest there is, of all points: latencies are those that were kept.
    fast = go_on(Budget(latency_ms=1e3))
    assert fast.chosen.distance == 0
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name in kept} == kept
    with pytest.raises(
        ValueError, match=r"no precision has a size of at most 1.00 %, the least is"
    ):
        _choose(first.points, Budget(size_fraction=0.01))
    with pytest.raises(ValueError, match=r"no precision has a latency of at most 0.000 ms"):
        _choose(first.points, Budget(latency_ms=1e-6))
    with pytest.raises(ValueError, match=r"by at most -90.000 %, the least is"):
        _choose(first.points, Budget(eer_change=-0.9))


def test_budgets_have_one_limit() -> None:
    with pytest.raises(ValueError, match="one limit"):
        Budget()
    with pytest.raises(ValueError, match="one limit"):
        Budget(size_fraction=0.2, latency_ms=3.0)


def test_float_precisions_need_no_calibration(network: EcapaTdnn, trials: Trials) -> None:
    result = search(
        network, [], trials, Budget(size_fraction=0.9), precisions=["fp32", "float16"], **OPTIONS
    )
    assert "p1" not in {point.name for point in result.points}
    assert result.model.embedder.info()["scheme"] in ("fp32", "float16")
    with pytest.raises(ValueError, match="int5"):
        search(network, [], trials, Budget(size_fraction=1.0), precisions=["int5"])
    with pytest.raises(ValueError, match="at least one recording"):
        search(network, [], trials, Budget(size_fraction=1.0), precisions=["int8"])


def test_ops_without_weights_go_with_what_they_read(network: EcapaTdnn) -> None:
    lowered = LoweredNetwork(network)
    owners = _owners(lowered, by_block=False)
    assert owners["blocks.1.residual"] == "blocks.1.tdnn2"
    assert owners["asp.stats"] == "mfa"
    assert set(owners.values()) == set(lowered.layers)
    blocks = _owners(lowered, by_block=True)
    assert blocks["asp.stats"] == "asp"


@given(st.data())
def test_short_forms_say_the_same(network: EcapaTdnn, data: st.DataObject) -> None:
    lowered = LoweredNetwork(network)
    names = [op["name"] for op in lowered.plan.ops]
    rare = data.draw(st.sets(st.sampled_from([*names, "blocks.1", "blocks.2", "asp"]), max_size=9))
    chosen = dict.fromkeys(names, "int8")
    for prefix in sorted(rare, key=len):
        other = data.draw(st.sampled_from(["int8", "int4", "fp32"]))
        chosen |= {name: other for name in names if f"{name}.".startswith(f"{prefix}.")}
    resolved = lowered.precisions("fp32", _shortened(chosen, lowered.layers))
    for name, precision in resolved.items():
        if name in lowered.layers:
            assert precision.name == chosen[name]
        else:
            assert precision.is_integer == (chosen[name] != "fp32")


def test_halves_share_no_speaker(trials: Trials) -> None:
    for seed in range(4):
        halves = split_by_speaker(trials, seed)
        folders = [{path.parent for path in half.paths} for half in halves]
        assert not folders[0] & folders[1]
        assert len(folders[0]) == len(folders[1]) == 3
        for half in halves:
            same = half.speakers()[half.enrolment] == half.speakers()[half.test]
            assert np.array_equal(same, half.labels == 1)
            assert len(half.labels) == 36
    few = Trials(trials.paths, trials.labels[:2], trials.enrolment[:2], trials.test[:2])
    with pytest.raises(ValueError, match="has no"):
        split_by_speaker(few, 0)


def test_difference_of_error_rates() -> None:
    rng = np.random.default_rng(0)
    speakers = rng.integers(6, size=(2, 400))
    speakers[1, :200] = speakers[0, :200]
    labels = np.repeat([1, 0], 200)
    baseline = labels + rng.normal(size=(3, 400))
    same = eer_difference(baseline, baseline, labels, speakers, samples=20)
    assert same == (0.0, 0.0, 0.0)
    worse = baseline + 2 * rng.normal(size=baseline.shape)
    mean, low, high = eer_difference(worse, baseline, labels, speakers, samples=50)
    assert mean == pytest.approx(
        np.mean([eer(a, labels) - eer(b, labels) for a, b in zip(worse, baseline, strict=True)])
    )
    assert 0 < low < mean < high


def test_the_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    network: EcapaTdnn,
    corpus: Path,
    found: tuple[SearchResult, Path],
) -> None:
    checkpoint = tmp_path / "net.safetensors"
    save_file({key: t.contiguous() for key, t in network.state_dict().items()}, checkpoint)
    model, plot = tmp_path / "m.earmark", tmp_path / "front.png"
    command = ["search", str(checkpoint), "--family", "speechbrain", "--blocks"]
    command += ["--trials", str(corpus / "trials.txt"), "--root", str(corpus), "--quiet"]
    measured = ["--points", "4", "--crops", "2", "--results", str(found[1])]
    calibrated = [*command, "--calibrate", str(corpus), *measured]
    outputs = ["-o", str(model), "--plot", str(plot)]
    assert main([*calibrated, "--max-size", "80%", *outputs, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    chosen = next(p for p in result["points"] if p["name"] == result["chosen"])
    (tmp_path / "result.json").write_text(json.dumps(result))
    read = read_result(tmp_path / "result.json")
    assert isinstance(read, Search)
    assert read.chosen.precision == chosen["precision"]
    assert [point.name for point in read.points] == [point["name"] for point in result["points"]]
    info = earmark.load(model).info()
    assert info["measured"]["eer"] == chosen["reporting"]["eer"]
    assert info["measured"]["eer_change"] == chosen["reporting"]["eer_change"][0]
    assert info["threshold"] == chosen["threshold"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    # What is printed, `quantize` takes.
    other = tmp_path / "q.earmark"
    quantize = ["quantize", str(checkpoint), "--family", "speechbrain", "--quiet"]
    quantize += ["--calibrate", str(corpus), "-o", str(other)]
    assert main([*quantize, "--precision", chosen["quantize"]]) == 0
    precisions = [layer["precision"] for layer in earmark.load(other).info()["layers"]]
    assert precisions == [layer["precision"] for layer in info["layers"]]
    assert main([*quantize, "--precision", "p1"]) == 0
    layers = earmark.load(other).info()["layers"]
    assert {x["name"][:8] for x in layers if x["precision"] == "fp32"} == {"blocks.2", "blocks.3"}
    capsys.readouterr()
    assert main([*calibrated, "--max-eer-change", "0.05"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sum(line.endswith("<- chosen") for line in out.splitlines()) == 1

    def refused(arguments: list[str]) -> str:
        assert main(arguments) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "one of the arguments" in refused(calibrated)
    assert "must be such as 0.1%" in refused([*calibrated, "--max-size", "much"])
    assert "must be a number above 0" in refused([*calibrated, "--max-latency", "0"])
    assert "needs --calibrate" in refused([*command, "--max-size", "0.5"])
    assert "unknown precision 'int5'" in refused(
        [*calibrated, "--max-size", "0.5", "--precisions", "int8,int5"]
    )
    assert "or a preset (p1, w4, w3), got 'p2'" in refused([*quantize, "--precision", "p2"])
    assert "names layer 'all' twice" in refused([*quantize, "--precision", "all=int4,p1"])
