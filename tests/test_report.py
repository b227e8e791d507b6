"""``earmark report``: what is read, told and drawn, what is refused, and that nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import earmark
from commands import Cli
from earmark import modelfile
from earmark.errors import FormatError
from earmark.report.results import Bench, Evaluation, Scored, Search, Sensitivity, read_result
from modelfiles import network_model, tiny_model
from reports import (
    MODEL,
    RECORDINGS,
    TRIALS,
    bench,
    evaluation,
    measured,
    search,
    sensitivity,
    write_results,
)

JSON = dict[str, Any]
EVIL = '<script>alert("x")</script>$\\frac$&amp;\u202e\x07漢'


class Page(HTMLParser):
    """The elements of a page, their texts and attributes; each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def page_of(path: Path) -> Page:
    """A report that was written; nothing in it runs or comes from elsewhere."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n<html")
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert all(value.startswith("#") for value in found.values("href"))
    assert found.values("src") == []
    for outside in ("http://", "https://", "//", "@import", "url(h"):
        styles = [*found.values("style"), *found.texts[:2]]
        assert not any(outside in style for style in styles), outside
    assert "default-src 'none'; style-src 'unsafe-inline'" in found.values("content")
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    references = {value[1:] for value in found.values("href")}
    references |= {value[5:-1] for value in found.values("clip-path")}
    assert references <= set(ids)
    assert (
        found.tags.count("svg") == found.tags.count("figure") == found.values("role").count("img")
    )
    assert all(found.values("aria-label"))
    return found


def report(cli: Cli, source: Path, output: Path, *more: str | Path) -> JSON:
    outcome = cli("report", source, "-o", output, "--json", *more)
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    result: JSON = json.loads(outcome.out)
    assert result["file_bytes"] == output.stat().st_size
    return result


def trial_options(folder: Path) -> list[str]:
    (folder / "list").write_text(TRIALS)
    return ["--trials", str(folder / "list"), "--root", str(RECORDINGS)]


# --- a model file --------------------------------------------------------------------------------


def test_a_model_file_alone(cli: Cli, tmp_path: Path) -> None:
    result = report(cli, MODEL, tmp_path / "r.html")
    assert (result["models"], result["results"], result["notes"]) == (["demo-int8.earmark"], 0, [])
    page = page_of(tmp_path / "r.html")
    info = earmark.load(MODEL).info()
    assert info["sha256"] in page.text
    for layer in info["layers"]:
        assert page.texts.count(layer["name"]) == 2  # in the figure and in the table
        assert f"{layer['bytes']:,}" in page.texts
    figures = info["measured"]
    assert figures["trial_list"] in page.text
    for told in (
        f"{100 * figures['eer']:.2f} %",
        f"float32 {100 * figures['fp32_eer']:.2f} %",
        f"{figures['mean_cosine_to_fp32']:.5f}",
        f"{info['threshold']:.3f}",
    ):
        assert told in page.text
    assert page.tags.count("figure") == 1


def test_the_same_input_gives_the_same_bytes(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    write_results(folder)
    (folder / "demo-fp32.earmark").unlink()
    # The report itself is no part of the folder that it is about.
    report(cli, folder, folder / "r.html", *trial_options(tmp_path))
    first = (folder / "r.html").read_bytes()
    report(cli, folder, folder / "r.html", *trial_options(tmp_path))
    assert (folder / "r.html").read_bytes() == first
    assert b"r.html" not in first


def test_trials_are_scored(cli: Cli, tmp_path: Path) -> None:
    result = report(cli, MODEL, tmp_path / "r.html", *trial_options(tmp_path))
    assert result["results"] == 1
    page = page_of(tmp_path / "r.html")
    assert page.tags.count("figure") == 3
    for told in ("3 trials of one speaker, 3 of two.", "3 same speaker", "3 different speakers"):
        assert told in page.text
    assert "0.000" in page.texts  # the EER


@pytest.mark.parametrize("kind", ["pwl", "table", "pwl in float32", "sounds"])
def test_other_models(cli: Cli, tmp_path: Path, kind: str) -> None:
    from .quantized_models import MODELS

    modelfile.write(MODELS[kind](), tmp_path / "m.earmark")
    report(cli, tmp_path / "m.earmark", tmp_path / "r.html")
    page = page_of(tmp_path / "r.html")
    is_piecewise = kind.startswith("pwl")
    assert page.tags.count("figure") == 1 + is_piecewise
    assert ("Softmax of asp.conv" in page.text) == (kind != "sounds")
    assert ("A table of 64 entries in the place of exp." in page.text) == (kind == "table")
    if kind == "sounds":
        outcome = cli("report", tmp_path / "m.earmark", "-o", "x", *trial_options(tmp_path))
        assert (outcome.status, outcome.err.count("\n")) == (2, 1)
        assert "m.earmark: no model of speakers" in outcome.err


def test_a_model_of_few_layers(cli: Cli, tmp_path: Path) -> None:
    modelfile.write(tiny_model(), tmp_path / "tiny.earmark")
    report(cli, tmp_path / "tiny.earmark", tmp_path / "r.html")
    assert "1.25 %" in page_of(tmp_path / "r.html").text


def test_figures_of_other_files_are_not_the_models(cli: Cli, tmp_path: Path) -> None:
    for path in (MODEL, MODEL.with_name("demo-fp32.earmark")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = evaluation("demo-int8.earmark", eer=0.25, trial_list="elsewhere")
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "lists").mkdir()
    report(cli, tmp_path, tmp_path / "r.html", *trial_options(tmp_path / "lists"))
    page = page_of(tmp_path / "r.html")
    # Compared with float32 on the trials that both were run on, and only there.
    assert page.texts.count("beside") == 1
    assert page.texts[page.texts.index("25.000") + 1 :][:2] == ["0.3000", "list"]
    (tmp_path / "demo-fp32.earmark").unlink()
    report(cli, tmp_path, tmp_path / "r.html")
    texts = page_of(tmp_path / "r.html").texts
    eer = earmark.load(MODEL).info()["measured"]["eer"]
    assert texts[texts.index("EER") + 1] == f"{100 * eer:.2f} %"


# --- a folder ------------------------------------------------------------------------------------


def test_a_folder_of_models_and_results(cli: Cli, tmp_path: Path) -> None:
    write_results(tmp_path)
    result = report(cli, tmp_path, tmp_path / "r.html", *trial_options(tmp_path))
    assert result["models"] == ["demo-fp32.earmark", "demo-int8.earmark"]
    assert result["results"] == 6
    assert result["notes"] == ["not looked at: list"]
    page = page_of(tmp_path / "r.html")
    titles = [
        page.texts[page.texts.index(name)]
        for name in ("Error rates", "Size and accuracy", "What each layer costs", "Speed", "Notes")
    ]
    assert len(titles) == 5
    # Twice DET and scores; EER over size twice (of the files, of the trials); the search, layers,
    # speed, and ranges of both models.
    assert page.tags.count("figure") == 2 * 2 + 2 + 3 + 2
    for told in (
        "0.00 %  demo-int8.earmark",
        "5.00 %  other.earmark",
        "--precision all=int8,fc=front-1",
        "other-int8",
        "Failed: 1, no",
        "blocks.0",
    ):
        assert told in page.text
    # INT8 beside float of the same shape.
    row = page.texts[page.texts.index("beside") :]
    int8 = row[row.index("demo-int8.earmark") :]
    assert "demo-fp32.earmark" in [text for text in int8[:20] if text.strip()]
    assert "+0.000" in int8[:20]


def test_results_alone(cli: Cli, tmp_path: Path) -> None:
    for name, result in {
        "bench": bench(peers={}),
        "latency": {**search(), "budget": {"latency_ms": 20}},
        "others": sensitivity(all_but_one=True),
        "rates": {key: v for key, v in evaluation().items() if key not in ("scores", "labels")},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    assert report(cli, tmp_path, tmp_path / "r.html")["models"] == []
    page = page_of(tmp_path / "r.html")
    assert page.tags.count("figure") == 3
    for told in (
        "Each layer alone in float32, all others in int8: 330 trials of list.txt.",
        "to the embedding, on A CPU, 2 CPUs, load average 0.5; avx2.",
        "ms for 3 s, one thread",
        "the scores were not kept",
    ):
        assert told in page.text
    assert {"waveform", "features"} <= set(page.texts)


def test_what_cannot_be_read_is_noted(cli: Cli, tmp_path: Path) -> None:
    write_results(tmp_path)
    (tmp_path / "cut.earmark").write_bytes(MODEL.read_bytes()[:5000])
    (tmp_path / "cut.json").write_text('{"eer": ')
    (tmp_path / "info.json").write_text('{"layers": []}')
    (tmp_path / "wrong.json").write_text(json.dumps(evaluation(eer="5 %")))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "folder").mkdir()
    result = report(cli, tmp_path, tmp_path / "r.html")
    assert result["results"] == 4
    assert len(result["models"]) == 2
    notes = result["notes"]
    assert [note.partition(":")[0] for note in notes[:-1]] == [
        "bytes.json",
        "cut.earmark",
        "cut.json",
        "gone.json",
        "info.json",
        "wrong.json",
    ]
    assert notes[-1] == "not looked at: folder/, text.txt"
    assert "eer is '5 %', expected a number from 0 to 1" in notes[5]
    page = page_of(tmp_path / "r.html")
    for note in notes:
        assert note in page.texts


def test_with_nothing_read_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    output = tmp_path / "r.html"
    for content, told in ((None, "no model files and no results"), ("{", "cut.json: not readable")):
        if content:
            (folder / "cut.json").write_text(content)
        outcome = cli("report", folder, "-o", output)
        assert (outcome.status, outcome.err.count("\n")) == (2, 1)
        assert told in outcome.err
        assert not output.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.earmark", "-o", "r.html"], "none.earmark: no such file"),
        ([MODEL, "-o", "nowhere/r.html"], "the folder"),
        ([MODEL, "-o", "r.html", "--trials", "list"], "--trials and --root are given together"),
        ([MODEL], "required: -o"),
    ],
)
def test_wrong_words_are_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli("report", *words)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert told in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_fails_is_told(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.wav").write_text("no sound")
    (tmp_path / "list").write_text("1 a.wav b.wav\n0 a.wav c.wav\n")
    options = ["--trials", tmp_path / "list", "--root", tmp_path]
    outcome = cli("report", MODEL, "-o", tmp_path / "r.html", *options)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "3 of 3 recordings failed" in outcome.err


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'matplotlib': raise ModuleNotFoundError('missing', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from earmark.cli import main\n"
    )
    program += f"sys.exit(main(['report', {str(MODEL)!r}, '-o', {str(tmp_path / 'r.html')!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    expected = "earmark: error: this command needs matplotlib: pip install earmark[plots]\n"
    assert done.stderr == expected
    assert list(tmp_path.iterdir()) == []


def test_torch_is_not_needed(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None\nfrom earmark.cli import main\n"
    program += f"sys.exit(main(['report', {str(MODEL)!r}, '-o', {str(tmp_path / 'r.html')!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- hostile contents ----------------------------------------------------------------------------


def test_nothing_from_a_file_becomes_markup(cli: Cli, tmp_path: Path) -> None:
    model = network_model()
    model.metadata |= {
        "family": EVIL,
        "scheme": EVIL,
        "measured": {"eer": 0.1, EVIL: EVIL, "trial_list": EVIL, "fp32_eer": EVIL, "f1": 10**400},
        "config": {EVIL: [EVIL]},
    }
    statistics = {"min": -1.0, "max": 1e300, "mean": 0.25, "std": 0.5}
    for layer in model.metadata["layers"]:
        layer["precision"] = EVIL
    model.metadata["layers"].append(
        {
            "name": EVIL,
            "op": EVIL,
            "precision": "_",
            "parameters": 9,
            "weight_stats": statistics,
            "activation_stats": statistics,
        }
    )
    modelfile.write(model, tmp_path / f"{EVIL.replace('/', '_')}.earmark")
    modelfile.write(model, tmp_path / "_second.earmark")
    rows = [measured("fp32"), measured(EVIL, 0.01), measured("_\ud800", 0.02)]
    for name, result in {
        "e": evaluation(EVIL, scheme=EVIL, trial_list=EVIL),
        "f": evaluation("_f", trial_list=EVIL),
        "s": sensitivity(rows=rows, precision=EVIL, trial_list=EVIL),
        "b": bench(model=EVIL, peers={"1": {EVIL: bench()["peers"]["1"]["earmark"]}}),
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    (tmp_path / f"{EVIL.replace('/', '_')}.txt").write_text("x")
    found = search()
    found["points"][1] |= {"name": EVIL, "precision": {EVIL: EVIL}}
    (tmp_path / "p.json").write_text(json.dumps({**found, "chosen": EVIL}))
    result = report(cli, tmp_path, tmp_path / "r.html")
    assert (len(result["models"]), result["results"]) == (2, 5)
    page = page_of(tmp_path / "r.html")
    shown = '<script>alert("x")</script>$\\frac$&amp;\\u202e\\x07漢'
    assert shown in page.texts
    assert "\\ud800" in page.text
    assert not {"\u202e", "\x07"} & set(page.text)


def test_statistics_of_any_size_are_refused_or_drawn(cli: Cli, tmp_path: Path) -> None:
    model = tiny_model()
    model.metadata["layers"][0]["weight_stats"] = {"min": 0, "max": 10**400, "mean": 0, "std": 0}
    modelfile.write(model, tmp_path / "m.earmark")
    outcome = cli("report", tmp_path / "m.earmark", "-o", tmp_path / "r.html")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "m.earmark: a statistic is too large" in outcome.err


# --- results of commands -------------------------------------------------------------------------


def test_results_are_known_by_their_keys(tmp_path: Path) -> None:
    kinds = {evaluation: Scored, sensitivity: Sensitivity, search: Search, bench: Bench}
    for make, kind in kinds.items():
        (tmp_path / "r.json").write_text(json.dumps(make()))
        assert type(read_result(tmp_path / "r.json")) is kind
    value = evaluation()
    del value["scores"]
    (tmp_path / "r.json").write_text(json.dumps(value))
    assert type(read_result(tmp_path / "r.json")) is Evaluation


def test_what_eval_prints_is_read(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("eval", MODEL, *trial_options(tmp_path), "--json", "--scores")
    (tmp_path / "r.json").write_text(outcome.out)
    result = read_result(tmp_path / "r.json")
    assert isinstance(result, Scored)
    assert result.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert result.scores.tolist() == json.loads(outcome.out)["scores"]
    assert result.size_fraction == earmark.load(MODEL).info()["size_fraction"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "is no result"),
        (None, "is no result"),
        (evaluation(eer=float("nan")), "eer is nan"),
        (evaluation(eer=True), "eer is True"),
        (evaluation(model=3), "model is 3, expected text"),
        (evaluation(target=3.5), "target is 3.5, expected a whole number"),
        (evaluation(scores=[0.5] * 329 + [1e400]), "expected a number"),
        (evaluation(scores="x" * 330), "expected a number"),
        (evaluation(labels=[1] * 30 + [0] * 299), "scores and labels are not those"),
        (evaluation(labels=[2] * 330), "scores and labels are not those"),
        (
            evaluation(target=0, nontarget=2, scores=[1, 2], labels=[0, 0]),
            "all trials are of one class",
        ),
        (sensitivity(rows=[]), "rows: float32's and one more are needed"),
        (sensitivity(rows=[measured("a"), {"unit": "b"}]), "'eer_change' is missing"),
        (sensitivity(rows=7), "not iterable"),
        (search(chosen="none"), "chosen: no point is named 'none'"),
        (search(budget={}), "a budget has one limit"),
        (search(budget={"speed": 1}), "speed"),
        (bench(environment={}), "'cpu' is missing"),
        (bench(threads={}), "threads: there are none"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, value: Any, told: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(value))
    with pytest.raises(FormatError) as raised:
        read_result(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert "\n" not in message
