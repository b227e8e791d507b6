"""Whole networks: every tensor with the oracle's bits on every instruction set; lists, threads,
long recordings; precision beside torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from earmark import _C
from earmark.families import load_checkpoint
from earmark.lowering.ecapa import lower_ecapa
from earmark.nn import EcapaTdnn
from earmark.nn.config import EcapaConfig
from earmark.plan import OUTPUT, PlanBuilder, make_engine
from networks import (
    LARGE,
    SMALL,
    int8_plan,
    random_features,
    random_int8_plan,
    random_state,
    torch_network,
)
from oracle import network
from paths import CHECKPOINT, dev_recordings, needs_data
from plans import equal_bits

Array = NDArray[Any]

each_isa = pytest.mark.parametrize("isa", _C.available_isas())

# Longer ones run in several chunks.
CHUNK = 2048


@pytest.fixture(scope="module")
def small() -> PlanBuilder:
    return random_int8_plan(SMALL)


@pytest.fixture(scope="module")
def large() -> PlanBuilder:
    return random_int8_plan(LARGE)


Traced = dict[int, dict[str, Array]]


@pytest.fixture(scope="module")
def large_expected(large: PlanBuilder) -> Traced:
    """The oracle's tensors of two recordings, by their length; the same for every ISA."""
    return {n: network.run(large.plan, large.arrays, random_features(n, n)) for n in (5, 61)}


def check_trace(b: PlanBuilder, features: Array, isa: str, expected: dict[str, Array]) -> None:
    """All tensors are the oracle's, and every kernel that ran was one of that ISA."""
    engine = make_engine(b.plan, b.arrays, isa=isa, threads=2)
    traced, kernels = engine.trace(features)
    assert set(kernels) == {op["name"] for op in b.ops}
    assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
    assert set(traced) == set(expected)
    for name, values in expected.items():
        equal_bits(traced[name], values, name)
    equal_bits(engine.run([features])[0], expected[OUTPUT], OUTPUT)


@each_isa
@pytest.mark.parametrize("frames", [5, 6, 97])
def test_small_network(isa: str, small: PlanBuilder, frames: int) -> None:
    features = random_features(frames, frames, SMALL.n_mels)
    check_trace(small, features, isa, network.run(small.plan, small.arrays, features))


@each_isa
@pytest.mark.parametrize("frames", [5, 61])
def test_speechbrain_shape(
    isa: str, large: PlanBuilder, large_expected: Traced, frames: int
) -> None:
    kinds = [op["op"] for op in large.ops]
    assert {kind for kind in kinds if kind.endswith("_f32")} == set()
    check_trace(large, random_features(frames, frames), isa, large_expected[frames])


@pytest.mark.parametrize(
    "config",
    [
        EcapaConfig(8, (8, 8, 24), (5, 3, 1), (1, 2, 1), 1, 2, 1, 1),
        EcapaConfig(3, (24, 24, 24, 40), (3, 5, 3, 3), (2, 1, 4, 2), 5, 3, 7, 11),
    ],
)
def test_other_shapes(config: EcapaConfig) -> None:
    """Two blocks or one, another MFA, no chunk a multiple of anything."""
    b = random_int8_plan(config, 3)
    features = random_features(1, 40, config.n_mels)
    expected = network.run(b.plan, b.arrays, features)
    for isa in _C.available_isas():
        check_trace(b, features, isa, expected)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_other_numbers_of_blocks_in_float(blocks: int) -> None:
    """What torch computes: a block may overwrite the first layer's output only behind its use."""
    layers = (5, *[3] * blocks, 1), (1, *[2] * blocks, 1)
    config = EcapaConfig(8, (*[8] * (blocks + 1), 24), *layers, 4, 2, 4, 6)
    state, features = random_state(config), random_features(1, 50, 8)
    b = lower_ecapa(config, state)
    expected = torch_network(config, state)(torch.from_numpy(features)[None])[0, 0].numpy()
    found = make_engine(b.plan, b.arrays).run([features])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def bootstrap() -> tuple[EcapaTdnn, PlanBuilder, list[Array]]:
    """The network of the checkpoint, its integer plan, and features of real recordings."""
    net = load_checkpoint(CHECKPOINT, family="speechbrain")
    from earmark.audio import read_audio

    paths = dev_recordings()[::20][:16]
    features = [net.front_end(read_audio(path).samples)[:200] for path in paths]
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    return net, int8_plan(lower_ecapa(net.config, state), features), features


@needs_data
@each_isa
def test_bootstrap(isa: str, bootstrap: tuple[EcapaTdnn, PlanBuilder, list[Array]]) -> None:
    _, b, features = bootstrap
    for recording in (features[0], features[1][:77]):
        check_trace(b, recording, isa, network.run(b.plan, b.arrays, recording))


@needs_data
def test_bootstrap_keeps_its_embeddings(
    bootstrap: tuple[EcapaTdnn, PlanBuilder, list[Array]],
) -> None:
    net, b, features = bootstrap
    quantized = make_engine(b.plan, b.arrays).run(features)
    with torch.inference_mode():
        reference = [net(torch.from_numpy(x)[None])[0, 0].numpy() for x in features]
    assert min(map(cosine, quantized, reference)) > 0.998


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@each_isa
def test_float_plan_beside_torch(isa: str) -> None:
    """The float32 plan errs no more than torch's float32 does; float64 torch is the truth."""
    for config in (SMALL, EcapaConfig(80, (256, 256, 256, 256, 768))):
        state = random_state(config, 4)
        b = lower_ecapa(config, state)
        engine = make_engine(b.plan, b.arrays, isa=isa)
        net = torch_network(config, state)
        for frames in (5, 150):
            x = random_features(frames, frames, config.n_mels)
            traced, kernels = engine.trace(x)
            assert {ran.split("/")[1] for ran in kernels.values()} == {isa}
            single = net.float()(torch.from_numpy(x)[None])[0, 0].numpy()
            exact = net.double()(torch.from_numpy(x)[None].double())[0, 0].numpy()
            oracle = network.run(b.plan, b.arrays, x)[OUTPUT]
            # Folding the batch norms rounds the constants once.
            scale = np.abs(exact).max()
            np.testing.assert_allclose(oracle, exact, rtol=0, atol=2e-6 * scale)
            allowed = 2 * np.abs(single - exact).max() + 4 * np.spacing(np.float32(scale))
            assert np.abs(traced[OUTPUT] - exact).max() <= allowed


MIXED = {
    "float pooling": lambda name: name.startswith(("asp", "fc")),
    "float block": lambda name: name.startswith("blocks.2."),
    "float ends": lambda name: name in ("blocks.0", "fc"),
    "float Res2 steps": lambda name: name.startswith("blocks.1.res2net_block.blocks."),
    "float additions": lambda name: ".add." in name or name.endswith("residual"),
    "integer MFA only": lambda name: name != "mfa",
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision(name: str) -> None:
    """Close to the float network, on every ISA; integer ops between float ones are exact."""
    config = EcapaConfig(20, (64, 64, 64, 64, 192), attention_channels=16, se_channels=16)
    lowered = lower_ecapa(config, random_state(config))
    recordings = [random_features(i, 80 + 20 * i, config.n_mels) for i in range(3)]
    b = int8_plan(lowered, recordings, MIXED[name])
    suffixes = {op["op"][-3:] for op in b.ops}
    assert suffixes == {"_s8", "f32"}
    x = recordings[1]
    exact = network.run(lowered.plan, lowered.arrays, x)[OUTPUT]
    oracle = network.run(b.plan, b.arrays, x)[OUTPUT]
    assert cosine(oracle, exact) > 0.997
    for isa in _C.available_isas():
        embedding = make_engine(b.plan, b.arrays, isa=isa).run([x])[0]
        # A float sum that differs in its last bit may turn a tie, and a quantum goes on from there.
        assert cosine(embedding, oracle) > 0.9999


def test_every_op_in_float_is_the_float_network(small: PlanBuilder) -> None:
    lowered = lower_ecapa(SMALL, random_state(SMALL))
    x = random_features(1, 60, SMALL.n_mels)
    b = int8_plan(lowered, [x], lambda name: True)
    assert b.plan == lowered.plan
    assert small.plan != lowered.plan


# Lists of recordings, threads, chunks.

LENGTHS = [300, 5, 17, 5000, 61, 6, 2049, 97, 5, 1200, 4097, 33]


@pytest.mark.parametrize("scheme", ["int8", "fp32", "mixed"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_recording_as_if_alone(scheme: str, threads: int) -> None:
    b = lower_ecapa(SMALL, random_state(SMALL))
    if scheme != "fp32":
        seen = [random_features(i, 90, SMALL.n_mels) for i in range(2)]
        mixed = scheme == "mixed"
        b = int8_plan(b, seen, lambda name: mixed and "blocks.2" in name)
    recordings = [random_features(i, n, SMALL.n_mels) for i, n in enumerate(LENGTHS)]
    alone = make_engine(b.plan, b.arrays, threads=1)
    expected = [alone.run([x])[0] for x in recordings]
    engine = make_engine(b.plan, b.arrays, threads=threads)
    # More recordings than threads and fewer; working memory has to grow and may be left over.
    for chosen in ([*range(len(LENGTHS))], [4], [3, 1], [10, 0], [1, 3], [9, 4, 0]):
        out = engine.run([recordings[i] for i in chosen])
        assert out.shape == (len(chosen), SMALL.embedding)
        for row, i in zip(out, chosen, strict=True):
            equal_bits(row, expected[i], f"recording {i} of {chosen}")
    assert engine.run([]).shape == (0, SMALL.embedding)


@pytest.mark.parametrize("frames", [CHUNK, CHUNK + 1, 4096, 4097, 5000, 10_001])
def test_long_recordings_have_the_bits_of_one_chunk(small: PlanBuilder, frames: int) -> None:
    x = random_features(frames, frames, SMALL.n_mels)
    engine = make_engine(small.plan, small.arrays, threads=2)
    traced, _ = engine.trace(x)
    equal_bits(engine.run([x])[0], traced[OUTPUT], OUTPUT)


def test_long_float_recordings_have_the_bits_of_one_chunk() -> None:
    b = lower_ecapa(SMALL, random_state(SMALL))
    engine = make_engine(b.plan, b.arrays, threads=2)
    for frames in (CHUNK + 1, 5000):
        x = random_features(frames, frames, SMALL.n_mels)
        equal_bits(engine.run([x])[0], engine.trace(x)[0][OUTPUT], OUTPUT)


def test_an_hour_is_bounded_in_memory(large: PlanBuilder) -> None:
    hour = 360_001
    engine = make_engine(large.plan, large.arrays)
    assert engine.why_not(hour) == ""
    assert engine.arena_bytes(hour) < 1.2 * 2**30
    assert engine.arena_bytes(300) < 16 * 2**20


def test_many_callers_at_once(small: PlanBuilder) -> None:
    engine = make_engine(small.plan, small.arrays, threads=2)
    lengths = [5, 40, 300, 2100]
    recordings = [random_features(n, n, SMALL.n_mels) for n in lengths]
    expected = engine.run(recordings)
    wrong: list[str] = []
    ready = threading.Barrier(6)

    def call(caller: int) -> None:
        ready.wait()
        for turn in range(12):
            chosen = [(caller + turn + i) % 4 for i in range(1 + turn % 4)]
            out = engine.run([recordings[i] for i in chosen])
            if out.tobytes() != expected[chosen].tobytes():
                wrong.append(f"caller {caller}, turn {turn}")

    callers = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in callers)
    assert wrong == []


FORK = """
import os, signal, sys
import numpy as np
from networks import SMALL, random_features, random_int8_plan
from earmark.plan import make_engine

b = random_int8_plan(SMALL)
recordings = [random_features(n, n, SMALL.n_mels) for n in (40, 300, 5, 61)]
engine = make_engine(b.plan, b.arrays, threads=3)
before = engine.run(recordings)  # its threads run now
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = all(engine.run(recordings).tobytes() == before.tobytes() for _ in range(3))
    del engine
    os._exit(0 if same else 3)
same = engine.run(recordings).tobytes() == before.tobytes()
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), same)
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter that imports what this one does."""
    paths = [os.path.dirname(__file__), *sys.path]
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_the_same() -> None:
    done = python(FORK)
    assert done.stdout.split() == ["0", "True"], done.stderr


# The choice of the instruction set.


def test_best_isa_is_chosen() -> None:
    known = ["scalar", "avx512_vnni_emulated", "avx_vnni_emulated"]
    known += ["avx2", "avx_vnni", "avx512_vnni"]
    available = _C.available_isas()
    assert available == [isa for isa in known if isa in available]
    best = [isa for isa in available if not isa.endswith("emulated")][-1]
    done = python("from earmark import _C; print(_C.default_isa())", EARMARK_ISA="")
    assert done.stdout.strip() == best, done.stderr


@each_isa
def test_isa_from_the_environment(isa: str) -> None:
    code = """
from networks import SMALL, random_features, random_int8_plan
from earmark import _C
from earmark.plan import make_engine
b = random_int8_plan(SMALL)
_, kernels = make_engine(b.plan, b.arrays).trace(random_features(5, 5, SMALL.n_mels))
print(_C.default_isa(), *{ran.split("/")[1] for ran in kernels.values()})
"""
    done = python(code, EARMARK_ISA=isa)
    assert done.stdout.split() == [isa, isa], done.stderr


KNOWN_ISAS = {"avx2", "avx512_vnni", "avx512_vnni_emulated", "neon_dotprod", "neon_i8mm"}


@pytest.mark.parametrize("isa", ["sse9", "AVX2", *sorted(KNOWN_ISAS - {*_C.available_isas()})])
def test_isa_that_cannot_be_had(isa: str, small: PlanBuilder) -> None:
    if isa not in KNOWN_ISAS:
        reason = f"unknown ISA '{isa}': known are scalar, avx2, avx_vnni, avx512_vnni"
    else:
        reason = f"ISA '{isa}' is not (built into this binary|supported by this processor)"
    with pytest.raises(ValueError, match=reason):
        make_engine(small.plan, small.arrays, isa=isa)
    done = python("from earmark import _C; _C.default_isa()", EARMARK_ISA=isa)
    assert done.returncode == 1
    assert f"ISA '{isa}'" in done.stderr
    assert "ValueError" in done.stderr


@pytest.mark.parametrize("threads", [-1, 1025])
def test_number_of_threads_is_checked(small: PlanBuilder, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        make_engine(small.plan, small.arrays, threads=threads)


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((9, 19), np.float32),
        np.zeros((9, 20), np.float64),
        np.zeros((9, 20), np.int8),
        np.zeros((9, 40), np.float32)[:, ::2],
        np.zeros(20, np.float32),
        np.zeros((1, 9, 20), np.float32),
        np.zeros((4, 20), np.float32),
        np.zeros((0, 20), np.float32),
    ],
)
def test_features_that_do_not_fit(small: PlanBuilder, features: Array) -> None:
    engine = make_engine(small.plan, small.arrays)
    good = random_features(1, 9, SMALL.n_mels)
    for call in (lambda: engine.run([good, features]), lambda: engine.trace(features)):
        with pytest.raises(ValueError, match=r"features|frame"):
            call()
    assert np.isfinite(engine.run([good])).all()
