"""Peak memory of ``earmark embed`` and the time of ``import earmark``; one JSON object on stdout.

Memory is the largest resident set of a process that runs the command and nothing else, on a model
of SpeechBrain's shape with random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from _results import environment
from earmark.bench.compare import prepared
from earmark.bench.models import Workload

_SAMPLE_RATE = 16000
_MIB = 1 << 20
_IMPORTS = 10

# A process counts its parent's resident set, at the time of its start, as its own: this small one
# starts the command and asks for it.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""

_TIME_IMPORT = """
import time
start = time.perf_counter()
{}
print(time.perf_counter() - start)
"""


def peak_rss_bytes(*command: str) -> int:
    """Largest resident set of a command. Raises CalledProcessError when it fails."""
    kilobytes = _output("-S", "-c", _MEASURE, sys.executable, *command)
    return 1024 * int(kilobytes)


def import_seconds(statement: str) -> float:
    """Median time of an import in a fresh process, after one that fills the disk cache."""
    program = _TIME_IMPORT.format(statement)
    return statistics.median([float(_output("-c", program)) for _ in range(_IMPORTS + 1)][1:])


def write_noise(path: Path, seconds: int) -> None:
    """A mono 16-bit WAV file of white noise, written second by second."""
    import soundfile

    generator = np.random.default_rng(seconds)
    with soundfile.SoundFile(path, "w", _SAMPLE_RATE, 1, "PCM_16") as file:
        for _ in range(seconds):
            file.write(generator.normal(0.0, 3000.0, _SAMPLE_RATE).astype(np.int16))


def _output(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--scheme", default="int8", choices=("int8", "dynamic", "fp32"))
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 3600])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "environment": environment(),
        "channels": args.channels,
        "scheme": args.scheme,
        "threads": args.threads,
        "embed": [],
    }
    workload = Workload.speechbrain(args.channels, frames=300, batch=1)
    with prepared(workload, [f"earmark-{args.scheme}"]) as (folder, _):
        model = folder / f"{args.scheme}.earmark"
        result["file_bytes"] = model.stat().st_size
        for seconds in args.seconds:
            recording = folder / f"{seconds}.wav"
            write_noise(recording, seconds)
            command = ["-m", "earmark", "embed", str(model), str(recording)]
            command += ["-o", str(folder / "out.npz"), "--threads", str(args.threads), "--quiet"]
            start = time.perf_counter()
            peak = peak_rss_bytes(*command)
            result["embed"].append(
                {
                    "recording_s": seconds,
                    "peak_rss_mib": round(peak / _MIB, 1),
                    "command_s": round(time.perf_counter() - start, 2),
                }
            )
    # Names of the package are imported when they are first used.
    for key, statement in (
        ("import_earmark_s", "import earmark"),
        ("import_earmark_load_s", "from earmark import load"),
        ("import_numpy_s", "import numpy"),
    ):
        result[key] = round(import_seconds(statement), 4)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
