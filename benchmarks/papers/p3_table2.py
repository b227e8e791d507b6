"""P3, Table 2: a sound-recognition ResNet-50 under several quantization schemes.

    python benchmarks/recipes/sound_folds.py --data sounds/ -o runs/
    python benchmarks/papers/p3_table2.py --data sounds/ --runs runs/

Every clip is classified by the network of the fold that it was left out of; the rates are over all
folds' clips together. Ranges come from training clips of the same fold. Times are of one window,
features in, scores out, all engines interleaved in rounds, each in a process of its own. Writes
``docs/results/p3-table2.md``, the plot beside it and ``benchmarks/results/p3-table2.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
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
from _results import environment, write_json
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
SCHEMES = ("fp32", "float16", "dynamic", "int8", "int8-full")
ORT_FP32 = "ONNX Runtime fp32"
# The 7-bit weights are what ONNX Runtime's documentation advises for CPUs without VNNI.
ORT_INT8 = {
    "ONNX Runtime int8 (u8s8)": "u8s8",
    "ONNX Runtime int8 (u8s8, convolutions)": "u8s8-conv",
    "ONNX Runtime int8 (u8s8, convolutions, 7 bits)": "u8s8-conv-7bit",
    "ONNX Runtime int8 (s8s8)": "s8s8",
}
RATES = ("precision", "recall", "f1", "accuracy")
# Training clips for calibration: every fifth, 6 or 7 of each class.
CALIBRATION_STEP = 5


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with meta.csv")
    parser.add_argument("--runs", type=Path, required=True, help="of recipes/sound_folds.py")
    parser.add_argument("--rounds", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = read_clips(args.data / "meta.csv")
    folds = sorted({clip.fold for clip in clips})
    predicted: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for fold in tqdm(folds, "folds", disable=None):
            models = Path(folder, str(fold))
            models.mkdir()
            trained = args.runs / f"fold-{fold}" / "model.safetensors"
            for name, by_clip in classify_fold(fold, clips, trained, models).items():
                predicted.setdefault(name, {}).update(by_clip)
        models = Path(folder, str(folds[0]))
        result: dict[str, Any] = {
            "environment": environment(),
            "clips": len(clips),
            "rates": rates(clips, predicted),
            "bytes": {
                name: (models / file).stat().st_size for name, file in files(predicted).items()
            },
            "threads": {
                threads: times(models, list(predicted), threads, args.rounds)
                for threads in args.threads
            },
        }
    write_json("p3-table2", result)
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "p3-table2.md").write_text(report(result))
    plot(result)


def classify_fold(
    fold: int, clips: list[Clip], trained: Path, models: Path
) -> dict[str, dict[str, str]]:
    """The label of each clip of a fold, by engine; their files are written to ``models``."""
    net = load_checkpoint(trained, "sound-resnet")
    assert isinstance(net, SoundResNet)
    tested = [clip for clip in clips if clip.fold == fold]
    calibration = [clip.path for clip in clips if clip.fold != fold][::CALIBRATION_STEP]
    windows = {clip.name: features(net, clip.path) for clip in tested}
    labels: dict[str, dict[str, str]] = {TORCH: torch_labels(net, windows)}
    (models / CHECKPOINT).write_bytes(trained.read_bytes())
    for scheme in SCHEMES:
        path = models / f"{scheme}.earmark"
        # Those that need no calibration do not look at it.
        earmark.quantize(net, calibration, scheme=scheme).save(path)
        sounds = earmark.Classifier(path).classify([clip.path for clip in tested])
        found = zip(tested, sounds, strict=True)
        labels[f"earmark {scheme}"] = {clip.name: heard.label for clip, heard in found}
    if find_spec("onnxruntime") is None:
        print("ONNX Runtime is left out: not installed", file=sys.stderr)
        return labels
    one = next(iter(windows.values()))[:1]
    np.save(models / "features.npy", one)
    batches = [row[None] for path in calibration for row in features(net, path)]
    with contextlib.redirect_stdout(sys.stderr), torch.no_grad():
        expected = net(torch.from_numpy(one)).numpy()
        export_onnx(net, torch.from_numpy(one), expected, models / "fp32.onnx")
        for variant in ORT_INT8.values():
            path = models / f"{variant}.onnx"
            quantize_onnx(models / "fp32.onnx", batches, QDQ_VARIANTS[variant], path)
    for name, stem in {ORT_FP32: "fp32", **ORT_INT8}.items():
        labels[name] = onnx_labels(net, models / f"{stem}.onnx", windows)
    return labels


def features(net: SoundResNet, path: Path) -> Array:
    """(windows, frames, n_mels) of a recording."""
    samples = read_audio(path, target_rate=net.front_end.sample_rate_hz).samples
    return np.stack([net.front_end(piece) for piece in net.pieces(samples)])


def torch_labels(net: SoundResNet, windows: dict[str, Array]) -> dict[str, str]:
    with torch.inference_mode():
        return label_each(net, windows, lambda x: net(torch.from_numpy(x)).numpy())


def onnx_labels(net: SoundResNet, path: Path, windows: dict[str, Array]) -> dict[str, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def scores(x: Array) -> Array:
        return np.concatenate([session.run(None, {"features": row[None]})[0] for row in x])

    return label_each(net, windows, scores)


def label_each(
    net: SoundResNet, windows: dict[str, Array], scores: Callable[[Array], Array]
) -> dict[str, str]:
    """Pooled as ``Classifier`` does."""
    return {
        name: Sounds.of_scores(net.labels, scores(rows), 1.0).label
        for name, rows in windows.items()
    }


def rates(clips: list[Clip], predicted: dict[str, dict[str, str]]) -> dict[str, dict[str, float]]:
    """Rates over all clips, and the share of clips whose label is that of torch."""
    names = sorted({clip.label for clip in clips})
    number = {label: i for i, label in enumerate(names)}
    actual = np.array([number[clip.label] for clip in clips])
    result = {}
    for name, labels in predicted.items():
        found = np.array([number[labels[clip.name]] for clip in clips])
        same = np.mean([labels[clip.name] == predicted[TORCH][clip.name] for clip in clips])
        measured = classification_rates(actual, found, len(names))
        result[name] = {**measured, "same_as_torch": float(same)}
    return result


def files(names: Any) -> dict[str, str]:
    """The file of each engine."""
    known = {
        TORCH: CHECKPOINT,
        **{f"earmark {scheme}": f"{scheme}.earmark" for scheme in SCHEMES},
        ORT_FP32: "fp32.onnx",
        **{name: f"{stem}.onnx" for name, stem in ORT_INT8.items()},
    }
    return {name: known[name] for name in names}


def times(models: Path, names: list[str], threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of one window, by engine."""
    workers = [
        Worker(name, partial(session, file, models, threads)) for name, file in files(names).items()
    ]
    measured = interleave(workers, progress(rounds, threads), calls=5)
    for worker in workers:
        worker.close()
    return {name: vars(Summary.of(calls)) for name, calls in measured.items()}


def progress(rounds: int, threads: int) -> Iterator[int]:
    yield from tqdm(range(rounds), f"rounds, {threads} threads", disable=None)


def session(file: str, models: Path, threads: int) -> Session:
    """An engine on one window, in a worker."""
    window = np.load(models / "features.npy")
    path = models / file
    if path.suffix == ".onnx":
        return onnxruntime_session(path, threads, window)
    if path.suffix == ".earmark":
        model = earmark.Classifier(path, threads=threads)
        return Session(lambda: model.scores(window), {"isa": model.isa})
    torch.set_num_threads(threads)
    net = load_checkpoint(path)
    tensor = torch.from_numpy(window)

    def run() -> Array:
        with torch.inference_mode():
            scores: Array = net(tensor).numpy()
        return scores

    return Session(run)


def report(result: dict[str, Any]) -> str:
    """The page."""
    head = result["environment"]
    rates_by_name, threads = result["rates"], result["threads"]
    fp32 = rates_by_name["earmark fp32"]["f1"]
    header = ["model", "size MB", "of fp32"]
    header += [f"ms, {count} thread{'s' * (count > 1)}" for count in threads]
    header += ["precision", "recall", "F1", "accuracy", "as torch"]
    rows = []
    for name, measured in rates_by_name.items():
        size = result["bytes"][name]
        row = [name, f"{size / 1e6:.2f}", f"{size / result['bytes']['earmark fp32']:.3f}"]
        for times_of in threads.values():
            summary = times_of[name]
            spread = f"{summary['quartile1_ms']:.1f}-{summary['quartile3_ms']:.1f}"
            row.append(f"{summary['median_ms']:.1f} ({spread})")
        row += [f"{measured[rate]:.4f}" for rate in (*RATES, "same_as_torch")]
        rows.append(row)
    claims = []
    for count, times_of in threads.items():
        medians = {name: times_of[name]["median_ms"] for name in times_of}
        peers = {name: medians[name] for name in ORT_INT8 if name in medians}
        for scheme in SCHEMES[1:]:
            own = medians[f"earmark {scheme}"]
            line = f"{medians['earmark fp32'] / own:.2f}x earmark fp32"
            if peers:
                best = min(peers, key=peers.__getitem__)
                line += f", {peers[best] / own:.2f}x {best}"
            change = rates_by_name[f"earmark {scheme}"]["f1"] - fp32
            claims.append([f"{scheme}, {count} thread{'s' * (count > 1)}", line, f"{change:+.4f}"])
    return _TEXT.format(
        clips=result["clips"],
        machine=f"{head['cpu']['model']} ({', '.join(head['cpu']['isa'])})",
        load=f"{head['load_average_1min']:.1f}",
        table=markdown_table(header, rows),
        claims=markdown_table(["scheme", "speed (medians)", "F1 to fp32"], claims),
        command=head["command"],
        commit=head["commit"],
    )


def plot(result: dict[str, Any]) -> None:
    """F1 over the time of a window, the size as the area of the dot."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "earmark"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    times_of = next(iter(result["threads"].values()))
    for name, measured in result["rates"].items():
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
Ranges of activations come from every fifth training clip.

Times are of one window, features in and scores out, medians with quartiles in brackets; {machine},
all engines interleaved in one run in processes of their own (load average {load}). ONNX Runtime's
INT8 is its static quantization (QDQ, per channel) with the same clips.

{table}

{claims}

The paper's own TFLite schemes (363 classes, 285 MB HDF5 original): float16 F1 0.890 at 0.9x the
time of float32, dynamic 0.850 and 1.06x, INT8 0.283 and 1.05x, full INT8 0.0001 and 1.05x.

![F1 and time of a window](p3-table2.svg)

```
{command}
```
at {commit}.
"""


if __name__ == "__main__":
    main()
