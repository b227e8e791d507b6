"""Recordings in tables: columns in, columns out, as engines that spread tables over machines call
it. Of none of them in particular."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.audio import read_audio
from earmark.embedder import Embedder
from earmark.errors import AudioError

__all__ = ["Columns", "decode", "embed"]

Columns = Mapping[str, Any]
"""Names of columns, and of each its rows: an array, or any sequence."""

_SOURCES = ("audio", "bytes", "path")


def decode(columns: Columns, sample_rate: int = 16000, min_samples: int = 1) -> dict[str, Any]:
    """Waveforms of the recordings of n rows; what cannot be used becomes an error of its row.

    columns: ``audio``, a waveform each as ``earmark.audio.read_audio`` takes them, with its
    ``sample_rate`` in Hz; or else ``bytes``, an audio file's each; or else ``path``. Rows that have
    an ``error`` already keep it. Returns the columns without ``bytes``, and with ``audio``, float32
    (samples,) at ``sample_rate`` each, empty in rows that failed; ``sample_rate``, int32; and
    ``error``, "" or a line that names the path, where there is one, and the value. min_samples: the
    shortest that can be used. Raises ValueError where there are no such columns.
    """
    source = next((name for name in _SOURCES if name in columns), None)
    if source is None or (source == "audio" and "sample_rate" not in columns):
        found = ", ".join(columns) or "none"
        raise ValueError(f"columns are {found}: expected path, bytes, or audio and sample_rate")
    recordings = columns[source]
    count = len(recordings)
    rates = np.asarray(columns["sample_rate"]).tolist() if source == "audio" else [0] * count
    names = columns.get("path", [None] * count)
    known = columns.get("error", [""] * count)
    audio, errors = np.empty(count, object), np.empty(count, object)
    for row, values in enumerate(zip(recordings, rates, names, known, strict=True)):
        audio[row], errors[row] = _decoded(*values, sample_rate, min_samples)
    rest = {name: column for name, column in columns.items() if name != "bytes"}
    rate = np.full(count, sample_rate, np.int32)
    return {**rest, "audio": audio, "sample_rate": rate, "error": errors}


def _decoded(
    recording: Any, rate: Any, name: Any, known: str, target_rate: int, min_samples: int
) -> tuple[NDArray[np.float32], str]:
    if not known:
        name = name if isinstance(name, str) else "recording"
        wanted = {"target_rate": target_rate, "min_samples": min_samples, "name": name}
        try:
            return read_audio(recording, rate, **wanted).samples, ""
        except AudioError as reason:
            known = str(reason)
    return np.empty(0, np.float32), known


def embed(columns: Columns, model: Embedder) -> dict[str, Any]:
    """Embeddings of the recordings of n rows, in their order.

    columns: as ``decode`` takes them, of any lengths and rates. Returns those that are no
    recordings, and ``embedding``, (n, dimension) float32, NaN in rows that failed, and ``error``
    (n,), "" in the others. A row has the bits that it has alone. Raises as ``decode``.
    """
    rows = decode(columns, model.front_end.sample_rate_hz, model.min_samples)
    waves, errors = rows.pop("audio"), rows["error"]
    del rows["sample_rate"]
    embeddings = np.full((len(waves), model.embedding_size), np.nan, np.float32)
    # Longest first: lengths that are alike are run at one time, with the memory of the first.
    usable = sorted(np.flatnonzero(errors == ""), key=lambda row: -len(waves[row]))
    for index, embedding, error in model.embed_each(
        [waves[row] for row in usable], model.front_end.sample_rate_hz
    ):
        if embedding is None:
            errors[usable[index]] = error
        else:
            embeddings[usable[index]] = embedding
    return {**rows, "embedding": embeddings}
