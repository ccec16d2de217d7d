"""The command line, typed as a user types it: make data, train, evaluate, predict, compare; errors in one line."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from course_lib import cli
from tests.mps import on_mps

SETTINGS = (
    "network=small", "network_options={'width': 16}", "steps=1", "start_steps=0", "batch_size=1",
    "source_size=64x32", "target_size=64x32", "test_size=64x32",
)  # fmt: skip
TINY = [word for setting in SETTINGS for word in ("--set", setting)]
TINY_GAME = [*TINY, "--set", "discriminator_input=image"]  # AdaptSegNet's; the network's output is too small for its layers


@pytest.fixture
def uda(uda, monkeypatch, tmp_path):
    """With an empty cache."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return uda


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
        "train", "adaptsegnet", *target, "--recipe", "ministreet", "--out", run, "--quiet", "--device", "cpu", *TINY_GAME
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


MAKE = ["data", "make", "ministreet", "--as", "gta5", "--out", "x", "--seed", "1"]
TWO = ["--source", "a:x", "--target", "b:y", "--out", "z"]


@pytest.mark.parametrize("words, message", [
    (["--count", "-1"], "count = -1: give the number of pictures"),
    (["--count", "9" * 20], "1 to 1,000,000"),
    (["--count", "2", "--gap", "nan"], "gap = nan"),
    (["--count", "2", "--gap", "-1"], "gap = -1.0"),
    (["--count", "2", "--gap", "1e308"], "gap = 1e+308: ... at most 10"),
    (["--count", "2", "--size", "0x0"], "size = (0, 0)"),
    (["--count", "2", "--size", "100000x100000"], "at most 67 megapixels"),
    (["data", "crops", "--out", "x", "--count", "-1"], "count = -1"),
    (["data", "crops", "--out", "x", "--size", "9999999"], "16 to 1024"),
    (["data", "crops", "--out", "x", "--per-class", "0"], "per_class = 0"),
    (["data", "crops", "--out", "x", "--seed", "-3"], "seed = -3"),
    (["compare", *TWO, "--seeds", "-1"], "different whole numbers, 0 or more"),
    (["compare", *TWO, "--seeds", "1,1"], "got '1,1'"),
    (["ablate", "proca", *TWO, "--seeds", "9" * 20], "at most 1,000"),
    (["compare", *TWO, "--seeds", "0.5"], "got '0.5'"),
    (["demo", "--quick", "--seed", "-1", "--out", "x"], "seed is -1"),
    (["demo", "--seed", "9" * 30, "--out", "x"], "seed is 9999"),
])  # fmt: skip
def test_a_number_beyond_its_range_ends_a_command_before_its_work(uda, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = uda(*(words if words[0] in ("data", "compare", "ablate", "demo") else [*MAKE, *words]))
    assert status == 1 and all(part in error for part in message.split(" ... ")), error
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize("words", [
    [], *([name] for name in ("demo", "train", "evaluate", "predict", "compare", "run", "label", "ablate", "data", "recipe")),
    *(["data", name] for name in ("make", "crops", "prepare", "check")), *(["recipe", name] for name in ("show", "list")),
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


def test_the_home_folder_is_meant_by_its_sign_in_every_path(uda, tmp_path, monkeypatch):
    """A shell leaves `--out=~/x` as it is, and what is quoted."""
    (home := tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("COURSE_CACHE", "~/cache")
    monkeypatch.chdir(tmp_path)
    small = ("--count", 2, "--size", "64x32", "--quiet")
    assert uda("data", "make", "ministreet", "--as", "gta5", "--out=~/game", *small)[0] == 0
    assert uda("data", "make", "ministreet", "--as", "cityscapes", "--out", "~/camera", *small)[0] == 0
    data = ("--source=gta5:~/game", "--target", "cityscapes:~/camera", "--device", "cpu", "--quiet", *TINY)
    assert uda("train", "source-only", *data, "--out=~/run", "--set", "start_steps=1")[0] == 0
    done = uda("train", "source-only", *data, "--out", "~/again", "--set", "init_from=~/run/best.pt", "--set=start_steps=1")
    assert done[0] == 0, done
    assert uda("evaluate", "~/run/best.pt", "--data=cityscapes:~/camera@train", "--out=~/scores.json", "--quiet")[0] == 0
    assert uda("predict", "~/run/best.pt", "~/game/images/00001.png", "--out=~/labelled")[0] == 0
    assert uda("data", "prepare", "gta5:~/game", "--out=~/prepared", "--size", "64x32", "--quiet")[0] == 0
    assert uda("label", "~/run/best.pt", "--target=cityscapes:~/camera", "--out=~/labels", "--quiet")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"], "no folder called ~"
    there = {"game", "camera", "run", "again", "scores.json", "labelled", "prepared", "labels", "cache"}
    assert {path.name for path in home.iterdir()} == there and (home / "cache" / "starts").is_dir()


def test_the_library_too_knows_the_home_folder(tmp_path, monkeypatch):
    from course_lib.data import ministreet
    from course_lib.engine import RunFolder, load_checkpoint, save_checkpoint

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    ministreet.make("gta5", "~/game", 1, 0, size=(32, 64), progress=False)
    assert (tmp_path / "game" / "manifest.json").is_file() and ministreet.verify("~/game") == 3
    assert RunFolder("~/run").folder == tmp_path / "run"
    save_checkpoint(tmp_path / "a.pt", {"segmenter": {}, "step": 1})
    assert load_checkpoint("~/a.pt")["step"] == 1


def test_ctrl_c_prints_how_to_continue(uda, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("course_lib.data.ministreet.make", interrupt)
    monkeypatch.setattr("course_lib.data.prepare", interrupt)
    monkeypatch.setattr("course_lib.experiments.compare.compare", interrupt)
    monkeypatch.setattr("course_lib.experiments.plan.run_plan", interrupt)
    pair = ("--source", f"gta5:{tmp_path}", "--target", f"cityscapes:{tmp_path}", "--out", tmp_path / "out", "--quiet")
    for words in (
        ("data", "make", "ministreet", "--as", "gta5", "--out", tmp_path / "g", "--count", 2),
        ("data", "prepare", f"gta5:{tmp_path}", "--out", tmp_path / "p", "--size", "64x32"),
        ("compare", *pair),
        ("run", "proca", *pair),
        ("ablate", "proca", *pair),
    ):
        status, _, error = uda(*words)
        assert status == 130 and "Ctrl-C. What is done is kept: repeat the same command to continue." in error, words


def test_a_stage_that_is_not_there_is_told_before_any_work(uda, monkeypatch):
    monkeypatch.setattr("course_lib.experiments.estimate.plan_text", lambda *_: pytest.fail("measured"))
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


@pytest.mark.parametrize("variables, words", [
    ({"WORLD_SIZE": "x"}, "uda: The environment variable WORLD_SIZE is 'x'; wanted a whole number of at least 1"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; wanted"), ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
    ({"RANK": "-1"}, "RANK is '-1'; wanted"), ({"RANK": "1"}, "RANK is 1 and WORLD_SIZE is not set"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2; wanted 0 to WORLD_SIZE - 1. Start"),
    ({"LOCAL_RANK": "9" * 30, "WORLD_SIZE": "1"}, "LOCAL_RANK is '99999"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "uda (process 0): WORLD_SIZE is 2, MASTER_ADDR '' and MASTER_PORT ''; wanted the"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1e3"}, "MASTER_PORT '1e3'; wanted"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "70000"}, "MASTER_PORT '70000'; wanted"),
    ({"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": " "}, "There is no checkpoint gone.pt"),
])  # fmt: skip
def test_the_environment_of_several_processes_is_checked(uda, monkeypatch, variables, words):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, _, error = uda("evaluate", "gone.pt", "--data", "gta5:x", "--device", "cpu")
    assert status == 1 and words in error and error.count("\n") == 1


def test_labels_of_which_none_is_known_have_an_accuracy_in_words():
    assert cli._quality({"density": 0.0, "accuracy": None}) == "density 0.0%, accuracy unknown (none is labelled)"
    assert cli._quality({"density": 0.201, "accuracy": 0.985}) == "density 20.1%, accuracy 98.5%"


# ---- Apple's MPS ----------------------------------------------------------------------------------------------------

LACKS = (
    "The operator 'aten::histc.out' is not currently implemented for the MPS device. If you want this op to be considered for "
    "addition please comment on https://github.com/pytorch/pytorch/issues/141287. As a temporary fix, you can set the "
    "environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op."
)


@pytest.mark.parametrize("given, found", [(None, "1"), ("0", "0")])
def test_operations_that_mps_lacks_run_on_the_cpu_unless_the_user_says_otherwise(given, found):
    """torch reads PYTORCH_ENABLE_MPS_FALLBACK when it is imported: the command sets it before, whatever imports torch."""
    program = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': sys.exit('torch with ' + os.environ.get('PYTORCH_ENABLE_MPS_FALLBACK', 'nothing'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "sys.argv = ['uda', 'evaluate', 'gone.pt', '--data', 'cityscapes:x']\n"
        "from course_lib.cli import main\n"
        "main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTORCH_ENABLE_MPS_FALLBACK"}
    environment |= {} if given is None else {"PYTORCH_ENABLE_MPS_FALLBACK": given}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=environment)
    assert done.stderr == f"torch with {found}\n"


@pytest.mark.parametrize(
    "error, set_to, message",
    [
        (NotImplementedError(LACKS), "1", "The operator 'aten::histc.out' is not currently implemented for the MPS device. "
         "Choose --device cpu."),
        (NotImplementedError(LACKS), "0", "for the MPS device. Choose --device cpu, or unset PYTORCH_ENABLE_MPS_FALLBACK "
         "(it is '0')."),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
                   "float32 instead."), "1", "doesn't support float64. Choose --device cpu."),
        (RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes."), "1", "Choose --device cpu."),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB, max: 9.07 GB). Tried to allocate 20 MB."), "1",
         "9.07 GB). Choose a smaller size, crop or batch_size, or --device cpu."),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MB."), "1",
         "CUDA out of memory. Choose a smaller size, crop or batch_size, or --set precision=bf16."),
    ],
)  # fmt: skip
def test_what_mps_cannot_do_is_a_message_that_names_the_cpu(uda, monkeypatch, error, set_to, message):
    def fails(*_):
        raise error

    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", set_to)
    monkeypatch.setattr("course_lib.experiments.train.load_network", fails)
    status, _, said = uda("predict", "a.pt", "a.png", "--out", "x", "--device", "cpu")
    assert status == 1 and said.startswith("uda: ") and said.endswith("\n") and message in said and said.count("\n") == 1


def test_an_error_of_the_library_itself_keeps_its_traceback(uda, monkeypatch):
    monkeypatch.setattr("course_lib.experiments.train.load_network", lambda *_: len(3))
    with pytest.raises(TypeError, match="has no len"):
        uda("predict", "a.pt", "a.png", "--out", "x", "--device", "cpu")


@pytest.mark.parametrize("device, rank, cuda, lines", [("auto", "0", False, 1), ("auto", "1", False, 0), ("auto", "0", True, 0),
                                                       ("cpu", "0", False, 0)])  # fmt: skip
def test_one_line_tells_of_mps_where_the_command_chooses_the_cpu(uda, monkeypatch, device, rank, cuda, lines):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    cli._tell_of_mps.cache_clear()
    for _ in range(2):
        _, _, error = uda("predict", "gone.pt", "a.png", "--out", "x", "--device", device)
        assert "no checkpoint gone.pt" in error
        assert error.count("--device mps may be faster on this Mac; it is untested.") == lines
        lines = 0  # once in a process
    cli._tell_of_mps.cache_clear()


def test_the_whole_way_with_mps_by_name(uda, tmp_path):
    small = ["--size", "64x32", "--quiet", "--count", 2]
    source, target = (f"{layout}:{tmp_path / layout}" for layout in ("gta5", "cityscapes"))
    with on_mps() as device:
        for layout, split in (("gta5", "train"), ("cityscapes", "train"), ("cityscapes", "val")):
            words = ["--as", layout, "--out", tmp_path / layout, "--seed", len(split), "--split", split]
            status, _, error = uda("data", "make", "ministreet", *words, *small)
            assert status == 0, error
        run = tmp_path / "run"
        pair = ["--source", source, "--target", target, "--out", run, "--device", "mps", "--quiet"]
        status, _, error = uda("train", "proca", *pair, *TINY, "--set", "target_labels=threshold")
        assert status == 0, error
        status, _, error = uda("evaluate", run / "best.pt", "--data", target, "--device", "mps", "--quiet")
        assert status == 0, error
        status, _, error = uda("train", "proca", *pair, "--replace", *TINY, "--set", "precision=bf16")
        assert status == 1 and "precision is 'bf16'; on mps it can only be 'fp32'. Give --set precision=fp32" in error
    assert device.seen["convolution_backward"] > 0
