"""``earmark train`` and ``earmark finetune`` for sounds: a sound-event network from clips."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._output import CommandError, print_result, progress_callback

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


def run(args: argparse.Namespace, device: str, net: SoundResNet | None) -> int:
    """Train a new ResNet-50, or this network further."""
    import os

    import torch

    from earmark.nn import SoundResNet, SoundResNetConfig
    from earmark.training import (
        Corpus,
        SoundAugmentation,
        SoundTrainingConfig,
        Utterance,
        find_utterances,
        train_sounds,
    )

    left_out: list[Clip] = []
    if args.fold is None:
        utterances = find_utterances(args.data)
    else:
        kept, left_out = _split(Path(args.data) / "meta.csv", args.fold)
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
    with progress_callback(args, "train") as progress:
        result = train_sounds(
            net,
            corpus,
            args.output,
            config,
            pretrained=pretrained,
            evaluation=_evaluation(args, left_out) if left_out else None,
            device=device,
            workers=args.workers or (os.cpu_count() or 1 if device == "cuda" else 1),
            progress=progress,
        )
    print_result(args, result, _lines(result))
    return 0


def _split(meta: Path, fold: int) -> tuple[list[Clip], list[Clip]]:
    """Clips of the other folds, and of this one."""
    from earmark.clips import read_clips

    clips = read_clips(meta)
    left_out = [clip for clip in clips if clip.fold == fold]
    if not left_out:
        raise CommandError(f"{meta}: has no clip of fold {fold}")
    return [clip for clip in clips if clip.fold != fold], left_out


def _evaluation(args: argparse.Namespace, clips: list[Clip]) -> Evaluation:
    from earmark.training import Evaluation

    def measure(net: SoundResNet) -> dict[str, Any]:
        found = net.classify([clip.path for clip in clips])
        right = sum(heard.label == clip.label for heard, clip in zip(found, clips, strict=True))
        return {"clips_right": right / len(clips), "clips": len(clips), "fold": args.fold}

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
