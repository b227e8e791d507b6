"""Recordings from files and arrays: mono, float32, at one sampling rate."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.errors import AudioError, first_line

__all__ = ["Audio", "read_audio"]

_Block = NDArray[np.float32]

_BLOCK_SAMPLES = 1 << 16

# Memory set aside on a file header's word alone, in samples (256 MB, 70 minutes at 16 kHz). Beyond
# it the buffer grows with what is really read.
_TRUSTED_SAMPLES = 1 << 26

_MIN_RATE_HZ, _MAX_RATE_HZ = 1000, 768_000

# What libsndfile says of a FLAC that was written to a pipe.
_UNKNOWN_LENGTH = 2**63 - 1

# A second axis longer than this is taken for time, not for channels.
_MAX_CHANNELS = 32


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording ready for a front end.

    ``samples``: float32 (n,), contiguous, aligned, finite, mono; full scale of integer formats is
    [-1, 1). ``sample_rate_hz``: their rate. ``notes``: what was done to the recording on the way,
    such as "2 channels averaged" or "resampled from 44100 to 16000 Hz"; empty when nothing was.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    notes: tuple[str, ...]


def read_audio(
    source: str | os.PathLike[str] | Any,
    sample_rate: int = 16000,
    *,
    target_rate: int = 16000,
    min_samples: int = 1,
    name: str = "array",
) -> Audio:
    """Read a recording as mono float32 at ``target_rate`` Hz.

    ``source`` is the path of an audio file, or the bytes of one, or an array or torch tensor at
    ``sample_rate`` Hz (a file knows its own): ``(n,)``, ``(1, n)``, or ``(n, channels)`` with at
    most 32 channels.
    Channels are averaged. Floats are taken as they are; integers of 8 to 32 bits are divided by
    their full scale (unsigned ones are centred first). A mono float32 array at the target rate is
    not copied; beyond the result, files and other arrays need little memory, however long.

    Raises AudioError, naming the file (or ``name``) and the value, for a source that cannot be
    read, another type or shape, a sampling rate outside 1 to 768 kHz, samples that are NaN or
    infinite, and fewer than ``min_samples`` samples at the target rate.

    >>> audio = read_audio(np.zeros((44100, 2), np.int16), sample_rate=44100)
    >>> audio.samples.shape, audio.notes
    ((16000,), ('2 channels averaged', 'resampled from 44100 to 16000 Hz'))
    """
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if not isinstance(name, str):
            raise AudioError(f"a path must be text, got {name!r}")
        _check_regular(name)
        file: str | io.BytesIO = name
    elif isinstance(source, bytes | bytearray):
        if not source:
            raise AudioError(f"{name}: is an empty file (0 bytes)")
        file = io.BytesIO(source)
    else:
        return _read_array(source, sample_rate, target_rate, min_samples, name)
    try:
        return _read_file(file, name, target_rate, min_samples)
    except MemoryError as error:
        raise AudioError(f"{name}: too long for this machine's memory") from error


def _read_file(source: str | io.BytesIO, name: str, target_rate: int, min_samples: int) -> Audio:
    import soundfile  # takes 50 ms to import

    class Stream(soundfile.SoundFile):  # type: ignore[misc]
        """A file without seeks, which soundfile else does after each block: in an MP3, the start of
        the next would be lost, and a FLAC that does not announce its length would fail."""

        def seekable(self) -> bool:
            return False

    try:
        file = Stream(source)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: cannot be read as audio: {_reason(error)}") from error
    # soundfile cannot guess the format of headerless files (.raw).
    except (TypeError, OSError) as error:
        raise AudioError(f"{name}: cannot be read as audio: {first_line(error)}") from error
    with file:
        announced, channels = file.frames, file.channels
        rate = _checked_rate(name, file.samplerate)
        sink = _Sink(name, rate, target_rate, expected=announced)
        block = np.empty((_BLOCK_SAMPLES // channels, channels), dtype=np.float32)
        damage = ""
        try:
            while len(got := file.read(dtype="float32", out=block)):
                sink.write(got)
        except soundfile.LibsndfileError as error:
            damage = _reason(error)
        # The length of an MP3 is an estimate unless its header tells.
        if sink.taken < announced < _UNKNOWN_LENGTH and file.format != "MP3":
            damage = damage or f"{sink.taken} could be read"
        if damage:
            raise AudioError(
                f"{name}: cut off or damaged, its header says {announced} samples: {damage}"
            )
    return _finish(name, sink, channels, rate, target_rate, min_samples)


def _read_array(
    source: Any, sample_rate: int, target_rate: int, min_samples: int, name: str
) -> Audio:
    if not (isinstance(source, np.ndarray) or hasattr(source, "__array__")):
        raise AudioError(
            f"{name}: a recording is a path, an array or a tensor, got {type(source).__name__}"
        )
    try:
        array = np.asarray(source)
    # Tensors on a GPU, with gradients or of types that NumPy lacks.
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"{name}: cannot be seen as an array: {first_line(error)}") from error
    rate = _checked_rate(name, sample_rate)
    frames = _as_frames(array, name)
    convert = _converter(array.dtype, name)
    channels = frames.shape[1]
    if channels == 1 and rate == target_rate and array.dtype == np.float32:
        samples = np.require(frames[:, 0], dtype=np.float32, requirements=["C", "A"])
        for begin in range(0, len(samples), _BLOCK_SAMPLES):
            _check_finite(samples[begin : begin + _BLOCK_SAMPLES], begin, name)
        _check_length(samples, len(samples), target_rate, min_samples, name)
        return Audio(samples, target_rate, ())
    sink = _Sink(name, rate, target_rate, expected=len(frames))
    for begin in range(0, len(frames), _BLOCK_SAMPLES):
        sink.write(convert(frames[begin : begin + _BLOCK_SAMPLES]))
    return _finish(name, sink, channels, rate, target_rate, min_samples)


def _finish(
    name: str, sink: _Sink, channels: int, rate: int, target_rate: int, min_samples: int
) -> Audio:
    samples = sink.finish()
    _check_length(samples, sink.taken, target_rate, min_samples, name)
    notes = []
    if channels > 1:
        notes.append(f"{channels} channels averaged")
    if rate != target_rate:
        notes.append(f"resampled from {rate} to {target_rate} Hz")
    return Audio(samples, target_rate, tuple(notes))


class _Sink:
    """Takes blocks (k, channels) float32; averages, checks, resamples and joins them."""

    def __init__(self, name: str, rate: int, target_rate: int, expected: int) -> None:
        self.taken = 0
        self._name = name
        self._resampler = None
        if rate != target_rate:
            import soxr

            self._resampler = soxr.ResampleStream(rate, target_rate, 1, dtype="float32")
            # One sample more than the ratio says, should the resampler round up.
            expected = expected * target_rate // rate + 1
        self._samples: _Block = np.empty(min(expected, _TRUSTED_SAMPLES), dtype=np.float32)
        self._count = 0

    def write(self, block: _Block) -> None:
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        _check_finite(mono, self.taken, self._name)
        self.taken += len(mono)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono))
        self._append(mono)

    def finish(self) -> _Block:
        if self._resampler is not None:
            self._append(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        # In place, hence without the copy that a slice kept by the caller would need.
        self._samples.resize(self._count, refcheck=False)
        return self._samples

    def _append(self, mono: _Block) -> None:
        end = self._count + len(mono)
        if end > len(self._samples):
            self._samples.resize(max(end, len(self._samples) * 5 // 4), refcheck=False)
        self._samples[self._count : end] = mono
        self._count = end


def _check_regular(path: str) -> None:
    """Reading a pipe or a device could last for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file") from error
    # ValueError: a path with a NUL character.
    except (OSError, ValueError) as error:
        raise AudioError(f"{path!r}: cannot be opened: {first_line(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path}: is a folder, not a recording")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: is not a regular file")
    if status.st_size == 0:
        raise AudioError(f"{path}: is an empty file (0 bytes)")


def _checked_rate(name: str, rate: Any) -> int:
    whole = isinstance(rate, int | np.integer) or (isinstance(rate, float) and rate.is_integer())
    if not whole or isinstance(rate, bool) or not _MIN_RATE_HZ <= rate <= _MAX_RATE_HZ:
        raise AudioError(
            f"{name}: the sampling rate must be a whole number from {_MIN_RATE_HZ} to "
            f"{_MAX_RATE_HZ} Hz, got {rate!r}"
        )
    return int(rate)


def _as_frames(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The array as (samples, channels), without a copy."""
    if array.ndim == 1:
        return array[:, None]
    if array.ndim == 2:
        rows, columns = array.shape
        if rows == 1:
            return array.reshape(-1, 1)
        if columns == 1 or (1 < columns <= _MAX_CHANNELS and (rows > columns or rows == 0)):
            return array
    raise AudioError(
        f"{name}: shape must be (n,), (1, n) or (n, channels) with at most {_MAX_CHANNELS} "
        f"channels, got {array.shape}"
    )


def _converter(dtype: np.dtype[Any], name: str) -> Callable[[NDArray[Any]], _Block]:
    """A function from blocks of this dtype to float32 at full scale 1."""
    if dtype.kind == "f":
        return _from_float
    # A 64-bit integer array nearly always holds samples of fewer bits: its full scale is a guess.
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise AudioError(
            f"{name}: dtype must be a float or an integer of 8 to 32 bits, got {dtype}"
        )
    full_scale = 2.0 ** (8 * dtype.itemsize - 1)
    centre = full_scale if dtype.kind == "u" else 0.0

    def from_integer(block: NDArray[Any]) -> _Block:
        return ((block.astype(np.float64) - centre) / full_scale).astype(np.float32)

    return from_integer


def _from_float(block: NDArray[Any]) -> _Block:
    # What float32 cannot hold becomes infinite and is refused as such.
    with np.errstate(over="ignore"):
        samples: _Block = block.astype(np.float32, copy=False)
    return samples


def _check_finite(mono: _Block, offset: int, name: str) -> None:
    finite = np.isfinite(mono)
    if not finite.all():
        index = int(np.argmin(finite))
        raise AudioError(f"{name}: sample {offset + index} is {mono[index]}, not a finite number")


def _check_length(samples: _Block, taken: int, rate: int, min_samples: int, name: str) -> None:
    if taken == 0:
        raise AudioError(f"{name}: is empty (0 samples)")
    if len(samples) < min_samples:
        raise AudioError(
            f"{name}: is too short: {len(samples)} samples at {rate} Hz "
            f"({1000 * len(samples) / rate:.4g} ms), at least {min_samples} "
            f"({1000 * min_samples / rate:.4g} ms) are needed"
        )


def _reason(error: Any) -> str:
    """What libsndfile says, without the path that the message begins with anyway."""
    return str(error.error_string).strip().rstrip(".")
