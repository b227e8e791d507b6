"""The numbers that fix the shape of a network. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

__all__ = ["EcapaConfig", "SoundResNetConfig", "checked_labels"]

_PADDINGS = ("reflect", "zero")
_RES2 = ("first", "last", "grouped")
_MOST_PADDED = 4096  # that the engine takes


@dataclass(frozen=True)
class EcapaConfig:
    """Shape of an ECAPA-TDNN (Desplanques et al., arXiv:2005.07143); defaults are SpeechBrain's
    published model.

    ``channels``, ``kernel_sizes`` and ``dilations`` have one entry a layer: the first convolution,
    the SE-Res2 blocks, and the multi-layer feature aggregation (MFA). The blocks keep the width of
    the first layer. Convolutions keep the number of frames. What other toolkits do otherwise is a
    field here, too:

    * ``padding``: of convolutions, "reflect" or "zero";
    * ``res2``: the chunk of a Res2 layer that passes through, "first" or "last"; the others are
      convolved in a chain. "grouped": in place of that, one convolution of ``res2_scale`` groups;
    * ``accumulated``: a block's input is the sum of all outputs so far, not the last of them;
    * ``se_norm``: a BatchNorm behind the ReLU of the squeeze-excitation;
    * ``mfa_norm``: a BatchNorm behind the ReLU of the MFA;
    * ``attention_norm``: ReLU and BatchNorm before the attention's tanh;
    * ``context``: the attention sees the recording's mean and standard deviation beside each frame,
      ``sqrt(max(variance, context_floor) + context_added)``, the variance divided by T - 1 where it
      is ``context_unbiased``;
    * ``pooled_floor``: the least variance of the pooled statistics;
    * ``embedding_norm``: a BatchNorm behind the last layer;
    * ``pad_to``: convolutions go on beyond the features, over zeros, up to the next multiple of it
      above their number of frames; means and pooling count the features' frames alone. None: they
      end with the features.

    Raises ValueError for numbers that fit no network.

    >>> small = EcapaConfig(channels=(512, 512, 512, 512, 1536), padding="zero")
    >>> small.min_frames, EcapaConfig().min_frames
    (1, 5)
    """

    n_mels: int = 80
    channels: tuple[int, ...] = (1024, 1024, 1024, 1024, 3072)
    kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 1)
    dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    attention_channels: int = 128
    res2_scale: int = 8
    se_channels: int = 128
    embedding: int = 192
    padding: str = "reflect"
    res2: str = "first"
    accumulated: bool = False
    se_norm: bool = False
    mfa_norm: bool = True
    attention_norm: bool = True
    context: bool = True
    context_unbiased: bool = False
    context_floor: float = 1e-12
    context_added: float = 0.0
    pooled_floor: float = 1e-12
    embedding_norm: bool = False
    pad_to: int | None = None

    def __post_init__(self) -> None:
        layers = len(self.channels)
        if layers < 3 or len(self.kernel_sizes) != layers or len(self.dilations) != layers:
            raise ValueError(
                "channels, kernel_sizes and dilations need one entry for each of at least 3 "
                f"layers, got {self.channels}, {self.kernel_sizes}, {self.dilations}"
            )
        for name in ("channels", "kernel_sizes", "dilations"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("n_mels", "attention_channels", "se_channels", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, got {self.kernel_sizes}")
        if len(set(self.channels[:-1])) != 1:
            raise ValueError(f"all channels but the last must be equal, got {self.channels}")
        if self.res2_scale < 2 or self.channels[0] % self.res2_scale:
            raise ValueError(
                f"res2_scale must be at least 2 and divide the {self.channels[0]} channels, "
                f"got {self.res2_scale}"
            )
        for name, known in (("padding", _PADDINGS), ("res2", _RES2)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {known}")
        if self.pad_to is not None:
            if not 1 <= self.pad_to <= _MOST_PADDED:
                raise ValueError(f"pad_to must be from 1 to {_MOST_PADDED}, got {self.pad_to}")
            if self.padding != "zero":
                raise ValueError(f"pad_to needs zero padding, got {self.padding!r}")
        for name in ("context_floor", "context_added", "pooled_floor"):
            # Written so that NaN is refused too.
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def min_frames(self) -> int:
        """Fewest frames the network takes: reflect padding needs more frames than padding, an
        unbiased variance two."""
        least = 2 if self.context and self.context_unbiased else 1
        if self.padding == "zero":
            return least
        reach = zip(self.kernel_sizes, self.dilations, strict=True)
        return max(least, 1 + max(dilation * (size - 1) // 2 for size, dilation in reach))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EcapaConfig:
        """From what :meth:`to_dict` returned. Raises ValueError for other keys or values."""
        try:
            return cls(**_from_plain(fields))
        except TypeError as error:
            raise ValueError(f"not the numbers of an ECAPA-TDNN: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return _to_plain(asdict(self))


@dataclass(frozen=True)
class SoundResNetConfig:
    """Shape of a ResNet with bottlenecks (He et al., arXiv:1512.03385) on spectrograms; blocks and
    width are ResNet-50's by default.

    ``blocks`` has one entry a stage, each of twice the width and half the size of the one before
    it. ``width`` is the channels of the first layer, and inside the bottlenecks of the first stage.
    Raises ValueError for numbers that fit no network.
    """

    classes: int
    n_mels: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    # A bottleneck's outputs, as a multiple of its width.
    expansion: ClassVar[int] = 4

    def __post_init__(self) -> None:
        for name in ("classes", "n_mels", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if len(self.blocks) < 1 or min(self.blocks) < 1:
            raise ValueError(f"blocks must be positive, one for each stage, got {self.blocks}")

    @property
    def min_frames(self) -> int:
        """Fewest frames the network takes: zeros are beyond its ends, so one will do."""
        return 1

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SoundResNetConfig:
        """From what :meth:`to_dict` returned. Raises ValueError for other keys or values."""
        try:
            return cls(**_from_plain(fields))
        except TypeError as error:
            raise ValueError(f"not the numbers of a sound ResNet: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return _to_plain(asdict(self))


def checked_labels(labels: Sequence[Any], classes: int) -> tuple[str, ...]:
    """Names of a network's classes. Raises ValueError for another number of them, and for names
    that are no text, empty or there twice."""
    if len(labels) != classes:
        raise ValueError(f"{len(labels)} names for {classes} classes")
    for label in labels:
        if not isinstance(label, str) or not label.strip() or not label.isprintable():
            raise ValueError(f"a class is named {label!r}, expected a word")
    if len(set(labels)) != classes:
        raise ValueError("two classes have the same name")
    return tuple(labels)


def _from_plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}


def _to_plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}
