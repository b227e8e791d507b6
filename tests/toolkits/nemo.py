"""NeMo's ECAPAEncoder and SpeakerDecoder (conv_asr.py, tdnn_attention.py), on features that its
preprocessor pads (features.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TDNNModule(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv_layer = nn.Conv1d(c_in, c_out, kernel, dilation=dilation, padding=padding)
        self.bn = nn.BatchNorm1d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(torch.relu(self.conv_layer(x)))
        return y


class MaskedSEModule(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.se_layer = nn.Sequential(
            nn.Conv1d(width, squeezed, 1),
            nn.ReLU(),
            nn.BatchNorm1d(squeezed),
            nn.Conv1d(squeezed, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mean = torch.sum(x * mask, dim=2, keepdim=True) / mask.sum()
        gate: Tensor = self.se_layer(mean)
        return gate * x


class TDNNSEModule(nn.Module):
    def __init__(self, width: int, groups: int, squeezed: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.group_tdnn_block = nn.Sequential(
            TDNNModule(width, width),
            nn.Conv1d(width, width, kernel, dilation=dilation, padding=padding, groups=groups),
            nn.ReLU(),
            nn.BatchNorm1d(width),
            TDNNModule(width, width),
        )
        self.se_layer = MaskedSEModule(width, squeezed)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.se_layer(self.group_tdnn_block(x), mask)
        return y + x


class ECAPAEncoder(nn.Module):
    def __init__(
        self,
        mels: int,
        width: int,
        aggregated: int,
        groups: int,
        squeezed: int,
        dilations: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TDNNModule(mels, width, 5, dilations[0])])
        for dilation in dilations[1:4]:
            self.layers.append(TDNNSEModule(width, groups, squeezed, 3, dilation))
        self.feature_agg = TDNNModule(3 * width, aggregated, 1, dilations[4])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        first, *blocks = self.layers
        x = first(x)
        outputs = []
        for block in blocks:
            x = block(x, mask)
            outputs.append(x)
        y: Tensor = self.feature_agg(torch.cat(outputs, dim=1))
        return y


def statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = torch.sum(weights * x, dim=2)
    std = torch.sqrt((weights * (x - mean.unsqueeze(2)).pow(2)).sum(2).clamp(1e-10))
    return mean, std


class AttentivePoolLayer(nn.Module):
    def __init__(self, channels: int, attention: int) -> None:
        super().__init__()
        self.attention_layer = nn.Sequential(
            TDNNModule(3 * channels, attention), nn.Tanh(), nn.Conv1d(attention, channels, 1)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mean, std = statistics(x, mask / mask.sum())
        context = [part.unsqueeze(2).repeat(1, 1, x.shape[2]) for part in (mean, std)]
        attention = self.attention_layer(torch.cat([x, *context], dim=1))
        alpha = torch.softmax(attention.masked_fill(mask == 0, -torch.inf), dim=2)
        return torch.cat(statistics(x, alpha), dim=1).unsqueeze(2)


class SpeakerDecoder(nn.Module):
    def __init__(self, channels: int, attention: int, embedding: int, speakers: int = 5) -> None:
        super().__init__()
        self._pooling = AttentivePoolLayer(channels, attention)
        self.emb_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.BatchNorm1d(2 * channels), nn.Conv1d(2 * channels, embedding, kernel_size=1)
                )
            ]
        )
        self.final = nn.Linear(embedding, speakers, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.emb_layers[0](self._pooling(x, mask))
        return y.squeeze(-1)


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
        dilations: tuple[int, ...] = (1, 1, 1, 1, 1),
        pad_to: int = 16,
    ) -> None:
        super().__init__()
        self.pad_to = pad_to
        self.encoder = ECAPAEncoder(mels, width, aggregated, scale, squeezed, dilations)
        self.decoder = SpeakerDecoder(aggregated, attention, embedding)

    def forward(self, feats: Tensor) -> Tensor:
        frames = feats.shape[1]
        x = torch.cat([feats.transpose(1, 2), feats.new_zeros(len(feats), feats.shape[2], 1)], 2)
        if self.pad_to > 0 and x.shape[2] % self.pad_to:
            x = nn.functional.pad(x, (0, self.pad_to - x.shape[2] % self.pad_to))
        mask = (torch.arange(x.shape[2]) < frames).to(x)
        y: Tensor = self.decoder(self.encoder(x, mask), mask)
        return y
