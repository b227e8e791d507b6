"""Arrays as a file stores them: round trips, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earmark
from earmark import modelfile
from earmark.errors import FormatError
from earmark.modelfile import ModelFile
from earmark.storage import bits as bits_coding
from earmark.storage import decode_arrays, encode_arrays, float16
from modelfiles import network_model


@settings(deadline=None)
@given(bits=st.integers(2, 7), shape=st.lists(st.integers(0, 9), max_size=4), seed=st.integers(0))
def test_bits_round_trip(bits: int, shape: list[int], seed: int) -> None:
    half = 1 << (bits - 1)
    values = np.random.default_rng(seed).integers(-half, half, shape).astype(np.int8)
    stored, coding = bits_coding.encode(values, bits)
    assert stored.dtype == np.uint8
    assert stored.size == -(-values.size // 8) * bits
    decoded = decode_arrays({"a": stored}, {"a": coding})["a"]
    assert decoded.dtype == np.int8
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("rows", [32767, 32768, 32769])
def test_many_values_round_trip(rows: int) -> None:
    """Decoded in parts of 32768 rows of eight."""
    values = np.random.default_rng(rows).integers(-4, 4, 8 * rows - 3).astype(np.int8)
    stored, coding = bits_coding.encode(values, 3)
    np.testing.assert_array_equal(decode_arrays({"a": stored}, {"a": coding})["a"], values)


def test_the_first_value_is_in_the_lowest_bits() -> None:
    stored, _ = bits_coding.encode(np.array([-4, 3, 0], np.int8), 3)
    # 0, 7, 4, then five of the filling's 0: 0b100_111_000.
    np.testing.assert_array_equal(stored, [0b00111000, 0b1, 0])


def test_values_that_do_not_fit_are_not_stored() -> None:
    with pytest.raises(ValueError, match="array 'w': values do not fit 4 bits"):
        encode_arrays({"w": np.array([8], np.int8)}, {"w": lambda a: bits_coding.encode(a, 4)})
    with pytest.raises(ValueError, match="70000 is too large for float16"):
        float16.encode(np.array([1.0, -70000.0], np.float32))


def test_float16_is_the_nearest() -> None:
    values = np.array([0.0, -1.0, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-24, 65504], np.float32)
    stored, coding = float16.encode(values)
    decoded = decode_arrays({"a": stored}, {"a": coding})["a"]
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, [0.0, -1.0, 1.0, 1 + 2.0**-9, 2.0**-24, 65504])


BITS: dict[str, Any] = {"coding": "bits", "bits": 4, "shape": [3, 5]}


@pytest.mark.parametrize(
    ("array", "coding", "reason"),
    [
        (np.zeros(8, np.uint8), None, "is uint8, expected int8 or int16 or float32"),
        (np.zeros(8, np.float16), None, "is float16, expected int8 or int16 or float32"),
        (np.zeros(8, np.uint8), {"coding": "zip"}, "unknown coding"),
        (np.zeros(8, np.uint8), [], "unknown coding"),
        (np.zeros(8, np.uint8), {**BITS, "more": 1}, "unknown coding"),
        (np.zeros(8, np.uint8), {"coding": "bits", "bits": 4}, "unknown coding"),
        (np.zeros(8, np.float32), {"coding": "float16"}, "is float32, expected uint8 or float16"),
        (np.zeros(8, np.uint8), {"coding": "float16"}, "is uint8, expected float16"),
        (np.zeros(7, np.uint8), BITS, "does not hold 15 values of 4 bits"),
        (np.zeros(9, np.uint8), BITS, "does not hold 15 values of 4 bits"),
        (np.zeros(8, np.int8), BITS, "is int8, expected uint8 or float16"),
        (np.zeros(8, np.float16), BITS, "does not hold 15 values of 4 bits"),
        (np.zeros((2, 4), np.uint8), BITS, "does not hold 15 values of 4 bits"),
        (np.zeros(8, np.uint8), {**BITS, "bits": 8}, "values of 8 bits"),
        (np.zeros(8, np.uint8), {**BITS, "bits": 1}, "values of 1 bits"),
        (np.zeros(8, np.uint8), {**BITS, "bits": True}, "values of True bits"),
        (np.zeros(8, np.uint8), {**BITS, "shape": [-3, -5]}, "impossible shape"),
        (np.zeros(8, np.uint8), {**BITS, "shape": [3, 5.0]}, "impossible shape"),
        (np.zeros(8, np.uint8), {**BITS, "shape": [1 << 40, 1 << 40]}, "does not hold"),
    ],
)
def test_what_does_not_fit_its_coding_is_refused(
    tmp_path: Path, array: Any, coding: Any, reason: str
) -> None:
    model = network_model()
    storage = {} if coding is None else {"extra": coding}
    path = tmp_path / "model.earmark"
    modelfile.write(
        ModelFile({**model.metadata, "storage": storage}, {**model.arrays, "extra": array}), path
    )
    with pytest.raises(FormatError, match=f"'extra':? .*{reason}") as refusal:
        earmark.load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("storage", [[], 3, None, {"nothing": BITS}])
def test_nonsense_storage_is_refused(tmp_path: Path, storage: Any) -> None:
    model = network_model()
    path = tmp_path / "model.earmark"
    modelfile.write(ModelFile({**model.metadata, "storage": storage}, model.arrays), path)
    with pytest.raises(FormatError, match=r"storage|'nothing' is not there"):
        earmark.load(path)
