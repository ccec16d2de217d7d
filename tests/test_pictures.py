"""One reader of pictures: training, check, prepare, predict and probe see the same pixels, and honour `bits` alike."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import course_lib
from course_lib.data import check, open_dataset, prepare
from course_lib.data.prepared import MANIFEST, read_manifest
from course_lib.data.reading import READING
from course_lib.engine import save_checkpoint
from course_lib.evaluation import predict, read_classes
from course_lib.evaluation.predict import read_picture
from course_lib.experiments.plan import label_target
from course_lib.experiments.train import Pair, probe_network, score_network, training_set
from course_lib.networks import build
from course_lib.recipes.recipe import Recipe
from tests.data.pictures import KINDS, RGB, exif, upright, write
from tests.data.trees import write_label
from tests.test_cli import uda  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("mark", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_read_a_picture_gives_the_same_pixels(kind, mark, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        path = write(kind, tmp_path / "set" / name, mark)
    want = upright(KINDS[kind], mark)
    size = want.shape[:2]
    prepare(f"folder:{tmp_path / 'set'}", tmp_path / "out", size, images="lossless", workers=1, progress=False)
    seen = {
        "folder": open_dataset(f"folder:{tmp_path / 'set'}")[0].image,
        "prepared": open_dataset(f"prepared:{tmp_path / 'out'}", labelled=False)[0].image,
        "predict": read_picture(path).image,
        "probe": read_classes(tmp_path / "set").image[0],
    }
    for way, image in seen.items():
        assert np.array_equal(image.permute(1, 2, 0).numpy(), want), way
    report = check(f"folder:{tmp_path / 'set'}", progress=False)
    assert report.ok and report.sizes == {f"{size[1]}x{size[0]}": 2}


# ---- bits


def deep_set(root: Path, *largest: int) -> str:
    """GTA5's folders of 16-bit grey pictures of 64x32, values from 0 to `largest`."""
    (root / "images").mkdir(parents=True)
    for i, white in enumerate(largest):
        values = np.linspace(0, white, 64).round().astype(np.uint16)[None].repeat(32, 0)
        Image.fromarray(values).save(root / "images" / f"{i}.png")
        write_label(root / "labels" / f"{i}.png", np.full((32, 64), 7 + 4 * (i % 2)))
    return f"gta5:{root}"


def test_check_warns_by_the_largest_value_of_the_whole_folder(tmp_path):
    report = check(deep_set(tmp_path / "a", 900, 4095), progress=False)
    warning = next(line for line in report.table().splitlines() if "nearly black" in line)
    assert warning.startswith("Warning: the largest value of all 16-bit pictures is 4095") and "--set bits=12" in warning
    assert report.ok
    assert "nearly black" not in check(f"gta5:{tmp_path / 'a'}", bits=12, progress=False).table()
    assert "nearly black" not in check(deep_set(tmp_path / "b", 900, 65535), progress=False).table()  # one dark picture is none


def test_check_lists_pictures_beyond_their_bits_and_skip_bad_leaves_them_out(tmp_path):
    spec = deep_set(tmp_path / "a", 4095, 5000)
    report = check(spec, bits=12, progress=False)
    assert [(p.kind, Path(p.file).name) for p in report.problems] == [("pictures with values beyond their range", "1.png")]
    assert "has the value 5000; wanted 0 to 4095" in report.table()
    for _ in range(2):  # read, then from the cache, each for its own bits
        assert len(open_dataset(spec, skip_bad=True, bits=12)) == 1
        assert len(open_dataset(spec, skip_bad=True)) == 2


def test_bits_reach_the_pixels_of_a_data_set_with_other_labels_too(tmp_path):
    pictures = open_dataset(deep_set(tmp_path / "a", 4095, 4095), bits=12)
    for other in (pictures, pictures.with_truth(pictures), pictures.with_labels(tmp_path / "a" / "labels")):
        assert other.read(0).image.amax() == 255 and other.bits == 12
    assert open_dataset(f"gta5:{tmp_path / 'a'}")[0].image.amax() == 16


def test_a_prepared_set_is_scaled_and_says_how(tmp_path, capsys):
    spec, out = deep_set(tmp_path / "a", 4095, 4000), tmp_path / "out"
    prepare(spec, out, (32, 64), images="lossless", bits=12, workers=1, progress=False)
    assert open_dataset(f"prepared:{out}")[0].image.amax() == 255
    settings = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["settings"]
    assert (settings["bits"], settings["reading"]) == (12, READING)
    with pytest.raises(ValueError, match="prepared otherwise: bits 12 .now 16."):
        prepare(spec, out, (32, 64), images="lossless", workers=1, progress=False)
    with pytest.raises(ValueError, match="Got bits=20"):
        prepare(spec, tmp_path / "other", (32, 64), bits=20, workers=1, progress=False)
    assert "nearly black" not in check(f"prepared:{out}", progress=False).table()


def test_a_set_that_was_prepared_too_dark_warns(tmp_path, uda):  # noqa: F811
    spec, out = deep_set(tmp_path / "a", 4095, 4000), tmp_path / "out"
    status, text, _ = uda("data", "prepare", spec, "--out", out, "--size", "64x32", "--workers", 1, "--quiet")
    assert status == 0 and "Warning: the largest value of all 16-bit pictures is 4095" in text and "another folder" in text
    assert "Warning: the largest value of all 16-bit pictures is 4095" in check(f"prepared:{out}", progress=False).table()
    status, text, _ = uda("data", "prepare", spec, "--out", tmp_path / "b", "--size", "64x32", "--bits", 12, "--workers", 1)
    assert status == 0 and "nearly black" not in text and read_manifest(tmp_path / "b").settings.bits == 12


def test_a_set_of_an_earlier_version_says_that_it_may_lie_on_its_side(tmp_path):
    spec, out = deep_set(tmp_path / "a", 65535, 65535), tmp_path / "out"
    prepare(spec, out, (32, 64), workers=1, progress=False)
    assert "earlier version" not in check(f"prepared:{out}", progress=False).table()
    content = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    for key in ("bits", "reading"):
        del content["settings"][key]
    content["splits"]["train"]["pictures"] = [entry[:5] for entry in content["splits"]["train"]["pictures"]]
    (out / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    report = check(f"prepared:{out}", progress=False)
    assert report.ok and "Prepared by an earlier version, which did not turn pictures upright" in report.table()
    with pytest.raises(ValueError, match="prepared otherwise: reading 1 .now 2."):
        prepare(spec, out, (32, 64), workers=1, progress=False)


def test_pictures_that_stay_as_stored_are_counted(tmp_path, uda):  # noqa: F811
    (tmp_path / "a" / "images").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(RGB).save(tmp_path / "a" / "images" / f"{i}.png", exif=exif(6))
        write_label(tmp_path / "a" / "labels" / f"{i}.png", np.full((3, 2) if i == 1 else (2, 3), 7))
    want = "note: 2 pictures have an orientation mark (EXIF) and a label that fits only without turning"
    report = check(f"gta5:{tmp_path / 'a'}", progress=False)
    assert want in report.table() and report.ok and report.sizes == {"3x2": 2, "2x3": 1}
    assert "orientation" not in check(f"gta5:{tmp_path / 'a'}", labelled=False, progress=False).table()
    status, text, _ = uda("data", "prepare", f"gta5:{tmp_path / 'a'}", "--out", tmp_path / "out", "--size", "3x2")
    assert status == 0 and want in text and want in check(f"prepared:{tmp_path / 'out'}", progress=False).table()


# ---- a checkpoint keeps its bits


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    recipe = Recipe("toy", "source-only", network="small", network_options={"width": 8}, bits=12, test_size=(32, 64))
    weights = build("small", 19, seed=0, width=8).state_dict()
    save_checkpoint(tmp_path / "best.pt", {"segmenter": weights, "recipe": recipe.to_dict()})
    return tmp_path / "best.pt"


WORDS = "has the value 5000; wanted 0 to 4095, which 12 bits hold. Give bits=13 or more"


def test_predict_reads_as_the_checkpoint_was_trained(checkpoint, tmp_path, uda):  # noqa: F811
    deep_set(tmp_path / "a", 5000)
    words = ("predict", checkpoint, tmp_path / "a" / "images" / "0.png", "--out", tmp_path / "out", "--device", "cpu")
    status, _, err = uda(*words)
    assert status == 1 and WORDS in err and "0.png cannot be read as a picture" in err and "PNG or JPEG" not in err
    status, _, err = uda(*words, "--bits", 13)
    assert status == 0 and "note" not in err
    status, _, err = uda(*words, "--bits", 16)
    assert status == 0 and "note: the largest value of all 16-bit pictures is 5000: they seem to hold 14 bits" in err
    status, _, err = uda(*words, "--bits", 99)
    assert status == 1 and "Got bits=99, wanted a whole number from 1 to 16" in err


def test_the_overlay_shows_the_scaled_picture(tmp_path):
    deep_set(tmp_path / "a", 4095)
    path = tmp_path / "a" / "images" / "0.png"
    net = build("small", 19, seed=0, width=8)
    for bits, white in ((12, 255), (16, 16)):
        _, blend = predict(net, [path], tmp_path / "out", opacity=0.0, bits=bits, progress=False)
        assert np.asarray(Image.open(blend))[0, -1].tolist() == [white] * 3


def test_evaluate_and_probe_read_as_the_checkpoint_was_trained(checkpoint, tmp_path, uda):  # noqa: F811
    spec = deep_set(tmp_path / "a", 5000, 5000)
    words = ("evaluate", checkpoint, "--data", f"{spec}@all", "--device", "cpu", "--quiet")
    status, _, err = uda(*words)
    assert status == 1 and WORDS in err
    assert uda(*words, "--bits", 13)[0] == 0
    for part in ("train", "test"):
        for name in ("one", "two"):
            deep_set(tmp_path / "p" / part / name / "x", 5000)
            (tmp_path / "p" / part / name / "x" / "images" / "0.png").rename(tmp_path / "p" / part / name / "0.png")
    for probing in (lambda **more: probe_network(checkpoint, tmp_path / "p", **more),
                    lambda **more: score_network(checkpoint, f"{spec}@all", quiet=True, **more)):  # fmt: skip
        with pytest.raises(ValueError, match=WORDS):
            probing()
        probing(bits=13)


def test_labels_are_made_again_for_other_bits(checkpoint, tmp_path):
    pair, recipe = Pair("", deep_set(tmp_path / "a", 4095, 4095)), Recipe("toy", "source-only", bits=12, test_size=(32, 64))
    first = label_target(checkpoint, pair, tmp_path / "out", recipe, quiet=True)
    second = label_target(checkpoint, pair, tmp_path / "out", recipe.override("bits=16"), quiet=True)
    assert first["thresholds"] != second["thresholds"]


def test_training_reads_by_the_recipe(tmp_path):
    recipe, spec = Recipe("toy", "source-only"), deep_set(tmp_path / "a", 4095, 4095)
    dark, light = (training_set(recipe.override(f"bits={bits}"), spec, "source", "unit")[0].image for bits in (16, 12))
    assert torch.equal(light.amax(), torch.tensor(1.0)) and dark.amax() < 0.07
    with pytest.raises(ValueError, match="Got bits=0, wanted"):
        training_set(recipe.override("bits=0"), spec, "source", "unit")
    assert Recipe.from_dict(recipe.override("bits=12").to_dict()).bits == 12


def test_no_command_opens_a_data_set_without_the_recipes_bits():
    root, calls = Path(course_lib.__file__).parent, 0
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "open_dataset":
                calls += 1
                assert "bits" in {word.arg for word in node.keywords}, f"{path.relative_to(root)}, line {node.lineno}"
    assert calls >= 3


def test_pictures_are_opened_in_one_place():
    root = Path(course_lib.__file__).parent
    opening = (path for path in root.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8"))
    found = {path.relative_to(root).as_posix() for path in opening}
    figures = {"classroom/execute.py", "classroom/contact_sheet.py"}  # of a notebook, drawn by matplotlib
    figures |= {"classroom/course.py"}  # the label maps that `predict` has just written
    assert found == {"data/reading.py", "data/bits.py", "data/png16.py"} | figures
