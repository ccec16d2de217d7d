"""Processes that run a script again from its first line."""

import subprocess
import sys

import pytest

from course_lib.data.processes import refuse_unguarded_script

CALLS = {
    "in_processes": "from course_lib.data import processes\nprocesses.START = 'spawn'\n"
    "def work():\n    return processes.in_processes(abs, [1, -2], 2)\n",
    "Pool": "from course_lib.recipes.pool import Pool\ndef work():\n    with Pool(2, True):\n        return [1, 2]\n",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_script_without_guard_is_refused_before_a_process_starts(call, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text(CALLS[call] + "print(sorted(work()))\n", encoding="utf-8")
    run = subprocess.run([sys.executable, plain], capture_output=True, text=True, timeout=100)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and run.stderr.count("Traceback") == 1
    assert last.startswith("RuntimeError: ") and "plain.py starts processes" in last and 'if __name__ == "__main__":' in last


def test_forked_processes_run_nothing_again(tmp_path, monkeypatch):
    script = tmp_path / "plain.py"
    script.write_text("", encoding="utf-8")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script))
    refuse_unguarded_script("fork")
    for method in ("spawn", "forkserver"):
        with pytest.raises(RuntimeError, match="plain.py starts processes, and each of them runs it again"):
            refuse_unguarded_script(method)
    script.write_text('if __name__ == "__main__":\n    pass\n', encoding="utf-8")
    refuse_unguarded_script("spawn")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "gone.py"))
    refuse_unguarded_script("spawn")
