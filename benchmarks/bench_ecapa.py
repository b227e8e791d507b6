"""Latency of an ECAPA-TDNN, features in and embedding out, in earmark and in other engines.

    python benchmarks/bench_ecapa.py --threads 1 2

Prints Markdown tables; writes everything measured to ``benchmarks/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from _results import environment, installed, write_json
from earmark.bench.compare import HEADER, compare, failures, in_own_process, prepared, rows
from earmark.bench.measure import against_peak, measure
from earmark.bench.models import Reference, Workload
from earmark.bench.peers import ENGINES
from earmark.bench.report import OP_HEADER, markdown_table, op_rows


def main() -> None:
    """Run the benchmark that the command line asks for."""
    args = _parse_arguments()
    workload = Workload.speechbrain(args.channels, args.frames, args.batch)
    shape = {"channels": args.channels, "frames": args.frames, "batch": args.batch}
    engines = installed(args.engines)
    result: dict[str, Any] = {"environment": environment(), "shape": shape}
    print("preparing the models", file=sys.stderr)
    with prepared(workload, engines) as (models, reference):
        result |= {"gmac": workload.gmac, "parameters": reference.parameters}
        result |= {"threads": {}, "earmark": {}}
        _print_head(result["environment"], workload, reference)
        for threads in args.threads:
            measured = compare(
                engines,
                models,
                threads,
                workload,
                reference,
                rounds=args.rounds,
                calls=args.calls,
            )
            result["threads"][str(threads)] = measured
            print(f"\n{threads} thread{'s' if threads > 1 else ''}\n")
            print(markdown_table(HEADER, rows(measured)), *failures(measured), sep="\n", flush=True)
            if "earmark-int8" in engines:
                own = in_own_process(
                    measure, str(models / "int8.earmark"), None, args.frames, args.batch, threads
                )
                own |= against_peak(own, workload.config, "int8")
                result["earmark"][str(threads)] = own
                _print_own(own)
    default_name = f"ecapa-c{args.channels}-t{args.frames}-b{args.batch}"
    path = write_json(args.name or default_name, result)
    print(f"written: {path}", file=sys.stderr)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=1024, help="block width C (%(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="10 ms each (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="recordings per call (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 and 2)")
    parser.add_argument("--rounds", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--calls", type=int, default=3, help="timed per round (%(default)s)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="E", help="(all)"
    )
    parser.add_argument("--name", help="result file's stem (from the shape)")
    args = parser.parse_args()
    if args.rounds * args.calls < 2:
        parser.error("the spread needs at least two timed calls")
    return args


def _print_head(head: dict[str, Any], workload: Workload, reference: Reference) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    print(
        f"ECAPA-TDNN, C = {workload.config.channels[0]}, {workload.frames} frames, "
        f"batch {workload.batch}: {workload.gmac:.2f} GMAC nominal, "
        f"{reference.parameters / 1e6:.2f} M parameters\n"
        f"{head['cpu']['model']} ({', '.join(head['cpu']['isa'])}), "
        f"{head['cpus_available']} CPUs, load average {head['load_average_1min']:.1f}\n"
        f"{versions}; commit {head['commit']}"
    )


def _print_own(own: dict[str, Any]) -> None:
    median = {name: latency["median_ms"] for name, latency in own["latency"].items()}
    print(
        f"\nearmark alone: {median['features']:.1f} ms, "
        f"{own['gmac_per_s_nominal']:.1f} GMAC/s nominal, {100 * own['share_of_peak']:.1f} % of "
        f"the measured peak of {own['peak_gmac_per_s']['s8']:.1f}; "
        f"from the waveform {median['waveform'] / median['features']:.3f} times as long\n"
    )
    print(markdown_table(OP_HEADER, list(op_rows(own["ops"]))), flush=True)


if __name__ == "__main__":
    main()
