"""What `python -m benchmarks.same_numbers` calls the same."""

import json

import pytest
import torch

from benchmarks import same_numbers
from course_lib.recipes import METHODS, PAIRS


def test_a_hash_is_of_values_not_of_names():
    a, b = torch.rand(3, 4), torch.rand(2)
    once = same_numbers.hash_of({"model": {"a": a, "b": [b]}, "step": 5})
    assert once == same_numbers.hash_of({"x": b, "networks": {"a": a.clone()}})
    for other in ({"a": a, "b": b + 1e-6}, {"a": a.view(4, 3), "b": b}, {"a": a.double(), "b": b}, {"a": a}):
        assert same_numbers.hash_of(other) != once


def test_differences_are_named():
    before, now = {"a": [1], "b": 2, "c": 3}, {"a": [1], "b": 4, "d": 5}
    assert same_numbers.differences(before, before) == []
    assert same_numbers.differences(before, now) == ["b differs", "c is missing", "d is new"]


def test_every_method_and_pair_has_a_case():
    names = [case.name for case in same_numbers.cases()]
    assert len(set(names)) == len(names)
    trained_within_stages = {"self-training", "bida", "depth"}
    assert {name.split()[-1] for name in names} >= set(METHODS) - trained_within_stages
    assert {name.split()[0] for name in names} == set(PAIRS)


def test_check_runs_what_was_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(same_numbers, "prepare_pairs", lambda folder, camvid: dict.fromkeys(PAIRS, {}))
    ran = []
    monkeypatch.setattr(same_numbers, "run_case", lambda case, pair, place: ran.append(case.name) or {"last.pt": "a"})
    for action in (["record", "--only", "gta5_cityscapes dacs"], ["check"]):
        monkeypatch.setattr("sys.argv", ["same_numbers", action[0], str(tmp_path), *action[1:]])
        assert same_numbers.main() == 0, capsys.readouterr().out
    assert ran == ["gta5_cityscapes dacs"] * 2


@pytest.mark.full
def test_a_record_agrees_with_itself_and_not_with_other_losses(tmp_path, monkeypatch, capsys):
    for action in ("record", "check"):
        monkeypatch.setattr("sys.argv", ["same_numbers", action, str(tmp_path), "--only", "ministreet adaptsegnet"])
        assert same_numbers.main() == 0, capsys.readouterr().out
    assert "| the same |" in capsys.readouterr().out
    path = tmp_path / "same_numbers.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cases"]["ministreet adaptsegnet"]["log.jsonl"][2]["losses"]["segmentation"] += 1e-6
    path.write_text(json.dumps(content), encoding="utf-8")
    assert same_numbers.main() == 1 and "log.jsonl differs" in capsys.readouterr().out
