"""Time of every step of the network on a GPU, and its share of what the device can do.

    python benchmarks/gpu_kernels.py [--json FILE]

SpeechBrain's shape (C = 1024), recordings of 3 s, int8, steps as they run (what one kernel does
together is one). Each step is launched 20 times in a row and its mean taken. The device's peak is
measured beside it: cuBLASLt's int8 product of the MFA layer's shape (torch._int_mm), and a copy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import _gpu
import earmark

_TIMES = 20
_BATCHES = (1, 8, 64, 256)


def main() -> None:
    args = _gpu.parser(__doc__).parse_args()
    torch = _gpu.torch_on(args.device)
    frames = 3 * _gpu.FRAMES_PER_S
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _gpu.network_files(folder, ("int8",))
        model: Any = earmark.load(folder / "int8.earmark", device=f"cuda:{args.device}")
    result = {"machine": _gpu.machine(args.device), "peak": peaks(torch), "batches": {}}
    for batch in _BATCHES:
        features = list(_gpu.synthetic_features(batch, frames))
        steps = model._engine.profile(features, times=_TIMES)
        result["batches"][str(batch)] = [shares(step, result["peak"]) for step in steps]
    _gpu.write(args.json, result)


def peaks(torch: Any) -> dict[str, float]:
    """TOP/s of int8 products (a multiplication and an addition are two), GB/s of a copy."""
    rows, n = 256 * 300, 3072
    a = torch.randint(-128, 127, (rows, n), dtype=torch.int8, device="cuda")
    b = torch.randint(-128, 127, (n, n), dtype=torch.int8, device="cuda").t()
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    to = torch.empty_like(source)
    calls = {"gemm": lambda: torch._int_mm(a, b), "copy": lambda: to.copy_(source)}
    timed = _gpu.interleaved(torch, calls, rounds=10, inner=10)
    return {
        "int8_tops": 2e-6 * rows * n * n / timed["gemm"]["min_us"],
        "gb_per_s": 2e-3 * source.numel() / timed["copy"]["min_us"],
    }


def shares(step: dict[str, Any], peak: dict[str, float]) -> dict[str, Any]:
    tops = 2e-3 * step["macs"] / step["nanoseconds"]
    gb_per_s = step["bytes"] / step["nanoseconds"]
    return {
        **{key: step[key] for key in ("name", "op", "kernel")},
        "us": step["nanoseconds"] / 1e3,
        "tops": tops,
        "gb_per_s": gb_per_s,
        "share_of_int8_peak": tops / peak["int8_tops"],
        "share_of_bandwidth": gb_per_s / peak["gb_per_s"],
    }


if __name__ == "__main__":
    main()
