"""What the trainer reads, and what it does to a recording before the network sees it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from earmark.errors import AudioError  # noqa: E402
from earmark.frontend import SpeechBrainFbank  # noqa: E402
from earmark.training import Augmentation, Corpus, Recordings, find_utterances  # noqa: E402
from earmark.training.augment import Noises, crop, mask, reverberate  # noqa: E402
from earmark.training.batches import Examples, batches  # noqa: E402
from earmark.training.rooms import room_responses  # noqa: E402

from .paths import SHARED_DATA, needs_data  # noqa: E402
from .voices import RATE_HZ, voice, write, write_corpus  # noqa: E402

PLAIN = Augmentation(crop_seconds=0.3, speeds=(1.0,), noise=0, room=0, mask_mels=(), mask_frames=())


def speakers_of(source: Path) -> dict[str, str]:
    return {utterance.name: utterance.speaker for utterance in find_utterances(source)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus(find_utterances(folder))


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("ada/1.flac", "ada"),
        ("corpus/ada/1.wav", "corpus/ada"),
        ("id10270/5r0dWxy17C8/00001.wav", "id10270"),
        ("wav/id10270/5r0dWxy17C8/00001.wav", "id10270"),
        ("id10270/00001.flac", "id10270"),
        ("id1027/00001.flac", "id1027"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_layouts(tmp_path: Path, name: str, speaker: str, listed: bool) -> None:
    write(tmp_path / "data" / name, voice(0, 0, 0.2))
    source = tmp_path / "data"
    if listed:
        source = source / "list.txt"
        source.write_text(f"{name}\n\n")
    assert speakers_of(source) == {name: speaker}


def test_lists_with_speakers_and_spaces(tmp_path: Path) -> None:
    for name in ("a b/1 2.wav", "x.wav"):
        write(tmp_path / name, voice(0, 0, 0.2))
    lines = tmp_path / "list.txt"
    lines.write_text("a b/1 2.wav\nada x.wav\nbob\ta b/1 2.wav\n")
    found = [(utterance.name, utterance.speaker) for utterance in find_utterances(lines)]
    assert found == [("a b/1 2.wav", "a b"), ("x.wav", "ada"), ("a b/1 2.wav", "bob")]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".wav", {}),
        (".flac", {}),
        (".ogg", {"format": "OGG", "subtype": "VORBIS"}),
        (".ogg", {"format": "OGG", "subtype": "OPUS"}),
        (".opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_formats(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    wave = voice(0, 0)
    write(tmp_path / "s" / f"u{suffix}", wave, **options)
    (utterance,) = find_utterances(tmp_path)
    samples = Recordings([utterance.path]).read(0)
    assert samples.dtype == np.int16
    assert abs(len(samples) - len(wave)) <= RATE_HZ // 100
    spectra = [np.abs(np.fft.rfft(x, RATE_HZ))[:4000] for x in (wave, samples / 32768)]
    assert np.corrcoef(spectra)[0, 1] > 0.95


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    exact = np.arange(-32768, 32768, 9, dtype=np.int16)
    assert np.array_equal(Recordings([write(tmp_path / "a.wav", exact)]).read(0), exact)
    loud = write(tmp_path / "b.wav", np.tile([2.0, -2.0], 2000), subtype="FLOAT")
    assert set(Recordings([loud]).read(0)) == {32767, -32768}


def test_bad_files_are_named_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"RIFF" + bytes(100))
    write(tmp_path / "short.wav", np.zeros(1599))
    write(tmp_path / "nan.wav", np.full(4000, np.nan), subtype="FLOAT")
    (tmp_path / "empty.flac").touch()
    good = [f"{folder}/s{speaker}/0.flac" for speaker in (0, 1)]
    bad = ["x junk.wav", "x short.wav", "x nan.wav", "x empty.flac", "x absent.wav", "nobody.wav"]
    write(tmp_path / "nobody.wav", voice(0, 0))
    lines = tmp_path / "list.txt"
    lines.write_text("\n".join([good[0], *bad, good[1]]))
    with pytest.warns(UserWarning, match="left out") as caught:
        corpus = Corpus(find_utterances(lines))
    messages = [str(warning.message) for warning in caught]
    for reason in (
        r"list.txt:6: left out, no such file: .*absent.wav",
        r"list.txt:7: left out, lies in no speaker's folder",
        r"junk.wav: cannot be read",
        r"short.wav: is too short: 1599 samples .* at least 1600",
        r"nan.wav: sample 0 is nan",
        r"empty.flac: is an empty file",
    ):
        assert sum(bool(re.search(reason, text)) for text in messages) == 1, reason
    assert all("\n" not in text for text in messages)
    assert (len(corpus), len(corpus.speakers)) == (2, 2)


def test_nothing_left(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.wav", voice(0, 0))
    with pytest.raises(ValueError, match="at least 2 speakers, got 1: a"):
        Corpus(find_utterances(tmp_path))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no recordings"):
        find_utterances(tmp_path / "nothing")
    (tmp_path / "b.wav").touch()
    with (
        pytest.warns(UserWarning, match=r"b\.wav: is an empty file"),
        pytest.raises(ValueError, match="none of 1 recordings"),
    ):
        Recordings([tmp_path / "b.wav"])


def test_what_does_not_fit_is_read_when_asked_for(corpus: Corpus, folder: Path) -> None:
    paths = corpus.recordings.paths
    one = Recordings(paths, memory_bytes=0)
    assert (one.in_memory, corpus.recordings.in_memory) == (1, len(paths))
    for index in range(len(paths)):
        assert np.array_equal(one.read(index), corpus.recordings.read(index))


def test_a_file_that_goes_bad_is_replaced_by_the_next(tmp_path: Path) -> None:
    write_corpus(tmp_path, speakers=3, utterances=1)
    corpus = Corpus(find_utterances(tmp_path), memory_bytes=0)
    (tmp_path / "s1" / "0.flac").write_bytes(b"")
    examples = Examples(corpus, SpeechBrainFbank(20), PLAIN, seed=0)
    with pytest.warns(UserWarning, match=r"left out: .*s1/0.flac: is an empty file"):
        features, label = examples.make(0, 1)
    assert label == 2
    assert features.shape == (31, 20)
    with pytest.raises(AudioError):
        corpus.recordings.read(1)


def test_a_digest_tells_corpora_apart(corpus: Corpus, folder: Path) -> None:
    utterances = find_utterances(folder)
    again, fewer = Corpus(utterances).summary(), Corpus(utterances[:-1]).summary()
    assert again == corpus.summary()
    assert fewer["digest"] != again["digest"]
    assert (fewer["speakers"], fewer["utterances"]) == (4, 11)


@given(
    samples=st.integers(1, 3000),
    length=st.integers(1, 2000),
    speed=st.sampled_from([1.0, 0.9, 1.1, 0.5, 2.0]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_crops_have_their_length(samples: int, length: int, speed: float, seed: int) -> None:
    wave = crop(np.full(samples, 16384, np.int16), length, speed, np.random.default_rng(seed))
    assert (wave.dtype, wave.shape) == (np.float32, (length,))
    assert np.isfinite(wave).all()
    if speed == 1:
        assert (wave == 0.5).all()


def test_speed_moves_the_pitch() -> None:
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.int16)
    for speed in (0.9, 1.0, 1.1):
        wave = crop(tone, RATE_HZ // 2, speed, np.random.default_rng(0))
        peak_hz = 2 * int(np.argmax(np.abs(np.fft.rfft(wave))))
        assert peak_hz == pytest.approx(1000 * speed, abs=4)


@given(snr_db=st.floats(-10, 30), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_noise_has_its_level(corpus: Corpus, snr_db: float, seed: int) -> None:
    wave = voice(9, 9).astype(np.float32)
    noises = Noises(corpus.recordings, (snr_db, snr_db))
    added = noises.add(wave, np.random.default_rng(seed)) - wave
    found = 10 * np.log10(np.mean(wave**2) / np.mean(added**2))
    assert found == pytest.approx(snr_db, abs=0.1)


def test_silence_takes_no_noise(corpus: Corpus, tmp_path: Path) -> None:
    silence = np.zeros(4000, np.float32)
    rng = np.random.default_rng(0)
    assert not Noises(corpus.recordings, (0, 15)).add(silence, rng).any()
    silent = Recordings([write(tmp_path / "zero.wav", np.zeros(4000))])
    wave = voice(0, 0).astype(np.float32)
    assert np.array_equal(Noises(silent, (0, 15)).add(wave, rng), wave)


def test_reverberation_is_a_convolution() -> None:
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    wave, response = (rng.normal(size=n).astype(np.float32) for n in (3000, 500))
    expected = np.convolve(wave.astype(np.float64), response)[:3000]
    found = reverberate(wave, response)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_rooms(tmp_path: Path) -> None:
    pytest.importorskip("pyroomacoustics")
    drawn = [room_responses(3, seed, tmp_path / str(k)) for k, seed in enumerate((0, 0, 1))]
    for response in drawn[0]:
        assert response.dtype == np.float32
        assert 100 < len(response) <= RATE_HZ // 2
        assert np.sum(response**2) == pytest.approx(1, abs=1e-4)
        # The direct sound, then a tail that decays.
        assert np.argmax(np.abs(response)) == 0
        half = len(response) // 2
        assert np.sum(response[half:] ** 2) < 0.1
    assert all(np.array_equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    cached = room_responses(3, 5, tmp_path / "0")
    assert all(np.array_equal(a, b) for a, b in zip(drawn[0], cached, strict=True))


@given(
    frames=st.integers(1, 40),
    mels=st.lists(st.integers(0, 30), max_size=3),
    times=st.lists(st.integers(0, 60), max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_masks(frames: int, mels: list[int], times: list[int], seed: int) -> None:
    features = np.ones((frames, 20), np.float32)
    mask(features, mels, times, np.random.default_rng(seed))
    masked_mels = int((features == 0).all(axis=0).sum())
    masked_frames = int((features == 0).all(axis=1).sum())
    # Whole rows and columns, no more of them than the widths allow.
    rows, columns = (features == 0).all(axis=1), (features == 0).all(axis=0)
    assert np.array_equal(features == 0, rows[:, None] | columns[None, :])
    if masked_frames < frames:
        assert masked_mels <= sum(mels)
    if masked_mels < 20:
        assert masked_frames <= sum(times)


def test_examples_have_the_class_of_speaker_and_speed(corpus: Corpus) -> None:
    how = Augmentation(crop_seconds=0.3, speeds=(1.0, 0.9), rooms=0)
    examples = Examples(corpus, SpeechBrainFbank(20), how, seed=0)
    assert (len(examples), examples.classes) == (24, 8)
    labels = Counter(examples.make(0, index)[1] for index in range(24))
    assert labels == Counter(dict.fromkeys(range(8), 3))
    assert examples.make(0, 12)[1] == 4
    of_each = examples.of_each_class(2)
    assert Counter(examples.make_clean(int(i))[1] for i in of_each) == Counter(
        dict.fromkeys(range(8), 2)
    )


def test_examples_follow_from_seed_epoch_and_index(corpus: Corpus) -> None:
    def make(seed: int, epoch: int, index: int) -> Any:
        rooms = [np.array([1, 0.5], np.float32)]
        noises = Noises(corpus.recordings, (0, 15))
        how = Augmentation(crop_seconds=0.3)
        return Examples(corpus, SpeechBrainFbank(20), how, seed, noises, rooms).make(epoch, index)[
            0
        ]

    pytest.importorskip("scipy")
    reference = make(0, 0, 0)
    assert np.array_equal(make(0, 0, 0), reference)
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not np.array_equal(make(*other), reference)


def test_batches_do_not_depend_on_threads_or_where_they_begin(corpus: Corpus) -> None:
    how = Augmentation(crop_seconds=0.3, room=0)
    noises = Noises(corpus.recordings, (0, 15))
    examples = Examples(corpus, SpeechBrainFbank(20), how, 3, noises)

    def take(first: int, threads: int) -> list[tuple[Any, Any]]:
        return list(batches(examples, 8, first, 11, threads))

    reference = take(0, 1)
    assert len(reference) == 11
    assert reference[0][0].shape == (8, 31, 20)
    for first, threads in ((0, 3), (5, 2), (10, 1)):
        for (features, classes), (wanted, labels) in zip(
            take(first, threads), reference[first:], strict=True
        ):
            assert torch.equal(features, wanted)
            assert torch.equal(classes, labels)


def test_an_epoch_has_each_example_once(corpus: Corpus) -> None:
    examples = Examples(corpus, SpeechBrainFbank(20), Augmentation(), seed=0)
    first, second = examples.order(0), examples.order(1)
    assert sorted(first) == sorted(second) == list(range(36))
    assert not np.array_equal(first, second)


def test_batches_end_early_without_a_trace(corpus: Corpus) -> None:
    examples = Examples(corpus, SpeechBrainFbank(20), PLAIN, seed=0)
    data = batches(examples, 4, 0, 1000, 2)
    next(data)
    data.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_seconds", 0.0),
        ("crop_seconds", float("nan")),
        ("speeds", ()),
        ("speeds", (1.0, 1.0)),
        ("speeds", (1.0, 9.0)),
        ("noise", 1.1),
        ("room", -0.1),
        ("rooms", -1),
        ("snr_db", (10.0, 5.0)),
        ("mask_mels", (-1,)),
    ],
)
def test_bad_augmentation(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .* out of range"):
        Augmentation(**{field: value})


@needs_data
def test_the_shared_corpus() -> None:
    utterances = find_utterances(SHARED_DATA / "speakers" / "train.txt")
    assert len(utterances) == 891
    assert len({utterance.speaker for utterance in utterances}) == 331
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus = Corpus(utterances[:300:10])
    features, _ = Examples(corpus, SpeechBrainFbank(), Augmentation(), seed=0).make(0, 0)
    assert features.shape == (201, 80)
