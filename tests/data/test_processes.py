"""Processes that run a script again from its first line."""

import sys

import pytest

from course_lib.data import processes
from course_lib.data.processes import in_processes, refuse_unguarded_script
from course_lib.engine.pool import Pool


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script that this process would have been started with, without a guard."""
    script = tmp_path / "plain.py"
    script.write_text("make()\n", encoding="utf-8")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)  # pytest-xdist's has none
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # that of `python -m pytest`
    return script


def test_a_script_without_guard_is_refused_before_a_process_starts(script, monkeypatch):
    monkeypatch.setattr(processes, "START", "spawn")
    words = 'plain.py starts processes, and each of them runs it again .* `if __name__ == "__main__":`'
    with pytest.raises(RuntimeError, match=words):
        list(in_processes(abs, [1, -2], 2))
    with pytest.raises(RuntimeError, match=words), Pool(2, True):
        pass
    assert list(in_processes(abs, [1, -2], 1)) == [1, 2]
    with Pool(1, True):
        pass


def test_only_processes_that_run_it_again_want_the_guard(script):
    refuse_unguarded_script("fork")
    with pytest.raises(RuntimeError, match="plain.py starts processes"):
        refuse_unguarded_script("forkserver")
    script.write_text('if __name__ == "__main__":\n    make()\n', encoding="utf-8")
    refuse_unguarded_script("spawn")
    script.unlink()
    refuse_unguarded_script("spawn")
