"""The execution model that CUDA kernels are tested over finds the mistakes it is there to find."""

from __future__ import annotations

import numpy as np
import pytest

from gpu import Array, run

NONE, NO_BARRIER, DIVERGENT, NO_WAIT = range(4)
SEEDS = range(20)


def results(op: str, mistake: int) -> tuple[int, Array]:
    """How many orders of warps and lanes gave the right answer, and that answer."""
    values = np.arange(1, 129, dtype=np.int32)
    right = values[::-1] if op == "reverse" else np.roll(values, -64)
    good = 0
    for seed in SEEDS:
        out = np.zeros_like(values)
        run("emulated", op, {"in": values, "out": out, "mistake": mistake}, seed)
        good += bool((out == right).all())
    return good, right


@pytest.mark.parametrize("op", ["reverse", "rotate"])
def test_right_in_every_order(op: str) -> None:
    assert results(op, NONE)[0] == len(SEEDS)


@pytest.mark.parametrize("op", ["reverse", "rotate"])
def test_a_missing_barrier_shows(op: str) -> None:
    assert results(op, NO_BARRIER)[0] == 0


def test_a_missing_wait_shows() -> None:
    assert results("rotate", NO_WAIT)[0] == 0


def test_the_same_seed_repeats_a_run() -> None:
    values = np.arange(1, 129, dtype=np.int32)
    first, second = (np.zeros_like(values) for _ in range(2))
    for out in (first, second):
        run("emulated", "reverse", {"in": values, "out": out, "mistake": NO_BARRIER}, seed=5)
    assert (first == second).all()


def test_threads_that_wait_apart_are_named() -> None:
    values = np.arange(128, dtype=np.int32)
    arguments = {"in": values, "out": values.copy(), "mistake": DIVERGENT}
    with pytest.raises(
        RuntimeError, match=r"__sync.* waits for threads that have ended|waits for ever"
    ):
        run("emulated", "reverse", arguments)
    # The next launch is none the worse.
    assert results("reverse", NONE)[0] == len(SEEDS)
