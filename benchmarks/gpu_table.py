"""A short table of what `gpu_check.sh` measured.

    python benchmarks/gpu_table.py FOLDER

FOLDER: with kernels.json, network.json and lengths.json. Markdown on stdout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    try:
        kernels, network, lengths = (
            json.loads((folder / f"{name}.json").read_text())
            for name in ("kernels", "network", "lengths")
        )
    except OSError as error:
        parser.error(str(error))
    print("\n".join(lines(kernels, network, lengths)))


def lines(kernels: Any, network: Any, lengths: Any) -> Iterator[str]:
    machine = network["machine"]
    gpu = machine["gpu"]
    yield f"{gpu['name']}, driver {gpu['driver_version']}, {machine['commit']}"
    yield ""
    yield "| batch | seconds | variant | us | utterances/s | cosine to FP32 | memory, MiB |"
    yield "|---:|---:|---|---:|---:|---:|---:|"
    for shape in network["shapes"]:
        for name, v in shape["variants"].items():
            yield (
                f"| {shape['batch']} | {shape['seconds']} | {name} | {v['median_us']:.1f} "
                f"| {v['utterances_per_s']:,.0f} | {v['cosine_to_torch_fp32']:.5f} "
                f"| {v['memory_bytes'] / 2**20:.0f} |"
            )
    yield ""
    peak = kernels["peak"]
    yield f"Peak: {peak['int8_tops']:.0f} TOP/s int8 (cuBLASLt), {peak['gb_per_s']:.0f} GB/s."
    yield ""
    yield "| batch | step | kernel | us | TOP/s | of the peak, % | GB/s |"
    yield "|---:|---|---|---:|---:|---:|---:|"
    for batch, steps in kernels["batches"].items():
        for s in sorted(steps, key=lambda step: -step["us"])[:8]:
            yield (
                f"| {batch} | {s['name']} | {s['kernel']} | {s['us']:.1f} | {s['tops']:.1f} "
                f"| {100 * s['share_of_int8_peak']:.1f} | {s['gb_per_s']:.0f} |"
            )
    yield ""
    yield "| a new length | first / repeated, median | worst |"
    yield "|---|---:|---:|"
    for name, v in lengths["lengths"].items():
        yield f"| {name} | {v['median_ratio']:.2f} | {v['worst_ratio']:.2f} |"
    yield ""
    rates = lengths["from_waveforms"]["utterances_per_s"]
    yield "From waveforms in host memory, utterances/s: " + ", ".join(
        f"{name} {rate:,.0f}" for name, rate in rates.items()
    )


if __name__ == "__main__":
    main()
