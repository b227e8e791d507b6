"""Trains the sound ResNet-50 once for each fold of a data set, on the clips of the other folds.

    python benchmarks/recipes/sound_folds.py --data sounds/ -o runs/first/
    python benchmarks/recipes/sound_folds.py --data sounds/ -o runs/ --begin runs/first/

``sounds/meta.csv`` lists file, class and fold. The first command begins with nothing, the second
goes on from what the first made, with a lower learning rate. A run that was interrupted goes on.
Each ``runs/fold-N/model.safetensors`` then holds the network that has not heard fold N, and
``benchmarks/papers/p3_table2.py --runs runs/`` compares its quantized forms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from earmark.clips import read_clips
from earmark.families import load_checkpoint
from earmark.nn import SoundResNet, SoundResNetConfig
from earmark.training import (
    Corpus,
    SoundAugmentation,
    SoundTrainingConfig,
    Utterance,
    train_sounds,
)
from earmark.training.loop import MODEL

FIRST = {"epochs": 28, "learning_rate": 1.5e-3}
SECOND = {"epochs": 20, "learning_rate": 8e-4}
# Shorter than a window in use: more steps in the same time, and harder.
PIECE_SECONDS = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--begin", type=Path, metavar="RUNS", help="networks to go on from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = read_clips(args.data / "meta.csv")
    for fold in args.folds:
        corpus = Corpus([Utterance(c.path, c.name, c.label) for c in clips if c.fold != fold])
        config = SoundTrainingConfig(
            **(FIRST if args.begin is None else SECOND),
            augmentation=SoundAugmentation(seconds=PIECE_SECONDS),
        )
        result = train_sounds(
            network(corpus, fold, args.begin),
            corpus,
            args.output / f"fold-{fold}",
            config,
            pretrained=args.begin is not None,
            progress=lambda done, total: print(f"\r{done}/{total}", end="", flush=True),
        )
        print(f"\nfold {fold}: {result}", flush=True)


def network(corpus: Corpus, fold: int, begin: Path | None) -> SoundResNet:
    """A new network, or that of an earlier run."""
    if begin is not None:
        net = load_checkpoint(begin / f"fold-{fold}" / MODEL)
        assert isinstance(net, SoundResNet)
        return net
    torch.manual_seed(fold)
    net = SoundResNet(SoundResNetConfig(len(corpus.speakers)), corpus.speakers)
    net.begin_as_shortcuts()
    return net


if __name__ == "__main__":
    main()
