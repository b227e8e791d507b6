"""Run wheels of aarch64 under qemu: wheels/smoke.py, with Debian's Python of that processor, and
random plans (tests/cpp/isa_agreement.cc) from the folder that the wheels were built in.

    python wheels/run_emulated.py dist/earmark-0.1.0-cp311-cp311-manylinux_2_28_aarch64.whl

Nothing is installed on the machine: Debian's packages are unpacked under build/, as are the wheel
and what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from _commands import BUILD, ROOT, need, run
from build_wheels import build_folder, environment

SUITES = {"311": "bookworm", "313": "trixie"}
"""Debian's releases, by the Python that is theirs. Of other versions it has none."""

_QEMU = ("qemu-aarch64-static", "-cpu", "max", "-L")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def main() -> None:
    """Check each wheel; exit with a message where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    args = parser.parse_args()
    need("qemu-aarch64-static", "qemu-user-static")
    need("apt-get", "apt")
    for wheel in args.wheels:
        version = wheel.name.split("-")[2].removeprefix("cp")
        if version not in SUITES:
            print(f"{wheel.name}: not run, Debian has no Python {version[0]}.{version[1:]}")
            continue
        check(wheel, version)
    check_plans()


def check(wheel: Path, version: str) -> None:
    """Run one wheel."""
    prefix = _python(version)
    packages = BUILD / f"emulated-packages-{version}"
    shutil.rmtree(packages, ignore_errors=True)
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    run(
        *(sys.executable, "-m", "pip", "install", "-q", "--target", str(packages), *platforms),
        *("--python-version", version, "--implementation", "cp", "--only-binary=:all:", str(wheel)),
    )
    # Without site: the emulated Python would find the machine's own packages.
    run(
        *(*_QEMU, prefix, prefix / "usr" / "bin" / f"python{version[0]}.{version[1:]}", "-s", "-S"),
        ROOT / "wheels" / "smoke.py",
        env=os.environ | {"PYTHONPATH": str(packages)},
    )


def check_plans() -> None:
    """Random plans: every instruction set like the scalar kernels, these like x86-64's."""
    folder = build_folder("aarch64", "OFF")
    build = [sys.executable, "-m", "cmake", "--build", folder, "--target", "isa_agreement"]
    run(*build, env=environment("aarch64", ""))
    done = subprocess.run(
        [*_QEMU, _python("311"), folder / "isa_agreement", "150"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout, end="")
    digest = json.loads((ROOT / "wheels" / "bits.json").read_text())["plans"]
    if done.returncode != 0 or digest not in done.stdout:
        sys.exit(f"random plans: expected the digest {digest}")


def _python(version: str) -> Path:
    """The root of Debian's Python for aarch64 with what it needs."""
    folder = BUILD / f"emulated-python-{version}"
    if (folder / ".unpacked").exists():
        return folder / "root"
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source = f"deb [signed-by={key}] {_repository()} {SUITES[version]} main\n"
    (folder / "sources.list").write_text(source)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    run(*apt, "update")
    python = f"python{version[0]}.{version[1:]}"
    run(*apt, "install", "--download-only", "--no-install-recommends", "-y", python, "libstdc++6")
    for package in (folder / "cache" / "archives").glob("*.deb"):
        run("dpkg", "--extract", package, folder / "root")
    if not (folder / "root" / "lib").exists():  # as base-files would make it
        (folder / "root" / "lib").symlink_to("usr/lib")
    (folder / ".unpacked").touch()
    return folder / "root"


def _repository() -> str:
    """Where this machine's apt has Debian from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Component: main"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = [uri for uri in done.stdout.split() if uri.rstrip("/").endswith("/debian")]
    if not found:
        sys.exit("apt knows no repository of Debian's")
    return found[0]


if __name__ == "__main__":
    main()
