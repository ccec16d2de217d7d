"""What every test leaves as it found it, and the command line in this process."""

import sys

import pytest

from course_lib import cli, outside
from course_lib.methods import METHODS
from course_lib.methods.terms import TERMS


@pytest.fixture(autouse=True)
def _code_from_outside_is_forgotten():
    """Methods, terms and networks that a test loads are not known to the next one, nor are their folders."""
    tables = (outside.LOADED, METHODS, TERMS)
    before, path = [dict(table) for table in tables], list(sys.path)
    yield
    sys.path[:] = path
    for table, content in zip(tables, before):
        table.clear()
        table.update(content)


@pytest.fixture
def uda(monkeypatch, capsys):
    """Run a command line in this process; returns exit status, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["uda", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        return stop.value.code or 0, *capsys.readouterr()

    return run
