"""The library of plugins in the lean runtimes of TensorRT 10 and 11, whose registries need no GPU.

Both are on PyPI under one name: `make test` puts them into folders of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

host = pytest.importorskip(
    "earmark._plugin_host", reason="the package was built without EARMARK_EMULATED_ISA"
)

import earmark  # noqa: E402
from plugin_checks import NAMES  # noqa: E402

MODEL = Path(earmark.__file__).parent / "data" / "demo-int8.earmark"
# Of the kernels for GPUs where they were built.
LIBRARIES = [
    path
    for name in ("libearmark_trt.so", "libearmark_trt_emulated.so")
    if (path := Path(host.__file__).with_name(name)).exists()
]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("major", [10, 11])
def test_every_plugin_of_a_network(major: int, library: Path) -> None:
    runtime = Path(sys.prefix) / f"tensorrt-lean-{major}" / "tensorrt_lean_libs"
    runtime /= f"libnvinfer_lean.so.{major}"
    if not runtime.exists():
        pytest.skip(f"{runtime} is not there")
    script = Path(__file__).with_name("lean_plugins.py")
    done = subprocess.run(
        [sys.executable, script, library, runtime, str(major), MODEL],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    created = json.loads(done.stdout.splitlines()[-1])
    assert set(created) == set(NAMES)
    assert created["EarmarkConvS8"] > 8
    assert created["EarmarkRes2S8"] == 3
