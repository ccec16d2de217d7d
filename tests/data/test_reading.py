"""Every mode of a picture with known pixels, with and without an orientation mark, and labels that fit them or do not."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import open_dataset, reading, test_loader, test_transform
from course_lib.data.reading import BadPicture, read_image, read_pair
from tests.data.pictures import DEEP, GREY, KINDS, RGB, UNMARKED, exif, tiff16, upright, with_chunk, write
from tests.data.trees import write_label

TABLE = np.arange(256, dtype=np.uint8)  # labels of train ids as they are


def pixels(path, bits=16) -> np.ndarray:
    image = read_image(path, bits)
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


@pytest.mark.filterwarnings("error")  # Pillow's, where a palette with transparency is converted
@pytest.mark.parametrize("mark", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_is_read_upright(kind, mark, tmp_path):
    assert np.array_equal(pixels(write(kind, tmp_path, mark)), upright(KINDS[kind], mark))


@pytest.mark.parametrize("kind", UNMARKED)
def test_formats_without_marks_are_read_too(kind, tmp_path):
    assert np.array_equal(pixels(write(kind, tmp_path)), UNMARKED[kind])


@pytest.mark.parametrize("mark", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read_upright(mode, mark, tmp_path):
    ramp = np.indices((16, 24)).sum(0).astype(np.uint8) * 6
    image = Image.fromarray(np.dstack([ramp, ramp[::-1], ramp[:, ::-1]])).convert(mode)
    image.save(tmp_path / "plain.jpg", quality=95, subsampling=0)
    image.save(tmp_path / "marked.jpg", quality=95, subsampling=0, exif=b"Exif\0\0" + exif(mark))
    assert np.array_equal(pixels(tmp_path / "marked.jpg"), upright(pixels(tmp_path / "plain.jpg"), mark))
    assert np.abs(pixels(tmp_path / "plain.jpg").astype(int) - np.asarray(image.convert("RGB"))).max() < 24  # JPEG's own loss


@pytest.mark.parametrize("behind", [False, True])
def test_a_png_may_have_its_mark_behind_the_pixels(behind, tmp_path):
    path = write("RGB png", tmp_path)
    path.write_bytes(with_chunk(path.read_bytes(), b"eXIf", exif(6), behind))
    assert np.array_equal(pixels(path), upright(RGB, 6))


@pytest.mark.parametrize("damaged", [exif(0), exif(9), exif(6)[:13], b"", b"nothing of the kind"])
def test_a_mark_that_is_none_turns_nothing(damaged, tmp_path):
    path = write("RGB png", tmp_path)
    path.write_bytes(with_chunk(path.read_bytes(), b"eXIf", damaged))
    assert np.array_equal(pixels(path), RGB)


@pytest.mark.parametrize("kind", ["I;16 png", "I tif", "I;16B tif", "LA 16 png", "RGB 16 png", "RGBA 16 png", "RGB 16 < tif"])
def test_bits_say_what_is_white_and_more_is_an_error(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.data.pictures.DEEP", small := DEEP >> 4)
    monkeypatch.setattr("tests.data.pictures.DEEP_RGB", np.stack([small, small[::-1], small[:, ::-1]], axis=-1))
    path = write(kind, tmp_path)
    assert pixels(path, 12)[..., 0].tolist() == [[0, 128, 255], [0, 0, 127]]  # of 0, 2048, 4095, 8, 8 and 2047
    assert pixels(path, 16).max() == 16  # 4095 of 65535: nearly black
    with pytest.raises(BadPicture, match=rf"{path.name}' has the value 4095; wanted 0 to 1023.*bits=12 or more") as error:
        read_image(path, 10)
    assert error.value.kind == "pictures with values beyond their range"


@pytest.mark.parametrize("values, words", [
    (np.int32([[70000, 1]]), "has the value 70000; wanted 0 to 65535, which 16 bits hold. Scale its values to 0..65535"),
    (np.int32([[-3, 70000]]), "has the value -3; wanted 0 to 65535"),
    (np.float32([[0, 213.5]]), "floating-point values from 0 to 213.5; wanted 0 .black. to 1 .white.. Scale them"),
    (np.float32([[-0.5, 1]]), "from -0.5 to 1; wanted"),
    (np.float32([[np.nan, 1]]), "from nan to nan; wanted"),
])  # fmt: skip
def test_values_beyond_the_range_are_named(values, words, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(BadPicture, match=rf"Picture .*a.tif' .*{words}"):
        read_image(tmp_path / "a.tif")


def test_16_bits_in_planes_are_refused_rather_than_misread(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff16(np.dstack([DEEP] * 3), "<", 1, planar=2))
    with pytest.raises(BadPicture, match="a.tif.*more than 8 bits a channel.*16-bit PNG"):
        read_image(tmp_path / "a.tif")


def test_of_several_frames_the_first_is_read(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    assert np.array_equal(pixels(tmp_path / "a.gif")[..., 0], GREY)


# ---- labels


def pair(tmp_path, mark, label, label_mark=1, stored=RGB):
    """A picture of 3x2 as it is stored with this mark, and a label."""
    image, path = Image.fromarray(stored), write_label(tmp_path / "label.png", label)
    image.save(tmp_path / "image.png", exif=exif(mark))
    path.write_bytes(with_chunk(path.read_bytes(), b"eXIf", exif(label_mark)))
    return tmp_path / "image.png", path


IDS = np.arange(6).reshape(2, 3)


def both(read) -> tuple[np.ndarray, np.ndarray]:
    return read.image.permute(1, 2, 0).numpy(), read.label.numpy()


@pytest.mark.parametrize("mark", [5, 6, 7, 8])
def test_a_label_of_the_upright_size_turns_the_picture(mark, tmp_path):
    read = read_pair(*pair(tmp_path, mark, IDS.T), TABLE)
    image, label = both(read)
    assert np.array_equal(image, upright(RGB, mark)) and np.array_equal(label, IDS.T) and not read.as_stored


@pytest.mark.parametrize("mark", [5, 6, 7, 8])
def test_a_label_that_fits_the_stored_picture_alone_turns_neither(mark, tmp_path):
    read = read_pair(*pair(tmp_path, mark, IDS), TABLE)
    image, label = both(read)
    assert np.array_equal(image, RGB) and np.array_equal(label, IDS) and read.as_stored


@pytest.mark.parametrize("kind", ["RGB tif", "I;16 tif", "RGB 16 < tif", "I;16 png", "RGB webp"])
def test_so_it_is_in_every_format(kind, tmp_path):
    path, label = write(kind, tmp_path, 6), write_label(tmp_path / "label.png", IDS)
    assert np.array_equal(both(read_pair(path, label, TABLE))[0], KINDS[kind])


@pytest.mark.parametrize("mark", [2, 3, 4])
def test_a_label_that_fits_either_way_is_of_the_upright_picture(mark, tmp_path):
    image, label = both(read_pair(*pair(tmp_path, mark, IDS), TABLE))
    assert np.array_equal(image, upright(RGB, mark)) and np.array_equal(label, IDS)


@pytest.mark.parametrize("mark", range(2, 9))
def test_so_is_that_of_a_square_picture(mark, tmp_path):
    square, ids = RGB[:, :2], IDS[:, :2]
    read = read_pair(*pair(tmp_path, mark, ids, stored=square), TABLE)
    image, label = both(read)
    assert np.array_equal(image, upright(square, mark)) and np.array_equal(label, ids) and not read.as_stored


@pytest.mark.parametrize("mark", range(1, 9))
def test_a_label_with_a_mark_of_its_own_is_turned_by_it(mark, tmp_path):
    image, label = both(read_pair(*pair(tmp_path, mark, IDS, label_mark=mark), TABLE))
    assert np.array_equal(image, upright(RGB, mark)) and np.array_equal(label, upright(IDS, mark))


@pytest.mark.parametrize("label_mark", [6, 8])
def test_a_mark_of_the_label_alone_that_does_not_fit_turns_neither(label_mark, tmp_path):
    read = read_pair(*pair(tmp_path, 1, IDS, label_mark), TABLE)
    assert np.array_equal(read.label.numpy(), IDS) and read.as_stored


def test_a_label_that_fits_neither_way_is_an_error_with_both_sizes(tmp_path):
    words = r"image.png' is 2x3 \(3x2 as it is stored: its orientation mark is 6\).*label.png' is 4x4"
    with pytest.raises(BadPicture, match=words):
        read_pair(*pair(tmp_path, 6, np.zeros((4, 4))), TABLE)


def test_without_a_label_the_picture_is_upright(tmp_path):
    image, _ = pair(tmp_path, 6, IDS)
    read = read_pair(image, None, None)
    assert read.image.shape == (3, 3, 2) and read.label.shape == (3, 2) and (read.label == 255).all()


def marked_set(root, stored=(0, 3), count=6):
    """GTA5's folders; the labels of some pictures fit them only as they are stored."""
    (root / "images").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(RGB).save(root / "images" / f"{i}.png", exif=exif(6))
        write_label(root / "labels" / f"{i}.png", np.full((2, 3) if i in stored else (3, 2), 7))
    return f"gta5:{root}"


@pytest.mark.parametrize("context", [None, "fork", pytest.param("spawn", marks=pytest.mark.full)])
def test_a_note_is_printed_once_for_a_data_set(context, tmp_path, capfd):
    pictures = open_dataset(marked_set(tmp_path / "set"), transform=test_transform((4, 4), "unit"))
    loader = test_loader(pictures, workers=0 if context is None else 2)
    loader.multiprocessing_context = context
    assert len(list(loader)) == len(list(loader)) == 6
    out, err = capfd.readouterr()
    assert err.count("fits only without turning: neither is turned") == 1 and not out
    assert re.search(r"note: Picture .*images.[03]\.png' has an orientation mark", err)


def test_nothing_is_printed_where_all_are_turned(tmp_path, capsys):
    pictures = open_dataset(marked_set(tmp_path / "set", stored=()))
    assert [tuple(sample.image.shape) for sample in pictures] == [(3, 3, 2)] * 6 and not capsys.readouterr().err


def test_a_file_is_told_by_its_content_not_by_its_name(tmp_path):
    write("RGB bmp", tmp_path).rename(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), RGB)


def test_a_tiff_that_is_too_large_is_refused_by_its_header(tmp_path, monkeypatch):
    path = write("RGB 16 < tif", tmp_path)
    monkeypatch.setattr(reading, "MAX_PIXELS", 5)
    with pytest.raises(BadPicture, match="is 3x2 by its header"):
        read_image(path)
