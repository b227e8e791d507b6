"""What every host checks of a plugin."""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = [
    "EarmarkConvS8",
    "EarmarkAddS8",
    "EarmarkRes2S8",
    "EarmarkSqueezeExcitationS8",
    "EarmarkAttentivePoolS8",
    "EarmarkSoftmax",
]


def check_round_trip(library: Any, plugin: Any) -> None:
    """Clones and what is made of the serialised fields are the same plugin."""
    fields = plugin.fields()
    for other in (plugin.clone(), library.create(plugin.name, fields)):
        again = other.fields()
        assert sorted(again) == sorted(fields)
        for key, value in fields.items():
            np.testing.assert_array_equal(again[key], value)
    assert plugin.interfaces == [
        "PLUGIN 1.0",
        "PLUGIN_V3ONE_CORE 1.0",
        "PLUGIN_V3ONE_BUILD 1.0",
        "PLUGIN_V3ONE_RUNTIME 1.0",
    ]
