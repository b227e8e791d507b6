"""How large the layers of a model file are, stored and decoded, and what their weights carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.compression import RAW
from earmark.modelfile import ModelFile
from earmark.storage import stored_sizes

__all__ = ["entropies", "layer_entropies", "layer_storage"]

Array = NDArray[Any]

_VALUES = 256


def layer_storage(model: ModelFile, decoded: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """Of each layer that the file tells of, by name: how it is stored.

    decoded: the model's arrays. ``bytes`` and ``decoded_bytes`` are of all the layer's arrays,
    ``coding`` and ``bits_per_weight`` of its weights as stored: a share of the stream, for codings
    that tell no array's own; None without weights.
    """
    storage = model.metadata.get("storage", {})
    stored = stored_sizes(model.arrays, storage)
    codings = dict.fromkeys(model.arrays, RAW)
    for name, coding in storage.items():
        codings |= dict.fromkeys(coding.get("arrays", [name]), coding["coding"])
    plain = {name: array.nbytes for name, array in decoded.items()}
    layers = {}
    for layer in (layer["name"] for layer in model.metadata["layers"]):
        name = f"{layer}.weight"
        bits = 8 * stored[name] / max(1, decoded[name].size) if name in decoded else None
        layers[layer] = {
            "coding": codings.get(name),
            "bytes": _of_layer(stored, layer),
            "decoded_bytes": _of_layer(plain, layer),
            "bits_per_weight": bits,
        }
    return layers


def layer_entropies(model: ModelFile) -> dict[str, dict[str, float | None]]:
    """Of each layer that the file tells of, by name: ``entropy_bits`` and
    ``first_order_entropy_bits`` a weight as ``entropies`` has them, None but for int8 weights."""
    decoded = model.decoded_arrays()
    layers = {}
    for layer in (layer["name"] for layer in model.metadata["layers"]):
        weight = decoded.get(f"{layer}.weight")
        found: tuple[float | None, float | None] = (None, None)
        if weight is not None and weight.dtype == np.int8:
            found = entropies(weight)
        layers[layer] = {"entropy_bits": found[0], "first_order_entropy_bits": found[1]}
    return layers


def _of_layer(sizes: dict[str, int], layer: str) -> int:
    return sum(size for key, size in sizes.items() if key.rpartition(".")[0] == layer)


def entropies(weight: Array) -> tuple[float, float]:
    """Bits a weight of int8 weights, taken alone, and each after the one before it.

    weight: (out, ...); its rows begin anew. The second is below the first where neighbours tell of
    each other, and where there are too few weights for so many pairs.
    """
    values = weight.reshape(len(weight), -1).view(np.uint8).astype(np.int64)
    pairs = np.bincount(
        (_VALUES * values[:, :-1] + values[:, 1:]).reshape(-1), minlength=_VALUES * _VALUES
    )
    before = pairs.reshape(_VALUES, _VALUES).sum(axis=1)
    alone = _bits(np.bincount(values.reshape(-1), minlength=_VALUES)) / max(1, values.size)
    after = (_bits(pairs) - _bits(before)) / max(1, int(pairs.sum()))
    return alone, after if pairs.any() else alone


def _bits(counts: Array) -> float:
    """Of all that was counted, coded with its own frequencies."""
    found = counts[counts > 0].astype(np.float64)
    return float(-(found * np.log2(found / found.sum())).sum())
