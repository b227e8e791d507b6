"""The interface that versions promise to keep (docs/versioning.md).

    PYTHONPATH=python python tests/promises.py

writes what there is now to ``tests/promised/interface.txt``, for a release.
"""

from __future__ import annotations

import argparse
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

PROMISED = Path(__file__).parent / "promised"
REFERENCE = Path(__file__).parents[1] / "docs" / "api"

INTERFACE = PROMISED / "interface.txt"

Interface = dict[str, list[str]]


def interface() -> Interface:
    """Parameters of what the API reference shows, by name, and options of the commands."""
    return _python() | _commands()


def promised() -> Interface:
    """What the file says, a name and its words a line."""
    lines = [line.split() for line in INTERFACE.read_text().splitlines()]
    return {name: words for name, *words in lines}


def _python() -> Interface:
    found: Interface = {}
    for page in sorted(REFERENCE.glob("*.rst")):
        for kind, name in re.findall(r"^\.\. auto(\w+):: (\S+)$", page.read_text(), re.M):
            if kind == "module":
                module = import_module(name)
                for member in getattr(module, "__all__", []):
                    _add(found, f"{name}.{member}", getattr(module, member))
            else:
                owner, _, member = name.rpartition(".")
                _add(found, name, getattr(import_module(owner), member))
    return found


def _add(found: Interface, name: str, documented: Any) -> None:
    if inspect.isclass(documented):
        found[name] = _parameters(documented)
        for base in reversed(documented.__mro__):
            if not base.__module__.startswith("earmark."):
                continue
            for member in vars(base):
                if not member.startswith("_"):
                    found[f"{name}.{member}"] = _parameters(getattr(documented, member))
    else:
        found[name] = _parameters(documented)


def _parameters(documented: Any) -> list[str]:
    try:
        return list(inspect.signature(documented).parameters)
    except (TypeError, ValueError):  # a value, or a class without a signature of its own
        return []


def _commands() -> Interface:
    from earmark.cli import make_parser

    (commands,) = (action for action in make_parser()._actions if isinstance(action.choices, dict))
    return {
        f"earmark:{name}": sorted(word for action in parser._actions for word in _words(action))
        for name, parser in commands.choices.items()
    }


def _words(action: argparse.Action) -> list[str]:
    return list(action.option_strings) or [action.dest]


if __name__ == "__main__":
    lines = [" ".join([name, *words]) for name, words in sorted(interface().items())]
    INTERFACE.write_text("\n".join(lines) + "\n")
