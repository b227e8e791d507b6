"""Lists of recordings and of trials: what is read, and what an error names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.trials import read_recordings, read_trials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with recordings a.flac, b.flac, deep/c.WAV and a text file."""
    (tmp_path / "deep").mkdir()
    for name in ("b.flac", "a.flac", "deep/c.WAV", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_gives_its_recordings_sorted(folder: Path) -> None:
    expected = [folder / "a.flac", folder / "b.flac", folder / "deep" / "c.WAV"]
    assert read_recordings(folder) == expected


def test_a_list_gives_its_lines_relative_to_its_own_folder(folder: Path) -> None:
    listing = folder / "deep" / "list.txt"
    listing.write_text("c.WAV\n\n  ../a.flac  \r\n", encoding="utf-8")
    assert read_recordings(listing) == [folder / "deep" / "c.WAV", folder / "deep" / "../a.flac"]


def test_a_list_may_have_names_with_spaces_and_a_byte_order_mark(folder: Path) -> None:
    (folder / "two words.flac").write_bytes(b"")
    listing = folder / "list.txt"
    listing.write_text("two words.flac", encoding="utf-8-sig")
    assert read_recordings(listing) == [folder / "two words.flac"]


def test_a_missing_recording_is_named_with_its_line(folder: Path) -> None:
    listing = folder / "list.txt"
    listing.write_text("a.flac\n\nnone.flac\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.txt:3: no such file: .*none\.flac"):
        read_recordings(listing)


def test_a_list_or_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recordings"):
        read_recordings(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.txt: names no recording"):
        read_recordings(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError):
        read_recordings(tmp_path / "none.txt")


def test_a_recording_given_for_a_list_is_not_taken_for_text(tmp_path: Path) -> None:
    (tmp_path / "x.flac").write_bytes(b"fLaC\x00\x00\x00\x22\xff\xfe")
    with pytest.raises(ValueError, match=r"x\.flac: not a UTF-8 text file"):
        read_recordings(tmp_path / "x.flac")


def test_trials_keep_each_recording_once(folder: Path) -> None:
    listing = folder / "trials.txt"
    listing.write_text("1 a.flac b.flac\n0 b.flac deep/c.WAV\n1 a.flac a.flac\n", encoding="utf-8")
    trials = read_trials(listing, folder)
    assert trials.paths == [folder / "a.flac", folder / "b.flac", folder / "deep" / "c.WAV"]
    assert trials.labels.tolist() == [1, 0, 1]
    assert trials.enrolment.tolist() == [0, 1, 0]
    assert trials.test.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 a.flac", r"trials\.txt:2: .*'1 a\.flac'"),
        ("1 a.flac b.flac extra", r"trials\.txt:2: .*extra"),
        ("2 a.flac b.flac", r"trials\.txt:2: label must be 0 or 1, got '2'"),
        ("a.flac b.flac 1", r"trials\.txt:2: label must be 0 or 1, got 'a\.flac'"),
        ("0 a.flac none.flac", r"trials\.txt:2: no such file: .*none\.flac"),
    ],
)
def test_a_wrong_trial_is_named_with_its_line(folder: Path, line: str, message: str) -> None:
    listing = folder / "trials.txt"
    listing.write_text(f"1 a.flac b.flac\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_trials(listing, folder)


def test_an_empty_trial_list_is_an_error(folder: Path) -> None:
    (folder / "trials.txt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no trial"):
        read_trials(folder / "trials.txt", folder)
    with pytest.raises(FileNotFoundError):
        read_trials(folder / "none.txt", folder)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[bool, int, int]]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for number in range(4):
        (root / f"{number}.wav").write_bytes(b"")
    listing = root / "trials.txt"
    listing.write_text(
        "".join(f"{int(same)} {a}.wav {b}.wav\n" for same, a, b in rows), encoding="utf-8"
    )
    trials = read_trials(listing, root)
    back = [
        (bool(label), int(trials.paths[a].stem), int(trials.paths[b].stem))
        for label, a, b in zip(trials.labels, trials.enrolment, trials.test, strict=True)
    ]
    assert back == rows
