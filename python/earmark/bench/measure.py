"""One model file on this machine: latency, throughput, memory, and where the time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any

from earmark.bench.models import nominal_macs, waves
from earmark.bench.timing import Summary, peak_rss_mib
from earmark.nn.config import EcapaConfig

JSON = dict[str, Any]

_SECONDS = 2.0  # spent on each figure, about
_FEWEST_CALLS, _MOST_CALLS = 5, 200


def measure(
    path: str,
    seconds: float | None,
    frames: int | None,
    batch: int,
    threads: int | None,
    device: str = "cpu",
) -> JSON:
    """Everything that one thread count shows, ready for JSON.

    To be called in a process of its own, whose memory is measured with it. seconds or frames: the
    length of a recording. batch: recordings in one call of the throughput figure; latency is of
    one. threads: of the engine, None for its default. device: where the model runs; no peak is
    measured on a GPU. Raises what ``earmark.load`` and ``Embedder.embed`` raise.
    """
    import earmark

    begin = time.perf_counter()
    model = earmark.Embedder(path, threads=threads, device=device)
    load_s = time.perf_counter() - begin
    rate = model.front_end.sample_rate_hz
    if frames is not None:
        samples = model.front_end.samples_of_frames(frames)
    else:
        samples = round((seconds or 0.0) * rate)
    distinct = list(islice(waves("*-1.flac", samples, rate), batch))
    recordings = list(islice(cycle(distinct), batch))
    begin = time.perf_counter()
    model.embed(recordings[0], sample_rate=rate)
    first_call_s = time.perf_counter() - begin
    features = list(islice(cycle([model.front_end(wave) for wave in distinct]), batch))

    peaks = [_peaks(model.isa, model.threads)]
    latency = _time(
        waveform=lambda: model.embed(recordings[0], sample_rate=rate),
        features=lambda: model.embed_features(features[0]),
    )
    bulk = _time(
        waveform=lambda: model.embed(recordings, sample_rate=rate),
        features=lambda: model.embed_features(features),
    )
    calls = latency["features"].calls
    ops = _ops([model.profile(features[0]) for _ in range(calls)])
    peaks.append(_peaks(model.isa, model.threads))
    peak = {name: max(p[name] for p in peaks) for name in peaks[0]}
    for op in ops:
        limit = peak.get("s8" if op["op"].endswith(("_s8", "_s16")) else "f32")
        op["share_of_peak"] = None if limit is None else op["gmac_per_s"] / limit
    return {
        "device": model.device,
        "isa": model.isa,
        "threads": model.threads,
        "recording": {"seconds": samples / rate, "samples": samples, "frames": len(features[0])},
        "load_s": load_s,
        "first_call_s": first_call_s,
        "latency": {name: asdict(summary) for name, summary in latency.items()},
        "throughput": {
            name: _throughput(summary, batch, samples / rate) for name, summary in bulk.items()
        },
        "peak_rss_mib": peak_rss_mib(),
        "peak_gmac_per_s": peak,
        "ops": ops,
    }


def against_peak(measured: JSON, config: EcapaConfig, scheme: str) -> JSON:
    """Nominal work of a recording's features, its rate, and its share of the measured peak."""
    gmac = nominal_macs(config, measured["recording"]["frames"]) / 1e9
    rate = gmac / measured["latency"]["features"]["median_ms"] * 1e3
    peak = measured["peak_gmac_per_s"].get("f32" if scheme == "fp32" else "s8")
    share = None if peak is None else rate / peak
    return {"gmac_nominal": gmac, "gmac_per_s_nominal": rate, "share_of_peak": share}


def _time(**calls: Callable[[], Any]) -> dict[str, Summary]:
    """Call each in turn, over and over; what slows the machine down meets all alike."""
    begin = time.perf_counter()
    for call in calls.values():
        call()
    one_round = time.perf_counter() - begin
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    rounds = min(max(int(_SECONDS / one_round), _FEWEST_CALLS), _MOST_CALLS)
    for _ in range(rounds):
        for name, call in calls.items():
            begin_ns = time.perf_counter_ns()
            call()
            times_ms[name].append((time.perf_counter_ns() - begin_ns) / 1e6)
    return {name: Summary.of(values) for name, values in times_ms.items()}


def _throughput(summary: Summary, batch: int, seconds: float) -> JSON:
    per_s = batch / summary.median_ms * 1e3
    return {"batch": batch, "utterances_per_s": per_s, "real_time_factor": 1 / (per_s * seconds)}


def _peaks(isa: str, threads: int | None) -> dict[str, float]:
    """Of all threads at once: clocks depend on how many cores are busy. None of a device."""
    from earmark import _C

    if threads is None:
        return {}
    with ThreadPoolExecutor(threads) as pool:
        measured = list(pool.map(_C.measure_peaks, [isa] * threads))
    return {name: sum(peaks[name] for peaks in measured) for name in measured[0]}


def _ops(profiles: list[list[JSON]]) -> list[JSON]:
    """Each op's median time of several profiles, and what follows from it."""
    ops = []
    for same in zip(*profiles, strict=True):
        nanoseconds = max(statistics.median(op["nanoseconds"] for op in same), 1)
        op = same[0]
        ops.append(
            {
                **{key: op[key] for key in ("name", "op", "kernel", "macs", "bytes")},
                "ms": nanoseconds / 1e6,
                "gmac_per_s": op["macs"] / nanoseconds,
                "gb_per_s": op["bytes"] / nanoseconds,
            }
        )
    total = sum(op["ms"] for op in ops)
    return [{**op, "share_of_time": op["ms"] / total} for op in ops]
