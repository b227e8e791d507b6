"""The compiled code under AddressSanitizer and UndefinedBehaviorSanitizer.

Builds the extension once more, into build/sanitize, and runs the tests of ops, hostile plans and a
small network with it, in an interpreter of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import earmark

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize"

# Without those that need torch, speech, a large network, or a new interpreter.
TESTS = (
    "(test_ops and not f32 and not tanh) or test_plan or test_small_network or test_other_shapes "
    "or (test_each_recording_as_if_alone and 3) or test_many_callers or test_mixed_precision"
)

# Each test's process has to show that the code it runs is the instrumented one.
RUN = """
import ctypes, sys
import pytest
from earmark import _C
assert hasattr(ctypes.CDLL(_C.__file__), "__asan_init")
assert hasattr(ctypes.CDLL(_C.__file__), "__ubsan_handle_add_overflow_abort")
assert {"scalar", "avx512_vnni_emulated"} <= set(_C.available_isas())
sys.exit(pytest.main(sys.argv[1:]))
"""


def tool(name: str) -> str:
    """A program of this environment or of the system; skips where there is none."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"there is no {name}")
    return found


def libasan() -> str:
    """The run-time library of the compiler that CMake takes; skips where there is none."""
    compiler = tool(os.environ.get("CXX", "c++"))
    done = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    )
    path = done.stdout.strip()
    if not os.path.isabs(path):
        pytest.skip(f"{compiler} has no libasan.so")
    return path


def build() -> Path:
    """The folder to import the instrumented package from."""
    pybind11 = pytest.importorskip("pybind11", reason="building needs pybind11")
    configure = [
        tool("cmake"), "-S", ROOT, "-B", BUILD, "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        "-DEARMARK_SANITIZE=ON", "-DEARMARK_EMULATED_ISA=ON",
    ]  # fmt: skip
    for command in (configure, [tool("cmake"), "--build", BUILD]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    # The package as it is, but for the extension.
    package = BUILD / "package" / "earmark"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    entries = [p for p in Path(earmark.__file__).parent.iterdir() if not p.name.startswith("_C.")]
    for entry in [*entries, *BUILD.glob("_C.*")]:
        (package / entry.name).symlink_to(entry)
    return package.parent


def test_no_sanitizer_reports_anything() -> None:
    preload = libasan()
    package = build()
    site = sysconfig.get_paths()
    environment = {
        **os.environ,
        # The interpreter itself is not instrumented, so the library has to be there first.
        "LD_PRELOAD": preload,
        # Python leaks on purpose.
        "ASAN_OPTIONS": "detect_leaks=0:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join(map(str, [package, site["purelib"], site["platlib"]])),
        "PYTHONMALLOC": "malloc",
    }
    files = [ROOT / "tests" / f"test_{name}.py" for name in ("ops", "plan", "network")]
    # -S: an editable install would put its own earmark first.
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            RUN,
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-k",
            TESTS,
            *files,
        ],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = done.stdout[-6000:] + done.stderr[-6000:]
    assert not re.search(r"Sanitizer|runtime error:", done.stdout + done.stderr), output
    assert done.returncode == 0, output
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, output
    assert int(passed[1]) > 200, output
