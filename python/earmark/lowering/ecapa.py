"""The float32 plan of an ECAPA-TDNN (arXiv:2005.07143).

Names of ops are the module names of the checkpoint, so that `--precision` and reports speak of
layers as the toolkit does. Three things the plan does and the plain network does not:

* the outputs of the three SE-Res2 blocks are views of one tensor, so that the concatenation before
  the MFA layer costs nothing; the stem's output rests in the last block's place until that block
  overwrites it;
* the Res2 chain, or the convolution in groups, works in place on the first layer's output, its
  channels permuted so that no copy is needed: see ``_res2`` and ``_grouped``;
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
        self._first_convolved = 1 if config.res2 == "first" else 0  # chunk of a Res2 layer
        # Frames beyond the features are convolved, not counted.
        self._valid = None if config.pad_to is None else INPUT
        self.builder = PlanBuilder()

    def run(self) -> PlanBuilder:
        b, config = self.builder, self.config
        width = config.channels[0]
        blocks = len(config.channels) - 2
        b.tensor(INPUT, "frames", "f32", config.n_mels)
        b.tensor(_CONCATENATED, "frames", "f32", blocks * width)
        previous = "blocks.0.out"
        if blocks > 1:
            self._slot(previous, blocks - 1)
        else:  # the only block still reads it when it writes its place
            b.tensor(previous, "frames", "f32", width)
        self._tdnn("blocks.0", INPUT, previous, config.kernel_sizes[0], config.dilations[0])
        for i in range(1, blocks + 1):
            out = self._se_res2_block(i, previous)
            if config.accumulated and i < blocks:
                total = b.tensor(f"blocks.{i + 1}.in", "frames", "f32", width)
                name = f"blocks.{i + 1}.accumulate"
                b.op("add_f32", name, **{"in": out}, residual=previous, out=total)
                out = total
            previous = out
        # Frame by frame, the result may take the place of what it was made from.
        in_place = config.kernel_sizes[-1] == 1 and config.channels[-1] == blocks * width
        over = {"over": _CONCATENATED} if in_place else {}
        mfa = b.tensor("mfa.out", "frames", "f32", config.channels[-1], **over)
        layer = config.kernel_sizes[-1], config.dilations[-1]
        self._tdnn("mfa", _CONCATENATED, mfa, *layer, norm=config.mfa_norm)
        self._pooling(mfa)
        return b

    def _slot(self, name: str, index: int) -> str:
        width = self.config.channels[0]
        return self._part(name, _CONCATENATED, index * width, width)

    def _se_res2_block(self, index: int, previous: str) -> str:
        b, config, name = self.builder, self.config, f"blocks.{index}"
        width, scale = config.channels[index], config.res2_scale
        chunk = width // scale
        grouped = config.res2 == "grouped"
        b.tensor(f"{name}.chain", "frames", "f32", width + chunk)
        at_before, at_after = (chunk, 0) if grouped else (0, chunk)
        before = self._part(f"{name}.tdnn1.out", f"{name}.chain", at_before, width)
        after = self._part(f"{name}.res2net_block.out", f"{name}.chain", at_after, width)
        order_before = order_after = None
        if not grouped:
            others = list(np.arange(width).reshape(scale, chunk))
            # The first that is convolved comes first: [1, 0, 2, ..., 7] before, [0, 2, ..., 7, 1']
            # after, one chunk further on; where the last passes, [0, ..., 7] and [1', ..., 7, 0'].
            first = others.pop(self._first_convolved)
            order_before = np.concatenate([first, *others])
            order_after = np.concatenate([*others, first])
        self._tdnn(f"{name}.tdnn1", previous, before, 1, 1, order_out=order_before)
        kernel, dilation = config.kernel_sizes[index], config.dilations[index]
        layer = self._grouped if grouped else self._res2
        layer(f"{name}.res2net_block", f"{name}.chain", chunk, kernel, dilation)
        excited = self._slot(f"{name}.tdnn2.out", index - 1)
        self._tdnn(f"{name}.tdnn2", after, excited, 1, 1, order_in=order_after)
        gate = self._squeeze_excitation(f"{name}.se_block", excited)
        out = self._slot(f"{name}.out", index - 1)
        b.op(
            "add_f32", f"{name}.residual", **{"in": excited}, residual=previous, gate=gate, out=out
        )
        return out

    def _res2(self, name: str, chain: str, chunk: int, kernel: int, dilation: int) -> None:
        """One chunk passes through; each other one is convolved with the one before it added.

        A convolution cannot write where it reads. Chunks from the second convolved on are read from
        a sum, so their results take their own place; the first is read directly, and its result
        goes behind all others. The chunks that the next layer reads are neighbours then: 0, 2, ...,
        7 and the new 1 where the first passes, 1, ..., 7 and the new 0 where the last does.
        """
        b, scale = self.builder, self.config.res2_scale
        before = ""
        for i in range(1, scale):
            place = 0 if i == 1 else (i - 1 + self._first_convolved) * chunk
            source = self._part(f"{name}.in.{i}", chain, place, chunk)
            if before:
                total = b.tensor(f"{name}.sum.{i}", "frames", "f32", chunk)
                b.op("add_f32", f"{name}.add.{i}", **{"in": source}, residual=before, out=total)
                source = total
            out = self._part(f"{name}.out.{i}", chain, scale * chunk if i == 1 else place, chunk)
            self._tdnn(f"{name}.blocks.{i - 1}", source, out, kernel, dilation)
            before = out

    def _grouped(self, name: str, chain: str, chunk: int, kernel: int, dilation: int) -> None:
        """A convolution for each group; its result goes where the group before was read."""
        weight, rows = self._layer(name)
        for i in range(self.config.res2_scale):
            source = self._part(f"{name}.in.{i}", chain, (i + 1) * chunk, chunk)
            out = self._part(f"{name}.out.{i}", chain, i * chunk, chunk)
            part = slice(i * chunk, (i + 1) * chunk)
            layer = weight[part], rows[:, part]
            self._convolve(f"{name}.groups.{i}", source, out, layer, kernel, dilation)

    def _part(self, name: str, base: str, offset: int, channels: int) -> str:
        return self.builder.tensor(name, "frames", "f32", channels, of=base, offset=offset)

    def _squeeze_excitation(self, name: str, frames: str) -> str:
        b = self.builder
        width = b.tensors[frames]["channels"]
        mean = b.tensor(f"{name}.mean", "vector", "f32", width)
        b.op("stats_f32", f"{name}.stats", **{"in": frames}, out=mean, std=False, valid=self._valid)
        hidden = b.tensor(f"{name}.hidden", "vector", "f32", self.config.se_channels)
        gate = b.tensor(f"{name}.gate", "vector", "f32", width)
        norm = f"{name}.norm.norm" if self.config.se_norm else None
        if norm is not None:
            b.statistics[hidden] = batchnorm_statistics(self.state, norm)
        for layer, source, out, activation, before in (
            ("conv1", mean, hidden, "relu", None),
            ("conv2", hidden, gate, "sigmoid", norm),
        ):
            weight, offset = self._dense(f"{name}.{layer}", before)
            b.op(
                "dense_f32",
                f"{name}.{layer}",
                {"weight": weight, "epilogue": offset[None]},
                **{"in": source},
                out=out,
                activation=activation,
            )
        return gate

    def _pooling(self, frames: str) -> None:
        """Attentive statistics pooling, the BatchNorms folded into the last layer."""
        b, config = self.builder, self.config
        width = config.channels[-1]
        weight, rows = self._layer("asp.tdnn", config.attention_norm)
        bias = None
        if config.context:
            bias = self._context(frames, weight[..., width:], rows[0])
            # What follows a vector of offsets is an affine, be it none.
            none = np.stack([np.ones_like(rows[0]), np.zeros_like(rows[0])])
            affine = rows[1:] if config.attention_norm else none
            rows = np.stack([np.zeros_like(rows[0]), *affine])
        hidden = b.tensor("asp.hidden", "frames", "f32", config.attention_channels)
        b.op(
            "conv_f32",
            "asp.tdnn",
            {"weight": weight[..., :width], "epilogue": rows},
            **{"in": frames},
            bias=bias,
            out=hidden,
            relu=config.attention_norm,
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
            valid=self._valid,
            out=pooled,
            softmax=self.softmax,
            min_variance=config.pooled_floor,
        )
        b.statistics[pooled] = batchnorm_statistics(self.state, "asp_bn.norm")
        after = "fc_bn.norm" if config.embedding_norm else None
        weight, offset = self._dense("fc", "asp_bn.norm", after)
        b.tensor(OUTPUT, "vector", "f32", config.embedding)
        b.op(
            "dense_f32",
            "fc",
            {"weight": weight, "epilogue": offset[None]},
            **{"in": pooled},
            out=OUTPUT,
        )

    def _context(self, frames: str, weight: Array, offset: Array) -> str:
        """The vector that is the offset of the attention's first layer: ``offset`` (out,) and what
        mean and standard deviation of all frames add.

        weight: (out, 1, 1, 2 * channels).
        """
        b, config = self.builder, self.config
        context = b.tensor("asp.context", "vector", "f32", weight.shape[-1])
        b.op(
            "stats_f32",
            "asp.stats",
            **{"in": frames},
            valid=self._valid,
            out=context,
            std=True,
            unbiased=config.context_unbiased or None,
            min_variance=config.context_floor,
            added_variance=config.context_added or None,
        )
        bias = b.tensor("asp.bias", "vector", "f32", len(weight))
        b.op(
            "dense_f32",
            "asp.tdnn.context",
            {"weight": weight[:, 0, 0], "epilogue": offset[None]},
            **{"in": context},
            out=bias,
        )
        return bias

    def _tdnn(
        self,
        name: str,
        source: str,
        out: str,
        kernel: int,
        dilation: int,
        order_in: Array | None = None,
        order_out: Array | None = None,
        norm: bool = True,
    ) -> None:
        """Convolution with "same" padding -> ReLU -> BatchNorm, if there is one.

        order_in, order_out: which of the checkpoint's channels lies at each place.
        """
        weight, rows = self._layer(name, norm)
        if order_out is not None:
            weight, rows = weight[order_out], rows[:, order_out]
        if order_in is not None:
            weight = weight[..., order_in]
        self._convolve(name, source, out, (weight, rows), kernel, dilation)

    def _convolve(
        self,
        name: str,
        source: str,
        out: str,
        layer: tuple[Array, Array],
        kernel: int,
        dilation: int,
    ) -> None:
        """layer: weight (out, time, width 1, in) and rows of the epilogue."""
        same: dict[str, Any] = {}
        if kernel > 1:
            same = {
                "kernel": [kernel, 1],
                "dilation": [dilation, 1],
                "padding": [dilation * (kernel - 1) // 2, 0],
                "pad_mode": self.config.padding,
            }
        if source == INPUT and self.config.pad_to is not None:
            same["pad_to"] = self.config.pad_to
        weight, rows = layer
        self.builder.op(
            "conv_f32",
            name,
            {"weight": weight, "epilogue": rows},
            **{"in": source},
            out=out,
            relu=True,
            **same,
        )

    def _layer(self, name: str, norm: bool = True) -> tuple[Array, Array]:
        """Weight (out, time, width 1, in) of a convolution, and the rows of its epilogue: offset
        and, where a BatchNorm follows, gain and shift."""
        weight = _time_kernel(self._get(f"{name}.conv.conv.weight"))
        rows = [self._get(f"{name}.conv.conv.bias")]
        if norm:
            rows += self._batchnorm(f"{name}.norm.norm")
        return weight, np.stack(rows)

    def _dense(
        self, name: str, before: str | None = None, after: str | None = None
    ) -> tuple[Array, Array]:
        """Weight (out, in) and offset (out,) of a 1x1 convolution on vectors, with the BatchNorms
        before and behind it folded in."""
        weight = self._get(f"{name}.conv.weight")[:, :, 0]
        offset = self._get(f"{name}.conv.bias")
        if before is None and after is None:
            return weight, offset
        weight, offset = weight.astype(np.float64), offset.astype(np.float64)
        if before is not None:
            gain, shift = (v.astype(np.float64) for v in self._batchnorm(before))
            weight, offset = weight * gain, offset + weight @ shift
        if after is not None:
            gain, shift = (v.astype(np.float64) for v in self._batchnorm(after))
            weight, offset = weight * gain[:, None], offset * gain + shift
        return stored_f32(weight), stored_f32(offset)

    def _batchnorm(self, name: str) -> tuple[Array, Array]:
        """Gain and shift of a BatchNorm in evaluation."""
        gain, shift = batchnorm(self.state, name)
        return stored_f32(gain), stored_f32(shift)

    def _get(self, key: str) -> Array:
        return np.asarray(self.state[key], dtype=np.float32)


def _time_kernel(weight: Array) -> Array:
    """(out, in, time) -> (out, time, width 1, in)."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)[:, :, None, :])
