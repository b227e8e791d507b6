"""P1, Table 2: float32, all INT8, the paper's choice, and what a search finds.

    python benchmarks/papers/p1_table2.py CKPT --data DATA [--also CKPT]

DATA holds ``speakers/train.txt``, which calibrates, and the trials. The search, of the first
checkpoint only, has the paper's budget, +0.07 % EER, on one half of the speakers. Results that are
there already in the folder of ``--runs`` are not measured again. Writes ``docs/results/NAME.md``, a
plot beside it and ``benchmarks/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import earmark
from _evaluation import SEEDS
from _results import environment, write_json
from earmark import _C
from earmark.bench.report import markdown_table
from earmark.candidates import Candidates, Measured, rate, trial_features
from earmark.frontend import SpeechBrainFbank
from earmark.nn import EcapaTdnn
from earmark.nn.config import EcapaConfig
from earmark.plots import save_figure, search_figure
from earmark.quantization import LoweredNetwork
from earmark.quantization.precision import PRESETS
from earmark.search import Budget, Point, search
from earmark.trials import Trials, read_recordings, read_trials

DOCS = Path(__file__).parents[2] / "docs" / "results"
BUDGET = 0.0007
PRECISIONS = ("int8", "int4", "int3", "float16")
NAMED = {
    "FP32": {"all": "fp32"},
    "all INT8": {"all": "int8"},
    "the paper's": PRESETS["p1"],
}


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--family", default="speechbrain", help="(%(default)s)")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="CKPT")
    parser.add_argument("--name", default="p1-table2", help="of the results (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/p1"))
    parser.add_argument("--processes", type=int, default=_C.default_threads())
    args = parser.parse_args()
    speakers = args.data / "speakers"
    trials = read_trials(args.data / "trials" / "dev_samegender.txt", speakers)
    calibration = read_recordings(speakers / "train.txt")
    net = earmark.load_checkpoint(args.checkpoint, args.family)

    work: dict[str, Any] = {"processes": args.processes, "folder": args.runs}
    named = _measure(net, calibration, trials, work)
    also = {}
    for path in args.also:
        other = earmark.load_checkpoint(path, args.family)
        also[other.config.channels[0]] = _measure(other, calibration, trials, work)
    found = search(
        net,
        calibration,
        trials,
        Budget(eer_change=BUDGET),
        precisions=PRECISIONS,
        crops=SEEDS,
        **work,
    )
    points = {point.name: point for point in found.points}
    choices = {**NAMED, "the search's": found.chosen.precision}
    wide = {name: _size_at_1024(choice, calibration[:1]) for name, choice in choices.items()}
    figure = search_figure(found.points, found.chosen, found.budget)
    save_figure(figure, DOCS / f"{args.name}.svg", "svg")
    head = environment()
    write_json(
        args.name,
        {
            "environment": head,
            "checkpoint": args.checkpoint.name,
            "crops": SEEDS,
            "all_speakers": {name: asdict(row) for name, row in named.items()},
            "also": {
                str(channels): {name: asdict(row) for name, row in rows.items()}
                for channels, rows in also.items()
            },
            "size_fraction_c1024": wide,
            "speakers": found.speakers,
            "trials": found.trials,
            "chosen": found.chosen.name,
            "points": [asdict(point) for point in found.points],
            "alone": [asdict(one) for one in found.alone],
        },
    )
    halves = dict(zip(NAMED, (points["fp32"], points["int8"], points["p1"]), strict=True))
    halves["the search's"] = found.chosen
    header = ["", "size, %", "at C = 1024", "EER, %", "change (95 %)", "change, reporting half"]
    rows = [
        [
            name,
            f"{100 * point.reporting.size_fraction:.2f}",
            f"{100 * wide[name]:.2f}",
            f"{100 * named[name].eer:.2f}" if name in named else "",
            _change(named[name]) if name in named else "",
            _change(point.reporting),
        ]
        for name, point in halves.items()
    ]
    for channels, measured in also.items():
        rows += [
            [
                f"{name}, C = {channels}",
                f"{100 * row.size_fraction:.2f}",
                "",
                f"{100 * row.eer:.2f}",
                _change(row),
                "",
            ]
            for name, row in measured.items()
        ]
    target = int(trials.labels.sum())
    text = _TEXT.format(
        name=args.name,
        table=markdown_table(header, rows),
        front=markdown_table(_FRONT, [_front_row(point, found.chosen) for point in found.points]),
        precision=", ".join(f"{key} {value}" for key, value in found.chosen.precision.items()),
        checkpoint=args.checkpoint.name,
        channels=net.config.channels[0],
        also="".join(f" and `{path.parent.name}/{path.name}`" for path in args.also),
        target=target,
        nontarget=len(trials.labels) - target,
        seeds=SEEDS,
        calibration=len(calibration),
        speakers=found.speakers,
        trials=found.trials,
        budget=100 * BUDGET,
        command=head["command"],
    )
    (DOCS / f"{args.name}.md").write_text(text)
    print(text)


def _measure(
    net: EcapaTdnn, calibration: list[Path], trials: Trials, work: dict[str, Any]
) -> dict[str, Measured]:
    """The choices that have a name, on all speakers."""
    lowered = LoweredNetwork(net)
    lowered.calibrate(calibration)
    with Candidates(lowered, trial_features(net, trials, SEEDS), **work) as candidates:
        outcomes = candidates.run(NAMED)
    reference = outcomes["FP32"].embeddings
    return {name: rate(name, one, reference, trials) for name, one in outcomes.items()}


def _change(row: Measured) -> str:
    change, low, high = (100 * value for value in row.eer_change)
    return f"{change:+.2f} ({low:+.2f} to {high:+.2f})"


_FRONT = ["", "size, %", "1 - cosine", "predicted", "choosing half", "smoothed", "reporting half"]


def _front_row(point: Point, chosen: Point) -> list[str]:
    name = f"**{point.name}**" if point is chosen else point.name
    predicted = point.predicted_distance
    return [
        name if point.on_front else f"({name})",
        f"{100 * point.choosing.size_fraction:.2f}",
        f"{point.distance:.5f}",
        "" if predicted is None else f"{predicted:.5f}",
        f"{100 * point.choosing.eer_change[0]:+.2f}",
        f"{100 * point.smoothed_eer_change:+.2f}",
        _change(point.reporting),
    ]


def _size_at_1024(precision: Mapping[str, str], calibration: list[Path]) -> float:
    """Of the paper's shape; the weights, which are random, and their rounding do not matter."""
    torch.manual_seed(0)
    config = EcapaConfig()
    net = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain").eval()
    quantized = earmark.quantize(net, calibration, precision=precision, rounding="nearest")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "wide.earmark")
        quantized.save(path)
        size: float = earmark.load(path).info()["size_fraction"]
    return size


_TEXT = """# P1, Table 2: mixed precision

"Optimization framework for the quantization of a speaker-verification model (ECAPA-TDNN)". The
paper leaves SE-Res2Blocks 2 and 3 in float32 (`--precision p1`) and reports 53.44 % of the size at
+0.07 % EER. The search (`earmark search --max-eer-change {budget:.2f}%`) looks for the smallest
file within that change, layer by layer.

Checkpoint `{checkpoint}` (C = {channels}){also}, calibrated by minimum and maximum on {calibration}
recordings of other speakers; dev_samegender, {target} target and {nontarget} other trials; EER of
2 s crops, mean of {seeds} fixed draws. In brackets: 95 % interval of a bootstrap over speakers,
paired over trials and draws. Size: file bytes / (4 x parameters), and the same for a random network
of the paper's shape. The search chose on {speakers[0]} speakers ({trials[0]} trials); the last
column is of the {speakers[1]} others ({trials[1]} trials).

{table}

The search's choice: {precision}.

All points that the search measured; in brackets those that another point beats in size and
distance on the choosing half, in bold the chosen one. "Predicted": what the layers' distances
alone add up to. "Smoothed": EER change on the choosing half as a function that never falls with
the distance.

{front}

![The front]({name}.svg)

```
{command}
```
"""


if __name__ == "__main__":
    main()
