"""Opens a model as what it is."""

from __future__ import annotations

import os
from pathlib import Path

from earmark import modelfile
from earmark.classifier import Classifier
from earmark.embedder import Embedder
from earmark.plan import SCORES

__all__ = ["load"]


def load(
    path: str | os.PathLike[str], device: str = "cpu", threads: int | None = None
) -> Embedder | Classifier:
    """Load a model file: an ``Embedder`` of speakers, or a ``Classifier`` of sounds.

    device: "cpu", or a CUDA device: "cuda", "cuda:1". threads: of the CPU's engine; the default is
    the physical cores this process may use. Its instruction set is the best one there is, or the
    one that ``EARMARK_ISA`` names. Raises FormatError for a file that is not intact, ValueError for
    anything else that cannot be had, RuntimeError where the device is at fault.

    >>> from importlib.resources import files
    >>> data = files("earmark") / "data"
    >>> load(data / "demo-int8.earmark", threads=2).embedding_size
    192
    """
    model = modelfile.read(path)
    kind = Classifier if SCORES in model.plan["tensors"] else Embedder
    return kind.of_file(Path(path), model, threads, device)
