"""Compiled kernels and engine of earmark."""

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

class FrontEnd:
    """From a waveform to features; thread-safe."""

    @property
    def n_features(self) -> int: ...
    @property
    def min_samples(self) -> int: ...
    def frames(self, samples: int) -> int: ...
    def samples_of_frames(self, frames: int) -> int: ...
    def __call__(self, waveform: NDArray[np.float32], *, isa: str = ...) -> NDArray[np.float32]: ...

class KaldiFbank(FrontEnd):
    """See docs/arithmetic.md, "Front end"."""

    def __init__(self, n_mels: int, window: str, scale: float) -> None: ...

class LogMel(FrontEnd):
    """See docs/arithmetic.md, "Front end"."""

    def __init__(self, n_mels: int) -> None: ...

class NemoFbank(FrontEnd):
    """See docs/arithmetic.md, "Front end"."""

    def __init__(self, n_mels: int) -> None: ...

class SpeechBrainFbank(FrontEnd):
    """See docs/arithmetic.md, "Front end"."""

    def __init__(self, n_mels: int) -> None: ...

class TaoRuijieFbank(FrontEnd):
    """See docs/arithmetic.md, "Front end"."""

    def __init__(self, n_mels: int) -> None: ...

class Engine:
    """Runs a plan; thread-safe. See docs/file-format.md."""

    def __init__(
        self, tensors: dict[str, Any], ops: list[Any], *, isa: str = ..., threads: int = ...
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def min_length(self) -> int: ...
    def why_not(self, length: int) -> str: ...
    def arena_bytes(self, length: int) -> int: ...
    def run(
        self,
        features: list[NDArray[Any]],
        *,
        quantized: bool = ...,
        on_device: bool = ...,
        out: Any = ...,
        stream: int | None = ...,
    ) -> NDArray[Any]:
        """One row of float32 outputs a recording.

        features: contiguous, of the input's dtype; float32 is quantized where the input is s8 and
        has a scale. quantized: int8 rows, of a plan whose output is s8. The engine of a device
        alone also takes arrays of its own (each one recording, or a batch of them), leaves the rows
        there if ``on_device`` or in ``out``, and queues its work on ``stream``.
        """

    def embed(
        self,
        front_end: FrontEnd,
        waveforms: list[NDArray[np.float32]],
        *,
        quantized: bool = ...,
        on_device: bool = ...,
        out: Any = ...,
        stream: int | None = ...,
    ) -> NDArray[Any]: ...
    @overload
    def trace(self, features: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]: ...
    @overload
    def trace(
        self, front_end: FrontEnd, waveform: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, str]]: ...
    def profile(self, features: NDArray[Any]) -> list[dict[str, Any]]:
        """One walk, op by op: time, work and traffic, in the plan's order.

        "name", "op" (its kind), "kernel" (op/isa, the one that ran last in it), "nanoseconds" (from
        begin to end, summed over chunks), "macs" (products with weights as the op computes them:
        channels that pad a tile left out, context computed twice included), "bytes" (of inputs,
        output and weights, each counted once).
        """

class RansCoder:
    """Codes matrices of bytes. See docs/file-format.md, "rans"."""

    def __init__(self, frequencies: NDArray[np.uint16]) -> None:
        """frequencies: (tables, 256), each table's sum 4096; ValueError where it is another."""

    def encode(
        self, bytes: NDArray[Any], row_level: NDArray[Any], column_level: NDArray[Any]
    ) -> NDArray[np.uint8]:
        """The code of bytes (rows, columns); levels are (rows,) and (columns,), all uint8."""

    def decode(
        self,
        code: NDArray[Any],
        row_level: NDArray[Any],
        column_level: NDArray[Any],
        out: NDArray[Any],
        *,
        isa: str = ...,
    ) -> None:
        """Into ``out`` (rows, columns) uint8, without the GIL; ValueError for a damaged code."""

def restore_levels(
    levels: NDArray[Any],
    step: NDArray[Any],
    zero: int,
    out: NDArray[Any],
    *,
    isa: str = ...,
) -> None:
    """Into ``out`` (rows, columns) int8: levels less ``zero``, times the step of the row.

    levels: (rows, columns), int8 or uint8. step: (rows,), float32. Rounded half to even, within
    [-127, 127].
    """

def softmax_f32(x: NDArray[np.float32], out: NDArray[np.float32], *, isa: str = ...) -> None:
    """Softmax over the last axis, on the calling thread, without the GIL. ``out`` may be ``x``."""

def pwl_softmax_f32(
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    breakpoints: NDArray[Any],
    slopes: NDArray[Any],
    intercepts: NDArray[Any],
    low: float,
    high: float,
    isa: str = ...,
) -> None:
    """The same with a piecewise-linear function in the place of exp; see csrc/core/softmax.h."""

def table_softmax_f32(
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    table: NDArray[Any],
    low: float,
    high: float,
    isa: str = ...,
) -> None:
    """The same with a table of values from ``low`` to ``high`` in the place of exp."""

def available_isas() -> list[str]: ...
def default_isa() -> str: ...
def default_threads() -> int: ...
def last_kernel() -> str: ...
def measure_peaks(isa: str) -> dict[str, float]:
    """Multiply-accumulates a second of one thread, in 1e9, by the instruction set's instructions.

    "s8" (VPDPBUSD; with AVX2 VPMADDWD, without the addition that a sum needs besides) and "f32"
    (FMA). From loops that touch registers only, best of several, about 50 ms each; the GIL is
    released.
    """
