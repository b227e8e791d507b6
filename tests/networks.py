"""Networks with random weights: SpeechBrain-shape state dicts and sound ResNets, their plans, their
features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earmark.frontend import SpeechBrainFbank
from earmark.lowering.ecapa import lower_ecapa
from earmark.lowering.resnet import lower_resnet
from earmark.nn import EcapaTdnn, SoundResNet
from earmark.nn.config import EcapaConfig, SoundResNetConfig
from earmark.plan import PlanBuilder
from earmark.quantization.calibration import calibrate
from earmark.quantization.conditions import other_conditions
from earmark.quantization.precision import PRECISIONS
from earmark.quantization.quantizer import quantize_plan

Array = NDArray[Any]

SMALL = EcapaConfig(
    n_mels=20,
    channels=(32, 32, 32, 32, 96),
    attention_channels=16,
    res2_scale=4,
    se_channels=8,
    embedding=24,
)
# SpeechBrain's published model.
LARGE = EcapaConfig()


def random_features(seed: int, frames: int, n_mels: int = 80) -> Array:
    """(frames, n_mels) float32 noise, correlated in time and channels, without a mean over time.

    Like a normalised Fbank, in dB: a standard deviation of some 10, the loud more than the quiet.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(frames + 4, n_mels + 2))
    smooth = sum(noise[i : i + frames] for i in range(5))
    smooth = sum(smooth[:, i : i + n_mels] for i in range(3))
    loudness = np.repeat(rng.normal(size=(frames // 20 + 1, 1)), 20, axis=0)[:frames]
    values = 3 * smooth + 8 * loudness
    return (values - np.mean(values, axis=0)).astype(np.float32)


def make_network(config: EcapaConfig) -> EcapaTdnn:
    """With :func:`random_state`."""
    network = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain")
    state = {key: torch.from_numpy(array) for key, array in random_state(config).items()}
    network.load_state_dict(state, strict=False)
    return network.eval()


def wave(seed: int, samples: int = 12_000) -> Array:
    """Noise whose loudness changes."""
    rng = np.random.default_rng(seed)
    envelope = 0.05 + 0.1 * np.abs(np.sin(np.arange(samples) / (900 + 100 * seed)))
    return (rng.normal(size=samples) * envelope).astype(np.float32)


def all_heard(waves: list[Array]) -> list[Array]:
    """What calibration hears of recordings at 16 kHz."""
    return [
        heard
        for index, item in enumerate(waves)
        for heard in (item, *other_conditions(item, index, len(waves), 16000))
    ]


def random_state(config: EcapaConfig, seed: int = 0) -> dict[str, Array]:
    """A state dict with SpeechBrain's keys.

    Batch norms bring what a ReLU leaves of noise of the size 1 back to about that size, so that
    activations neither grow nor vanish from layer to layer.
    """
    rng = np.random.default_rng(seed)
    state: dict[str, Array] = {}

    def conv(name: str, c_out: int, c_in: int, kernel: int = 1, gain: float = 1.0) -> None:
        deviation = gain * (c_in * kernel) ** -0.5
        weight = rng.normal(size=(c_out, c_in, kernel)) * deviation
        state[f"{name}.conv.weight"] = weight.astype(np.float32)
        state[f"{name}.conv.bias"] = (rng.normal(size=c_out) * 0.1).astype(np.float32)

    def norm(name: str, channels: int, scale: float = 1.0) -> None:
        for key, values in (
            ("weight", rng.uniform(0.5, 1.5, channels)),
            ("bias", rng.normal(size=channels) * 0.2),
            ("running_mean", rng.uniform(0.3, 0.5, channels) * scale),
            ("running_var", rng.uniform(0.3, 0.6, channels) * scale**2),
        ):
            state[f"{name}.norm.{key}"] = values.astype(np.float32)

    def tdnn(name: str, c_out: int, c_in: int, kernel: int = 1, scale: float = 1.0) -> None:
        conv(f"{name}.conv", c_out, c_in, kernel)
        norm(f"{name}.norm", c_out, scale)

    width, aggregated = config.channels[0], config.channels[-1]
    blocks = range(1, len(config.channels) - 1)
    chunk = width // config.res2_scale
    # Features are in dB.
    tdnn("blocks.0", width, config.n_mels, config.kernel_sizes[0], scale=15)
    for i in blocks:
        tdnn(f"blocks.{i}.tdnn1", width, width)
        for j in range(config.res2_scale - 1):
            tdnn(f"blocks.{i}.res2net_block.blocks.{j}", chunk, chunk, config.kernel_sizes[i])
        tdnn(f"blocks.{i}.tdnn2", width, width)
        conv(f"blocks.{i}.se_block.conv1", config.se_channels, width)
        conv(f"blocks.{i}.se_block.conv2", width, config.se_channels)
    tdnn("mfa", aggregated, len(blocks) * width, config.kernel_sizes[-1])
    tdnn("asp.tdnn", config.attention_channels, 3 * aggregated)
    conv("asp.conv", aggregated, config.attention_channels, gain=3)
    norm("asp_bn", 2 * aggregated)
    conv("fc", config.embedding, 2 * aggregated)
    return state


def torch_network(config: EcapaConfig, state: dict[str, Array]) -> EcapaTdnn:
    """The state dict in torch."""
    net = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), family="speechbrain")
    tensors = {key: torch.from_numpy(values) for key, values in state.items()}
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return net.eval().requires_grad_(False)


def int8_plan(
    network: PlanBuilder, recordings: list[Array], fp32: Callable[[str], bool] = lambda name: False
) -> PlanBuilder:
    """The network quantized on those recordings; ops that `fp32` names stay float32."""
    return mixed_plan(network, recordings, lambda name: "fp32" if fp32(name) else "int8")


def mixed_plan(
    network: PlanBuilder,
    recordings: list[Array],
    choice: Callable[[str], str],
    integer_ends: bool = False,
) -> PlanBuilder:
    """The network with each op in the precision that `choice` names, calibrated if it can be."""
    seen = calibrate(network, ((item, []) for item in recordings), "minmax") if recordings else None
    precision = {op["name"]: PRECISIONS[choice(op["name"])] for op in network.ops}
    return quantize_plan(network, seen, precision, integer_ends)


def random_int8_plan(config: EcapaConfig, seed: int = 0) -> PlanBuilder:
    """A random network, quantized on three random recordings."""
    recordings = [random_features(seed + i, 60 + 40 * i, config.n_mels) for i in range(3)]
    return int8_plan(lower_ecapa(config, random_state(config, seed)), recordings)


# Two stages, of more than one bottleneck and of one; widths and sizes odd.
SMALL_RESNET = SoundResNetConfig(classes=11, n_mels=21, blocks=(2, 1), width=9)


def random_resnet(config: SoundResNetConfig, seed: int = 0) -> SoundResNet:
    """A network with random weights, its batch norms' statistics those of random spectrograms."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SoundResNet(config)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        size = norm.num_features
        norm.weight.data = torch.from_numpy(rng.uniform(0.5, 1.5, size).astype(np.float32))
        norm.bias.data = torch.from_numpy((rng.normal(size=size) * 0.2).astype(np.float32))
        norm.momentum = None  # statistics are averages over all batches
    batch = [random_features(seed + i, 120, config.n_mels) for i in range(4)]
    with torch.no_grad():
        net.train()(torch.from_numpy(np.stack(batch)))
    return net.eval().requires_grad_(False)


def resnet_plan(net: SoundResNet) -> PlanBuilder:
    """Its float32 plan."""
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    return lower_resnet(net.config, state)
