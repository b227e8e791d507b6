"""How much each layer's precision costs: quantized alone, or left out alone (paper P1, Table 1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from earmark.candidates import Candidates, Measured, rate, trial_features

if TYPE_CHECKING:
    from earmark.nn.ecapa import EcapaTdnn
    from earmark.trials import Trials

__all__ = ["blocks", "sensitivity"]

BASELINE = "fp32"


def blocks(layers: list[str]) -> list[str]:
    """The blocks that layers belong to: ``blocks.N`` or the first part of the name, in order.

    >>> blocks(["blocks.0", "blocks.1.tdnn1", "blocks.1.tdnn2", "asp.conv"])
    ['blocks.0', 'blocks.1', 'asp']
    """
    parts = [name.split(".") for name in layers]
    return list(dict.fromkeys(".".join(p[:2]) if p[0] == "blocks" else p[0] for p in parts))


def sensitivity(
    net: EcapaTdnn,
    calibration: list[Any],
    trials: Trials,
    *,
    precision: str = "int8",
    by_block: bool = False,
    all_but_one: bool = False,
    crops: int = 0,
    processes: int = 1,
    ray: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    calibration_progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Measure the network in float32, with each unit alone in ``precision``, and with all of them.

    net: as ``load_checkpoint`` returns it. calibration: recordings, as ``quantize`` takes them.
    trials: whose recordings are embedded whole, or in ``crops`` sets of crops of 2 s, error rates
    being the mean over the sets. precision: as ``quantize`` names them. by_block: units are blocks,
    not layers. all_but_one: each unit alone in float32 and the others in ``precision``. processes,
    ray, folder: as ``Candidates`` takes them; latencies are undisturbed with one process only, and
    an interrupted run goes on with the same folder. progress: called with (measured, units);
    calibration_progress: with (done, total) recordings, before.

    Returns one row a unit, "fp32" first, "all" last. Raises ValueError for an unknown precision or
    no calibration, AudioError for a recording that cannot be used, FormatError for a file in
    ``folder`` that is no result.
    """
    from earmark.quantization import LoweredNetwork

    lowered = LoweredNetwork(net)
    units = blocks(lowered.layers) if by_block else lowered.layers
    choices: dict[str, dict[str, str]] = {BASELINE: {"all": "fp32"}}
    for unit in units:
        others, alone = (precision, "fp32") if all_but_one else ("fp32", precision)
        choices[unit] = {"all": others, unit: alone}
        if not by_block:
            # A name stands for those that begin with it, too.
            inside = (name for name in units if name.startswith(f"{unit}."))
            choices[unit] |= dict.fromkeys(inside, others)
    choices["all"] = {"all": precision}
    chosen = lowered.precisions("fp32", choices["all"])
    if lowered.needs_calibration(chosen):
        compensated = lowered.of_few_bits(chosen)
        lowered.calibrate(calibration, "minmax", compensated, calibration_progress)
    features = trial_features(net, trials, crops)
    with Candidates(lowered, features, processes=processes, ray=ray, folder=folder) as candidates:
        outcomes = candidates.run(choices, progress)
    reference = outcomes[BASELINE].embeddings
    return [rate(unit, outcome, reference, trials) for unit, outcome in outcomes.items()]
