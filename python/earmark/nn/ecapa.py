"""ECAPA-TDNN in float, with the state-dict keys of SpeechBrain's ``ECAPA_TDNN`` and, where the
config does not say otherwise, its arithmetic.

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


class EcapaTdnn(nn.Module):
    """The network with its front end. ``family`` names the toolkit whose checkpoints it reads.

    ``net(feats)`` computes on normalised features, ``net.embed(recordings)`` begins at the
    waveform. Raises ValueError when the front end's features are not the network's.

    >>> from earmark.frontend import SpeechBrainFbank
    >>> config = EcapaConfig(channels=(64, 64, 64, 64, 192))
    >>> net = EcapaTdnn(config, SpeechBrainFbank(), "speechbrain").eval()
    >>> net(torch.zeros(2, 100, 80), lengths=torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 1, 192])
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
        padding = config.padding
        self.blocks = nn.ModuleList([_Tdnn(config.n_mels, width, *layers[0], padding=padding)])
        self.blocks.extend(_SeRes2Block(config, *layer) for layer in layers[1:-1])
        inputs = width * (len(layers) - 2)
        self.mfa = _Tdnn(inputs, aggregated, *layers[-1], padding=padding, norm=config.mfa_norm)
        self.asp = AttentivePooling(config)
        self.asp_bn = _BatchNorm(2 * aggregated)
        self.fc = _Conv(2 * aggregated, config.embedding)
        self.fc_bn = _BatchNorm(config.embedding) if config.embedding_norm else nn.Identity()

    def forward(self, feats: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings (B, 1, embedding) of features (B, T, n_mels).

        ``lengths`` (B,), in (0, 1], are the valid shares of T. As in SpeechBrain they mask the
        squeeze-excitation means and the pooling, not the convolutions, so that padded recordings
        come out slightly different from the same recordings alone. Zeros that ``config.pad_to``
        asks for follow the features here, masked likewise. Raises ValueError for another shape,
        fewer frames than ``config.min_frames``, or lengths out of range.
        """
        n_mels, min_frames = self.config.n_mels, self.config.min_frames
        if feats.ndim != 3 or feats.shape[2] != n_mels:
            raise ValueError(f"features must be (batch, time, {n_mels}), got {tuple(feats.shape)}")
        if feats.shape[1] < min_frames:
            raise ValueError(
                f"the network needs at least {min_frames} frames, got {feats.shape[1]}"
            )
        mask = None if lengths is None else _mask(lengths, feats)
        if mask is not None and self.config.context_unbiased and bool((mask.sum(dim=2) < 2).any()):
            raise ValueError(f"each recording needs 2 valid frames, got lengths {lengths}")
        if self.config.pad_to is not None:
            feats, mask = _padded(feats, mask, self.config.pad_to)
        x = self.blocks[0](feats.transpose(1, 2))
        outputs: list[Tensor] = []
        for block in self.blocks[1:]:
            if self.config.accumulated and outputs:
                x = x + outputs[-1]
            elif outputs:
                x = outputs[-1]
            outputs.append(block(x, mask))
        x = self.mfa(torch.cat(outputs, dim=1))
        x = self.fc_bn(self.fc(self.asp_bn(self.asp(x, mask))))
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
    """Convolution over time that keeps the number of frames."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        padded = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(
            inputs,
            outputs,
            kernel_size,
            dilation=dilation,
            groups=groups,
            padding=padded,
            # Reflecting nothing would still copy the input.
            padding_mode="reflect" if padding == "reflect" and padded else "zeros",
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
    """Convolution, ReLU and, with ``norm``, batch normalisation: in this order."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str = "reflect",
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv = _Conv(inputs, outputs, kernel_size, dilation, groups, padding)
        self.norm = _BatchNorm(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(functional.relu(self.conv(x)))
        return y


class _Res2(nn.Module):
    """One chunk passes through, the first or the last; each other one is convolved with the result
    of the one before."""

    def __init__(self, config: EcapaConfig, kernel_size: int, dilation: int) -> None:
        super().__init__()
        width = config.channels[0] // config.res2_scale
        self.passes_last = config.res2 == "last"
        self.blocks = nn.ModuleList(
            _Tdnn(width, width, kernel_size, dilation, padding=config.padding)
            for _ in range(config.res2_scale - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        chunks = list(x.chunk(len(self.blocks) + 1, dim=1))
        passing = chunks.pop(-1 if self.passes_last else 0)
        outputs: list[Tensor] = []
        for block, chunk in zip(self.blocks, chunks, strict=True):
            outputs.append(block(chunk + outputs[-1] if outputs else chunk))
        outputs.insert(len(outputs) if self.passes_last else 0, passing)
        return torch.cat(outputs, dim=1)


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, squeezed)
        self.norm = _BatchNorm(squeezed) if norm else nn.Identity()
        self.conv2 = _Conv(squeezed, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mean = x.mean(dim=2, keepdim=True)
        else:
            mean = (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)
        return torch.sigmoid(self.conv2(self.norm(functional.relu(self.conv1(mean))))) * x


class _SeRes2Block(nn.Module):
    def __init__(self, config: EcapaConfig, kernel_size: int, dilation: int) -> None:
        super().__init__()
        channels = config.channels[0]
        self.tdnn1 = _Tdnn(channels, channels)
        self.res2net_block: nn.Module = (
            _Tdnn(channels, channels, kernel_size, dilation, config.res2_scale, config.padding)
            if config.res2 == "grouped"
            else _Res2(config, kernel_size, dilation)
        )
        self.tdnn2 = _Tdnn(channels, channels)
        self.se_block = _SqueezeExcitation(channels, config.se_channels, config.se_norm)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        residual: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))), mask)
        return residual + x


class AttentivePooling(nn.Module):
    """Mean and standard deviation over time, (B, C, T) -> (B, 2C, 1), weighted by an attention that
    sees each frame and, if the config says so, beside it the mean and standard deviation of all.
    ``softmax`` takes logits of -inf for frames that do not count."""

    softmax: nn.Module

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        channels = config.channels[-1]
        inputs = 3 * channels if config.context else channels
        self.config = config
        self.tdnn = _Tdnn(inputs, config.attention_channels, norm=config.attention_norm)
        self.conv = _Conv(config.attention_channels, channels)
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mask = x.new_ones((x.shape[0], 1, x.shape[2]))
        hidden = self._hidden(x, mask)
        if self.config.attention_norm:
            hidden = self.tdnn.norm(functional.relu(hidden))
        scores = self.conv(torch.tanh(hidden))
        weights = self.softmax(scores.masked_fill(mask == 0, float("-inf")))
        mean, variance = _mean_and_variance(x, weights)
        deviation = variance.clamp(min=self.config.pooled_floor).sqrt()
        return torch.cat([mean, deviation], dim=1)[:, :, None]

    def _hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        """The first layer's convolution."""
        conv = self.tdnn.conv.conv
        if not self.config.context:
            return functional.conv1d(x, conv.weight, conv.bias)
        frames = mask.sum(dim=2, keepdim=True)
        mean, variance = _mean_and_variance(x, mask / frames)
        if self.config.context_unbiased:
            variance = variance * (frames / (frames - 1))[:, :, 0]
        variance = variance.clamp(min=self.config.context_floor) + self.config.context_added
        context = torch.cat([mean, variance.sqrt()], dim=1)[:, :, None]
        # The same for all frames: not repeated for each, it costs a third of the products.
        channels = x.shape[1]
        per_frame, per_recording = conv.weight[:, :channels], conv.weight[:, channels:]
        return functional.conv1d(x, per_frame) + functional.conv1d(
            context, per_recording, conv.bias
        )


def _mean_and_variance(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted over time, each (B, C)."""
    mean = (weights * x).sum(dim=2)
    return mean, (weights * (x - mean[:, :, None]).square()).sum(dim=2)


def _padded(feats: Tensor, mask: Tensor | None, multiple: int) -> tuple[Tensor, Tensor]:
    """Zeros behind the features (B, T, n_mels), up to the next multiple above T, and the mask."""
    frames = feats.shape[1]
    added = multiple - frames % multiple
    if mask is None:
        mask = feats.new_ones((feats.shape[0], 1, frames))
    return functional.pad(feats, (0, 0, 0, added)), functional.pad(mask, (0, added))


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
