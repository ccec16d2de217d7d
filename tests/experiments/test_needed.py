"""What a command will read is looked at before anything is trained, with the same words as when it is read."""

from dataclasses import replace
from shutil import copyfile, copytree, rmtree

import pytest

from course_lib.engine import CheckpointError
from course_lib.experiments.choice import selection_pictures
from course_lib.experiments.compare import compare
from course_lib.experiments.plan import label_target, plan, run_plan
from course_lib.experiments.train import score_network, train_recipe
from course_lib.recipes import Row, recipe
from tests.experiments.conftest import DISCRIMINATOR, TINY
from tests.experiments.test_train import tiny


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """Nothing may be trained, nor a folder made."""

    def never(*_, **__):
        pytest.fail("something was trained")

    for place in ("course_lib.experiments.train.train", "course_lib.experiments.start.train"):
        monkeypatch.setattr(place, never)
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists()


def gone(spec: str, tmp_path) -> str:
    return f"{spec.partition(':')[0]}:{tmp_path / 'gone'}" + "@val" * spec.endswith("@val")


@pytest.mark.parametrize("domain", ["source", "target", "validation"])
@pytest.mark.parametrize("paper", ["proca", "bida", "adaptsegnet"])
def test_a_plan_looks_at_all_sets_before_the_first_stage(paper, domain, pair, untrained, tmp_path):
    broken = replace(pair, **{domain: gone(getattr(pair, domain), tmp_path)})
    with pytest.raises(FileNotFoundError, match="No folder .*gone"):
        run_plan(plan("ministreet", paper, (*TINY, *[DISCRIMINATOR] * (paper == "adaptsegnet"))), broken, untrained, quiet=True)


@pytest.mark.parametrize("domain", ["source", "target", "validation"])
def test_a_comparison_looks_at_all_sets_before_the_first_network(domain, pair, untrained, tmp_path):
    broken = replace(pair, **{domain: gone(getattr(pair, domain), tmp_path)})
    with pytest.raises(FileNotFoundError, match="No folder .*gone"):
        compare("ministreet", broken, untrained, seeds=(0,), overrides=(*TINY, DISCRIMINATOR), jobs=1, quiet=True)


@pytest.fixture
def own_pair(pair, tmp_path):
    """Copies that a test may change."""
    texts = {name: getattr(pair, name) for name in ("source", "target", "validation")}
    for name, text in texts.items():
        layout, _, rest = text.partition(":")
        path, at, split = rest.partition("@")
        texts[name] = f"{layout}:{copytree(path, tmp_path / 'data' / name)}{at}{split}"
    return replace(pair, **texts)


def source_row(pair, out):
    rows = (Row("source-only", "source-only"),)
    return compare("ministreet", pair, out, seeds=(0,), rows=rows, overrides=TINY, jobs=1, quiet=True)["rows"]["source-only"]


def test_a_row_that_is_finished_wants_no_data(own_pair, tmp_path):
    row = source_row(own_pair, tmp_path / "out")
    rmtree(tmp_path / "data")
    assert source_row(own_pair, tmp_path / "out") == row


def correct(labels) -> None:
    """Another label replaces the first: the same names."""
    first, second = sorted(labels)[:2]
    copyfile(second, first)


def test_scores_on_labels_that_were_corrected_are_taken_again(own_pair, tmp_path, monkeypatch):
    stages = plan("ministreet", "proca", TINY, part="source")
    row, tested = source_row(own_pair, tmp_path / "rows"), run_plan(stages, own_pair, tmp_path / "run", quiet=True)["single"]
    assert run_plan(stages, own_pair, tmp_path / "run", quiet=True)["single"] == tested
    correct((tmp_path / "data" / "validation").rglob("*_labelIds.png"))
    monkeypatch.setattr("course_lib.experiments.train.train", lambda *_, **options: None)  # the network is finished
    assert source_row(own_pair, tmp_path / "rows")["seeds"]["0"]["iou"] != row["seeds"]["0"]["iou"]
    assert run_plan(stages, own_pair, tmp_path / "run", quiet=True)["single"]["iou"] != tested["iou"]


def test_a_start_stage_on_labels_that_were_corrected_is_not_taken(own_pair, tmp_path):
    stages = plan("ministreet", "proca", TINY, part="source")
    run_plan(stages, own_pair, tmp_path / "run", quiet=True)
    correct((tmp_path / "data" / "source" / "labels").glob("*.png"))
    with pytest.raises(CheckpointError, match="a start that was trained on other source pictures or labels under"):
        run_plan(stages, own_pair, tmp_path / "run", quiet=True)


def test_a_row_on_labels_that_were_corrected_is_trained_again(own_pair, tmp_path):
    before = source_row(own_pair, tmp_path / "rows")
    correct((tmp_path / "data" / "source" / "labels").glob("*.png"))
    with pytest.warns(UserWarning, match="run on other source pictures .* Running all stages again"):
        assert source_row(own_pair, tmp_path / "rows")["seeds"] != before["seeds"]


def test_pseudo_labels_of_pictures_that_were_replaced_are_written_again(own_pair, tmp_path):
    checkpoint = train_recipe(tiny("source-only"), own_pair, tmp_path / "network", quiet=True)
    label_target(checkpoint, own_pair, tmp_path / "labels", quiet=True)
    names = sorted((tmp_path / "labels").rglob("*.png"))
    before = [path.read_bytes() for path in names]
    correct((tmp_path / "data" / "target").rglob("*_leftImg8bit.png"))
    label_target(checkpoint, own_pair, tmp_path / "labels", quiet=True)
    assert names == sorted((tmp_path / "labels").rglob("*.png")) and before != [path.read_bytes() for path in names]


@pytest.mark.parametrize("method", ["source-only", "adaptsegnet", "proca", "target-only"])
def test_a_training_looks_at_its_sets_before_the_common_start(method, pair, untrained, tmp_path):
    """A common start may take hours."""
    for domain in ("source", "target"):
        broken = replace(pair, **{domain: gone(getattr(pair, domain), tmp_path)})
        if (method, domain) not in (("source-only", "target"),):
            with pytest.raises(FileNotFoundError, match="No folder .*gone"):
                train_recipe(tiny(method), broken, untrained, quiet=True)


def test_a_training_looks_at_labels_and_pictures_to_select_on_before_the_common_start(pair, untrained, tmp_path):
    with pytest.raises(ValueError, match="self-training learns from pseudo-labels, and there are none"):
        train_recipe(tiny("self-training"), pair, untrained, quiet=True)
    settings = ("save_every=1", "select=target-labels")
    with pytest.raises(ValueError, match="scores every candidate on labelled target pictures; give --validation"):
        train_recipe(tiny("adaptsegnet", *settings), replace(pair, validation=None), untrained, quiet=True)
    folder = f"folder:{pair.source.partition(':')[2]}/images"
    with pytest.raises(ValueError, match="Training on the source .* needs labels"):
        train_recipe(tiny("adaptsegnet"), replace(pair, source=folder), untrained, quiet=True)


def test_a_score_looks_at_its_pictures_before_statistics_are_estimated(pair, tmp_path, monkeypatch):
    checkpoint = train_recipe(tiny("source-only"), pair, tmp_path / "run", quiet=True)
    monkeypatch.setattr("course_lib.experiments.train.reestimate_statistics", lambda *_, **__: pytest.fail("estimated"))
    with pytest.raises(FileNotFoundError, match="No folder .*gone"):
        score_network(checkpoint, gone(pair.validation, tmp_path), target=pair.target, statistics="target", quiet=True)


@pytest.mark.parametrize("network", ["mit", "hrda", "deeplab_v2"])
def test_a_file_of_first_weights_that_is_not_there_is_missed_before_anything_else(network, pair, untrained):
    """Not after the days that the other networks of a comparison take."""
    options = {"imagenet": "gone/mit_b5.pth"} | ({"of": "mit"} if network == "hrda" else {})
    settings = (*TINY, f"network={network}", f"network_options={options}", "start_steps=0")
    said = f"The network {network} begins with the weights of ImageNet in 'gone/mit_b5.pth', and there is no such file"
    with pytest.raises(FileNotFoundError, match=said):
        run_plan(plan("ministreet", "dacs", settings), pair, untrained, quiet=True)
    with pytest.raises(FileNotFoundError, match=said):
        train_recipe(tiny("source-only", *settings), pair, untrained, quiet=True)


def test_steps_beyond_the_schedule_are_refused(pair, untrained):
    settings = (*TINY, "steps=9", "schedule_steps=8", "start_steps=0")
    said = "has steps=9, and with schedule_steps=8 the rate is 0 from step 8 on. Give schedule_steps=9 as well"
    with pytest.raises(ValueError, match=said):
        train_recipe(tiny("source-only", *settings), pair, untrained, quiet=True)
    with pytest.raises(ValueError, match=said):
        run_plan(plan("ministreet", "dacs", settings), pair, untrained, quiet=True)
    with pytest.raises(ValueError, match=said):
        rows = (Row("source-only", "source-only"),)
        compare("ministreet", pair, untrained, seeds=(0,), rows=rows, overrides=settings, jobs=1, quiet=True)


def test_pictures_that_choose_a_checkpoint_are_the_first_or_spread_over_all(pair):
    """The first hundred of Cityscapes are of one city."""
    several = recipe("ministreet", "source-only").override(*TINY, "save_every=1", "select_pictures=2")
    first, spread = (selection_pictures(each, pair, "imagenet") for each in (several, several.override("select_spread=yes")))
    assert list(first.indices) == [0, 1] and list(spread.indices) == [0, 2]
    every = selection_pictures(several.override("select_spread=yes", "select_pictures=9"), pair, "imagenet")
    assert list(every.indices) == [0, 1, 2, 3]
    assert recipe("gta5_cityscapes", "proca").select_spread and recipe("cityscapes_few_labels", "reco").select_spread
    plain, other = (several.override(f"select_spread={word}").identity() for word in ("no", "yes"))
    assert several.identity() == plain != other and "select_spread" not in plain, "kept scores are found by it"
