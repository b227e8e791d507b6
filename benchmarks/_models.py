"""The network under test, in the form that each engine reads."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from _timing import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earmark.nn import EcapaTdnn

_SEED = 20
_ROTATIONS = 4
_MAX_EXPORT_ERROR = 1e-4  # of the largest embedding value


@dataclass(frozen=True)
class Shape:
    """Channels of the network's blocks, frames of 10 ms and recordings per call."""

    channels: int
    frames: int
    batch: int


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
        gmac: multiply-accumulates of all convolutions in one call, in 1e9.
        parameters: trainable parameters.
    """

    embedding: Array
    gmac: float
    parameters: int


def _waves(pattern: str, frames: int) -> list[Array]:
    """Waves of ``frames`` frames: the package's recordings, rotated, repeated or cut."""
    import earmark
    from earmark.audio import read_audio
    from earmark.frontend import SpeechBrainFbank

    samples = SpeechBrainFbank().samples_of_frames(frames)
    paths = sorted((Path(earmark.__file__).parent / "data" / "recordings").glob(pattern))
    recordings = [read_audio(path).samples for path in paths]
    return [
        np.resize(np.roll(wave, wave.size * turn // _ROTATIONS), samples)
        for turn in range(_ROTATIONS)
        for wave in recordings
    ]


def _features(waves: list[Array], count: int) -> Array:
    """Features of ``count`` waves, (count, frames, 80); the waves are repeated as needed."""
    from earmark.frontend import SpeechBrainFbank

    front_end = SpeechBrainFbank()
    return np.stack([front_end(wave) for wave in itertools.islice(itertools.cycle(waves), count)])


def _build_network(channels: int) -> EcapaTdnn:
    """SpeechBrain's ECAPA-TDNN with untrained weights, in evaluation mode."""
    from earmark.frontend import SpeechBrainFbank
    from earmark.nn import EcapaConfig, EcapaTdnn

    config = EcapaConfig(channels=(channels,) * 4 + (3 * channels,))
    return EcapaTdnn(config, SpeechBrainFbank(), "speechbrain").eval()


def load_features(models: Path) -> Array:
    """The features of every timed call, (batch, frames, 80), as ``prepare`` wrote them."""
    features: Array = np.load(models / "features.npy")
    return features


def load_network(models: Path) -> EcapaTdnn:
    """The network that ``prepare`` wrote."""
    import torch

    state = torch.load(models / "network.pt", weights_only=True)
    network = _build_network(channels=len(state["blocks.0.conv.conv.weight"]))
    network.load_state_dict(state)
    return network


def prepare(shape: Shape, models: Path, engines: list[str]) -> Reference:
    """Write every file that the given engines load into ``models``.

    The weights are random; the BatchNorm statistics are those of the layers' real inputs, so that
    value ranges, and with them quantization, are like a trained network's. What the libraries
    print goes to stderr.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return _prepare(shape, models, engines)


def _prepare(shape: Shape, models: Path, engines: list[str]) -> Reference:
    import torch

    import earmark

    torch.manual_seed(_SEED)
    waves = _waves("*-2.flac", shape.frames)
    network = _build_network(shape.channels)
    _set_statistics(network, _features(waves, len(waves)))
    torch.save(network.state_dict(), models / "network.pt")
    features = _features(_waves("*-1.flac", shape.frames), shape.batch)
    np.save(models / "features.npy", features)
    with torch.no_grad(), _count_macs(network) as macs:
        embedding = network(torch.from_numpy(features)).squeeze(1).numpy()

    if any(name.startswith(("onnxruntime", "openvino")) for name in engines):
        _export_onnx(network, torch.from_numpy(features), embedding, models / "fp32.onnx")
        batches = np.split(_features(waves, len(waves) * shape.batch), len(waves))
        for variant, choices in QDQ_VARIANTS.items():
            if any(name.endswith(f"-int8-{variant}") for name in engines):
                _quantize_onnx(models / "fp32.onnx", batches, choices, models / f"{variant}.onnx")
        for variant, overflow_fix in NNCF_VARIANTS.items():
            if f"openvino-int8-{variant}" in engines:
                _quantize_nncf(
                    models / "fp32.onnx", batches, overflow_fix, models / f"{variant}.xml"
                )
    if "earmark-int8" in engines:
        earmark.quantize(network, waves, scheme="int8").save(models / "int8.earmark")
    return Reference(
        embedding=embedding,
        gmac=sum(macs) / 1e9,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


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


@contextlib.contextmanager
def _count_macs(network: nn.Module) -> Iterator[list[int]]:
    """Collect each convolution's multiply-accumulates while the context lasts."""
    from torch import nn

    macs: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, nn.Conv1d)
        macs.append(output.numel() * module.weight[0].numel())

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv1d)
    ]
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()


def _export_onnx(network: nn.Module, features: Tensor, expected: Array, path: Path) -> None:
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
        output_names=["embedding"],
        verbose=False,
    )
    quant_pre_process(exported, path)
    exported.unlink()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    embedding = session.run(None, {"features": features.numpy()})[0].reshape(expected.shape)
    error = float(np.abs(embedding - expected).max() / np.abs(expected).max())
    if error > _MAX_EXPORT_ERROR:
        raise RuntimeError(f"the exported network is off by {error:.1e} of the largest value")


def _quantize_onnx(source: Path, batches: list[Array], variant: QdqVariant, path: Path) -> None:
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
