"""``earmark train``: a speaker-verification network from recordings."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from earmark.cli._eval import add_trials, error_rates, read_both_classes, trial_scores
from earmark.cli._output import (
    CommandError,
    add_command,
    positive_int,
    print_result,
    progress_callback,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.cli._output import Subparsers
    from earmark.nn import EcapaConfig, EcapaTdnn
    from earmark.training import Evaluation, Recordings, TrainingConfig


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "train",
        run,
        "Train an ECAPA-TDNN. Started again with the same options, it goes on where it stopped.",
    )
    _add_data(parser)
    network = parser.add_argument_group("network")
    network.add_argument("--channels", type=positive_int, default=512, metavar="C")
    network.add_argument(
        "--mfa", type=positive_int, metavar="C", help="channels of the last layer (default: 3 C)"
    )
    for name, default in (("kernel-sizes", (5, 3, 3, 3, 1)), ("dilations", (1, 2, 3, 4, 1))):
        network.add_argument(
            f"--{name}",
            type=_integers,
            default=default,
            metavar="N,...",
            help=f"of each layer (default: {','.join(map(str, default))})",
        )
    for name, default_size in (
        ("attention-channels", 128),
        ("se-channels", 128),
        ("res2-scale", 8),
        ("embedding", 192),
        ("n-mels", 80),
    ):
        network.add_argument(f"--{name}", type=positive_int, default=default_size, metavar="N")
    _add_recipe(parser, learning_rate=1e-3, epochs=60)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder of speaker/utterance.flac or in VoxCeleb's layout, or a list with 'path' or "
        "'speaker path' on each line",
    )
    parser.add_argument("-o", "--output", metavar="RUN", required=True, help="folder of the run")
    parser.add_argument("--noise", metavar="DIR|LIST", help="recordings of noise to mix in")
    add_trials(parser, required=False)
    parser.add_argument(
        "--eval-every", type=positive_int, default=10, metavar="N", help="epochs (default: 10)"
    )


def _add_recipe(parser: argparse.ArgumentParser, learning_rate: float, epochs: int) -> None:
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=positive_int, default=epochs, metavar="N")
    recipe.add_argument("--batch", type=positive_int, default=32, metavar="N")
    recipe.add_argument("--crop", type=float, default=2.0, metavar="SECONDS")
    recipe.add_argument("--lr", type=float, default=learning_rate, help="the highest learning rate")
    recipe.add_argument("--seed", type=int, default=0)
    recipe.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=positive_int, metavar="N")
    parser.add_argument("--workers", type=positive_int, metavar="N")


def run(args: argparse.Namespace) -> int:
    """Read the recordings, train or go on, print a summary."""
    # Threads that wait give their core to those that make batches. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from earmark.nn import EcapaConfig

    width = args.channels
    config = EcapaConfig(
        n_mels=args.n_mels,
        channels=(width,) * (len(args.dilations) - 1) + (args.mfa or 3 * width,),
        kernel_sizes=args.kernel_sizes,
        dilations=args.dilations,
        attention_channels=args.attention_channels,
        res2_scale=args.res2_scale,
        se_channels=args.se_channels,
        embedding=args.embedding,
    )
    return _train(args, new_network(config, args.seed))


def new_network(config: EcapaConfig, seed: int) -> EcapaTdnn:
    import torch

    from earmark.frontend import SpeechBrainFbank
    from earmark.nn import EcapaTdnn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain")


def _train(args: argparse.Namespace, net: EcapaTdnn) -> int:
    import torch

    from earmark.training import Corpus, Recordings, TrainingConfig, Augmentation, find_utterances, train
    from earmark.trials import read_recordings

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = _evaluation(args)
    with progress_callback(args, "read") as progress:
        corpus = Corpus(find_utterances(args.data), progress=progress)
    noise = None
    if args.noise:
        with progress_callback(args, "read noise") as progress:
            noise = Recordings(read_recordings(args.noise), progress=progress)
    config = TrainingConfig(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.lr,
        precision=args.precision or ("bf16" if device == "cuda" else "fp32"),
        seed=args.seed,
        augmentation=Augmentation(crop_seconds=args.crop),
    )
    with progress_callback(args, "train") as progress:
        result = train(
            net,
            corpus,
            args.output,
            config,
            noise=noise,
            evaluation=evaluation,
            device=device,
            workers=args.workers or 1,
            progress=progress,
        )
    print_result(args, result, [str(result)])
    return 0


def _evaluation(args: argparse.Namespace) -> Evaluation | None:
    from earmark.training import Evaluation

    if (args.trials is None) != (args.root is None):
        raise CommandError("--trials and --root are given together or not at all")
    if args.trials is None:
        return None
    trials = read_both_classes(args.trials, args.root)

    def measure(net: EcapaTdnn) -> dict[str, Any]:
        return error_rates(trial_scores(trials, net.embed(trials.paths)), trials)

    return Evaluation(measure, args.eval_every, args.trials)


def _integers(text: str) -> tuple[int, ...]:
    """argparse type: ``1,2,3``."""
    return tuple(positive_int(item) for item in text.split(","))
