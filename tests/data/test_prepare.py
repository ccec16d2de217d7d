"""A data set resized once: the same tensors as the direct path, whole files only, and a run that can be killed."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from course_lib import labels
from course_lib.cli import app
from course_lib.data import check, open_dataset, prepare, preparing, storing, train_transform
from course_lib.data.encoding import UNKNOWN, raw_table
from course_lib.data.layouts import label_table
from course_lib.data.ministreet import make
from course_lib.data.prepared import read_manifest
from course_lib.data.published import GTA5_OTHER_SIZE, PICTURES
from course_lib.data.reading import BadPicture
from tests.data.trees import cityscapes, images_and_labels, write_image, write_label
from tests.processes import HANG

SIZE = (24, 48)
LAYOUTS = ("gta5", "synthia", "cityscapes", "camvid")


@pytest.fixture(scope="module", params=LAYOUTS)
def originals(request, tmp_path_factory) -> str:
    """Three pictures of 96x50 in the folders and encodings of each layout."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param != "camvid":
        return f"{request.param}:{make(request.param, root, 3, 5, size=(50, 96), workers=1, progress=False)}"
    ids = np.random.default_rng(0).integers(0, 12, (3, 5, 8)).repeat(10, 1).repeat(12, 2)
    for i, label in enumerate(ids):
        write_image(root / "train" / f"{i}.png", 50, 96, seed=i)
        write_label(root / "trainannot" / f"{i}.png", label)
    return f"camvid:{root}"


@pytest.fixture
def game(tmp_path) -> Path:
    return images_and_labels(tmp_path / "game", count=6)


def quiet(spec, out, size=SIZE, **options):
    return prepare(str(spec), out, size, **{"workers": 1, "progress": False, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spaces_of(layout: str) -> list[str]:
    return ["camvid11"] if layout == "camvid" else [name for name in labels.SPACES if name != "camvid32"]


# ---- what is read from it


def test_a_training_sees_the_same_labels_exactly_and_without_loss_the_same_pictures(originals, tmp_path):
    transform = train_transform(SIZE, "imagenet")
    quiet(originals, tmp_path / "out", images="lossless")
    for space in spaces_of(originals.partition(":")[0]):
        direct = open_dataset(originals, space=space, transform=transform)
        small = open_dataset(f"prepared:{tmp_path / 'out'}", space=space, transform=transform)
        assert len(direct) == len(small) == 3
        for a, b in zip(direct, small):
            assert a.name == b.name and torch.equal(a.label, b.label) and torch.equal(a.image, b.image)
        assert np.array_equal(small.class_counts.argmax(1), [np.bincount(s.label[s.label < 255]).argmax() for s in small])


def test_jpeg_is_the_same_within_its_loss(tmp_path):
    root = make("gta5", tmp_path / "game", 2, 5, size=(120, 200), workers=1, progress=False)
    quiet(f"gta5:{root}", tmp_path / "out", (96, 160))
    transform = train_transform((96, 160), "unit")
    for a, b in zip(open_dataset(f"gta5:{root}", transform=transform),
                    open_dataset(f"prepared:{tmp_path / 'out'}", transform=transform)):  # fmt: skip
        assert torch.equal(a.label, b.label)
        noise = ((a.image - b.image) ** 2).mean()
        assert 0 < noise < 10 ** (-34 / 10), "34 dB; measured at GTA5's size: 43"


def test_originals_of_several_sizes_end_up_at_one(tmp_path):
    for i, (height, width) in enumerate([(50, 96), (40, 90), (24, 48), (10, 12)]):
        write_image(tmp_path / "game" / "images" / f"{i}.png", height, width, seed=i)
        write_label(tmp_path / "game" / "labels" / f"{i}.png", np.full((height, width), 7 + i), palette=True)
    manifest = quiet(f"gta5:{tmp_path / 'game'}", tmp_path / "out", images="lossless")
    assert [entry.source_size for entry in manifest.splits["train"].pictures] == ["96x50", "90x40", "48x24", "12x10"]
    direct = open_dataset(f"gta5:{tmp_path / 'game'}", transform=train_transform(SIZE, "unit"))
    small = open_dataset(f"prepared:{tmp_path / 'out'}", transform=train_transform(None, "unit"))
    assert all(torch.equal(a.image, b.image) and torch.equal(a.label, b.label) for a, b in zip(direct, small))


def test_labels_are_eight_bits_even_of_few_classes(game, tmp_path):
    quiet(f"gta5:{game}", tmp_path / "out")
    path = tmp_path / "out" / "train" / "labels" / "00003.png"
    assert path.read_bytes()[24:26] == b"\x08\x03", "bit depth 8, palette"
    assert set(np.unique(np.array(Image.open(path)))) <= {0, 255}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_space_is_read_as_from_the_raw_ids_or_refused_in_the_same_words(layout):
    stored = "camvid11" if layout == "camvid" else "cityscapes19"
    raw = sorted(labels.layout_train_ids(layout, stored))
    for space in labels.SPACES:
        try:
            direct = labels.lookup_table(layout, space)
        except ValueError as error:
            with pytest.raises(ValueError, match="merge.*camvid11") as refused:
                labels.table_between(stored, space)
            assert str(refused.value) == str(error)
            continue
        through = labels.table_between(stored, space)[labels.lookup_table(layout, stored)]
        assert through[raw].tolist() == direct[raw].tolist()


def test_a_space_with_classes_that_are_not_stored_is_refused():
    with pytest.raises(ValueError, match="stored in 'synthia16' cannot be read as 'cityscapes19'.*terrain, truck, train"):
        labels.table_between("synthia16", "cityscapes19")


def test_ids_that_prepared_labels_cannot_have_are_an_error(game, tmp_path):
    quiet(f"gta5:{game}", tmp_path / "out")
    table = label_table("prepared", tmp_path / "out", "train", "synthia13")
    assert set(table[19:255]) == {UNKNOWN} and table[255] == 255
    assert raw_table("gta5", "synthia13")[7] == table[0] == 0  # road


def test_order_and_repetitions_of_a_list_file_stay(game, tmp_path):
    (game / "train.txt").write_text("00004.png\n00001.png\n00004.png\n", encoding="utf-8")
    quiet(f"gta5:{game}", tmp_path / "out")
    small = open_dataset(f"prepared:{tmp_path / 'out'}")
    assert [small.name_of(i) for i in range(3)] == ["00004.png", "00001.png", "00004.png"]
    (tmp_path / "mine.txt").write_text("00001.png\n00009.png\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="mine.txt', line 2: no picture '00009.png' in prepared:.*Correct the list"):
        open_dataset(f"prepared:{tmp_path / 'out'}", list_file=tmp_path / "mine.txt")


def test_splits_of_cityscapes_together_and_one_after_the_other(tmp_path):
    root = cityscapes(tmp_path / "cityscapes")
    quiet(f"cityscapes:{root}", tmp_path / "both", splits=("train", "val"))
    quiet(f"cityscapes:{root}", tmp_path / "added", splits=("val",))
    quiet(f"cityscapes:{root}", tmp_path / "added", splits=("train",))
    assert content(tmp_path / "both") == content(tmp_path / "added")
    small = open_dataset(f"prepared:{tmp_path / 'both'}", "val")
    assert small.name_of(0) == "frankfurt/frankfurt_000000_000294_leftImg8bit.png" and small[0].label.unique() == 13
    with pytest.raises(ValueError, match="has no split 'test'; prepared were: 'train', 'val'.*--split test"):
        open_dataset(f"prepared:{tmp_path / 'both'}", "test")


def test_pictures_alone_can_be_a_target(game, tmp_path):
    quiet(f"folder:{game / 'images'}", tmp_path / "plain")
    quiet(f"gta5:{game}", tmp_path / "unlabelled", labelled=False)
    for out in (tmp_path / "plain", tmp_path / "unlabelled"):
        assert not (out / "train" / "labels").exists()
        assert open_dataset(f"prepared:{out}", labelled=False)[0].label.unique() == 255
        with pytest.raises(FileNotFoundError, match="'train' without labels.*Prepare it with labels into another folder"):
            open_dataset(f"prepared:{out}")


def test_it_trains_and_is_a_run_on_the_same_pictures(game, tmp_path):
    quiet(f"gta5:{game}", tmp_path / "out", (32, 64))
    settings = ["network=small", "network_options={'width': 8}", "steps=2", "batch_size=1", "source_size=64x32"]
    done = CliRunner().invoke(app, [
        "train", "source-only", "--source", f"prepared:{tmp_path / 'out'}", "--target", f"folder:{game / 'images'}", "--out",
        str(tmp_path / "run"), "--quiet", "--device", "cpu", *(w for s in settings for w in ("--set", s)),
    ])  # fmt: skip
    assert done.exit_code == 0 and (tmp_path / "run" / "best.pt").is_file(), done.output


# ---- the same files, whatever happens


def test_two_runs_and_any_number_of_processes_give_the_same_files_and_manifest(game, tmp_path):
    for out, workers in (("a", 1), ("b", 1), ("c", 2)):
        quiet(f"gta5:{game}", tmp_path / out, workers=workers)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")
    manifest = json.loads((tmp_path / "a" / "prepared.json").read_text(encoding="utf-8"))
    assert set(manifest["versions"]) >= {"course-lib", "pillow", "torch"}


def test_nothing_is_made_twice_and_what_changed_is_made_again(game, tmp_path, monkeypatch):
    out = tmp_path / "out"
    quiet(f"gta5:{game}", out)
    before, made = content(out), []
    work = preparing.store
    monkeypatch.setattr(preparing, "store", lambda pair, *rest: (made.append(pair.name), work(pair, *rest))[1])
    quiet(f"gta5:{game}", out)
    assert made == [] and content(out) == before
    (out / "train" / "images" / "00001.jpg").write_bytes(b"damaged")
    (out / "train" / "labels" / "00002.png").unlink()
    quiet(f"gta5:{game}", out)
    assert made == ["00001.png", "00002.png"] and content(out) == before
    write_image(game / "images" / "00004.png", 12, 16)  # the original is another one now
    write_label(game / "labels" / "00004.png", np.full((12, 16), 8))
    quiet(f"gta5:{game}", out)
    assert made[2:] == ["00004.png"] and content(out) != before
    label = game / "labels" / "00003.png"  # other pixels in as many bytes
    os.utime(label, ns=(0, label.stat().st_mtime_ns + 1))
    quiet(f"gta5:{game}", out)
    assert made[3:] == ["00003.png"]


def killable(game: Path, out: Path, workers: int, pids: Path) -> None:
    """In a process of its own: a preparation of which each picture takes a while; workers leave their process ids."""
    torch.set_num_threads(1)
    work = storing.store

    def slowly(pair, *rest):
        (pids / str(os.getpid())).touch()
        time.sleep(0.1)
        return work(pair, *rest)

    preparing.store = slowly
    quiet(f"gta5:{game}", out, workers=workers)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SIGKILL and /proc are Linux's")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_and_makes_the_missing_files_alone(tmp_path, workers, monkeypatch):
    game, out, pids = images_and_labels(tmp_path / "game", count=30), tmp_path / "out", tmp_path / "pids"
    pids.mkdir()
    process = multiprocessing.get_context("fork").Process(target=killable, args=(game, out, workers, pids))
    process.start()
    end = time.monotonic() + HANG
    while sum(len(path.read_text(encoding="utf-8").splitlines()) for path in out.glob(".journal/*.jsonl")) < 6:
        assert time.monotonic() < end and process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    end = time.monotonic() + HANG
    while (left := [int(path.name) for path in pids.iterdir() if alive(int(path.name))]) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)  # they would hold this test's output open for ever
    assert not left, "workers outlive the run"
    so_far = r"there is no prepared.json. It is unfinished: \d+ of 30 pictures.*cut off, repeat the command"
    with pytest.raises(FileNotFoundError, match=so_far):
        open_dataset(f"prepared:{out}")

    cut_off = out / "train" / "images" / ".00000.jpg.0123456789ab.tmp"  # what a kill within a write leaves
    cut_off.write_bytes(b"half")
    os.utime(cut_off, (1, 1))
    lines = [line for path in out.glob(".journal/*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    noted = {json.loads(line)[1][0] for line in lines}
    before = {path: path.stat().st_mtime_ns for path in out.glob("train/*/*.*")}
    made, work = [], preparing.store
    monkeypatch.setattr(preparing, "store", lambda pair, *rest: (made.append(pair.name), work(pair, *rest))[1])
    quiet(f"gta5:{game}", out)
    assert len(noted) >= 6 and noted.isdisjoint(made) and len(noted) + len(made) == 30, "none is made twice, none is missing"
    assert all(path.stat().st_mtime_ns == before[path] for path in before if path.stem + ".png" in noted)
    quiet(f"gta5:{game}", tmp_path / "never_killed")
    assert content(out) == content(tmp_path / "never_killed"), "no journal, no temporary file, the same manifest"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is Unix's")
def test_a_worker_that_is_killed_is_said_in_words(game, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "store", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ChildProcessError, match="A worker process was killed .out of memory.*--workers, with fewer"):
        quiet(f"gta5:{game}", tmp_path / "out", workers=2)


# ---- bad pictures


def test_a_broken_picture_stops_it_by_name_and_what_is_done_is_kept(game, tmp_path):
    (game / "images" / "00004.png").write_bytes(b"<html>404")
    kept = "What is done is kept: repeat the command to continue"
    with pytest.raises(BadPicture, match=f"images.00004.png'.*web page.*{kept}") as stop:
        quiet(f"gta5:{game}", tmp_path / "out", workers=2)
    assert stop.value.kind == "damaged files"
    assert not (tmp_path / "out" / "prepared.json").exists() and any((tmp_path / "out").glob(".journal/*.jsonl"))
    write_image(game / "images" / "00004.png")
    assert len(quiet(f"gta5:{game}", tmp_path / "out").splits["train"].pictures) == 6


def test_skip_bad_leaves_out_and_records(game, tmp_path):
    (game / "images" / "00004.png").write_bytes(b"<html>404")
    (game / "labels" / "00002.png").unlink()
    write_label(game / "labels" / "00001.png", np.full((5, 8), 7))  # as 60 of the real GTA5: another size than its picture
    quiet(f"gta5:{game}", tmp_path / "out", skip_bad=True)
    part = read_manifest(tmp_path / "out").splits["train"]
    assert [entry.name for entry in part.pictures] == ["00000.png", "00003.png", "00005.png"]
    assert {problem.kind for problem in part.left_out} == {
        "pictures without label", "pairs that differ in size", "damaged files",
    }  # fmt: skip
    report = check(f"prepared:{tmp_path / 'out'}", progress=False)
    assert report.ok and "3 pictures of the original were left out" in report.table()


def test_nothing_that_can_be_used_is_an_error(game, tmp_path):
    for path in (game / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Nothing of gta5:.* \(train\) can be used. The first problem: Cannot read"):
        quiet(f"gta5:{game}", tmp_path / "out", skip_bad=True)


# ---- room, folders, arguments


def test_too_little_room_is_said_before_anything_is_written(game, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(OSError, match=r"needs about .* GB \(6 pictures of 0.01 MB, measured on 4 of.*0.00 GB free.*Make room"):
        quiet(f"gta5:{game}", tmp_path / "out")
    assert not (tmp_path / "out" / "train").exists()
    monkeypatch.undo()
    quiet(f"gta5:{game}", tmp_path / "out", (12, 24))  # the cure that the message offers


@pytest.mark.parametrize("where", ["game", "game/images", "game/images/small", "."])
def test_the_originals_are_never_touched(game, tmp_path, where):
    before = content(game)
    with pytest.raises(ValueError, match="lie in one another. Data that is read is never touched: give a folder beside"):
        quiet(f"gta5:{game}", tmp_path / where)
    if where == ".":  # around them is no place for a result, beside them is
        return
    (tmp_path / "link").symlink_to(tmp_path / where)
    with pytest.raises(ValueError, match="Data that is read is never touched"):
        quiet(f"gta5:{game}", tmp_path / "link" / "new")
    assert content(game) == before


def test_other_peoples_folders_and_other_settings_are_refused(game, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it", encoding="utf-8")
    with pytest.raises(ValueError, match="holds other files .thesis.txt.*new or an empty folder"):
        quiet(f"gta5:{game}", tmp_path / "mine")
    quiet(f"gta5:{game}", tmp_path / "out")
    with pytest.raises(ValueError, match="prepared otherwise: size '48x24' .now '32x16'.*another --out"):
        quiet(f"gta5:{game}", tmp_path / "out", (16, 32))


@pytest.mark.parametrize("options, words", [
    ({"size": (0, 8)}, r"size=\(0, 8\), wanted \(height, width\) in whole pixels"),
    ({"size": (10_000, 10_000)}, "at most 67 megapixels"),
    ({"images": "bmp"}, "images='bmp', wanted one of: jpeg, lossless"),
    ({"splits": ()}, "wanted one or more different names"),
    ({"splits": ("train", "train")}, "wanted one or more different names"),
    ({"workers": 0}, "workers=0, wanted 1 or more processes"),
])  # fmt: skip
def test_arguments_that_make_no_sense(game, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        quiet(f"gta5:{game}", tmp_path / "out", **options)


def test_a_prepared_set_is_not_prepared_again(game, tmp_path):
    quiet(f"gta5:{game}", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot be prepared again.*Name the originals"):
        quiet(f"prepared:{tmp_path / 'out'}", tmp_path / "again")


def test_two_pictures_that_would_have_one_name_are_refused(game, tmp_path):
    Image.new("RGB", (8, 6)).save(game / "images" / "00003.jpg")
    with pytest.raises(ValueError, match="'00003.jpg' and '00003.png' share the label .*Rename"):
        quiet(f"gta5:{game}", tmp_path / "out")
    with pytest.raises(ValueError, match="'00003.jpg' and '00003.png' would share the file 'train/images/00003.jpg'"):
        quiet(f"gta5:{game}", tmp_path / "out", labelled=False)


def test_a_disk_that_returns_other_bytes_is_noticed(game, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "write_whole", lambda path, data, sync: (path.parent.mkdir(parents=True, exist_ok=True),
                                                                         path.write_bytes(data[:-30])))  # fmt: skip
    with pytest.raises(OSError, match="was not read back as it was written.*Check the disk"):
        quiet(f"gta5:{game}", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.jpg"))


# ---- the doctor


def test_the_doctor_compares_checksums_and_names_what_is_missing(game, tmp_path):
    out = tmp_path / "out"
    quiet(f"gta5:{game}", out)
    report = check(f"prepared:{out}", progress=False)
    assert report.ok and report.space == "cityscapes19" and f"Prepared from gta5:{game} at 48x24" in report.table()
    Image.new("RGB", (48, 24)).save(out / "train" / "images" / "00001.jpg")  # a whole picture, of something else
    (out / "train" / "labels" / "00002.png").unlink()
    report = check(f"prepared:{out}", progress=False)
    assert {Path(p.file).name: p.kind for p in report.problems} == {
        "00001.jpg": "files that differ from the manifest", "00002.png": "prepared files that are missing",
    }  # fmt: skip
    assert "it makes this file again" in report.table() and report.pictures == 4
    with pytest.raises(FileNotFoundError, match="00002.png' is not there, though the manifest names it. Run the same"):
        open_dataset(f"prepared:{out}")


@pytest.mark.parametrize("damage, words", [
    (lambda text: text[:100], "damaged, or of another version"),
    (lambda text: text.replace('"format": 1', '"format": 2'), "format 2, wanted 1"),
    (lambda text: text.replace('"00002.png"', '"../../00002.png"'), "a name that leads out of the folder"),
    (lambda text: text.replace('"train"', '"../train"'), "a name that leads out of the folder"),
    (lambda text: "[]", "damaged"),
    (lambda text: text.replace('"jpeg"', '"bmp"'), "stored as 'bmp'"),
    (lambda text: text.replace("cityscapes19", "cityscapes18"), "There is no label space"),
])  # fmt: skip
def test_a_manifest_that_cannot_be_used_is_named(game, tmp_path, damage, words):
    quiet(f"gta5:{game}", tmp_path / "out")
    path = tmp_path / "out" / "prepared.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=f"prepared.json' cannot be used as the manifest.*{words}"):
        open_dataset(f"prepared:{tmp_path / 'out'}")


def test_another_number_than_the_published_is_a_warning(game, monkeypatch):
    assert "\nWarning: the published gta5 has 24966 pictures in 'train', here are 6." in check(f"gta5:{game}").table()
    monkeypatch.setitem(PICTURES, "gta5", {"train": 6})
    assert "note: 6 pictures, as published." in check(f"gta5:{game}").table()


# ---- the command line and the page


def test_the_command_says_how_to_use_what_it_made(game, tmp_path):
    root = cityscapes(tmp_path / "cityscapes")
    words = ["data", "prepare", f"cityscapes:{root}", "--out", str(tmp_path / "out"), "--size", "48x24", "--workers", "1"]
    done = CliRunner().invoke(app, [*words, "--split", "train", "--split", "val", "--quiet"])
    assert done.exit_code == 0, done.output
    assert f"3 pictures of 48x24. Use them as prepared:{tmp_path / 'out'}\n" in done.output
    assert f"prepared:{tmp_path / 'out'}@val" in done.output and "is taken on the originals" in done.output


def test_the_script_is_the_command(game, tmp_path, monkeypatch, capsys):
    import runpy

    script = Path(__file__).resolve().parents[2] / "data_scripts" / "prepare.py"
    words = [f"gta5:{game}", "--out", str(tmp_path / "out"), "--size", "48x24", "--quiet", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert not stop.value.code and "6 pictures of 48x24" in capsys.readouterr().out


def test_names_that_are_no_utf8_are_names(tmp_path):
    originals = images_and_labels(tmp_path / "game", count=2)
    try:
        odd = os.fsdecode(b"caf\xe9.png")
        for folder in ("images", "labels"):
            first = sorted((originals / folder).iterdir())[0]
            first.rename(first.with_name(odd))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 alone")
    prepare(f"gta5:{originals}", tmp_path / "out", (4, 6), workers=1, progress=False)
    again = open_dataset(f"prepared:{tmp_path / 'out'}")
    assert sorted(again.name_of(k) for k in range(2)) == sorted(path.name for path in (originals / "images").iterdir())
    assert check(f"prepared:{tmp_path / 'out'}").problems == ()


def test_the_pairs_of_gta5_that_are_left_out_are_as_published(game, monkeypatch):
    broken = sorted((game / "labels").iterdir())[0]
    count = len(list((game / "labels").iterdir()))
    monkeypatch.setitem(PICTURES["gta5"], "train", count)
    whole = broken.read_bytes()
    try:
        broken.write_bytes(whole[:30])
        notes = " ".join(check(f"gta5:{game}").notes)
    finally:
        broken.write_bytes(whole)
    assert f"{count - 1} pictures; with the 1 that were left out {count}, as published" in notes and "Warning" not in notes


def test_the_page_has_the_numbers_of_the_code():
    page = (Path(__file__).resolve().parents[2] / "data_scripts" / "README.md").read_text(encoding="utf-8")
    rows = {layout: next(line for line in page.splitlines() if line.startswith(f"| `{layout}`")) for layout in PICTURES}
    for layout, splits in PICTURES.items():
        for split, count in splits.items():
            assert split == "all" or f"{count} `{split}`" in rows[layout], (layout, split)
    assert f"{GTA5_OTHER_SIZE} label maps" in page and str(PICTURES["gta5"]["train"] - GTA5_OTHER_SIZE) in page


@pytest.mark.parametrize("change, words", [
    (lambda c: c["settings"].update(size=5), "'settings.size' is 5, wanted a text"),
    (lambda c: c["splits"]["train"]["pictures"][0].__setitem__(3, "x"), "'splits.train.pictures.0.3' is 'x', wanted a whole"),
    (lambda c: c["splits"]["train"].update(labelled="no"), "'splits.train.labelled' is 'no', wanted true or false"),
    (lambda c: c["splits"]["train"].update(left_out=[["a"]]), "'splits.train.left_out.0' is .'a'."),
    (lambda c: c.pop("splits"), "that has 'splits', too"),
])  # fmt: skip
def test_a_manifest_with_values_of_other_types_is_refused_where_it_is_read(change, words, game, tmp_path):
    quiet(f"gta5:{game}", tmp_path / "out")
    path = tmp_path / "out" / "prepared.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=f"prepared.json' cannot be used as the manifest .*{words}"):
        read_manifest(tmp_path / "out")
