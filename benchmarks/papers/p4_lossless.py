"""P4 and beyond: lossless sizes of integer weights, and layouts of weights as HEVC pictures.

    python benchmarks/papers/p4_lossless.py --model NAME FILE ... --layouts FILE --nncodec PYTHON

Of quantized files, each under the name that the table has for it. ``--nncodec``: an interpreter of
another environment with nncodec, which needs its own torch. ``--layouts``: of this file's weights
several layouts are compared, lossless and at QP 23, and settings of x265. Both halves keep the
other's figures, so that either can be done alone. Writes ``docs/results/p4-lossless.md`` and
``benchmarks/results/p4-lossless.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from _coders import NNCODEC, OWN, XZ, ZSTD, by_nncodec, own_coder, xz
from _p4 import DOCS, integer_weights

from _results import environment, known_json, write_json
from earmark import modelfile
from earmark.bench.report import markdown_table
from earmark.storage import Group, hevc

Array = NDArray[Any]
Weights = dict[str, Array]

NAME = "p4-lossless"
QP = 23
CODERS = {OWN: "rans", ZSTD: "zstd", "HEVC lossless": "hevc"}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs=2, action="append", metavar=("NAME", "FILE"))
    parser.add_argument("--nncodec", metavar="PYTHON", help="has nncodec")
    parser.add_argument("--layouts", type=Path, metavar="FILE")
    args = parser.parse_args()
    result = known_json(NAME)
    if not result and (not args.model or args.layouts is None):
        parser.error("the first time it needs --model and --layouts")
    if args.model:
        if args.nncodec is None:
            print("nncodec is left out: no --nncodec", file=sys.stderr)
        result["environment"] = environment()
        result["models"] = {}
        for name, path in tqdm(args.model, "models", disable=None):
            weights = integer_weights(modelfile.read(path))
            result["models"][name] = sizes(weights, args.nncodec)
    if args.layouts:
        weights = integer_weights(modelfile.read(args.layouts))
        result["layouts_environment"] = environment()
        result["layouts"] = layouts(weights)
        result["settings"] = settings(weights)
    write_json(NAME, result)
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / f"{NAME}.md").write_text(report(result))


def sizes(weights: Weights, nncodec: str | None) -> dict[str, Any]:
    """Bytes of the weights by every coder, decoded and compared."""
    coders = {label: own_coder(codec, weights) for label, codec in CODERS.items()}
    coders[XZ] = xz(weights)
    if nncodec is not None:
        coders[NNCODEC] = by_nncodec(nncodec, weights)
    if different := [label for label, coder in coders.items() if not coder.pop("equal")]:
        raise SystemExit(f"{different[0]} did not give the weights back")
    return {"weights": sum(array.size for array in weights.values()), "coders": coders}


def layouts(weights: Weights) -> dict[str, dict[str, Any]]:
    """Bytes of all weights by layout, what the order of channels takes included; at a QP also the
    mean square of the errors."""
    matrices = {name: array.reshape(len(array), -1) for name, array in weights.items()}
    found = {}
    for label, arrange in tqdm(LAYOUTS.items(), "layouts", disable=None):
        arranged, orders = arrange(matrices)
        row: dict[str, Any] = {"order_bytes": orders}
        for qp in (None, QP):
            stream, _ = hevc.encode(arranged, qp)
            decoded = hevc.decode(stream, Group.of(arranged))
            errors = [
                np.square(decoded[name].astype(np.float64) - array).sum()
                for name, array in arranged.items()
            ]
            count = sum(array.size for array in matrices.values())
            key = "lossless" if qp is None else f"qp{qp}"
            row[key] = {"bytes": stream.size + orders, "mse": float(sum(errors) / count)}
        found[label] = row
    return found


def settings(weights: Weights) -> dict[str, dict[str, float]]:
    """Bytes of all weights, mean square of their errors and processor seconds, by setting."""
    found = {}
    for label, (preset, changes) in tqdm(SETTINGS.items(), "settings", disable=None):
        with mock.patch.object(hevc, "_LOSSY", (preset, {**hevc._LOSSY[1], **changes})):
            began = time.process_time()
            stream, _ = hevc.encode(weights, QP)
            seconds = time.process_time() - began
        decoded = hevc.decode(stream, Group.of(weights))
        errors = sum(
            float(np.square(decoded[name].astype(np.float64) - array).sum())
            for name, array in weights.items()
        )
        count = sum(array.size for array in weights.values())
        found[label] = {
            "weights": count,
            "bytes": stream.size,
            "mse": errors / count,
            "seconds": seconds,
        }
    return found


def plain(matrices: Weights) -> tuple[Weights, int]:
    return matrices, 0


def sorted_rows(order: Callable[[Array], Array]) -> Callable[[Weights], tuple[Weights, int]]:
    """Outputs in another order, which has to be stored."""

    def arrange(matrices: Weights) -> tuple[Weights, int]:
        arranged = {name: matrix[order(matrix)] for name, matrix in matrices.items()}
        return arranged, sum(order_bytes(len(matrix)) for matrix in matrices.values())

    return arrange


def sorted_both(matrices: Weights) -> tuple[Weights, int]:
    arranged = {
        name: matrix[by_norm(matrix)][:, by_norm(matrix.T)] for name, matrix in matrices.items()
    }
    return arranged, sum(order_bytes(n) for matrix in matrices.values() for n in matrix.shape)


def order_bytes(n: int) -> int:
    """Of a permutation."""
    return int(np.ceil(np.log2(np.arange(1, n + 1)).sum() / 8))


def by_norm(matrix: Array) -> Array:
    return np.argsort(np.square(matrix.astype(np.float64)).sum(axis=1), kind="stable")


def by_likeness(matrix: Array) -> Array:
    """Each row beside the one that it has the largest cosine to, of those that are left."""
    rows = matrix.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9
    cosines = rows @ rows.T
    order = [0]
    cosines[:, 0] = -np.inf
    for _ in range(len(rows) - 1):
        order.append(int(cosines[order[-1]].argmax()))
        cosines[:, order[-1]] = -np.inf
    return np.array(order)


def tiles(matrices: Weights) -> tuple[Weights, int]:
    """Each output is a square, and these fill a square, as P4 shows convolutions."""
    arranged = {}
    for name, matrix in matrices.items():
        side = int(np.ceil(np.sqrt(matrix.shape[1])))
        across = int(np.ceil(np.sqrt(len(matrix))))
        filled = np.zeros((across * across, side * side), np.int8)
        filled[: len(matrix), : matrix.shape[1]] = matrix
        grid = filled.reshape(across, across, side, side).swapaxes(1, 2)
        arranged[name] = grid.reshape(across * side, across * side)
    return arranged, 0


def atlas(matrices: Weights) -> tuple[Weights, int]:
    """Layers of the same width under each other in one picture."""
    by_width: dict[int, list[Array]] = {}
    for name in sorted(matrices):
        by_width.setdefault(matrices[name].shape[1], []).append(matrices[name])
    return {f"{width:06}": np.concatenate(rows) for width, rows in by_width.items()}, 0


LAYOUTS: dict[str, Callable[[Weights], tuple[Weights, int]]] = {
    "rows (a row an output)": plain,
    "outputs by norm": sorted_rows(by_norm),
    "outputs and inputs by norm": sorted_both,
    "outputs by likeness": sorted_rows(by_likeness),
    "tiles (a square an output)": tiles,
    "atlas (layers of a width together)": atlas,
}


# Later parameters win over earlier ones of the product.
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "as files have it (ultrafast)": ("ultrafast", {}),
    "without rdoq-level=2": ("ultrafast", {"rdoq-level": "0"}),
    "without sign hiding": ("ultrafast", {"signhide": "0"}),
    "superfast": ("superfast", {}),
    "medium": ("medium", {}),
    "veryslow": ("veryslow", {}),
    "medium, deblocking and SAO": ("medium", {"deblock": "0,0", "sao": "1"}),
    "medium, x265's aq-mode and psy-rd": ("medium", {"aq-mode": "2", "psy-rd": "2.0"}),
}


def report(result: dict[str, Any]) -> str:
    """The page."""
    labels = [*CODERS, XZ, NNCODEC]
    rows, times = [], []
    for name, found in result["models"].items():
        coders, count = found["coders"], found["weights"]
        row = [name, f"{count:,}"]
        for label in labels:
            size = coders[label]["bytes"] if label in coders else None
            row.append("" if size is None else f"{size:,} ({8 * size / count:.3f})")
        rivals = {label: coder["bytes"] for label, coder in coders.items() if label != OWN}
        best = min(rivals, key=lambda label: rivals[label])
        row.append(f"{100 * (coders[OWN]['bytes'] / rivals[best] - 1):+.2f} % ({best})")
        rows.append(row)
        pairs = [coders.get(label) for label in labels]
        times.append(
            [name]
            + ["" if c is None else f"{c['encode_s']:.2f} / {c['decode_s']:.2f}" for c in pairs]
        )
    base = result["layouts"][next(iter(LAYOUTS))]
    layout_rows = []
    for label, row in result["layouts"].items():
        cells = [label, f"{row['order_bytes']:,}"]
        for key in ("lossless", f"qp{QP}"):
            size = row[key]["bytes"]
            cells.append(f"{size:,} ({100 * (size / base[key]['bytes'] - 1):+.2f} %)")
        layout_rows.append([*cells, f"{row[f'qp{QP}']['mse']:.2f}"])
    return _TEXT.format(
        table=markdown_table(["model", "weights", *labels, "rans to the best other"], rows),
        times=markdown_table(["model", *labels], times),
        layouts=markdown_table(
            ["layout", "order, bytes", "lossless", f"QP {QP}", "mean square error"], layout_rows
        ),
        settings=markdown_table(
            ["setting", "bytes", "mean square error", "at equal error", "processor s"],
            setting_rows(result["settings"]),
        ),
        command=result["environment"]["command"],
        commit=result["environment"]["commit"],
        layouts_command=result["layouts_environment"]["command"],
        layouts_commit=result["layouts_environment"]["commit"],
    )


def setting_rows(found: dict[str, dict[str, float]]) -> list[list[str]]:
    """At equal error: half a bit a weight buys a halving of the mean square error."""
    base = next(iter(found.values()))
    rows = []
    for label, row in found.items():
        exact = 8 * base["bytes"] / base["weights"]
        bits = 8 * row["bytes"] / row["weights"] + 0.5 * np.log2(row["mse"] / base["mse"])
        rows.append(
            [
                label,
                f"{row['bytes']:,.0f}",
                f"{row['mse']:.3f}",
                f"{100 * (bits / exact - 1):+.2f} %",
                f"{row['seconds']:.1f}",
            ]
        )
    return rows


_TEXT = """# P4: integer weights without loss

Bytes of all int8 weights of a model (bits a weight), each coder's whole stream; all were decoded
and are equal. `rans` is earmark's own coder. `nncodec` is Fraunhofer's NNCodec (ISO/IEC 15938-17),
which gets the integers as integers, with the scan order and parameters that were best on the
demonstration network. `HEVC lossless` has a picture for each layer. Weights of fewer bits (`int4`,
`w3`) are int8 arrays here too.

{table}

The network at C = 512 was widened from one at C = 256 by copying channels, so that parts of its
rows almost repeat: xz, which looks for repetitions far back, finds them, and nncodec, which learns
as it goes, a little. A network that was trained at that width has none: nothing follows from this
row.

HEVC makes the 8-bit weights of trained networks *larger* than they are: its lossless mode predicts
from neighbours that say nothing, and its codes of what is left are not made for noise as wide as
this.

Seconds to code / to decode, on a busy machine and with different numbers of threads: orders of
magnitude.

{times}

## Layouts of pictures

Of all int8 weights of the demonstration network: what the order of channels takes is in the sizes.
One picture a layer, but in an atlas.

{layouts}

Order gains 1.5 % at the most, after which it would have to be undone when loading, and the other
layouts gain less or lose; so a file has plain rows.

## Settings of x265

The same weights in rows at QP 23. *At equal error*: what the size would be, half a bit a weight for
each halving of the mean square error.

{settings}

```
{command}    # at {commit}
{layouts_command}    # at {layouts_commit}
```
"""


if __name__ == "__main__":
    main()
