"""Networks with an approximate softmax: the engine beside torch, int8 beside the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from earmark import _C
from earmark.lowering.ecapa import lower_ecapa
from earmark.lowering.softmax import lower_softmax
from earmark.nn import EcapaTdnn
from earmark.nn.piecewise import PiecewiseLinear, fit_exp
from earmark.nn.softmax import LookupTableSoftmax, PiecewiseLinearSoftmax
from earmark.plan import OUTPUT, PlanBuilder, make_engine
from earmark.quantization.softmax import integer_softmax
from networks import SMALL, int8_plan, random_features, random_state, torch_network
from oracle import network, ops
from plans import equal_bits

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

RANGE = (-9.0, 9.0)
SOFTMAXES: dict[str, nn.Module] = {
    "exact": nn.Softmax(dim=2),
    "clip": PiecewiseLinearSoftmax(2, 0, range=RANGE),
    **{f"{n} pieces": PiecewiseLinearSoftmax(2, n, range=RANGE) for n in (1, 2, 3, 6)},
    "bounded above": PiecewiseLinearSoftmax(
        2, function=PiecewiseLinear((), (0.1,), (1.0,), 0.2, 1.5)
    ),
    "table": LookupTableSoftmax(2, 128, range=RANGE),
}
KERNELS = {"exact": "softmax_moments", "pwl": "pwl_moments", "table": "table_moments"}


def net_with(softmax: str) -> EcapaTdnn:
    net = torch_network(SMALL, random_state(SMALL))
    net.asp.softmax = SOFTMAXES[softmax]
    return net


def plan_of(net: EcapaTdnn) -> PlanBuilder:
    state = {key: tensor.numpy() for key, tensor in net.state_dict().items()}
    return lower_ecapa(SMALL, state, lower_softmax(net.asp.softmax))


@each_isa
@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_float_network_beside_torch(isa: str, softmax: str) -> None:
    net = net_with(softmax)
    b = plan_of(net)
    features = random_features(3, 77, SMALL.n_mels)
    engine = make_engine(b.plan, b.arrays, isa=isa, threads=1)
    traced, kernels = engine.trace(features)
    word, _ = lower_softmax(net.asp.softmax)
    assert kernels["asp.conv"] == f"{KERNELS[word]}_f32/{isa}"
    with torch.inference_mode():
        truth = net.double()(torch.from_numpy(features[None]).double())[0, 0].numpy()
        by_torch = net.float()(torch.from_numpy(features[None]))[0, 0].numpy()
    own, others = np.abs(traced[OUTPUT] - truth).max(), np.abs(by_torch - truth).max()
    assert own <= 2 * others + 8 * np.spacing(np.float32(np.abs(truth).max()))


@each_isa
@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_int8_network_has_the_oracles_bits(isa: str, softmax: str) -> None:
    net = net_with(softmax)
    b = int8_plan(plan_of(net), [random_features(i, 80, SMALL.n_mels) for i in range(3)])
    word, _ = lower_softmax(net.asp.softmax)
    for frames in (5, 64, 97):
        features = random_features(frames, frames, SMALL.n_mels)
        traced, kernels = make_engine(b.plan, b.arrays, isa=isa, threads=2).trace(features)
        assert kernels["asp.conv"] == f"{KERNELS[word]}_s8/{isa}"
        expected = network.run(b.plan, b.arrays, features)
        for name, array in traced.items():
            equal_bits(array, expected[name], name)


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_int8_network_is_near_the_float_one(softmax: str) -> None:
    net = net_with(softmax)
    recordings = [random_features(i, 120, SMALL.n_mels) for i in range(4)]
    exact = plan_of(net)
    b = int8_plan(exact, recordings)
    for features in recordings:
        near = make_engine(b.plan, b.arrays, threads=1).run([features])[0]
        truth = make_engine(exact.plan, exact.arrays, threads=1).run([features])[0]
        assert near @ truth / math.sqrt((near @ near) * (truth @ truth)) > 0.995


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from(["least_squares", "minimax"]),
    st.floats(-20, 10),
    st.floats(1, 30),
)
def test_integer_numerators_are_the_functions(
    seed: int, segments: int, method: str, begin: float, width: float
) -> None:
    """A common factor apart, to the precision of their float32 and integer steps."""
    rng = np.random.default_rng(seed)
    function = fit_exp((begin, begin + width), segments, method)
    layer = PiecewiseLinearSoftmax(0, function=function)
    word, arrays = lower_softmax(layer)
    weight = rng.integers(-127, 128, (7, 16)).astype(np.int8)
    scale = width / 4 / (127 * 128 * np.sqrt(16)) * np.ones(7)
    bias = rng.uniform(begin, begin + width, 7)
    stored = integer_softmax(word, arrays, weight, scale, bias)
    acc = rng.integers(-128, 128, (50, 16)) @ weight.astype(np.int64).T
    numerators = ops.pwl_numerators(
        acc, ops.f32(scale), **{role: ops.f32(array) for role, array in stored.items()}
    )
    expected = layer.function()(acc * scale + bias)
    factor = stored["bounds"][0] / arrays["bounds"][0]
    if factor * function.low >= 1:
        assert numerators.max() < 2**24
        np.testing.assert_allclose(numerators, factor * expected, rtol=2e-5, atol=40)


def test_numerators_reach_far_but_never_saturate() -> None:
    """Whatever the activations: all at one end of int8."""
    function = PiecewiseLinear((), (1.0,), (0.0,), 1e-3)
    weight = np.full((1, 8), 127, np.int8)
    word, arrays = lower_softmax(PiecewiseLinearSoftmax(0, function=function))
    stored = integer_softmax(word, arrays, weight, np.array([1e-4]), np.array([0.5]))
    acc = np.array([[255 * 127 * 8]])
    top = ops.pwl_numerators(acc, ops.f32([1e-4]), **{r: ops.f32(a) for r, a in stored.items()})
    assert 2**23 < top[0, 0] < 2**24


def test_pieces_that_float32_cannot_tell_apart_are_left_out() -> None:
    points = (1.0, 1.0 + 1e-12, 2.0)
    function = PiecewiseLinear.continuous(points, (0.1, 5.0, 0.2, 0.3), 1.0, 1e-3)
    _, arrays = lower_softmax(PiecewiseLinearSoftmax(0, function=function))
    assert arrays["breakpoints"].tolist() == [1.0, 2.0]
    np.testing.assert_allclose(arrays["slopes"], [0.1, 0.2, 0.3], rtol=1e-6)
    assert len(arrays["intercepts"]) == 3


def test_softmax_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Softsign"):
        lower_softmax(nn.Softsign())
