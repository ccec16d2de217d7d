"""A run that is really killed, at any moment, and resumed, is the run that was never killed: weights and log, bit for bit.

KILLS=20 in the environment tries 20 random moments for each method instead of 2.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from shutil import copytree

import pytest
import torch

from course_lib.engine import CheckpointError, Stopped, load_checkpoint, save_checkpoint
from course_lib.experiments.state import how_chosen
from course_lib.experiments.train import score_network, train_recipe
from course_lib.recipes import METHODS
from tests.experiments.conftest import DISCRIMINATOR, TINY, network_of
from tests.experiments.test_train import tiny
from tests.processes import HANG

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork servers are Unix's")

KILLS = int(os.environ.get("KILLS", 2))
RUN = ("steps=12", "save_every=2", "log_every=1", "start_steps=1", "select_pictures=2")


def child(words: list[str], cache: str, output: str, slow_writes: bool, hold: int) -> None:
    """In a process of its own: the command line as typed; writing a checkpoint lasts long enough to be killed in it.

    hold: in the how-manieth checkpoint's writing it creates the file `held` and waits for `go`, both beside the output, so
    that what the test does then comes at this moment on a busy machine, too; 0: never.
    """
    from course_lib import cli, files

    torch.set_num_threads(1)
    os.environ["COURSE_CACHE"] = cache
    sys.stdout = sys.stderr = open(output, "a", encoding="utf-8", buffering=1)
    fsync, writes, beside = os.fsync, set(), Path(output).parent

    def slow(number):
        time.sleep(0.05 if slow_writes else 0)
        writes.update(path.name for path in Path(output).with_suffix("").glob(".step_*.tmp"))
        if hold and len(writes) >= hold and not (beside / "go").exists():
            (beside / "held").touch()
            while not (beside / "go").exists():
                time.sleep(0.01)
        fsync(number)

    files.os.fsync = slow
    sys.argv = ["uda", *words]
    cli.main()


class Run:
    """One training run of a method in a folder, started as often as it is killed."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["course_lib.cli", "course_lib.experiments.train", "tests.experiments.test_resume"])

    def __init__(self, method: str, pair, folder: Path, cache: Path, slow_writes: bool = False) -> None:
        settings = tiny_words(method)
        self.folder, self.output, self.slow_writes, self.cache = folder, folder.with_suffix(".txt"), slow_writes, cache
        self.words = ["train", method, "--source", pair.source, "--target", pair.target, "--out", str(folder),
                      "--device", "cpu", "--deterministic", "--quiet", *settings]  # fmt: skip
        if method in ("proca", "self-training", "bida"):
            self.words += ["--pseudo-labels", pair.pseudo_labels]

    def start(self, *more: str, hold: int = 0):
        arguments = [*self.words, *more], str(self.cache), str(self.output), self.slow_writes, hold
        process = self.context.Process(target=child, args=arguments)
        process.start()
        return process

    def start_and_hold(self, *more: str, hold: int):
        """A process that is in the writing of its checkpoint number `hold`, and waits there for the file `go`."""
        held = self.output.parent / "held"
        held.unlink(missing_ok=True)
        process = self.start(*more, hold=hold)
        while not held.exists():
            assert process.is_alive(), self.said()
            time.sleep(0.01)
        return process

    def finish(self, *more: str) -> int:
        process = self.start(*more)
        process.join(HANG)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def result(self) -> tuple[dict, bytes]:
        return load_checkpoint(self.folder / "last.pt"), (self.folder / "log.jsonl").read_bytes()


def tiny_words(method: str) -> list[str]:
    settings = [*TINY, *network_of(method), *RUN, *[DISCRIMINATOR] * (method == "adaptsegnet")]
    settings += ["uncertain_from=6"] * (method == "cluda-hrda")  # windows by their entropy from the middle on
    return [word for setting in settings for word in ("--set", setting)]


def assert_same(run: Run, whole: Run) -> None:
    (a, log_a), (b, log_b) = run.result(), whole.result()
    assert log_a == log_b and len(log_a.splitlines()) == 12
    for part in ("segmenter", "method", "optimisers", "random", "choice"):
        assert_equal(a[part], b[part], part)
    assert_equal(load_checkpoint(run.folder / "best.pt")["segmenter"], load_checkpoint(whole.folder / "best.pt")["segmenter"])


def assert_equal(a, b, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where


@pytest.fixture(scope="module")
def whole_runs(labelled_pair, tmp_path_factory):
    """The uninterrupted run of each method, and the seconds it took."""
    runs = {}

    def of(method: str) -> tuple[Run, float]:
        if method not in runs:
            root = tmp_path_factory.mktemp(method)
            warm = Run.context.Process(target=int)  # the fork server imports torch before the clock runs
            warm.start()
            warm.join()
            run = Run(method, labelled_pair, root / "whole", root / "cache", slow_writes=True)
            began = time.monotonic()
            assert run.finish() == 0, run.said()
            runs[method] = run, time.monotonic() - began
        return runs[method]

    return of


# mic has all of daformer's and hrda's; plans are stopped in test_few_labels
@pytest.mark.parametrize(
    "method", [name for name, each in METHODS.items() if name not in ("daformer", "hrda") and not each.planned]
)
def test_killed_at_random_moments(method, labelled_pair, whole_runs, tmp_path):
    whole, seconds = whole_runs(method)
    moments, killed, number = random.Random(method), 0, 0
    while killed < KILLS:  # a run may end before its kill comes: then another one begins
        number += 1
        run = Run(method, labelled_pair, tmp_path / f"run{number}", tmp_path / "cache", slow_writes=True)
        for _ in range(KILLS - killed):
            process = run.start("--resume")
            process.join(moments.uniform(0.02, 0.7) * seconds)
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        assert run.finish("--resume") == 0, run.said()
        assert_same(run, whole)
        assert not list(run.folder.glob(".*"))  # what the dead left half-written is gone
    print(f"{method}: killed {killed} times in {number} runs of {seconds:.1f} s")


@pytest.mark.parametrize("method", ["source-only", "adaptsegnet", pytest.param("cluda-hrda", marks=pytest.mark.full)])
def test_killed_in_the_middle_of_writing_a_checkpoint(method, pair, whole_runs, tmp_path):
    whole, _ = whole_runs(method)
    run = Run(method, pair, tmp_path / "run", tmp_path / "cache", slow_writes=True)
    for count in (1, 3):  # the first checkpoint of all, and one with others before it
        process = run.start_and_hold("--resume", hold=count)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and list(run.folder.glob(".step_*.tmp")), "it was not caught writing"
    assert run.finish("--resume") == 0, run.said()
    assert_same(run, whole)


def test_a_polite_stop_saves_the_step_in_hand(pair, whole_runs, tmp_path):
    """SIGTERM is what a cluster sends before it takes a machine away."""
    whole, _ = whole_runs("adaptsegnet")
    run = Run("adaptsegnet", pair, tmp_path / "run", tmp_path / "cache")
    process = run.start_and_hold(hold=2)
    process.terminate()
    (tmp_path / "go").touch()
    process.join(HANG)
    assert process.exitcode == 143
    steps = [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert load_checkpoint(run.folder / "last.pt")["step"] == steps[-1] < 12
    assert f"Stopped by SIGTERM after step {steps[-1]} of 12" in run.said() and "--resume" in run.said()
    assert "Traceback" not in run.said()
    assert run.finish("--resume") == 0, run.said()
    assert_same(run, whole)


def test_a_second_process_on_the_same_folder_is_refused(pair, tmp_path):
    run = Run("adaptsegnet", pair, tmp_path / "run", tmp_path / "cache")
    process = run.start_and_hold(hold=2)
    second = Run("adaptsegnet", pair, tmp_path / "run", tmp_path / "cache")
    second.output = tmp_path / "second.txt"
    for words in ("--resume", "--replace"):
        assert second.finish(words) == 1
    assert second.said().count(f"is being trained by process {process.pid} on ") == 2 and "--take-over" in second.said()
    assert (run.folder / ".run.lock").exists()
    (tmp_path / "go").touch()
    process.join(HANG)
    assert process.exitcode == 0, run.said()
    assert not (run.folder / ".run.lock").exists() and load_checkpoint(run.folder / "last.pt")["step"] == 12


def test_a_torn_checkpoint_is_named_and_the_one_before_is_taken(pair, whole_runs, tmp_path):
    whole, _ = whole_runs("adaptsegnet")
    copytree(whole.folder, tmp_path / "run")
    run = Run("adaptsegnet", pair, tmp_path / "run", tmp_path / "cache")
    newest = run.folder / "step_0000012.pt"
    data = newest.read_bytes()
    newest.unlink()  # last.pt is another name of the same file: leave only the torn one
    newest.write_bytes(data[: len(data) // 2])
    assert run.finish("--resume") == 0, run.said()
    assert "step_0000012.pt cannot be read" in run.said() and "Going on from step_0000010.pt (step 10)" in run.said()
    assert_same(run, whole)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(pair, tmp_path) -> Path:
    train_recipe(tiny("adaptsegnet"), pair, tmp_path / "run", quiet=True)
    return tmp_path / "run"


def test_a_folder_with_a_run_is_not_overwritten(pair, run):
    before = (run / "last.pt").stat().st_mtime_ns
    with pytest.raises(CheckpointError, match=r"holds a run already \(step_0000002.pt\).*--resume.*--replace"):
        train_recipe(tiny("adaptsegnet"), pair, run, quiet=True)
    train_recipe(tiny("adaptsegnet"), pair, run, existing="resume", quiet=True)  # finished: nothing left to do
    assert (run / "last.pt").stat().st_mtime_ns == before
    train_recipe(tiny("adaptsegnet", "seed=5"), pair, run, existing="replace", quiet=True)
    assert load_checkpoint(run / "last.pt")["recipe"]["seed"] == 5


def test_a_run_with_other_settings_or_pictures_is_not_gone_on_with(pair, run, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds a run with optimiser.lr=.*asked for: optimiser.lr=0.5"):
        train_recipe(tiny("adaptsegnet", "lr=0.5"), pair, run, existing="resume", quiet=True)
    with pytest.raises(CheckpointError, match="method=adaptsegnet.*method=source-only"):
        train_recipe(tiny("source-only"), pair, run, existing="resume", quiet=True)
    train_recipe(tiny("adaptsegnet", "save_every=1", "workers=1"), pair, run, existing="resume", quiet=True)
    other = type(pair)(pair.source, pair.validation.replace("@val", "") + "@val")
    with pytest.raises(CheckpointError, match=r"other target pictures \(4 pictures, .*; now 2 pictures"):
        train_recipe(tiny("adaptsegnet"), other, run, existing="resume", quiet=True)


def moved(pair, folder):
    """The pair with copies of its training pictures in another folder."""
    source, target = (Path(copytree(text.partition(":")[2], folder / name)) for text, name in
                      ((pair.source, "source"), (pair.target, "target")))  # fmt: skip
    return type(pair)(f"gta5:{source}", f"cityscapes:{target}", pair.validation)


def test_a_run_goes_on_with_its_data_in_another_folder(pair, run, tmp_path):
    train_recipe(tiny("adaptsegnet"), moved(pair, tmp_path / "moved"), run, existing="resume", quiet=True)


@pytest.mark.parametrize("domain, file", [("source", "images/00003.png"), ("source", "labels/00002.png"),
                                          ("target", "leftImg8bit/train/*/*_000001_*.png")])  # fmt: skip
@pytest.mark.parametrize("same_size", [True, False])
def test_a_run_on_other_files_of_the_same_names_is_not_gone_on_with(domain, file, same_size, pair, run, tmp_path):
    other = moved(pair, tmp_path / "other")
    path = next((tmp_path / "other" / domain).glob(file))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!" if same_size else data + b"!")
    words = f"run on other {domain} pictures .*: the names are the same, the files of pictures or labels are not"
    with pytest.raises(CheckpointError, match=words):
        train_recipe(tiny("adaptsegnet"), other, run, existing="resume", quiet=True)


def test_what_a_run_of_a_version_that_knew_names_alone_left_goes_on(pair, run):
    for path in run.glob("step_*.pt"):
        content = load_checkpoint(path)
        content["pictures"] = {name: ", ".join(text.split(", ")[:2]) for name, text in content["pictures"].items()}
        save_checkpoint(path, content)
    train_recipe(tiny("adaptsegnet"), pair, run, existing="resume", quiet=True)


def test_what_an_older_version_saved_can_be_scored_but_not_resumed(pair, run):
    content = torch.load(run / "step_0000002.pt", weights_only=True)
    del content["random"]
    (run / "step_0000002.pt").unlink()
    torch.save(content, run / "step_0000002.pt")
    with pytest.raises(CheckpointError, match="no random: it can be scored, but not resumed"):
        train_recipe(tiny("adaptsegnet"), pair, run, existing="resume", quiet=True)


@pytest.mark.parametrize("version, words", [("0.1.9", "course_lib 0.1.9"), (None, "course_lib an unknown version")])
def test_a_run_of_a_version_whose_steps_may_differ_can_be_scored_but_not_resumed(version, words, pair, run):
    content = torch.load(run / "step_0000002.pt", weights_only=True) | {"version": version}
    if version is None:
        del content["version"]
    (run / "step_0000002.pt").unlink()
    torch.save(content, run / "step_0000002.pt")
    with pytest.raises(CheckpointError, match=f"holds a run of {words}; this is .*can be scored .*but not resumed.*--replace"):
        train_recipe(tiny("adaptsegnet"), pair, run, existing="resume", quiet=True)
    assert 0 <= score_network(run / "step_0000002.pt", pair.validation, quiet=True).miou <= 1


def test_a_checkpoint_with_foreign_parts_is_refused_in_words(pair, run):
    content = torch.load(run / "step_0000002.pt", weights_only=True)
    for part, foreign in (("optimisers", {}), ("method", {"x": torch.zeros(1)}), ("random", [{}])):
        (run / "step_0000002.pt").unlink()
        torch.save(content | {part: foreign}, run / "step_0000002.pt")
        with pytest.raises(CheckpointError, match=r"does not fit this method .*--replace"):
            train_recipe(tiny("adaptsegnet"), pair, run, existing="resume", quiet=True)


def test_a_folder_that_holds_only_a_result_is_not_overwritten(pair, run):
    for path in (*run.glob("step_*.pt"), run / "last.pt"):
        path.unlink()
    for existing in ("refuse", "resume"):
        with pytest.raises(CheckpointError, match=r"holds a .*best.pt.*--replace"):
            train_recipe(tiny("adaptsegnet"), pair, run, existing=existing, quiet=True)
    assert (run / "best.pt").exists()


def test_a_folder_with_last_alone_goes_on(pair, tmp_path):
    longer = ("schedule_steps=9", "select=last")
    train_recipe(tiny("source-only", *longer), pair, tmp_path, quiet=True)
    for path in (*tmp_path.glob("step_*.pt"), tmp_path / "best.pt"):
        path.unlink()
    best = train_recipe(tiny("source-only", *longer), pair, tmp_path, existing="resume", quiet=True)
    assert load_checkpoint(best)["step"] == 2
    with pytest.raises(CheckpointError, match="at step 2 already, beyond steps=1"):
        train_recipe(tiny("source-only", *longer, "steps=1"), pair, tmp_path, existing="resume", quiet=True)


def test_a_stop_in_the_common_start_is_not_lost(pair, tmp_path):
    from course_lib.data import cache_folder
    from course_lib.experiments.train import common_start

    settings = ("start_steps=6", "select=last")
    whole = common_start(tiny("source-only", *settings), pair, quiet=True)
    for path in (cache_folder() / "starts").iterdir():
        path.unlink()
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="after step 3 of 6"):
        train_recipe(tiny("source-only", *settings), pair, tmp_path / "r", stop=lambda: next(asked), quiet=True)
    steps = []
    train_recipe(tiny("source-only", *settings), pair, tmp_path / "r", stop=lambda: steps.append(1), quiet=True)
    assert len(steps) == 3 + 2  # the rest of the start, then the run
    again = common_start(tiny("source-only", *settings), pair, quiet=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert [path.suffix for path in (cache_folder() / "starts").iterdir()] == [".pt"]


def test_a_criterion_that_fails_loses_no_training(pair, tmp_path, monkeypatch):
    from course_lib.experiments import choice

    def broken(*_, **__):
        raise ValueError("Cannot read 'x.png'")

    with pytest.raises(OSError, match="No folder"):  # what cannot be opened is known before training
        elsewhere = type(pair)(pair.source, "cityscapes:nowhere")
        train_recipe(tiny("source-only", "save_every=1"), elsewhere, tmp_path / "a", quiet=True)
    assert not (tmp_path / "a" / "log.jsonl").exists()
    monkeypatch.setattr(choice, "information", broken)
    with pytest.raises(ValueError, match="x.png"):
        train_recipe(tiny("source-only", "save_every=1"), pair, tmp_path / "b", quiet=True)
    assert load_checkpoint(tmp_path / "b" / "last.pt")["step"] == 1


def test_the_score_of_another_step_says_which_was_chosen(pair, tmp_path, monkeypatch):
    from course_lib.experiments import choice

    values = iter([0.9, 0.2])
    monkeypatch.setattr(choice, "information", lambda *_, **__: next(values))
    train_recipe(tiny("source-only", "save_every=1"), pair, tmp_path, quiet=True)
    assert how_chosen(tmp_path / "last.pt") == "Step 2 of its run; the one that was chosen is step 1, in best.pt."


def test_a_file_in_the_place_of_the_folder_is_named(pair, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="file is a file; a run wants a folder"):
        train_recipe(tiny("source-only"), pair, tmp_path / "file", quiet=True)
    with pytest.raises(CheckpointError, match="is a folder; name the checkpoint in it.*best.pt"):
        load_checkpoint(tmp_path)


# ---- which checkpoint is the result ---------------------------------------------------------------------------------


def test_the_chosen_checkpoint_is_the_one_with_the_highest_value(pair, tmp_path, monkeypatch):
    from course_lib.experiments import choice

    values = iter([0.2, 0.9, 0.5])
    monkeypatch.setattr(choice, "information", lambda *_, **__: next(values))
    best = train_recipe(tiny("source-only", "steps=3", "save_every=1"), pair, tmp_path, quiet=True)
    assert load_checkpoint(best)["step"] == 2
    assert load_checkpoint(tmp_path / "last.pt")["choice"] == {"by": "information", "step": 2, "value": 0.9}
    assert "Step 2 was chosen by the information" in how_chosen(best)


def test_choosing_needs_no_target_labels_unless_asked(pair, tmp_path):
    several = ("steps=2", "save_every=1")
    blind = type(pair)(pair.source, pair.target)
    train_recipe(tiny("source-only", *several), blind, tmp_path / "a", quiet=True)
    choice = load_checkpoint(tmp_path / "a" / "best.pt")["choice"]
    assert choice["by"] == "information" and 0 <= choice["value"] <= 2.95
    with pytest.raises(ValueError, match="select='target-labels' .*--validation"):
        train_recipe(tiny("source-only", *several, "select=target-labels"), blind, tmp_path / "b", quiet=True)
    best = train_recipe(tiny("source-only", *several, "select=target-labels"), pair, tmp_path / "c", quiet=True)
    assert "chosen by its score on target validation labels" in how_chosen(best) and "optimistic" in how_chosen(best)
