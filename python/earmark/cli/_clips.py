"""Clips whose sound is known, and how often a model is right about them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._output import CommandError, progress

if TYPE_CHECKING:
    from earmark import Classifier, Sounds
    from earmark.clips import Clip

    Row = tuple[int, Sounds | None, str]


@dataclass(frozen=True)
class Heard:
    """Clips and what was heard in each; ``failed``: path and error of those that failed."""

    clips: list[Clip]
    sounds: list[Sounds]
    failed: list[dict[str, str]]


def add_clips(parser: argparse.ArgumentParser) -> None:
    """Add ``--clips`` and ``--fold``."""
    parser.add_argument(
        "--clips",
        metavar="DIR",
        help="for sound networks: a folder with class/clip.flac in it",
    )
    parser.add_argument(
        "--fold",
        type=int,
        metavar="N",
        help="only the clips of this fold, as DIR/meta.csv numbers them (columns file, class and "
        "fold)",
    )


def read_known_clips(args: argparse.Namespace) -> list[Clip]:
    """The clips of the options, none where there are no options."""
    from earmark.clips import find_clips

    if args.clips is None:
        if args.fold is not None:
            raise CommandError("--fold needs --clips")
        return []
    return find_clips(args.clips, args.fold)


def calibration_recordings(args: argparse.Namespace, clips: list[Clip]) -> list[Path]:
    """The recordings to calibrate on; what is measured on is none of them."""
    from earmark.trials import read_recordings

    if args.calibrate is None:
        return []
    recordings = read_recordings(args.calibrate)
    measured = {clip.path.resolve() for clip in clips}
    kept = [path for path in recordings if path.resolve() not in measured]
    if not kept:
        raise CommandError(f"{args.calibrate}: all {len(recordings)} recordings are in --clips")
    return kept


def check_classes(clips: Sequence[Clip], labels: Sequence[str], model: str) -> None:
    """CommandError for a clip of a class that the model does not know."""
    for clip in clips:
        if clip.label not in labels:
            known = ", ".join(labels)
            raise CommandError(
                f"{clip.path}: is of the class {clip.label!r}, {model} knows {known}"
            )


def classify_clips(args: argparse.Namespace, model: Classifier, clips: list[Clip]) -> Heard:
    """What a model hears. Raises CommandError when every clip fails."""
    rows = model.classify_each([clip.path for clip in clips])
    heard = sort_rows(clips, progress(args, rows, len(clips), "classify"))
    if not heard.clips:
        raise CommandError(f"all {len(clips)} clips failed: {heard.failed[0]['error']}")
    return heard


def sort_rows(clips: Sequence[Clip], rows: Iterable[Row]) -> Heard:
    """From what ``classify_each`` yields."""
    kept: list[Clip] = []
    found: list[Sounds] = []
    failed: list[dict[str, str]] = []
    for index, sounds, error in rows:
        if sounds is None:
            failed.append({"path": str(clips[index].path), "error": error})
        else:
            kept.append(clips[index])
            found.append(sounds)
    return Heard(kept, found, failed)


def clip_rates(heard: Heard) -> dict[str, Any]:
    """Macro-averaged precision, recall and F1, accuracy, and the number of clips."""
    from earmark.metrics import classification_rates

    labels = heard.sounds[0].labels
    actual = [labels.index(clip.label) for clip in heard.clips]
    found = [labels.index(sounds.label) for sounds in heard.sounds]
    rates: dict[str, Any] = classification_rates(actual, found, len(labels))
    return {**rates, "clips": len(heard.clips)}


def figures_beside(heard: Heard, reference: Heard) -> dict[str, Any]:
    """What a quantized model's file says of clips; ``reference``: the same in float32."""
    import numpy as np

    from earmark.metrics import cosine_score

    before = clip_rates(reference)
    same = [a.label == b.label for a, b in zip(heard.sounds, reference.sounds, strict=True)]
    cosines = cosine_score(
        np.stack([sounds.probabilities for sounds in heard.sounds]),
        np.stack([sounds.probabilities for sounds in reference.sounds]),
    )
    return {
        **clip_rates(heard),
        "failed_clips": len(heard.failed),
        **{f"fp32_{key}": before[key] for key in ("precision", "recall", "f1", "accuracy")},
        "same_label_as_fp32": float(np.mean(same)),
        "mean_cosine_to_fp32": float(cosines.mean()),
        "worst_cosine_to_fp32": float(cosines.min()),
    }


def data_name(args: argparse.Namespace) -> dict[str, Any]:
    """The clips' folder by its name, and the fold if it is one."""
    fold = {} if args.fold is None else {"fold": args.fold}
    return {"clip_folder": Path(args.clips).resolve().name, **fold}


def lines_of_failed(failed: list[dict[str, str]]) -> Iterator[str]:
    """A line each."""
    for row in failed:
        yield f"failed: {row['error']}"


def raise_failed(failed: list[dict[str, str]], count: int) -> None:
    """CommandError when any of ``count`` clips failed, after all else was done."""
    if failed:
        raise CommandError(f"{len(failed)} of {count} clips failed: {failed[0]['error']}")
