"""Checkpoints of the toolkits ("families") that train ECAPA-TDNNs, and of sound networks.

A family is a module here with ``load(path)`` and a line in ``_FAMILIES``. The state dicts of some
families have the same keys and shapes, so a bare file is never assigned to one by its look.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from earmark.errors import FormatError
from earmark.families.described import described_family

if TYPE_CHECKING:
    from earmark.nn import EcapaTdnn, SoundResNet

__all__ = ["load_checkpoint"]

_FAMILIES = {
    "sound-resnet": "earmark.families.sound",
    "speechbrain": "earmark.families.speechbrain",
}
_NOT_YET = ("3dspeaker", "taoruijie", "wespeaker", "nemo")


def load_checkpoint(
    path: str | os.PathLike[str], family: str | None = None
) -> EcapaTdnn | SoundResNet:
    """Load a trained network, in float32 and evaluation mode, without gradients.

    ``path`` is a torch state dict, a safetensors file, or a SpeechBrain model folder (the savedir
    with its ``hyperparams.yaml``). The last and a file of ``earmark train`` need no ``family``.
    Nothing in the files is executed. Raises ValueError for an unknown family, FormatError, naming
    file, key and value, for a file that does not hold such a network, and OSError for one that
    cannot be read.
    """
    source = Path(path)
    if family is None:
        source.stat()  # what is not there is no question of family
        recipe = source / "hyperparams.yaml"
        family = "speechbrain" if recipe.is_file() else described_family(source)
    if family is None:
        raise FormatError(
            f"{source}: the family cannot be told from this file, name it; known: "
            f"{', '.join(_FAMILIES)}"
        )
    if family in _NOT_YET:
        raise ValueError(
            f"family {family!r} is not supported yet; supported: {', '.join(_FAMILIES)}"
        )
    if family not in _FAMILIES:
        raise ValueError(
            f"family {family!r} is unknown; supported: {', '.join(_FAMILIES)}; "
            f"not supported yet: {', '.join(_NOT_YET)}"
        )
    network: EcapaTdnn | SoundResNet = import_module(_FAMILIES[family]).load(source)
    return network
