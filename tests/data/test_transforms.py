"""Sizes, augmentation, normalisation: image and label together, as published."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as VF

from course_lib.data import NORMALISATIONS, PUBLISHED_SIZES, Sample, test_transform, train_transform
from course_lib.data import transforms as T


def picture(height, width, seed=0):
    """A smooth random picture, as photographs are, and a label that says where each pixel was."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    label = (np.arange(height * width) % 19).reshape(height, width).astype(np.uint8)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(label)


def sample(height, width):
    return Sample(*picture(height, width), "a.png")


# ---- sizes


@pytest.mark.parametrize("size", [(33, 50), (64, 41), (91, 123)])
def test_resizing_is_pillows_bicubic_for_images_and_nearest_for_labels(size):
    image, label = picture(64, 99)
    got_image, got_label = T.resize(image, label, size)
    want = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BICUBIC)
    assert (got_image.permute(1, 2, 0).int() - torch.from_numpy(np.array(want)).int()).abs().max() <= 2
    want = Image.fromarray(label.numpy()).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(got_label.numpy(), np.array(want)) and got_label.dtype == torch.uint8


def test_published_sizes():
    assert PUBLISHED_SIZES == {"gta5": (720, 1280), "synthia": (760, 1280), "cityscapes": (512, 1024)}


def test_training_resizes_both_and_testing_leaves_the_label_at_its_own_size():
    train = train_transform((8, 12), "imagenet")(sample(16, 24))
    assert train.image.shape == (3, 8, 12) and train.label.shape == (8, 12)
    test = test_transform((8, 12), "imagenet")(sample(16, 24))
    assert test.image.shape == (3, 8, 12) and test.label.shape == (16, 24)
    assert test_transform(None, "imagenet")(sample(16, 24)).image.shape == (3, 16, 24)


@pytest.mark.parametrize("transform", [train_transform(None, "caffe_bgr"), test_transform(None, "caffe_bgr")])
def test_what_comes_out_is_plain_float32_and_int64(transform):
    image, label, name = transform(sample(6, 8))
    assert type(image) is torch.Tensor and image.dtype == torch.float32 and image.is_contiguous()
    assert type(label) is torch.Tensor and label.dtype == torch.int64 and label.is_contiguous()
    assert name == "a.png" and torch.equal(label, picture(6, 8)[1].long())


# ---- geometry


def where(height, width):
    """A picture whose pixels tell their position: red the row, green the column; so does the label."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return Sample(torch.stack([row, column, row]).byte(), (row * 16 + column).byte(), "a.png")


def together(image, label):
    """Do image and label (of `where`) show the same place at every counted pixel?"""
    known = label != 255
    x = NORMALISATIONS["efficientnet_lite"].denormalise(image).long()
    return torch.equal((x[0] * 16 + x[1])[known], label[known])


def test_flip_mirrors_half_of_the_pictures_left_to_right_image_and_label_alike():
    transform = train_transform(None, "efficientnet_lite", flip=True)
    torch.manual_seed(0)
    results = [transform(where(5, 9)) for _ in range(200)]
    mirrored = [torch.equal(r.label, where(5, 9).label.flip(-1).long()) for r in results]
    assert 70 < sum(mirrored) < 130 and all(together(r.image, r.label) for r in results)
    assert all(m or torch.equal(r.label, where(5, 9).label.long()) for m, r in zip(mirrored, results))


def test_crop_takes_the_same_window_of_image_and_label_and_reaches_every_window():
    transform = train_transform(None, "efficientnet_lite", crop=(4, 7))
    torch.manual_seed(0)
    results = [transform(where(5, 9)) for _ in range(200)]
    assert all(r.image.shape == (3, 4, 7) and together(r.image, r.label) for r in results)
    assert {r.label[0, 0].item() for r in results} == {row * 16 + column for row in range(2) for column in range(3)}


def corner() -> tuple[torch.Tensor, torch.Tensor]:
    """Class 1 in 2x2 of 10x10 pixels, in a corner: 4 of 49 windows of 4x4 show some of it, one all of it."""
    label = torch.zeros(10, 10, dtype=torch.uint8)
    label[:2, :2] = 1
    return torch.zeros(3, 10, 10, dtype=torch.uint8), label


def test_a_crop_is_drawn_again_until_it_shows_the_class():
    torch.manual_seed(0)
    image, label = corner()
    for pixels, windows in ((0, 4), (1, 3), (3, 1)):
        found = [int((T.random_crop(image, label, (4, 4), 1, pixels)[1] == 1).sum()) > pixels for _ in range(2000)]
        p = 1 - (1 - windows / 49) ** 11  # the first window and ten more
        assert abs(np.mean(found) - p) < 5 * (p * (1 - p) / 2000) ** 0.5


def test_a_crop_that_never_shows_the_class_is_drawn_11_times_and_the_last_is_taken(monkeypatch):
    windows, draw = [], T._window
    monkeypatch.setattr(T, "_window", lambda *a: windows.append(draw(*a)) or windows[-1])
    image, label = corner()
    label[:] = torch.arange(100).view(10, 10) + 100
    assert torch.equal(T.random_crop(image, label, (4, 4), 1, 0)[1], label[windows[-1]]) and len(windows) == 11
    windows.clear()
    T.random_crop(image, label, (4, 4))
    assert len(windows) == 1


def test_the_transform_and_the_data_set_hand_the_class_to_the_crop():
    transform = train_transform(None, "unit", crop=(4, 4), shown_pixels=1)
    torch.manual_seed(0)
    shown = [int((transform(Sample(*corner(), "a.png"), 1).label == 1).sum()) > 1 for _ in range(300)]
    plain = [int((transform(Sample(*corner(), "a.png")).label == 1).sum()) > 1 for _ in range(300)]
    assert np.mean(shown) > 0.35 > 0.15 > np.mean(plain)  # .50 and .06
    with pytest.raises(ValueError, match="shown_pixels is -1; it wants a whole number from 0"):
        train_transform(None, "unit", shown_pixels=-1)


def test_a_picture_smaller_than_the_crop_is_padded_black_and_ignored():
    image, label, *_ = train_transform(None, "efficientnet_lite", crop=(8, 10))(where(5, 9))  # and which pixels are valid
    x = NORMALISATIONS["efficientnet_lite"].denormalise(image)
    assert together(image, label) and torch.equal(label[:5, :9], where(5, 9).label.long())
    for part in (label[5:], label[:, 9:]):
        assert (part == 255).all()
    assert not x[:, 5:].any() and not x[:, :, 9:].any()


def test_scale_is_drawn_from_its_range_and_keeps_the_proportions():
    transform = train_transform((20, 40), "imagenet", scale=(0.5, 1.5))
    torch.manual_seed(0)
    heights = []
    for _ in range(60):
        image, label, _ = transform(sample(10, 20))
        assert image.shape[1:] == label.shape and abs(label.shape[1] - 2 * label.shape[0]) <= 1
        heights.append(label.shape[0])
    assert min(heights) < 14 and max(heights) > 26 and all(10 <= h <= 30 for h in heights)


# ---- colours


def test_normalisations_are_the_published_ones():
    x = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    bgr = NORMALISATIONS["caffe_bgr"].normalise(x).flatten()
    assert torch.allclose(bgr, torch.tensor([30 - 104.00698793, 20 - 116.66876762, 10 - 122.67891434]))
    imagenet = NORMALISATIONS["imagenet"].normalise(x).flatten()
    want = VF.normalize(x.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).flatten()
    assert torch.allclose(imagenet, want, atol=1e-6)
    lite = NORMALISATIONS["efficientnet_lite"].normalise(x).flatten()
    assert torch.allclose(lite, (torch.tensor([10.0, 20, 30]) - 127) / 128)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_denormalising_gives_the_picture_back_also_for_a_batch(name):
    x = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    before = x.clone()
    assert torch.equal(T.denormalise(NORMALISATIONS[name].normalise(x), name), x) and torch.equal(x, before)
    assert T.denormalise(torch.full((3, 1, 1), 1e4), name).unique().tolist() == [255]


def test_colours_never_touch_the_label_and_nothing_is_random_by_default():
    for photometric in ("weak", "strong"):
        result = train_transform(None, "imagenet", photometric=photometric)(sample(6, 8))
        assert torch.equal(result.label, sample(6, 8).label.long())
    plain = train_transform(None, "caffe_bgr")(sample(6, 8)).image
    assert torch.equal(T.denormalise(plain, "caffe_bgr"), sample(6, 8).image)


# ---- what is said


@pytest.mark.parametrize("options, words", [
    ({"normalisation": "imagnet"}, "'imagnet'. Known: caffe_bgr, imagenet.*network.normalisation"),
    ({"photometric": "vivid"}, "photometric: it holds 'vivid', wanted one of 'none', 'weak', 'strong', 'jitter'"),
    ({"colours_on": "cuda"}, "colours_on='cuda', wanted 'loader' or 'device'"),
    ({"scale": (1.5, 0.5)}, r"scale=\(1.5, 0.5\), wanted \(lo, hi\)"),
    ({"crop": (0, 5)}, r"crop=\(0, 5\), wanted \(height, width\)"),
    ({"size": (0.5, 5)}, r"size=\(0.5, 5\), wanted \(height, width\)"),
])  # fmt: skip
def test_wrong_settings_are_refused_when_they_are_made(options, words):
    with pytest.raises(ValueError, match=words):
        train_transform(**{"size": None, "normalisation": "imagenet", **options})


@pytest.mark.parametrize("transform", [test_transform(None, "imagenet"), train_transform(None, "imagenet")])
def test_a_picture_that_nothing_makes_smaller_has_a_limit(transform):
    huge = torch.zeros(1, dtype=torch.uint8).expand(3, 6000, 6000)  # takes no memory
    with pytest.raises(ValueError, match="given 'a.png' at 6000x6000: 36 megapixels, and at most 34 are taken.*set a size"):
        transform(Sample(tv_tensors.Image(huge), tv_tensors.Mask(huge[0]), "a.png"))


@pytest.mark.parametrize("colours_on", ["loader", "device"])
def test_a_crops_padding_is_not_valid(colours_on):
    """Otherwise a teacher's labels of it, black below the picture, would be learnt."""
    image = torch.randint(1, 256, (3, 20, 40), dtype=torch.uint8)
    sample = Sample(tv_tensors.Image(image), tv_tensors.Mask(torch.zeros(20, 40, dtype=torch.uint8)), "a.png")
    padded = [((0.5, 0.5), (20, 20)), (None, (20, 44))]
    for scale, crop in (*padded, ((1.0, 1.5), (20, 20)), (None, None)):
        pads = (scale, crop) in padded
        transform = train_transform((20, 40), "unit", scale=scale, crop=crop, colours_on=colours_on)
        found = transform(sample)
        assert transform.pads == pads and (getattr(found, "valid", None) is not None) == pads
        if pads:
            assert torch.equal(found.valid, found.label != T.IGNORE) and not found.valid.all()
            black = found.image.sum(0) == 0
            assert torch.equal(black, ~found.valid)
    assert train_transform(None, "unit", crop=(20, 20)).pads, "of pictures of any size"
