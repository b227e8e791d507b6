"""Mixed precision: the choices for all layers that lie on the front of size and accuracy.

What a layer's precision costs is measured once for each layer alone, as the distance of the
embeddings to the float32 network's, and taken to add up over layers. All choices on the front of
that sum and size (or latency) come from one dynamic programme; some along it are then run and
judged by what they really do. HAWQ-V3 (Z. Yao et al., "HAWQ-V3: Dyadic Neural Network
Quantization", ICML 2021, arXiv:2011.10680) minimises such a sum, of Hessian-weighted perturbations,
by an integer linear programme for one budget; here all budgets are solved at once (G. Nemhauser,
Z. Ullmann, "Discrete Dynamic Programming and Capital Allocation", Management Science 15, 1969).
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from earmark.candidates import Candidates, Measured, Outcome, rate, trial_features, trial_scores
from earmark.embedder import Embedder
from earmark.metrics import cosine_score, eer_threshold
from earmark.pareto import additive_front, is_on_front, never_falling
from earmark.plan import INPUT, base_of
from earmark.quantization.precision import PRECISIONS, PRESETS
from earmark.sensitivity import BASELINE, blocks
from earmark.trials import Trials, split_by_speaker

if TYPE_CHECKING:
    from earmark.nn.ecapa import EcapaTdnn
    from earmark.quantization import LoweredNetwork
    from earmark.quantized import QuantizedEcapa

__all__ = ["Alone", "Budget", "Point", "SearchResult", "search"]

Array = NDArray[Any]
Progress = Callable[[int, int], None]

_ROUNDS = 3
_TRIES = 8
_PROFILES, _FRAMES = 9, 300
_NEAR = (1.05, 1.0, 0.95)  # of a latency: what adds up is not what a stopwatch says


@dataclass(frozen=True)
class Budget:
    """What the choice may cost: exactly one limit.

    eer_change: largest EER minus float32's, a fraction; the smallest file is wanted. size_fraction
    (file bytes / 4 x parameters) or latency_ms: the nearest to float32 is wanted.
    """

    eer_change: float | None = None
    size_fraction: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        limits = [self.eer_change, self.size_fraction, self.latency_ms]
        if sum(limit is not None for limit in limits) != 1:
            raise ValueError("a budget has one limit: of EER change, size or latency")


@dataclass(frozen=True)
class Alone:
    """What a precision of one unit, a layer or a block, costs; the others are in float32.

    size_bytes, latency_ms: of the unit in a network that has this precision throughout. distance: 1
    - mean cosine to float32's embeddings on the choosing half.
    """

    unit: str
    precision: str
    size_bytes: int
    latency_ms: float
    distance: float


@dataclass(frozen=True)
class Point:
    """A precision of all layers, measured on both halves of the speakers.

    name: a preset, a precision of all layers, or "front-N". precision: as ``quantize`` takes it.
    predicted_distance: by adding up; None for presets and such. choosing, reporting: on either
    half. smoothed_eer_change: the EER change on the choosing half as a function that never falls
    with the distance (isotonic regression over all points). threshold: of the equal error rate on
    the choosing half. on_front: no other point is smaller (or faster, where latency is the budget)
    and nearer to float32 on the choosing half.
    """

    name: str
    precision: dict[str, str]
    predicted_distance: float | None
    choosing: Measured
    reporting: Measured
    smoothed_eer_change: float
    threshold: float
    on_front: bool

    @property
    def distance(self) -> float:
        """1 - mean cosine to float32's embeddings on the choosing half."""
        return 1 - self.choosing.cosine


@dataclass(frozen=True)
class SearchResult:
    """Points by rising size, the one that was chosen, and what it was chosen from.

    speakers, trials: in the choosing and the reporting half. model: the network with the chosen
    precision.
    """

    budget: Budget
    alone: list[Alone]
    points: list[Point]
    chosen: Point
    speakers: tuple[int, int]
    trials: tuple[int, int]
    model: QuantizedEcapa


def search(
    net: EcapaTdnn,
    calibration: list[Any],
    trials: Trials,
    budget: Budget,
    *,
    precisions: Sequence[str] = ("int8", "int4", "float16", "fp32"),
    by_block: bool = False,
    points: int = 10,
    crops: int = 8,
    seed: int = 0,
    processes: int = 1,
    ray: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> SearchResult:
    """Choose the precision of each layer under a budget.

    net, calibration: as ``quantize`` takes them. trials: split into two halves that share no
    speaker (``split_by_speaker``); precisions are chosen on one and reported on the other.
    precisions: those that a layer may have; without an integer one no calibration is needed.
    by_block: one precision for each block. points: that are measured along the front, beside a few
    near the budget, each precision throughout, and the presets that fit the network. crops: they
    are measured on so many sets of crops of 2 s, layers alone on the first set; 0: on whole
    recordings. seed: of the split. processes, ray, folder: as ``Candidates`` takes them; where
    latency is the budget the points are measured in one process. progress: called with (stage,
    done, total).

    Raises ValueError for an unknown precision, a half of the speakers without trials, or a budget
    that no point keeps; AudioError for a recording that cannot be used.
    """
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"unknown precision {unknown[0]!r}, known are {known}")
    from earmark.quantization import LoweredNetwork

    halves = split_by_speaker(trials, seed)
    lowered = LoweredNetwork(net)
    uniform = {name: {"all": name} for name in dict.fromkeys([BASELINE, *precisions])}
    presets = _presets(lowered) if calibration else {}
    all_chosen = [lowered.precisions("fp32", choice) for choice in (uniform | presets).values()]
    if any(lowered.needs_calibration(chosen) for chosen in all_chosen):
        few_bits = {name for chosen in all_chosen for name in lowered.of_few_bits(chosen)}
        lowered.calibrate(calibration, "minmax", few_bits, _stage(progress, "calibrate"))
    space = _Space(lowered, list(dict.fromkeys(precisions)), by_block)
    features = trial_features(net, halves[0], min(crops, 1))
    with Candidates(lowered, features, processes=processes, ray=ray, folder=folder) as candidates:
        space.measure_alone(candidates, _stage(progress, "layers"))
    front = _Front(space, by_size=budget.latency_ms is None)
    features = [array for half in halves for array in trial_features(net, half, crops)]
    processes = processes if budget.latency_ms is None else 1
    with Candidates(lowered, features, processes=processes, ray=ray, folder=folder) as candidates:
        measured = _Measurements(
            candidates, front, halves, max(crops, 1), _stage(progress, "candidates")
        )
        measured.add_named(uniform | presets)
        measured.add(front.spread(points))
        if budget.eer_change is not None:
            for _ in range(_ROUNDS):
                measured.add(measured.border(budget.eer_change))
        elif budget.size_fraction is not None:
            measured.add(front.within_size(budget.size_fraction))
        elif budget.latency_ms is not None:
            measured.add(front.within(ratio * budget.latency_ms) for ratio in _NEAR)
    found = measured.points("latency_ms" if budget.latency_ms is not None else "size_fraction")
    chosen = _choose(found, budget)
    final = lowered.precisions("fp32", chosen.precision)
    scheme = "int8" if lowered.needs_calibration(final) else chosen.precision["all"]
    return SearchResult(
        budget=budget,
        alone=space.alone,
        points=found,
        chosen=chosen,
        speakers=(len(set(halves[0].speakers())), len(set(halves[1].speakers()))),
        trials=(len(halves[0].labels), len(halves[1].labels)),
        model=cast("QuantizedEcapa", lowered.quantize(scheme, final)),
    )


def _stage(progress: Callable[[str, int, int], None] | None, name: str) -> Progress | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _presets(lowered: LoweredNetwork) -> dict[str, dict[str, str]]:
    """Those whose layers the network has."""
    fitting = {}
    for name, choice in PRESETS.items():
        try:
            lowered.precisions("fp32", choice)
        except ValueError:
            continue
        fitting[name] = choice
    return fitting


class _Space:
    """Units and the precisions they may have, with their costs."""

    def __init__(self, lowered: LoweredNetwork, precisions: list[str], by_block: bool) -> None:
        self.lowered = lowered
        self.precisions = precisions
        self.units = blocks(lowered.layers) if by_block else lowered.layers
        self.alone: list[Alone] = []
        self.fixed_bytes = 0
        self._owners = _owners(lowered, by_block)

    def choice(self, of_units: Mapping[str, str]) -> dict[str, str]:
        """The precision of all ops, written as short as it can be; float32 where none is given."""
        chosen = {op: of_units.get(unit, BASELINE) for op, unit in self._owners.items()}
        return _shortened(chosen, self.lowered.layers)

    def measure_alone(self, candidates: Candidates, progress: Progress | None) -> None:
        """Fill ``alone``, unit by unit, each with the precisions in their order."""
        choices = {BASELINE: {"all": BASELINE}}
        for unit in self.units:
            for name in self.precisions:
                if name != BASELINE:
                    choices[f"{unit}={name}"] = self.choice({unit: name})
        outcomes = candidates.run(choices, progress)
        reference = outcomes[BASELINE].embeddings
        costs = {name: self._costs(name) for name in self.precisions}
        for unit in self.units:
            for name in self.precisions:
                outcome = outcomes.get(f"{unit}={name}", outcomes[BASELINE])
                distance = 1 - float(cosine_score(outcome.embeddings, reference).mean())
                size, latency = costs[name][unit]
                self.alone.append(Alone(unit, name, size, latency, max(distance, 0.0)))

    def _costs(self, precision: str) -> dict[str, tuple[int, float]]:
        """Bytes and milliseconds of each unit where all have one precision."""
        chosen = self.lowered.precisions("fp32", {"all": precision})
        model = Embedder(self.lowered.quantize("fp32", chosen).model_file, threads=1)
        info = model.info()
        sizes: Counter[str] = Counter()
        for layer in info["layers"]:
            sizes[self._owners[layer["name"]]] += layer["bytes"]
        # What is not a layer's: the plan, statistics. It hardly depends on precisions.
        self.fixed_bytes = max(self.fixed_bytes, info["file_bytes"] - sizes.total())
        bands = int(self.lowered.plan.tensors[INPUT]["channels"])
        frames = np.random.default_rng(0).normal(size=(_FRAMES, bands)).astype(np.float32)
        times: dict[str, list[float]] = {unit: [] for unit in self.units}
        for _ in range(_PROFILES):
            spent = dict.fromkeys(self.units, 0.0)
            for op in model.profile(frames):
                spent[self._owners[_op_of(op["name"], self._owners)]] += op["nanoseconds"] / 1e6
            for unit, ms in spent.items():
                times[unit].append(ms)
        return {unit: (sizes[unit], statistics.median(times[unit])) for unit in self.units}


class _Front:
    """The choices that nothing beats in predicted cost and predicted distance, by rising cost."""

    def __init__(self, space: _Space, by_size: bool) -> None:
        self._space = space
        width = len(space.precisions)
        options = [space.alone[i : i + width] for i in range(0, len(space.alone), width)]
        scale = 4 * space.lowered.parameters
        costs = np.array(
            [
                [one.size_bytes / scale if by_size else one.latency_ms for one in unit]
                for unit in options
            ]
        )
        losses = np.array([[one.distance for one in unit] for unit in options])
        self._picks = additive_front(list(costs), list(losses))
        rows = np.arange(len(options))
        self._costs = costs[rows, self._picks].sum(axis=1)
        if by_size:
            self._costs += space.fixed_bytes / scale
        self.distances = losses[rows, self._picks].sum(axis=1)

    def choice(self, index: int) -> dict[str, str]:
        """The precision of all layers."""
        names, units = self._space.precisions, self._space.units
        picks = zip(units, self._picks[index], strict=True)
        return self._space.choice({unit: names[pick] for unit, pick in picks})

    def spread(self, count: int) -> list[int]:
        """Indices spread evenly over the costs, the ends with them."""
        costs = np.linspace(self._costs[0], self._costs[-1], count)
        return [int(np.abs(self._costs - cost).argmin()) for cost in costs]

    def within(self, cost: float) -> int:
        """The dearest that is predicted to keep a cost, or else the cheapest."""
        return max(int(np.searchsorted(self._costs, cost, side="right")) - 1, 0)

    def within_size(self, size_fraction: float) -> list[int]:
        """The largest whose file keeps a size; the prediction leaves out conversions."""
        lowered = self._space.lowered
        target = size_fraction
        for _ in range(_TRIES):
            index = self.within(target)
            chosen = lowered.precisions("fp32", self.choice(index))
            model = Embedder(lowered.quantize("fp32", chosen).model_file)
            excess = model.info()["size_fraction"] - size_fraction
            if excess <= 0:
                return [index]
            target = min(target, self._costs[index]) - excess
        return []


@dataclass(frozen=True)
class _Run:
    """A choice that was run, on both halves."""

    choice: dict[str, str]
    predicted: float | None
    embeddings: tuple[Array, Array]
    measured: tuple[Measured, Measured]

    @property
    def distance(self) -> float:
        return 1 - self.measured[0].cosine


class _Measurements:
    """Choices that were run: those of the front by their index, others by name."""

    def __init__(
        self,
        candidates: Candidates,
        front: _Front,
        halves: tuple[Trials, Trials],
        sets: int,
        progress: Progress | None,
    ) -> None:
        self._sets = sets
        self._candidates = candidates
        self._front = front
        self._halves = halves
        self._progress = progress
        self._runs: dict[str | int, _Run] = {}

    def add_named(self, choices: Mapping[str, dict[str, str]]) -> None:
        """Run choices, the float32 network's among them."""
        outcomes = self._candidates.run(choices, self._progress)
        self._reference = self._parts(outcomes[BASELINE])
        for name, outcome in outcomes.items():
            self._runs[name] = self._run(name, choices[name], None, outcome)

    def add(self, indices: Iterable[int]) -> None:
        """Run choices of the front, but for those that were run already."""
        known = [run.choice for run in self._runs.values()]
        choices = {index: self._front.choice(index) for index in sorted(set(indices))}
        new = {str(index): choice for index, choice in choices.items() if choice not in known}
        for name, outcome in self._candidates.run(new, self._progress).items():
            predicted = float(self._front.distances[int(name)])
            self._runs[int(name)] = self._run(name, new[name], predicted, outcome)

    def border(self, eer_change: float) -> list[int]:
        """Indices that divide the front between the smallest that keeps a limit and the next."""
        smoothed = self._smoothed()
        indices = sorted(key for key in self._runs if isinstance(key, int))
        kept = [index for index in indices if smoothed[index] <= eer_change]
        if not kept:
            return []
        high = kept[0]
        low = max((index for index in indices if index < high), default=0)
        return [low + (high - low) // 3, low + 2 * (high - low) // 3]

    def points(self, cost: str) -> list[Point]:
        """All of them, by rising size; ``cost``: what the front is of beside the distance."""
        smoothed = self._smoothed()
        ordered = sorted(self._runs, key=lambda key: self._runs[key].measured[0].size_fraction)
        runs = [self._runs[key] for key in ordered]
        costs = [getattr(run.measured[0], cost) for run in runs]
        on_front = is_on_front(costs, [run.distance for run in runs])
        indices = sorted(key for key in ordered if isinstance(key, int))
        found = []
        for key, run, is_best in zip(ordered, runs, on_front, strict=True):
            name = f"front-{indices.index(key) + 1}" if isinstance(key, int) else key
            choosing, reporting = (replace(measured, unit=name) for measured in run.measured)
            half = self._halves[0]
            thresholds = [
                eer_threshold(row, half.labels) for row in trial_scores(half, run.embeddings[0])
            ]
            found.append(
                Point(
                    name=name,
                    precision=run.choice,
                    predicted_distance=run.predicted,
                    choosing=choosing,
                    reporting=reporting,
                    smoothed_eer_change=smoothed[key],
                    threshold=float(np.mean(thresholds)),
                    on_front=bool(is_best),
                )
            )
        return found

    def _run(
        self, name: str, choice: dict[str, str], predicted: float | None, outcome: Outcome
    ) -> _Run:
        embeddings = self._parts(outcome)
        first, second = (
            rate(name, replace(outcome, embeddings=part), reference, half)
            for part, reference, half in zip(embeddings, self._reference, self._halves, strict=True)
        )
        return _Run(choice, predicted, embeddings, (first, second))

    def _parts(self, outcome: Outcome) -> tuple[Array, Array]:
        count = self._sets * len(self._halves[0].paths)
        return outcome.embeddings[:count], outcome.embeddings[count:]

    def _smoothed(self) -> dict[str | int, float]:
        """EER changes on the choosing half, as a function that never falls with the distance."""
        keys = sorted(self._runs, key=lambda key: self._runs[key].distance)
        changes = never_falling([self._runs[key].measured[0].eer_change[0] for key in keys])
        return dict(zip(keys, changes.tolist(), strict=True))


def _choose(points: list[Point], budget: Budget) -> Point:
    """The point of the front that a budget asks for. Raises ValueError where none keeps it."""
    front = [point for point in points if point.on_front]
    if budget.eer_change is not None:
        kept = [point for point in front if point.smoothed_eer_change <= budget.eer_change]
        if kept:
            return min(kept, key=lambda point: point.choosing.size_fraction)
        least = min(point.smoothed_eer_change for point in front)
        raise ValueError(
            f"no precision changes the EER by at most {100 * budget.eer_change:.3f} %, "
            f"the least is {100 * least:+.3f} %"
        )
    if budget.size_fraction is not None:
        kept = [point for point in front if point.choosing.size_fraction <= budget.size_fraction]
        least = min(point.choosing.size_fraction for point in points)
        limits = f"size of at most {100 * budget.size_fraction:.2f} %", f"{100 * least:.2f} %"
    else:
        limit = budget.latency_ms or 0.0
        kept = [point for point in front if point.choosing.latency_ms <= limit]
        least = min(point.choosing.latency_ms for point in points)
        limits = f"latency of at most {limit:.3f} ms", f"{least:.3f} ms"
    if not kept:
        raise ValueError(f"no precision has a {limits[0]}, the least is {limits[1]}")
    return min(kept, key=lambda point: point.distance)


def _owners(lowered: LoweredNetwork, by_block: bool) -> dict[str, str]:
    """The unit of each op: a layer without weights goes with what wrote where it reads."""
    owners: dict[str, str] = {}
    writers: dict[str, str] = {}
    layers = set(lowered.layers)
    for op in lowered.plan.ops:
        name = op["name"]
        if by_block:
            owners[name] = blocks([name])[0]
        elif name in layers:
            owners[name] = name
        else:
            owners[name] = writers.get(base_of(lowered.plan.plan, op["in"]), lowered.layers[0])
        writers[base_of(lowered.plan.plan, op["out"])] = owners[name]
    return owners


def _op_of(name: str, ops: Iterable[str]) -> str:
    """The op of the float32 plan that an op of a quantized plan belongs to: ``a.b.in.quantize``."""
    return max((op for op in ops if f"{name}.".startswith(f"{op}.")), key=len)


def _shortened(chosen: Mapping[str, str], layers: Collection[str]) -> dict[str, str]:
    """Few entries, as ``quantize`` takes them, that say the same: longer names win over shorter.

    Of an op without weights only the arithmetic matters.
    """
    entries = {"all": _most_common(chosen[name] for name in layers)}

    def resolved(name: str) -> str:
        fitting = [key for key in entries if name == key or name.startswith(f"{key}.")]
        return entries[max(fitting, key=len, default="all")]

    def fits(name: str) -> bool:
        has, wanted = PRECISIONS[resolved(name)], PRECISIONS[chosen[name]]
        is_same = (has.is_integer, has.is_dynamic) == (wanted.is_integer, wanted.is_dynamic)
        return has == wanted or (name not in layers and is_same)

    names = sorted(chosen, key=len)
    for block in blocks([name for name in chosen if name in layers]):
        inside = [name for name in layers if f"{name}.".startswith(f"{block}.")]
        wanted = _most_common(chosen[name] for name in inside)
        if wanted != entries["all"]:
            entries[block] = wanted
    for name in names:
        if not fits(name):
            entries[name] = chosen[name]
    return entries


def _most_common(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]
