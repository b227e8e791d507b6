"""Every plugin of a network, in a runtime of TensorRT that has loaded the library.

    python lean_plugins.py LIBRARY RUNTIME MAJOR MODEL

In a process of its own, which the runtime may end. Prints how many of each were created, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from earmark import modelfile
from earmark.export.graph import Graph
from earmark.export.plugins import append_plugins
from earmark.modelfile import ModelFile
from earmark.plan import PlanBuilder
from plugin_checks import check_round_trip

Case = tuple[str, dict[str, Any]]


class _Recorder(Graph):
    """Keeps what the nodes of plugins are given."""

    def __init__(self) -> None:
        super().__init__()
        self.cases: list[Case] = []

    def custom(
        self, kind: str, domain: str, inputs: Sequence[str], attributes: Mapping[str, Any]
    ) -> str:
        fields = {k: v for k, v in attributes.items() if not k.startswith("plugin_")}
        self.cases.append((kind, fields))
        return super().custom(kind, domain, inputs, attributes)


def cases_of(model: ModelFile) -> list[Case]:
    """Names and fields of the plugins of a network, and a softmax alone."""
    graph = _Recorder()
    append_plugins(graph, PlanBuilder.of(model.plan, model.decoded_arrays()))
    return [*graph.cases, ("EarmarkSoftmax", {"axis": -1})]


def main() -> None:
    """Create, clone, serialise, create again."""
    from earmark import _plugin_host as host

    path, runtime, major, model = sys.argv[1:]
    library = host.Library(path, runtime, int(major))
    cases = cases_of(modelfile.read(model))
    for name, fields in cases:
        check_round_trip(library, library.create(name, fields))
    print(json.dumps(Counter(name for name, _ in cases)))


if __name__ == "__main__":
    main()
