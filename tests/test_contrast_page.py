"""The page of what contrast adds shows what its result files hold: means, intervals and gains are computed once more here."""

import json
import math
import re
import statistics

import pytest
from scipy.stats import t

from benchmarks import contrast_page
from benchmarks.contrast_page import BASE, POOR, RESOLUTIONS, UNMIXED

SEEDS = ("0", "1", "2", "3", "4")
TERM = ["terms=+pixel_contrast", "terms.pixel_contrast.weight=0.1"]


def row(scores, control=None, settings=(), passes=2100):
    seeds = {seed: {"miou": score, "iou": {"road": score}} for seed, score in zip(SEEDS, scores, strict=True)}
    return {
        "overrides": list(settings), "control": control, "passes": passes, "steps": 300, "explanation": "", "published": None,
        "miou_mean": 100 * statistics.fmean(scores), "seeds": seeds,
    }  # fmt: skip


def results():
    """Rows of the names that the page reads; the gain of "+ pixels" differs from seed to seed."""
    rows = {
        BASE: row([0.48, 0.47, 0.50, 0.49, 0.46]),
        f"{BASE}, 1.14 x compute": row([0.481, 0.476, 0.50, 0.493, 0.459], passes=2400),
        "+ pixels": row([0.491, 0.482, 0.507, 0.489, 0.471], f"{BASE}, 1.14 x compute", TERM, passes=2400),
        "+ prototypes": row([0.50, 0.495, 0.52, 0.515, 0.479], BASE, TERM),
    }
    for base in (RESOLUTIONS, *POOR, UNMIXED):
        rows[base] = row([0.44, 0.45, 0.43, 0.44, 0.45])
        rows[f"{base} + pixels"] = row([0.43, 0.445, 0.425, 0.431, 0.442], base, TERM)
    return {"rows": rows}


def features(content):
    """Of each row and seed; the silhouette of a row grows with its mIoU."""
    return {
        name: {
            seed: {"within": 0.5, "between": 0.1, "silhouette": run["miou"], "cosine_labels": 0.9 * run["miou"]}
            for seed, run in each["seeds"].items()
        }
        for name, each in content["rows"].items()
    }


def gained(content, name, control):
    a, b = (content["rows"][each]["seeds"] for each in (name, control))
    return [100 * (a[seed]["miou"] - b[seed]["miou"]) for seed in SEEDS]


def interval(points):
    half = t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / math.sqrt(len(points))
    return statistics.fmean(points) - half, statistics.fmean(points) + half


def line(text, name):
    (found,) = [each for each in text.splitlines() if each.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_row_is_compared_seed_by_seed_with_the_row_that_had_its_compute():
    content = results()
    cells = line(contrast_page.gains_table(content, contrast_page.added(content)), "+ pixels")
    points = gained(content, "+ pixels", f"{BASE}, 1.14 x compute")
    low, high = interval(points)
    assert cells[1:3] == [f"{statistics.fmean(points):+.1f}", f"{low:+.1f} to {high:+.1f}"]
    assert cells[3:] == [", ".join(f"{p:+.1f}" for p in points), "48.8", f"{BASE}, 1.14 x compute, 48.2", "2400"]


def test_rows_belong_to_the_base_whose_steps_they_have_whatever_their_control_cost():
    found = contrast_page.grouped(results())
    assert list(found[BASE]) == ["+ pixels", "+ prototypes"] and list(found[UNMIXED]) == [f"{UNMIXED} + pixels"]
    assert set(found) == {BASE, RESOLUTIONS, *POOR, UNMIXED}


def test_the_smallest_gain_that_can_be_seen_is_half_of_an_interval_with_the_pooled_spread():
    content = results()
    found = contrast_page.added(content)
    variances = [statistics.variance(gained(content, name, content["rows"][name]["control"])) for name in found]
    expected = t.ppf(0.975, 4) * math.sqrt(statistics.fmean(variances) / 5)
    assert contrast_page.smallest(found.values()) == pytest.approx(expected, rel=1e-6)


def test_a_term_gains_clearly_where_its_interval_leaves_out_0():
    content = results()
    sentence = contrast_page.clear(contrast_page.added(content))
    sides = {name: interval(gained(content, name, content["rows"][name]["control"])) for name in contrast_page.added(content)}
    above = [name for name, (low, _) in sides.items() if low > 0]
    below = [name for name, (_, high) in sides.items() if high < 0]
    assert above == ["+ prototypes"] and len(below) == 4
    assert f"of 6 rows 1 gain clearly (+ prototypes), 4 lose clearly ({', '.join(below)})" in sentence


def test_features_are_compared_with_the_same_control_and_correlated_with_the_gain():
    content = results()
    known = features(content)
    assert contrast_page.correlation(content, known, "silhouette") == pytest.approx(1)
    cells = line(contrast_page.features_table(content, known), "+ prototypes")
    mean = statistics.fmean(gained(content, "+ prototypes", BASE))
    assert cells[1:] == ["+0.000", "+0.000", f"{mean / 100:+.3f}", f"{0.9 * mean:+.1f}", f"{mean:+.1f}"]
    few = {"rows": {name: content["rows"][name] for name in (BASE, "+ prototypes")}}
    assert math.isnan(contrast_page.correlation(few, known, "silhouette")), "two points have no correlation"


def test_the_page_has_every_row_once_in_its_section_and_the_published_forms_beside_the_variants():
    content = results()
    published = {"rows": {"source-only": row([0.44] * 5), "ProCA": row([0.48] * 5), "BiDA": row([0.47] * 5)}}
    text = contrast_page.page(content, features(content), content, published)
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    assert list(sections)[1:] == [
        "Each term on good labels", "Where labels are poor", "What the losses do to the features",
        "ProCA and BiDA with the teacher's labels", "Photographs: MiniStreet to CamVid",
    ]  # fmt: skip
    poor = re.findall(r"^\| (?!row)(.*?) \|", sections["Where labels are poor"], re.MULTILINE)
    assert poor == [f"{base} + pixels" for base in POOR]
    variants = sections["ProCA and BiDA with the teacher's labels"]
    assert line(variants, "ProCA")[1] == "+4.0" and line(variants, f"{UNMIXED} + pixels")[1] == "-0.5"
    with pytest.raises(ValueError, match="a paired difference needs the same"):
        fewer = json.loads(json.dumps(published))
        del fewer["rows"]["source-only"]["seeds"]["4"]
        contrast_page.over_source_only(content, fewer, ("ProCA",))


def test_the_figure_has_a_line_for_each_term_and_its_control():
    picture = contrast_page.drawn(results())
    assert picture.startswith(b"\x89PNG") and picture == contrast_page.drawn(results()), "the same files, the same figure"
