"""P2, Table 1: EER with piecewise-linear softmaxes, before and after fine-tuning.

    python benchmarks/papers/p2_table1.py CKPT --family speechbrain --data DATA

DATA holds ``speakers/train.txt``, ``sounds/`` and the trials; the network is fine-tuned whole, each
variant equally long, the exact softmax too, from several seeds. Runs that are there already in the
folder of ``--runs`` are not repeated, interrupted ones go on. Writes
``docs/results/p2-table1.md``, a plot beside it and ``benchmarks/results/p2-table1.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

import earmark
from _evaluation import CroppedTrials
from _results import environment, write_json
from earmark.bench.report import markdown_table
from earmark.nn import (
    EcapaTdnn,
    LookupTableSoftmax,
    PiecewiseLinearSoftmax,
    replace_softmax,
)
from earmark.nn.softmax import ApproximateSoftmax
from earmark.training import (
    Corpus,
    Recordings,
    TrainingConfig,
    find_utterances,
    train,
)
from earmark.trials import read_recordings

Array = NDArray[Any]

DOCS = Path(__file__).parents[2] / "docs" / "results"
CALIBRATION = 64

VARIANTS: dict[str, Callable[[], ApproximateSoftmax] | None] = {
    "exact softmax": None,
    "(1) clip": lambda: PiecewiseLinearSoftmax(segments=0),
    "(2) one segment + clip": lambda: PiecewiseLinearSoftmax(segments=1),
    "(3) two segments + clip": lambda: PiecewiseLinearSoftmax(segments=2),
    "(3) learnable": lambda: PiecewiseLinearSoftmax(segments=2, learnable=True),
    "table of 64, interpolated": lambda: LookupTableSoftmax(entries=64),
}


def main() -> None:
    """Fine-tune, measure, write."""
    args = _parse_arguments()
    torch.set_num_threads(args.threads)
    speakers = args.data / "speakers"
    trials = CroppedTrials.read(args.data / "trials" / "dev_samegender.txt", speakers)
    train_list = read_recordings(speakers / "train.txt")
    calibration = train_list[:: max(1, len(train_list) // CALIBRATION)]
    corpus = Corpus(find_utterances(speakers / "train.txt"))
    noise = Recordings(read_recordings(args.data / "sounds"))

    # What was measured with other settings is another run.
    runs = args.runs / f"{args.epochs}-{args.lr:g}"
    scores: dict[str, dict[str, Array]] = {}
    for seed in [None, *range(args.seeds)]:
        for name, make in VARIANTS.items():
            label = f"{list(VARIANTS).index(name)}-{'before' if seed is None else seed}"
            stored = runs / f"{label}.npz"
            if not stored.is_file():
                net = earmark.load_checkpoint(args.checkpoint, args.family)
                if make is not None:
                    replace_softmax(net, make(), calibration)
                if seed is not None:
                    config = TrainingConfig(
                        epochs=args.epochs,
                        learning_rate=args.lr,
                        margin_warmup=0.0,
                        average=0.0,
                        seed=seed,
                    )
                    train(net, corpus, runs / label, config, pretrained=True, noise=noise)
                    net.eval().requires_grad_(False)
                measured = _scores(net, trials, calibration)
                runs.mkdir(parents=True, exist_ok=True)
                np.savez(stored, **measured)
            with np.load(stored) as file:
                scores[label] = dict(file)
            eers = trials.eers(scores[label]["fp32"])
            print(f"{name}, {label}: EER {100 * eers.mean():.2f} %", file=sys.stderr, flush=True)
    _write(args, trials, scores)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--family", default="speechbrain")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/p2-table1"))
    parser.add_argument("--seeds", type=int, default=3, help="of fine-tuning (%(default)s)")
    parser.add_argument("--epochs", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-4, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _scores(net: EcapaTdnn, trials: CroppedTrials, calibration: list[Path]) -> dict[str, Array]:
    """Of the network in the engine, in float32 and INT8: (seeds, trials) each."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for scheme in ("fp32", "int8"):
            path = Path(folder, f"{scheme}.earmark")
            earmark.quantize(net, calibration, scheme=scheme).save(path)
            measured[scheme] = trials.scores(earmark.load(path))
    return measured


def _write(args: argparse.Namespace, trials: CroppedTrials, scores: dict[str, Any]) -> None:
    rows, table = [], {}
    for index, name in enumerate(VARIANTS):
        before = trials.eers(scores[f"{index}-before"]["fp32"])
        runs = [scores[f"{index}-{seed}"] for seed in range(args.seeds)]
        after = np.array([trials.eers(run["fp32"]).mean() for run in runs])
        int8 = np.array([trials.eers(run["int8"]).mean() for run in runs])
        # The runs of a variant side by side with the exact softmax's of the same seed.
        stacked = np.concatenate([run["fp32"] for run in runs])
        exact = np.concatenate([scores[f"0-{seed}"]["fp32"] for seed in range(args.seeds)])
        mean, low, high = trials.difference(stacked, exact)
        table[name] = {
            "before": before.tolist(),
            "after": after.tolist(),
            "after_int8": int8.tolist(),
            "minus_exact": [mean, low, high],
        }
        rows.append(
            [
                name,
                f"{100 * before.mean():.2f}",
                f"{100 * after.mean():.2f}",
                f"{100 * after.min():.2f}-{100 * after.max():.2f}",
                f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
                f"{100 * int8.mean():.2f}",
            ]
        )
    head = environment()
    settings = {"epochs": args.epochs, "lr": args.lr, "seeds": args.seeds}
    write_json("p2-table1", {"environment": head, "settings": settings, "table": table})
    header = [
        "softmax",
        "before, EER %",
        "after, EER %",
        "seeds",
        "after, minus exact (95 %)",
        "after, INT8",
    ]
    DOCS.mkdir(parents=True, exist_ok=True)
    text = _TEXT.format(
        table=markdown_table(header, rows),
        command=head["command"],
        seeds=args.seeds,
        epochs=args.epochs,
        checkpoint=args.checkpoint.name,
        **_counts(trials),
    )
    (DOCS / "p2-table1.md").write_text(text)
    _plot(table)
    print(json.dumps(table, indent=1))


def _counts(trials: CroppedTrials) -> dict[str, float]:
    target = int(trials.trials.labels.sum())
    return {
        "target": target,
        "nontarget": len(trials.trials.labels) - target,
        "one": 100 / target,
    }


def _plot(table: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "earmark"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for row, values in enumerate(reversed(table.values())):
        axes.plot(100 * np.mean(values["before"]), row, "o", color="tab:gray", mfc="none")
        after = 100 * np.array(values["after"])
        axes.plot(after, np.full(len(after), row), "|", color="tab:blue", ms=12)
        axes.plot(after.mean(), row, "o", color="tab:blue")
    axes.set_yticks(range(len(table)), list(reversed(table)))
    axes.set_xlabel("EER, % (gray: before fine-tuning; blue: after, seeds and mean)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(DOCS / "p2-table1.svg", metadata={"Date": None})


_TEXT = """# P2, Table 1: EER with a piecewise-linear softmax

"On-device speaker recognition through piecewise-linear approximation". The softmax over time of
the attentive pooling is replaced, then the whole network is fine-tuned, each variant equally long
(epochs of all utterances at three speeds: {epochs}, seeds: {seeds}).

Checkpoint `{checkpoint}`; dev_samegender, {target} target and {nontarget} other trials; EER of 2 s
crops, mean of 8 fixed draws; one target trial is {one:.2f} %. In brackets: 95 % interval of a
bootstrap over speakers, paired over trials and seeds. "INT8": all layers, the pooling's numerators
and sums in integers.

{table}

![EER before and after fine-tuning](p2-table1.svg)

Before fine-tuning, functions are fitted by least squares to exp over the logits that 64 training
recordings bring (`replace_softmax` says how they count); each channel's bias is shifted so that its
largest logit is 0, which an exact softmax does not see (the clip alone stays where it is).

```
{command}
```
"""


if __name__ == "__main__":
    main()
