"""Lossless coders of integer weights, each decoded and compared; NNCodec's own quantization."""

from __future__ import annotations

import json
import lzma
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import ModelFile
from earmark.storage import CODECS, Group

Array = NDArray[Any]
Weights = Mapping[str, Array]

OWN, ZSTD, XZ, NNCODEC = "rans", "zstd -19", "xz -9e", "nncodec"


def own_coder(codec: str, weights: Weights) -> dict[str, Any]:
    """One of the codings of a file."""
    module = CODECS[codec]
    began = time.perf_counter()
    stream, _ = module.encode(dict(weights))
    coded = time.perf_counter()
    decoded = module.decode(stream, Group.of(dict(weights)))
    done = time.perf_counter()
    equal = all(np.array_equal(decoded[name], array) for name, array in weights.items())
    return {
        "bytes": stream.size,
        "encode_s": coded - began,
        "decode_s": done - coded,
        "equal": equal,
    }


def xz(weights: Weights) -> dict[str, Any]:
    """All weights as one stream, with the literal settings that suit bytes without a grid."""
    data = b"".join(weights[name].tobytes() for name in sorted(weights))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lp": 0, "lc": 0}]
    filters[0]["pb"] = 0
    began = time.perf_counter()
    code = min(
        (lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.compress(data, filters=filters)),
        key=len,
    )
    coded = time.perf_counter()
    equal = lzma.decompress(code) == data
    return {
        "bytes": len(code),
        "encode_s": coded - began,
        "decode_s": time.perf_counter() - coded,
        "equal": equal,
    }


def by_nncodec(python: str, arrays: Weights, *options: str) -> dict[str, Any]:
    """By the interpreter of another environment; what `_nncodec.py` says of it."""
    script = Path(__file__).with_name("_nncodec.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)
        run = subprocess.run(
            [python, str(script), str(path), *options],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def nncodec_network(python: str, fp32: ModelFile, qp: int) -> tuple[ModelFile, int]:
    """The float32 network as NNCodec quantizes it, and the bytes of its stream alone."""
    arrays = fp32.decoded_arrays()
    given = {
        name: array if name.endswith(".weight") else array.reshape(-1)
        for name, array in arrays.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decoded.npz"
        found = by_nncodec(python, given, "--qp", str(qp), "-o", str(path))
        with np.load(path) as decoded:
            restored = {
                name: decoded[name].reshape(array.shape).astype(np.float32)
                for name, array in arrays.items()
            }
    metadata = {key: value for key, value in fp32.metadata.items() if key != "storage"}
    return ModelFile(metadata, restored), found["bytes"]
