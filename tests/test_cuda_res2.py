"""The Res2 chain in one kernel against the oracle's separate convolutions and additions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import random_f32, random_s8, random_weight
from gpu import Array, each_device, lengths, run, split
from oracle import ops
from plans import equal_bits


class Chain:
    """`steps` convolutions over chunks of `channels`, chunk 0 passing by."""

    def __init__(
        self,
        seed: int,
        channels: int,
        steps: int,
        batch: tuple[int, ...],
        *,
        dilation: int = 2,
        kernel: int = 3,
        pad_mode: str = "reflect",
    ) -> None:
        rng = np.random.default_rng(seed)
        self.channels, self.batch = channels, batch
        padding = dilation * (kernel - 1) // 2
        self.geometry = {"dilation": [dilation, 1], "padding": [padding, 0], "pad_mode": pad_mode}
        self.kernel = kernel
        width = channels * (steps + 1)
        self.x = random_s8(rng, sum(batch), width)
        self.steps: list[dict[str, Any]] = []
        zero = int(rng.integers(-128, 128))
        for i in range(steps):
            sum_zero = int(rng.integers(-128, 128)) if i else 0
            spread = 60 / (6000 * (channels * kernel) ** 0.5)
            rows = [random_f32(rng, channels, scale=spread), random_f32(rng, channels, scale=30)]
            rows += [random_f32(rng, channels), random_f32(rng, channels, scale=30)]
            self.steps.append(
                {
                    "in": channels * (i + 1),
                    # The last chunk's result first: outputs lie elsewhere than inputs.
                    "out": channels * ((i + 2) % (steps + 1)),
                    "weight": random_weight(rng, channels, kernel, 1, channels),
                    "input_zero": np.full(channels, sum_zero if i else 3, np.int8),
                    "epilogue": np.stack(rows[: rng.choice([2, 4])]),
                    "relu": bool(rng.integers(2)),
                    "multiplier": random_f32(rng, channels) if i else None,
                    "residual_multiplier": float(np.float32(rng.normal())),
                    "in_zero": int(rng.integers(-128, 128)),
                    "previous_zero": zero,
                    "sum_zero": sum_zero,
                    "zero": (zero := int(rng.integers(-128, 128))),
                }
            )

    def expected(self) -> Array:
        out = np.full_like(self.x, 77)
        c = self.channels
        for part, to in zip(split(self.x, self.batch), split(out, self.batch), strict=True):
            to[:, c : 2 * c] = part[:, :c]
            previous = part
            for i, step in enumerate(self.steps):
                source = part[:, step["in"] : step["in"] + c]
                if i:
                    source = ops.add_s8(
                        source,
                        previous,
                        step["in_zero"],
                        step["previous_zero"],
                        step["multiplier"],
                        np.float32(step["residual_multiplier"]),
                        step["sum_zero"],
                    )
                rows = step["epilogue"]
                affine = {"gain": rows[2], "shift": rows[3]} if len(rows) == 4 else {}
                previous = ops.conv_s8(
                    source,
                    step["weight"],
                    step["input_zero"],
                    rows[0],
                    rows[1],
                    step["zero"],
                    relu=step["relu"],
                    **affine,
                    **self.geometry,
                )
                to[:, step["out"] : step["out"] + c] = previous
        return out

    def run(self, device: str, seed: int = 0, **more: Any) -> tuple[Array, str]:
        out = np.full_like(self.x, 77)
        arguments = {
            "channels": self.channels,
            "in": self.x,
            "out": out,
            "lengths": lengths(*self.batch),
            "copy": (0, self.channels),
            "steps": self.steps,
            "kernel": [self.kernel, 1],
            **self.geometry,
        }
        return out, run(device, "res2_s8", arguments, seed, **more)

    def check(self, device: str, kernel: str, seed: int = 0, **more: Any) -> None:
        actual, ran = self.run(device, seed, **more)
        assert ran == kernel
        equal_bits(actual, self.expected(), "out")


@each_device
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([32, 64, 96, 128]),
    st.integers(1, 7),
    st.lists(st.sampled_from([5, 6, 15, 16, 17, 40, 97]), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["reflect", "zero"]),
    st.booleans(),
)
def test_res2_s8(
    device: str,
    seed: int,
    channels: int,
    steps: int,
    batch: list[int],
    dilation: int,
    pad_mode: str,
    many: bool,
) -> None:
    chain = Chain(seed, channels, steps, tuple(batch), dilation=dilation, pad_mode=pad_mode)
    columns = 64 if channels <= 64 else 128
    rows = 64 if many else 128
    chain.check(device, f"res2_s8/{rows}x{columns}", seed, multiprocessors=1000 if many else 1)


@each_device
@pytest.mark.parametrize("dilation", [2, 3, 4])
def test_many_tiles(device: str, dilation: int) -> None:
    """Longer than a tile: halos on both sides; every order of the warps."""
    chain = Chain(dilation, 64, 7, (201, 3 * dilation), dilation=dilation)
    for seed in range(2):
        chain.check(device, "res2_s8/128x64", seed, multiprocessors=1)
        chain.check(device, "res2_s8/64x64", seed, multiprocessors=1000)


@each_device
def test_other_kernels(device: str) -> None:
    Chain(1, 32, 3, (70,), kernel=5, dilation=3).check(device, "res2_s8/128x64", multiprocessors=1)
    Chain(2, 32, 2, (7,), kernel=1, dilation=1).check(device, "res2_s8/128x64", multiprocessors=1)


@each_device
def test_zero_padding_of_one_frame(device: str) -> None:
    chain = Chain(3, 32, 7, (1, 2, 1), dilation=4, pad_mode="zero")
    chain.check(device, "res2_s8/128x64", multiprocessors=1)


def test_what_it_does_not_take() -> None:
    for channels, steps, dilation in [(48, 2, 2), (160, 2, 2), (32, 15, 5), (32, 2, 17)]:
        assert Chain(4, channels, steps, (60,), dilation=dilation).run("emulated")[1] == "none"
    even = Chain(5, 32, 2, (60,), dilation=1)
    even.kernel = 2
    even.steps = [{**s, "weight": s["weight"][:, :2].copy()} for s in even.steps]
    assert even.run("emulated")[1] == "none"
