"""Where the class centres of a network that is trained already should start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from earmark.nn.ecapa import EcapaTdnn
from earmark.training.batches import Examples, stacked

__all__ = ["mean_embeddings"]

# Of a speaker with more utterances the first ones will do.
_UTTERANCES = 8
_BATCH = 32


def mean_embeddings(net: EcapaTdnn, examples: Examples, threads: int) -> Tensor:
    """Means (classes, dim) of the normalised embeddings of up to 8 clean crops of each class.

    A class of which nothing can be read has the mean 0. ``net`` is left in the mode it had.
    """
    device = net.fc.conv.weight.device
    sums = torch.zeros(examples.classes, net.config.embedding, device=device)
    counts = torch.zeros(examples.classes, 1, device=device)
    mode = net.training
    net.eval()
    with torch.no_grad(), ThreadPoolExecutor(threads) as pool:
        indices = examples.of_each_class(_UTTERANCES).tolist()
        for begin in range(0, len(indices), _BATCH):
            batch = indices[begin : begin + _BATCH]
            features, classes = stacked(pool.map(examples.make_clean, batch))
            embeddings = functional.normalize(net(features.to(device))[:, 0])
            for row, label in enumerate(classes.tolist()):
                sums[label] += embeddings[row]
                counts[label] += 1
    net.train(mode)
    return sums / counts.clamp(min=1)
