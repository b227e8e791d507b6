"""``earmark train`` and ``earmark finetune``: a network from recordings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli import _train_sounds
from earmark.cli._eval import add_trials, error_rates, read_given_trials, trial_scores
from earmark.cli._output import (
    CommandError,
    add_checkpoint,
    add_command,
    positive_int,
    print_result,
    progress_callback,
)
from earmark.cli._quantize import layer_precisions

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers
    from earmark.nn import EcapaTdnn
    from earmark.nn.softmax import ApproximateSoftmax
    from earmark.training import Corpus, Evaluation, TrainingConfig

    Trainer = Callable[..., dict[str, Any]]

_CALIBRATION = 64
_QAT_CALIBRATION = 256
_QUANTIZED = "model.earmark"
_LAYERS = (("kernel-sizes", "5,3,3,3,1"), ("dilations", "1,2,3,4,1"))
_SIZES = (
    ("attention-channels", 128),
    ("se-channels", 128),
    ("res2-scale", 8),
    ("embedding", 192),
    ("n-mels", 80),
)


_SPEAKERS_ONLY = {
    "train": (
        *("noise", "trials", "root", "margin", "rooms", "speeds", "channels", "mfa"),
        *(name.replace("-", "_") for name, _ in (*_LAYERS, *_SIZES)),
    ),
    "finetune": (
        *("noise", "trials", "root", "margin", "rooms", "speeds"),
        *("softmax", "segments", "learnable", "entries"),
    ),
}
_SOUNDS_ONLY = ("fold", "class_weights", "undersample")


def add_parser(subparsers: Subparsers) -> None:
    """Add both commands."""
    train = add_command(
        subparsers,
        "train",
        run,
        "Train an ECAPA-TDNN, or a ResNet-50 for sounds. The same command goes on where a run was "
        "interrupted.",
    )
    train.add_argument(
        "--network",
        choices=("ecapa-tdnn", "sound-resnet"),
        default="ecapa-tdnn",
        help="for speakers by voice (default), or for classes of sounds",
    )
    _add_data(train)
    _add_recipe(train, epochs=60, learning_rate=1e-3)
    network = train.add_argument_group("network")
    network.add_argument(
        "--channels", type=positive_int, default=512, metavar="C", help="width (default: 512)"
    )
    network.add_argument(
        "--mfa", type=positive_int, metavar="C", help="channels before pooling (default: 3 x width)"
    )
    for name, layers in _LAYERS:
        network.add_argument(
            f"--{name}",
            type=_positive_ints,
            default=_positive_ints(layers),
            metavar="N,...",
            help=f"one a layer (default: {layers})",
        )
    for name, size in _SIZES:
        network.add_argument(
            f"--{name}", type=positive_int, default=size, metavar="N", help=f"default: {size}"
        )
    _add_sounds(train, "train")
    finetune = add_command(
        subparsers,
        "finetune",
        run_finetune,
        "Train on from a checkpoint: an ECAPA-TDNN on any speakers, a sound network on clips of "
        "its classes. The same command goes on where a run was interrupted.",
    )
    add_checkpoint(finetune)
    _add_data(finetune)
    _add_recipe(finetune, epochs=10, learning_rate=1e-4)
    softmax = finetune.add_argument_group("softmax of the pooling")
    softmax.add_argument(
        "--softmax",
        choices=("pwl", "table"),
        help="replace exp by a piecewise-linear function or a table before training, fitted to "
        f"what {_CALIBRATION} of the recordings bring",
    )
    softmax.add_argument(
        "--segments",
        type=_natural,
        metavar="N",
        help="linear pieces above the lower bound, 0 for the clip alone (default: 2)",
    )
    softmax.add_argument(
        "--learnable", action="store_true", help="train the function's numbers too"
    )
    softmax.add_argument(
        "--entries", type=positive_int, metavar="N", help="of the table (default: 64)"
    )
    quantized = finetune.add_argument_group("quantization")
    quantized.add_argument(
        "--qat",
        type=layer_precisions,
        nargs="?",
        const={},
        metavar="LAYER=P,...",
        help="train the network as it is when quantized, int8 but for layers named here as in "
        f"quantize --precision; RUN/{_QUANTIZED} is the result. {_QAT_CALIBRATION} of the "
        "recordings set the ranges",
    )
    quantized.add_argument(
        "--distill",
        action="store_true",
        help="with --qat: train towards the float32 network's embeddings, of sounds its "
        "probabilities, without labels",
    )
    quantized.add_argument(
        "--compressed",
        metavar="MODEL",
        help="train the coarse weights of a file that `earmark compress` made of this network "
        f"within a budget, as --distill does; RUN/{_QUANTIZED} is the "
        "result",
    )
    quantized.add_argument(
        "--price",
        type=float,
        metavar="P",
        help="with --compressed: what a bit a weight costs, in 1 - cosine, of sounds in nats "
        "(default: 0.001)",
    )
    _add_sounds(finetune, "finetune")


def run(args: argparse.Namespace) -> int:
    """Train a new network."""
    _share_cores()
    sounds = args.network == "sound-resnet"
    _refuse_of_other_kind(args, sounds)
    if sounds:
        return _train_sounds.run(args, _device(args), None)
    import torch

    from earmark.frontend import SpeechBrainFbank
    from earmark.nn import EcapaConfig, EcapaTdnn

    config = EcapaConfig(
        n_mels=args.n_mels,
        channels=(*[args.channels] * (len(args.dilations) - 1), args.mfa or 3 * args.channels),
        kernel_sizes=args.kernel_sizes,
        dilations=args.dilations,
        attention_channels=args.attention_channels,
        res2_scale=args.res2_scale,
        se_channels=args.se_channels,
        embedding=args.embedding,
    )
    torch.manual_seed(args.seed)
    net = EcapaTdnn(config, SpeechBrainFbank(config.n_mels), "speechbrain")
    return _train(args, net, False, None)


def run_finetune(args: argparse.Namespace) -> int:
    """Train a checkpoint's network further."""
    _share_cores()
    from earmark.families import load_checkpoint
    from earmark.nn import SoundResNet

    layer = _softmax(args)
    if args.distill and args.qat is None:
        raise CommandError("--distill needs --qat")
    if args.qat is not None and layer is not None:
        raise CommandError("--qat and --softmax are trained one after the other")
    if args.compressed is not None and (args.qat is not None or layer is not None):
        raise CommandError("--compressed goes with neither --qat nor --softmax")
    if args.price is not None and args.compressed is None:
        raise CommandError("--price needs --compressed")
    net = load_checkpoint(args.checkpoint, args.family)
    _refuse_of_other_kind(args, isinstance(net, SoundResNet))
    if isinstance(net, SoundResNet):
        return _train_sounds.run(args, _device(args), net, partial(_trainer, args))
    return _train(args, net, True, layer)


def _refuse_of_other_kind(args: argparse.Namespace, sounds: bool) -> None:
    """CommandError for an option that was given and that this kind of network does not have."""
    for key, default in (args.speaker_defaults if sounds else args.sound_defaults).items():
        if getattr(args, key) != default:
            kind = "ECAPA-TDNNs" if sounds else "sound networks"
            raise CommandError(f"--{key.replace('_', '-')} is for {kind} alone")


def _softmax(args: argparse.Namespace) -> ApproximateSoftmax | None:
    from earmark.nn import LookupTableSoftmax, PiecewiseLinearSoftmax

    if args.softmax != "pwl" and (args.learnable or args.segments is not None):
        raise CommandError("--segments and --learnable need --softmax pwl")
    if args.softmax != "table" and args.entries is not None:
        raise CommandError("--entries needs --softmax table")
    if args.softmax is None:
        return None
    if args.softmax == "table":
        return LookupTableSoftmax(entries=64 if args.entries is None else args.entries)
    segments = 2 if args.segments is None else args.segments
    return PiecewiseLinearSoftmax(segments=segments, learnable=args.learnable)


def _add_sounds(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of sounds, and note what each kind of network does not have."""
    _train_sounds.add_options(parser)
    parser.set_defaults(
        speaker_defaults={key: parser.get_default(key) for key in _SPEAKERS_ONLY[command]},
        sound_defaults={key: parser.get_default(key) for key in _SOUNDS_ONLY},
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder with speaker/utterance.flac (sounds: class/clip.flac) or VoxCeleb's layout "
        "in it, or a list of one 'path' or 'speaker path' a line",
    )
    parser.add_argument(
        "-o", "--output", metavar="RUN", required=True, help="folder for the model, log and state"
    )
    parser.add_argument("--noise", metavar="DIR|LIST", help="recordings of noise to mix in")
    add_trials(parser, required=False)
    parser.add_argument(
        "--eval-every",
        type=positive_int,
        default=5,
        metavar="N",
        help="epochs between evaluations on the trials or the fold (default: 5)",
    )


def _add_recipe(parser: argparse.ArgumentParser, epochs: int, learning_rate: float) -> None:
    recipe = parser.add_argument_group("recipe")
    for name, kind, default, metavar, text in (
        ("epochs", positive_int, epochs, "N", "passes over the utterances at each speed"),
        ("batch", positive_int, 32, "N", "crops a step"),
        ("crop", float, 2.0, "SECONDS", "length of a crop"),
        ("lr", float, learning_rate, "X", "highest learning rate"),
        ("margin", float, 0.2, "RADIANS", "angular margin"),
        ("average", float, 0.999, "X", "decay of the weights' moving average, 0 for none"),
        ("rooms", _natural, 200, "N", "simulated rooms, 0 for none"),
        ("seed", _natural, 0, "N", "of all random choices"),
    ):
        recipe.add_argument(
            f"--{name}",
            type=kind,
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default})",
        )
    recipe.add_argument(
        "--speeds",
        type=_floats,
        default=(1.0, 0.9, 1.1),
        metavar="X,...",
        help="each makes new speakers (default: 1,0.9,1.1)",
    )
    recipe.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="default: bf16 on a GPU, fp32 on the CPU",
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    machine.add_argument(
        "--threads", type=positive_int, metavar="N", help="of torch on the CPU (default: torch's)"
    )
    machine.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="threads that make batches (default: 1, with a GPU all cores)",
    )


def _share_cores() -> None:
    """Let torch's waiting threads give their core to those that make batches.

    The variable is read when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _device(args: argparse.Namespace) -> str:
    """Where to train; sets torch's threads."""
    import torch

    device: str = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch finds no GPU")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return device


def _train(
    args: argparse.Namespace, net: EcapaTdnn, pretrained: bool, softmax: ApproximateSoftmax | None
) -> int:
    from earmark.nn import replace_softmax
    from earmark.training import Corpus, Recordings, find_utterances, train
    from earmark.trials import read_recordings

    device = _device(args)
    config = _config(args, device)
    evaluation = _evaluation(args)
    utterances = find_utterances(args.data)
    sounds = read_recordings(args.noise) if args.noise is not None else None
    with progress_callback(args, "read") as progress:
        corpus = Corpus(utterances, progress=progress)
    if softmax is not None:
        paths = corpus.recordings.paths
        replace_softmax(net, softmax, paths[:: -(-len(paths) // _CALIBRATION)])
    noise = None
    if sounds is not None:
        with progress_callback(args, "read noise") as progress:
            noise = Recordings(sounds, progress=progress)
    with (
        progress_callback(args, "calibrate") as calibration_progress,
        progress_callback(args, "rooms") as room_progress,
        progress_callback(args, "train") as progress,
    ):
        plain = partial(train, pretrained=pretrained)
        trainer = _trainer(args, corpus, calibration_progress, plain) if pretrained else plain
        result = trainer(
            net,
            corpus,
            args.output,
            config,
            noise=noise,
            evaluation=evaluation,
            device=device,
            workers=args.workers or (os.cpu_count() or 1 if device == "cuda" else 1),
            progress=progress,
            room_progress=room_progress,
        )
    print_result(args, result, _lines(result))
    return 0


def _trainer(
    args: argparse.Namespace,
    corpus: Corpus,
    calibration_progress: Callable[[int, int], None] | None,
    plain: Trainer,
) -> Trainer:
    """The function that trains a checkpoint further, with what it alone takes."""
    from earmark import modelfile
    from earmark.training import train_compressed, train_quantized

    if args.compressed is not None:
        price = {} if args.price is None else {"price": args.price}
        return partial(train_compressed, compressed=modelfile.read(args.compressed), **price)
    if args.qat is None:
        return plain
    paths = corpus.recordings.paths
    return partial(
        train_quantized,
        calibration=paths[:: -(-len(paths) // _QAT_CALIBRATION)],
        precision=args.qat,
        distill=args.distill,
        calibration_progress=calibration_progress,
    )


def _config(args: argparse.Namespace, device: str) -> TrainingConfig:
    from earmark.training import Augmentation, TrainingConfig

    return TrainingConfig(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.lr,
        margin=args.margin,
        average=args.average,
        precision=args.precision or ("bf16" if device == "cuda" else "fp32"),
        seed=args.seed,
        augmentation=Augmentation(crop_seconds=args.crop, speeds=args.speeds, rooms=args.rooms),
    )


def _evaluation(args: argparse.Namespace) -> Evaluation | None:
    from earmark.training import Evaluation

    trials = read_given_trials(args)
    if trials is None:
        return None
    name = Path(args.trials).name

    def measure(net: EcapaTdnn) -> dict[str, Any]:
        scores = trial_scores(trials, net.embed(trials.paths))
        return {**error_rates(scores, trials), "trial_list": name}

    return Evaluation(measure, args.eval_every, name)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{result['output']}: {result['parameters']:,} parameters, {result['speakers']} speakers, "
        f"{result['utterances']} utterances"
    )
    yield (
        f"{result['epoch']} epochs, {result['step']} steps, {result['seconds'] / 60:.1f} minutes: "
        f"loss {result['loss']:.3f}, {100 * result['accuracy']:.1f} % right"
    )
    if result["eer"] is not None:
        yield f"EER {100 * result['eer']:.3f} %"


def _natural(text: str) -> int:
    """argparse type: an integer of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return int(text)


def _positive_ints(text: str) -> tuple[int, ...]:
    """argparse type: ``1,2,3``."""
    return tuple(positive_int(item) for item in text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    """argparse type: ``1,0.9``."""
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be numbers X,..., got {text!r}") from error
