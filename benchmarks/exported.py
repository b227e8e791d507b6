"""A model exported to ONNX, in ONNX Runtime beside the engine: cosines and error rates.

    python benchmarks/exported.py python/earmark/data/demo-int8.earmark --data DATA

EERs are of whole recordings for each list of trials, and of crops of 2 s of ``dev_samegender``, the
mean of 8 draws, the change with its 95 % interval. Prints them; writes
``benchmarks/results/exported.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import earmark
from _evaluation import CroppedTrials
from _results import environment, write_json
from earmark import modelfile
from earmark.audio import read_audio
from earmark.export import to_onnx
from earmark.metrics import cosine_score, eer
from earmark.trials import read_trials

Array = NDArray[Any]


class Exported:
    """The network in ONNX Runtime, behind the engine's front end."""

    def __init__(self, model: earmark.Embedder, path: Path) -> None:
        self._front_end = model.front_end
        exported = to_onnx(modelfile.read(path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(exported.SerializeToString(), options)

    def embed(self, recordings: list[Array], sample_rate: int) -> Array:
        """As ``Embedder.embed``, of waveforms at the front end's rate."""
        assert sample_rate == self._front_end.sample_rate_hz
        features = (self._front_end(wave)[None] for wave in recordings)
        return np.concatenate([self._session.run(None, {"features": x})[0] for x in features])


def list_of_trials(
    path: Path, root: Path, engine: earmark.Embedder, exported: Exported
) -> tuple[float, float]:
    """EER of the engine and of the export, of whole recordings."""
    trials = read_trials(path, root)
    rate = engine.front_end.sample_rate_hz
    waves = [read_audio(recording, target_rate=rate).samples for recording in trials.paths]
    found = []
    for model in (engine, exported):
        embeddings = model.embed(waves, sample_rate=rate)
        scores = cosine_score(embeddings[trials.enrolment], embeddings[trials.test])
        found.append(eer(scores, trials.labels))
    return found[0], found[1]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    engine = earmark.Embedder(args.model)
    exported = Exported(engine, args.model)
    lists = {}
    for path in sorted((args.data / "trials").glob("dev_*.txt")):
        lists[path.stem] = list_of_trials(path, args.data / "speakers", engine, exported)
        before, after = (100 * rate for rate in lists[path.stem])
        print(f"{path.stem}: EER {before:.3f} % in the engine, {after:.3f} % in ONNX Runtime")
    trials = CroppedTrials.read(args.data / "trials" / "dev_samegender.txt", args.data / "speakers")
    first = trials.crops[0]
    rate = engine.front_end.sample_rate_hz
    cosines = cosine_score(exported.embed(first, rate), engine.embed(first, sample_rate=rate))
    change, low, high = trials.difference(trials.scores(exported), trials.scores(engine))
    row = {
        "model": args.model.name,
        "mean_cosine": float(cosines.mean()),
        "worst_cosine": float(cosines.min()),
        "eers": lists,
        "crops_eer_change": change,
        "crops_interval": [low, high],
        "onnxruntime": onnxruntime.__version__,
    }
    print(
        f"{args.model.name}: cosine {cosines.mean():.6f}, worst {cosines.min():.6f}; "
        f"EER {100 * change:+.3f} % ({100 * low:+.3f} to {100 * high:+.3f})"
    )
    write_json("exported", {"environment": environment(), "rows": [row]})


if __name__ == "__main__":
    main()
