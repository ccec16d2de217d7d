"""The page on few labels shows what its result files hold: means, gains and bars are computed once more here."""

import math
import statistics

import pytest
from scipy.stats import t

from benchmarks import few_labels, few_labels_page
from benchmarks.few_labels import ADAPTED, BOTH, GAME, PLAIN, SUPERVISED_ROW, WITHOUT
from benchmarks.few_labels_page import ALONE, EQUAL_STEPS
from course_lib.files import read_json

CONTROL, SHORT = "supervised, 2.33 x compute, augmented", "supervised, 1 x compute, augmented"
SEEDS = ("0", "1", "2")


def row(method, control, *mious, passes=2100):
    runs = ({"miou": miou, "iou": {"road": miou}, "train_seconds": 180.0} for miou in mious)
    seeds = dict(zip(SEEDS, runs, strict=True))
    return {"method": method, "control": control, "passes": passes, "steps": 300, "seeds": seeds}


def with_labels(more=0.0):
    """A table with labelled pictures; `more`: mIoU that all rows have more."""
    rows = {
        CONTROL: row("supervised", None, 0.40, 0.41, 0.42),
        "supervised, 12.4 x compute, augmented": row("supervised", None, 0, 0, 0),
        PLAIN: row("supervised", CONTROL, 0.3, 0.3, 0.3),
        "ClassMix, labelled pasted": row("classmix", CONTROL, 0.44, 0.44, 0.44),
        "ReCo, weight 1": row("reco", CONTROL, 0.45, 0.44, 0.43),
        "SemiSegContrast, class-wise": row("semiseg", CONTROL, 0.46, 0.45, 0.46),
        SHORT: row("supervised", None, 0.39, 0.40, 0.39, passes=900),
        "RIST": row("rist", SHORT, 0.41, 0.40, 0.41, passes=900),
        "SegSDF": row("segsdf", CONTROL, 0.46, 0.45, 0.46, passes=11_000),
        BOTH: row("source-only", None, 0.5, 0.5, 0.5),
        ADAPTED: row("dacs", BOTH, 0.6, 0.6, 0.6),
    }
    for each in rows.values():
        for run in each["seeds"].values():
            run["miou"] += more
    return {"rows": rows}


def results():
    without = {GAME: row("source-only", None, 0.40, 0.42, 0.44), ADAPTED: row("dacs", GAME, 0.44, 0.43, 0.45)}
    twenty = with_labels()
    twenty["rows"] |= {
        WITHOUT["reco"]: row("reco", CONTROL, 0.44, 0.45, 0.44),
        WITHOUT["semiseg"]: row("semiseg", CONTROL, 0.44, 0.45, 0.43),
        SUPERVISED_ROW: row("semiseg", CONTROL, 0.41, 0.44, 0.43),
    }
    return {0: {"rows": without}, 20: twenty, 80: with_labels(0.05)}


def features():
    """Of each contrast less the row without it: silhouette 0, +0.01, +0.02; RIST: +2, -1, +1 of one seed, -1, +1 of another."""

    def like(own, *silhouettes):
        runs = {}
        for seed, silhouette in zip(SEEDS, silhouettes, strict=True):
            runs[seed] = {"within": 0.7, "between": 0.3, "silhouette": silhouette, "classifier_all": 0.9, **own}
        return runs

    own = {"loss_start": 3.0, "loss_end": 2.0, "own_silhouette": 0.25}
    rows = {name: like(own, 0.20, 0.21, 0.22) for name in ("ReCo, weight 1", "SemiSegContrast, class-wise")}
    rows |= {name: like({}, 0.20, 0.20, 0.20) for name in WITHOUT.values()}
    stages = [{"supervised": 0.38, "labelled-1": 0.40, "unlabelled-2": 0.39, "labelled-3": 0.40},
              {"supervised": 0.38, "unlabelled-1": 0.37, "labelled-2": 0.38}]  # fmt: skip
    return rows | {"RIST": {seed: {"stages": each} for seed, each in zip(SEEDS, stages)}}


def half(points):
    return t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / math.sqrt(len(points))


def cell(points):
    return f"{statistics.fmean(points):+.1f} ± {half(points):.1f}"


def line(text, name):
    (found,) = [each for each in text.splitlines() if each.startswith(f"| {name} |")]
    return [each.strip() for each in found.strip("|").split("|")][1:]


def test_rows_have_one_name_for_all_numbers_of_labels():
    """Of the controls those of ClassMix, RIST and adaptation are shown; the game alone is the one with 0 labels."""
    found = few_labels_page.curves(results())
    methods = ["ClassMix", "ReCo", "SemiSegContrast", EQUAL_STEPS, "RIST", "SegSDF"]
    assert list(found) == [BOTH, ADAPTED, ALONE, PLAIN, *methods, *WITHOUT.values(), SUPERVISED_ROW]
    assert found[ADAPTED] == {0: pytest.approx([44, 43, 45]), 20: pytest.approx([60] * 3), 80: pytest.approx([65] * 3)}
    assert found[BOTH] == {0: pytest.approx([40, 42, 44]), 20: pytest.approx([50] * 3), 80: pytest.approx([55] * 3)}
    assert found[ALONE] == {20: pytest.approx([40, 41, 42]), 80: pytest.approx([45, 46, 47])}
    assert found[EQUAL_STEPS] == {20: pytest.approx([39, 40, 39]), 80: pytest.approx([44, 45, 44])}


def test_scores_are_means_over_seeds_and_a_row_without_a_number_of_labels_has_none_there():
    table = few_labels_page.scores_table(results())
    assert table.splitlines()[0] == "| | 0 labels | 20 labels | 80 labels |"
    assert line(table, ALONE) == ["-", "41.0 ± 1.0", "46.0 ± 1.0"] and line(table, ADAPTED)[0] == "44.0 ± 1.0"


def test_gains_are_over_equal_compute_seed_by_seed_and_unequal_compute_is_marked():
    table = few_labels_page.gains_table(results())
    assert line(table, "ReCo") == ["-"] + [cell([5, 3, 1])] * 2
    assert line(table, "SegSDF")[1] == cell([6, 4, 4]) + " *" and table.count("*") == 2
    assert line(table, ADAPTED) == [cell([4, 1, 1]), "+10.0 ± 0.0", "+10.0 ± 0.0"]
    assert f"| {ALONE} |" not in table and f"| {BOTH} |" not in table, "controls"


def test_methods_are_also_compared_with_labels_alone_at_equal_steps():
    table = few_labels_page.equal_steps_table(results())
    assert [each.split(" | ")[0] for each in table.splitlines()[2:]] == ["| ClassMix", "| ReCo", "| SemiSegContrast"]
    assert line(table, "ClassMix") == ["-"] + [cell([5, 4, 5])] * 2
    two = {name: each for name, each in with_labels()["rows"].items() if name in (CONTROL, "ClassMix, labelled pasted")}
    photographs = {20: {"rows": two | {few_labels.SHORT: with_labels()["rows"][SHORT]}}}
    assert few_labels_page.equal_steps_table(photographs).splitlines()[2:] == [f"| ClassMix | {cell([5, 4, 5])} |"]


def test_methods_that_are_classmix_and_more_are_compared_with_classmix():
    table = few_labels_page.ideas_table(results())
    assert [each.split(" | ")[0] for each in table.splitlines()[2:]] == ["| ReCo", "| SemiSegContrast"]
    assert line(table, "ReCo") == ["-"] + [cell([1, 0, -1])] * 2
    assert line(table, "SemiSegContrast") == ["-"] + [cell([2, 1, 2])] * 2


def test_parts_of_a_method_are_compared_with_the_row_without_them():
    """Contrast, unlabelled pictures, and what is left over labelled pictures alone, seed by seed."""
    table, (reco, semiseg) = few_labels_page.parts_table(results()), WITHOUT.values()
    found = {
        f"ReCo, less {reco}": [1, -1, -1],
        f"SemiSegContrast, less {semiseg}": [2, 0, 3],
        f"{semiseg}, less its supervised loss alone": [3, 1, 0],
        "its supervised loss alone, less labelled pictures alone at equal steps": [2, 4, 4],
        "the same, at equal compute": [1, 3, 1],
    }
    assert len(table.splitlines()) == 2 + len(found)
    for text, points in found.items():
        assert line(table, text)[0] == f"{statistics.fmean(points):+.1f}"
        assert line(table, text)[2] == ", ".join(f"{each:+.1f}" for each in points)


def test_what_a_contrast_does_to_the_features_is_taken_from_the_row_without_it():
    table, twenty = few_labels_page.features_table(results()[20], features()), results()[20]
    spread = half([0, 0.01, 0.02])
    wanted = ["3.00 → 2.00", "+0.25", "+0.000 ± 0.000", "+0.000 ± 0.000", f"+0.010 ± {spread:.3f}", "+0.00 ± 0.00"]
    assert line(table, "ReCo") == [*wanted, f"{few_labels_page.less(twenty, 'ReCo', WITHOUT['reco']).mean:+.1f}"]
    assert line(table, "SemiSegContrast")[:-1] == wanted and line(table, "SemiSegContrast")[-1] == "+1.7"


def test_rounds_of_rist_are_sorted_by_what_they_learn_from():
    found = few_labels_page.changes_of_rounds(features())
    assert found == {"labels": pytest.approx([2, 1, 1]), "pseudo-labels": pytest.approx([-1, -1])}
    table = few_labels_page.rounds_table(features())
    assert line(table, "0") == ["38.0", "labels: 40.0", "pseudo-labels: 39.0", "labels: 40.0"]
    assert line(table, "1") == ["38.0", "pseudo-labels: 37.0", "labels: 38.0"]


@pytest.mark.parametrize(
    "classmix, reco, reached",
    [
        (0.44, (0.44, 0.43, 0.42), ["yes", "yes"]),  # below by 1 ± 1
        (0.434, (0.42, 0.421, 0.42), ["no", "no"]),
        (0.44, (0.42, 0.43, 0.43), ["yes", "no"]),  # below by 1.33, the standard deviation is 0.58: its interval has 0 in it
    ],
)
def test_bars_are_reached_or_not(classmix, reco, reached):
    found = results()
    rows = found[20]["rows"]
    rows |= {name: row(name.partition(",")[0].lower(), CONTROL, *mious) for name, mious in
             (("ClassMix, labelled pasted", [classmix] * 3), ("ReCo, weight 1", reco))}  # fmt: skip
    table = few_labels_page.bars_table(found)
    assert [each.rsplit(" | ", 1)[-1].strip(" |") for each in table.splitlines()[2:]] == reached
    gain = [100 * (classmix - floor) for floor in (0.40, 0.41, 0.42)]
    assert line(table, "ClassMix over labels alone")[0] == f"{statistics.fmean(gain):+.1f}"


def test_what_adaptation_is_worth_in_labels():
    found = results()
    assert few_labels_page.worth(found) == (
        f"44.0 %, the game's labels alone 42.0 %; {ALONE} 41.0 % with 20 labels and 46.0 % with 80 labels; ClassMix 44.0 % "
        "with 20 labels"
    )
    for run in found[0]["rows"][ADAPTED]["seeds"].values():
        run["miou"] = 0.6
    assert few_labels_page.worth(found).endswith("ClassMix no more than 49.0 % with 80 labels")


def test_the_classes_that_lose_most_are_named():
    ours, theirs = row("classmix", CONTROL, 0.5, 0.5, 0.5), row("supervised", None, 0.5, 0.5, 0.5)
    for run in ours["seeds"].values():
        run["iou"] = {"sky": 0.9, "pole": 0.10, "car": 0.5, "bicycle": 0.2}
    for run in theirs["seeds"].values():
        run["iou"] = {"sky": 0.8, "pole": 0.12, "car": 0.5, "bicycle": 0.3}
    content = {"rows": {CONTROL: theirs, "ClassMix, labelled pasted": ours}}
    assert few_labels_page.most_lost(content, "ClassMix", ALONE, 2) == "bicycle -10.0, pole -2.0"


def test_the_page_has_every_table_and_file_and_no_field_is_left():
    some = (CONTROL, SHORT, PLAIN, "ClassMix, labelled pasted")
    rows = {few_labels.SHORT if name == SHORT else name: each for name, each in with_labels()["rows"].items() if name in some}
    photographs = {20: {"rows": rows}}
    text = few_labels_page.page(results(), photographs, features())
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    assert list(sections)[1:] == ["mIoU", "Gains at equal compute", "What each idea adds to ClassMix",
                                  "Why an idea adds nothing here", "The gains that were expected", "Photographs: CamVid",
                                  "Files"]  # fmt: skip
    assert f" ClassMix less the labelled pictures alone, at equal compute: {cell([4, 3, 2])} points; ReCo less" in text
    assert "without adaptation: 50.0 %; adaptation less that, at equal compute:\n  +10.0 ± 0.0 points" in text
    assert "With 20 labels and equal steps ClassMix loses most IoU in these classes, in points: road +4.7." in text
    assert f"- **With 80 labels** ClassMix less the labelled pictures alone: {cell([4, 3, 2])} points at " in text
    assert f" compute, {cell([5, 4, 5])} at\n  equal steps." in text and "has 2.33 times the passes" in text
    assert "{" not in text
    for name in ("ministreet_0", "ministreet_80", "camvid_20"):
        assert f"few_labels_{name}.md" in sections["Files"]
    hours = (2 + 14 + 11 + 4) * 3 * 180 / 3600
    assert f"\n{hours:.0f} hours of training" in sections["Files"]


def test_the_figure_draws_the_scores_of_the_files(monkeypatch):
    picture = few_labels_page.drawn(results())
    assert picture.startswith(b"\x89PNG") and picture == few_labels_page.drawn(results()), "the same files, the same figure"
    given, draw = {}, few_labels_page.figures.labels_curve
    labels_curve = lambda scores, **how: given.update(scores) or draw(scores, **how)  # noqa: E731
    monkeypatch.setattr(few_labels_page.figures, "labels_curve", labels_curve)
    few_labels_page.drawn(results())
    drawn = {name: points for name, points in few_labels_page.curves(results()).items() if name not in few_labels_page.PARTS}
    assert given == drawn
    better = results()
    better[20]["rows"]["SegSDF"]["seeds"]["0"]["miou"] += 0.02
    assert few_labels_page.drawn(better) != picture


# ---- the committed files


def test_the_features_are_of_the_networks_whose_scores_are_kept():
    name = f"{few_labels_page.FEATURES_OF}.json"
    found, kept = (read_json(few_labels_page.RESULTS / folder / name) for folder in ("features", "scores"))
    chosen = [row for row in few_labels.CHOSEN["ministreet"] if few_labels.VARIANTS["ministreet"][row][0] != "segsdf"]
    assert found.keys() == {*chosen, *WITHOUT.values()}
    for row, runs in found.items():
        assert {seed: run["key"] for seed, run in runs.items()} == {seed: run["key"] for seed, run in kept[row].items()}, row
    for seed, run in found["RIST"].items():
        assert [*run["stages"].values()][-1] == kept["RIST"][seed]["scores"]["miou"], "the network of the last round is scored"


def test_what_the_page_says_of_contrast_and_self_training_holds_for_the_committed_files():
    """Each contrast lowers its loss and its projector's output falls into classes, the features hardly change; rounds on labels
    gain and those on pseudo-labels lose."""
    found = read_json(few_labels_page.RESULTS / "features" / f"{few_labels_page.FEATURES_OF}.json")
    for row, without in (("ReCo, weight 0.1", WITHOUT["reco"]), ("SemiSegContrast, class-wise", WITHOUT["semiseg"])):
        for seed, run in found[row].items():
            assert run["loss_end"] < run["loss_start"] and run["own_silhouette"] > 0.05
            assert abs(run["silhouette"] - found[without][seed]["silhouette"]) < 0.01 < run["silhouette"]
    rounds = few_labels_page.changes_of_rounds(found)
    assert statistics.fmean(rounds["labels"]) > 0 and max(rounds["pseudo-labels"]) < 0


def test_what_the_page_says_of_photographs_holds_for_the_committed_files():
    """Plain colours are better on every seed; seed 2 scores higher."""
    for labels in few_labels.COUNTS["camvid"]:
        kept = read_json(few_labels_page.RESULTS / "scores" / f"few_labels_camvid_{labels}.json")
        miou = {row: {seed: run["scores"]["miou"] for seed, run in runs.items()} for row, runs in kept.items()}
        (control,) = {row.control for row in few_labels.rows_of("camvid", labels, False) if row.name == PLAIN}
        assert all(miou[PLAIN][seed] > miou[control][seed] for seed in SEEDS), labels
        assert all(runs["2"] == max(runs.values()) for row, runs in miou.items() if runs.keys() == {*SEEDS}), labels
