"""P2, Table 2: relative elapsed time of piecewise-linear softmaxes; an exact softmax is 1.

    python benchmarks/papers/p2_table2.py

One thread, everything interleaved in rounds. The softmax alone, (1, 3072, 300) float32 over the
last axis, by instruction set; the network's pooling and the whole network (SpeechBrain's shape, 3 s
of speech), in earmark and in torch. Writes ``docs/results/p2-table2.md``, the plot of the functions
beside it and ``benchmarks/results/p2-table2.json``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import earmark
from _results import environment, write_json
from earmark import _C
from earmark.bench.models import Workload, load_features, load_network, prepare, waves
from earmark.bench.report import markdown_table
from earmark.bench.timing import Summary
from earmark.nn import EcapaTdnn, LookupTableSoftmax, PiecewiseLinearSoftmax, replace_softmax
from earmark.nn.softmax import ApproximateSoftmax

DOCS = Path(__file__).parents[2] / "docs" / "results"
SHAPE = (1, 3072, 300)
EXACT = "exact softmax"
LAYERS: dict[str, Callable[[], ApproximateSoftmax]] = {
    "(1) clip": lambda: PiecewiseLinearSoftmax(segments=0),
    "(2) one segment + clip": lambda: PiecewiseLinearSoftmax(segments=1),
    "(3) two segments + clip": lambda: PiecewiseLinearSoftmax(segments=2),
    "four segments + clip": lambda: PiecewiseLinearSoftmax(segments=4),
    "table of 64": lambda: LookupTableSoftmax(entries=64),
    "table of 4096": lambda: LookupTableSoftmax(entries=4096),
}

Call = Callable[[], Any]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--channels", type=int, default=1024, help="(%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"environment": environment()}
    with torch.inference_mode():
        for isa in _C.available_isas():
            if not isa.endswith("_emulated"):
                result[f"softmax, {isa}"] = timed(alone(isa), args.rounds, calls=5)
        with tempfile.TemporaryDirectory() as folder:
            result |= network(Path(folder), args.channels, args.rounds)
    write_json("p2-table2", result)
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "p2-table2.md").write_text(report(result, args.channels))
    plot()


def timed(calls_by_name: dict[str, Call], rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Summaries of each call's milliseconds; who goes first rotates with the rounds."""
    names = list(calls_by_name)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            run = calls_by_name[name]
            run()
            for _ in range(calls):
                begin = time.perf_counter_ns()
                run()
                times_ms[name].append((time.perf_counter_ns() - begin) / 1e6)
    return {name: vars(Summary.of(times)) for name, times in times_ms.items()}


def alone(isa: str) -> dict[str, Call]:
    """The kernels of that instruction set, and torch's softmax."""
    x = (np.random.default_rng(0).normal(size=SHAPE) * 2 - 4).astype(np.float32)
    tensor, out = torch.from_numpy(x), np.empty_like(x)
    calls: dict[str, Call] = {EXACT: lambda: _C.softmax_f32(x, out, isa=isa)}
    for name, make in LAYERS.items():
        layer = make()
        layer.fit((float(x.min()), float(x.max())))
        calls[name] = kernel(layer, x, out, isa)
    calls["torch.softmax"] = lambda: torch.softmax(tensor, dim=-1)
    return calls


def kernel(layer: ApproximateSoftmax, x: Any, out: Any, isa: str) -> Call:
    if isinstance(layer, LookupTableSoftmax):
        table, (low, high) = layer.table.numpy(), layer.limits.tolist()
        return lambda: _C.table_softmax_f32(x, out, table=table, low=low, high=high, isa=isa)
    assert isinstance(layer, PiecewiseLinearSoftmax)
    f = layer.function()
    lines = {
        role: np.array(getattr(f, role), np.float32)
        for role in ("breakpoints", "slopes", "intercepts")
    }
    return lambda: _C.pwl_softmax_f32(x, out, **lines, low=f.low, high=f.high, isa=isa)


def network(folder: Path, channels: int, rounds: int) -> dict[str, Any]:
    """The pooling op and the whole network, by softmax."""
    workload = Workload.speechbrain(channels, SHAPE[2], 1)
    prepare(workload, folder, [])
    features = load_features(folder)[0]
    tensor = torch.from_numpy(features[None])
    networks: dict[str, Callable[[], EcapaTdnn]] = {EXACT: lambda: load_network(folder)}
    samples = load_network(folder).front_end.samples_of_frames(SHAPE[2])
    calibration = list(waves("*-2.flac", samples))
    for name, make in LAYERS.items():
        networks[name] = lambda make=make: replace_softmax(
            load_network(folder), make(), calibration
        )
    whole: dict[str, dict[str, Call]] = {"torch": {}, "fp32": {}, "int8": {}}
    models: dict[str, dict[str, earmark.Embedder]] = {"fp32": {}, "int8": {}}
    for name, make_network in networks.items():
        net = make_network()
        whole["torch"][name] = lambda net=net: net(tensor)
        for scheme in models:
            path = folder / "model.earmark"
            earmark.quantize(net, calibration, scheme=scheme).save(path)
            model = earmark.load(path, threads=1)
            models[scheme][name] = model
            whole[scheme][name] = lambda model=model: model.embed_features(features)
    result: dict[str, Any] = {}
    for scheme, calls in whole.items():
        result[f"network, {scheme}"] = timed(calls, rounds if scheme == "int8" else 10, calls=2)
    for scheme, by_name in models.items():
        ops: dict[str, list[float]] = {name: [] for name in by_name}
        for _ in range(rounds):
            for name, model in by_name.items():
                op = next(op for op in model.profile(features) if op["name"] == "asp.conv")
                ops[name].append(op["nanoseconds"] / 1e6)
        result[f"pooling, {scheme}"] = {n: vars(Summary.of(times)) for n, times in ops.items()}
    return result


def report(result: dict[str, Any], channels: int) -> str:
    head = result["environment"]
    sections = {key: value for key, value in result.items() if key != "environment"}
    names = [EXACT, *LAYERS, "torch.softmax"]
    header = ["softmax", *(f"{key}, ms" for key in sections)]
    rows = []
    for name in names:
        row = [name]
        for times in sections.values():
            if name not in times:
                row.append("")
                continue
            relative = times[name]["median_ms"] / times[EXACT]["median_ms"]
            row.append(f"{times[name]['median_ms']:.3g} ({relative:.3f})")
        rows.append(row)
    shares = [f"{scheme} {100 * share:.1f} %" for scheme, share in softmax_shares(result).items()]
    return _TEXT.format(
        table=markdown_table(header, rows),
        machine=f"{head['cpu']['model']} ({_C.default_isa()})",
        channels=channels,
        shares=", ".join(shares),
        command=head["command"],
        commit=head["commit"],
    )


def softmax_shares(result: dict[str, Any]) -> dict[str, float]:
    """What the exact softmax costs of the whole network: its op beside that with the clip."""
    shares = {}
    for scheme in ("fp32", "int8"):
        pooling = result[f"pooling, {scheme}"]
        extra = pooling[EXACT]["median_ms"] - pooling["(1) clip"]["median_ms"]
        shares[scheme] = extra / result[f"network, {scheme}"][EXACT]["median_ms"]
    return shares


def plot() -> None:
    """The functions, fitted over [-14, 0]."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "earmark"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    v = np.linspace(-14, 0, 1401)
    axes.plot(v, np.exp(v), "k", lw=2, label="exp")
    for segments in (1, 2, 4):
        for method, style in (("least_squares", "-"), ("minimax", ":")):
            layer = PiecewiseLinearSoftmax(segments=segments, range=(-14, 0), method=method)
            label = f"{segments} segment{'s' * (segments > 1)}, {method.replace('_', ' ')}"
            axes.plot(v, layer.function()(v), style, label=label)
    axes.set_xlim(-7, 0)
    axes.set_xlabel("logit, the largest that calibration saw is 0")
    axes.set_ylabel("numerator")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(DOCS / "p2-functions.svg", metadata={"Date": None})


_TEXT = """# P2, Table 2: relative elapsed time

"On-device speaker recognition through piecewise-linear approximation". Median milliseconds on one
thread, in brackets relative to earmark's own exact softmax; {machine}, everything of a column in
one run, interleaved.

* softmax: (1, 3072, 300) float32 over the last axis, earmark's kernels for rows;
* network: SpeechBrain's shape, C = {channels}, features of 3 s to embedding, in torch eager (the
  approximate softmaxes by earmark's kernels there too) and in earmark, float32 and INT8;
* pooling: the attention's last layer, softmax and weighted statistics, which earmark fuses.

{table}

A table of N entries takes 8 N bytes (values and differences). The whole network can gain no more
than the exact softmax costs in it; beside the clip alone that is {shares}.

![exp and the functions fitted to it](p2-functions.svg)

```
{command}
```
at {commit}.
"""


if __name__ == "__main__":
    main()
