"""3D-Speaker's ECAPA_TDNN: SpeechBrain's, with reflect padding and SpeechBrain's keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.reach = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(c_in, c_out, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (self.reach, self.reach), mode="reflect")
        y: Tensor = self.conv(padded)
        return y


class Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class Unit(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Conv(c_in, c_out, kernel, dilation)
        self.norm = Norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(torch.relu(self.conv(x)))
        return y


class Res2(nn.Module):
    def __init__(self, width: int, scale: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.scale = scale
        part = width // scale
        self.blocks = nn.ModuleList(Unit(part, part, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for i, part in enumerate(torch.chunk(x, self.scale, dim=1)):
            if i == 0:
                y = part
            elif i == 1:
                y = self.blocks[0](part)
            else:
                y = self.blocks[i - 1](part + y)
            out.append(y)
        return torch.cat(out, dim=1)


class SqueezeExcitation(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = Conv(width, squeezed)
        self.conv2 = Conv(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=2, keepdim=True)
        return torch.sigmoid(self.conv2(torch.relu(self.conv1(mean)))) * x


class Block(nn.Module):
    def __init__(self, width: int, scale: int, squeezed: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.tdnn1 = Unit(width, width)
        self.res2net_block = Res2(width, scale, kernel, dilation)
        self.tdnn2 = Unit(width, width)
        self.se_block = SqueezeExcitation(width, squeezed)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x)))) + x
        return y


def statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * x).sum(2)
    return mean, (weights * (x - mean.unsqueeze(2)).pow(2)).sum(2).clamp(1e-12).sqrt()


class Pooling(nn.Module):
    def __init__(self, channels: int, attention: int) -> None:
        super().__init__()
        self.tdnn = Unit(3 * channels, attention)
        self.conv = Conv(attention, channels)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        mean, std = statistics(x, torch.full_like(x, 1 / frames))
        context = [part.unsqueeze(2).repeat(1, 1, frames) for part in (mean, std)]
        scores = self.conv(torch.tanh(self.tdnn(torch.cat([x, *context], dim=1))))
        mean, std = statistics(x, torch.softmax(scores, dim=2))
        return torch.cat([mean, std], dim=1).unsqueeze(2)


class EcapaTdnn(nn.Module):
    """Features (batch, time, mels) -> (batch, embedding)."""

    def __init__(
        self,
        mels: int = 80,
        width: int = 1024,
        aggregated: int = 3072,
        scale: int = 8,
        squeezed: int = 128,
        attention: int = 128,
        embedding: int = 192,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Unit(mels, width, 5)])
        for dilation in (2, 3, 4):
            self.blocks.append(Block(width, scale, squeezed, 3, dilation))
        self.mfa = Unit(3 * width, aggregated)
        self.asp = Pooling(aggregated, attention)
        self.asp_bn = Norm(2 * aggregated)
        self.fc = Conv(2 * aggregated, embedding)

    def forward(self, feats: Tensor) -> Tensor:
        x = feats.transpose(1, 2)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs[1:], dim=1))
        y: Tensor = self.fc(self.asp_bn(self.asp(x)))
        return y.squeeze(2)
