"""What the loaders of ECAPA-TDNNs share: from a toolkit's state dict to a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from earmark.errors import FormatError
from earmark.families import front_ends
from earmark.families.described import described_config
from earmark.families.weights import StateDict, fill, read_state_dict
from earmark.nn.config import EcapaConfig
from earmark.nn.ecapa import EcapaTdnn
from earmark.nn.softmax import ApproximateSoftmax, softmax_of_shape

__all__ = ["Toolkit", "build", "checked_config", "config_from_shapes", "from_weights", "load_file"]

_SOFTMAX = "asp.softmax"
# Far beyond any network.
_MAX_BLOCKS = 32
# Which tell a network of a toolkit.
_TELLING = ("blocks.0.conv.conv", "blocks.1.tdnn1.conv.conv", "mfa.conv.conv", "fc.conv")


@dataclass(frozen=True)
class Toolkit:
    """How a toolkit writes an ECAPA-TDNN.

    family: its word. title: its name. modules: its names of our modules, both without ``weight``
    and the like; "#" stands for the numbers in ours, {0} and {1} for them in its, {next} for the
    first plus 1. Other modules have our name. prefixes: what may stand before all keys. dropped:
    beginnings of keys that are no part of inference. dense: our modules that it has as linear
    layers. dilations: they leave no trace in the weights. topology: fields of EcapaConfig.
    """

    family: str
    title: str
    modules: Mapping[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    topology: Mapping[str, Any] = field(default_factory=dict)

    def key(self, ours: str) -> str:
        """The toolkit's key for ours."""
        module, _, leaf = ours.rpartition(".")
        parts = module.split(".")
        numbers = [part for part in parts if part.isdigit()]
        name = self.modules.get(".".join("#" if part.isdigit() else part for part in parts))
        if name is None:
            return ours
        following = int(numbers[0]) + 1 if numbers else 0
        return f"{name.format(*numbers, next=following)}.{leaf}"

    def inference(self, state: StateDict, path: Path) -> StateDict:
        """The part of a checkpoint that embeds, without prefixes; linear layers as 1x1
        convolutions. Raises FormatError for keys that differ in their prefixes alone."""
        found: StateDict = {}
        for full, tensor in state.items():
            key = full
            for prefix in self.prefixes:
                key = key.removeprefix(prefix)
            # Averaged checkpoints hold fractions of steps, which are no counts.
            is_fraction = key.endswith("num_batches_tracked") and tensor.is_floating_point()
            if key.startswith(self.dropped) or is_fraction:
                continue
            if key in found:
                raise FormatError(f"{path}: {key} is there twice, once as {full}")
            found[key] = tensor
        linear = re.compile("|".join(self._pattern(name) for name in self.dense) or r"(?!)")
        for key, tensor in found.items():
            if linear.fullmatch(key) and tensor.ndim == 2:
                found[key] = tensor[:, :, None]
        return found

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether these are the keys of such a network."""
        for prefix in self.prefixes:
            keys = [key.removeprefix(prefix) for key in keys]
        return {self.key(f"{name}.weight") for name in _TELLING} <= set(keys)

    def _pattern(self, ours: str) -> str:
        """Of the keys of the weights of a module of ours."""
        name = re.escape(self.modules[ours])
        return re.sub(r"\\\{\w+\\\}", r"\\d+", name) + r"\.weight"


# Of files that earmark wrote.
_OURS = Toolkit("", "earmark")


def load_file(
    path: Path,
    toolkit: Toolkit,
    told: Callable[[StateDict], Mapping[str, Any]] = lambda state: {},
) -> EcapaTdnn:
    """The network of a state dict or safetensors file, the toolkit's or of ``earmark train``, which
    has our keys. told: fields of EcapaConfig that a toolkit's weights tell beside their shapes."""
    state, config = read_state_dict(path), described_config(path, EcapaConfig)
    if config is not None:
        return build(config, state, path, _OURS, toolkit.family)
    state = toolkit.inference(state, path)
    return from_weights(state, path, toolkit, **told(state))


def from_weights(state: StateDict, path: Path, toolkit: Toolkit, **given: Any) -> EcapaTdnn:
    """The network of a toolkit's weights (``Toolkit.inference``), by their shapes and what is
    given of EcapaConfig."""
    return build(config_from_shapes(state, path, toolkit, **given), state, path, toolkit)


def build(
    config: EcapaConfig, state: StateDict, path: Path, toolkit: Toolkit, family: str | None = None
) -> EcapaTdnn:
    """The network around the given weights, in evaluation mode.

    family: where it is not the toolkit's. Raises FormatError, naming file, key and value.
    """
    family = family or toolkit.family
    try:
        front_end = front_ends.front_end_of(family, config.n_mels)
        # Nothing is allocated before the weights are known to fit.
        with torch.device("meta"):
            net = EcapaTdnn(config, front_end, family)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
    _add_softmax(net, state)
    fill(net, state, path, "an ECAPA-TDNN", toolkit.key)
    if isinstance(net.asp.softmax, ApproximateSoftmax):
        try:
            net.asp.softmax.check()
        except ValueError as error:
            raise FormatError(f"{path}: {_SOFTMAX}: {error}") from error
    return net.eval().requires_grad_(False)


def _add_softmax(net: EcapaTdnn, state: StateDict) -> None:
    """Make room for the numbers of an approximate softmax, which earmark's own files may hold."""
    prefix = f"{_SOFTMAX}."
    numbers = {
        key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
    }
    if numbers:
        net.asp.softmax = softmax_of_shape(numbers, dim=2)


def config_from_shapes(state: StateDict, path: Path, toolkit: Toolkit, **given: Any) -> EcapaConfig:
    """The numbers of a network that its weights tell; the others are the toolkit's, or given."""

    def shape(ours: str) -> tuple[int, ...]:
        key = toolkit.key(f"{ours}.weight")
        if key not in state:
            raise FormatError(f"{path}: {key} is missing: not an ECAPA-TDNN of {toolkit.title}'s")
        if state[key].ndim != 3:
            raise FormatError(f"{path}: {key} is {tuple(state[key].shape)}, expected 3 axes")
        return tuple(state[key].shape)

    def last(ours: str) -> int:
        """The largest number in the place of {} that there is."""
        keys = [toolkit.key(f"{ours.format(i)}.weight") for i in range(_MAX_BLOCKS)]
        return max((i for i, key in enumerate(keys) if key in state), default=-1)

    fields: dict[str, Any] = {"dilations": toolkit.dilations, **toolkit.topology, **given}
    first = shape("blocks.0.conv.conv")
    blocks = range(1, last("blocks.{}.tdnn1.conv.conv") + 1)
    if len(blocks) + 2 != len(fields["dilations"]):
        why = f", expected {len(fields['dilations']) - 2}"
        if toolkit.family == "speechbrain":
            why = (
                ": only a model folder with its hyperparams.yaml can tell dilations other than "
                f"{fields['dilations']}"
            )
        raise FormatError(f"{path}: {len(blocks)} SE-Res2 blocks{why}")
    widths = [shape(f"blocks.{i}.tdnn1.conv.conv")[0] for i in blocks]
    if fields.get("res2") == "grouped":
        res2 = [shape(f"blocks.{i}.res2net_block.conv.conv") for i in blocks]
        scale = widths[0] // max(res2[0][1], 1)
    else:
        res2 = [shape(f"blocks.{i}.res2net_block.blocks.0.conv.conv") for i in blocks]
        scale = last("blocks.1.res2net_block.blocks.{}.conv.conv") + 2
    aggregation = shape("mfa.conv.conv")
    return checked_config(
        path,
        n_mels=first[1],
        channels=(first[0], *widths, aggregation[0]),
        kernel_sizes=(first[2], *(weight[2] for weight in res2), aggregation[2]),
        attention_channels=shape("asp.conv.conv")[1],
        res2_scale=scale,
        se_channels=shape("blocks.1.se_block.conv1.conv")[0],
        embedding=shape("fc.conv")[0],
        **fields,
    )


def checked_config(path: Path, **fields: Any) -> EcapaConfig:
    """As the class, with FormatError naming the file for numbers that fit no network."""
    try:
        return EcapaConfig(**fields)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
