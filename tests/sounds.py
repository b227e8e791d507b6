"""Clips of synthetic sounds, and a small network that knows them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.nn import SoundResNet, SoundResNetConfig
from earmark.training.checkpoint import write_tensors
from networks import random_resnet

from .voices import RATE_HZ, write

LABELS = ("clicks", "hiss", "siren")
CONFIG = SoundResNetConfig(classes=3, n_mels=24, blocks=(1, 1), width=8)


def sound(label: str, seed: int, seconds: float = 2.5) -> NDArray[np.float64]:
    """(n,) at 16 kHz: noise, a glide, or pulses."""
    rng = np.random.default_rng([LABELS.index(label), seed])
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = rng.normal(size=len(time))
    if label == "hiss":
        return 0.1 * noise
    if label == "siren":
        swing = np.sin(2 * np.pi * rng.uniform(0.5, 1.5) * time)
        return 0.3 * np.sin(2 * np.pi * 900 * time + 150 * swing) + 1e-3 * noise
    pulses = (time * rng.uniform(4, 8)) % 1 < 0.02
    return 0.5 * pulses * noise + 1e-3 * noise


def write_clips(folder: Path, each: int = 4, folds: int = 2, **counts: int) -> Path:
    """``folder/label/n.flac`` and ``folder/meta.csv``; ``counts``: clips of labels, if not each."""
    rows = []
    for label in LABELS:
        for i in range(counts.get(label, each)):
            write(folder / label / f"{i}.flac", sound(label, i))
            rows.append((f"{label}/{i}.flac", label, i % folds + 1))
    with (folder / "meta.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class", "fold"))
        writer.writerows(rows)
    return folder


def small_network(seed: int = 0) -> SoundResNet:
    """Random weights, three named classes."""
    state: dict[str, Any] = random_resnet(CONFIG, seed).state_dict()
    net = SoundResNet(CONFIG, LABELS)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def write_checkpoint(net: SoundResNet, path: Path, **fields: Any) -> Path:
    """As the trainer writes it; ``fields`` take the place of what it says of the network."""
    described = {"family": net.family, "config": net.config.to_dict(), "labels": net.labels}
    write_tensors(path, net.state_dict(), {**described, **fields})
    return path
