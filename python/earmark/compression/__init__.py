"""Weights coded for transmission: paper P4 and beyond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.compression import per_tensor
from earmark.modelfile import ModelFile
from earmark.plan import ALL, by_layer
from earmark.storage import CODECS
from earmark.storage.levels import WeightLevels

__all__ = ["HEVC", "RAW", "WEIGHT_CODECS", "compress", "with_levels"]

Array = NDArray[Any]

RAW = "raw"
HEVC = "hevc"
WEIGHT_CODECS = (RAW, "rans", "zstd", HEVC)
"""What weights can be stored in, as commands name it."""

_RANS = "rans"
# Of what is not integers of weights: little, of many equal values.
_REST = "deflate"


def compress(
    model: ModelFile,
    codec: str | Mapping[str, str] = _RANS,
    *,
    qp: int | None = None,
    levels: str | None = None,
) -> ModelFile:
    """The same model, its arrays stored in another coding.

    codec: a name in ``WEIGHT_CODECS``, or such names by the name of a layer, leading part of one or
    "all" ("rans" where none is given). qp: of the weights that are HEVC pictures, 0 to 51; without
    one they stay as they are. levels: "symmetric" or "asymmetric", int8 weights are stored with one
    scale for the whole tensor, as in P4. Without ``qp`` and ``levels`` nothing that the model
    computes changes; with one of them its measured figures are left out. Raises ValueError for an
    unknown name, for HEVC without any int8 weights and for a ``qp`` without HEVC.

    >>> from importlib.resources import files
    >>> from earmark import modelfile
    >>> model = modelfile.read(files("earmark") / "data" / "demo-int8.earmark")
    >>> len(modelfile.to_bytes(compress(model))) < len(modelfile.to_bytes(model))
    True
    """
    arrays = model.decoded_arrays()
    chosen = _codecs(model, codec)
    pictures = [name for name, wanted in chosen.items() if wanted == HEVC]
    if qp is not None and not pictures:
        raise ValueError("a QP is of HEVC alone, which no layer has")
    if pictures and not any(_is_picture(f"{name}.weight", arrays) for name in pictures):
        raise ValueError("HEVC is for int8 weights, of which these layers have none")
    coarse = {} if levels is None else _levels(model, arrays, levels)
    return _stored(model, arrays, chosen, coarse, qp)


def with_levels(
    model: ModelFile, arrays: Mapping[str, Array], levels: Mapping[str, WeightLevels]
) -> ModelFile:
    """The model with arrays of the plan in place of its own, in the entropy coder.

    levels: what stands for some of the weights, by name.
    """
    return _stored(model, arrays, _codecs(model, _RANS), levels, None)


def _stored(
    model: ModelFile,
    arrays: Mapping[str, Array],
    chosen: Mapping[str, str],
    coarse: Mapping[str, WeightLevels],
    qp: int | None,
) -> ModelFile:
    groups: dict[tuple[str, str], dict[str, Array]] = {}
    stored: dict[str, Array] = {}
    for name, array in arrays.items():
        wanted = chosen[name.rpartition(".")[0]]
        if wanted == RAW:
            stored[name] = array
            continue
        kept = array
        if name in coarse:
            kept = coarse[name].levels
            groups.setdefault((_REST, "float32"), {})[_step_of(name)] = coarse[name].step
        if wanted == HEVC and not _is_picture(name, arrays):
            wanted = _RANS
        if wanted == _RANS and array.dtype == np.float32:
            wanted = _REST
        groups.setdefault((wanted, kept.dtype.name), {})[name] = kept
    storage = {}
    for (wanted, dtype), group in groups.items():
        name = f"coded.{wanted}.{dtype}"
        lossy = {} if wanted != HEVC else {"qp": qp}
        stored[name], storage[name] = CODECS[wanted].encode(group, **lossy)
        if held := sorted(set(group) & set(coarse)):
            storage[name]["levels"] = {
                key: {"step": _step_of(key), "zero": coarse[key].zero} for key in held
            }
    metadata = {key: value for key, value in model.metadata.items() if key != "storage"}
    if storage:
        metadata["storage"] = storage
    if qp is not None or coarse:
        metadata["measured"] = {}
    return ModelFile(metadata, stored)


def _is_picture(name: str, arrays: Mapping[str, Array]) -> bool:
    """What HEVC can take."""
    return name.endswith(".weight") and name in arrays and arrays[name].dtype == np.int8


def _step_of(weight: str) -> str:
    """Name of the array of a weight's steps."""
    return f"{weight.rpartition('.')[0]}.step"


def _levels(model: ModelFile, arrays: Mapping[str, Array], levels: str) -> dict[str, WeightLevels]:
    """Of all int8 weights, by name."""
    if levels not in ("symmetric", "asymmetric"):
        raise ValueError(f"levels are symmetric or asymmetric, not {levels!r}")
    scales = per_tensor.channel_scales(model, arrays)
    return {
        name: per_tensor.of_plan(arrays[name], scale, levels == "symmetric")
        for name, scale in scales.items()
    }


def _codecs(model: ModelFile, given: str | Mapping[str, str]) -> dict[str, str]:
    """The codec of every op's arrays."""
    codecs = {ALL: _RANS, **({ALL: given} if isinstance(given, str) else given)}
    for wanted in codecs.values():
        if wanted not in WEIGHT_CODECS:
            raise ValueError(f"unknown codec {wanted!r}: known are {', '.join(WEIGHT_CODECS)}")
    return by_layer(model.plan, codecs)
