"""``earmark info``: what a model file holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from earmark.cli._output import add_command, add_device, print_result, table

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers

_STATISTICS = ("min", "max", "mean", "std")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "info",
        run,
        "Layers, precision, sizes, calibration and weight statistics, measured figures and "
        "checksum of a model file.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Print the model's description."""
    import earmark
    from earmark import modelfile
    from earmark.compression.statistics import layer_entropies

    info = earmark.load(args.model, device=args.device).info()
    entropies = layer_entropies(modelfile.read(args.model))
    for layer in info["layers"]:
        layer |= entropies[layer["name"]]
    print_result(args, info, _lines(args.model, info))
    return 0


def _lines(path: str, info: dict[str, Any]) -> Iterator[str]:
    if "labels" in info:
        output = {
            "classes": ", ".join(info["labels"]),
            "windows": f"{info['window_seconds']:g} s, one each {info['stride_seconds']:g} s",
        }
    else:
        threshold = info["threshold"]
        output = {"threshold": "none" if threshold is None else f"{threshold:.4f}"}
    yield from _pairs(
        path,
        {
            "family": info["family"],
            "scheme": info["scheme"],
            "parameters": f"{info['parameters']:,}",
            "file": f"{info['file_bytes']:,} bytes, {100 * info['size_fraction']:.2f} % of float32",
            **output,
            "input": _numbers(info["input"]),
            "output": _numbers(info["output"]),
            "format": info["format_version"],
            "sha256": info["sha256"],
            "runs on": _place(info),
            "kernels": ", ".join(info["kernels"]),
        },
    )
    for title in ("front_end", "calibration", "measured"):
        yield ""
        if info[title]:
            yield from _pairs(title.replace("_", " "), info[title])
        else:
            yield f"{title.replace('_', ' ')}: nothing recorded"
    yield ""
    yield (
        "layers (bytes as stored; H0, H1: entropy of an int8 weight alone, and after the one "
        "before it; statistics: of the weights as trained, of the output as calibration saw it)"
    )
    header = [
        "name",
        "op",
        "precision",
        "coding",
        "params",
        "bytes",
        "decoded",
        "bits/w",
        "H0",
        "H1",
    ]
    header += [f"w {key}" for key in _STATISTICS] + [f"out {key}" for key in _STATISTICS]
    yield from table(header, [_layer_row(layer) for layer in info["layers"]])


def _place(info: dict[str, Any]) -> str:
    if info["device"] == "cpu":
        return f"cpu, {info['isa']}, {info['threads']} threads"
    return f"{info['device']}, {info['device_name']}, {info['isa']}"


def _numbers(end: dict[str, Any]) -> str:
    if end["scale"] is None:
        return str(end["dtype"])
    return f"{end['dtype']}, scale {end['scale']:.6g}, zero point {end['zero_point']}"


def _pairs(title: str, values: dict[str, Any]) -> Iterator[str]:
    """A title, then one indented ``key  value`` line per item; nested keys are joined by dots."""
    flat: dict[str, str] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, list):
            flat[prefix] = ", ".join(map(str, value))
        else:
            flat[prefix] = f"{value:.6g}" if isinstance(value, float) else str(value)

    visit("", values)
    yield title
    width = max(map(len, flat))
    for key, value in flat.items():
        yield f"  {key:{width}}  {value}"


def _layer_row(layer: dict[str, Any]) -> list[str]:
    row = [
        layer["name"],
        layer["op"],
        layer["precision"],
        layer["coding"] or "",
        str(layer["params"]),
        str(layer["bytes"]),
        str(layer["decoded_bytes"]),
    ]
    for bits in (
        layer["bits_per_weight"],
        layer["entropy_bits"],
        layer["first_order_entropy_bits"],
    ):
        row.append("" if bits is None else f"{bits:.3f}")
    for statistics in (layer["weight"], layer["activation"]):
        row += [f"{statistics[key]:.4g}" if statistics else "" for key in _STATISTICS]
    return row
