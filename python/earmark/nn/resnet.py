"""A ResNet with bottlenecks for sound events, on spectrograms.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385,
in torchvision's layout: the stride is in the 3x3 convolution, state-dict keys are torchvision's.
Inside, activations are (batch, channel, time, band).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from earmark.audio import read_audio
from earmark.errors import AudioError
from earmark.frontend import LogMel
from earmark.nn.config import SoundResNetConfig, checked_labels
from earmark.windows import STRIDE_SECONDS, WINDOW_SECONDS, Sounds, windows

__all__ = ["SoundResNet", "SoundResNetConfig"]


class SoundResNet(nn.Module):
    """Class scores of a spectrogram, with the front end that makes it; the defaults of the config
    are ResNet-50's blocks and widths.

    ``net(feats)`` computes on features, ``net.classify(recordings)`` begins at the waveform, which
    is cut into windows of ``window`` samples, one each ``stride``.

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
        rate = self.front_end.sample_rate_hz
        self.window = round(WINDOW_SECONDS * rate)
        self.stride = round(STRIDE_SECONDS * rate)
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

    def pieces(self, wave: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What the network is run on: the windows of a recording (samples,)."""
        return list(windows(wave, self.window, self.stride))

    def description(self) -> dict[str, Any]:
        """What a model file says of the network beside its config."""
        return {
            "labels": list(self.labels),
            "window": {"samples": self.window, "stride": self.stride},
        }

    def classify(self, recordings: Any, sample_rate: int = 16000) -> list[Sounds]:
        """What is heard in one recording or each of a list, as ``Classifier.classify``.

        Raises AudioError for a recording that cannot be used and RuntimeError in training mode,
        where batch normalisation would change with each call.
        """
        if isinstance(recordings, list | tuple):
            names = [f"array {row}" for row in range(len(recordings))]
            return [
                self._sounds(*item, sample_rate) for item in zip(recordings, names, strict=True)
            ]
        return [self._sounds(recordings, "array", sample_rate)]

    def classify_each(
        self, recordings: Iterable[Any], sample_rate: int = 16000
    ) -> Iterator[tuple[int, Sounds | None, str]]:
        """(index, sounds or None, error or ""), as ``Classifier.classify_each``."""
        for row, source in enumerate(recordings):
            try:
                yield row, self._sounds(source, f"array {row}", sample_rate), ""
            except AudioError as error:
                yield row, None, str(error)

    def _sounds(self, source: Any, name: str, sample_rate: int) -> Sounds:
        if self.training:
            raise RuntimeError("classify needs evaluation mode: call net.eval() first")
        rate = self.front_end.sample_rate_hz
        audio = read_audio(source, sample_rate, target_rate=rate, name=name)
        features = np.stack([self.front_end(piece) for piece in self.pieces(audio.samples)])
        inputs = torch.from_numpy(features).to(self.fc.weight.device, self.fc.weight.dtype)
        with torch.inference_mode():
            scores = self(inputs).float().cpu().numpy()
        return Sounds.of_scores(self.labels, scores, self.stride / rate)

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
