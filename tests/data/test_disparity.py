"""Depth files -> disparities: both encodings, noise, errors, and the same geometry as picture and label."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import Batch, collate, open_dataset, test_transform, train_loader, train_transform
from course_lib.data.disparity import (
    BASELINE,
    CELL,
    FOCAL,
    NEAREST,
    UNKNOWN,
    from_centimetres,
    from_pixels,
    noisy,
    read_disparity,
    with_depth,
)
from course_lib.data.ministreet import make, render, scene_seed
from course_lib.data.png16 import encode_png16
from course_lib.data.reading import BadPicture
from course_lib.data.transforms import random_crop
from course_lib.data.types import ExtendedSample, Sample, Unfinished
from course_lib.experiments.state import fingerprint
from tests.bounds import bound, close, stated
from tests.data.trees import cityscapes, images_and_labels

FLOAT = torch.float32
SIZE = (16, 32)
LAYOUTS = {"gta5": "game", "synthia": "game", "cityscapes": "camera"}


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """MiniStreet in each layout."""
    root = tmp_path_factory.mktemp("street")
    for layout in LAYOUTS:
        make(layout, root / layout, 3, 3, size=SIZE, workers=1, progress=False)
    return root


def write16(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png16(np.asarray(values)))
    return path


# ---- values


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ministreets_depth_is_the_renderers_in_every_layout(street, layout):
    sample = open_dataset(f"{layout}:{street / layout}", depth=True)[1]
    Z = render(scene_seed(3, "train", 1), LAYOUTS[layout], SIZE).depth
    wanted = np.where(np.isfinite(Z), NEAREST / np.where(np.isfinite(Z), Z, 1), 0)
    # half a centimetre of Z is at most 0.005 / Z of NEAREST / Z
    near = stated(1.01 * 0.005 / Z[np.isfinite(Z)].min() * wanted.max(), "files hold whole centimetres")
    assert isinstance(sample, ExtendedSample) and sample.disparity.dtype == FLOAT and sample.disparity.shape == SIZE
    close(sample.disparity, wanted, near)
    assert (sample.disparity == 0).any() and 0.3 < sample.disparity.max() < 1, "a sky, and nothing nearer than NEAREST"


def test_cityscapes_formula():
    """d = (p - 1) / 256 for p > 0, depth = baseline focal / d; 0 says nothing."""
    p = np.array([0, 1, 2, 257, 30_000, 65_535])
    wanted = [UNKNOWN, 0.0, *(min(1, NEAREST / (BASELINE * FOCAL / ((v - 1) / 256))) for v in p[2:].tolist())]
    close(from_pixels(p), wanted, bound(4, FLOAT))


def test_centimetres():
    close(from_centimetres(np.array([0, 1, 199, 200, 400, 65_535])), [0, 1, 1, 1, 0.5, 200 / 65_535], bound(2, FLOAT))


def test_cityscapes_own_disparities_come_before_those_of_ministreet(tmp_path):
    root = cityscapes(tmp_path)
    name = "val/frankfurt/frankfurt_000000_000294"
    write16(root / f"depth/{name}_depth.png", np.full((6, 8), 400))
    assert (open_dataset(f"cityscapes:{root}", "val", depth=True)[0].disparity == 0.5).all()
    values = np.arange(48).reshape(6, 8) * 256
    write16(root / f"disparity/{name}_disparity.png", values)
    assert np.array_equal(open_dataset(f"cityscapes:{root}", "val", depth=True)[0].disparity, from_pixels(values))


def test_synthias_archive_has_a_folder_of_its_own(street, tmp_path):
    (tmp_path / "RAND_CITYSCAPES").symlink_to(street / "synthia", target_is_directory=True)
    inner, plain = (open_dataset(f"synthia:{root}", labelled=False, depth=True) for root in (tmp_path, street / "synthia"))
    assert len(inner) == 3 and torch.equal(inner[0].disparity, plain[0].disparity)


def test_depth_is_read_only_where_it_is_wanted(street, tmp_path):
    assert isinstance(open_dataset(f"gta5:{street / 'gta5'}")[0], Sample)
    assert isinstance(open_dataset(f"gta5:{images_and_labels(tmp_path)}")[0], Sample)


# ---- noise


def test_noise_is_a_pictures_own_and_smooth_and_as_large_as_it_says():
    D = torch.full((128, 256), 0.25)
    D[0], D[1] = 0.0, UNKNOWN
    one, same, other = noisy(D, 0.2, "a.png"), noisy(D, 0.2, "a.png"), noisy(D, 0.2, "b.png")
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(one[:2], D[:2]) and one.max() <= 1 and (noisy(D, 9.0, "a.png") <= 1).all()
    e = (one[2:] / 0.25).log() / 0.2
    corners = e[CELL - 2 :: CELL, ::CELL]
    assert 0.7 < corners.std() < 1.3 and abs(corners.mean()) < 0.57  # 112 normal numbers: six of their standard errors
    assert (e[:, 1:] - e[:, :-1]).abs().max() < 8 / CELL, "a slope between two corners"


def test_noise_of_a_data_set(street):
    exact, noise = (open_dataset(f"gta5:{street / 'gta5'}", depth=True, depth_noise=s) for s in (0.0, 0.3))
    name = exact.name_of(0)
    assert torch.equal(noise[0].disparity, noisy(exact[0].disparity, 0.3, name))
    assert not torch.equal(noise[0].disparity, exact[0].disparity)
    assert torch.equal(noise[0].image, exact[0].image) and torch.equal(noise[0].label, exact[0].label)


# ---- geometry


def marked(height: int = 12, width: int = 20) -> ExtendedSample:
    """A sample whose label and disparity hold the same numbers, 0 to 239; the picture likewise."""
    place = torch.arange(height * width).view(height, width)
    return ExtendedSample(place.byte().expand(3, -1, -1).contiguous(), place.byte(), "a.png", disparity=place / 240)


def labels_of(D: torch.Tensor) -> torch.Tensor:
    return torch.where(D == UNKNOWN, 255, (D * 240).round().long())


@pytest.mark.parametrize("options", [
    {"size": (6, 10)}, {"size": (24, 40)}, {"size": (7, 13), "flip": True}, {"size": None, "crop": (5, 7), "flip": True},
    {"size": None, "scale": (0.5, 2.0), "crop": (9, 9)}, {"size": None, "crop": (16, 24)},
    {"size": (6, 10), "plain": True, "margins": (0.2, 0.1, 0.1), "crop": (8, 8)},
])  # fmt: skip
@pytest.mark.parametrize("colours_on", ["loader", "device"])
def test_disparity_moves_as_the_label_does_and_keeps_its_values(options, colours_on):
    transform = train_transform(options["size"], "imagenet", colours_on=colours_on, photometric="strong",
                                **{k: v for k, v in options.items() if k != "size"})  # fmt: skip
    padded = False
    for seed in range(12):
        torch.manual_seed(seed)
        found = transform(marked())
        assert torch.equal(labels_of(found.disparity), found.label) and found.disparity.dtype == FLOAT
        padded |= bool((found.disparity == UNKNOWN).any())
    assert padded == ("crop" in options and options["crop"] in ((16, 24), (9, 9), (8, 8)))


def test_colours_do_not_touch_it_and_it_changes_no_draw():
    for colours_on in ("loader", "device"):
        transform = train_transform(None, "imagenet", crop=(8, 8), flip=True, photometric="strong", colours_on=colours_on)
        torch.manual_seed(4)
        with_it = transform(marked())
        torch.manual_seed(4)
        without = transform(Sample(*marked()[:3]))
        assert torch.equal(with_it.image, without.image) and torch.equal(with_it.label, without.label)
        assert isinstance(without, Unfinished) == (colours_on == "device") and without.disparity is None


def test_for_looking_it_is_brought_to_the_pictures_size():
    found = test_transform((6, 10), "imagenet", resize_label=True)(marked())
    assert torch.equal(labels_of(found.disparity), found.label)
    whole = test_transform(None, "imagenet")(marked())
    assert torch.equal(whole.disparity, marked().disparity)
    assert isinstance(test_transform(None, "imagenet")(Sample(*marked()[:3])), Sample)


def test_a_crop_returns_what_is_beside_it():
    image, label, *_, D = marked()
    torch.manual_seed(0)
    cropped = random_crop(image, label, (30, 9), beside=((D, UNKNOWN),))
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(cropped, random_crop(image, label, (30, 9))))
    assert torch.equal(labels_of(cropped[2]), cropped[1].long()) and (cropped[2][12:] == UNKNOWN).all()


# ---- batches


@pytest.mark.parametrize("colours_on", ["loader", "device"])
def test_batches_have_it_where_samples_have(street, colours_on):
    transform = train_transform(None, "imagenet", colours_on=colours_on)
    dataset = open_dataset(f"gta5:{street / 'gta5'}", transform=transform, depth=True)
    batch = next(iter(train_loader(dataset, 2, seed=0))).to("cpu")
    assert isinstance(batch, Batch) and batch.disparity.shape == (2, *SIZE)
    for name, D in zip(batch.name, batch.disparity):
        assert torch.equal(D, read_disparity(street / "gta5" / "depth" / name, SIZE))
    moved = batch.to("meta")
    assert moved.disparity.device.type == "meta"
    plain = open_dataset(f"gta5:{street / 'gta5'}", transform=transform)
    assert collate([plain[0], plain[1]]).to("cpu").disparity is None


# ---- what is missing or wrong


def test_a_layout_without_a_place_for_depth_is_named():
    for layout, more in (("camvid", ""), ("folder", ""), ("prepared", " A prepared set keeps no depth: give the original.")):
        words = f"{layout} has no place for it; wanted one of gta5, synthia, cityscapes, in which MiniStreet writes it.{more}"
        with pytest.raises(ValueError, match=words):
            with_depth([], layout, Path("data"))


def test_missing_depth_says_what_came_what_was_wanted_and_what_to_do(street, tmp_path):
    root = images_and_labels(tmp_path / "real")
    words = r"5 of 5 pictures without depth, the first: .*00000.png' has no depth: wanted .*depth.00000.png'.*choose a method"
    with pytest.raises(FileNotFoundError, match=words):
        open_dataset(f"gta5:{root}", depth=True)
    city = cityscapes(tmp_path / "city")
    with pytest.raises(FileNotFoundError, match=r"294_disparity.png'. Unpack disparity_trainvaltest.zip there, leave the pic"):
        open_dataset(f"cityscapes:{city}", "val", depth=True)
    with pytest.raises(ValueError, match=r"Nothing of gta5:.* can be used. The first problem: The picture .* has no depth"):
        open_dataset(f"gta5:{root}", depth=True, skip_bad=True)


def bad_files(root) -> dict[str, str]:
    """Depth files of five pictures, four of them bad; the words of each problem."""
    images_and_labels(root)
    for i in range(5):
        write16(root / "depth" / f"{i:05}.png", np.full((6, 8), 100 * (i + 1)))
    os.truncate(root / "depth" / "00000.png", 45)
    write16(root / "depth" / "00001.png", np.full((8, 6), 100))
    Image.new("RGB", (8, 6)).save(root / "depth" / "00002.png")
    (root / "depth" / "00003.png").unlink()
    return {"00000": "damaged", "00001": r"differ in size: .*depth.00001.png' is 6x8, its picture 8x6",
            "00002": "has mode RGB, wanted grey of 16 bits"}  # fmt: skip


def test_bad_depth_files_are_named(tmp_path):
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(BadPicture, match=words):
            read_disparity(tmp_path / "depth" / f"{name}.png", (6, 8))


def test_skip_bad_leaves_out_pictures_whose_depth_is_missing_or_bad(tmp_path):
    bad_files(tmp_path)
    for _ in range(2):  # the second time from the cache
        good = open_dataset(f"gta5:{tmp_path}", depth=True, skip_bad=True)
        assert [good.name_of(i) for i in range(len(good))] == ["00004.png"]
        assert sorted(p.kind for p in good.skipped) == sorted(
            ["damaged files", "depth files that differ in size", "depth files of a wrong mode", "pictures without depth"]
        )
        assert all("depth" in p.file for p in good.skipped if p.kind != "pictures without depth")
    assert len(open_dataset(f"gta5:{tmp_path}", skip_bad=True)) == 5, "without depth nothing is wrong"


def test_16_bit_colour_is_read_by_its_first_channel(tmp_path):
    """As the real SYNTHIA stores depth."""
    values = np.zeros((6, 8, 3), np.uint16)
    values[..., 0] = 400
    assert (read_disparity(write16(tmp_path / "a.png", values), (6, 8)) == 0.5).all()


def test_a_resumed_run_would_know_other_depth_files(street):
    with_depth = open_dataset(f"gta5:{street / 'gta5'}", depth=True)
    assert fingerprint(with_depth) != fingerprint(open_dataset(f"gta5:{street / 'gta5'}"))
    assert fingerprint(with_depth) == fingerprint(open_dataset(f"gta5:{street / 'gta5'}", depth=True))


def test_labels_from_elsewhere_keep_the_depth(street, tmp_path):
    dataset = open_dataset(f"gta5:{street / 'gta5'}", depth=True, labelled=False)
    with_truth = dataset.with_truth(open_dataset(f"gta5:{street / 'gta5'}"))
    assert torch.equal(with_truth[0].disparity, dataset[0].disparity)
    assert torch.equal(with_truth[0].label, open_dataset(f"gta5:{street / 'gta5'}")[0].label)
