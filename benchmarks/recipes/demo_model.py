"""The embedded model: one epoch of fine-tuning, then its files.

    python benchmarks/recipes/demo_model.py --data DATA --run runs/demo

Trains ``DATA/checkpoints/ecapa256-bootstrap.ckpt`` on; interrupted, it goes on where it was. Writes
``demo.safetensors`` beside this file, the run's weights as float16, and from these the model files
that ``earmark demo`` embeds: in float32 arithmetic, and in INT8 with the threshold of the equal
error rate on ``dev_samegender``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from _fine_tuning import BOOTSTRAP, fine_tune
from safetensors import safe_open
from safetensors.torch import save_file

import earmark

HERE = Path(__file__).parent
WEIGHTS = HERE / "demo.safetensors"
EMBEDDED = HERE.parents[1] / "python" / "earmark" / "data"


def main() -> None:
    """Train, round, quantize, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("--run", required=True, help="the folder of the training run")
    args = parser.parse_args()
    net = earmark.load_checkpoint(args.data / BOOTSTRAP, family="speechbrain")
    fine_tune(net, args.data, args.run, epochs=1, average=0.0)
    with safe_open(Path(args.run) / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    half = {
        name: tensor.half() if tensor.dtype == torch.float32 else tensor
        for name, tensor in tensors.items()
    }
    save_file(half, WEIGHTS, metadata)
    trials = [
        "--trials",
        args.data / "trials" / "dev_samegender.txt",
        "--root",
        args.data / "speakers",
    ]
    calibration = ["--calibrate", args.data / "speakers" / "train.txt"]
    # The weights are float16 already, so that storing them so changes nothing.
    for name, options in (("fp32", ["--scheme", "float16"]), ("int8", calibration)):
        output = EMBEDDED / f"demo-{name}.earmark"
        command = [
            sys.executable,
            "-m",
            "earmark",
            "quantize",
            WEIGHTS,
            *options,
            *trials,
            "-o",
            output,
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
