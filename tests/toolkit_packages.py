"""The toolkits' own packages, for as long as a test needs them.

``make test`` installs them into ``.venv/toolkits`` (requirements-toolkits.txt). They ask for much
that has no part in an embedding: MagicMock stands in for that.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

FOLDER = Path(os.environ.get("EARMARK_TOOLKITS", Path(sys.prefix) / "toolkits"))

# Voice activity, clustering, other networks' front ends.
_WESPEAKER_MOCKED = ("hdbscan", "kaldiio", "peft", "s3prl", "silero_vad", "transformers", "umap")
_WESPEAKER_MOCKED += ("onnxruntime", "requests", "whisper")
# Training, configuration, storage, decoding.
_ASR, _COMMON = "nemo.collections.asr", "nemo.collections.common"
_NEMO_MOCKED = ("aistore", "einops", "hydra", "lightning", "numba", "webdataset")
_NEMO_MOCKED += ("huggingface_hub", "nemo.collections.audio", "nemo.core.classes.modelPT")
_NEMO_MOCKED += tuple(f"{_ASR}.parts.preprocessing.{name}" for name in ("perturb", "segment"))
_NEMO_MOCKED += (f"{_ASR}.parts.submodules.spectr_augment",)
# Their `__init__` imports every model.
_NEMO_HOLLOW = (_ASR, f"{_ASR}.modules", f"{_ASR}.parts.preprocessing", f"{_ASR}.parts.utils")
_NEMO_HOLLOW += (_COMMON, f"{_COMMON}.parts")


@contextmanager
def imported_speakerlab() -> Iterator[SimpleNamespace]:
    """3D-Speaker's network and features."""
    with _imported("speakerlab"):
        from speakerlab.models.ecapa_tdnn.ECAPA_TDNN import ECAPA_TDNN
        from speakerlab.process.processor import FBank

        yield SimpleNamespace(ECAPA_TDNN=ECAPA_TDNN, FBank=FBank)


@contextmanager
def imported_wespeaker() -> Iterator[SimpleNamespace]:
    """WeSpeaker's ``Speaker``, which reads a model's folder, and its networks by name."""
    with _imported("wespeaker", _WESPEAKER_MOCKED):
        from wespeaker.cli.speaker import Speaker
        from wespeaker.models.speaker_model import get_speaker_model

        yield SimpleNamespace(Speaker=Speaker, get_speaker_model=get_speaker_model)


@contextmanager
def imported_nemo() -> Iterator[SimpleNamespace]:
    """The parts of NeMo's ``EncDecSpeakerLabelModel``."""
    with _imported("nemo", _NEMO_MOCKED, _NEMO_HOLLOW):
        from nemo.collections.asr.modules.audio_preprocessing import (
            AudioToMelSpectrogramPreprocessor,
        )
        from nemo.collections.asr.modules.conv_asr import ECAPAEncoder, SpeakerDecoder

        yield SimpleNamespace(
            Preprocessor=AudioToMelSpectrogramPreprocessor,
            ECAPAEncoder=ECAPAEncoder,
            SpeakerDecoder=SpeakerDecoder,
        )


@contextmanager
def imported_librosa() -> Iterator[ModuleType]:
    """The library whose filters NeMo takes."""
    with _imported("librosa", ("numba",)):
        import librosa.filters

        yield librosa


@contextmanager
def _imported(
    package: str, mocked: Sequence[str] = (), hollow: Sequence[str] = ()
) -> Iterator[None]:
    """With the folder on the path. Skips where the package is not installed; forgets all modules
    that came with it afterwards, for hypothesis asks every loaded module for its file."""
    if not (FOLDER / package).is_dir():
        pytest.skip(f"{package} is not in {FOLDER} (set EARMARK_TOOLKITS)")
    import torch.fx  # noqa: F401 what is imported before it is not forgotten

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.syspath_prepend(FOLDER)
        patch.setattr(sys, "meta_path", [_StandIns(mocked, hollow), *sys.meta_path])
        yield
    own = {path.name.removesuffix(".py") for path in FOLDER.iterdir()}
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {*own, *(name.split(".")[0] for name in mocked)}:
            del sys.modules[name]


class _StandIns(MetaPathFinder, Loader):
    """Mocks of modules and all below them; hollow packages, whose modules can be imported but whose
    own code is not run."""

    def __init__(self, mocked: Sequence[str], hollow: Sequence[str]) -> None:
        self._mocked, self._hollow = mocked, hollow

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname in self._hollow:
            spec = ModuleSpec(fullname, self, is_package=True)
            spec.submodule_search_locations = [str(FOLDER.joinpath(*fullname.split(".")))]
            return spec
        if any(f"{fullname}.".startswith(f"{name}.") for name in self._mocked):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        if spec.name in self._hollow:
            return None
        module: ModuleType = MagicMock(name=spec.name, __path__=[])
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""
