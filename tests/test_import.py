"""What `import earmark` brings and what it leaves alone."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import earmark

HEAVY = ("torch", "soundfile", "soxr", "tqdm", "safetensors", "yaml", "scipy")
ENGINES = ("ray", "pyspark", "pyarrow", "pandas", "triton_python_backend_utils")


def loaded_after(program: str) -> set[str]:
    """The modules that a fresh process has loaded after ``program``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_import_loads_neither_numpy_nor_the_engine() -> None:
    loaded = loaded_after("import earmark")
    assert "earmark" in loaded
    assert not loaded & {*HEAVY, "numpy", "earmark._C", "earmark.bench"}


@pytest.mark.parametrize(
    "program",
    [
        "from earmark import Embedder, load",
        "from earmark import FormatError, AudioError, load_checkpoint",
        "import earmark.audio, earmark.frontend, earmark.metrics, earmark.trials",
        "from earmark.nn import EcapaConfig, SoundResNetConfig",
        "import earmark.cli",
        "import earmark.bench.compare, earmark.bench.measure, earmark.bench.report",
    ],
)
def test_what_runs_a_model_leaves_heavy_packages_for_later(program: str) -> None:
    loaded = loaded_after(program)
    assert not loaded & set(HEAVY)


def test_scale_out_does_not_import_the_engine_that_it_is_for() -> None:
    modules = (f"earmark.integrations.{name}" for name in ("ray", "spark", "triton"))
    loaded = loaded_after(f"import {', '.join(modules)}")
    assert not loaded & {*HEAVY, *ENGINES}


def test_help_loads_neither_numpy_nor_the_engine() -> None:
    program = "import contextlib, io, earmark.cli\nwith contextlib.suppress(SystemExit), "
    program += "contextlib.redirect_stdout(io.StringIO()): earmark.cli.main(['--help'])"
    loaded = loaded_after(program)
    assert "earmark.cli._export" in loaded
    assert not loaded & {*HEAVY, "numpy", "earmark._C"}


@pytest.mark.parametrize("name", earmark.__all__)
def test_public_names_resolve(name: str) -> None:
    value = getattr(earmark, name)
    assert value is not None
    assert getattr(earmark, name) is value
    if name not in ("AudioError", "FormatError", "__version__"):
        assert value.__doc__


def test_the_errors_are_value_errors() -> None:
    assert issubclass(earmark.FormatError, ValueError)
    assert issubclass(earmark.AudioError, ValueError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = earmark.nothing_of_the_kind
    assert not hasattr(earmark, "_nothing")


def test_the_package_is_typed() -> None:
    assert resources.files("earmark").joinpath("py.typed").is_file()
    assert resources.files("earmark").joinpath("_C.pyi").is_file()


def test_one_version() -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    versions = re.findall(r'^version = "(.*)"$', pyproject.read_text(), re.MULTILINE)
    assert versions == [earmark.__version__]
