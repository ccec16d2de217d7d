"""The main job from nothing to its report, on tiny pictures."""

import re

from course_lib import demo
from course_lib.recipes.compare import compare
from course_lib.report import write_report
from tests.recipes.conftest import TINY


def test_the_report_shows_domains_predictions_and_bars(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    pair = demo.ministreet_pair(3, 2, quiet=True, size=(32, 64), workers=1)
    overrides = (*TINY, "network_options={'width': 16}")
    arms = tuple(arm for arm in demo.demo_arms() if "photometric" not in arm.name)
    results = compare("ministreet", pair, tmp_path, seeds=(0,), arms=arms, overrides=overrides, jobs=1, quiet=True)
    page = write_report(results, pair, tmp_path).read_text(encoding="utf-8")
    pictures = re.findall(r'src="([^"]+)"', page)
    assert pictures == ["figures/domains.png", "figures/predictions.png", "figures/iou.png"]
    assert all((tmp_path / picture).stat().st_size > 5_000 for picture in pictures)
    assert "<td>adaptsegnet</td>" in page and "<td>proca</td>" in page and "target-only (oracle)" in page


def test_the_demo_makes_its_data_in_the_real_layouts_and_compares_on_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    seen = {}

    def instead_of_training(name, domains, out, **options):
        seen.update(options, name=name, pair=domains)
        return {"rows": {}}

    monkeypatch.setattr(demo, "compare", instead_of_training)
    monkeypatch.setattr(demo, "write_report", lambda results, pair, out, device: out / "report.html")
    monkeypatch.setattr(demo, "table", lambda results: "the table")
    monkeypatch.setattr(demo, "PICTURES", {True: (3, 2), False: (3, 2)})
    demo.run_demo(tmp_path / "demo", quick=True, quiet=True)
    text = capsys.readouterr().out
    assert "the table" in text and "numbers mean little" in text and "report.html" in text
    assert seen["name"] == "ministreet" and seen["overrides"]
    layouts = [spec.partition(":")[0] for spec in (seen["pair"].source, seen["pair"].target, seen["pair"].validation)]
    assert layouts == ["gta5", "cityscapes", "cityscapes"]
