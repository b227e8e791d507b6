"""The documentation's examples run, and what its other pages name exists."""

from __future__ import annotations

import ast
import json
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the examples quantize")

import earmark  # noqa: E402
from commands import Cli  # noqa: E402
from earmark import modelfile  # noqa: E402
from earmark.audio import read_audio  # noqa: E402
from earmark.cli import make_parser  # noqa: E402
from networks import SMALL, random_state  # noqa: E402
from pages import LINKING, PAGES, ROOT, Block, blocks, broken_links, commands, run_page  # noqa: E402
from paths import one_torch_thread  # noqa: E402
from toolkit_networks import VARIANTS, write_nemo  # noqa: E402

from .sounds import LABELS, small_network, sound  # noqa: E402
from .voices import write, write_corpus  # noqa: E402

DATA = Path(earmark.__file__).parent / "data"
# Pages whose examples run; those of the others are looked at only.
GUIDE = ["README", "quickstart", "precision", "faq", "troubleshooting"]
RECIPE = """\
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: [32, 32, 32, 32, 96]
    attention_channels: 16
    res2net_scale: 4
    se_channels: 8
    lin_neurons: 192
"""


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guide's examples find in the working folder: models, checkpoints, recordings."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copytree(DATA / "recordings", folder / "recordings")
    for name, source in (("a", "adam-1"), ("b", "adam-2"), ("street", "fiona-1")):
        samples = read_audio(DATA / "recordings" / f"{source}.flac").samples
        write(folder / f"{name}.wav", samples, subtype="FLOAT")
    write(folder / "short.flac", np.zeros(400))
    (folder / "broken.flac").write_bytes(b"no audio")
    (folder / "trials.txt").write_text(
        "1 adam-1.flac adam-2.flac\n1 fiona-1.flac fiona-2.flac\n"
        "0 adam-1.flac travis-1.flac\n0 fiona-1.flac steph-2.flac\n"
    )
    write_corpus(folder / "speakers")
    _write_checkpoints(folder)
    _write_models(folder)
    return folder


def _write_checkpoints(folder: Path) -> None:
    config = replace(SMALL, n_mels=80, embedding=192)
    state = {key: torch.from_numpy(value) for key, value in random_state(config).items()}
    (folder / "pretrained").mkdir()
    (folder / "pretrained" / "hyperparams.yaml").write_text(RECIPE)
    torch.save(state, folder / "pretrained" / "embedding_model.ckpt")
    torch.save(state, folder / "embedding_model.ckpt")
    for family, name in (
        ("3dspeaker", "ecapa_tdnn.bin"),
        ("taoruijie", "pretrain.model"),
        ("wespeaker", "avg_model.pt"),
    ):
        variant = VARIANTS[family]
        torch.save(variant.checkpoint(variant.network()), folder / name)
    write_nemo(folder / "ecapa_tdnn.nemo", VARIANTS["nemo"].network().state_dict())


def _write_models(folder: Path) -> None:
    demo = modelfile.read(DATA / "demo-int8.earmark")
    modelfile.write(demo, folder / "model.earmark")
    without = modelfile.ModelFile({**demo.metadata, "threshold": None}, demo.arrays)
    modelfile.write(without, folder / "untuned.earmark")
    damaged = bytearray((folder / "model.earmark").read_bytes())
    damaged[-1] ^= 1
    (folder / "damaged.earmark").write_bytes(damaged)
    waves = [sound(label, 3).astype(np.float32) for label in LABELS]
    sounds = earmark.quantize(small_network(), waves, scheme="int8")
    modelfile.write(sounds.model_file, folder / "sounds.earmark")


def page_of(name: str) -> Path:
    return next(page for page in PAGES if page.stem == name)


@pytest.mark.parametrize("name", GUIDE)
def test_the_guide_runs(
    name: str, stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    folder = shutil.copytree(stocked, tmp_path / "work")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    waves = [read_audio(path).samples for path in sorted(folder.glob("recordings/*.flac"))]
    with one_torch_thread():
        names = run_page(page_of(name), cli, {"bench", "train"}, waves=waves)
    if name == "quickstart":
        assert names["embeddings"].shape == (4, 1, 192)
        assert -1 <= names["score"] <= 1
        assert names["error"] == ""


EXAMPLES = [
    pytest.param(block, id=block.place)
    for page in [*PAGES, ROOT / "benchmarks" / "recipes" / "README.md"]
    for block in blocks(page, "", "bash", "python")
    if page.stem not in GUIDE
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_what_other_pages_name_exists(block: Block) -> None:
    """Commands are parsed, names of the package looked up."""
    if block.language == "python":
        _look_up(ast.parse(block.text))
    elif block.language == "bash" or block.text.startswith("earmark "):
        for _, words, _ in commands(block):
            if words[0] == "earmark" and "..." not in words:
                make_parser().parse_args(words[1:])


def _look_up(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("earmark"):
            for alias in node.names:
                module = import_module(node.module or "")
                assert hasattr(module, alias.name) or import_module(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "earmark":
            assert hasattr(earmark, node.attr) or import_module(f"earmark.{node.attr}")


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One (two)\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#one-two) [b](there.md#three) [c](gone.md) [d](#here) `[e](code.md)`\n"
        "```\n[f](code.md)\n```\n[g](https://example.org/x)\n"
    )
    assert broken_links(page) == ["there.md#three", "gone.md", "#here"]


def rows_with_results() -> list[tuple[str, list[str], Path]]:
    """Rows of tables whose last cell links to a result of ``benchmarks/accuracy.py``."""
    found = []
    for page in (page_of("precision"), page_of("faq")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := re.search(r"\| \[.*\]\((.*accuracy-.*\.json)\) \|$", line):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                found.append((page.stem, cells, page.parent / match[1]))
    return found


def test_figures_are_those_of_the_results() -> None:
    rows = rows_with_results()
    sizes = json.loads((ROOT / "benchmarks" / "results" / "sizes.json").read_text())
    wide = {k: f"{100 * v:.1f} %" for k, v in sizes["size_fraction"]["1024"].items()}
    assert len(rows) == 12
    for page, cells, path in rows:
        result = json.loads(path.read_text())
        cosine, rates = result["cosine"], result["trials"]["dev_samegender"]
        assert f"{cosine['mean']:.5f} / {cosine['worst']:.5f}" in cells, path.name
        assert f"{100 * rates['quantized']['eer']:.2f} %" in cells, path.name
        assert f"{100 * rates['fp32']['eer']:.2f}" == "5.03"
        if page == "precision":
            assert cells[2] in ("", wide.get(cells[0].strip("`"))), path.name
            assert cells[1] == f"{100 * result['size_fraction']:.1f} %", path.name
            if "crops" in result:
                change, *interval = (
                    100 * value
                    for value in (result["crops"]["change"], *result["crops"]["interval"])
                )
                assert cells[5] == f"{change:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"
