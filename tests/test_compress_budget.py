"""``earmark compress`` within a budget, on the embedded model and recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import earmark
from commands import Cli
from earmark import modelfile
from earmark.metrics import cosine_score

DEMO = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"
RECORDINGS = DEMO.parent / "recordings"


@pytest.fixture
def trial_list(tmp_path: Path) -> Path:
    path = tmp_path / "trials.txt"
    path.write_text(
        "1 adam-1.flac adam-2.flac\n1 fiona-1.flac fiona-2.flac\n"
        "0 adam-1.flac travis-1.flac\n0 fiona-1.flac steph-2.flac\n"
    )
    return path


def test_a_size(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "small.earmark"
    command = ("compress", str(DEMO), "-o", str(out), "--calibrate", str(RECORDINGS))
    outcome = cli(*command, "--size", "9%", "--json", "--quiet")
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    # Not a byte more, and not much less.
    assert 0.088 < result["size_fraction"] <= 0.09
    assert result["file_bytes"] == out.stat().st_size
    waves = sorted(RECORDINGS.glob("*.flac"))
    before, after = (earmark.Embedder(path).embed(waves) for path in (DEMO, out))
    assert 0.97 < cosine_score(before, after).min() < 0.9999
    # What was measured was of other weights.
    assert modelfile.read(out).metadata["measured"] == {}
    bits = [layer["bits_per_weight"] for layer in earmark.load(out).info()["layers"]]
    assert min(bits) < 0.75 * max(bits)


def test_an_eer_change(cli: Cli, tmp_path: Path, trial_list: Path) -> None:
    out = tmp_path / "small.earmark"
    outcome = cli(
        *("compress", str(DEMO), "-o", str(out), "--calibrate", str(RECORDINGS), "--json"),
        *("--max-eer-change", "5%", "--trials", str(trial_list), "--root", str(RECORDINGS)),
        *("--crops", "1"),
    )
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["change"]["eer_loss"] <= 0.05
    assert result["ratio"] > 8
    measured = modelfile.read(out).metadata["measured"]
    assert measured == {"compression": result["change"]}


def test_what_a_lossless_codec_changes_is_nothing(
    cli: Cli, tmp_path: Path, trial_list: Path
) -> None:
    outcome = cli(
        *("compress", str(DEMO), "-o", str(tmp_path / "o.earmark"), "--trials", str(trial_list)),
        *("--root", str(RECORDINGS), "--crops", "0"),
    )
    assert outcome.status == 0, outcome.err
    assert "EER +0.000 % (+0.000 to +0.000); cosine: mean 1.000000" in outcome.out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--size", "9%"), "a budget needs --calibrate"),
        (("--size", "9%", "--calibrate", "R", "--codec", "zstd"), "--codec and --qp are for none"),
        (("--max-eer-change", "0.1%", "--calibrate", "R"), "needs --trials and --root"),
        (("--max-f1-change", "0.01", "--calibrate", "R"), "--max-f1-change needs --clips"),
        (("--size", "1%", "--max-eer-change", "1%"), "not allowed with"),
        (("--size", "big"), "must be such as 0.1% or 0.001, got 'big'"),
    ],
)
def test_budgets_that_cannot_be(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    given = [str(RECORDINGS) if word == "R" else word for word in options]
    outcome = cli("compress", str(DEMO), "-o", str(tmp_path / "o.earmark"), *given)
    assert outcome.status == 2
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "o.earmark").exists()
