"""What a committed notebook must be: executed in one run, clean, and built like the others."""

import json
import os
import re
import zipfile
from pathlib import Path

import pytest

from course_lib.classroom import checks
from course_lib.classroom.contact_sheet import WIDE_ENOUGH, figures_of
from tests.test_docs import broken_links

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [path for path in NOTEBOOKS if path.stem != "00_start_here"]  # those with exercises
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
ABSOLUTE = re.compile(r"(?<![\w.~<>:/-])/(?:home|root|Users|tmp|opt|var|private|mnt|work)/|[A-Za-z]:\\\\+Users")
MAGIC = re.compile(r"^\s*(?:%(?!matplotlib inline)|!)", re.M)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
each_page = pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])


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


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_is_committed_executed_and_clean(path):
    assert hygiene_faults(path) == [], "make notebooks runs and cleans them"


@each_notebook
def test_figures_are_large_enough_to_look_into_and_have_a_description(path):
    narrow = [(figure.cell, figure.size) for figure in figures_of(path) if figure.size[0] < WIDE_ENOUGH]
    assert narrow == [], f"narrower than {WIDE_ENOUGH} pixels"
    outputs = [output for cell in code_cells(read(path)) for output in cell["outputs"]]
    shown = [(kind, output["metadata"]) for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    assert all(about[kind]["alt"].startswith("Figure with") for kind, about in shown), "a figure describes itself"


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
    set_up = source(code_cells(notebook)[1])
    assert ".start(" in set_up, "after the cell that installs the course, a code cell starts the session"
    assert len([line for line in set_up.splitlines() if line.strip()]) <= 8, "the set-up has at most 8 lines"


def first_cell(path: Path) -> str:
    (cell,) = [cell for cell in read(path)["cells"] if "install" in cell["metadata"].get("tags", [])]
    assert cell == code_cells(read(path))[0] | {"id": cell["id"]} and cell["metadata"]["jupyter"]["source_hidden"]
    assert not cell["outputs"]
    return source(cell)


def test_the_first_cell_is_the_same_everywhere_and_does_nothing_in_a_checkout(monkeypatch):
    (text,) = {first_cell(path) for path in NOTEBOOKS}
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("installs although course_lib is there"))
    before = os.getcwd()
    exec(text, {})
    assert os.getcwd() == before


@pytest.mark.parametrize("beside", ["a zip file", "a folder", "the checkout around it"])
def test_a_notebook_alone_installs_what_lies_beside_it(beside, tmp_path, monkeypatch):
    """With no course_lib: the zip file of a checkout is unpacked, installed, and its notebooks folder is the working folder."""
    place, course, ran = tmp_path / "notebooks", tmp_path / "course-main", []
    (course / "notebooks").mkdir(parents=True)
    (course / "pyproject.toml").write_text("", encoding="utf-8")
    place.mkdir()
    if beside == "a zip file":
        with zipfile.ZipFile(place / "course.zip", "w") as file:
            for path in course.rglob("*"):
                file.write(path, path.relative_to(tmp_path))
    elif beside == "a folder":
        course.rename(place / "course-main")
    else:
        (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command[-1]))
    monkeypatch.chdir(place)
    exec(first_cell(NOTEBOOKS[1]), {})
    wanted = tmp_path if beside == "the checkout around it" else place / "course-main"
    assert ran == [f"{wanted.resolve()}[notebooks,pretrained]"]  # a bare name would be one of the index
    assert Path.cwd() == wanted / "notebooks"


def test_a_notebook_with_nothing_beside_it_says_what_to_upload(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    with pytest.raises(ModuleNotFoundError, match="needs the course: upload it as a zip file beside this notebook"):
        exec(first_cell(NOTEBOOKS[1]), {})


@each_notebook
def test_every_section_begins_with_a_line_in_korean(path):
    text = "\n\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    heads = re.findall(r"^## (\d+) · .*$", text, re.M)
    lines = re.findall(r"^## (\d+) · .*\n\n> \*\*한국어(?:\*\* \(슬라이드: [^)]+.*?\)\.|\.\*\*) .*[가-힣].*$", text, re.M)
    assert lines == heads == [str(n) for n in range(1, len(heads) + 1)]


def exercises(path: Path) -> dict[str, str]:
    """{check: the reader's function} of a page, in its order."""
    text = "\n".join(source(cell) for cell in code_cells(read(path)))
    found = re.findall(r"^(\w+) = session\.use\(checks\.(\w+), (\w+)\)$", text, re.M)
    assert len(found) == len(re.findall(r"session\.use\(|checks\.\w+\(", text)), "NAME = session.use(checks.NAME, my_NAME)"
    assert all(name == check and reader == f"my_{check}" for name, check, reader in found)
    return {check: reader for _, check, reader in found}


@each_page
def test_exercises_have_a_proved_solution_elsewhere(path):
    """In solutions/, linked from the page; every solution is right; none is on the page itself."""
    solved = ROOT / "notebooks" / "solutions" / path.name
    names: dict = {}
    for cell in code_cells(read(solved)):
        exec(source(cell), names)
    wanted = exercises(path)
    for check, reader in wanted.items():
        getattr(checks, check)(names[reader]).require()
    assert {name for name in names if name.startswith("my_")} == set(wanted.values())
    texts = "\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    assert f"(solutions/{path.name}" in texts and f"(../{path.name})" in source(read(solved)["cells"][0])
    assert not any(re.search(rf"^def {check}\(", source(cell), re.M) for cell in code_cells(read(path)) for check in wanted)
    heads = [source(cell).removeprefix("## ") for cell in read(solved)["cells"][1:] if cell["cell_type"] == "markdown"]
    anchors = re.findall(rf"\(solutions/{path.name}#(\w+)\)", texts)
    assert heads == list(wanted.values()) and set(anchors) <= set(heads)


@each_page
def test_a_page_has_exercises_of_all_levels_and_calls_what_they_give(path):
    wanted = exercises(path)
    assert {getattr(checks, name).level for name in wanted} == {"fill in", "write", "design"}
    texts = "\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    for name in wanted:
        word = getattr(checks, name).level
        assert f"({word}" in texts, f"the text of an exercise says its level: ({word})"
    stamp = "".join(code_cells(read(path))[-1]["outputs"][0]["text"])
    assert stamp.startswith(f"exercises solved: 0 of {len(wanted)}; calls on this page: ")
    calls = dict(re.findall(r"(\w+) ([\d,]+)(?:, |$)", stamp.splitlines()[0].partition("page: ")[2]))
    assert list(calls) == list(wanted) and "0" not in calls.values(), "a cell after the exercise calls each function"


def test_the_first_page_knows_all_pages_and_their_exercises():
    from course_lib.classroom.course import PAGES as KNOWN

    assert [page.stem for page in KNOWN] == [path.stem for path in PAGES]
    assert all(set(page.exercises) == set(exercises(path)) for page, path in zip(KNOWN, PAGES))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    minutes = {stem: int(n) for stem, n in re.findall(r"^\| \[.*\]\(notebooks/(\w+)\.ipynb\) \|.*\| (\d+) \|$", readme, re.M)}
    assert {page.stem: page.minutes for page in KNOWN} | {"00_start_here": 1} == minutes


def test_there_are_enough_exercises_and_each_belongs_to_one_page():
    found = [name for path in PAGES for name in exercises(path)]
    assert sorted(found) == sorted(checks.ALL) and len(found) >= 36


@pytest.mark.full
@each_page
def test_a_page_whose_exercises_are_solved_runs_on_the_readers_functions(path):
    """All of `my_*` are called; the page's own assertions hold with them, too."""
    from nbclient import NotebookClient
    from nbformat import reads

    solved, notebook = read(path.with_name("solutions") / path.name), read(path)
    answers = [source(cell) for cell in code_cells(solved)]
    imports = "\n".join(line for line in answers[0].splitlines() if not line.startswith("from course_lib.classroom"))
    forget = "import sys, course_lib.classroom\nsys.modules['course_lib.classroom.start'].remember = lambda exercise: None\n"
    code_cells(notebook)[0]["source"] = [forget]  # nobody has solved them
    for cell in code_cells(notebook):
        uses = re.findall(r"^(\w+) = session\.use\(checks\.\w+, (\w+)\)$", source(cell), re.M)
        if uses:
            own = [text.rpartition("\n\n\nchecks.")[0] for text in answers[1:]]
            own = [text for text in own if any(f"def {reader}(" in text for _, reader in uses)]
            after = source(cell)[source(cell).index(f"{uses[0][0]} = session.use(") :]  # and what is called in the same cell
            cell["source"] = [imports, "\n\n", "\n\n".join(own), "\n\n", after]
    where = {"metadata": {"path": str(path.parent)}}
    ran = NotebookClient(reads(json.dumps(notebook), 4), timeout=3600, resources=where).execute()
    stamp = "".join(ran.cells[-1].outputs[0]["text"]).splitlines()[0]
    count = len(exercises(path))
    assert stamp.startswith(f"exercises solved: {count} of {count}; calls") and not re.search(r" 0(,|$)", stamp)


@each_page
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
    results = ("runs/", "data/")  # of the reader's own commands: there or not
    return broken_links(path, text) + [name for name in named if (ROOT / name).exists() and not name.startswith(results)]


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
    exec("\n".join(line for line in cells[1].splitlines() if line.startswith(("import ", "from "))), names)
    exec(cells[first].replace("DATA = None", f"DATA = {str(root)!r} #"), names)
    exec(cells[first + 1], names)
    said = capsys.readouterr().out
    assert "the real data sets" in said and re.search(r"source  gta5 +train +2 pictures.*; 1 left out", said)
    assert names["pair"].skip_bad


@each_page
def test_an_exercise_that_was_not_attempted_shows_the_text_of_the_committed_check(path):
    outputs = [output for cell in code_cells(read(path)) for output in cell["outputs"]]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    texts = {text.split()[1].rstrip(":"): text for text in texts if "not attempted yet" in text}
    assert list(texts) == list(exercises(path))
    for name, text in texts.items():
        said = f"{getattr(checks, name)(lambda *_, **__: ...)!r}\nThis page uses the library's {name}."
        assert text == said, f"run the notebook again: {name}"
