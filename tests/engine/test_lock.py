"""One process trains in a folder; what a dead one left is taken over, a living one's is not."""

import json
import multiprocessing
import os
import re
import signal
import sys
import time

import pytest

from course_lib import ranks
from course_lib.engine import FolderInUse, RunLock
from course_lib.engine.lock import LOCK
from tests.processes import HANG

# a forked process has the torch that this one has imported
CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")


def hold(folder, told) -> None:
    """In another process: the locks of the folder and of one in it, until a signal ends the process."""
    for number, handler in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        signal.signal(number, handler)  # whatever the process that started this one has set
    with RunLock(folder), RunLock(folder / "inner"):
        told.send("locked")
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    """Another process, which has the lock of the folder and of one in it."""
    (tmp_path / "inner").mkdir()
    hears, told = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=hold, args=(tmp_path, told))
    process.start()
    told.close()  # a process that ends before it has the locks ends the wait
    assert hears.recv() == "locked"
    yield process
    process.kill()
    process.join(HANG)


def test_a_living_process_is_named_with_its_host_and_what_to_do(holder, tmp_path):
    words = rf"is being trained by process {holder.pid} on '.+'. Wait for it, stop it.*repeat the command with --take-over"
    with pytest.raises(FolderInUse, match=words), RunLock(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["process"] == holder.pid


@UNIX
def test_the_lock_of_a_process_that_was_killed_is_taken_over_with_a_note(holder, tmp_path, capsys):
    holder.kill()  # its parent has not waited for it: it is a zombie
    with RunLock(tmp_path):
        pass
    note = capsys.readouterr().err
    assert f"was left by process {holder.pid} on " in note and "has ended: it is taken over" in note
    assert not (tmp_path / LOCK).exists()


@UNIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_asked_to_end_removes_its_locks(holder, tmp_path, number):
    os.kill(holder.pid, number)
    holder.join(HANG)
    assert holder.exitcode in (-number, 1)
    assert list(tmp_path.rglob(LOCK)) == []


@UNIX
def test_a_process_id_that_was_given_again_is_another_process(tmp_path, capsys):
    with RunLock(tmp_path) as lock:
        pass
    if not lock.own["started"]:
        pytest.skip("this system does not tell when a process began")
    (tmp_path / LOCK).write_text(json.dumps(lock.own | {"started": "1"}), encoding="utf-8")
    with RunLock(tmp_path):
        pass
    assert "has ended" in capsys.readouterr().err


def elsewhere(folder) -> None:
    with RunLock(folder) as lock:
        content = lock.own | {"host": "another", "process": 7}
    (folder / LOCK).write_text(json.dumps(content), encoding="utf-8")


def test_the_lock_of_another_host_wants_the_option(tmp_path, capsys):
    (tmp_path / "stage").mkdir()
    for folder in (tmp_path, tmp_path / "stage"):
        elsewhere(folder)
    with pytest.raises(FolderInUse, match="by process 7 on 'another'.*--take-over"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path, take_over=True):
        assert (tmp_path / "stage" / LOCK).exists(), "another run's, perhaps"
    assert "was left by process 7 on 'another': it is taken over" in capsys.readouterr().err
    with RunLock(tmp_path, take_over=True, below=True):
        assert not (tmp_path / "stage" / LOCK).exists()


def test_the_one_that_was_taken_over_stops_and_leaves_the_lock(tmp_path):
    with RunLock(tmp_path) as lock:
        lock.check()
        elsewhere_content = json.dumps(lock.own | {"process": lock.own["process"] + 1})
        (tmp_path / LOCK).write_text(elsewhere_content, encoding="utf-8")
        with pytest.raises(FolderInUse, match=r"was taken over by process \d+ on .* writes no more"):
            lock.check()
    assert (tmp_path / LOCK).read_text(encoding="utf-8") == elsewhere_content


@pytest.mark.parametrize("content", ["notes", '{"host": "a"}'])
def test_a_file_that_is_no_lock_stays(content, tmp_path):
    (tmp_path / LOCK).write_text(content, encoding="utf-8")
    for take_over in (False, True):
        with pytest.raises(FolderInUse, match=f"{re.escape(LOCK)} is there and is no lock of a run"):
            RunLock(tmp_path, take_over).__enter__()
    (tmp_path / "inner").mkdir()
    with RunLock(tmp_path / "inner", take_over=True, below=True):
        pass
    assert (tmp_path / LOCK).read_text(encoding="utf-8") == content


def test_of_several_processes_the_first_has_the_lock_and_all_hear_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "is_main", lambda: False)
    with RunLock(tmp_path) as lock:
        assert not (tmp_path / LOCK).exists()
        lock.check()
    monkeypatch.setattr(ranks, "agree", lambda problem: "is being trained by process 7")
    with pytest.raises(FolderInUse, match="process 7"):
        RunLock(tmp_path).__enter__()


def test_an_error_inside_removes_the_lock(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunLock(tmp_path):
        assert (tmp_path / LOCK).exists()
        raise KeyboardInterrupt
    assert not (tmp_path / LOCK).exists()


@UNIX
def test_a_forked_process_does_not_remove_its_starters_lock(tmp_path):
    with RunLock(tmp_path) as lock:
        if (child := os.fork()) == 0:
            lock._release()
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / LOCK).exists()
        began = time.monotonic()
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
            RunLock(tmp_path).__enter__()
        assert time.monotonic() - began < HANG
