"""Accuracy of a quantized model beside its FP32 file, on lists of trials.

    python benchmarks/accuracy.py fp32.earmark int8.earmark --trials dev_*.txt --root recordings/ \\
        --crops dev_samegender.txt

Prints a Markdown table; writes ``benchmarks/results/<name>.json``: the cosine between the two
embeddings of every recording that a list names, and both models' EER and minimum detection cost.
``--crops``: also the EERs over crops of 2 s of that list's recordings, the mean of several draws,
and the change with its 95 % interval, a bootstrap over speakers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import earmark
from _evaluation import CroppedTrials
from _results import environment, write_json
from earmark.bench.report import markdown_table
from earmark.metrics import cosine_score, eer, min_dcf
from earmark.trials import Trials, read_trials

Embeddings = dict[Path, NDArray[np.float32]]


def embed(model: Path, recordings: list[Path]) -> tuple[earmark.Embedder, Embeddings]:
    """The loaded model, and its embedding of each recording."""
    embedder = earmark.load(model)
    rows: Embeddings = {}
    bar = tqdm(embedder.embed_each(recordings), model.name, len(recordings), file=sys.stderr)
    for index, embedding, error in bar:
        if embedding is None:
            raise ValueError(error)
        rows[recordings[index]] = embedding
    return embedder, rows


def rates(trials: Trials, rows: Embeddings) -> dict[str, float]:
    """EER and minimum detection cost of cosine scores."""
    embeddings = np.stack([rows[path] for path in trials.paths])
    scores = cosine_score(embeddings[trials.enrolment], embeddings[trials.test])
    return {"eer": eer(scores, trials.labels), "min_dcf": min_dcf(scores, trials.labels)}


def cropped(path: Path, root: Path, fp32: Path, quantized: Path) -> dict[str, Any]:
    """EERs over crops of 2 s, and their difference."""
    crops = CroppedTrials.read(path, root)
    expected, actual = (crops.scores(earmark.load(model)) for model in (fp32, quantized))
    change, low, high = crops.difference(actual, expected)
    return {
        "list": path.stem,
        "sets": len(expected),
        "fp32": float(crops.eers(expected).mean()),
        "quantized": float(crops.eers(actual).mean()),
        "change": change,
        "interval": [low, high],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fp32", type=Path)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("--trials", type=Path, nargs="+", required=True, metavar="LIST")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--crops", type=Path, metavar="LIST")
    parser.add_argument("--name", default="accuracy", help="result file's stem (%(default)s)")
    args = parser.parse_args()

    lists = {path.stem: read_trials(path, args.root) for path in args.trials}
    recordings = sorted({path for trials in lists.values() for path in trials.paths})
    _, expected = embed(args.fp32, recordings)
    model, actual = embed(args.quantized, recordings)
    cosines = [float(cosine_score(expected[path], actual[path])) for path in recordings]
    info = model.info()
    result: dict[str, Any] = {
        "environment": environment(),
        "models": [args.fp32.name, args.quantized.name],
        "isa": model.isa,
        "file_bytes": info["file_bytes"],
        "size_fraction": info["size_fraction"],
        "recordings": len(recordings),
        "cosine": {"mean": float(np.mean(cosines)), "worst": min(cosines)},
        "trials": {
            name: {
                "trials": len(trials.labels),
                "target": int(trials.labels.sum()),
                "fp32": rates(trials, expected),
                "quantized": rates(trials, actual),
            }
            for name, trials in lists.items()
        },
    }
    if args.crops:
        result["crops"] = cropped(args.crops, args.root, args.fp32, args.quantized)
    print(
        f"{args.quantized.name}: {100 * info['size_fraction']:.2f} % of float32; cosine to FP32 of "
        f"{len(recordings)} recordings: mean {result['cosine']['mean']:.6f}, "
        f"worst {result['cosine']['worst']:.6f}\n"
    )
    table = [
        [name, str(row["trials"])]
        + [f"{100 * row[key]['eer']:.2f}" for key in ("fp32", "quantized")]
        + [f"{row[key]['min_dcf']:.3f}" for key in ("fp32", "quantized")]
        for name, row in result["trials"].items()
    ]
    header = ["trials", "number", "EER FP32, %", "quantized, %", "min DCF FP32", "quantized"]
    print(markdown_table(header, table))
    if args.crops:
        crops = result["crops"]
        low, high = (100 * value for value in crops["interval"])
        print(
            f"\n{crops['list']}, {crops['sets']} draws of 2 s: EER {100 * crops['fp32']:.2f} % -> "
            f"{100 * crops['quantized']:.2f} %, change {100 * crops['change']:+.3f} "
            f"({low:+.3f} to {high:+.3f})"
        )
    print(f"written: {write_json(args.name, result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
