"""What integer layers are multiplied with, and how the output answers to their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from arrays import random_weight
from earmark.compression.gradients import _fold, answers
from earmark.compression.sensitivity import measure_sensitivity
from earmark.plan import INPUT, PlanBuilder, make_engine, trace
from earmark.quantization.inputs import layer_inputs, unfold
from networks import (
    SMALL,
    SMALL_RESNET,
    int8_plan,
    random_features,
    random_int8_plan,
    random_resnet,
    resnet_plan,
)
from plans import finish, random_frames, start

Array = NDArray[Any]

# Kernel, stride, dilation, padding, of time and width.
SHAPES: dict[str, tuple[list[int], list[int], list[int], list[int]]] = {
    "plain": ([1, 1], [1, 1], [1, 1], [0, 0]),
    "padded": ([3, 3], [1, 1], [1, 1], [1, 1]),
    "strided": ([3, 2], [2, 2], [1, 1], [1, 0]),
    "dilated": ([5, 3], [1, 3], [3, 2], [7, 1]),
    "half padding": ([2, 1], [3, 1], [4, 1], [4, 0]),
}


def convolution(shape: str, mode: str, parts: bool, seed: int = 0) -> tuple[PlanBuilder, Array]:
    """A plan of one int8 convolution whose float32 output is its sums, and an input."""
    rng = np.random.default_rng(seed)
    kernel, stride, dilation, padding = SHAPES[shape]
    width = 1 if mode == "reflect" else 7
    if width == 1:
        kernel, padding = [kernel[0], 1], [padding[0], 0]
    builder = start("s8", 5, width=width, zero_point=-9, scale=1.0)
    across = (width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    builder.tensor("sums", "frames", "f32", 4, width=across)
    arrays = {
        "weight": random_weight(rng, 4, *kernel, 5),
        "epilogue": np.array([[1.0] * 4, [0.0] * 4], np.float32),
    }
    if parts:
        arrays["input_zero"] = np.array([-128, 127, 0, 5, -3], np.int8)
    places = {"kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding}
    builder.op(
        "conv_s8", "conv", arrays, **{"in": INPUT}, out="sums", pad_mode=mode, relu=False, **places
    )
    frames = random_frames(rng, *((13, width, 5) if width > 1 else (13, 5)))
    return finish(builder, "sums"), frames


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_integer_layers_inputs_times_its_weights_are_its_sums(
    shape: str, mode: str, parts: bool
) -> None:
    """Exactly: zero points of a tensor or of its channels, padding, strides, mirrored frames."""
    plan, frames = convolution(shape, mode, parts)
    outputs = trace(make_engine(plan.plan, plan.arrays), frames)
    ((name, rows),) = layer_inputs(plan, frames, outputs, {"conv"})
    assert name == "conv"
    sums = rows.astype(np.float64) @ plan.arrays["conv.weight"].reshape(4, -1).T
    np.testing.assert_array_equal(sums, outputs["sums"].reshape(sums.shape))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("shape", SHAPES)
def test_folding_is_the_transpose_of_unfolding(shape: str, mode: str) -> None:
    rng = np.random.default_rng(1)
    plan, frames = convolution(shape, mode, False)
    op = plan.ops[0]
    weight = plan.arrays["conv.weight"].shape
    x = rng.normal(size=frames.shape)
    rows = unfold(op, x, weight)
    given = rng.normal(size=(2, *rows.shape)).astype(np.float32)
    folded = _fold(op, given, x.shape, weight)
    np.testing.assert_allclose(
        (folded * x).reshape(2, -1).sum(axis=1), (given * rows).sum((1, 2)), rtol=1e-4, atol=1e-3
    )


def resnet() -> PlanBuilder:
    recordings = [random_features(i, 60, SMALL_RESNET.n_mels) for i in range(3)]
    return int8_plan(resnet_plan(random_resnet(SMALL_RESNET)), recordings)


@pytest.mark.parametrize("family", ["ecapa", "resnet"])
def test_the_output_changes_as_the_derivatives_say(family: str) -> None:
    """Weights are moved along them by whole numbers, up and down: rounding in between blurs."""
    plan = random_int8_plan(SMALL) if family == "ecapa" else resnet()
    n_mels = SMALL.n_mels if family == "ecapa" else SMALL_RESNET.n_mels
    check_derivatives(plan, random_features(9, 90, n_mels))


def check_derivatives(plan: PlanBuilder, features: Array) -> None:
    """As the test above says, of every layer."""
    outputs = trace(make_engine(plan.plan, plan.arrays), features)
    output = plan.ops[-1]["out"]
    direction = np.random.default_rng(2).normal(size=(1, len(outputs[output])))
    direction *= np.linalg.norm(outputs[output]) / np.linalg.norm(direction)
    wanted = 0.05 * float(np.square(direction).sum())
    layers = [op["name"] for op in plan.ops if "weight" in op["arrays"]]
    found = list(answers(plan, features, outputs, direction))
    assert sorted(name for name, _, _ in found) == sorted(layers)
    said_of: dict[str, float] = {}
    for name, inputs, by_sums in found:
        weight = plan.arrays[f"{name}.weight"]
        slope = (by_sums[0].T @ inputs).reshape(weight.shape)
        step = np.rint(slope * wanted / np.square(slope).sum())
        if not step.any():  # so much depends on the layer that no whole number is small enough
            continue
        ends, said = [], []
        for sign in (1, -1):
            moved = np.clip(weight + sign * step, -127, 127).astype(np.int8)
            engine = make_engine(plan.plan, {**plan.arrays, f"{name}.weight": moved})
            ends.append(float(direction[0] @ trace(engine, features)[output]))
            said.append(float((slope * (moved.astype(np.float64) - weight)).sum()))
        said_of[name] = (ends[0] - ends[1]) / (said[0] - said[1])
    ratios = list(said_of.values())
    assert len(ratios) > 0.8 * len(layers)
    # Where little depends on a layer, rounding and bends in between are most of the change.
    assert 0.8 < np.median(ratios) < 1.2, said_of
    assert np.mean([0.6 < ratio < 1.5 for ratio in ratios]) > 0.85, said_of


def test_a_sensitivity_says_what_an_error_costs() -> None:
    """Of the last layer, where nothing is approximate but the outputs' independence."""
    plan = random_int8_plan(SMALL)
    features = [random_features(20 + i, 50, SMALL.n_mels) for i in range(12)]
    found = measure_sensitivity(plan, features)["fc"]
    weight = plan.arrays["fc.weight"]
    rng = np.random.default_rng(0)
    error = np.rint(rng.normal(size=weight.shape) * 3)
    moved = np.clip(weight + error, -127, 127).astype(np.int8)
    error = moved.astype(np.float64) - weight
    epilogue = plan.arrays["fc.epilogue"].copy()
    epilogue[1] -= epilogue[0] * (error @ found.mean).astype(np.float32)
    changed = {**plan.arrays, "fc.weight": moved, "fc.epilogue": epilogue}
    before, after = (
        make_engine(plan.plan, arrays).run(features) for arrays in (plan.arrays, changed)
    )
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    change = after - before
    change -= (change * unit).sum(axis=1, keepdims=True) * unit
    actual = np.mean(np.square(np.linalg.norm(change, axis=1) / np.linalg.norm(before, axis=1)))
    assert 0.5 < found.cost(error) / actual < 2


def test_sensitivities_repeat_and_need_a_recording() -> None:
    plan = random_int8_plan(SMALL)
    features = [random_features(i, 40, SMALL.n_mels) for i in range(2)]
    first, second = (measure_sensitivity(plan, features) for _ in range(2))
    for name, found in first.items():
        np.testing.assert_array_equal(found.rows, second[name].rows)
        np.testing.assert_array_equal(found.columns, second[name].columns)
    with pytest.raises(ValueError, match="recording"):
        measure_sensitivity(plan, [])
