"""What versions promise (docs/versioning.md): names, files of format 1, and the bits they give."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference has torch's networks")

import earmark
from promises import PROMISED, interface, promised


def test_no_name_is_gone() -> None:
    names, found = promised(), interface()
    assert {"earmark.load", "earmark.Embedder.embed", "earmark:verify"} <= set(names)
    assert sorted(set(names) - set(found)) == []
    for name, words in names.items():
        assert sorted(set(words) - set(found[name])) == [], name


def test_a_file_of_format_1_has_the_bits_it_had() -> None:
    """Written with version 0.1: random weights of 8 and 4 bits, in streams."""
    model = earmark.load(PROMISED / "format-1.earmark")
    integers = np.arange(3 * 200 * 20).reshape(3, 200, 20) ** 2 * 7919 % 1009 - 504
    embeddings = model.embed_features(list(integers.astype(np.float32) / 32))
    digest = hashlib.sha256(embeddings.astype("<f4").tobytes()).hexdigest()
    assert digest == "9cf5743254b13e12efaa85d9fee3a9bd639e21e64502a784d71f79c2d4bb4c19"
