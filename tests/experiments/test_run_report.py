"""The page that a run ends with, and the published scores that it stands beside."""

import json
import statistics
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from course_lib.engine import Stopped
from course_lib.experiments.data_root import pair_below
from course_lib.experiments.plan import folder_of, plan, run_plan, stage_times
from course_lib.experiments.rows import ablation_rows
from course_lib.experiments.train import Pair
from course_lib.labels import SPACES
from course_lib.recipes import PAPERS
from course_lib.report import published_scores, write_run_report
from tests.experiments.conftest import DISCRIMINATOR, TINY
from tests.processes import together

SMALL = (*TINY, "network_options={'width': 16}")


PUBLISHED = {(name, source): columns for name, paper in PAPERS.items() for source, columns in paper.scores.items()}
FEW_LABELS = {(method, "Cityscapes") for method in ("classmix", "reco", "semiseg", "gist")}


@pytest.mark.parametrize(("method", "source"), PUBLISHED)
def test_published_scores_name_their_source_and_add_up(method, source):
    classes = SPACES["synthia16" if source == "SYNTHIA" else "cityscapes19"].classes
    space = "synthia13" if source == "SYNTHIA" else "cityscapes19"
    few_labels = (method, source) in FEW_LABELS
    assert published_scores(method, space, few_labels) == (source, PUBLISHED[method, source])
    assert published_scores(method, space, not few_labels)[1] == (), "of the other task there are none"
    assert published_scores(method, "camvid11", few_labels) == ("", ())
    for score in PUBLISHED[method, source]:
        assert score.source and score.miou and set(score.iou) in (set(), set(classes))
        if score.iou:
            assert round(statistics.fmean(score.iou.values()), 1) == round(score.miou[str(len(classes))], 1)
    assert published_scores("source-only", "cityscapes19")[1] == ()


def test_every_papers_scores_are_checked():
    wanted = {("adaptsegnet", "GTA5"), ("proca", "GTA5"), ("proca", "SYNTHIA"), ("bida", "GTA5"), ("bida", "SYNTHIA"),
              ("dacs", "GTA5"), ("dacs", "SYNTHIA"), ("daformer", "GTA5"), ("daformer", "SYNTHIA"), ("hrda", "GTA5"),
              ("hrda", "SYNTHIA"), ("mic", "GTA5"), ("mic", "SYNTHIA")}  # fmt: skip
    later = ("sepico", "pipa-daformer", "pipa-hrda", "cluda-hrda")
    wanted |= {(paper, source) for paper in later for source in ("GTA5", "SYNTHIA")}
    assert PUBLISHED.keys() == wanted | FEW_LABELS


@pytest.mark.parametrize(("paper", "source", "row"), [("proca", "GTA5", "F+O, Ada-ST"), ("proca", "GTA5", "F+O, Ada-ST, MST"),
                                                     ("bida", "GTA5", -1), ("bida", "SYNTHIA", -1)])  # fmt: skip
def test_the_paper_is_quoted_alike_in_ablation_and_report(paper, source, row):
    rows = {row.name: row.published for row in ablation_rows(paper, f"{source.lower()}_cityscapes", source)}
    quoted = [rows[row]] if isinstance(row, str) else [max(value for value in rows.values() if value)]
    means = [next(iter(score.miou.values())) for score in PUBLISHED[paper, source] if score.column == "paper"]
    assert quoted[0] in means


def test_published_columns_stand_beside_their_own_data_alone():
    assert published_scores("proca", "camvid11") == ("", ())
    assert len(published_scores("proca", "cityscapes19")[1]) == 4


def test_the_13_classes_of_synthia_are_those_without_wall_fence_and_pole():
    score = PUBLISHED["proca", "SYNTHIA"][-1]
    thirteen = [iou for name, iou in score.iou.items() if name not in ("wall", "fence", "pole")]
    assert statistics.fmean(thirteen) == pytest.approx(score.miou["13"], abs=0.01)


def test_the_report_of_a_run_on_ministreet(pair, tmp_path):
    stages = plan("ministreet", "bida", SMALL)
    run_plan(stages, pair, tmp_path, quiet=True)
    text = write_run_report("bida", stages, pair, tmp_path, command="uda run bida")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "<!-- made by `uda run` -->\n" + text
    assert "of another data set, GTA5 -> Cityscapes" in text
    lines = text.splitlines()
    assert "| class | single | multi-scale | paper |" in lines
    road = next(line for line in lines if line.startswith("| road |"))
    assert road.endswith("| - |") and len(road.split("|")) == 6
    mean = next(line for line in lines if line.startswith("| **mIoU-19** |"))
    content = json.loads((folder_of(stages, "test", tmp_path) / "scores.json").read_text(encoding="utf-8"))
    wanted = [f"{100 * content[key]['miou']:.1f}" for key in ("single", "multiscale")]
    assert mean.split(" | ")[1:] == [*wanted, "57.1 |"]
    assert any(line.startswith("| **mIoU-13** |") and line.endswith("| - |") for line in lines)
    assert "- paper: seminar slides" in text
    assert "| labels-2 |" in text and "| hybrid |" in text and "42.3 / 98.8" in text  # density and accuracy, the paper's beside
    assert "| round-1 | 2 |" in text and "| source | 2 |" in text and "- torch: " in text and "`uda run bida`" in text


def faked(tmp_path, recipe: str, space: str):
    """A finished run on real data, as far as the report looks at it."""
    stages = plan(recipe, "adaptsegnet")
    classes = SPACES[space].classes
    one = {"classes": list(classes), "iou": dict.fromkeys(classes, 0.5), "subsets": {str(len(classes)): 0.5}, "accuracy": 0.9}
    one |= {"miou": 0.5, "miou_common": 0.5, "images": 1}
    folder = folder_of(stages, "test", tmp_path)
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"single": one, "multiscale": one}), encoding="utf-8")
    return stages, Pair("gta5:/data/GTA5", "cityscapes:/data/cityscapes", "cityscapes:/data/cityscapes@val")


def test_real_data_stand_beside_the_paper_class_by_class(tmp_path):
    stages, pair = faked(tmp_path, "gta5_cityscapes", "cityscapes19")
    text = write_run_report("adaptsegnet", stages, pair, tmp_path)
    assert "Published: GTA5 -> Cityscapes, DeepLabV2 on ResNet-101." in text and "another data set" not in text
    assert "| class | single | multi-scale | paper, single | released, single |" in text
    assert "| train | 50.0 | 50.0 | 3.9 | - |" in text and "| **mIoU-19** | 50.0 | 50.0 | 42.4 | 42.4 |" in text
    assert "| adapt | 150000 | 0.0 | - |" in text, "nothing was measured"


def test_where_nothing_was_published_the_report_says_so(tmp_path):
    stages, pair = faked(tmp_path, "synthia_cityscapes", "synthia16")
    text = write_run_report("adaptsegnet", stages, pair, tmp_path)
    assert "No published score of adaptsegnet on SYNTHIA -> Cityscapes has a source" in text
    assert "| class | single | multi-scale |\n" in text


def test_of_own_code_and_within_one_domain_no_paper_is_named(tmp_path):
    stages, pair = faked(tmp_path, "synthia_cityscapes", "synthia16")
    assert "No published score" not in write_run_report("my_method.py:Sure", stages, pair, tmp_path)
    one_domain = [replace(stage, recipe=replace(stage.recipe, name="cityscapes_few_labels")) for stage in stages]
    assert "No published score" not in write_run_report("adaptsegnet", one_domain, pair, tmp_path)


def test_minutes_add_up_over_calls_and_those_of_a_stopped_call_count(pair, tmp_path):
    stages = plan("ministreet", "adaptsegnet", (*SMALL, DISCRIMINATOR, "steps=3"))
    with pytest.raises(Stopped):
        run_plan(stages, pair, tmp_path, quiet=True, stop=lambda: True)
    first = stage_times(tmp_path)
    assert list(first) == ["adapt"] and first["adapt"]["seconds"] > 0 and first["adapt"]["peak_bytes"] > 2**20
    run_plan(stages, pair, tmp_path, quiet=True)
    second = stage_times(tmp_path)
    assert list(second) == ["adapt", "test"] and second["adapt"]["seconds"] > first["adapt"]["seconds"]


def _scored(pair: Pair, out) -> list[float]:
    done = run_plan(plan("ministreet", "bida", SMALL), pair, out, quiet=True)
    return [done["single"]["miou"], done["multiscale"]["miou"]]


def test_two_processes_go_through_all_stages_together(pair, tmp_path):
    first, second = together(partial(_scored, pair, tmp_path / "run"), tmp_path)
    assert first == second
    assert list(stage_times(tmp_path / "run")) == ["source", "labels-1", "round-1", "labels-2", "round-2", "test"]


def test_one_root_holds_the_pair_of_each_recipe(tmp_path, monkeypatch):
    for name in ("GTA5", "synthia", "cityscapes"):
        (tmp_path / name).mkdir()
    below = pair_below(tmp_path, "gta5_cityscapes", skip_bad=True)
    target = f"cityscapes:{tmp_path / 'cityscapes'}"
    assert below == Pair(f"gta5:{tmp_path / 'GTA5'}", target, f"{target}@val", skip_bad=True)
    assert pair_below(tmp_path, "ministreet") == replace(below, skip_bad=False)
    assert pair_below(tmp_path, "synthia_cityscapes").source == f"synthia:{tmp_path / 'synthia'}"
    (tmp_path / "GTA5" / "prepared.json").write_text("{}", encoding="utf-8")
    assert pair_below(tmp_path, "gta5_cityscapes").source == f"prepared:{tmp_path / 'GTA5'}"
    manifest = {"settings": {}, "splits": {"train": {}}}
    monkeypatch.setattr("course_lib.experiments.data_root.read_manifest", lambda folder: SimpleNamespace(**manifest))
    (tmp_path / "cityscapes" / "prepared.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="prepared without the split val.*--validation cityscapes:PATH@val"):
        pair_below(tmp_path, "gta5_cityscapes")
    assert pair_below(tmp_path, "gta5_cityscapes", validation="cityscapes:x@val").validation == "cityscapes:x@val"
    (tmp_path / "cityscapes" / "prepared.json").unlink()
    with pytest.raises(FileNotFoundError, match="No folder .*cityscapes or .*Cityscapes, which --recipe gta5_cityscapes wants"):
        (tmp_path / "cityscapes").rmdir()
        pair_below(tmp_path, "gta5_cityscapes")
    with pytest.raises(ValueError, match="does not know the data sets of 'camvid_dusk'. Give --source and --target"):
        pair_below(tmp_path, "camvid_dusk")
