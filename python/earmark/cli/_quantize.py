"""``earmark quantize``: from a checkpoint to a model file, with the figures measured on it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._eval import (
    add_trials,
    embed_recordings,
    error_rates,
    read_both_classes,
    trial_scores,
)
from earmark.cli._output import (
    CommandError,
    add_checkpoint,
    add_command,
    atomic_output,
    print_result,
    progress_callback,
    speaker_network,
)

if TYPE_CHECKING:
    from earmark import Embedder
    from earmark.cli._output import Subparsers
    from earmark.nn import EcapaTdnn, SoundResNet
    from earmark.trials import Trials


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "quantize",
        run,
        "Quantize a checkpoint and write a model file. With --trials, the error rates before and "
        "after, and the threshold of the equal error rate, are stored in it.",
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
        help="layers of another precision, by name, leading part of a name, or all: int8, int4, "
        "int3, int2 (weights of so many bits), int16, w8a16, w4a16, w3a16, w2a16, w16a8 (weights "
        "and activations of so many), dynamic, float16, fp32; or the name of a preset: p1 "
        "(the paper's, int8 but for SE-Res2Blocks 2 and 3), w4 and w3 (int4 and int3 but "
        "for the first layer)",
    )
    parser.add_argument(
        "--rounding",
        choices=("compensated", "nearest"),
        default="compensated",
        help="of weights below 8 bits: by the covariance of each layer's inputs (GPTQ, default), "
        "or to the nearest",
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


def run(args: argparse.Namespace) -> int:
    """Quantize, measure where trials are given, write the file, print a summary."""
    import earmark
    from earmark.families import load_checkpoint
    from earmark.quantized import QuantizedEcapa
    from earmark.trials import read_recordings

    if (args.trials is None) != (args.root is None):
        raise CommandError("--trials and --root are given together or not at all")
    trials = read_both_classes(args.trials, args.root) if args.trials else None
    recordings = read_recordings(args.calibrate) if args.calibrate else []
    if args.scheme in ("int8", "int8-full") and not args.calibrate:
        raise CommandError(f"scheme {args.scheme} needs --calibrate")
    if args.equalize and not args.calibrate:
        raise CommandError("--equalize needs --calibrate")
    net = speaker_network(args) if trials else load_checkpoint(args.checkpoint, args.family)
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
            threshold, measured = _measure(args, net, earmark.Embedder(temporary), trials)
            quantized.save(temporary, threshold=threshold, measured=measured)
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
    print_result(args, result, _lines(result))
    return 0


def layer_precisions(text: str) -> dict[str, str]:
    """argparse type: ``layer=precision,...``, or presets in place of such entries."""
    from earmark.quantization.precision import PRESETS

    precisions: dict[str, str] = {}
    for item in text.split(","):
        layer, equals, precision = item.partition("=")
        if not equals and layer in PRESETS:
            entries = PRESETS[layer]
        elif layer and equals and precision:
            entries = {layer: precision}
        else:
            known = ", ".join(PRESETS)
            raise argparse.ArgumentTypeError(
                f"must be LAYER=PRECISION,... or a preset ({known}), got {item!r}"
            )
        if twice := sorted(precisions.keys() & entries.keys()):
            raise argparse.ArgumentTypeError(f"names layer {twice[0]!r} twice")
        precisions |= entries
    return precisions


def check_precision(name: str, args: argparse.Namespace) -> None:
    """Refuses a name of no precision, and one that needs ``--calibrate`` without it."""
    from earmark.quantization.precision import PRECISIONS

    if name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise CommandError(f"unknown precision {name!r}, known are {known}")
    if PRECISIONS[name].is_calibrated and not args.calibrate:
        raise CommandError(f"precision {name} needs --calibrate")


def _measure(
    args: argparse.Namespace, net: EcapaTdnn | SoundResNet, model: Embedder, trials: Trials
) -> tuple[float, dict[str, Any]]:
    """Threshold of the equal error rate, and what the model and its FP32 form do on the trials."""
    import earmark
    from earmark.metrics import cosine_score, eer_threshold

    with tempfile.TemporaryDirectory() as folder:
        reference_file = Path(folder, "fp32.earmark")
        earmark.quantize(net, [], scheme="fp32").save(reference_file)
        reference = embed_recordings(args, earmark.Embedder(reference_file), trials.paths)
    embeddings = embed_recordings(args, model, trials.paths)
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


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{result['output']}: {result['scheme']}, {result['parameters']:,} parameters, "
        f"{result['file_bytes']:,} bytes, {100 * result['size_fraction']:.2f} % of float32"
    )
    if result["calibration_recordings"]:
        yield f"calibrated on {result['calibration_recordings']} recordings"
    measured = result["measured"]
    if measured:
        yield (
            f"{measured['trial_list']}: {measured['trials']} trials of "
            f"{measured['recordings']} recordings"
        )
        for name, key, factor, unit in (
            ("EER", "eer", 100.0, " %"),
            ("min DCF", "min_dcf", 1.0, ""),
        ):
            before, after = factor * measured[f"fp32_{key}"], factor * measured[key]
            yield f"{name:8} {after:.4f}{unit}  (FP32 {before:.4f}{unit}, {after - before:+.4f})"
        yield (
            f"cosine to FP32: mean {measured['mean_cosine_to_fp32']:.6f}, "
            f"worst {measured['worst_cosine_to_fp32']:.6f}"
        )
        yield f"threshold of the equal error rate: {result['threshold']:.4f}"
