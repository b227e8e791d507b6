"""Checkpoints of the toolkits ("families") that train ECAPA-TDNNs, and of sound networks.

A family is a module here with ``load(path)`` and a line in ``_FAMILIES``. Where the keys of a state
dict are those of one family alone, the file says which it is; those of SpeechBrain and 3D-Speaker
have the same keys and shapes, and are never assigned to one by their look.
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
    "3dspeaker": "earmark.families.threedspeaker",
    "nemo": "earmark.families.nemo",
    "sound-resnet": "earmark.families.sound",
    "speechbrain": "earmark.families.speechbrain",
    "taoruijie": "earmark.families.taoruijie",
    "wespeaker": "earmark.families.wespeaker",
}


def load_checkpoint(
    path: str | os.PathLike[str], family: str | None = None
) -> EcapaTdnn | SoundResNet:
    """Load a trained network, in float32 and evaluation mode, without gradients.

    ``path`` is a torch state dict, a safetensors file, a SpeechBrain model folder (the savedir with
    its ``hyperparams.yaml``) or a NeMo archive. Only a state dict that fits two families, or none,
    needs ``family``. Nothing in the files is executed. Raises ValueError for an unknown family,
    FormatError, naming file, key and value, for a file that does not hold such a network, and
    OSError for one that cannot be read.
    """
    source = Path(path)
    if family is None:
        source.stat()  # what is not there is no question of family
        recipe = source / "hyperparams.yaml"
        family = "speechbrain" if recipe.is_file() else described_family(source)
    if family is None:
        family = _told_family(source)
    if family not in _FAMILIES:
        raise ValueError(f"family {family!r} is unknown; supported: {', '.join(_FAMILIES)}")
    network: EcapaTdnn | SoundResNet = import_module(_FAMILIES[family]).load(source)
    return network


def _told_family(path: Path) -> str:
    """The one family whose keys a file has. FormatError where there is none, or more."""
    from earmark.families.nemo import is_archive
    from earmark.families.weights import read_state_dict

    if is_archive(path):
        return "nemo"
    toolkits = [getattr(import_module(name), "TOOLKIT", None) for name in _FAMILIES.values()]
    keys = list(read_state_dict(path)) if path.is_file() else []
    fits = [toolkit.family for toolkit in toolkits if toolkit and toolkit.recognises(keys)]
    if len(fits) == 1:
        return str(fits[0])
    why = f"{' and '.join(fits)} have the same keys" if fits else f"known: {', '.join(_FAMILIES)}"
    raise FormatError(f"{path}: the family cannot be told from this file, name it; {why}")
