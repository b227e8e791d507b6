"""P1, Table 1: EER and size with each layer, and each block, quantized alone.

    python benchmarks/papers/p1_table1.py CKPT --data DATA

DATA holds ``speakers/train.txt``, which calibrates, and the trials. Results that are there already
in the folder of ``--runs`` are not measured again. Writes ``docs/results/NAME.md``, plots beside it
and ``benchmarks/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import earmark
from _evaluation import SEEDS
from _results import environment, write_json
from earmark import _C
from earmark.bench.report import markdown_table
from earmark.candidates import Measured
from earmark.plots import save_figure, sensitivity_figure
from earmark.sensitivity import sensitivity
from earmark.trials import read_recordings, read_trials

DOCS = Path(__file__).parents[2] / "docs" / "results"
HEADER = ["alone in INT8", "EER, %", "change (95 %)", "cosine", "worst", "SQNR, dB", "size, %"]


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--family", default="speechbrain", help="(%(default)s)")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="p1-table1", help="of the results (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/p1"))
    parser.add_argument("--processes", type=int, default=_C.default_threads())
    args = parser.parse_args()
    speakers = args.data / "speakers"
    trials = read_trials(args.data / "trials" / "dev_samegender.txt", speakers)
    calibration = read_recordings(speakers / "train.txt")
    net = earmark.load_checkpoint(args.checkpoint, args.family)
    rows = {
        unit: sensitivity(
            net,
            calibration,
            trials,
            by_block=unit == "blocks",
            crops=SEEDS,
            processes=args.processes,
            folder=args.runs,
        )
        for unit in ("blocks", "layers")
    }
    for unit, measured in rows.items():
        save_figure(sensitivity_figure(measured), DOCS / f"{args.name}-{unit}.svg", "svg")
    head = environment()
    write_json(
        args.name,
        {
            "environment": head,
            "checkpoint": args.checkpoint.name,
            "crops": SEEDS,
            **{unit: [asdict(row) for row in measured] for unit, measured in rows.items()},
        },
    )
    target = int(trials.labels.sum())
    text = _TEXT.format(
        name=args.name,
        checkpoint=args.checkpoint.name,
        channels=net.config.channels[0],
        target=target,
        nontarget=len(trials.labels) - target,
        seeds=SEEDS,
        calibration=len(calibration),
        blocks=markdown_table(HEADER, [_row(row) for row in rows["blocks"]]),
        layers=markdown_table(HEADER, [_row(row) for row in rows["layers"]]),
        command=head["command"],
    )
    (DOCS / f"{args.name}.md").write_text(text)
    print(text)


def _row(row: Measured) -> list[str]:
    change, low, high = (100 * value for value in row.eer_change)
    noise = "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
    figures: list[Any] = [row.cosine, row.worst_cosine]
    return [
        row.unit,
        f"{100 * row.eer:.2f}",
        f"{change:+.2f} ({low:+.2f} to {high:+.2f})" if noise else "",
        *(f"{value:.6f}" for value in figures),
        noise,
        f"{100 * row.size_fraction:.2f}",
    ]


_TEXT = """# P1, Table 1: each layer quantized alone

"Optimization framework for the quantization of a speaker-verification model (ECAPA-TDNN)". One
layer or block in INT8, all others in float32; the last row has all of them in INT8. Blocks:
`blocks.0` is the first convolution, `blocks.1` to `blocks.3` are SE-Res2Blocks 1 to 3, `mfa` joins
their outputs, `asp` is the attentive pooling, `fc` the last layer.

Checkpoint `{checkpoint}` (C = {channels}), calibrated by minimum and maximum on {calibration}
recordings of other speakers; dev_samegender, {target} target and {nontarget} other trials; EER of
2 s crops, mean of {seeds} fixed draws. In brackets: 95 % interval of a bootstrap over speakers,
paired over trials and draws. Cosine and signal-to-noise ratio of the embeddings to float32's; size
as file bytes / (4 x parameters).

{blocks}

![Blocks]({name}-blocks.svg)

{layers}

![Layers]({name}-layers.svg)

```
{command}
```
"""


if __name__ == "__main__":
    main()
