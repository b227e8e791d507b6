"""Small models of every kind that other engines are given."""

from __future__ import annotations

from typing import Any

import numpy as np

import earmark
from earmark.modelfile import ModelFile
from earmark.nn import EcapaTdnn, LookupTableSoftmax, PiecewiseLinearSoftmax, replace_softmax
from networks import SMALL, make_network, wave

WAVES = [wave(seed) for seed in range(4)]


def ecapa(softmax: Any = None) -> EcapaTdnn:
    net = make_network(SMALL)
    return net if softmax is None else replace_softmax(net, softmax, WAVES)


def resnet(**precision: str) -> ModelFile:
    # Not where there is only what plugins are tested with.
    from .sounds import LABELS, small_network, sound

    waves = [sound(label, 3).astype(np.float32) for label in LABELS]
    scheme = "int8" if precision else "fp32"
    quantized = earmark.quantize(small_network(), waves, scheme=scheme, precision=precision)
    return quantized.model_file


def quantized_ecapa(softmax: Any = None, scheme: str = "int8", **precision: str) -> ModelFile:
    net = ecapa(softmax)
    return earmark.quantize(net, WAVES, scheme=scheme, precision=precision).model_file


MODELS = {
    "int8": lambda: quantized_ecapa(),
    "int8-full": lambda: quantized_ecapa(scheme="int8-full"),
    "fp32": lambda: quantized_ecapa(scheme="fp32"),
    "float16": lambda: quantized_ecapa(scheme="float16"),
    "int4": lambda: quantized_ecapa(all="int4", fc="int8"),
    "mixed": lambda: quantized_ecapa(**{"blocks.1": "fp32", "asp": "fp32", "mfa": "int8"}),
    "pwl": lambda: quantized_ecapa(PiecewiseLinearSoftmax(segments=3)),
    "table": lambda: quantized_ecapa(LookupTableSoftmax(entries=64)),
    "pwl in float32": lambda: quantized_ecapa(PiecewiseLinearSoftmax(segments=2), "fp32"),
    "table in float32": lambda: quantized_ecapa(LookupTableSoftmax(entries=64), "fp32"),
    "sounds": lambda: resnet(all="int8"),
    "sounds in float32": lambda: resnet(),
    "sounds, mixed": lambda: resnet(all="int8", layer1="fp32"),
}
