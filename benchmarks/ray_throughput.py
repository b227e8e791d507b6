"""Embeds utterances with Ray Data and with one process; on the way a worker is killed.

    python benchmarks/ray_throughput.py RECORDINGS

Prints a Markdown table; writes ``benchmarks/results/<name>.json``. Utterances are crops of 2 to 4 s
of a folder's recordings, as WAV files of 16 bits; from these to embeddings is what is timed, in Ray
with the start of its workers, not of the cluster. Every arrangement has one turn a round. Beside
the rate stands the processors' time, which says more where others use them too: in Ray that of the
workers and of this process. Fails where a row is missing, or is not, bit for bit, that of one
process.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import soundfile
from numpy.typing import NDArray

import earmark
from _results import environment, write_json
from earmark.audio import read_audio
from earmark.bench.compare import progress
from earmark.bench.report import markdown_table
from earmark.columns import Columns, decode
from earmark.integrations.ray import SpeakerEmbedder
from earmark.trials import read_recordings

Embeddings = NDArray[np.float32]

_RATE_HZ = 16000
_SECONDS = (2.0, 4.0)
_WORKERS = 2
_MODEL = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"


def write_utterances(recordings: Sequence[Path], folder: Path, count: int) -> tuple[list[str], int]:
    """Crops of recordings that are long enough, the same ones every time: paths, and samples."""
    shortest, longest = (round(_RATE_HZ * seconds) for seconds in _SECONDS)
    waves = [read_audio(path).samples for path in recordings]
    waves = [wave for wave in waves if len(wave) >= longest]
    rng = np.random.default_rng(0)
    paths, samples = [], 0
    for number in progress(range(count), "utterances"):
        wave = waves[rng.integers(len(waves))]
        size = int(rng.integers(shortest, longest + 1))
        begin = int(rng.integers(len(wave) - size + 1))
        path = folder / f"{number // 1000}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, wave[begin : begin + size], _RATE_HZ, "PCM_16")
        paths.append(str(path))
        samples += size
    return paths, samples


def one_process(paths: list[str], threads: int) -> tuple[Embeddings, float]:
    """``embed_each`` of all, which reads files and runs the network in turn; no others' time."""
    model = earmark.load(_MODEL, threads=threads)
    rows = model.embed_each(paths)
    return np.stack([row for _, row, _ in rows if row is not None]), 0.0


class _Known(SpeakerEmbedder):
    """Leaves its process's number in a folder, and tells its time."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        Path(folder, str(os.getpid())).touch()

    def __call__(self, batch: Columns) -> dict[str, Any]:
        rows = super().__call__(batch)
        told = {"worker": os.getpid(), "cpu_s": time.process_time()}
        return {**rows, **{key: np.full(len(rows["path"]), told[key]) for key in told}}


def with_ray(paths: list[str], kill: bool) -> tuple[Embeddings, float]:
    """Workers of one thread each, and their time; if asked, one of them dies when a third of the
    rows is there."""
    with tempfile.TemporaryDirectory() as workers:
        batches = (
            ray.data.from_items([{"path": path} for path in paths])
            .map_batches(decode, batch_size=16)
            .map_batches(
                _Known,
                fn_constructor_kwargs={"folder": workers, "model": _MODEL},
                compute=ray.data.ActorPoolStrategy(size=_WORKERS),
                batch_size=64,
            )
            .iter_batches(batch_size=None)
        )
        found: dict[str, Embeddings] = {}
        cpu_s: dict[int, float] = {}
        for batch in batches:
            assert not any(batch["error"]), "an utterance cannot be used"
            found.update(zip(batch["path"], batch["embedding"], strict=True))
            for worker, seconds in zip(batch["worker"], batch["cpu_s"], strict=True):
                cpu_s[worker] = max(cpu_s.get(worker, 0.0), seconds)
            if kill and len(found) >= len(paths) / 3:
                kill = False
                os.kill(int(os.listdir(workers)[0]), signal.SIGKILL)
        begun = len(os.listdir(workers))
    assert not kill, "no worker was killed"
    print(f"{begun} workers were begun", file=sys.stderr)
    return np.stack([found[path] for path in paths]), sum(cpu_s.values())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", type=Path, help="folder")
    parser.add_argument("--utterances", type=int, default=10_000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--name", default="ray-throughput", help="result file's stem (%(default)s)")
    args = parser.parse_args()

    arrangements: dict[str, Callable[[list[str]], tuple[Embeddings, float]]] = {
        "one process, one thread": partial(one_process, threads=1),
        f"Ray, {_WORKERS} workers of one thread": partial(with_ray, kill=False),
        f"Ray, {_WORKERS} workers of one thread, one killed": partial(with_ray, kill=True),
        "one process, two threads": partial(one_process, threads=2),
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=_WORKERS, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    result: dict[str, Any] = {
        "environment": environment(),
        "ray": ray.__version__,
        "model": _MODEL.name,
        "utterances": args.utterances,
    }
    rates: dict[str, list[float]] = {name: [] for name in arrangements}
    cpu_ms: dict[str, list[float]] = {name: [] for name in arrangements}
    with tempfile.TemporaryDirectory() as folder:
        recordings = read_recordings(args.recordings)
        paths, samples = write_utterances(recordings, Path(folder), args.utterances)
        expected = None
        for _ in range(args.rounds):
            for name, embed in arrangements.items():
                begin, cpu_begin = time.perf_counter(), time.process_time()
                rows, others_s = embed(paths)
                rates[name].append(len(paths) / (time.perf_counter() - begin))
                cpu_s = time.process_time() - cpu_begin + others_s
                cpu_ms[name].append(1e3 * cpu_s / len(paths))
                expected = rows if expected is None else expected
                assert len(rows) == len(paths), f"{name}: rows are missing"
                assert np.array_equal(rows, expected), f"{name}: other bits"
                print(f"{name}: {rates[name][-1]:.1f} utterances/s", file=sys.stderr)
    ray.shutdown()

    one = statistics.median(rates["one process, one thread"])
    median = {name: statistics.median(values) for name, values in rates.items()}
    result |= {
        "seconds_of_speech": samples / _RATE_HZ,
        "identical_rows": len(paths),
        "utterances_per_s": rates,
        "cpu_ms_per_utterance": cpu_ms,
        "times_one_process": {name: rate / one for name, rate in median.items()},
    }
    table = [
        [
            name,
            f"{median[name]:.1f}",
            f"{min(r):.1f}-{max(r):.1f}",
            f"{median[name] / one:.2f}",
            f"{statistics.median(cpu_ms[name]):.2f}",
        ]
        for name, r in rates.items()
    ]
    header = ["arrangement", "utterances/s", "lowest-highest", "x one thread", "CPU ms each"]
    print(markdown_table(header, table))
    print(f"written: {write_json(args.name, result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
