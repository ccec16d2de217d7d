"""The table: rows, controls, resuming, and the arithmetic of gains."""

import json

import pytest

from course_lib.recipes import compare as module
from course_lib.recipes.compare import compare, standard_arms
from course_lib.recipes.table import table
from tests.recipes.conftest import TINY

OVERRIDES = (*TINY, "network_options={'width': 16}")


def test_a_comparison_resumes_and_writes_its_table(pair, tmp_path, monkeypatch):
    arms = tuple(arm for arm in standard_arms("ministreet") if "photometric" not in arm.name)
    options = {"seeds": (0, 1), "arms": arms, "overrides": OVERRIDES, "quiet": True, "jobs": 1}
    results = compare("ministreet", pair, tmp_path, **options)
    assert list(results["rows"]) == [arm.name for arm in arms]
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| source-only, target statistics |" in text and "+ photometric" not in text

    monkeypatch.setattr(module, "train_recipe", lambda *_, **__: pytest.fail("trained again"))
    assert compare("ministreet", pair, tmp_path, **options) == results


def test_networks_trained_side_by_side_are_those_trained_in_turn(pair, tmp_path):
    arms = standard_arms("ministreet")[:1]
    options = {"seeds": (0, 1), "arms": arms, "overrides": OVERRIDES, "quiet": True}
    rows = [compare("ministreet", pair, tmp_path / str(n), jobs=n, **options)["rows"]["source-only"] for n in (1, 2)]
    assert rows[0]["seeds"]["1"]["iou"] == rows[1]["seeds"]["1"]["iou"]


def test_standard_arms_are_the_method_its_controls_and_the_oracle():
    arms = {arm.name: arm for arm in standard_arms("ministreet")}
    photometric = arms["source-only + photometric"].recipe("ministreet", ("steps=7",), seed=3)
    assert (photometric.photometric, photometric.loop.steps, photometric.seed) == ("strong", 14, 3)
    assert arms["adaptsegnet"].recipe("ministreet", ("steps=7",), seed=3).loop.steps == 7
    assert {arm.method for arm in arms.values()} == {"source-only", "bn-control", "adaptsegnet", "target-only"}


def test_gain_and_distance_closed():
    def row(miou):
        seeds = {"0": {"miou": miou / 100, "train_seconds": 1.0}}
        return {
            "miou_mean": miou,
            "miou_spread": None,
            "common_mean": 2 * miou,
            "seeds": seeds,
            "steps": 3,
            "statistics": "running",
            "explanation": "",
        }

    rows = {"source-only": row(30.0), "adaptsegnet": row(36.0), "target-only (oracle)": row(50.0)}
    line = table({"rows": rows, "command": ""}).splitlines()[3]
    assert line == "| adaptsegnet | 36.0 | 36.0 | +6.0 | 30 % | 72.0 | 3 | running | 1 |"
