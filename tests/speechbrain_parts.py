"""The real speechbrain package, for as long as a test needs it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest


@contextmanager
def imported_speechbrain() -> Iterator[SimpleNamespace]:
    """The parts of speechbrain under comparison. It imports torchaudio without using it there.

    Its modules are forgotten afterwards: its lazy ones raise ImportError on any attribute, and
    hypothesis asks every loaded module for its file.
    """
    stand_in = types.ModuleType("torchaudio")
    stand_in.__version__ = "2.13.0"
    stand_in.list_audio_backends = lambda: ["soundfile"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", stand_in)
        from hyperpyyaml import load_hyperpyyaml
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

        yield SimpleNamespace(
            Fbank=Fbank,
            ECAPA_TDNN=ECAPA_TDNN,
            InputNormalization=InputNormalization,
            load_hyperpyyaml=load_hyperpyyaml,
        )
    for name in [name for name in sys.modules if name.split(".")[0] == "speechbrain"]:
        del sys.modules[name]
