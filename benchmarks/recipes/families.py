"""A trained network of every family of ECAPA-TDNN, begun from SpeechBrain's.

    OMP_NUM_THREADS=1 python benchmarks/recipes/families.py --data DATA -o runs/families/

Each gets the weights of ``DATA/checkpoints/ecapa256-bootstrap.ckpt`` that its topology has a place
for, then trains as a whole through its own front end. Interrupted, it goes on where it was. Leaves
``FAMILY/model.safetensors`` in the folder, which ``earmark.load_checkpoint`` reads.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _fine_tuning import BOOTSTRAP, crops, fine_tune, set_statistics

import earmark
from earmark.families import nemo, taoruijie, threedspeaker, wespeaker
from earmark.families.ecapa import Toolkit
from earmark.families.front_ends import front_end_of
from earmark.nn import EcapaTdnn

TOOLKITS: dict[str, Toolkit] = {
    module.TOOLKIT.family: module.TOOLKIT for module in (wespeaker, nemo, taoruijie, threedspeaker)
}
HEARD = 64


def begun(toolkit: Toolkit, teacher: EcapaTdnn, data: Path) -> EcapaTdnn:
    """A network of the family with what it can take of the teacher's weights.

    The first layer's are those of features as large as the teacher's, and what passes a Res2 layer
    by goes where the family has it.
    """
    topology: dict[str, Any] = {"dilations": toolkit.dilations, **toolkit.topology}
    config = dataclasses.replace(teacher.config, **topology)
    torch.manual_seed(0)
    net = EcapaTdnn(config, front_end_of(toolkit.family, config.n_mels), toolkit.family)
    pieces = crops(data, HEARD)
    mels = [
        np.std([front(wave) for wave in pieces]) for front in (teacher.front_end, net.front_end)
    ]
    own, state = net.state_dict(), teacher.state_dict()
    state["blocks.0.conv.conv.weight"] *= float(mels[0] / mels[1])
    if config.res2 == "last":
        by = -config.channels[0] // config.res2_scale
        for key, tensor in state.items():
            if ".tdnn1." in key and tensor.ndim:
                state[key] = tensor.roll(by, 0)
            if key.endswith(".tdnn2.conv.conv.weight"):
                state[key] = tensor.roll(by, 1)
    taken = {key: state[key] for key in own if key in state and state[key].shape == own[key].shape}
    net.load_state_dict({**own, **taken})
    set_statistics(net, pieces)
    return net


def main() -> None:
    """Train one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--only", choices=TOOLKITS, help="one family")
    args = parser.parse_args()
    for family in [args.only] if args.only else TOOLKITS:
        teacher = earmark.load_checkpoint(args.data / BOOTSTRAP, family="speechbrain")
        net = begun(TOOLKITS[family], teacher, args.data)
        run = args.output / family
        fine_tune(net, args.data, str(run), args.epochs, average=0.98, learning_rate=5e-4)


if __name__ == "__main__":
    main()
