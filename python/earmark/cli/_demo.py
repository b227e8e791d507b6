"""``earmark demo``: the embedded model, in INT8 and FP32, on the embedded recordings."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._output import (
    CommandError,
    add_command,
    add_threads,
    print_result,
    progress,
    table,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from earmark import Embedder
    from earmark.cli._output import Subparsers

_DATA = Path(__file__).parent.parent / "data"
_PRECISIONS = {"fp32": "FP32 (stored as float16)", "int8": "INT8"}
# Two sentences of each speaker, then different speakers: of one gender, then of both.
_PAIRS = (
    ("fiona-1", "fiona-2"),
    ("steph-1", "steph-2"),
    ("adam-1", "adam-2"),
    ("travis-1", "travis-2"),
    ("fiona-1", "steph-1"),
    ("adam-1", "travis-1"),
    ("fiona-2", "adam-2"),
    ("steph-2", "travis-2"),
)
_TIMED = "steph-2"
_WARM_UP, _RUNS = 3, 20


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "demo",
        run,
        "Same-speaker verdicts of the embedded model on embedded recordings: FP32 and INT8 scores, "
        "sizes, and latency on this machine.",
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Score the pairs and time both models. Raises CommandError when an INT8 verdict is wrong."""
    import earmark

    models = {
        precision: earmark.Embedder(_DATA / f"demo-{precision}.earmark", threads=args.threads)
        for precision in _PRECISIONS
    }
    threshold = models["int8"].threshold
    if threshold is None:
        raise CommandError("the embedded model has no threshold")
    pairs = _score_pairs(models, threshold)
    latency = _median_latency_ms(args, models)
    info = {precision: model.info() for precision, model in models.items()}
    result: dict[str, Any] = {
        "pairs": pairs,
        "threshold": threshold,
        "models": {
            precision: {
                "file_bytes": info[precision]["file_bytes"],
                "size_fraction": info[precision]["size_fraction"],
                "median_latency_ms": latency[precision],
            }
            for precision in _PRECISIONS
        },
        "latency_seconds_of_speech": _seconds(_recording(_TIMED)),
        "latency_runs": _RUNS,
        "device": info["int8"]["device"],
        "isa": info["int8"]["isa"],
        "threads": info["int8"]["threads"],
        "correct": all(pair["verdict"] == pair["truth"] for pair in pairs),
    }
    print_result(args, result, _lines(result))
    if not result["correct"]:
        raise CommandError("an INT8 verdict is wrong")
    return 0


def _score_pairs(models: dict[str, Embedder], threshold: float) -> list[dict[str, Any]]:
    from earmark.metrics import cosine_score

    names = sorted({name for pair in _PAIRS for name in pair})
    paths = [str(_recording(name)) for name in names]
    embeddings = {
        precision: dict(zip(names, model.embed(paths), strict=True))
        for precision, model in models.items()
    }
    pairs = []
    for a, b in _PAIRS:
        score = {
            precision: float(cosine_score(embeddings[precision][a], embeddings[precision][b]))
            for precision in _PRECISIONS
        }
        same = a.split("-")[0] == b.split("-")[0]
        pairs.append(
            {
                "a": a,
                "b": b,
                "truth": _verdict(same),
                "verdict": _verdict(score["int8"] >= threshold),
                "fp32_score": score["fp32"],
                "int8_score": score["int8"],
            }
        )
    return pairs


def _median_latency_ms(args: argparse.Namespace, models: dict[str, Embedder]) -> dict[str, float]:
    """Median milliseconds from a recording's samples to its embedding, both models in turn."""
    import soundfile

    wave: NDArray[np.float32]
    wave, sample_rate = soundfile.read(_recording(_TIMED), dtype="float32")
    times: dict[str, list[float]] = {precision: [] for precision in models}
    for turn in progress(args, range(_WARM_UP + _RUNS), _WARM_UP + _RUNS, "timing"):
        for precision, model in models.items():
            start = time.perf_counter()
            model.embed(wave, sample_rate=sample_rate)
            if turn >= _WARM_UP:
                times[precision].append(1e3 * (time.perf_counter() - start))
    return {precision: statistics.median(values) for precision, values in times.items()}


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield from table(
        ["recording", "recording", "verdict", "FP32 score", "INT8 score", ""],
        [
            [
                pair["a"],
                pair["b"],
                pair["verdict"],
                f"{pair['fp32_score']:.4f}",
                f"{pair['int8_score']:.4f}",
                "right" if pair["verdict"] == pair["truth"] else "WRONG",
            ]
            for pair in result["pairs"]
        ],
    )
    yield f"Same speaker from an INT8 score of {result['threshold']:.3f} on."
    yield ""
    yield from table(
        ["model", "file bytes", "of float32", "median latency ms"],
        [
            [
                _PRECISIONS[precision],
                f"{model['file_bytes']:,}",
                f"{100 * model['size_fraction']:.1f}%",
                f"{model['median_latency_ms']:.2f}",
            ]
            for precision, model in result["models"].items()
        ],
    )
    yield (
        f"Latency: measured now on this machine ({result['device']}, {result['isa']}, "
        f"{result['threads']} threads), from the samples of "
        f"{result['latency_seconds_of_speech']:.1f} s of speech to the embedding, "
        f"{result['latency_runs']} runs."
    )


def _recording(name: str) -> Path:
    return _DATA / "recordings" / f"{name}.flac"


def _seconds(path: Path) -> float:
    import soundfile

    return float(soundfile.info(path).duration)


def _verdict(same: bool) -> str:
    return "same" if same else "different"
