"""Plugins of TensorRT in a host of our own: what they say of themselves, and what they compute,
over emulated kernels and on a GPU if there is one, against the engine bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

host = pytest.importorskip(
    "earmark._plugin_host", reason="the package was built without EARMARK_EMULATED_ISA"
)

import earmark  # noqa: E402
from earmark.modelfile import ModelFile  # noqa: E402
from earmark.plan import JSON, PlanBuilder, make_engine, trace  # noqa: E402
from earmark.tensorrt import fields as plugin_fields  # noqa: E402
from earmark.views import Views  # noqa: E402
from gpu import MODULES  # noqa: E402
from networks import SMALL, make_network, random_features, wave  # noqa: E402
from oracle import ops as oracle  # noqa: E402
from oracle import ops_f32  # noqa: E402
from plans import equal_bits  # noqa: E402
from plugin_checks import NAMES, check_round_trip  # noqa: E402

from .quantized_models import MODELS  # noqa: E402

Array = NDArray[Any]
FOLDER = Path(host.__file__).parent


class Library:
    """The plugins over one module of kernels, with the memory that these work on."""

    FILES: ClassVar = {"emulated": "libearmark_trt_emulated.so", "gpu": "libearmark_trt.so"}

    def __init__(self, device: str) -> None:
        library = host.Library(str(FOLDER / self.FILES[device]))
        self.create, self.names, self.field_names = (
            library.create,
            library.names,
            library.field_names,
        )
        self._memory = MODULES[device].Memory

    def run(self, plugin: Any, *inputs: Array) -> Array:
        """The output, of a clone that was attached to a context."""
        given = [np.ascontiguousarray(array) for array in inputs]
        ((dtype, shape),) = plugin.outputs([named(array) for array in given])
        out = np.empty(shape, dtype)
        memory = [self._memory(array.nbytes) for array in given]
        for place, array in zip(memory, given, strict=True):
            place.write(array)
        # What TensorRT gives is not cleared.
        result = self._filled(out.nbytes, 77)
        workspace = self._filled(plugin.workspace([named(a) for a in given]) + 256, 0xAA)
        status = plugin.attach().enqueue(
            [named(array) for array in given],
            [named(out)],
            [place.address for place in memory],
            [result.address],
            (workspace.address + 255) // 256 * 256,
            0,
        )
        assert status == 0
        result.read(out)
        return out

    def _filled(self, size: int, value: int) -> Any:
        memory = self._memory(size)
        memory.write(np.full(size, value, np.uint8))
        return memory


@pytest.fixture(scope="module", params=MODULES)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


def named(array: Array) -> tuple[str, tuple[int, ...]]:
    return array.dtype.name, array.shape


def test_the_library_knows_its_plugins(library: Library) -> None:
    assert library.names() == NAMES
    for name in NAMES:
        fields = library.field_names(name)
        assert len(set(fields)) == len(fields) > 2
    with pytest.raises(RuntimeError, match="no plugin library"):
        host.Library("libc.so.6")


class Network:
    """A network's ops with the engine's values of them, for recordings of one length."""

    def __init__(self, model: ModelFile, frames: int, batch: int) -> None:
        self.plan = PlanBuilder.of(model.plan, model.decoded_arrays())
        engine = make_engine(self.plan.plan, self.plan.arrays)
        bands = self.plan.tensors["input"]["channels"]
        recordings = [random_features(seed, frames, bands) for seed in range(batch)]
        self.values: Views[Array] = Views(
            self.plan.plan, lambda v, a, b: v[..., a:b], lambda parts: np.concatenate(parts, -1)
        )
        self.values.write("input", np.stack(recordings))
        traced = [trace(engine, features) for features in recordings]
        self.expected = {name: np.stack([t[name] for t in traced]) for name in traced[0]}

    def compare(self, found: Callable[[JSON, Views[Array]], Array | None]) -> list[str]:
        """Ops of which something was found; all are written as the engine has them."""
        seen = []
        for op in self.plan.ops:
            actual = found(op, self.values)
            expected = self.expected[op["out"]]
            if actual is not None:
                equal_bits(actual, expected, op["name"])
                seen.append(op["op"])
            self.values.write(op["out"], expected)
        return seen


@pytest.mark.parametrize(("frames", "batch"), [(5, 1), (33, 3)])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_layers_have_the_engine_s_bits(
    library: Library, name: str, frames: int, batch: int
) -> None:
    network = Network(MODELS[name](), frames, batch)
    plan = network.plan

    def found(op: JSON, values: Views[Array]) -> Array | None:
        inputs = [values.read(op["in"])]
        if op["op"] == "conv_s8" and plan.tensors[op["out"]]["dtype"] == "s8":
            # Of MFA, what the blocks wrote.
            parts = values.parts(op["in"])
            inputs = [part for _, part in parts]
            fields = plugin_fields.conv_fields(plan, op, [n for n, _ in parts])
            plugin = library.create("EarmarkConvS8", fields)
            inputs += [values.read(op["bias"])] if "bias" in op else []
            several.append(len(parts))
        elif op["op"] == "add_s8":
            plugin = library.create("EarmarkAddS8", plugin_fields.add_fields(plan, op))
            inputs += [values.read(op["residual"])]
            inputs += [values.read(op["gate"])] if "gate" in op else []
        elif op["op"] == "attentive_pool_s8":
            plugin = library.create("EarmarkAttentivePoolS8", plugin_fields.pool_fields(plan, op))
            inputs += [values.read(op["values"])]
        else:
            return None
        check_round_trip(library, plugin)
        return library.run(plugin, *inputs)

    several: list[int] = []
    seen = network.compare(found)
    assert set(seen) == {"conv_s8", "add_s8", "attentive_pool_s8"}
    assert {1, 3, 4} <= set(several)
    assert len(seen) > 20


@pytest.mark.parametrize("softmax", ["pwl", "table"])
def test_pooling_with_another_softmax(library: Library, softmax: str) -> None:
    network = Network(MODELS[softmax](), 40, 2)

    def found(op: JSON, values: Views[Array]) -> Array | None:
        if op["op"] != "attentive_pool_s8":
            return None
        assert op["softmax"] == softmax
        fields = plugin_fields.pool_fields(network.plan, op)
        plugin = library.create("EarmarkAttentivePoolS8", fields)
        check_round_trip(library, plugin)
        return library.run(plugin, values.read(op["in"]), values.read(op["values"]))

    assert network.compare(found) == ["attentive_pool_s8"]


def test_gates_have_the_engine_s_bits(library: Library) -> None:
    """Mean, both layers and the table of squeeze-excitation at once."""
    network = Network(MODELS["int8"](), 29, 2)
    plan = network.plan
    squeeze = [op for op in plan.ops if op["name"].startswith("blocks.1.se_block")]

    def found(op: JSON, values: Views[Array]) -> Array | None:
        if op is not squeeze[-1]:
            return None
        fields = plugin_fields.squeeze_fields(plan, squeeze)
        plugin = library.create("EarmarkSqueezeExcitationS8", fields)
        check_round_trip(library, plugin)
        return library.run(plugin, values.read(squeeze[0]["in"]))

    assert network.compare(found) == ["dense_s8"]


def test_chains_have_the_engine_s_bits(library: Library) -> None:
    """All steps of an SE-Res2 block at once."""
    config = replace(SMALL, channels=(128, 128, 128, 128, 96), res2_scale=4)
    model = earmark.quantize(make_network(config), [wave(seed) for seed in range(3)]).model_file
    network = Network(model, 29, 2)
    plan = network.plan
    chain = [op for op in plan.ops if op["name"].startswith("blocks.1.res2net_block.")]
    convs = [op for op in chain if op["op"] == "conv_s8"]
    adds = [op for op in chain if op["op"] == "add_s8"]
    given: list[Array] = []

    def found(op: JSON, values: Views[Array]) -> None:
        if op is convs[0]:
            given.append(values.read("blocks.1.tdnn1.out"))

    assert network.compare(found) == []
    ends = "blocks.1.tdnn1.out", "blocks.1.res2net_block.out"
    fields = plugin_fields.res2_fields(plan, *ends, convs, adds)
    plugin = library.create("EarmarkRes2S8", fields)
    check_round_trip(library, plugin)
    chunks = np.split(library.run(plugin, given[0]), 4, axis=-1)
    passing, *steps = (np.ascontiguousarray(chunks[at]) for at in fields["out_at"])
    before = np.split(given[0], 4, axis=-1)[fields["in_at"][0]]
    equal_bits(passing, np.ascontiguousarray(before), "what passes it by")
    for op, step in zip(convs, steps, strict=True):
        equal_bits(step, network.expected[op["out"]], op["name"])


def chain_fields(rng: np.random.Generator, width: int, steps: int) -> dict[str, Any]:
    def integers(low: int, high: int, *shape: int) -> Array:
        return rng.integers(low, high, shape)

    spread = 60 / (6000 * (width * 3) ** 0.5)
    rows = rng.normal(size=(steps, 4, width)) * np.array([spread, 30, 1, 30])[:, None]
    return {
        "steps": steps,
        "width": width,
        "kernel": 3,
        "dilation": 2,
        "reflect": 1,
        "relu": 1,
        "weight": integers(-127, 128, steps * width * 3 * width).astype(np.int8),
        "epilogue": rows.astype(np.float32).reshape(-1),
        "multiplier": rng.normal(size=(steps - 1) * width).astype(np.float32),
        "residual_multiplier": rng.normal(size=steps - 1).astype(np.float32),
        "in_zero": integers(-128, 128, steps).astype(np.int32),
        "sum_zero": integers(-128, 128, steps - 1).astype(np.int32),
        "zero": integers(-128, 128, steps).astype(np.int32),
        "in_at": np.arange(steps + 1, dtype=np.int32),
        "out_at": np.arange(steps + 1, dtype=np.int32),
    }


@pytest.mark.parametrize(("frames", "batch"), [(5, 1), (70, 2)])
def test_res2_has_the_oracle_s_bits(library: Library, frames: int, batch: int) -> None:
    rng = np.random.default_rng(3)
    width, steps = 32, 3
    fields = chain_fields(rng, width, steps)
    plugin = library.create("EarmarkRes2S8", fields)
    check_round_trip(library, plugin)
    x = rng.integers(-128, 128, (batch, frames, (steps + 1) * width)).astype(np.int8)
    expected = x.copy()
    for recording, to in zip(x, expected, strict=True):
        previous = None
        for i in range(steps):
            part = slice((i + 1) * width, (i + 2) * width)
            step, zero = recording[:, None, part], int(fields["in_zero"][i])
            if previous is not None:
                zero = int(fields["sum_zero"][i - 1])
                step = oracle.add_s8(
                    step,
                    previous,
                    int(fields["in_zero"][i]),
                    int(fields["zero"][i - 1]),
                    fields["multiplier"].reshape(-1, width)[i - 1],
                    fields["residual_multiplier"][i - 1 : i],
                    zero,
                )
            rows = fields["epilogue"].reshape(steps, 4, width)[i]
            previous = oracle.conv_s8(
                step,
                fields["weight"].reshape(steps, width, 3, 1, width)[i],
                np.full(width, zero, np.int8),
                rows[0],
                rows[1],
                int(fields["zero"][i]),
                relu=True,
                gain=rows[2],
                shift=rows[3],
                dilation=[2, 1],
                padding=[2, 0],
                pad_mode="reflect",
            )
            to[:, part] = previous[:, 0]
    equal_bits(library.run(plugin, x), expected, "res2")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("kind", ["exact", "pwl", "table"])
def test_softmax(library: Library, kind: str, axis: int, dtype: str) -> None:
    rng = np.random.default_rng(4)
    x = (3 * rng.normal(size=(3, 7, 10))).astype(dtype)
    function: dict[str, Any] = {}
    if kind == "pwl":
        function = {
            "breakpoints": np.float32([-2, 1]),
            "slopes": np.float32([2**14, 2**18, 2**20]),
            "intercepts": np.float32([2**17, 2**19, 2**20]),
            "bounds": np.float32([1, 2**24]),
        }
    elif kind == "table":
        function = {
            "table": np.exp(np.linspace(0, np.log(2**24), 33)).clip(1, 2**24).astype(np.float32),
            "range": np.float32([-9, 9]),
        }
    plugin = library.create("EarmarkSoftmax", {"axis": axis, "softmax": kind, **function})
    check_round_trip(library, plugin)
    actual = library.run(plugin, x)
    assert actual.dtype == x.dtype
    wide = np.moveaxis(x.astype(np.float64), axis, 0)
    if kind == "table":
        low, high = function.pop("range")
        places = (wide - low) * (32 / (high - low))
        numerators = np.interp(places, np.arange(33), function["table"].astype(np.float64))
    else:
        numerators = ops_f32.softmax_f32(wide, kind, **function)
    expected = np.moveaxis(numerators / numerators.sum(axis=0), 0, axis)
    tolerance = 2e-6 if dtype == "float32" else 2e-3
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_formats_and_shapes(library: Library) -> None:
    rng = np.random.default_rng(5)
    plugin = library.create("EarmarkRes2S8", chain_fields(rng, 32, 2))
    frames = ("int8", (2, 50, 96))
    assert plugin.outputs([frames]) == [("int8", [2, 50, 96])]
    linear, chw4 = 0, 3
    for position in (0, 1):
        assert plugin.supports(position, [frames, frames], 1, linear)
        assert not plugin.supports(position, [frames, frames], 1, chw4)
        floats = [frames, frames]
        floats[position] = ("float32", (2, 50, 96))
        assert not plugin.supports(position, floats, 1, linear)
    softmax = library.create("EarmarkSoftmax", {"axis": 2})
    for dtype in ("float32", "float16", "bfloat16"):
        tensor = (dtype, (1, 2, 3))
        assert softmax.supports(0, [tensor, tensor], 1, linear)
        assert softmax.outputs([tensor]) == [(dtype, [1, 2, 3])]
    assert not softmax.supports(1, [("float16", (1,)), ("float32", (1,))], 1, linear)
    with pytest.raises(ValueError, match="does not take"):
        plugin.outputs([frames, frames])
    with pytest.raises(ValueError, match="does not take"):
        plugin.outputs([("int8", (2, 50))])


def test_inputs_that_do_not_fit_are_an_error(
    library: Library, capfd: pytest.CaptureFixture[str]
) -> None:
    """A status, with a line on stderr; nothing is thrown and nothing is read."""
    plugin = library.create("EarmarkRes2S8", chain_fields(np.random.default_rng(6), 32, 2))
    for shape, reason in (
        ((1, 50, 95), "(batch, time, 96)"),
        ((1, 2, 96), "reflect padding of 2 needs more than 2"),
        ((0, 50, 96), "a tensor has 0 recordings"),
    ):
        capfd.readouterr()
        tensor = ("int8", shape)
        assert plugin.enqueue([tensor], [tensor], [0], [0], 0, 0) != 0
        error = capfd.readouterr().err
        assert error.startswith("earmark: EarmarkRes2S8: ")
        assert reason in error


def test_fields_that_cannot_be(library: Library, capfd: pytest.CaptureFixture[str]) -> None:
    good = chain_fields(np.random.default_rng(7), 32, 2)
    for changed, reason in (
        ({"steps": 1}, "plugin field 'steps' is 1, expected 2 to 15"),
        ({"steps": 3}, "'in_at' has 3 values, expected 4"),
        ({"kernel": 2}, "a kernel of 2 is even"),
        ({"dilation": 0}, "'dilation' is 0"),
        ({"weight": good["weight"][:-1]}, "'weight' has 6143 values, expected 6144"),
        ({"weight": np.full(6144, -128, np.int8)}, "a weight is -128"),
        ({"weight": good["weight"].astype(np.float32)}, "'weight' is of type 1, expected 3"),
        ({"epilogue": good["epilogue"] * np.float32(np.nan)}, "'epilogue' holds"),
        ({"epilogue": np.full(256, 1e20, np.float32)}, "'epilogue' holds 1e+20"),
        ({"zero": np.int32([0, 128])}, "'zero' holds 128"),
        ({"unknown": 1}, "unknown plugin field 'unknown'"),
        ({"steps": "two"}, "'steps' is of type 6"),
        ({"out_at": np.int32([0, 1, 1])}, "'out_at' does not name each of 3 chunks once"),
    ):
        capfd.readouterr()
        with pytest.raises(ValueError, match="was not created"):
            library.create("EarmarkRes2S8", {**good, **changed})
        error = capfd.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    for name in NAMES[:-1]:
        with pytest.raises(ValueError, match="was not created"):
            library.create(name, {})
    assert "there is no plugin field" in capfd.readouterr().err


def test_the_library_for_gpus_loads_without_one() -> None:
    """It is linked to no TensorRT and no driver, and exports two names."""
    path = FOLDER / "libearmark_trt.so"
    if not path.exists():
        pytest.skip("built without nvcc")
    library = host.Library(str(path))
    assert library.names() == NAMES
    plugin = library.create("EarmarkRes2S8", chain_fields(np.random.default_rng(8), 32, 2))
    check_round_trip(library, plugin)
    assert plugin.outputs([("int8", (2, 50, 96))]) == [("int8", [2, 50, 96])]
