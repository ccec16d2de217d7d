"""The paired difference of two rows: numbers beside SciPy's, classes that are missing, what is refused."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from course_lib.experiments.paired import differences, read_results, t_quantile, table


def scores(iou, miou):
    return {"classes": list(iou), "iou": iou, "miou": miou, "miou_common": miou, "subsets": {}, "accuracy": 0.5, "images": 2}


def results(rows):
    return {"rows": {name: {"seeds": seeds} for name, seeds in rows.items()}}


A = {"0": scores({"road": 0.9, "bus": None}, 0.9), "1": scores({"road": 0.8, "bus": 0.2}, 0.5),
     "2": scores({"road": 0.85, "bus": 0.1}, 0.475)}  # fmt: skip
B = {"0": scores({"road": 0.7, "bus": 0.1}, 0.4), "1": scores({"road": 0.75, "bus": 0.3}, 0.525),
     "2": scores({"road": 0.85, "bus": None}, 0.85)}  # fmt: skip


@pytest.mark.parametrize("freedom", [*range(1, 31), 99, 500])
def test_the_quantile_is_students(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, df=freedom), rel=1e-9)


def test_mean_and_interval_are_scipys():
    road, bus, miou = differences(results({"a": A, "b": B}), "a", "b")
    assert list(road.points.values()) == pytest.approx([20.0, 5.0, 0.0])
    low, high = stats.t.interval(0.95, df=2, loc=np.mean([20, 5, 0]), scale=stats.sem([20, 5, 0]))
    assert (road.mean - road.half, road.mean + road.half) == pytest.approx((low, high))
    test = stats.ttest_rel([90, 80, 85], [70, 75, 85]).confidence_interval(0.95)
    assert (road.mean - road.half, road.mean + road.half) == pytest.approx((test.low, test.high))
    assert road.p == pytest.approx(stats.ttest_1samp([20, 5, 0], 0).pvalue)
    assert miou.name == "mIoU" and list(miou.points.values()) == pytest.approx([50.0, -2.5, -37.5])


def test_a_class_counts_the_seeds_in_which_both_have_it():
    _, bus, _ = differences(results({"a": A, "b": B}), "a", "b")
    assert bus.points == {"1": pytest.approx(-10.0)} and math.isnan(bus.half)
    text = table(differences(results({"a": A, "b": B}), "a", "b"), list(A)).splitlines()
    assert text[0].split() == ["seed", "0", "seed", "1", "seed", "2", "mean", "95", "%", "interval", "seeds"]
    assert text[1].split() == ["road", "+20.00", "+5.00", "+0.00", "+8.33", "-17.52", "+34.19", "3"]
    assert text[2].split() == ["bus", "-", "-10.00", "-", "-10.00", "-", "1"]
    assert text[-1].split()[0] == "mIoU" and len({len(line) for line in text}) == 1, "columns are aligned"


def test_a_class_that_no_seed_has_is_a_line_of_dashes():
    none = {"0": scores({"bus": None}, None)}
    assert table(differences(results({"a": none, "b": none}), "a", "b"), ["0"]).splitlines()[1].split() == ["bus", *"---", "0"]


def test_wrong_rows_and_seeds_are_named():
    content = results({"adaptsegnet": A, "source-only": {"0": B["0"]}})
    with pytest.raises(ValueError, match="no row 'adaptsegnett'. Did you mean adaptsegnet"):
        differences(content, "adaptsegnett", "source-only")
    with pytest.raises(ValueError, match="'adaptsegnet' has the seeds 0, 1, 2, row 'source-only' has 0; .* the same --seeds"):
        differences(content, "adaptsegnet", "source-only")


def test_results_are_read_from_their_folder_and_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match="No results at .*results.json. Give the folder OUT of `uda compare`"):
        read_results(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results({"a": A})), encoding="utf-8")
    assert read_results(tmp_path) == read_results(path)
    for wrong in ('{"rows": {"a": {"seeds": {"0": 3}}}}', '{"single": 1}', "[]", '{"rows": {"a": {}}}'):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match="results.json'.*Give the folder OUT"):
            differences(read_results(path), "a", "a")
