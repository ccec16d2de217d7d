"""The course in JupyterLab, in both themes: pages run, a slider redraws its picture, an exercise is judged, all can be read."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.lab import Lab, served

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.browser
START, PAGE = "00_start_here.ipynb", "01_domain_gap.ipynb"
each_theme = pytest.mark.parametrize("theme", ["Light", "Dark"])


@pytest.fixture(scope="module")
def lab(watched, tmp_path_factory):
    with served(tmp_path_factory.mktemp("lab")) as where:
        yield Lab(watched, *where)


@pytest.fixture(scope="module")
def start(lab):
    """The first page, run."""
    lab.open(START)
    lab.run_all(seconds=240)
    return lab


@pytest.fixture(scope="module")
def page(start):
    """Notebook 01, opened by the link on the first page, run."""
    start.page.get_by_role("link", name="01 The domain gap").click()
    start.ready(PAGE)
    start.run_all(seconds=900)
    return start


def bring_to_front(lab: Lab, notebook: str) -> None:
    lab.page.get_by_role("tab", name=notebook).click()
    lab.ready(notebook)


def pixels(picture) -> np.ndarray:
    """A figure on the page, (H, W, 3)."""
    kind, _, content = picture.get_attribute("src").partition(";base64,")
    assert kind == "data:image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def test_the_first_page_runs_and_shows_the_course(start):
    assert start.faults() == []
    pictures = start.outputs().locator("img")
    assert pictures.count() == 3 and all(pixels(picture).std() > 10 for picture in pictures.all())  # none is one colour
    assert start.page.get_by_role("button", name="your photo").is_visible()
    start.cell(0)
    start.watched.picture("start")


def test_notebook_01_runs_without_an_error(page):
    assert page.faults() == []
    cells = [cell for cell in page.cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "exercises solved: 0 of 6" in page.cell(len(page.cells()) - 1).locator(".jp-OutputArea").inner_text()


@each_theme
def test_all_that_notebook_01_shows_can_be_read(page, theme):
    page.theme(theme)
    bring_to_front(page, PAGE)
    outputs = page.outputs().all()
    texts = 0
    for output in outputs:
        output.scroll_into_view_if_needed()
        texts += bool(output.inner_text().strip())
        assert page.watched.unreadable(output) == []
    assert texts > 20
    for text in ("def nearest_colour", "curve[0] > curve[-1]", "figures.confusion("):
        page.watched.picture(f"{theme.lower()}-output", page.cell(page.place(text)))


@each_theme
def test_a_slider_redraws_its_picture(page, theme):
    page.theme(theme)
    bring_to_front(page, PAGE)
    place = page.place("classroom.slider(")
    cell = page.cell(place)
    picture, readout, handle = cell.locator("img"), cell.locator(".widget-readout"), cell.locator(".noUi-handle")
    before, said, source = pixels(picture), float(readout.inner_text()), picture.get_attribute("src")
    handle.scroll_into_view_if_needed()
    box, track = handle.bounding_box(), cell.locator(".noUi-base").bounding_box()
    middle = box["y"] + box["height"] / 2
    to = 0.98 if said < 0.75 else 0.02  # the other end
    page.page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.page.mouse.down()
    page.page.mouse.move(track["x"] + to * track["width"], middle, steps=5)
    page.page.mouse.up()
    other = "([cell, source]) => ![undefined, source].includes(cell.querySelector('img')?.src)"
    page.page.wait_for_function(other, arg=[cell.element_handle(), source])
    after = pixels(picture)
    assert float(readout.inner_text()) == round(to)
    # Each picture is cut to what is drawn: the legend has one row more or less, and a width is rounded up or down.
    tall, wide = (abs(a - b) for a, b in zip(before.shape[:2], after.shape[:2]))
    assert tall < 40 and wide <= 2
    height, width = (min(sizes) for sizes in zip(before.shape[:2], after.shape[:2]))
    changed = abs(before[:height, :width] - after[:height, :width]).max(-1) > 20
    assert changed.mean() > 0.1  # of all pixels
    assert cell.locator("img").count() == 1 and page.faults() == []
    assert page.watched.unreadable(cell.locator(".jp-Cell-outputWrapper")) == []
    page.watched.picture(f"{theme.lower()}-slider")


@each_theme
def test_an_exercise_is_judged(page, theme):
    """First a typical mistake, which gets its hint, then the solution."""
    page.theme(theme)
    bring_to_front(page, PAGE)
    place = page.place("def my_confusion_matrix(")
    solved = json.loads((ROOT / "notebooks" / "solutions" / PAGE).read_text(encoding="utf-8"))
    (answer,) = [text for cell in solved["cells"] if "def my_confusion_matrix(" in (text := "".join(cell["source"]))]
    right = answer.partition("\n\n\nchecks.")[0]
    wrong = right.replace("label[known] * num_classes + prediction[known]", "prediction[known] * num_classes + label[known]")
    use = re.search(r"^confusion_matrix = session\.use.*$", page.cells()[place]["source"], re.M)[0]
    assert wrong != right
    for source, mark, said, use_of in (
        (wrong, "✗ confusion_matrix", "Hint: ", "This page uses the library's confusion_matrix."),
        (right, "✓ confusion_matrix", "cases right.", "This page uses your my_confusion_matrix."),
    ):
        shown = page.type_and_run(place, f"{source}\n\n{use}")
        assert mark in shown and said in shown and use_of in shown
        output = page.cell(place).locator(".jp-Cell-outputWrapper")
        assert page.watched.unreadable(output) == []
        page.watched.picture(f"{theme.lower()}-{'right' if source is right else 'wrong'}", page.cell(place))
    assert page.faults() == []
    assert list(json.loads((page.cache / "exercises.json").read_text(encoding="utf-8"))) == ["confusion_matrix"]


def test_the_first_page_fills_the_square_of_a_solved_exercise(page):
    page.theme("Dark")
    bring_to_front(page, START)
    place = page.place("figures.exercises(")
    before = pixels(page.cell(place).locator("img"))
    page.run_all(seconds=240)
    after = pixels(page.cell(place).locator("img"))
    assert page.faults() == [] and 100 < (before != after).any(-1).sum() < 5000  # one square and one number
    page.watched.picture("dark-exercises")
    page.cell(page.place("course.upload(")).locator("img").scroll_into_view_if_needed()
    page.watched.picture("dark-photograph")
