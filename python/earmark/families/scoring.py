"""How each family makes a score of two embeddings (docs/families.md)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCORING", "Scoring"]


@dataclass(frozen=True)
class Scoring:
    """A toolkit's convention, as its own verification code has it.

    threshold: cosine from which the toolkit says "same speaker", None where it names none.
    score: what it reports: "cosine", "(cosine + 1) / 2", or "cosine of whole and crops": the mean
    of the cosine of whole recordings and that of all pairs of ``crops`` excerpts of
    ``crop_seconds`` each. subtracts_mean: the mean embedding of a set of recordings is subtracted
    before the cosine; it is not in the checkpoint.

    >>> SCORING["nemo"].threshold, SCORING["nemo"].score
    (0.4, '(cosine + 1) / 2')
    """

    threshold: float | None = None
    score: str = "cosine"
    crops: int = 0
    crop_seconds: float = 0.0
    subtracts_mean: bool = False


SCORING = {
    "speechbrain": Scoring(threshold=0.25),
    "3dspeaker": Scoring(),
    "taoruijie": Scoring(score="cosine of whole and crops", crops=5, crop_seconds=3.0),
    "wespeaker": Scoring(subtracts_mean=True),
    # 0.7 on its own scale.
    "nemo": Scoring(threshold=0.4, score="(cosine + 1) / 2"),
}
