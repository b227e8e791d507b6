"""Engines for tables: the examples of the page, run for real; workers that die."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import earmark
from earmark.audio import read_audio
from earmark.columns import decode
from earmark.integrations.ray import SpeakerEmbedder

DATA = Path(earmark.__file__).parent / "data"
MODEL = DATA / "demo-int8.earmark"
PAGE = Path(__file__).parents[1] / "docs" / "scale-out.md"
EXAMPLES = {
    match[1]: match[2]
    for match in re.finditer(r"^## ([^\n]+)\n.*?```python\n(.*?)```", PAGE.read_text(), re.M | re.S)
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an example runs: with a model, a tree of recordings, and one that is none."""
    shutil.copy(MODEL, tmp_path / "model.earmark")
    for number, flac in enumerate(sorted((DATA / "recordings").glob("*.flac"))):
        there = tmp_path / "recordings" / f"speaker{number // 2}" / f"{number}.wav"
        there.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(there, read_audio(flac).samples, 16000, "FLOAT")
    (tmp_path / "recordings" / "speaker0" / "broken.wav").write_bytes(b"no audio")
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on this machine."""
    for name in ("ray", "pyarrow", "pandas"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install 'earmark[ray]')")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what ray itself does
        import ray

        ray.init(
            num_cpus=2,
            object_store_memory=1 << 28,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
        ray.shutdown()


def run(engine: str, folder: Path, **given: Any) -> None:
    """The page's example."""
    exec(EXAMPLES[engine].replace("/data", str(folder)), given)


def check_rows(folder: Path, rows: dict[str, Any]) -> None:
    """Those of the folder's recordings, with the embeddings that each has alone."""
    model = earmark.load(folder / "model.earmark")
    there = sorted((folder / "recordings").rglob("*.wav"))
    assert sorted(map(Path, rows["path"])) == there
    for path, embedding, error in zip(
        *(rows[k] for k in ("path", "embedding", "error")), strict=True
    ):
        if Path(path).name == "broken.wav":
            assert "cannot be read as audio" in error
            assert np.isnan(embedding).all()
        else:
            assert error == ""
            np.testing.assert_array_equal(embedding, model.embed(path)[0])


def test_ray(folder: Path, cluster: Any) -> None:
    run("Ray", folder)
    import pandas

    check_rows(folder, pandas.read_parquet(folder / "embeddings").to_dict("list"))


def crops(count: int) -> list[NDArray[np.float32]]:
    """Of half a second to one, of the package's recordings."""
    flacs = sorted((DATA / "recordings").glob("*.flac"))
    waves = [read_audio(flac).samples for flac in flacs]
    rng = np.random.default_rng(9)
    drawn = []
    for index in range(count):
        wave = waves[index % len(waves)]
        size = int(rng.integers(8000, 16000))
        begin = int(rng.integers(len(wave) - size))
        drawn.append(wave[begin : begin + size])
    return drawn


def test_a_worker_of_ray_that_dies(tmp_path: Path, cluster: Any) -> None:
    """Nothing is lost, the bits are those of one process, and what cannot be used is a row.

    Decoding is a stage of its own here, for the other asks for other resources.
    """

    class Dying(SpeakerEmbedder):
        calls = 0

        def __call__(self, batch: Any) -> dict[str, Any]:
            self.calls += 1
            if self.calls == 2:
                try:
                    (tmp_path / "died").touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return {**super().__call__(batch), "pid": np.full(len(batch["id"]), os.getpid())}

    waves = crops(300)
    expected = earmark.load(MODEL).embed(waves)
    rates = np.full(len(waves), 16000)
    waves[7], waves[100] = waves[7][:100], np.full(9000, np.nan, np.float32)
    rates[200] = 0
    items = [
        {"id": index, "audio": wave, "sample_rate": rate}
        for index, (wave, rate) in enumerate(zip(waves, rates, strict=True))
    ]
    embedded = (
        cluster.data.from_items(items, override_num_blocks=10)
        .map_batches(decode, batch_size=10)
        .map_batches(
            Dying,
            fn_constructor_kwargs={"model": MODEL},
            compute=cluster.data.ActorPoolStrategy(size=2),
            batch_size=15,
            num_cpus=0.5,
        )
        .materialize()
    )
    rows = embedded.take_all()
    assert re.search(r"^Operator \d+ MapBatches\(decode\):", embedded.stats(), re.M)
    assert (tmp_path / "died").exists()
    assert len({row["pid"] for row in rows}) > 1
    rows.sort(key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(300))
    reasons = {7: "is too short: 100 samples", 100: "not a finite number", 200: "got 0"}
    for row, alone in zip(rows, expected, strict=True):
        if row["id"] in reasons:
            assert reasons[row["id"]] in row["error"]
            assert np.isnan(row["embedding"]).all()
        else:
            assert row["error"] == ""
            np.testing.assert_array_equal(row["embedding"], alone)


def test_spark(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyspark", "pyarrow", "pandas"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if shutil.which("java") is None:
        pytest.skip("there is no Java for Spark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what pyspark itself does
        import pandas
        from pyspark.sql import SparkSession

        spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False)
        spark = spark.getOrCreate()
        try:
            run("Spark", folder, spark=spark)
        finally:
            spark.stop()
    rows = pandas.read_parquet(folder / "embeddings").to_dict("list")
    rows["path"] = [path.removeprefix("file:") for path in rows["path"]]
    check_rows(folder, rows)
