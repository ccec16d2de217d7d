"""Our scores and those of the Cityscapes benchmark's own script are the same numbers, to the last bit.

Small trees in the benchmark's layout; its script compares files of raw ids, ours goes the way every user's scores go:
`open_dataset`, a loader, `evaluate`, and `Confusion` for predictions that were read from files.
"""

import copy
import math

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from course_lib.data import open_dataset, test_loader, test_transform
from course_lib.data.reading import read_raw_label
from course_lib.data.transforms import denormalise
from course_lib.evaluation import Confusion, evaluate
from course_lib.labels import CITYSCAPES19, CITYSCAPES_LABELS, SPACES, lookup_table, raw_ids
from course_lib.networks import Prediction

COUNTED = raw_ids("cityscapes")  # raw ids of the 19 classes
ALL = tuple(label.id for label in CITYSCAPES_LABELS)
PLACES = ("frankfurt/frankfurt_000000_000294", "frankfurt/frankfurt_000001_000019", "munster/munster_000000_000019")
TREES = {  # ids in the truth, ids among the mistakes
    "every id in the truth": (ALL, COUNTED),
    "classes absent from both": (COUNTED[:6] + (0, 4), COUNTED[2:9]),
    "classes only predicted": (COUNTED[:5], COUNTED),
    "classes never predicted": (COUNTED, COUNTED[:3]),
    "ignored ids predicted": (ALL, ALL),
    "only ignored ids predicted": (COUNTED, (0, 1, 9, 30)),
}
FILES = ["ignored ids predicted", "only ignored ids predicted"]  # no network of 19 classes says these: read from files


@pytest.fixture(params=TREES)
def tree(request, tmp_path):
    """The name of a tree and its folder: leftImg8bit/, gtFine/ and, with what was predicted, results/."""
    in_truth, in_mistakes = TREES[request.param]
    rng = np.random.default_rng(list(TREES).index(request.param))
    table = lookup_table("cityscapes", "cityscapes19")
    for place in PLACES:
        truth = rng.choice(in_truth, (17, 23)).astype(np.uint8)
        said = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice(in_mistakes, truth.shape)).astype(np.uint8)
        if request.param not in FILES:  # a network says one of its 19 classes on ignored pixels, too
            said = np.where(np.isin(said, COUNTED), said, COUNTED[13]).astype(np.uint8)
        elif request.param.startswith("only"):
            said = rng.choice(in_mistakes, truth.shape).astype(np.uint8)
        save(tmp_path / "gtFine" / "val" / f"{place}_gtFine_labelIds.png", truth)
        instances = np.where(truth >= 24, truth.astype(np.int32) * 1000 + 1, truth).astype(np.uint16)
        save(tmp_path / "gtFine" / "val" / f"{place}_gtFine_instanceIds.png", instances)
        save(tmp_path / "results" / f"{place}.png", said)
        save(tmp_path / "leftImg8bit" / "val" / f"{place}_leftImg8bit.png", np.stack([table[said]] * 3, -1))
    return request.param, tmp_path


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def theirs(tree, monkeypatch):
    """What the benchmark's script says of the tree."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the script wants a name that numpy 2.4 took away
    _, root = tree
    args = copy.copy(official.args)
    args.quiet, args.JSONOutput = True, False
    truths = [str(root / "gtFine" / "val" / f"{place}_gtFine_labelIds.png") for place in PLACES]
    return official.evaluateImgLists([str(root / "results" / f"{place}.png") for place in PLACES], truths, args) | {
        "args": args
    }


class Parrot(nn.Module):
    """Says what the picture's red says."""

    normalisation = "imagenet"

    def forward(self, image):
        ids = denormalise(image, self.normalisation)[:, 0].long()
        logits = F.one_hot(ids, 19).movedim(-1, 1).float()
        return Prediction(logits, logits)


def counted_from_files(root, space) -> Confusion:
    table, confusion = lookup_table("cityscapes", space), Confusion(SPACES[space].num_classes)
    for sample in open_dataset(f"cityscapes:{root}", "val", space):
        said = np.take(table, read_raw_label(root / "results" / sample.name.replace("_leftImg8bit", "")))
        confusion.update(torch.from_numpy(said), sample.label)
    return confusion


def same(ours: float, official_one: float) -> bool:
    return ours == official_one or (math.isnan(ours) and math.isnan(official_one))


def test_every_class_and_the_mean_equal_the_official_score(tree, theirs):
    _, root = tree
    confusion = counted_from_files(root, "cityscapes19")
    for name, iou in zip(CITYSCAPES19.classes, confusion.iou().tolist()):
        assert same(iou, theirs["classScores"][name]), name
    assert same(confusion.miou(), theirs["averageScoreClasses"])
    assert 0 <= confusion.miou() < 1


def test_a_networks_scores_equal_the_official_score(tree, theirs):
    name, root = tree
    if name in FILES:
        return
    dataset = open_dataset(f"cityscapes:{root}", "val", transform=test_transform(None, "imagenet"))
    scores = evaluate(Parrot(), test_loader(dataset, batch_size=2), "cityscapes19", progress=False)
    for name, iou in zip(scores.classes, scores.iou):
        assert same(iou, theirs["classScores"][name]), name
    assert same(scores.miou, theirs["averageScoreClasses"])
    assert scores.miou == scores.subsets["19"]
    assert scores.images == 3


@pytest.mark.parametrize("subset", ["16", "13"])
def test_means_over_fewer_classes_are_those_of_the_official_classes(tree, theirs, subset):
    """Terrain, truck and train count among the mistakes; the mean leaves them out."""
    _, root = tree
    chosen = {name: theirs["classScores"][name] for name in SPACES[f"synthia{subset}"].classes}
    expected = official.getScoreAverage(chosen, theirs["args"])
    assert same(counted_from_files(root, "cityscapes19").miou(subset), expected)


@pytest.mark.parametrize("space", ["synthia16", "synthia13"])
def test_smaller_label_spaces_equal_the_official_matrix_with_the_others_ignored(tree, theirs, space, monkeypatch):
    """Their matrix, read by their functions after the missing classes were declared ignored."""
    _, root = tree
    confusion, matrix = counted_from_files(root, space), np.array(theirs["confMatrix"], dtype=np.ulonglong)
    for raw in COUNTED:
        if official.id2label[raw].name not in SPACES[space].classes:
            monkeypatch.setitem(official.id2label, raw, official.id2label[raw]._replace(ignoreInEval=True))
    scores = {name: official.getIouScoreForLabel(official.name2label[name].id, matrix, theirs["args"])
              for name in SPACES[space].classes}  # fmt: skip
    for name, iou in zip(SPACES[space].classes, confusion.iou().tolist()):
        assert same(iou, scores[name]), name
    assert same(confusion.miou(), official.getScoreAverage(scores, theirs["args"]))


def test_the_trees_are_what_their_names_say(tree, theirs):
    """Otherwise the equalities above could hold for nothing."""
    name, _ = tree
    matrix, scores = np.array(theirs["confMatrix"]), theirs["classScores"]
    absent = [c for c in CITYSCAPES19.classes if math.isnan(scores[c])]
    void = [raw for raw in ALL if raw not in COUNTED]
    assert bool(absent) == (name == "classes absent from both")
    assert matrix[np.ix_(COUNTED, void)].any() == (name in FILES)
    assert bool(matrix[void].any()) == ("every" in name or "absent" in name or name == FILES[0])
    never = [raw for raw in COUNTED if matrix[raw].any() and not matrix[COUNTED, raw].any()]
    assert bool(never) == (name == FILES[1])
    assert theirs["averageScoreClasses"] > 0 or name == FILES[1]
