"""How arrays are stored in a model file, apart from how they are computed with.

The metadata's ``storage`` names the stored arrays that are not what the plan computes with, each
with its coding (docs/file-format.md). A coding of one array, such as ``bits``, is under that
array's name; a stream of several names the ``arrays`` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from earmark.storage import bits, deflate, float16, hevc, levels, rans, zstd
from earmark.storage.group import Group

__all__ = ["CODECS", "Group", "decode_arrays", "encode_arrays", "stored_sizes"]

Array = NDArray[Any]
JSON = dict[str, Any]

CODECS: dict[str, Any] = {"deflate": deflate, "hevc": hevc, "rans": rans, "zstd": zstd}
"""Codings of streams: modules of ``encode``, ``decode`` and ``sizes``."""


def encode_arrays(
    arrays: Mapping[str, Array], encoders: Mapping[str, Callable[[Array], tuple[Array, JSON]]]
) -> tuple[dict[str, Array], dict[str, JSON]]:
    """Arrays as they are stored, and the ``storage`` of the metadata. Raises ValueError."""
    stored, storage = dict(arrays), {}
    for name, encode in encoders.items():
        try:
            stored[name], storage[name] = encode(arrays[name])
        except ValueError as error:
            raise ValueError(f"array {name!r}: {error}") from error
    return stored, storage


def decode_arrays(stored: Mapping[str, Array], storage: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays to compute with. Raises ValueError for a storage that does not fit them."""
    if missing := sorted(set(storage) - set(stored)):
        raise ValueError(f"array {missing[0]!r} is not there")
    arrays = {name: array for name, array in stored.items() if name not in storage}
    coarse: dict[str, tuple[str, int]] = {}
    for name, coding in storage.items():
        try:
            found, steps = _decode(name, stored[name], coding)
            if twice := sorted(set(found) & set(arrays)):
                raise ValueError(f"holds {twice[0]!r}, which is there twice")
        except ValueError as error:
            raise ValueError(f"array {name!r}: {error}") from error
        arrays |= found
        coarse |= steps
    for name, (step, zero) in coarse.items():
        try:
            if step not in arrays:
                raise ValueError(f"has steps {step!r} that are not there")
            arrays[name] = levels.restored(arrays[name], arrays[step], zero)
        except ValueError as error:
            raise ValueError(f"array {name!r}: {error}") from error
    used = {step for step, _ in coarse.values()}
    return {name: array for name, array in arrays.items() if name not in used}


def stored_sizes(stored: Mapping[str, Array], storage: Mapping[str, Any]) -> dict[str, int]:
    """Bytes in the file of each array, by the plan's name."""
    sizes: dict[str, int] = {}
    for name, array in stored.items():
        coding = storage.get(name, {})
        if "arrays" in coding:
            group = Group.parse(coding["dtype"], coding["arrays"], array)
            sizes |= CODECS[coding["coding"]].sizes(array, group)
        else:
            sizes[name] = array.nbytes
    return sizes


def _decode(
    name: str, stored: Array, coding: Any
) -> tuple[dict[str, Array], dict[str, tuple[str, int]]]:
    """The arrays that a stored one holds, and the steps of those that are levels."""
    match coding:
        case {"coding": "float16", **rest} if not rest:
            return {name: float16.decode(stored)}, {}
        case {"coding": "bits", "bits": n, "shape": shape, **rest} if not rest:
            return {name: bits.decode(stored, n, shape)}, {}
        case {"coding": str(codec), "dtype": dtype, "arrays": held, **rest} if codec in CODECS:
            if set(rest) <= {"levels"}:
                group = Group.parse(dtype, held, stored)
                steps = levels.parse(rest.get("levels", {}))
                if unknown := sorted(set(steps) - set(group.shapes)):
                    raise ValueError(f"has levels of {unknown[0]!r}, which it does not hold")
                return CODECS[codec].decode(stored, group), steps
    raise ValueError("is stored in an unknown coding")
