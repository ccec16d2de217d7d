"""The page of what contrast adds shows what its result files hold: means, intervals and gains are computed once more here."""

import json
import math
import re
import statistics

import pytest
from scipy.stats import t, ttest_1samp

from benchmarks import contrast_page
from benchmarks.contrast_page import BASE, POOR, RESOLUTIONS, UNMIXED, Table
from benchmarks.mean_teacher import MAIN
from benchmarks.measuring import png
from benchmarks.what_contrast_adds import planned
from course_lib.experiments.paired import differences
from course_lib.files import read_json

SEEDS = ("0", "1", "2", "3", "4")
TERM = ["terms=+pixel_contrast", "terms.pixel_contrast.weight=0.1"]
LONGER = f"{BASE}, 1.14 x compute"


def row(scores, control=None, settings=(), passes=2100):
    seeds = {
        seed: {"miou": score, "iou": {"building": score - 0.1, "pole": 2 * score - 0.3}, "train_seconds": 180.0,
               "accuracy": 0.8, "mean_accuracy": score + 0.1}
        for seed, score in zip(SEEDS, scores, strict=True)
    }  # fmt: skip
    return {
        "overrides": list(settings), "control": control, "passes": passes, "steps": 300, "explanation": "", "published": None,
        "miou_mean": 100 * statistics.fmean(scores), "seeds": seeds,
    }  # fmt: skip


def results():
    """Rows of the names that the page reads; the gain of "+ pixels" differs from seed to seed, and by its control."""
    rows = {
        BASE: row([0.48, 0.47, 0.50, 0.49, 0.46]),
        LONGER: row([0.471, 0.466, 0.49, 0.483, 0.449], passes=2400),
        "+ pixels": row([0.481, 0.472, 0.501, 0.489, 0.461], LONGER, TERM, passes=2400),
        "+ prototypes": row([0.50, 0.495, 0.52, 0.515, 0.479], BASE, TERM),
        "+ regions": row([0.47, 0.465, 0.482, 0.475, 0.449], BASE, TERM),
    }
    for base in (RESOLUTIONS, *POOR, UNMIXED):
        rows[base] = row([0.44, 0.45, 0.43, 0.44, 0.45])
        rows[f"{base}, + pixels"] = row([0.43, 0.445, 0.425, 0.431, 0.442], base, TERM)
    return {"rows": rows}


def features(content):
    """Of each row and seed; the silhouette of a row grows with its mIoU. "+ pixels" has a projector, "+ prototypes" none."""
    found = {
        name: {
            seed: {
                "within": 0.5, "between": 0.1, "silhouette": run["miou"], "cosine_half": 0.9 * run["miou"],
                "classifier_half": 0.95, "classifier_all": 0.8, "loss_start": 3.0, "loss_end": 2.0,
            }
            for seed, run in each["seeds"].items()
        }
        for name, each in content["rows"].items()
    }  # fmt: skip
    for run in found["+ pixels"].values():
        run["own_silhouette"] = 0.25
    return found


def published():
    base = row([0.485, 0.47, 0.50, 0.49, 0.455])
    return {"rows": {"source-only": row([0.44] * 5), MAIN["ministreet"]: base, "ProCA": row([0.48] * 5),
                     "BiDA": row([0.505] * 5)}}  # fmt: skip


def design():
    """Scores of the development seeds: prototypes beside one weight, and that without them."""
    mious = {POOR[0]: (0.40, 0.42), f"{POOR[0]}, + prototypes, classes alike": (0.43, 0.47),
             f"{POOR[0]}, + prototypes, cells alike": (0.41, 0.42)}  # fmt: skip
    return {row: {seed: {"scores": {"miou": miou}} for seed, miou in zip(("100", "101"), each)} for row, each in mious.items()}


def proca():
    return {"rows": {"source-only": row([0.40] * 5), "F+O": row([0.429] * 5), "F+O, mean over pixels": row([0.382] * 5)}}


def long():
    """Of 1,500 steps, with fewer seeds."""
    rows = {"control": row([0.45, 0.46, 0.44, 0, 0]), MAIN["ministreet"]: row([0.46, 0.48, 0.47, 0, 0], "control"),
            "ProCA": row([0.49, 0.50, 0.50, 0, 0], "control")}  # fmt: skip
    for each in rows.values():
        each["seeds"] = {seed: each["seeds"][seed] for seed in "012"}
    return {"rows": rows}


def gained(content, name, control):
    a, b = (content["rows"][each]["seeds"] for each in (name, control))
    return [100 * (a[seed]["miou"] - b[seed]["miou"]) for seed in a]


def half(points):
    return t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / math.sqrt(len(points))


def interval(points):
    return statistics.fmean(points) - half(points), statistics.fmean(points) + half(points)


def cells_of(points):
    """Mean, interval and seeds of a gain, as tables show them."""
    low, high = interval(points)
    return [f"{statistics.fmean(points):+.1f}", f"{low:+.1f} to {high:+.1f}", ", ".join(f"{p:+.1f}" for p in points)]


def line(text, name):
    (found,) = [each for each in text.splitlines() if each.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_row_is_compared_seed_by_seed_with_equal_compute_and_with_equal_steps():
    content = results()
    cells = line(contrast_page.gains_table(content, contrast_page.added(content)), "+ pixels")
    over_control, over_base = (gained(content, "+ pixels", other) for other in (LONGER, BASE))
    assert over_control != over_base
    assert cells[1:4] == cells_of(over_control) and cells[4:6] == cells_of(over_base)[:2]
    assert cells[6:] == ["48.1", f"{LONGER}, 47.2", "2400"]


def test_rows_belong_to_the_base_whose_steps_they_have_whatever_their_control_cost():
    found = contrast_page.grouped(results())
    assert list(found[BASE]) == ["+ pixels", "+ prototypes", "+ regions"] and list(found[UNMIXED]) == [f"{UNMIXED}, + pixels"]
    assert set(found) == {BASE, RESOLUTIONS, *POOR, UNMIXED}


def test_the_smallest_gain_that_can_be_seen_is_half_of_an_interval():
    content = results()
    found = contrast_page.added(content)
    halves = {name: half(gained(content, name, content["rows"][name]["control"])) for name in found}
    least, most = min(halves, key=halves.get), max(halves, key=halves.get)
    assert contrast_page.smallest(found) == f"{halves[least]:.2f} ({least}) to {halves[most]:.1f} points ({most})"


def test_a_term_gains_where_both_of_its_intervals_leave_out_0():
    """"+ pixels" is clearly above the control that trained for longer, and not above the base of as many steps."""
    content = results()
    low, _ = interval(gained(content, "+ pixels", LONGER))
    other, _ = interval(gained(content, "+ pixels", BASE))
    assert low > 0 > other
    sentence = contrast_page.clear(content, contrast_page.grouped(content)[BASE])
    means = [statistics.fmean(gained(content, name, BASE)) for name in ("+ regions", "+ prototypes")]
    assert sentence == (
        "of 3 rows 1 gains (+ prototypes), 1 loses (+ regions); the mean gains lie between "
        f"{means[0]:+.1f} and {means[1]:+.1f} points"
    )


def test_more_where_labels_are_poor_is_a_difference_of_two_gains_of_each_seed():
    content = results()
    row_of_one = f"{POOR[0]}, + pixels"
    compute, steps = ([a - b for a, b in zip(gained(content, row_of_one, POOR[0]), gained(content, "+ pixels", other))]
                      for other in (LONGER, BASE))  # fmt: skip
    assert compute != steps
    assert line(contrast_page.more_table(content), row_of_one)[1:] == cells_of(compute) + cells_of(steps)[:2]


def test_labels_of_the_bases_are_right_by_class_by_pixel_and_by_cell():
    content = results()
    table = contrast_page.labels_table(content, features(content))
    expected = 100 * statistics.fmean(run["miou"] + 0.1 for run in content["rows"][BASE]["seeds"].values())
    assert line(table, BASE)[1:] == ["48.0", f"{expected:.1f}", "80.0", "80.0", "95.0"]


def test_features_are_compared_with_the_base_of_as_many_steps_and_correlated_with_the_gain():
    content = results()
    table = Table(content, features(content))
    assert contrast_page.correlations(table, "silhouette") == "+1.00 (+1.00 to +1.00 where one term is left out)"
    table.features["+ regions"] |= {seed: run | {"silhouette": 0.9} for seed, run in table.features["+ regions"].items()}
    changed = contrast_page.correlations(table, "silhouette")
    assert float(changed.split()[0]) < 0 and changed.endswith(" to +1.00 where one term is left out)"), "without + regions"
    table = Table(content, features(content))
    text = contrast_page.features_table(table)
    assert line(text, "+ pixels")[1:3] == ["3.00 → 2.00", "+0.25"]
    points = gained(content, "+ prototypes", BASE)
    expected = f"{statistics.fmean(points):+.1f}"
    by_cosine = [0.9 * p for p in points]
    assert line(text, "+ prototypes")[1:] == [
        "3.00 → 2.00", "-", "+0.000 ± 0.000", "+0.000 ± 0.000",
        f"{statistics.fmean(points) / 100:+.3f} ± {half(points) / 100:.3f}",
        f"{statistics.fmean(by_cosine):+.1f} ± {half(by_cosine):.1f}", "+0.0 ± 0.0", expected,
    ]  # fmt: skip


def test_the_page_has_every_row_once_in_its_section():
    content = results()
    table = Table(content, features(content))
    fewer = json.loads(json.dumps(content))
    for each in fewer["rows"].values():
        del each["seeds"]["4"]
    text = contrast_page.page(table, Table(fewer, features(fewer)), published(), proca(), design(), long())
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    assert list(sections)[1:] == [
        "What to conclude for your own work", "How to read the tables", "Each term on the base", "At two resolutions",
        "One weight or one threshold for all labels", "Which classes", "What the losses do to the features",
        "ProCA and BiDA with the teacher's labels", "Photographs: MiniStreet to CamVid", "Departures from the plan", "Hours",
    ]  # fmt: skip
    found = re.findall(r"^\| (?!row)(.*?) \|", sections["One weight or one threshold for all labels"], re.MULTILINE)
    rows = [f"{base}, + pixels" for base in POOR]
    assert found == [BASE, *POOR, *rows, *rows], "labels of the bases, gains, and how much more"
    assert line(sections["At two resolutions"], f"{RESOLUTIONS}, + pixels")[1] == "-0.7"
    hours = len(content["rows"]) * (5 + 4) * 180 / 3600
    assert f"\n\n{hours:.0f} hours of training" in sections["Hours"]
    assert "(../benchmarks/results/contrast_ministreet.md)" in sections["Hours"]
    assert "differs from that row by -0.5, +0.0, +0.0, +0.0, +0.5 points" in text, "the base, trained once more"
    assert "The smallest gain that 4 seeds can show: " in sections["Photographs: MiniStreet to CamVid"]
    assert contrast_page.smallest(contrast_page.grouped(content)[BASE]) in " ".join(text.split())
    assert line(sections["Which classes"], "classes")[1:] == ["+4.0", "two seeds", "+3.0, +5.0"]
    assert line(sections["Which classes"], "cells")[1:] == ["+0.5", "two seeds", "+1.0, +0.0"]
    assert "{" not in text


def bracketed(points):
    """As `interval` of the page writes it."""
    low, high = interval(points)
    return f"{statistics.fmean(points):+.1f} ({low:+.1f} to {high:+.1f})"


def test_what_the_conclusions_say_is_computed():
    content = results()
    content["rows"][LONGER] |= {"steps": 341}
    table = Table(content, features(content))
    text = " ".join(contrast_page.page(table, table, published(), proca(), design(), long()).split())
    term = f"{POOR[0]}, + pixels"
    assert f"Beside one weight prototypes gain {bracketed(gained(content, term, POOR[0]))}. " in text
    assert f"contrast have {bracketed(gained(content, BASE, term))} more than that, with 2,100 passes in place of 2,100" in text
    rows = content["rows"]
    building = [100 * (rows[BASE]["seeds"][s]["iou"]["building"] - rows[POOR[0]]["seeds"][s]["iou"]["building"]) for s in SEEDS]
    assert f"They also change *building* by {bracketed(building)} and *pole* by" in text
    longer = f"base by {bracketed(gained(content, LONGER, BASE))}, one weight by +0.0 (+0.0 to +0.0)"
    assert f"The 41 more steps of a control change {longer}" in text
    pole, miou = gained_of(content, "+ pixels", "pole"), gained(content, "+ pixels", BASE)
    assert f"of {bracketed(miou)} at equal steps, {statistics.fmean(pole) / 2:.1f} are due to *pole* alone, which has" in text
    assert f"66.0 % IoU with the base and {bracketed(pole)} more with prototypes" in text
    assert "is 50.2 %, of *+ prototypes*, a row with a term." in text
    assert f"the base gains {bracketed([1, 2, 3])} over source-only" in text
    assert f"label files {bracketed([4, 4, 6])} (" in text
    cells = [gained_of(content, name, c) for name in contrast_page.added(content) for c in ("building", "pole")]
    bold = sum(abs(statistics.fmean(points)) > half(points) for points in cells)
    assert f"Of the {len(cells)} numbers of rows with a term {bold} are bold; about {0.05 * len(cells):.0f} would" in text


def gained_of(content, name, class_name):
    """Points of a class over the base of as many steps."""
    a, b = (content["rows"][each]["seeds"] for each in (name, contrast_page.base_of(content, name)))
    return [100 * (a[seed]["iou"][class_name] - b[seed]["iou"][class_name]) for seed in a]


def test_rows_that_are_left_after_the_correction_are_those_of_small_p_under_both_controls():
    content = results()
    names = list(contrast_page.added(content))
    p = {}
    for name in names:
        controls = content["rows"][name]["control"], contrast_page.base_of(content, name)
        p[name] = max(ttest_1samp(gained(content, name, other), 0).pvalue for other in controls)
    expected = [name for name in names if p[name] < 0.05 / len(names)]
    assert 0 < len(expected) < len(names)
    assert contrast_page.corrected(content) == ", ".join(expected)


def test_published_forms_and_variants_stand_beside_their_bars():
    content = results()
    text = contrast_page.bars_table(content, published(), proca())
    assert line(text, "ProCA's contrast alone, five blocks frozen, mean over pixels")[1] == "-1.8"
    assert line(text, "ProCA's contrast alone, five blocks frozen, mean over classes")[1:] == [
        "+2.9", "+2.9 to +2.9", "+2.9, +2.9, +2.9, +2.9, +2.9", "+3", "no",
    ]  # fmt: skip
    assert line(text, "ProCA, label files")[1] == "+4.0" and line(text, "ProCA, label files")[-2:] == ["+6", "no"]
    assert line(text, "BiDA, label files")[1] == "+6.5" and line(text, "BiDA, label files")[-2:] == ["+6", "yes"]
    assert line(text, f"{UNMIXED}, + pixels, variant")[1:4] == cells_of(
        [100 * (run["miou"] - 0.44) for run in content["rows"][f"{UNMIXED}, + pixels"]["seeds"].values()]
    )
    fewer = json.loads(json.dumps(published()))
    del fewer["rows"]["source-only"]["seeds"]["4"]
    with pytest.raises(ValueError, match="a paired difference needs the same"):
        contrast_page.bars_table(content, fewer, proca())


def test_the_figures_have_a_line_for_each_term():
    content = results()
    terms = [row for rows in contrast_page.grouped(content).values() for row in rows]
    for draw, first in ((contrast_page.gains_figure, []), (contrast_page.classes_figure, [f"{BASE}, over {POOR[0]}"])):
        (axes,) = draw(content).axes
        assert [text.get_text() for text in axes.get_yticklabels()] == first + terms
        assert png(draw(content)) == png(draw(content)), "the same files, the same figure"
    weights = axes.images[0].get_array()[0]
    assert weights[0] == pytest.approx(statistics.fmean(gained(content, BASE, POOR[0]))), "class-wise labels over one weight"


# ---- the page that is in the repository ------------------------------------------------------------------------------

REAL = {pair: contrast_page.read(pair) for pair in ("ministreet", "ministreet_camvid")}
WRITTEN = contrast_page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_its_script_writes():
    others = ("mean_teacher_ministreet", "proca_ablation", "scores/contrast_ministreet_design", "mean_teacher_ministreet_long")
    found = contrast_page.page(*REAL.values(), *(read_json(contrast_page.RESULTS / f"{name}.json") for name in others))
    assert found == WRITTEN, "run: python -m benchmarks.contrast_page"


@pytest.mark.parametrize("pair", REAL)
def test_the_result_files_have_the_rows_and_seeds_of_the_plan(pair):
    _, rows = planned(pair, design=False)
    found = REAL[pair].results["rows"]
    assert list(found) == [row.name for row in rows]
    for row in rows:
        assert (found[row.name]["control"], tuple(found[row.name]["seeds"])) == (row.control, SEEDS), row.name
        assert found[row.name]["overrides"] == list(row.overrides), row.name
        mious = [100 * run["miou"] for run in found[row.name]["seeds"].values()]
        assert found[row.name]["miou_mean"] == pytest.approx(statistics.fmean(mious)), row.name


@pytest.mark.parametrize("pair, terms", [("ministreet", 15), ("ministreet_camvid", 3)])
def test_every_gain_of_the_page_follows_from_the_result_files(pair, terms):
    content = REAL[pair].results
    with_term = [name for name, each in content["rows"].items() if any(text.startswith("terms=") for text in each["overrides"])]
    assert len(with_term) == terms
    section = WRITTEN.partition("\n## Photographs")[2 if pair == "ministreet_camvid" else 0]
    for name in with_term:
        control = content["rows"][name]["control"]
        assert f"| {name} | {' | '.join(cells_of(gained(content, name, control)))} |" in section, name


def test_features_are_those_of_the_scored_networks_and_every_loss_fell():
    for pair, (results, found) in REAL.items():
        kept = read_json(contrast_page.RESULTS / "scores" / f"contrast_{pair}.json")
        for row, seeds in kept.items():
            wanted, keys = ({seed: run["key"] for seed, run in each.items()} for each in (seeds, found[row]))
            assert keys == wanted, row
        for row in contrast_page.added(results):
            start, end = (statistics.fmean(run[key] for run in found[row].values()) for key in ("loss_start", "loss_end"))
            assert end < start, row


def test_the_numbers_in_the_text_of_notebook_07_are_those_of_the_result_files():
    cells = read_json(contrast_page.HERE.parent / "notebooks" / "07_after_the_seminar.ipynb")["cells"]
    text = " ".join(" ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").split())
    made, photographs = (REAL[pair].results for pair in REAL)
    gains, photos = contrast_page.added(made), contrast_page.added(photographs)
    weights = {each.name: each.mean for each in differences(made, BASE, POOR[0])}
    longer = {each.name: each for each in differences(made, f"{BASE}, 1.57 x compute", BASE)}["building"]
    low, high = (photos["+ prototypes"].mean + sign * photos["+ prototypes"].half for sign in (-1, 1))
    steps = {each.name: each.mean for each in differences(photographs, "+ prototypes", BASE)}
    tree = statistics.fmean(run["iou"]["Tree"] for run in photographs["rows"][BASE]["seeds"].values())
    design = read_json(contrast_page.RESULTS / "scores" / "contrast_ministreet_design.json")
    for said in (
        f"Prototypes have −{-gains['+ prototypes'].mean:.1f}, with an interval that just reaches 0, and clearly "
        f"−{-gains[f'{UNMIXED}, + prototypes'].mean:.1f} where no pictures are mixed",
        f"the same prototypes gain {gains[f'{POOR[0]}, + prototypes'].mean:.1f} points, with every seed",
        f"they lose {-weights['building']:.0f} points in *building* and {-weights['pole']:.0f} in *pole*",
        f"loses {-contrast_page.balanced(design, 'cells').mean:.1f} points (two development seeds",
        f"do gain: {photos['+ prototypes'].mean:.1f} points ({low:+.1f} to {high:+.1f})",
        f"Of {steps['mIoU']:.1f} points at equal steps {steps['Tree'] / 11:.1f} come from *Tree* alone, "
        f"which the base finds with an IoU of {100 * tree:.0f} %",
        f"after 171 more steps the base has {-longer.mean:.1f} ± {longer.half:.1f} points less in *building*",
    ):
        assert said in text, said
