"""What a result is worth only with, the machine and the versions; tables of results."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_PACKAGES = ("earmark", "numpy", "torch", "onnx", "onnxruntime", "openvino", "nncf")


def environment() -> dict[str, Any]:
    """Machine and versions, for the head of a result."""
    return {
        "cpu": _cpu(),
        "cpus_available": len(os.sched_getaffinity(0)),
        "load_average_1min": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned for reading as text; columns after the first flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    lines = []
    for cells in [header, rule, *rows]:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def _cpu() -> dict[str, Any]:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "model": fields.get("model name", platform.machine()),
        "family_model": [fields.get("cpu family", ""), fields.get("model", "")],
        "isa": [flag for flag in _ISA_FLAGS if flag in flags],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
