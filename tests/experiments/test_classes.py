"""Runs on data of one's own: classes matched by name, kept in recipe and checkpoint, in every command that takes data."""

import importlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.data import open_dataset
from course_lib.data.layouts import default_space
from course_lib.engine import load_checkpoint
from course_lib.experiments.classes import class_table, common_space, spaces_of, with_classes
from course_lib.experiments.needed import content_of
from course_lib.experiments.parts import Pair, training_set
from course_lib.experiments.start import common_start
from course_lib.experiments.state import fingerprint, load_network, picture_bits
from course_lib.labels import CITYSCAPES19, SYNTHIA13, label_space, own_space
from course_lib.recipes import recipe
from tests.data.trees import cityscapes, write_image

SMALL = ("network=small", "network_options={'width': 16}", "steps=2", "start_steps=0", "batch_size=2", "save_every=2",
         "source_size=64x48", "target_size=64x48", "test_size=64x48")  # fmt: skip
TINY = [word for setting in SMALL for word in ("--set", setting)]
FILES = 'pictures = "photos/*.jpg"\nlabels = "masks/*.png"\n'
HALVES = '[splits]\ntrain = "even"\nval = "odd"\n'


def own(root, classes="road = 10\nsky = 20\ncar = 30\n"):
    for i in range(4):
        write_image(root / "photos" / f"{i}.jpg", 24, 32, seed=i)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.resize(np.array([10, 20, 30], np.uint8), (24, 32))).save(root / "masks" / f"{i}.png")
    (root / "dataset.toml").write_text(f"{FILES}[classes]\n{classes}{HALVES}", encoding="utf-8")
    return root


@pytest.fixture
def two(tmp_path):
    """Two domains with three classes numbered 10, 20, 30; two of them in both."""
    return own(tmp_path / "a"), own(tmp_path / "b", "tree = 10\nSky = 20\nROAD = 30\n")


def uda(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# ---- the matching


def test_classes_are_matched_by_name_in_the_order_and_colours_of_the_source(two):
    a, b = (f"own:{root}" for root in two)
    domains = spaces_of(Pair(a, f"{b}@train", f"{b}@val"))
    assert list(domains) == [a, b]
    space = common_space(domains)
    assert space.classes == ("road", "sky") and space.palette == default_space("own", two[0]).palette[:2]
    lines = class_table(domains, space).splitlines()
    assert lines[0] == "Classes are matched by name; 2 are learnt and scored:"
    assert [line.split() for line in lines[2:]] == [
        ["road", "road", "ROAD"], ["sky", "sky", "Sky"], ["car", "car", "-", "ignored"], ["tree", "-", "tree", "ignored"],
    ]  # fmt: skip
    assert label_space(space.name) == space, "the text in a recipe is enough"


def test_own_classes_meet_those_of_a_known_data_set(tmp_path):
    root, streets = own(tmp_path / "a", "Traffic_Sign = 10\nsky = 20\nsea = 30\n"), cityscapes(tmp_path / "cs")
    space = common_space(spaces_of(Pair(f"own:{root}", f"cityscapes:{streets}", f"cityscapes:{streets}@val")))
    assert space.classes == ("Traffic_Sign", "sky")
    chosen = recipe("ministreet", "source-only").override(f"space={space.name}")
    pictures = training_set(chosen, f"own:{root}", "source", "unit")
    assert set(pictures[0].label.unique().tolist()) == {0, 1, 255}
    assert common_space({"a": own_space(zip(CITYSCAPES19.classes, CITYSCAPES19.palette)), "b": SYNTHIA13}) == SYNTHIA13


def test_no_common_class_is_an_error_that_lists_both(tmp_path):
    a, b = own(tmp_path / "a", "sea = 10\nsand = 20\nship = 30\n"), own(tmp_path / "b")
    with pytest.raises(ValueError, match="no class in common.*a has sea, sand, ship; own:.*b has road, sky, car.*same name"):
        with_classes((), Pair(f"own:{a}", f"own:{b}"))


def test_known_data_and_a_space_that_is_given_change_nothing(two, tmp_path, capsys):
    streets = cityscapes(tmp_path / "cs")
    assert with_classes(("lr=1",), Pair(None, f"cityscapes:{streets}")) == ("lr=1",)
    assert with_classes(("space=cityscapes19",), Pair(*(f"own:{root}" for root in two))) == ("space=cityscapes19",)
    assert with_classes((), None) == () and not capsys.readouterr().err
    assert with_classes(("lr=1",), Pair(f"own:{two[0]}", None))[1] == "lr=1"
    assert "3 are learnt" in capsys.readouterr().err
    with_classes((), Pair(f"own:{two[0]}", None), quiet=True)
    assert not capsys.readouterr().err


def test_pictures_alone_have_no_say(two, tmp_path):
    (two[1] / "dataset.toml").write_text('pictures = "photos/*.jpg"\n', encoding="utf-8")
    assert list(spaces_of(Pair(f"own:{two[0]}", f"own:{two[1]}", f"folder:{two[1]}"))) == [f"own:{two[0]}"]


# ---- the commands


def test_train_evaluate_predict_and_label_keep_the_classes_without_the_data(two, tmp_path):
    a, b = two
    pair = ["--source", f"own:{a}", "--target", f"own:{b}", "--device", "cpu"]
    done = uda("train", "source-only", *pair, "--out", tmp_path / "run", *TINY)
    assert "road   " in done.stderr and "car " in done.stderr and done.exit_code == 0
    again = uda("train", "source-only", *pair, "--out", tmp_path / "run", *TINY, "--resume", "--quiet")
    assert again.exit_code == 0 and "matched" not in again.stderr
    checkpoint = tmp_path / "run" / "best.pt"
    scored = uda("evaluate", checkpoint, "--data", f"own:{b}", "--out", tmp_path / "s.json", "--device", "cpu", "--quiet")
    content = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert scored.exit_code == 0 and content["classes"] == ["road", "sky"] and list(content["subsets"]) == ["2"]
    labelled = uda("label", checkpoint, "--target", f"own:{b}", "--out", tmp_path / "labels", "--device", "cpu", "--quiet")
    assert labelled.exit_code == 0 and "2 pictures" in labelled.stdout
    assert json.loads((tmp_path / "labels" / "labels.json").read_text(encoding="utf-8"))["classes"] == ["road", "sky"]
    photo = shutil.copy(a / "photos" / "0.jpg", tmp_path / "photo.jpg")
    for root in two:
        shutil.rmtree(root)
    assert load_network(checkpoint)[1].space.endswith(" sky")
    assert uda("predict", checkpoint, photo, "--out", tmp_path / "maps", "--device", "cpu").exit_code == 0
    assert set(np.unique(np.array(Image.open(tmp_path / "maps" / "photo_labels.png")))) <= {0, 1}


def test_run_compare_and_ablate_take_own_data(two, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in this process: others import torch first
    pair = ["--source", f"own:{two[0]}", "--target", f"own:{two[1]}", "--device", "cpu", "--quiet"]
    assert uda("run", "source-only", *pair, "--out", tmp_path / "run", *TINY).exit_code == 0
    assert uda("compare", "source-only", *pair, "--out", tmp_path / "compare", "--seeds", "0", *TINY).exit_code == 0
    rows = ["--rows", "source-only", "--seeds", "0", "--like", "synthia"]
    assert uda("ablate", "bida", *rows, *pair, "--out", tmp_path / "ablate", *TINY).exit_code == 0
    for name in ("compare", "ablate"):
        results = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
        assert label_space(results["space"]).classes == ("road", "sky")


def test_a_prepared_set_keeps_the_classes(two, tmp_path):
    a, b = two
    out = tmp_path / "small"
    made = uda("data", "prepare", f"own:{a}", "--out", out, "--size", "16x12", "--split", "train", "--split", "val", "--quiet")
    assert made.exit_code == 0
    checked = uda("data", "check", f"prepared:{out}", "--quiet")
    assert checked.exit_code == 0 and "3 classes (road, sky, car)" in checked.stdout
    done = uda("train", "source-only", "--source", f"prepared:{out}", "--target", f"own:{b}", "--out", tmp_path / "run",
               "--device", "cpu", *TINY)  # fmt: skip
    assert done.exit_code == 0 and "2 are learnt" in done.stderr
    text = (a / "dataset.toml").read_text(encoding="utf-8")
    (a / "dataset.toml").write_text(text.replace("road = 10\nsky = 20", "road = 20\nsky = 10"), encoding="utf-8")
    with pytest.raises(ValueError, match="prepared otherwise: mapping"):
        uda("data", "prepare", f"own:{a}", "--out", out, "--size", "16x12", "--split", "all", "--quiet")


# ---- what is kept for later


def test_other_meanings_of_the_same_files_are_other_data(two, tmp_path):
    """Results, starts and runs are not taken over when dataset.toml gives an id another class."""
    a = two[0]
    text = (a / "dataset.toml").read_text(encoding="utf-8")
    chosen = recipe("ministreet", "source-only").override(*SMALL, "start_steps=1", *with_classes((), Pair(f"own:{a}", None)))

    def known():
        pictures = training_set(chosen, f"own:{a}", "source", "imagenet")
        weights = common_start(chosen, Pair(f"own:{a}", None), quiet=True)
        return content_of(Pair(f"own:{a}", None), chosen.space), fingerprint(pictures), sum(w.sum() for w in weights.values())

    first = known()
    (a / "dataset.toml").write_text("# a remark\n" + text, encoding="utf-8")
    assert known() == first
    (a / "dataset.toml").write_text(text.replace("road = 10\nsky = 20", "road = 20\nsky = 10"), encoding="utf-8")
    assert all(was != now for was, now in zip(first, known()))
    moved = shutil.copytree(a, tmp_path / "moved")
    assert content_of(Pair(f"own:{moved}", None), chosen.space) == content_of(Pair(f"own:{a}", None), chosen.space)


def test_a_checkpoint_keeps_the_bits_that_the_targets_file_says(two, tmp_path, monkeypatch):
    """New pictures are read as those of the training, though the recipe has the default."""
    a, b = two
    text = (b / "dataset.toml").read_text(encoding="utf-8")
    (b / "dataset.toml").write_text("bits = 12\n" + text, encoding="utf-8")
    for method, wanted in (("source-only", 16), ("dacs", 12)):  # source-only reads the source alone
        given = ("--source", f"own:{a}", "--target", f"own:{b}", "--out", tmp_path / method, *TINY, "--quiet")
        trained = uda("train", method, *given)
        assert trained.exit_code == 0, trained.output
        best = tmp_path / method / "best.pt"
        pictures = load_checkpoint(best)["pictures"]
        assert load_network(best)[1].bits == 16 and picture_bits(best, load_network(best)[1]) == wanted
    predict = importlib.import_module("course_lib.evaluation.predict")  # the package has a function of that name
    twelve = open_dataset(f"own:{b}", labelled=False)
    assert twelve.bits == 12 and pictures["target"] == fingerprint(twelve)
    (b / "dataset.toml").write_text(text, encoding="utf-8")
    assert fingerprint(open_dataset(f"own:{b}", labelled=False)) != pictures["target"], "other pixels are read of these files"
    seen, read = [], predict.read_picture
    monkeypatch.setattr(predict, "read_picture", lambda path, bits: seen.append(bits) or read(path, bits))
    for more, wanted in (((), 12), (("--bits", 16), 16)):
        assert uda("predict", best, a / "photos" / "0.jpg", "--out", tmp_path / f"{wanted}", *more).exit_code == 0
        assert seen.pop() == wanted
