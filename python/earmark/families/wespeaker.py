"""WeSpeaker: ``avg_model.pt`` of ECAPA_TDNN_GLOB_c512, ECAPA_TDNN_GLOB_c1024 and their like.

Whether the attention sees the global context, and whether a BatchNorm follows the embedding, are
visible in the weights. ``projection.`` is the classifier of training checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from earmark.families.ecapa import Toolkit, load_file
from earmark.families.weights import StateDict
from earmark.nn.ecapa import EcapaTdnn

__all__ = ["TOOLKIT", "load"]

_BLOCK = "layer{next}.se_res2block"
TOOLKIT = Toolkit(
    "wespeaker",
    "WeSpeaker",
    {
        "blocks.#.conv.conv": "layer{next}.conv",
        "blocks.#.norm.norm": "layer{next}.bn",
        "blocks.#.tdnn1.conv.conv": f"{_BLOCK}.0.conv",
        "blocks.#.tdnn1.norm.norm": f"{_BLOCK}.0.bn",
        "blocks.#.res2net_block.blocks.#.conv.conv": f"{_BLOCK}.1.convs.{{1}}",
        "blocks.#.res2net_block.blocks.#.norm.norm": f"{_BLOCK}.1.bns.{{1}}",
        "blocks.#.tdnn2.conv.conv": f"{_BLOCK}.2.conv",
        "blocks.#.tdnn2.norm.norm": f"{_BLOCK}.2.bn",
        "blocks.#.se_block.conv1.conv": f"{_BLOCK}.3.linear1",
        "blocks.#.se_block.conv2.conv": f"{_BLOCK}.3.linear2",
        "mfa.conv.conv": "conv",
        "asp.tdnn.conv.conv": "pool.linear1",
        "asp.conv.conv": "pool.linear2",
        "asp_bn.norm": "bn",
        "fc.conv": "linear",
        "fc_bn.norm": "bn2",
    },
    prefixes=("module.",),
    dropped=("projection.",),
    dense=("blocks.#.se_block.conv1.conv", "blocks.#.se_block.conv2.conv", "fc.conv"),
    topology={
        "padding": "zero",
        "res2": "last",
        "mfa_norm": False,
        "attention_norm": False,
        "context_unbiased": True,
        "context_floor": 0.0,
        "context_added": 1e-7,
        "pooled_floor": 1e-7,
    },
)


def load(path: Path) -> EcapaTdnn:
    """The network of a state dict or safetensors file, in evaluation mode."""
    return load_file(path, TOOLKIT, _told)


def _told(state: StateDict) -> dict[str, bool]:
    weights = (state.get(f"{name}.weight") for name in ("conv", "pool.linear1"))
    shapes = [weight.shape for weight in weights if weight is not None and weight.ndim == 3]
    # Of no context the attention sees the frames alone.
    context = len(shapes) < 2 or shapes[1][1] != shapes[0][0]
    return {"context": context, "embedding_norm": "bn2.weight" in state}
