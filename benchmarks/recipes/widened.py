"""A network of twice the width, begun from a trained one.

    python benchmarks/recipes/widened.py --data DATA --run runs/widened

Net2WiderNet (T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge
Transfer", arXiv:1511.05641) gives every channel of ``DATA/checkpoints/ecapa256-bootstrap.ckpt``
twice, and what reads it the weight in two unequal parts, so that the copies learn different things.
The wide network computes what the narrow one did; then it is fine-tuned. Interrupted, it goes on
where it was. Leaves ``model.safetensors`` in the run's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from _fine_tuning import BOOTSTRAP, fine_tune
from torch import Tensor

import earmark
from earmark.frontend import SpeechBrainFbank
from earmark.nn import EcapaTdnn


def widen(net: EcapaTdnn, seed: int) -> EcapaTdnn:
    """A network of twice the channels that computes the same."""
    config = dataclasses.replace(net.config, channels=tuple(2 * c for c in net.config.channels))
    wide = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), net.family)
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: _twice(tensor, wide.state_dict()[key].shape, generator)
        for key, tensor in net.state_dict().items()
    }
    wide.load_state_dict(state)
    return wide.eval()


def _twice(tensor: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if tensor.ndim and tensor.shape[0] != shape[0]:
        tensor = tensor.repeat_interleave(2, dim=0)
    if tensor.ndim > 1 and tensor.shape[1] != shape[1]:
        share = 0.25 + 0.5 * torch.rand(tensor.shape, generator=generator)
        tensor = torch.stack([share * tensor, (1 - share) * tensor], dim=2).flatten(1, 2)
    return tensor


def largest_difference(net: EcapaTdnn, other: EcapaTdnn) -> float:
    """Of two networks' embeddings of noise, in parts of the largest value."""
    noise = torch.randn(2, 150, 80, generator=torch.Generator().manual_seed(1)) * 10
    with torch.no_grad():
        expected, actual = net(noise), other(noise)
    return float((expected - actual).abs().max() / expected.abs().max())


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("--run", required=True, help="the folder of the training run")
    parser.add_argument("--epochs", type=int, default=4, help="(%(default)s)")
    args = parser.parse_args()
    narrow = earmark.load_checkpoint(args.data / BOOTSTRAP, family="speechbrain")
    net = widen(narrow, seed=0)
    if (difference := largest_difference(narrow, net)) > 1e-4:
        raise RuntimeError(f"the wide network differs by {difference:.1e}")
    fine_tune(net, args.data, args.run, args.epochs, average=0.98)


if __name__ == "__main__":
    main()
