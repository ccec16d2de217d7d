"""`uda data describe`: what it finds in folders of several forms, and what it never overwrites."""

import tomllib

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.data import check, layouts
from course_lib.data.describing import describe
from tests.data.trees import cityscapes


def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


def mask(path, ids=(10, 20, 30), kind="uint8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(ids, kind), (24, 32))).save(path)


def written(root):
    return tomllib.loads((root / "dataset.toml").read_text(encoding="utf-8"))


def own(root, count=4):
    for i in range(count):
        photo(root / "photos" / f"{i}.jpg", i)
        mask(root / "masks" / f"{i}.png")
    return root


def test_three_ids_beside_photographs(tmp_path):
    found = describe(own(tmp_path), progress=False)
    content = written(tmp_path)
    assert (content["pictures"], content["labels"]) == ("photos/*.jpg", "masks/*.png")
    assert content["classes"] == {"class_10": 10, "class_20": 20, "class_30": 30}
    assert content["splits"] == {"train": "even", "val": "odd"}
    assert found.pictures == found.labels == 4 and sum(share for _, share, _ in found.values) == pytest.approx(1)
    assert "class_20 = 20  # 33.33%, 4 of 4" in (tmp_path / "dataset.toml").read_text(encoding="utf-8")
    assert check(f"own:{tmp_path}", progress=False).ok and len(layouts.find_pairs("own", tmp_path, "val")) == 2


def test_splits_in_folders_and_their_words(tmp_path):
    for word in ("training", "validation"):
        photo(tmp_path / "images" / word / "a.png")
        mask(tmp_path / "labels" / word / "a.png", [0, 1000, 70], "uint16")
    describe(tmp_path, progress=False)
    content = written(tmp_path)
    assert (content["pictures"], content["labels"]) == ("images/{split}/*.png", "labels/{split}/*.png")
    assert content["splits"] == {"train": "training", "val": "validation"}
    assert list(content["classes"].values()) == [0, 70, 1000]
    assert check(f"own:{tmp_path}", "val", progress=False).ok


def test_cities_endings_and_the_colours_beside_the_ids(tmp_path):
    root = cityscapes(tmp_path)
    for i, path in enumerate(sorted(root.rglob("*_leftImg8bit.png"))):
        photo(path, i)
    for path in root.rglob("*_labelIds.png"):
        mask(path, [7, 26])
        Image.new("RGB", (32, 24), (0, 0, 142)).save(path.with_name(path.name.replace("labelIds", "color")))
        mask(path.with_name(path.name.replace("labelIds", "instanceIds")), [26001, 26002], "uint16")
    describe(root, progress=False)
    assert written(root)["pictures"] == "leftImg8bit/{split}/*/*_leftImg8bit.png"
    assert written(root)["labels"] == "gtFine/{split}/*/*_gtFine_labelIds.png"
    assert check(f"own:{root}", progress=False).ok and len(layouts.find_pairs("own", root, "val")) == 1


def test_colours_and_255_and_a_folder_for_both_kinds(tmp_path):
    for i in range(2):
        photo(tmp_path / "a" / f"{i}.png", i)
        colours = np.resize(np.array([(1, 2, 3), (255, 0, 16)], np.uint8), (24, 32, 3))
        Image.fromarray(colours).save(tmp_path / "a" / f"{i}_mask.png")
        photo(tmp_path / "b" / "rgb" / f"{i}.png", i)
        mask(tmp_path / "b" / "ids" / f"{i}.png", [0, 1, 255])
    assert describe(tmp_path / "a", progress=False).colours
    assert written(tmp_path / "a")["classes"] == {"colour_010203": "#010203", "colour_ff0010": "#ff0010"}
    assert check(f"own:{tmp_path / 'a'}", progress=False).ok
    describe(tmp_path / "b", progress=False)
    assert written(tmp_path / "b")["ignore"] == [255] and list(written(tmp_path / "b")["classes"].values()) == [0, 1]


def test_parts_are_paired(tmp_path):
    for i, part in enumerate(("01", "02")):
        photo(tmp_path / "images" / f"{part}_images" / f"{i}.png", i)
        mask(tmp_path / "labels" / f"{part}_labels" / f"{i}.png")
    describe(tmp_path, progress=False)
    assert written(tmp_path)["labels"] == "labels/*_labels/*.png"
    assert len(layouts.find_pairs("own", tmp_path, "all")) == 2


def test_an_older_file_of_its_own_is_replaced_and_an_edited_or_foreign_one_never(tmp_path):
    file = own(tmp_path) / "dataset.toml"
    describe(tmp_path, progress=False)
    first = file.read_text(encoding="utf-8")
    photo(tmp_path / "photos" / "4.jpg")
    mask(tmp_path / "masks" / "4.png")
    describe(tmp_path, progress=False)
    assert file.read_text(encoding="utf-8") != first
    edited = file.read_text(encoding="utf-8").replace("class_10", "road")
    for content, words in ((edited, "was edited since"), ("# mine\n", "did not write it")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(FileExistsError, match=f"dataset.toml .*{words}.*not overwritten"):
            describe(tmp_path, progress=False)
        assert file.read_text(encoding="utf-8") == content


def test_the_file_may_be_written_beside_the_folder(tmp_path):
    root = own(tmp_path / "mine")
    describe(root, beside=True, progress=False)
    assert not (root / "dataset.toml").exists() and written(tmp_path)["folder"] == "mine"
    assert len(layouts.find_pairs("own", root, "all")) == 4


def test_what_cannot_be_described_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        describe(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No pictures in"):
        describe(tmp_path / "empty")
    mask(tmp_path / "only" / "a.png")
    with pytest.raises(FileNotFoundError, match="has labels alone"):
        describe(tmp_path / "only")
    photo(tmp_path / "jpeg" / "images" / "a.png")
    photo(tmp_path / "jpeg" / "labels" / "a.jpg")
    with pytest.raises(ValueError, match="labels.a.jpg' seems to be a label, and it is a JPEG file: JPEG stores"):
        describe(tmp_path / "jpeg")


def test_more_than_255_values_are_no_classes(tmp_path):
    for i in range(8):
        photo(tmp_path / "images" / f"{i}.png", i)
        mask(tmp_path / "labels" / f"{i}.png", range(64 * i, 64 * i + 64), "uint16")
    with pytest.raises(ValueError, match="have more than 255 ids, .*maps of single objects"):
        describe(tmp_path, progress=False)
    assert not (tmp_path / "dataset.toml").exists()


def test_labels_with_many_ids_are_known_by_16_bits_or_by_the_name_of_their_folder(tmp_path):
    for i in range(2):
        photo(tmp_path / "deep" / "p" / f"{i}.png", i)
        mask(tmp_path / "deep" / "m" / f"{i}.png", range(0, 51000, 200), "uint16")
        photo(tmp_path / "grey" / "p" / f"{i}.png", i)
        mask(tmp_path / "grey" / "masks" / f"{i}.png", range(200))
    assert len(describe(tmp_path / "deep", progress=False).values) == 255
    assert len(describe(tmp_path / "grey", progress=False).values) == 200


def test_pictures_alone_are_described_too(tmp_path):
    for i in range(2):
        photo(tmp_path / "drive" / f"{i}.jpg", i)
    assert describe(tmp_path, progress=False).labels == 0
    assert len(layouts.find_pairs("own", tmp_path, "all", labelled=False)) == 2


def test_the_command_says_what_it_found_and_what_comes_next(tmp_path):
    result = CliRunner().invoke(app, ["data", "describe", str(own(tmp_path)), "--quiet"])
    assert result.exit_code == 0 and "4 pictures, 4 labels with 3 ids, splits train, val." in result.output
    assert "uda data check own:" in result.output
