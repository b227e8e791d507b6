"""From a network's weights to its float32 plan, one module an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark.modelfile import Arrays
from earmark.nn.config import EcapaConfig
from earmark.plan import PlanBuilder

if TYPE_CHECKING:
    from earmark.nn import EcapaTdnn, SoundResNet

__all__ = ["lower"]


def lower(net: EcapaTdnn | SoundResNet, state: Arrays) -> PlanBuilder:
    """The float32 plan of a network. state: its state dict as float32 arrays."""
    if isinstance(net.config, EcapaConfig):
        from earmark.lowering.ecapa import lower_ecapa
        from earmark.lowering.softmax import lower_softmax

        return lower_ecapa(net.config, state, lower_softmax(net.asp.softmax))
    from earmark.lowering.resnet import lower_resnet

    return lower_resnet(net.config, state)
