"""Front ends of Kaldi's filterbank, TaoRuijie/ECAPA-TDNN and NeMo: against their equations in
float64, kaldi-native-fbank, and torch in the toolkits' order of operations; the same bits on every
instruction set, with any number of threads, alone or in a list."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import earmark
from earmark import _C, modelfile
from earmark.audio import read_audio
from earmark.errors import AudioError, FormatError
from earmark.frontend import KaldiFbank, NemoFbank, TaoRuijieFbank, make_front_end
from earmark.frontend.filterbank import MelFrontEnd
from earmark.plan import make_engine
from modelfiles import tiny_model
from oracle import front_end as oracle
from plans import finish, start
from signals import HOSTILE, RECORDINGS, glide, noise
from toolkit_packages import imported_librosa

Array = NDArray[Any]


class Kind(NamedTuple):
    make: Callable[..., MelFrontEnd]  # of n_mels
    features: Callable[..., NDArray[np.float64]]  # of a waveform and n_mels
    logarithms: Callable[..., NDArray[np.float64]]  # before the normalisation
    min_samples: int
    frames: Callable[[int], int]
    kernel: str


def kaldi(window: str, scale: int) -> Kind:
    return Kind(
        lambda n_mels=80: KaldiFbank(n_mels, window, scale),
        lambda wave, n_mels=80: oracle.kaldi_fbank(wave, n_mels, window, scale),
        lambda wave, n_mels=80: oracle.kaldi_logarithms(wave, n_mels, window, scale),
        400,
        lambda samples: 1 + (samples - 400) // 160,
        "center_f32",
    )


KINDS = {
    "3dspeaker": kaldi("povey", 1),
    "wespeaker": kaldi("hamming", 32768),
    "taoruijie": Kind(
        TaoRuijieFbank,
        oracle.taoruijie_fbank,
        oracle.taoruijie_logarithms,
        257,
        lambda samples: samples // 160 + 1,
        "center_f32",
    ),
    "nemo": Kind(
        NemoFbank,
        oracle.nemo_fbank,
        oracle.nemo_logarithms,
        320,
        lambda samples: samples // 160,
        "standardize_f32",
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_recording = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)


def tolerance(kind: Kind, wave: Array, n_mels: int = 80) -> Array:
    """Roundings of the logarithms to float32, in a feature and in its mean, and of the result.

    Where NeMo's front end divides by next to nothing, the first two weigh that much more.
    """
    logarithms, features = kind.logarithms(wave, n_mels), kind.features(wave, n_mels)
    rounding = np.spacing(np.abs(logarithms).max().astype(np.float32)).astype(np.float64)
    if kind.kernel == "standardize_f32":
        rounding = rounding / (logarithms.std(axis=0, ddof=1) + 1e-5)
    return 1.5 * (rounding + np.spacing(np.abs(features).max().astype(np.float32)))


def assert_equals_equations(kind: Kind, wave: Array, n_mels: int = 80) -> None:
    features = kind.make(n_mels)(wave)
    assert features.dtype == np.float32
    assert features.shape == (kind.frames(len(wave)), n_mels)
    error = np.abs(features - kind.features(wave, n_mels)).max(axis=0)
    assert (error <= tolerance(kind, wave, n_mels)).all(), error.max()


# Around their shortest recordings, the next frame's, and those of the frames computed at once (8).
EDGES = [257, 258, 319, 320, 321, 399, 400, 401, 479, 480, 481, 559, 560, 561, 719, 720, 721, 1119]
EDGES += [1120, 1121, 1279, 1280, 1281, 1439, 1440, 1441, 1519, 1520, 1521, 1679, 1680, 1681, 30001]


@every_kind
@pytest.mark.parametrize("samples", EDGES)
def test_equals_equations_at_edge_lengths(kind: Kind, samples: int) -> None:
    if samples >= kind.min_samples:
        assert_equals_equations(kind, noise(samples))


@every_kind
@given(
    samples=st.integers(0, 3000),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 0.25]),
    n_mels=st.sampled_from([1, 40, 80, 101]),
)
@settings(max_examples=25, deadline=None)
def test_equals_equations(
    kind: Kind, samples: int, seed: int, scale: float, offset: float, n_mels: int
) -> None:
    wave = noise(kind.min_samples + samples, seed, scale) + np.float32(offset)
    assert_equals_equations(kind, wave, n_mels)


@every_kind
@pytest.mark.parametrize("name", HOSTILE)
def test_equals_equations_on_hostile_signals(kind: Kind, name: str) -> None:
    assert_equals_equations(kind, HOSTILE[name].astype(np.float32))


@every_kind
@every_recording
def test_equals_equations_on_recordings(kind: Kind, path: Path) -> None:
    wave = read_audio(path).samples
    assert_equals_equations(kind, wave)
    assert np.abs(kind.make()(wave) - kind.features(wave)).max() < 4e-6


def native_kaldi(wave: Array, window: str, scale: int) -> Array:
    """With kaldi-native-fbank, in float32, the mean subtracted in float64."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = True
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16000, (wave * np.float32(scale)).tolist())
    fbank.input_finished()
    logarithms = [fbank.get_frame(i) for i in range(fbank.num_frames_ready)]
    features = np.stack(logarithms).astype(np.float64)
    return features - features.mean(axis=0)


KALDI_MODELS = [("povey", 1), ("hamming", 32768), ("povey", 32768), ("hamming", 1)]


def assert_equals_kaldi_native_fbank(wave: Array, window: str, scale: int) -> None:
    """Within what a float32 transform loses: an error of its largest amplitude, in every bin."""
    logarithms = oracle.kaldi_logarithms(wave, 80, window, scale)
    below_largest = np.exp((logarithms.max(axis=1, keepdims=True) - logarithms) / 2)
    error = np.abs(KaldiFbank(80, window, scale)(wave) - native_kaldi(wave, window, scale))
    assert (error <= 1.5e-4 + 1.5e-6 * below_largest).all(), error.max()


@every_recording
@pytest.mark.parametrize(("window", "scale"), KALDI_MODELS)
def test_kaldi_equals_kaldi_native_fbank(path: Path, window: str, scale: int) -> None:
    assert_equals_kaldi_native_fbank(read_audio(path).samples, window, scale)


@pytest.mark.parametrize("samples", [400, 401, 559, 560, 1681])
@pytest.mark.parametrize(("window", "scale"), KALDI_MODELS)
def test_kaldi_equals_kaldi_native_fbank_at_edge_lengths(
    samples: int, window: str, scale: int
) -> None:
    assert_equals_kaldi_native_fbank(noise(samples), window, scale)


def torch_taoruijie(wave: Array) -> Array:
    """In float32, in the order of operations of TaoRuijie/ECAPA-TDNN and torchaudio."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = torch.from_numpy(wave)[None]
    emphasis = torch.tensor([[[-0.97, 1.0]]])
    x = functional.conv1d(functional.pad(x[None], (1, 0), "reflect"), emphasis)[0]
    spectrum = torch.stft(
        x, 512, 160, 400, torch.hamming_window(400), True, "reflect", return_complex=True
    )
    mels = torch.linspace(*(2595 * np.log10(1 + np.array([20, 7600]) / 700)), 82)
    hz = 700 * (10 ** (mels / 2595) - 1)
    slopes = hz[None] - torch.linspace(0, 8000, 257)[:, None]
    width = hz[1:] - hz[:-1]
    triangles = torch.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]).clamp(min=0)
    energies = spectrum.abs().pow(2).mT @ triangles
    logarithms = (energies + 1e-6).log()
    return (logarithms - logarithms.mean(dim=1, keepdim=True))[0].numpy()


def torch_nemo(wave: Array) -> Array:
    """In float32, in the order of operations of NeMo's ``FilterbankFeatures``, valid frames."""
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(wave)[None]
    x = torch.cat((x[:, :1], x[:, 1:] - 0.97 * x[:, :-1]), dim=1)
    window = torch.hann_window(400, periodic=False)
    spectrum = torch.stft(x, 512, 160, 400, window, True, "constant", return_complex=True)
    power = torch.view_as_real(spectrum).pow(2).sum(-1).sqrt().pow(2.0)
    filters = torch.from_numpy(oracle.slaney_filters(80).T.astype(np.float32))
    logarithms = torch.log(filters @ power + 2**-24)[0, :, : len(wave) // 160]
    mean = logarithms.mean(dim=1, keepdim=True)
    deviation = logarithms.std(dim=1, keepdim=True) + 1e-5
    return ((logarithms - mean) / deviation).T.numpy()


TORCH = pytest.mark.parametrize(
    ("name", "in_torch"), [("taoruijie", torch_taoruijie), ("nemo", torch_nemo)]
)


@TORCH
@every_recording
def test_equals_torch(path: Path, name: str, in_torch: Callable[[Array], Array]) -> None:
    wave = read_audio(path).samples
    np.testing.assert_allclose(KINDS[name].make()(wave), in_torch(wave), rtol=0, atol=5e-4)


@TORCH
@pytest.mark.parametrize("samples", [320, 321, 479, 480, 481, 1279, 1280, 9999])
def test_equals_torch_at_edge_lengths(
    samples: int, name: str, in_torch: Callable[[Array], Array]
) -> None:
    wave = noise(samples)
    np.testing.assert_allclose(KINDS[name].make()(wave), in_torch(wave), rtol=0, atol=2e-4)


@TORCH
@pytest.mark.parametrize("wave", [noise(48000), glide(48000), noise(48000, 1, 1e-3)])
def test_no_less_exact_than_torch(
    wave: Array, name: str, in_torch: Callable[[Array], Array]
) -> None:
    kind = KINDS[name]
    expected = kind.features(wave)
    error, torch_error = np.abs(kind.make()(wave) - expected), np.abs(in_torch(wave) - expected)
    assert error.max() <= torch_error.max()
    assert error.mean() <= torch_error.mean()


@pytest.mark.parametrize("n_mels", [40, 80])
def test_slaney_s_filters_are_librosa_s(n_mels: int) -> None:
    with imported_librosa() as librosa:
        expected = librosa.filters.mel(sr=16000, n_fft=512, n_mels=n_mels, fmin=0, fmax=8000)
    np.testing.assert_allclose(oracle.slaney_filters(n_mels).T, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("samples", [257, 258, 400])
def test_torch_takes_what_taoruijie_s_takes(samples: int) -> None:
    assert torch_taoruijie(noise(samples)).shape == (samples // 160 + 1, 80)
    with pytest.raises(RuntimeError, match="Padding size"):
        torch_taoruijie(noise(256))


@every_kind
@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("n_mels", [1, 17, 80, 400])
def test_every_isa_gives_the_same_bits(kind: Kind, isa: str, n_mels: int) -> None:
    front_end = kind.make(n_mels).compiled
    waves = [noise(samples) for samples in EDGES if samples >= kind.min_samples]
    for wave in [*waves, *(wave.astype(np.float32) for wave in HOSTILE.values())]:
        expected = front_end(wave, isa="scalar")
        actual = front_end(wave, isa=isa)
        assert _C.last_kernel() == f"{kind.kernel}/{isa}"
        assert actual.tobytes() == expected.tobytes()


@every_kind
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_engine_gives_the_same_bits_with_any_threads_and_in_any_list(
    kind: Kind, threads: int
) -> None:
    b = finish(start("f32", 70), "input")
    front_end = kind.make(70)
    waves = [noise(n, n) for n in (700_000, 400, 4000, 30_000, 560, 4000, 9999, 12_345)]
    single, engine = (make_engine(b.plan, b.arrays, threads=n) for n in (1, threads))
    expected = single.run([front_end(wave) for wave in waves])
    assert engine.embed(front_end.compiled, waves).tobytes() == expected.tobytes()
    alone = [engine.embed(front_end.compiled, [wave]) for wave in waves]
    assert np.concatenate(alone).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match=r"waveform 1: waveform has 99 samples, the front end"):
        engine.embed(front_end.compiled, [waves[1], noise(99)])


@every_kind
def test_short_waveforms_are_refused(kind: Kind) -> None:
    front_end = kind.make()
    least = kind.min_samples
    assert front_end.min_samples == least
    for samples in (1, 2, least - 1):
        assert front_end.frames(samples) == 0
        message = f"waveform has {samples} samples, the front end takes {least} and more"
        with pytest.raises(AudioError, match=message):
            front_end(noise(samples))
    with pytest.raises(AudioError, match="waveform is empty"):
        front_end(noise(0))
    for samples in range(least, least + 500):
        assert front_end.frames(samples) == kind.frames(samples) >= 1


@every_kind
@pytest.mark.parametrize("frames", [1, 2, 5, 6, 1000])
def test_samples_of_frames(kind: Kind, frames: int) -> None:
    front_end = kind.make()
    samples = front_end.samples_of_frames(frames)
    assert len(front_end(noise(samples))) == front_end.frames(samples) >= frames
    if samples > front_end.min_samples:
        assert front_end.frames(samples - 1) == len(front_end(noise(samples - 1))) < frames


@every_kind
def test_frames_of_two_seconds(kind: Kind) -> None:
    assert kind.make().frames(32000) == {400: 198, 257: 201, 320: 200}[kind.min_samples]


@every_kind
def test_silence_gives_zeros(kind: Kind) -> None:
    np.testing.assert_allclose(kind.make()(np.zeros(5000, np.float32)), 0, atol=1e-6)


def test_scale_is_seen_at_the_floor_alone() -> None:
    loud, quiet = noise(16000, 0, 1.0), noise(16000, 0, 1e-7)
    for window in ("povey", "hamming"):
        small, large = KaldiFbank(80, window, 1), KaldiFbank(80, window, 32768)
        np.testing.assert_allclose(small(loud), large(loud), rtol=0, atol=5e-6)
        np.testing.assert_allclose(small(quiet), 0, atol=1e-6)
        assert large(quiet).std() > 0.5


def test_nemo_s_features_are_standardised() -> None:
    features = NemoFbank()(noise(160_000)).astype(np.float64)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features.std(axis=0, ddof=1), 1, atol=1e-4)


SPECS = [
    {"name": "kaldi", "n_mels": 60, "window": "povey", "scale": 1},
    {"name": "kaldi", "n_mels": 60, "window": "hamming", "scale": 32768},
    {"name": "taoruijie", "n_mels": 60},
    {"name": "nemo", "n_mels": 60},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_spec_makes_an_equal_front_end(spec: dict[str, Any]) -> None:
    front_end = make_front_end(spec)
    assert front_end.spec() == spec
    wave = noise(1000)
    for twin in (
        make_front_end(json.loads(json.dumps(front_end.spec()))),
        pickle.loads(pickle.dumps(front_end)),
    ):
        assert type(twin) is type(front_end)
        assert twin.spec() == spec
        assert (twin.n_features, twin.sample_rate_hz) == (60, 16000)
        assert twin.min_samples == front_end.min_samples
        np.testing.assert_array_equal(twin(wave), front_end(wave))


def test_defaults() -> None:
    assert KaldiFbank().spec() == {"name": "kaldi", "n_mels": 80, "window": "povey", "scale": 1}
    assert TaoRuijieFbank().spec() == {"name": "taoruijie", "n_mels": 80}
    assert NemoFbank().spec() == {"name": "nemo", "n_mels": 80}


KALDI = SPECS[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "kaldi", "n_mels": 80}, "described by name, n_mels, window and scale, got"),
        ({**KALDI, "dither": 0}, "described by name, n_mels, window and scale, got"),
        ({**KALDI, "n_mels": 0}, "n_mels must be an integer from 1 to 400, got 0"),
        ({**KALDI, "window": "hann"}, "window must be povey or hamming, got 'hann'"),
        ({**KALDI, "window": None}, "window must be povey or hamming, got None"),
        ({**KALDI, "window": ["povey"]}, "window must be povey or hamming"),
        ({**KALDI, "scale": 2}, "scale must be 1 or 32768, got 2"),
        ({**KALDI, "scale": True}, "scale must be 1 or 32768, got True"),
        ({**KALDI, "scale": 1.0}, "scale must be 1 or 32768, got 1.0"),
        ({**KALDI, "scale": "1"}, "scale must be 1 or 32768, got '1'"),
        ({"name": "nemo"}, "front end nemo is described by name and n_mels"),
        ({"name": "nemo", "n_mels": 401}, "from 1 to 400, got 401"),
        ({"name": "taoruijie", "n_mels": "80"}, "from 1 to 400, got '80'"),
        ({"name": "taoruijie", "n_mels": 80, "window": "povey"}, "taoruijie is described by"),
    ],
)
def test_bad_specs(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        make_front_end(spec)


def test_bad_calls_of_the_compiled_part() -> None:
    for make in (_C.NemoFbank, _C.TaoRuijieFbank, lambda n: _C.KaldiFbank(n, "povey", 1)):
        for n_mels in (0, -1, 401, 2**31 - 1):
            with pytest.raises(ValueError, match=f"n_mels is {n_mels}, expected 1 to 400"):
                make(n_mels)
    with pytest.raises(ValueError, match="window is 'hann', expected povey or hamming"):
        _C.KaldiFbank(80, "hann", 1)
    for scale in (0, -1, 1e6, np.nan):
        with pytest.raises(ValueError, match=r"scale is .*, expected above 0, up to 32768"):
            _C.KaldiFbank(80, "povey", scale)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_model_file_with_the_front_end(tmp_path: Path, spec: dict[str, Any]) -> None:
    file = tiny_model()
    file.metadata["front_end"] = {**spec, "n_mels": 2}
    modelfile.write(file, tmp_path / "m.earmark")
    model = earmark.load(tmp_path / "m.earmark")
    assert isinstance(model, earmark.Embedder)
    front_end = make_front_end({**spec, "n_mels": 2})
    assert model.min_samples >= front_end.min_samples
    wave = noise(5000)
    np.testing.assert_array_equal(model.embed(wave), model.embed_features(front_end(wave)))
    assert model.embed(noise(model.min_samples)).shape == (1, model.embedding_size)
    with pytest.raises(AudioError, match=rf"at least {model.min_samples} \("):
        model.embed(noise(model.min_samples - 1))
