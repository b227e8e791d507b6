"""Documentation pages: their examples, and how these run."""

from __future__ import annotations

import glob
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from commands import Cli, Outcome

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# Where code hosts and Sphinx look for links alike.
LINKING = [
    *sorted(ROOT.glob("*.md")),
    *sorted(
        path
        for name in ("benchmarks", "csrc", "docs", "plugins")
        for path in (ROOT / name).rglob("*.md")
    ),
]

# Of `earmark verify`, 1 is "different speakers".
SUCCESS = (0, 1)


class Block(NamedTuple):
    """A fenced block: the headings above it, its language, its lines."""

    page: Path
    line: int
    heading: str
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


class Command(NamedTuple):
    """A line of a shell: what is set for it, its words, and what it is to print."""

    environment: dict[str, str]
    words: list[str]
    output: str | None


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of some languages or all, in order."""
    found: list[Block] = []
    heading, language, begun, text = "", None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if language is None:
            if line.startswith("#"):
                heading = line.lstrip("# ")
            elif line.startswith("```"):
                language, begun, text = line[3:], number, []
        elif line == "```":
            found.append(Block(page, begun, heading, language, "".join(text)))
            language = None
        else:
            text.append(f"{line}\n")
    assert language is None, f"{page}:{begun}: the block does not end"
    return [block for block in found if not languages or block.language in languages]


def broken_links(page: Path) -> list[str]:
    """Links of a page to files that are not there, or to headings that these lack."""
    text = re.sub(
        r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


def _anchors(page: Path) -> list[str]:
    """Of the headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def commands(block: Block) -> Iterator[Command]:
    """Of a block of commands (`bash`), or of a session with ``$ `` before them (`console`)."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
        for i, j in zip(starts, [*starts[1:], len(lines)], strict=True):
            yield _command(lines[i][2:], "\n".join(lines[i + 1 : j]))
    else:
        for line in lines:
            if shlex.split(line, comments=True):
                yield _command(line, None)


def _command(line: str, output: str | None) -> Command:
    words = shlex.split(line, comments=True)
    environment = {}
    while "=" in words[0]:
        name, _, environment[name] = words.pop(0).partition("=")
    return Command(environment, words, output)


def expanded(words: list[str]) -> list[str]:
    """With file names in the place of patterns, as a shell has it."""
    return [name for word in words for name in (sorted(glob.glob(word)) or [word])]


def is_as_said(output: str, said: str) -> bool:
    """Whether a command printed what a page says; ``...`` there is anything within a line."""
    pattern = re.escape(said.strip()).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, output.strip()) is not None


def check_installation(words: list[str]) -> None:
    """``pip install`` of the package, with extras that it has, and ``make`` of what there is."""
    project = (ROOT / "pyproject.toml").read_text()
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets), words
        return
    assert words[:2] == ["pip", "install"], words
    for word in words[2:]:
        match = re.fullmatch(r"(?:\.|earmark)(?:\[([\w,]+)\])?", word)
        if match is not None:
            for extra in (match[1] or "").split(","):
                assert not extra or f"\n{extra} = [" in project, word


def _alone(argv: list[str], environment: dict[str, str]) -> Outcome:
    """A command in a process of its own: some variables are read once."""
    done = subprocess.run(
        [sys.executable, "-m", "earmark", *argv],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_page(page: Path, cli: Cli, parsed_only: set[str], **names: Any) -> dict[str, Any]:
    """All examples of a page from top to bottom, in the working folder.

    Its Python shares one set of names, which begins with those given and is returned. parsed_only:
    commands that take too long here.
    """
    from earmark.cli import make_parser

    for block in blocks(page, "python", "bash", "console"):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
            continue
        for environment, words, output in commands(block):
            if words[0] != "earmark":
                check_installation(words)
                continue
            if "..." in words:
                continue
            if words[1] in parsed_only:
                make_parser().parse_args(words[1:])
                continue
            argv = expanded(words[1:])
            status, out, err = _alone(argv, environment) if environment else cli(*argv)
            where = f"{block.place}: {shlex.join(words)}: {err}"
            if output is None:
                assert status in SUCCESS, where
            else:
                assert is_as_said(out + err, output), f"{where}{out}"
    return names
