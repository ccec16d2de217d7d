"""Scores of label maps that another program wrote."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import ministreet, open_dataset
from course_lib.data import test_loader as loader_of
from course_lib.data import test_transform as transform_of
from course_lib.evaluation import Confusion, evaluate, predict
from course_lib.evaluation.label_maps import confusion_csv, find_maps, score_label_maps, scores_csv
from course_lib.labels import CITYSCAPES19, IGNORE
from course_lib.networks import build
from tests.bounds import bound, close


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("val")
    ministreet.make("cityscapes", root, 3, 3, split="val", size=(32, 64), workers=1, progress=False)
    return open_dataset(f"cityscapes:{root}", "val")


@pytest.fixture
def maps(pictures, tmp_path):
    """FOLDER/<name>.png of random ids, 255 among them, and the ids by name."""
    draw, ids = np.random.default_rng(0), {}
    for pair in pictures.pairs:
        ids[pair.name] = draw.choice([*range(19), IGNORE], (32, 64)).astype(np.uint8)
        path = tmp_path / "maps" / pair.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids[pair.name]).save(path)
    return tmp_path / "maps", ids


def test_the_counts_are_those_of_the_ids(pictures, maps):
    folder, ids = maps
    scores, counts = score_label_maps(folder, pictures, progress=False)
    wanted = Confusion(19)
    for i in range(len(pictures)):
        wanted.update(torch.from_numpy(ids[pictures.name_of(i)]), torch.as_tensor(pictures.read(i).label))
    assert torch.equal(counts.matrix, wanted.matrix) and torch.equal(counts.missed, wanted.missed)
    assert counts.missed.sum() > 0 and scores.miou == wanted.miou() and scores.images == 3


def test_what_predict_writes_scores_as_the_network_does(pictures, tmp_path):
    network = build("small", 19, seed=0, width=8)
    shown = open_dataset(pictures.spec.partition(" ")[0], "val", transform=transform_of(None, network.normalisation))
    wanted = evaluate(network, loader_of(shown), "cityscapes19", progress=False)
    root = pictures.pairs[0].image.parents[1]
    predict(network, [root], tmp_path / "out", progress=False)
    found, _ = score_label_maps(tmp_path / "out", pictures, progress=False)
    assert str(found.iou) == str(wanted.iou) and found.miou == wanted.miou  # of equal counts; nan is no number


@pytest.mark.parametrize("files", [
    ("aachen/aachen_1_leftImg8bit.png", "ulm/ulm_2_leftImg8bit.png", "x.png"),
    ("aachen/aachen_1_leftImg8bit_labels.png", "ulm/ulm_2_leftImg8bit_labels.png", "x_labels.png"),
    ("aachen/aachen_1.png", "ulm/ulm_2.png", "x.png"),
    ("aachen_1.png", "ulm_2.PNG", "x.png"),
    ("aachen_1_leftImg8bit.png", "ulm_2_labels.png", "x.png"),
])  # fmt: skip
def test_names_of_maps(files, tmp_path):
    for file in (*files, "x_overlay.png", "notes.txt", ".hidden.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    names = ["aachen/aachen_1_leftImg8bit.png", "ulm/ulm_2_leftImg8bit.png", "x.jpg"]
    assert list(find_maps(tmp_path, names).values()) == list(files)


def test_two_pictures_of_one_map_are_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="pictures 'a/x.png' and 'b/x.png' would share the file 'x.png'. Put each"):
        find_maps(tmp_path, ["a/x.png", "b/x.png"])


def test_missing_and_extra_maps_are_named(pictures, maps):
    folder, ids = maps
    first = next(iter(ids))
    (folder / "other.png").write_bytes((folder / first).read_bytes())
    with pytest.raises(ValueError, match=r"1 of 4 label maps in .* belong to no picture of city.*: 'other.png'. .*@SPLIT"):
        score_label_maps(folder, pictures, progress=False)
    (folder / first).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 3 pictures of .* have no label map in .*: '{first}', wanted '{first}'"):
        score_label_maps(folder, pictures, progress=False)
    with pytest.raises(FileNotFoundError, match="No folder '.*nowhere'. Give the folder with the label maps"):
        score_label_maps(folder / "nowhere", pictures, progress=False)
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No label maps in '.*empty', wanted \*.png"):
        score_label_maps(folder / "empty", pictures, progress=False)


def test_wrong_maps_are_errors_that_name_the_file(pictures, maps):
    folder, ids = maps
    path = folder / list(ids)[1]

    def said(image):
        image.save(path)
        with pytest.raises(ValueError) as error:
            score_label_maps(folder, pictures, progress=False)
        assert str(path) in str(error.value)
        return str(error.value)

    raw = np.zeros((32, 64), np.uint8)
    raw[0, :3] = 33
    assert "has ids that are no class: 33 (3 pixels); it wants the train ids 0 to 18" in said(Image.fromarray(raw))
    assert "is 32x16, its label" in said(Image.fromarray(raw[:16, :32] * 0))
    assert "has mode RGB, wanted one byte a pixel" in said(Image.new("RGB", (64, 32)))
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="Cannot read .*as a picture"):
        score_label_maps(folder, pictures, progress=False)


def test_pictures_without_labels_cannot_be_scored_with(pictures, maps):
    plain = open_dataset(pictures.spec.partition(" ")[0], "val", labelled=False)
    with pytest.raises(ValueError, match="Scoring needs labels"):
        score_label_maps(maps[0], plain, progress=False)


def test_the_tables_hold_the_counts(pictures, maps):
    scores, counts = score_label_maps(maps[0], pictures, progress=False)
    rows = list(csv.DictReader(io.StringIO(scores_csv(scores, counts))))
    assert [row["class"] for row in rows] == list(CITYSCAPES19.classes)
    assert [row["train_id"] for row in rows] == [str(c) for c in range(19)]
    for c, row in enumerate(rows):
        truth, hit = int(counts.matrix[c].sum() + counts.missed[c]), int(counts.matrix[c, c])
        assert int(row["pixels"]) == truth and row["made_by"] == "uda score"
        for name, wanted in (("iou", scores.iou[c]), ("recall", hit / truth if truth else None),
                             ("precision", hit / int(counts.matrix[:, c].sum()))):  # fmt: skip
            if wanted is None:
                assert row[name] == ""
            else:  # one division in another format
                close(float(row[name]), wanted, bound(2, torch.float32 if name == "iou" else torch.float64))
    assert any(row["recall"] == "" for row in rows), "a class without a pixel"
    head, *lines = csv.reader(io.StringIO(confusion_csv(scores, counts)))
    assert head == ["true class", *CITYSCAPES19.classes, "none", "made_by"]
    assert [[int(cell) for cell in line[1:20]] for line in lines] == counts.matrix.tolist()
    assert [int(line[20]) for line in lines] == counts.missed.tolist()
