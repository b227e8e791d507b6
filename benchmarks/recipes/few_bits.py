"""Weights of few bits, trained towards the float32 network's embeddings.

    python benchmarks/recipes/few_bits.py CKPT --data DATA --precision w3 --run runs/w3
    python benchmarks/recipes/few_bits.py CKPT --data DATA --compressed MODEL --run runs/c16

The second trains what ``earmark compress --size`` made of the quantized network.
Crops of the training speakers without augmentation, no labels. Interrupted, it goes on where it
was. Leaves ``model.earmark`` in the run's folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

import earmark
from earmark import modelfile
from earmark.cli._quantize import layer_precisions
from earmark.training import (
    Augmentation,
    Corpus,
    TrainingConfig,
    find_utterances,
    train_compressed,
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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--precision", type=layer_precisions)
    what.add_argument("--compressed", type=Path, metavar="MODEL")
    parser.add_argument("--price", type=float, default=0.001, help="of --compressed (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-4, help="(%(default)s)")
    parser.add_argument("--run", required=True, help="the folder of the training run")
    args = parser.parse_args()
    speakers = args.data / "speakers" / "train.txt"
    with tqdm(desc="steps", unit="step", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        config = TrainingConfig(
            epochs=args.epochs,
            learning_rate=args.lr,
            weight_decay=0.0,
            average=0.9,
            augmentation=PLAIN,
        )
        net = earmark.load_checkpoint(args.checkpoint, args.family)
        corpus = Corpus(find_utterances(speakers))
        if args.compressed is not None:
            train_compressed(
                net,
                corpus,
                args.run,
                config,
                compressed=modelfile.read(args.compressed),
                price=args.price,
                progress=progress,
            )
            return
        train_quantized(
            net,
            corpus,
            args.run,
            config,
            calibration=read_recordings(speakers)[::EVERY],
            precision=args.precision,
            distill=True,
            progress=progress,
        )


if __name__ == "__main__":
    main()
