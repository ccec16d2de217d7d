"""What a committed notebook must be: executed in one run, clean, and built like the others."""

import json
import re
from pathlib import Path

import pytest

from course_lib.classroom import checks
from tests.test_docs import broken_links

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ABSOLUTE = re.compile(r"(?<![\w.~<>:/-])/(?:home|root|Users|tmp|opt|var|private|mnt|work)/|[A-Za-z]:\\\\+Users")
MAGIC = re.compile(r"^\s*(?:%(?!matplotlib inline)|!)", re.M)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and source(cell).strip()]


def hygiene_faults(path: Path) -> list[str]:
    """Everything that a committed notebook must not hold."""
    notebook, faults = read(path), []
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell["outputs"]]
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        faults.append("the execution counts are not 1..n: run all cells once, from top to bottom")
    if "widgets" in notebook["metadata"] or any("widget-view" in kind for o in outputs for kind in o.get("data", {})):
        faults.append("widget state is stored")
    if found := ABSOLUTE.search(json.dumps([notebook["cells"], notebook["metadata"]], ensure_ascii=False)):
        faults.append(f"an absolute path is stored: {found[0]}")
    if any(output.get("name") == "stderr" for output in outputs):
        faults.append("text on stderr is stored")
    if any(output["output_type"] == "error" for output in outputs):
        faults.append("an error is stored")
    if path.stat().st_size >= 1_000_000:
        faults.append(f"{path.stat().st_size / 1e6:.1f} MB; the limit is 1 MB")
    return faults


@each_notebook
def test_is_committed_executed_and_clean(path):
    assert hygiene_faults(path) == [], "make notebooks runs and cleans them"


@each_notebook
def test_cells_are_short_and_plain(path):
    for number, cell in enumerate(code_cells(read(path)), start=1):
        text = source(cell)
        assert len(text.splitlines()) <= 40, f"code cell {number} has more than 40 lines"
        assert not MAGIC.search(text), f"code cell {number}: magics and ! fail silently under the tests"
        for line in text.splitlines():
            if "NBVAL_CHECK_OUTPUT" in line:
                assert line.strip() == "# NBVAL_CHECK_OUTPUT", f"code cell {number}: the mark stands alone on its line"


@each_notebook
def test_opens_with_title_card_and_set_up(path):
    notebook = read(path)
    texts = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert texts[0].startswith("# "), "the first cell is the title"
    opening = "\n".join(texts[:3])
    assert re.search(r"[가-힣]", opening), "a short Korean summary stands at the top"
    for word in ("time", "memory", "paper"):
        assert word in opening.lower(), f"the card at the top names the {word}"
    set_up = source(code_cells(notebook)[0])
    assert ".start(" in set_up, "the first code cell starts the session"
    assert len([line for line in set_up.splitlines() if line.strip()]) <= 8, "the set-up has at most 8 lines"


@each_notebook
def test_every_section_begins_with_a_line_in_korean(path):
    text = "\n\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    heads = re.findall(r"^## (\d+) · .*$", text, re.M)
    lines = re.findall(r"^## (\d+) · .*\n\n> \*\*한국어(?:\*\* \(슬라이드: [^)]+.*?\)\.|\.\*\*) .*[가-힣].*$", text, re.M)
    assert lines == heads == [str(n) for n in range(1, len(heads) + 1)]


@each_notebook
def test_exercises_have_a_proved_and_folded_solution(path):
    cells = code_cells(read(path))
    calls = [re.findall(r"checks\.(\w+)\(", source(cell)) for cell in cells]
    assert any(calls), "there is at least one exercise"
    solutions = [cell for cell in cells if "solution" in cell["metadata"].get("tags", [])]
    for cell in solutions:
        assert cell["metadata"].get("jupyter", {}).get("source_hidden"), "solutions are folded"
        assert ".require()" in source(cell), "a solution proves itself"
    proved = {name for cell in solutions for name in re.findall(r"checks\.(\w+)\(", source(cell))}
    assert proved == {name for names in calls for name in names}, "every exercise has a solution"


@each_notebook
def test_shows_something_often_and_closes(path):
    notebook = read(path)
    cells = code_cells(notebook)
    silent = 0
    for number, cell in enumerate(cells, start=1):
        silent = 0 if cell["outputs"] else silent + 1
        assert silent < 3, f"code cells {number - 2} to {number} show nothing"
    texts = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert "<details>" in texts, "questions have folded answers"
    assert "|---" in texts.replace(" ", "").replace(":", ""), "a table leads from the paper to the code"
    assert ".stamp()" in source(cells[-1]), "the last code cell is the stamp"


def faults_of_links(path: Path, text: str) -> list[str]:
    """Relative links of a Markdown text that lead to no file, and files of the checkout that it names without a link."""
    named = re.findall(r"(?<!\[)`([\w.-]+/[\w./-]*)`", text)
    return broken_links(path, text) + [name for name in named if (ROOT / name).exists()]


@each_notebook
def test_files_are_links_and_links_lead_somewhere(path):
    texts = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    assert [fault for text in texts for fault in faults_of_links(path, text)] == []
    assert path == NOTEBOOKS[-1] or f"]({NOTEBOOKS[NOTEBOOKS.index(path) + 1].name})" in texts[-1], "the last cell leads on"


def test_a_broken_link_and_a_file_without_one_are_found():
    text = "[a](../course_lib/gone.py) [b](../docs/glossary.md#x) [c](https://x.org/y) `course_lib/mixing.py`"
    text += " [`course_lib/masks.py`](../course_lib/masks.py)"
    assert faults_of_links(NOTEBOOKS[0], text) == ["../course_lib/gone.py", "../docs/glossary.md#x", "course_lib/mixing.py"]


def notebook_with(tmp_path: Path, **changes) -> Path:
    """A clean notebook of one cell, with one thing changed."""
    output = {"output_type": "stream", "name": "stdout", "text": ["1\n"]} | changes.pop("output", {})
    cell = {"cell_type": "code", "source": ["print(1)"], "metadata": {}, "outputs": [output], "execution_count": 1}
    notebook = {"cells": [cell | changes.pop("cell", {})], "metadata": changes, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"cell": {"execution_count": 2}}, "execution counts"),
        ({"cell": {"execution_count": None}}, "execution counts"),
        ({"widgets": {"state": {}}}, "widget state"),
        ({"output": {"text": ["/home/" + "somebody/course\n"]}}, "absolute path"),
        ({"output": {"name": "stderr"}}, "stderr"),
        ({"output": {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}}, "an error"),
        ({"output": {"text": ["x" * 1_000_000]}}, "MB"),
    ],
)
def test_the_hygiene_rules_find_each_fault(tmp_path, changes, fault):
    faults = hygiene_faults(notebook_with(tmp_path, **changes))
    assert len(faults) == 1 and fault in faults[0]


def test_a_clean_notebook_has_no_fault(tmp_path):
    assert hygiene_faults(notebook_with(tmp_path)) == []


def test_notebook_06_finds_real_data_and_leaves_out_what_cannot_be_used(tmp_path, monkeypatch, capsys):
    """Its first cells with DATA set, on a root that looks like the real one and has one torn label."""
    from course_lib.data import ministreet

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    root, options = tmp_path / "data", {"size": (32, 64), "workers": 1, "progress": False}
    for layout, folder, split, count in (("gta5", "GTA5", "train", 3), ("cityscapes", "cityscapes", "train", 2),
                                         ("cityscapes", "cityscapes", "val", 1)):  # fmt: skip
        ministreet.make(layout, root / folder, count, 1, split=split, **options)
    torn = sorted((root / "GTA5" / "labels").glob("*.png"))[1]
    torn.write_bytes(torn.read_bytes()[:50])
    cells = [source(cell) for cell in code_cells(read(ROOT / "notebooks" / "06_gta5_to_cityscapes.ipynb"))]
    first = next(k for k, text in enumerate(cells) if "DATA = None" in text)
    session = type("Session", (), {"full": False})()
    names = {"session": session}
    exec("\n".join(line for line in cells[0].splitlines() if line.startswith(("import ", "from "))), names)
    exec(cells[first].replace("DATA = None", f"DATA = {str(root)!r} #"), names)
    exec(cells[first + 1], names)
    said = capsys.readouterr().out
    assert "the real data sets" in said and re.search(r"source  gta5 +train +2 pictures.*; 1 left out", said)
    assert names["pair"].skip_bad


@each_notebook
def test_an_exercise_that_was_not_attempted_shows_the_text_of_the_committed_check(path):
    outputs = [output for cell in code_cells(read(path)) for output in cell["outputs"]]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    texts = {text.split()[1].rstrip(":"): text for text in texts if "not attempted yet" in text}
    assert texts
    for name, text in texts.items():
        assert text == repr(getattr(checks, name)(lambda *_, **__: ...)), f"run the notebook again: {name}"
