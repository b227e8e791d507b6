"""Piecewise-linear and table softmax layers: values, masks, gradients, state."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from earmark import _C  # noqa: E402
from earmark.nn import (  # noqa: E402
    LookupTableSoftmax,
    PiecewiseLinear,
    PiecewiseLinearSoftmax,
)
from earmark.nn.piecewise import fit_exp  # noqa: E402
from earmark.nn.softmax import ApproximateSoftmax, softmax_of_shape  # noqa: E402

from .paths import one_torch_thread  # noqa: E402

# Not convex, with an upper bound.
ODD = PiecewiseLinear.continuous((-1.0, 0.5), (0.5, 2.0, -1.0), 1.0, low=0.125, high=2.5)

LAYERS: dict[str, Callable[..., ApproximateSoftmax]] = {
    "clip": lambda **options: PiecewiseLinearSoftmax(segments=0, **options),
    "one": lambda **options: PiecewiseLinearSoftmax(segments=1, **options),
    "two": PiecewiseLinearSoftmax,
    "seven": lambda **options: PiecewiseLinearSoftmax(segments=7, **options),
    "minimax": lambda **options: PiecewiseLinearSoftmax(method="minimax", **options),
    "odd": lambda **options: PiecewiseLinearSoftmax(function=ODD, **options),
    "learnable": lambda **options: PiecewiseLinearSoftmax(learnable=True, **options),
    "table": lambda **options: LookupTableSoftmax(entries=50, **options),
}
PIECEWISE = [name for name in LAYERS if name != "table"]
every = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def logits(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def reference(layer: ApproximateSoftmax, x: Any, axis: int) -> Any:
    """Weights in float64 NumPy."""
    if isinstance(layer, PiecewiseLinearSoftmax):
        values = layer.function()(x)
    else:
        a, b = layer.limits.numpy().astype(np.float64)
        table = layer.table.numpy().astype(np.float64)
        values = np.interp(x, np.linspace(a, b, len(table)), table)
    values = np.where(x == -np.inf, 0.0, values)
    return values / values.sum(axis=axis, keepdims=True)


@every
@pytest.mark.parametrize("dim", [-1, 0, 1, 2])
def test_weights(name: str, dim: int) -> None:
    layer = LAYERS[name](dim=dim)
    x = logits(3, 4, 5)
    found = layer(x).detach()
    expected = reference(layer, x.numpy().astype(np.float64), dim)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert (found > 0).all()
    torch.testing.assert_close(found.sum(dim), torch.ones_like(found.sum(dim)))


@every
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_any_logits(name: str, values: list[float]) -> None:
    layer = LAYERS[name]()
    found = layer(torch.tensor(values)).detach()
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert abs(found.sum().item() - 1) < 1e-5


@every
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-6),
        (torch.float32, 1e-6),
        (torch.float16, 1e-3),
        (torch.bfloat16, 8e-3),
    ],
)
def test_dtypes(name: str, dtype: Any, tolerance: float) -> None:
    layer = LAYERS[name]()
    x = logits(6, 50, dtype=dtype)
    found = layer(x)
    assert found.dtype == dtype
    exact = layer(x.double()).detach()
    torch.testing.assert_close(found.detach().double(), exact, rtol=tolerance, atol=1e-6)
    if dtype != torch.float64:
        half = layer.to(dtype)(x)
        assert half.dtype == dtype
        torch.testing.assert_close(half.detach().double(), exact, rtol=0.1, atol=0.01)


def test_autocast_keeps_float32() -> None:
    layer, x = PiecewiseLinearSoftmax(1), logits(3, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32
    assert layer(x).dtype == torch.bfloat16


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits must be floating point, got torch\.int64"):
        PiecewiseLinearSoftmax()(torch.arange(3))


def test_variant_one_is_a_clip() -> None:
    x = torch.tensor([-3.0, 0.5, 1.0, 2.0])
    layer = PiecewiseLinearSoftmax(segments=0)
    low = layer.function().low
    torch.testing.assert_close(layer(x), x.clamp(min=low) / x.clamp(min=low).sum())


def test_many_segments_and_entries_come_near_to_a_softmax() -> None:
    x = logits(8, 100).clamp(-5, 5)
    exact = torch.softmax(x, 1)
    for layer in (
        PiecewiseLinearSoftmax(1, 14, range=(-5.0, 5.0)),
        LookupTableSoftmax(1, 100, range=(-5.0, 5.0)),
    ):
        torch.testing.assert_close(layer(x), exact, rtol=0.01, atol=2e-3)


@every
def test_masks(name: str) -> None:
    """Masked by -inf, by a mask, or not there at all: the same."""
    layer = LAYERS[name](dim=2)
    x = logits(2, 3, 10)
    mask = torch.ones(2, 1, 10)
    mask[0, :, 6:] = 0
    mask[1, :, :2] = 0
    found = layer(x, mask)
    filled = x.masked_fill(mask == 0, -math.inf)
    for other in (layer(x, mask.bool()), layer(filled), layer(filled, mask)):
        assert torch.equal(found, other)
    assert (found[(mask == 0).expand_as(x)] == 0).all()
    torch.testing.assert_close(found[0, :, :6], layer(x[:1, :, :6])[0])
    torch.testing.assert_close(found[1, :, 2:], layer(x[1:, :, 2:])[0])


@every
def test_where_all_is_masked_weights_and_gradients_are_zero(name: str) -> None:
    layer = LAYERS[name]()
    x = logits(2, 4)
    x[0] = -math.inf
    x.requires_grad_()
    found = layer(x)
    assert (found[0] == 0).all()
    (found * logits(2, 4, seed=1)).sum().backward()
    assert (x.grad[0] == 0).all()
    for parameter in layer.parameters():
        assert parameter.grad.isfinite().all()


@every
def test_nan_is_not_hidden(name: str) -> None:
    found = LAYERS[name]()(torch.tensor([[0.5, math.nan, 1.0], [0.0, 1.0, 2.0]]))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def away_from_kinks(layer: ApproximateSoftmax, seed: int) -> Any:
    """Logits (4, 9), float64, at least 0.01 from where the function has no derivative."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-4, 4, 4000)
    if isinstance(layer, PiecewiseLinearSoftmax):
        values = [layer.function()(x + shift) for shift in (-0.01, 0, 0.01)]
    else:
        values = [reference_table(layer, x + shift) for shift in (-0.01, 0, 0.01)]
    straight = np.abs(values[0] + values[2] - 2 * values[1]) < 1e-9
    return torch.from_numpy(rng.choice(x[straight], (4, 9), replace=False))


def reference_table(layer: Any, x: Any) -> Any:
    points = np.linspace(*layer.limits.tolist(), len(layer.table))
    return np.interp(x, points, layer.table.numpy())


@every
def test_gradients_of_logits(name: str) -> None:
    layer = LAYERS[name](dim=1).double()
    x = away_from_kinks(layer, 1).requires_grad_()
    mask = torch.ones(4, 9)
    mask[0, 5:] = 0
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradcheck(lambda x: layer(x, mask), (x,))


@pytest.mark.parametrize("name", PIECEWISE)
def test_gradients_of_the_function(name: str) -> None:
    """Of breakpoints, slopes, intercept and bounds."""
    layer = LAYERS[name](**({} if name == "learnable" else {"learnable": True})).double()
    x = away_from_kinks(layer, 2)
    names = [key for key, _ in layer.named_parameters()]
    numbers = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    assert "log_low" in names

    def weights(*numbers: Any) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, numbers, strict=True)), (x,))

    assert torch.autograd.gradcheck(weights, numbers)


def test_gradient_is_the_difference_of_the_exported_function() -> None:
    """By function(), which the integer network gets, not by the layer's own arithmetic."""
    layer = PiecewiseLinearSoftmax(segments=3, learnable=True).double()
    x = away_from_kinks(layer, 3)
    pull = logits(4, 9, seed=4, dtype=torch.float64)
    (layer(x) * pull).sum().backward()

    def loss(changes: dict[str, Any]) -> float:
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            for key, change in changes.items():
                getattr(twin, key).add_(change)
        return float((reference(twin, x.numpy(), 1) * pull.numpy()).sum())

    for key, parameter in layer.named_parameters():
        for place in np.ndindex(tuple(parameter.shape)):
            step = torch.zeros_like(parameter)
            step[place] = 1e-6
            slope = (loss({key: step}) - loss({key: -step})) / 2e-6
            assert abs(parameter.grad[place].item() - slope) < 1e-7, (key, place)


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_any_numbers_make_a_continuous_positive_function(segments: int, seed: int) -> None:
    layer = PiecewiseLinearSoftmax(segments=segments, learnable=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 3, generator=generator)
    function = layer.function()
    assert function.low > 0
    x = logits(200, seed=seed)
    np.testing.assert_allclose(
        layer(x).detach(), reference(layer, x.numpy().astype(float), 0), rtol=1e-3, atol=1e-5
    )


def test_learning_brings_the_weights_nearer() -> None:
    layer = PiecewiseLinearSoftmax(segments=2, learnable=True)
    x = logits(64, 50)
    exact = torch.softmax(x, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(50):
        loss = (layer(x) - exact).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    layer.check()


def test_a_given_function_stays() -> None:
    layer = PiecewiseLinearSoftmax(function=ODD)
    found = layer.function()
    assert layer.segments == 3
    np.testing.assert_allclose(found.slopes, ODD.slopes, rtol=1e-6)
    np.testing.assert_allclose(found.breakpoints, ODD.breakpoints, rtol=1e-6)
    np.testing.assert_allclose(found.intercepts, ODD.intercepts, rtol=1e-6)
    np.testing.assert_allclose([found.low, found.high], [ODD.low, ODD.high], rtol=1e-6)
    with pytest.raises(ValueError, match="the function was given"):
        layer.fit((0.0, 1.0))


@pytest.mark.parametrize("segments", [0, 1, 3])
@pytest.mark.parametrize("method", ["minimax", "least_squares"])
def test_fit_is_that_of_the_constructor(segments: int, method: str) -> None:
    layer = PiecewiseLinearSoftmax(segments=segments, method=method, learnable=True)
    parameters = list(layer.parameters())
    layer.fit((-3.0, 1.0))
    fresh = PiecewiseLinearSoftmax(segments=segments, method=method, range=(-3.0, 1.0))
    assert layer.function() == fresh.function()
    # Of which an optimizer may know already.
    assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))
    density = np.linspace(1, 9, 30)
    layer.fit((-3.0, 1.0), density)
    assert (layer.function() == fresh.function()) == (method == "minimax")
    if method == "least_squares":
        expected = fit_exp((-3.0, 1.0), segments, method, density)
        np.testing.assert_allclose(layer.function().slopes, expected.slopes, rtol=1e-6)


def test_a_table_is_exp_where_it_has_entries() -> None:
    layer = LookupTableSoftmax(entries=11, range=(-4.0, 1.0))
    x = torch.linspace(-4, 1, 11)
    torch.testing.assert_close(layer(x), torch.softmax(x, 0))
    outside = torch.tensor([-100.0, -4.0, 1.0, 50.0])
    found = layer(outside)
    assert found[0] == found[1]
    assert found[2] == found[3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LookupTableSoftmax(entries=1), "at least 2 entries, got 1"),
        (lambda: LookupTableSoftmax(range=(1.0, 1.0)), "range must be a < b"),
        (lambda: PiecewiseLinearSoftmax(segments=-1), "segments must be at least 0"),
        (lambda: PiecewiseLinearSoftmax(method="taylor"), "unknown method"),
        (
            lambda: PiecewiseLinearSoftmax(function=PiecewiseLinear((), (1.0,), (0.0,), 1e-60)),
            "lower bound 1e-60 does not fit float32",
        ),
    ],
)
def test_bad_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@every
def test_copies_pickles_and_loaded_states_are_the_same(name: str) -> None:
    layer = LAYERS[name](dim=1)
    x = logits(3, 40)
    loaded = softmax_of_shape(layer.state_dict(), dim=1)
    loaded.load_state_dict(layer.state_dict(), strict=True)
    loaded.check()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(twin(x), layer(x))
        assert twin.state_dict().keys() == layer.state_dict().keys()


def test_names_of_the_state() -> None:
    """Checkpoints have them."""

    def shapes(layer: Any) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in layer.state_dict().items()}

    assert shapes(LAYERS["clip"]()) == {"log_low": ()}
    two = {"slopes": (2,), "breakpoints": (1,), "intercept": (), "log_low": ()}
    assert shapes(LAYERS["two"]()) == shapes(LAYERS["learnable"]()) == two
    odd = {"slopes": (3,), "breakpoints": (2,), "intercept": (), "log_low": (), "log_high": ()}
    assert shapes(LAYERS["odd"]()) == odd
    assert shapes(LAYERS["table"]()) == {"table": (50,), "limits": (2,)}


def test_only_learnable_ones_have_parameters() -> None:
    for name in LAYERS:
        assert len(list(LAYERS[name]().parameters())) == (4 if name == "learnable" else 0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("two", {"log_low": math.nan}),
        ("two", {"log_low": 200.0}),
        ("two", {"log_low": -200.0}),
        ("two", {"slopes": math.inf}),
        ("two", {"breakpoints": math.nan}),
        ("odd", {"log_high": -50.0}),
        ("table", {"limits": 0.0}),
        ("table", {"table": 0.0}),
        ("table", {"table": math.nan}),
    ],
)
def test_check_refuses(name: str, changes: dict[str, float]) -> None:
    layer = LAYERS[name]()
    layer.check()
    for key, value in changes.items():
        getattr(layer, key).fill_(value)
    with pytest.raises(ValueError, match=r"\w"):
        layer.check()


def test_repr() -> None:
    assert repr(PiecewiseLinearSoftmax(2, 1)) == (
        "PiecewiseLinearSoftmax(dim=2, segments=1, learnable=False)"
    )
    assert repr(LookupTableSoftmax()) == "LookupTableSoftmax(dim=-1, entries=256)"


@pytest.mark.parametrize("name", ["clip", "odd", "table"])
def test_compiles_in_one_graph(name: str) -> None:
    layer = LAYERS[name]()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = logits(3, 40)
    torch.testing.assert_close(compiled(x), layer(x))


def test_tracing_records_the_layer_and_not_its_result() -> None:
    layer = PiecewiseLinearSoftmax()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but used
        with torch.no_grad():
            traced = torch.jit.trace(layer, torch.zeros(2, 5))
    x = torch.arange(10.0).reshape(2, 5) / 5
    torch.testing.assert_close(traced(x), layer(x))


@pytest.mark.parametrize(
    "layer",
    [
        PiecewiseLinearSoftmax(segments=0, range=(-1, 5)),
        PiecewiseLinearSoftmax(segments=2),
        PiecewiseLinearSoftmax(segments=5, learnable=True),
        LookupTableSoftmax(entries=64),
    ],
    ids=repr,
)
def test_inference_on_the_cpu_is_by_the_kernel(layer: ApproximateSoftmax) -> None:
    """The same weights to a few ulp; -inf, NaN and rows without logits too."""
    x = torch.randn(3, 7, 50, generator=torch.Generator().manual_seed(0))
    x[0, 0, ::3] = -math.inf
    x[1, 1] = -math.inf
    x[2, 2, 2] = math.nan
    by_torch = layer(x.clone().requires_grad_(True)).detach()
    _C.softmax_f32(np.zeros(1, np.float32), np.zeros(1, np.float32))
    with torch.no_grad():
        by_kernel = layer(x)
        assert "softmax_f32" in _C.last_kernel()
        assert not _C.last_kernel().startswith("softmax")
        strided = layer(x[:, :, ::2])
    torch.testing.assert_close(by_kernel, by_torch, rtol=1e-5, atol=1e-6, equal_nan=True)
    expected = layer(x[:, :, ::2].clone().requires_grad_(True)).detach()
    torch.testing.assert_close(strided, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
