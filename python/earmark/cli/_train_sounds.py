"""``earmark train`` and ``earmark finetune`` for sounds: a sound-event network from clips."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from earmark.cli._clips import lines_of_failed, raise_failed, sort_rows
from earmark.cli._output import print_result, progress_callback

if TYPE_CHECKING:
    from earmark.clips import Clip
    from earmark.nn import SoundResNet
    from earmark.training import Evaluation


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only sounds have."""
    sounds = parser.add_argument_group("sounds")
    sounds.add_argument(
        "--fold",
        type=int,
        metavar="N",
        help="leave out the clips of this fold, as DATA/meta.csv numbers them (columns file, "
        "class and fold), and measure on them",
    )
    sounds.add_argument(
        "--class-weights", action="store_true", help="rare classes count more in the loss"
    )
    sounds.add_argument(
        "--undersample",
        action="store_true",
        help="an epoch has as many clips of each class as the rarest has",
    )


def run(
    args: argparse.Namespace,
    device: str,
    net: SoundResNet | None,
    trainer_of: Callable[..., Callable[..., dict[str, Any]]] | None = None,
) -> int:
    """Train a new ResNet-50, or this network further.

    trainer_of: of the corpus, the calibration's progress and the function that trains it as it is.
    """
    import os
    from functools import partial

    import torch

    from earmark.clips import split_clips
    from earmark.nn import SoundResNet, SoundResNetConfig
    from earmark.training import (
        Corpus,
        SoundAugmentation,
        SoundTrainingConfig,
        Utterance,
        find_utterances,
        train_sounds,
    )

    left_out = _LeftOut([])
    if args.fold is None:
        utterances = find_utterances(args.data)
    else:
        kept, of_fold = split_clips(args.data, args.fold)
        left_out = _LeftOut(of_fold)
        utterances = [Utterance(clip.path, clip.name, clip.label) for clip in kept]
    with progress_callback(args, "read") as progress:
        corpus = Corpus(utterances, progress=progress)
    pretrained = net is not None
    if net is None:
        torch.manual_seed(args.seed)
        net = SoundResNet(SoundResNetConfig(len(corpus.speakers)), corpus.speakers)
        net.begin_as_shortcuts()
    config = SoundTrainingConfig(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.lr,
        average=args.average,
        precision=args.precision or ("bf16" if device == "cuda" else "fp32"),
        seed=args.seed,
        class_weights=args.class_weights,
        undersample=args.undersample,
        augmentation=SoundAugmentation(seconds=args.crop),
    )
    with (
        progress_callback(args, "calibrate") as calibration_progress,
        progress_callback(args, "train") as progress,
    ):
        trainer: Callable[..., dict[str, Any]] = partial(train_sounds, pretrained=pretrained)
        if trainer_of is not None:
            trainer = trainer_of(corpus, calibration_progress, trainer)
        result = trainer(
            net,
            corpus,
            args.output,
            config,
            evaluation=left_out.evaluation(args),
            device=device,
            workers=args.workers or (os.cpu_count() or 1 if device == "cuda" else 1),
            progress=progress,
        )
    result["failed"] = left_out.failed
    print_result(args, result, [*_lines(result), *lines_of_failed(left_out.failed)])
    raise_failed(left_out.failed, len(left_out.clips))
    return 0


class _LeftOut:
    """The clips that training leaves out, and those of them that could not be heard at the last."""

    def __init__(self, clips: list[Clip]) -> None:
        self.clips = clips
        self.failed: list[dict[str, str]] = []

    def evaluation(self, args: argparse.Namespace) -> Evaluation | None:
        from earmark.training import Evaluation

        def measure(net: SoundResNet) -> dict[str, Any]:
            rows = net.classify_each([clip.path for clip in self.clips])
            heard = sort_rows(self.clips, rows)
            self.failed = heard.failed
            right = [s.label == c.label for s, c in zip(heard.sounds, heard.clips, strict=True)]
            share = sum(right) / len(right) if right else None
            return {"clips_right": share, "clips": len(right), "fold": args.fold}

        if not self.clips:
            return None
        return Evaluation(measure, args.eval_every, f"fold {args.fold}", "clips_right")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{result['output']}: {result['parameters']:,} parameters, {result['classes']} classes, "
        f"{result['clips']} clips"
    )
    yield (
        f"{result['epoch']} epochs, {result['step']} steps, {result['seconds'] / 60:.1f} minutes: "
        f"loss {result['loss']:.3f}, {100 * result['accuracy']:.1f} % right"
    )
    if result["clips_right"] is not None:
        yield f"{100 * result['clips_right']:.1f} % of the clips left out right"
