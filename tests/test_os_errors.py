"""What the operating system refuses is said in words: which file, what came, what was wanted, what to do."""

import errno
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from course_lib import cli
from course_lib.data import cache_that_is_needed, ministreet
from course_lib.engine.pool import Pool
from course_lib.os_errors import in_words
from tests.data.trees import images_and_labels

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "network=small", "network_options={'width': 8}", "steps=1", "start_steps=0", "batch_size=1",
    "source_size=64x32", "target_size=64x32", "test_size=64x32",
)  # fmt: skip
TINY = [*(word for setting in SETTINGS for word in ("--set", setting)), "--quiet", "--device", "cpu"]
WHAT_TO_DO = re.compile(
    r"\b(Move|Choose|choose a|Check|Make|Give|Put|Take an|Fetch|Remove|Wanted one folder|uda train \.\.\. --out DIR` writes)\b"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small data set, a checkpoint, and things that stand where folders and files are wanted."""
    folder = tmp_path_factory.mktemp("refused")
    images_and_labels(folder / "game", count=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COURSE_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["uda", "train", "source-only", *PAIR, "--out", "run", *TINY])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
    for label in (folder / "game" / "labels").iterdir():  # as if another program had found one class everywhere
        (folder / "maps").mkdir(exist_ok=True)
        with Image.open(label) as ids:
            Image.new("L", ids.size).save(folder / "maps" / label.name)
    return folder


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Run a command line in that folder; it must end with status 1 and one message in words, which is returned."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COURSE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # comparisons in this process

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["uda", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        error = capsys.readouterr().err
        (message,) = [line for line in error.splitlines() if line.startswith("uda: ")]
        assert stop.value.code == 1 and "Errno" not in error and "Traceback" not in error, error
        return message

    return run


PAIR = ["--source", "gta5:game", "--target", "gta5:game"]
SCORED = [*PAIR, "--validation", "gta5:game@all"]
WRITING = {  # commands that write into --out
    "train": ["train", "source-only", *PAIR, *TINY],
    "compare": ["compare", *SCORED, "--seeds", "0", *TINY],
    "run": ["run", "proca", *SCORED, *TINY],
    "ablate": ["ablate", "proca", *SCORED, "--seeds", "1", *TINY, "--set", "steps=8"],
    "predict": ["predict", "run/best.pt", "game/images/00000.png", "--device", "cpu"],
    "label": ["label", "run/best.pt", "--target", "gta5:game", "--quiet", "--device", "cpu"],
    "data make": ["data", "make", "ministreet", "--as", "gta5", "--count", "1", "--size", "64x32", "--quiet"],
    "data crops": ["data", "crops", "--count", "1", "--per-class", "1", "--quiet"],
    "data prepare": ["data", "prepare", "gta5:game", "--size", "8x8", "--quiet"],
}
WRITING_A_FILE = {
    "evaluate": ["evaluate", "run/best.pt", "--data", "gta5:game@all", "--quiet", "--device", "cpu"],
    "data check": ["data", "check", "gta5:game", "--quiet"],
    "score": ["score", "maps", "--data", "gta5:game@all", "--quiet"],
    "export": ["export", "run/best.pt"],
}
READING = {  # "PLACE" is what cannot be read
    "evaluate": ["evaluate", "PLACE", "--data", "gta5:game@all", "--device", "cpu"],
    "evaluate --probe": ["evaluate", "run/best.pt", "--probe", "PLACE", "--device", "cpu"],
    "predict": ["predict", "run/best.pt", "PLACE", "--out", "new", "--device", "cpu"],
    "train --source": ["train", "source-only", "--source", "gta5:PLACE", "--target", "gta5:game", "--out", "new", *TINY],
    "train --start": ["train", "source-only", *PAIR, "--start", "PLACE", "--out", "new1", *TINY],
    "train init_from": ["train", "source-only", *PAIR, "--set", "init_from=PLACE", "--out", "new2", *TINY],
    "train --pseudo-labels": ["train", "self-training", *PAIR, "--start", "run/best.pt", "--pseudo-labels", "PLACE",
                              "--out", "new3", *TINY],
    "run --data-root": ["run", "proca", "--data-root", "PLACE", "--out", "new4", *TINY],
    "export": ["export", "PLACE", "--out", "new6"],
    "score": ["score", "PLACE", "--data", "gta5:game@all", "--quiet"],
    "score --data": ["score", "maps", "--data", "gta5:PLACE@all", "--quiet"],
    "difference": ["difference", "PLACE", "a", "b"],
    "data check": ["data", "check", "gta5:PLACE", "--quiet"],
    "data prepare": ["data", "prepare", "folder:PLACE", "--out", "new5", "--size", "8x8", "--quiet"],
}  # fmt: skip


def put(place: str) -> Path:
    """Make what is at the place, again for each test: an earlier one may have written through a link."""
    path = Path("places") / {"a file": "file", "below a file": "file/below", "a broken link": "link/below",
                             "a circle of links": "circle", "a long name": "n" * 300}[place]  # fmt: skip
    Path("places").mkdir(exist_ok=True)
    Path("places/file").write_text("mine", encoding="utf-8")
    for link, goal in (("link", "nowhere"), ("circle", "circle")):
        Path("places", link).unlink(missing_ok=True)
        Path("places", link).symlink_to(goal)
    return path


PLACES = ("a file", "below a file", "a broken link", "a circle of links", "a long name")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", WRITING)
def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(command, place, refused, monkeypatch):
    monkeypatch.setattr("course_lib.experiments.train.train", lambda *_, **__: pytest.fail("trained before it looked"))
    path = put(place)
    message = refused(*WRITING[command], "--out", path)
    assert path.parts[1] in message and Path("places/file").read_text(encoding="utf-8") == "mine"
    assert WHAT_TO_DO.search(message), message


@pytest.mark.parametrize("place", ("below a file", "a long name"))  # a file is replaced
@pytest.mark.parametrize("command", WRITING_A_FILE)
def test_a_file_that_cannot_be_made_is_named_with_what_to_do(command, place, refused):
    path = put(place)
    message = refused(*WRITING_A_FILE[command], "--out", path)
    assert path.parts[1] in message and WHAT_TO_DO.search(message), message


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", READING)
def test_what_cannot_be_read_is_named_with_what_to_do(command, place, refused):
    path = put(place)
    message = refused(*(word.replace("PLACE", str(path)) for word in READING[command]))
    assert path.parts[1] in message and WHAT_TO_DO.search(message), message


@pytest.mark.parametrize("number, words", [
    (errno.EACCES, "has no right to it.*permissions"), (errno.EPERM, "has no right"), (errno.EROFS, "can only be read"),
    (errno.ENOSPC, "The disk is full. Make room"), (errno.EDQUOT, "quota"), (errno.EMFILE, "fewer workers"),
    (errno.EIO, "the disk that it is on"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["train", "predict", "label", "data make", "data prepare"])
def test_what_the_disk_refuses_is_said_in_words(command, number, words, refused, monkeypatch, tmp_path):
    """As root nothing is forbidden here, and no disk is full: the system's answer is put in place of its own."""

    def answer(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", answer)
    message = refused(*WRITING[command], "--out", tmp_path / "new" / "folder")
    assert os.strerror(number) in message and str(tmp_path) in message
    assert re.search(words, message), message


@pytest.mark.parametrize("error, words", [
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/a"), "'/dev/null' is a file, and a folder is wanted"),
    (FileExistsError(errno.EEXIST, "File exists", "/dev"), "something of this name already"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", ".x", None, "/dev"), "Cannot use '/dev': .* a file is wanted there"),
    (OSError(errno.ENOTEMPTY, "Directory not empty", "/dev"), "holds other files"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Cannot use a file: Broken pipe. The program that reads"),
    (OSError(errno.EIO, "Input/output error", 3), "Cannot use a file: Input/output error"),
    (RuntimeError("Symlink loop from '/a'"), "^Cannot use '/a': .* in a circle. Remove the link"),
    (OSError("Make room."), "^Make room.$"), (ValueError("x"), "^x$"),
])  # fmt: skip
def test_in_words(error, words):
    assert re.search(words, in_words(error)), in_words(error)


# ---- the cache


CACHED = {
    "demo": ["demo", "--quick", "--quiet", "--out", "demo"],
    "ablate": ["ablate", "proca", "--quiet", "--out", "ablation"],
    "train": ["train", "source-only", *PAIR, "--out", "started", *TINY, "--set", "start_steps=1"],
}


@pytest.mark.parametrize("place", ("a file", "a broken link", "a long name"))
@pytest.mark.parametrize("command", CACHED)
def test_a_cache_that_cannot_be_written_is_called_the_cache(command, place, refused, monkeypatch):
    monkeypatch.setattr("course_lib.experiments.start.train", lambda *_, **__: pytest.fail("trained before it looked"))
    monkeypatch.setenv("COURSE_CACHE", str(put(place)))
    message = refused(*CACHED[command])
    assert message.startswith(f"uda: The cache folder '{put(place)}' cannot be used. ")
    assert "COURSE_CACHE=FOLDER" in message


@pytest.mark.parametrize("make", [
    lambda: ministreet.cached("gta5", 1, 0, size=(32, 64), progress=False),
    lambda: ministreet.cached_crops(1, per_class=1, test_per_class=1, progress=False),
])  # fmt: skip
def test_a_notebook_hears_of_the_cache_too(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="The cache folder .*file' cannot be used.*is a file.*COURSE_CACHE=FOLDER"):
        make()


def test_other_errors_in_the_cache_stay_what_they_are():
    for error in (ChildProcessError("A worker process was killed"), ValueError("size")):
        with pytest.raises(type(error), match=str(error)), cache_that_is_needed():
            raise error


# ---- scripts and processes


def test_the_script_says_it_too(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    script = str(ROOT / "data_scripts" / "make_ministreet.py")
    monkeypatch.setattr(sys, "argv", [script, "gta5", str(put("below a file")), "--count", "1", "--size", "64x32"])
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "is a file, and a folder is wanted there" in capsys.readouterr().err


@pytest.mark.full
def test_a_killed_process_of_a_comparison_is_said_in_words():
    with Pool(2, quiet=True) as run, pytest.raises(ChildProcessError, match="worker process was killed.*again"):
        run("networks", killed, [(1,), (2,)])


def killed(*_) -> None:
    os._exit(9)
