"""The numbers of a training run. Without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "PRECISIONS",
    "Augmentation",
    "OptimizerConfig",
    "SoundAugmentation",
    "SoundTrainingConfig",
    "TrainingConfig",
]

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Augmentation:
    """How crops are changed. Each speed but 1 makes a new speaker of everyone.

    ``noise`` and ``room``: how likely a crop gets noise, at a signal-to-noise ratio within
    ``snr_db``, and one of ``rooms`` impulse responses; ``mask_mels``, ``mask_frames``: the widest
    band of each mask of SpecAugment. Raises ValueError for values out of range.
    """

    crop_seconds: float = 2.0
    speeds: tuple[float, ...] = (1.0, 0.9, 1.1)
    noise: float = 0.5
    snr_db: tuple[float, float] = (0.0, 15.0)
    room: float = 0.3
    rooms: int = 200
    mask_mels: tuple[int, ...] = (10,)
    mask_frames: tuple[int, ...] = (15,)

    def __post_init__(self) -> None:
        _require("crop_seconds", self.crop_seconds, 0.1 <= self.crop_seconds <= 60)
        in_range = all(0.5 <= speed <= 2 for speed in self.speeds)
        distinct = len(set(self.speeds)) == len(self.speeds) > 0
        _require("speeds", self.speeds, in_range and distinct)
        for name in ("noise", "room"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1)
        low, high = self.snr_db
        _require("snr_db", self.snr_db, -50 <= low <= high <= 100)
        _require("rooms", self.rooms, self.rooms >= 0)
        for name in ("mask_mels", "mask_frames"):
            _require(name, getattr(self, name), min(getattr(self, name), default=0) >= 0)


@dataclass(frozen=True)
class OptimizerConfig:
    """How a network's weights are moved, whatever it learns.

    ``batch``: crops a step; ``learning_rate``: the highest of the schedule, reached after the share
    ``warmup`` of all steps; ``clip``: the largest norm of a gradient; ``average``: decay of the
    moving average of the weights that is saved, 0 for the weights as they are; ``precision``: of
    the network, the loss is always float32. Raises ValueError for values out of range.
    """

    epochs: int = 60
    batch: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.02
    clip: float = 5.0
    average: float = 0.999
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        _require("epochs", self.epochs, self.epochs >= 1)
        _require("batch", self.batch, self.batch >= 2)
        _require("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf)
        _require("warmup", self.warmup, 0 <= self.warmup < 1)
        _require("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1)
        _require("clip", self.clip, self.clip > 0)
        _require("average", self.average, 0 <= self.average < 1)
        _require("precision", self.precision, self.precision in PRECISIONS)
        _require("seed", self.seed, 0 <= self.seed < 1 << 63)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class TrainingConfig(OptimizerConfig):
    """How an ECAPA-TDNN is trained; the defaults are for small corpora.

    ``margin`` (radians) and ``scale`` of the loss, the margin growing from 0 over the share
    ``margin_warmup`` of all steps. Raises ValueError for values out of range.

    >>> config = TrainingConfig(epochs=40, augmentation=Augmentation(crop_seconds=3.0))
    >>> config.margin, config.augmentation.crop_seconds
    (0.2, 3.0)
    """

    margin: float = 0.2
    margin_warmup: float = 0.2
    scale: float = 30.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("margin", self.margin, 0 <= self.margin < math.pi / 2)
        _require("margin_warmup", self.margin_warmup, 0 <= self.margin_warmup < 1)
        _require("scale", self.scale, 0 < self.scale < math.inf)


@dataclass(frozen=True)
class SoundAugmentation:
    """How pieces of clips are changed. ``seconds``: their length, that of a window in use.

    ``speed``: the range of the factor by which a piece is played faster; ``gain_db``: of its
    level; ``mix``: how likely it is mixed with a piece of another clip, the target likewise;
    ``mask_mels``, ``mask_frames``: the widest band of each mask of SpecAugment. Raises ValueError
    for values out of range.
    """

    seconds: float = 2.0
    speed: tuple[float, float] = (0.8, 1.25)
    gain_db: tuple[float, float] = (-12.0, 6.0)
    mix: float = 0.5
    mask_mels: tuple[int, ...] = (8,)
    mask_frames: tuple[int, ...] = (12,)

    def __post_init__(self) -> None:
        _require("seconds", self.seconds, 0.1 <= self.seconds <= 60)
        _require("speed", self.speed, 0.5 <= self.speed[0] <= self.speed[1] <= 2)
        _require("gain_db", self.gain_db, -60 <= self.gain_db[0] <= self.gain_db[1] <= 20)
        _require("mix", self.mix, 0 <= self.mix <= 1)
        for name in ("mask_mels", "mask_frames"):
            _require(name, getattr(self, name), min(getattr(self, name), default=0) >= 0)


@dataclass(frozen=True)
class SoundTrainingConfig(OptimizerConfig):
    """How a sound-event network is trained; the defaults are for a few hundred clips.

    ``smoothing``: the share of a target that is spread over all classes; ``class_weights``: a
    class counts in the loss by the inverse of its clips; ``undersample``: an epoch has as many
    clips of each class as the smallest has, drawn anew each time. Raises ValueError for values out
    of range.
    """

    batch: int = 16
    weight_decay: float = 0.05
    smoothing: float = 0.05
    class_weights: bool = False
    undersample: bool = False
    augmentation: SoundAugmentation = field(default_factory=SoundAugmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("smoothing", self.smoothing, 0 <= self.smoothing < 1)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in fields.items()
    }


def _require(name: str, value: Any, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}, which is out of range")
