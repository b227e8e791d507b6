"""Check an installed package: its embeddings have the known bits on every instruction set.

    python -I wheels/smoke.py

Run by the interpreter of an environment with the package and what pip installed with it. The known
bits are those of the NumPy oracle (tests/test_wheels.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KNOWN = json.loads(Path(__file__).with_name("bits.json").read_text())
"""``embeddings``: SHA-256 of the demo model's embeddings of :func:`recordings`. ``plans``: what
``isa_agreement 150`` prints as its digest."""


def recordings() -> list[Any]:
    """Made ones of three lengths, of integers, which are the same everywhere, and the package's."""
    import earmark

    made: list[Any] = []
    for samples in (4000, 16001, 50000):
        t = np.arange(samples, dtype=np.int64)
        noise = (t * t * 1103515245 + t * 12345) // 65536 % 4096 - 2048
        tone = np.abs(t * 150 % 16000 - 8000) - 4000
        made.append(((tone + noise) / 32768).astype(np.float32))
    return made + sorted((Path(earmark.__file__).parent / "data" / "recordings").glob("*.flac"))


def digest(embeddings: list[NDArray[np.float32]]) -> str:
    """SHA-256 of their bytes, little-endian."""
    return hashlib.sha256(b"".join(e.astype("<f4").tobytes() for e in embeddings)).hexdigest()


def main() -> None:
    """Run the checks; exit with a message where one fails."""
    for name in ("torch", "onnx", "ray", "matplotlib"):
        if importlib.util.find_spec(name):
            sys.exit(f"{name} is installed here; this checks the package without it")

    import earmark
    from earmark import _C

    for isa in _C.available_isas():
        model = earmark.Embedder(
            Path(earmark.__file__).parent / "data" / "demo-int8.earmark", isa=isa
        )
        found = digest([model.embed(item) for item in recordings()])
        if found != KNOWN["embeddings"]:
            sys.exit(f"{isa}: the embeddings' digest is {found}, not the known one")
        print(f"{isa}: the known bits", flush=True)
    print(
        f"earmark {earmark.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
