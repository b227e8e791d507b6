"""EERs to compare models by: short crops, several fixed seeds, the same trials for all.

Whole recordings make few errors; 2 s make enough to tell models apart. An EER is the mean over the
seeds; a difference between two models is over the same crops and trials.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import earmark
from earmark.audio import read_audio
from earmark.crops import draw_crops
from earmark.metrics import cosine_score, eer, eer_difference
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
