"""What other commands printed with ``--json``, read back and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.candidates import Measured
from earmark.errors import FormatError
from earmark.report.words import visible
from earmark.search import Budget, Point

__all__ = [
    "Bench",
    "Evaluation",
    "Latency",
    "Result",
    "Scored",
    "Search",
    "Sensitivity",
    "read_result",
]

JSON = dict[str, Any]

_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Evaluation:
    """A model on trials: what ``earmark eval`` says. eer, min_dcf, size_fraction: fractions."""

    model: str
    scheme: str
    sha256: str
    size_fraction: float
    trial_list: str
    eer: float
    min_dcf: float
    target: int
    nontarget: int


@dataclass(frozen=True)
class Scored(Evaluation):
    """With every trial's score and label, (n_trials,): ``earmark eval --scores``."""

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Sensitivity:
    """Each layer alone: what ``earmark sensitivity`` says; the first row is float32."""

    precision: str
    all_but_one: bool
    trial_list: str
    trials: int
    rows: list[Measured]


@dataclass(frozen=True)
class Search:
    """Points by rising size and the chosen one: what ``earmark search`` says.

    trials: in the choosing and the reporting half.
    """

    trial_list: str
    trials: tuple[int, int]
    budget: Budget
    points: list[Point]
    chosen: Point


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call, and what else is known of an engine."""

    median_ms: float
    min_ms: float
    quartile1_ms: float
    quartile3_ms: float
    cosine: float | None
    peak_rss_mib: float | None


@dataclass(frozen=True)
class Bench:
    """Latencies by thread count or device, then by engine: what ``earmark bench`` says.

    has_peers: engines are those beside each other, features to embedding; else the model alone,
    from waveform and from features.
    """

    model: str
    machine: str
    seconds: float
    has_peers: bool
    places: dict[str, dict[str, Latency]]
    failed: list[str]


Result = Evaluation | Sensitivity | Search | Bench


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read one JSON object of ``earmark eval``, ``sensitivity``, ``search`` or ``bench``.

    Raises FormatError, naming the file, for anything else.
    """
    name = os.fspath(path)
    try:
        if Path(path).stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise FormatError(f"{name}: not readable as JSON: {reason}") from error
    for keys, read in _KINDS:
        if isinstance(value, dict) and keys <= value.keys():
            try:
                return read(value)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise FormatError(f"{name}: {' '.join(reason.split())}") from error
    raise FormatError(f"{name}: is no result of eval, sensitivity, search or bench")


def _evaluation(value: JSON) -> Evaluation:
    rates: JSON = {
        "model": _text(value, "model"),
        "scheme": _text(value, "scheme"),
        "sha256": _text(value, "sha256"),
        "size_fraction": _number(value, "size_fraction", 0),
        "trial_list": _text(value, "trial_list"),
        "eer": _number(value, "eer", 0, 1),
        "min_dcf": _number(value, "min_dcf", 0, 1),
        "target": _count(value, "target"),
        "nontarget": _count(value, "nontarget"),
    }
    if "scores" not in value:
        return Evaluation(**rates)
    scores = np.array([_number(value["scores"], i) for i in range(len(value["scores"]))])
    labels = np.array([_count(value["labels"], i) for i in range(len(value["labels"]))])
    counts = int((labels == 1).sum()), int((labels == 0).sum())
    if len(labels) != len(scores) or counts != (rates["target"], rates["nontarget"]):
        raise ValueError("scores and labels are not those of the trials that are counted")
    if 0 in counts:
        raise ValueError("all trials are of one class")
    return Scored(**rates, scores=scores, labels=labels)


def _sensitivity(value: JSON) -> Sensitivity:
    rows = [_measured(row) for row in value["rows"]]
    if len(rows) < 2:
        raise ValueError("rows: float32's and one more are needed")
    return Sensitivity(
        precision=_text(value, "precision"),
        all_but_one=bool(value["all_but_one"]),
        trial_list=_text(value, "trial_list"),
        trials=_count(value, "trials"),
        rows=rows,
    )


def _search(value: JSON) -> Search:
    points = [_point(point) for point in value["points"]]
    name = _text(value, "chosen")
    chosen = [point for point in points if point.name == name]
    if not chosen:
        raise ValueError(f"chosen: no point is named {_quoted(name)}")
    given = {key: _number(value["budget"], key) for key in value["budget"]}
    halves = value["trials"]
    return Search(
        trial_list=_text(value, "trial_list"),
        trials=(_count(halves, 0), _count(halves, 1)),
        budget=Budget(**given),
        points=points,
        chosen=chosen[0],
    )


def _point(point: JSON) -> Point:
    predicted = point["predicted_distance"]
    return Point(
        name=_text(point, "name"),
        precision={layer: _text(point["precision"], layer) for layer in point["precision"]},
        predicted_distance=None if predicted is None else _number(point, "predicted_distance"),
        choosing=_measured(point["choosing"]),
        reporting=_measured(point["reporting"]),
        smoothed_eer_change=_number(point, "smoothed_eer_change", -1, 1),
        threshold=_number(point, "threshold"),
        on_front=bool(point["on_front"]),
    )


def _measured(row: JSON) -> Measured:
    change = [_number(row["eer_change"], i, -1, 1) for i in range(3)]
    return Measured(
        unit=_text(row, "unit"),
        eer=_number(row, "eer", 0, 1),
        eer_change=(change[0], change[1], change[2]),
        min_dcf=_number(row, "min_dcf", 0, 1),
        cosine=_number(row, "cosine", -1.001, 1.001),
        worst_cosine=_number(row, "worst_cosine", -1.001, 1.001),
        sqnr_db=None if row["sqnr_db"] is None else _number(row, "sqnr_db"),
        size_fraction=_number(row, "size_fraction", 0),
        latency_ms=_number(row, "latency_ms", 0),
    )


def _bench(value: JSON) -> Bench:
    machine = value["environment"]
    peers: Mapping[str, JSON] = value.get("peers", {})
    failed: list[str] = []
    places: dict[str, dict[str, Latency]] = {}
    for place, measured in value["threads"].items():
        engines = peers.get(place) or measured["latency"]
        failed += [f"{place}, {e['failed']}" for e in engines.values() if "failed" in e]
        places[place] = {
            name: _latency(engine) for name, engine in engines.items() if "failed" not in engine
        }
    first = next(iter(value["threads"].values()), None)
    if first is None:
        raise ValueError("threads: there are none")
    return Bench(
        model=_text(value, "model"),
        machine=(
            f"{_text(machine['cpu'], 'model')}, {_count(machine, 'cpus_available')} CPUs, "
            f"load average {_number(machine, 'load_average_1min'):.1f}; {_text(first, 'isa')}"
        ),
        seconds=_number(first["recording"], "seconds", 0),
        has_peers=bool(peers),
        places={place: engines for place, engines in places.items() if engines},
        failed=failed,
    )


def _latency(engine: JSON) -> Latency:
    def if_there(key: str) -> float | None:
        return None if engine.get(key) is None else _number(engine, key)

    return Latency(
        median_ms=_number(engine, "median_ms", 0),
        min_ms=_number(engine, "min_ms", 0),
        quartile1_ms=_number(engine, "quartile1_ms", 0),
        quartile3_ms=_number(engine, "quartile3_ms", 0),
        cosine=if_there("cosine"),
        peak_rss_mib=if_there("peak_rss_mib"),
    )


# By the keys that no other has.
_KINDS: list[tuple[set[str], Callable[[JSON], Result]]] = [
    ({"eer", "min_dcf", "nontarget", "model"}, _evaluation),
    ({"all_but_one", "rows"}, _sensitivity),
    ({"chosen", "points", "budget"}, _search),
    ({"environment", "threads", "model"}, _bench),
]


def _number(values: Any, key: Any, low: float = -1e12, high: float = 1e12) -> float:
    """A finite number within limits that what is drawn and told keeps."""
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{key} is {_quoted(value)}, expected a number from {low:g} to {high:g}")
    return float(value)


def _count(values: Any, key: Any) -> int:
    value = values[key]
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{key} is {_quoted(value)}, expected a whole number")
    return value


def _text(values: JSON, key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is {_quoted(value)}, expected text")
    return visible(value)


def _quoted(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
