"""The command line under torchrun: two processes are one, a dead one ends the job, and the job goes on with any number."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from course_lib.data import ministreet
from course_lib.engine import RunLock, load_checkpoint
from tests.processes import HANG, uda

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found as on Linux")

SETTINGS = (
    "network=small", "network_options={'width': 16, 'aux': True}", "steps=8", "start_steps=2", "batch_size=2", "log_every=1",
    "save_every=2", "discriminator_input=image", "source_size=64x32", "target_size=64x32", "test_size=64x32", "levels=multi",
    "select=information", "select_pictures=3",
    # the published rate: Adam turns the rounding of a gradient near 0 into a whole step, and ten times this rate into 3e-5
    "discriminator_lr=1e-4",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("pair")
    options = {"size": (32, 64), "workers": 1, "progress": False}
    game = ministreet.make("gta5", root / "game", 5, 1, **options)
    camera = ministreet.make("cityscapes", root / "camera", 5, 2, **options)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", "adaptsegnet", "--source", f"gta5:{game}", "--target", f"cityscapes:{camera}", "--device", "cpu",
            "--deterministic", "--quiet", *settings]  # fmt: skip


class Job:
    """The command line in two processes that torchrun starts."""

    def __init__(self, words: list[str], out: Path, *more: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
                   "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "course_lib", *words,
                   "--out", str(out), *more]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COURSE_CACHE": str(out.parent / "cache2")}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
        self.process = subprocess.Popen(command, env=environment, **streams)

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=HANG)
        return self.process.returncode, said

    def ranks(self) -> list[int]:
        """The processes that torchrun started, process 0 first."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return sorted(map(int, children))


def run_alone(words: list[str], out: Path, *more: str) -> str:
    """The command line in one process, which ends well; what it prints."""
    (status,), said = uda([*words, "--out", str(out), *more], out.parent / "alone.txt", out.parent / "cache1")
    assert status == 0, said
    return said


def log_of(out: Path) -> list[dict]:
    path = out / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}}")]


def wait_for(job: "Job", out: Path, step: int) -> None:
    while not (log_of(out) and log_of(out)[-1]["step"] >= step):
        assert job.process.poll() is None, job.end()[1]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run_alone(words, out)
    return out


def assert_close(out: Path, alone: Path, tolerance: float = 1e-5) -> None:
    """Every loss at every step, and every weight and buffer that training has left."""
    here, there = log_of(out), log_of(alone)
    assert [r["step"] for r in here] == [r["step"] for r in there] == list(range(1, 9))
    for a, b in zip(here, there):
        assert a["losses"] == pytest.approx(b["losses"], abs=tolerance) and len(a["losses"]) == 8, a["step"]
    a, b = load_checkpoint(out / "last.pt"), load_checkpoint(alone / "last.pt")
    for part in ("segmenter", "method"):
        for name, value in a[part].items():
            assert torch.allclose(value.float(), b[part][name].float(), rtol=0, atol=1e-4), name
    assert a["choice"]["step"] == b["choice"]["step"] and a["choice"]["value"] == pytest.approx(b["choice"]["value"], abs=1e-5)


@pytest.mark.parametrize("starter", ["fork server", pytest.param("torchrun", marks=pytest.mark.full)])
def test_two_processes_are_one_and_only_the_first_prints(starter, words, alone, tmp_path):
    if starter == "torchrun":
        status, said = Job(words, tmp_path / "run").end()
        assert status == 0, said
    else:
        statuses, said = uda([*words, "--out", str(tmp_path / "run")], tmp_path / "said.txt", tmp_path / "cache2", count=2)
        assert statuses == [0, 0], said
    assert said.count("Trained adaptsegnet") == 1
    assert_close(tmp_path / "run", alone)
    assert len(load_checkpoint(tmp_path / "run" / "last.pt")["random"]) == 2  # the generators of both


@pytest.mark.full
def test_a_process_that_dies_ends_the_job_and_one_goes_on(words, alone, tmp_path):
    job = Job(words, tmp_path / "run")
    wait_for(job, tmp_path / "run", 3)
    os.kill(job.ranks()[1], signal.SIGKILL)
    status, said = job.end()
    assert status != 0
    assert "Signal 9" in said or "SIGKILL" in said, said  # torchrun's word for what happened to it
    run_alone(words, tmp_path / "run", "--resume")
    assert_close(tmp_path / "run", alone)


def test_a_job_that_is_stopped_saves_says_so_and_goes_on(words, alone, tmp_path):
    job = Job(words, tmp_path / "run")
    wait_for(job, tmp_path / "run", 3)
    job.process.terminate()  # torchrun hands it on
    status, said = job.end()
    assert status != 0 and said.count("Stopped by SIGTERM after step") == 1, said
    assert not (tmp_path / "run" / ".run.lock").exists()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == log_of(tmp_path / "run")[-1]["step"] < 8
    run_alone(words, tmp_path / "run", "--resume")  # on another number of processes
    assert_close(tmp_path / "run", alone)


def test_a_job_on_a_folder_in_which_another_process_trains_is_refused(words, tmp_path):
    (tmp_path / "run").mkdir()
    words = [*words, "--out", str(tmp_path / "run"), "--resume"]
    with RunLock(tmp_path / "run"):
        statuses, said = uda(words, tmp_path / "said.txt", tmp_path / "cache", count=2)
        assert (tmp_path / "run" / ".run.lock").exists()
    assert statuses == [1, 1] and f"is being trained by process {os.getpid()} on " in said and not log_of(tmp_path / "run")


@pytest.mark.full
def test_an_error_of_the_job_is_shown_and_nothing_hangs(words, tmp_path):
    status, said = Job(words, tmp_path / "run", "--set", "batch_size=3").end()
    assert status != 0 and "batch_size=3 does not divide among 2 processes" in said and "uda (process" in said


@pytest.mark.full
def test_two_processes_score_like_one(words, alone, tmp_path):
    source = words[words.index("--source") + 1]  # labelled, 5 pictures: one more for the first process
    score = ["evaluate", str(alone / "best.pt"), "--data", source, "--split", "train", "--device", "cpu", "--quiet"]
    assert run_alone(score, tmp_path / "1.json").count("mIoU-19") == 1
    status, said = Job(score, tmp_path / "2.json").end()
    assert status == 0 and said.count("mIoU-19") == 1, said
    one, two = (json.loads((tmp_path / f"{n}.json").read_text(encoding="utf-8")) for n in (1, 2))
    assert one["images"] == two["images"] == 5 and one["iou"] == two["iou"] and one["miou"] == two["miou"]
