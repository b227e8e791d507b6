"""SpeechBrain's ``verify_files`` on recordings, as it is and with earmark's network in its place.

    PYTHONPATH=.venv/toolkits .venv/bin/python benchmarks/verify_files.py --data DATA

From two files to the verdict: reading, features, network, score. The network has SpeechBrain's
published shape (C = 1024) and computes what the trained checkpoint in ``DATA/checkpoints`` does,
whose channels it has in several copies (``recipes/widened.py``); earmark's is that in INT8,
calibrated on training recordings. Timed in processes of their own, which take turns, on one core
and on two; verdicts and scores are compared on more trials. Prints tables; writes
``benchmarks/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import earmark
from _results import environment, write_json
from earmark.audio import read_audio
from earmark.bench.compare import progress
from earmark.bench.report import markdown_table
from earmark.bench.timing import Session, Summary, Worker, interleave
from earmark.trials import Trials, read_recordings, read_trials

sys.path.insert(0, str(Path(__file__).parent / "recipes"))

from widened import BOOTSTRAP, widen

RATE_HZ, CALIBRATION = 16000, 64
NAMES = UNPATCHED, PATCHED = ("SpeechBrain", "with earmark")
RECIPE = """\
pretrained_path: {folder}
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: {channels}
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 128
    lin_neurons: 192
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    embedding_model: !ref <embedding_model>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""

Pairs = list[tuple[str, str]]


def write_models(data: Path, folder: Path) -> None:
    """SpeechBrain's savedir, and ``model.earmark`` in it."""
    net = earmark.load_checkpoint(data / BOOTSTRAP, family="speechbrain")
    net = widen(widen(net, seed=0), seed=1)
    torch.save(net.state_dict(), folder / "embedding_model.ckpt")
    recipe = RECIPE.format(folder=folder, channels=list(net.config.channels))
    (folder / "hyperparams.yaml").write_text(recipe)
    paths = read_recordings(data / "speakers" / "train.txt")
    heard = [
        read_audio(p, target_rate=RATE_HZ).samples for p in paths[:: len(paths) // CALIBRATION]
    ]
    earmark.quantize(net, heard).save(folder / "model.earmark")


def verification(folder: Path, name: str) -> Any:
    """SpeechBrain's object, patched or not."""
    from speechbrain.inference.speaker import SpeakerRecognition

    from earmark.integrations.speechbrain import patch

    made = SpeakerRecognition.from_hparams(source=str(folder), savedir=str(folder))
    return patch(made, folder / "model.earmark") if name == PATCHED else made


def verified(verifier: Any, pairs: Pairs) -> np.ndarray[Any, Any]:
    """Scores and verdicts (pairs, 2)."""
    return np.array([[float(value) for value in verifier.verify_files(*pair)] for pair in pairs])


def session(folder: Path, name: str, cores: int, pairs: Pairs) -> Session:
    """In a process that may use so many cores, and has as many threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    verifier = verification(folder, name)
    details: dict[str, str | int] = {"torch_threads": torch.get_num_threads()}
    if name == PATCHED:
        embedder = verifier.mods.embedding_model.embedder
        details |= {"isa": embedder.isa, "threads": embedder.threads}
    return Session(lambda: verified(verifier, pairs), details)


def measure(folder: Path, cores: int, pairs: Pairs, rounds: int) -> dict[str, Any]:
    """Milliseconds a pair."""
    workers = [Worker(name, partial(session, folder, name, cores, pairs)) for name in NAMES]
    times = interleave(workers, progress(range(rounds), f"{cores} cores"), 1)
    result: dict[str, Any] = {"cores": cores}
    for worker in workers:
        per_pair = [ms / len(pairs) for ms in times[worker.name]]
        summary = asdict(Summary.of(per_pair))
        result[worker.name] = {**summary, **worker.start.details, "ms_per_pair": per_pair}
        worker.close()
    result["times_faster"] = result[UNPATCHED]["median_ms"] / result[PATCHED]["median_ms"]
    return result


def compare(folder: Path, pairs: Pairs) -> dict[str, Any]:
    """Verdicts and scores of both."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    theirs, ours = (verified(verification(folder, name), pairs) for name in NAMES)
    return {
        "pairs": len(pairs),
        "same_speaker": int(theirs[:, 1].sum()),
        "other_verdicts": int((theirs[:, 1] != ours[:, 1]).sum()),
        "largest_difference_of_scores": float(np.abs(theirs[:, 0] - ours[:, 0]).max()),
    }


def pairs_of(trials: Trials, count: int) -> Pairs:
    """So many trials, from all over the list."""
    chosen = range(0, len(trials.labels), max(1, len(trials.labels) // count))
    paths = [str(path.resolve()) for path in trials.paths]
    return [(paths[trials.enrolment[i]], paths[trials.test[i]]) for i in chosen][:count]


def quartiles(summary: dict[str, Any]) -> str:
    """Median and the quartiles around it."""
    median, *others = (summary[f"{name}_ms"] for name in ("median", "quartile1", "quartile3"))
    return f"{median:.0f} ({others[0]:.0f} to {others[1]:.0f})"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    parser.add_argument("--pairs", type=int, default=10, help="timed (%(default)s)")
    parser.add_argument("--compared", type=int, default=200, help="verdicts (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="(%(default)s)")
    parser.add_argument("--name", default="verify-files", help="result file's stem (%(default)s)")
    args = parser.parse_args()
    trials = read_trials(args.data / "trials" / "dev_all.txt", args.data / "speakers")
    timed = pairs_of(trials, args.pairs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_models(args.data, folder)
        verdicts = compare(folder, pairs_of(trials, args.compared))
        times = [measure(folder, cores, timed, args.rounds) for cores in (1, 2)]
    rows = [
        [str(t["cores"]), *(quartiles(t[name]) for name in NAMES), f"{t['times_faster']:.2f}"]
        for t in times
    ]
    print(markdown_table(["cores", *(f"{name}, ms a pair" for name in NAMES), "times"], rows))
    print(verdicts)
    seconds = [len(read_audio(path).samples) / RATE_HZ for pair in timed for path in pair]
    result = {"verdicts": verdicts, "seconds_a_recording": float(np.mean(seconds)), "times": times}
    print(write_json(args.name, {"environment": environment(), **result}))


if __name__ == "__main__":
    main()
