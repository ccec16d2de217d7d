"""Workers that are not forked: `spawn` (Windows and macOS have no other) and `forkserver` (Linux, from Python 3.14 on).

Both get all they need by pickle. A spawned worker imports torch again, a few seconds each; those of a fork server that has
imported it start at once, so most is tried with it.
"""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib.data import collate, prepare, processes, test_loader, train_loader
from course_lib.data.ministreet import make, make_crops
from course_lib.data.png16 import encode_png16
from course_lib.data.processes import in_processes
from course_lib.experiments.parts import training_set
from course_lib.recipes import METHODS, recipe
from tests.data.trees import images_and_labels
from tests.processes import METHOD  # its import tells the fork server what to import

METHODS_OF_START = [
    pytest.param(method, marks=pytest.mark.skipif(method not in multiprocessing.get_all_start_methods(), reason=f"no {method}"))
    for method in ("spawn", "forkserver")
]
SMALL = ("source_size=12x8", "target_size=12x8", "crop=10x6")


@pytest.fixture
def data(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    root = images_and_labels(tmp_path / "data", count=4)
    (root / "depth").mkdir()
    for picture in (root / "images").iterdir():
        (root / "depth" / picture.name).write_bytes(encode_png16(np.full((6, 8), 500)))
    return f"gta5:{root}"


@pytest.fixture
def start(request, monkeypatch):
    """The platform's way of starting processes is this one, in torch's loaders and in `in_processes`."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    monkeypatch.setattr(processes, "START", request.param)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def same(a, b) -> bool:
    return a.name == b.name and torch.equal(a.image, b.image) and torch.equal(a.label, b.label)


@pytest.mark.parametrize("start", METHODS_OF_START, indirect=True)
def test_loaders_give_the_same_batches(data, start):
    pictures = training_set(recipe("ministreet", "proca").override(*SMALL, "photometric=strong"), data, "source", "imagenet")
    alone = list(islice(train_loader(pictures, 2, seed=1), 3))
    loader = train_loader(pictures, 2, seed=1, workers=1)
    iterator = iter(loader)
    assert all(same(next(iterator), batch) for batch in alone)
    assert iterator._workers[0]._popen.method == start
    iterator._shutdown_workers()


@pytest.mark.parametrize("start", ["forkserver"], indirect=True)
@pytest.mark.skipif(METHOD != "forkserver", reason="needs fork servers")
def test_loaders_of_every_picture_give_them_in_order(data, start):
    pictures = training_set(recipe("ministreet", "source-only").override(*SMALL), data, "source", "imagenet")
    assert [b.name for b in test_loader(pictures, 2, workers=2)] == [b.name for b in test_loader(pictures, 2)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constants", ["ministreet", "gta5_cityscapes", "ministreet_crops"])
def test_the_pictures_of_every_recipe_can_be_sent_to_a_worker(constants, method, data, tmp_path):
    try:
        chosen = recipe(constants, method).override(*SMALL)
    except ValueError:
        pytest.skip("no such recipe")
    labels = str(tmp_path / "data" / "labels")
    for domain in chosen.streams:
        pictures = training_set(chosen, data, domain, "imagenet", pseudo_labels=labels)
        sent, stack = pickle.loads(ForkingPickler.dumps((pictures, collate)))
        assert same(stack([sent[3, 9]]).to("cpu"), collate([pictures[3, 9]]).to("cpu"))


def started(_: int) -> str | None:
    time.sleep(0.01)
    return multiprocessing.get_start_method(allow_none=True)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


ONE_OF_EACH = {"per_class": 1, "test_per_class": 1, "size": 16}
MAKING = {
    "ministreet": lambda data, out, workers: make("gta5", out, 5, 1, size=(16, 32), workers=workers, progress=False),
    "crops": lambda data, out, workers: make_crops(out, 3, 0, **ONE_OF_EACH, workers=workers, progress=False),
    "prepare": lambda data, out, workers: prepare(data, out, (4, 6), workers=workers, progress=False),
}


@pytest.mark.parametrize("start, what", [
    ("spawn", "ministreet"), ("forkserver", "ministreet"), ("forkserver", "crops"), ("forkserver", "prepare"),
], indirect=["start"])  # fmt: skip
def test_files_are_the_same_however_workers_are_started(start, what, data, tmp_path):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start}")
    MAKING[what](data, tmp_path / "several", 2)
    MAKING[what](data, tmp_path / "alone", 1)
    assert files(tmp_path / "several") == files(tmp_path / "alone")


@pytest.mark.skipif(METHOD != "forkserver", reason="needs fork servers")
@pytest.mark.parametrize("start", ["forkserver"], indirect=True)
def test_workers_are_started_as_the_platform_does(start):
    assert set(in_processes(started, range(6), 2)) == {start}


@pytest.mark.skipif(sys.platform == "win32" or METHOD != "forkserver", reason="SIGKILL is Unix's")
@pytest.mark.parametrize("start", ["fork", "forkserver"])  # of spawned workers, as of forked ones, the starter is the parent
def test_workers_end_with_a_starter_that_is_killed(start, tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(KILLED, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DATA": str(Path(processes.__file__).parent)}
    starter = subprocess.Popen([sys.executable, str(script), start, str(tmp_path)], env=environment)
    end = time.monotonic() + 300
    while len(left := [int(p.stem) for p in tmp_path.glob("*.pid")]) < 2 and starter.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    starter.kill()
    starter.wait()
    assert len(left) == 2, "workers were not started, or ended while their starter was there"
    end = time.monotonic() + 300
    while any(map(alive, left)) and time.monotonic() < end:
        time.sleep(0.1)
    outlived = [pid for pid in left if alive(pid)]
    for pid in outlived:
        os.kill(pid, signal.SIGKILL)
    assert not outlived


KILLED = """
import multiprocessing, os, sys, time, types
from pathlib import Path
package = types.ModuleType("course_lib.data")  # `processes` needs no torchvision, which course_lib.data itself imports
package.__path__ = [os.environ["DATA"]]
sys.modules["course_lib.data"] = package
from course_lib.data import processes

def work(item):
    Path(sys.argv[2], f"{os.getpid()}.pid").touch()
    time.sleep(2 * processes.LOOK if item < 2 else 600)  # long enough for a worker that takes its starter for gone

if __name__ == "__main__":
    processes.START = sys.argv[1]
    multiprocessing.set_forkserver_preload(["torch"])  # once for both workers
    for _ in processes.in_processes(work, range(4), 2):
        pass
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
