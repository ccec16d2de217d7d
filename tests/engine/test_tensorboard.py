"""TensorBoard shows what log.jsonl has: each step once, also of a run that was stopped and resumed."""

import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from course_lib.engine import RunFolder
from course_lib.engine.tensorboard import OURS, TensorBoardLog, forget_events


def shown(folder):
    """{(name, step): values} of all event files in a folder, without TensorBoard's own removal of repeated steps."""
    found = EventAccumulator(str(folder), purge_orphaned_data=False, size_guidance={"scalars": 0})
    found.Reload()
    values = {}
    for name in found.Tags()["scalars"]:
        for event in found.Scalars(name):
            values.setdefault((name, event.step), []).append(event.value)
    return values


def logged(path):
    """The same of a log."""
    values = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name, value in (("lr", record["lr"]), *((f"losses/{key}", value) for key, value in record["losses"].items())):
            values[name, record["step"]] = [pytest.approx(value, rel=1e-6)]  # float32 there
    return values


def record(step, value=1.0):
    return {"step": step, "lr": 0.5, "losses": {"segmentation": value / 3, "adversarial": 2 * value}}


def new(tmp_path):
    return TensorBoardLog(tmp_path / "log.jsonl", tmp_path / "tensorboard")


def test_it_holds_what_the_log_holds_as_soon_as_it_is_written(tmp_path):
    log = new(tmp_path)
    for step in (10, 20):
        log.write(record(step, step))
        assert shown(tmp_path / "tensorboard") == logged(tmp_path / "log.jsonl")
    log.close()
    assert len(shown(tmp_path / "tensorboard")) == 6


def test_a_resumed_run_has_each_step_once(tmp_path):
    killed = new(tmp_path)
    for step in (10, 20, 30):
        killed.write(record(step))
    resumed = new(tmp_path)  # the first was never closed
    resumed.rewind(20)
    assert shown(tmp_path / "tensorboard") == logged(tmp_path / "log.jsonl"), "step 30 is gone"
    for step in (30, 40):
        resumed.write(record(step, 2.0))
    resumed.close()
    killed.close()
    assert shown(tmp_path / "tensorboard") == logged(tmp_path / "log.jsonl")
    assert {step for _, step in shown(tmp_path / "tensorboard")} == {10, 20, 30, 40}


def test_a_run_that_had_none_gets_its_earlier_steps(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(record(10)) + "\n", encoding="utf-8")
    log = new(tmp_path)
    log.rewind(10)
    log.close()
    assert shown(tmp_path / "tensorboard") == logged(tmp_path / "log.jsonl")


def test_event_files_of_others_stay(tmp_path):
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    for name in ("events.out.tfevents.1.host", f"notes{OURS}"):
        (folder / name).write_text("mine", encoding="utf-8")
    log = new(tmp_path)
    log.write(record(10))
    log.close()
    assert len(list(folder.iterdir())) == 3
    forget_events(folder)
    assert {path.name for path in folder.iterdir()} == {"events.out.tfevents.1.host", f"notes{OURS}"}


def test_a_run_that_is_replaced_takes_its_event_files_along(tmp_path):
    log = TensorBoardLog(tmp_path / "log.jsonl", RunFolder(tmp_path).events)
    log.write(record(10))
    log.close()
    RunFolder(tmp_path).clear()
    assert list((tmp_path / "tensorboard").iterdir()) == []


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"`--tensorboard` needs the package tensorboard\. .*\.\[tensorboard\]"):
        new(tmp_path)
