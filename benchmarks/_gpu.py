"""What the GPU scripts share: the device, the network under test, timing, result files."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _results import environment
from earmark.bench.models import Workload, random_network
from earmark.bench.timing import Array
from earmark.devices import cuda_devices

JSON = dict[str, Any]

SEED = 20
CHANNELS = 1024
FRAMES_PER_S = 100
_CLOCKS = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw"


def parser(description: str | None) -> argparse.ArgumentParser:
    """With what every script has."""
    made = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    made.add_argument("--device", type=int, default=0, metavar="N", help="CUDA device (default: 0)")
    return made


def torch_on(ordinal: int) -> Any:
    """torch, its current device chosen; ends the script where something is missing."""
    try:
        import torch
    except ImportError:
        sys.exit("this needs torch, built for CUDA")
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")
    if not cuda_devices():
        sys.exit("earmark finds no CUDA device: was it built with -DEARMARK_CUDA=ON?")
    torch.cuda.set_device(ordinal)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch


def machine(ordinal: int) -> JSON:
    """The environment with the device and its clocks now."""
    query = ["nvidia-smi", f"--id={ordinal}", f"--query-gpu={_CLOCKS}", "--format=csv,noheader"]
    shown = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    gpu = dict(zip(_CLOCKS.split(","), (part.strip() for part in shown.split(",")), strict=True))
    return {**environment(), "gpu": gpu, "cuda": cuda_devices()}


def synthetic_waves(count: int, seconds: float, seed: int = SEED) -> list[Array]:
    """Noise with the rise and fall of speech: there need be no audio library."""
    rng = np.random.default_rng(seed)
    samples = round(16000 * seconds)
    time = np.arange(samples) / 16000
    waves = []
    for _ in range(count):
        loudness = np.sin(2 * np.pi * rng.uniform(2, 5) * time + rng.uniform(0, 6)) ** 2
        voice = np.sin(2 * np.pi * rng.uniform(90, 250) * time) + 0.3 * rng.normal(size=samples)
        waves.append((0.05 * loudness * voice).astype(np.float32))
    return waves


def network_files(folder: Path, schemes: tuple[str, ...]) -> Any:
    """SpeechBrain's shape with random weights, and ``<scheme>.earmark`` of it in ``folder``."""
    import torch

    import earmark
    from earmark.frontend import SpeechBrainFbank

    torch.manual_seed(SEED)
    config = Workload.speechbrain(CHANNELS, 3 * FRAMES_PER_S, 1).config
    waves = synthetic_waves(16, 3.0)
    front_end = SpeechBrainFbank(config.n_mels)
    network = random_network(config, np.stack([front_end(wave) for wave in waves]))
    for scheme in schemes:
        earmark.quantize(network, waves, scheme=scheme).save(folder / f"{scheme}.earmark")
    return network


def synthetic_features(batch: int, frames: int, n_mels: int = 80) -> Array:
    """(batch, frames, n_mels), as a normalised filterbank's."""
    rng = np.random.default_rng(SEED)
    return (12 * rng.normal(size=(batch, frames, n_mels))).astype(np.float32)


def interleaved(
    torch: Any, calls: dict[str, Callable[[], Any]], rounds: int, inner: int
) -> dict[str, JSON]:
    """Microseconds of a call, each round ``inner`` calls of each in turn, the device drained before
    and after; the calls' first runs are left out.
    """
    for call in calls.values():
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record()
            for _ in range(inner):
                call()
            end.record()
            end.synchronize()
            times[name].append(1e3 * begin.elapsed_time(end) / inner)
    return {
        name: {"median_us": statistics.median(values), "min_us": min(values), "rounds": rounds}
        for name, values in times.items()
    }


def write(path: Path | None, result: JSON) -> None:
    """Print the figures, and write them if asked."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
