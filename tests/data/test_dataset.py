"""Files -> samples with train ids."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from course_lib.data import Sample, check, open_dataset, reading
from tests.data.trees import cityscapes, images_and_labels, write_image, write_label, write_png16


def test_a_sample_is_image_train_ids_and_name(tmp_path):
    dataset = open_dataset(f"cityscapes:{cityscapes(tmp_path)}", split="val")
    image, label, name = dataset[0]
    assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8 and image.shape == (3, 6, 8)
    assert isinstance(label, tv_tensors.Mask) and label.shape == (6, 8) and label.unique().tolist() == [13]  # car
    assert name == dataset.name_of(0) == "frankfurt/frankfurt_000000_000294_leftImg8bit.png"
    with Image.open(dataset.image_paths[0]) as truth:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(truth))
    assert len(dataset) == 1 and "cityscapes19" in repr(dataset)


def test_a_palette_label_gives_its_indices_and_never_its_colours(tmp_path):
    dataset = open_dataset(f"gta5:{images_and_labels(tmp_path, raw_id=33)}")
    assert dataset[2].label[0].tolist() == [255] + [18] * 7  # raw 2 is not counted, raw 33 is the bicycle


def test_a_palette_packed_into_one_bit_is_read_too(tmp_path):
    path = tmp_path / "packed.png"
    image = Image.fromarray(np.eye(5, 7, dtype=np.uint8))
    image.putpalette([9, 9, 9, 200, 200, 200])
    image.save(path, bits=1)
    assert np.array_equal(reading.read_raw_label(path), np.eye(5, 7))


def test_synthias_class_is_channel_0_of_16_bits(tmp_path):
    write_image(tmp_path / "RGB" / "0000000.png", 1, 3)
    ids = np.array([[[3, 513, 7], [21, 770, 9], [16, 1, 1]]], dtype=np.uint16)
    write_png16(tmp_path / "GT" / "LABELS" / "0000000.png", ids)
    assert open_dataset(f"synthia:{tmp_path}", space="synthia16")[0].label.tolist() == [[0, 3, 255]]
    assert open_dataset(f"synthia:{tmp_path}", space="cityscapes19")[0].label.tolist() == [[0, 3, 9]]


def test_without_labels_every_pixel_is_ignored_and_no_label_file_is_opened(tmp_path, monkeypatch):
    root = images_and_labels(tmp_path)
    monkeypatch.setattr(reading, "read_raw_label", lambda path: pytest.fail("a label was read"))
    dataset = open_dataset(f"gta5:{root}", labelled=False)
    assert dataset[0].label.shape == (6, 8) and dataset[0].label.unique().tolist() == [255]
    assert not dataset.labelled and not open_dataset(f"folder:{root / 'images'}").labelled
    with pytest.raises(ValueError, match="cannot count classes. Open it with labelled=True"):
        _ = dataset.class_counts


def test_a_size_mismatch_names_both_files(tmp_path):
    write_image(tmp_path / "images" / "a.png", 6, 8)
    write_label(tmp_path / "labels" / "a.png", np.zeros((8, 6)))
    with pytest.raises(ValueError, match=r"images.a.png' is 8x6, .*labels.a.png' is 6x8"):
        open_dataset(f"gta5:{tmp_path}")[0]


def test_grey_transparent_and_16_bit_pictures_become_8_bit_rgb(tmp_path):
    for mode in ("L", "RGBA", "LA", "P", "1"):
        Image.new(mode, (4, 2)).save(tmp_path / f"{mode}.png")
    deep = write_png16(tmp_path / "deep.png", np.full((2, 4, 3), 0x8001, dtype=np.uint16))
    Image.fromarray(np.full((2, 4), 0x8001, dtype=np.uint16)).save(tmp_path / "deep_grey.png")
    for sample in open_dataset(f"folder:{tmp_path}"):
        assert sample.image.shape == (3, 2, 4) and sample.image.dtype == torch.uint8
    for path in (deep, tmp_path / "deep_grey.png"):
        assert reading.read_image(path).unique().tolist() == [0x80]


def test_a_coloured_label_picture_is_refused_with_the_right_file_named(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_image(tmp_path / "labels" / "a.png")
    with pytest.raises(ValueError, match=r"labels.a.png' has mode RGB, wanted one byte.*labelIds"):
        open_dataset(f"gta5:{tmp_path}")[0]


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_a_damaged_file_is_named(tmp_path, kind, content):
    root = images_and_labels(tmp_path, count=1)
    path = root / kind / "00000.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(ValueError, match=rf"Cannot read .*{kind}.00000.png' \(\d+ bytes\).*again"):
        open_dataset(f"gta5:{root}")[0]


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_file_that_vanishes_is_named(tmp_path, kind):
    dataset = open_dataset(f"gta5:{images_and_labels(tmp_path, count=1)}")
    (tmp_path / kind / "00000.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{kind}.00000.png' has gone"):
        dataset[0]


def test_a_space_that_the_layout_cannot_give_is_refused_before_any_file_is_sought():
    with pytest.raises(ValueError, match="CamVid.*camvid11"):
        open_dataset("camvid:/no/such/folder", space="cityscapes19")


# ---- randomness


def noisy(sample: Sample) -> Sample:
    return sample._replace(image=torch.rand(3))


def test_the_draw_seed_alone_decides_the_random_choices(tmp_path):
    dataset = open_dataset(f"gta5:{images_and_labels(tmp_path)}", transform=noisy)
    torch.manual_seed(1)
    first = dataset[0, 7].image
    torch.manual_seed(2)
    assert torch.equal(dataset[0, 7].image, first) and not torch.equal(dataset[0, 8].image, first)
    assert torch.equal(dataset[3].image, dataset[3].image)


def test_reading_leaves_the_global_random_numbers_alone(tmp_path):
    dataset = open_dataset(f"gta5:{images_and_labels(tmp_path)}", transform=noisy)
    before = torch.random.get_rng_state()
    dataset[0, 7], dataset[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_can_be_sent_to_a_worker_and_iterated(tmp_path):
    dataset = pickle.loads(pickle.dumps(open_dataset(f"gta5:{images_and_labels(tmp_path)}", transform=noisy)))
    assert [sample.name for sample in dataset] == [f"{i:05}.png" for i in range(5)]


# ---- which classes occur where


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_class_counts_count_train_ids_of_each_file(tmp_path, cache):
    root = tmp_path / "data"
    write_image(root / "images" / "a.png", 2, 3)
    write_label(root / "labels" / "a.png", [[7, 7, 8], [0, 33, 33]])
    write_image(root / "images" / "b.png", 1, 1)
    write_label(root / "labels" / "b.png", [[0]])
    counts = open_dataset(f"gta5:{root}").class_counts
    assert counts.shape == (2, 19) and counts.dtype == np.int64
    assert counts[0].tolist() == [2, 1] + [0] * 16 + [2] and not counts[1].any()


def test_class_counts_are_counted_once_and_again_when_a_label_changes(tmp_path, cache, monkeypatch):
    root = images_and_labels(tmp_path / "data", count=2)
    first = open_dataset(f"gta5:{root}").class_counts
    read, opened = reading.read_raw_label, []
    monkeypatch.setattr(reading, "read_raw_label", lambda path: opened.append(path) or read(path))
    assert np.array_equal(open_dataset(f"gta5:{root}").class_counts, first) and not opened
    assert open_dataset(f"gta5:{root}", space="synthia16").class_counts.shape == (2, 16)
    assert len(opened) == 2  # another table, another count
    other = open_dataset(f"gta5:{root}")
    other.table = np.roll(other.table, 1)
    assert not np.array_equal(other.class_counts, first) and len(opened) == 4  # of the same shape, too
    os.utime(root / "labels" / "00000.png", (1, 1))
    assert np.array_equal(open_dataset(f"gta5:{root}").class_counts, first) and len(opened) == 6
    write_label(root / "labels" / "00000.png", np.full((6, 8), 33))
    assert open_dataset(f"gta5:{root}").class_counts[0, 18] == 48


def test_a_broken_or_unwritable_cache_only_costs_time(tmp_path, cache):
    root = images_and_labels(tmp_path / "data", count=2)
    first = open_dataset(f"gta5:{root}").class_counts
    (file,) = (cache / "class_counts").glob("*.json")
    file.write_text("{", encoding="utf-8")
    assert np.array_equal(open_dataset(f"gta5:{root}").class_counts, first)
    file.write_text('{"counts": [[1]]}', encoding="utf-8")
    assert np.array_equal(open_dataset(f"gta5:{root}").class_counts, first)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file where the folder should be", encoding="utf-8")
    assert np.array_equal(open_dataset(f"gta5:{root}").class_counts, first)


@pytest.mark.parametrize("wrong", [-1, "x", 1.5, None, [1]])
def test_cached_counts_that_are_none_are_counted_again(wrong, tmp_path, cache):
    root = images_and_labels(tmp_path)
    first = open_dataset(f"gta5:{root}").class_counts
    (path,) = (cache / "class_counts").glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["counts"][0][0] = wrong
    path.write_text(json.dumps(content), encoding="utf-8")
    assert np.array_equal(open_dataset(f"gta5:{root}").class_counts, first)


def test_labels_without_any_class_are_no_labels(tmp_path):
    """SYNTHIA saved again with channels in reverse order: the class is in the third, the first is 0, void."""
    for i in range(40):
        write_image(tmp_path / "RGB" / f"{i:07}.png")
        pixels = np.zeros((6, 8, 3), dtype=np.uint16)
        pixels[..., 2] = 3
        write_png16(tmp_path / "GT" / "LABELS" / f"{i:07}.png", pixels)
    data = open_dataset(f"synthia:{tmp_path}")
    words = r"Training: synthia:.*: none of the 14 label files that were read has a pixel of a class.*is it in the third here"
    with pytest.raises(ValueError, match=words):
        data.require_labels("Training")
    report = check(f"synthia:{tmp_path}", progress=False)
    assert not report.ok and [problem.kind for problem in report.problems] == ["sets without a labelled pixel"]
    assert "is it in the third here" in report.table() and "It cannot be trained on" in report.table()
    assert "Everything can be read" not in report.table()
    write_image(tmp_path / "images" / "1.png")
    write_label(tmp_path / "labels" / "1.png", np.zeros((6, 8)))
    assert check(f"gta5:{tmp_path}", progress=False).table().count("Is it the right layout?\n") == 1  # SYNTHIA's alone
    pixels[..., 0] = 3
    write_png16(data.pairs[39].label, pixels)
    assert data.require_labels("Training") is data and check(f"synthia:{tmp_path}", progress=False).ok


def test_pictures_that_would_share_a_pseudo_label_are_named(tmp_path):
    for name in ("a.jpg", "a.png"):
        write_image(tmp_path / "pictures" / name)
    write_label(tmp_path / "labels" / "a.png", np.zeros((6, 8)))
    with pytest.raises(ValueError, match="pictures 'a.jpg' and 'a.png' would share the file 'a.png'. Rename one of them"):
        open_dataset(f"folder:{tmp_path / 'pictures'}").with_labels(tmp_path / "labels")
