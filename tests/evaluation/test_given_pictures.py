"""Files and folders that a user names, and the names of their results."""

import importlib
import os

import numpy as np
import pytest
from PIL import Image

from course_lib.evaluation import predict
from course_lib.evaluation.given_pictures import given_pictures
from course_lib.evaluation.predict import KIND
from course_lib.networks import build

predict_module = importlib.import_module("course_lib.evaluation.predict")  # the package has a function of this name


@pytest.fixture(scope="module")
def network():
    return build("small", 19, seed=0, width=8)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def names(paths):
    return [name for _, name in given_pictures(paths, KIND)[0]]


def test_a_folder_keeps_its_places(network, tmp_path, capsys):
    for name in ("x.png", "a/x.png", "a/b c/y.JPG", "b/x.webp"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no picture", encoding="utf-8")
    predict(network, [tmp_path / "photos"], tmp_path / "out")
    stems = ("a/b c/y", "a/x", "b/x", "x")
    assert below(tmp_path / "out") == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("labels", "overlay"))
    assert "note: no pictures by their ending, left out: 1 (" in (said := capsys.readouterr().err) and "notes.txt" in said
    assert "labelling" not in said, "a bar after two seconds alone"


def test_what_takes_long_has_a_bar(network, tmp_path, capsys, monkeypatch):
    assert predict_module.PATIENCE == 2.0
    monkeypatch.setattr(predict_module, "PATIENCE", 0)
    pictures = [picture(tmp_path / "x.png"), picture(tmp_path / "y.png")]
    predict(network, pictures, tmp_path / "out")
    assert "labelling" in capsys.readouterr().err
    predict(network, pictures, tmp_path / "out", progress=False)
    assert capsys.readouterr().err == ""


def test_one_name_twice_is_no_collision(tmp_path):
    for name in ("x.png", "x.jpg", "y.png", "more/x.png"):
        picture(tmp_path / "p" / name)
    assert names([tmp_path / "p"]) == ["more/x", "x.jpg", "x.png", "y"]
    assert names([tmp_path / "p" / "x.png", tmp_path / "p" / "x.jpg"]) == ["x.png", "x.jpg"]
    assert names([tmp_path / "p" / "x.png"] * 2) == ["x"], "named twice, labelled once"
    picture(tmp_path / "p" / "x.png.png")
    with pytest.raises(ValueError, match="The results of .*x.png and .*x.png.png would both be called x.png. Rename one"):
        names([tmp_path / "p"])


def test_several_folders_are_folders_of_the_results(tmp_path):
    for name in ("day/x.png", "night/x.png", "z.png"):
        picture(tmp_path / name)
    assert names([tmp_path / "day", tmp_path / "night", tmp_path / "z.png"]) == ["day/x", "night/x", "z"]
    picture(tmp_path / "other" / "day" / "x.png")
    with pytest.raises(ValueError, match="would both be called day/x"):
        names([tmp_path / "day", tmp_path / "other" / "day"])


def test_results_are_not_labelled_again(network, tmp_path, capsys):
    picture(tmp_path / "x.png")
    first = predict(network, [tmp_path], tmp_path)
    assert first == predict(network, [tmp_path], tmp_path) == [tmp_path / "x_labels.png", tmp_path / "x_overlay.png"]
    assert "results of an earlier `uda predict`, left out: 2" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_are_followed_once_and_those_that_lead_nowhere_are_named(network, tmp_path, capsys):
    picture(tmp_path / "else" / "far.png")
    picture(tmp_path / "p" / "near.png")
    (tmp_path / "p" / "circle").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "out").symlink_to(tmp_path / "else")
    (tmp_path / "p" / "file.png").symlink_to(tmp_path / "else" / "far.png")
    assert names([tmp_path / "p"]) == ["file", "near", "out/far"]
    assert "leaves its data set" in capsys.readouterr().err
    (tmp_path / "p" / "gone.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="No picture at .*gone.png"):
        predict(network, [tmp_path / "p"], tmp_path / "out", progress=False)
    written = predict(network, [tmp_path / "p"], tmp_path / "out", skip_bad=True)
    assert len(written) == 6 and "left out: No picture at" in capsys.readouterr().err


def test_a_bad_picture_is_an_error_or_left_out_and_named(network, tmp_path, capsys):
    picture(tmp_path / "p" / "good.png")
    (tmp_path / "p" / "bad.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(ValueError, match="bad.png cannot be read as a picture"):
        predict(network, [tmp_path / "p"], tmp_path / "out", progress=False)
    written = predict(network, [tmp_path / "p"], tmp_path / "out", skip_bad=True, progress=False)
    assert [path.name for path in written] == ["good_labels.png", "good_overlay.png"]
    assert "note: left out:" in (said := capsys.readouterr().err) and "bad.png cannot be read" in said


def test_hostile_names_are_printed_without_effect(network, tmp_path, capsys):
    hostile = tmp_path / "p" / "\x1b[2J\n-rf *"
    picture(hostile / "a\x1b]0;b\x07\n.png")
    (hostile / "\x1b[31mx.txt").write_text("", encoding="utf-8")
    (written, _) = predict(network, [tmp_path / "p"], tmp_path / "out")
    assert written.parent.name == hostile.name and written.is_file()
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text(network, tmp_path):
    folder = os.fsencode(tmp_path) + b"/p\xff"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system wants text")
    picture(tmp_path / "x.png").rename(os.fsdecode(folder + b"/x\xfe.png"))
    assert predict(network, [os.fsdecode(folder)], tmp_path / "out", progress=False)[0].is_file()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No picture and no folder at .*none.png. Check the name"):
        names([tmp_path / "none.png"])
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    picture(tmp_path / "empty" / ".hidden" / "x.png")
    with pytest.raises(FileNotFoundError, match=r"No pictures in the folder .*empty, wanted \*.png or"):
        names([tmp_path / "empty"])


def test_an_input_is_never_a_result(network, tmp_path):
    picture(tmp_path / "p" / "x.png"), picture(tmp_path / "p" / "x_labels.png")
    with pytest.raises(FileExistsError, match="x_labels.png is read by this command"):
        predict(network, [tmp_path / "p"], tmp_path / "p", replace=True, progress=False)


def test_a_large_folder_is_checked_in_linear_time(tmp_path, network, monkeypatch):
    """Every result is compared with every picture: by their places in one set."""
    for i in range(40):
        picture(tmp_path / f"{i}.png")
    calls = []
    monkeypatch.setattr("course_lib.files.os.path.samefile", lambda a, b: calls.append((a, b)))
    for _ in range(2):
        predict(network, [tmp_path], tmp_path / "out", progress=False)
    assert len(calls) == 0
