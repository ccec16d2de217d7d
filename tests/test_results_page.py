"""docs/results.md and its figure show what the result files hold, all of it, and nothing else."""

import json
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image
from scipy.stats import t

from benchmarks import results_page
from benchmarks.ledger import results
from benchmarks.simclr_crops import table as crops_table
from course_lib.experiments.table import table as as_table

ROOT = Path(__file__).resolve().parents[1]
FILES = results()
RESULT = {result.file: result for result in results_page.RESULTS}
WRITTEN = results_page.PAGE.read_text(encoding="utf-8")
each_file = pytest.mark.parametrize("name", sorted(FILES))
HERE = results_page.here(FILES)


def test_the_page_is_what_its_script_writes():
    assert results_page.page(FILES) == WRITTEN, "run: python -m benchmarks.results_page"


@each_file
def test_every_result_file_has_its_place_and_its_table(name):
    stored = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8")
    write = {"simclr_crops": crops_table}.get(name, as_table)
    assert write(FILES[name]) == stored, f"{name}: .json and .md differ"
    if name not in HERE:
        (path,) = [path for first, (_, path) in results_page.OWN_PAGES.items() if name.startswith(first)]
        text = (results_page.PAGE.parent / path).read_text(encoding="utf-8")
        assert f"](../benchmarks/results/{name}.md)" in text, f"docs/{path} does not link it: run the script of that page"
        return
    (section,) = [part for part in WRITTEN.split("\n## ") if part.startswith(RESULT[name].title + "\n")]
    for table in re.findall(r"(?:^\|.*\n)+", stored, re.MULTILINE):
        assert table in section, f"docs/results.md shows another table than {name}.md"
    assert any(gain.file == name for gain in results_page.gains(FILES)), "and a line in the figure"


def test_the_list_of_benchmarks_names_files_that_exist():
    listed = re.findall(r"`(results/[^`]+?)`", (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"))
    assert listed and all((ROOT / "benchmarks" / name).is_file() for name in listed)


def test_a_result_file_without_a_place_is_an_error():
    with pytest.raises(ValueError, match=r"differ in \['new'\]: one Result for each file"):
        results_page.page(FILES | {"new": FILES["camvid_dusk"]})
    with pytest.raises(ValueError, match=r"differ in \['camvid_dusk'\]"):
        results_page.page({name: content for name, content in FILES.items() if name != "camvid_dusk"})


def test_result_files_with_a_page_of_their_own_are_linked_and_have_no_section():
    files = FILES | {"contrast_camvid_dusk": FILES["camvid_dusk"], "few_labels_camvid_20": FILES["camvid_dusk"]}
    text = results_page.page(files)
    assert (
        "On pages of their own: [What contrast adds to a mean teacher](what_contrast_adds.md), [Label 20 pictures, or adapt?]"
        "(few_labels.md).\n"
    ) in text
    assert text.count("\n## ") == WRITTEN.count("\n## ")
    assert results_page.other_pages(["camvid_dusk"]) == ""


# ---- gains and intervals ----------------------------------------------------------------------------------------------


def test_a_gain_is_the_mean_of_differences_seed_by_seed_and_its_interval_that_of_students_t():
    (found,) = [g for g in results_page.gains(FILES) if g.file == "ministreet_3seeds" and g.line.row == "adaptsegnet"]
    rows = FILES["ministreet_3seeds"]["rows"]
    differences = [
        100 * (rows["adaptsegnet"]["seeds"][seed]["miou"] - rows["source-only"]["seeds"][seed]["miou"]) for seed in "012"
    ]
    low, high = t.interval(0.95, df=2, loc=np.mean(differences), scale=np.std(differences, ddof=1) / math.sqrt(3))
    assert list(found.points.values()) == pytest.approx(differences)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-9)
    assert f"| {found.mean:+.1f} | {low:+.1f} to {high:+.1f} |" in WRITTEN


def test_two_seeds_have_no_interval():
    found = [gain for gain in results_page.gains(FILES) if len(gain.points) == 2]
    assert found and all(gain.half is None for gain in found)
    assert WRITTEN.count("| two seeds |") == len(found)


def test_seeds_are_paired():
    rows = {"a": {"seeds": {"0": {"miou": 0.5}, "1": {"miou": 0.7}}}, "b": {"seeds": {"1": {"miou": 0.4}, "0": {"miou": 0.3}}}}
    assert results_page.paired({"rows": rows}, "a", "b") == pytest.approx({"0": 20, "1": 30})
    rows["b"]["seeds"] = {"0": {"miou": 0.3}}
    with pytest.raises(ValueError, match="a gain needs the same"):
        results_page.paired({"rows": rows}, "a", "b")


def test_a_gain_is_over_the_rows_own_control_where_the_table_names_none():
    rows = {name: {"seeds": {"0": {"miou": miou}}, "control": control}
            for name, miou, control in (("a", 0.5, None), ("b", 0.4, "c"), ("c", 0.3, None))}  # fmt: skip
    asked = (("b", None), ("b", "a"), ("c", None))
    found = [results_page.gain_points({"rows": rows}, row, control)["0"] for row, control in asked]
    assert found == pytest.approx([10, -10, 0])


def steps_of(content: dict, row: str) -> tuple[int, int, str]:
    """Steps of the common source-only start and of a row, and the augmentation of the row's source pictures."""
    own = dict(text.split("=", 1) for text in content["rows"][row]["overrides"])
    constants = content["constants"]
    if constants.keys() == content["rows"].keys():  # new files have them row by row
        constants = constants[row]
    steps = int(own.get("start_steps", constants["start_steps"])), content["rows"][row]["steps"]
    return *steps, own.get("photometric", constants["photometric"])


@pytest.mark.parametrize("group", [name for name in results_page.GROUPS if name != "crops"])
def test_a_group_has_one_control_and_says_how_it_was_trained(group):
    files = [FILES[result.file] for result in results_page.RESULTS if result.group == group]
    controls = [results_page.scores(content, "source-only") for content in files]
    assert all(control == pytest.approx(controls[0], abs=1e-9) for control in controls)
    start, steps, augmentation = steps_of(files[0], "source-only")
    words = {"none": results_page.PLAIN, "strong": results_page.STRONG}[augmentation]
    lines = [gain for gain in results_page.gains(FILES) if gain.group == group]
    if results_page.GROUPS[group].equal_compute:  # methods of one table may have other numbers of steps
        found = {row["steps"] for row in files[0]["rows"].values() if not row["method"].endswith("-only")}
        assert results_page.GROUPS[group].trained == f"{words}, {start} + {' or '.join(map(str, sorted(found)))} steps"
    else:
        assert results_page.GROUPS[group].trained == f"{words}, {start} + {steps} steps"
    for gain in lines:
        rows = FILES[gain.file]["rows"]
        row = rows[gain.line.row]
        if results_page.GROUPS[group].equal_compute:  # to within a step of the control, 3 passes
            assert abs(rows[row["control"]]["passes"] - row["passes"]) <= 3
            assert steps_of(FILES[gain.file], gain.line.row)[::2] == (start, augmentation)
            continue
        if gain.line == results_page.PHOTOMETRIC:
            assert steps_of(FILES[gain.file], gain.line.row) == (start, 2 * steps, "strong")
            continue
        assert row["steps"] == steps
        if row["method"] not in ("proca", "self-training", "bida"):  # their recipes have the start and the augmentation
            assert steps_of(FILES[gain.file], gain.line.row) == (start, steps, augmentation)


def test_the_first_page_says_the_truth_about_the_control_of_equal_compute():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "It gains more than AdaptSegNet on all three tasks where both were measured." in readme
    means = {(gain.file, gain.line): gain.mean for gain in results_page.gains(FILES)}
    files = [file for file, line in means if line == results_page.PHOTOMETRIC]
    assert len(files) == 3
    assert all(means[file, results_page.PHOTOMETRIC] > means[file, results_page.ADAPTSEGNET] for file in files)


# ---- texts and figure -------------------------------------------------------------------------------------------------


def test_no_field_of_a_text_is_left_and_a_wrong_one_is_an_error():
    assert not re.search(r"[{}]", WRITTEN)
    numbers, text = {"x": results_page.Numbers(FILES["proca_ablation"], "source-only")}, "by {x.gain[F+O, Ada-ST]}"
    assert text.format(**numbers) == "by +4.9"
    with pytest.raises(KeyError, match="F and O"):
        text.replace("F+O, Ada-ST", "F and O").format(**numbers)


def test_the_numbers_of_a_text_follow_the_file():
    changed = json.loads(json.dumps(FILES["camvid_dusk"]))
    for run in changed["rows"]["adaptsegnet"]["seeds"].values():
        run["miou"] += 0.1
    page = results_page.page(FILES | {"camvid_dusk": changed})
    assert "AdaptSegNet gains +3.1 points." in WRITTEN and "AdaptSegNet gains +13.1 points." in page
    assert results_page.fingerprint(FILES | {"camvid_dusk": changed}) != results_page.fingerprint(FILES)


def test_the_figure_was_drawn_from_these_result_files():
    with Image.open(results_page.FIGURE) as picture:
        assert picture.text["Data"] == results_page.fingerprint(FILES), "run: python -m benchmarks.results_page"
        assert 900 <= picture.width <= 2000


def test_the_figure_shows_every_line_with_its_seeds_mean_and_interval():
    figure, found = results_page.draw(FILES), results_page.gains(FILES)
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if line.get_transform() == axes.transData]
    words = [text.get_text() for text in axes.texts]
    intervals = iter(line for line in drawn if line.get_linestyle() == "-")
    marks = [line for line in drawn if line.get_linestyle() == "None"]
    assert len(marks) == 2 * len(found)
    for gain, mean, seeds in zip(found, marks[::2], marks[1::2], strict=True):
        colour, marker = results_page.FAMILIES[gain.line.family]
        assert list(mean.get_xdata()) == [statistics.fmean(gain.points.values())] and mean.get_marker() == marker
        assert to_hex(mean.get_color()) == colour.lower()
        assert list(seeds.get_xdata()) == list(gain.points.values())
        assert set(seeds.get_ydata()) == set(mean.get_ydata())
        if gain.half is not None:
            interval = next(intervals)
            assert list(interval.get_xdata()) == pytest.approx([gain.mean - gain.half, gain.mean + gain.half])
            assert set(interval.get_ydata()) == set(mean.get_ydata())
    assert next(intervals, None) is None, "two seeds have no interval"
    assert words.count("AdaptSegNet") == sum(gain.line.label == "AdaptSegNet" for gain in found) == 8
    assert sum("oracle" in text for text in words) == 10
    assert [text.get_text() for text in figure.legends[0].get_texts()][: len(results_page.FAMILIES)] == [*results_page.FAMILIES]


def test_nothing_in_the_figure_is_cut_off_or_overlaps():
    figure = results_page.draw(FILES)
    canvas, whole = FigureCanvasAgg(figure), figure.bbox
    canvas.draw()  # labels and legend get their places
    renderer = canvas.get_renderer()
    (axes,) = figure.axes
    boxes = [text.get_window_extent(renderer) for text in [*axes.texts, axes.xaxis.label]]
    boxes.append(figure.legends[0].get_window_extent(renderer))
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.width and box.y1 <= whole.height for box in boxes)
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]
    marks = [line for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata()) > 0]
    low, high = axes.get_xlim()
    assert all(low <= min(line.get_xdata()) and max(line.get_xdata()) <= high for line in marks)


def test_what_the_long_table_says_of_pole_is_in_the_file_that_it_links():
    """Two fifths of the buildings, 5 % and 9 %; half and one in seven of the surest half; five times the area."""
    text = (ROOT / "benchmarks" / "results" / "mean_teacher_ministreet_long_confused.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    found = {(row, name): cells for row, name, *cells in lines[1:]}
    as_pole = {row: int(re.search(r"pole (\d+)", cells[0])[1]) for (row, name), cells in found.items() if name == "building"}
    teacher = {results_page.MAIN, results_page.HALF}
    assert all(38 <= as_pole.pop(row) <= 44 for row in teacher)
    assert as_pole == {"source-only": 5, "source-only, 2 x compute": 5, "ProCA": 9}
    for (row, name), (_, area, right) in found.items():
        if name == "pole" and row in teacher:
            assert 4.9 <= float(area) <= 5.4 and 12 <= int(right) <= 16
        elif name == "pole" and row.startswith("source-only"):
            assert 1 < float(area) <= 1.3 and 48 <= int(right) <= 54
