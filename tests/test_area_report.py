"""The report of a self-training with few labels shows which classes it inflates."""

import pytest

from course_lib.data import ministreet
from course_lib.experiments.areas import area_curve
from course_lib.experiments.parts import Pair, divided
from course_lib.experiments.plan import plan, run_plan
from course_lib.labels import CITYSCAPES19
from course_lib.report import write_run_report
from tests.experiments.conftest import TINY

NARROW = (*TINY, "network_options={'width': 16}", "rounds=1", "steps=1")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root, options = tmp_path_factory.mktemp("few"), {"size": (32, 64), "workers": 1, "progress": False}
    ministreet.make("cityscapes", root, 8, 2, **options)
    ministreet.make("cityscapes", root, 2, 3, split="val", **options)
    return Pair(*divided(f"cityscapes:{root}", "5"), f"cityscapes:{root}@val")


def test_the_report_has_the_areas_of_each_class_by_stage(pair, tmp_path):
    stages = plan("ministreet_few_labels", "gist", NARROW)
    run_plan(stages, pair, tmp_path, quiet=True)
    table = write_run_report("gist", stages, pair, tmp_path).partition("## Predicted over true area")[2].partition("##")[0]
    assert "| class | supervised | choose-1 |" in table and f"On `{pair.validation}`" in table
    curve = area_curve(stages, tmp_path, pair.validation, quiet=True)
    for name, *ratios in zip(CITYSCAPES19.classes, *curve.values()):
        cells = " | ".join("-" if ratio != ratio else f"{ratio:.2f}" for ratio in ratios)
        assert f"| {name} | {cells} |" in table
    next(tmp_path.glob("*_supervised/best.pt")).unlink()
    assert "Predicted over true area" not in write_run_report("gist", stages, pair, tmp_path), "a network is gone"
