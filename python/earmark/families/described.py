"""What ``earmark train`` writes beside the weights: the family and the shape of the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, TypeVar

from earmark.errors import FormatError, first_line
from earmark.nn.config import EcapaConfig, SoundResNetConfig, checked_labels

__all__ = ["described_config", "described_family", "described_labels"]

Config = TypeVar("Config", EcapaConfig, SoundResNetConfig)

# Far beyond any network; what is larger is no network but a trap.
_MAX_SIZE, _MAX_LAYERS = 1 << 16, 16
# What is no number of channels, layers or frames; the network's own class knows the limits.
_PLAIN = {
    "str": (str,),
    "bool": (bool,),
    "float": (float, int),
    "int | None": (int, type(None)),
}


def described_family(path: Path) -> str | None:
    """The family that a safetensors file names in its metadata; None for any other file.

    Raises FormatError when the metadata are not what the trainer writes.
    """
    fields = _description(path)
    if fields is None:
        return None
    family = fields.get("family")
    if not isinstance(family, str):
        raise FormatError(f"{path}: its metadata name the family {family!r}")
    return family


def described_config(path: Path, kind: type[Config]) -> Config | None:
    """The shape of the network, of this kind, as :func:`described_family`."""
    fields = _description(path)
    if fields is None:
        return None
    config = fields.get("config")
    if not isinstance(config, dict):
        raise FormatError(f"{path}: its metadata hold no config of a network")
    types = {field.name: str(field.type) for field in fields_of(kind)}
    for name, value in config.items():
        plain = _PLAIN.get(types.get(name, ""))
        if plain is not None:
            if type(value) not in plain:
                raise FormatError(f"{path}: {name} is {value!r}, expected {types[name]}")
            continue
        sizes = value if isinstance(value, list) else [value]
        if len(sizes) > _MAX_LAYERS or not all(
            type(size) is int and 1 <= size <= _MAX_SIZE for size in sizes
        ):
            raise FormatError(f"{path}: {name} is {value!r}, expected positive integers")
    try:
        return kind.from_dict(config)
    except ValueError as error:
        raise FormatError(f"{path}: {first_line(error)}") from error


def described_labels(path: Path, classes: int) -> tuple[str, ...]:
    """Names of the classes. Raises FormatError where the file gives none, or not so many."""
    labels = (_description(path) or {}).get("labels")
    if not isinstance(labels, list):
        raise FormatError(f"{path}: its metadata hold no names of classes")
    try:
        return checked_labels(labels, classes)
    except ValueError as error:
        raise FormatError(f"{path}: {first_line(error)}") from error


def _description(path: Path) -> Mapping[str, Any] | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("earmark")
    # A torch file, or a broken one, of which its reader has more to say.
    except (SafetensorError, OSError):
        return None
    if text is None:
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: broken metadata: {first_line(error)}") from error
    if not isinstance(fields, dict):
        raise FormatError(f"{path}: its metadata are {type(fields).__name__}, not an object")
    return fields
