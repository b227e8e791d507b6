"""The CUDA kernels one by one: executed on the CPU over an emulation, and on a GPU where one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from earmark import _cuda_emulated

try:
    from earmark import _cuda_kernels
except ImportError:
    _cuda_kernels = None

Array = NDArray[Any]

MODULES: dict[str, Any] = {"emulated": _cuda_emulated}
if _cuda_kernels is not None and _cuda_kernels.has_device():
    MODULES["gpu"] = _cuda_kernels

each_device = pytest.mark.parametrize("device", MODULES)


def run(device: str, op: str, arguments: dict[str, Any], seed: int = 0, **more: Any) -> str:
    """Run a kernel; the arrays it writes are changed in place. Returns which kernel it was.

    seed: of the order in which the emulation runs warps and lanes.
    """
    module = MODULES[device]
    if module.emulated:
        module.seed(seed)
    name: str = module.run(op, arguments, **more)
    return name


def lengths(*frames: int) -> Array:
    return np.array(frames, np.int32)


def split(x: Array, frames: Sequence[int]) -> list[Array]:
    """The recordings of a batch."""
    return np.split(x, np.cumsum(frames)[:-1])
