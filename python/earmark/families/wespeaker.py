"""WeSpeaker: ``avg_model.pt`` of ECAPA_TDNN_GLOB_c512, ECAPA_TDNN_GLOB_c1024 and their like.

Whether the attention sees the global context, and whether a BatchNorm follows the embedding, are
visible in the weights. ``projection.`` is the classifier of training checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from earmark.families.ecapa import Toolkit, build, config_from_shapes, load_described
from earmark.families.weights import StateDict, read_state_dict
from earmark.nn.config import EcapaConfig
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
    described = load_described(path, TOOLKIT)
    if described is not None:
        return described
    state = TOOLKIT.inference(read_state_dict(path), path)
    return build(_config(state, path), state, path, TOOLKIT)


def _config(state: StateDict, path: Path) -> EcapaConfig:
    aggregation, attention = (state.get(f"{name}.weight") for name in ("conv", "pool.linear1"))
    context = True
    if aggregation is not None and attention is not None and attention.ndim == 3:
        context = attention.shape[1] != aggregation.shape[0]
    has_norm = "bn2.weight" in state
    return config_from_shapes(state, path, TOOLKIT, context=context, embedding_norm=has_norm)
