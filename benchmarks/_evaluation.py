"""What models are compared by: EERs of the same crops and trials, F1 of the same clips.

Whole recordings make few errors; 2 s make enough to tell models apart. An EER is the mean over
several fixed seeds of the crops.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import earmark
from earmark import modelfile
from earmark.audio import read_audio
from earmark.clips import Clip, read_clips
from earmark.crops import draw_crops
from earmark.metrics import classification_rates, cosine_score, eer, eer_difference
from earmark.modelfile import ModelFile
from earmark.trials import Trials, read_trials

Array = NDArray[Any]

RATE_HZ = 16000
SEEDS = 8
BOOTSTRAP = 200


@dataclass(frozen=True)
class CroppedTrials:
    """Trials, the crops of their recordings by seed, and each recording's speaker."""

    trials: Trials
    crops: list[list[NDArray[np.float32]]]
    speakers: Array

    @classmethod
    def read(cls, path: Path, root: Path) -> CroppedTrials:
        """From a list; a recording's speaker is its folder."""
        trials = read_trials(path, root)
        waves = [read_audio(recording, target_rate=RATE_HZ).samples for recording in trials.paths]
        crops = draw_crops(waves, RATE_HZ, SEEDS)
        return cls(trials, crops, trials.speakers())

    def scores(self, model: earmark.Embedder) -> Array:
        """Cosine of each trial, (seeds, trials)."""
        rows = []
        for crops in tqdm(self.crops, "crops", leave=False, file=sys.stderr, disable=None):
            embeddings = model.embed(crops, sample_rate=RATE_HZ)
            enrolment, test = self.trials.enrolment, self.trials.test
            rows.append(cosine_score(embeddings[enrolment], embeddings[test]))
        return np.stack(rows)

    def eers(self, scores: Array) -> Array:
        """EER of each seed."""
        return np.array([eer(row, self.trials.labels) for row in scores])

    def difference(self, scores: Array, baseline: Array) -> tuple[float, float, float]:
        """Mean over the seeds of EER minus the baseline's, and its 95 % interval."""
        sides = self.speakers[np.stack([self.trials.enrolment, self.trials.test])]
        return eer_difference(scores, baseline, self.trials.labels, sides, BOOTSTRAP)


def reopened(model: ModelFile) -> Any:
    """The model as it comes from its file, ready to run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.earmark"
        modelfile.write(model, path)
        return earmark.load(path)


class Speakers:
    """Trials of speakers, and what the float32 network says of them."""

    def __init__(self, trials: Path, root: Path, fp32: ModelFile) -> None:
        self._trials = CroppedTrials.read(trials, root)
        model = reopened(fp32)
        self._scores = self._trials.scores(model)
        self._embeddings = self._of_first_crops(model)

    def measure(self, models: Iterable[ModelFile]) -> dict[str, Any]:
        """EER over all draws of crops, its change to float32's with its 95 % interval, and as a
        loss the mean of 1 - cosine to float32's embeddings. models: one."""
        (stored,) = models
        model = reopened(stored)
        scores = self._trials.scores(model)
        change, low, high = self._trials.difference(scores, self._scores)
        cosines = cosine_score(self._of_first_crops(model), self._embeddings)
        return {
            "eer": float(self._trials.eers(scores).mean()),
            "eer_change": change,
            "eer_interval": [low, high],
            "loss": float(np.mean(1 - cosines)),
        }

    def _of_first_crops(self, model: earmark.Embedder) -> Array:
        return model.embed(self._trials.crops[0], sample_rate=RATE_HZ)


@dataclass(frozen=True)
class SoundFolds:
    """Clips in folds; each is classified by the network that did not see its fold."""

    clips: list[Clip]
    folds: tuple[int, ...]

    @classmethod
    def read(cls, meta: Path, folds: Sequence[int] | None = None) -> SoundFolds:
        """All folds of a table, or those."""
        clips = read_clips(meta)
        known = tuple(sorted({clip.fold for clip in clips}))
        return cls(clips, known if folds is None else tuple(folds))

    def models(self, folder: Path, name: str) -> list[ModelFile]:
        """The folds' files of that name."""
        return [modelfile.read(folder / f"fold-{fold}" / f"{name}.earmark") for fold in self.folds]

    def measure(self, models: Iterable[ModelFile]) -> dict[str, Any]:
        """Rates over all folds' clips, and the mean cross-entropy in nats. models: of the folds;
        made one at a time, where they come from a generator."""
        actual, found, losses = [], [], []
        labels: tuple[str, ...] = ()
        for fold, stored in zip(self.folds, models, strict=True):
            model = reopened(stored)
            labels = model.labels
            clips = [clip for clip in self.clips if clip.fold == fold]
            heard = model.classify([clip.path for clip in clips])
            for clip, sounds in zip(clips, heard, strict=True):
                label = labels.index(clip.label)
                actual.append(label)
                found.append(int(np.argmax(sounds.probabilities)))
                losses.append(-float(np.log(max(sounds.probabilities[label], 1e-12))))
        rates = classification_rates(np.array(actual), np.array(found), len(labels))
        return {**rates, "loss": float(np.mean(losses))}
