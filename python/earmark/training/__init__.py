"""Training of ECAPA-TDNNs and sound ResNets. Needs torch, and pyroomacoustics for rooms."""

from __future__ import annotations

from earmark.training.config import (
    Augmentation,
    SoundAugmentation,
    SoundTrainingConfig,
    TrainingConfig,
)
from earmark.training.dataset import Corpus, Recordings, Utterance, find_utterances
from earmark.training.loop import Evaluation
from earmark.training.quantized import train_compressed, train_quantized
from earmark.training.sounds import train_sounds
from earmark.training.trainer import train

__all__ = [
    "Augmentation",
    "Corpus",
    "Evaluation",
    "Recordings",
    "SoundAugmentation",
    "SoundTrainingConfig",
    "TrainingConfig",
    "Utterance",
    "find_utterances",
    "train",
    "train_compressed",
    "train_quantized",
    "train_sounds",
]
