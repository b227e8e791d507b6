"""Integer numerators of an approximate softmax (docs/arithmetic.md, ``attentive_pool_s8``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.modelfile import Arrays

__all__ = ["integer_softmax"]

Array = NDArray[Any]

_ONE = 2.0**24


def integer_softmax(
    kind: str, arrays: Arrays, weight: Array, scale: Array, bias: Array, bits: int = 8
) -> dict[str, Array]:
    """The arrays of an integer pooling for the function of an ``attentive_pool_f32``.

    kind: "pwl" or "table", with its ``arrays``. weight: integers (C, I); scale: (C,), of a sum of
    products; bias: (C,). bits: of the layer's input. A factor common to all numerators cancels:
    they are scaled so that the largest that any input can give is 2^24, and none saturates.
    """
    if kind == "table":
        table, (low, high) = arrays["table"].astype(np.float64), arrays["range"]
        steps = (len(table) - 1) / (float(high) - float(low))
        return {
            "multiplier": scale * steps,
            "offset": (bias - float(low)) * steps,
            "table": np.maximum(table * (_ONE / table.max()), 1.0),
        }
    slopes, intercepts = (arrays[role].astype(np.float64) for role in ("slopes", "intercepts"))
    breakpoints = arrays["breakpoints"].astype(np.float64)
    low, high = arrays["bounds"].astype(np.float64)
    reach = scale * np.abs(weight.astype(np.int64)).sum(axis=1) * 2.0**bits
    ends = np.array([(bias - reach).min(), (bias + reach).max()])
    places = np.concatenate([ends, breakpoints.clip(*ends)])
    piece = np.searchsorted(breakpoints, places, side="right")
    largest = (places * slopes[piece] + intercepts[piece]).clip(low, high).max()
    factor = _ONE / largest
    return {
        "offset": bias,
        "breakpoints": breakpoints,
        "slopes": slopes * factor,
        "intercepts": intercepts * factor,
        "bounds": np.array([max(low * factor, 1.0), _ONE]),
    }
