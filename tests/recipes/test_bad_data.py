"""Real data are never whole: a run of days must not end at a picture that `--skip-bad` was asked to do without."""

import dataclasses
import json
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch

from course_lib.data import open_dataset, prepare
from course_lib.engine import CheckpointError, PeakMemory
from course_lib.recipes import recipe
from course_lib.recipes.compare import Arm, compare, run_arm
from course_lib.recipes.parts import Pair, build_method, build_segmenter, split_of
from course_lib.recipes.plan import check_processes, label_target, plan, run_plan
from course_lib.recipes.prepared_sizes import enlarged
from course_lib.recipes.published_scores import published_scores
from course_lib.recipes.stages import train_recipe
from course_lib.report import is_ministreet, write_run_report
from tests.recipes.conftest import TINY

SMALL = (*TINY, "network_options={'width': 16}")


def copied(spec: str, to: Path) -> Path:
    return Path(copytree(split_of(spec, "")[0].partition(":")[2], to))


@pytest.mark.parametrize("bad", ["missing", "damaged"])
def test_every_target_picture_gets_a_pseudo_label_whatever_its_own_label_is(bad, pair, tmp_path):
    root = copied(pair.target, tmp_path / "target")
    first, *others = sorted((root / "gtFine").rglob("*_labelIds.png"))
    first.unlink() if bad == "missing" else first.write_bytes(first.read_bytes()[:40])
    broken = dataclasses.replace(pair, target=f"cityscapes:{root}", skip_bad=True)
    start = train_recipe(recipe("ministreet", "source-only").override(*SMALL), pair, tmp_path / "start", quiet=True)
    made = label_target(start, broken, tmp_path / "labels", quiet=True)
    assert made["pictures"] == len(list((tmp_path / "labels").rglob("*.png"))) == len(others) + 1
    assert 0 < made["quality"]["accuracy"] < 1, "the others are counted"
    given = dataclasses.replace(broken, pseudo_labels=str(tmp_path / "labels"))
    train_recipe(recipe("ministreet", "self-training").override(*SMALL), given, tmp_path / "run", quiet=True)


def test_labels_that_are_lent_for_counting_are_those_of_the_same_pictures(pair, tmp_path):
    root = copied(pair.target, tmp_path / "target")
    sorted((root / "gtFine").rglob("*_labelIds.png"))[0].unlink()
    plain = open_dataset(f"cityscapes:{root}", labelled=False)
    lent = plain.with_truth(open_dataset(f"cityscapes:{root}", skip_bad=True))
    whole = open_dataset(pair.target)
    assert [lent.name_of(k) for k in range(len(lent))] == [whole.name_of(k) for k in range(len(whole))]
    assert (lent[0].label == 255).all() and all((lent[k].label == whole[k].label).all() for k in range(1, len(whole)))
    assert plain.with_truth(plain) is plain


def test_a_row_is_scored_without_the_pictures_that_cannot_be_used(pair, tmp_path):
    root = copied(pair.validation, tmp_path / "val")
    next((root / "leftImg8bit").rglob("*.png")).write_bytes(b"no picture")
    broken = dataclasses.replace(pair, validation=f"cityscapes:{root}@val")
    settings, arm = recipe("ministreet", "source-only").override(*SMALL), Arm("source-only", "source-only")
    with pytest.raises(ValueError, match="Cannot read .* as a picture"):
        run_arm(arm, settings, broken, tmp_path / "strict", quiet=True)
    content = run_arm(arm, settings, dataclasses.replace(broken, skip_bad=True), tmp_path / "run", quiet=True)
    assert content["scores"]["images"] == 1 and content["scores"]["peak_mib"] > 50


def test_a_comparison_on_prepared_sets_says_that_they_are_too_small(pair, tmp_path, capsys):
    prepare(pair.source, tmp_path / "source", (16, 32), workers=1, progress=False)
    small = dataclasses.replace(pair, source=f"prepared:{tmp_path / 'source'}")
    results = compare("ministreet", small, tmp_path / "out", seeds=(0,), arms=(Arm("source-only", "source-only"),),
                      overrides=SMALL, jobs=1)  # fmt: skip
    assert "Note: prepared:" in capsys.readouterr().err and "would enlarge it" in results["notes"][0]
    assert f"- **{results['notes'][0]}**" in (tmp_path / "out" / "results.md").read_text()


def test_a_batch_that_does_not_divide_is_told_before_the_first_stage(pair, tmp_path, monkeypatch):
    stages = plan("gta5_cityscapes", "proca")
    check_processes(stages, 4)
    with pytest.raises(ValueError, match="Stage contrast: batch_size=4 does not divide among 8 processes"):
        check_processes(stages, 8)
    monkeypatch.setattr("course_lib.ranks.count", lambda: 8)
    with pytest.raises(CheckpointError, match="The stage 'source' has not left"):  # a stage alone is asked for itself alone
        run_plan(stages, pair, tmp_path / "run", only="prototypes")
    with pytest.raises(ValueError, match="Stage contrast: batch_size=4 does not divide"):
        run_plan(stages, pair, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_procas_source_stage_has_its_lovasz_term_and_the_common_start_has_not(pair, tmp_path):
    """[code] L_sup = CE + 0.75 Lovasz in the source stage and in the contrast, plain CE in self-training."""
    source, *_ = plan("gta5_cityscapes", "proca")
    shallow = source.recipe.override("network=small", "network_options={'width': 8}")
    method = build_method(shallow, build_segmenter(shallow))
    assert method.weights["lovasz"] == 0.75
    small = recipe("ministreet", "source-only").override(*SMALL, "lambda_lovasz=0.75")
    train_recipe(small, pair, tmp_path / "run", quiet=True)
    (first, *_) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert set(first["losses"]) == {"segmentation", "lovasz"}
    plain = recipe("ministreet", "source-only").override(*SMALL)
    train_recipe(plain, pair, tmp_path / "plain", quiet=True)
    starts = list((tmp_path / "cache" / "starts").glob("*.pt"))
    assert len(starts) == 1, "one start for both: it is the start of every method"


# ---- prepared data sets


@pytest.fixture
def prepared(pair, tmp_path) -> Pair:
    """Both domains at 32x16, half of the originals' 64x32."""
    texts = {}
    for domain, text in (("source", pair.source), ("target", pair.target)):
        prepare(text, tmp_path / domain, (16, 32), workers=1, progress=False)
        texts[domain] = f"prepared:{tmp_path / domain}"
    return dataclasses.replace(pair, **texts)


def test_a_set_that_was_prepared_too_small_is_told_with_the_size_it_wants(prepared, pair, tmp_path):
    stages = plan("ministreet", "proca", SMALL)
    source, target = enlarged(stages, prepared)
    assert source.startswith(f"prepared:{tmp_path / 'source'} was prepared at 32x16; source, prototypes, contrast")
    assert "Prepare it again with --size 64x32, or give the originals (gta5:PATH)" in source
    assert "labels, self-training want up to 64x32" in target
    assert enlarged(stages, pair) == []
    half = (*SMALL, "source_size=32x16", "target_size=32x16", "test_size=32x16")
    assert enlarged(plan("ministreet", "proca", half), prepared) == []
    scaled = plan("ministreet", "proca", (*half, "scale=(0.5, 4.0)"))
    assert all("up to 64x32" in text for text in enlarged(scaled, prepared)), "no more than the originals have"


def test_a_run_on_prepared_sets_reports_what_they_are(prepared, tmp_path):
    prepare(prepared.validation.partition("@")[0], tmp_path / "val", (16, 32), splits=("val",), workers=1, progress=False)
    given = dataclasses.replace(prepared, validation=f"prepared:{tmp_path / 'val'}@val")
    stages = plan("ministreet", "adaptsegnet", SMALL)
    run_plan(stages, given, tmp_path / "run", quiet=True)
    text = write_run_report("adaptsegnet", stages, given, tmp_path / "run")
    assert "Scored on prepared labels, which were resized" in text and "of another data set, GTA5 -> Cityscapes" in text
    assert text.count("would enlarge it") == 3


def test_the_report_is_written_whatever_became_of_the_data(prepared, pair, tmp_path, monkeypatch):
    assert is_ministreet(pair) and is_ministreet(prepared)
    gone = dataclasses.replace(prepared, source="prepared:~/gone", target="gta5:~/gone", validation=None)
    assert not is_ministreet(gone)
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = dataclasses.replace(gone, source="prepared:~/source")
    assert is_ministreet(at_home)
    stages = plan("ministreet", "adaptsegnet", SMALL)
    run_plan(stages, prepared, tmp_path / "run", quiet=True)
    rmtree(tmp_path / "source")
    assert "| road |" in write_run_report("adaptsegnet", stages, prepared, tmp_path / "run")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "manifest.json").write_text('{"files": {}}')
    assert not is_ministreet(dataclasses.replace(gone, target=f"gta5:{tmp_path / 'real'}"))


def test_published_columns_stand_beside_their_own_data_alone():
    assert published_scores("proca", "camvid11") == ()
    assert len(published_scores("proca", "cityscapes19")) == 4


def test_a_folder_may_have_an_at_sign(pair, tmp_path):
    root = copied(pair.source, tmp_path / "me@home" / "gta5")
    assert len(open_dataset(*split_of(f"gta5:{root}", "train"))) == 4
    assert split_of(f"gta5:{root}@all", "train") == (f"gta5:{root}", "all")


def test_a_peak_is_of_the_time_since_and_the_processes_own_stays():
    outer = PeakMemory("cpu")
    block = torch.ones(60_000_000)
    del block
    whole, first = PeakMemory.of_process(), outer.bytes()
    inner = PeakMemory("cpu")
    assert PeakMemory.of_process() >= whole and outer.bytes() >= first, "another that looks does not make them forget"
    if Path("/proc/self/clear_refs").exists():
        assert inner.bytes() < first - 100 * 2**20, "and does not remember what was before it"
