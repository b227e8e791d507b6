"""NeMo: a ``.nemo`` archive of ``ecapa_tdnn``, or its state dict alone.

The archive is a tar file, perhaps compressed, with ``model_config.yaml`` and
``model_weights.ckpt``; both are read in memory, nothing is unpacked to disk, and other members are
not looked at. ``decoder.final`` is the classifier, ``preprocessor.`` the front end's constants.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping
from lzma import LZMAError
from pathlib import Path
from typing import Any

from earmark.errors import FormatError, first_line
from earmark.families.ecapa import Toolkit, from_weights, load_file
from earmark.families.weights import state_dict_of
from earmark.nn.ecapa import EcapaTdnn

__all__ = ["TOOLKIT", "is_archive", "load"]

_LAYER = "encoder.layers.{0}"
_ATTENTION = "decoder._pooling.attention_layer"
TOOLKIT = Toolkit(
    "nemo",
    "NeMo",
    {
        "blocks.#.conv.conv": f"{_LAYER}.conv_layer",
        "blocks.#.norm.norm": f"{_LAYER}.bn",
        "blocks.#.tdnn1.conv.conv": f"{_LAYER}.group_tdnn_block.0.conv_layer",
        "blocks.#.tdnn1.norm.norm": f"{_LAYER}.group_tdnn_block.0.bn",
        "blocks.#.res2net_block.conv.conv": f"{_LAYER}.group_tdnn_block.1",
        "blocks.#.res2net_block.norm.norm": f"{_LAYER}.group_tdnn_block.3",
        "blocks.#.tdnn2.conv.conv": f"{_LAYER}.group_tdnn_block.4.conv_layer",
        "blocks.#.tdnn2.norm.norm": f"{_LAYER}.group_tdnn_block.4.bn",
        "blocks.#.se_block.conv1.conv": f"{_LAYER}.se_layer.se_layer.0",
        "blocks.#.se_block.norm.norm": f"{_LAYER}.se_layer.se_layer.2",
        "blocks.#.se_block.conv2.conv": f"{_LAYER}.se_layer.se_layer.3",
        "mfa.conv.conv": "encoder.feature_agg.conv_layer",
        "mfa.norm.norm": "encoder.feature_agg.bn",
        "asp.tdnn.conv.conv": f"{_ATTENTION}.0.conv_layer",
        "asp.tdnn.norm.norm": f"{_ATTENTION}.0.bn",
        "asp.conv.conv": f"{_ATTENTION}.2",
        "asp_bn.norm": "decoder.emb_layers.0.0",
        "fc.conv": "decoder.emb_layers.0.1",
    },
    prefixes=("module.",),
    dropped=("decoder.final.", "preprocessor.", "loss.", "eval_loss."),
    dilations=(1, 1, 1, 1, 1),
    topology={
        "padding": "zero",
        "pad_to": 16,
        "res2": "grouped",
        "se_norm": True,
        "context_floor": 1e-10,
        "pooled_floor": 1e-10,
    },
)

_CONFIG, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"
# Far beyond any network: what is compressed can be of any size.
_MAX_CONFIG, _MAX_WEIGHTS = 1 << 20, 1 << 30
# Arguments of NeMo's constructors that change results, as they must be where they are given.
_PREPROCESSOR = {
    "sample_rate": 16000,
    "n_window_size": None,
    "window_stride": 0.01,
    "n_window_stride": None,
    "window": "hann",
    "normalize": "per_feature",
    "n_fft": 512,
    "exact_pad": False,
    "preemph": 0.97,
    "lowfreq": 0,
    "highfreq": None,
    "log": True,
    "log_zero_guard_type": "add",
    "log_zero_guard_value": 2**-24,
    "mag_power": 2.0,
    "mel_norm": "slaney",
    "frame_splicing": 1,
    "pad_value": 0,
}
_SAME = (("n_fft", None), ("highfreq", 8000))


def load(path: Path) -> EcapaTdnn:
    """The network of an archive, state dict or safetensors file, in evaluation mode."""
    if not is_archive(path):
        return load_file(path, TOOLKIT)
    text, weights = _members(path)
    given = _checked_recipe(_parsed(text, path), path)
    state = TOOLKIT.inference(state_dict_of(io.BytesIO(weights), path), path)
    return from_weights(state, path, TOOLKIT, **given)


def is_archive(path: Path) -> bool:
    """Whether a file is a tar archive, or is called one."""
    return path.is_file() and (path.suffix == ".nemo" or tarfile.is_tarfile(path))


def _members(path: Path) -> tuple[bytes, bytes]:
    """Contents of config and weights."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name not in (_CONFIG, _WEIGHTS):
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                limit = _MAX_CONFIG if name == _CONFIG else _MAX_WEIGHTS
                if file is None or member.size > limit or name in found:
                    raise FormatError(f"{path}: {name} is no plain file, too large or there twice")
                found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError, ValueError) as error:
        if isinstance(error, FormatError) or getattr(error, "filename", None):
            raise
        raise FormatError(f"{path}: broken .nemo archive: {first_line(error)}") from error
    for name in (_CONFIG, _WEIGHTS):
        if name not in found:
            raise FormatError(f"{path}: there is no {name} in this .nemo archive")
    return found[_CONFIG], found[_WEIGHTS]


def _parsed(text: bytes, path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        recipe = yaml.safe_load(text)
    # ValueError: not UTF-8, or a date that does not exist.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {_CONFIG}: broken yaml: {first_line(error)}") from error
    if not isinstance(recipe, dict):
        raise FormatError(f"{path}: {_CONFIG} holds {type(recipe).__name__}, not a mapping")
    return recipe


def _checked_recipe(recipe: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the weights do not tell; FormatError for what earmark cannot do."""

    def part(name: str, target: str) -> Mapping[str, Any]:
        arguments = recipe.get(name)
        if not isinstance(arguments, dict):
            raise FormatError(f"{path}: {_CONFIG}: {name} is missing")
        found = str(arguments.get("_target_", arguments.get("cls", "")))
        if found.rpartition(".")[2] != target:
            raise FormatError(f"{path}: {_CONFIG}: {name} is {found!r}, expected {target}")
        return arguments

    features = part("preprocessor", "AudioToMelSpectrogramPreprocessor")
    # NeMo's default is another window, and of n_fft the next power of two.
    given = {"window_size": 0.02, **features}
    for name, wanted in {"window_size": 0.025, **_PREPROCESSOR}.items():
        if given.get(name, wanted) != wanted and (name, given[name]) not in _SAME:
            raise FormatError(
                f"{path}: {_CONFIG}: preprocessor: {name} = {given[name]!r} is not supported"
            )
    # Zeros go up to a multiple of this, and one frame at least: a centred transform has one more
    # than counts. For 0 there is that one.
    pad_to = features.get("pad_to", 16)
    if type(pad_to) is not int or pad_to < 0:
        raise FormatError(f"{path}: {_CONFIG}: preprocessor: pad_to = {pad_to!r} is not supported")
    pooling = part("decoder", "SpeakerDecoder").get("pool_mode")
    if pooling != "attention":
        raise FormatError(f"{path}: {_CONFIG}: decoder: pool_mode = {pooling!r} is not supported")
    dilations = part("encoder", "ECAPAEncoder").get("dilations")
    if (
        not isinstance(dilations, list)
        or len(dilations) > 16
        or not all(type(n) is int and 1 <= n <= 1 << 10 for n in dilations)
    ):
        raise FormatError(f"{path}: {_CONFIG}: encoder: dilations is {dilations!r}")
    return {"dilations": tuple(dilations), "pad_to": max(pad_to, 1)}
