"""Checkpoints are written whole or not at all, and refuse what they are not."""

import errno
import multiprocessing
import os
import subprocess
import sys
import tempfile
import zipfile

import pytest
import torch

from course_lib.engine import CheckpointError, RunFolder, load_checkpoint, save_checkpoint
from course_lib.files import temporary_name
from course_lib.networks import load_published


def content(step: int) -> dict:
    return {"segmenter": {"w": torch.full((1000,), float(step))}, "step": step}


def test_round_trip(tmp_path):
    path = save_checkpoint(
        tmp_path / "new" / "a.pt", {"segmenter": {"w": torch.arange(3)}, "step": 7, "recipe": {"x": [1, 2]}}
    )
    read = load_checkpoint(path)
    assert read["step"] == 7 and read["recipe"] == {"x": [1, 2]}
    assert torch.equal(read["segmenter"]["w"], torch.arange(3))
    assert os.listdir(path.parent) == ["a.pt"]


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*gone.pt.*uda train"):
        load_checkpoint(tmp_path / "gone.pt")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match=r"foreign.pt .*no 'segmenter'"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save({"format": 99, "segmenter": {}}, tmp_path / "future.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "future.pt")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_file_that_is_cut_off_is_refused_by_name(part, tmp_path):
    whole = save_checkpoint(tmp_path / "whole.pt", content(1)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut.pt cannot be read .*cut off"):
        load_checkpoint(tmp_path / "cut.pt")


def test_one_wrong_bit_in_a_weight_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", content(3))
    data = bytearray(path.read_bytes())
    where = data.find(torch.full((8,), 3.0).numpy().tobytes())
    assert where > 0
    data[where + 5] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch itself does not see it
    with pytest.raises(CheckpointError, match=r"a.pt cannot be read"):
        load_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    torch.save({"segmenter": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match="trap.pt"):
        load_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


# ---- the folder of a run --------------------------------------------------------------------------------------------


def test_the_last_k_stay_and_last_and_best_are_names_of_theirs(tmp_path):
    run = RunFolder(tmp_path / "run", keep=2)
    for step, best in ((1, False), (2, True), (3, False), (4, False)):
        run.save(step, content(step), best)
    assert [path.name for path in run.checkpoints()] == ["step_0000004.pt", "step_0000003.pt"]
    assert load_checkpoint(run.last)["step"] == 4 and os.path.samefile(run.last, run.path_of(4))
    assert load_checkpoint(run.best)["step"] == 2  # its file lives on under this name
    assert run.newest()["step"] == 4
    with pytest.raises(ValueError, match="keep is 0"):
        RunFolder(tmp_path, keep=0)


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = RunFolder(tmp_path)
    run.save(1, content(1), best=True)
    assert load_checkpoint(run.last)["step"] == load_checkpoint(run.best)["step"] == 1


def test_a_newest_one_that_cannot_be_read_for_the_moment_is_not_taken_for_torn(tmp_path, monkeypatch):
    """Else the one before is taken, and the newest, which is whole, deleted."""
    run = RunFolder(tmp_path)
    for step in (1, 2):
        run.save(step, content(step))
    reader = zipfile.ZipFile.testzip

    def failing(archive):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "testzip", failing)
    with pytest.raises(OSError, match="cannot read .*step_0000002.pt: Input/output error.*the file may be whole") as stop:
        run.newest()
    assert not isinstance(stop.value, CheckpointError)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", reader)
    assert run.newest()["step"] == 2


def test_a_broken_newest_one_is_named_and_the_one_before_is_taken(tmp_path):
    run = RunFolder(tmp_path)
    run.save(1, content(1))
    run.save(2, content(2))
    run.path_of(2).write_bytes(run.path_of(2).read_bytes()[:500])
    with pytest.warns(UserWarning, match=r"step_0000002.pt cannot be read.*Going on from step_0000001.pt \(step 1\)"):
        assert run.newest()["step"] == 1
    run.path_of(1).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be read.*step_0000002.*step_0000001"):
        run.newest()
    assert RunFolder(tmp_path / "empty").newest() is None


def test_clearing_removes_the_run_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path)
    run.save(1, content(1), best=True)
    temporary_name(tmp_path / "step_0000002.pt").write_bytes(b"half")
    mine = {"mine.txt", "step_final.pt", ".step_0000002.pt.tmp", ".notes.tmp"}
    for name in mine:
        (tmp_path / name).write_text("keep me", encoding="utf-8")
    run.go_back(0)
    assert set(os.listdir(tmp_path)) == mine | {"last.pt", "best.pt"}
    run.clear()
    assert set(os.listdir(tmp_path)) == mine


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "step_0000300.pt", "log.jsonl"])
def test_a_file_under_a_runs_name_that_no_run_wrote_is_refused(name, tmp_path):
    (tmp_path / name).write_text("another program's", encoding="utf-8")
    words = rf"{name} is there, and no recipe.json of a run beside it.*neither overwritten nor deleted. Choose another --out"
    with pytest.raises(CheckpointError, match=words):
        RunFolder(tmp_path).refuse_foreign()
    (tmp_path / "recipe.json").write_text('{"flour": 500}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"recipe.json is there and is no recipe of a run.*Choose another --out"):
        RunFolder(tmp_path).refuse_foreign()
    assert (tmp_path / name).read_text(encoding="utf-8") == "another program's"


def test_checkpoints_without_their_recipe_are_a_runs_all_the_same(tmp_path):
    run = RunFolder(tmp_path)
    run.save(1, content(1), best=True)
    run.refuse_foreign()
    run.recipe.write_text('{"name": "ministreet", "method": "source-only", "loop": {}}', encoding="utf-8")
    run.path_of(2).write_bytes(b"torn")
    run.refuse_foreign()


# ---- disks that refuse ----------------------------------------------------------------------------------------------


def save_where(folder, obstacle=lambda: None) -> tuple[int | None, str]:
    """Save step 1, meet the obstacle, save step 2, all in a process of its own; the error that this gives."""
    weights = {"w": torch.zeros(100_000)}

    def work() -> None:
        run = RunFolder(folder)
        run.save(1, {"segmenter": weights, "step": 1}, best=True)
        obstacle()
        try:
            run.save(2, {"segmenter": weights, "step": 2}, best=True)
            answers.put((None, "saved"))
        except OSError as error:
            answers.put((error.errno, str(error)))

    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    process = fork.Process(target=work)
    process.start()
    answer = answers.get()
    process.join()
    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set as on Linux")
@pytest.mark.parametrize("limit", [0, 4096, 200_000])
def test_a_disk_that_takes_no_more_leaves_the_checkpoint_before(limit, tmp_path):
    """The system really refuses the write: at the first byte, in the head, half-way."""
    import resource

    number, said = save_where(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert number == errno.EFBIG, said
    assert "Cannot write" in said and "step_0000002.pt (0.4 MB): File too large" in said and "Make room" in said
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "step_0000001.pt"]
    assert RunFolder(tmp_path).newest()["step"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """On a real file system of 600 kB, where this machine lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk; the test above fails the write in another way")
    try:
        number, said = save_where(disk)
        assert number == errno.ENOSPC and "Cannot write" in said and "No space left on device" in said
        assert sorted(os.listdir(disk)) == ["best.pt", "last.pt", "step_0000001.pt"]
        assert RunFolder(disk).newest()["step"] == 1
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="another way of permissions")
def test_a_folder_that_cannot_be_written_is_named():
    with tempfile.TemporaryDirectory() as folder:  # not pytest's: those are closed to other users

        def close() -> None:
            os.chmod(folder, 0o555)
            if os.getuid() == 0:
                os.setuid(65534)  # root may write anywhere

        number, said = save_where(folder, close)
        os.chmod(folder, 0o755)
        assert number == errno.EACCES and "Cannot write" in said and "Permission denied" in said
        assert RunFolder(folder).newest()["step"] == 1


@pytest.mark.parametrize("entry, words", [
    ({"choice": [1, 2]}, "'choice' is .1, 2., wanted a dictionary with by, step, value"),
    ({"choice": {"by": 3}}, "'choice.by' is 3, wanted a text"), ({"step": "x"}, "'step' is 'x', wanted a whole number"),
    ({"step": -1}, "'step' is -1, wanted 0 or more"), ({"seconds": None}, "'seconds' is None, wanted a number"),
    ({"recipe": 5}, "'recipe' is 5, wanted a dictionary"), ({"segmenter": torch.ones(1)}, "'segmenter' is tensor"),
])  # fmt: skip
def test_values_of_other_types_are_refused_where_the_file_is_read(entry, words, tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", content(1) | entry)
    with pytest.raises(CheckpointError, match=rf"a.pt: {words}.*take another checkpoint"):
        load_checkpoint(path)


def test_a_compressed_part_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "a.pt", content(1))
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in stored.infolist():
            packed.writestr(part.filename, stored.read(part))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    with pytest.raises(CheckpointError, match=r"b.pt cannot be read .*BadZipFile: part .* is compressed"):
        load_checkpoint(tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b.pt cannot be read as weights .*part .* is compressed"):
        load_published(tmp_path / "b.pt")


def test_parts_that_overlap_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """One stored part that many entries name: the file is small, what it unfolds to is not."""
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as parts:
        parts.writestr("archive/data.pkl", b"x" * 10_000)
        parts.filelist += parts.filelist * 50
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    with pytest.raises(CheckpointError, match=r"b.pt cannot be read .*its parts promise 510000 bytes, more than the file has"):
        load_checkpoint(tmp_path / "b.pt")
