"""P4, Figures 4 and 5: accuracy and compression ratio against HEVC's QP.

    python benchmarks/papers/p4_qp.py --data DATA --models MODELS [--folds 1] [--qps 0 5 10 ...]

As ``p4_table2.py``: weights in symmetric and asymmetric levels of a layer, and with a scale for
each output as the plan has them, as pictures at every QP. The ResNet-50 is that of ``--folds``;
every fold has clips of its own and costs as much as the first. Points that are in the results
already, of the same folds, are not measured again. Writes ``docs/results/p4-qp.md``, the plot
beside it and ``benchmarks/results/p4-qp.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from _p4 import DOCS, LEVELS, stored_bytes

import earmark
from _evaluation import SoundFolds, Speakers
from _results import environment, known_json, write_json
from earmark import modelfile
from earmark.bench.report import markdown_table
from earmark.compression import compress
from earmark.modelfile import ModelFile
from earmark.plots import new_figure, save_figure

NAME = "p4-qp"
PACKAGED = Path(earmark.__file__).parent / "data"
ECAPA, SOUND = "ecapa", "sound"
QPS = tuple(range(0, 41, 5))
COLOURS = {"per channel": "tab:gray", "symmetric": "tab:blue", "asymmetric": "tab:orange"}
Measure = Callable[[Iterator[ModelFile]], dict[str, Any]]


def main() -> None:
    """Measure, write, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="files of the folds")
    parser.add_argument("--folds", type=int, nargs="+", help="(all)")
    parser.add_argument("--qps", type=int, nargs="+", default=QPS, help="(0 5 ... 40)")
    parser.add_argument("--only", choices=(ECAPA, SOUND))
    args = parser.parse_args()
    result = known_json(NAME)
    if args.only != SOUND:
        fp32, int8 = (modelfile.read(PACKAGED / f"demo-{n}.earmark") for n in ("fp32", "int8"))
        trials = args.data / "trials" / "dev_samegender.txt"
        speakers = Speakers(trials, args.data / "speakers", fp32)
        points(result, ECAPA, [fp32], [int8], speakers.measure, args.qps)
    if args.only != ECAPA:
        folds = SoundFolds.read(args.data / "sounds" / "meta.csv", args.folds)
        if result.get("folds", list(folds.folds)) != list(folds.folds):
            del result[SOUND]
        result["folds"] = list(folds.folds)
        fp32, int8 = (folds.models(args.models, name) for name in ("fp32", "int8"))
        points(result, SOUND, fp32, int8, folds.measure, args.qps)
    DOCS.mkdir(parents=True, exist_ok=True)
    if result.keys() >= {ECAPA, SOUND}:
        plot(result)
        (DOCS / f"{NAME}.md").write_text(report(result))


def points(
    result: dict[str, Any],
    network: str,
    fp32: list[ModelFile],
    int8: list[ModelFile],
    measure: Measure,
    qps: list[int],
) -> None:
    """Add to the results, and write them, what is not in them yet."""
    known = result.setdefault(network, {})
    if "fp32" not in known:
        known["fp32"] = measure(iter(fp32))
        known["fp32"]["file_bytes"] = 4 * int8[0].metadata["parameters"]
    # The middle first, so that what is cut short is still a curve.
    todo = [(qp, name) for qp in sorted(qps, key=lambda qp: -(qp % 10)) for name in LEVELS]
    for qp, name in tqdm(todo, network, disable=None):
        curve = known.setdefault(name, {})
        if str(qp) in curve:
            continue
        sizes: list[dict[str, int]] = []
        found = measure(pictures(int8, name, qp, sizes))
        curve[str(qp)] = {**sizes[0], **found}
        known[name] = dict(sorted(curve.items(), key=lambda item: int(item[0])))
        result["environment"] = environment()
        write_json(NAME, result)


def pictures(
    models: list[ModelFile], name: str, qp: int, sizes: list[dict[str, int]]
) -> Iterator[ModelFile]:
    """The models as pictures; their sizes are appended."""
    for model in models:
        stored = compress(model, "hevc", qp=qp, levels=LEVELS[name])
        sizes.append(stored_bytes(stored))
        yield stored


def ratio(known: dict[str, Any], point: dict[str, Any]) -> float:
    """Of the whole file."""
    return float(known["fp32"]["file_bytes"] / point["file_bytes"])


def accuracy(network: str, point: dict[str, Any]) -> float:
    """Per cent: of the EER, or of F1."""
    return 100 * float(point["eer" if network == ECAPA else "f1"])


def plot(result: dict[str, Any]) -> None:
    """Accuracy and ratio against QP, and one against the other; a row for each network."""
    figure = new_figure(10, 6)
    for row, network in zip(figure.subplots(2, 3), (ECAPA, SOUND), strict=True):
        known = result[network]
        label = "ECAPA-TDNN: EER, %" if network == ECAPA else "ResNet-50: F1, %"
        for name in LEVELS:
            curve = known[name]
            qps = [int(qp) for qp in curve]
            rates = [accuracy(network, point) for point in curve.values()]
            ratios = [ratio(known, point) for point in curve.values()]
            style = {"color": COLOURS[name], "marker": "o", "markersize": 3, "label": name}
            row[0].plot(qps, rates, **style)
            row[1].plot(qps, ratios, **style)
            row[2].plot(ratios, rates, **style)
        for panel in (row[0], row[2]):
            panel.axhline(accuracy(network, known["fp32"]), color="black", lw=0.8, ls=":")
            panel.set_ylabel(label)
        for panel in row[:2]:
            panel.set_xlabel("QP")
        row[1].set_ylabel("ratio, whole file to float32")
        row[2].set_xlabel("ratio")
        if network == ECAPA:
            row[2].set_yscale("log")
        row[1].legend(fontsize=7)
        for panel in row:
            panel.grid(alpha=0.3)
    save_figure(figure, DOCS / f"{NAME}.svg", "svg")


def rows_of(result: dict[str, Any], network: str) -> list[list[str]]:
    """A row for each QP."""
    known = result[network]
    rows = []
    for qp in sorted(set.union(*(set(known[name]) for name in LEVELS)), key=int):
        cells = [qp]
        for name in LEVELS:
            point = known[name].get(qp)
            if point is None:
                cells += ["", ""]
                continue
            cells += [f"{ratio(known, point):.2f}", f"{accuracy(network, point):.2f}"]
        rows.append(cells)
    return rows


def report(result: dict[str, Any]) -> str:
    """The page."""
    tables = {}
    for network, measure in ((ECAPA, "EER, %"), (SOUND, "F1, %")):
        header = ["QP"]
        for name in LEVELS:
            header += [f"{name}: ratio", measure]
        tables[network] = markdown_table(header, rows_of(result, network))
    return _TEXT.format(
        **tables,
        exact_eer=f"{accuracy(ECAPA, result[ECAPA]['fp32']):.2f}",
        exact_f1=f"{accuracy(SOUND, result[SOUND]['fp32']):.2f}",
        folds=", ".join(str(fold) for fold in result["folds"]),
        command=result["environment"]["command"],
        commit=result["environment"]["commit"],
    )


_TEXT = """# P4, Figures 4 and 5: accuracy and ratio against QP

Weights in levels of one scale for a layer, symmetric and asymmetric, and with a scale for each
output, as HEVC pictures; as in [Table 2](p4-table2.md). The ratio is of the whole file to 4 bytes
for each parameter. What is right at a QP and what is small at a QP are two curves; the third panel
has one against the other, and only there can the three be compared.

![Accuracy and ratio against QP](p4-qp.svg)

ECAPA-TDNN, EER over eight draws of 2 s crops of `dev_samegender`; float32 has {exact_eer} %.

{ecapa}

Sound ResNet-50, macro F1 over the clips of fold {folds}; float32 has {exact_f1} %.

{sound}

```
{command}    # at {commit}
```
"""


if __name__ == "__main__":
    main()
