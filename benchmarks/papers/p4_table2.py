"""P4, Table 2: size, accuracy and loss of quantized weights, stored as HEVC pictures or not.

    python benchmarks/papers/p4_table2.py --data DATA --models MODELS

DATA holds the recordings (``speakers``, ``trials``, ``sounds``), MODELS the folds' files of
``p3_table2.py``. ECAPA-TDNN: the package's demonstration files; sound ResNet-50: all four folds,
each clip by the network that did not see its fold. Writes ``docs/results/p4-table2.md`` and
``benchmarks/results/p4-table2.json``, which after each of the two networks holds what is done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from _p4 import DOCS, LEVELS, integer_weights, stored_bytes

import earmark
from _evaluation import SoundFolds, Speakers
from _results import environment, read_json, write_json
from earmark import modelfile
from earmark.bench.report import markdown_table
from earmark.compression import compress
from earmark.modelfile import ModelFile

NAME = "p4-table2"
QP = 23
PACKAGED = Path(earmark.__file__).parent / "data"
ECAPA, SOUND = "ecapa", "sound"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="files of the folds")
    parser.add_argument("--only", choices=(ECAPA, SOUND), help="keep the other network's figures")
    args = parser.parse_args()
    result: dict[str, Any] = {} if args.only is None else read_json(NAME)
    if args.only != SOUND:
        result[ECAPA] = {"environment": environment(), "rows": of_ecapa(args.data)}
        write_json(NAME, result)
    if args.only != ECAPA:
        result[SOUND] = {"environment": environment(), "rows": of_sounds(args.data, args.models)}
        write_json(NAME, result)
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / f"{NAME}.md").write_text(report(result))


def of_ecapa(data: Path) -> dict[str, Any]:
    fp32, int8 = (modelfile.read(PACKAGED / f"demo-{name}.earmark") for name in ("fp32", "int8"))
    trials = data / "trials" / "dev_samegender.txt"
    speakers = Speakers(trials, data / "speakers", fp32)
    return table_rows([fp32], [int8], speakers.measure)


def of_sounds(data: Path, models: Path) -> dict[str, Any]:
    folds = SoundFolds.read(data / "sounds" / "meta.csv")
    fp32, int8 = (folds.models(models, name) for name in ("fp32", "int8"))
    return table_rows(fp32, int8, folds.measure)


def table_rows(
    fp32: list[ModelFile], int8: list[ModelFile], measure: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """The table's rows of one network; sizes are those of the first of its files."""
    parameters = 4 * int8[0].metadata["parameters"]
    weights = sum(array.size for array in integer_weights(int8[0]).values())
    rows = {
        "FP32": {"file_bytes": parameters, "weight_bytes": 4 * weights, **measure(fp32)},
    }
    for name, levels in tqdm(LEVELS.items(), "levels", disable=None):
        stored = compress(int8[0], "rans", levels=levels)
        plain = (compress(model, "rans", levels=levels) for model in int8)
        found = measure(plain)
        rows[f"INT8 {name}"] = {"file_bytes": None, "weight_bytes": weights, **found}
        rows[f"INT8 {name} + rans"] = {**stored_bytes(stored), **found}
        sizes: list[dict[str, int]] = []
        pictures = with_sizes(int8, levels, sizes)
        found = measure(pictures)
        rows[f"INT8 {name} + HEVC (QP {QP})"] = {**sizes[0], **found}
    return rows


def with_sizes(
    models: list[ModelFile], levels: str | None, sizes: list[dict[str, int]]
) -> Iterator[ModelFile]:
    """The models as pictures; their sizes are appended."""
    for model in models:
        stored = compress(model, "hevc", qp=QP, levels=levels)
        sizes.append(stored_bytes(stored))
        yield stored


def report(result: dict[str, Any]) -> str:
    """The page."""
    tables = {}
    for network, measures in (
        (ECAPA, {"EER, %": eer_cell, "1 - cosine": loss_cell}),
        (SOUND, {"accuracy": rate_cell("accuracy"), "F1": rate_cell("f1"), "loss": loss_cell}),
    ):
        rows = result[network]["rows"]
        exact = rows["FP32"]
        table = []
        for name, row in rows.items():
            cells = [name]
            for key in ("weight_bytes", "file_bytes"):
                ratio = exact[key] / row[key] if row[key] else None
                cells += ["", ""] if ratio is None else [f"{row[key]:,}", f"{ratio:.2f}x"]
            table.append(cells + [cell(row) for cell in measures.values()])
        header = ["", "weights, bytes", "ratio", "file, bytes", "ratio", *measures]
        tables[network] = markdown_table(header, table)
    return _TEXT.format(
        **tables,
        findings=findings(result),
        commands="\n".join(
            f"{head['command']}    # at {head['commit']}"
            for head in (result[network]["environment"] for network in (ECAPA, SOUND))
        ),
    )


def findings(result: dict[str, Any]) -> str:
    """What the pictures' sizes say of the paper's finding."""
    lines = []
    for network, label in ((ECAPA, "ECAPA-TDNN"), (SOUND, "ResNet-50")):
        symmetric, asymmetric = (
            result[network]["rows"][f"INT8 {name} + HEVC (QP {QP})"]["weight_bytes"]
            for name in ("symmetric", "asymmetric")
        )
        change = 100 * (1 - symmetric / asymmetric)
        lines.append(f"* {label}: symmetric weights take {change:.1f} % less than asymmetric ones.")
    return "\n".join(lines)


def eer_cell(row: dict[str, Any]) -> str:
    low, high = (100 * value for value in row["eer_interval"])
    change = 100 * row["eer_change"]
    return f"{100 * row['eer']:.2f} ({change:+.2f}; {low:+.2f} to {high:+.2f})"


def loss_cell(row: dict[str, Any]) -> str:
    return f"{row['loss']:.5f}"


def rate_cell(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[key]:.4f}"


_TEXT = """# P4, Table 2: weights as HEVC pictures

The paper's table on other networks: ECAPA-TDNN at C = 256 (the package's own) and the sound
ResNet-50. Weights are quantized to INT8 with one scale for a layer, symmetric or asymmetric, as in
the paper, or with one for each output, as earmark's plans have them, and then stored as they are,
by earmark's lossless coder (`rans`) or as HEVC pictures at QP 23. All rows but FP32 run in the
INT8 engine, activations too; nothing is retrained. Levels of one scale for a layer are made from
the plan's int8 weights, and kept with a step for each output, which counts as weight here.

*weights*: what the weights take; *file*: the whole file, against 4 bytes for each parameter.

## ECAPA-TDNN

EER over eight draws of 2 s crops of `dev_samegender`, in brackets the change and its 95 % interval
(a bootstrap over speakers); in place of a loss the mean of 1 - cosine to the float32 embeddings.

{ecapa}

## Sound ResNet-50

Four folds of ESC-10 together, each clip by the network that did not see its fold; loss is the
cross-entropy of a clip in nats. Sizes are of the first fold. A clip more or less is about 0.003 of
accuracy and F1.

{sound}

## The paper's finding

{findings}

In the paper they take 25.6 % less (16.82x against 12.51x), of weights that reach three times as far
on one side of 0 as on the other ([p4-statistics](p4-statistics.md)). It is a matter of how fine the
levels are: QP 23 makes the same error in levels whatever a level is worth. The same holds between a
scale for a layer and one for each output, whose levels are finer: larger, and nearer to float32.
Only at equal accuracy do sizes say something, [Figures 4 and 5](p4-qp.md).

```
{commands}
```
"""


if __name__ == "__main__":
    main()
