"""Reading recordings: what comes out, what is refused, and how much memory it takes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earmark.audio import read_audio
from earmark.errors import AudioError

from .paths import SHARED_DATA, needs_data


def tone(samples: int, rate: int = 16000, hz: float = 440.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / rate)


def write(path: Path, samples: NDArray[Any], rate: int = 16000, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def test_a_mono_array_is_not_copied() -> None:
    wave = tone(1000).astype(np.float32)
    audio = read_audio(wave)
    assert np.shares_memory(audio.samples, wave)
    assert audio.notes == ()
    assert audio.sample_rate_hz == 16000


@pytest.mark.parametrize(
    ("dtype", "lowest", "highest"),
    [
        (np.int8, -128, 127),
        (np.int16, -32768, 32767),
        (np.int32, -(2**31), 2**31 - 1),
        (np.uint8, 0, 255),
        (np.uint16, 0, 65535),
        (np.uint32, 0, 2**32 - 1),
    ],
)
def test_integers_are_scaled_by_their_full_range(dtype: Any, lowest: int, highest: int) -> None:
    samples = read_audio(np.array([lowest, highest, (lowest + highest + 1) // 2], dtype)).samples
    assert samples.dtype == np.float32
    assert samples[0] == -1
    assert 0.99 < samples[1] <= 1
    assert samples[2] == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", "<f8"])
def test_floats_are_taken_as_they_are(dtype: Any) -> None:
    samples = read_audio(np.array([0.5, -2.0, 0.25], dtype)).samples
    assert samples.dtype == np.dtype(np.float32)
    assert samples.tolist() == [0.5, -2.0, 0.25]


@pytest.mark.parametrize("shape", [(60,), (1, 60), (60, 1)])
def test_mono_shapes(shape: tuple[int, ...]) -> None:
    wave = np.arange(60, dtype=np.float32)
    audio = read_audio(wave.reshape(shape))
    np.testing.assert_array_equal(audio.samples, wave)
    assert audio.notes == ()


@pytest.mark.parametrize("order", ["C", "F"])
def test_channels_are_averaged_and_it_is_said(order: Any) -> None:
    stereo = np.array([[0.25, 0.75], [1.0, 0.0], [-1.0, 0.5]], order=order)
    audio = read_audio(stereo)
    assert audio.samples.tolist() == [0.5, 0.5, -0.25]
    assert audio.notes == ("2 channels averaged",)


@given(
    samples=st.integers(33, 70_000),
    channels=st.integers(1, 4),
    step=st.sampled_from([1, 2, -1]),
    dtype=st.sampled_from(["f4", "f8", "i2", "u1"]),
)
@settings(max_examples=20, deadline=None)
def test_any_array_is_mono_contiguous_float32(
    samples: int, channels: int, step: int, dtype: str
) -> None:
    array = (np.random.default_rng(samples).random((samples, channels)) * 100).astype(dtype)[::step]
    found = read_audio(array).samples
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    scale = {"i2": 2.0**15, "u1": 128.0}.get(dtype, 1.0)
    expected = (array.astype(np.float64).mean(axis=1) - (128 if dtype == "u1" else 0)) / scale
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert read_audio(torch.tensor([[0.5, 0.25]])).samples.tolist() == [0.5, 0.25]
    assert read_audio(torch.tensor([16384], dtype=torch.int16)).samples.tolist() == [0.5]
    for tensor in (torch.zeros(9, requires_grad=True), torch.zeros(9, dtype=torch.bfloat16)):
        with pytest.raises(AudioError, match=r"^array: cannot be seen as an array: "):
            read_audio(tensor)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling(rate: int) -> None:
    audio = read_audio(tone(rate, rate), rate)
    assert audio.notes == (f"resampled from {rate} to 16000 Hz",)
    assert abs(len(audio.samples) - 16000) <= 1
    inner = slice(1000, 15000)
    np.testing.assert_allclose(audio.samples[inner], tone(16000)[inner], atol=2e-3)


def test_files_and_arrays_come_out_the_same(tmp_path: Path) -> None:
    """Longer than a block, so that resampling in pieces is compared too."""
    stereo = np.stack([tone(200_000, 44100), tone(200_000, 44100, 3000)], axis=1).astype(np.float32)
    path = write(tmp_path / "stereo.wav", stereo, 44100, "FLOAT")
    from_file, from_array = read_audio(path), read_audio(stereo, 44100)
    np.testing.assert_array_equal(from_file.samples, from_array.samples)
    assert from_file.notes == ("2 channels averaged", "resampled from 44100 to 16000 Hz")
    assert from_file.notes == from_array.notes

    import soxr

    at_once = soxr.resample(stereo.mean(axis=1), 44100, 16000)
    np.testing.assert_allclose(from_file.samples, at_once, atol=1e-6)


def test_the_rate_of_a_file_is_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(8000, 8000), 8000)
    assert len(read_audio(path, sample_rate=44100).samples) == 16000
    audio = read_audio(str(path), target_rate=8000)
    assert (len(audio.samples), audio.sample_rate_hz, audio.notes) == (8000, 8000, ())


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    wave = tone(70_000)
    audio = read_audio(write(tmp_path / f"a.{suffix}", wave))
    np.testing.assert_allclose(audio.samples, wave, atol=0.05)
    of_bytes = read_audio((tmp_path / f"a.{suffix}").read_bytes())
    np.testing.assert_array_equal(of_bytes.samples, audio.samples)


def with_length(flac: Path, samples: int) -> Path:
    """The same file with another length in its header: 36 bits of the STREAMINFO block."""
    content = bytearray(flac.read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    flac.write_bytes(content)
    return flac


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    """As encoders write it to a pipe: the header says 0."""
    wave = tone(100_000)
    path = with_length(write(tmp_path / "piped.flac", wave), 0)
    for source in (path, path.read_bytes()):
        np.testing.assert_allclose(read_audio(source).samples, wave, atol=1e-4)


@needs_data
def test_real_recordings_are_read_exactly() -> None:
    path = SHARED_DATA / "speakers" / (SHARED_DATA / "speakers/dev.txt").read_text().split()[0]
    np.testing.assert_array_equal(read_audio(path).samples, soundfile.read(path)[0])


def test_an_hour_needs_one_copy(tmp_path: Path) -> None:
    samples = 10 * 60 * 16000
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16000, 2, "PCM_16") as file:
        for _ in range(10):
            file.write(np.zeros((samples // 10, 2), np.int16))
    read_audio(write(tmp_path / "warm.wav", np.zeros(100)))
    tracemalloc.start()
    audio = read_audio(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(audio.samples) == samples
    assert peak < audio.samples.nbytes + 4e6


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(0), r"is empty \(0 samples\)"),
        (np.zeros((0, 2)), r"is empty \(0 samples\)"),
        (np.zeros((1, 0)), r"is empty \(0 samples\)"),
        (np.array(0.5), r"got \(\)"),
        (np.zeros((2, 48000)), r"\(n, channels\) with at most 32 channels, got \(2, 48000\)"),
        (np.zeros((2, 2)), r"got \(2, 2\)"),
        (np.zeros((100, 33)), r"got \(100, 33\)"),
        (np.zeros((3, 4, 5)), r"got \(3, 4, 5\)"),
        (np.array([0, np.nan, np.inf]), "sample 1 is nan"),
        (np.array([0, 0, -np.inf], np.float32), "sample 2 is -inf"),
        (np.array([1e300]), "sample 0 is inf"),
        (np.array([1 + 2j]), "got complex128"),
        (np.array([True]), "got bool"),
        (np.array(["a"]), "got <U1"),
        (np.array([None]), "got object"),
        (np.arange(9, dtype=np.int64), "got int64"),
        (np.arange(9, dtype=np.uint64), "got uint64"),
        ([0.5, 0.25], "a recording is a path, an array or a tensor, got list"),
        (None, "got NoneType"),
        (b"a.wav", "cannot be read as audio: Format not recognised"),
    ],
)
def test_bad_arrays(array: Any, message: str) -> None:
    with pytest.raises(AudioError, match=f"^array: .*{message}") as caught:
        read_audio(array)
    assert "\n" not in str(caught.value)


def test_the_first_bad_sample_is_named_wherever_it_is() -> None:
    wave = np.zeros((200_000, 2))
    wave[150_001, 1] = np.nan
    with pytest.raises(AudioError, match=r"^recording 7: sample 150001 is nan"):
        read_audio(wave, 48000, name="recording 7")


@pytest.mark.parametrize("rate", [0, -16000, 999, 10**6, 16000.5, np.nan, np.inf, "16000", None])
def test_bad_rates(rate: Any) -> None:
    with pytest.raises(AudioError, match=r"^array: the sampling rate must be .* got "):
        read_audio(np.zeros(100), rate)


def test_too_short_is_judged_after_resampling() -> None:
    assert len(read_audio(np.zeros(320), 8000, min_samples=640).samples) == 640
    with pytest.raises(
        AudioError,
        match=r"^array: is too short: 320 samples at 16000 Hz \(20 ms\), at least 640 \(40 ms\)",
    ):
        read_audio(np.zeros(960), 48000, min_samples=640)


def damaged(kind: str, folder: Path) -> Path:
    """A file that cannot be used, named after what is wrong with it."""
    path = folder / f"{kind}.wav"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "zero bytes":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("not audio at all " * 100)
    elif kind == "headerless":
        path = path.with_suffix(".raw")
        path.write_bytes(bytes(1000))
    elif kind == "no samples":
        write(path, np.zeros(0))
    elif kind == "nan":
        write(path, np.array([0, 0, 0, np.nan]), subtype="FLOAT")
    elif kind == "silly rate":
        write(path, np.zeros(100))
        content = bytearray(path.read_bytes())
        content[24:28] = struct.pack("<I", 3)
        path.write_bytes(content)
    elif kind in ("cut off", "flipped", "announces too much"):
        path = write(path.with_suffix(".flac"), tone(48000))
        content = bytearray(path.read_bytes())
        if kind == "cut off":
            del content[len(content) // 2 :]
        elif kind == "flipped":
            content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        if kind == "announces too much":
            with_length(path, 2**36 - 1)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("zero bytes", "is an empty file"),
        ("pipe", "is not a regular file"),
        ("text", "cannot be read as audio: Format not recognised"),
        ("headerless", "cannot be read as audio: samplerate must be specified"),
        ("no samples", r"is empty \(0 samples\)"),
        ("nan", "sample 3 is nan"),
        ("silly rate", "sampling rate must be .* got 3"),
        ("cut off", "cut off or damaged, its header says 48000 samples"),
        ("flipped", "cut off or damaged, its header says 48000 samples"),
        (
            "announces too much",
            "cut off or damaged, its header says 68719476735 samples: 48000 could be",
        ),
    ],
)
def test_bad_files(tmp_path: Path, kind: str, message: str) -> None:
    path = damaged(kind, tmp_path)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    if path.is_file() and kind != "headerless":  # bytes have no name to tell the format by
        with pytest.raises(AudioError) as of_bytes:
            read_audio(path.read_bytes(), name=str(path))
        assert str(of_bytes.value) == str(caught.value)


def test_paths_that_no_file_can_have() -> None:
    with pytest.raises(AudioError, match="null byte"):
        read_audio("a\0b")


def test_importing_loads_neither_torch_nor_audio_libraries() -> None:
    code = (
        "import sys, earmark.audio, earmark.frontend, earmark.nn.config, earmark.families\n"
        "print(sorted({'torch', 'soundfile', 'soxr', 'scipy', 'yaml'} & set(sys.modules)))"
    )
    path = os.pathsep.join(filter(None, [str(Path("python").resolve()), *sys.path]))
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == "[]"
