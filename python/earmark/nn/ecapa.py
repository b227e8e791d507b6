"""ECAPA-TDNN in float, with the arithmetic and the state-dict keys of SpeechBrain's ``ECAPA_TDNN``.

B. Desplanques, J. Thienpondt, K. Demuynck, "ECAPA-TDNN: Emphasized Channel Attention, Propagation
and Aggregation in TDNN Based Speaker Verification", arXiv:2005.07143. Inside, activations are
(batch, channel, time). Attribute names are the checkpoints' (``blocks.0.conv.conv.weight``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from earmark.audio import read_audio
from earmark.frontend import FrontEnd
from earmark.nn.config import EcapaConfig

__all__ = ["EcapaTdnn"]

_MIN_VARIANCE = 1e-12


class EcapaTdnn(nn.Module):
    """The network with its front end. ``family`` names the toolkit whose checkpoints it reads.

    ``net(feats)`` computes on normalised features, ``net.embed(recordings)`` begins at the
    waveform. Raises ValueError when the front end's features are not the network's.
    """

    def __init__(self, config: EcapaConfig, front_end: FrontEnd, family: str) -> None:
        super().__init__()
        if front_end.n_features != config.n_mels:
            raise ValueError(
                f"the front end gives {front_end.n_features} features a frame, "
                f"the network takes {config.n_mels}"
            )
        self.config = config
        self.front_end = front_end
        self.family = family
        width, aggregated = config.channels[0], config.channels[-1]
        layers = list(zip(config.kernel_sizes, config.dilations, strict=True))
        self.blocks = nn.ModuleList([_Tdnn(config.n_mels, width, *layers[0])])
        self.blocks.extend(_SeRes2Block(config, *layer) for layer in layers[1:-1])
        self.mfa = _Tdnn(width * (len(layers) - 2), aggregated, *layers[-1])
        self.asp = AttentivePooling(aggregated, config.attention_channels)
        self.asp_bn = _BatchNorm(2 * aggregated)
        self.fc = _Conv(2 * aggregated, config.embedding)

    def forward(self, feats: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings (B, 1, embedding) of features (B, T, n_mels).

        ``lengths`` (B,), in (0, 1], are the valid shares of T. As in SpeechBrain they mask the
        squeeze-excitation means and the pooling, not the convolutions, so that padded recordings
        come out slightly different from the same recordings alone. Raises ValueError for another
        shape, fewer frames than ``config.min_frames``, or lengths out of range.
        """
        n_mels, min_frames = self.config.n_mels, self.config.min_frames
        if feats.ndim != 3 or feats.shape[2] != n_mels:
            raise ValueError(f"features must be (batch, time, {n_mels}), got {tuple(feats.shape)}")
        if feats.shape[1] < min_frames:
            raise ValueError(
                f"the network needs at least {min_frames} frames, got {feats.shape[1]}"
            )
        mask = None if lengths is None else _mask(lengths, feats)
        x = self.blocks[0](feats.transpose(1, 2))
        outputs = []
        for block in self.blocks[1:]:
            x = block(x, mask)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs, dim=1))
        x = self.fc(self.asp_bn(self.asp(x, mask)))
        embedding: Tensor = x.transpose(1, 2)
        return embedding

    def pieces(self, wave: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What the network is run on: a recording (samples,) as a whole."""
        return [wave]

    def description(self) -> dict[str, Any]:
        """What a model file says of the network beside its config: nothing."""
        return {}

    def embed(
        self,
        recordings: Any,
        sample_rate: int = 16000,
    ) -> NDArray[np.float32]:
        """Embeddings (n, embedding) of one recording or a list of n, each computed alone.

        A recording is what :func:`earmark.audio.read_audio` takes; ``sample_rate`` (Hz) is that of
        arrays, files know theirs. Raises AudioError for a recording that cannot be used and
        RuntimeError in training mode, where batch normalisation would change with each call.
        """
        if self.training:
            raise RuntimeError("embed needs evaluation mode: call net.eval() first")
        several = isinstance(recordings, list | tuple)
        sources: Sequence[Any] = recordings if several else [recordings]
        weight = self.fc.conv.weight
        embeddings = np.empty((len(sources), self.config.embedding), dtype=np.float32)
        with torch.inference_mode():
            for row, source in enumerate(sources):
                audio = read_audio(
                    source,
                    sample_rate,
                    target_rate=self.front_end.sample_rate_hz,
                    min_samples=self.front_end.samples_of_frames(self.config.min_frames),
                    name=f"array {row}" if several else "array",
                )
                feats = torch.from_numpy(self.front_end(audio.samples))
                embedding = self(feats[None].to(weight.device, weight.dtype))
                embeddings[row] = embedding[0, 0].float().cpu().numpy()
        return embeddings


class _Conv(nn.Module):
    """Convolution over time that keeps the number of frames, by reflect padding."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(
            inputs,
            outputs,
            kernel_size,
            dilation=dilation,
            padding=padding,
            # Reflecting nothing would still copy the input.
            padding_mode="reflect" if padding else "zeros",
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class _BatchNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class _Tdnn(nn.Module):
    """Convolution, ReLU, batch normalisation: in this order."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = _Conv(inputs, outputs, kernel_size, dilation)
        self.norm = _BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(functional.relu(self.conv(x)))
        return y


class _Res2(nn.Module):
    """Chunk 0 passes through; each later chunk is convolved with the result of the one before."""

    def __init__(self, channels: int, scale: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        width = channels // scale
        self.blocks = nn.ModuleList(
            _Tdnn(width, width, kernel_size, dilation) for _ in range(scale - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.chunk(len(self.blocks) + 1, dim=1)
        outputs = [first]
        for block, chunk in zip(self.blocks, rest, strict=True):
            outputs.append(block(chunk if len(outputs) == 1 else chunk + outputs[-1]))
        return torch.cat(outputs, dim=1)


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, squeezed)
        self.conv2 = _Conv(squeezed, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mean = x.mean(dim=2, keepdim=True)
        else:
            mean = (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)
        return torch.sigmoid(self.conv2(functional.relu(self.conv1(mean)))) * x


class _SeRes2Block(nn.Module):
    def __init__(self, config: EcapaConfig, kernel_size: int, dilation: int) -> None:
        super().__init__()
        channels = config.channels[0]
        self.tdnn1 = _Tdnn(channels, channels)
        self.res2net_block = _Res2(channels, config.res2_scale, kernel_size, dilation)
        self.tdnn2 = _Tdnn(channels, channels)
        self.se_block = _SqueezeExcitation(channels, config.se_channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        residual: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))), mask)
        return residual + x


class AttentivePooling(nn.Module):
    """Mean and standard deviation over time, (B, C, T) -> (B, 2C, 1), weighted by an attention that
    sees each frame beside the mean and standard deviation of all. ``softmax`` takes logits of -inf
    for frames that do not count."""

    softmax: nn.Module

    def __init__(self, channels: int, attention_channels: int) -> None:
        super().__init__()
        self.tdnn = _Tdnn(3 * channels, attention_channels)
        self.conv = _Conv(attention_channels, channels)
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mask = x.new_ones((x.shape[0], 1, x.shape[2]))
        uniform = mask / mask.sum(dim=2, keepdim=True)
        context = torch.cat(_mean_and_std(x, uniform), dim=1)[:, :, None]
        # The same for all frames: not repeated for each, it costs a third of the products.
        conv = self.tdnn.conv.conv
        channels = x.shape[1]
        per_frame, per_recording = conv.weight[:, :channels], conv.weight[:, channels:]
        hidden = functional.conv1d(x, per_frame) + functional.conv1d(
            context, per_recording, conv.bias
        )
        scores = self.conv(torch.tanh(self.tdnn.norm(functional.relu(hidden))))
        weights = self.softmax(scores.masked_fill(mask == 0, float("-inf")))
        return torch.cat(_mean_and_std(x, weights), dim=1)[:, :, None]


def _mean_and_std(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation over time, each (B, C)."""
    mean = (weights * x).sum(dim=2)
    variance = (weights * (x - mean[:, :, None]).square()).sum(dim=2)
    return mean, variance.clamp(min=_MIN_VARIANCE).sqrt()


def _mask(lengths: Tensor, feats: Tensor) -> Tensor:
    """1 for valid frames, else 0: (B, 1, T) in the dtype of the features."""
    batch, frames = feats.shape[:2]
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"lengths must be ({batch},), got {tuple(lengths.shape)}")
    # Written so that NaN is refused too.
    if not bool(((lengths > 0) & (lengths <= 1)).all()):
        raise ValueError(f"lengths must be in (0, 1], got {lengths.tolist()}")
    valid = torch.arange(frames, device=feats.device) < (lengths.to(feats.device) * frames)[:, None]
    return valid[:, None, :].to(feats.dtype)
