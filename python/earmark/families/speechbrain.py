"""SpeechBrain: ``embedding_model.ckpt`` alone, or the savedir of ``spkrec-ecapa-voxceleb``.

The savedir's ``hyperparams.yaml`` is HyperPyYAML, whose tags (``!new:``, ``!name:``, ``!apply:``)
would create objects; here they are data. Its ``mean_var_norm_emb.ckpt`` is a mean over training
embeddings that SpeechBrain subtracts only in ``encode_batch(..., normalize=True)``; neither
``encode_batch`` by default nor ``verify_batch`` does, so it is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earmark.errors import FormatError, first_line
from earmark.families.ecapa import Toolkit, build, checked_config, load_file
from earmark.families.weights import read_state_dict
from earmark.nn.config import EcapaConfig
from earmark.nn.ecapa import EcapaTdnn

__all__ = ["TOOLKIT", "load"]

# All published models of this shape have the same dilations.
TOOLKIT = Toolkit("speechbrain", "SpeechBrain")

# What SpeechBrain's constructors take where the yaml is silent, for arguments that change results.
_NETWORK_DEFAULTS = {
    "channels": [512, 512, 512, 512, 1536],
    "kernel_sizes": [5, 3, 3, 3, 1],
    "dilations": [1, 2, 3, 4, 1],
    "attention_channels": 128,
    "res2net_scale": 8,
    "se_channels": 128,
    "lin_neurons": 192,
}
_FBANK_ONLY = {
    "deltas": False,
    "context": False,
    "sample_rate": 16000,
    "f_min": 0,
    "f_max": 8000,
    "n_fft": 400,
    "filter_shape": "triangular",
    "param_rand_factor": 0.0,
    "win_length": 25,
    "hop_length": 10,
}


def load(path: Path) -> EcapaTdnn:
    """The network of a state dict, safetensors file or savedir, in evaluation mode."""
    if not path.is_dir():
        return load_file(path, TOOLKIT)
    recipe = path / "hyperparams.yaml"
    if not recipe.is_file():
        raise FormatError(f"{path}: no hyperparams.yaml in this folder")
    config = _config_from_recipe(_Recipe.read(recipe))
    weights = path / "embedding_model.ckpt"
    return build(config, read_state_dict(weights), weights, TOOLKIT)


@dataclass(frozen=True)
class _Tagged:
    """A yaml node with a tag of HyperPyYAML, as data."""

    tag: str
    value: Any


@dataclass(frozen=True)
class _Recipe:
    """The top-level mapping of a hyperparams.yaml."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Recipe:
        import yaml

        class Loader(yaml.SafeLoader):
            """Plain yaml; ``!anything`` becomes a _Tagged."""

        def tagged(loader: Loader, suffix: str, node: yaml.Node) -> _Tagged:
            if isinstance(node, yaml.MappingNode):
                return _Tagged(suffix, loader.construct_mapping(node, deep=True))
            if isinstance(node, yaml.SequenceNode):
                return _Tagged(suffix, loader.construct_sequence(node, deep=True))
            return _Tagged(suffix, node.value)

        Loader.add_multi_constructor("!", tagged)
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        # ValueError: not UTF-8, or a date that does not exist.
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise FormatError(f"{path}: broken yaml: {first_line(error)}") from error
        if not isinstance(content, dict):
            raise FormatError(f"{path}: holds {type(content).__name__}, not a mapping")
        return cls(path, content)

    def get(self, key: str) -> Any:
        """A top-level value, with references followed."""
        if key not in self.content:
            raise FormatError(f"{self.path}: {key} is missing")
        return self._resolve(self.content[key], key)

    def arguments(self, key: str, class_name: str) -> dict[str, Any]:
        """The arguments of a top-level ``!new:`` whose class must be ``class_name``."""
        found = self.get(key)
        if not isinstance(found, _Tagged) or found.tag.rpartition(".")[2] != class_name:
            what = f"!{found.tag}" if isinstance(found, _Tagged) else repr(found)
            raise FormatError(f"{self.path}: {key} is {what}, expected !new:...{class_name}")
        if not isinstance(found.value, dict):
            if found.value == "":
                return {}
            raise FormatError(f"{self.path}: the arguments of {key} need names")
        return {name: self._resolve(value, key) for name, value in found.value.items()}

    def _resolve(self, value: Any, key: str) -> Any:
        """The value, or the items of a list, with references followed."""
        value = self._follow(value, key)
        return [self._follow(item, key) for item in value] if isinstance(value, list) else value

    def _follow(self, value: Any, key: str) -> Any:
        for _ in range(len(self.content) + 1):
            if not isinstance(value, _Tagged) or value.tag not in ("ref", "copy"):
                return value
            match = re.fullmatch(r"<(\w+)>", str(value.value).strip())
            if match is None or match[1] not in self.content:
                raise FormatError(
                    f"{self.path}: {key}: cannot follow the reference {value.value!r}"
                )
            value = self.content[match[1]]
        raise FormatError(f"{self.path}: {key}: its references go round in a circle")


def _config_from_recipe(recipe: _Recipe) -> EcapaConfig:
    """Network and front end of a hyperparams.yaml; FormatError for what earmark cannot do."""
    fbank = recipe.arguments("compute_features", "Fbank")
    n_mels = fbank.pop("n_mels", 40)
    _only(recipe, "compute_features", fbank, _FBANK_ONLY)
    normalisation = recipe.arguments("mean_var_norm", "InputNormalization")
    # Both must be given: SpeechBrain's defaults are others.
    for name, wanted in (("norm_type", "sentence"), ("std_norm", False)):
        if normalisation.get(name) != wanted:
            raise FormatError(
                f"{recipe.path}: mean_var_norm: {name} is {normalisation.get(name)!r}, "
                f"only {wanted!r} is supported"
            )

    # Of the recordings: SpeechBrain resamples what it loads to this rate.
    rate = recipe.get("sample_rate") if "sample_rate" in recipe.content else 16000
    if rate != 16000:
        raise FormatError(f"{recipe.path}: sample_rate is {rate!r}, only 16000 is supported")

    network = recipe.arguments("embedding_model", "ECAPA_TDNN")
    given = {name: network.pop(name, default) for name, default in _NETWORK_DEFAULTS.items()}
    if network.pop("input_size", None) != n_mels:
        raise FormatError(f"{recipe.path}: embedding_model: input_size is not n_mels, {n_mels!r}")
    groups = network.pop("groups", [])
    activation = network.pop("activation", _Tagged("name:torch.nn.ReLU", ""))
    plain = isinstance(groups, list) and all(group == 1 for group in groups)
    if not plain or not isinstance(activation, _Tagged) or not activation.tag.endswith(".ReLU"):
        raise FormatError(
            f"{recipe.path}: embedding_model: only groups of 1 and ReLU are supported, "
            f"got {groups!r} and {activation!r}"
        )
    network.pop("device", None)
    network.pop("dropout", None)  # of training only
    _only(recipe, "embedding_model", network, {"global_context": True})
    return checked_config(
        recipe.path,
        n_mels=_integer(recipe, "n_mels", n_mels),
        channels=_integers(recipe, "channels", given["channels"]),
        kernel_sizes=_integers(recipe, "kernel_sizes", given["kernel_sizes"]),
        dilations=_integers(recipe, "dilations", given["dilations"]),
        attention_channels=_integer(recipe, "attention_channels", given["attention_channels"]),
        res2_scale=_integer(recipe, "res2net_scale", given["res2net_scale"]),
        se_channels=_integer(recipe, "se_channels", given["se_channels"]),
        embedding=_integer(recipe, "lin_neurons", given["lin_neurons"]),
    )


def _only(
    recipe: _Recipe, key: str, arguments: Mapping[str, Any], allowed: Mapping[str, Any]
) -> None:
    """Arguments that are given must have the one value that is supported."""
    for name, value in arguments.items():
        if name not in allowed or value != allowed[name]:
            raise FormatError(f"{recipe.path}: {key}: {name} = {value!r} is not supported")


def _integer(recipe: _Recipe, name: str, value: Any) -> int:
    # The largest published width is 3072; what lies far beyond is no network but a trap.
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise FormatError(f"{recipe.path}: {name} is {value!r}, expected a positive integer")
    return value


def _integers(recipe: _Recipe, name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 16:
        raise FormatError(f"{recipe.path}: {name} is {value!r}, expected a list of integers")
    return tuple(_integer(recipe, name, item) for item in value)
