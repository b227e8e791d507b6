"""The softmaxes of rows, of each instruction set, beside torch and float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import Array, pwl_arrays, random_f32, table_array
from earmark import _C
from oracle import ops_f32

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

RANGE = np.array([-4, 12], np.float32)


def pieces(count: int) -> dict[str, Array]:
    """A function of so many pieces."""
    arrays = pwl_arrays(np.linspace(-4, 4, max(count - 1, 1)))
    if count == 1:
        arrays = {
            "breakpoints": np.zeros(0, np.float32),
            "slopes": np.array([3e6], np.float32),
            "intercepts": np.array([9e6], np.float32),
        }
    return {**arrays, "bounds": np.array([1e3, 2.0**30], np.float32)}


FUNCTIONS: dict[str, dict[str, Array]] = {
    "exact": {},
    **{f"pwl {count}": pieces(count) for count in (1, 2, 3, 4, 5, 9)},
    "table": {"table": table_array(256), "range": RANGE},
}
KERNELS = {"exact": "softmax_f32", "pwl": "pwl_softmax_f32", "table": "table_softmax_f32"}


def run(name: str, x: Array, out: Array, isa: str = "") -> None:
    function = FUNCTIONS[name]
    if name == "exact":
        _C.softmax_f32(x, out, isa=isa)
    elif name == "table":
        low, high = RANGE.tolist()
        _C.table_softmax_f32(x, out, table=function["table"], low=low, high=high, isa=isa)
    else:
        low, high = function["bounds"].tolist()
        lines = {role: function[role] for role in ("breakpoints", "slopes", "intercepts")}
        _C.pwl_softmax_f32(x, out, **lines, low=low, high=high, isa=isa)


def softmax(name: str, x: Array) -> Array:
    """In float64."""
    rows = x.astype(np.float64).reshape(-1, x.shape[-1]).T
    share = ops_f32.softmax_f32(rows, name.split()[0], **FUNCTIONS[name])
    return np.asarray((share / share.sum(axis=0)).T.reshape(x.shape))


@each_isa
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([1, 3, 8, 16, 31, 33, 300]))
def test_softmax_of_rows(isa: str, name: str, seed: int, rows: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = random_f32(rng, rows, n, scale=float(rng.choice([0.5, 3, 30])))
    out = np.full_like(x, np.nan)
    run(name, x, out, isa)
    assert _C.last_kernel() == f"{KERNELS[name.split()[0]]}/{isa}"
    expected = softmax(name, x)
    # Of a weight's largest numerators each has an error of a few ulp; torch's own is about one.
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=2e-7)
    run(name, x, x, isa)  # in place
    np.testing.assert_array_equal(x, out)


@each_isa
def test_exact_softmax_is_as_near_as_torch(isa: str) -> None:
    x = random_f32(np.random.default_rng(7), 64, 300, scale=4)
    truth = torch.softmax(torch.from_numpy(x).double(), dim=-1).numpy()
    by_torch = torch.softmax(torch.from_numpy(x), dim=-1).numpy()
    out = np.empty_like(x)
    _C.softmax_f32(x, out, isa=isa)
    ulp = np.spacing(by_torch.max())
    assert np.abs(out - truth).max() <= 2 * np.abs(by_torch - truth).max() + 2 * ulp


@each_isa
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_values_that_are_not_finite_are_as_in_torch(isa: str, value: float, n: int) -> None:
    x = random_f32(np.random.default_rng(n), 3, n)
    x[1, n // 2] = value
    out = np.empty_like(x)
    _C.softmax_f32(x, out, isa=isa)
    by_torch = torch.softmax(torch.from_numpy(x), dim=-1).numpy()
    np.testing.assert_allclose(out, by_torch, rtol=1e-5, atol=1e-7)


@each_isa
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "exact"])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_approximate_softmax_of_values_that_are_not_finite(isa: str, name: str, n: int) -> None:
    x = random_f32(np.random.default_rng(n), 3, n)
    expected = softmax(name, x)
    x[0, n // 2] = -np.inf
    x[1] = -np.inf
    x[2, 0] = np.nan
    expected[0, n // 2] = 0
    expected[0] /= expected[0].sum() or 1
    out = np.empty_like(x)
    run(name, x, out, isa)
    np.testing.assert_allclose(out[0], expected[0], rtol=2e-6, atol=2e-7)
    assert not out[1].any()
    assert np.isnan(out[2]).all()


@each_isa
def test_far_logits_weigh_nothing(isa: str) -> None:
    x = np.array([[0, -86, -88, -1e38, 0]], np.float32)
    out = np.empty_like(x)
    _C.softmax_f32(x, out, isa=isa)
    assert out[0, [0, 4]].tolist() == [0.5, 0.5]
    assert 0 < out[0, 1] < 1e-37
    assert out[0, 2:4].tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 4), (4, 0)])
def test_any_rank_and_empty_arrays(shape: tuple[int, ...]) -> None:
    x = random_f32(np.random.default_rng(0), *shape)
    out = np.empty_like(x)
    _C.softmax_f32(x, out)
    np.testing.assert_allclose(out, torch.softmax(torch.from_numpy(x), -1), rtol=1e-6, atol=1e-7)


X = np.zeros((4, 6), np.float32)
ONE = np.ones(1, np.float32)
NONE = np.zeros(0, np.float32)
REFUSED: dict[str, tuple[Callable[[], None], str]] = {
    "float64": (lambda: _C.softmax_f32(X.astype(np.float64), X), "float32"),
    "strided": (lambda: _C.softmax_f32(X[:, ::2], X[:, ::2].copy()), "contiguous"),
    "no axis": (lambda: _C.softmax_f32(X[0, 0:1].reshape(()), X), "rank 1"),
    "other shape": (lambda: _C.softmax_f32(X, np.zeros((6, 4), np.float32)), "same shape"),
    "overlapping": (lambda: _C.softmax_f32(X[:3], X[1:]), "overlap"),
    "unknown ISA": (lambda: _C.softmax_f32(X, X, isa="mmx"), "mmx"),
    "no pieces": (
        lambda: _C.pwl_softmax_f32(
            X, X, breakpoints=NONE, slopes=NONE, intercepts=NONE, low=1, high=2
        ),
        "slopes",
    ),
    "breakpoints without pieces": (
        lambda: _C.pwl_softmax_f32(
            X, X, breakpoints=ONE, slopes=ONE, intercepts=ONE, low=1, high=2
        ),
        "breakpoints",
    ),
    "one entry": (lambda: _C.table_softmax_f32(X, X, table=ONE, low=0, high=1), "entries"),
    "empty range": (
        lambda: _C.table_softmax_f32(X, X, table=X[0], low=1, high=1),
        "range",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    call, reason = REFUSED[what]
    with pytest.raises(ValueError, match=reason):
        call()
