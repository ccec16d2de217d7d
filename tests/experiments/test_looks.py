"""What ProCA prepares: prototypes as plain means over the whole source, thresholds of the target, and the file of them."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import open_dataset, test_transform
from course_lib.engine import CheckpointError, load_checkpoint
from course_lib.experiments.looks import prepare
from course_lib.experiments.parts import seeded_segmenter
from course_lib.experiments.train import train_recipe
from course_lib.methods import ProCA
from course_lib.recipes.recipe import build_method
from tests.experiments.test_train import tiny
from tests.processes import together

CPU = torch.device("cpu")


def proca(*more: str):
    """The tiny recipe, with the method's own constants in place of those chosen for MiniStreet."""
    return tiny("proca", "rule=mean", "feed=both", "score=probability", "target_labels=threshold", *more)


def method(recipe):
    return build_method(recipe, seeded_segmenter(recipe))


def initialised(recipe, pair, **options):
    m = method(recipe)
    prepare(m, recipe, pair, device=CPU, quiet=True, **options)
    return m


@torch.no_grad()
def vectors(segmenter, pair, domain, size):
    """(features (n, D), logits (n, C), labels (n,)) of every place of every training picture, one picture at a time."""
    segmenter.eval()
    where = {"source": pair.source, "target": pair.target}[domain]
    pictures = open_dataset(where, "train", "cityscapes19", test_transform(size, segmenter.normalisation))
    features, logits, labels = [], [], []
    for k in range(len(pictures)):
        prediction = segmenter(pictures[k].image[None])
        h, w = prediction.logits.shape[-2:]
        label = np.asarray(Image.fromarray(pictures.read(k).label.numpy()).resize(size[::-1], Image.Resampling.NEAREST))
        grid = label[np.arange(h) * size[0] // h][:, np.arange(w) * size[1] // w]
        features.append(prediction.features[0].flatten(1).T.double().numpy())
        logits.append(prediction.logits[0].flatten(1).T.double().numpy())
        labels.append(grid.ravel())
    return np.concatenate(features), np.concatenate(logits), np.concatenate(labels)


# ---- the values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["64x32", "80x40", "40x20"])
def test_prototypes_are_plain_means_over_the_whole_source(size, pair):
    recipe = proca(f"source_size={size}", "batch_size=3", "flip=yes", "photometric=strong")
    m = initialised(recipe, pair)
    assert all(bank.seen.any() for bank in m.banks.values()) and m.segmenter.training
    features, logits, labels = vectors(method(recipe).segmenter, pair, "source", recipe.source_size)
    seen = [c for c in range(19) if (labels == c).any()]
    assert len(seen) > 5 and m.banks["feat"].seen.nonzero().flatten().tolist() == seen
    for space, rows in (("feat", features), ("out", logits)):
        bank = m.banks[space]
        for c in seen:
            np.testing.assert_allclose(bank.mean[0, c].numpy(), rows[labels == c].mean(0), rtol=0, atol=1e-5)
            assert bank.count[0, c] == (labels == c).sum()


def test_the_pass_is_in_evaluation_mode(pair):
    """Batch normalisation: its statistics stay as they are, and are what the pass normalises with."""
    recipe = proca("network_options={'norm': 'batch'}", "batch_size=3")
    m = initialised(recipe, pair)
    untouched = method(recipe).segmenter.state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in m.segmenter.state_dict().items())
    features, _, labels = vectors(method(recipe).segmenter, pair, "source", recipe.source_size)
    c = int(np.bincount(labels[labels < 19]).argmax())
    np.testing.assert_allclose(m.banks["feat"].mean[0, c].numpy(), features[labels == c].mean(0), rtol=1e-5)


def test_thresholds_stay_the_settings_unless_they_are_class_wise(pair):
    assert initialised(proca("threshold=0.8"), pair).thresholds.tolist() == pytest.approx([0.8] * 19)


def test_class_wise_thresholds_are_those_of_the_whole_target(pair):
    recipe = proca("target_labels=class-wise", "target_share=0.3", "target_cap=0.1", "target_size=80x40")
    m = initialised(recipe, pair)
    _, logits, _ = vectors(method(recipe).segmenter, pair, "target", recipe.target_size)
    probabilities = torch.from_numpy(logits).float().softmax(1)
    sure, c = (x.numpy() for x in probabilities.max(1))
    wanted = np.zeros(19)
    for k in set(c):
        x = np.sort(sure[c == k])
        wanted[k] = min(x[min(round(0.7 * len(x)), len(x) - 1)], 0.1)
    assert len(set(wanted)) > 2
    np.testing.assert_allclose(m.thresholds.numpy(), wanted, rtol=0, atol=1e-5)


def test_class_wise_thresholds_want_probabilities(pair):
    with pytest.raises(ValueError, match="class-wise.* wants score='probability'"):
        initialised(proca("target_labels=class-wise", "score=logit"), pair)


def test_target_labels_are_not_opened(pair, tmp_path):
    from pathlib import Path
    from shutil import copytree, rmtree

    bare = Path(copytree(pair.target.partition(":")[2], tmp_path / "bare"))
    rmtree(bare / "gtFine")
    recipe = proca("target_labels=class-wise")
    blind = initialised(recipe, dataclasses.replace(pair, target=f"cityscapes:{bare}"))
    assert torch.equal(blind.thresholds, initialised(recipe, pair).thresholds)


# ---- the file -------------------------------------------------------------------------------------------------------


def state(m) -> dict:
    return {name: value for name, value in m.state_dict().items() if not name.startswith("segmenter")}


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_file_gives_the_same_prototypes_without_a_look_at_the_source(pair, tmp_path, monkeypatch):
    recipe = proca()
    first = initialised(recipe, pair, out=tmp_path / "prepared.pt")
    monkeypatch.setattr(ProCA, "prepare", lambda *_: pytest.fail("the source was looked at"))
    kept = dataclasses.replace(pair, prepared=str(tmp_path / "prepared.pt"))
    second = initialised(recipe, kept)
    assert_equal(state(first), state(second))
    one_space = initialised(proca("lambda_feat=0"), kept)
    assert list(one_space.banks) == ["out"] and torch.equal(one_space.banks["out"].mean, first.banks["out"].mean)


def test_prototypes_of_another_network_are_refused(pair, tmp_path):
    initialised(proca(), pair, out=tmp_path / "prepared.pt")
    other = dataclasses.replace(pair, prepared=str(tmp_path / "prepared.pt"))
    with pytest.raises(CheckpointError, match=r"prepared.pt was prepared for another network.*made again"):
        initialised(proca("seed=1"), other)
    with pytest.raises(CheckpointError, match="for another size"):
        initialised(proca("source_size=48x32"), other)
    with pytest.raises(CheckpointError, match="for another source"):
        initialised(proca(), dataclasses.replace(other, source=f"{pair.source}@all"))
    with pytest.raises(CheckpointError, match="for another network"):
        train_recipe(proca("seed=1"), other, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("first, then", [
    (["threshold=0.8"], ["threshold=0.9"]),  # the thresholds are in the file
    (["target_labels=class-wise", "target_share=0.3"], ["target_labels=class-wise", "target_share=0.5"]),
    (["lambda_feat=0"], []),  # no prototypes of features are in the file
])
def test_what_other_settings_prepared_is_refused(first, then, pair, tmp_path):
    initialised(proca(*first), pair, out=tmp_path / "prepared.pt")
    kept = dataclasses.replace(pair, prepared=str(tmp_path / "prepared.pt"))
    initialised(proca(*first, "lambda_out=0.3"), kept)  # a weight
    with pytest.raises(CheckpointError, match="prepared for another set of settings .*Remove the file"):
        initialised(proca(*then), kept)


def test_thresholds_of_another_target_are_refused_and_prototypes_alone_have_none(pair, tmp_path):
    elsewhere = dataclasses.replace(pair, prepared=str(tmp_path / "prepared.pt"), target=f"{pair.target}@val")
    initialised(proca(), pair, out=tmp_path / "prepared.pt")
    initialised(proca(), elsewhere)
    initialised(proca("target_labels=class-wise"), pair, out=tmp_path / "prepared.pt")
    for other, settings in ((elsewhere, []), (dataclasses.replace(elsewhere, target=pair.target), ["target_size=80x40"])):
        with pytest.raises(CheckpointError, match="prepared for another target"):
            initialised(proca("target_labels=class-wise", *settings), other)


def test_training_begins_with_them(pair, tmp_path):
    """The counts of a finished run are the source's, plus what the steps' batches had."""
    recipe = proca("start_steps=0", "threshold=1.1")  # no target pixel is sure enough
    train_recipe(recipe, pair, tmp_path / "run", quiet=True)
    counts = load_checkpoint(tmp_path / "run" / "last.pt")["method"]["banks.feat.count"].sum()
    begun = initialised(recipe, pair).banks["feat"].count.sum()
    cells = recipe.batch_size * 8 * 16
    assert begun > cells and 0 < counts - begun <= recipe.loop.steps * cells


# ---- two processes --------------------------------------------------------------------------------------------------


class Work:
    def __init__(self, pair, out):
        self.pair, self.out = pair, out

    def __call__(self) -> dict:
        recipe = proca("target_labels=class-wise", "batch_size=1")
        made = state(initialised(recipe, self.pair, out=self.out))
        torch.distributed.barrier()  # process 0 writes the file
        read = state(initialised(recipe, dataclasses.replace(self.pair, prepared=str(self.out))))
        assert_equal(made, read)
        return made


def test_the_parts_of_two_processes_add_up_to_the_whole(pair, tmp_path):
    whole = state(initialised(proca("target_labels=class-wise", "batch_size=1"), pair))
    for made in together(Work(pair, tmp_path / "prepared.pt"), tmp_path):
        assert torch.equal(made["banks.feat.count"], whole["banks.feat.count"])
        for name, value in whole.items():
            torch.testing.assert_close(made[name], value, rtol=0, atol=1e-12 if name.startswith("banks") else 0)
