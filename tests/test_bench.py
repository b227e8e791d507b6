"""The measuring itself: counts of work, turns of workers, order statistics, tables. No speed."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import earmark
from earmark.bench import compare, report
from earmark.bench.models import Workload, nominal_macs, waves
from earmark.bench.peers import ENGINES, PEERS, engine_of_file
from earmark.bench.timing import Session, Summary, Worker, WorkerError, interleave, peak_rss_mib
from earmark.frontend import SpeechBrainFbank
from earmark.nn import EcapaConfig, EcapaTdnn
from networks import SMALL, random_features
from paths import one_torch_thread

ZEROS = partial(Session, partial(np.zeros, 3, np.float32))


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        EcapaConfig(8, (8, 8, 24), (5, 3, 1), (1, 2, 1), 1, 2, 1, 1),
        EcapaConfig(3, (24, 24, 24, 40), (3, 5, 3, 3), (2, 1, 4, 2), 5, 3, 7, 11),
        replace(SMALL, res2="grouped"),
        replace(SMALL, res2="last", context=False, padding="zero"),
    ],
)
def test_nominal_work_is_what_the_plain_network_multiplies(config: EcapaConfig) -> None:
    network = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain").eval()
    counted = []

    def count(module: torch.nn.Conv1d, _: object, output: torch.Tensor) -> None:
        counted.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv1d):
            module.register_forward_hook(count)
    with one_torch_thread(), torch.no_grad():
        network(torch.zeros(1, 40, config.n_mels))
    # The pooling multiplies with the context's part once a recording; plain ones do it each frame.
    counted.append(40 * network.asp.tdnn.conv.conv.weight.numel())
    assert nominal_macs(config, 40) == sum(counted)


def test_nominal_work_of_the_published_network() -> None:
    workload = Workload.speechbrain(channels=1024, frames=300, batch=2)
    assert workload.config == EcapaConfig()
    assert workload.gmac == pytest.approx(2 * 5.62495488)


def test_config_from_its_dict() -> None:
    assert EcapaConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(ValueError, match="not the numbers of an ECAPA-TDNN"):
        EcapaConfig.from_dict({"depth": 50})


def test_waves_have_the_length_asked_for() -> None:
    for samples in (160, 100_000):
        recordings = list(waves("*-1.flac", samples))
        assert {wave.shape for wave in recordings} == {(samples,)}
        assert len(recordings) == 16


def test_workers_take_turns() -> None:
    workers = [Worker(name, ZEROS) for name in "abc"]
    turns: list[str] = []
    for worker in workers:
        time_calls = worker.time_calls

        def record(calls: int, name: str = worker.name, real: Any = time_calls) -> list[float]:
            turns.append(name)
            return real(calls)

        worker.time_calls = record  # type: ignore[method-assign]
    times_ms = interleave(workers, range(3), calls=2)
    assert "".join(turns) == "abcbcacab"
    assert {name: len(times) for name, times in times_ms.items()} == {"a": 6, "b": 6, "c": 6}
    for worker in workers:
        np.testing.assert_array_equal(worker.start.output, np.zeros(3))
        assert worker.close() > 1


def test_a_worker_that_dies_says_so() -> None:
    with pytest.raises(WorkerError, match="gone: the process ended with status 3"):
        Worker("gone", partial(os._exit, 3))


def test_an_engine_that_cannot_load_is_a_failed_row(tmp_path: Path) -> None:
    engines = {
        "broken": engine_of_file(tmp_path / "nothing.earmark"),
        "demo": engine_of_file(Path(earmark.__file__).parent / "data" / "demo-int8.earmark"),
    }
    workload = Workload(EcapaConfig(channels=(256, 256, 256, 256, 768)), frames=50, batch=2)
    features = random_features(1, 100).reshape(2, 50, 80)
    np.save(tmp_path / "features.npy", features)
    model = earmark.load(Path(earmark.__file__).parent / "data" / "demo-fp32.earmark")
    reference = compare.Reference(model.embed_features(features), model.info()["parameters"])
    measured = compare.compare(
        engines, tmp_path, 1, workload, reference, rounds=2, calls=1, quiet=True
    )
    assert compare.failures(measured) == ["broken: the process ended with status 1"]
    (row,) = compare.rows(measured)
    assert row[0] == "demo"
    assert len(row) == len(compare.HEADER)
    demo = measured["demo"]
    assert demo["calls"] == 2
    assert 0.9 < demo["cosine"] < 1
    assert demo["details"]["threads"] == 1
    assert demo["gmac_per_s"] == pytest.approx(workload.gmac / demo["median_ms"] * 1e3)


def test_summary_of_times() -> None:
    summary = Summary.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (summary.calls, summary.min_ms, summary.median_ms) == (5, 1.0, 3.0)
    assert (summary.quartile1_ms, summary.quartile3_ms) == (2.0, 4.0)


def test_peak_memory_is_this_process_s() -> None:
    # The kernel's other figure counts what the parent held as well.
    assert 10 < peak_rss_mib() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 + 1


def test_environment_and_tables() -> None:
    head = report.environment()
    assert head["cpu"]["model"]
    assert math.isfinite(head["load_average_1min"])
    table = report.markdown_table(["name", "ms"], [["a", "1.0"], ["long name", "10.0"]])
    assert table.splitlines() == [
        "| name      |   ms |",
        "| --------- | ---: |",
        "| a         |  1.0 |",
        "| long name | 10.0 |",
    ]


def test_peers_are_engines() -> None:
    assert set(PEERS) < set(ENGINES)
    assert "earmark-int8" not in PEERS
