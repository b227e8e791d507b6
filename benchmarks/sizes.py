"""File sizes of ECAPA-TDNNs of SpeechBrain's shape by width and precision.

    python benchmarks/sizes.py

The weights are random: a size depends on the shape alone. Prints a Markdown table; writes
``benchmarks/results/sizes.json``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import earmark
from _results import write_json
from earmark.bench.report import markdown_table
from earmark.frontend import SpeechBrainFbank
from earmark.nn import EcapaConfig, EcapaTdnn
from earmark.quantization.precision import PRESETS

CHANNELS = (256, 512, 1024)
PRECISIONS = ("float16", "int16", "int8", "int7", "w4", "int4", "w3", "int3", "int2")


def size_fraction(net: EcapaTdnn, precision: str) -> float:
    """File bytes / (4 x parameters)."""
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    choice = PRESETS.get(precision, {"all": precision})
    quantized = earmark.quantize(net, [noise], precision=choice, rounding="nearest")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.earmark")
        quantized.save(path)
        fraction: float = earmark.load(path).info()["size_fraction"]
    return fraction


def main() -> None:
    """Quantize, print and write."""
    fractions: dict[str, dict[str, float]] = {}
    for channels in tqdm(CHANNELS, "channels", file=sys.stderr):
        torch.manual_seed(0)
        config = EcapaConfig(channels=(*[channels] * 4, 3 * channels))
        net = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain").eval()
        fractions[str(channels)] = {p: size_fraction(net, p) for p in PRECISIONS}
    rows = [
        [channels, *(f"{100 * row[p]:.2f}" for p in PRECISIONS)]
        for channels, row in fractions.items()
    ]
    print(markdown_table(["C", *(f"{p}, %" for p in PRECISIONS)], rows))
    print(f"written: {write_json('sizes', {'size_fraction': fractions})}", file=sys.stderr)


if __name__ == "__main__":
    main()
