"""Time several engines against each other, each in a process of its own, interleaved in rounds."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Session:
    """A loaded engine: ``run()`` computes the output of one call; ``details`` is what it reports.

    ``details`` are facts for the result file, e.g. the instruction set or the thread count that
    the engine itself reports.
    """

    run: Callable[[], Array]
    details: dict[str, str | int] = field(default_factory=dict)


SessionFactory: TypeAlias = Callable[[], Session]


class WorkerError(RuntimeError):
    """A worker process ended before it answered; its traceback is on stderr."""


@dataclass(frozen=True)
class Start:
    """What a worker measured while starting.

    Attributes:
        load_s: seconds for importing the engine and loading the model.
        first_call_s: seconds for the first call, which may compile or choose kernels.
        output: the first call's result.
        details: the session's details.
    """

    load_s: float
    first_call_s: float
    output: Array
    details: dict[str, str | int]


def peak_rss_mib() -> float:
    """Largest resident set of this process so far.

    On Linux since its program was started: ``ru_maxrss`` would count the parent's as well.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _serve(connection: Connection, factory: SessionFactory) -> None:
    begin = time.perf_counter()
    session = factory()
    loaded = time.perf_counter()
    output = session.run()
    ready = time.perf_counter()
    connection.send(Start(loaded - begin, ready - loaded, output, session.details))
    gc.collect()
    gc.disable()
    while (calls := connection.recv()) is not None:
        session.run()
        times_ms = []
        for _ in range(calls):
            begin_ns = time.perf_counter_ns()
            session.run()
            times_ms.append((time.perf_counter_ns() - begin_ns) / 1e6)
        connection.send(times_ms)
    connection.send(peak_rss_mib())


class Worker:
    """One engine in a freshly started interpreter, which computes only when told to.

    The constructor returns after the first call has been answered, so workers load one after the
    other.

    Raises:
        WorkerError: from any method, when the process has ended.
    """

    def __init__(self, name: str, factory: SessionFactory) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_end, factory), daemon=True)
        self._process.start()
        child_end.close()
        self.start: Start = self._receive()

    def time_calls(self, calls: int) -> list[float]:
        """Make one untimed call, then ``calls`` timed ones; milliseconds of each.

        The untimed call brings weights back into the caches and absorbs the time slice in which
        another engine's threads still spin.
        """
        self.begin_calls(calls)
        return self.end_calls()

    def begin_calls(self, calls: int) -> None:
        """As ``time_calls``, without waiting: several workers can compute at once."""
        self._connection.send(calls)

    def end_calls(self) -> list[float]:
        """Wait for what ``begin_calls`` began; milliseconds of each call."""
        times_ms: list[float] = self._receive()
        return times_ms

    def close(self) -> float:
        """End the process; its peak resident memory in MiB."""
        self._connection.send(None)
        peak_mib: float = self._receive()
        self._process.join()
        return peak_mib

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise WorkerError(
                f"{self.name}: the process ended with status {self._process.exitcode}"
            ) from None


def interleave(
    workers: Sequence[Worker], rounds: Iterable[int], calls: int
) -> dict[str, list[float]]:
    """Time every worker once per round; the round's number rotates who goes first.

    Args:
        workers: the engines, by distinct names.
        rounds: round numbers, counted from 0; an iterator may show progress.
        calls: timed calls of an engine per round.

    Returns:
        Milliseconds of every timed call, by worker name. What slows the machine down for a while
        meets all engines alike.
    """
    times_ms: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in rounds:
        first = number % len(workers)
        for worker in [*workers[first:], *workers[:first]]:
            times_ms[worker.name] += worker.time_calls(calls)
    return times_ms


@dataclass(frozen=True)
class Summary:
    """Order statistics of a sample of call times in milliseconds."""

    calls: int
    min_ms: float
    quartile1_ms: float
    median_ms: float
    quartile3_ms: float
    p90_ms: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Summary:
        """Summarise at least two times; percentiles interpolate linearly between them."""
        percentiles = statistics.quantiles(times_ms, n=20, method="inclusive")
        return cls(
            calls=len(times_ms),
            min_ms=min(times_ms),
            quartile1_ms=percentiles[4],
            median_ms=percentiles[9],
            quartile3_ms=percentiles[14],
            p90_ms=percentiles[17],
        )
