"""`uda export`, `uda score`, `uda difference`, and what `compare`, `train` and `run` write for other programs, as typed."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course_lib import cli
from course_lib.engine import Stopped
from course_lib.experiments.plan import plan, run_plan
from course_lib.experiments.train import train_recipe
from course_lib.files import made_by
from course_lib.labels import CITYSCAPES19
from course_lib.recipes import recipe as find_recipe
from tests.engine.test_tensorboard import logged, shown
from tests.experiments.conftest import TINY, pair  # noqa: F401
from tests.test_cli import uda  # noqa: F401
from tests.test_docs import leaves

PLAIN = (*TINY, "network_options={'width': 8}")
SETS = [word for text in PLAIN for word in ("--set", text)]


@pytest.fixture(scope="module")
def checkpoint(pair, tmp_path_factory):  # noqa: F811
    recipe = find_recipe("ministreet", "source-only").override(*PLAIN, "start_steps=0")
    return train_recipe(recipe, pair, tmp_path_factory.mktemp("run") / "out", quiet=True)


def test_every_command_with_quiet_has_its_short_form():
    import typer

    commands = leaves(typer.main.get_command(cli.app))
    quiet = {path: option.opts for path, leaf in commands.items() for option in leaf.params if "--quiet" in option.opts}
    assert {("train",), ("predict",), ("score",), ("data", "make")} <= quiet.keys()
    assert all("-q" in names for names in quiet.values())
    assert {path for path, leaf in commands.items() for option in leaf.params if "-q" in option.opts} == quiet.keys()


def test_export_writes_a_checked_file(uda, checkpoint, tmp_path):  # noqa: F811
    import onnxruntime

    out = tmp_path / "new" / "net.onnx"
    status, printed, error = uda("export", checkpoint, "--out", out)
    assert status == 0, error
    assert "2 x 101x75: logits differ from the network's by at most" in printed and printed.endswith(f"Written: {out}\n")
    metadata = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["test_size"]) == [32, 64] and metadata["label_space"] == "cityscapes19"
    before = checkpoint.read_bytes()
    status, _, error = uda("export", checkpoint, "--out", checkpoint, "--replace")
    assert status == 1 and "is read by this command" in error and checkpoint.read_bytes() == before
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    status, _, error = uda("export", checkpoint, "--out", tmp_path / "mine.onnx")
    assert status == 1 and "mine.onnx exists and is no result of `uda export`" in error


def test_the_example_of_the_page_runs_without_this_library(uda, checkpoint, tmp_path):  # noqa: F811
    page = (Path(cli.__file__).parents[1] / "docs" / "in_and_out.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert "course_lib" not in example and "torch" not in example
    assert uda("export", checkpoint, "--out", tmp_path / "net.onnx")[0] == 0
    Image.new("RGB", (50, 40), (90, 120, 60)).save(tmp_path / "my_street.jpg")
    assert uda("predict", checkpoint, tmp_path / "my_street.jpg", "--out", tmp_path)[0] == 0
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    counts = ast.literal_eval(done.stdout)
    assert sum(counts.values()) == 50 * 40 and counts.keys() <= set(CITYSCAPES19.classes)


def test_export_names_its_extra_before_any_work(uda, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, _, error = uda("export", tmp_path / "gone.pt", "--out", tmp_path / "net.onnx")
    assert status == 1 and "`uda export` needs the package onnxruntime. In a checkout: pip " in error and '".[export]"' in error


def test_maps_of_another_program_are_scored(uda, pair, tmp_path):  # noqa: F811
    root = pair.validation.removeprefix("cityscapes:").removesuffix("@val")
    for name in (path.name for path in sorted((Path(root) / "leftImg8bit" / "val").rglob("*.png"))):
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "maps" / name)
    out, matrix = tmp_path / "scores.csv", tmp_path / "confusion.csv"
    words = ("score", tmp_path / "maps", "--data", pair.validation, "--out", out, "--confusion", matrix, "-q")
    status, printed, error = uda(*words)
    assert status == 0, error
    assert "mIoU-19" in printed and f"Written: {out}" in printed and error == ""
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert float(rows[0]["recall"]) == 1.0 and made_by(out, "uda score") and made_by(matrix, "uda score")
    lines = list(csv.DictReader(matrix.open(encoding="utf-8")))
    assert [line["road"] for line in lines] == [row["pixels"] for row in rows], "all is road"
    assert uda(*words)[0] == 0, "its own files are replaced"
    out.write_text("class,iou\nroad,1\n", encoding="utf-8")
    status, _, error = uda(*words)
    assert status == 1 and "scores.csv exists and is no result of `uda score`" in error
    first = sorted((tmp_path / "maps").iterdir())[0]
    for path in (first, next(Path(root).rglob("*_labelIds.png"))):
        before = path.read_bytes()
        status, _, error = uda("score", tmp_path / "maps", "--data", pair.validation, "--out", path, "--replace")
        assert status == 1 and "is read by this command" in error and path.read_bytes() == before
    status, _, error = uda("score", tmp_path / "maps", "--data", pair.validation, "--out", out, "--confusion", out)
    assert status == 1 and "--out and --confusion both name" in error
    status, _, error = uda("score", tmp_path / "maps", "--data", pair.validation.replace("@val", "@train"))
    assert status == 1 and "Split 'train' is not there" in error


def test_a_comparison_is_written_as_csv_and_its_rows_are_compared(uda, pair, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in this process: others import torch first
    words = ("compare", "--source", pair.source, "--target", pair.target, "--validation", pair.validation, "--seeds", "0,1",
             "--out", tmp_path, "--device", "cpu", "-q", *SETS, "--set", "discriminator_input=image")  # fmt: skip
    status, _, error = uda(*words)
    assert status == 0, error
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))
    assert made_by(tmp_path / "results.csv", "uda compare")
    found = {(row["row"], row["seed"], row["class"]): row["score"] for row in rows}
    assert len(found) == len(rows)
    for name, row in results["rows"].items():
        for seed, run in row["seeds"].items():
            wanted = run["iou"] | {"mIoU": run["miou"], "mIoU-common": run["miou_common"], "accuracy": run["accuracy"]}
            wanted |= {f"mIoU-{classes}": value for classes, value in run["subsets"].items()}
            assert {key[2] for key in found if key[:2] == (name, seed)} == wanted.keys()
            for each, value in wanted.items():
                assert found[name, seed, each] == ("" if value is None else repr(value))

    status, printed, error = uda("difference", tmp_path, "adaptsegnet", "source-only")
    assert status == 0, error
    head, _, *_, miou = printed.splitlines()
    assert head == "adaptsegnet less source-only, points of IoU"
    a, b = ([100 * run["miou"] for run in results["rows"][name]["seeds"].values()] for name in ("adaptsegnet", "source-only"))
    points = [x - y for x, y in zip(a, b)]
    assert miou.split()[:4] == ["mIoU", *(f"{value:+.2f}" for value in (*points, sum(points) / 2))]
    status, _, error = uda("difference", tmp_path / "results.json", "adaptsegnet", "source")
    assert status == 1 and "no row 'source'. Did you mean source-only" in error


# ---- --tensorboard --------------------------------------------------------------------------------------------------


def test_a_stopped_run_shows_each_step_once(pair, tmp_path):  # noqa: F811
    recipe = find_recipe("ministreet", "source-only").override(*PLAIN, "start_steps=0", "steps=6", "save_every=2")
    asked = iter([False] * 2 + [True])
    with pytest.raises(Stopped):
        train_recipe(recipe, pair, tmp_path / "run", stop=lambda: next(asked), quiet=True, tensorboard=True)
    train_recipe(recipe, pair, tmp_path / "run", existing="resume", quiet=True, tensorboard=True)
    assert shown(tmp_path / "run" / "tensorboard") == logged(tmp_path / "run" / "log.jsonl")
    assert {step for _, step in shown(tmp_path / "run" / "tensorboard")} == set(range(1, 7))


def test_train_and_run_take_the_option(uda, pair, tmp_path):  # noqa: F811
    data = ("--source", pair.source, "--target", pair.target, "--device", "cpu", "-q", "--tensorboard", *SETS)
    status, _, error = uda("train", "source-only", *data, "--out", tmp_path / "train")
    assert status == 0, error
    assert shown(tmp_path / "train" / "tensorboard") == logged(tmp_path / "train" / "log.jsonl") != {}
    words = ("run", "source-only", *data, "--validation", pair.validation, "--out", tmp_path / "run")
    status, _, error = uda(*words)
    assert status == 0, error
    (log,) = (tmp_path / "run").glob("*/log.jsonl")
    assert shown(log.parent / "tensorboard") == logged(log) != {}


def test_without_the_option_no_event_file_is_written(checkpoint):
    assert not (checkpoint.parent / "tensorboard").exists()


@pytest.mark.parametrize("command", ["train", "run"])
def test_the_missing_extra_is_named_before_any_work(command, pair, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    recipe = find_recipe("ministreet", "source-only").override(*PLAIN)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package tensorboard\. .*\.\[tensorboard\]"):
        if command == "train":
            train_recipe(recipe, pair, tmp_path / "run", tensorboard=True)
        else:
            run_plan(plan("ministreet", "source-only", PLAIN), pair, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
