"""SimCLR from the command line to a segmenter: pre-train on a folder, probe, start a segmentation network from it."""

import json

import pytest
import torch

from course_lib.data.ministreet import make_crops
from course_lib.engine import CheckpointError, LoopSettings, load_checkpoint, rate_at, save_checkpoint
from course_lib.experiments.pretrained import take_backbone
from course_lib.experiments.train import Pair, build_segmenter, common_start, train_recipe
from course_lib.networks import build
from course_lib.recipes import recipe
from tests.experiments.conftest import TINY

SHORT = ["--set", "steps=2", "--set", "batch_size=8", "--set", "network_options={'width': 16}", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops") / "set"
    return make_crops(folder, 16, seed=5, per_class=2, test_per_class=1, workers=1, progress=False)


def test_from_a_folder_of_pictures_to_a_segmenter(uda, crops, pair, tmp_path):
    out = tmp_path / "simclr"
    status, said, error = uda("train", "simclr", "--data", f"folder:{crops / 'unlabelled'}", "--out", out, *SHORT)
    assert status == 0 and f"init_from={out / 'best.pt'}" in said, error
    content = load_checkpoint(out / "last.pt")
    assert content["recipe"]["name"] == "ministreet_crops" and content["method"]["drawn"] == 2
    assert any(name.startswith("projector.") for name in content["method"])

    words = ("evaluate", out / "best.pt", "--probe", crops, "--out", tmp_path / "p.json", "--device", "cpu")
    status, said, error = uda(*words)
    scores = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert status == 0 and "linear probe" in said and 0 <= scores["linear"] <= 1 and scores["labelled"] == 16, error

    settings = [*TINY, "network_options={'width': 16, 'norm': 'batch'}", "start_steps=0", f"init_from={out / 'best.pt'}"]
    fresh = recipe("ministreet", "source-only").override(*settings)
    network = build_segmenter(fresh)
    for name, value in content["segmenter"].items():
        assert torch.equal(network.state_dict()[name], value) == ("classifier" not in name), name
    train_recipe(fresh, pair, tmp_path / "segmenter", quiet=True)


def test_the_same_run_in_one_go_and_resumed(crops, tmp_path):
    words = ["steps=4", "batch_size=8", "network_options={'width': 16}", "save_every=2", "log_every=1"]
    chosen, pair = recipe("ministreet_crops", "simclr").override(*words), Pair(f"folder:{crops}@all", None)
    train_recipe(chosen, pair, tmp_path / "whole", quiet=True)

    class AfterTwo:
        count = 0

        def __call__(self):
            self.count += 1
            return self.count == 2

    with pytest.raises(Exception, match="Stopped"):
        train_recipe(chosen, pair, tmp_path / "parts", stop=AfterTwo(), quiet=True)
    train_recipe(chosen, pair, tmp_path / "parts", existing="resume", quiet=True)
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("segmenter", "method"):
        assert all(torch.equal(whole[part][name], parts[part][name]) for name in whole[part])
    assert (tmp_path / "whole" / "log.jsonl").read_bytes() == (tmp_path / "parts" / "log.jsonl").read_bytes()


# ---- init_from


def checkpoint(path, **options):
    return save_checkpoint(path, {"segmenter": build("small", 5, seed=1, **{"width": 8} | options).state_dict()})


def test_another_network_is_refused_by_name(tmp_path):
    path = checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"init_from=.*of another shape.*network_options"):
        take_backbone(build("small", 5, width=16), path)
    with pytest.raises(CheckpointError, match="2 left over"):
        take_backbone(build("small", 5, width=8), checkpoint(tmp_path / "b.pt", aux=True))
    with pytest.raises(CheckpointError, match="tensors missing"):
        take_backbone(build("small", 5, width=8, norm="batch"), path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        take_backbone(build("small", 5, width=8), tmp_path / "gone.pt")


def test_the_heads_may_have_other_classes(tmp_path):
    network = build("small", 19, seed=0, width=8, aux=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    take_backbone(network, checkpoint(tmp_path / "a.pt"))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any("classifier" in name for name in changed)


def test_a_common_start_depends_on_what_it_starts_from(pair, tmp_path):
    def start(*words):
        chosen = recipe("ministreet", "source-only").override(*TINY, "network_options={'width': 8}", *words)
        return common_start(chosen, pair, quiet=True)["stem.0.weight"]

    a, b = (checkpoint(tmp_path / f"{norm}.pt") for norm in "ab")
    save_checkpoint(b, {"segmenter": build("small", 5, seed=2, width=8).state_dict()})
    plain, from_a, from_b = start(), start(f"init_from={a}"), start(f"init_from={b}")
    assert not torch.allclose(plain, from_a) and not torch.allclose(from_a, from_b)
    with pytest.raises(ValueError, match="no setting 'temperature' in a run of source-only: simclr has it"):
        start("temperature=0.7")


# ---- the schedule


def test_warm_up_and_cosine():
    settings = LoopSettings(steps=110, schedule_steps=None, schedule="cosine", warmup=10)
    rates = [rate_at(step, settings) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5) and 0 < rates[-1] < 0.001
    assert rate_at(110, settings) == pytest.approx(0.0, abs=1e-12)


# ---- what the command line refuses


@pytest.mark.parametrize("words, message", [
    (["train", "simclr", "--out", "z"], "--data folder:PATH"),
    (["train", "adaptsegnet", "--source", "gta5:x", "--out", "z"], "Missing --target"),
    (["train", "source-only", "--source", "gta5:x", "--target", "gta5:x", "--data", "folder:x", "--out", "z"],
     "--data is for a method that reads no labels; source-only wants --source"),
    (["train", "simclr", "--data", "folder:nowhere", "--out", "z"], "nowhere"),
    (["evaluate", "gone.pt"], "--probe FOLDER"),
])  # fmt: skip
def test_errors_say_what_is_missing(uda, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = uda(*words)
    assert status == 1 and message in error and "Traceback" not in error
