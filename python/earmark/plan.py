"""Plans: named tensors and a flat list of ops over them (docs/file-format.md), and their engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from earmark import _C
from earmark.devices import cuda_engine
from earmark.modelfile import Arrays

JSON = dict[str, Any]
T = TypeVar("T")

INPUT = "input"
# A plan has one output, under one of these names.
OUTPUT = "embedding"
SCORES = "scores"
# Every layer, where names of layers are given.
ALL = "all"

# Far above any network. An array of one element goes for all channels, so that without limits a
# small file could ask for any amount of memory and time.
_MAX_TENSORS = 1 << 15
_MAX_OPS = 1 << 13
_MAX_CHANNELS = 1 << 22  # of all ops' outputs together


class PlanBuilder:
    """Collects tensors, ops and their arrays; ``plan`` and ``arrays`` are what a file holds.

    statistics: mean and standard deviation (channels,) of each channel of some vectors, by name,
    where the trained network knows them. A quantizer can use them; no file holds them.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, JSON] = {}
        self.ops: list[JSON] = []
        self.arrays: Arrays = {}
        self.statistics: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}

    @classmethod
    def of(cls, plan: JSON, arrays: Arrays) -> PlanBuilder:
        """What a file holds; shared with it, not copied."""
        builder = cls()
        builder.tensors, builder.ops, builder.arrays = plan["tensors"], plan["ops"], arrays
        return builder

    @property
    def plan(self) -> JSON:
        return {"tensors": self.tensors, "ops": self.ops}

    def tensor(self, name: str, kind: str, dtype: str, channels: int, **attributes: Any) -> str:
        """Declare a tensor; returns its name."""
        if name in self.tensors:
            raise ValueError(f"tensor {name!r} is declared twice")
        self.tensors[name] = {"kind": kind, "dtype": dtype, "channels": channels, **attributes}
        return name

    def op(self, op: str, name: str, arrays: Arrays | None = None, /, **attributes: Any) -> None:
        """Append an op, its arrays as ``<name>.<role>``; an attribute of None is left out."""
        for role, array in (arrays or {}).items():
            key = f"{name}.{role}"
            if key in self.arrays:
                raise ValueError(f"array {key!r} is stored twice")
            self.arrays[key] = np.ascontiguousarray(array)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.ops.append({"op": op, "name": name, **given, "arrays": sorted(arrays or {})})

    def arrays_of(self, op: JSON) -> Arrays:
        """The arrays of an op by role."""
        return {role: self.arrays[f"{op['name']}.{role}"] for role in op["arrays"]}


def by_layer(plan: JSON, given: Mapping[str, T]) -> dict[str, T]:
    """What is given for layers, of every op by its name.

    given: by the name of a layer, the leading part of one or "all"; a longer name wins over a
    shorter one, any over "all". Raises ValueError for a name of no layer.
    """
    names = [op["name"] for op in plan["ops"]]
    chosen: dict[str, T] = {}
    for layer, wanted in sorted(given.items(), key=lambda item: (item[0] != ALL, len(item[0]))):
        matches = [n for n in names if layer in (ALL, n) or n.startswith(f"{layer}.")]
        if not matches:
            raise ValueError(f"there is no layer {layer!r}")
        chosen.update(dict.fromkeys(matches, wanted))
    return chosen


def base_of(plan: JSON, tensor: str) -> str:
    """The tensor whose memory ``tensor`` lies in: itself, or the one it is a view of."""
    base: str = plan["tensors"][tensor].get("of", tensor)
    return base


def make_engine(
    plan: JSON, arrays: Arrays, *, isa: str = "", threads: int = 0, ordinal: int | None = None
) -> _C.Engine:
    """Build the engine of a plan.

    isa: an instruction set by name, or "" for ``EARMARK_ISA`` or else the best one. threads: 0
    takes the physical cores this process may use. ordinal: of the CUDA device that runs it, in
    place of the CPU. Raises ValueError for a plan that cannot run, RuntimeError where a CUDA device
    is at fault.
    """
    for key, limit in (("tensors", _MAX_TENSORS), ("ops", _MAX_OPS)):
        if len(plan[key]) > limit:
            raise ValueError(f"the plan has {len(plan[key])} {key}, at most {limit} are allowed")
    written = [plan["tensors"].get(op["out"], {}) for op in plan["ops"]]
    channels = sum(int(tensor.get("channels", 0)) for tensor in written)
    if channels > _MAX_CHANNELS:
        raise ValueError(
            f"the plan's ops write {channels} channels, at most {_MAX_CHANNELS} are allowed"
        )
    ops = []
    for index, op in enumerate(plan["ops"]):
        if not isinstance(op["name"], str):
            raise ValueError(f"op {index} has no name")
        stored = {role: f"{op['name']}.{role}" for role in op["arrays"]}
        missing = [name for name in stored.values() if name not in arrays]
        if missing:
            raise ValueError(f"op {op['name']!r}: the array {missing[0]!r} is not there")
        ops.append({**op, "arrays": {role: arrays[name] for role, name in stored.items()}})
    if ordinal is not None:
        return cuda_engine(plan["tensors"], ops, ordinal)
    return _C.Engine(plan["tensors"], ops, isa=isa, threads=threads)


def trace(engine: _C.Engine, features: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Every op's output by tensor name, as it was when the op had run."""
    tensors, _ = engine.trace(features)
    return tensors
