"""Files are written whole or not at all."""

import os

import pytest

from course_lib.files import write_whole


def test_text_and_bytes_arrive_and_folders_are_made(tmp_path):
    assert write_whole(tmp_path / "new" / "a.txt", "grün\n").read_bytes() == "grün\n".encode()
    assert write_whole(tmp_path / "new" / "a.txt", b"\0\1").read_bytes() == b"\0\1"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_says_what_to_do(where, tmp_path, monkeypatch):
    path = write_whole(tmp_path / "a.txt", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, where, full)
    with pytest.raises(OSError, match=r"Cannot write .*a.txt \(0.0 MB\): No space left on device.*Make room") as caught:
        write_whole(path, "new")
    assert caught.value.errno == 28
    assert path.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"Cannot write .*file.a.txt"):
        write_whole(tmp_path / "file" / "a.txt", "x")
