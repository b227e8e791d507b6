"""TaoRuijie/ECAPA-TDNN, model.py: ECAPA_TDNN, and the trainer's module around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SEModule(nn.Module):
    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(channels, bottleneck, 1),
            nn.ReLU(),
            nn.Conv1d(bottleneck, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.se(x)
        return x * gate


class Bottle2neck(nn.Module):
    def __init__(self, width: int, scale: int, squeezed: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.part = width // scale
        self.conv1 = nn.Conv1d(width, width, 1)
        self.bn1 = nn.BatchNorm1d(width)
        padding = kernel // 2 * dilation
        self.convs = nn.ModuleList(
            nn.Conv1d(self.part, self.part, kernel, dilation=dilation, padding=padding)
            for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(self.part) for _ in range(scale - 1))
        self.conv3 = nn.Conv1d(width, width, 1)
        self.bn3 = nn.BatchNorm1d(width)
        self.se = SEModule(width, squeezed)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(torch.relu(self.conv1(x)))
        parts = torch.split(out, self.part, dim=1)
        done: list[Tensor] = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            y = parts[i] if i == 0 else done[-1] + parts[i]
            done.append(bn(torch.relu(conv(y))))
        out = torch.cat([*done, parts[-1]], dim=1)
        y = self.se(self.bn3(torch.relu(self.conv3(out))))
        return y + x


class EcapaTdnn(nn.Module):
    """Features (batch, time, mels) -> (batch, embedding)."""

    def __init__(
        self,
        mels: int = 80,
        width: int = 1024,
        aggregated: int = 1536,
        scale: int = 8,
        squeezed: int = 128,
        attention: int = 256,
        embedding: int = 192,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, width, 5, padding=2)
        self.bn1 = nn.BatchNorm1d(width)
        self.layer1 = Bottle2neck(width, scale, squeezed, 3, 2)
        self.layer2 = Bottle2neck(width, scale, squeezed, 3, 3)
        self.layer3 = Bottle2neck(width, scale, squeezed, 3, 4)
        self.layer4 = nn.Conv1d(3 * width, aggregated, 1)
        self.attention = nn.Sequential(
            nn.Conv1d(3 * aggregated, attention, 1),
            nn.ReLU(),
            nn.BatchNorm1d(attention),
            nn.Tanh(),
            nn.Conv1d(attention, aggregated, 1),
            nn.Softmax(dim=2),
        )
        self.bn5 = nn.BatchNorm1d(2 * aggregated)
        self.fc6 = nn.Linear(2 * aggregated, embedding)
        self.bn6 = nn.BatchNorm1d(embedding)

    def forward(self, feats: Tensor) -> Tensor:
        x = self.bn1(torch.relu(self.conv1(feats.transpose(1, 2))))
        x1 = self.layer1(x)
        x2 = self.layer2(x + x1)
        x3 = self.layer3(x + x1 + x2)
        x = torch.relu(self.layer4(torch.cat((x1, x2, x3), dim=1)))
        frames = x.shape[2]
        mean = x.mean(dim=2, keepdim=True).repeat(1, 1, frames)
        std = x.var(dim=2, keepdim=True).clamp(min=1e-4).sqrt().repeat(1, 1, frames)
        w = self.attention(torch.cat((x, mean, std), dim=1))
        mu = (x * w).sum(dim=2)
        sg = ((x**2 * w).sum(dim=2) - mu**2).clamp(min=1e-4).sqrt()
        y: Tensor = self.bn6(self.fc6(self.bn5(torch.cat((mu, sg), dim=1))))
        return y


class Trainer(nn.Module):
    """What a checkpoint holds: the encoder, the constants of its front end, and the classifier."""

    def __init__(self, encoder: EcapaTdnn, embedding: int, speakers: int = 5) -> None:
        super().__init__()
        self.speaker_encoder = encoder
        self.speaker_loss = nn.Module()
        self.speaker_loss.weight = nn.Parameter(torch.randn(speakers, embedding))
        constants = {
            "torchfbank.0.flipped_filter": torch.tensor([[[-0.97, 1.0]]]),
            "torchfbank.1.spectrogram.window": torch.hamming_window(400),
            "torchfbank.1.mel_scale.fb": torch.rand(257, 80),
        }
        self.constants = constants

    def checkpoint(self) -> dict[str, Tensor]:
        state = dict(self.state_dict())
        return state | {f"speaker_encoder.{key}": value for key, value in self.constants.items()}
