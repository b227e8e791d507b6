"""Latency over a grid of widths, lengths, batches and threads, in chosen engines.

    python benchmarks/matrix.py --engines earmark-int8 onnxruntime-int8-u8s8-conv

Writes everything measured to ``benchmarks/results/<name>.json``, after each cell; prints a Markdown
table of medians at the end. How it measures is ``bench_ecapa.py``'s way.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import Any

from _results import environment, installed, write_json
from earmark.bench.compare import compare, failures, prepared
from earmark.bench.models import Workload
from earmark.bench.peers import ENGINES
from earmark.bench.report import markdown_table

_ENGINES = [
    "earmark-int8",
    "onnxruntime-fp32",
    "onnxruntime-int8-u8s8-conv",
    "openvino-int8-nncf",
]
# Work that a cell's timed calls of one engine add up to: minutes a cell on a slow core in FP32.
_CELL_GMAC = 300
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 20


def main() -> None:
    """Measure every cell, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[1024, 512])
    parser.add_argument("--frames", type=int, nargs="+", default=[200, 300, 1000])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=_ENGINES, metavar="E", help="(%(default)s)"
    )
    parser.add_argument("--name", default="matrix", help="result file's stem (%(default)s)")
    args = parser.parse_args()

    engines = installed(args.engines)
    cells: list[dict[str, Any]] = []
    result = {"environment": environment(), "cells": cells}
    for channels, batch, frames in product(args.channels, args.batch, args.frames):
        workload = Workload.speechbrain(channels, frames, batch)
        rounds = round(_CELL_GMAC / workload.gmac)
        rounds = min(max(rounds, _FEWEST_ROUNDS), _MOST_ROUNDS)
        with prepared(workload, engines) as (models, reference):
            for threads in args.threads:
                shape = {"channels": channels, "frames": frames, "batch": batch, "threads": threads}
                print(*(f"{key} {value}" for key, value in shape.items()), file=sys.stderr)
                measured = compare(
                    engines, models, threads, workload, reference, rounds=rounds, calls=1
                )
                for line in failures(measured):
                    print(line, file=sys.stderr)
                cells.append({**shape, "gmac": workload.gmac, "engines": measured})
                path = write_json(args.name, result)
    print(_table(cells, list(engines)))
    print(f"written: {path}", file=sys.stderr)


def _table(cells: list[dict[str, Any]], engines: list[str]) -> str:
    """Median milliseconds a call; the ratio is the fastest INT8 peer's over earmark's."""
    shape = ("channels", "frames", "batch", "threads")
    rows = []
    for cell in cells:
        median = {name: run.get("median_ms") for name, run in cell["engines"].items()}
        own = median.get("earmark-int8")
        peers = [
            ms
            for name, ms in median.items()
            if ms is not None and "-int8" in name and name != "earmark-int8"
        ]
        rows.append(
            [str(cell[key]) for key in shape]
            + ["failed" if median[name] is None else f"{median[name]:.1f}" for name in engines]
            + [f"{cell['gmac'] / own * 1e3:.1f}" if own else "-"]
            + [f"{min(peers) / own:.2f}" if own and peers else "-"]
        )
    header = ["C", *shape[1:], *(f"{name} ms" for name in engines)]
    return markdown_table([*header, "earmark GMAC/s", "x best INT8 peer"], rows)


if __name__ == "__main__":
    main()
