"""``earmark quantize``: from a checkpoint to a model file, with the figures measured on it."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._clips import (
    add_clips,
    calibration_recordings,
    check_classes,
    classify_clips,
    data_name,
    figures_beside,
    lines_of_failed,
    raise_failed,
    read_known_clips,
)
from earmark.cli._eval import (
    add_trials,
    embed_recordings,
    error_rates,
    read_given_trials,
    trial_scores,
)
from earmark.cli._output import (
    CommandError,
    add_checkpoint,
    add_command,
    atomic_output,
    layer_choices,
    print_result,
    progress_callback,
)

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers
    from earmark.clips import Clip
    from earmark.nn import EcapaTdnn, SoundResNet
    from earmark.trials import Trials


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "quantize",
        run,
        "Quantize a checkpoint and write a model file. With --trials, the error rates before and "
        "after, and the threshold of the equal error rate, are stored in it; with --clips, those "
        "of a sound network on clips, which are then left out of the calibration.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--calibrate",
        metavar="DIR|LIST",
        help="recordings whose activations set the ranges: a folder, or a list of one path a line "
        "(dynamic, fp32 and float16 need none)",
    )
    parser.add_argument("-o", "--output", metavar="MODEL", required=True, help="file to write")
    parser.add_argument(
        "--scheme",
        metavar="S",
        default="int8",
        help="int8 (default), int8-full (features and embedding are int8 too), dynamic (INT8 "
        "weights, ranges found at run time), float16 or fp32",
    )
    parser.add_argument(
        "--precision",
        type=layer_precisions,
        default={},
        metavar="LAYER=P,...",
        help="layers of another precision, by name, leading part of a name, or all: int8, int7, "
        "int4, int3, int2 (weights of so many bits), int16, w8a16, w4a16, w3a16, w2a16, w16a8 "
        "(weights and activations of so many), dynamic, float16, fp32; or the name of a preset: "
        "p1 (the paper's, int8 but for SE-Res2Blocks 2 and 3), w4 and w3 (int4 and int3 but "
        "for the first layer, and in w3 the last)",
    )
    parser.add_argument(
        "--rounding",
        choices=("compensated", "nearest"),
        default="compensated",
        help="of weights: so that errors make up for each other (default; SQuant, below 7 bits "
        "GPTQ, by the covariance of each layer's inputs), or to the nearest",
    )
    parser.add_argument(
        "--equalize",
        action="store_true",
        help="bring channels that share a range to alike sizes first, for networks whose channels "
        "differ much (cross-layer equalization; needs --calibrate)",
    )
    parser.add_argument(
        "--observer",
        choices=("minmax", "moving-average", "percentile", "mse", "entropy"),
        default="minmax",
        help="how ranges follow from what calibration saw (default: minmax)",
    )
    add_trials(parser, required=False)
    add_clips(parser)


def run(args: argparse.Namespace) -> int:
    """Quantize, measure where trials or clips are given, write the file, print a summary."""
    import earmark
    from earmark.families import load_checkpoint
    from earmark.quantized import QuantizedEcapa

    trials, clips = read_given_trials(args), read_known_clips(args)
    net = load_checkpoint(args.checkpoint, args.family)
    _check_data(args, net, trials, clips)
    recordings = calibration_recordings(args, clips)
    failed: list[dict[str, str]] = []
    with atomic_output(args.output) as temporary:
        with progress_callback(args, "calibrate") as progress:
            quantized = earmark.quantize(
                net,
                recordings,
                scheme=args.scheme,
                precision=args.precision,
                observer=args.observer,
                rounding=args.rounding,
                equalize=args.equalize,
                progress=progress,
            )
        quantized.save(temporary)
        if trials is not None and isinstance(quantized, QuantizedEcapa):
            threshold, measured = _measure_trials(args, net, temporary, trials)
            quantized.save(temporary, threshold=threshold, measured=measured)
        elif clips:
            measured, failed = _measure_clips(args, net, temporary, clips)
            quantized.save(temporary, measured=measured)
        info = earmark.load(temporary).info()
    result = {
        "output": args.output,
        "scheme": info["scheme"],
        "calibration_recordings": (info["calibration"] or {}).get("recordings", 0),
        "parameters": info["parameters"],
        "file_bytes": info["file_bytes"],
        "size_fraction": info["size_fraction"],
        "threshold": info.get("threshold"),
        "measured": info["measured"],
        "sha256": info["sha256"],
    }
    if clips:
        result["failed"] = failed
    print_result(args, result, [*_lines(result), *lines_of_failed(failed)])
    raise_failed(failed, len(clips))
    return 0


def _check_data(
    args: argparse.Namespace,
    net: EcapaTdnn | SoundResNet,
    trials: Trials | None,
    clips: list[Clip],
) -> None:
    """CommandError for data of another kind of network, or none where the scheme needs some."""
    from earmark.nn import SoundResNet

    if not isinstance(net, SoundResNet):
        if clips:
            raise CommandError(f"{args.checkpoint}: --clips is for sound networks alone")
    elif trials is not None:
        raise CommandError(f"{args.checkpoint}: is a {net.family}, --trials is for ECAPA-TDNNs")
    else:
        check_classes(clips, net.labels, args.checkpoint)
    if args.scheme in ("int8", "int8-full") and not args.calibrate:
        raise CommandError(f"scheme {args.scheme} needs --calibrate")
    if args.equalize and not args.calibrate:
        raise CommandError("--equalize needs --calibrate")


def layer_precisions(text: str) -> dict[str, str]:
    """argparse type: ``layer=precision,...``, or presets in place of such entries."""
    from earmark.quantization.precision import PRESETS

    return layer_choices(text, "PRECISION", PRESETS, "a preset")


def check_precision(name: str, args: argparse.Namespace) -> None:
    """Refuses a name of no precision, and one that needs ``--calibrate`` without it."""
    from earmark.quantization.precision import PRECISIONS

    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise CommandError(f"unknown precision {name!r}, known are {known}")
    if PRECISIONS[name].is_calibrated and not args.calibrate:
        raise CommandError(f"precision {name} needs --calibrate")


def _measure_trials(
    args: argparse.Namespace, net: EcapaTdnn | SoundResNet, model: Path, trials: Trials
) -> tuple[float, dict[str, Any]]:
    """Threshold of the equal error rate, and what the model and its FP32 form do on the trials."""
    import earmark
    from earmark.metrics import cosine_score, eer_threshold

    with _float32(net) as file:
        reference = embed_recordings(args, earmark.Embedder(file), trials.paths)
    embeddings = embed_recordings(args, earmark.Embedder(model), trials.paths)
    scores = trial_scores(trials, embeddings)
    rates = error_rates(scores, trials)
    fp32_rates = error_rates(trial_scores(trials, reference), trials)
    cosines = cosine_score(embeddings, reference)
    measured = {
        **rates,
        "trial_list": Path(args.trials).name,
        "recordings": len(trials.paths),
        "fp32_eer": fp32_rates["eer"],
        "fp32_min_dcf": fp32_rates["min_dcf"],
        "mean_cosine_to_fp32": float(cosines.mean()),
        "worst_cosine_to_fp32": float(cosines.min()),
    }
    return eer_threshold(scores, trials.labels), measured


def _measure_clips(
    args: argparse.Namespace, net: EcapaTdnn | SoundResNet, model: Path, clips: list[Clip]
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What the model and its FP32 form do on the clips, and the clips that failed."""
    import earmark

    with _float32(net) as file:
        reference = classify_clips(args, earmark.Classifier(file), clips)
    heard = classify_clips(args, earmark.Classifier(model), clips)
    return {**data_name(args), **figures_beside(heard, reference)}, heard.failed


@contextlib.contextmanager
def _float32(net: EcapaTdnn | SoundResNet) -> Iterator[Path]:
    """A file of the network as it is."""
    import earmark

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "fp32.earmark")
        earmark.quantize(net, [], scheme="fp32").save(file)
        yield file


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{result['output']}: {result['scheme']}, {result['parameters']:,} parameters, "
        f"{result['file_bytes']:,} bytes, {100 * result['size_fraction']:.2f} % of float32"
    )
    if result["calibration_recordings"]:
        yield f"calibrated on {result['calibration_recordings']} recordings"
    measured = result["measured"]
    if "eer" in measured:
        yield from _lines_of_trials(measured)
        yield f"threshold of the equal error rate: {result['threshold']:.4f}"
    elif "f1" in measured:
        yield from _lines_of_clips(measured)


def _lines_of_trials(measured: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{measured['trial_list']}: {measured['trials']} trials of "
        f"{measured['recordings']} recordings"
    )
    for figure in (("EER", "eer", 100.0, " %"), ("min DCF", "min_dcf", 1.0, "")):
        yield _beside_fp32(measured, *figure)
    yield _cosines(measured)


def _lines_of_clips(measured: dict[str, Any]) -> Iterator[str]:
    fold = f", fold {measured['fold']}" if "fold" in measured else ""
    yield f"{measured['clip_folder']}{fold}: {measured['clips']} clips"
    for figure in (("accuracy", "accuracy", 100.0, " %"), ("macro F1", "f1", 1.0, "")):
        yield _beside_fp32(measured, *figure)
    yield f"clips with FP32's label: {100 * measured['same_label_as_fp32']:.2f} %"
    yield _cosines(measured)


def _beside_fp32(measured: dict[str, Any], name: str, key: str, factor: float, unit: str) -> str:
    before, after = factor * measured[f"fp32_{key}"], factor * measured[key]
    return f"{name:8} {after:.4f}{unit}  (FP32 {before:.4f}{unit}, {after - before:+.4f})"


def _cosines(measured: dict[str, Any]) -> str:
    return (
        f"cosine to FP32: mean {measured['mean_cosine_to_fp32']:.6f}, "
        f"worst {measured['worst_cosine_to_fp32']:.6f}"
    )
