"""How much each layer's precision costs: quantized alone, or left out alone (paper P1, Table 1)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from earmark.errors import FormatError, first_line
from earmark.metrics import cosine_score, eer, min_dcf

if TYPE_CHECKING:
    from earmark.nn.ecapa import EcapaTdnn
    from earmark.quantization import LoweredNetwork
    from earmark.trials import Trials

__all__ = ["Measured", "blocks", "sensitivity", "signal_to_noise_db"]

Array = NDArray[Any]

BASELINE = "fp32"
_LATENCY_FRAMES, _LATENCY_CALLS = 300, 9


@dataclass(frozen=True)
class Measured:
    """One precision of the network, measured.

    unit: the layer or block, "fp32" for none and "all" for every one. eer, min_dcf: fractions, of
    cosine scores of the trials. cosine, worst_cosine, sqnr_db: of the embeddings to those of the
    float32 network. size_fraction: file bytes / (4 x parameters). latency_ms: median for 300
    frames on one thread, beside whatever else runs.
    """

    unit: str
    eer: float
    min_dcf: float
    cosine: float
    worst_cosine: float
    sqnr_db: float | None
    size_fraction: float
    latency_ms: float


def blocks(layers: list[str]) -> list[str]:
    """The blocks that layers belong to: ``blocks.N`` or the first part of the name, in order."""
    parts = [name.split(".") for name in layers]
    return list(dict.fromkeys(".".join(p[:2]) if p[0] == "blocks" else p[0] for p in parts))


def signal_to_noise_db(signal: Array, noisy: Array) -> float | None:
    """10 log10 of the signal's energy over the difference's; None where they are equal."""
    noise = float(np.square(noisy.astype(np.float64) - signal).sum())
    energy = float(np.square(signal.astype(np.float64)).sum())
    return None if noise == 0 else 10 * float(np.log10(energy / noise))


def sensitivity(
    net: EcapaTdnn,
    calibration: list[Any],
    trials: Trials,
    *,
    precision: str = "int8",
    by_block: bool = False,
    all_but_one: bool = False,
    processes: int = 1,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    calibration_progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Measure the network in float32, with each unit alone in ``precision``, and with all of them.

    net: as ``load_checkpoint`` returns it. calibration: recordings, as ``quantize`` takes them.
    trials: whose recordings are embedded whole. precision: as ``quantize`` names them. by_block:
    units are blocks, not layers. all_but_one: each unit alone in float32 and the others in
    ``precision``. processes: that measure side by side, one thread each; latencies are undisturbed
    with one only. folder: keeps each result, so that an interrupted run of the same networks,
    precision and trials goes on. progress: called with (measured, units); calibration_progress:
    with (done, total) recordings, before.

    Returns one row a unit, float32 first, all quantized last. Raises ValueError for an unknown
    precision or no calibration, AudioError for a recording that cannot be used, FormatError for a
    file in ``folder`` that is no result.
    """
    from earmark.quantization import LoweredNetwork, features_of

    lowered = LoweredNetwork(net)
    units = blocks(lowered.layers) if by_block else lowered.layers
    choices: dict[str, dict[str, str]] = {BASELINE: {"all": "fp32"}}
    for unit in units:
        others, alone = (precision, "fp32") if all_but_one else ("fp32", precision)
        choices[unit] = {"all": others, unit: alone}
        if not by_block:
            # A name stands for those that begin with it, too.
            inside = (name for name in units if name.startswith(f"{unit}."))
            choices[unit] |= dict.fromkeys(inside, others)
    choices["all"] = {"all": precision}
    chosen = lowered.precisions("fp32", choices["all"])
    if lowered.needs_calibration(chosen):
        compensated = lowered.below_8_bits(chosen)
        lowered.calibrate(calibration, "minmax", compensated, calibration_progress)
    features = list(features_of(net, trials.paths))
    store = Path(folder) if folder is not None else None
    with tempfile.TemporaryDirectory() as scratch:
        jobs = _Jobs(lowered, choices, features, trials, store, Path(scratch))
        for done, _ in enumerate(jobs.run(processes), 1):
            if progress is not None:
                progress(done, len(choices))
        return [jobs.results[unit] for unit in choices]


class _Jobs:
    """The measurements, those of a folder taken from there."""

    def __init__(
        self,
        lowered: LoweredNetwork,
        choices: Mapping[str, Mapping[str, str]],
        features: list[Array],
        trials: Trials,
        store: Path | None,
        scratch: Path,
    ) -> None:
        self._lowered = lowered
        self._choices = choices
        self._features = features
        self._trials = trials
        self._scratch = scratch
        self._store = store
        self.results: dict[str, Measured] = {}
        self._measured_on = hashlib.sha256()
        for array in (trials.labels, trials.enrolment, trials.test, *features):
            self._measured_on.update(array.tobytes())

    def run(self, processes: int) -> Iterator[str]:
        """Measure what is missing; yields each unit when it is there."""
        pool: ProcessPoolExecutor | None = None
        pending: dict[Future[Measured], tuple[str, Path]] = {}
        try:
            for unit in self._choices:
                model = self._model(unit)
                if self._load(unit, model):
                    model.unlink()
                    yield unit
                    continue
                pool = pool or self._pool(processes)
                pending[pool.submit(_measure, unit, str(model))] = (unit, model)
                # As many model files as are worked on, and the next.
                while len(pending) > processes:
                    yield from self._finished(pending)
            while pending:
                yield from self._finished(pending)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _pool(self, processes: int) -> ProcessPoolExecutor:
        # Every process compares with the float32 network's embeddings.
        baseline = self._model(BASELINE)
        shared = (_embed(baseline, self._features), self._features, self._trials)
        # Not forked: threads of torch are not.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(processes, context, _share, (shared,))

    def _finished(self, pending: dict[Future[Measured], tuple[str, Path]]) -> Iterator[str]:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            unit, model = pending.pop(future)
            self.results[unit] = future.result()
            self._keep(unit, model)
            model.unlink()
            yield unit

    def _model(self, unit: str) -> Path:
        path = self._scratch / f"{unit}.earmark"
        chosen = self._lowered.precisions("fp32", self._choices[unit])
        self._lowered.quantize("fp32", chosen).save(path)
        return path

    def _kept(self, unit: str, model: Path) -> Path | None:
        """Where a result is kept: named after the model's bytes and what it is measured on."""
        if self._store is None:
            return None
        from earmark.modelfile import read

        sha = self._measured_on.copy()
        sha.update(read(model).metadata["sha256"].encode())
        return self._store / f"{unit}-{sha.hexdigest()[:16]}.json"

    def _load(self, unit: str, model: Path) -> bool:
        kept = self._kept(unit, model)
        if kept is None or not kept.is_file():
            return False
        try:
            self.results[unit] = Measured(**json.loads(kept.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise FormatError(f"{kept}: no result of a sensitivity: {first_line(error)}") from error
        return True

    def _keep(self, unit: str, model: Path) -> None:
        from earmark.training.checkpoint import write_json

        kept = self._kept(unit, model)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, asdict(self.results[unit]))


_shared: tuple[Array, list[Array], Trials]


def _share(shared: tuple[Array, list[Array], Trials]) -> None:
    """What all measurements of a process have in common."""
    global _shared
    _shared = shared


def _embed(model: Path, features: list[Array]) -> Array:
    import earmark

    rows: Array = earmark.Embedder(model, threads=1).embed_features(features)
    return rows


def _measure(unit: str, path: str) -> Measured:
    import earmark

    reference, features, trials = _shared
    model = earmark.Embedder(path, threads=1)
    embeddings = model.embed_features(features)
    scores = cosine_score(embeddings[trials.enrolment], embeddings[trials.test])
    cosines = cosine_score(embeddings, reference)
    return Measured(
        unit=unit,
        eer=eer(scores, trials.labels),
        min_dcf=min_dcf(scores, trials.labels),
        cosine=float(cosines.mean()),
        worst_cosine=float(cosines.min()),
        sqnr_db=signal_to_noise_db(reference, embeddings),
        size_fraction=model.info()["size_fraction"],
        latency_ms=_latency_ms(model, features[0].shape[1]),
    )


def _latency_ms(model: Any, n_mels: int) -> float:
    frames = np.random.default_rng(0).normal(size=(_LATENCY_FRAMES, n_mels)).astype(np.float32)
    times = []
    for _ in range(_LATENCY_CALLS):
        start = time.perf_counter()
        model.embed_features(frames)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
