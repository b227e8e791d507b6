"""A report in headless Chromium: nothing is asked for, nothing complains, all is laid out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from earmark.cli import main
from reports import RECORDINGS, TRIALS, write_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

# Added to a copy of the report, which itself may run no script.
_PROBE = """
<script>
addEventListener("load", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const boxes = (found) => [...found].map((e) => {
    const { left, top, right, bottom, width, height } = e.getBoundingClientRect();
    return { left, top, right, bottom, width, height };
  });
  const figures = [...document.querySelectorAll("figure svg")].map((svg) => ({
    box: boxes([svg])[0],
    texts: boxes(svg.querySelectorAll("text")),
    marks: boxes(svg.querySelectorAll("path, use")).length,
  }));
  const result = {
    figures,
    page: document.documentElement.scrollWidth,
    window: innerWidth,
    headings: boxes(document.querySelectorAll("h1, h2")),
    resources: performance.getEntriesByType("resource").map((entry) => entry.name),
    ink: getComputedStyle(document.body).color,
    bar: getComputedStyle(document.querySelector("figure svg path[style*='--blue']")).stroke,
  };
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(result);
  document.body.append(out);
});
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both demo models, with trials and a result of each command."""
    folder = write_results(tmp_path_factory.mktemp("results"))
    output = tmp_path_factory.mktemp("report") / "report.html"
    trials = output.with_name("trials.txt")
    trials.write_text(TRIALS)
    options = ["--trials", str(trials), "--root", str(RECORDINGS), "--quiet"]
    assert main(["report", str(folder), "-o", str(output), *options]) == 0
    return output


def browse(page: Path, profile: Path, width: int) -> tuple[str, list[str]]:
    """The page's elements once it is loaded, and what the console says."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", f"--window-size={width},900"]
    command += ["--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def probed(report: Path, profile: Path, width: int) -> dict[str, Any]:
    text = report.read_text(encoding="utf-8")
    page = profile.with_suffix(".html")
    body = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page.write_text(body.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    dom, console = browse(page, profile, width)
    assert console == []
    match = re.search(r'<pre id="probe">(.*?)</pre>', dom)
    assert match
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


def test_nothing_complains(report: Path, tmp_path: Path) -> None:
    dom, console = browse(report, tmp_path / "profile", 1200)
    assert console == []
    assert dom.count("<svg") == report.read_text(encoding="utf-8").count("<svg") == 11


def test_a_script_in_the_page_would_not_run(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = report.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    dom, console = browse(page, tmp_path / "profile", 1200)
    assert '<pre id="probe">' not in dom
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.parametrize("width", [1200, 500])
def test_everything_is_laid_out(report: Path, tmp_path: Path, width: int) -> None:
    found = probed(report, tmp_path / "profile", width)
    assert found["resources"] == []
    assert found["window"] == width
    assert found["page"] <= width  # figures and tables scroll, the page does not
    assert len(found["figures"]) == 11
    for figure in found["figures"]:
        box = figure["box"]
        assert min(box["width"], box["height"]) > 90
        assert figure["marks"] > 10
        assert len(figure["texts"]) > 5
        for text in figure["texts"]:
            assert text["width"] > 0
            assert box["left"] - 1 <= text["left"] <= text["right"] <= box["right"] + 1
            assert box["top"] - 1 <= text["top"] <= text["bottom"] <= box["bottom"] + 1
    for heading in found["headings"]:
        assert heading["height"] > 20
    assert found["bar"] != "none"
    assert found["ink"] != "rgb(0, 0, 0)"
