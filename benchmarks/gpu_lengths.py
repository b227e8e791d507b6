"""What a length costs a GPU that was not seen before, and what waveforms in host memory cost.

    python benchmarks/gpu_lengths.py [--json FILE]

SpeechBrain's shape (C = 1024), int8, batch 1: the first call of each of 20 new lengths and the
same lengths again, beside torch FP16 (eager, and compiled for any length). Then from 256 waveforms
of 3 s in host memory to embeddings there, front end included.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _gpu
import earmark

_LENGTHS = range(203, 403, 10)
_BATCH, _SECONDS, _REPEATS = 256, 3.0, 20


def main() -> None:
    args = _gpu.parser(__doc__).parse_args()
    torch = _gpu.torch_on(args.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = _gpu.network_files(folder, ("int8",)).cuda().eval().requires_grad_(False)
        model: Any = earmark.load(folder / "int8.earmark", device=f"cuda:{args.device}")
    compiled = torch.compile(network, dynamic=True)

    def by_torch(module: Any) -> Callable[[Any], Any]:
        def call(features: Any) -> Any:
            with torch.inference_mode(), torch.autocast("cuda", torch.float16):
                return module(features)

        return call

    out = torch.empty(1, model.embedding_size, device="cuda")
    calls = {
        "earmark-int8": lambda features: model.embed_features(features, out=out),
        "torch-fp16": by_torch(network),
        "torch-compile-dynamic-fp16": by_torch(compiled),
    }
    lengths = {name: over_lengths(torch, call) for name, call in calls.items()}
    result = {
        "machine": _gpu.machine(args.device),
        "lengths": lengths,
        "from_waveforms": from_waveforms(model),
    }
    _gpu.write(args.json, result)


def over_lengths(torch: Any, call: Callable[[Any], Any]) -> dict[str, Any]:
    """Microseconds of first and of repeated calls; what is loaded once is loaded before."""
    features = {n: torch.from_numpy(_gpu.synthetic_features(1, n)).cuda() for n in _LENGTHS}
    for frames in (100, 150, 100, 100, 100):
        call(torch.from_numpy(_gpu.synthetic_features(1, frames)).cuda())

    def timed(item: Any) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call(item)
        torch.cuda.synchronize()
        return 1e6 * (time.perf_counter() - begin)

    first = [timed(item) for item in features.values()]
    for item in features.values():
        call(item)  # the second call of a length may do something once as well
    repeated = [statistics.median(timed(item) for _ in range(5)) for item in features.values()]
    ratios = [a / b for a, b in zip(first, repeated, strict=True)]
    return {
        "first_us": first,
        "repeated_us": repeated,
        "median_ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
    }


def from_waveforms(model: Any) -> dict[str, Any]:
    """Utterances a second: of the engine alone, and of ``embed`` with its checks."""
    waves = _gpu.synthetic_waves(_BATCH, _SECONDS)
    compiled = model.front_end.compiled
    calls = {
        "engine": lambda: model._engine.embed(compiled, waves),
        "embed": lambda: model.embed(waves),
    }
    rates = {}
    for name, call in calls.items():
        call()
        times = []
        for _ in range(_REPEATS):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        rates[name] = _BATCH / statistics.median(times)
    return {"batch": _BATCH, "seconds": _SECONDS, "utterances_per_s": rates}


if __name__ == "__main__":
    main()
