"""What all outputs of a quantized network are off by goes back into its last layer's offset."""

from __future__ import annotations

import numpy as np
import pytest

from earmark.lowering.ecapa import lower_ecapa
from earmark.plan import PlanBuilder, make_engine
from earmark.quantization.calibration import Calibration, calibrate
from earmark.quantization.correction import corrected
from networks import SMALL, int8_plan, mixed_plan, random_features, random_state

RECORDINGS = [random_features(i, 60 + i, SMALL.n_mels) for i in range(150)]


@pytest.fixture(scope="module")
def network() -> PlanBuilder:
    return lower_ecapa(SMALL, random_state(SMALL))


@pytest.fixture(scope="module")
def seen(network: PlanBuilder) -> Calibration:
    return calibrate(network, ((item, []) for item in RECORDINGS), "minmax")


@pytest.mark.parametrize("last", ["int8", "int16", "fp32"])
def test_outputs_are_off_by_nothing_in_the_mean(
    network: PlanBuilder, seen: Calibration, last: str
) -> None:
    plan = mixed_plan(network, RECORDINGS, lambda name: last if name == "fc" else "int8")
    result = corrected(plan, seen.examples)
    expected = np.stack([output for _, output in seen.examples])
    before, after = (
        make_engine(b.plan, b.arrays).run([features for features, _ in seen.examples]) - expected
        for b in (plan, result)
    )
    assert np.abs(before.mean(axis=0)).max() > 1e-3
    assert np.abs(after.mean(axis=0)).max() < 1e-6
    # By the offset of the last layer and nothing else.
    assert result.plan == plan.plan
    changed = [k for k, array in plan.arrays.items() if not np.array_equal(array, result.arrays[k])]
    assert changed == ["fc.epilogue"]
    np.testing.assert_array_equal(
        result.arrays["fc.epilogue"][:-1], plan.arrays["fc.epilogue"][:-1]
    )


def test_recordings_that_set_nothing_are_nearer_too(
    network: PlanBuilder, seen: Calibration
) -> None:
    others = [random_features(1000 + i, 90, SMALL.n_mels) for i in range(40)]
    expected = make_engine(network.plan, network.arrays).run(others)
    plan = int8_plan(network, RECORDINGS)
    before, after = (
        np.square(make_engine(b.plan, b.arrays).run(others) - expected).mean()
        for b in (plan, corrected(plan, seen.examples))
    )
    assert after < before


def test_examples_come_from_all_over(seen: Calibration) -> None:
    """Every second of 150, for 128 are the most."""
    assert [len(features) for features, _ in seen.examples] == list(range(60, 210, 2))


def test_long_recordings_are_no_examples(network: PlanBuilder) -> None:
    long = random_features(0, 2001, SMALL.n_mels)
    seen = calibrate(network, [(long, [])], "minmax")
    assert seen.examples == []
    plan = int8_plan(network, [long])
    assert corrected(plan, seen.examples) is plan


def test_what_ends_with_more_than_an_offset_stays(network: PlanBuilder, seen: Calibration) -> None:
    plan = int8_plan(network, RECORDINGS)
    plan.ops[-1]["relu"] = True
    assert corrected(plan, seen.examples) is plan
