"""Density and accuracy of BiDA's kinds of labels against counting pixel by pixel, and what they are measured on."""

import dataclasses
import json
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import open_dataset, test_transform
from course_lib.engine import load_checkpoint
from course_lib.experiments.looks import label_kinds, label_table, load_method
from course_lib.experiments.train import train_recipe
from course_lib.methods.bida import KINDS
from course_lib.recipes import PAPERS
from tests.experiments.test_train import tiny
from tests.oracles import pseudo_labels as oracle

SOURCE, TARGET, T = (32, 64), (40, 80), 0.75


def bida(*more: str):
    """Batches of three and one of the four pictures; normalisation that training and evaluation do differently."""
    settings = ("batch_size=3", "target_size=80x40", f"dynamic_threshold={T}", "network_options={'norm': 'batch'}")
    return tiny("bida", *settings, "dynamic_prototypes=batch", "dynamic=calibrated", "bank_momentum=0.5", *more)


@pytest.fixture(scope="module")
def checkpoint(labelled_pair, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bida")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(root / "cache"))
        return train_recipe(bida("steps=4", "lr=0.01"), labelled_pair, root / "run", quiet=True)


def measured(checkpoint, pair, static=None):
    return label_kinds(checkpoint, dataclasses.replace(pair, pseudo_labels=str(static or pair.pseudo_labels)), quiet=True)


# ---- the values -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def looked_at(m, where, size, folder=None):
    """(features, labels at `size`) of every training picture, one at a time."""
    pictures = open_dataset(where, "train", "cityscapes19", test_transform(size, m.segmenter.normalisation))
    pictures = pictures if folder is None else pictures.with_labels(folder)
    for k in range(len(pictures)):
        label = Image.fromarray(pictures.read(k).label.numpy().astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        yield m.segmenter(pictures[k].image[None]).features[0].double().numpy(), np.asarray(label)


def prototypes(pictures) -> list:
    """rho_S(c): the mean over the cells whose label, up and left in the cell, is c; None for a class without."""
    members = [[] for _ in range(19)]
    for f, y in pictures:
        h, w = f.shape[1:]
        for i, j in np.ndindex(h, w):
            if (c := y[i * y.shape[0] // h, j * y.shape[1] // w]) != 255:
                members[c].append(f[:, i, j])
    return [np.mean(each, axis=0) if each else None for each in members]


def spread(labels, size):
    h, w = labels.shape
    return np.array([[labels[i * h // size[0], j * w // size[1]] for j in range(size[1])] for i in range(size[0])])


def test_every_kind_equals_counting_pixel_by_pixel(checkpoint, labelled_pair):
    m, _ = load_method(checkpoint)
    m.segmenter.eval()
    source = list(looked_at(m, labelled_pair.source, SOURCE))
    target = list(looked_at(m, labelled_pair.target, TARGET))
    static = [y for _, y in looked_at(m, labelled_pair.target, TARGET, labelled_pair.pseudo_labels)]
    xi = np.where((m.mu_S.seen & m.mu_T.seen).numpy()[:, None], (m.mu_T.mean - m.mu_S.mean)[0].numpy(), 0)
    said = {kind: [] for kind in KINDS}
    for start, end in ((0, 3), (3, 4)):
        rho = prototypes(source[start:end])
        moved = [r if r is None else r + d for r, d in zip(rho, xi)]
        for (f, _), y_F in zip(target[start:end], static[start:end]):
            uncalibrated, dynamic = (
                spread(np.array(oracle.dynamic_labels([f.tolist()], p, T)[0]), TARGET) for p in (rho, moved)
            )
            for kind, y in zip(KINDS, (y_F, uncalibrated, dynamic, np.where(dynamic != 255, dynamic, y_F))):
                said[kind].append(y)
    found, truth = measured(checkpoint, labelled_pair), np.stack([y for _, y in target])
    assert list(found) == list(KINDS)
    for kind in KINDS:
        y = np.stack(said[kind])
        known = (y != 255) & (truth != 255)
        assert found[kind]["density"] == pytest.approx(known.mean(), abs=1e-6)
        assert found[kind]["accuracy"] == pytest.approx((y == truth)[known].mean(), abs=1e-6)
        for c in range(19):
            own = known & (y == c)
            assert found[kind]["class_density"][c] == pytest.approx(own.mean(), abs=1e-6)
            assert found[kind]["class_accuracy"][c] == (pytest.approx((truth == c)[own].mean()) if own.any() else None)
    densities = [found[kind]["density"] for kind in KINDS]
    assert 0.05 < min(densities) and max(densities) < 0.98 and len(set(densities)) == 4


def test_a_hybrid_is_as_dense_as_it_can_be(checkpoint, labelled_pair):
    d = {kind: each["density"] for kind, each in measured(checkpoint, labelled_pair).items()}
    assert max(d["static"], d["dynamic"]) < d["hybrid"] < d["static"] + d["dynamic"]


def test_static_labels_are_those_of_the_folder(checkpoint, labelled_pair, tmp_path):
    other = Path(copytree(labelled_pair.pseudo_labels, tmp_path / "other"))
    for path in other.rglob("*.png"):
        with Image.open(path) as image:
            image.point(lambda c: 255).save(path)
    plain, found = measured(checkpoint, labelled_pair), measured(checkpoint, labelled_pair, other)
    assert found["static"]["density"] == 0 and found["static"]["accuracy"] is None
    assert found["hybrid"] == found["dynamic"] == plain["dynamic"]


def test_averages_come_from_the_checkpoint(checkpoint):
    m, recipe = load_method(checkpoint)
    content = load_checkpoint(checkpoint)
    assert recipe.method == "bida" and m.settings == recipe.settings and m.mu_T.seen.any()
    for name, value in m.state_dict().items():
        part, key = ("segmenter", name.removeprefix("segmenter.")) if name.startswith("segmenter.") else ("method", name)
        assert torch.equal(value, content[part][key]), name


# ---- where nothing can be measured ----------------------------------------------------------------------------------


def test_another_methods_checkpoint_is_refused(pair, tmp_path):
    other = train_recipe(tiny("source-only", "start_steps=0"), pair, tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="best.pt was trained by source-only; this wants a checkpoint of bida"):
        measured(other, pair, tmp_path)


def test_a_target_without_truth_has_nothing_to_measure(checkpoint, labelled_pair, tmp_path):
    bare = Path(copytree(labelled_pair.target.partition(":")[2], tmp_path / "bare"))
    rmtree(bare / "gtFine")
    for target in (f"cityscapes:{bare}", f"folder:{bare / 'leftImg8bit' / 'train'}"):
        assert measured(checkpoint, dataclasses.replace(labelled_pair, target=target)) is None


def test_with_skip_bad_the_other_pictures_are_measured(checkpoint, labelled_pair, tmp_path):
    """A damaged true label takes its picture out, and the pseudo-label of that picture with it."""
    target = Path(copytree(labelled_pair.target.partition(":")[2], tmp_path / "target"))
    truth = sorted((target / "gtFine" / "train").rglob("*_labelIds.png"))
    truth[0].write_bytes(truth[0].read_bytes()[:40])
    broken = dataclasses.replace(labelled_pair, target=f"cityscapes:{target}", skip_bad=True)
    found = measured(checkpoint, broken)
    transform = test_transform(TARGET, "imagenet", resize_label=True)
    whole = open_dataset(labelled_pair.target, "train", "cityscapes19", transform)
    files = whole.with_labels(labelled_pair.pseudo_labels)
    y, true = (torch.stack([pictures[k].label for k in range(1, 4)]) for pictures in (files, whole))
    known = (y != 255) & (true != 255)
    assert found["static"]["density"] == pytest.approx(known.double().mean().item(), abs=1e-6)
    assert found["static"]["accuracy"] == pytest.approx((y == true)[known].double().mean().item(), abs=1e-6)


# ---- as text --------------------------------------------------------------------------------------------------------


PAPER = PAPERS["bida"].label_kinds


def test_the_table_stands_beside_the_papers(checkpoint, labelled_pair):
    lines = label_table(measured(checkpoint, labelled_pair), PAPER).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(KINDS)
    assert lines[2].endswith("| 20.1 / 98.5 |") and lines[5].endswith("| 42.3 / 98.8 |")


def test_percentages_and_gaps_of_the_table():
    line = label_table({"dynamic": {"density": 0.3456, "accuracy": None}}, PAPER).splitlines()[2]
    assert line == "| dynamic | 34.6 | - | 34.3 / 98.6 |"
    line = label_table({"hybrid": {"density": 0.5, "accuracy": 0.9876}}, PAPER).splitlines()[2]
    assert line == "| hybrid | 50.0 | 98.8 | 42.3 / 98.8 |"


def test_what_is_measured_can_be_written_as_json(checkpoint, labelled_pair):
    found = measured(checkpoint, labelled_pair)
    assert json.loads(json.dumps(found), parse_constant=pytest.fail) == found
