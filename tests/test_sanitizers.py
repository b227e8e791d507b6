"""The compiled code under AddressSanitizer and UndefinedBehaviorSanitizer.

Builds the extension once more, into build/sanitize, and runs the tests of ops, hostile plans, a
small network and the front end with it, in an interpreter of its own; then random plans without
Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import earmark
from earmark import _C
from programs import ROOT, build, tool

BUILD = ROOT / "build" / "sanitize"

# Without those of speech, of large networks and of new interpreters.
TESTS = (
    "(test_ops and not whole_range) or test_plan or test_small_network or test_other_shapes "
    "or 3-int8 or 3-mixed or test_many_callers or test_mixed_precision or test_int8_bits "
    "or (test_frontend and not torch and not native and not librosa and not recordings) "
    "or (test_cuda and not many and not torch) "
    "or (test_device_engine and (integer or parts or shapes or on_the_device or cpu_s_bits)) "
    "or test_storage_streams or (test_valid_frames and (bits or cannot))"
)

EXTENSIONS = ("_C", "_cuda_emulated", "_device_emulated")

# The process shows that the code it runs is the instrumented one.
RUN = """
import ctypes, sys
import pytest
from earmark import _C
assert hasattr(ctypes.CDLL(_C.__file__), "__asan_init")
assert hasattr(ctypes.CDLL(_C.__file__), "__ubsan_handle_add_overflow_abort")
assert {"scalar", "avx512_vnni_emulated"} <= set(_C.available_isas())
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_time() -> str:
    """What to load before the interpreter, which is not instrumented; skips where there is none.

    libstdc++ beside it, for AddressSanitizer looks for the function that throws when it starts.
    """
    compiler = tool(os.environ.get("CXX", "c++"))
    paths = []
    for library in ("libasan.so", "libstdc++.so"):
        done = subprocess.run(
            [compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=False
        )
        paths.append(done.stdout.strip())
        if not os.path.isabs(paths[-1]):
            pytest.skip(f"{compiler} has no {library}")
    return " ".join(paths)


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder to import the instrumented package from. Builds everything there is."""
    build(
        BUILD,
        [
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DEARMARK_SANITIZE=ON", "-DEARMARK_EMULATED_ISA=ON", "-DEARMARK_CUDA=OFF",
        ],
        [*EXTENSIONS, "isa_agreement"],
    )  # fmt: skip
    # The package as it is, but for the extension.
    package = BUILD / "package" / "earmark"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    built = [path for name in EXTENSIONS for path in BUILD.glob(f"{name}.*")]
    names = {path.name.split(".")[0] for path in built}
    entries = [
        p for p in Path(earmark.__file__).parent.iterdir() if p.name.split(".")[0] not in names
    ]
    for entry in [*entries, *built]:
        (package / entry.name).symlink_to(entry)
    return package.parent


def check_report(done: subprocess.CompletedProcess[str]) -> None:
    """Fails with what a sanitizer said."""
    report = re.search(r"(==\d+==|.*runtime error:).*", done.stdout + done.stderr, re.DOTALL)
    assert report is None, report[0][:6000]


def test_no_sanitizer_reports_anything(package: Path) -> None:
    preload = run_time()
    site = sysconfig.get_paths()
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        # Python leaks on purpose.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join(map(str, [package, site["purelib"], site["platlib"]])),
    }
    files = [
        f"tests/test_{name}.py"
        for name in (
            "ops",
            "ops_dynamic",
            "ops_f32",
            "ops_pool",
            "ops_s16",
            "plan",
            "network",
            "resnet",
            "frontend",
            "frontend_toolkits",
            "cuda_conv",
            "cuda_elementwise",
            "cuda_emulation",
            "cuda_pooling",
            "cuda_res2",
            "cuda_s16",
            "device_engine",
            "storage_streams",
        )
    ]
    # -S: an editable install would put its own earmark first. -s: reports go to stderr itself.
    options = ["-q", "-x", "-s", "-p", "no:cacheprovider", "-k", TESTS]
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUN, *options, *files],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    check_report(done)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 400


def test_random_plans_agree_on_every_isa(package: Path) -> None:
    program = package.parent / "isa_agreement"
    done = subprocess.run([program, "150"], capture_output=True, text=True, check=False)
    check_report(done)
    assert done.returncode == 0, done.stdout + done.stderr
    known = json.loads((ROOT / "wheels" / "bits.json").read_text())
    assert f"digest of the former: {known['plans']}\n" in done.stdout
    for isa in _C.available_isas():
        assert re.search(rf"^{isa}: 150 plans, \d{{4}} tensors equal", done.stdout, re.MULTILINE)
