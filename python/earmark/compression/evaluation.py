"""What coarser weights change, measured against the model that they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.audio import read_audio
from earmark.candidates import trial_scores
from earmark.classifier import Classifier
from earmark.clips import Clip
from earmark.crops import draw_crops
from earmark.embedder import Embedder
from earmark.metrics import classification_rates, cosine_score, eer_difference
from earmark.modelfile import ModelFile
from earmark.trials import Trials

__all__ = ["Change", "on_clips", "on_trials"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Change:
    """Of a model's rate: EER after less before, or macro F1 before less after.

    interval: 95 %, of the EER's (``metrics.eer_difference``). cosine, worst_cosine: of embeddings
    or of class probabilities to the model's.
    """

    rate: str
    loss: float
    interval: tuple[float, float] | None
    cosine: float
    worst_cosine: float

    def described(self) -> dict[str, Any]:
        """Ready for JSON."""
        found: dict[str, Any] = {
            f"{self.rate}_loss": self.loss,
            "mean_cosine": self.cosine,
            "worst_cosine": self.worst_cosine,
        }
        if self.interval is not None:
            found["interval"] = list(self.interval)
        return found

    def __str__(self) -> str:
        cosines = f"cosine: mean {self.cosine:.6f}, worst {self.worst_cosine:.6f}"
        if self.interval is None:
            return f"macro F1 {-self.loss:+.4f}; {cosines}"
        low, high = (100 * end for end in self.interval)
        return f"EER {100 * self.loss:+.3f} % ({low:+.3f} to {high:+.3f}); {cosines}"


def on_trials(reference: Embedder, trials: Trials, crops: int) -> Callable[[ModelFile], Change]:
    """Measures files by the EER on trials: of whole recordings, or the mean over ``crops`` draws of
    2 s of each. reference: the model they come from. Raises AudioError for an unusable recording.
    """
    rate_hz = reference.front_end.sample_rate_hz
    waves = [read_audio(path, target_rate=rate_hz).samples for path in trials.paths]
    sets = draw_crops(waves, rate_hz, crops) if crops else [waves]
    before = _embeddings(reference, sets, rate_hz)
    sides = trials.speakers()[np.stack([trials.enrolment, trials.test])]

    def measure(file: ModelFile) -> Change:
        after = _embeddings(Embedder(file), sets, rate_hz)
        scores, baseline = trial_scores(trials, after), trial_scores(trials, before)
        loss, low, high = eer_difference(scores, baseline, trials.labels, sides)
        cosines = cosine_score(after, before)
        return Change("eer", loss, (low, high), float(cosines.mean()), float(cosines.min()))

    return measure


def on_clips(reference: Classifier, clips: Sequence[Clip]) -> Callable[[ModelFile], Change]:
    """Measures files by the macro F1 on clips. Raises AudioError for one that cannot be used."""
    paths = [clip.path for clip in clips]
    labels = list(reference.labels)
    actual = [labels.index(clip.label) for clip in clips]

    def hear(model: Classifier) -> tuple[float, Array]:
        sounds = model.classify(paths)
        found = [labels.index(item.label) for item in sounds]
        rates = classification_rates(actual, found, len(labels))
        return rates["f1"], np.stack([item.probabilities for item in sounds])

    f1_before, before = hear(reference)

    def measure(file: ModelFile) -> Change:
        f1, after = hear(Classifier(file))
        cosines = cosine_score(after, before)
        return Change("f1", f1_before - f1, None, float(cosines.mean()), float(cosines.min()))

    return measure


def _embeddings(model: Embedder, sets: Sequence[Sequence[Array]], rate_hz: int) -> Array:
    """(sets x recordings, dim)."""
    return np.concatenate([model.embed(list(waves), sample_rate=rate_hz) for waves in sets])
