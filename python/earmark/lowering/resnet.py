"""The float32 plan of a sound-event ResNet with bottlenecks (arXiv:1512.03385).

Names of ops are the module names of the checkpoint. The spectrogram is an image of one channel, its
bands the width. Each BatchNorm follows a convolution and is folded into its weights; each sum of a
bottleneck takes the place of the branch that it was made from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.lowering.arrays import batchnorm, stored_f32
from earmark.modelfile import Arrays
from earmark.nn.config import SoundResNetConfig
from earmark.plan import INPUT, SCORES, PlanBuilder

Array = NDArray[Any]


def lower_resnet(config: SoundResNetConfig, state: Arrays) -> PlanBuilder:
    """The float32 plan of a ``SoundResNet``.

    config: the network's numbers. state: its state dict as float32 arrays.
    """
    return _Lowering(config, state).run()


class _Lowering:
    def __init__(self, config: SoundResNetConfig, state: Arrays) -> None:
        self.config = config
        self.state = state
        self.builder = PlanBuilder()

    def run(self) -> PlanBuilder:
        b, config = self.builder, self.config
        b.tensor(INPUT, "frames", "f32", 1, width=config.n_mels)
        x = self._conv("conv1", "bn1", INPUT, 7, stride=2, relu=True)
        x = self._max_pool("maxpool", x, 3, stride=2)
        for stage, blocks in enumerate(config.blocks, 1):
            for index in range(blocks):
                stride = 2 if index == 0 and stage > 1 else 1
                x = self._bottleneck(f"layer{stage}.{index}", x, stride, projected=index == 0)
        mean = b.tensor("avgpool.out", "vector", "f32", b.tensors[x]["channels"])
        b.op("stats_f32", "avgpool", **{"in": x}, out=mean)
        b.tensor(SCORES, "vector", "f32", config.classes)
        arrays = {"weight": self._get("fc.weight"), "epilogue": self._get("fc.bias")[None]}
        b.op("dense_f32", "fc", arrays, **{"in": mean}, out=SCORES)
        return b

    def _bottleneck(self, name: str, x: str, stride: int, projected: bool) -> str:
        b = self.builder
        shortcut = x
        if projected:
            down = f"{name}.downsample"
            shortcut = self._conv(f"{down}.0", f"{down}.1", x, 1, stride=stride)
        y = self._conv(f"{name}.conv1", f"{name}.bn1", x, 1, relu=True)
        y = self._conv(f"{name}.conv2", f"{name}.bn2", y, 3, stride=stride, relu=True)
        y = self._conv(f"{name}.conv3", f"{name}.bn3", y, 1)
        desc = b.tensors[y]
        out = b.tensor(
            f"{name}.out",
            "frames",
            "f32",
            desc["channels"],
            width=desc["width"],
            of=y,
            offset=0,
        )
        b.op("add_f32", f"{name}.add", **{"in": y}, residual=shortcut, out=out, relu=True)
        return out

    def _conv(
        self, name: str, norm: str, x: str, kernel: int, stride: int = 1, relu: bool = False
    ) -> str:
        """Convolution with zero padding -> BatchNorm -> ReLU, if asked for."""
        gain, shift = batchnorm(self.state, norm)
        weight = self._get(f"{name}.weight").astype(np.float64) * gain[:, None, None, None]
        window = _window(kernel, stride)
        out = self._image(f"{name}.out", x, len(gain), window)
        arrays = {
            # (out, in, time, width) -> (out, time, width, in)
            "weight": stored_f32(weight.transpose(0, 2, 3, 1)),
            "epilogue": stored_f32(shift)[None],
        }
        self.builder.op("conv_f32", name, arrays, **{"in": x}, out=out, relu=relu, **window)
        return out

    def _max_pool(self, name: str, x: str, kernel: int, stride: int) -> str:
        window = _window(kernel, stride)
        out = self._image(f"{name}.out", x, self.builder.tensors[x]["channels"], window)
        self.builder.op("max_pool_f32", name, **{"in": x}, out=out, **window)
        return out

    def _image(self, name: str, x: str, channels: int, window: dict[str, list[int]]) -> str:
        """The tensor that a window makes of ``x``."""
        kernel, stride, padding = (window[key][1] for key in ("kernel", "stride", "padding"))
        width = (self.builder.tensors[x]["width"] + 2 * padding - kernel) // stride + 1
        return self.builder.tensor(name, "frames", "f32", channels, width=width)

    def _get(self, key: str) -> Array:
        return stored_f32(np.asarray(self.state[key]))


def _window(kernel: int, stride: int) -> dict[str, list[int]]:
    """The same in time and width, padded so that a stride of 1 keeps the size."""
    return {"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [kernel // 2] * 2}
