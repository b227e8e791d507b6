"""Install the wheels of a folder in bare environments and run wheels/smoke.py there.

    python wheels/check_wheels.py dist python3.10 python3.11

Each interpreter gets the wheel made for it and what pip brings with it, nothing else.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

from _commands import ROOT, interpreters, run


def main() -> None:
    """Check the wheels that the command line names; exit with a message where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with wheels of this machine's processor")
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="interpreters, by command")
    args = parser.parse_args()
    for python, version in interpreters(args.pythons):
        tag = f"cp{version}-cp{version}-manylinux_2_28_{platform.machine()}"
        (wheel,) = args.folder.resolve().glob(f"earmark-*-{tag}.whl")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            here = folder / "bin" / "python"
            run(python, "-m", "venv", folder)
            run(here, "-m", "pip", "install", "-q", "--only-binary=:all:", wheel)
            run(here, "-I", ROOT / "wheels" / "smoke.py", cwd=folder)
            run(folder / "bin" / "earmark", "demo", "--quiet", cwd=folder)


if __name__ == "__main__":
    main()
