"""Networks and layers in torch.

torch is imported with the first use of a network, so that :mod:`earmark.nn.config` can be read
without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earmark.nn.config import EcapaConfig

if TYPE_CHECKING:
    from earmark.nn.ecapa import EcapaTdnn

__all__ = ["EcapaConfig", "EcapaTdnn"]


def __getattr__(name: str) -> Any:
    if name == "EcapaTdnn":
        from earmark.nn.ecapa import EcapaTdnn

        return EcapaTdnn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
