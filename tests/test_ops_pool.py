"""Maximum over windows of int8 frames, bit for bit on each instruction set; images as the plan's
input and class scores as its output; what is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earmark
from arrays import random_f32, random_s8
from earmark import _C
from earmark.errors import FormatError
from earmark.frontend import SpeechBrainFbank
from earmark.modelfile import ModelFile, to_bytes
from earmark.plan import INPUT, OUTPUT, SCORES, PlanBuilder, make_engine
from modelfiles import assert_not_loaded, tiny_model, write
from oracle import network
from plans import (
    check_bits,
    check_unless_too_short,
    finish,
    random_frames,
    start,
    view,
    width_out,
)

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

SEEDS = st.integers(0, 2**32 - 1)


def pool_plan(
    channels: int, width: int, window: dict[str, Any], zero: int, dtype: str = "s8"
) -> PlanBuilder:
    """A pool of a view of the input, its result between neighbours, which must stay what they
    are."""
    b = start(dtype, channels + 5, width=width, zero_point=zero)
    x = view(b, "x", INPUT, 2, channels, zero_point=zero)
    shape = {**window, "dilation": [1, 1]}
    b.tensor("base", "frames", dtype, channels + 5, width=width_out(width, shape))
    for name, offset, count in (("left", 0, 3), ("right", channels + 3, 2), ("op", 3, channels)):
        source = view(b, f"{name}.in", INPUT, 0, count) if name != "op" else x
        more = {"zero_point": zero} if name == "op" else {}
        out = view(b, f"{name}.out", "base", offset, count, **more)
        b.op(f"max_pool_{dtype}", name, **{"in": source}, out=out, **window)
    return finish(b, "base")


@st.composite
def windows(draw: st.DrawFn, width: int) -> dict[str, Any]:
    """Of every kind that fits the width."""
    kernel = [draw(st.sampled_from([1, 2, 3, 5])), draw(st.sampled_from([1, 2, 3]))]
    padding = [draw(st.integers(0, k - 1)) for k in kernel]
    if width + 2 * padding[1] < kernel[1]:
        kernel[1], padding[1] = 1, 0
    stride = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    return {"kernel": kernel, "stride": stride, "padding": padding}


@each_isa
@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.sampled_from([1, 2, 3, 5, 6, 7, 11, 12, 13, 97]),
    st.sampled_from([1, 1, 2, 5, 16]),
    st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]),
    st.sampled_from([-128, -3, 0, 127]),
    st.data(),
)
def test_max_pool_s8(
    isa: str,
    seed: int,
    frames: int,
    width: int,
    channels: int,
    zero: int,
    data: st.DataObject,
) -> None:
    b = pool_plan(channels, width, data.draw(windows(width)), zero)
    shape = (frames, channels + 5) if width == 1 else (frames, width, channels + 5)
    features = random_frames(np.random.default_rng(seed), *shape)
    check_unless_too_short(b, features, isa, {"op": "max_pool_s8"})


@each_isa
@pytest.mark.parametrize("zero", [-128, 0, 127])
def test_padding_never_wins(isa: str, zero: int) -> None:
    """Neither the zero point nor any other value, where all are the smallest there is."""
    window = {"kernel": [3, 5], "stride": [1, 2], "padding": [2, 4]}
    b = pool_plan(17, 4, window, zero)
    features = np.full((3, 4, 22), -128, np.int8)
    check_bits(b, features, isa, {"op": "max_pool_s8"})
    assert set(make_engine(b.plan, b.arrays, isa=isa).trace(features)[0]["op.out"].flat) == {-128}


@each_isa
@pytest.mark.parametrize(
    ("frames", "width", "window"),
    [
        # Many blocks of positions, and many chunks of frames.
        (501, 16, {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}),
        (5001, 3, {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}),
        (4999, 1, {"kernel": [7, 1], "stride": [3, 1], "padding": [6, 0]}),
        # The largest window, wider than the input.
        (67, 5, {"kernel": [16, 16], "stride": [1, 7], "padding": [1, 15]}),
    ],
)
def test_max_pool_s8_in_blocks(isa: str, frames: int, width: int, window: dict[str, Any]) -> None:
    b = pool_plan(33, width, window, 5)
    shape = (frames, 38) if width == 1 else (frames, width, 38)
    check_bits(b, random_s8(np.random.default_rng(1), *shape), isa, {"op": "max_pool_s8"})


def declaring(tensor: str, **attributes: Any) -> Callable[[PlanBuilder], Any]:
    return lambda b: b.tensors[tensor].update(attributes)


def setting(**attributes: Any) -> Callable[[PlanBuilder], Any]:
    return lambda b: b.ops[2].update(attributes)


HOSTILE: dict[str, tuple[Callable[[PlanBuilder], Any], str]] = {
    "other channels": (declaring("op.out", channels=16), "'op.out' has 16 channels, expected 17"),
    "another width": (declaring("base", width=3), "'left.out' cannot share"),
    "another stride": (setting(stride=[2, 1]), "output width is 2, expected 4"),
    "another zero point": (declaring("op.out", zero_point=6), "zero points 5 and 6 differ"),
    "float input": (setting(op="max_pool_f32"), "'x' must be f32"),
    "vector": (setting(out=OUTPUT), f"'{OUTPUT}' must be frames"),
    "in place": (setting(out="x"), "would overwrite"),
    "dilation": (setting(dilation=[1, 2], padding=[1, 2]), "'dilation' is not 1"),
    "reflection": (setting(pad_mode="reflect"), "'pad_mode' is reflect"),
    "padding that hides the window": (setting(padding=[3, 1]), "'padding' is 3, expected 0 to 2"),
    "negative padding": (setting(padding=[-1, 1]), "'padding' is -1"),
    "no window": (setting(kernel=[0, 3]), "'kernel' is 0"),
    "half a window": (setting(kernel=[3]), "'kernel' needs 2 values"),
    "huge window": (setting(kernel=[86, 3]), "window of 258 positions, at most 256"),
    "no stride": (setting(stride=[0, 2]), "'stride' is 0"),
    "no output": (lambda b: b.tensors.pop(OUTPUT), "no output, 'embedding' or 'scores'"),
    "two outputs": (
        lambda b: b.tensors.update({SCORES: b.tensors[OUTPUT]}), "two outputs, 'embedding' and"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pools_are_refused(what: str) -> None:
    window = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}
    b = pool_plan(17, 4, window, 5)
    assert make_engine(b.plan, b.arrays).min_length == 1
    spoil, reason = HOSTILE[what]
    spoil(b)
    with pytest.raises(ValueError, match=reason) as raised:
        make_engine(b.plan, b.arrays)
    assert "\n" not in str(raised.value)


# Images and scores.


def score_plan(n_mels: int) -> PlanBuilder:
    """Mean over a convolved image, as two scores."""
    rng = np.random.default_rng(n_mels)
    b = start("f32", 1, width=n_mels)
    b.tensor("x", "frames", "f32", 2, width=n_mels)
    arrays = {"weight": random_f32(rng, 2, 3, 3, 1), "epilogue": random_f32(rng, 1, 2)}
    window = {"kernel": [3, 3], "padding": [1, 1]}
    b.op("conv_f32", "conv", arrays, **{"in": INPUT}, out="x", relu=True, **window)
    b.tensor(SCORES, "vector", "f32", 2)
    b.op("stats_f32", "mean", **{"in": "x"}, out=SCORES)
    return b


def test_a_spectrogram_is_an_image_of_one_channel() -> None:
    b = score_plan(20)
    engine = make_engine(b.plan, b.arrays)
    x = random_f32(np.random.default_rng(0), 9, 20)
    scores = engine.run([x, x[..., None]])
    assert scores.shape == (2, 2)
    assert scores[0].tobytes() == scores[1].tobytes()
    expected = network.run(b.plan, b.arrays, x)[SCORES]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(network.run(b.plan, b.arrays, x[..., None])[SCORES], expected)
    for shape in ((9, 19), (9, 1), (9, 1, 20), (9, 20, 2), (180,)):
        with pytest.raises(ValueError, match=r"shape \(frames, 20\)"):
            engine.run([np.zeros(shape, np.float32)])


def test_a_front_end_gives_the_image() -> None:
    b = score_plan(20)
    front_end = SpeechBrainFbank(20)
    wave = random_f32(np.random.default_rng(0), 4000, scale=0.1)
    engine = make_engine(b.plan, b.arrays)
    scores = engine.embed(front_end.compiled, [wave])
    assert scores.tobytes() == engine.run([front_end(wave)]).tobytes()
    for refused in (
        score_plan(21),
        pool_plan(5, 2, {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0]}, 0, "f32"),
    ):
        engine = make_engine(refused.plan, refused.arrays)
        with pytest.raises(ValueError, match="20 float32 features a frame, which is not"):
            engine.embed(front_end.compiled, [wave])


def test_a_classifier_is_no_embedder(tmp_path: Path) -> None:
    b = score_plan(2)
    model = ModelFile({**tiny_model().metadata, "plan": b.plan}, b.arrays)
    path = tmp_path / "m.earmark"
    write(path, to_bytes(model))
    with pytest.raises(FormatError, match="class scores, not embeddings"):
        earmark.Embedder(path)
    # Loaded as what its output says, it lacks the names of its classes.
    assert_not_loaded(path, "labels")
