"""What the rounding of 8-bit weights costs: how far results are from float32's.

    python benchmarks/rounding.py CKPT... --family speechbrain --calibrate LIST --recordings LIST \\
        --name rounding-ecapa

For each checkpoint, scheme and rounding (``earmark quantize --scheme --rounding``), and for the
first layer and the others apart: the signal to noise ratio of the embeddings, or of a sound
network's scores of each window less their mean, with the difference to float32 as the noise, and
the mean and worst cosine. Recordings that are in both lists are not listened to. Prints a Markdown
table; writes ``benchmarks/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _results import environment, write_json
from earmark.bench.report import markdown_table
from earmark.families import load_checkpoint
from earmark.nn import SoundResNet
from earmark.plan import make_engine
from earmark.quantization import LoweredNetwork, features_of
from earmark.trials import read_recordings

Array = NDArray[Any]

SCHEMES = ("dynamic", "int8", "int8-full")
FIRST, OTHERS = "dynamic, first layer alone", "dynamic, all other layers"
ROUNDINGS = ("nearest", "compensated")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CKPT")
    parser.add_argument("--family")
    parser.add_argument("--calibrate", required=True, metavar="DIR|LIST")
    parser.add_argument("--recordings", required=True, metavar="DIR|LIST", help="to measure on")
    parser.add_argument("--limit", type=int, default=100, help="recordings of each (%(default)s)")
    parser.add_argument("--name", default="rounding", help="of the result (%(default)s)")
    args = parser.parse_args()
    calibration = spread(read_recordings(args.calibrate), args.limit)
    heard = [path for path in read_recordings(args.recordings) if path not in set(calibration)]
    result: dict[str, Any] = {"environment": environment()}
    for path in args.checkpoints:
        name = path.stem if path.stem != "model" else path.parent.name
        result[name] = compare(path, args.family, calibration, spread(heard, args.limit))
    rows = [
        [name, scheme, *(text(figures[rounding]) for rounding in ROUNDINGS)]
        for name, schemes in result.items()
        if name != "environment"
        for scheme, figures in schemes.items()
    ]
    print(markdown_table(["network", "scheme", *ROUNDINGS], rows))
    write_json(args.name, result)


def spread(items: list[Path], limit: int) -> list[Path]:
    """About as many, from all over the list."""
    return items[:: max(1, -(-len(items) // limit))]


def compare(
    path: Path, family: str | None, calibration: list[Path], heard: list[Path]
) -> dict[str, dict[str, dict[str, float]]]:
    """By scheme and rounding."""
    net = load_checkpoint(path, family)
    features = list(features_of(net, heard))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for rounding in ROUNDINGS:
        lowered = LoweredNetwork(net, rounding)
        expected = run(lowered.plan, features)
        lowered.calibrate(calibration)
        first = lowered.layers[0]
        cases = {
            FIRST: ("fp32", {first: "dynamic"}),
            OTHERS: ("dynamic", {first: "fp32"}),
            **{scheme: (scheme, {}) for scheme in SCHEMES},
        }
        for case, (scheme, precision) in cases.items():
            plan = lowered.quantized_plan(scheme, lowered.precisions(scheme, precision))
            actual = run(plan, features)
            print(path, rounding, case, len(features), file=sys.stderr)
            centred = isinstance(net, SoundResNet)
            figures.setdefault(case, {})[rounding] = distance(expected, actual, centred)
    return figures


def run(plan: Any, features: list[Array]) -> Array:
    """(n, dim) of features."""
    return np.asarray(make_engine(plan.plan, plan.arrays).run(features), dtype=np.float64)


def distance(expected: Array, actual: Array, centred: bool) -> dict[str, float]:
    """``centred``: what all classes' scores have in common changes no probability."""
    if centred:
        expected, actual = (x - x.mean(axis=1, keepdims=True) for x in (expected, actual))
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    cosines = (expected * actual).sum(axis=1) / norms
    noise = ((expected - actual) ** 2).sum()
    return {
        "sqnr_db": float(10 * np.log10((expected**2).sum() / noise)),
        "mean_cosine": float(cosines.mean()),
        "worst_cosine": float(cosines.min()),
    }


def text(figures: dict[str, float]) -> str:
    """One cell."""
    cosines = f"{figures['mean_cosine']:.6f} / {figures['worst_cosine']:.6f}"
    return f"{figures['sqnr_db']:.1f} dB, {cosines}"


if __name__ == "__main__":
    main()
