"""What the report says of a model file: overview, description, ranges, layers, softmax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard
from xml.etree.ElementTree import Element

from earmark.report import figures
from earmark.report.contents import Contents, Model, PiecewiseSoftmax, TableSoftmax
from earmark.report.curves import softmax_fit
from earmark.report.page import details, element, pairs, paragraph, table
from earmark.report.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["model_part", "overview", "overview_of_one"]

JSON = dict[str, Any]
Draw = Callable[[Callable[[], "Figure"], str, str], Element]

_STATISTICS = ("min", "max", "std")


def overview(models: Sequence[Model]) -> Iterator[Element]:
    """The models beside each other."""
    if not models:
        return
    header = ["model", "scheme", "MB", "% of float32", "EER %", "float32's"]
    header += ["cosine to it", "worst", "threshold", "measured on"]
    yield table(header, [_model_row(model) for model in models], text_columns=2)
    yield paragraph(
        "Error rates and cosines are those that the files carry, of the trials named beside them; "
        "those of different trials do not compare."
    )


def overview_of_one(contents: Contents) -> Iterator[Element]:
    """A model's main figures, and all that its file says of it as a whole."""
    model = contents.models[0]
    own = [one for one in contents.of(Evaluation) if one.sha256 == model.info["sha256"]]
    tiles = (
        (name, element("span", value, element("small", note)))
        for name, value, note in _tiles(model, own)
    )
    yield pairs(tiles, "tiles")
    yield _description(model)


def model_part(model: Model, draw: Draw, *, is_alone: bool) -> Iterator[Element]:
    """A model's layers and softmax; where it is not alone, its description before."""
    if not is_alone:
        yield _description(model)
    layers = model.info["layers"]
    left_out = len(layers) - figures.MOST_LAYERS
    more = f" {left_out:,} more layers are in the table only." if left_out > 0 else ""
    yield draw(
        partial(figures.range_figure, model),
        f"Ranges of the weights and outputs of {len(layers)} layers of {model.name}, and bytes",
        "Thin bars: from the least to the largest value; thick: a standard deviation about the "
        f"mean; orange marks: the ends of what a layer's integer outputs can hold.{more}",
    )
    for softmax in model.softmaxes:
        yield from _softmax_part(softmax, draw)
    yield details("All layers", [_layer_table(layers)], is_open=is_alone)


def _softmax_part(softmax: PiecewiseSoftmax | TableSoftmax, draw: Draw) -> Iterator[Element]:
    yield element("h3", f"Softmax of {softmax.layer}")
    if isinstance(softmax, TableSoftmax):
        yield paragraph(f"A table of {softmax.entries:,} entries in the place of exp.")
        return
    fit = softmax_fit(softmax)
    yield draw(
        partial(figures.softmax_figure, fit),
        f"A piecewise-linear function beside exp; largest error {fit.worst:.4f}",
        "The numerators of the attention's weights beside exp, scaled for the least squared "
        "error (a common factor cancels). Over the logits shown, evenly, the error is at most "
        f"{fit.worst:.4f} of the largest exp, and {fit.rms:.4f} in root mean square.",
    )


def _tiles(model: Model, evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, str, str]]:
    info, measured = model.info, model.info["measured"]
    yield (
        "File",
        f"{info['file_bytes'] / 1e6:.2f} MB",
        f"{_percent(info, 'size_fraction')} of float32",
    )
    if evaluations:
        yield "EER", f"{100 * evaluations[0].eer:.2f} %", evaluations[0].trial_list
        yield "Min DCF", f"{evaluations[0].min_dcf:.3f}", "p_target 0.01"
    elif "eer" in measured:
        yield "EER", _percent(measured, "eer"), f"float32 {_percent(measured, 'fp32_eer')}"
    elif "f1" in measured:
        yield (
            "Macro F1",
            _decimals(measured, "f1", 3),
            f"float32 {_decimals(measured, 'fp32_f1', 3)}",
        )
    if "mean_cosine_to_fp32" in measured:
        worst = _decimals(measured, "worst_cosine_to_fp32", 5)
        mean = _decimals(measured, "mean_cosine_to_fp32", 5)
        yield "Cosine", mean, f"to float32, worst {worst}"
    if info.get("threshold") is not None:
        yield "Threshold", f"{info['threshold']:.3f}", "one speaker from there on"
    yield "Layers", str(len(info["layers"])), _precisions(info)


def _model_row(model: Model) -> list[str]:
    info, measured = model.info, model.info["measured"]
    threshold = info.get("threshold")
    return [
        model.name,
        info["scheme"],
        f"{info['file_bytes'] / 1e6:.2f}",
        f"{100 * info['size_fraction']:.2f}",
        _percent(measured, "eer").removesuffix(" %"),
        _percent(measured, "fp32_eer").removesuffix(" %"),
        _decimals(measured, "mean_cosine_to_fp32", 5),
        _decimals(measured, "worst_cosine_to_fp32", 5),
        "" if threshold is None else f"{threshold:.4f}",
        str(measured.get("trial_list", measured.get("clip_folder", ""))),
    ]


def _description(model: Model) -> Element:
    info = model.info
    values: list[tuple[str, Element | str]] = [
        ("family", info["family"]),
        ("scheme", info["scheme"]),
        ("precision of layers", _precisions(info)),
        ("parameters", f"{info['parameters']:,}"),
        ("file", f"{info['file_bytes']:,} bytes, {_percent(info, 'size_fraction')} of float32"),
        ("input", _end(info["input"])),
        ("output", _end(info["output"])),
    ]
    if "labels" in info:
        values.append(("classes", ", ".join(map(str, info["labels"]))))
    else:
        threshold = info["threshold"]
        values.append(("threshold", "none" if threshold is None else f"{threshold:.6f}"))
    values.append(("sha256", element("code", info["sha256"])))
    for name, value in (
        ("front end", info["front_end"]),
        ("network", model.config),
        ("calibration", info["calibration"]),
        ("measured", info["measured"]),
    ):
        found = [f"{key} {text}" for key, text in _flat("", value or {})]
        values.append((name, "; ".join(found) or "nothing recorded"))
    return pairs(values)


def _layer_table(layers: Sequence[JSON]) -> Element:
    header = [
        "layer",
        "op",
        "precision",
        "coding",
        "parameters",
        "bytes",
        "bits/weight",
        "H0",
        "H1",
    ]
    header += [f"weight {key}" for key in _STATISTICS] + [f"output {key}" for key in _STATISTICS]
    return table(header, [_layer_row(layer) for layer in layers], text_columns=4)


def _layer_row(layer: JSON) -> list[str]:
    row = [layer["name"], layer["op"], layer["precision"], layer["coding"] or ""]
    row += [f"{layer[key]:,}" for key in ("params", "bytes")]
    for key in ("bits_per_weight", "entropy_bits", "first_order_entropy_bits"):
        row.append("" if layer[key] is None else f"{layer[key]:.3f}")
    for statistics in (layer["weight"], layer["activation"]):
        row += [f"{statistics[key]:.4g}" if statistics else "" for key in _STATISTICS]
    return row


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """A text for each value in an object, keys joined by dots."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list):
        yield prefix.replace("_", " "), ", ".join(map(str, value))
    else:
        yield prefix.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)


def _end(end: JSON) -> str:
    if end["scale"] is None:
        return str(end["dtype"])
    return f"{end['dtype']}, scale {end['scale']:.6g}, zero point {end['zero_point']}"


def _precisions(info: JSON) -> str:
    counts = Counter(layer["precision"] for layer in info["layers"])
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _percent(values: JSON, key: str) -> str:
    """A fraction in percent; what is no number, as files of any origin may have it, as it is."""
    value = values.get(key)
    return f"{100 * value:.2f} %" if _is_number(value) else str(value or "")


def _decimals(values: JSON, key: str, digits: int) -> str:
    value = values.get(key)
    return f"{value:.{digits}f}" if _is_number(value) else str(value or "")


def _is_number(value: Any) -> TypeGuard[float]:
    """Of a size that figures of merit have; a file may have anything there."""
    return isinstance(value, int | float) and abs(value) < 1e9
