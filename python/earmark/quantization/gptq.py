"""Rounding that makes up for its own errors.

GPTQ (E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization
for Generative Pre-trained Transformers", arXiv:2210.17323): columns are rounded one after another,
and the columns to come take up the error in the layer's output that the inputs' covariance says
they can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Compensation", "round_with_compensation"]

Array = NDArray[Any]

_BLOCK = 128


@dataclass(frozen=True)
class Compensation:
    """How the columns of weights answer to errors in others.

    order: (in,), which column comes when. answer: (in, in), upper; row i says how those after the
    i-th make up for an error in it. An error e in the i-th column that all after it make up for
    still costs ``(e / answer[i, i])^2`` of the output's square.
    """

    order: Array
    answer: Array

    @classmethod
    def of(cls, covariance: Array, damping: float) -> Compensation:
        """Of the inputs' covariance (in, in).

        damping: what is added to each variance, as a part of their mean. Columns of large variance
        come first, as long as many others can still make up for them.
        """
        variance = np.diag(covariance)
        order = np.argsort(-variance, kind="stable")
        damped = covariance[np.ix_(order, order)].astype(np.float64)
        mean = float(variance.mean())
        damped[np.diag_indices_from(damped)] += damping * (mean if mean > 0 else 1.0)
        # The inverse's upper factor.
        return cls(order, np.linalg.cholesky(np.linalg.inv(damped)).T)

    @property
    def per_column(self) -> Array:
        """(in,), the diagonal of ``answer`` by column."""
        result = np.empty(len(self.order))
        result[self.order] = np.diag(self.answer)
        return result

    def replace(self, weight: Array, choose: Callable[[int, Array], Array]) -> None:
        """Go through the columns of weights (out, in).

        choose: called with each column's number and what it should be (out,), float64, the errors
        so far made up for; returns what it becomes.
        """
        left = weight[:, self.order].astype(np.float64)
        n = left.shape[1]
        for begin in range(0, n, _BLOCK):
            end = min(begin + _BLOCK, n)
            errors = np.empty((len(left), end - begin))
            for i in range(begin, end):
                error = left[:, i] - choose(int(self.order[i]), left[:, i])
                error /= self.answer[i, i]
                left[:, i + 1 : end] -= np.outer(error, self.answer[i, i + 1 : end])
                errors[:, i - begin] = error
            left[:, end:] -= errors @ self.answer[begin:end, end:]


def round_with_compensation(
    weight: Array, scale: Array, limit: int, covariance: Array, damping: float
) -> Array:
    """Multiples of ``scale``, in [-limit, limit], that keep weight @ input.

    weight: float64 (out, in). scale: (out,). covariance, damping: as ``Compensation.of`` takes
    them. Returns float64 (out, in) of integers.
    """
    rounded = np.empty(weight.shape)

    def nearest(column: int, values: Array) -> Array:
        rounded[:, column] = np.clip(np.rint(values / scale), -limit, limit)
        return np.asarray(rounded[:, column] * scale)

    Compensation.of(covariance, damping).replace(weight, nearest)
    return rounded
