"""What rounding moves all of a network's outputs by, given back by the last layer's offset.

Values that a BatchNorm puts at one place in half of all frames are rounded to one side there: such
errors do not average out over time, and recordings have them in common. The empirical bias
correction of M. Nagel et al., arXiv:1906.04721, section 4.2, of the outputs alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.plan import PlanBuilder, make_engine

__all__ = ["corrected"]

Array = NDArray[Any]


def corrected(network: PlanBuilder, examples: Sequence[tuple[Array, Array]]) -> PlanBuilder:
    """The plan with the mean difference of its outputs to those wanted taken off.

    examples: features (frames, bands), float32, and the output (channels,) that the float32 plan
    has of them. Without any, and where more than its offset follows the last layer, the plan is
    returned as it is.
    """
    last = network.ops[-1]
    name = f"{last['name']}.epilogue"
    is_affine = (
        last["op"].startswith("dense") and not last.get("activation") and not last.get("relu")
    )
    if not examples or not is_affine:
        return network
    engine = make_engine(network.plan, network.arrays)
    found = engine.run([features for features, _ in examples])
    error = (found - np.stack([output for _, output in examples])).mean(axis=0, dtype=np.float64)
    result = copy.copy(network)
    *rows, offset = network.arrays[name]
    result.arrays = {**network.arrays, name: np.stack([*rows, (offset - error).astype(np.float32)])}
    return result
