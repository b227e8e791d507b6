"""How the models of a report do on trials, and beside the same network in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earmark.candidates import signal_to_noise_db
from earmark.embedder import Embedder
from earmark.metrics import cosine_score, eer, eer_difference, min_dcf
from earmark.nn.config import EcapaConfig
from earmark.report.contents import Comparison, Contents, Model
from earmark.report.results import Evaluation, Scored
from earmark.trials import Trials

__all__ = ["score"]

Embeddings = NDArray[np.float32]


def score(
    contents: Contents, trials: Trials, trial_list: str, embed: Callable[[Embedder], Embeddings]
) -> None:
    """Add evaluations of the models on trials, and comparisons with their float networks.

    trial_list: its name. embed: gives the embeddings (n, dim) of ``trials.paths``, or raises
    ValueError. A model on which it fails is noted; if it fails on all, its error is raised.
    Networks of sounds have no part in it.
    """
    embeddings: dict[str, Embeddings] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    failed: list[ValueError] = []
    for model in contents.models:
        if not isinstance(model.runner, Embedder):
            continue
        try:
            found = embed(model.runner)
        except ValueError as error:
            failed.append(error)
            contents.notes.append(f"{model.name}: {error}")
            continue
        embeddings[model.name] = found
        scores[model.name] = cosine_score(found[trials.enrolment], found[trials.test])
    if not embeddings:
        raise failed[0] if failed else ValueError(f"{contents.title}: no model of speakers")
    scored = [model for model in contents.models if model.name in scores]
    target = int(trials.labels.sum())
    # In the place of what was kept of the same before.
    known = {(model.info["sha256"], trial_list) for model in scored}
    kept = [
        one
        for one in contents.results
        if not (isinstance(one, Evaluation) and (one.sha256, one.trial_list) in known)
    ]
    contents.results = [
        Scored(
            model=model.name,
            scheme=model.info["scheme"],
            sha256=model.info["sha256"],
            size_fraction=model.info["size_fraction"],
            trial_list=trial_list,
            eer=eer(scores[model.name], trials.labels),
            min_dcf=min_dcf(scores[model.name], trials.labels),
            target=target,
            nontarget=len(trials.labels) - target,
            scores=scores[model.name],
            labels=trials.labels,
        )
        for model in scored
    ]
    contents.results += kept
    sides = trials.speakers()[np.stack([trials.enrolment, trials.test])]
    for model in scored:
        baseline = _baseline(model, scored)
        if baseline is None:
            continue
        found, reference = embeddings[model.name], embeddings[baseline.name]
        ours, theirs = scores[model.name], scores[baseline.name]
        cosines = cosine_score(found, reference)
        contents.comparisons.append(
            Comparison(
                sha256=model.info["sha256"],
                trial_list=trial_list,
                baseline=baseline.name,
                eer_change=eer_difference(ours, theirs, trials.labels, sides),
                cosine=float(cosines.mean()),
                worst_cosine=float(cosines.min()),
                sqnr_db=signal_to_noise_db(reference, found),
            )
        )


def _baseline(model: Model, others: Sequence[Model]) -> Model | None:
    """The one float network of the same shape: none where two could be meant."""
    for scheme in ("fp32", "float16"):
        if model.info["scheme"] == scheme:
            return None
        found = [
            other
            for other in others
            if other.info["scheme"] == scheme and _shape(other) == _shape(model)
        ]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _shape(model: Model) -> tuple[str, EcapaConfig | dict[str, Any]]:
    """What the network is apart from its softmax; files may leave out what is usual."""
    try:
        return model.info["family"], EcapaConfig.from_dict(model.config)
    except ValueError:
        return model.info["family"], model.config
