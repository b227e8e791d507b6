"""conv_s8 on tensor cores against the oracle, bit for bit, each recording of a batch for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import random_f32, random_s8, random_weight
from gpu import MODULES, Array, each_device, lengths, run, split
from oracle import ops
from plans import equal_bits, width_out, with_extremes

SEEDS = st.integers(0, 2**32 - 1)
TINY, HUGE = 2.0**-126, 2.0**40


def epilogue(
    rng: np.random.Generator, channels: int, depth: int, spread: float, rows: int
) -> Array:
    """Rows that bring sums of `depth` products to about `spread` quanta, extremes among them."""
    scales = [spread / (6000 * depth**0.5), spread / 2, 1.0, spread / 2]
    values = [random_f32(rng, channels, scale=scale) for scale in scales[:rows]]
    return with_extremes(rng, np.stack(values), [TINY, -TINY, HUGE, -HUGE, 0.0])


def frames_out(frames: int, attributes: dict[str, Any]) -> int:
    reach = attributes["dilation"][0] * (attributes["kernel"][0] - 1)
    return int((frames + 2 * attributes["padding"][0] - reach - 1) // attributes["stride"][0] + 1)


class Layer:
    """A convolution with all that the oracle needs to know, and where its tensors lie."""

    def __init__(
        self,
        rng: np.random.Generator,
        c_in: int,
        c_out: int,
        batch: tuple[int, ...],
        *,
        kernel: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        pad_mode: str = "zero",
        width: int = 1,
        kind: str = "s8",
        relu: bool = False,
        affine: bool = False,
        bias: bool = False,
        found: bool = False,
        in_offset: int = 0,
        out_offset: int = 0,
    ) -> None:
        self.batch, self.kind, self.width = batch, kind, width
        self.c_in, self.c_out = c_in, c_out
        self.offsets = in_offset, out_offset
        self.geometry: dict[str, Any] = {
            "kernel": list(kernel),
            "stride": list(stride),
            "dilation": list(dilation),
            "padding": list(padding),
            "pad_mode": pad_mode,
        }
        self.width_out = width_out(width, self.geometry) if width > 1 else 1
        self.out_batch = [frames_out(n, self.geometry) for n in batch]
        aligned = in_offset % 16 == 0
        stride_in = in_offset + (-(-c_in // 16) * 16 if aligned else c_in + 3)
        self.x = random_s8(rng, sum(batch) * width, stride_in)
        self.weight = random_weight(rng, c_out, *kernel, c_in)
        self.zero = int(rng.choice([-128, -3, 0, 127]))
        self.input_zero = random_s8(rng, c_in)
        self.entries = int(rng.choice([2, 16, 1024]))
        spread = self.entries / 3 if kind == "table" else 80
        depth = c_in * kernel[0] * kernel[1]
        self.epilogue = epilogue(rng, c_out, depth, spread, 4 if affine else 2)
        self.relu = relu
        self.table = random_s8(rng, self.entries)
        padded = -(-c_out // 128) * 128
        self.bias = random_f32(rng, len(batch), padded, scale=40) if bias else None
        # Scale, its inverse and the zero point of each recording.
        self.found = None
        if found:
            scales = rng.uniform(0.1, 2, len(batch))
            zeros = rng.choice([-128, -7, 0, 3, 127], len(batch))
            self.found = np.stack([scales, 1 / scales, zeros], axis=1).astype(np.float32)

    def expected(self) -> Array:
        results = []
        inner = self.x[:, self.offsets[0] : self.offsets[0] + self.c_in]
        for r, part in enumerate(split(inner, [n * self.width for n in self.batch])):
            frames = part.reshape(self.batch[r], self.width, self.c_in)
            multiplier, offset = self.epilogue[0], self.epilogue[1]
            zero: Array | np.int8 = self.input_zero
            if self.found is not None:
                multiplier = ops.multiply(multiplier, self.found[r, 0])
                zero = np.int8(self.found[r, 2])
            if self.bias is not None:
                offset = self.bias[r, : self.c_out]
            affine = {}
            if len(self.epilogue) == 4:
                affine = {"gain": self.epilogue[2], "shift": self.epilogue[3]}
            geometry = {key: value for key, value in self.geometry.items() if key != "kernel"}
            result = ops.conv_s8(
                frames,
                self.weight,
                zero,
                multiplier,
                offset,
                None if self.kind == "f32" else self.zero,
                relu=self.relu,
                table=self.table if self.kind == "table" else None,
                **affine,
                **geometry,
            )
            results.append(result.reshape(-1, self.c_out))
        return np.concatenate(results)

    def run(self, device: str, seed: int = 0, **more: Any) -> tuple[Array, str]:
        """The output, whose neighbours must be what they were, and the kernel that ran."""
        dtype = np.float32 if self.kind == "f32" else np.int8
        offset = self.offsets[1]
        stride = offset + (-(-self.c_out // 16) * 16 if offset % 16 == 0 else self.c_out + 2)
        out = np.full((sum(self.out_batch) * self.width_out, stride), 77, dtype)
        name = "out_f32" if self.kind == "f32" else "out"
        arguments = {
            "c_in": self.c_in,
            "c_out": self.c_out,
            "weight": self.weight,
            "input_zero": np.ones_like(self.input_zero)
            if self.found is not None
            else self.input_zero,
            "epilogue": self.epilogue,
            "relu": self.relu,
            "zero": self.zero,
            "table": self.table if self.kind == "table" else None,
            "bias": self.bias,
            "found": self.found,
            "in": self.x,
            "in_offset": self.offsets[0],
            "in_width": self.width,
            "lengths": lengths(*self.batch),
            name: out,
            f"{name}_offset": offset,
            "out_width": self.width_out,
            "out_f32_width": self.width_out,
            "out_lengths": lengths(*self.out_batch),
            **self.geometry,
        }
        kernel = run(device, "conv_s8", arguments, seed, **more)
        inner = slice(offset, offset + self.c_out)
        assert (np.delete(out, np.r_[inner], axis=1) == 77).all()
        return out[:, inner], kernel

    def check(self, device: str, kernel: str, seed: int = 0, **more: Any) -> None:
        actual, ran = self.run(device, seed, **more)
        assert ran == kernel
        equal_bits(actual, self.expected(), "out")


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    width = draw(st.sampled_from([1, 1, 1, 2, 5]))
    kernel = (draw(st.sampled_from([1, 3, 5])), 1 if width == 1 else draw(st.sampled_from([1, 3])))
    dilation = (draw(st.integers(1, 4)), draw(st.integers(1, 2)) if width == 5 else 1)
    mode = draw(st.sampled_from(["zero", "reflect"]))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = [draw(st.sampled_from([r // 2, r // 2, 0, r])) for r in reach]
    if width + 2 * padding[1] <= reach[1] or (mode == "reflect" and padding[1] >= width):
        kernel, padding[1] = (kernel[0], 1), 0
    shortest = max(reach[0] - 2 * padding[0] + 1, padding[0] + 1 if mode == "reflect" else 1)
    frames = st.sampled_from([shortest, shortest + 1, 13, 63, 64, 65])
    batch = draw(st.lists(frames, min_size=1, max_size=3))
    channels = st.sampled_from([1, 3, 15, 16, 17, 32, 63, 64, 65, 130])
    return Layer(
        np.random.default_rng(draw(SEEDS)),
        draw(channels),
        draw(channels),
        tuple(max(n, shortest) for n in batch),
        kernel=kernel,
        dilation=dilation,
        stride=(draw(st.integers(1, 2)), draw(st.integers(1, 2)) if width > 1 else 1),
        padding=(padding[0], padding[1]),
        pad_mode=mode,
        width=width,
        kind=draw(st.sampled_from(["s8", "f32", "table"])),
        in_offset=draw(st.sampled_from([0, 0, 5])),
        out_offset=draw(st.sampled_from([0, 0, 3])),
        **{name: draw(st.booleans()) for name in ("relu", "affine", "bias", "found")},
    )


@each_device
@settings(max_examples=60, deadline=None)
@given(layers(), SEEDS)
def test_conv_s8(device: str, layer: Layer, order: int) -> None:
    whole = layer.offsets[0] == 0 and (layer.c_in % 16 == 0 or layer.geometry["kernel"] == [1, 1])
    actual, ran = layer.run(device, order, multiprocessors=1)
    assert ran in (("conv_s8/64x64", "conv_s8/128x128") if whole else ("conv_s8/bytes",))
    equal_bits(actual, layer.expected(), "out")


@each_device
@pytest.mark.parametrize("c_in", [64, 320, 1024])
def test_pipeline_wraps(device: str, c_in: int) -> None:
    """One stage, more than there are, and many rounds; every order of the warps."""
    rng = np.random.default_rng(c_in)
    layer = Layer(rng, c_in, 64, (66,), affine=True, relu=True)
    for seed in range(4):
        layer.check(device, "conv_s8/64x64", seed, multiprocessors=1)


@each_device
@pytest.mark.parametrize(("frames", "c_out"), [(128, 128), (129, 65), (300, 192)])
def test_large_tile(device: str, frames: int, c_out: int) -> None:
    rng = np.random.default_rng(frames)
    layer = Layer(
        rng, 128, c_out, (frames - 30, 30), kernel=(3, 1), padding=(2, 0), dilation=(2, 1),
        pad_mode="reflect", affine=True,
    )  # fmt: skip
    layer.check(device, "conv_s8/128x128", multiprocessors=1)


WGMMA = "conv_s8/128x256 wgmma"


@pytest.mark.parametrize("device", [name for name in MODULES if MODULES[name].has_wgmma()])
@pytest.mark.parametrize(
    ("frames", "c_in", "c_out", "more"),
    [
        ((1,), 128, 256, {}),
        ((129,), 256, 512, {"kind": "f32", "bias": True}),
        ((100, 29, 1), 384, 500, {"affine": True, "relu": True}),
        ((70, 59), 640, 256, {"found": True}),
        ((40,), 1152, 255, {"kind": "table"}),
        ((128,), 64, 256, {"kernel": (2, 1)}),
        ((90, 40), 128, 256, {"kernel": (3, 1), "padding": (2, 0), "dilation": (2, 1)}),
        ((60, 50), 16, 256, {"kernel": (8, 1), "padding": (7, 0), "found": True}),
        ((150,), 128, 256, {"kernel": (5, 1), "padding": (2, 0), "pad_mode": "reflect"}),
        ((9, 20), 128, 400, {"kernel": (3, 3), "padding": (1, 1), "stride": (2, 1), "width": 5}),
    ],
)
def test_wgmma(
    device: str, frames: tuple[int, ...], c_in: int, c_out: int, more: dict[str, Any]
) -> None:
    """The tiles of large layers, of one to nine steps, in three orders of the warps."""
    layer = Layer(np.random.default_rng(c_in + c_out), c_in, c_out, frames, **more)
    for seed in range(3):
        layer.check(device, WGMMA, seed, multiprocessors=1, wgmma=True)


@pytest.mark.parametrize(
    ("c_in", "c_out", "multiprocessors"), [(192, 256, 1), (128, 128, 1), (128, 256, 3)]
)
def test_layers_that_wgmma_leaves(c_in: int, c_out: int, multiprocessors: int) -> None:
    """Half a step, half a tile, fewer tiles than multiprocessors."""
    layer = Layer(np.random.default_rng(1), c_in, c_out, (140,))
    actual, ran = layer.run("emulated", multiprocessors=multiprocessors, wgmma=True)
    assert ran == "conv_s8/128x128"
    equal_bits(actual, layer.expected(), "out")


@each_device
@pytest.mark.parametrize("multiprocessors", [2, 7, 64])
def test_blocks_share_a_tile(device: str, multiprocessors: int) -> None:
    rng = np.random.default_rng(multiprocessors)
    layer = Layer(rng, 1040, 33, (20, 7), bias=True, kind="table")
    for seed in range(3):
        layer.check(device, "conv_s8/64x64 split", seed, multiprocessors=multiprocessors)


@each_device
@pytest.mark.parametrize("weight", [-127, 127])
@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("zero", [-128, 127])
def test_largest_products(device: str, weight: int, value: int, zero: int) -> None:
    """Every product as large as can be: nothing saturates on the way."""
    layer = Layer(np.random.default_rng(0), 144, 67, (13,), kernel=(5, 1))
    layer.x[:], layer.weight[:], layer.input_zero[:] = value, weight, zero
    largest = 5 * 144 * 127 * 255
    rows = np.stack([np.linspace(50, 150, 67) / largest, np.linspace(-1, 1, 67)])
    layer.epilogue = rows.astype(np.float32)
    layer.check(device, "conv_s8/128x128", multiprocessors=1)


@each_device
def test_first_layer_of_a_sound_network(device: str) -> None:
    """One channel: all taps in one step."""
    layer = Layer(
        np.random.default_rng(3), 1, 64, (9, 4), kernel=(7, 7), stride=(2, 2), padding=(3, 3),
        width=20, relu=True, affine=True,
    )  # fmt: skip
    layer.check(device, "conv_s8/bytes", multiprocessors=1)


@each_device
@pytest.mark.parametrize("runs", [0, 1, 3])
def test_a_graph_can_record_it(device: str, runs: int) -> None:
    """And run it again and again: the workspace is left as it was."""
    layer = Layer(np.random.default_rng(7), 1040, 33, (20, 7), bias=True)
    layer.check(device, "conv_s8/64x64 split", multiprocessors=7, graph_runs=runs)


def test_no_bank_is_met_twice() -> None:
    emulated = MODULES["emulated"]
    before = emulated.bank_conflicts()
    layer = Layer(np.random.default_rng(5), 256, 130, (130,))
    layer.run("emulated", multiprocessors=1)
    layer.run("emulated", multiprocessors=64)
    assert emulated.bank_conflicts() == before


def test_what_could_overflow_is_refused() -> None:
    layer = Layer(np.random.default_rng(6), 34000, 1, (1,))
    layer.weight[:] = 127
    with pytest.raises(ValueError, match="could overflow the int32 accumulator"):
        layer.run("emulated")
