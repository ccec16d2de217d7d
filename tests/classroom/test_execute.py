"""A notebook with a bar, a slider, a figure and an exercise: run, cleaned, clean, and stable."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

from course_lib.classroom import contact_sheet, execute
from course_lib.classroom.execute import with_256_colours
from course_lib.labels import label_space
from tests.processes import HANG
from tests.test_notebooks import hygiene_faults

ROOT = Path(__file__).resolve().parents[2]
CELLS = (
    "from course_lib import classroom\nfrom course_lib.classroom import checks, figures\nimport torch\n"
    "session = classroom.start(seed=0, device='cpu')",
    "losses = []\n"
    "for step in (bar := classroom.progress(range(session.pick(fast=300, full=1)), 'adapt')):\n"
    "    losses.append(3 / (1 + step))\n"
    "    bar.show(segmentation=losses[-1])",
    "figures.loss_curves({'segmentation': losses}, {'segmentation': classroom.landmarks.cross_entropy(19)})",
    "def street(gap):\n"
    "    return figures.show(image=torch.full((3, 8, 16), gap))\n"
    "classroom.slider(street, gap=(0.0, 1.0, 0.25))",
    "def my_iou(matrix):\n    ...\nchecks.iou(my_iou)",
    "object()",
    "import os\nos.environ['COURSE_SOLVED']",
)  # fmt: skip


def write(path: Path, sources) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["course"] = {"minutes": 1}
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    path = write(tmp_path_factory.mktemp("notebooks") / "small.ipynb", CELLS)
    assert execute.main([str(path.parent)]) == 0
    return path


def outputs(path: Path, cell: int) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"][cell]["outputs"]


def text(output: dict) -> str:
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))


def test_the_executed_notebook_passes_the_hygiene_rules(executed):
    assert hygiene_faults(executed) == []
    assert [p.name for p in executed.parent.iterdir() if p.name != ".ipynb_checkpoints"] == ["small.ipynb"]


def test_a_bar_becomes_the_line_it_ended_with(executed):
    (bar,) = outputs(executed, 1)
    assert "adapt: 100%" in text(bar) and "300/300" in text(bar) and "segmentation=0.010" in text(bar)


def test_a_slider_becomes_words_and_its_picture_stays(executed):
    knob, picture = outputs(executed, 3)
    assert text(knob) == "[gap: 0.5, to be moved in a running notebook]"
    assert "image/png" in picture["data"]


def test_a_figure_is_drawn_once_and_a_check_shows_its_words(executed):
    assert ["image/png" in output["data"] for output in outputs(executed, 2)] == [True]
    assert "○ iou: not attempted yet" in text(outputs(executed, 4)[0])


def test_addresses_and_the_machine_are_gone_and_what_the_course_noted_stays(executed):
    assert text(outputs(executed, 5)[0]) == "<object>"
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    assert notebook["metadata"]["course"] == {"minutes": 1}
    assert "version" not in notebook["metadata"]["language_info"]
    assert [cell["id"] for cell in notebook["cells"]] == [f"cell-{i:02d}" for i in range(1, len(CELLS) + 1)]


def test_cleaning_twice_changes_nothing(executed):
    notebook = nbformat.read(executed, as_version=4)
    before = nbformat.writes(notebook)
    assert nbformat.writes(execute.clean(notebook)) == before


def test_streams_are_joined_and_overwritten_text_goes():
    pieces = [{"output_type": "stream", "name": "stdout", "text": part} for part in ("1%\r", "2%\r3%\n", "done\n")]
    (joined,) = execute.merged([nbformat.from_dict(piece) for piece in pieces])
    assert execute.settle(joined, {}) and joined["text"] == "3%\ndone\n"


def test_what_the_reader_has_solved_is_not_in_an_executed_notebook(executed):
    assert text(outputs(executed, len(CELLS) - 1)[0]) == "'none'"


def test_a_failing_notebook_is_left_as_it_was_and_named(tmp_path, capsys):
    path = write(tmp_path / "broken.ipynb", ["1 / 0"])
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert path.read_bytes() == before
    error = capsys.readouterr().err
    assert "broken.ipynb: failed, left as it was" in error and "ZeroDivisionError" in error


def test_a_missing_notebook_is_said(capsys):
    with pytest.raises(SystemExit):
        execute.main(["nowhere.ipynb"])
    assert "no such notebook or folder: nowhere.ipynb" in capsys.readouterr().err


def test_pytest_names_a_dead_kernel_and_skips_what_follows(tmp_path):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks" / "dies.ipynb", ["import os\nos._exit(9)", "1", "2"])
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-p", "no:cacheprovider", "notebooks"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=HANG, encoding="utf-8")
    assert done.returncode == 1
    assert "kernel died in this cell" in done.stdout and "1 failed, 2 skipped" in done.stdout


def test_an_output_check_without_an_output_is_refused(request):
    plugins = request.config.pluginmanager.get_plugins()
    (repairs,) = [plugin for plugin in plugins if getattr(plugin, "__file__", None) == str(ROOT / "conftest.py")]
    cell = nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(1)")
    item = SimpleNamespace(nodeid="01.ipynb::Cell 0", cell=cell, options={"check": True})
    with pytest.raises(pytest.UsageError, match="01.ipynb::Cell 0: asks for an output check, but no output is stored"):
        repairs.pytest_collection_modifyitems([item])
    cell.execution_count = 1
    repairs.pytest_collection_modifyitems([item])


def stored(pixels: np.ndarray) -> nbformat.NotebookNode:
    """An output that shows these pixels."""
    made = io.BytesIO()
    Image.fromarray(pixels).convert("RGBA").save(made, "PNG", compress_level=0, dpi=(100, 100))
    return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(made.getvalue()).decode()})


def test_a_figure_of_few_colours_keeps_its_pixels_in_fewer_bytes():
    rows = np.random.default_rng(0).integers(0, 255, (1, 200, 3), np.uint8).repeat(200, 0)
    output = stored(rows)
    before = len(output.data["image/png"])
    assert execute.settle(output, {})
    with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as packed:
        assert np.array_equal(np.asarray(packed.convert("RGB")), rows)
        assert packed.info["dpi"] == pytest.approx((100, 100), abs=0.1)
    assert len(output.data["image/png"]) < before / 3
    again = dict(output.data)
    execute.settle(output, {})
    assert output.data == again


def test_a_photograph_becomes_a_jpeg_that_looks_the_same():
    generator = np.random.default_rng(0)
    smooth = np.stack(np.meshgrid(np.linspace(0, 255, 300), np.linspace(255, 0, 200)), axis=2)
    colours = np.concatenate([smooth, smooth.mean(2, keepdims=True)], axis=2) + generator.normal(0, 4, (200, 300, 1))
    pixels = colours.clip(0, 255).astype(np.uint8)
    output = stored(pixels)
    assert execute.settle(output, {})
    assert list(output.data) == ["image/jpeg"]
    with Image.open(io.BytesIO(base64.b64decode(output.data["image/jpeg"]))) as packed:
        assert packed.info["dpi"] == (100, 100)
        assert np.abs(np.asarray(packed).astype(float) - pixels).mean() < 3.2  # the mean size of the noise
    again = dict(output.data)
    execute.settle(output, {})
    assert output.data == again


def test_the_contact_sheet_has_every_figure_and_marks_narrow_ones(tmp_path, capsys):
    cells = [nbformat.v4.new_code_cell("1", outputs=[stored(np.zeros((4, width, 3), np.uint8))]) for width in (900, 899)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    contact_sheet.main([str(tmp_path), "--out", str(tmp_path / "page.html")])
    assert "2 figures, 1 of them narrower than 900 pixels" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "mine.html").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="mine.html"):
        contact_sheet.main([str(tmp_path), "--out", str(tmp_path / "mine.html")])
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "mine"
    assert page.count("<img src=") == 2 and re.findall(r'class="narrow">(.*?)<', page) == ["one, cell 2, 899 x 4"]


def test_colours_of_classes_stay_apart_beside_a_photograph():
    """Traffic light and traffic sign became one colour in a figure with photographs, in its legend too."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (240, 400, 3), dtype=np.uint8)  # as many colours as pixels
    palette = np.array(label_space("cityscapes19").palette, dtype=np.uint8)
    for c, colour in enumerate(palette):
        pixels[10 * c : 10 * c + 6, 200:215] = colour
    found = np.asarray(with_256_colours(Image.fromarray(pixels)).convert("RGB"))
    for c, colour in enumerate(palette):
        assert (found[10 * c : 10 * c + 6, 200:215] == colour).all(), c
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(found.astype(int) - pixels).mean() < 30, "the rest is brought to near colours"


def test_a_picture_of_few_colours_is_left_as_it_is():
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:20], pixels[0, 0] = (1, 2, 3), (9, 9, 9)
    assert (np.asarray(with_256_colours(Image.fromarray(pixels)).convert("RGB")) == pixels).all()
