"""Names that others chose have no effect on a terminal or a page."""

import ast
import os
from pathlib import Path

import pytest

import course_lib
from course_lib import terminal
from course_lib.evaluation.probe import ProbeScores
from course_lib.networks.weight_file import few

EVIL = "\x1b]0;t\x07\n\r\x9b2J\u202e"
FOLDER = Path(course_lib.__file__).parent


@pytest.mark.parametrize("text", [EVIL, "\x7f", "\x00", "\u2028", "\ufeff", "\udcff"])
def test_what_a_terminal_obeys_is_shown_as_its_escape(text):
    assert terminal.shown(text).isprintable() and terminal.shown("grün 道 a") == "grün 道 a"


def test_a_printed_path_is_one_line(capsys):
    terminal.print(Path("a\nb\x1b[2J"), "table\nof\x1b lines")
    assert capsys.readouterr().out == "a\\nb\\x1b[2J table\nof\\x1b lines\n"


def test_every_module_that_prints_takes_the_safe_print():
    for path in FOLDER.rglob("*.py"):
        if path.is_relative_to(FOLDER / "classroom") or path.name == "terminal.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "course_lib.terminal"]
        imported = [alias.name for node in imports for alias in node.names]
        assert "print" not in names or "print" in imported, f"{path}: from course_lib.terminal import print"


def test_names_of_tensors_and_classes_are_escaped():
    assert few([EVIL, "b"]).isprintable()
    scores = ProbeScores(0.5, 0.5, 0.5, {EVIL: 0.5}, 1, 1, {})
    assert all(line.isprintable() for line in scores.table().split("\n")) and len(scores.table().split("\n")) == 5


def test_code_ends_where_it_should_and_text_is_text():
    assert terminal.code("a `` b`") == "``` a `` b` ```" and terminal.code("x\ny") == "`x\\ny`"
    assert terminal.in_markdown("<img src=x> [a](b) & `c`") == r"&lt;img src=x> \[a\](b) &amp; \`c\`"


def test_a_path_that_is_no_utf8_can_be_shown_and_encoded():
    name = os.fsdecode(b"/data/\xff")
    assert terminal.shown(name).encode() == b"/data/\\udcff" and terminal.code(name).encode()
