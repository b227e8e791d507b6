"""The engine of CUDA devices: executed on the CPU over an emulation, and on a GPU where one is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C, _device_emulated

Array = NDArray[Any]

MODULES: dict[str, Any] = {"emulated": _device_emulated.cuda}
if hasattr(_C, "cuda") and _C.cuda.devices():
    MODULES["gpu"] = _C.cuda


class DeviceCopy:
    """An array in the emulated device's memory, as another library would have it there."""

    def __init__(self, array: Array, **changes: Any) -> None:
        self.array = np.ascontiguousarray(array)
        self.changes = changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        fields = {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, False),
            "strides": None,
            "version": 3,
        }
        return {**fields, **self.changes}
