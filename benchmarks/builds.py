"""Builds of the package against each other, on the same model file: one JSON object on stdout.

    python benchmarks/builds.py MODEL gcc=.venv/bin/python wheel=/tmp/venv/bin/python

Each build is an interpreter that imports it. Its process stays, and all take turns: one recording
of 3 s a turn, from samples to embedding, and op by op. The embeddings must be the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any


def main() -> None:
    """Time the builds that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model file (.earmark)")
    parser.add_argument("builds", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(%(default)s)")
    args = parser.parse_args()

    builds = dict(build.split("=", 1) for build in args.builds)
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(_started(python, args.model, args.threads))
            for name, python in builds.items()
        }
        heads = {name: _turn(worker) for name, worker in workers.items()}
        if len({head.pop("embedding") for head in heads.values()}) != 1:
            sys.exit("the builds' embeddings differ")
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
        for _ in range(args.rounds):
            for name, worker in workers.items():
                turns[name].append(_turn(worker))
    times = {name: _summary(values) for name, values in turns.items()}
    model = Path(args.model).name
    json.dump({"model": model, "builds": heads, "ms": times}, sys.stdout, indent=1)
    print()


def _started(python: str, model: str, threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, __file__, "--serve", model, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _turn(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer: dict[str, Any] = json.loads(worker.stdout.readline())
    return answer


def _summary(turns: list[dict[str, float]]) -> dict[str, Any]:
    columns = {key: [turn[key] for turn in turns] for key in turns[0]}
    return {
        key: {"median": round(statistics.median(v), 4), "min": round(min(v), 4)}
        for key, v in columns.items()
    }


def _serve(path: str, threads: int) -> None:
    """A line on stdin, a line of JSON on stdout: first what this build is, then times in ms."""
    import earmark
    from earmark.bench.models import waves

    model = earmark.load(path, threads=threads)
    wave = next(waves("*-1.flac", 48000))
    features = model.front_end(wave)
    for number, _ in enumerate(sys.stdin):
        begin = time.perf_counter()
        embedding = model.embed(wave, sample_rate=16000)
        taken = time.perf_counter() - begin
        if number == 0:
            head = {"isa": model.isa, "threads": model.threads, "python": sys.version.split()[0]}
            answer: dict[str, Any] = head | {"embedding": embedding.tobytes().hex()}
        else:
            begin = time.perf_counter()
            model.front_end(wave)
            ops: defaultdict[str, float] = defaultdict(float)
            ops["front_end"] = 1e3 * (time.perf_counter() - begin)
            for op in model.profile(features):
                ops[op["op"]] += 1e-6 * op["nanoseconds"]
            answer = {"embed": 1e3 * taken, **ops}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
