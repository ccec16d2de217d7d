"""Text is UTF-8 on every system: no file is read or written in the encoding that the system happens to have."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("course_lib", "data_scripts", "benchmarks", "tests")
FILES = (
    "tests/test_files.py",
    "tests/data/test_layouts.py::test_a_published_list_decides_which_pictures_and_their_order",
    "tests/data/test_dataset.py::test_class_counts_are_counted_once_and_again_when_a_label_changes",  # a file of the cache
    "tests/data/test_prepare.py::test_order_and_repetitions_of_a_list_file_stay",  # journal and manifest
    "tests/engine/test_loop.py::test_a_log_goes_back_to_a_step_and_drops_a_line_that_was_cut_off",
    "tests/test_cli.py::test_from_nothing_to_scores_and_pictures",  # MiniStreet, logs, recipes, scores
)


def without_encoding(source: str) -> Iterator[int]:
    """The lines with a call that reads or writes text and leaves the encoding to the system.

    ruff's PLW1514 sees those on what it knows to be a Path or a file; here the name of the method is enough.
    """
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(word.arg == "encoding" for word in call.keywords):
            continue
        words = {word.arg: word.value for word in call.keywords}
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        built_in = isinstance(call.func, ast.Name)
        mode = next(iter(call.args[built_in : built_in + 1]), words.get("mode"))
        text = {
            "read_text": not call.args,
            "write_text": len(call.args) < 2,
            "open": built_in and mode is None or isinstance(mode, ast.Constant) and mode.value in TEXT_MODES,
            **dict.fromkeys(("run", "Popen", "check_output"), bool({"text", "universal_newlines"} & set(words))),
        }
        if text.get(name, False):
            yield call.lineno


TEXT_MODES = {first + plus + kind for first in "rwax" for plus in ("", "+") for kind in ("", "t")}


@pytest.mark.parametrize("path", sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")),
                         ids=lambda path: path.relative_to(ROOT).as_posix())  # fmt: skip
def test_text_is_opened_as_utf8(path):
    lines = list(without_encoding(path.read_text(encoding="utf-8")))
    assert lines == [], f'lines {lines} leave the encoding to the system: give encoding="utf-8"'


@pytest.mark.parametrize("code, found", [
    ("p.read_text()", True), ("p.read_text(encoding='utf-8')", False), ("p.read_text('utf-8')", False),
    ("p.write_text(x)", True), ("open(p)", True), ("open(p, 'a')", True), ("open(p, 'rb')", False), ("p.open('w')", True),
    ("p.open('rb')", False), ("Image.open(p)", False), ("open(p, mode='w')", True), ("run(a, text=True)", True),
    ("run(a, capture_output=True)", False), ("run(a, encoding='utf-8')", False),
])  # fmt: skip
def test_calls_that_leave_it_to_the_system_are_found(code, found):
    assert bool(list(without_encoding(code))) == found


def test_files_are_written_and_read_without_the_encoding_of_the_system(tmp_path):
    """The tests of files once more, where a call without an encoding is an error: also those that no reader of code sees. Other
    packages may have such calls (torch 2.9 has)."""
    ours = "error::EncodingWarning:course_lib"  # the modules that begin with it
    words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", f"filterwarnings={ours}", *FILES]
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", *words],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
