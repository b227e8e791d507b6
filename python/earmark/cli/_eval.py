"""``earmark eval``: error rates of a model on a trial list, or on clips of known sounds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._clips import (
    add_clips,
    check_classes,
    classify_clips,
    clip_rates,
    lines_of_failed,
    raise_failed,
    read_known_clips,
)
from earmark.cli._output import (
    CommandError,
    add_command,
    add_device,
    add_threads,
    print_result,
    progress,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from earmark import Embedder
    from earmark.cli._output import Subparsers
    from earmark.clips import Clip
    from earmark.trials import Trials


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "eval",
        run,
        "Equal error rate and minimum detection cost (p_target 0.01, costs 1) on a trial list, "
        "by cosine score; of a sound network, accuracy and macro-averaged precision, recall and F1 "
        "on clips. Rates are fractions in [0, 1]. A clip that fails is told, the others are rated, "
        "and the exit status is 2.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    add_trials(parser, required=False)
    add_clips(parser)
    parser.add_argument(
        "--scores",
        action="store_true",
        help="with --json: each trial's score and label too, as `earmark report` draws them",
    )
    add_threads(parser)
    add_device(parser)


def add_trials(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add ``--trials`` and ``--root``."""
    parser.add_argument(
        "--trials",
        metavar="LIST",
        required=required,
        help="lines '1 a b' (same speaker) or '0 a b'",
    )
    parser.add_argument(
        "--root", metavar="DIR", required=required, help="folder that the trials' paths start from"
    )


def read_given_trials(args: argparse.Namespace) -> Trials | None:
    """The trials of the options, None where there are no options."""
    if (args.trials is None) != (args.root is None):
        raise CommandError("--trials and --root are given together or not at all")
    return None if args.trials is None else read_both_classes(args.trials, args.root)


def run(args: argparse.Namespace) -> int:
    """Print the rates on the trials or on the clips."""
    if (args.trials is None and args.root is None) == (args.clips is None):
        raise CommandError("eval needs either --trials and --root, or --clips")
    if args.scores and not (args.json and args.trials):
        raise CommandError("--scores is for --trials with --json")
    trials, clips = read_given_trials(args), read_known_clips(args)
    return _run_clips(args, clips) if trials is None else _run_trials(args, trials)


def _run_clips(args: argparse.Namespace, clips: list[Clip]) -> int:
    """Classify every clip."""
    import earmark

    model = earmark.Classifier(args.model, threads=args.threads, device=args.device)
    check_classes(clips, model.labels, args.model)
    heard = classify_clips(args, model, clips)
    rates = clip_rates(heard)
    print_result(
        args,
        {**rates, "failed": heard.failed},
        [
            f"accuracy   {100 * rates['accuracy']:.2f} %",
            f"macro F1   {rates['f1']:.4f}"
            f"  (precision {rates['precision']:.4f}, recall {rates['recall']:.4f})",
            f"clips      {rates['clips']}",
            *lines_of_failed(heard.failed),
        ],
    )
    raise_failed(heard.failed, len(clips))
    return 0


def _run_trials(args: argparse.Namespace, trials: Trials) -> int:
    """Embed each recording once and score the trials."""
    import earmark

    model = earmark.Embedder(args.model, threads=args.threads, device=args.device)
    scores = trial_scores(trials, embed_recordings(args, model, trials.paths))
    rates = error_rates(scores, trials)
    result = {**rates, **_described(model, args)}
    if args.scores:
        result |= {"scores": scores.tolist(), "labels": trials.labels.tolist()}
    print_result(
        args,
        result,
        [
            f"EER      {100 * rates['eer']:.3f} %",
            f"min DCF  {rates['min_dcf']:.4f}  (p_target 0.01)",
            f"trials   {rates['trials']}"
            f"  ({rates['target']} target, {rates['nontarget']} non-target)",
        ],
    )
    return 0


def _described(model: Embedder, args: argparse.Namespace) -> dict[str, Any]:
    """Which model it is, and the list of trials."""
    info = model.info()
    kept = {key: info[key] for key in ("scheme", "sha256", "size_fraction")}
    return {"model": args.model, **kept, "trial_list": Path(args.trials).name}


def read_both_classes(path: str, root: str) -> Trials:
    """Read trials; CommandError unless both classes are there, before any recording is embedded."""
    from earmark.trials import read_trials

    trials = read_trials(path, root)
    target = int(trials.labels.sum())
    if target in (0, len(trials.labels)):
        raise CommandError(f"{path}: all {len(trials.labels)} trials are of one class")
    return trials


def embed_recordings(
    args: argparse.Namespace, model: Embedder, paths: list[Path]
) -> NDArray[np.float32]:
    """Embeddings (n, dim) of all ``paths``.

    Raises CommandError when any of them fails: rates over the others would mislead.
    """
    import numpy as np

    rows: dict[int, NDArray[np.float32]] = {}
    errors: list[str] = []
    for index, embedding, error in progress(args, model.embed_each(paths), len(paths), "embed"):
        if embedding is None:
            errors.append(error)
        else:
            rows[index] = embedding
    if errors:
        raise CommandError(f"{len(errors)} of {len(paths)} recordings failed: {errors[0]}")
    return np.stack([rows[index] for index in range(len(paths))])


def trial_scores(trials: Trials, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine scores (n_trials,) from the embeddings of ``trials.paths``."""
    from earmark.metrics import cosine_score

    return cosine_score(embeddings[trials.enrolment], embeddings[trials.test])


def error_rates(scores: NDArray[np.float64], trials: Trials) -> dict[str, Any]:
    """The result of ``earmark eval``: ``eer``, ``min_dcf`` and the numbers of trials."""
    from earmark.metrics import eer, min_dcf

    target = int(trials.labels.sum())
    return {
        "eer": eer(scores, trials.labels),
        "min_dcf": min_dcf(scores, trials.labels),
        "trials": len(trials.labels),
        "target": target,
        "nontarget": len(trials.labels) - target,
    }
