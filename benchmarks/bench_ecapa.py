"""Latency of an ECAPA-TDNN, features in and embedding out, in earmark and in other engines.

    python benchmarks/bench_ecapa.py --threads 1 2

Prints Markdown tables; writes everything measured to ``benchmarks/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from _models import Reference, Shape, prepare
from _report import environment, markdown_table, write_json
from _timing import Array, Session, Summary, Worker, WorkerError, interleave
from peers import ENGINES

T = TypeVar("T")


def main() -> None:
    """Run the benchmark that the command line asks for."""
    args = _parse_arguments()
    shape = Shape(args.channels, args.frames, args.batch)
    names = []
    for name in args.engines:
        if missing := ENGINES[name].missing():
            print(f"{name} is left out: {', '.join(missing)} not installed", file=sys.stderr)
        else:
            names.append(name)

    result: dict[str, Any] = {"environment": environment(), "shape": asdict(shape)}
    with tempfile.TemporaryDirectory(prefix="earmark-bench-") as folder:
        models = Path(folder)
        print("preparing the models", file=sys.stderr)
        reference = _prepare(shape, models, names)
        result |= {"gmac": reference.gmac, "parameters": reference.parameters, "threads": {}}
        _print_head(result)
        for threads in args.threads:
            engines = _measure(names, models, threads, reference, args.rounds, args.calls)
            result["threads"][str(threads)] = engines
            _print_table(threads, engines)
    default_name = f"ecapa-c{shape.channels}-t{shape.frames}-b{shape.batch}"
    path = write_json(args.name or default_name, result)
    print(f"written: {path}", file=sys.stderr)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=1024, help="block width C (%(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="10 ms each (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="recordings per call (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 and 2)")
    parser.add_argument("--rounds", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--calls", type=int, default=3, help="timed per round (%(default)s)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="E", help="(all)"
    )
    parser.add_argument("--name", help="result file's stem (from the shape)")
    args = parser.parse_args()
    if args.rounds * args.calls < 2:
        parser.error("the spread needs at least two timed calls")
    return args


def _prepare(shape: Shape, models: Path, names: list[str]) -> Reference:
    """Prepare in a process of its own, so that no library stays loaded in this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(prepare, shape, models, names).result()


def _load(name: str, models: Path, threads: int) -> Session:
    return ENGINES[name].load(models, threads)


def _measure(
    names: list[str],
    models: Path,
    threads: int,
    reference: Reference,
    rounds: int,
    calls: int,
) -> dict[str, dict[str, Any]]:
    """Everything measured with one thread count, by engine; ``{"failed": ...}`` of a failed one."""
    engines: dict[str, dict[str, Any]] = {}
    workers = []
    for name in _progress(names, f"loading, {threads} threads"):
        try:
            workers.append(Worker(name, partial(_load, name, models, threads)))
        except WorkerError as error:
            engines[name] = {"failed": str(error)}
    numbers = _progress(range(rounds), f"rounds, {threads} threads")
    times_ms = interleave(workers, numbers, calls)
    for worker in workers:
        summary = Summary.of(times_ms[worker.name])
        engines[worker.name] = {
            **asdict(summary),
            "gmac_per_s": reference.gmac / summary.median_ms * 1e3,
            "load_s": worker.start.load_s,
            "first_call_s": worker.start.first_call_s,
            "peak_rss_mib": worker.close(),
            "cosine": _lowest_cosine(worker.start.output, reference.embedding),
            "details": worker.start.details,
        }
    return {name: engines[name] for name in names}


def _progress(items: Collection[T], description: str) -> Iterable[T]:
    """A bar on stderr, on terminals only."""
    bar: Iterable[T] = tqdm(items, desc=description, leave=False, disable=None)
    return bar


def _lowest_cosine(output: Array, expected: Array) -> float:
    """Of the batch's embeddings, the lowest cosine to torch's FP32 one."""
    output = output.reshape(expected.shape)
    norms = np.linalg.norm(output, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((output * expected).sum(axis=1) / norms).min())


def _print_head(result: dict[str, Any]) -> None:
    head, shape = result["environment"], result["shape"]
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    print(
        f"ECAPA-TDNN, C = {shape['channels']}, {shape['frames']} frames, batch {shape['batch']}: "
        f"{result['gmac']:.2f} GMAC nominal, {result['parameters'] / 1e6:.2f} M parameters\n"
        f"{head['cpu']['model']} ({', '.join(head['cpu']['isa'])}), "
        f"{head['cpus_available']} CPUs, load average {head['load_average_1min']:.1f}\n"
        f"{versions}; commit {head['commit']}"
    )


def _print_table(threads: int, engines: dict[str, dict[str, Any]]) -> None:
    """Print one thread count's table. The ratio is of medians: fastest INT8 peer over the row."""
    int8_peers = [
        engine["median_ms"]
        for name, engine in engines.items()
        if "-int8" in name and not name.startswith("earmark") and "failed" not in engine
    ]
    rows = []
    for name, engine in engines.items():
        if "failed" in engine:
            print(f"\n{engine['failed']}")
            continue
        ratio = f"{min(int8_peers) / engine['median_ms']:.2f}" if int8_peers else "-"
        rows.append(
            [
                name,
                f"{engine['median_ms']:.1f}",
                f"{engine['min_ms']:.1f}",
                f"{engine['quartile1_ms']:.1f}-{engine['quartile3_ms']:.1f}",
                f"{engine['p90_ms']:.1f}",
                f"{engine['gmac_per_s']:.1f}",
                ratio,
                f"{engine['cosine']:.5f}",
                f"{engine['load_s']:.2f}",
                f"{engine['first_call_s']:.2f}",
                f"{engine['peak_rss_mib']:.0f}",
            ]
        )
    header = ["engine", "median ms", "min", "IQR", "p90", "GMAC/s", "x best INT8 peer"]
    header += ["cosine to FP32", "load s", "first call s", "peak RSS MiB"]
    print(f"\n{threads} thread{'s' if threads > 1 else ''}\n")
    print(markdown_table(header, rows), flush=True)


if __name__ == "__main__":
    main()
