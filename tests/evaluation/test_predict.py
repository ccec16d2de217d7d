"""Label maps and overlays of a user's own pictures."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.evaluation import predict
from course_lib.evaluation.predict import overlay, palette_image, save_png
from course_lib.labels import CITYSCAPES19
from course_lib.networks import build


@pytest.fixture(scope="module")
def network():
    return build("small", 19, seed=0, width=8)


def picture(path, size=(50, 30), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_writes_ids_and_overlay_at_the_pictures_own_size(network, tmp_path):
    first = picture(tmp_path / "street.png")
    second = picture(tmp_path / "grey.jpg", size=(33, 21), mode="L")
    network.train()
    written = predict(network, [first, str(second)], tmp_path / "a" / "out", size=(32, 64), progress=False)
    names = ["street_labels.png", "street_overlay.png", "grey_labels.png", "grey_overlay.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "a" / "out").iterdir()) == sorted(names)  # nothing half-written
    with Image.open(written[0]) as label:
        assert (label.mode, label.size) == ("P", (50, 30))
        assert np.asarray(label).max() < 19
    with Image.open(written[3]) as image:
        assert (image.mode, image.size) == ("RGB", (33, 21))
    assert network.training


def test_the_ids_are_the_networks(network, tmp_path):
    """A network that says "car" everywhere paints car, whatever the picture."""
    network = build("small", 19, seed=0, width=8)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.zero_()[13] = 1.0
    labels, blend = predict(network, [picture(tmp_path / "x.png")], tmp_path, opacity=1.0, progress=False)
    assert set(np.asarray(Image.open(labels)).ravel()) == {13}
    assert (np.asarray(Image.open(labels).convert("RGB")) == CITYSCAPES19.palette[13]).all()
    assert (np.asarray(Image.open(blend)) == CITYSCAPES19.palette[13]).all()


def test_multiscale_gives_the_same_files(network, tmp_path):
    written = predict(network, [picture(tmp_path / "x.png")], tmp_path, size=(32, 64), multiscale=True, progress=False)
    assert Image.open(written[0]).size == (50, 30)


def test_a_picture_too_large_for_several_scales_is_refused_before_the_network(network, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "forward", None)
    Image.new("RGB", (5000, 4000)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="x.png has 20 megapixels; at several scales at most 19 of 19 .* leave out multiscale"):
        predict(network, [tmp_path / "x.png"], tmp_path, size=(32, 64), multiscale=True, progress=False)


def test_palette_shows_ignored_pixels_black_and_overlay_leaves_them():
    label = np.array([[0, 255]], dtype=np.uint8)
    assert np.asarray(palette_image(label, CITYSCAPES19).convert("RGB")).tolist() == [[[128, 64, 128], [0, 0, 0]]]
    grey = Image.new("RGB", (2, 1), (100, 100, 100))
    assert np.asarray(overlay(grey, label, CITYSCAPES19, 0.5)).tolist() == [[[114, 82, 114], [100, 100, 100]]]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = save_png(Image.new("RGB", (2, 2), (1, 2, 3)), tmp_path / "x.png")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="Cannot write .*x.png.*No space left"):
        save_png(Image.new("RGB", (2, 2), (9, 9, 9)), target)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert Image.open(target).getpixel((0, 0)) == (1, 2, 3)


def test_errors_name_the_file_and_what_to_do(network, tmp_path):
    good, text = picture(tmp_path / "x.png"), tmp_path / "notes.png"
    text.write_text("not a picture", encoding="utf-8")
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:200])
    for path in (text, cut):
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read as a picture.*Give a PNG or JPEG"):
            predict(network, [path], tmp_path / "out", progress=False)
    with pytest.raises(FileNotFoundError, match="No picture and no folder at .*none.png"):
        predict(network, [tmp_path / "none.png"], tmp_path / "out")
    with pytest.raises(ValueError, match="network has 19 classes, label space 'camvid11' has 11"):
        predict(network, [good], tmp_path / "out", "camvid11")
    with pytest.raises(ValueError, match="predict got no pictures"):
        predict(network, [], tmp_path / "out")
    with pytest.raises(ValueError, match="opacity=2"):
        predict(network, [good], tmp_path / "out", opacity=2)


def test_a_network_that_gives_nan_is_named_and_writes_nothing(tmp_path):
    """All pixels would be class 0, the road."""
    network = build("small", 19, seed=0, width=8)
    torch.nn.init.constant_(next(network.parameters()), torch.nan)
    with pytest.raises(ValueError, match="gives NaN for .*a.png.*another checkpoint"):
        predict(network, [picture(tmp_path / "a.png")], tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []
