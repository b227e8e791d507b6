"""The ``.earmark`` file: safetensors, canonical JSON and a digest (docs/file-format.md)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from earmark.errors import FormatError
from earmark.storage import decode_arrays

__all__ = ["FORMAT_VERSION", "ModelFile", "digest", "read", "to_bytes", "write"]

FORMAT_VERSION = 1
_NO_DIGEST = "0" * 64
_DTYPES = ("int8", "int16", "float32")
_CODED_DTYPES = ("uint8", "float16")
# A name that JSON writes in one way only: no bit of the header can change unnoticed.
_TENSOR_NAME = re.compile(r"[!#-\[\]-~]+")
_STATISTICS = ("min", "max", "mean", "std")
_MAX_PARAMETERS = 1 << 40
# A compressed file's longest values are deflated together, in the tensor of this name.
_DEFLATED = "coded.metadata"
_DEFLATED_KEYS = ("layers", "plan", "storage")
# The largest plan that an engine takes needs a tenth.
_MAX_DEFLATED = 1 << 26

Arrays = dict[str, NDArray[Any]]

# What using metadata of a wrong form can raise; a reader turns these into FormatError.
JSON_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError)


@dataclass
class ModelFile:
    """A model as stored: the JSON (without its digest) and the named arrays of the file.

    >>> from importlib.resources import files
    >>> model = read(files("earmark") / "data" / "demo-int8.earmark")
    >>> model.metadata["family"], model.metadata["scheme"], model.arrays["fc.weight"].dtype
    ('speechbrain', 'int8', dtype('int8'))
    """

    metadata: dict[str, Any]
    arrays: Arrays

    @property
    def plan(self) -> dict[str, Any]:
        """The network's tensors and ops (docs/file-format.md)."""
        plan: dict[str, Any] = self.metadata["plan"]
        return plan

    def decoded_arrays(self) -> Arrays:
        """The arrays as the plan computes with them. Raises ValueError where they cannot be had."""
        return decode_arrays(self.arrays, self.metadata.get("storage", {}))


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN or Inf."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(model: ModelFile) -> str:
    """The ``sha256`` that a model's file carries."""
    checksum: str = _as_stored(model)[0]["sha256"]
    return checksum


def _digest(metadata: dict[str, Any], arrays: Arrays) -> str:
    """SHA-256 over the JSON with the digest zeroed, the sorted tensor table and all bytes."""
    sha = hashlib.sha256(canonical_json({**metadata, "sha256": _NO_DIGEST}).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        shape = ",".join(str(n) for n in array.shape)
        sha.update(f"{name} {array.dtype.name} {shape}\n".encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def to_bytes(model: ModelFile) -> bytes:
    """The file's bytes; equal models give equal bytes."""
    from safetensors.numpy import save

    metadata, arrays = _as_stored(model)
    return bytes(save(arrays, metadata={"earmark": canonical_json(metadata)}))


def _as_stored(model: ModelFile) -> tuple[dict[str, Any], Arrays]:
    """What the file's JSON says, with the digest, and the tensors."""
    arrays = {name: np.ascontiguousarray(array) for name, array in model.arrays.items()}
    metadata = {**model.metadata, "format": FORMAT_VERSION}
    if _has_streams(metadata.get("storage")):
        metadata, arrays[_DEFLATED] = _deflated(metadata)
    metadata["sha256"] = _digest(metadata, arrays)
    return metadata, arrays


def _has_streams(storage: Any) -> bool:
    """Whether arrays are stored together: what only compression makes."""
    codings = storage.values() if isinstance(storage, dict) else ()
    return any(isinstance(coding, dict) and "arrays" in coding for coding in codings)


def _deflated(metadata: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The metadata with references in place of its longest values, and these as a stream."""
    values = {key: metadata[key] for key in _DEFLATED_KEYS if key in metadata}
    text = canonical_json(values).encode()
    reference = {"bytes": len(text), "in": _DEFLATED}
    stream = np.frombuffer(zlib.compress(text, 9), np.uint8)
    return {**metadata, **dict.fromkeys(values, reference)}, stream


def _inflated(metadata: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Undoes ``_deflated``. Raises ValueError for what it does not make."""
    stream = arrays[_DEFLATED]
    reference = metadata.get("plan")
    match reference:
        case {"bytes": int(size), "in": str(name), **rest} if name == _DEFLATED and not rest:
            pass
        case _:
            raise ValueError(f"nothing refers to tensor {_DEFLATED!r}")
    if not 0 < size <= _MAX_DEFLATED or stream.dtype != np.uint8 or stream.ndim != 1:
        raise ValueError(f"tensor {_DEFLATED!r} cannot hold {_quoted(size)} bytes of JSON")
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(stream.tobytes(), size + 1)
        values = json.loads(text, parse_constant=_no_constant)
        canonical = canonical_json(values)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"tensor {_DEFLATED!r} is not JSON: {_one_line(error)}") from error
    referring = {key for key, value in metadata.items() if value == reference}
    if len(text) != size or not isinstance(values, dict) or set(values) != referring:
        raise ValueError(f"tensor {_DEFLATED!r} does not hold what refers to it")
    if canonical.encode() != text:
        raise ValueError(f"tensor {_DEFLATED!r} is not in canonical form")
    kept = {name: array for name, array in arrays.items() if name != _DEFLATED}
    return {**metadata, **values}, kept


def write(model: ModelFile, path: str | os.PathLike[str]) -> None:
    """Write a model file; an existing file is replaced at once or not at all."""
    data = to_bytes(model)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as out:
            out.write(data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read and verify a model file.

    Raises FormatError, with the file's name and the reason, for anything but an intact file of this
    format. Executes nothing; allocates no more than the arrays that the header names.
    """
    from safetensors import SafetensorError, safe_open

    def refuse(reason: str) -> NoReturn:
        raise FormatError(f"{os.fspath(path)}: {reason}")

    try:
        # Opening a pipe could last for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            refuse("not a regular file")
        with safe_open(os.fspath(path), framework="numpy") as file:
            stored = file.metadata() or {}
            names = file.keys()
            arrays: Arrays = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        refuse("no such file")
    except FormatError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        refuse(f"not an .earmark file: {_one_line(error)}")
    if set(stored) != {"earmark"}:
        refuse(f"not an .earmark file: its metadata has the keys {_quoted(sorted(stored))}")
    try:
        metadata = json.loads(stored["earmark"], parse_constant=_no_constant)
        canonical = canonical_json(metadata)
    except (ValueError, RecursionError) as error:
        refuse(f"the metadata is not JSON: {_one_line(error)}")
    if not isinstance(metadata, dict):
        refuse("the metadata is not a JSON object")
    version = metadata.get("format")
    if type(version) is not int or version != FORMAT_VERSION:
        refuse(f"format {_quoted(version)} is not supported, expected {FORMAT_VERSION}")
    if canonical != stored["earmark"]:
        refuse("the metadata is not in canonical form")
    outer, table = metadata, arrays
    try:
        if _DEFLATED in arrays:
            metadata, arrays = _inflated(metadata, arrays)
    except ValueError as error:
        refuse(_one_line(error))
    storage = metadata.get("storage", {})
    if not isinstance(storage, dict):
        refuse("the metadata's 'storage' is not an object")
    for name, array in arrays.items():
        if not _TENSOR_NAME.fullmatch(name):
            refuse(f"tensor {_quoted(name)} has a name of other characters than are allowed")
        allowed = _CODED_DTYPES if name in storage else _DTYPES
        if array.dtype.name not in allowed:
            words = " or ".join(allowed)
            refuse(f"tensor {_quoted(name)} is {array.dtype.name}, expected {words}")
    expected = metadata.pop("sha256", None)
    actual = _digest(outer, table)
    if expected != actual:
        refuse(f"the file is damaged: sha256 is {actual[:12]}…, expected {_quoted(expected)}")
    try:
        _check(metadata)
    except ValueError as error:
        refuse(_one_line(error))
    return ModelFile({**metadata, "sha256": actual}, arrays)


def _check(metadata: dict[str, Any]) -> None:
    """Refuse metadata without a key of the format or with a value of another type there.

    What the plan, the front end and the threshold say is checked by those who use them.
    """
    _check_fields(
        "the metadata",
        metadata,
        {
            "family": str,
            "scheme": str,
            "sample_rate_hz": int,
            "front_end": dict,
            "config": dict,
            "parameters": int,
            "threshold": int | float | None,
            "plan": dict,
            "layers": list,
            "calibration": dict | None,
            "measured": dict,
        },
    )
    parameters = metadata["parameters"]
    if not 1 <= parameters <= _MAX_PARAMETERS:
        raise ValueError(f"parameters is {_quoted(parameters)}")
    _check_fields("the plan", metadata["plan"], {"tensors": dict, "ops": list})
    for index, layer in enumerate(metadata["layers"]):
        _check_fields(
            f"layer {index}",
            layer,
            {
                "name": str,
                "op": str,
                "precision": str,
                "parameters": int,
                "weight_stats": dict,
                "activation_stats": dict | None,
            },
        )
        for statistics in (layer["weight_stats"], layer["activation_stats"]):
            if statistics is not None:
                number = dict.fromkeys(_STATISTICS, int | float)
                _check_fields(f"the statistics of layer {index}", statistics, number)


def _check_fields(owner: str, values: Any, fields: dict[str, Any]) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{owner} is {_quoted(values)}, expected an object")
    for key, kind in fields.items():
        if key not in values:
            raise ValueError(f"{owner}: {key!r} is missing")
        # To Python, but not to JSON, true is a number.
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"{owner}: {key!r} is {_quoted(values[key])}, of a wrong type")


def _quoted(value: Any) -> str:
    """The value as Python writes it, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
