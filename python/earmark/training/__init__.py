"""Training of ECAPA-TDNNs. Needs torch, and pyroomacoustics for simulated rooms."""

from __future__ import annotations

from earmark.training.config import Augmentation, TrainingConfig
from earmark.training.dataset import Corpus, Recordings, Utterance, find_utterances
from earmark.training.trainer import Evaluation, train

__all__ = [
    "Augmentation",
    "Corpus",
    "Evaluation",
    "Recordings",
    "TrainingConfig",
    "Utterance",
    "find_utterances",
    "train",
]
