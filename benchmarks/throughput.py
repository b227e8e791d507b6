"""How two engines of one thread each, and one of two threads, compare with one of one thread.

    python benchmarks/throughput.py

Prints Markdown tables; writes ``benchmarks/results/<name>.json``. Features in, embedding out, one
recording a call; beside it, what a waveform costs over its features. All arrangements take turns;
rates are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _results import environment, write_json
from earmark import Embedder, load
from earmark.bench.compare import prepared, progress
from earmark.bench.models import Workload, load_features, waves
from earmark.bench.report import markdown_table
from earmark.bench.timing import Array, Session, Worker
from earmark.frontend import SpeechBrainFbank


def _engine(models: Path, threads: int) -> tuple[Embedder, Array]:
    return load(models / "int8.earmark", threads=threads), load_features(models)


def _calls(embed: Callable[[Any], Array], argument: Any, calls: int) -> Array:
    return np.concatenate([embed(argument) for _ in range(calls)])


def _one(models: Path, calls: int) -> Session:
    model, features = _engine(models, threads=1)
    return Session(lambda: _calls(model.embed_features, features, calls))


def _waveform(models: Path, samples: int, calls: int) -> Session:
    model, _ = _engine(models, threads=1)
    wave = next(waves("*-1.flac", samples))
    return Session(lambda: _calls(model.embed, wave, calls))


def _two_in_threads(models: Path, calls: int) -> Session:
    pool = ThreadPoolExecutor(2)
    engines = [_engine(models, threads=1) for _ in range(2)]

    def run() -> Array:
        running = [
            pool.submit(_calls, model.embed_features, features, calls)
            for model, features in engines
        ]
        return np.concatenate([call.result() for call in running])

    return Session(run)


def _one_of_two_threads(models: Path, calls: int) -> Session:
    model, features = _engine(models, threads=2)
    return Session(lambda: model.embed_features([features[0]] * calls))


def measure(models: Path, frames: int, rounds: int, calls: int) -> dict[str, list[float]]:
    """Utterances a second in each round, by arrangement."""
    samples = SpeechBrainFbank().samples_of_frames(frames)
    alone = {
        "one engine": Worker("one engine", partial(_one, models, calls)),
        "one engine, waveforms": Worker("waveforms", partial(_waveform, models, samples, calls)),
        "two engines, two threads": Worker("threads", partial(_two_in_threads, models, calls)),
        "one engine of two threads": Worker("list", partial(_one_of_two_threads, models, calls)),
    }
    together = [Worker(f"process {i}", partial(_one, models, calls)) for i in (1, 2)]
    rates: dict[str, list[float]] = {name: [] for name in [*alone, "two engines, two processes"]}
    for _ in progress(range(rounds), "rounds"):
        for name, worker in alone.items():
            (milliseconds,) = worker.time_calls(1)
            embedded = len(worker.start.output)
            rates[name].append(1e3 * embedded / milliseconds)
        for worker in together:
            worker.begin_calls(1)
        both = [worker.end_calls()[0] for worker in together]
        rates["two engines, two processes"].append(sum(1e3 * calls / ms for ms in both))
    for worker in [*alone.values(), *together]:
        worker.close()
    return rates


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=1024, help="block width C (%(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="10 ms each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    parser.add_argument(
        "--calls", type=int, default=20, help="of each engine a round (%(default)s)"
    )
    parser.add_argument("--name", help="result file's stem (from the shape)")
    args = parser.parse_args()

    workload = Workload.speechbrain(args.channels, args.frames, batch=1)
    with prepared(workload, ["earmark-int8"]) as (models, _):
        rates = measure(models, args.frames, args.rounds, args.calls)
    median = {name: statistics.median(values) for name, values in rates.items()}
    one, waveform = median["one engine"], median["one engine, waveforms"]
    result: dict[str, Any] = {
        "environment": environment(),
        "shape": {"channels": args.channels, "frames": args.frames, "batch": 1},
        "utterances_per_s": rates,
        "times_one_engine": {name: rate / one for name, rate in median.items()},
        "waveform_over_features": one / waveform,
    }
    rows = [
        [name, f"{median[name]:.2f}", f"{min(r):.2f}-{max(r):.2f}", f"{median[name] / one:.2f}"]
        for name, r in rates.items()
    ]
    header = ["arrangement", "utterances/s", "lowest-highest", "x one engine"]
    print(markdown_table(header, rows))
    print(f"\nwaveform -> embedding over features -> embedding: {one / waveform:.3f}")
    path = write_json(args.name or f"throughput-c{args.channels}-t{args.frames}", result)
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
