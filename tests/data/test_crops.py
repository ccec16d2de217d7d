"""Object crops: exact classes, separate streets, the same bytes from the same arguments, made whole or not at all."""

import json

import numpy as np
import pytest
from PIL import Image

from course_lib.data import open_dataset
from course_lib.data.ministreet import CLASSES, cached_crops, cut, make_crops
from course_lib.data.ministreet.making import NOT_DRAWING
from course_lib.data.ministreet.rendering import Scene
from course_lib.labels import SPACES

SMALL = dict(count=12, seed=3, per_class=1, test_per_class=1, size=16, workers=1, progress=False)
ID = SPACES["cityscapes19"].classes.index


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return make_crops(tmp_path_factory.mktemp("crops") / "set", **SMALL)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def test_the_set_has_the_folders_it_says(crops):
    found = files(crops)
    assert sum(name.startswith("unlabelled/") for name in found) == 12
    for part in ("train", "test"):
        assert sorted(p.name for p in (crops / part).iterdir()) == sorted(CLASSES)
    assert len(found) == 12 + 2 * len(CLASSES) and len(set(found.values())) == len(found)  # no street is used twice
    with Image.open(crops / "train" / "car" / "0000.png") as picture:
        assert picture.size == (16, 16) and picture.mode == "RGB"


def test_the_unlabelled_pictures_are_a_folder_of_pictures(crops):
    pictures = open_dataset(f"folder:{crops / 'unlabelled'}", labelled=False)
    assert len(pictures) == 12 and pictures[0].image.shape == (3, 16, 16)
    assert len(open_dataset(f"folder:{crops}", split="all", labelled=False)) == 12 + 2 * len(CLASSES)  # folders in folders


def test_an_equal_set_is_kept_and_another_is_refused(crops):
    before = {p: p.stat().st_mtime_ns for p in crops.rglob("*.png")}
    assert make_crops(crops, **SMALL) == crops
    assert {p: p.stat().st_mtime_ns for p in crops.rglob("*.png")} == before
    with pytest.raises(ValueError, match="something else.*another folder"):
        make_crops(crops, **SMALL | {"seed": 4})


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    from course_lib.data.ministreet import crops as code

    monkeypatch.setattr(code, "crops_of_scene", lambda *_: (_ for _ in ()).throw(RuntimeError("lightning")))
    with pytest.raises(RuntimeError, match="lightning"):
        make_crops(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_an_empty_folder_is_filled(crops, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
    make_crops(tmp_path / "link", **SMALL)
    assert (tmp_path / "link").is_symlink() and files(tmp_path / "link") == files(tmp_path / "there") == files(crops)


def test_the_cache_holds_it_once(tmp_path, monkeypatch):
    from course_lib.data.ministreet import crops as code

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    scene = _scene()
    monkeypatch.setattr(code, "render", lambda *_: scene)
    monkeypatch.setattr(code, "CLASSES", {"car": ("car",)})
    monkeypatch.setattr(code, "_CLASS_OF", {ID("car"): "car"})
    path = cached_crops(**SMALL)
    monkeypatch.setattr(code, "render", None)  # a second drawing would fail
    assert cached_crops(**SMALL) == path and json.loads((path / "manifest.json").read_text(encoding="utf-8"))["count"] == 12


def _scene() -> Scene:
    """A car of 20x30 at (30, 40), with a light of 16x16 on its roof that belongs to the same instance, on a road."""
    label, instance = np.full((96, 192), ID("road"), np.uint8), np.zeros((96, 192), np.int16)
    image = np.zeros((96, 192, 3), np.uint8)
    label[30:50, 40:70], instance[30:50, 40:70], image[30:50, 40:70] = ID("car"), 1, (200, 0, 0)
    label[14:30, 40:56], instance[14:30, 40:56], image[14:30, 40:56] = ID("traffic light"), 1, (0, 200, 0)
    label[80:90, 10:20], instance[80:90, 10:20] = ID("person"), 2  # too small
    return Scene(image, label, np.ones((96, 192), np.float32), instance)


def test_a_crop_shows_its_object_in_the_middle_and_parts_of_an_instance_are_objects_of_their_own():
    crops = dict(cut(_scene(), 32))
    assert set(crops) == {"car", "traffic_light"}
    car, light = (np.asarray(crops[name]) for name in ("car", "traffic_light"))
    assert car[16, 16, 0] > 190 and car[1, 16, 0] < 10 and car[16, 0, 0] < 60  # 1.1 times the object: a margin around
    assert light[16, 16, 1] > 190 and light[16, 31, 1] < 90


def test_the_largest_objects_of_a_class_come_first_and_only_three():
    scene = _scene()
    for k in range(5):
        scene.label[60:92, 30 * k + 20 : 30 * k + 36 + 2 * k] = ID("car")
        scene.instance[60:92, 30 * k + 20 : 30 * k + 36 + 2 * k] = 10 + k
    assert [name for name, _ in cut(scene)].count("car") == 3


def test_cutting_is_no_part_of_the_generators_version():
    assert "crops.py" in NOT_DRAWING


@pytest.mark.parametrize("wrong, word", [
    ({"count": 0}, "count = 0"), ({"per_class": 0}, "per_class"), ({"size": 4}, "16 to 1024"),
])  # fmt: skip
def test_wrong_numbers_are_refused(wrong, word, tmp_path):
    with pytest.raises(ValueError, match=word):
        make_crops(tmp_path / "set", **SMALL | wrong)
