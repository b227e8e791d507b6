"""TaoRuijie/ECAPA-TDNN: a checkpoint of its trainer, or of the speaker encoder alone.

The trainer's has the encoder behind ``speaker_encoder.``, beside it the classifier
(``speaker_loss.``) and the front end's constants (``torchfbank.``), which are not read.
"""

from __future__ import annotations

from pathlib import Path

from earmark.families.ecapa import Toolkit, load_file
from earmark.nn.ecapa import EcapaTdnn

__all__ = ["TOOLKIT", "load"]

TOOLKIT = Toolkit(
    "taoruijie",
    "TaoRuijie",
    {
        "blocks.#.conv.conv": "conv1",
        "blocks.#.norm.norm": "bn1",
        "blocks.#.tdnn1.conv.conv": "layer{0}.conv1",
        "blocks.#.tdnn1.norm.norm": "layer{0}.bn1",
        "blocks.#.res2net_block.blocks.#.conv.conv": "layer{0}.convs.{1}",
        "blocks.#.res2net_block.blocks.#.norm.norm": "layer{0}.bns.{1}",
        "blocks.#.tdnn2.conv.conv": "layer{0}.conv3",
        "blocks.#.tdnn2.norm.norm": "layer{0}.bn3",
        "blocks.#.se_block.conv1.conv": "layer{0}.se.se.1",
        "blocks.#.se_block.conv2.conv": "layer{0}.se.se.3",
        "mfa.conv.conv": "layer4",
        "asp.tdnn.conv.conv": "attention.0",
        "asp.tdnn.norm.norm": "attention.2",
        "asp.conv.conv": "attention.4",
        "asp_bn.norm": "bn5",
        "fc.conv": "fc6",
        "fc_bn.norm": "bn6",
    },
    prefixes=("module.", "speaker_encoder."),
    dropped=("speaker_loss.", "torchfbank."),
    dense=("fc.conv",),
    topology={
        "padding": "zero",
        "res2": "last",
        "accumulated": True,
        "mfa_norm": False,
        "context_unbiased": True,
        "context_floor": 1e-4,
        "pooled_floor": 1e-4,
        "embedding_norm": True,
    },
)


def load(path: Path) -> EcapaTdnn:
    """The network of a checkpoint or safetensors file, in evaluation mode."""
    return load_file(path, TOOLKIT)
