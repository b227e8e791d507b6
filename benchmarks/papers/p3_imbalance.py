"""P3: class weights and random undersampling on a set made unbalanced.

    python benchmarks/papers/p3_imbalance.py --data sounds/

ESC-10 is balanced. Here every second class keeps a sixth of its training clips; a small ResNet (one
bottleneck a stage, a quarter of ResNet-50's width) is trained on what is left of three folds, as
many steps each time, and heard on the whole fourth one. Writes ``docs/results/p3-imbalance.md`` and
``benchmarks/results/p3-imbalance.json``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from _results import environment, write_json
from earmark.bench.report import markdown_table
from earmark.clips import Clip, read_clips
from earmark.families import load_checkpoint
from earmark.metrics import classification_rates
from earmark.nn import SoundResNet, SoundResNetConfig
from earmark.training import (
    Corpus,
    SoundAugmentation,
    SoundTrainingConfig,
    Utterance,
    train_sounds,
)

DOCS = Path(__file__).parents[2] / "docs" / "results"
WAYS = {
    "as they are": {},
    "class weights": {"class_weights": True},
    "undersampling": {"undersample": True},
    "both": {"class_weights": True, "undersample": True},
}
RATES = ("precision", "recall", "f1", "accuracy")
KEPT = 6  # one of so many clips of the rare classes
BATCH = 16


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with meta.csv")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2], help="heard (1 2)")
    parser.add_argument("--steps", type=int, default=300, help="(%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = read_clips(args.data / "meta.csv")
    labels = sorted({clip.label for clip in clips})
    rare = labels[1::2]
    heard: dict[str, list[tuple[int, int]]] = {way: [] for way in WAYS}
    for fold in tqdm(args.folds, "folds", disable=None):
        corpus = unbalanced([clip for clip in clips if clip.fold != fold], rare)
        tested = [clip for clip in clips if clip.fold == fold]
        for way, options in WAYS.items():
            net = trained(corpus, args.steps, options)
            found = net.classify([clip.path for clip in tested])
            pairs = zip(tested, found, strict=True)
            heard[way] += [(labels.index(c.label), labels.index(s.label)) for c, s in pairs]
    result: dict[str, Any] = {"environment": environment(), "rare": rare, "steps": args.steps}
    result["rates"] = {way: rates(np.array(pairs), labels, rare) for way, pairs in heard.items()}
    result["clips"] = len(next(iter(heard.values())))
    write_json("p3-imbalance", result)
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "p3-imbalance.md").write_text(report(result))


def unbalanced(clips: list[Clip], rare: list[str]) -> Corpus:
    """All clips of the others, few of the rare classes."""
    seen = dict.fromkeys(rare, 0)
    kept = []
    for clip in clips:
        if clip.label in seen:
            seen[clip.label] += 1
            if seen[clip.label] % KEPT != 1:
                continue
        kept.append(Utterance(clip.path, clip.name, clip.label))
    return Corpus(kept)


def trained(corpus: Corpus, steps: int, options: dict[str, bool]) -> SoundResNet:
    smallest = int(np.bincount(corpus.labels).min())
    clips = smallest * len(corpus.speakers) if options.get("undersample") else len(corpus)
    config = SoundTrainingConfig(
        epochs=max(1, round(steps / (clips // BATCH))),
        batch=BATCH,
        learning_rate=3e-3,
        augmentation=SoundAugmentation(seconds=1.2),
        **options,
    )
    torch.manual_seed(0)
    shape = SoundResNetConfig(len(corpus.speakers), blocks=(1, 1, 1, 1), width=16)
    net = SoundResNet(shape, corpus.speakers)
    net.begin_as_shortcuts()
    with tempfile.TemporaryDirectory() as run:
        result = train_sounds(net, corpus, run, config)
        best = load_checkpoint(result["output"])
    assert isinstance(best, SoundResNet)
    return best


def rates(pairs: Any, labels: list[str], rare: list[str]) -> dict[str, float]:
    """Rates of (actual, predicted) classes, and the recall of rare and of other ones."""
    actual, found = pairs.T
    of_rare = np.isin(actual, [labels.index(label) for label in rare])
    return {
        **classification_rates(actual, found, len(labels)),
        "recall_rare": float((actual == found)[of_rare].mean()),
        "recall_others": float((actual == found)[~of_rare].mean()),
    }


def report(result: dict[str, Any]) -> str:
    header = ["training", *RATES, "recall, rare classes", "recall, others"]
    rows = [
        [way, *(f"{measured[rate]:.3f}" for rate in (*RATES, "recall_rare", "recall_others"))]
        for way, measured in result["rates"].items()
    ]
    return _TEXT.format(
        table=markdown_table(header, rows),
        rare=", ".join(result["rare"]),
        kept=KEPT,
        steps=result["steps"],
        clips=result["clips"],
        command=result["environment"]["command"],
        commit=result["environment"]["commit"],
    )


_TEXT = """# P3: class weights and undersampling

A small ResNet (one bottleneck a stage, width 16), about {steps} steps each, trained on ESC-10 with
one of {kept} clips left of every second class ({rare}) and heard on {clips} clips of the folds left
out, which are balanced. Macro averages.

{table}

```
{command}
```
at {commit}.
"""


if __name__ == "__main__":
    main()
