"""The command line, typed as a user types it: make data, train, evaluate, predict, compare; errors in one line."""

import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from course_lib import cli

SETTINGS = (
    "network=small", "network_options={'width': 16}", "steps=1", "start_steps=0", "batch_size=1",
    "source_size=64x32", "target_size=64x32", "test_size=64x32", "discriminator_input=image",
)  # fmt: skip
TINY = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.fixture
def uda(monkeypatch, capsys, tmp_path):
    """Run a command line in this process; returns exit status, stdout and stderr."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["uda", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        return stop.value.code or 0, *capsys.readouterr()

    return run


def test_from_nothing_to_scores_and_pictures(uda, tmp_path):
    game, camera, run = tmp_path / "game", tmp_path / "camera", tmp_path / "run"
    small = ["--size", "64x32", "--quiet"]
    assert uda("data", "make", "ministreet", "--as", "gta5", "--out", game, "--count", 2, *small)[0] == 0
    assert (
        uda("data", "make", "ministreet", "--as", "cityscapes", "--out", camera, "--count", 2, "--seed", 1, *small)[0]
        == 0
    )
    status, _, error = uda(
        "data",
        "make",
        "ministreet",
        "--as",
        "cityscapes",
        "--out",
        camera,
        "--count",
        1,
        "--seed",
        2,
        "--split",
        "val",
        *small,
    )
    assert status == 0, error
    target = ["--source", f"gta5:{game}", "--target", f"cityscapes:{camera}"]

    status, out, _ = uda(
        "train", "adaptsegnet", *target, "--recipe", "ministreet", "--out", run, "--quiet", "--device", "cpu", *TINY
    )
    assert status == 0
    printed = out.splitlines()[-1].removeprefix("Score it: uda ").split()
    status, out, error = uda(*printed, "--quiet")
    assert status == 0 and "mIoU" in out, error

    scores = tmp_path / "scores.json"
    status, out, _ = uda(
        "evaluate",
        run / "best.pt",
        "--data",
        f"cityscapes:{camera}",
        "--multiscale",
        "--out",
        scores,
        "--quiet",
        "--device",
        "cpu",
    )
    assert status == 0 and "mIoU" in out and "bicycle" in out
    content = json.loads(scores.read_text(encoding="utf-8"))
    assert content["multiscale"] is True and content["data"] == f"cityscapes:{camera}" and "torch" in content["machine"]
    assert content["command"].startswith("uda evaluate")

    picture = tmp_path / "mine.jpg"
    Image.new("RGB", (50, 40), (90, 120, 60)).save(picture)
    status, _, _ = uda("predict", run / "best.pt", picture, "--out", tmp_path / "mine", "--device", "cpu")
    assert status == 0
    assert Image.open(tmp_path / "mine" / "mine_labels.png").size == (50, 40)
    assert Image.open(tmp_path / "mine" / "mine_overlay.png").size == (50, 40)


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "adaptsegnett", "--source", "gta5:x", "--target", "cityscapes:y", "--out", "z"], "Did you mean adaptsegnet"),
        (["train", "adaptsegnet", "--source", "gta5:nowhere", "--target", "cityscapes:y", "--out", "z"], "nowhere"),
        (["train", "adaptsegnet", "--source", "a:x", "--target", "b:y", "--out", "z", "--set", "stepz=1"],
         "Did you mean steps"),
        (["evaluate", "gone.pt", "--data", "cityscapes:x"], "gone.pt"),
        (["compare", "--source", "a:x", "--target", "b:y", "--out", "z", "--seeds", "0,,1"], "separated by commas"),
        (["data", "make", "kitti", "--as", "gta5", "--out", "x", "--count", "1"], "ministreet"),
    ],
)  # fmt: skip
def test_errors_are_one_message_without_a_traceback(uda, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = uda(*words)
    assert status == 1 and message in error and "Traceback" not in error


@pytest.mark.parametrize("words", [
    [], *([name] for name in ("demo", "train", "evaluate", "predict", "compare", "run", "label", "ablate", "data")),
    *(["data", name] for name in ("make", "crops", "prepare", "check")),
], ids=" ".join)  # fmt: skip
def test_every_help_page_is_printed(uda, words):
    status, out, error = uda(*words, "--help")
    assert status == 0 and re.search(r"Usage: .*uda", out) and not error


def test_debug_shows_the_traceback(uda):
    with pytest.raises(ValueError, match="checkpoint"):
        uda("evaluate", "gone.pt", "--data", "cityscapes:x", "--debug")


def test_module_and_command_are_the_same_program():
    done = subprocess.run([sys.executable, "-m", "course_lib", "--version"], capture_output=True, check=True, encoding="utf-8")
    assert done.stdout.startswith("course_lib ")


def test_a_stage_that_is_not_there_is_told_before_any_work(uda, monkeypatch):
    monkeypatch.setattr(cli, "_estimate", lambda *_: pytest.fail("measured"))
    status, _, error = uda("run", "proca", "--source", "gta5:a", "--target", "cityscapes:b", "--out", "x", "--stage", "contrst")
    assert status == 1 and "There is no stage 'contrst'. Did you mean contrast?" in error


@pytest.mark.parametrize("recipe", ["gta5_cityscapes", "camvid_dusk"])
def test_an_ablation_of_real_data_is_not_run_on_ministreet(uda, recipe):
    status, _, error = uda("ablate", "proca", "--recipe", recipe, "--out", "x")
    assert status == 1 and "Missing --source and --target" in error and "--data-root" in error


def test_one_process_alone_writes_tables_and_labels(uda, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    status, _, error = uda("ablate", "proca", "--out", "x")
    assert status == 1 and "uda ablate was started as 2 processes; start one" in error


def test_labels_of_which_none_is_known_have_an_accuracy_in_words():
    assert cli._quality({"density": 0.0, "accuracy": None}) == "density 0.0%, accuracy unknown (none is labelled)"
    assert cli._quality({"density": 0.201, "accuracy": 0.985}) == "density 20.1%, accuracy 98.5%"
