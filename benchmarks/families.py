"""INT8 beside FP32 in the published shape of every family of ECAPA-TDNN, with random weights.

    python benchmarks/families.py --data DATA

Weights are torch's own at random; the BatchNorms have the statistics of crops of 3 s of training
recordings, through the family's own front end, so that activations are of the size that they have
in trained networks. Calibrated on 24 training recordings, compared on 40 recordings of the dev
speakers. No trained weights: what it tells is whether a topology quantizes at all. Prints a table;
writes ``benchmarks/results/families.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import earmark
from _results import environment, write_json
from earmark.audio import read_audio
from earmark.bench.report import markdown_table
from earmark.families import nemo, speechbrain, taoruijie, threedspeaker, wespeaker
from earmark.families.front_ends import front_end_of
from earmark.metrics import cosine_score
from earmark.nn import EcapaConfig, EcapaTdnn
from earmark.trials import read_recordings

Waves = list[NDArray[np.float32]]

RATE_HZ, CROP_SECONDS = 16000, 3
NARROW = {"channels": (1024, 1024, 1024, 1024, 1536)}
C512 = {"channels": (512, 512, 512, 512, 1536)}
# Toolkit, and what its published networks have of EcapaConfig beside its topology.
NETWORKS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "speechbrain": (speechbrain.TOOLKIT, {}),
    "3dspeaker": (threedspeaker.TOOLKIT, {}),
    "taoruijie": (taoruijie.TOOLKIT, {**NARROW, "attention_channels": 256}),
    "wespeaker c1024": (wespeaker.TOOLKIT, NARROW),
    "wespeaker c512, no context": (wespeaker.TOOLKIT, {**C512, "context": False}),
    "nemo": (nemo.TOOLKIT, {}),
}
SCHEMES = ("int8", "dynamic")


def random_network(name: str, waves: Waves) -> EcapaTdnn:
    """In evaluation mode."""
    toolkit, more = NETWORKS[name]
    config = EcapaConfig(dilations=toolkit.dilations, **toolkit.topology, **more)
    torch.manual_seed(0)
    net = EcapaTdnn(config, front_end_of(toolkit.family, config.n_mels), toolkit.family)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None  # the mean of all that it sees
    size = CROP_SECONDS * RATE_HZ
    crops = [net.front_end(wave[:size]) for wave in waves if len(wave) >= size]
    with torch.no_grad():
        net.train()(torch.from_numpy(np.stack(crops)))
    return net.eval().requires_grad_(False)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    lists = {
        name: read_recordings(args.data / "speakers" / f"{name}.txt") for name in ("train", "dev")
    }
    heard, others = (
        [read_audio(path, target_rate=RATE_HZ).samples for path in paths[:: len(paths) // count]][
            :count
        ]
        for paths, count in ((lists["train"], 24), (lists["dev"], 40))
    )
    rows = []
    for name in tqdm(NETWORKS, disable=None):
        net = random_network(name, heard)
        reference = net.embed(others)
        for scheme in SCHEMES:
            found = earmark.quantize(net, heard, scheme=scheme).embed(others)
            cosines = cosine_score(found, reference)
            figures = {"mean": float(cosines.mean()), "worst": float(cosines.min())}
            rows.append({"family": name, "scheme": scheme, **figures})
    table = [[r["family"], r["scheme"], f"{r['mean']:.4f}", f"{r['worst']:.4f}"] for r in rows]
    print(markdown_table(["family", "scheme", "cosine, mean", "worst"], table))
    write_json("families", {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
