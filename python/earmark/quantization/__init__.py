"""Post-training quantization: calibrate, choose ranges, round, write the integer plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from earmark.modelfile import ModelFile
from earmark.plan import ALL, PlanBuilder, by_layer
from earmark.quantization import equalization
from earmark.quantization.calibration import Calibration, calibrate
from earmark.quantization.conditions import other_conditions
from earmark.quantization.correction import corrected
from earmark.quantization.observers import summarise
from earmark.quantization.precision import PRECISIONS, Precision
from earmark.quantization.quantizer import quantize_plan
from earmark.storage import bits, encode_arrays, float16

if TYPE_CHECKING:
    from earmark.nn import EcapaTdnn, SoundResNet
    from earmark.quantized import QuantizedEcapa, QuantizedSoundResNet

__all__ = ["LoweredNetwork", "features_of", "quantize"]

Array = NDArray[Any]

# What a scheme gives every layer that has no precision of its own.
_SCHEMES = {
    "int8": "int8",
    "int8-full": "int8",
    "dynamic": "dynamic",
    "float16": "float16",
    "fp32": "fp32",
}
_INTEGER_ENDS = ("int8-full",)
_ROUNDINGS = ("compensated", "nearest")
_EXCERPT_SECONDS = (1.0, 1.5, 2.0)
# Recordings that equalization hears; a channel's size needs no more.
_EQUALIZED_ON = 64


def quantize(
    net: EcapaTdnn | SoundResNet,
    calibration: Iterable[Any] = (),
    scheme: str = "int8",
    precision: Mapping[str, str] | None = None,
    observer: str = "minmax",
    rounding: str = "compensated",
    equalize: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedEcapa | QuantizedSoundResNet:
    """Quantize a network; the result is called as the network is, and saved with ``save(path)``.

    * ``net``: as ``load_checkpoint`` returns it.
    * ``calibration``: waveforms at the network's sample rate or paths (each as ``Embedder.embed``
      takes it), of which a sound network sees the windows. What they show sets the range of every
      activation; only integer layers need them. A speaker network also hears the first half second
      of every fourth, and every eighth as 8 kHz leave it, of 32 and 16 at most.
    * ``scheme``: "int8", "int8-full" (its input and output are int8 too), "dynamic" (int8 weights,
      ranges found at run time), "float16" or "fp32".
    * ``precision``: layers with another precision than the scheme's, by name, leading part of a
      name or "all", such as ``{"all": "int4", "blocks.2": "fp32"}``: "int8", "int7", "int4",
      "int3", "int2" (8-bit activations and weights of so many bits), "int16", "w8a16", "w4a16",
      "w3a16", "w2a16", "w16a8" (16 bits, or so many in weights and activations), "dynamic",
      "float16" (weights so stored, computed in float32) or "fp32".
    * ``observer``: how ranges follow from what was seen, "minmax", "moving-average",
      "percentile", "mse" or "entropy".
    * ``rounding``: of weights, "compensated" (7 bits and more: so that the errors of an output do
      not add up, SQuant; fewer: by the covariance of each layer's inputs, GPTQ) or "nearest".
    * ``equalize``: bring the channels that share a range to alike sizes first (cross-layer
      equalization), by what up to 64 of the recordings show.
    * ``progress``: called with (done, total) recordings, of equalization, then of calibration.

    Raises ValueError for unknown names, AudioError for a recording that cannot be used.

    >>> import numpy as np
    >>> from earmark.frontend import SpeechBrainFbank
    >>> from earmark.nn import EcapaConfig, EcapaTdnn
    >>> config = EcapaConfig(channels=(64, 64, 64, 64, 192))
    >>> net = EcapaTdnn(config, SpeechBrainFbank(), "speechbrain").eval()
    >>> waves = [np.random.default_rng(seed).normal(0, 0.1, 16000) for seed in range(4)]
    >>> quantized = quantize(net, waves, precision={"fc": "fp32"})
    >>> quantized.embed(waves).shape
    (4, 192)
    """
    lowered = LoweredNetwork(net, rounding)
    chosen = lowered.precisions(scheme, precision or {})
    recordings = list(calibration)
    if equalize:
        step = max(1, -(-len(recordings) // _EQUALIZED_ON))
        lowered.equalize(recordings[::step], progress)
    if lowered.needs_calibration(chosen, scheme):
        compensated = lowered.of_few_bits(chosen) if rounding != "nearest" else []
        lowered.calibrate(recordings, observer, compensated, progress)
    return lowered.quantize(scheme, chosen)


class LoweredNetwork:
    """The float32 plan of a network, and what calibration saw: quantized in any number of ways.

    rounding: of weights, as ``quantize`` takes it; raises ValueError for another one.
    """

    def __init__(self, net: EcapaTdnn | SoundResNet, rounding: str = "compensated") -> None:
        from earmark.lowering import lower

        if rounding not in _ROUNDINGS:
            raise ValueError(f"unknown rounding {rounding!r}: known are {', '.join(_ROUNDINGS)}")
        self._balanced = rounding != "nearest"
        state = {key: tensor.detach().cpu().numpy() for key, tensor in net.state_dict().items()}
        self.net = net
        self.plan = self._trained = lower(net, state)
        self.seen: Calibration | None = None
        self._recordings = 0
        self._equalized: list[str] = []
        self.parameters = sum(
            array.size
            for key, array in state.items()
            if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )

    @property
    def layers(self) -> list[str]:
        """Names of the ops with weights, in the plan's order."""
        return [op["name"] for op in self.plan.ops if "weight" in op["arrays"]]

    def equalize(
        self, items: list[Any], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Bring the channels of tensors to alike sizes, before ``calibrate``.

        items: recordings that show the sizes. progress: called with (done, total).
        """
        self._equalized = [found.tensor for found in equalization.adjustable(self.plan)]
        features = features_of(self.net, items, progress)
        sizes = equalization.channel_sizes(self.plan, features, self._equalized)
        self.plan = equalization.equalize(self.plan, sizes)

    def calibrate(
        self,
        items: list[Any],
        observer: str = "minmax",
        compensated: Collection[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Observe all tensors, and the inputs' covariance of the layers to be compensated."""
        front_end = self.net.front_end
        rate = front_end.sample_rate_hz
        pieces = (
            (front_end(wave), list(map(front_end, _excerpts(wave, rate))) if compensated else [])
            for index, recording in enumerate(_waves(self.net, items, progress))
            for wave in self._heard(recording, index, len(items))
        )
        self.seen = calibrate(self.plan, pieces, observer, compensated)
        self._recordings = len(items)

    def _heard(self, wave: Array, index: int, count: int) -> list[Array]:
        """What calibration hears of one of ``count`` recordings; of a sound's window, itself."""
        if "window" in self.net.description():
            return [wave]
        front_end, shortest = self.net.front_end, self.net.config.min_frames
        others = other_conditions(wave, index, count, front_end.sample_rate_hz)
        return [wave, *(w for w in others if front_end.frames(len(w)) >= shortest)]

    def precisions(self, scheme: str, precision: Mapping[str, str]) -> dict[str, Precision]:
        """The precision of every op. Raises ValueError for unknown names."""
        if scheme not in _SCHEMES:
            known = ", ".join(_SCHEMES)
            raise ValueError(f"scheme {scheme!r} is not supported yet: known are {known}")
        for layer, wanted in precision.items():
            if wanted not in PRECISIONS:
                known = ", ".join(PRECISIONS)
                raise ValueError(
                    f"layer {layer!r}: unknown precision {wanted!r}, known are {known}"
                )
        chosen = by_layer(self.plan.plan, {ALL: _SCHEMES[scheme], **precision})
        return {name: PRECISIONS[wanted] for name, wanted in chosen.items()}

    def needs_calibration(self, chosen: Mapping[str, Precision], scheme: str = "fp32") -> bool:
        """Whether an op, the input or the output is quantized with a range that was seen."""
        calibrated = any(precision.is_calibrated for precision in chosen.values())
        return calibrated or scheme in _INTEGER_ENDS

    def of_few_bits(self, chosen: Mapping[str, Precision]) -> list[str]:
        """The layers whose weights get fewer bits."""
        return [name for name in self.layers if chosen[name].has_few_bits]

    def quantize(
        self, scheme: str, chosen: Mapping[str, Precision]
    ) -> QuantizedEcapa | QuantizedSoundResNet:
        """The network with these precisions; integer ones need a calibration before."""
        return self.model(scheme, chosen, self.quantized_plan(scheme, chosen))

    def quantized_plan(self, scheme: str, chosen: Mapping[str, Precision]) -> PlanBuilder:
        """The plan with these precisions; integer ones need a calibration before."""
        seen = self.seen if self.needs_calibration(chosen, scheme) else None
        if seen is None and not any(precision.is_dynamic for precision in chosen.values()):
            return self.plan
        integer_ends = scheme in _INTEGER_ENDS
        plan = quantize_plan(self.plan, seen, chosen, integer_ends, self._balanced)
        return plan if seen is None or integer_ends else corrected(plan, seen.examples)

    def model(
        self, scheme: str, chosen: Mapping[str, Precision], lowered: PlanBuilder
    ) -> QuantizedEcapa | QuantizedSoundResNet:
        """What runs a plan that ``quantized_plan`` made with these precisions."""
        from earmark.quantized import quantized

        seen = self.seen if self.needs_calibration(chosen, scheme) else None
        net = self.net
        metadata = {
            "family": net.family,
            "scheme": scheme,
            "sample_rate_hz": net.front_end.sample_rate_hz,
            "front_end": net.front_end.spec(),
            "config": asdict(net.config),
            "parameters": self.parameters,
            "threshold": None,
            **net.description(),
            "measured": {},
            "plan": lowered.plan,
            "layers": _layers(self._trained, lowered, chosen, seen),
            "calibration": self._summary(seen),
        }
        stored, storage = encode_arrays(lowered.arrays, _encoders(self.plan, chosen))
        if storage:
            metadata["storage"] = storage
        return quantized(ModelFile(metadata, stored))

    def _summary(self, seen: Calibration | None) -> dict[str, Any] | None:
        """What the file tells of the calibration."""
        summary: dict[str, Any] = {}
        if seen is not None:
            windows = {"windows": seen.pieces} if "window" in self.net.description() else {}
            summary = {
                "observer": seen.observer,
                "recordings": self._recordings,
                **windows,
                "frames": seen.frames,
            }
        if self._equalized:
            summary["equalized"] = self._equalized
        return summary or None


def _encoders(
    network: PlanBuilder, chosen: Mapping[str, Precision]
) -> dict[str, Callable[[Array], tuple[Array, dict[str, Any]]]]:
    """How the weights of layers are stored, where not as they are."""
    encoders: dict[str, Callable[[Array], tuple[Array, dict[str, Any]]]] = {}
    for op in network.ops:
        precision = chosen[op["name"]]
        if "weight" not in op["arrays"]:
            continue
        if not precision.is_float and precision.weight_bits < 8:
            encoders[f"{op['name']}.weight"] = partial(bits.encode, bits=precision.weight_bits)
        elif precision.name == "float16":
            encoders[f"{op['name']}.weight"] = float16.encode
    return encoders


def features_of(
    net: EcapaTdnn | SoundResNet,
    items: Sequence[Any],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Array]:
    """The front end's features (frames, bands) of recordings, waveforms or paths.

    progress: called with (done, total). Raises AudioError for one that cannot be used.
    """
    return map(net.front_end, _waves(net, items, progress))


def _waves(
    net: EcapaTdnn | SoundResNet, items: Sequence[Any], progress: Callable[[int, int], None] | None
) -> Iterator[Array]:
    from earmark.audio import read_audio

    rate = net.front_end.sample_rate_hz
    min_samples = net.front_end.samples_of_frames(net.config.min_frames)
    for done, item in enumerate(items, 1):
        audio = read_audio(
            item, rate, target_rate=rate, min_samples=min_samples, name=f"recording {done - 1}"
        )
        yield from net.pieces(audio.samples)
        if progress is not None:
            progress(done, len(items))


def _excerpts(wave: Array, rate: int) -> list[Array]:
    """A second of its beginning, one and a half of its middle, two of its end, as far as it goes.

    A pooled vector of each makes several of one recording, for layers that see one a recording.
    """
    parts = []
    for place, seconds in enumerate(_EXCERPT_SECONDS):
        samples = int(seconds * rate)
        if samples < len(wave):
            begin = (len(wave) - samples) * place // (len(_EXCERPT_SECONDS) - 1)
            parts.append(wave[begin : begin + samples])
    return parts


def _layers(
    network: PlanBuilder,
    lowered: PlanBuilder,
    chosen: Mapping[str, Precision],
    seen: Calibration | None,
) -> list[dict[str, Any]]:
    """What `info` tells of each layer with weights: P1's statistics of weights and activations."""
    kinds = {op["name"]: op["op"] for op in lowered.ops}
    layers = []
    for op in network.ops:
        arrays = network.arrays_of(op)
        if "weight" not in arrays:
            continue
        moments = None if seen is None else seen.moments[op["out"]].summary()
        layers.append(
            {
                "name": op["name"],
                "op": kinds[op["name"]],
                "precision": chosen[op["name"]].name,
                "parameters": sum(array.size for array in arrays.values()),
                "weight_stats": summarise(arrays["weight"]),
                "activation_stats": moments,
            }
        )
    return layers
