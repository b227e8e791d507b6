"""What the recipes share: fine-tuning on the training speakers, sounds as noise."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from earmark.nn import EcapaTdnn
from earmark.training import Corpus, Recordings, TrainingConfig, find_utterances, train
from earmark.trials import read_recordings

BOOTSTRAP = Path("checkpoints") / "ecapa256-bootstrap.ckpt"


def fine_tune(net: EcapaTdnn, data: Path, run: str, epochs: int, average: float) -> None:
    """Train all layers at once with the full margin; goes on where it was interrupted."""
    with tqdm(desc="steps", unit="step", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        train(
            net,
            Corpus(find_utterances(data / "speakers" / "train.txt")),
            run,
            TrainingConfig(epochs=epochs, learning_rate=1e-4, margin_warmup=0.0, average=average),
            pretrained=True,
            noise=Recordings(read_recordings(data / "sounds")),
            progress=progress,
        )
