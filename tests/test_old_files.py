"""Files of course_lib 0.1.0, one checkpoint per method without its optimisers' state, are read through a migration.

They were written by a network of width 8 after two steps on four pictures; scores.json and results.json by a comparison.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib.data import ministreet
from course_lib.engine import CheckpointError, load_checkpoint
from course_lib.evaluation import predict
from course_lib.experiments.compare import KIND, Task, _finished, run_row
from course_lib.experiments.parts import Pair
from course_lib.experiments.rows import row_recipe, row_stages, standard_rows
from course_lib.experiments.state import load_network
from course_lib.experiments.table import table
from course_lib.experiments.train import score_network, train_recipe
from course_lib.methods import METHODS
from course_lib.recipes.recipe import slots

OLD = Path(__file__).parent / "old_files"
CHECKPOINTS = sorted(OLD.glob("*.pt"))
SETTINGS = ("network=small", "network_options={'width':8}", "source_size=64x32", "target_size=64x32", "test_size=64x32",
            "steps=2", "save_every=2", "warmup=0", "start_steps=0", "batch_size=2", "select=last",
            "channels_last=no")  # fmt: skip


# settings that came later: their defaults are what the files were trained with
LATER = {
    "data.rare_temperature": 0.01, "data.rare_pixels": 3000, "data.rare_crop_pixels": 1500, "optimiser.norm_decay": True,
    "data.crop_share": 1.0, "data.target_margins": (0.0, 0.0, 0.0), "optimiser.nesterov": False,
    "data.depth_noise": 0.0, "data.first_batch": 0,
    "scoring.select_spread": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    root, options = tmp_path_factory.mktemp("pair"), {"size": (32, 64), "workers": 1, "progress": False}
    source = ministreet.make("gta5", root / "gta5", 2, 1, **options)
    target = ministreet.make("cityscapes", root / "cityscapes", 2, 2, **options)
    ministreet.make("cityscapes", root / "val", 2, 3, split="val", **options)
    return Pair(f"gta5:{source}", f"cityscapes:{target}", f"cityscapes:{root / 'val'}@val")


def test_there_is_one_of_every_method_of_then():
    assert {"adaptsegnet", "bida", "bn-control", "proca", "self-training", "simclr", "source-only", "target-only"} <= {
        path.stem for path in CHECKPOINTS
    }


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_its_constants_are_those_of_then(path):
    """Each setting that has the same name today has the value that the file gives it."""
    was, recipe = load_checkpoint(path)["recipe"], load_network(path)[1]
    assert recipe.method == path.stem and recipe.settings == replace(recipe.settings) and recipe.workers == 0
    own = was.get(path.stem.replace("-", "_"), {}) | (was["views"] if path.stem == "simclr" else {})
    seen = 0
    for full, slot in slots(recipe).items():
        section, _, key = full.rpartition(".")
        holder = own if section.startswith("method") else was[section] if section in ("optimiser", "loop", "pseudo") else was
        if section == "heads":
            holder = was["adaptsegnet"] if key == "lambda_seg_aux" else was["proca"]
        if full in LATER:
            assert slot.value == LATER[full] and key not in holder
        elif key != "workers":
            assert (list(slot.value) if isinstance(slot.value, tuple) else slot.value) == holder[key], full
            seen += 1
    assert seen >= 40


@pytest.mark.parametrize("path", [path for path in CHECKPOINTS if METHODS[path.stem].segments], ids=lambda path: path.stem)
def test_it_is_scored_predicts_and_starts_a_run(path, pair, tmp_path):
    assert 0 <= score_network(path, pair.validation, quiet=True).miou < 0.2
    segmenter, recipe = load_network(path)
    picture = next(Path(pair.target.partition(":")[2]).rglob("*leftImg8bit.png"))
    assert len(predict(segmenter, [picture], tmp_path / "maps", recipe.space, size=recipe.test_size)) == 2
    labels = tmp_path / "labels"
    if any(stream.labels == "files" for stream in recipe.streams.values()):
        from course_lib.experiments.plan import label_target

        label_target(path, pair, labels, quiet=True)
    begun = replace(pair, start=str(path), pseudo_labels=str(labels))
    best = train_recipe(recipe.override("steps=1", "batch_size=1"), begun, tmp_path / "run", quiet=True)
    was, now = load_checkpoint(path)["segmenter"], load_checkpoint(best)["segmenter"]
    assert was.keys() == now.keys() and any(not torch.equal(was[name], now[name]) for name in was)


@pytest.mark.parametrize("path", CHECKPOINTS[:1], ids=lambda path: path.stem)
def test_it_is_not_resumed(path, pair, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(path, tmp_path / "run" / "last.pt")
    recipe = load_network(path)[1]
    with pytest.raises(CheckpointError, match=r"a run of course_lib 0\.1\.0; this is .*can be scored.*not resumed.*--replace"):
        train_recipe(recipe, pair, tmp_path / "run", existing="resume", quiet=True)


@pytest.mark.parametrize("name", ["source-only", "adaptsegnet", "target-only (oracle)"])
def test_a_finished_row_is_not_run_again(name, pair, tmp_path):
    """The scores of a comparison of then are those of the same row today."""
    row = next(row for row in standard_rows("ministreet") if row.name == name)
    recipe = row_recipe(row, "ministreet", SETTINGS, 0)
    task = Task(row, recipe, row_stages(row, "ministreet", SETTINGS, 0), pair, tmp_path, "cpu")
    old = json.loads((OLD / f"{task.folder.parent.name}.scores.json").read_text(encoding="utf-8"))
    was = {name: getattr(pair, name, None) for name in old["pair"]}  # here the same pictures
    task.folder.mkdir(parents=True)
    (task.folder / "best.pt").write_bytes(b"")
    (task.folder / "scores.json").write_text(json.dumps(old | {"pair": was, "made_by": KIND}), encoding="utf-8")
    assert run_row(task) == _finished(task) != None  # noqa: E711
    assert run_row(task)["scores"] == old["scores"]
    assert _finished(task._replace(recipe=recipe.override("lr=1e-3"))) is None


def test_results_are_shown():
    text = table(json.loads((OLD / "results.json").read_text(encoding="utf-8")))
    assert "| adaptsegnet |" in text and "| target-only (oracle) |" in text
