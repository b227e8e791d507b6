"""Folders to report on: model files, and results as commands print them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import earmark
from earmark.candidates import Measured

JSON = dict[str, Any]

DATA = Path(earmark.__file__).parent / "data"
MODEL = DATA / "demo-int8.earmark"
RECORDINGS = DATA / "recordings"
TRIALS = (
    "1 adam-1.flac adam-2.flac\n1 fiona-1.flac fiona-2.flac\n1 steph-1.flac steph-2.flac\n"
    "0 adam-1.flac travis-1.flac\n0 fiona-1.flac steph-2.flac\n0 fiona-2.flac adam-2.flac\n"
)


def measured(unit: str, change: float = 0.0, size: float = 1.0) -> JSON:
    """A row, as `sensitivity` and `search` have it."""
    distance = abs(change) / 10
    return asdict(
        Measured(
            unit=unit,
            eer=0.05 + change,
            eer_change=(change, change - 0.002, change + 0.002),
            min_dcf=0.4,
            cosine=1 - distance,
            worst_cosine=1 - 2 * distance,
            sqnr_db=None if change == 0 else 30.0,
            size_fraction=size,
            latency_ms=12.5,
        )
    )


def evaluation(name: str = "other.earmark", **changes: Any) -> JSON:
    """Of `eval --scores`: 30 target trials and 300 others."""
    rng = np.random.default_rng(len(name))
    scores = np.concatenate([rng.normal(0.6, 0.15, 30), rng.normal(0.1, 0.15, 300)])
    return {
        "model": f"/somewhere/{name}",
        "scheme": "int8",
        "sha256": "ab" * 32,
        "size_fraction": 0.27,
        "trial_list": "list.txt",
        "eer": 0.05,
        "min_dcf": 0.3,
        "trials": 330,
        "target": 30,
        "nontarget": 300,
        "scores": scores.tolist(),
        "labels": [1] * 30 + [0] * 300,
        **changes,
    }


def sensitivity(**changes: Any) -> JSON:
    rows = [measured("fp32"), measured("blocks.0", 0.001, 0.9), measured("all", 0.004, 0.27)]
    head = {"precision": "int8", "all_but_one": False, "trial_list": "list.txt", "trials": 330}
    return {**head, "crops": 0, "rows": rows, **changes}


def search(**changes: Any) -> JSON:
    points = [
        {
            "name": name,
            "precision": {"all": "int8", "fc": name},
            "predicted_distance": None,
            "choosing": measured(name, change, size),
            "reporting": measured(name, change, size),
            "smoothed_eer_change": change,
            "threshold": 0.3,
            "on_front": True,
        }
        for name, change, size in (("int8", 0.003, 0.27), ("front-1", 0.001, 0.5), ("fp32", 0, 1))
    ]
    head = {"budget": {"eer_change": 0.002}, "trial_list": "list.txt", "trials": [120, 130]}
    return {**head, "chosen": "front-1", "points": points, "alone": [], **changes}


def bench(**changes: Any) -> JSON:
    def latency(median: float, cosine: float | None = None) -> JSON:
        quartiles = {"quartile1_ms": 0.9 * median, "quartile3_ms": 1.2 * median}
        times = {"median_ms": median, "min_ms": 0.8 * median, **quartiles, "p90_ms": 2 * median}
        return {"calls": 30, **times, "cosine": cosine, "peak_rss_mib": 100.0}

    threads = {
        "isa": "avx2",
        "recording": {"seconds": 3.0, "frames": 300},
        "latency": {"waveform": latency(5.5), "features": latency(5.0)},
    }
    peers = {"earmark": latency(5.0), "other-int8": latency(9.0, 0.98), "broken": {"failed": "no"}}
    machine = {"cpu": {"model": "A CPU"}, "cpus_available": 2, "load_average_1min": 0.5}
    both = {"1": threads, "2": threads}
    head = {"model": "m.earmark", "environment": machine, "threads": both}
    return {**head, "peers": {"1": peers, "2": peers}, **changes}


def write_results(folder: Path) -> Path:
    """A folder with both demo models and one result of each command."""
    for path in DATA.glob("*.earmark"):
        shutil.copy(path, folder)
    for result in (evaluation, sensitivity, search, bench):
        (folder / f"{result.__name__}.json").write_text(json.dumps(result()))
    return folder
