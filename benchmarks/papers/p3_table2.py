"""P3, Table 2: a sound-recognition ResNet-50 under several quantization schemes.

    python benchmarks/papers/p3_table2.py --models models/ --data sounds/ --runs runs/
    python benchmarks/papers/p3_table2.py --models models/ --times

The runs are those of ``recipes/sound_folds.py``. The first command makes every engine's files and
measures what they get right, the second, on a quiet machine, how long they take; each keeps the
other's figures. ``--litert``: an interpreter of another environment, with litert-torch and
ai-edge-quantizer, which converts for LiteRT (TensorFlow Lite's new name); this script then needs
ai-edge-litert.

Every clip is classified by the network of the fold that it was left out of; the rates are over all
folds' clips together. Ranges come from training clips of the same fold. Times are of one window,
features in, scores out, all engines interleaved in rounds, each in a process of its own. Writes
``docs/results/p3-table2.md``, the plot beside it, ``benchmarks/results/p3-table2.json`` and
``p3-table2-times.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

import earmark
from _results import environment, read_json, write_json
from earmark import _C
from earmark.audio import read_audio
from earmark.bench.models import QDQ_VARIANTS, export_onnx, quantize_onnx
from earmark.bench.peers import onnxruntime_session
from earmark.bench.report import markdown_table
from earmark.bench.timing import Session, Summary, Worker, interleave
from earmark.clips import Clip, read_clips
from earmark.families import load_checkpoint
from earmark.metrics import classification_rates
from earmark.nn import SoundResNet
from earmark.windows import Sounds

Array = NDArray[Any]

DOCS = Path(__file__).parents[2] / "docs" / "results"
TORCH = "torch fp32"
CHECKPOINT = "model.safetensors"
# Name -> scheme, precision of all layers where it is not the scheme's, file.
SCHEMES = {
    **{name: (name, None, name) for name in ("fp32", "float16", "dynamic", "int8", "int8-full")},
    "int8, 7-bit weights": ("int8", "int7", "int8-w7"),
    "int8-full, 7-bit weights": ("int8-full", "int7", "int8-full-w7"),
}
ORT_FP32 = "ONNX Runtime fp32"
# The 7-bit weights are what ONNX Runtime's documentation advises for CPUs without VNNI.
ORT_INT8 = {
    "ONNX Runtime int8 (u8s8)": "u8s8",
    "ONNX Runtime int8 (u8s8, convolutions)": "u8s8-conv",
    "ONNX Runtime int8 (u8s8, convolutions, 7 bits)": "u8s8-conv-7bit",
}
EARMARK = {f"earmark {scheme}": scheme for scheme in SCHEMES}
LITERT = {
    f"LiteRT {scheme}": f"litert/{scheme}.tflite"
    for scheme, (_, precision, _) in SCHEMES.items()
    if precision is None
}
RATES = ("precision", "recall", "f1", "accuracy")
RATES_OF, TIMES = "p3-table2", "p3-table2-times"
FILES = {
    TORCH: CHECKPOINT,
    **{name: f"{SCHEMES[scheme][2]}.earmark" for name, scheme in EARMARK.items()},
    ORT_FP32: "fp32.onnx",
    **{name: f"{stem}.onnx" for name, stem in ORT_INT8.items()},
    **LITERT,
}
# Training clips for calibration: every eighth, three of each class.
CALIBRATION_STEP = 8


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="files of all engines")
    parser.add_argument("--data", type=Path, help="folder with meta.csv")
    parser.add_argument("--runs", type=Path, help="of recipes/sound_folds.py")
    parser.add_argument("--only", type=int, metavar="FOLD", help="classify this fold and stop")
    parser.add_argument("--litert", metavar="PYTHON", help="converts for LiteRT")
    parser.add_argument("--times", action="store_true", help="measure times, of the files made")
    parser.add_argument("--rounds", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.times:
        write_json(TIMES, all_times(args.models, args.threads, args.rounds))
    elif args.data is None or args.runs is None:
        parser.error("needs --data and --runs, or --times")
    else:
        found = all_rates(args)
        if found is None:
            return
        write_json(RATES_OF, found)
    measured, timed = (read_json(name) for name in (RATES_OF, TIMES))
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "p3-table2.md").write_text(report(measured, timed))
    plot(measured, timed)


def all_rates(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the engines get right of all folds' clips; None where only one fold was asked for."""
    clips = read_clips(args.data / "meta.csv")
    folds = [args.only] if args.only is not None else sorted({clip.fold for clip in clips})
    heard: dict[str, dict[str, Array]] = {}
    for fold in tqdm(folds, "folds", disable=None):
        models = args.models / f"fold-{fold}"
        models.mkdir(parents=True, exist_ok=True)
        trained = args.runs / f"fold-{fold}" / "model.safetensors"
        for name, by_clip in fold_scores(fold, clips, trained, models, args.litert).items():
            heard.setdefault(name, {}).update(by_clip)
    if args.only is not None:
        return None
    models = args.models / f"fold-{folds[0]}"
    return {
        "environment": environment(),
        "clips": len(clips),
        "rates": rates(clips, heard),
        "bytes": {name: (models / FILES[name]).stat().st_size for name in heard},
    }


def all_times(folder: Path, threads: list[int], rounds: int) -> dict[str, Any]:
    """Of the engines whose files are there, those of the first fold."""
    models = min(folder.glob("fold-*"), default=folder)
    names = [name for name, file in FILES.items() if (models / file).is_file()]
    if TORCH not in names:
        raise SystemExit(f"{folder}: holds no files of engines: run without --times first")
    return {
        "environment": environment(),
        "threads": {str(count): times(models, names, count, rounds) for count in threads},
        "peaks": _C.measure_peaks(_C.default_isa()),
        "ops": {
            scheme: op_times(models / FILES[f"earmark {scheme}"])
            for scheme in ("fp32", "int8", "int8, 7-bit weights")
        },
    }


def fold_scores(
    fold: int, clips: list[Clip], trained: Path, models: Path, litert: str | None
) -> dict[str, dict[str, Array]]:
    """The scores (windows, classes) of each clip of a fold, by engine, and the engines' files.

    What was found of the same network before is kept in ``models``.
    """
    kept, copy = models / "scores.json", models / CHECKPOINT
    scores: dict[str, dict[str, list[list[float]]]] = {}
    if kept.is_file() and copy.read_bytes() == trained.read_bytes():
        scores = json.loads(kept.read_text())
    copy.write_bytes(trained.read_bytes())
    net = load_checkpoint(trained, "sound-resnet")
    assert isinstance(net, SoundResNet)
    tested = [clip for clip in clips if clip.fold == fold]
    calibration = [clip.path for clip in clips if clip.fold != fold][::CALIBRATION_STEP]
    windows = {clip.name: features(net, clip.path) for clip in tested}
    calibrated = np.concatenate([features(net, path) for path in calibration])
    np.save(models / "features.npy", next(iter(windows.values()))[:1])
    np.save(models / "calibration.npy", calibrated)
    for name in engines(litert):
        if name not in scores:
            make_file(name, net, models, calibration, litert)
            call = scores_by(models / FILES[name], 1)
            scores[name] = {
                clip: np.concatenate([call(x[None]) for x in rows]).tolist()
                for clip, rows in windows.items()
            }
            kept.write_text(json.dumps(scores))
    return {
        name: {clip: np.array(rows, np.float32) for clip, rows in scores[name].items()}
        for name in engines(litert)
    }


def engines(litert: str | None) -> Iterator[str]:
    """What can run here; stderr says what cannot."""
    yield TORCH
    yield from EARMARK
    if find_spec("onnxruntime") is None:
        print("ONNX Runtime is left out: not installed", file=sys.stderr)
    else:
        yield from (ORT_FP32, *ORT_INT8)
    if litert is None:
        print("LiteRT is left out: no --litert", file=sys.stderr)
    else:
        yield from LITERT


def make_file(
    name: str, net: SoundResNet, models: Path, calibration: list[Path], litert: str | None
) -> None:
    """Write the file of an engine; LiteRT's are made all together."""
    path = models / FILES[name]
    if name in EARMARK:
        # Schemes that need no calibration do not look at it.
        scheme, layers, _ = SCHEMES[EARMARK[name]]
        precision = {} if layers is None else {"all": layers}
        earmark.quantize(net, calibration, scheme=scheme, precision=precision).save(path)
    elif name == ORT_FP32:
        one = torch.from_numpy(np.load(models / "features.npy"))
        with contextlib.redirect_stdout(sys.stderr), torch.no_grad():
            export_onnx(net, one, net(one).numpy(), path)
    elif name in ORT_INT8:
        batches = [row[None] for row in np.load(models / "calibration.npy")]
        with contextlib.redirect_stdout(sys.stderr):
            quantize_onnx(models / FILES[ORT_FP32], batches, QDQ_VARIANTS[ORT_INT8[name]], path)
    elif name in LITERT and not path.is_file():
        path.parent.mkdir(exist_ok=True)
        script = Path(__file__).with_name("_litert.py")
        command = [litert, script, "--checkpoint", models / CHECKPOINT, "-o", path.parent]
        command += ["--calibration", models / "calibration.npy"]
        subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)


def features(net: SoundResNet, path: Path) -> Array:
    """(windows, frames, n_mels) of a recording."""
    samples = read_audio(path, target_rate=net.front_end.sample_rate_hz).samples
    return np.stack([net.front_end(piece) for piece in net.pieces(samples)])


def litert_call(path: Path, threads: int) -> Callable[[Array], Array]:
    """From features (1, frames, n_mels) to scores; integer ends are quantized here."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Array) -> Array:
        if source["dtype"] == np.int8:
            scale, zero = source["quantization"]
            x = np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        scores: Array = interpreter.get_tensor(target["index"])
        if target["dtype"] == np.int8:
            scale, zero = target["quantization"]
            scores = np.float32(scale) * (scores.astype(np.float32) - zero)
        return scores

    return run


def rates(
    clips: list[Clip], heard: dict[str, dict[str, Array]]
) -> dict[str, dict[str, float | None]]:
    """Rates over all clips, and how near labels and scores are to torch's."""
    names = tuple(sorted({clip.label for clip in clips}))
    actual = np.array([names.index(clip.label) for clip in clips])

    def found(scores: dict[str, Array]) -> Array:
        pooled = [Sounds.of_scores(names, scores[clip.name], 1.0) for clip in clips]
        return np.array([names.index(sounds.label) for sounds in pooled])

    return {
        name: {
            **classification_rates(actual, found(scores), len(names)),
            "same_as_torch": float(np.mean(found(scores) == found(heard[TORCH]))),
            "sqnr_db": None if name == TORCH else sqnr(heard[TORCH], scores),
        }
        for name, scores in heard.items()
    }


def sqnr(expected: dict[str, Array], actual: dict[str, Array]) -> float:
    """Scores to their difference, in dB; what all classes have in common changes nothing."""
    true, seen = (
        np.concatenate([scores[clip] for clip in expected]).astype(np.float64)
        for scores in (expected, actual)
    )
    true, seen = (x - x.mean(axis=1, keepdims=True) for x in (true, seen))
    return float(10 * np.log10((true**2).sum() / ((true - seen) ** 2).sum()))


def times(models: Path, names: list[str], threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of one window, by engine."""
    workers = [Worker(name, partial(session, models / FILES[name], threads)) for name in names]
    measured = interleave(workers, progress(rounds, threads), calls=5)
    for worker in workers:
        worker.close()
    return {name: vars(Summary.of(calls)) for name, calls in measured.items()}


def progress(rounds: int, threads: int) -> Iterator[int]:
    yield from tqdm(range(rounds), f"rounds, {threads} threads", disable=None)


def session(path: Path, threads: int) -> Session:
    """An engine on one window, in a worker."""
    folder = path.parent.parent if path.suffix == ".tflite" else path.parent
    window = np.load(folder / "features.npy")
    scores = scores_by(path, threads)
    return Session(lambda: scores(window))


def scores_by(path: Path, threads: int) -> Callable[[Array], Array]:
    """The engine of a file: from features (1, frames, n_mels) to scores (1, classes)."""
    if path.suffix == ".earmark":
        return earmark.Classifier(path, threads=threads).scores
    if path.suffix == ".onnx":
        return onnx_call(path, threads)
    if path.suffix == ".tflite":
        return litert_call(path, threads)
    torch.set_num_threads(threads)
    net = load_checkpoint(path)

    def run(x: Array) -> Array:
        with torch.inference_mode():
            scores: Array = net(torch.from_numpy(x)).numpy()
        return scores

    return run


def onnx_call(path: Path, threads: int) -> Callable[[Array], Array]:
    session = onnxruntime_session(path, threads)
    return lambda x: session.run(None, {"features": x})[0]


def op_times(path: Path, calls: int = 20) -> dict[str, dict[str, float]]:
    """Milliseconds (each op's fastest call, one thread) and 1e9 products a second, by kind."""
    model = earmark.Classifier(path, threads=1)
    window = np.load(path.parent / "features.npy")[0]
    profiles = [model.profile(window) for _ in range(calls)]
    groups: dict[str, dict[str, float]] = {}
    for runs in zip(*profiles, strict=True):
        group = groups.setdefault(kind_of(runs[0]["name"], runs[0]["op"]), {"ms": 0, "macs": 0})
        group["ms"] += min(op["nanoseconds"] for op in runs) / 1e6
        group["macs"] += runs[0]["macs"]
    return {
        kind: {"ms": group["ms"], "gmac_per_s": group["macs"] / group["ms"] / 1e6}
        for kind, group in groups.items()
    }


def kind_of(name: str, op: str) -> str:
    if name == "conv1":
        return "first convolution" if op.startswith("conv") else "all else"
    for ending, kind in (
        (".conv2", "3x3 convolutions"),
        (".conv1", "1x1 convolutions"),
        (".conv3", "1x1 convolutions"),
        (".downsample.0", "1x1 convolutions of shortcuts"),
        (".add", "additions"),
    ):
        if name.endswith(ending):
            return kind
    return "all else"


def op_rows(ops: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """A row for each kind, and their sum."""
    kinds = list(ops["fp32"])
    rows = []
    for kind in kinds:
        row = [kind]
        for groups in ops.values():
            group = groups[kind]
            speed = f" ({group['gmac_per_s']:.0f})" if "convolution" in kind else ""
            row.append(f"{group['ms']:.2f}{speed}")
        rows.append(row)
    totals = [sum(group["ms"] for group in groups.values()) for groups in ops.values()]
    return [*rows, ["all", *(f"{total:.2f}" for total in totals)]]


def report(result: dict[str, Any], timed: dict[str, Any]) -> str:
    """The page."""
    rates_by_name, threads = result["rates"], timed["threads"]
    head = timed["environment"]
    fp32 = rates_by_name["earmark fp32"]["f1"]
    header = ["model", "size MB", "of fp32", "precision", "recall", "F1", "accuracy", "as torch"]
    header += ["scores, dB"]
    rows, time_rows = [], []
    for name, measured in rates_by_name.items():
        size, near = result["bytes"][name], measured["sqnr_db"]
        row = [name, f"{size / 1e6:.2f}", f"{size / result['bytes']['earmark fp32']:.3f}"]
        row += [f"{measured[rate]:.4f}" for rate in (*RATES, "same_as_torch")]
        rows.append([*row, "" if near is None else f"{near:.1f}"])
    for name in next(iter(threads.values())):
        row = [name]
        for times_of in threads.values():
            summary = times_of[name]
            spread = f"{summary['quartile1_ms']:.1f}-{summary['quartile3_ms']:.1f}"
            row.append(f"{summary['min_ms']:.1f} / {summary['median_ms']:.1f} ({spread})")
        time_rows.append(row)
    claims = []
    peers = [name for name in ORT_INT8 if name in next(iter(threads.values()))]
    for count, times_of in threads.items():
        for scheme in list(SCHEMES)[1:]:
            own = times_of[f"earmark {scheme}"]
            row = [f"{scheme}, {thread_count(count)}"]
            for peer in ("earmark fp32", *peers):
                other = times_of[peer]
                ratios = [other[of] / own[of] for of in ("min_ms", "median_ms")]
                row.append(" / ".join(f"{ratio:.2f}" for ratio in ratios))
            claims.append(row)
    changes = [
        [scheme, f"{rates_by_name[f'earmark {scheme}']['f1'] - fp32:+.4f}"]
        for scheme in list(SCHEMES)[1:]
    ]
    return _TEXT.format(
        clips=result["clips"],
        machine=f"{head['cpu']['model']} ({', '.join(head['cpu']['isa'])})",
        load=f"{head['load_average_1min']:.1f}",
        table=markdown_table(header, rows),
        changes=markdown_table(["scheme", "F1 to fp32"], changes),
        times=markdown_table(
            ["model", *(f"ms, {thread_count(count)}" for count in threads)], time_rows
        ),
        ops=markdown_table(["op", *timed["ops"]], op_rows(timed["ops"])),
        peaks=", ".join(f"{key} {value:.0f}" for key, value in timed["peaks"].items()),
        claims=markdown_table(["scheme", "x fp32", *(f"x {name}" for name in peers)], claims),
        command=result["environment"]["command"],
        commit=result["environment"]["commit"],
        times_command=head["command"],
        times_commit=head["commit"],
    )


def thread_count(count: str) -> str:
    return f"{count} thread{'s' * (int(count) > 1)}"


def plot(result: dict[str, Any], timed: dict[str, Any]) -> None:
    """F1 over the time of a window, the size as the area of the dot."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "earmark"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    times_of = next(iter(timed["threads"].values()))
    for name, measured in result["rates"].items():
        if name not in times_of:
            continue
        own = name.startswith("earmark")
        area = 2 * result["bytes"][name] / 1e6
        x, y = times_of[name]["median_ms"], measured["f1"]
        axes.scatter(x, y, s=area, alpha=0.6, color="C0" if own else "C7", label=name)
        axes.annotate(name, (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.set_xlabel("milliseconds of a window, one thread")
    axes.set_ylabel("macro F1 over all folds")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.savefig(DOCS / "p3-table2.svg", metadata={"Date": None})


_TEXT = """# P3, Table 2: a sound-recognition ResNet-50 under quantization

"Lightweight sound-recognition ResNet for on-device use". ESC-10 without its fifth fold, {clips}
clips of 5 s in four folds: each clip is classified by the ResNet-50 that was trained on the other
three ([recipe](../../benchmarks/recipes/sound_folds.py)), rates are of all clips together,
macro-averaged over the classes. Windows of 2 s, one each 1.6 s, the mean of their probabilities.
Ranges of activations come from every eighth training clip.

ONNX Runtime's INT8 is its static quantization (QDQ, per channel), LiteRT's schemes are those of
ai-edge-quantizer, both with the same clips. LiteRT is what TensorFlow Lite is called now.
*as torch*: the share of clips with torch's label. *scores*: those of all windows, less each
window's mean, to their difference from torch's.

{table}

What earmark's schemes change in F1; a clip more or less is about 0.003.

{changes}

## Time

Of one window, features in and scores out: the fastest call / the median (quartiles); {machine}, all
engines interleaved in one run in processes of their own (load average {load}).

{times}

How many times as fast as others earmark is, by the fastest calls / the medians. On a busy host the
fastest calls say more.

{claims}

Where earmark's time goes, one thread: milliseconds, each op's fastest call of 20, and in brackets
1e9 products a second. The peaks of one core, measured by the same run: {peaks}.

{ops}

The paper's own TFLite schemes (363 classes, 285 MB HDF5 original): float16 F1 0.890 at 0.9x the
time of float32, dynamic 0.850 and 1.06x, INT8 0.283 and 1.05x, full INT8 0.0001 and 1.05x.

![F1 and time of a window](p3-table2.svg)

```
{command}    # at {commit}
{times_command}    # at {times_commit}
```
"""


if __name__ == "__main__":
    main()
