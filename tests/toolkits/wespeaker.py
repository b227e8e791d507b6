"""WeSpeaker's wespeaker/models/ecapa_tdnn.py with ASTP of pooling_layers.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv1dReluBn(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, padding=padding)
        self.bn = nn.BatchNorm1d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(torch.relu(self.conv(x)))
        return y


class Res2Conv1dReluBn(nn.Module):
    def __init__(self, width: int, scale: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.part = width // scale
        self.convs = nn.ModuleList(
            nn.Conv1d(self.part, self.part, kernel, dilation=dilation, padding=dilation)
            for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(self.part) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        out = []
        parts = torch.split(x, self.part, 1)
        y = parts[0]
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            if i >= 1:
                y = y + parts[i]
            y = bn(torch.relu(conv(y)))
            out.append(y)
        out.append(parts[-1])
        return torch.cat(out, dim=1)


class SEConnect(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, squeezed)
        self.linear2 = nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.linear2(torch.relu(self.linear1(x.mean(dim=2)))))
        return x * gate.unsqueeze(2)


class SERes2Block(nn.Module):
    def __init__(self, width: int, scale: int, squeezed: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.se_res2block = nn.Sequential(
            Conv1dReluBn(width, width),
            Res2Conv1dReluBn(width, scale, kernel, dilation),
            Conv1dReluBn(width, width),
            SEConnect(width, squeezed),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.se_res2block(x)
        return x + y


class ASTP(nn.Module):
    def __init__(self, channels: int, attention: int, context: bool) -> None:
        super().__init__()
        self.context = context
        self.linear1 = nn.Conv1d(channels * (3 if context else 1), attention, 1)
        self.linear2 = nn.Conv1d(attention, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        if self.context:
            mean = torch.mean(x, dim=-1, keepdim=True).expand_as(x)
            std = torch.sqrt(torch.var(x, dim=-1, keepdim=True) + 1e-7).expand_as(x)
            seen = torch.cat((x, mean, std), dim=1)
        alpha = torch.softmax(self.linear2(torch.tanh(self.linear1(seen))), dim=2)
        mean = torch.sum(alpha * x, dim=2)
        var = torch.sum(alpha * x**2, dim=2) - mean**2
        return torch.cat([mean, torch.sqrt(var.clamp(min=1e-7))], dim=1)


class EcapaTdnn(nn.Module):
    """Features (batch, time, mels) -> (batch, embedding)."""

    def __init__(
        self,
        mels: int = 80,
        width: int = 1024,
        aggregated: int = 1536,
        scale: int = 8,
        squeezed: int = 128,
        attention: int = 128,
        embedding: int = 192,
        context: bool = True,
        emb_bn: bool = False,
    ) -> None:
        super().__init__()
        self.layer1 = Conv1dReluBn(mels, width, 5, padding=2)
        self.layer2 = SERes2Block(width, scale, squeezed, 3, 2)
        self.layer3 = SERes2Block(width, scale, squeezed, 3, 3)
        self.layer4 = SERes2Block(width, scale, squeezed, 3, 4)
        self.conv = nn.Conv1d(3 * width, aggregated, 1)
        self.pool = ASTP(aggregated, attention, context)
        self.bn = nn.BatchNorm1d(2 * aggregated)
        self.linear = nn.Linear(2 * aggregated, embedding)
        self.bn2 = nn.BatchNorm1d(embedding) if emb_bn else nn.Identity()

    def forward(self, feats: Tensor) -> Tensor:
        out1 = self.layer1(feats.permute(0, 2, 1))
        out2 = self.layer2(out1)
        out3 = self.layer3(out2)
        out4 = self.layer4(out3)
        out = torch.relu(self.conv(torch.cat([out2, out3, out4], dim=1)))
        y: Tensor = self.bn2(self.linear(self.bn(self.pool(out))))
        return y
