"""A network in many precisions, run side by side: what each embeds, its size, its speed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from earmark.audio import read_audio
from earmark.crops import draw_crops
from earmark.errors import FormatError, first_line
from earmark.metrics import cosine_score, eer, eer_difference, min_dcf

if TYPE_CHECKING:
    from types import TracebackType

    from earmark.modelfile import ModelFile
    from earmark.nn.ecapa import EcapaTdnn
    from earmark.quantization import LoweredNetwork
    from earmark.trials import Trials

__all__ = [
    "Candidates",
    "Measured",
    "Outcome",
    "rate",
    "signal_to_noise_db",
    "trial_features",
    "trial_scores",
]

Array = NDArray[Any]
Progress = Callable[[int, int], None]

_LATENCY_FRAMES, _LATENCY_CALLS = 300, 9


@dataclass(frozen=True)
class Outcome:
    """What a candidate does.

    embeddings: (recordings, dim) float32. size_fraction: file bytes / (4 x parameters). latency_ms:
    median for 300 frames on one thread, beside whatever else runs.
    """

    embeddings: Array
    size_fraction: float
    latency_ms: float


@dataclass(frozen=True)
class Measured:
    """A precision of the network, measured on trials.

    unit: what it is called. eer, min_dcf: fractions, of cosine scores of the trials. eer_change:
    EER minus the float32 network's, and the 95 % interval of ``eer_difference``. cosine,
    worst_cosine, sqnr_db: of the embeddings to those of the float32 network; sqnr_db is None where
    they are equal. size_fraction, latency_ms: as of an ``Outcome``.
    """

    unit: str
    eer: float
    eer_change: tuple[float, float, float]
    min_dcf: float
    cosine: float
    worst_cosine: float
    sqnr_db: float | None
    size_fraction: float
    latency_ms: float


def trial_features(net: EcapaTdnn, trials: Trials, crops: int = 0) -> list[Array]:
    """Features of the recordings of trials: whole, or ``crops`` sets of crops of 2 s, by set.

    Raises AudioError for a recording that cannot be used.
    """
    from earmark.quantization import features_of

    if not crops:
        return list(features_of(net, trials.paths))
    rate_hz = net.front_end.sample_rate_hz
    waves = [read_audio(path, target_rate=rate_hz).samples for path in trials.paths]
    return [
        features
        for items in draw_crops(waves, rate_hz, crops)
        for features in features_of(net, items)
    ]


def trial_scores(trials: Trials, embeddings: Array) -> Array:
    """Cosine of each trial, (sets, trials), of embeddings (sets x recordings, dim)."""
    sets = embeddings.reshape(-1, len(trials.paths), embeddings.shape[1])
    return cosine_score(sets[:, trials.enrolment], sets[:, trials.test])


def rate(unit: str, outcome: Outcome, reference: Array, trials: Trials) -> Measured:
    """An outcome's figures; ``reference``: embeddings of the float32 network.

    Of recordings in several sets of crops, error rates are the mean over the sets.
    """
    scores = trial_scores(trials, outcome.embeddings)
    sides = trials.speakers()[np.stack([trials.enrolment, trials.test])]
    baseline = trial_scores(trials, reference)
    cosines = cosine_score(outcome.embeddings, reference)
    return Measured(
        unit=unit,
        eer=float(np.mean([eer(row, trials.labels) for row in scores])),
        eer_change=eer_difference(scores, baseline, trials.labels, sides),
        min_dcf=float(np.mean([min_dcf(row, trials.labels) for row in scores])),
        cosine=float(cosines.mean()),
        worst_cosine=float(cosines.min()),
        sqnr_db=signal_to_noise_db(reference, outcome.embeddings),
        size_fraction=outcome.size_fraction,
        latency_ms=outcome.latency_ms,
    )


def signal_to_noise_db(signal: Array, noisy: Array) -> float | None:
    """10 log10 of the signal's energy over the difference's; None where they are equal."""
    noise = float(np.square(noisy.astype(np.float64) - signal).sum())
    energy = float(np.square(signal.astype(np.float64)).sum())
    return None if noise == 0 else 10 * float(np.log10(energy / noise))


class Candidates:
    """Runs a network in given precisions on given features, in processes or on a Ray cluster.

    lowered: calibrated, where a precision is integer. features: (frames, bands) of each recording.
    processes: that work side by side, one thread each. ray: work goes to the Ray cluster that
    ``RAY_ADDRESS`` names, or to one begun on this machine, one task a CPU. folder: keeps each
    outcome under the digest of the model and the features, so that nothing is run twice.

    To be used as a context manager. Raises ValueError when Ray is wanted and not installed.
    """

    def __init__(
        self,
        lowered: LoweredNetwork,
        features: list[Array],
        *,
        processes: int = 1,
        ray: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if ray and importlib.util.find_spec("ray") is None:
            raise ValueError("ray is not installed: pip install 'earmark[ray]'")
        self._lowered = lowered
        self._features = features
        self._processes = processes
        self._ray = ray
        self._folder = None if folder is None else Path(folder)
        self._workers: _Workers | None = None
        self._features_digest = hashlib.sha256()
        for array in features:
            self._features_digest.update(f"{array.shape}".encode() + array.tobytes())

    def __enter__(self) -> Candidates:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._workers is not None:
            self._workers.close()

    def run(
        self, choices: Mapping[str, Mapping[str, str]], progress: Progress | None = None
    ) -> dict[str, Outcome]:
        """The outcome of each choice of precisions.

        choices: by a name, the precision of every layer as ``quantize`` takes them. progress:
        called with (done, total). Raises FormatError for a file of the folder that is no outcome.
        """
        outcomes: dict[str, Outcome] = {}
        pending: dict[Future[Outcome], tuple[str, Path | None]] = {}

        def report() -> None:
            if progress is not None:
                progress(len(outcomes), len(choices))

        for name, precision in choices.items():
            chosen = self._lowered.precisions("fp32", precision)
            model = self._lowered.quantize("fp32", chosen).model_file
            kept = self._kept(model)
            if kept is not None and kept.is_file():
                outcomes[name] = _load(kept, len(self._features))
                report()
                continue
            if self._workers is None:
                kind = _RayTasks if self._ray else _Processes
                self._workers = kind(self._features, self._processes)
            pending[self._workers.submit(model)] = (name, kept)
            # As many models as are worked on, and the next.
            while len(pending) > self._workers.width:
                _collect(pending, outcomes)
                report()
        while pending:
            _collect(pending, outcomes)
            report()
        return {name: outcomes[name] for name in choices}

    def _kept(self, model: ModelFile) -> Path | None:
        if self._folder is None:
            return None
        sha = self._features_digest.copy()
        sha.update(model.metadata["sha256"].encode())
        return self._folder / f"{sha.hexdigest()[:32]}.safetensors"


def _collect(
    pending: dict[Future[Outcome], tuple[str, Path | None]], outcomes: dict[str, Outcome]
) -> None:
    """Take what is done, at least one, from the pending to the outcomes."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        name, kept = pending.pop(future)
        outcomes[name] = future.result()
        if kept is not None:
            _keep(kept, outcomes[name])


def _keep(path: Path, outcome: Outcome) -> None:
    from safetensors.numpy import save

    from earmark.training.checkpoint import atomic_file

    figures = {"size_fraction": outcome.size_fraction, "latency_ms": outcome.latency_ms}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        tensors = {"embeddings": outcome.embeddings}
        temporary.write_bytes(save(tensors, metadata={"earmark": json.dumps(figures)}))


def _load(path: Path, recordings: int) -> Outcome:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            figures = json.loads((file.metadata() or {})["earmark"])
            embeddings = file.get_tensor("embeddings")
        if embeddings.dtype != np.float32 or embeddings.shape[:-1] != (recordings,):
            raise ValueError(f"embeddings are {embeddings.dtype.name} {embeddings.shape}")
        return Outcome(embeddings, **{key: float(value) for key, value in figures.items()})
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: not the outcome of a candidate: {first_line(error)}") from error


class _Workers(Protocol):
    width: int

    def __init__(self, features: list[Array], processes: int) -> None: ...

    def submit(self, model: ModelFile) -> Future[Outcome]: ...

    def close(self) -> None: ...


class _Processes:
    def __init__(self, features: list[Array], processes: int) -> None:
        self.width = processes
        # Not forked: threads of torch are not.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, context, _share, (features,))

    def submit(self, model: ModelFile) -> Future[Outcome]:
        return self._pool.submit(_run_shared, model)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _RayTasks:
    def __init__(self, features: list[Array], processes: int) -> None:
        import ray

        self._begun_here = not ray.is_initialized()
        if self._begun_here:
            # Ray would report to its makers.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        self.width = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._features = ray.put(features)
        self._run = ray.remote(num_cpus=1)(_run)

    def submit(self, model: ModelFile) -> Future[Outcome]:
        future: Future[Outcome] = self._run.remote(self._features, model).future()
        return future

    def close(self) -> None:
        import ray

        if self._begun_here:
            ray.shutdown()


_shared: list[Array]


def _share(features: list[Array]) -> None:
    """What all runs of a process have in common."""
    global _shared
    _shared = features


def _run_shared(model: ModelFile) -> Outcome:
    return _run(_shared, model)


def _run(features: list[Array], model: ModelFile) -> Outcome:
    from earmark.embedder import Embedder

    embedder = Embedder(model, threads=1)
    frames = np.random.default_rng(0).normal(size=(_LATENCY_FRAMES, features[0].shape[1]))
    frames = frames.astype(np.float32)
    times = []
    for _ in range(_LATENCY_CALLS):
        start = time.perf_counter()
        embedder.embed_features(frames)
        times.append(1e3 * (time.perf_counter() - start))
    return Outcome(
        embeddings=embedder.embed_features(features),
        size_fraction=embedder.info()["size_fraction"],
        latency_ms=statistics.median(times),
    )
