"""Build manylinux_2_28 wheels into a folder, one for each interpreter named: see docs/wheels.md.

    python wheels/build_wheels.py --arch x86_64 --cuda OFF -o dist python3.11 python3.12

Run by the interpreter of an environment with wheels/requirements.txt. Wheels of one processor share
a build folder, so that what does not depend on Python is compiled once.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import ziglang

from _commands import BUILD, ROOT, interpreters, need, run

MOST_BYTES = 8_000_000
"""Of a wheel without CUDA, the demo's models and recordings included."""

# The other interpreters use the build's packages of this one, which are plain Python.
_OWN = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": sysconfig.get_path("purelib"),
}
# auditwheel knows the tags of any processor, and offers those of the one that it finds itself on.
_AUDITWHEEL = """
import platform, sys
arch = sys.argv.pop(1)
platform.machine = lambda: arch
from auditwheel.main import main
sys.exit(main())
"""
_PLUGINS = "earmark/libearmark_trt.so"


def main() -> None:
    """Build the wheels that the command line asks for; print their names and sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="interpreters, by command")
    parser.add_argument("--arch", choices=("x86_64", "aarch64"), default=platform.machine())
    parser.add_argument("--cuda", choices=("ON", "OFF"), required=True, help="kernels for GPUs")
    parser.add_argument("--source", default=str(ROOT), help="sdist (default: this checkout)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the wheels")
    args = parser.parse_args()
    for python, version in interpreters(args.pythons):
        wheel = build(python, version, args.arch, args.cuda, args.source, args.output)
        check_content(wheel, args.cuda)


def build(python: str, version: str, arch: str, cuda: str, source: str, folder: Path) -> Path:
    """One wheel in the folder; its path."""
    with tempfile.TemporaryDirectory() as scratch:
        run(
            *(sys.executable, "-m", "pip", "--python", python, "wheel", "-q", "--no-deps"),
            *("-w", scratch, "--no-build-isolation", "-C", f"build-dir={build_folder(arch, cuda)}"),
            *("-C", f"cmake.define.EARMARK_CUDA={cuda}", "-C", "install.strip=false", source),
            env=environment(arch, version),
        )
        (built,) = Path(scratch).glob("*.whl")
        tag = f"manylinux_2_28_{arch}"
        run(
            *(sys.executable, "-c", _AUDITWHEEL, arch, "repair", "--plat", tag, "--only-plat"),
            *("-w", folder, built),
            env=os.environ | _OWN,
        )
    return folder / f"{'-'.join(built.name.split('-')[:4])}-{tag}.whl"


def check_content(wheel: Path, cuda: str) -> None:
    """The plugins of TensorRT come with CUDA only; without it the wheel is small."""
    size = wheel.stat().st_size
    has_plugins = _PLUGINS in zipfile.ZipFile(wheel).namelist()
    if has_plugins != (cuda == "ON"):
        sys.exit(f"{wheel.name}: {_PLUGINS} is{'' if has_plugins else ' not'} in it")
    if cuda == "OFF" and size > MOST_BYTES:
        sys.exit(f"{wheel.name}: {size:,} bytes, expected at most {MOST_BYTES:,}")
    print(f"{wheel.name}: {size:,} bytes", flush=True)


def build_folder(arch: str, cuda: str) -> Path:
    """CMake's."""
    return BUILD / f"wheel-{arch}-cuda-{cuda.lower()}"


def environment(arch: str, version: str) -> dict[str, str]:
    """What wheels/toolchain.cmake and the compiler read, and what Python is to say of itself."""
    compiler = f"{arch}-linux-gnu-g++"
    need(compiler, f"g++-{arch.replace('_', '-')}-linux-gnu")
    return (
        os.environ
        | _OWN
        | {
            "CMAKE_TOOLCHAIN_FILE": str(ROOT / "wheels" / "toolchain.cmake"),
            "EARMARK_ARCH": arch,
            "EARMARK_GCC": compiler,
            "EARMARK_ZIG": str(Path(ziglang.__file__).parent / "zig"),
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version}-{arch}-linux-gnu.so",
            "_PYTHON_HOST_PLATFORM": f"linux-{arch}",
        }
    )


if __name__ == "__main__":
    main()
