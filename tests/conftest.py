"""What all tests have; makes `tests/oracle` importable as `oracle`, for importlib mode leaves
`sys.path` alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import Cli, Outcome

# Takes longest: begun last, a worker would be alone with it.
_FIRST = "test_sanitizers.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first."""
    items.sort(key=lambda item: item.path.name != _FIRST)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process."""
    from earmark.cli import main

    monkeypatch.delenv("EARMARK_DEBUG", raising=False)

    def run(*argv: str | Path) -> Outcome:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def uncorrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantization without the correction of outputs, for tests of what else brings them nearer."""
    monkeypatch.setattr("earmark.quantization.corrected", lambda plan, examples: plan)
