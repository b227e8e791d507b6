"""An approximate softmax as attributes and arrays of ``attentive_pool_f32``."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from earmark.modelfile import Arrays

if TYPE_CHECKING:
    from torch import nn

__all__ = ["lower_softmax"]

# What a file may hold: magnitudes from 2^-126 to 2^40 (docs/arithmetic.md).
_SMALLEST, _LARGEST = 2.0**-126, 2.0**40


def lower_softmax(layer: nn.Module) -> tuple[str, Arrays]:
    """The word for the op's ``softmax``, and its arrays.

    Raises ValueError for a layer that is neither ``nn.Softmax`` nor one of ``earmark.nn``, and for
    bounds that no file may hold.
    """
    from torch import nn

    from earmark.nn.softmax import LookupTableSoftmax, PiecewiseLinearSoftmax

    if isinstance(layer, nn.Softmax):
        return "exact", {}
    if isinstance(layer, LookupTableSoftmax):
        return "table", {"table": layer.table.cpu().numpy(), "range": layer.limits.cpu().numpy()}
    if not isinstance(layer, PiecewiseLinearSoftmax):
        raise ValueError(f"a softmax of type {type(layer).__name__} is not known")
    function = layer.function()
    low, high = function.low, min(function.high, _LARGEST)
    if not _SMALLEST <= low <= high:
        raise ValueError(f"the softmax's lower bound {low:g} is out of range")
    # Pieces between breakpoints that are equal in float32 are empty.
    breakpoints = np.array(function.breakpoints, dtype=np.float32)
    last = [a < b for a, b in pairwise(breakpoints)] + [True] * (len(breakpoints) > 0)
    kept = [0, *(np.flatnonzero(last) + 1)]
    return "pwl", {
        "breakpoints": breakpoints[last],
        "slopes": np.array(function.slopes, dtype=np.float32)[kept],
        "intercepts": np.array(function.intercepts, dtype=np.float32)[kept],
        "bounds": np.array([low, high], dtype=np.float32),
    }
