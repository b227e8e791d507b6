"""Additive angular margin softmax.

J. Deng, J. Guo, N. Xue, S. Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face
Recognition", arXiv:1801.07698.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AngularMargin"]

# Below it the sine has no usable slope: its derivative would grow without bound.
_MIN_SINE_SQUARED = 1e-6


class AngularMargin(nn.Module):
    """Class centres on the sphere; the angle to an embedding's own centre is enlarged by a margin.

    ``weight``: (classes, dim), normalised when used. With cosines ``c = cos(theta)``, the logits
    are ``scale * c``, for the own class ``scale * cos(theta + margin)``; beyond
    ``theta = pi - margin``, where that would rise again, it goes on as the line
    ``scale * (c - margin * sin(margin))``, as in the authors' code.
    """

    def __init__(self, classes: int, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, dim))
        nn.init.xavier_normal_(self.weight)

    def place(self, centres: Tensor) -> None:
        """Take centres (classes, dim); a class whose centre is 0 keeps its random one."""
        given = centres.norm(dim=1, keepdim=True) > 0
        with torch.no_grad():
            self.weight.copy_(torch.where(given, functional.normalize(centres), self.weight))

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Mean loss and number of embeddings nearest to their own centre, without the margin.

        ``embeddings``: (B, dim); ``labels``: (B,), int64. Computed in float32 whatever the
        autocast.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = functional.linear(
                functional.normalize(embeddings.float()), functional.normalize(self.weight)
            )
            own = cosines.gather(1, labels[:, None])
            sine = (1 - own.square()).clamp(min=_MIN_SINE_SQUARED).sqrt()
            moved = own * math.cos(margin) - sine * math.sin(margin)
            line = own - margin * math.sin(margin)
            moved = torch.where(own > -math.cos(margin), moved, line)
            logits = self.scale * cosines.scatter(1, labels[:, None], moved)
            correct = (cosines.argmax(dim=1) == labels).sum()
            return functional.cross_entropy(logits, labels), correct
