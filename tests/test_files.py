"""Files are written whole or not at all."""

import errno
import json
import os
import re
import stat

import pytest

from course_lib import files
from course_lib.files import (
    comment,
    digest,
    made_by,
    open_regular,
    read_json,
    read_text,
    refuse_data,
    refuse_foreign,
    write_result,
    write_whole,
)


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


def test_a_drive_that_cannot_sync_folders_gets_its_file(tmp_path, monkeypatch):
    """Some network and shared drives: the file has its name by then, so nothing is lost."""
    sync = os.fsync

    def fsync(opened: int, code: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(code, os.strerror(code))
        sync(opened)

    for code in (errno.EINVAL, errno.ENOTSUP):
        monkeypatch.setattr(os, "fsync", lambda opened, code=code: fsync(opened, code))
        assert write_whole(tmp_path / "a.txt", str(code)).read_text(encoding="utf-8") == str(code)
    monkeypatch.setattr(os, "fsync", lambda opened: fsync(opened, errno.EIO))
    with pytest.raises(OSError, match=r"A file in .* was written, but the system could not confirm that the disk has it"):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new" and os.listdir(tmp_path) == ["a.txt"]


# ---- results and files of others ------------------------------------------------------------------------------------


MARKED = (json.dumps({"made_by": "uda run", "x": 1}), comment("uda run") + "| a |", b"\x89PNG made by `uda run`")


@pytest.mark.parametrize("content", MARKED, ids=["JSON", "Markdown", "PNG"])
def test_a_result_replaces_a_result_of_its_kind_alone(content, tmp_path):
    path = tmp_path / "result"
    assert write_result(path, content, "uda run") == path == write_result(path, content, "uda run")
    assert made_by(path, "uda run") and not made_by(path, "uda") and not made_by(path, "uda runs")
    with pytest.raises(FileExistsError, match="result exists and is no result of `uda evaluate`, so it is not overwritten"):
        refuse_foreign(path, "uda evaluate")
    refuse_foreign(path, "uda evaluate", replace=True)
    for other in ("mine", b"", b"\0" * 5000 + b"made by `uda run`"):
        write_whole(path, other)
        with pytest.raises(FileExistsError, match="is no result of `uda run`"):
            write_result(path, content, "uda run")
        assert path.read_bytes() == (other.encode() if isinstance(other, str) else other)


def test_a_result_without_a_mark_is_a_mistake_of_ours(tmp_path):
    with pytest.raises(ValueError, match="does not say 'made by `uda run`' in its first 4096 bytes"):
        write_result(tmp_path / "a.json", "{}", "uda run")
    assert not made_by(tmp_path, "uda run") and os.listdir(tmp_path) == []


def test_what_is_read_is_never_a_result_under_any_name(tmp_path):
    read = write_whole(tmp_path / "best.pt", "weights")
    os.link(read, tmp_path / "last.pt")
    (tmp_path / "link.json").symlink_to(read)
    for name in ("best.pt", "last.pt", "link.json"):
        with pytest.raises(FileExistsError, match=f"{name} is read by this command, so it cannot be its output"):
            refuse_foreign(tmp_path / name, "uda evaluate", replace=True, reading=[read])
    (tmp_path / "nowhere.json").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError, match="is not overwritten"):
        refuse_foreign(tmp_path / "nowhere.json", "uda evaluate")


def test_data_and_results_do_not_lie_in_one_another(tmp_path):
    (data := tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    for out in (data, data / "new", tmp_path / "data", tmp_path, tmp_path / "link" / "x"):
        with pytest.raises(ValueError, match="lie in one another. Data that is read is never touched: give a folder beside"):
            refuse_data(out, [data])
    refuse_data(tmp_path / "data" / "labels", [data])


@pytest.mark.parametrize("make, words", [
    (os.mkfifo, "a.json' is no regular file"), (os.mkdir, "a.json' is a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "a.json' is no regular file"),
    (lambda path: path.write_text("{", encoding="utf-8"), "a.json' is no JSON text .*move it away"),
    (lambda path: path.write_text("[" * 100_000, encoding="utf-8"), "a.json' is no JSON text"),
    (lambda path: path.write_bytes(b"\xff"), "a.json' is no UTF-8 text"),
    (lambda path: path.write_text("[1]", encoding="utf-8"), "a.json'.* it holds .1., wanted a dictionary. .*move it away"),
    (lambda path: os.truncate(write_whole(path, ""), 2**40), "a.json' has more than the 67 MB that are read"),
])  # fmt: skip
def test_what_is_no_file_of_json_is_refused_without_waiting_or_filling_memory(make, words, tmp_path):
    make(tmp_path / "a.json")
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "a.json")


def test_json_has_the_types_that_are_asked_for(tmp_path):
    path = write_whole(tmp_path / "a.json", '{"a": [1, 2]}')
    assert read_json(path, dict[str, tuple[int, int]]) == {"a": (1, 2)} and read_text(path).startswith("{")
    with pytest.raises(ValueError, match="a.json'.* 'a' is .1, 2., wanted a text.*move it away"):
        read_json(path, dict[str, str])
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "gone.json")


def test_a_digest_of_a_pipe_is_none_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert digest(tmp_path / "pipe") is None and digest(tmp_path / "gone") is None
    assert digest(write_whole(tmp_path / "a", "x")).startswith("2d711642")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"x"


def test_no_text_is_read_around_the_bounded_reader():
    """Files that others may have written are read by `open_regular`, or are listed here with the reason."""
    known = {
        "files.py": 4,  # the reader itself; a temporary file; a folder; made_by looks at 4096 bytes of what `is_file`
        "engine/memory.py": 1,  # of the kernel
        "engine/lock.py": 2,  # a new lock is written; of the kernel
        "engine/progress.py": 1,  # a log is written, after `rewind` has read it
        "engine/checkpoint.py": 1,  # a copy of the checkpoint that was just written
        "data/reading.py": 2,  # pictures, behind `_head`
        "data/journal.py": 1,  # a new journal is written
        "data/ministreet/making.py": 2,  # likewise; and its own source
        "data/ministreet/crops.py": 1, "experiments/shipped.py": 1,  # files of this package
        "experiments/start.py": 1,  # the content of a checkpoint that has been read
    }  # fmt: skip
    root = os.path.dirname(files.__file__)
    call = re.compile(r"(?<!def )(?<![\w.])open\(|\.open\((?!\w+, formats)|\.read_(?:text|bytes)\(")
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    count = len(call.findall(re.sub(r"Image\.open\(", "", file.read())))
                if count:
                    found[os.path.relpath(path, root).replace(os.sep, "/")] = count
    assert {name: count for name, count in found.items() if count > known.get(name, 0)} == {}, "use files.read_text, read_json"
