"""All stages of a paper, in order, alone, and after an interruption, on tiny pictures in the real folder layouts."""

import json

import pytest
import torch

from course_lib.engine import CheckpointError, FolderInUse, RunLock, Stopped, load_checkpoint
from course_lib.experiments.compare import compare
from course_lib.experiments.plan import PREPARED, folder_of, plan, run_plan
from course_lib.experiments.rows import ablation_rows, find_rows
from course_lib.experiments.train import Pair, train_recipe
from course_lib.files import write_whole
from course_lib.methods import ProCA
from course_lib.recipes import METHODS, PAIRS, PAPERS
from course_lib.recipes.recipe import GROUPS, PARTS
from tests.experiments.conftest import DISCRIMINATOR, TINY

SMALL = (*TINY, "network_options={'width': 16}")


def stages(*more: str):
    return plan("ministreet", "proca", (*SMALL, *more))


def test_all_stages_run_and_leave_what_the_next_one_wants(pair, tmp_path):
    told = []
    scores = run_plan(stages(), pair, tmp_path, quiet=True, tell=told.append)
    assert [text.split(": ")[1] for text in told] == ["source", "prototypes", "first-labels", "contrast", "labels",
                                                       "self-training", "test"]  # fmt: skip
    assert {"single", "multiscale"} <= scores.keys() and scores["multiscale"]["multiscale"] is True
    manifest = json.loads((tmp_path / "5_labels" / "labels.json").read_text(encoding="utf-8"))
    assert manifest["pictures"] == 4 and 0 < manifest["quality"]["density"] <= 1
    contrast = load_checkpoint(tmp_path / "4_contrast" / "best.pt")
    assert contrast["method"]["banks.feat.count"].sum() > 0  # the bank went into the checkpoint


def test_what_was_prepared_is_what_the_contrast_begins_with(pair, tmp_path, monkeypatch):
    run_plan(stages(), pair, tmp_path, only="source", quiet=True)
    run_plan(stages(), pair, tmp_path, only="prototypes", quiet=True)
    run_plan(stages(), pair, tmp_path, only="first-labels", quiet=True)
    assert (tmp_path / "2_prototypes" / PREPARED).is_file()
    monkeypatch.setattr(ProCA, "prepare", lambda *_: pytest.fail("made again"))
    run_plan(stages(), pair, tmp_path, only="contrast", quiet=True)


def test_a_plan_that_was_stopped_goes_on_bit_for_bit(pair, tmp_path):
    cut, again = tmp_path / "cut", tmp_path / "again"
    longer = stages("contrast.steps=4", "self-training.steps=4")
    left = 8  # steps until the request: in the middle of the self-training (2 of the start, 4 of the contrast)

    def stop():
        nonlocal left
        left -= 1
        return left == 0

    with pytest.raises(Stopped):
        while True:
            run_plan(longer, pair, cut, quiet=True, stop=stop)
    run_plan(longer, pair, cut, quiet=True)
    run_plan(longer, pair, again, quiet=True)
    a, b = (load_checkpoint(folder / "6_self-training" / "best.pt")["segmenter"] for folder in (cut, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_in_which_another_process_works_is_refused_by_every_command(pair, tmp_path):
    overrides = (*TINY, DISCRIMINATOR)
    stages = plan("ministreet", "adaptsegnet", overrides)
    commands = {
        "train": lambda **more: train_recipe(stages[0].recipe, pair, tmp_path, existing="resume", quiet=True, **more),
        "run": lambda **more: run_plan(stages, pair, tmp_path, only="adapt", quiet=True, **more),
        "compare": lambda **more: compare("ministreet", pair, tmp_path, seeds=(0,), overrides=overrides, jobs=1, quiet=True,
                                          **more),
    }
    for name, command in commands.items():
        with RunLock(tmp_path), pytest.raises(FolderInUse, match="is being trained by process"):
            command()
        assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == [], name
    with RunLock(tmp_path) as lock:
        run_plan(stages, pair, tmp_path, only="adapt", quiet=True, take_over=True)
        assert (tmp_path / "1_adapt" / "best.pt").is_file() and not list(tmp_path.rglob(".run.lock"))
        with pytest.raises(FolderInUse, match="was taken over by another process"):
            lock.check()


def test_a_stage_alone_wants_the_earlier_ones(pair, tmp_path):
    with pytest.raises(CheckpointError, match="stage 'contrast' has not left .*Run it first"):
        run_plan(stages(), pair, tmp_path, only="labels", quiet=True)
    with pytest.raises(ValueError, match="There is no stage 'label'. Did you mean labels"):
        run_plan(stages(), pair, tmp_path, only="label", quiet=True)
    with pytest.raises(ValueError, match="no stage 'contrats'. Did you mean contrast"):
        stages("contrats.steps=3")
    with pytest.raises(ValueError, match="no method 'procca'. Did you mean proca"):
        plan("ministreet", "procca")


def test_a_start_with_other_settings_is_not_taken_over(pair, tmp_path):
    run_plan(stages(), pair, tmp_path, only="source", quiet=True)
    run_plan(stages(), pair, tmp_path, only="source", quiet=True)
    with pytest.raises(CheckpointError, match="1_source holds a start with other settings .*start_lr.*another --out"):
        run_plan(stages("source.start_lr=0.1"), pair, tmp_path, only="source", quiet=True)


def test_settings_reach_one_stage_or_all():
    chosen = {stage.name: stage.recipe for stage in stages("contrast.lambda_feat=0.7", "seed=5")}
    assert chosen["contrast"].settings.lambda_feat == 0.7
    assert not chosen["self-training"].has("lambda_feat"), "which has another method"
    assert {recipe.seed for recipe in chosen.values()} == {5}


def test_without_contrast_the_steps_stay_and_the_method_is_source_only():
    names = {stage.name: stage for stage in plan("ministreet", "proca", SMALL, part="without contrast")}
    assert list(names) == ["source", "contrast", "labels", "self-training", "test"]
    assert names["contrast"].recipe.method == "source-only" and names["contrast"].prepared is None
    assert names["contrast"].recipe.loop == stages()[3].recipe.loop
    assert folder_of(list(names.values()), "labels", "out").name == "3_labels"


@pytest.mark.parametrize("method", ["source-only", "target-only", "bn-control", "self-training", "adaptsegnet"])
def test_a_method_without_stages_is_trained_then_tested(method):
    made = plan("ministreet", method)
    trained = "adapt" if method == "adaptsegnet" else method
    assert [(stage.name, stage.kind, stage.network) for stage in made] == [(trained, "train", None), ("test", "test", trained)]
    assert {stage.recipe.method for stage in made} == {method} and made[-1].multiscale


def test_what_trains_no_classifier_has_no_plan():
    words = "simclr trains no classifier that a test could score. Train it alone: `uda train simclr`"
    with pytest.raises(ValueError, match=words):
        plan("ministreet_crops", "simclr")


def test_no_stage_is_called_like_a_section_of_a_recipe():
    """STAGE.KEY and SECTION.KEY differ in their names alone."""
    sections = {*GROUPS, *PARTS, "terms", "seed"}
    assert sections == {
        "data", "network", "start", "optimiser", "loop", "scoring", "pseudo", "heads", "method", "terms", "seed",
    }  # fmt: skip
    named = {name for paper in PAPERS.values() for name in paper.stages}
    for method in (name for name, found in METHODS.items() if found.segments):
        for pair in ("ministreet", *(name for name, found in PAIRS.items() if found.scale == "published")):
            named |= {stage.name for stage in plan(pair, method)}
    assert {"contrast", "round", "round-2", "adapt"} <= named and not named & sections


@pytest.mark.parametrize("recipe", ["gta5_cityscapes", "synthia_cityscapes"])
def test_the_published_stages_have_the_released_constants(recipe):
    by_name = {stage.name: stage for stage in plan(recipe, "proca")}
    source, contrast, again = (by_name[name].recipe for name in ("source", "contrast", "self-training"))
    assert (source.loop.steps, source.loop.schedule_steps, source.optimiser.lr) == (20_000, 31_250, 5e-4)
    assert (contrast.loop.steps, contrast.optimiser.lr, contrast.settings.contrast_temperature) == (90_000, 2.5e-4, 50.0)
    assert contrast.settings.score == "logit" and contrast.heads.lambda_lovasz == 0.75
    assert by_name["self-training"].network is None, "released: from ImageNet again"
    assert again.settings.lambda_source == 0 and again.scale == (0.5, 1.5)
    assert by_name["labels"].recipe.test_size == (512, 1024) and by_name["test"].recipe.test_size == (1024, 2048)


def test_an_ablation_trains_every_row_with_equal_steps_and_resumes(pair, tmp_path, monkeypatch):
    wanted = ["source-only", "F", "Ada-ST", "F+O, Ada-ST", "F+O, Ada-ST, MST"]
    rows = find_rows(ablation_rows("proca", "ministreet", overrides=SMALL), wanted)
    options = {"seeds": (0,), "rows": rows, "overrides": SMALL, "quiet": True, "jobs": 1}
    results = compare("ministreet", pair, tmp_path, **options)
    assert list(results["rows"]) == wanted
    row = results["rows"]["F+O, Ada-ST"]
    assert row["published"] == 55.1 and row["seeds"]["0"]["labels"]["accuracy"] is not None
    folder = tmp_path / "F_O_Ada-ST" / "seed0"
    steps = [load_checkpoint(folder / name / "last.pt")["step"] for name in ("4_contrast", "6_self-training")]
    assert steps == [1, 1] and row["steps"] == 2
    assert "| paper |" in (tmp_path / "results.md").read_text(encoding="utf-8")
    monkeypatch.setattr("course_lib.experiments.compare.run_plan", lambda *_, **__: pytest.fail("ran again"))
    monkeypatch.setattr("course_lib.experiments.compare.score_network", lambda *_, **__: pytest.fail("scored again"))
    assert compare("ministreet", pair, tmp_path, **options) == results


@pytest.mark.parametrize("name, content, words", [
    ("stages.json", {"source": {"seconds": "x", "peak_bytes": None, "device": "cpu"}}, "'source.seconds' is 'x', wanted a"),
    ("stages.json", {"source": 3}, "'source' is 3, wanted a dictionary with seconds"),
    ("7_test/scores.json", {"single": {"iou": 5}}, "'single' is .* wanted a dictionary that has 'accuracy', 'classes'"),
])
def test_an_own_file_with_values_of_other_types_is_found_before_the_first_stage(name, content, words, tmp_path):
    write_whole(tmp_path / name, json.dumps({"made_by": "uda run", **content}))
    with pytest.raises(ValueError, match=f"{name}': {words}"):
        run_plan(stages(), Pair("gta5:nowhere", "cityscapes:nowhere"), tmp_path, quiet=True)
