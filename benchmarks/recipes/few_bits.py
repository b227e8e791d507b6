"""Weights of few bits, trained towards the float32 network's embeddings.

    python benchmarks/recipes/few_bits.py CKPT --data DATA --precision w3 --run runs/w3

Crops of the training speakers without augmentation, no labels. Interrupted, it goes on where it
was. Leaves ``model.earmark`` in the run's folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

import earmark
from earmark.cli._quantize import layer_precisions
from earmark.training import (
    Augmentation,
    Corpus,
    TrainingConfig,
    find_utterances,
    train_quantized,
)
from earmark.trials import read_recordings

PLAIN = Augmentation(speeds=(1.0,), noise=0.0, room=0.0, mask_mels=(), mask_frames=())
EVERY = 4  # of the recordings calibrate


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--family", default="speechbrain", help="(%(default)s)")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("--precision", type=layer_precisions, required=True)
    parser.add_argument("--epochs", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-4, help="(%(default)s)")
    parser.add_argument("--run", required=True, help="the folder of the training run")
    args = parser.parse_args()
    speakers = args.data / "speakers" / "train.txt"
    with tqdm(desc="steps", unit="step", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        train_quantized(
            earmark.load_checkpoint(args.checkpoint, args.family),
            Corpus(find_utterances(speakers)),
            args.run,
            TrainingConfig(
                epochs=args.epochs,
                learning_rate=args.lr,
                weight_decay=0.0,
                average=0.9,
                augmentation=PLAIN,
            ),
            calibration=read_recordings(speakers)[::EVERY],
            precision=args.precision,
            distill=True,
            progress=progress,
        )


if __name__ == "__main__":
    main()
