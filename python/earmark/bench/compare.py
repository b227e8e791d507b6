"""Engines against each other on one network, interleaved: what ``prepare`` made, timed."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from earmark.bench.models import Reference, Workload, prepare
from earmark.bench.peers import Engine
from earmark.bench.timing import Array, Session, Summary, Worker, WorkerError, interleave

T = TypeVar("T")

HEADER = [
    "engine",
    "median ms",
    "min",
    "IQR",
    "p90",
    "GMAC/s",
    "x best INT8 peer",
    "cosine to FP32",
    "load s",
    "first call s",
    "peak RSS MiB",
]


def in_own_process(function: Any, *arguments: Any) -> Any:
    """The function's result from a fresh interpreter: no library stays loaded in this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def prepared(
    workload: Workload, names: Iterable[str], *, silent: bool = False
) -> Iterator[tuple[Path, Reference]]:
    """A folder with every file that the engines of those names load, and the network's facts.

    silent: what the libraries print about their work is thrown away.
    """
    with tempfile.TemporaryDirectory(prefix="earmark-bench-") as folder:
        yield Path(folder), in_own_process(_prepare, workload, Path(folder), list(names), silent)


def compare(
    engines: Mapping[str, Engine],
    models: Path,
    threads: int,
    workload: Workload,
    reference: Reference,
    *,
    rounds: int,
    calls: int,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Everything measured with one thread count, by engine; ``{"failed": ...}`` of a failed one.

    rounds, calls: how often every engine has its turn, and its timed calls in one.
    """
    measured: dict[str, dict[str, Any]] = {}
    workers = []
    for name in progress(list(engines), f"loading, {threads} threads", quiet):
        try:
            workers.append(Worker(name, partial(_load, engines[name], models, threads)))
        except WorkerError as error:
            measured[name] = {"failed": str(error)}
    numbers = progress(range(rounds), f"rounds, {threads} threads", quiet)
    times_ms = interleave(workers, numbers, calls)
    for worker in workers:
        summary = Summary.of(times_ms[worker.name])
        measured[worker.name] = {
            **asdict(summary),
            "gmac_per_s": workload.gmac / summary.median_ms * 1e3,
            "load_s": worker.start.load_s,
            "first_call_s": worker.start.first_call_s,
            "peak_rss_mib": worker.close(),
            "cosine": _lowest_cosine(worker.start.output, reference.embedding),
            "details": worker.start.details,
        }
    return {name: measured[name] for name in engines}


def rows(engines: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """A table's rows under ``HEADER``, failed engines left out.

    The ratio is of medians: the fastest INT8 engine that is not earmark over the row's.
    """
    measured = {name: engine for name, engine in engines.items() if "failed" not in engine}
    int8_peers = [
        engine["median_ms"]
        for name, engine in measured.items()
        if "-int8" in name and not name.startswith("earmark")
    ]
    return [
        [
            name,
            f"{engine['median_ms']:.1f}",
            f"{engine['min_ms']:.1f}",
            f"{engine['quartile1_ms']:.1f}-{engine['quartile3_ms']:.1f}",
            f"{engine['p90_ms']:.1f}",
            f"{engine['gmac_per_s']:.1f}",
            f"{min(int8_peers) / engine['median_ms']:.2f}" if int8_peers else "-",
            "-" if engine["cosine"] is None else f"{engine['cosine']:.5f}",
            f"{engine['load_s']:.2f}",
            f"{engine['first_call_s']:.2f}",
            f"{engine['peak_rss_mib']:.0f}",
        ]
        for name, engine in measured.items()
    ]


def failures(engines: Mapping[str, dict[str, Any]]) -> list[str]:
    """One line for each engine that failed."""
    return [engine["failed"] for engine in engines.values() if "failed" in engine]


def progress(items: Collection[T], description: str, quiet: bool = False) -> Iterable[T]:
    """A bar on stderr, on terminals only."""
    from tqdm import tqdm

    # disable=None is tqdm's word for "only on a terminal".
    bar: Iterable[T] = tqdm(items, desc=description, leave=False, disable=quiet or None)
    return bar


def _prepare(workload: Workload, models: Path, names: list[str], silent: bool) -> Reference:
    if silent:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # for native code too
    return prepare(workload, models, names)


def _load(engine: Engine, models: Path, threads: int) -> Session:
    return engine.load(models, threads)


def _lowest_cosine(output: Array, expected: Array) -> float:
    """Of the batch's embeddings, the lowest cosine to torch's FP32 one."""
    output = output.reshape(expected.shape)
    norms = np.linalg.norm(output, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((output * expected).sum(axis=1) / norms).min())
