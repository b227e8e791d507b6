"""``earmark compress``: a model file whose weights are stored smaller (paper P4)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from earmark.cli._clips import (
    add_clips,
    calibration_recordings,
    check_classes,
    read_known_clips,
)
from earmark.cli._eval import add_trials, read_given_trials
from earmark.cli._output import (
    CommandError,
    add_command,
    add_crops,
    atomic_output,
    fraction,
    layer_choices,
    print_result,
    progress_callback,
)

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers
    from earmark.clips import Clip
    from earmark.compression.evaluation import Change
    from earmark.modelfile import ModelFile
    from earmark.runner import Runner
    from earmark.trials import Trials

    Loss = Callable[[ModelFile], Change]

_CODEC = {"all": "rans"}
# Recordings that show which weights matter; more change nothing.
_RECORDINGS = 120


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "compress",
        run,
        "Store the weights of a model file in another coding; the engine decodes them when it "
        "loads the file. Without a budget or --qp what the model computes stays as it is, to the "
        "bit. With a budget, weights get coarser steps where recordings show that they matter "
        "little.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="file to write")
    parser.add_argument(
        "--codec",
        type=layer_codecs,
        metavar="C",
        help="rans (default, earmark's own entropy coder), zstd, hevc (pictures that any "
        "FFmpeg decodes), or raw; or LAYER=C,... for some layers, by name, leading part of a name, "
        "or all",
    )
    parser.add_argument(
        "--qp",
        type=int,
        metavar="N",
        help="of hevc: quantization parameter, 0 to 51; an error doubles with every 6 and the "
        "weights become smaller (without one they stay as they are)",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--size",
        type=fraction,
        metavar="Y",
        help="the nearest to MODEL of at most this size: 8%% or 0.08 of 4 bytes a parameter",
    )
    budget.add_argument(
        "--max-eer-change",
        type=fraction,
        metavar="X",
        help="the smallest file found whose EER is at most so much above MODEL's: 0.1%% or 0.001 "
        "(needs --trials)",
    )
    budget.add_argument(
        "--max-f1-change",
        type=fraction,
        metavar="X",
        help="of a sound network, the smallest file found whose macro F1 is at most so much below "
        "MODEL's (needs --clips)",
    )
    parser.add_argument(
        "--calibrate",
        metavar="DIR|LIST",
        help="recordings that show which weights matter, for a budget: a folder, or a list of one "
        f"path a line; {_RECORDINGS} of them are heard",
    )
    add_trials(parser, required=False)
    add_crops(parser, 8)
    add_clips(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, print its sizes and what it changes."""
    import earmark
    from earmark import modelfile
    from earmark.compression import compress

    trials, clips = read_given_trials(args), read_known_clips(args)
    _check(args, trials, clips)
    model = modelfile.read(args.model)
    runner = earmark.load(args.model)
    loss = _measure(args, runner, trials, clips)
    before = len(modelfile.to_bytes(model))
    with atomic_output(args.output) as temporary:
        if _has_budget(args):
            smaller, step = _coarse(args, model, runner, clips, loss)
        else:
            smaller, step = compress(model, args.codec or _CODEC, qp=args.qp), None
        change = loss(smaller) if loss is not None else None
        if change is not None:
            measured = {**smaller.metadata["measured"], "compression": change.described()}
            smaller = modelfile.ModelFile(
                {**smaller.metadata, "measured": measured}, smaller.arrays
            )
        modelfile.write(smaller, temporary)
        info = earmark.load(temporary).info()
    result = {
        "output": args.output,
        "codec": args.codec or _CODEC,
        "qp": args.qp,
        "step": step,
        "parameters": info["parameters"],
        "file_bytes_before": before,
        "file_bytes": info["file_bytes"],
        "size_fraction": info["size_fraction"],
        "ratio": 1 / info["size_fraction"],
        "change": None if change is None else change.described(),
        "sha256": info["sha256"],
    }
    print_result(args, result, _lines(result, change))
    return 0


def _has_budget(args: argparse.Namespace) -> bool:
    budgets = (args.size, args.max_eer_change, args.max_f1_change)
    return any(budget is not None for budget in budgets)


def _check(args: argparse.Namespace, trials: Trials | None, clips: list[Clip]) -> None:
    """CommandError for options that do not go together."""
    for option, given, data, needed in (
        ("--max-eer-change", args.max_eer_change, trials, "--trials and --root"),
        ("--max-f1-change", args.max_f1_change, clips, "--clips"),
    ):
        if given is not None and not data:
            raise CommandError(f"{option} needs {needed}")
    if _has_budget(args) and args.calibrate is None:
        raise CommandError("a budget needs --calibrate")
    if _has_budget(args) and (args.codec is not None or args.qp is not None):
        raise CommandError(
            "a budget is for the codec rans on all layers, --codec and --qp are for none"
        )


def _measure(
    args: argparse.Namespace, runner: Runner, trials: Trials | None, clips: list[Clip]
) -> Loss | None:
    """What tells a file's change against MODEL; None without any data."""
    import earmark
    from earmark.compression import evaluation

    if trials is not None:
        if not isinstance(runner, earmark.Embedder):
            raise CommandError(f"{args.model}: --trials is for networks that embed speakers")
        return evaluation.on_trials(runner, trials, args.crops)
    if clips:
        if not isinstance(runner, earmark.Classifier):
            raise CommandError(f"{args.model}: --clips is for sound networks alone")
        check_classes(clips, runner.labels, args.model)
        return evaluation.on_clips(runner, clips)
    return None


def _coarse(
    args: argparse.Namespace,
    model: ModelFile,
    runner: Runner,
    clips: list[Clip],
    loss: Loss | None,
) -> tuple[ModelFile, float]:
    """The file within the budget, and the step it has."""
    from earmark import modelfile
    from earmark.compression.coarse import calibration_pieces, coarse_file, requantizer
    from earmark.compression.solve import STEPS, coarsest_within, finest_within

    recordings = calibration_recordings(args, clips)
    heard = recordings[:: max(1, -(-len(recordings) // _RECORDINGS))]
    with progress_callback(args, "listen") as progress:
        pieces = calibration_pieces(runner, heard, progress)
    with progress_callback(args, "sensitivity") as progress:
        quantizer = requantizer(model, pieces, progress)

    def at(step: float) -> ModelFile:
        return coarse_file(model, quantizer.at(step))

    if args.size is not None:
        limit = args.size * 4 * model.metadata["parameters"]
        step, found = finest_within(at, lambda file: len(modelfile.to_bytes(file)), limit, *STEPS)
        return found, step
    assert loss is not None
    measured = loss
    limit = args.max_f1_change if args.max_eer_change is None else args.max_eer_change
    step, found = coarsest_within(at, lambda file: measured(file).loss, limit, *STEPS)
    return found, step


def _lines(result: dict[str, Any], change: Change | None) -> Iterator[str]:
    yield (
        f"{result['output']}: {result['file_bytes']:,} bytes, were "
        f"{result['file_bytes_before']:,}; {100 * result['size_fraction']:.2f} % of float32, "
        f"{result['ratio']:.2f} times smaller"
    )
    if change is not None:
        yield str(change)


def layer_codecs(text: str) -> dict[str, str]:
    """argparse type: ``layer=codec,...``, or a codec for all layers in place of such an entry."""
    from earmark.compression import WEIGHT_CODECS
    from earmark.plan import ALL

    named = {codec: {ALL: codec} for codec in WEIGHT_CODECS}
    return layer_choices(text, "CODEC", named, "a codec")
