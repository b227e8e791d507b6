"""Rounding that makes up for its own errors.

GPTQ (E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization
for Generative Pre-trained Transformers", arXiv:2210.17323): columns are rounded one after another,
and the columns to come take up the error in the layer's output that the inputs' covariance says
they can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["round_with_compensation"]

Array = NDArray[Any]

_BLOCK = 128


def round_with_compensation(
    weight: Array, scale: Array, limit: int, covariance: Array, damping: float
) -> Array:
    """Multiples of ``scale``, in [-limit, limit], that keep weight @ input.

    weight: float64 (out, in). scale: (out,). covariance: (in, in), of the inputs. damping: what is
    added to each variance, as a part of their mean. Columns of large variance come first, as long
    as many others can still make up for them. Returns float64 (out, in) of integers.
    """
    variance = np.diag(covariance)
    order = np.argsort(-variance, kind="stable")
    damped = covariance[np.ix_(order, order)].astype(np.float64)
    mean = float(variance.mean())
    damped[np.diag_indices_from(damped)] += damping * (mean if mean > 0 else 1.0)
    # Row i of the inverse's upper factor: how the columns after i answer to an error in i.
    answer = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight[:, order].astype(np.float64)
    rounded = np.empty_like(left)
    n = left.shape[1]
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        errors = np.empty((len(left), end - begin))
        for i in range(begin, end):
            rounded[:, i] = np.clip(np.rint(left[:, i] / scale), -limit, limit)
            error = (left[:, i] - rounded[:, i] * scale) / answer[i, i]
            left[:, i + 1 : end] -= np.outer(error, answer[i, i + 1 : end])
            errors[:, i - begin] = error
        left[:, end:] -= errors @ answer[begin:end, end:]
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result
