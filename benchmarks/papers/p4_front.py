"""Beyond P4: what is right against what is small, of every way to compress.

    python benchmarks/papers/p4_front.py --data DATA --models MODELS --nncodec PYTHON \\
        [--only ecapa | sound] [--steps 1e-6 1e-5 ...] [--qps -26 -20 ...]

The demonstration ECAPA-TDNN, and the sound ResNet-50 of each fold (``MODELS/fold-N/``, as
``p3_table2.py`` makes them; every clip is classified by the network of its fold). Weights are

* in coarser steps, as ``earmark compress`` chooses them within a budget, at each of ``--steps``;
  the same integers are then coded by every lossless coder;
* NNCodec's own, which quantizes the float32 network at each of ``--qps`` (``--nncodec``: an
  interpreter of another environment that has it);
* HEVC pictures, as ``p4_qp.py`` found.

Nothing is trained. Calibration hears every fourth recording of the training list, every sixteenth
clip of the other folds. Points that are in the results already are not measured again. Writes
``docs/results/p4-front.md``, the plot beside it and ``benchmarks/results/p4-front.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from _coders import NNCODEC, OWN, XZ, ZSTD, by_nncodec, nncodec_network, own_coder, xz
from _p4 import DOCS

import earmark
from _evaluation import SoundFolds, Speakers
from _results import environment, known_json, read_json, write_json
from earmark import modelfile
from earmark.bench.report import markdown_table
from earmark.clips import split_clips
from earmark.compression.coarse import calibration_pieces, coarse_file, requantizer
from earmark.compression.requantize import Requantizer
from earmark.modelfile import ModelFile
from earmark.plots import new_figure, save_figure
from earmark.trials import read_recordings

JSON = dict[str, Any]

NAME = "p4-front"
PACKAGED = Path(earmark.__file__).parent / "data"
ECAPA, SOUND = "ecapa", "sound"
STEPS = {ECAPA: (0.00014, 0.0002, 0.0003, 0.0004, 0.0006), SOUND: (1e-6, 1e-5)}
QPS = (-26, -23, -20, -17)
# Weights for which xz and NNCodec take many minutes: a ResNet-50's. p4_lossless.py has them there.
MANY = 10_000_000
COARSE, OWN_QUANTIZER = "coarse", "nncodec"
EVERY = {ECAPA: 4, SOUND: 16}


@dataclass(frozen=True)
class Network:
    """What is compressed, in one or several folds; how it is measured, and by fold the recordings
    that calibration hears."""

    fp32: list[ModelFile]
    int8: list[ModelFile]
    measure: Callable[[Iterable[ModelFile]], JSON]
    recordings: Callable[[int], list[Path]]

    @property
    def float_bytes(self) -> int:
        """Four for each parameter."""
        return 4 * int(self.int8[0].metadata["parameters"])


def ecapa(data: Path) -> Network:
    """The demonstration network and its trials."""
    fp32, int8 = (modelfile.read(PACKAGED / f"demo-{name}.earmark") for name in ("fp32", "int8"))
    root = data / "speakers"
    speakers = Speakers(data / "trials" / "dev_samegender.txt", root, fp32)
    heard = read_recordings(root / "train.txt")[:: EVERY[ECAPA]]
    return Network([fp32], [int8], speakers.measure, lambda _: heard)


def sound(data: Path, models: Path) -> Network:
    """The ResNet-50s of the folds, and the clips."""
    root = data / "sounds"
    folds = SoundFolds.read(root / "meta.csv")

    def recordings(fold: int) -> list[Path]:
        others, _ = split_clips(root, folds.folds[fold])
        return [clip.path for clip in others[:: EVERY[SOUND]]]

    fp32, int8 = (folds.models(models, name) for name in ("fp32", "int8"))
    return Network(fp32, int8, folds.measure, recordings)


def main() -> None:
    """Measure, write, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="files of the folds")
    parser.add_argument("--nncodec", metavar="PYTHON", help="has nncodec; left out without")
    parser.add_argument("--only", choices=(ECAPA, SOUND))
    parser.add_argument("--steps", type=float, nargs="+")
    parser.add_argument("--qps", type=int, nargs="+")
    args = parser.parse_args()
    result = known_json(NAME)
    for kind in (ECAPA, SOUND):
        if args.only not in (None, kind):
            continue
        network = ecapa(args.data) if kind == ECAPA else sound(args.data, args.models)
        known = result.setdefault(kind, {COARSE: {}, OWN_QUANTIZER: {}})
        known["float_bytes"] = network.float_bytes
        for name, models in {"fp32": network.fp32, "int8": network.int8}.items():
            if name not in known:
                known[name] = network.measure(models)
        coarse(network, known[COARSE], args.steps or STEPS[kind], args.nncodec)
        if args.nncodec is not None and network.float_bytes < 4 * MANY:
            by_qp(network, known[OWN_QUANTIZER], args.qps or QPS, args.nncodec)
        known["environment"] = environment()
        write_json(NAME, result)
    if ECAPA in result:
        plot(result)
        (DOCS / f"{NAME}.md").write_text(report(result))


def coarse(network: Network, known: JSON, steps: Sequence[float], nncodec: str | None) -> None:
    """Add to the results what is not in them yet: all coders' sizes of the same integers."""
    steps = [step for step in steps if f"{step:g}" not in known]
    files: dict[float, list[ModelFile]] = {step: [] for step in steps}
    sizes: dict[float, list[JSON]] = {step: [] for step in steps}
    for fold, model in enumerate(network.int8 if steps else ()):
        found = requantizer_of(model, network.recordings(fold))
        for step in tqdm(steps, "steps", disable=None, leave=False):
            chosen = found.at(step)
            file = coarse_file(model, chosen)
            files[step].append(file)
            integers = {
                name: levels.levels.reshape(chosen.arrays[f"{name}.weight"].shape)
                for name, levels in chosen.levels.items()
            }
            coded = coders(integers, nncodec)
            bits = chosen.bits / found.weights
            sizes[step].append({"bits_per_weight": bits, **whole_files(file, coded)})
    for step in steps:
        mean = {key: float(np.mean([size[key] for size in sizes[step]])) for key in sizes[step][-1]}
        known[f"{step:g}"] = {**mean, **network.measure(files[step])}


def requantizer_of(model: ModelFile, recordings: list[Path]) -> Requantizer:
    """Of a model, by what it hears in recordings."""
    runner = earmark.Classifier(model) if "labels" in model.metadata else earmark.Embedder(model)
    pieces = calibration_pieces(runner, recordings)
    with tqdm(desc="sensitivity", total=len(pieces), disable=None, leave=False) as bar:
        return requantizer(model, pieces, lambda done, _: bar.update(done - bar.n))


def coders(integers: dict[str, Any], nncodec: str | None) -> dict[str, int]:
    """Bytes of integers by every lossless coder."""
    found = {OWN: own_coder("rans", integers), ZSTD: own_coder("zstd", integers)}
    if sum(array.size for array in integers.values()) < MANY:
        found[XZ] = xz(integers)
        if nncodec is not None:
            found[NNCODEC] = by_nncodec(nncodec, integers)
    if different := [label for label, coder in found.items() if not coder["equal"]]:
        raise SystemExit(f"{different[0]} did not give the integers back")
    return {label: coder["bytes"] for label, coder in found.items()}


def whole_files(file: ModelFile, coded: dict[str, int]) -> dict[str, int]:
    """Of the file, had it another coder's bytes in place of the own coder's."""
    size = len(modelfile.to_bytes(file))
    return {label: size - coded[OWN] + bytes_ for label, bytes_ in coded.items()}


def by_qp(network: Network, known: JSON, qps: Sequence[int], nncodec: str) -> None:
    """Add what is not in the results yet: NNCodec's quantization of the float32 network."""
    for qp in tqdm([qp for qp in qps if str(qp) not in known], "NNCodec", disable=None):
        parts = [nncodec_network(nncodec, model, qp) for model in network.fp32]
        size = float(np.mean([size for _, size in parts]))
        known[str(qp)] = {"bytes": size, **network.measure([model for model, _ in parts])}


def plot(result: JSON) -> None:
    """Loss against ratio: a panel for each network."""
    kinds = [kind for kind in (ECAPA, SOUND) if kind in result]
    figure = new_figure(5 * len(kinds), 4)
    for panel, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for label, points in curves(result, kind).items():
            style = {"marker": "o", "markersize": 3, "label": label}
            panel.plot([p[0] for p in points], [p[1] for p in points], **style)
        limit = 0.1 if kind == ECAPA else 1
        panel.axhline(limit, color="black", lw=0.8, ls=":")
        panel.set_xlabel("ratio, to four bytes a parameter")
        panel.set_ylabel("EER change, %" if kind == ECAPA else "F1 lost, %")
        panel.set_ylim(-0.5 if kind == ECAPA else -2, 3 if kind == ECAPA else 10)
        panel.set_title("ECAPA-TDNN" if kind == ECAPA else "ResNet-50")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    save_figure(figure, DOCS / f"{NAME}.svg", "svg")


def curves(result: JSON, kind: str) -> dict[str, list[tuple[float, float]]]:
    """(ratio, loss in per cent) by way to compress, the smallest ratios first."""
    known = result[kind]
    found: dict[str, list[tuple[float, float]]] = {}
    for coder in (OWN, ZSTD, XZ, NNCODEC):
        points = [p for p in known[COARSE].values() if coder in p]
        label = "coarse steps, rans (earmark)" if coder == OWN else f"coarse steps, {coder}"
        found[label] = [(ratio(known, p[coder]), loss(known, kind, p)) for p in points]
    found["NNCodec's quantization"] = [
        (ratio(known, p["bytes"]), loss(known, kind, p)) for p in known[OWN_QUANTIZER].values()
    ]
    for name, points in read_json("p4-qp")[kind].items():
        if name != "fp32" and (kind == ECAPA or read_json("p4-qp")["folds"] == [1, 2, 3, 4]):
            rows = [p for p in points.values() if isinstance(p, dict)]
            found[f"HEVC, {name}"] = [
                (ratio(known, p["file_bytes"]), loss(known, kind, p)) for p in rows
            ]
    return {label: sorted(points) for label, points in found.items() if points}


def ratio(known: JSON, size: float) -> float:
    """Of the whole network."""
    return float(known["float_bytes"] / size)


def loss(known: JSON, kind: str, point: JSON) -> float:
    """Per cent: EER above float32's, or F1 below."""
    if kind == ECAPA:
        return 100 * float(point["eer_change"])
    return 100 * float(known["fp32"]["f1"] - point["f1"])


def table(result: JSON, kind: str) -> str:
    """A row for each point, by size."""
    known = result[kind]
    points = sorted(known[COARSE].items(), key=lambda item: float(item[0]))
    coders = [c for c in (OWN, ZSTD, XZ, NNCODEC) if any(c in point for _, point in points)]
    rows = []
    for step, point in points:
        sizes = [f"{ratio(known, point[c]):.2f}" if c in point else "" for c in coders]
        rows.append([step, f"{point['bits_per_weight']:.2f}", *sizes, rate(known, kind, point)])
    header = ["step", "bits a weight", *(f"ratio: {coder}" for coder in coders)]
    return markdown_table([*header, "EER change, %" if kind == ECAPA else "F1 lost, %"], rows)


def table_by_qp(result: JSON) -> str:
    """Of NNCodec."""
    known = result[ECAPA]
    rows = [
        [qp, f"{ratio(known, point['bytes']):.2f}", rate(known, ECAPA, point)]
        for qp, point in sorted(known[OWN_QUANTIZER].items(), key=lambda item: int(item[0]))
    ]
    return markdown_table(["QP", "ratio", "EER change, %"], rows)


def rate(known: JSON, kind: str, point: JSON) -> str:
    """The loss, with its interval where it has one."""
    if kind == SOUND:
        return f"{loss(known, kind, point):+.2f}"
    low, high = (100 * end for end in point["eer_interval"])
    return f"{loss(known, kind, point):+.3f} ({low:+.3f} to {high:+.3f})"


def report(result: JSON) -> str:
    """The page; of the networks that are in the results."""
    speakers = result[ECAPA]
    page = _TEXT.format(
        table=table(result, ECAPA),
        by_qp=table_by_qp(result),
        eer=f"{100 * speakers['fp32']['eer']:.2f}",
        int8=rate(speakers, ECAPA, speakers["int8"]),
        command=speakers["environment"]["command"],
        commit=speakers["environment"]["commit"],
    )
    if SOUND not in result:
        return page
    sounds = result[SOUND]
    return page + _SOUND_TEXT.format(
        table=table(result, SOUND),
        f1=f"{100 * sounds['fp32']['f1']:.2f}",
        int8=rate(sounds, SOUND, sounds["int8"]),
        command=sounds["environment"]["command"],
        commit=sounds["environment"]["commit"],
    )


_TEXT = """# Beyond P4: the front of ratio and rate

What a network that travels small gets wrong, by way to compress; nothing is trained. Ratios are of
the whole file to four bytes for each parameter of the float32 network, but for NNCodec's own
quantization, where they are of its stream alone (a file says more than weights).

![Loss against ratio](p4-front.svg)

*Coarse steps* are what `earmark compress` makes within a budget: by derivatives of the output, at
one price of an error for all layers. The same integers are coded by every lossless coder, so that
each row is at equal error. *NNCodec's quantization* is its dependent quantization of the float32
network at one QP, the rest at its default. *HEVC* is of [Figures 4 and 5](p4-qp.md).

## ECAPA-TDNN, C = 256

EER over eight draws of 2 s crops of `dev_samegender`; float32 has {eer} %, int8 {int8} %.

{table}

NNCodec:

{by_qp}

```
{command}    # at {commit}
```
"""

_SOUND_TEXT = """
## Sound ResNet-50

Macro F1 over the clips of all folds, each heard by the network that has not seen its fold; float32
has {f1} %, int8 loses {int8}. xz and NNCodec take many minutes for each of these networks and
are left out; [lossless](p4-lossless.md) they are as above.

{table}

```
{command}    # at {commit}
```
"""


if __name__ == "__main__":
    main()
