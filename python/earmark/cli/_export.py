"""``earmark export``: a model file for other engines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from earmark.cli._output import CommandError, add_command, atomic_output, print_result
from earmark.tensorrt.building import BATCH, FRAMES

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers
    from earmark.tensorrt.building import Extent


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "export",
        run,
        "Write a model as ONNX with explicit QuantizeLinear and DequantizeLinear, or as an engine "
        "of TensorRT: from features (batch, time, bands) to the embedding or the scores. Or add it "
        "to a model repository of Triton, from waveforms to the embedding, run by earmark.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    parser.add_argument(
        "--to",
        choices=("onnx", "tensorrt", "triton"),
        required=True,
        help="onnx; tensorrt: an engine, built by tensorrt or tensorrt_rtx; triton: a model "
        "repository, OUT its folder",
    )
    parser.add_argument(
        "--plugins",
        action="store_true",
        help="integer layers over time as nodes of the domain earmark, for TensorRT with the "
        "library that earmark.tensorrt.plugin_path() names",
    )
    for name, default in {"batch": BATCH, "frames": FRAMES}.items():
        parser.add_argument(
            f"--{name}",
            type=extent,
            metavar="MIN,OPT,MAX",
            help=f"of an engine of TensorRT (default: {','.join(map(str, default))})",
        )
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file or folder to write"
    )


def extent(text: str) -> Extent:
    """argparse type: the least, the usual and the most, or one number for all three."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise argparse.ArgumentTypeError(f"must be such as 50,300,3000 or 300, got {text!r}")
    return numbers[0], numbers[1], numbers[2]


def run(args: argparse.Namespace) -> int:
    """Convert, write, describe."""
    for name in ("batch", "frames"):
        if getattr(args, name) is not None and args.to != "tensorrt":
            raise CommandError(f"--{name} goes with tensorrt: {args.to} takes any")
    if args.to == "triton":
        return _repository(args)
    from earmark import modelfile
    from earmark.export import to_onnx

    exported = to_onnx(modelfile.read(args.model), args.plugins)
    with atomic_output(args.output) as temporary:
        if args.to == "onnx":
            temporary.write_bytes(exported.SerializeToString())
            told, line = _of_onnx(exported)
        else:
            data, told, line = _engine(exported.SerializeToString(), args)
            temporary.write_bytes(data)
        size = temporary.stat().st_size
    result = {"output": args.output, "file_bytes": size, **told}
    print_result(args, result, [f"{args.output}: {line}, {size:,} bytes"])
    return 0


def _repository(args: argparse.Namespace) -> int:
    if args.plugins:
        raise CommandError("--plugins goes with onnx and tensorrt: Triton is given earmark itself")
    from earmark.integrations.triton import write_repository

    folder = write_repository(args.model, args.output)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    result = {"output": args.output, "model": folder.name, "file_bytes": size}
    print_result(args, result, [f"{args.output}: model {folder.name!r} for Triton, {size:,} bytes"])
    return 0


def _of_onnx(exported: Any) -> tuple[dict[str, Any], str]:
    from earmark.export.graph import OPSET

    nodes = len(exported.graph.node)
    return {"opset": OPSET, "nodes": nodes}, f"ONNX of opset {OPSET}, {nodes} nodes"


def _engine(model: bytes, args: argparse.Namespace) -> tuple[bytes, dict[str, Any], str]:
    import earmark
    from earmark.tensorrt import build_engine, plugin_path

    batch, frames = args.batch or BATCH, args.frames or FRAMES
    least = earmark.load(args.model).min_frames
    if frames[0] < least:
        raise CommandError(f"--frames begins at {frames[0]}, the model takes {least} or more")
    library = plugin_path() if args.plugins else None
    built = build_engine(model, batch, frames, library)
    ours = sum(layer["type"] == "custom_layer" for layer in built.layers)
    told = {
        "builder": built.builder,
        "seconds": built.seconds,
        "batch": batch,
        "frames": frames,
        "layers": len(built.layers),
        "plugins": ours,
    }
    line = f"engine by {built.builder} in {built.seconds:.1f} s"
    return built.data, told, f"{line}, {ours} of {len(built.layers)} layers are plugins"
