"""The plugins' own declarations of TensorRT's interface against the headers of its SDK.

``TENSORRT_INCLUDE_DIR`` names the folder of ``NvInfer.h``; nvcc compiles the comparison.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "plugins" / "abi_check.cc"


@pytest.fixture(scope="module")
def headers() -> str:
    folder = os.environ.get("TENSORRT_INCLUDE_DIR")
    if folder is None:
        pytest.skip("TENSORRT_INCLUDE_DIR does not name the headers of a TensorRT SDK")
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc, whose headers they include, is not there")
    return folder


def compare(headers: str, folder: Path, ours: Path) -> subprocess.CompletedProcess[str]:
    """With the declarations in ``ours``, a folder of ``abi.h``."""
    program = folder / "abi_check"
    flags = ["-std=c++17", "-Xcompiler=-Wno-invalid-offsetof,-Wno-deprecated-declarations"]
    subprocess.run(
        ["nvcc", *flags, f"-I{ours}", f"-I{headers}", SOURCE, "-o", program],
        check=True,
        capture_output=True,
    )
    return subprocess.run([program], capture_output=True, text=True, check=False)


def test_declarations_are_those_of_the_sdk(headers: str, tmp_path: Path) -> None:
    done = compare(headers, tmp_path, ROOT / "plugins")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "  virtual int32_t tactics() noexcept { return 0; }\n",
            "getTimingCacheID stands elsewhere",
        ),
        ("  FieldType type = FieldType::kUnknown;\n", "PluginField"),
    ],
)
def test_a_wrong_declaration_is_found(headers: str, tmp_path: Path, line: str, told: str) -> None:
    text = (ROOT / "plugins" / "abi.h").read_text()
    assert line in text
    # One virtual function more; a member that is 8 bytes wide.
    changed = line.replace("tactics", "more") + line if "virtual" in line else f"  int64_t x;{line}"
    (tmp_path / "abi.h").write_text(text.replace(line, changed))
    done = compare(headers, tmp_path, tmp_path)
    assert done.returncode == 1
    assert told in done.stdout
