"""Post-training quantization: calibrate, choose ranges, round, write the integer plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from earmark.modelfile import ModelFile
from earmark.plan import PlanBuilder
from earmark.quantization.calibration import Calibration, calibrate
from earmark.quantization.observers import summarise
from earmark.quantization.quantizer import quantize_plan

if TYPE_CHECKING:
    from earmark.nn.ecapa import EcapaTdnn
    from earmark.quantized import QuantizedEcapa

__all__ = ["quantize"]

_SCHEMES = ("int8", "fp32")
_PRECISIONS = ("int8", "fp32")


def quantize(
    net: EcapaTdnn,
    calibration: Iterable[Any] = (),
    scheme: str = "int8",
    precision: Mapping[str, str] | None = None,
    observer: str = "minmax",
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedEcapa:
    """Quantize a network; the result is called as the network is, and saved with ``save(path)``.

    net: as ``load_checkpoint`` returns it. calibration: waveforms at the network's sample rate or
    paths (each as ``Embedder.embed`` takes it); the range of every activation is set by what they
    show. Not used with scheme "fp32". scheme: "int8" or "fp32". precision: layers that keep another
    precision, by name or leading part of a name, such as ``{"blocks.2": "fp32"}``. observer:
    "minmax" or "percentile". progress: called with (done, total) recordings.

    Raises ValueError for unknown names, AudioError for a recording that cannot be used.
    """
    from earmark.lowering.ecapa import lower_ecapa
    from earmark.lowering.softmax import lower_softmax
    from earmark.quantized import QuantizedEcapa

    if scheme not in _SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not supported yet: known are {', '.join(_SCHEMES)}")
    state = {key: tensor.detach().cpu().numpy() for key, tensor in net.state_dict().items()}
    network = lower_ecapa(net.config, state, lower_softmax(net.asp.softmax))
    chosen = _precisions(network, precision or {})
    seen: Calibration | None = None
    lowered = network
    if scheme == "int8":
        items = list(calibration)
        seen = calibrate(network, _features(net, items, progress), observer)
        lowered = quantize_plan(network, seen, lambda name: chosen[name])
    parameters = sum(
        array.size
        for key, array in state.items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    metadata = {
        "family": net.family,
        "scheme": scheme,
        "sample_rate_hz": net.front_end.sample_rate_hz,
        "front_end": net.front_end.spec(),
        "config": asdict(net.config),
        "parameters": parameters,
        "threshold": None,
        "measured": {},
        "plan": lowered.plan,
        "layers": _layers(network, lowered, seen),
        "calibration": None if seen is None else _summary(seen),
    }
    return QuantizedEcapa(ModelFile(metadata, lowered.arrays))


def _precisions(network: PlanBuilder, precision: Mapping[str, str]) -> dict[str, str]:
    """Precision of every op; a later, longer name wins over a shorter one."""
    names = [op["name"] for op in network.ops]
    chosen = dict.fromkeys(names, "int8")
    for layer, wanted in sorted(precision.items(), key=lambda item: len(item[0])):
        if wanted not in _PRECISIONS:
            raise ValueError(
                f"layer {layer!r}: unknown precision {wanted!r}, known are {', '.join(_PRECISIONS)}"
            )
        matches = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        if not matches:
            raise ValueError(f"there is no layer {layer!r}")
        chosen.update(dict.fromkeys(matches, wanted))
    return chosen


def _features(
    net: EcapaTdnn, items: list[Any], progress: Callable[[int, int], None] | None
) -> Iterator[Any]:
    from earmark.audio import read_audio

    rate = net.front_end.sample_rate_hz
    min_samples = net.front_end.samples_of_frames(net.config.min_frames)
    for done, item in enumerate(items, 1):
        audio = read_audio(
            item, rate, target_rate=rate, min_samples=min_samples, name=f"recording {done - 1}"
        )
        yield net.front_end(audio.samples)
        if progress is not None:
            progress(done, len(items))


def _layers(
    network: PlanBuilder, lowered: PlanBuilder, seen: Calibration | None
) -> list[dict[str, Any]]:
    """What `info` tells of each layer with weights: P1's statistics of weights and activations."""
    kinds = {op["name"]: op["op"] for op in lowered.ops}
    layers = []
    for op in network.ops:
        arrays = network.arrays_of(op)
        if "weight" not in arrays:
            continue
        kind = kinds[op["name"]]
        moments = None if seen is None else seen.moments[op["out"]].summary()
        layers.append(
            {
                "name": op["name"],
                "op": kind,
                "precision": "int8" if kind.endswith("_s8") else "fp32",
                "parameters": sum(array.size for array in arrays.values()),
                "weight_stats": summarise(arrays["weight"]),
                "activation_stats": moments,
            }
        )
    return layers


def _summary(seen: Calibration) -> dict[str, Any]:
    return {"observer": seen.observer, "recordings": seen.recordings, "frames": seen.frames}
