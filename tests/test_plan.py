"""Plans that cannot run are refused with a reason, whatever is wrong with them; none does harm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from arrays import pwl_arrays
from earmark.lowering.ecapa import lower_ecapa
from earmark.plan import OUTPUT, PlanBuilder, make_engine
from networks import SMALL, mixed_plan, random_features, random_int8_plan, random_state
from oracle import network

JSON = dict[str, Any]
Array = NDArray[Any]
Arrays = dict[str, Array]


@pytest.fixture(scope="module")
def small() -> PlanBuilder:
    return random_int8_plan(SMALL)


class Plan:
    """A copy of a plan to spoil."""

    def __init__(self, b: PlanBuilder) -> None:
        self.tensors: dict[str, JSON] = copy.deepcopy(b.tensors)
        self.ops: list[JSON] = copy.deepcopy(b.ops)
        self.arrays: Arrays = dict(b.arrays)

    def op(self, name: str) -> JSON:
        return next(op for op in self.ops if op["name"] == name)

    def fill(self, array: str, value: float, index: Any = -1) -> None:
        self.arrays[array] = self.arrays[array].copy()
        self.arrays[array][index] = value

    def move(self, name: str, place: int) -> None:
        op = self.op(name)
        self.ops.remove(op)
        self.ops.insert(place, op)

    def engine(self) -> Any:
        return make_engine({"tensors": self.tensors, "ops": self.ops}, self.arrays)


def setting(name: str, /, **attributes: Any) -> Callable[[Plan], Any]:
    return lambda p: p.op(name).update(attributes)


def declaring(tensor: str, **attributes: Any) -> Callable[[Plan], Any]:
    return lambda p: p.tensors[tensor].update(attributes)


def filling(array: str, value: float, index: Any = -1) -> Callable[[Plan], Any]:
    return lambda p: p.fill(array, value, index)


def storing(array: str, change: Callable[[Array], Array]) -> Callable[[Plan], Any]:
    return lambda p: p.arrays.update({array: change(p.arrays[array])})


def dropping(op: str, role: str) -> Callable[[Plan], Any]:
    return lambda p: p.op(op)["arrays"].remove(role)


def into_pwl(**changes: Array) -> Callable[[Plan], Any]:
    """The pooling with a softmax in pieces, some of its arrays changed."""

    def change(p: Plan) -> None:
        arrays = {**pwl_arrays([-1.0, 0.5]), "offset": np.zeros(1, np.float32), **changes}
        p.op("asp.conv")["softmax"] = "pwl"
        p.op("asp.conv")["arrays"] += list(arrays)
        p.arrays.update({f"asp.conv.{role}": array for role, array in arrays.items()})

    return change


def into_table(*entries: float) -> Callable[[Plan], Any]:
    """The pooling with a softmax from a table."""

    def change(p: Plan) -> None:
        arrays = {"table": f32(*entries), "offset": np.zeros(1, np.float32)}
        p.op("asp.conv")["softmax"] = "table"
        p.op("asp.conv")["arrays"] += list(arrays)
        p.arrays.update({f"asp.conv.{role}": array for role, array in arrays.items()})

    return change


def shift_result(p: Plan) -> None:
    out = p.tensors["blocks.1.out"]
    p.tensors["shifted"] = {**out, "offset": out["offset"] + 1}
    p.op("blocks.1.residual")["out"] = "shifted"


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


# What is wrong, and what the error says: the op or tensor by name, and what about it.
HOSTILE: dict[str, tuple[Callable[[Plan], Any], str]] = {
    "unknown op": (setting("mfa", op="conv_s4"), "'mfa': unknown kind 'conv_s4'"),
    "unknown input": (setting("mfa", **{"in": "nothing"}), "'mfa'.*'nothing' is not there"),
    "unknown output": (setting("mfa", out="nothing"), "'mfa'.*'nothing' is not there"),
    "unknown bias": (setting("asp.tdnn", bias="nothing"), "'asp.tdnn'.*'nothing' is not there"),
    "no input named": (lambda p: p.op("mfa").pop("in"), "'mfa'.*in tensor '' is not there"),
    "no residual named": (lambda p: p.op("blocks.1.residual").pop("residual"), "blocks.1.residual"),
    "no values named": (lambda p: p.op("asp.conv").pop("values"), "'asp.conv'"),
    "vector for frames": (setting("mfa", **{"in": "asp.out"}), "'mfa'.*must be frames"),
    "frames for vector": (setting("asp.tdnn", bias="mfa.out"), "'asp.tdnn'.*must be a vector"),
    "float for int8": (setting("mfa", **{"in": "input"}), "'mfa'.*must be s8"),
    "reads before write": (lambda p: p.move("mfa", 0), "'mfa' reads 'blocks', which no op"),
    "reads before part is written": (lambda p: p.move("mfa", 3), "'mfa' reads 'blocks'"),
    "vector before write": (lambda p: p.move("fc", 0), "'fc'"),
    "reads itself": (setting("fc", out="fc.in.s8"), "'fc'"),
    "conv overwrites its input": (
        setting("blocks.1.tdnn2", out="blocks.1.res2net_block.out"),
        "'blocks.1.tdnn2'.*would overwrite",
    ),
    "conv overwrites half its input": (
        setting("blocks.1.tdnn2", out="blocks.1.tdnn1.out"),
        "'blocks.1.tdnn2'.*would overwrite",
    ),
    "addition shifted over its input": (shift_result, "'blocks.1.residual'.*would overwrite"),
    "writes the input": (
        setting("blocks.0.in.quantize", out="input"), "'blocks.0.in.quantize'"),
    "view beyond its base": (declaring("blocks.1.out", offset=80), "'blocks.1.out': channels"),
    "view before its base": (declaring("blocks.1.out", offset=-1), "'blocks.1.out': channels"),
    "offset of no view": (declaring("asp.hidden", offset=1), "'asp.hidden' has an offset, 1"),
    "offset of a vector": (declaring("embedding", offset=-4), "'embedding' has an offset, -4"),
    "view of nothing": (declaring("blocks.1.out", of="nothing"), "'blocks.1.out'.*'nothing'"),
    "view of a view": (declaring("blocks.1.out", of="blocks.2.out"), "'blocks.1.out' cannot share"),
    "view of itself": (declaring("blocks", of="blocks"), "'blocks'"),
    "view of another dtype": (declaring("blocks.1.out", dtype="f32"), "'blocks.1.out' cannot"),
    "view of another width": (declaring("blocks.1.out", width=2), "'blocks.1.out' cannot"),
    "view of a vector": (declaring("blocks.1.out", of="embedding"), "'blocks.1.out' cannot"),
    "over itself": (declaring("mfa.out", over="mfa.out"), "'mfa.out'"),
    "over a view": (declaring("mfa.out", over="blocks.1.out"), "'mfa.out' cannot"),
    "over what is still read": (
        declaring("blocks.2.res2net_block.sum.2", over="blocks.2.res2net_block.sum.3"), "sum.2"),
    "no channels": (declaring("mfa.out", channels=0), "'mfa.out': 0 channels"),
    "negative channels": (declaring("mfa.out", channels=-96), "'mfa.out': -96 channels"),
    "huge channels": (declaring("mfa.out", channels=2**31 - 1), "2147[0-9]* channels"),
    "other channels": (declaring("mfa.out", channels=95, over=None), "'mfa'.*'epilogue' has shape"),
    "huge width": (declaring("asp.hidden", width=2**20), "'asp.hidden': width"),
    "no width": (declaring("asp.hidden", width=0), "'asp.hidden': width"),
    "zero point": (declaring("asp.hidden", zero_point=128), "'asp.hidden': zero point 128"),
    "unknown dtype": (declaring("asp.hidden", dtype="s4"), "'asp.hidden': unknown dtype"),
    "unknown kind": (declaring("asp.hidden", kind="image"), "'asp.hidden': unknown kind"),
    "no embedding": (lambda p: p.tensors.pop("embedding"), "embedding"),
    "no input": (lambda p: p.tensors.pop("input"), "input"),
    "embedding in int8": (declaring("embedding", dtype="s8"), "embedding|'fc'"),
    "no ops": (lambda p: p.ops.clear(), "no op"),
    "array missing": (dropping("mfa", "weight"), "'mfa'.*array 'weight' is missing"),
    "epilogue missing": (dropping("mfa", "epilogue"), "'mfa'.*array 'epilogue' is missing"),
    "array not stored": (lambda p: p.arrays.pop("mfa.weight"), "'mfa'.*not there"),
    "weight of float": (storing("mfa.weight", lambda a: a.astype(np.float32)), "'mfa'.*int8"),
    "weight of float64": (storing("mfa.weight", lambda a: a.astype(np.float64)), "'mfa'.*'weight'"),
    "epilogue of int8": (storing("mfa.epilogue", lambda a: a.astype(np.int8)), "'mfa'.*float32"),
    "weight transposed": (storing("mfa.weight", lambda a: np.ascontiguousarray(a[:, 0])), "'mfa'"),
    "weight not contiguous": (storing("mfa.weight", lambda a: a.repeat(2, -1)[..., ::2]), "'mfa'"),
    "epilogue of 3 rows": (storing("mfa.epilogue", lambda a: a[:3].copy()), "'mfa'.*\\(3, 96\\)"),
    "epilogue of a column": (storing("mfa.epilogue", lambda a: a[:, :1].copy()), "'mfa'"),
    "empty array": (storing("asp.stats.multiplier", lambda a: a[:0]), "'asp.stats'"),
    "weight of -128": (filling("mfa.weight", -128), "'mfa'.*-128"),
    "NaN multiplier": (filling("mfa.epilogue", np.nan), "'mfa'.*nan"),
    "Inf gain": (filling("mfa.epilogue", np.inf, (2, 5)), "'mfa'.*'epilogue'\\[5\\] is inf"),
    "subnormal shift": (filling("mfa.epilogue", 1e-39, (3, 0)), "'mfa'.*'epilogue'"),
    "multiplier too large": (filling("asp.stats.multiplier", 2.0**41), "'asp.stats'"),
    "gate table of NaN": (filling("blocks.1.se_block.conv2.table", np.nan), "se_block.conv2'"),
    "softmax of no scale": (filling("asp.conv.multiplier", 0.0), "'asp.conv'.*'multiplier'"),
    "negative softmax": (filling("asp.conv.multiplier", -1.0), "'asp.conv'.*'multiplier'"),
    "odd table": (storing("asp.tdnn.table", lambda a: a[1:].copy()), "'asp.tdnn'.*even"),
    "no table": (storing("asp.tdnn.table", lambda a: a[:0].copy()), "'asp.tdnn'.*even"),
    "flat table": (storing("asp.tdnn.table", lambda a: a[None]), "'asp.tdnn'.*one dimension"),
    "pad mode": (setting("mfa", pad_mode="wrap"), "'mfa'.*pad_mode 'wrap'"),
    "softmax": (setting("asp.conv", softmax="sparse"), "'asp.conv'.*softmax 'sparse'"),
    "no minimum variance": (lambda p: p.op("asp.conv").pop("min_variance"), "'asp.conv'"),
    "negative variance": (setting("asp.conv", min_variance=-1.0), "'asp.conv'.*min_variance"),
    "NaN variance": (setting("asp.conv", min_variance=float("nan")), "'asp.conv'.*min_variance"),
    "negative addition": (setting("asp.stats", added_variance=-1.0), "'asp.stats'.*added_variance"),
    "NaN addition": (setting("asp.stats", added_variance=float("nan")), "'asp.stats'.*added"),
    "unbiased mean": (setting("blocks.1.se_block.stats", unbiased=True), "stats'.*'unbiased'"),
    "no kernel": (setting("blocks.0", kernel=[0, 1]), "'blocks.0'.*'kernel' is 0"),
    "another kernel": (setting("blocks.0", kernel=[3, 1]), "'blocks.0'.*'weight'"),
    "half a kernel": (setting("blocks.0", kernel=[5]), "'blocks.0'.*'kernel' needs 2"),
    "no stride": (setting("blocks.0", stride=[0, 1]), "'blocks.0'.*'stride' is 0"),
    "huge dilation": (setting("blocks.0", dilation=[2**30, 1]), "'blocks.0'.*'dilation'"),
    "huge padding": (setting("blocks.0", padding=[2**30, 0]), "'blocks.0'.*'padding'"),
    "negative padding": (setting("blocks.0", padding=[-1, 0]), "'blocks.0'.*'padding'"),
    "reflecting nothing": (
        setting("blocks.0", padding=[2, 1], kernel=[5, 1]), "'blocks.0'.*'padding'"),
    "no mean to have": (setting("asp.stats", std=False), "'asp.stats'"),
    "shape that fits no length": (setting("mfa", stride=[2, 1]), "mfa|asp"),
    "pieces out of order": (into_pwl(breakpoints=f32(0.5, -1)), "'asp.conv'.*breakpoint"),
    "breakpoints equal": (into_pwl(breakpoints=f32(0.5, 0.5)), "'asp.conv'.*breakpoint"),
    "bounds of 0": (into_pwl(bounds=f32(0, 5)), "'asp.conv'.*'bounds'"),
    "bounds swapped": (into_pwl(bounds=f32(6, 5)), "'asp.conv'.*bounds"),
    "bounds too large": (into_pwl(bounds=f32(1, 2**25)), "'asp.conv'.*bounds"),
    "pieces missing": (into_pwl(slopes=f32(1, 1)), "'asp.conv'.*'intercepts'"),
    "no pieces": (into_pwl(slopes=f32()), "'asp.conv'.*pieces"),
    "table of one entry": (into_table(5), "'asp.conv'.*table entries"),
    "table below 1": (into_table(0.5, 1), "'asp.conv'.*table entry 0.5"),
    "table too large": (into_table(1, 2**25), "'asp.conv'.*table entry"),
    "too many pieces": (into_pwl(slopes=np.ones(257, np.float32)), "'asp.conv'.*pieces"),
}  # fmt: skip


def test_the_plan_is_sound_before_it_is_spoilt(small: PlanBuilder) -> None:
    assert Plan(small).engine().min_length == 5
    spoilt = Plan(small)
    into_pwl()(spoilt)
    assert spoilt.engine().min_length == 5
    spoilt = Plan(small)
    into_table(1, 5)(spoilt)
    assert spoilt.engine().min_length == 5


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_plans_are_refused(small: PlanBuilder, what: str) -> None:
    spoil, reason = HOSTILE[what]
    spoilt = Plan(small)
    spoil(spoilt)
    with pytest.raises(ValueError, match=reason):
        spoilt.engine()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (setting("mfa", kernel="wide"), (RuntimeError, TypeError, ValueError)),
        (setting("mfa", relu=[]), (RuntimeError, TypeError, ValueError)),
        (declaring("mfa.out", channels=2**70), (RuntimeError, TypeError, ValueError)),
        (declaring("mfa.out", channels=1.5), (RuntimeError, TypeError, ValueError)),
        (declaring("mfa.out", channels="96"), (RuntimeError, TypeError, ValueError)),
        (lambda p: p.op("mfa").pop("arrays"), (KeyError,)),
        (lambda p: p.ops.append([]), (RuntimeError, TypeError, ValueError)),
        (lambda p: p.tensors.update(more=None), (RuntimeError, TypeError, ValueError)),
    ],
)
def test_json_of_other_types(
    small: PlanBuilder, spoil: Callable[[Plan], Any], error: tuple[type[Exception], ...]
) -> None:
    spoilt = Plan(small)
    spoil(spoilt)
    with pytest.raises(error):
        spoilt.engine()


def test_weights_that_could_overflow() -> None:
    """A sum of 2^30 / 255 is refused; test_ops has the largest that is not."""
    size = 33200
    b = PlanBuilder()
    b.tensor("input", "frames", "s8", size)
    b.tensor("out", "frames", "s8", 1)
    b.tensor(OUTPUT, "vector", "f32", 1)
    arrays = {
        "weight": np.full((1, 1, 1, size), 127, np.int8),
        "epilogue": np.ones((2, 1), np.float32),
    }
    b.op("conv_s8", "heavy", arrays, **{"in": "input"}, out="out")
    b.op("stats_s8", "stats", {"multiplier": f32(1)}, **{"in": "out"}, out=OUTPUT)
    with pytest.raises(ValueError, match="could overflow"):
        make_engine(b.plan, b.arrays)


def test_memory_beyond_reason_is_refused() -> None:
    """Many large tensors, each legal; no weights to make the file as large."""
    b = PlanBuilder()
    b.tensor("input", "frames", "f32", 1)
    b.tensor("all", "frames", "f32", 2**20)
    b.tensor("part", "frames", "f32", 1, of="all", offset=7)
    b.tensor(OUTPUT, "vector", "f32", 1)
    b.op("add_f32", "add", **{"in": "input"}, residual="input", out="part")
    b.op("stats_f32", "stats", **{"in": "part"}, out=OUTPUT)
    with pytest.raises(ValueError, match="bytes"):
        make_engine(b.plan, b.arrays)


def test_lengths_that_grow_without_end_are_refused() -> None:
    """Padding that makes each layer's output longer, far beyond any recording."""
    b = PlanBuilder()
    b.tensor("input", "frames", "s8", 1)
    source = "input"
    arrays = {"weight": np.ones((1, 4096, 1, 1), np.int8), "epilogue": np.ones((2, 1), np.float32)}
    more = {"kernel": [4096, 1], "dilation": [4096, 1], "padding": [4096 * 4095, 0]}
    for i in range(140):
        out = b.tensor(f"out.{i}", "frames", "s8", 1)
        b.op("conv_s8", f"conv.{i}", arrays, **{"in": source}, out=out, **more)
        source = out
    b.tensor(OUTPUT, "vector", "f32", 1)
    b.op("stats_s8", "stats", {"multiplier": f32(1)}, **{"in": source}, out=OUTPUT)
    with pytest.raises(ValueError, match=r"'conv.[0-9]+' makes [0-9]+ frames, which are too many"):
        make_engine(b.plan, b.arrays)


# Random damage.

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 5, 127, 128, 2**31 - 1, 2**31, -(2**31), 2**63, 2**70, 0.5,
    -1e300, float("nan"), float("inf"), "", "s8", "f32", "frames", "vector", "reflect", "zero",
    "exact", "pwl", "tanh", "relu", "sigmoid", [], {}, [1], [1, 1], [2, 2], [0, -1], [3, 1],
    [4096, 1],
]  # fmt: skip


def damage(rng: np.random.Generator, p: Plan) -> None:
    """One random change somewhere in the plan or its arrays."""
    kind = rng.integers(10)
    names = list(p.tensors)
    if kind == 0:
        i, j = rng.integers(len(p.ops), size=2)
        p.ops[i], p.ops[j] = p.ops[j], p.ops[i]
    elif kind == 1:
        p.ops.pop(int(rng.integers(len(p.ops))))
    elif kind == 2:
        p.ops.insert(int(rng.integers(len(p.ops))), copy.deepcopy(p.ops[rng.integers(len(p.ops))]))
    elif kind == 3:
        name = str(rng.choice(list(p.arrays)))
        array = p.arrays[name].copy()
        flat = array.reshape(-1)
        flat[rng.integers(flat.size)] = rng.choice(
            [-128, 127, 0] if array.dtype == np.int8 else [np.nan, np.inf, 1e-40, 1e38, 0, -1, 1e9]
        )
        p.arrays[name] = array
    elif kind == 4:
        name = str(rng.choice(list(p.arrays)))
        array = p.arrays[name]
        p.arrays[name] = [array[:-1], array[None], array.reshape(-1), array.astype(np.float32)][
            rng.integers(4)
        ].copy()
    elif kind == 5:
        # What an op reads or writes becomes some other tensor.
        op = p.ops[rng.integers(len(p.ops))]
        roles = ["in", "out", "residual", "gate", "bias", "values", "quantization"]
        roles = [r for r in (*roles, "values_quantization") if r in op]
        op[str(rng.choice(roles))] = str(rng.choice(names))
    else:
        target = p.tensors[str(rng.choice(names))] if kind < 8 else p.ops[rng.integers(len(p.ops))]
        key = str(rng.choice([*target, "width", "over", "of", "offset", "stride", "padding"]))
        choice = rng.integers(4)
        if choice == 0:
            target.pop(key, None)
        elif choice == 1 and isinstance(target.get(key), int):
            target[key] += int(rng.choice([-16, -1, 1, 16]))
        elif choice == 2:
            target[key] = str(rng.choice(names))
        else:
            target[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])


@pytest.mark.parametrize("scheme", ["int8", "int8-full", "dynamic"])
def test_random_damage_does_no_harm(small: PlanBuilder, scheme: str) -> None:
    """A spoilt plan is refused by one of the errors that readers expect, or runs."""
    rng = np.random.default_rng(0)
    refused = ran = 0
    whole = small
    if scheme != "int8":
        plan, seen = lower_ecapa(SMALL, random_state(SMALL)), [random_features(0, 90, SMALL.n_mels)]
        full = scheme == "int8-full"
        whole = mixed_plan(plan, seen, lambda _: "int8" if full else "dynamic", full)
    for _ in range(600 if scheme == "int8" else 300):
        spoilt = Plan(whole)
        for _ in range(rng.integers(1, 4)):
            damage(rng, spoilt)
        try:
            engine = spoilt.engine()
        except (ValueError, TypeError, RuntimeError, KeyError):
            refused += 1
            continue
        # Now and then in more than one chunk.
        for frames in (engine.min_length, 50, *([2100] if ran % 16 == 0 else [])):
            if engine.why_not(frames) or engine.arena_bytes(frames) > 2**28:
                continue
            x = random_features(frames, frames, SMALL.n_mels)
            if x.shape[1] == spoilt.tensors["input"]["channels"]:
                try:
                    first = engine.run([x])[0]
                except ValueError as error:  # an int8 input that has lost its scale
                    assert "features must be contiguous int8" in str(error)  # noqa: PT017
                    continue
                assert first.tobytes() == engine.run([x, x])[1].tobytes()
                ran += 1
    assert refused > 100
    assert ran > 80


def test_damage_that_the_oracle_refuses(small: PlanBuilder) -> None:
    """Whatever the engine lets through and can be walked at all has the oracle's bits."""
    rng = np.random.default_rng(1)
    x = random_features(3, 40, SMALL.n_mels)
    compared = 0
    for _ in range(150):
        spoilt = Plan(small)
        damage(rng, spoilt)
        try:
            engine = spoilt.engine()
            if engine.why_not(len(x)) or spoilt.tensors["input"]["channels"] != x.shape[1]:
                continue
        except (ValueError, TypeError, RuntimeError, KeyError):
            continue
        plan = {"tensors": spoilt.tensors, "ops": spoilt.ops}
        expected = network.run(plan, spoilt.arrays, x)[OUTPUT]
        assert engine.run([x])[0].tobytes() == expected.tobytes()
        compared += 1
    assert compared > 15
