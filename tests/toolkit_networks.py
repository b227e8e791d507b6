"""Random networks of the toolkits, and their checkpoints as the toolkits write them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earmark.families import load_checkpoint
from earmark.nn import EcapaTdnn
from networks import random_features
from toolkits import nemo, speakerlab, taoruijie, wespeaker

State = dict[str, Tensor]

# mels, width, aggregated, scale, squeezed, attention, embedding
SMALL = {
    "mels": 20,
    "width": 32,
    "aggregated": 48,
    "scale": 4,
    "squeezed": 8,
    "attention": 16,
    "embedding": 24,
}

NEMO_CONFIG = """\
sample_rate: 16000
train_ds:
  manifest_filepath: ???
  labels: null
preprocessor:
  _target_: nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor
  normalize: per_feature
  window_size: 0.025
  sample_rate: 16000
  window_stride: 0.01
  window: hann
  features: 20
  n_fft: 512
  frame_splicing: 1
  dither: 1.0e-05
encoder:
  _target_: nemo.collections.asr.modules.ECAPAEncoder
  feat_in: 20
  filters: [32, 32, 32, 32, 48]
  kernel_sizes: [5, 3, 3, 3, 1]
  dilations: {dilations}
  scale: 4
decoder:
  _target_: nemo.collections.asr.modules.SpeakerDecoder
  feat_in: 48
  num_classes: 5
  pool_mode: attention
  emb_sizes: 24
  angular: true
target: nemo.collections.asr.models.label_models.EncDecSpeakerLabelModel
"""


@dataclass(frozen=True)
class Variant:
    """A toolkit's network with some of its options, and the checkpoint of it."""

    family: str
    make: Callable[..., nn.Module]
    options: dict[str, Any]
    checkpoint: Callable[[nn.Module], State] = lambda net: dict(net.state_dict())

    def network(self, seed: int = 0, **sizes: Any) -> nn.Module:
        """Small unless sizes say otherwise, in evaluation mode."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return randomised(self.make(**{**SMALL, **sizes, **self.options}))

    def load(self, net: nn.Module, path: Path) -> EcapaTdnn:
        """The network as earmark reads its checkpoint."""
        torch.save(self.checkpoint(net), path)
        loaded = load_checkpoint(path, self.family)
        assert isinstance(loaded, EcapaTdnn)
        return loaded


def _of_trainer(net: nn.Module) -> State:
    assert isinstance(net, taoruijie.EcapaTdnn)
    return taoruijie.Trainer(net, net.fc6.out_features).checkpoint()


def _with_projection(net: nn.Module) -> State:
    state = {f"module.{key}": tensor for key, tensor in net.state_dict().items()}
    return state | {"module.projection.weight": torch.randn(5, SMALL["embedding"])}


VARIANTS = {
    "3dspeaker": Variant("3dspeaker", speakerlab.EcapaTdnn, {}),
    "taoruijie": Variant("taoruijie", taoruijie.EcapaTdnn, {}, _of_trainer),
    "wespeaker": Variant("wespeaker", wespeaker.EcapaTdnn, {}, _with_projection),
    "wespeaker-emb_bn": Variant("wespeaker", wespeaker.EcapaTdnn, {"emb_bn": True}),
    "wespeaker-no-context": Variant("wespeaker", wespeaker.EcapaTdnn, {"context": False}),
    "nemo": Variant("nemo", nemo.EcapaTdnn, {}),
}


def randomised(net: nn.Module, batches: Sequence[Tensor] = ()) -> nn.Module:
    """With affines of the batch norms drawn, and statistics of what really reaches them: of
    features as below, or as given."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.3)
        norm.momentum = None  # averages over all batches
    with torch.no_grad():
        for batch in batches or [features(8, 90, seed=100 + 10 * seed) for seed in range(3)]:
            net.train()(batch)
    return net.eval().requires_grad_(False)


def features(count: int, frames: int, mels: int = SMALL["mels"], seed: int = 0) -> Tensor:
    """(count, frames, mels), like normalised filterbanks."""
    items = [random_features(seed + i, frames, mels) for i in range(count)]
    return torch.from_numpy(np.stack(items))


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in an archive."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            yield member.name, file.read()


def write_nemo(
    path: Path, state: State, config: str | bytes | None = None, mode: str = "w:"
) -> Path:
    """An archive as NeMo's ``save_to`` makes it."""
    weights = io.BytesIO()
    torch.save(state, weights)
    text = NEMO_CONFIG.format(dilations=[1] * 5) if config is None else config
    config = text.encode() if isinstance(text, str) else text
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in (
            ("./model_config.yaml", config),
            ("./model_weights.ckpt", weights.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
