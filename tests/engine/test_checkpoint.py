"""Checkpoints are written whole or not at all, and refuse what they are not."""

import os

import pytest
import torch

from course_lib.engine import load_checkpoint, save_checkpoint
from course_lib.engine.checkpoint import CheckpointError


def test_round_trip(tmp_path):
    path = save_checkpoint(
        tmp_path / "new" / "a.pt", {"segmenter": {"w": torch.arange(3)}, "step": 7, "recipe": {"x": [1, 2]}}
    )
    content = load_checkpoint(path)
    assert (
        content["step"] == 7
        and content["recipe"] == {"x": [1, 2]}
        and torch.equal(content["segmenter"]["w"], torch.arange(3))
    )
    assert os.listdir(path.parent) == ["a.pt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "a.pt", {"segmenter": {}, "step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"segmenter": {}, "step": 2})
    assert load_checkpoint(path)["step"] == 1 and os.listdir(tmp_path) == ["a.pt"]


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*gone.pt.*uda train"):
        load_checkpoint(tmp_path / "gone.pt")
    whole = save_checkpoint(tmp_path / "whole.pt", {"segmenter": {"w": torch.zeros(1000)}})
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=r"cut.pt cannot be read"):
        load_checkpoint(tmp_path / "cut.pt")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match=r"foreign.pt .*no 'segmenter'"):
        load_checkpoint(tmp_path / "foreign.pt")
    save_checkpoint(tmp_path / "future.pt", {"segmenter": {}})
    torch.save({"format": 99, "segmenter": {}}, tmp_path / "future.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "future.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    torch.save({"segmenter": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match="trap.pt"):
        load_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
