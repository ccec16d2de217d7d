"""Hostile and broken input: each fault of a data set, seen by the library, by the data doctor, by --skip-bad and by `uda`.

Every message names the file and says what to do; the command line ends with status 1, one message and no traceback.
"""

import errno
import io
import json
import os
import re
import runpy
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from course_lib.data import Batch, cache_folder, check, examine, open_dataset, reading, train_loader, train_transform
from course_lib.data.encoding import raw_table
from course_lib.evaluation import evaluate
from course_lib.evaluation.predict import read_picture
from course_lib.experiments.train import Pair
from course_lib.methods import SourceOnly
from course_lib.networks import build
from course_lib.report import is_ministreet
from tests.data.trees import cityscapes, images_and_labels, write_image, write_label

TINY = (
    "network=small", "network_options={'width': 8}", "steps=3", "start_steps=0", "batch_size=1", "log_every=1",
    "source_size=64x32", "target_size=64x32", "test_size=64x32",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
SET = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def own_cache_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))

    def late(*_):
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def refused(uda):
    """Run a command line that must end with status 1 and one message, which is returned."""

    def run(*words: object) -> str:
        status, _, error = uda(*words)
        last = [line for line in error.splitlines() if line.startswith("uda: ")]
        assert status == 1 and len(last) == 1 and "Traceback" not in error and "Error:" not in error, error
        return last[0]

    return run


# ---- faults of one pair of files


def encoded(mode: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 6)).save(buffer, kind)
    return buffer.getvalue()


def promising(width: int, height: int, colour_type: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def unknown_ids(path: Path) -> None:
    ids = np.full((6, 8), 7)
    ids[0, :5], ids[1, 0] = 99, 40
    write_label(path, ids)


class Fault(NamedTuple):
    which: str  # images or labels
    do: Callable[[Path], object]  # to the file 00001.png
    words: str
    kind: str
    skipped: int = 1


FAULTS = {
    "truncated picture": Fault("images", cut, r"Cannot read .*images.00001.png' \(60 bytes\).*again", "damaged files"),
    "truncated label": Fault("labels", cut, r"Cannot read .*labels.00001.png' \(60 bytes\).*again", "damaged files"),
    "empty picture": Fault("images", empty, r"images.00001.png' \(0 bytes\).*it is empty", "damaged files"),
    "empty label": Fault("labels", empty, r"labels.00001.png' \(0 bytes\).*it is empty", "damaged files"),
    "web page": Fault("images", lambda p: p.write_bytes(b"<html>404"), "images.00001.png'.*a web page: the", "damaged files"),
    "git lfs": Fault(
        "labels", lambda p: p.write_bytes(b"version https://git-lfs"), "a pointer of git lfs", "damaged files"
    ),
    "archive called PNG": Fault("images", lambda p: p.write_bytes(b"PK\x03\x04rest"), "it is a ZIP archive", "damaged files"),
    "BMP label": Fault(
        "labels", lambda p: p.write_bytes(encoded("L", "BMP")), "it is a BMP file, wanted PNG: .*change ids", "damaged files"
    ),
    "JPEG label": Fault(
        "labels", lambda p: p.write_bytes(encoded("L", "JPEG")), "it is a JPEG file, wanted PNG: .*change ids", "damaged files"
    ),
    "bomb": Fault(
        "images", lambda p: p.write_bytes(promising(10_000, 10_000, 2)),
        "images.00001.png' is 10000x10000 by its header: 100 megapixels.*at most 67.*smaller", "pictures that are too large",
    ),
    "bomb as label": Fault(
        "labels", lambda p: p.write_bytes(promising(2**31 - 1, 2**31 - 1, 0)), "labels.00001.png' is .* megapixels",
        "pictures that are too large",
    ),
    "sizes differ": Fault(
        "labels", lambda p: write_label(p, np.full((5, 8), 7)),
        r"differ in size: .*images.00001.png' is 8x6, .*labels.00001.png' is 8x5", "pairs that differ in size",
    ),
    "RGB label": Fault("labels", write_image, "mode RGB, wanted one byte a pixel.*labelIds", "labels of a wrong mode"),
    "RGBA label": Fault("labels", lambda p: p.write_bytes(encoded("RGBA")), "mode RGBA, wanted one", "labels of a wrong mode"),
    "16-bit label": Fault(
        "labels", lambda p: Image.fromarray(np.full((6, 8), 300, "uint16")).save(p),
        r"labels.00001.png' has ids that this layout does not: 300 \(48 pixels\)", "labels with unknown ids",
    ),
    "unknown ids": Fault(
        "labels", unknown_ids,
        r"labels.00001.png' has ids that this layout does not: 40 \(1 pixels\), 99 \(5 pixels\); it has 0..34 and 255",
        "labels with unknown ids",
    ),
    "pipe": Fault(
        "images", lambda p: replaced(p, os.mkfifo), "images.00001.png' is no regular file. Remove it", "names that are no file"
    ),
    "dead link": Fault(
        "labels", lambda p: replaced(p, lambda p: p.symlink_to("gone")), "is a link to 'gone', which", "files that are gone"
    ),
    "no label": Fault("labels", Path.unlink, "images.00001.png' has no label: .*01_labels.zip", "pictures without label"),
    "no picture": Fault("images", Path.unlink, "labels.00001.png' has no picture.*01_images.zip", "labels without picture"),
    "a folder": Fault(
        "images", lambda p: replaced(p, Path.mkdir), "labels.00001.png' has no picture.*01_images", "labels without picture"
    ),
}  # fmt: skip


@pytest.fixture(params=FAULTS, ids=lambda name: name.replace(" ", "-"))
def fault(request, tmp_path) -> tuple[Path, Fault]:
    """Three pairs, of which the second has the fault."""
    fault = FAULTS[request.param]
    root = images_and_labels(tmp_path / "game", count=3)
    fault.do(root / fault.which / "00001.png")
    return root, fault


def test_the_library_names_the_file_and_what_to_do(fault):
    root, (_, _, words, _, _) = fault
    with pytest.raises((ValueError, OSError), match=words):
        list(open_dataset(f"gta5:{root}"))


def test_the_doctor_finds_it_and_counts_the_rest(fault, uda, tmp_path):
    root, (_, _, words, kind, _) = fault
    status, out, error = uda("data", "check", f"gta5:{root}", "--quiet", "--out", tmp_path / "report.json")
    assert status == 1 and "2 pictures can be used" in out and "2 x 8x6" in out and f"1 {kind}" in out and not error
    assert re.search(words, out)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [p["kind"] for p in report["problems"]] == [kind] and "00001.png" in report["problems"][0]["file"]
    assert report["ok"] is False and report["pixels"][0] == 2 * 47 and report["pictures_with"][0] == 2


def test_skip_bad_leaves_it_out_and_remembers(fault, monkeypatch):
    root, (_, _, words, kind, _) = fault
    dataset = open_dataset(f"gta5:{root}", skip_bad=True)
    assert [sample.name for sample in dataset] == ["00000.png", "00002.png"] and "1 left out" in repr(dataset)
    (problem,) = dataset.skipped
    assert problem.kind == kind and re.search(words, problem.message)
    look, looked = examine.examine, []
    monkeypatch.setattr(examine, "examine", lambda *arguments: (looked.append(arguments[0].name), look(*arguments))[1])
    assert open_dataset(f"gta5:{root}", skip_bad=True).skipped == dataset.skipped
    assert looked == (["00001.png"] if kind in reading.PASSING else []), "what is whole or wrong for good is in the cache"


def test_training_stops_with_one_message(fault, refused, tmp_path):
    root, (_, _, words, _, _) = fault
    message = refused(
        "train", "source-only", "--source", f"gta5:{root}", "--target", "cityscapes:x", "--out", tmp_path / "run", *SET,
        "--quiet", "--device", "cpu",
    )  # fmt: skip
    assert re.search(words, message) and len(message) < 1000


# ---- what the faults have in common


def test_a_message_from_a_loaders_process_is_the_message_alone(refused, tmp_path):
    root = images_and_labels(tmp_path / "game", count=3)
    cut(root / "images" / "00001.png")
    message = refused(
        "train", "source-only", "--source", f"gta5:{root}", "--target", "cityscapes:x", "--out", tmp_path / "run", *SET,
        "--set", "workers=1", "--quiet", "--device", "cpu",
    )  # fmt: skip
    assert message.startswith("uda: Cannot read '") and "worker" not in message


def test_debug_shows_where_it_came_from(uda, tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        uda("data", "check", f"gta5:{tmp_path / 'gone'}", "--debug")


def test_training_with_skip_bad_counts_and_lists_what_it_left_out(uda, tmp_path):
    root = images_and_labels(tmp_path / "game", count=16)
    for number in range(1, 13):
        cut(root / "images" / f"{number:05}.png")
    (root / "labels" / "00013.png").unlink()
    status, _, error = uda(
        "train", "source-only", "--source", f"gta5:{root}", "--target", "cityscapes:x", "--out", tmp_path / "run", *SET,
        "--quiet", "--device", "cpu", "--skip-bad",
    )  # fmt: skip
    assert status == 0 and "Left out: 12 damaged files, 1 pictures without label." in error, error
    assert "00001.png' (damaged files)" in error and "... and 3 more" in error and "00012.png" not in error


def test_nothing_that_can_be_used_is_an_error_and_not_an_empty_training(tmp_path):
    root = images_and_labels(tmp_path, count=1)
    cut(root / "images" / "00000.png")
    with pytest.raises(ValueError, match="Nothing of gta5:.* can be used. The first problem: Cannot read .*00000.png"):
        open_dataset(f"gta5:{root}", skip_bad=True)


def test_a_repaired_file_is_taken_in_again(tmp_path):
    root = images_and_labels(tmp_path, count=2)
    whole = (root / "images" / "00001.png").read_bytes()
    cut(root / "images" / "00001.png")
    assert len(open_dataset(f"gta5:{root}", skip_bad=True)) == 1
    (root / "images" / "00001.png").write_bytes(whole)
    assert len(open_dataset(f"gta5:{root}", skip_bad=True)) == 2


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), FileNotFoundError(errno.ENOENT, "gone")])
def test_a_file_that_could_not_be_read_once_is_looked_at_again(error, tmp_path, monkeypatch):
    """What may be over the next time is never kept; what is wrong with other files is, and they are not read again."""
    root = images_and_labels(tmp_path / "game", count=4)
    cut(root / "images" / "00001.png")
    head, looked = reading._head, []

    def failing(path):
        looked.append(path.name)
        if path.name == "00002.png":
            raise error
        return head(path)

    monkeypatch.setattr(reading, "_head", failing)
    names = lambda: [pair.name for pair in open_dataset(f"gta5:{root}", skip_bad=True).pairs]  # noqa: E731
    assert names() == ["00000.png", "00003.png"]
    looked.clear()
    assert names() == ["00000.png", "00003.png"] and set(looked) == {"00002.png"}
    monkeypatch.setattr(reading, "_head", head)
    assert names() == ["00000.png", "00002.png", "00003.png"]
    monkeypatch.setattr(reading, "_head", failing)
    assert names() == ["00000.png", "00002.png", "00003.png"], "what was found to be whole is kept"


def test_a_verdict_that_an_earlier_version_kept_for_ever_is_looked_at_again(tmp_path):
    root = images_and_labels(tmp_path / "game", count=2)
    cut(root / "images" / "00001.png")
    open_dataset(f"gta5:{root}", skip_bad=True)
    (path,) = (tmp_path / "cache" / "examined").glob("*.json")
    kept = {"spec": "", "bad": [[0, ["files that cannot be read", "a", "b"]], [1, ["damaged files", "a", "b"]]]}
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert [pair.name for pair in open_dataset(f"gta5:{root}", skip_bad=True).pairs] == ["00000.png"]


def test_a_damaged_or_foreign_cache_costs_time_only(tmp_path):
    root = images_and_labels(tmp_path / "game", count=2)
    cut(root / "images" / "00001.png")
    assert len(open_dataset(f"gta5:{root}", skip_bad=True)) == 1
    (path,) = (tmp_path / "cache" / "examined").glob("*.json")
    for content in ("{", "[]", '{"bad": [[1, 2]]}', '{"bad": 3}', '{"bad": [], "again": [7]}'):
        path.write_text(content, encoding="utf-8")
        assert len(open_dataset(f"gta5:{root}", skip_bad=True)) == 1


def test_one_flipped_bit_is_refused_and_never_read_as_another_class(tmp_path):
    root = images_and_labels(tmp_path, count=1)
    path = root / "labels" / "00000.png"
    Image.new("L", (8, 6), 7).save(path, compress_level=0)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1  # 7 road becomes 6 ground
    path.write_bytes(content)
    with pytest.raises(reading.BadPicture, match="Cannot read .*labels.00000.png"):
        reading.read_raw_label(path)
    (problem,) = check(f"gta5:{root}", progress=False).problems
    assert problem.kind == "damaged files" and "labels" in problem.file


# ---- pictures that unfold


def test_a_bomb_is_refused_before_it_is_decoded_whatever_pillow_is_set_to(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(promising(10_000, 10_000, 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(reading.BadPicture, match="100 megapixels"):
        reading.read_image(path)


def test_a_jpeg_bomb_is_refused_without_a_warning_of_pillow_beside(tmp_path, uda, recwarn):
    content = bytearray(encoded("RGB", "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", 10_000, 10_000)
    (tmp_path / "bomb.jpg").write_bytes(content)
    status, out, error = uda("data", "check", f"folder:{tmp_path}", "--quiet")
    assert status == 1 and "1 pictures that are too large" in out and not error and not recwarn


def test_the_largest_street_pictures_are_far_below_the_limit():
    assert 6000 * 4000 < reading.MAX_PIXELS < 100e6


# ---- ids


@pytest.mark.parametrize("layout, good, bad", [
    ("gta5", (0, 34, 255), 35), ("cityscapes", (0, 33, 255), 34), ("synthia", (0, 22, 255), 23), ("camvid", (0, 11, 255), 12),
])  # fmt: skip
def test_void_ids_of_the_real_data_sets_pass_and_the_next_id_does_not(tmp_path, layout, good, bad):
    space = "camvid11" if layout == "camvid" else "cityscapes19"
    table = raw_table(layout, space)
    path = write_label(tmp_path / "label.png", [good])
    assert reading.read_label(path, table).shape == (1, 3) and reading.read_label(path, table)[0, 2] == 255
    with pytest.raises(ValueError, match=rf"label.png' has ids .*: {bad} \(1 pixels\)"):
        reading.read_label(write_label(tmp_path / "label.png", [[*good, bad]]), table)


def test_counting_classes_refuses_unknown_ids_too(tmp_path):
    root = images_and_labels(tmp_path, count=2)
    unknown_ids(root / "labels" / "00001.png")
    with pytest.raises(ValueError, match="00001.png' has ids"):
        _ = open_dataset(f"gta5:{root}").class_counts


# ---- folders and lists


def test_missing_folders_name_their_archive(tmp_path, refused):
    root = tmp_path / "data"
    assert "01_images.zip" in refused("data", "check", f"gta5:{root}")
    root.mkdir()
    assert "leftImg8bit_trainvaltest.zip" in refused("data", "check", f"cityscapes:{root}", "--split", "val")
    assert "SYNTHIA_RAND_CITYSCAPES.rar" in refused("data", "check", f"synthia:{root}")
    cityscapes(root)
    (root / "gtFine").rename(tmp_path / "gtFine")
    assert "Unpack gtFine_trainvaltest.zip" in refused("data", "check", f"cityscapes:{root}", "--split", "val")
    assert "leftImg8bit_trainvaltest.zip" in refused("data", "check", f"cityscapes:{root}", "--split", "tset")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    assert "No pictures in" in refused("data", "check", f"gta5:{tmp_path / 'empty'}")


def test_a_file_in_place_of_the_root_is_no_folder(tmp_path, refused):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "it is no folder" in refused("data", "check", f"gta5:{tmp_path / 'file'}")


@pytest.mark.parametrize("line", ["00009.png", "../images/00001.png", "/etc/passwd"])
def test_a_list_cannot_name_what_is_not_in_the_data_set(tmp_path, line, refused):
    root = images_and_labels(tmp_path / "game", count=3)
    (root / "train.txt").write_text(f"00000.png\n{line}\n", encoding="utf-8")
    source = ["train", "source-only", "--source", f"gta5:{root}", "--target", "cityscapes:x", "--out", tmp_path / "run", *SET]
    message = refused(*source, "--quiet", "--device", "cpu")
    assert f"train.txt', line 2: no picture {line!r}" in message and "correct the list" in message
    assert len(open_dataset(f"gta5:{root}", skip_bad=True)) == 1


def test_a_list_in_another_encoding_is_named(tmp_path, refused):
    root = images_and_labels(tmp_path / "game", count=1)
    (root / "train.txt").write_bytes(b"\xff\xfe0\x000\x00")
    assert "train.txt' is no UTF-8 text" in refused("data", "check", f"gta5:{root}")


# ---- labels that say nothing


@pytest.fixture
def void(tmp_path) -> Path:
    """Three pictures of which every pixel is ignored."""
    root = images_and_labels(tmp_path / "void", count=3, raw_id=0)
    for number in range(3):
        write_label(root / "labels" / f"{number:05}.png", np.zeros((6, 8)))
    return root


def test_a_step_on_ignored_pixels_alone_has_loss_0_and_finite_gradients(void):
    method = SourceOnly(build("small", 19, seed=0, width=8))
    loader = train_loader(open_dataset(f"gta5:{void}", transform=train_transform((32, 64), "imagenet")), 2, seed=0)
    (losses,) = method.losses(next(iter(loader)))
    assert losses["segmentation"].item() == 0
    sum(losses.values()).backward()
    gradients = [p.grad for p in method.segmenter.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() and not g.any() for g in gradients)


def test_a_training_on_ignored_pixels_alone_ends_with_finite_weights(void, uda, tmp_path):
    run = tmp_path / "run"
    source = ["--source", f"gta5:{void}", "--target", f"folder:{void / 'images'}", "--out", run]
    status, _, error = uda("train", "bn-control", *source, *SET, "--quiet", "--device", "cpu")
    words = "Training on the source .*: none of the 3 label files that were read has a pixel of a class of cityscapes19"
    assert status == 1 and re.search(words, error) and not run.exists()
    write_image(void / "images" / "00009.png", height=32, width=64)
    write_label(void / "labels" / "00009.png", np.full((32, 64), 7))
    status, _, error = uda("train", "bn-control", *source, *SET, "--quiet", "--device", "cpu")
    assert status == 0, error
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["losses"]["segmentation"] for line in lines].count(0.0) >= 2, "three of four pictures in three steps"
    weights = torch.load(run / "best.pt", weights_only=True)["segmenter"]
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_class_balanced_sampling_needs_a_class(void):
    with pytest.raises(ValueError, match="None of the 3 files contains a class.*sampling='uniform'"):
        train_loader(open_dataset(f"gta5:{void}"), 1, seed=0, sampling="class-balanced")


def test_a_class_that_never_occurs_is_not_drawn_and_has_no_score(tmp_path):
    root = images_and_labels(tmp_path, count=3)
    dataset = open_dataset(f"gta5:{root}", transform=train_transform((32, 64), "imagenet"))
    batch: Batch = next(iter(train_loader(dataset, 2, seed=0, sampling="class-balanced")))
    assert set(batch.label.unique().tolist()) <= {0, 255}
    network = build("small", 19, seed=0, width=8)
    scores = evaluate(network, [batch], 19, progress=False)
    said = set(network.eval()(batch.image).logits.argmax(1).unique().tolist())
    assert {i for i, iou in enumerate(scores.iou) if np.isnan(iou)} == set(range(1, 19)) - said
    assert np.isfinite(scores.miou)
    notes = " ".join(check(f"gta5:{root}", progress=False).notes)
    assert "Never there: sidewalk, building" in notes and "24966 pictures" in notes


def test_a_target_without_labels_trains_and_cannot_be_scored(void, uda, refused, tmp_path):
    root = images_and_labels(tmp_path / "game", count=3)
    target, run = f"folder:{root / 'images'}", tmp_path / "run"
    source = ["--source", f"gta5:{root}", "--target", target, "--out", run]
    status, _, error = uda("train", "bn-control", *source, *SET, "--quiet", "--device", "cpu")
    assert status == 0, error
    scored = ["evaluate", run / "best.pt", "--quiet", "--device", "cpu", "--split", "all", "--data"]
    assert "Scoring needs labels, and folder:" in refused(*scored, target)
    assert "none of the 3 label files that were read has a pixel of a class" in refused(*scored, f"gta5:{void}")
    assert "Training on the target" in refused("train", "target-only", *source[:-1], tmp_path / "oracle", *SET)
    cut(root / "images" / "00001.png")
    status, out, error = uda(*scored, f"gta5:{root}", "--skip-bad")
    assert status == 0 and "2 images in" in out and "Left out: 1 damaged files." in error
    assert "00001.png" in refused(*scored, f"gta5:{root}")


def test_a_sound_data_set_passes_the_doctor(uda, tmp_path):
    status, out, error = uda("data", "check", f"cityscapes:{cityscapes(tmp_path)}@val", "--quiet", "--workers", 2)
    assert status == 0 and not error and "(val): 1 pictures can be used" in out and "Everything can be read." in out
    assert re.search(r"car +100.000 +1\n", out) and "published cityscapes has 500 pictures" in out
    assert uda("data", "check", f"folder:{tmp_path / 'leftImg8bit'}", "--quiet")[0] == 0
    assert uda("data", "check", f"cityscapes:{tmp_path}", "--no-labels", "--quiet")[1].count("no labels") == 1
    assert "wanted 1 or more" in uda("data", "check", f"cityscapes:{tmp_path}", "--workers", "0")[2]


def test_settings_that_do_not_exist_offer_the_nearest(refused):
    line = ["train", "source-only", "--source", "gta5:x", "--target", "cityscapes:y", "--out", "z", "--set"]
    assert "Did you mean steps" in refused(*line, "stepz=1")


# ---- in parallel


def test_the_first_error_ends_the_work_and_the_rest_is_not_begun():
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        time.sleep(0.005)

    with pytest.raises(ValueError, match="three"):
        list(examine.in_parallel(work, range(20_000), "test", workers=2, progress=False))
    assert len(begun) < 20_000  # the first error is seen long before 20,000 times 5 ms are over, on a busy machine, too


def test_two_processes_share_the_files_between_them(tmp_path, monkeypatch):
    root = images_and_labels(tmp_path, count=6)
    for number in (1, 2, 5):
        cut(root / "images" / f"{number:05}.png")
    found = []
    monkeypatch.setattr(examine.ranks, "count", lambda: 2)
    monkeypatch.setattr(examine.ranks, "is_main", lambda: False)
    monkeypatch.setattr(examine.ranks, "agree", lambda value: None)
    monkeypatch.setattr(examine.ranks, "collect", lambda own: found.append([i for i, _ in own]) or [[], own])
    for rank in (0, 1):
        monkeypatch.setattr(examine.ranks, "rank", lambda rank=rank: rank)
        open_dataset(f"gta5:{root}", skip_bad=True)
    assert found == [[2], [1, 5]]


# ---- files that are no files


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_pipe_or_device_called_like_a_record_neither_hangs_nor_fills_memory(make, tmp_path, uda):
    root = images_and_labels(tmp_path / "game", count=2)
    make(root / "manifest.json")
    assert not is_ministreet(Pair(f"gta5:{root}", f"gta5:{root}"))
    make(root / "train.txt")
    assert "2 pictures can be used" in uda("data", "check", f"gta5:{root}", "--quiet")[1]
    out = tmp_path / "run"
    out.mkdir()
    make(out / "recipe.json")
    line = ["train", "source-only", "--source", f"gta5:{root}", "--target", "cityscapes:x", "--out", out, *SET, "--quiet"]
    assert "recipe.json is there and is no recipe" in uda(*line, "--device", "cpu")[2]
    make(tmp_path / "a.pt")
    assert uda("evaluate", tmp_path / "a.pt", "--data", f"gta5:{root}", "--device", "cpu")[0] == 1
    make(tmp_path / "prepared.json")
    assert "prepared.json" in uda("data", "check", f"prepared:{tmp_path}", "--quiet")[2]
    for name in ("manifest.json", ".journal/train.json"):
        (tmp_path / "made" / ".journal").mkdir(parents=True, exist_ok=True)
        make(tmp_path / "made" / name)
    assert "holds other files" in uda("data", "make", "ministreet", "--as", "gta5", "--out", tmp_path / "made", "--count", 1)[2]


def test_a_folder_link_that_leaves_the_data_set_is_followed_with_a_note(tmp_path, uda):
    other = images_and_labels(tmp_path / "other", count=2)
    (tmp_path / "mine" / "inside").mkdir(parents=True)
    write_image(tmp_path / "mine" / "inside" / "a.png")
    (tmp_path / "mine" / "again").symlink_to("inside")
    (tmp_path / "mine" / "more").symlink_to(other / "images")
    status, out, error = uda("data", "check", f"folder:{tmp_path / 'mine'}", "--quiet")
    assert status == 0 and "3 pictures can be used" in out
    assert error.count("note: The link") == 1 and "more' leaves its data set" in error and "other/images' are read" in error


def test_a_cache_of_another_user_is_warned_of_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert cache_folder() == cache_folder() == tmp_path / "cache"
    error = capsys.readouterr().err
    assert error.count("belongs to another user") == 1 and "COURSE_CACHE" in error


# ---- names


def test_names_reach_neither_terminal_nor_report(tmp_path, uda, refused):
    """Control characters, Markdown and HTML, and bytes that are no UTF-8, in the path of a data set and of the run."""
    evil = tmp_path / os.fsdecode(b"\xff \x1b[2J\n<img src=x>`")
    root, out = images_and_labels(evil / "game", count=2), evil / "run"
    data = ["--source", f"gta5:{root}", "--target", f"gta5:{root}", "--validation", f"gta5:{root}@all", "--out", out]
    status, printed, error = uda("run", "adaptsegnet", *data, *SET, "--set", "steps=1", "--set", "discriminator_input=image",
                                 "--quiet", "--device", "cpu")  # fmt: skip
    assert status == 0, error
    assert "\x1b" not in printed + error and "\udcff" not in printed + error and "\n<img" not in printed
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "\x1b" not in text and "``gta5:" in text and not re.search(r"(?m)^<img", text)
    message = refused("data", "check", f"gta5:{evil / 'gone'}")
    assert "\x1b" not in message and "\\x1b" in message
    status, printed, error = uda("data", "check", f"gta5:{root}", "--quiet")
    assert status == 0 and "\x1b" not in printed + error
    (root / "images" / "00001.png").unlink()
    status, printed, error = uda("data", "check", f"gta5:{root}", "--quiet")
    assert status == 1 and "\x1b" not in printed + error and "\n<img" not in printed
    status, printed, error = uda("predict", out / "1_adapt" / "best.pt", root / "images" / "00000.png", "--out", out / "p")
    assert status == 0 and "\x1b" not in printed and printed.count("\n") == 2


# ---- a user's own pictures


@pytest.mark.parametrize("make, words", [
    (os.mkfifo, "pipe.png cannot be read as a picture.*no regular file"),
    (lambda p: p.write_bytes(promising(10_000, 10_000, 2)), "pipe.png cannot be read as a picture.*100 megapixels"),
    (lambda p: cut(write_image(p)), "pipe.png cannot be read as a picture.*damaged"),
])  # fmt: skip
def test_pictures_to_label_are_not_trusted_either(tmp_path, make, words):
    make(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=words):
        read_picture(tmp_path / "pipe.png")


def test_the_script_is_the_command(tmp_path, monkeypatch, capsys):
    root = images_and_labels(tmp_path, count=2)
    for status in (0, 1):
        monkeypatch.setattr(sys, "argv", ["check_data.py", f"gta5:{root}"])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "data_scripts" / "check_data.py"), run_name="__main__")
        assert stop.value.code == status
        cut(root / "images" / "00001.png")
    assert "1 damaged files" in capsys.readouterr().out


# ---- the page of cures


def test_the_page_quotes_messages_that_exist():
    """Every quoted message of TROUBLESHOOTING.md, less its names and numbers, is in the source."""
    joint = re.compile(r"""["']\s*\n\s*f?["']""")
    source = joint.sub("", "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "course_lib").rglob("*.py"))))
    rows = [row for row in (ROOT / "TROUBLESHOOTING.md").read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    quoted = [words for row in rows for words in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(quoted) > 40
    for words in quoted:
        for piece in re.split(r"\.\.\.|'[^']*'?|\b\d+x?\b|\b(?:train|steps|RGB|damaged files)\b", words):
            assert piece.strip(" ,:.") in source, f"no message says {piece!r} ({words})"
