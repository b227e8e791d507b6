"""INT8 beside FP32 with trained networks of every family of ECAPA-TDNN.

    python benchmarks/trained_families.py --data DATA --runs runs/families/

The networks are those of ``recipes/families.py``, and the SpeechBrain checkpoint that they began
from. Calibrated on 128 recordings of the training speakers, compared on all of the dev speakers:
those of full band, and spoken digits recorded at 8 kHz, unlike any of the calibration. "int8,
recordings alone" is without what calibration makes of them beside. Prints a table; writes
``benchmarks/results/families-trained.json``.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import earmark
from _results import environment, write_json
from earmark.audio import read_audio
from earmark.bench.report import markdown_table
from earmark.metrics import cosine_score, eer
from earmark.trials import Trials, read_recordings, read_trials

Array = NDArray[Any]

RATE_HZ, CALIBRATION = 16000, 128
BOOTSTRAP = Path("checkpoints") / "ecapa256-bootstrap.ckpt"
FAMILIES = ("speechbrain", "3dspeaker", "taoruijie", "wespeaker", "nemo")
NARROW = "fsdd"
TRIALS = ("dev_samegender", "dev_fsdd")


def read(paths: list[Path]) -> list[Array]:
    """Samples at 16 kHz."""
    return [read_audio(path, target_rate=RATE_HZ).samples for path in paths]


def error_rate(embeddings: Array, row_of: dict[Path, int], trials: Trials) -> float:
    """EER of embeddings, whose rows are of recordings by path."""
    rows = np.array([row_of[path.resolve()] for path in trials.paths])
    enrolment, test = embeddings[rows[trials.enrolment]], embeddings[rows[trials.test]]
    return eer(cosine_score(enrolment, test), trials.labels)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("--runs", type=Path, required=True, help="of recipes/families.py")
    args = parser.parse_args()
    train, dev = (read_recordings(args.data / "speakers" / f"{s}.txt") for s in ("train", "dev"))
    heard, waves = read(train[:: len(train) // CALIBRATION][:CALIBRATION]), read(dev)
    alone = mock.patch("earmark.quantization.other_conditions", return_value=[])
    ways = {
        "int8": ("int8", heard, nullcontext()),
        "int8, recordings alone": ("int8", heard, alone),
        "dynamic": ("dynamic", [], nullcontext()),
    }
    row_of = {path.resolve(): row for row, path in enumerate(dev)}
    trials = [
        read_trials(args.data / "trials" / f"{t}.txt", args.data / "speakers") for t in TRIALS
    ]
    narrow = np.array([NARROW in path.parts for path in dev])
    rows: list[dict[str, Any]] = []
    for family in tqdm(FAMILIES, disable=None):
        path = args.runs / family / "model.safetensors"
        path = args.data / BOOTSTRAP if family == "speechbrain" else path
        net = earmark.load_checkpoint(path, family)
        reference = net.embed(waves)
        rates = [error_rate(reference, row_of, listed) for listed in trials]
        rows.append({"family": family, "scheme": "fp32", "eer": rates})
        for name, (scheme, recordings, calibrated) in ways.items():
            with calibrated:
                quantized = earmark.quantize(net, recordings, scheme=scheme)
            found = quantized.embed(waves)
            cosines = cosine_score(found, reference)
            row: dict[str, Any] = {"family": family, "scheme": name}
            groups = {"all": cosines, "full band": cosines[~narrow], "narrow": cosines[narrow]}
            for group, values in groups.items():
                row[group] = {"mean": float(values.mean()), "worst": float(values.min())}
            rows.append({**row, "eer": [error_rate(found, row_of, listed) for listed in trials]})
    groups = ("all", "full band", "narrow")
    table = [
        [row["family"], row["scheme"]]
        + [f"{row[g]['mean']:.5f} ({row[g]['worst']:.5f})" if g in row else "" for g in groups]
        + [f"{100 * rate:.2f} %" for rate in row["eer"]]
        for row in rows
    ]
    print(markdown_table(["family", "scheme", *groups, *(f"EER {t}" for t in TRIALS)], table))
    write_json("families-trained", {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
