"""MiniStreet on disk: encodings, names, resuming, two processes, repair, cache."""

import json
import multiprocessing
import os
import signal
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from course_lib import labels
from course_lib.data.ministreet import cached, make, making, render, scene_seed, verify
from course_lib.data.ministreet.encodings import centimetres, instance_ids
from course_lib.data.png16 import encode_png16, read_png16
from tests.processes import HANG

SIZE = (16, 32)
TINY = {"size": SIZE, "workers": 1, "progress": False}


def content(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- encodings


def test_gta5_files(tmp_path):
    make("gta5", tmp_path, 2, 3, **TINY)
    scene = render(scene_seed(3, "train", 1), "game", SIZE)
    image, label = (Image.open(tmp_path / folder / "00002.png") for folder in ("images", "labels"))
    assert image.mode == "RGB" and (np.array(image) == scene.image).all()
    assert label.mode == "P"
    raw = np.array(labels.raw_ids("gta5"))[scene.label]
    assert (np.array(label) == raw).all()
    assert (np.array(label.convert("RGB")) == labels.colourise(scene.label, "cityscapes19")).all()
    assert (read_png16(tmp_path / "depth" / "00002.png")[..., 0] == centimetres(scene.depth)).all()


def test_synthia_files(tmp_path):
    make("synthia", tmp_path, 1, 3, **TINY)
    scene = render(scene_seed(3, "train", 0), "game", SIZE)
    label = read_png16(tmp_path / "GT/LABELS/0000000.png")
    assert label.shape == (*SIZE, 3) and label.dtype == np.uint16
    assert (labels.lookup_table("synthia", "cityscapes19")[label[..., 0]] == scene.label).all()
    assert (label[..., 1] == scene.instance).all()
    assert (np.array(Image.open(tmp_path / "RGB/0000000.png")) == scene.image).all()
    assert (tmp_path / "Depth/0000000.png").is_file()


def test_cityscapes_files(tmp_path):
    make("cityscapes", tmp_path, 1, 3, split="val", **TINY)
    scene = render(scene_seed(3, "val", 0), "camera", SIZE)
    stem = "val/ministreet/ministreet_000000_000019"
    label = Image.open(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png")
    assert label.mode == "L"
    assert (labels.lookup_table("cityscapes", "cityscapes19")[np.array(label)] == scene.label).all()
    instances = read_png16(tmp_path / f"gtFine/{stem}_gtFine_instanceIds.png")[..., 0]
    raw = np.array(label)
    things = instances >= 1000
    assert (instances[things] // 1000 == raw[things]).all() and (instances[~things] == raw[~things]).all()
    assert (things == (raw >= 24)).all()
    assert (np.array(Image.open(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")) == scene.image).all()
    assert (tmp_path / f"depth/{stem}_depth.png").is_file()


def test_instances_are_numbered_per_class_from_zero():
    raw = np.array([[26, 26, 24, 11], [26, 24, 24, 7]])
    instance = np.array([[40, 7, 3, 9], [40, 3, 50, 0]])
    assert instance_ids(raw, instance).tolist() == [[26001, 26000, 24000, 11], [26001, 24000, 24001, 7]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png16_round_trip(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (7, 5, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(encode_png16(pixels))
    back = read_png16(tmp_path / "a.png")
    assert back.dtype == np.uint16 and (back == pixels).all()


def filtered_png16(pixels: np.ndarray, kinds) -> bytes:
    """A PNG whose rows are filtered by `kinds`, from the definition in the PNG specification, byte by byte."""
    height, width, channels = pixels.shape
    step, rows, before = 2 * channels, pixels.astype(">u2").reshape(height, -1).view(np.uint8).astype(int), None
    lines = b""
    for row, kind in zip(rows, kinds, strict=True):
        up = before if before is not None else np.zeros_like(row)
        line = [kind]
        for i, x in enumerate(row):
            a, b, c = (row[i - step] if i >= step else 0), up[i], (up[i - step] if i >= step else 0)
            paeth = min((a, b, c), key=lambda v: abs(a + b - c - v))  # noqa: B023  the first of the nearest
            line.append(int(x - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        lines, before = lines + bytes(line), row
    plain = encode_png16(pixels)
    start, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    data = zlib.compress(lines)
    chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return plain[:start] + chunk + plain[end:]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png16_reads_every_filter(tmp_path, channels):
    """As real SYNTHIA files have them: none, left, above, mean, Paeth."""
    pixels = np.random.default_rng(1).integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(filtered_png16(pixels, (4, 1, 2, 3, 4, 0)))
    assert (read_png16(tmp_path / "a.png") == pixels).all()


def test_png16_reads_8_bit_and_says_what_it_cannot_read(tmp_path):
    Image.new("L", (3, 2), 9).save(tmp_path / "small.png")
    assert (read_png16(tmp_path / "small.png") == 9).all()
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(ValueError, match="text.png.*no readable PNG"):
        read_png16(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_png16(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="0 to 65535"):
        encode_png16(np.array([[70000]]))
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        encode_png16(np.zeros((2, 2, 5), np.uint16))


# ---- a set


def test_seeds_and_splits_share_no_scene():
    seeds = {scene_seed(s, split, i) for s in range(5) for split in ("train", "val") for i in range(50)}
    assert len(seeds) == 500


def test_a_set_is_the_same_with_one_and_two_workers_and_grows(tmp_path):
    make("gta5", tmp_path / "a", 5, 1, **TINY)
    make("gta5", tmp_path / "b", 5, 1, **{**TINY, "workers": 2})
    assert content(tmp_path / "a") == content(tmp_path / "b")
    make("gta5", tmp_path / "a", 6, 1, **TINY)
    make("gta5", tmp_path / "c", 6, 1, **TINY)
    assert content(tmp_path / "a") == content(tmp_path / "c")
    assert verify(tmp_path / "a") == 18


def test_cityscapes_splits_lie_side_by_side(tmp_path):
    make("cityscapes", tmp_path, 2, 1, **TINY)
    make("cityscapes", tmp_path, 1, 1, split="val", **TINY)
    assert verify(tmp_path) == 12


def test_another_set_is_refused(tmp_path):
    make("gta5", tmp_path, 2, 1, **TINY)
    for change, words in (
        ({"seed": 2}, "seed 1 .now 2."),
        ({"count": 1}, "2 pictures .now 1."),
        ({"layout": "synthia"}, "layout 'gta5'"),
        ({"split": "val"}, "split 'train'"),
        ({"gap": 0.5}, "gap 1.0"),
    ):
        arguments = {"layout": "gta5", "count": 2, "seed": 1, **change}
        with pytest.raises(ValueError, match=words):
            make(arguments.pop("layout"), tmp_path, arguments.pop("count"), arguments.pop("seed"), **arguments, **TINY)


def test_verify_names_the_damaged_file_and_make_repairs_it(tmp_path):
    make("gta5", tmp_path, 3, 1, **TINY)
    whole = content(tmp_path)
    (tmp_path / "labels/00002.png").write_bytes(b"\x89PNG cut off")
    (tmp_path / "images/00003.png").unlink()
    with pytest.raises(ValueError, match="2 of 9 files.*images/00003.png, labels/00002.png"):
        verify(tmp_path)
    make("gta5", tmp_path, 3, 1, **TINY)
    assert verify(tmp_path) == 9 and content(tmp_path) == whole


def test_verify_says_when_a_set_is_not_finished(tmp_path):
    with pytest.raises(FileNotFoundError, match="not finished"):
        verify(tmp_path)


def test_an_interrupted_make_goes_on(tmp_path, monkeypatch):
    """Pictures that an interrupted run finished are not drawn again; the result is that of an undisturbed run."""
    drawn = []
    write = making.write_picture

    def breaks_at_third(out, settings, index):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(index)
        return write(out, settings, index)

    monkeypatch.setattr(making, "write_picture", breaks_at_third)
    with pytest.raises(KeyboardInterrupt):
        make("gta5", tmp_path / "a", 5, 1, **TINY)
    assert not (tmp_path / "a/manifest.json").exists()
    with monkeypatch.context() as upgrade:
        upgrade.setattr(making, "version", lambda: "a later one")
        with pytest.raises(ValueError, match="holds another set: another version of the generator"):
            make("gta5", tmp_path / "a", 5, 1, **TINY)
    monkeypatch.setattr(making, "write_picture", lambda *a: drawn.append(a[2]) or write(*a))
    make("gta5", tmp_path / "a", 5, 1, **TINY)
    assert drawn == [0, 1, 2, 3, 4]
    make("gta5", tmp_path / "b", 5, 1, **TINY)
    assert content(tmp_path / "a") == content(tmp_path / "b")


forks = pytest.mark.skipif(sys.platform != "linux", reason="starts processes by fork, to start them fast")


@forks
def test_two_processes_may_make_one_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=make, args=("gta5", tmp_path / "a", 6, 1), kwargs=TINY) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(HANG)
    assert [process.exitcode for process in both] == [0, 0]
    make("gta5", tmp_path / "b", 6, 1, **TINY)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@forks
def test_a_killed_make_leaves_no_half_file(tmp_path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=make, args=("gta5", tmp_path / "a", 400, 1), kwargs=TINY)
    process.start()
    deadline = time.monotonic() + HANG
    while len(list((tmp_path / "a").glob("labels/*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for path in (tmp_path / "a").rglob("0*.png"):
        if not path.name.startswith("."):
            Image.open(path).load()
    make("gta5", tmp_path / "a", 5, 1, **TINY)
    assert verify(tmp_path / "a") == 15


def test_manifest_tells_the_arguments(tmp_path):
    make("gta5", tmp_path, 1, 1, **TINY)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    wanted = {"layout": "gta5", "seed": 1, "split": "train", "size": [16, 32], "gap": 1.0, "look": "game"}
    assert manifest["arguments"] == wanted and manifest["version"] == making.version()


def test_cached_is_made_once_per_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    first = cached("gta5", 2, 1, **TINY)
    assert first.is_relative_to(tmp_path) and verify(first) == 6
    written = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert cached("gta5", 2, 1, **TINY) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == written, "it was made again"
    others = {cached("gta5", 2, 2, **TINY), cached("gta5", 2, 1, **TINY, gap=0.5), cached("gta5", 2, 1, split="val", **TINY)}
    assert len(others | {first}) == 4
    (first / "images/00001.png").unlink()
    assert verify(cached("gta5", 2, 1, **TINY)) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout": "kitti"}, "'gta5', 'synthia', 'cityscapes'"),
        ({"count": 0}, "1 to 1,000,000"),
        ({"split": "a/b"}, "plain name"),
        ({"look": "film"}, '"game".*"camera"'),
        ({"gap": -1}, "gap = -1"),
        ({"size": (0, 2)}, "positive"),
    ],
)
def test_errors_say_what_to_give(tmp_path, change, words):
    arguments = {"layout": "gta5", "count": 1, "seed": 0, **TINY, **change}
    with pytest.raises(ValueError, match=words):
        make(arguments.pop("layout"), tmp_path, arguments.pop("count"), arguments.pop("seed"), **arguments)
