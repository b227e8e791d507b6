"""The network under test, in the form that each engine reads."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earmark.bench.timing import Array
from earmark.nn.config import EcapaConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earmark.frontend import SpeechBrainFbank
    from earmark.nn import EcapaTdnn

_SEED = 20
_ROTATIONS = 4
_MAX_EXPORT_ERROR = 1e-4  # of the largest output


@dataclass(frozen=True)
class Workload:
    """The network's numbers, frames of 10 ms and recordings per call."""

    config: EcapaConfig
    frames: int
    batch: int

    @classmethod
    def speechbrain(cls, channels: int, frames: int, batch: int) -> Workload:
        """SpeechBrain's shape with blocks of that many channels."""
        return cls(EcapaConfig(channels=(channels,) * 4 + (3 * channels,)), frames, batch)

    @property
    def gmac(self) -> float:
        """1e9 multiply-accumulates of one call, as the plain network's convolutions count."""
        return self.batch * nominal_macs(self.config, self.frames) / 1e9


@dataclass(frozen=True)
class QdqVariant:
    """How ONNX Runtime's quantizer places Q/DQ pairs; weights are always int8 per channel.

    Attributes:
        activations: ONNX Runtime's ``QuantType`` name.
        convolutions_only: leave additions, concatenations, products and sigmoids in FP32.
        reduce_range: 7-bit weights, for which VPMADDUBSW of CPUs without VNNI cannot saturate.
    """

    activations: str
    convolutions_only: bool = False
    reduce_range: bool = False


EARMARK_SCHEMES = ("int8", "int8-full", "dynamic", "fp32")

QDQ_VARIANTS = {
    "u8s8": QdqVariant("QUInt8"),
    "u8s8-conv": QdqVariant("QUInt8", convolutions_only=True),
    "u8s8-conv-7bit": QdqVariant("QUInt8", convolutions_only=True, reduce_range=True),
    "s8s8": QdqVariant("QInt8"),
}


NNCF_VARIANTS = {"nncf": "FIRST_LAYER", "nncf-7bit": "ENABLE"}
"""NNCF's ``OverflowFix`` by variant: which layers' weights keep to 7 bits."""


@dataclass(frozen=True)
class Reference:
    """The FP32 network's facts.

    Attributes:
        embedding: (batch, 192) of the timed features, computed by torch in FP32.
        parameters: trainable parameters.
    """

    embedding: Array
    parameters: int


def nominal_macs(config: EcapaConfig, frames: int) -> int:
    """Multiply-accumulates of the plain network's convolutions for one recording."""
    width, *_, aggregated = config.channels
    blocks = range(1, len(config.channels) - 1)
    chunk = width // config.res2_scale
    frame = config.n_mels * config.kernel_sizes[0] * width
    for block in blocks:
        frame += 2 * width * width
        convolved = config.res2_scale - (config.res2 != "grouped")
        frame += convolved * chunk * chunk * config.kernel_sizes[block]
    frame += len(blocks) * width * config.kernel_sizes[-1] * aggregated
    # The attention may see each frame beside the recording's mean and standard deviation.
    seen = 3 if config.context else 1
    frame += (seen + 1) * aggregated * config.attention_channels
    recording = len(blocks) * 2 * width * config.se_channels + 2 * aggregated * config.embedding
    return frames * frame + recording


def waves(pattern: str, samples: int, sample_rate_hz: int = 16000) -> Iterator[Array]:
    """16 waves of that many samples: the package's recordings, rotated, repeated or cut."""
    import earmark
    from earmark.audio import read_audio

    paths = sorted((Path(earmark.__file__).parent / "data" / "recordings").glob(pattern))
    recordings = [read_audio(path, target_rate=sample_rate_hz).samples for path in paths]
    for turn in range(_ROTATIONS):
        for wave in recordings:
            yield np.resize(np.roll(wave, wave.size * turn // _ROTATIONS), samples)


def _features(front_end: SpeechBrainFbank, recordings: Iterable[Array], count: int) -> Array:
    """Features of ``count`` waves, (count, frames, mels); the waves are repeated as needed."""
    repeated = itertools.islice(itertools.cycle(recordings), count)
    return np.stack([front_end(wave) for wave in repeated])


def _build_network(config: EcapaConfig) -> EcapaTdnn:
    """SpeechBrain's ECAPA-TDNN with untrained weights, in evaluation mode."""
    from earmark.frontend import SpeechBrainFbank
    from earmark.nn import EcapaTdnn

    return EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain").eval()


def load_features(models: Path) -> Array:
    """The features of every timed call, (batch, frames, mels), as ``prepare`` wrote them."""
    features: Array = np.load(models / "features.npy")
    return features


def load_network(models: Path) -> EcapaTdnn:
    """The network that ``prepare`` wrote."""
    import torch

    config = EcapaConfig.from_dict(json.loads((models / "config.json").read_text()))
    network = _build_network(config)
    network.load_state_dict(torch.load(models / "network.pt", weights_only=True))
    return network


def prepare(workload: Workload, models: Path, engines: list[str]) -> Reference:
    """Write every file that the given engines load into ``models``.

    The weights are random and bell-shaped; the BatchNorm statistics are those of the layers' real
    inputs, so that value ranges, and with them quantization, are like a trained network's. What
    the libraries print goes to stderr.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return _prepare(workload, models, engines)


def _prepare(workload: Workload, models: Path, engines: list[str]) -> Reference:
    import torch

    import earmark
    from earmark.frontend import SpeechBrainFbank

    torch.manual_seed(_SEED)
    batch = workload.batch
    front_end = SpeechBrainFbank(workload.config.n_mels)
    samples = front_end.samples_of_frames(workload.frames)
    calibration = list(waves("*-2.flac", samples))
    network = random_network(workload.config, _features(front_end, calibration, len(calibration)))
    torch.save(network.state_dict(), models / "network.pt")
    (models / "config.json").write_text(json.dumps(workload.config.to_dict()))
    features = _features(front_end, waves("*-1.flac", samples), batch)
    np.save(models / "features.npy", features)
    with torch.no_grad():
        embedding = network(torch.from_numpy(features)).squeeze(1).numpy()

    if any(name.startswith(("onnxruntime", "openvino")) for name in engines):
        export_onnx(network, torch.from_numpy(features), embedding, models / "fp32.onnx")
        count = -(-len(calibration) // batch)
        batches = np.split(_features(front_end, calibration, count * batch), count)
        for variant, choices in QDQ_VARIANTS.items():
            if any(name.endswith(f"-int8-{variant}") for name in engines):
                quantize_onnx(models / "fp32.onnx", batches, choices, models / f"{variant}.onnx")
        for variant, overflow_fix in NNCF_VARIANTS.items():
            if f"openvino-int8-{variant}" in engines:
                _quantize_nncf(
                    models / "fp32.onnx", batches, overflow_fix, models / f"{variant}.xml"
                )
    for scheme in EARMARK_SCHEMES:
        if f"earmark-{scheme}" in engines:
            quantized = earmark.quantize(network, calibration, scheme=scheme)
            quantized.save(models / f"{scheme}.earmark")
    return Reference(
        embedding=embedding,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def random_network(config: EcapaConfig, features: Array) -> EcapaTdnn:
    """Random weights; the BatchNorm statistics are those of the layers' inputs for ``features``,
    (recordings, frames, mels).
    """
    network = _build_network(config)
    _draw_weights(network)
    _set_statistics(network, features)
    return network


def _draw_weights(network: nn.Module) -> None:
    """Normally distributed weights, of the variance that torch gives to new layers.

    torch's own are uniform; a trained layer's are bell-shaped, and earmark's time with AVX2 depends
    on how many are large (``csrc/cpu/pack_paired.h``).
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Conv1d):
            fan_in = module.weight[0].numel()
            torch.nn.init.normal_(module.weight, std=(3 * fan_in) ** -0.5)


def _set_statistics(network: nn.Module, features: Array) -> None:
    """Spread BatchNorm's affine parameters and set its statistics to those of ``features``."""
    import torch

    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0.0, 0.2)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(features))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def export_onnx(network: nn.Module, features: Tensor, expected: Array, path: Path) -> None:
    """Export with fixed shapes and ONNX Runtime's shape inference; check the result."""
    import onnxruntime
    import torch
    from onnxruntime.quantization.shape_inference import quant_pre_process

    exported = path.with_suffix(".exported.onnx")
    torch.onnx.export(
        network,
        (features,),
        exported,
        dynamo=True,
        external_data=False,
        input_names=["features"],
        output_names=["output"],
        verbose=False,
    )
    quant_pre_process(exported, path)
    exported.unlink()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = session.run(None, {"features": features.numpy()})[0].reshape(expected.shape)
    error = float(np.abs(output - expected).max() / np.abs(expected).max())
    if error > _MAX_EXPORT_ERROR:
        raise RuntimeError(f"the exported network is off by {error:.1e} of the largest value")


def quantize_onnx(source: Path, batches: list[Array], variant: QdqVariant, path: Path) -> None:
    """Quantize such a file with ONNX Runtime; ``batches`` are features to calibrate with."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(batches)

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self._rest, None)
            return None if batch is None else {"features": batch}

    quantize_static(
        source,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"] if variant.convolutions_only else None,
        per_channel=True,
        reduce_range=variant.reduce_range,
        activation_type=QuantType[variant.activations],
        weight_type=QuantType.QInt8,
    )


def _quantize_nncf(source: Path, batches: list[Array], overflow_fix: str, path: Path) -> None:
    os.environ["NNCF_CI"] = "1"  # a benchmark sends no usage statistics
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.WARNING)
    model = openvino.Core().read_model(source)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix[overflow_fix]
        ),
    )
    openvino.save_model(quantized, path, compress_to_fp16=False)
