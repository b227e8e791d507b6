"""Random int8 plans in the shape of a SpeechBrain ECAPA-TDNN.

Weights are noise. Every constant is measured on random features while the plan grows, so that each
int8 tensor has a standard deviation of about 40 quanta: an error of one quantum anywhere can reach
the embedding, which it could not through saturated or constant activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import ops
from .network import Network, Plan
from .ops import Array

SPREAD = 40.0  # quanta
TABLE_ENTRIES = 512
BLOCKS = 3
PWL_BREAKPOINTS = (-4.0, -1.5, 0.5, 2.0, 4.0)


@dataclass(frozen=True)
class Config:
    """Sizes of the network; `mfa` is 3 * channels in the published ones."""

    channels: int = 64
    mfa: int = 192
    n_mels: int = 80
    scale: int = 8
    se: int = 16
    attention: int = 16
    embedding: int = 24
    pad_mode: str = "reflect"
    softmax: str = "exact"
    stem_in_cat: bool = True  # the stem's output lies where block 3 will write
    frames: int = 100  # of the features that the constants are measured on

    def __post_init__(self) -> None:
        if self.channels % self.scale or self.scale < 2:
            raise ValueError(f"{self.channels} channels do not split into {self.scale} >= 2 parts")


# C = 1024, 20.8 million parameters: the published network.
SPEECHBRAIN = Config(1024, 3072, se=128, attention=128, embedding=192)


def features(seed: int, frames: int, n_mels: int = 80) -> Array:
    """`(frames, n_mels)` float32 noise that is correlated in time, without a mean over time."""
    noise = np.random.default_rng(seed).normal(size=(frames + 4, n_mels))
    smooth = sum(noise[i : i + frames] for i in range(5))
    return ops.f32(smooth - np.mean(smooth, axis=0))


def build(seed: int, config: Config | None = None) -> tuple[Plan, dict[str, Array]]:
    """A plan and its arrays; another NumPy may sum in another order and differ in a last bit."""
    return _Builder(seed, config or Config()).build()


def pwl_arrays(breakpoints: Sequence[float]) -> dict[str, Array]:
    """Chords of 2^24 * exp(v - 4) between the breakpoints, constant outside them."""
    points = np.asarray(breakpoints, np.float64)
    heights = 2.0**24 * np.exp(points - 4)
    slopes = np.concatenate([[0], np.diff(heights) / np.diff(points), [0]])
    starts = np.concatenate([points[:1], points])
    intercepts = heights[[0, *range(len(points))]] - slopes * starts
    return {
        "breakpoints": ops.f32(points),
        "slopes": ops.f32(slopes),
        "intercepts": ops.f32(intercepts),
        "bounds": ops.f32([1, 2**24]),
    }


class _Builder:
    def __init__(self, seed: int, config: Config) -> None:
        self.rng = np.random.default_rng(seed)
        self.config = config
        self.tensors: dict[str, Any] = {}
        self.ops: list[dict[str, Any]] = []
        self.arrays: dict[str, Array] = {}
        self.net = Network(self.tensors, self.arrays)

    def build(self) -> tuple[Plan, dict[str, Array]]:
        c = self.config
        self.vector("input", c.n_mels, kind="frames")
        self.net.write("input", features(int(self.rng.integers(2**31)), c.frames, c.n_mels))
        self.quantize("input.q", "input", kind="frames")
        self.tensors["cat"] = {"kind": "frames", "dtype": "s8", "channels": BLOCKS * c.channels}
        place = {"of": "cat", "offset": 2 * c.channels} if c.stem_in_cat else {}
        self.conv("b0", "input.q", c.channels, kernel=5, place=place)
        previous = "b0"
        for block in range(1, BLOCKS + 1):
            self.block(block, previous)
            previous = f"b{block}.out"
        self.pooling()
        return {"tensors": self.tensors, "ops": self.ops}, self.arrays

    def block(self, block: int, previous: str) -> None:
        """An SE-Res2 block; the Res2 chain overwrites its input chunk by chunk."""
        c, name = self.config, f"b{block}"
        base, chunk = f"{name}.tdnn1", c.channels // c.scale
        self.conv(base, previous, c.channels)
        input_zero = np.full(c.channels, self.tensors[base]["zero_point"], np.int8)
        for i in range(1, c.scale):
            place = {"of": base, "offset": i * chunk}
            read = f"{base}.{i}"
            keep = {key: self.tensors[base][key] for key in ("scale", "zero_point")}
            self.frames(read, chunk, **place, **keep)
            if i > 1:
                self.frames(f"{name}.sum.{i}", chunk)
                self.add(f"{name}.sum.{i}", read, f"{name}.res2.{i - 1}")
                read = f"{name}.sum.{i}"
            out = f"{name}.res2.{i}"
            self.conv(out, read, chunk, kernel=3, dilation=block + 1, place=place)
            input_zero[i * chunk : (i + 1) * chunk] = self.tensors[out]["zero_point"]
        place = {"of": "cat", "offset": (block - 1) * c.channels}
        self.conv(f"{name}.tdnn2", base, c.channels, input_zero=input_zero, place=place)
        self.squeeze_excitation(name)
        self.frames(f"{name}.out", c.channels, **place)
        self.add(f"{name}.out", f"{name}.tdnn2", previous, gate=f"{name}.se.gate")

    def squeeze_excitation(self, name: str) -> None:
        c = self.config
        self.stats(f"{name}.se.mean", f"{name}.tdnn2", std=False)
        self.quantize(f"{name}.se.mean.q", f"{name}.se.mean")
        self.dense(f"{name}.se.hidden", f"{name}.se.mean.q", c.se, relu=True)
        self.quantize(f"{name}.se.hidden.q", f"{name}.se.hidden", affine=False)
        steps = np.arange(-TABLE_ENTRIES // 2, TABLE_ENTRIES // 2) * (16 / TABLE_ENTRIES)
        sigmoid = ops.f32(1 / (1 + np.exp(-steps)))
        gate = f"{name}.se.gate"
        self.dense(gate, f"{name}.se.hidden.q", c.channels, spread=64.0, table=sigmoid)

    def pooling(self) -> None:
        c = self.config
        zeros = [self.tensors[f"b{b}.out"]["zero_point"] for b in range(1, BLOCKS + 1)]
        over = {"over": "cat"} if c.mfa == BLOCKS * c.channels else {}
        input_zero = np.repeat(np.array(zeros, np.int8), c.channels)
        self.conv("mfa", "cat", c.mfa, input_zero=input_zero, place=over)
        self.stats("context", "mfa", std=True)
        self.quantize("context.q", "context")
        self.dense("context.bias", "context.q", c.attention, spread=1.0)
        steps = np.arange(-TABLE_ENTRIES // 2, TABLE_ENTRIES // 2) * (8 / TABLE_ENTRIES)
        tanh = np.rint(127 * np.tanh(steps)).astype(np.int8)
        self.conv("attention", "mfa", c.attention, bias="context.bias", table=tanh)
        self.attentive_pool()
        self.quantize("pooled.q", "pooled")
        self.dense("embedding", "pooled.q", c.embedding, spread=1.0)

    # Tensors

    def frames(self, name: str, channels: int, **more: Any) -> None:
        """An int8 tensor; the scale is free, only statistics use it."""
        scale = float(np.float32(self.rng.uniform(0.5, 2) / SPREAD))
        tensor = {"kind": "frames", "dtype": "s8", "channels": channels, "scale": scale}
        self.tensors[name] = {**tensor, "zero_point": 0, **more}

    def vector(self, name: str, channels: int, kind: str = "vector") -> None:
        self.tensors[name] = {"kind": kind, "dtype": "f32", "channels": channels}

    def set_zero_point(self, name: str, v: Array) -> None:
        """Centres the quanta `v` roughly on zero."""
        zero = round(float(self.rng.normal(0, 6) - v.mean(dtype=np.float64)))
        self.tensors[name]["zero_point"] = max(-128, min(127, zero))

    def weight(self, *shape: int) -> Array:
        """Normal noise whose largest weight in each output channel is 127."""
        noise = self.rng.normal(size=shape).reshape(shape[0], -1)
        peak = np.abs(noise).max(axis=1, keepdims=True)
        weight: Array = np.rint(noise * (127 / peak)).astype(np.int8).reshape(shape)
        return weight

    def emit(self, kind: str, out: str, source: str, arrays: dict[str, Array], **more: Any) -> None:
        """Appends the op, names its arrays after its layer, and runs it."""
        op = {"op": kind, "name": out, "in": source, "out": out, **more, "arrays": {}}
        for role, array in arrays.items():
            self.arrays[f"{out}.{role}"] = array
            op["arrays"][role] = f"{out}.{role}"
        self.ops.append(op)
        self.net.step(op)

    # Ops

    def quantize(
        self, out: str, source: str, kind: str = "vector", affine: bool | None = None
    ) -> None:
        """Plain for frames; for vectors an affine layer for each channel is folded in."""
        x = self.net.read(source)
        channels = x.shape[-1]
        self.frames(out, channels, kind=kind)
        x = x.astype(np.float64)
        spread = max(float(x.std()), 1e-3)
        gain, shift = np.full(channels, SPREAD / spread), np.zeros(channels)
        if affine if affine is not None else kind == "vector":
            gain *= self.rng.uniform(0.5, 1.5, channels)
            shift = self.rng.normal(0, 10, channels) - gain * x.mean()
        constants = {"multiplier": ops.f32(gain), "offset": ops.f32(shift)}
        v = ops.add(ops.multiply(ops.f32(x), constants["multiplier"]), constants["offset"])
        self.set_zero_point(out, v)
        self.emit("quantize_s8", out, source, constants)

    def unit_constants(self, acc: Array) -> dict[str, Array]:
        """`multiplier` and `offset` that make the accumulators unit noise around random means."""
        channels = acc.shape[-1]
        spread = np.maximum(acc.std(axis=0) if acc.ndim > 1 else acc.std(), 1.0)
        gain = self.rng.uniform(0.8, 1.25, channels) / spread
        # A recording's one vector has no spread in time: only its common mean is taken off.
        mean = acc.mean(axis=0) if acc.ndim > 1 else acc.mean()
        offset = self.rng.normal(0, 0.5, channels) - gain * mean
        return {"multiplier": ops.f32(gain), "offset": ops.f32(offset)}

    def affine(self, v: Array, spread: float) -> dict[str, Array]:
        """`gain` and `shift` to the wanted spread; one gain in eight is negative."""
        channels = v.shape[-1]
        v = v.astype(np.float64)
        level = max(float(v.std()), 1e-3)
        gain = np.asarray(self.rng.uniform(0.7, 1.3, channels) * (spread / level))
        gain[self.rng.random(channels) < 0.125] *= -1
        shift = self.rng.normal(0, spread / 4, channels) - gain * v.mean()
        return {"gain": ops.f32(gain), "shift": ops.f32(shift)}

    def conv(
        self,
        out: str,
        source: str,
        channels: int,
        *,
        kernel: int = 1,
        dilation: int = 1,
        bias: str | None = None,
        table: Array | None = None,
        input_zero: Array | None = None,
        place: dict[str, Any] | None = None,
    ) -> None:
        """Convolution, ReLU, BatchNorm, the order of every ECAPA-TDNN family."""
        x = self.net.read(source)
        weight = self.weight(channels, kernel, 1, x.shape[-1])
        geometry = {
            "stride": [1, 1],
            "dilation": [dilation, 1],
            "padding": [dilation * (kernel - 1) // 2, 0],
            "pad_mode": self.config.pad_mode,
        }
        zero = self.net.zero_point(source) if input_zero is None else input_zero
        acc = ops.conv_acc(x, weight, zero, **geometry)
        arrays = self.unit_constants(acc)
        if bias is not None:
            arrays["offset"] = self.net.read_f32(bias)
        v = ops.epilogue(acc, **arrays, relu=True)
        arrays |= self.affine(v, SPREAD if table is None else TABLE_ENTRIES / 8)
        v = ops.epilogue(acc, **arrays, relu=True)
        if bias is not None:
            # The vector of these features stood in for the constant, which such an op has not.
            del arrays["offset"]
        arrays["weight"] = weight
        self.frames(out, channels, **(place or {}))
        if table is None:
            self.set_zero_point(out, v)
        else:
            self.tensors[out]["scale"] = 1 / 127
            arrays["table"] = table
        if input_zero is not None:
            arrays["input_zero"] = input_zero
        more = {} if bias is None else {"bias": bias}
        self.emit("conv_s8", out, source, arrays, kernel=[kernel, 1], relu=True, **geometry, **more)

    def add(self, out: str, source: str, residual: str, gate: str | None = None) -> None:
        """Sum of two frames tensors; `out` is declared already."""
        x, r = self.net.read(source), self.net.read(residual)
        half = SPREAD / np.sqrt(2)
        gates = 1.0 if gate is None else self.net.read_f32(gate)
        level = max(float((x * gates).std()), 1.0)
        arrays = {
            "multiplier": ops.f32(self.rng.uniform(0.8, 1.25, x.shape[-1]) * half / level),
            "residual_multiplier": ops.f32([half / max(float(r.std()), 1.0)]),
        }
        factor = arrays["multiplier"] * gates
        v = (x.astype(np.float64) - self.net.zero_point(source)) * factor
        v += (r.astype(np.float64) - self.net.zero_point(residual)) * arrays["residual_multiplier"]
        self.set_zero_point(out, v)
        more = {} if gate is None else {"gate": gate}
        self.emit("add_s8", out, source, arrays, residual=residual, **more)

    def stats(self, out: str, source: str, *, std: bool) -> None:
        channels = self.tensors[source]["channels"]
        scale = self.tensors[source]["scale"]
        self.vector(out, channels * (1 + std))
        multiplier = ops.f32(np.full(channels, scale))
        minimum = 1e-12 / scale**2 if std else 0.0
        self.emit(
            "stats_s8", out, source, {"multiplier": multiplier}, std=std, min_variance=minimum
        )

    def dense(
        self,
        out: str,
        source: str,
        channels: int,
        *,
        spread: float = 1.0,
        relu: bool = False,
        table: Array | None = None,
    ) -> None:
        x = self.net.read(source)
        weight = self.weight(channels, len(x))
        acc = ops.conv_acc(x[None], weight[:, None, :], self.net.zero_point(source))[0]
        constants = {k: v * np.float32(spread) for k, v in self.unit_constants(acc).items()}
        arrays = {"weight": weight, **constants}
        if table is not None:
            arrays["table"] = table
        self.vector(out, channels)
        self.emit("dense_s8", out, source, arrays, relu=relu)

    def attentive_pool(self) -> None:
        """Logits with a deviation of about two over time: neither flat nor one frame alone."""
        c = self.config
        weight = self.weight(c.mfa, c.attention)
        hidden = self.net.read("attention")
        acc = ops.conv_acc(hidden, weight[:, None, :], self.net.zero_point("attention"))
        constants = self.unit_constants(acc)
        scale = self.tensors["mfa"]["scale"]
        arrays = {
            "weight": weight,
            "multiplier": constants["multiplier"] * np.float32(2),
            "value_multiplier": ops.f32(np.full(c.mfa, scale)),
        }
        if c.softmax == "pwl":
            arrays["offset"] = constants["offset"] * np.float32(2)
            arrays |= pwl_arrays(PWL_BREAKPOINTS)
        self.vector("pooled", 2 * c.mfa)
        more = {"values": "mfa", "softmax": c.softmax, "min_variance": 1e-12 / scale**2}
        self.emit("attentive_pool_s8", "pooled", "attention", arrays, **more)
