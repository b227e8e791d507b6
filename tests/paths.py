"""Where the recordings and checkpoints are that some tests need, and how torch is to run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SHARED_DATA = Path(
    os.environ.get("EARMARK_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)
CHECKPOINT = SHARED_DATA / "checkpoints" / "ecapa256-bootstrap.ckpt"

needs_data = pytest.mark.skipif(
    not CHECKPOINT.is_file(),
    reason=f"no recordings and checkpoint at {SHARED_DATA} (set EARMARK_SHARED_DATA)",
)


def dev_recordings() -> list[Path]:
    """The recordings of the dev split, in the order of its list."""
    lines = (SHARED_DATA / "speakers" / "dev.txt").read_text().split()
    return [SHARED_DATA / "speakers" / line for line in lines]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Small networks gain nothing from more threads, and lose much where cores are shared."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
