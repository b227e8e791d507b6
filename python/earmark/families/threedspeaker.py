"""3D-Speaker: ``ecapa_tdnn.bin`` or ``ecapa-tdnn.ckpt``.

speakerlab/models/ecapa_tdnn/ECAPA_TDNN.py is SpeechBrain's network with the same keys: only the
front end is another one.
"""

from __future__ import annotations

from pathlib import Path

from earmark.families.ecapa import Toolkit, build, config_from_shapes, load_described
from earmark.families.weights import read_state_dict
from earmark.nn.ecapa import EcapaTdnn

__all__ = ["TOOLKIT", "load"]

TOOLKIT = Toolkit("3dspeaker", "3D-Speaker", prefixes=("module.",))


def load(path: Path) -> EcapaTdnn:
    """The network of a state dict or safetensors file, in evaluation mode."""
    described = load_described(path, TOOLKIT)
    if described is not None:
        return described
    state = TOOLKIT.inference(read_state_dict(path), path)
    return build(config_from_shapes(state, path, TOOLKIT), state, path, TOOLKIT)
