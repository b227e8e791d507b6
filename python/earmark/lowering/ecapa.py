"""The float32 plan of an ECAPA-TDNN (arXiv:2005.07143).

Names of ops are the module names of the checkpoint, so that `--precision` and reports speak of
layers as the toolkit does. Three things the plan does and the plain network does not:

* the outputs of the three SE-Res2 blocks are views of one tensor, so that the concatenation before
  the MFA layer costs nothing; the stem's output rests in the third block's place until that block
  overwrites it;
* the Res2 chain works in place on the first layer's output, its channels permuted so that no copy
  is needed: see ``_res2``;
* mean and standard deviation of the attention's input are constant in time: their part of the
  attention's first layer becomes a bias computed once a recording.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.lowering.arrays import batchnorm, batchnorm_statistics, stored_f32
from earmark.modelfile import Arrays
from earmark.nn.config import EcapaConfig
from earmark.plan import INPUT, OUTPUT, PlanBuilder

Array = NDArray[Any]

_MIN_VARIANCE = 1e-12
_CONCATENATED = "blocks"


def lower_ecapa(
    config: EcapaConfig, state: Arrays, softmax: tuple[str, Arrays] = ("exact", {})
) -> PlanBuilder:
    """The float32 plan of an ECAPA-TDNN with SpeechBrain's keys.

    config: the network's numbers. state: its state dict as float32 arrays. softmax: of the pooling,
    as ``lower_softmax`` returns it.
    """
    return _Lowering(config, state, softmax).run()


class _Lowering:
    def __init__(self, config: EcapaConfig, state: Arrays, softmax: tuple[str, Arrays]) -> None:
        self.config = config
        self.state = state
        self.softmax, self.softmax_arrays = softmax
        self.builder = PlanBuilder()

    def run(self) -> PlanBuilder:
        b, config = self.builder, self.config
        width = config.channels[0]
        blocks = len(config.channels) - 2
        b.tensor(INPUT, "frames", "f32", config.n_mels)
        b.tensor(_CONCATENATED, "frames", "f32", blocks * width)
        previous = self._slot("blocks.0.out", blocks - 1)
        self._tdnn("blocks.0", INPUT, previous, config.kernel_sizes[0], config.dilations[0])
        for i in range(1, blocks + 1):
            previous = self._se_res2_block(i, previous)
        # Frame by frame, the result may take the place of what it was made from.
        in_place = config.kernel_sizes[-1] == 1 and config.channels[-1] == blocks * width
        over = {"over": _CONCATENATED} if in_place else {}
        mfa = b.tensor("mfa.out", "frames", "f32", config.channels[-1], **over)
        self._tdnn("mfa", _CONCATENATED, mfa, config.kernel_sizes[-1], config.dilations[-1])
        self._pooling(mfa)
        return b

    def _slot(self, name: str, index: int) -> str:
        width = self.config.channels[0]
        return self._part(name, _CONCATENATED, index * width, width)

    def _se_res2_block(self, index: int, previous: str) -> str:
        b, config, name = self.builder, self.config, f"blocks.{index}"
        width, scale = config.channels[index], config.res2_scale
        chunk = width // scale
        b.tensor(f"{name}.chain", "frames", "f32", width + chunk)
        before = self._part(f"{name}.tdnn1.out", f"{name}.chain", 0, width)
        after = self._part(f"{name}.res2net_block.out", f"{name}.chain", chunk, width)
        chunks = np.arange(width).reshape(scale, chunk)
        # Chunk 1 first: [1, 0, 2, ..., 7] before, [0, 2, ..., 7, 1'] after, one chunk further on.
        order_before = np.concatenate([chunks[1], chunks[0], *chunks[2:]])
        order_after = np.concatenate([chunks[0], *chunks[2:], chunks[1]])
        self._tdnn(f"{name}.tdnn1", previous, before, 1, 1, order_out=order_before)
        kernel, dilation = config.kernel_sizes[index], config.dilations[index]
        self._res2(f"{name}.res2net_block", f"{name}.chain", chunk, kernel, dilation)
        excited = self._slot(f"{name}.tdnn2.out", index - 1)
        self._tdnn(f"{name}.tdnn2", after, excited, 1, 1, order_in=order_after)
        gate = self._squeeze_excitation(f"{name}.se_block", excited)
        out = self._slot(f"{name}.out", index - 1)
        b.op(
            "add_f32", f"{name}.residual", **{"in": excited}, residual=previous, gate=gate, out=out
        )
        return out

    def _res2(self, name: str, chain: str, chunk: int, kernel: int, dilation: int) -> None:
        """Chunk 0 passes through; each later chunk is convolved with the one before it added.

        A convolution cannot write where it reads. Chunks from the second on are read from a sum, so
        their results take their own place; chunk 1 is read directly, and its result goes behind all
        others. The chunks that the next layer reads, 0, 2, ..., 7 and the new 1, are neighbours
        then.
        """
        b, scale = self.builder, self.config.res2_scale
        before = ""
        for i in range(1, scale):
            place = 0 if i == 1 else i * chunk
            source = self._part(f"{name}.in.{i}", chain, place, chunk)
            if before:
                total = b.tensor(f"{name}.sum.{i}", "frames", "f32", chunk)
                b.op("add_f32", f"{name}.add.{i}", **{"in": source}, residual=before, out=total)
                source = total
            out = self._part(f"{name}.out.{i}", chain, scale * chunk if i == 1 else place, chunk)
            self._tdnn(f"{name}.blocks.{i - 1}", source, out, kernel, dilation)
            before = out

    def _part(self, name: str, base: str, offset: int, channels: int) -> str:
        return self.builder.tensor(name, "frames", "f32", channels, of=base, offset=offset)

    def _squeeze_excitation(self, name: str, frames: str) -> str:
        b = self.builder
        width = b.tensors[frames]["channels"]
        mean = b.tensor(f"{name}.mean", "vector", "f32", width)
        b.op("stats_f32", f"{name}.stats", **{"in": frames}, out=mean, std=False)
        hidden = b.tensor(f"{name}.hidden", "vector", "f32", self.config.se_channels)
        gate = b.tensor(f"{name}.gate", "vector", "f32", width)
        for layer, source, out, activation in (
            ("conv1", mean, hidden, "relu"),
            ("conv2", hidden, gate, "sigmoid"),
        ):
            b.op(
                "dense_f32",
                f"{name}.{layer}",
                {
                    "weight": self._get(f"{name}.{layer}.conv.weight")[:, :, 0],
                    "epilogue": self._get(f"{name}.{layer}.conv.bias")[None],
                },
                **{"in": source},
                out=out,
                activation=activation,
            )
        return gate

    def _pooling(self, frames: str) -> None:
        """Attentive statistics pooling, its BatchNorm folded into the last layer."""
        b, config = self.builder, self.config
        width = config.channels[-1]
        weight = self._get("asp.tdnn.conv.conv.weight")
        offset = self._get("asp.tdnn.conv.conv.bias")
        context = b.tensor("asp.context", "vector", "f32", 2 * width)
        b.op(
            "stats_f32",
            "asp.stats",
            **{"in": frames},
            out=context,
            std=True,
            min_variance=_MIN_VARIANCE,
        )
        bias = b.tensor("asp.bias", "vector", "f32", config.attention_channels)
        b.op(
            "dense_f32",
            "asp.tdnn.context",
            {"weight": weight[:, width:, 0], "epilogue": offset[None]},
            **{"in": context},
            out=bias,
        )
        hidden = b.tensor("asp.hidden", "frames", "f32", config.attention_channels)
        gain, shift = self._batchnorm("asp.tdnn.norm.norm")
        b.op(
            "conv_f32",
            "asp.tdnn",
            {
                "weight": _time_kernel(weight[:, :width]),
                "epilogue": np.stack([np.zeros_like(offset), gain, shift]),
            },
            **{"in": frames},
            bias=bias,
            out=hidden,
            relu=True,
            activation="tanh",
        )
        pooled = b.tensor("asp.out", "vector", "f32", 2 * width)
        b.op(
            "attentive_pool_f32",
            "asp.conv",
            {
                "weight": self._get("asp.conv.conv.weight")[:, :, 0],
                "epilogue": self._get("asp.conv.conv.bias")[None],
                **{role: stored_f32(array) for role, array in self.softmax_arrays.items()},
            },
            **{"in": hidden},
            values=frames,
            out=pooled,
            softmax=self.softmax,
            min_variance=_MIN_VARIANCE,
        )
        b.statistics[pooled] = batchnorm_statistics(self.state, "asp_bn.norm")
        gain, shift = (v.astype(np.float64) for v in self._batchnorm("asp_bn.norm"))
        weight = self._get("fc.conv.weight")[:, :, 0].astype(np.float64)
        offset = self._get("fc.conv.bias") + weight @ shift
        b.tensor(OUTPUT, "vector", "f32", config.embedding)
        b.op(
            "dense_f32",
            "fc",
            {"weight": stored_f32(weight * gain), "epilogue": stored_f32(offset)[None]},
            **{"in": pooled},
            out=OUTPUT,
        )

    def _tdnn(
        self,
        name: str,
        source: str,
        out: str,
        kernel: int,
        dilation: int,
        order_in: Array | None = None,
        order_out: Array | None = None,
    ) -> None:
        """Convolution with "same" reflect padding -> ReLU -> BatchNorm.

        order_in, order_out: which of the checkpoint's channels lies at each place.
        """
        gain, shift = self._batchnorm(f"{name}.norm.norm")
        weight = _time_kernel(self._get(f"{name}.conv.conv.weight"))
        rows = slice(None) if order_out is None else order_out
        columns = slice(None) if order_in is None else order_in
        same: dict[str, Any] = {}
        if kernel > 1:
            same = {
                "kernel": [kernel, 1],
                "dilation": [dilation, 1],
                "padding": [dilation * (kernel - 1) // 2, 0],
                "pad_mode": "reflect",
            }
        self.builder.op(
            "conv_f32",
            name,
            {
                "weight": weight[rows][..., columns],
                "epilogue": np.stack([self._get(f"{name}.conv.conv.bias"), gain, shift])[:, rows],
            },
            **{"in": source},
            out=out,
            relu=True,
            **same,
        )

    def _batchnorm(self, name: str) -> tuple[Array, Array]:
        """Gain and shift of a BatchNorm in evaluation."""
        gain, shift = batchnorm(self.state, name)
        return stored_f32(gain), stored_f32(shift)

    def _get(self, key: str) -> Array:
        return np.asarray(self.state[key], dtype=np.float32)


def _time_kernel(weight: Array) -> Array:
    """(out, in, time) -> (out, time, width 1, in)."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)[:, :, None, :])
