"""Weights in coarser steps: their bits, what they lose, and which steps a limit allows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from earmark.compression.floats import round_mantissa
from earmark.compression.rate import RateModel
from earmark.compression.requantize import Requantized, Requantizer
from earmark.compression.rounding import round_layer, steps
from earmark.compression.sensitivity import Sensitivity, measure_sensitivity
from earmark.compression.solve import coarsest_within, finest_within
from earmark.metrics import cosine_score
from earmark.plan import make_engine
from earmark.quantization.gptq import Compensation
from earmark.storage.levels import WeightLevels
from earmark.storage.spreads import spreads
from networks import SMALL, random_features, random_int8_plan

Array = NDArray[Any]


def sensitivity(rng: np.random.Generator, out: int, columns: int) -> Sensitivity:
    """Rows that matter unequally, inputs that go together."""
    mixed = rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns))
    products = (mixed.T @ mixed) / len(mixed)
    return Sensitivity(
        np.exp(rng.normal(size=out)), products / np.trace(products), np.zeros(columns)
    )


def weights(rng: np.random.Generator, out: int, columns: int) -> Array:
    return np.clip(np.rint(30 * rng.normal(size=(out, columns))), -127, 127)


def of_a_quantum(found: Sensitivity) -> float:
    """What an error of one quantum costs that others make up for, about."""
    compensation = Compensation.of(found.columns, 0.01)
    return float(np.median(found.rows) * np.mean(compensation.per_column**-2))


def rounded(
    weight: Array, found: Sensitivity, cost: float, price: float = 0.0
) -> tuple[float, float]:
    """What the rounding costs, and its bits."""
    compensation = Compensation.of(found.columns, 0.01)
    step = steps(found, compensation, cost)
    rate = RateModel()
    rows, columns = spreads(weight / step[:, None])
    tables = RateModel.table(rows[:, None], columns)
    levels = round_layer(weight, compensation, step, rate.bits, tables, price)
    return found.cost(weight - levels.restored()), rate.cost(tables, levels.levels)


def test_steps_of_one_keep_every_weight() -> None:
    rng = np.random.default_rng(0)
    weight, found = weights(rng, 7, 20), sensitivity(rng, 7, 20)
    ones = np.ones(7, np.float32)
    tables = np.zeros(weight.shape, np.int64)
    compensation = Compensation.of(found.columns, 0.01)
    levels = round_layer(weight, compensation, ones, RateModel().bits, tables, 0.0)
    np.testing.assert_array_equal(levels.levels, weight)
    np.testing.assert_array_equal(levels.restored(), weight)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (24, 130)])
def test_coarser_steps_cost_more_and_take_fewer_bits(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    weight, found = weights(rng, *shape), sensitivity(rng, *shape)
    unit = of_a_quantum(found)
    costs, bits = zip(*(rounded(weight, found, unit * 4.0**i) for i in range(2, 6)), strict=True)
    if weight.size > 100:
        assert all(a > b for a, b in pairwise(bits))
        assert all(a < b for a, b in pairwise(costs))
        assert bits[0] > 1.5 * bits[-1]


def test_making_up_for_errors_costs_less_than_the_nearest() -> None:
    rng = np.random.default_rng(2)
    weight, found = weights(rng, 16, 64), sensitivity(rng, 16, 64)
    cost_of_step = 400 * of_a_quantum(found)
    step = steps(found, Compensation.of(found.columns, 0.01), cost_of_step)
    nearest = WeightLevels(np.rint(weight / step[:, None]).astype(np.int8), step).restored()
    cost, _ = rounded(weight, found, cost_of_step)
    assert cost < 0.7 * found.cost(weight - nearest)


def test_a_price_of_bits_saves_some() -> None:
    rng = np.random.default_rng(3)
    weight, found = weights(rng, 32, 64), sensitivity(rng, 32, 64)
    free, priced = (
        rounded(weight, found, 400 * of_a_quantum(found), price) for price in (0.0, 0.2)
    )
    assert priced[1] < free[1]
    assert priced[0] > free[0]


def test_spreads_find_rows_and_columns() -> None:
    rng = np.random.default_rng(4)
    row, column = 2.0 ** rng.integers(-1, 3, 40), 2.0 ** rng.integers(1, 4, 200)
    values = np.abs(rng.laplace(size=(40, 200))) * row[:, None] * column
    found = spreads(values)
    expected = 4 * np.log2(row[:, None] * column)
    difference = found[0][:, None] + found[1] - expected
    assert np.abs(difference).mean() < 1
    assert all(part.dtype == np.int64 for part in spreads(np.zeros((3, 4))))


def test_counted_tables_cost_what_the_entropy_is() -> None:
    rng = np.random.default_rng(5)
    counts = [10000, 10000, 60000, 10000, 10000]
    integers = rng.permutation(np.repeat([-2, -1, 0, 1, 2], counts)).reshape(100, -1)
    tables = np.full(integers.shape, 20)
    rate = RateModel()
    guessed = rate.cost(tables, integers)
    rate.count([(tables, integers)])
    entropy = -sum(p * np.log2(p) for p in (0.1, 0.1, 0.6, 0.1, 0.1)) * integers.size
    assert entropy <= rate.cost(tables, integers) < 1.01 * entropy < guessed


@pytest.fixture(scope="module")
def requantizer() -> Requantizer:
    plan = random_int8_plan(SMALL)
    features = [random_features(40 + i, 60, SMALL.n_mels) for i in range(12)]
    return Requantizer(plan, measure_sensitivity(plan, features))


def distances(requantizer: Requantizer, *found: Requantized) -> list[float]:
    """1 - cosine to the plan's own embeddings, the mean over other recordings."""
    features = [random_features(80 + i, 60, SMALL.n_mels) for i in range(6)]
    plan = requantizer.network
    expected = make_engine(plan.plan, plan.arrays).run(features)
    return [
        1 - float(cosine_score(expected, make_engine(plan.plan, x.arrays).run(features)).mean())
        for x in found
    ]


def test_a_network_loses_more_with_coarser_steps(requantizer: Requantizer) -> None:
    found = [requantizer.at(step) for step in (0.001, 0.004, 0.016)]
    bits = [x.bits / requantizer.weights for x in found]
    assert 6 > bits[0] > bits[1] > bits[2] > 0
    lost = distances(requantizer, *found)
    assert 0 <= lost[0] < lost[1] < lost[2] < 0.5


def test_what_is_stored_is_what_runs(requantizer: Requantizer) -> None:
    found, again = requantizer.at(0.004), requantizer.at(0.004)
    plan = requantizer.network
    assert set(found.arrays) == set(plan.arrays)
    for name, levels in found.levels.items():
        weight = found.arrays[f"{name}.weight"]
        np.testing.assert_array_equal(weight.reshape(len(weight), -1), levels.restored())
        np.testing.assert_array_equal(levels.levels, again.levels[name].levels)
        assert levels.step.dtype == np.float32
        assert ((levels.step >= 1) & (levels.step < 256)).all()
    for name, array in found.arrays.items():
        assert (array.dtype, array.shape) == (plan.arrays[name].dtype, plan.arrays[name].shape)


def test_moved_offsets_bring_an_output_back(requantizer: Requantizer) -> None:
    """Gains and offsets are worth having: without them the same weights lose more."""
    found = requantizer.at(0.008)
    plain = {
        name: array if name.endswith(".weight") else requantizer.network.arrays[name]
        for name, array in found.arrays.items()
    }
    without = Requantized(found.levels, plain, found.bits)
    lost = distances(requantizer, found, without)
    assert lost[0] < lost[1]


def test_the_finest_steps_of_a_size() -> None:
    def size(step: float) -> float:
        return 1000 / step

    step, found = finest_within(lambda step: step, size, 100.0, 1.0, 50.0)
    assert step == found
    assert 99.5 <= size(step) <= 100
    assert finest_within(lambda step: step, size, 2000.0, 1.0, 50.0)[0] == 1.0
    with pytest.raises(ValueError, match=r"cannot be made smaller than 20, asked for 10"):
        finest_within(lambda step: step, size, 10.0, 1.0, 50.0)


def test_the_coarsest_steps_of_a_loss() -> None:
    probes = []

    def loss(step: float) -> float:
        probes.append(step)
        return step**2

    step, found = coarsest_within(lambda step: step, loss, 4.0, 0.01, 50.0)
    assert step == found
    assert 1.9 < step <= 2
    assert len(probes) < 15
    assert coarsest_within(lambda step: step, loss, 1e9, 0.01, 50.0)[0] == 50.0
    with pytest.raises(ValueError, match=r"loses 0.0001 at least, at most 1e-09 is allowed"):
        coarsest_within(lambda step: step, loss, 1e-9, 0.01, 50.0)


def test_fewer_digits_of_a_float() -> None:
    rng = np.random.default_rng(6)
    values = (rng.normal(size=500) * 2.0 ** rng.integers(-110, 110, 500)).astype(np.float32)
    for bits in range(24):
        found = round_mantissa(values, bits)
        assert found.dtype == np.float32
        assert np.abs(found / values - 1).max() <= 2.0 ** -(bits + 1)
        assert len(np.unique(np.frexp(found)[0])) <= 2 ** (bits + 1)
        np.testing.assert_array_equal(round_mantissa(found, bits), found)
    np.testing.assert_array_equal(round_mantissa(values, 23), values)
    np.testing.assert_array_equal(
        round_mantissa(np.float32([1.25, 1.75, -1.25, 0.0]), 1), [1.0, 2.0, -1.0, 0.0]
    )


def test_digits_of_extremes() -> None:
    limits = np.finfo(np.float32)
    found = round_mantissa(np.float32([limits.max, -limits.max, limits.tiny]), 2)
    assert np.isfinite(found).all()
    assert found[0] == -found[1] > 0.8 * limits.max
    assert found[2] == limits.tiny
    np.testing.assert_array_equal(round_mantissa(np.float32([limits.tiny / 4]), 3), [0])
    for values, message in ((np.ones(2), "float64"), (np.float32([np.nan]), "NaN")):
        with pytest.raises(ValueError, match=message):
            round_mantissa(values, 5)
    with pytest.raises(ValueError, match="bits is 24"):
        round_mantissa(np.ones(1, np.float32), 24)
