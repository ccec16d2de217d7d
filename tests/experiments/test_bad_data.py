"""Real data are never whole: a run of days must not end at a picture that `--skip-bad` was asked to do without."""

import dataclasses
from pathlib import Path
from shutil import copytree

import pytest

from course_lib.data import open_dataset
from course_lib.engine import CheckpointError
from course_lib.experiments.compare import Task, run_row
from course_lib.experiments.parts import split_of
from course_lib.experiments.plan import check_processes, label_target, plan, run_plan
from course_lib.experiments.rows import row_recipe, row_stages
from course_lib.experiments.train import train_recipe
from course_lib.recipes import Row, recipe
from tests.experiments.conftest import TINY

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
    row = Row("source-only", "source-only")

    def task(given, out) -> Task:
        made = (function(row, "ministreet", SMALL, 0) for function in (row_recipe, row_stages))
        return Task(row, *made, given, out, "cpu")

    with pytest.raises(ValueError, match="Cannot read .* as a picture"):
        run_row(task(broken, tmp_path / "strict"), quiet=True)
    content = run_row(task(dataclasses.replace(broken, skip_bad=True), tmp_path / "run"), quiet=True)
    assert content["scores"]["images"] == 1 and content["scores"]["peak_mib"] > 50


def test_a_batch_that_does_not_divide_is_told_before_the_first_stage(pair, tmp_path, monkeypatch):
    stages = plan("gta5_cityscapes", "proca")
    check_processes(stages, 4)
    with pytest.raises(ValueError, match="Stage contrast: batch_size=4 does not divide among 8 processes"):
        check_processes(stages, 8)
    monkeypatch.setattr("course_lib.ranks.count", lambda: 8)
    monkeypatch.setattr("course_lib.ranks.agree", lambda value: value)  # the other seven do not exist
    with pytest.raises(CheckpointError, match="The stage 'source' has not left"):  # a stage alone is asked for itself alone
        run_plan(stages, pair, tmp_path / "alone", only="prototypes")
    with pytest.raises(ValueError, match="Stage contrast: batch_size=4 does not divide"):
        run_plan(stages, pair, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_may_have_an_at_sign(pair, tmp_path):
    root = copied(pair.source, tmp_path / "me@home" / "gta5")
    assert len(open_dataset(*split_of(f"gta5:{root}", "train"))) == 4
    assert split_of(f"gta5:{root}@all", "train") == (f"gta5:{root}", "all")


def test_a_folder_whose_last_part_has_an_at_sign_goes_before_a_split(pair, tmp_path, monkeypatch):
    root = copied(pair.source, tmp_path / "kim@uni.example")
    assert split_of(f"gta5:{root}", "train") == (f"gta5:{root}", "train")
    assert split_of(f"gta5:{root}@all", "train") == (f"gta5:{root}", "all")
    assert split_of(f"gta5:{tmp_path}/gone@uni.example", "train") == (f"gta5:{tmp_path}/gone", "uni.example")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert split_of("gta5:~/kim@uni.example", "train") == ("gta5:~/kim@uni.example", "train")
    settings = recipe("ministreet", "source-only").override(*SMALL)
    assert train_recipe(settings, dataclasses.replace(pair, source=f"gta5:{root}"), tmp_path / "run", quiet=True).is_file()
