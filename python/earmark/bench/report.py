"""What a result is worth only with, the machine and the versions; tables of results."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

_ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
_PACKAGES = ("earmark", "numpy", "torch", "onnx", "onnxruntime", "openvino", "nncf")

OP_HEADER = ["op", "layer", "number", "ms", "time", "GMAC/s", "of peak", "GB/s"]


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


def op_rows(ops: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A table's rows under ``OP_HEADER``: ops of one kind and size as one, the most time first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for op in ops:
        groups.setdefault((op["op"], op["macs"], op["bytes"]), []).append(op)
    for group in sorted(groups.values(), key=lambda group: -sum(op["ms"] for op in group)):
        first, total = group[0], sum(op["ms"] for op in group)
        # GMAC/s of equal ops over the group: equal work over the mean time.
        scale = len(group) * first["ms"] / total
        computes = first["macs"] > 0
        share = first["share_of_peak"]
        yield [
            first["op"],
            first["name"] + (", ..." if len(group) > 1 else ""),
            str(len(group)),
            f"{total:.3f}",
            f"{100 * sum(op['share_of_time'] for op in group):.1f}%",
            f"{scale * first['gmac_per_s']:.1f}" if computes else "",
            f"{100 * scale * share:.1f}%" if computes and share is not None else "",
            f"{scale * first['gb_per_s']:.2f}",
        ]
