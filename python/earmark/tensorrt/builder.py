"""The process that builds an engine of TensorRT: see ``building.py``.

    python -m earmark.tensorrt.builder FOLDER

Reads ``model.onnx`` and ``given.json`` in the folder; writes ``engine`` and ``made.json``.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any


def layers(lines: list[str]) -> list[dict[str, Any]]:
    """Name, type and data types of the inputs of each layer that the builder has told of."""
    found = []
    for line in lines:
        match = re.match(r"Name: (.*?), LayerType: (\w+), Inputs: (.*?), Constants: ", line)
        if match:
            types = re.findall(r"Datatype: (\w+)", match[3])
            found.append({"name": match[1], "type": match[2], "inputs": types})
    return found


def build(trt: Any, logger: Any, folder: Path, given: dict[str, Any]) -> bytes | None:
    """The engine; None where the model was refused, which the logger has heard of."""
    builder = trt.Builder(logger)
    if given["library"]:
        builder.get_plugin_registry().load_library(given["library"])
    # Types as the model has them; of later versions the only way.
    flags = trt.NetworkDefinitionCreationFlag
    typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse((folder / "model.onnx").read_bytes()):
        return None
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    features = network.get_input(0)
    shapes = zip(given["batch"], given["frames"], strict=True)
    profile.set_shape(features.name, *((b, t, features.shape[2]) for b, t in shapes))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return None if engine is None else bytes(engine)


def main() -> None:
    """Build, write, tell."""
    folder = Path(sys.argv[1])
    given = json.loads((folder / "given.json").read_text())
    trt = importlib.import_module(given["package"])
    lines: list[str] = []
    errors: list[str] = []

    class Listener(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what is said."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            lines.extend(text.splitlines())
            if severity <= trt.ILogger.ERROR:
                errors.append(text)

    begin = time.perf_counter()
    engine = build(trt, Listener(), folder, given)
    if engine is not None:
        (folder / "engine").write_bytes(engine)
    told = {
        "builder": f"{given['package']} {trt.__version__}",
        "seconds": time.perf_counter() - begin,
        "layers": layers(lines),
        "errors": errors,
    }
    (folder / "made.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
