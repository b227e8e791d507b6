"""What a run asks of its process: signals, memory, and to be the only one in its folder."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = ["alone_in", "keep_freed_memory", "noted_signals"]

# Parameters of glibc's mallopt, and their defaults.
_M_TRIM_THRESHOLD, _TRIM_THRESHOLD = -1, 128 << 10
_M_MMAP_MAX, _MMAP_MAX = -4, 65536


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Yield a list that gets each SIGINT and SIGTERM, which then do nothing else.

    Outside the main thread, which alone may catch signals, it stays empty.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder. Raises RuntimeError when another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{folder}: another process trains in this folder") from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory for the next step instead of giving it back to the system.

    glibc returns every large block at once, and the next step's page faults take a third of the
    time of a training step on the CPU. Does nothing with another C library.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_MAX, _MMAP_MAX)
        library.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        library.malloc_trim(0)
