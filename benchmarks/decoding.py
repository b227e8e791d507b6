"""How fast coded weights become a model again: one JSON object on stdout.

    python benchmarks/decoding.py > benchmarks/results/decoding-<processor>.json

A network of SpeechBrain's shape with random weights, stored with each codec. In rounds, all codecs
one after another: the weights' decoding on one core, in 1e6 bytes of int8 weights a second, and the
time until ``earmark.load`` has a model to call, with its parts (reading with the checksum,
decoding, building the engine). Memory is the largest resident set of a process that loads the file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import earmark
from _results import environment
from earmark import modelfile
from earmark.bench.compare import prepared
from earmark.bench.models import Workload
from earmark.bench.timing import Summary
from earmark.compression import WEIGHT_CODECS, compress
from earmark.plan import make_engine
from memory import peak_rss_bytes

_MIB = 1 << 20
_LOAD = "import earmark, sys; earmark.load(sys.argv[1], threads={})"


def milliseconds(samples: list[float]) -> dict[str, Any]:
    """Of times in seconds."""
    return asdict(Summary.of([1e3 * seconds for seconds in samples]))


def decode_on_one_core(model: modelfile.ModelFile) -> float:
    """Seconds."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        start = time.perf_counter()
        model.decoded_arrays()
        return time.perf_counter() - start
    finally:
        os.sched_setaffinity(0, allowed)


def load_in_parts(path: Path, threads: int) -> dict[str, float]:
    """Seconds of each part."""
    start = time.perf_counter()
    model = modelfile.read(path)
    read = time.perf_counter()
    arrays = model.decoded_arrays()
    decoded = time.perf_counter()
    make_engine(model.plan, arrays, threads=threads)
    built = time.perf_counter()
    return {"read": read - start, "decode": decoded - read, "build": built - decoded}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    workload = Workload.speechbrain(args.channels, frames=300, batch=1)
    with prepared(workload, ["earmark-int8"]) as (folder, _):
        source = modelfile.read(folder / "int8.earmark")
        weights = sum(a.nbytes for a in source.decoded_arrays().values() if a.dtype == np.int8)
        files = {codec: folder / f"{codec}.earmark" for codec in WEIGHT_CODECS}
        for codec, path in files.items():
            modelfile.write(compress(source, codec), path)
        times: dict[str, dict[str, list[float]]] = {codec: {} for codec in files}
        for _ in tqdm(range(args.rounds), disable=None):
            for codec, path in files.items():
                found = load_in_parts(path, args.threads)
                start = time.perf_counter()
                earmark.load(path, threads=args.threads)
                found["load"] = time.perf_counter() - start
                found["decode_one_core"] = decode_on_one_core(modelfile.read(path))
                for part, seconds in found.items():
                    times[codec].setdefault(part, []).append(seconds)
        result = {
            "environment": environment(),
            "channels": args.channels,
            "threads": args.threads,
            "weight_bytes": weights,
            "codecs": {
                codec: {
                    "file_bytes": path.stat().st_size,
                    **{part: milliseconds(seconds) for part, seconds in times[codec].items()},
                    "peak_rss_mib": round(
                        peak_rss_bytes("-c", _LOAD.format(args.threads), str(path)) / _MIB, 1
                    ),
                    "decode_mb_per_s_one_core": {
                        "median": weights / 1e6 / float(np.median(times[codec]["decode_one_core"])),
                        "best": weights / 1e6 / min(times[codec]["decode_one_core"]),
                    },
                }
                for codec, path in files.items()
            },
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
