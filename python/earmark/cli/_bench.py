"""``earmark bench``: how fast a model file is on this machine, and the other engines beside it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.cli._output import (
    CommandError,
    add_command,
    add_device,
    positive_int,
    print_error,
    print_result,
    progress,
    table,
)

if TYPE_CHECKING:
    from earmark.cli._output import Subparsers
    from earmark.nn.config import EcapaConfig

_MOST_SECONDS = 3600
_MOST_FRAMES = 100 * _MOST_SECONDS
_MOST_RECORDINGS = 1024
_ROUNDS, _CALLS = 10, 3


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "Latency, throughput, memory, share of the machine's measured peak, and where the time "
        "goes. With --peers, other engines in the same run, on a network of the same shape.",
    )
    parser.add_argument("model", metavar="MODEL", help="model file (.earmark)")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="measure the engines that are installed beside it: torch, ONNX Runtime, OpenVINO",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        nargs="+",
        metavar="N",
        help="thread counts to measure (default: the physical cores this process may use)",
    )
    add_device(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=_seconds, metavar="S", help="length of a recording (default: 3)"
    )
    length.add_argument(
        "--frames", type=_up_to(_MOST_FRAMES), metavar="N", help="the same in frames of 10 ms"
    )
    parser.add_argument(
        "--batch",
        type=_up_to(_MOST_RECORDINGS),
        default=16,
        metavar="N",
        help="recordings in one call of the throughput figure (default: 16); latency is of one",
    )


def run(args: argparse.Namespace) -> int:
    """Measure each thread count in a process of its own, print the figures."""
    from earmark import modelfile
    from earmark.bench.compare import in_own_process
    from earmark.bench.measure import against_peak, measure
    from earmark.bench.report import environment
    from earmark.nn.config import EcapaConfig

    if args.device != "cpu" and (args.peers or args.threads):
        raise CommandError("--peers and --threads are of the CPU: not with --device")
    metadata = modelfile.read(args.model).metadata
    config = EcapaConfig.from_dict(metadata["config"])
    names, left_out = _installed_peers() if args.peers else ([], {})
    seconds = 3.0 if args.seconds is None and args.frames is None else args.seconds
    result: dict[str, Any] = {
        "model": args.model,
        "scheme": metadata["scheme"],
        "parameters": metadata["parameters"],
        "file_bytes": Path(args.model).stat().st_size,
        "environment": environment(),
        "threads": {},
    }
    counts = args.threads or [None]
    for threads in progress(args, counts, len(counts), "measure"):
        measured = in_own_process(
            measure, args.model, seconds, args.frames, args.batch, threads, args.device
        )
        measured |= against_peak(measured, config, metadata["scheme"])
        result["threads"][str(measured["threads"] or measured["device"])] = measured
    if args.peers:
        result["peers"] = _compare(args, result, config, names)
        result["peers_left_out"] = left_out
    print_result(args, result, _lines(result))
    return 0


def _seconds(text: str) -> float:
    """argparse type: seconds of a recording."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be a number above 0 and at most {_MOST_SECONDS}, got {text!r}"
        )
    return value


def _up_to(limit: int) -> Any:
    def whole(text: str) -> int:
        """argparse type: an integer from 1 to the limit."""
        value = positive_int(text)
        if value > limit:
            raise argparse.ArgumentTypeError(f"must be at most {limit}, got {text!r}")
        return value

    return whole


def _installed_peers() -> tuple[list[str], dict[str, list[str]]]:
    """Peers that can run, and the others with the packages they lack.

    Raises CommandError without torch, which makes the network that all of them run.
    """
    from importlib.util import find_spec

    from earmark.bench.peers import ENGINES, PEERS

    if find_spec("torch") is None:
        raise CommandError("--peers needs torch: pip install earmark[torch]")
    left_out = {name: missing for name in PEERS if (missing := ENGINES[name].missing())}
    return [name for name in PEERS if name not in left_out], left_out


def _compare(
    args: argparse.Namespace, result: dict[str, Any], config: EcapaConfig, names: list[str]
) -> dict[str, Any]:
    """The model and its peers by thread count; the model's own weights are not the peers'."""
    from earmark.bench.compare import compare, failures, prepared
    from earmark.bench.models import Workload
    from earmark.bench.peers import ENGINES, engine_of_file

    engines = {"earmark": engine_of_file(Path(args.model))}
    engines |= {name: ENGINES[name] for name in names}
    first = next(iter(result["threads"].values()))
    workload = Workload(config, first["recording"]["frames"], batch=1)
    compared: dict[str, Any] = {}
    with prepared(workload, names, silent=True) as (models, reference):
        for threads in result["threads"]:
            measured = compare(
                engines,
                models,
                int(threads),
                workload,
                reference,
                rounds=_ROUNDS,
                calls=_CALLS,
                quiet=args.quiet,
            )
            if "failed" not in measured["earmark"]:
                measured["earmark"]["cosine"] = None
            if not args.quiet:
                for line in failures(measured):
                    print_error(line)
            compared[threads] = measured
    return compared


def _lines(result: dict[str, Any]) -> Iterator[str]:
    machine = result["environment"]
    yield (
        f"{result['model']}: {result['scheme']}, {result['parameters'] / 1e6:.2f} M parameters, "
        f"{result['file_bytes']:,} bytes"
    )
    yield (
        f"{machine['cpu']['model']} ({', '.join(machine['cpu']['isa'])}), "
        f"{machine['cpus_available']} CPUs, load average {machine['load_average_1min']:.1f}"
    )
    for measured in result["threads"].values():
        yield ""
        yield from _measured_lines(measured)
    for threads, engines in result.get("peers", {}).items():
        yield ""
        yield from _peer_lines(threads, engines)
    for name, missing in result.get("peers_left_out", {}).items():
        yield f"{name}: left out, not installed: {', '.join(missing)}"


def _measured_lines(measured: dict[str, Any]) -> Iterator[str]:
    from earmark.bench.report import OP_HEADER, op_rows

    recording, peak = measured["recording"], measured["peak_gmac_per_s"]
    threads = measured["threads"]
    place = measured["device"] if threads is None else _threads(threads)
    yield (
        f"{place}, {measured['isa']}; recordings of "
        f"{recording['seconds']:.2f} s, {recording['frames']} frames"
    )
    yield (
        f"load {measured['load_s']:.3f} s, first call {measured['first_call_s']:.3f} s, "
        f"peak memory {measured['peak_rss_mib']:.0f} MiB"
    )
    share = ""
    if peak:
        rates = ", ".join(f"{name} {rate:.1f}" for name, rate in peak.items())
        yield f"measured peak, GMAC/s: {rates}"
        share = f", {100 * measured['share_of_peak']:.1f} % of the peak"
    yield (
        f"features -> embedding: {measured['gmac_nominal']:.2f} GMAC nominal, "
        f"{measured['gmac_per_s_nominal']:.1f} GMAC/s{share}"
    )
    yield ""
    batch = measured["throughput"]["waveform"]["batch"]
    header = ["to the embedding from", "median ms", "min", "IQR"]
    header += [f"utterances/s, {batch} a call", "real-time factor"]
    yield from table(
        header,
        [
            [
                name,
                f"{latency['median_ms']:.2f}",
                f"{latency['min_ms']:.2f}",
                f"{latency['quartile1_ms']:.2f}-{latency['quartile3_ms']:.2f}",
                f"{measured['throughput'][name]['utterances_per_s']:.1f}",
                f"{measured['throughput'][name]['real_time_factor']:.5f}",
            ]
            for name, latency in measured["latency"].items()
        ],
    )
    yield ""
    yield from table(OP_HEADER, op_rows(measured["ops"]))


def _peer_lines(threads: str, engines: dict[str, Any]) -> Iterator[str]:
    from earmark.bench.compare import HEADER, rows

    yield (
        f"{_threads(int(threads))}, features -> embedding; peers: random weights in the same shape"
    )
    yield from table(HEADER, rows(engines))


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
