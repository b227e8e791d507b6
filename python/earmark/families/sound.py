"""Sound ResNets that earmark trained: a safetensors file whose metadata name shape and classes."""

from __future__ import annotations

from pathlib import Path

import torch

from earmark.errors import FormatError
from earmark.families.described import described_config, described_labels
from earmark.families.weights import fill, read_state_dict
from earmark.nn.config import SoundResNetConfig
from earmark.nn.resnet import SoundResNet

__all__ = ["load"]


def load(path: Path) -> SoundResNet:
    """The network of a file of ``earmark train``, in evaluation mode."""
    config = described_config(path, SoundResNetConfig) if path.is_file() else None
    if config is None:
        raise FormatError(f"{path}: not a sound ResNet that `earmark train` wrote")
    state = read_state_dict(path)
    labels = described_labels(path, config.classes)
    with torch.device("meta"):
        net = SoundResNet(config, labels)
    fill(net, state, path, "a sound ResNet")
    return net.eval().requires_grad_(False)
