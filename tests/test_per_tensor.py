"""Weights with one scale for a whole layer, behind a plan that has one for each output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earmark
from earmark import modelfile
from earmark.compression import compress
from earmark.compression.per_tensor import channel_scales, of_plan, quantize
from earmark.modelfile import ModelFile


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return modelfile.read(Path(earmark.__file__).parent / "data" / "demo-int8.earmark")


def test_levels_are_those_of_the_paper() -> None:
    weight = np.array([-0.25, -0.1, 0.0, 0.3, 0.75])
    found, scale, zero = quantize(weight)
    assert (found.dtype, zero) == (np.int8, 0)
    assert scale == pytest.approx(0.75 / 127)
    np.testing.assert_array_equal(found, [-42, -17, 0, 51, 127])
    found, scale, zero = quantize(weight, symmetric=False)
    assert found.dtype == np.uint8
    assert scale == pytest.approx(1 / 255)
    assert zero == 64
    np.testing.assert_array_equal(found, [0, 38, 64, 140, 255])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 3)])
def test_nothing_but_zeros(shape: tuple[int, ...], symmetric: bool) -> None:
    found, scale, zero = quantize(np.zeros(shape), symmetric)
    assert found.shape == shape
    assert (found == zero).all()
    assert scale > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or Inf"):
        quantize(np.array([0.0, value]))


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(0, 20),
    octaves=st.floats(0, 20),
    symmetric=st.booleans(),
    seed=st.integers(0),
)
def test_the_plan_gets_weights_within_half_a_level(
    rows: int, columns: int, octaves: float, symmetric: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    scales = 2.0 ** rng.uniform(0, octaves, rows)
    found = of_plan(weight, scales, symmetric)
    plan = found.restored()
    error = np.abs(plan.astype(float) - weight)
    # Half a level, half a quantum of the plan, and in asymmetric levels the zero's own rounding.
    bound = np.where(found.step < 255, found.step, np.inf) * (0.5 if symmetric else 1) + 0.51
    assert (error <= bound[:, None]).all()


def test_outputs_of_zeros_and_tiny_ones_are_kept() -> None:
    weight = np.array([[100, -51], [0, 0], [127, 3]], np.int8)
    found = of_plan(weight, np.array([1.0, 1.0, 1e-9]))
    np.testing.assert_array_equal(found.levels, [[127, -65], [0, 0], [0, 0]])
    assert (found.step <= 255).all()


def test_scales_are_found_of_every_layer(model: ModelFile) -> None:
    arrays = model.decoded_arrays()
    scales = channel_scales(model, arrays)
    assert sorted(scales) == sorted(name for name in arrays if name.endswith(".weight"))
    for name, scale in scales.items():
        assert scale.shape == (len(arrays[name]),)
        assert (scale > 0).all()


def test_scales_are_those_of_the_float_weights(model: ModelFile) -> None:
    """Up to one factor, in a layer whose inputs all have one scale."""
    arrays = model.decoded_arrays()
    scale = channel_scales(model, arrays)["blocks.1.tdnn1.weight"]
    real = arrays["blocks.1.tdnn1.weight"] * scale.reshape(-1, 1, 1, 1)
    path = Path(earmark.__file__).parent / "data" / "demo-fp32.earmark"
    exact = modelfile.read(path).decoded_arrays()["blocks.1.tdnn1.weight"]
    factor = (real * exact).sum() / (real * real).sum()
    assert np.abs(factor * real - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("symmetric", ["symmetric", "asymmetric"])
def test_a_model_stored_in_levels_computes_almost_the_same(
    model: ModelFile, symmetric: str, tmp_path: Path
) -> None:
    path = tmp_path / "levels.earmark"
    modelfile.write(compress(model, "rans", levels=symmetric), path)
    features = np.random.default_rng(0).normal(size=(50, 80)).astype(np.float32)
    expected = earmark.Embedder(model).embed_features(features).ravel()
    found = earmark.load(path).embed_features(features).ravel()
    assert not np.array_equal(found, expected)
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.99
    assert set(modelfile.read(path).decoded_arrays()) == set(model.decoded_arrays())


def test_other_levels_are_refused(model: ModelFile) -> None:
    with pytest.raises(ValueError, match="symmetric or asymmetric, not 'uniform'"):
        compress(model, levels="uniform")
