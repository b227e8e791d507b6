"""What the recipes share: fine-tuning on the training speakers, sounds as noise; statistics of
BatchNorms."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from earmark.audio import read_audio
from earmark.nn import EcapaTdnn
from earmark.training import Corpus, Recordings, TrainingConfig, find_utterances, train
from earmark.trials import read_recordings

BOOTSTRAP = Path("checkpoints") / "ecapa256-bootstrap.ckpt"
RATE_HZ, CROP_SECONDS = 16000, 3


def crops(data: Path, count: int) -> list[NDArray[np.float32]]:
    """The first 3 s of training recordings, of those that are that long."""
    paths = read_recordings(data / "speakers" / "train.txt")
    waves = [
        read_audio(path, target_rate=RATE_HZ).samples for path in paths[:: len(paths) // count]
    ]
    size = CROP_SECONDS * RATE_HZ
    return [wave[:size] for wave in waves if len(wave) >= size]


def set_statistics(net: EcapaTdnn, waves: list[NDArray[np.float32]]) -> None:
    """Give the BatchNorms the statistics that crops of one length have; in evaluation mode then."""
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all that it sees
    with torch.no_grad():
        net.train()(torch.from_numpy(np.stack([net.front_end(wave) for wave in waves])))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    net.eval()


def fine_tune(
    net: EcapaTdnn,
    data: Path,
    run: str,
    epochs: int,
    average: float,
    learning_rate: float = 1e-4,
) -> None:
    """Train all layers at once with the full margin; goes on where it was interrupted."""
    with tqdm(desc="steps", unit="step", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        train(
            net,
            Corpus(find_utterances(data / "speakers" / "train.txt")),
            run,
            TrainingConfig(
                epochs=epochs, learning_rate=learning_rate, margin_warmup=0.0, average=average
            ),
            pretrained=True,
            noise=Recordings(read_recordings(data / "sounds")),
            progress=progress,
        )
