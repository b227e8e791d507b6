"""Where a model runs: on the CPU, or on a CUDA device. Without torch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark import _C

__all__ = [
    "cuda_devices",
    "cuda_engine",
    "has_cuda",
    "is_on_device",
    "ordinal_of",
    "pwl_softmax",
    "stream_of",
    "upload",
]

# A part of the extension where it was built with CUDA.
_cuda: Any = getattr(_C, "cuda", None)

_DLPACK_CUDA = 2


def has_cuda() -> bool:
    """Whether this build has CUDA kernels."""
    return _cuda is not None


def cuda_devices() -> list[dict[str, Any]]:
    """The CUDA devices there are: ``ordinal``, ``name``, ``capability`` (10 * major + minor) and
    ``driver``. Empty where there is no driver, or none that earmark was built for.
    """
    return [] if _cuda is None else list(_cuda.devices())


def ordinal_of(device: str) -> int | None:
    """The number of a CUDA device, such as ``cuda`` (the first) or ``cuda:1``; None for ``cpu``.

    Raises ValueError for another word, and for a device that is not there.
    """
    if device == "cpu":
        return None
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not (number.isascii() and number.isdigit())):
        raise ValueError(f"device {device!r} is unknown: known are cpu, cuda and such as cuda:1")
    if _cuda is None:
        raise ValueError("no CUDA device: this build of earmark has no CUDA kernels")
    found = [entry["ordinal"] for entry in cuda_devices()]
    if not found:
        raise ValueError("no CUDA device")
    ordinal = int(number or 0)
    if ordinal not in found:
        there = ", ".join(f"cuda:{n}" for n in found)
        raise ValueError(f"no CUDA device {ordinal}: there is {there}")
    return ordinal


def cuda_engine(tensors: dict[str, Any], ops: list[Any], ordinal: int) -> _C.Engine:
    """The engine of a plan on that device."""
    engine: _C.Engine = _cuda.Engine(tensors, ops, ordinal=ordinal)
    return engine


def upload(array: NDArray[Any], ordinal: int = 0) -> Any:
    """A copy of an array (rows, columns), float32 or int8, on that device."""
    return _cuda.upload(ordinal, np.ascontiguousarray(array))


def is_on_device(item: Any) -> bool:
    """Whether it is an array in a device's memory, of whatever library."""
    if isinstance(item, np.ndarray | str | bytes):
        return False
    if hasattr(item, "__cuda_array_interface__"):
        return True
    return hasattr(item, "__dlpack_device__") and item.__dlpack_device__()[0] == _DLPACK_CUDA


def stream_of(item: Any) -> int | None:
    """The stream that torch works on where ``item`` is its tensor; None for other libraries', which
    say with the array what to wait for.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(item, torch.Tensor) or item.device.type != "cuda":
        return None
    return int(torch.cuda.current_stream(item.device).cuda_stream)


def pwl_softmax(
    addresses: list[int],
    *,
    dtype: str,
    sizes: tuple[int, int, int],
    pieces: int,
    ordinal: int,
    stream: int | None,
) -> None:
    """Queue a piecewise-linear softmax over contiguous memory of a CUDA device.

    addresses: of x and the result, [outer][n][inner] as ``sizes`` of ``dtype`` ("f32", "f16",
    "bf16"), and in float32 of the breakpoints, slopes, intercepts and the two bounds. Raises
    RuntimeError where the device refuses.
    """
    _cuda.pwl_softmax(addresses, dtype, sizes, pieces, ordinal, stream)
