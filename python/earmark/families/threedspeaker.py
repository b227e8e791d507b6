"""3D-Speaker: ``ecapa_tdnn.bin`` or ``ecapa-tdnn.ckpt``.

speakerlab/models/ecapa_tdnn/ECAPA_TDNN.py is SpeechBrain's network with the same keys: only the
front end is another one.
"""

from __future__ import annotations

from pathlib import Path

from earmark.families.ecapa import Toolkit, load_file
from earmark.nn.ecapa import EcapaTdnn

__all__ = ["TOOLKIT", "load"]

TOOLKIT = Toolkit("3dspeaker", "3D-Speaker", prefixes=("module.",))


def load(path: Path) -> EcapaTdnn:
    """The network of a state dict or safetensors file, in evaluation mode."""
    return load_file(path, TOOLKIT)
