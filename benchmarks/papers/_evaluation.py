"""EERs to compare models by: short crops, several fixed seeds, the same trials for all.

Whole recordings make few errors; 2 s make enough to tell models apart. Each seed cuts every
recording of the trials once, anywhere; an EER is the mean over the seeds. A difference between two
models is over the same crops and trials, its interval a bootstrap over speakers: those of a sample
count as often as they were drawn, a trial as often as its two speakers together.
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
from earmark.metrics import cosine_score, eer
from earmark.trials import Trials, read_trials

Array = NDArray[Any]

RATE_HZ = 16000
CROP_SECONDS = 2.0
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
        length = round(CROP_SECONDS * RATE_HZ)
        crops = []
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            starts = [int(rng.integers(max(len(wave) - length, 0) + 1)) for wave in waves]
            crops.append([w[at : at + length] for w, at in zip(waves, starts, strict=True)])
        _, speakers = np.unique([str(p.parent) for p in trials.paths], return_inverse=True)
        return cls(trials, crops, speakers)

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
        mean = float((self.eers(scores) - self.eers(baseline)).mean())
        rng = np.random.default_rng(0)
        speakers = int(self.speakers.max()) + 1
        sides = self.speakers[self.trials.enrolment], self.speakers[self.trials.test]
        samples = []
        for _ in range(BOOTSTRAP):
            drawn = np.bincount(rng.integers(speakers, size=speakers), minlength=speakers)
            # A target trial has one speaker, not two.
            first, second = drawn[sides[0]], drawn[sides[1]]
            times = np.where(self.trials.labels == 1, first, first * second)
            index = np.repeat(np.arange(len(times)), times)
            labels = self.trials.labels[index]
            pairs = zip(scores, baseline, strict=True)
            changes = [eer(x[index], labels) - eer(y[index], labels) for x, y in pairs]
            samples.append(np.mean(changes))
        low, high = np.percentile(samples, [2.5, 97.5])
        return mean, float(low), float(high)
