"""What a report is about: model files, results of commands, and what could not be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from earmark import modelfile
from earmark.classifier import Classifier
from earmark.compression.statistics import layer_entropies
from earmark.embedder import Embedder
from earmark.errors import FormatError
from earmark.loading import load
from earmark.modelfile import ModelFile
from earmark.report.results import Result, read_result

__all__ = ["Comparison", "Contents", "Model", "PiecewiseSoftmax", "TableSoftmax", "collect"]

JSON = dict[str, Any]
Array = NDArray[np.float64]
R = TypeVar("R")

_MODEL, _RESULT = ".earmark", ".json"
# What a file of any content can make its readers raise.
_ERRORS = (ValueError, OSError, RuntimeError, ModuleNotFoundError)
# Of one kind of integer: what an int8 or int16 tensor can hold.
_LIMITS = {"s8": (-128, 127), "s16": (-32768, 32767)}


@dataclass(frozen=True)
class PiecewiseSoftmax:
    """A piecewise-linear function in the place of exp, as docs/arithmetic.md has it.

    breakpoints (n,), slopes and intercepts (n + 1,), bounds (2,).
    """

    layer: str
    breakpoints: Array
    slopes: Array
    intercepts: Array
    bounds: Array


@dataclass(frozen=True)
class TableSoftmax:
    """A table in the place of exp."""

    layer: str
    entries: int


@dataclass(frozen=True)
class Model:
    """A model file.

    info: as ``info()`` of what runs it, layers with their entropies. limits: the real values
    that a layer's integer output can hold, by layer.
    """

    name: str
    runner: Embedder | Classifier
    info: JSON
    config: JSON
    limits: dict[str, tuple[float, float]]
    softmaxes: list[PiecewiseSoftmax | TableSoftmax]


@dataclass(frozen=True)
class Comparison:
    """A model on trials beside the same network in float.

    sha256: of the model. baseline: file of the float network. eer_change: EER minus that network's,
    and its 95 % interval. sqnr_db: of the embeddings, None where they are equal.
    """

    sha256: str
    trial_list: str
    baseline: str
    eer_change: tuple[float, float, float]
    cosine: float
    worst_cosine: float
    sqnr_db: float | None


@dataclass
class Contents:
    """Everything that a report shows. notes: what could not be read, a line each."""

    title: str
    models: list[Model] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, kind: type[R]) -> list[R]:
        """The results of one command, in order."""
        return [result for result in self.results if isinstance(result, kind)]


def collect(
    source: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    leave_out: Path | None = None,
) -> Contents:
    """Read a model file, or the model files and results of a folder, by name.

    leave_out: a file of the folder that is neither read nor told of. Raises what ``earmark.load``
    raises for a single file, OSError for a folder that cannot be listed, and ValueError for one
    with nothing in it that can be shown; other files of a folder that cannot be read are noted.
    """
    path = Path(source)
    contents = Contents(path.resolve().name)
    if not path.is_dir():
        contents.models.append(_read_model(path, device, threads))
        return contents
    others = []
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or (leave_out and file.resolve() == leave_out.resolve()):
            continue
        try:
            if file.suffix == _MODEL:
                contents.models.append(_read_model(file, device, threads))
            elif file.suffix == _RESULT:
                contents.results.append(read_result(file))
            else:
                others.append(f"{file.name}/" if file.is_dir() else file.name)
        except _ERRORS as error:
            contents.notes.append(_note(file, error))
    if others:
        contents.notes.append(f"not looked at: {', '.join(others)}")
    if not contents.models and not contents.results:
        reason = f": {contents.notes[0]}" if contents.notes else ""
        raise ValueError(f"{path}: no model files and no results in this folder{reason}")
    return contents


def _note(file: Path, error: Exception) -> str:
    """An error in one line that names the file once, without its folder."""
    if isinstance(error, ModuleNotFoundError):
        return f"{file.name}: needs {error.name}"
    text = " ".join(str(error).split())
    return f"{file.name}: {text.removeprefix(f'{file}: ')}"


def _read_model(path: Path, device: str, threads: int | None) -> Model:
    runner = load(path, device=device, threads=threads)
    file = modelfile.read(path)
    info, entropies = runner.info(), layer_entropies(file)
    info["layers"] = [
        {
            **layer,
            **entropies[layer["name"]],
            "weight": _floats(path, layer["weight"]),
            "activation": _floats(path, layer["activation"]),
        }
        for layer in info["layers"]
    ]
    return Model(
        name=path.name,
        runner=runner,
        info=info,
        config=file.metadata["config"],
        limits=dict(_limits(file)),
        softmaxes=list(_softmaxes(file)),
    )


def _floats(path: Path, statistics: JSON | None) -> dict[str, float] | None:
    """Statistics as numbers that can be drawn; a file may have whole ones of any length."""
    try:
        return statistics and {key: float(value) for key, value in statistics.items()}
    except OverflowError as error:
        raise FormatError(f"{path}: a statistic is too large") from error


def _limits(file: ModelFile) -> Iterator[tuple[str, tuple[float, float]]]:
    for op in file.plan["ops"]:
        tensor = file.plan["tensors"][op["out"]]
        if tensor["dtype"] in _LIMITS and "scale" in tensor:
            low, high = _LIMITS[tensor["dtype"]]
            zero = tensor.get("zero_point", 0)
            yield op["name"], (tensor["scale"] * (low - zero), tensor["scale"] * (high - zero))


def _softmaxes(file: ModelFile) -> Iterator[PiecewiseSoftmax | TableSoftmax]:
    arrays = file.decoded_arrays()
    for op in file.plan["ops"]:
        name, kind = op["name"], op.get("softmax")
        if kind == "table":
            yield TableSoftmax(name, arrays[f"{name}.table"].size)
        elif kind == "pwl":
            roles = ("breakpoints", "slopes", "intercepts", "bounds")
            numbers = (arrays[f"{name}.{role}"].astype(np.float64) for role in roles)
            yield PiecewiseSoftmax(name, *numbers)
