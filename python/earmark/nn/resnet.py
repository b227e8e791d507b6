"""A ResNet with bottlenecks for sound events, on spectrograms.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385,
in torchvision's layout: the stride is in the 3x3 convolution, state-dict keys are torchvision's.
Inside, activations are (batch, channel, time, band).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from earmark.frontend import LogMel
from earmark.nn.config import SoundResNetConfig, checked_labels

__all__ = ["SoundResNet", "SoundResNetConfig"]


class SoundResNet(nn.Module):
    """Class scores of a spectrogram, with the front end that makes it; the defaults of the config
    are ResNet-50's blocks and widths.

    ``labels``: names of the classes, by default their numbers. Weights are drawn as torchvision
    draws them. Raises ValueError for another number of labels, and
    for a label that is empty or there twice.
    """

    family = "sound-resnet"

    def __init__(self, config: SoundResNetConfig, labels: Sequence[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.labels = checked_labels(
            [str(i) for i in range(config.classes)] if labels is None else labels, config.classes
        )
        self.front_end = LogMel(config.n_mels)
        self.conv1 = nn.Conv2d(1, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = config.width
        self._stages = [f"layer{i}" for i in range(1, len(config.blocks) + 1)]
        for i, (name, blocks) in enumerate(zip(self._stages, config.blocks, strict=True)):
            width = config.width << i
            outputs = width * config.expansion
            stage = [_Bottleneck(inputs, width, outputs, stride=2 if i > 0 else 1, projected=True)]
            stage += [_Bottleneck(outputs, width, outputs) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(*stage))
            inputs = outputs
        self.fc = nn.Linear(inputs, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, feats: Tensor) -> Tensor:
        """Scores (batch, classes), before any softmax, of features (batch, time, n_mels).

        Raises ValueError for another shape or no frames.
        """
        n_mels = self.config.n_mels
        if feats.ndim != 3 or feats.shape[2] != n_mels or feats.shape[1] < 1:
            raise ValueError(f"features must be (batch, time, {n_mels}), got {tuple(feats.shape)}")
        x = self.maxpool(functional.relu(self.bn1(self.conv1(feats[:, None]))))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        scores: Tensor = self.fc(x.mean(dim=(2, 3)))
        return scores

    def begin_as_shortcuts(self) -> None:
        """Let each bottleneck begin as its shortcut: the gain of its last BatchNorm becomes 0.

        P. Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677. A deep network then
        learns from its first steps on.
        """
        for module in self.modules():
            if isinstance(module, _Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def load_torchvision(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of torchvision's network of the same blocks and widths.

        The first layer's kernels of the three colours are added up, as for a grey picture. The last
        layer stays as it is where the number of classes is another. Raises RuntimeError, from
        ``load_state_dict``, for other keys or shapes.
        """
        taken = dict(state)
        if "conv1.weight" in taken:
            taken["conv1.weight"] = taken["conv1.weight"].sum(dim=1, keepdim=True)
        if "fc.weight" in taken and len(taken["fc.weight"]) != self.config.classes:
            taken |= {f"fc.{key}": value for key, value in self.fc.state_dict().items()}
        self.load_state_dict(taken)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut, which a 1x1 convolution projects if asked."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int = 1, projected: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if projected:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + shortcut)
