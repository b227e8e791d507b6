"""P4, Table 1 and Figures 1 to 3: a layer's weights before and after quantization.

    python benchmarks/papers/p4_statistics.py --layer FILE NAME [--layer FILE NAME ...]

FILE: a float32 model file; NAME: a layer of it. One scale for the whole tensor, as in the paper,
and beside it the error with one for each output. Writes ``docs/results/p4-statistics.md``, the
histograms beside it and ``benchmarks/results/p4-statistics.json``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from _p4 import ASYMMETRIC, DOCS, SYMMETRIC

from _results import environment, write_json
from earmark import modelfile
from earmark.bench.report import markdown_table
from earmark.compression.per_tensor import quantize
from earmark.compression.statistics import entropies
from earmark.plots import new_figure, save_figure

Array = NDArray[Any]

NAME = "p4-statistics"
FLOAT = "FP32"
BINS = 128


def main() -> None:
    """Measure, write, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--layer", nargs=2, action="append", required=True, metavar=("FILE", "NAME")
    )
    args = parser.parse_args()
    layers = {}
    for path, name in args.layer:
        model = modelfile.read(path)
        weight = model.decoded_arrays()[f"{name}.weight"].astype(np.float64)
        layers[f"{model.metadata['family']}, {name}"] = weight
    result = {
        "environment": environment(),
        "layers": {label: statistics(weight) for label, weight in layers.items()},
    }
    write_json(NAME, result)
    DOCS.mkdir(parents=True, exist_ok=True)
    plot(layers)
    (DOCS / f"{NAME}.md").write_text(report(result))


def levels(weight: Array, kind: str) -> tuple[Array, Array]:
    """Int8 levels, asymmetric ones counted from -128 as in the paper, and what they stand for."""
    found, scale, zero = quantize(weight, kind == SYMMETRIC)
    shift = 0 if kind == SYMMETRIC else 128
    real = scale * (found.astype(np.float64) - zero)
    return (found.astype(np.int16) - shift).astype(np.int8), real


def statistics(weight: Array) -> dict[str, Any]:
    """Of the weights and their levels; errors in dB below the weights."""
    rows: dict[str, Any] = {FLOAT: moments(weight)}
    for kind in (SYMMETRIC, ASYMMETRIC):
        integers, real = levels(weight, kind)
        each = np.stack([levels(row, kind)[1] for row in weight])
        rows[kind] = {
            **moments(integers),
            "entropy_bits": entropies(integers)[0],
            "sqnr_db": sqnr(weight, real),
            "sqnr_per_channel_db": sqnr(weight, each),
        }
    return {"shape": list(weight.shape), "rows": rows}


def moments(values: Array) -> dict[str, float]:
    wide = values.astype(np.float64)
    return {
        "mean": float(wide.mean()),
        "variance": float(wide.var()),
        "min": float(wide.min()),
        "max": float(wide.max()),
    }


def sqnr(true: Array, found: Array) -> float:
    return float(10 * np.log10(np.square(true).sum() / np.square(true - found).sum()))


def plot(layers: dict[str, Array]) -> None:
    """A row for each layer: float32, symmetric, asymmetric."""
    figure = new_figure(9, 2.2 * len(layers))
    for row, (label, weight) in zip(
        figure.subplots(len(layers), 3, squeeze=False), layers.items(), strict=True
    ):
        row[0].stairs(*np.histogram(weight, bins=BINS), fill=True, color="tab:gray")
        row[0].set_title(f"{label}: {FLOAT}", fontsize=8)
        for panel, kind in zip(row[1:], (SYMMETRIC, ASYMMETRIC), strict=True):
            edges = np.arange(-128, 129) - 0.5
            counts, _ = np.histogram(levels(weight, kind)[0], bins=edges)
            panel.stairs(counts, edges, fill=True, color="tab:blue")
            panel.set_title(f"{kind} INT8", fontsize=8)
            panel.set_xlim(-129, 128)
        for panel in row:
            panel.set_yscale("log")
            panel.tick_params(labelsize=7)
        row[0].set_ylabel("weights", fontsize=8)
    save_figure(figure, DOCS / f"{NAME}.svg", "svg")


def report(result: dict[str, Any]) -> str:
    """The page."""
    parts = []
    for label, found in result["layers"].items():
        rows = []
        for kind, row in found["rows"].items():
            digits = ".3g" if kind == FLOAT else ".2f"
            cells = [kind] + [f"{row[key]:{digits}}" for key in ("mean", "variance", "min", "max")]
            keys = ("entropy_bits", "sqnr_db", "sqnr_per_channel_db")
            rows.append(cells + [f"{row[key]:.2f}" if key in row else "" for key in keys])
        shape = " x ".join(str(n) for n in found["shape"] if n > 1)
        header = ["", "mean", "variance", "min", "max", "entropy, bits", "SQNR, dB"]
        table = markdown_table([*header, "per channel, dB"], rows)
        parts.append(f"## {label} ({shape})\n\n{table}\n")
    return _TEXT.format(
        tables="\n".join(parts),
        command=result["environment"]["command"],
        commit=result["environment"]["commit"],
    )


_TEXT = """# P4, Table 1 and Figures 1 to 3: weights before and after quantization

Symmetric: the scale is max |w| / 127, 0 is 0. Asymmetric: the scale is (max - min) / 255, the
smallest weight is -128. One scale for the whole tensor, as in the paper; *per channel* is what the
error would be with a scale (and zero) for each output. *Entropy* is of single levels: what a coder
that knows nothing else needs for each weight. *SQNR*: the weights to their error.

{tables}
![Histograms](p4-statistics.svg)

The paper's layer, the last of ResNet-50 on ImageNet: float32 of variance 0.001 in -0.24 to 0.73;
symmetric of variance 33.62 in -42 to 127; asymmetric of mean -65.0, variance 75.92. Its largest
weight is three times as far from 0 as its smallest, so that asymmetric levels are one and a half
times as fine: a ratio of variances of 2.26, or 0.59 bits a weight. That, not where 0 lies, is what
symmetric quantization saves there. Where weights reach about as far on both sides, as here, the
levels are almost the same.

```
{command}    # at {commit}
```
"""


if __name__ == "__main__":
    main()
