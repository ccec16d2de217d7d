"""The table: rows, controls, resuming, and the arithmetic of gains."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from course_lib.engine import load_checkpoint
from course_lib.experiments import compare as module
from course_lib.experiments.compare import Kept, compare, over_seeds
from course_lib.experiments.rows import ORACLE, ablation_rows, find_rows, row_recipe, standard_rows
from course_lib.experiments.table import control_name, table
from course_lib.experiments.train import common_start, load_network
from course_lib.recipes import PAIRS, PAPERS, Row
from tests.experiments.conftest import DISCRIMINATOR, TINY

PLAIN = (*TINY, "network_options={'width': 16}")
OVERRIDES = (*PLAIN, DISCRIMINATOR)


def test_a_comparison_resumes_and_writes_its_table(pair, tmp_path, monkeypatch):
    rows = tuple(row for row in standard_rows("ministreet") if "photometric" not in row.name)
    options = {"seeds": (0, 1), "rows": rows, "overrides": OVERRIDES, "quiet": True, "jobs": 1}
    told = []
    results = compare("ministreet", pair, tmp_path, **options, tell=lambda *found: told.append(found))
    assert list(results["rows"]) == [row.name for row in rows]
    assert {(name, seed) for name, seed, _ in told} == {(row.name, seed) for row in rows for seed in (0, 1)}
    assert all(content["scores"]["miou"] == results["rows"][name]["seeds"][str(seed)]["miou"] for name, seed, content in told)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| source-only, target statistics |" in text and "+ photometric" not in text

    for again in ("run_plan", "score_network"):
        monkeypatch.setattr(module, again, lambda *_, **__: pytest.fail("trained or scored again"))
    assert compare("ministreet", pair, tmp_path, **options) == results


def test_scores_that_are_kept_in_one_file_are_not_run_again(pair, tmp_path, monkeypatch):
    rows = (Row("source-only", "source-only"), Row("oracle", "target-only"))
    options = {"rows": rows, "overrides": PLAIN, "quiet": True, "jobs": 1}
    first = compare("ministreet", pair, tmp_path / "a", seeds=(0,), **options, kept=Kept(tmp_path / "scores.json"))
    text = (tmp_path / "scores.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text, "no path of this machine"
    ran = []
    stages = module.run_plan
    monkeypatch.setattr(module, "run_plan", lambda stages_, *rest, **more: ran.append(1) or stages(stages_, *rest, **more))
    again = compare("ministreet", pair, tmp_path / "b", seeds=(0,), **options, kept=Kept(tmp_path / "scores.json"))
    assert not ran and again["rows"] == first["rows"]
    renamed = options | {"rows": (Row("source", "source-only"), Row("ceiling", "target-only"))}
    taken = Kept(tmp_path / "others.json", [tmp_path / "scores.json", tmp_path / "others.json"])
    other = compare("ministreet", pair, tmp_path / "d", seeds=(0,), **renamed, kept=taken)
    assert not ran and other["rows"]["ceiling"]["seeds"] == first["rows"]["oracle"]["seeds"], "from another comparison's file"
    assert not (tmp_path / "others.json").exists(), "its own file keeps what it ran"
    compare("ministreet", pair, tmp_path / "b", seeds=(0, 1), **options, kept=Kept(tmp_path / "scores.json"))
    assert len(ran) == 2, "the other seed"
    changed = options | {"overrides": (*PLAIN, "lr=0.003")}
    compare("ministreet", pair, tmp_path / "b", seeds=(0,), **changed, kept=Kept(tmp_path / "scores.json"))
    assert len(ran) == 4, "other constants"
    picture = next(Path(pair.target.partition(":")[2]).rglob("*.png"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    compare("ministreet", pair, tmp_path / "c", seeds=(0,), **changed, kept=Kept(tmp_path / "scores.json"))
    assert len(ran) == 6, "other pictures"


def test_a_network_that_another_row_scores_is_trained_though_its_scores_are_kept(pair, tmp_path):
    trained = Row("source-only", "source-only")
    borrowed = Row("target statistics", "source-only", ("statistics=target",), network_of="source-only")
    options = {"seeds": (0,), "overrides": PLAIN, "quiet": True, "jobs": 1, "kept": Kept(tmp_path / "scores.json")}
    first = compare("ministreet", pair, tmp_path / "a", rows=(trained,), **options)
    both = compare("ministreet", pair, tmp_path / "b", rows=(trained, borrowed), **options)
    assert both["rows"]["source-only"]["miou_mean"] == first["rows"]["source-only"]["miou_mean"]
    assert set(Kept(tmp_path / "scores.json").rows) == {"source-only", "target statistics"}


def test_a_row_that_scores_another_rows_network_is_scored_again_where_that_one_is_trained_again(pair, tmp_path):
    """Its own constants are the same, whatever those of the network are."""
    borrowed = Row("target statistics", "source-only", ("statistics=target",), network_of="trained")

    def scores(out, *settings, **options):
        rows = (Row("trained", "source-only", settings), borrowed)
        options |= {"seeds": (0,), "rows": rows, "overrides": PLAIN, "quiet": True, "jobs": 1}
        found = compare("ministreet", pair, tmp_path / out, **options)
        return found["rows"]["target statistics"]["seeds"]["0"]["miou"]

    plain, other = scores("a"), scores("b", "lr=0.05")
    assert plain != other and scores("a", "lr=0.05") == other and scores("a") == plain
    for out, settings, wanted in (("c", (), plain), ("d", ("lr=0.05",), other), ("e", ("lr=0.05",), other)):
        assert scores(out, *settings, kept=Kept(tmp_path / "scores.json")) == wanted


@pytest.mark.parametrize("names", [("F+O", "F O"), ("ClassMix", "classmix"), ("one", "one")])
def test_two_rows_in_one_folder_are_refused_before_any_work(names, pair, tmp_path):
    rows = tuple(Row(name, "source-only") for name in names)
    said = f"The rows {names[0]!r} and {names[1]!r} would be in one folder"
    with pytest.raises(ValueError, match=re.escape(said)):
        compare("ministreet", pair, tmp_path / "out", seeds=(0,), rows=rows, overrides=PLAIN, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PAIRS)
def test_no_papers_rows_share_a_folder(name):
    tables = 0
    for paper in (paper for paper, content in PAPERS.items() if content.rows is not None):
        try:
            rows = ablation_rows(paper, name)
        except ValueError:  # this pair has no such table
            continue
        module._refuse_one_folder(rows)
        tables += 1
    assert tables or name == "ministreet_crops"


def test_each_start_of_a_comparison_is_trained_once_and_first(pair, tmp_path, monkeypatch):
    begun, starts = [], module.common_start
    monkeypatch.setattr(module, "common_start", lambda recipe, *a, **k: begun.append(recipe) or starts(recipe, *a, **k))
    narrow = Row("narrow", "source-only", ("network_options={'width': 8}",))
    rows = (Row("one", "source-only"), Row("alike", "target-only"), narrow)
    compare("ministreet", pair, tmp_path, seeds=(0,), rows=rows, overrides=(*PLAIN, "start_steps=1"), quiet=True, jobs=1)
    assert [recipe.network_options["width"] for recipe in begun] == [16, 8]


def test_a_comparison_of_no_rows_is_refused(pair, tmp_path):
    """It is not one of the pair's standard rows."""
    with pytest.raises(ValueError, match="There are no rows to compare. Leave out rows= for those of the pair"):
        compare("ministreet", pair, tmp_path, rows=(), seeds=(0,), quiet=True)
    assert not list(tmp_path.iterdir())


def test_standard_rows_are_the_method_its_controls_and_the_oracle():
    rows = {row.name: row for row in standard_rows("ministreet")}
    photometric = row_recipe(rows["source-only + photometric"], "ministreet", ("steps=7",), seed=3)
    assert (photometric.photometric, photometric.loop.steps, photometric.seed) == ("strong", 14, 3), "twice 7"
    assert row_recipe(rows["adaptsegnet"], "ministreet", ("steps=7",), seed=3).loop.steps == 7
    assert {row.method for row in rows.values()} == {"source-only", "bn-control", "adaptsegnet", "target-only"}


def test_an_override_that_some_rows_know_reaches_these_alone(pair, tmp_path):
    rows = find_rows(standard_rows("ministreet", ("proca", "adaptsegnet")), ["proca", "adaptsegnet"])
    overrides = (*OVERRIDES, "lambda_feat=0.03", "lambda_adv=0.02")
    results = compare("ministreet", pair, tmp_path, seeds=(0,), rows=rows, overrides=overrides, quiet=True, jobs=1)
    constants = {name: content["settings"] for name, content in results["constants"].items()}
    assert constants["proca"]["lambda_feat"] == 0.03 and "lambda_adv" not in constants["proca"]
    assert constants["adaptsegnet"]["lambda_adv"] == 0.02 and "lambda_feat" not in constants["adaptsegnet"]
    folders = {"proca/seed0/4_contrast": ("lambda_feat", 0.03), "adaptsegnet/seed0/1_adaptsegnet": ("lambda_adv", 0.02)}
    for folder, (key, value) in folders.items():  # what was trained with, not only what was noted
        assert load_checkpoint(tmp_path / folder / "last.pt")["recipe"]["settings"][key] == value


@pytest.mark.parametrize("override, words", [
    ("lambda_fc=0.1", "no setting 'lambda_fc' in a run of .*proca.*: bida has it"),
    ("lambda_faet=0.1", "no setting 'lambda_faet' in a run of .*Did you mean .*lambda_feat"),
])
def test_an_override_that_no_row_knows_is_an_error_before_anything_is_trained(override, words, pair, tmp_path):
    rows = find_rows(standard_rows("ministreet", ("proca", "adaptsegnet")), ["proca", "adaptsegnet"])
    with pytest.raises(ValueError, match=words):
        compare("ministreet", pair, tmp_path / "out", rows=rows, overrides=(*OVERRIDES, override), quiet=True, jobs=1)
    assert not (tmp_path / "out").exists() and not list((tmp_path / "cache").glob("starts/*"))


def row(*mious, **more):
    return {
        "miou_mean": fmean(mious),
        "miou_spread": stdev(mious) if len(mious) > 1 else None,
        "common_mean": 2 * fmean(mious),
        "seeds": {str(seed): {"miou": miou / 100, "train_seconds": 1.0} for seed, miou in enumerate(mious)},
        "steps": 3,
        "statistics": "running",
        "explanation": "",
    } | more


def test_results_whose_rows_name_no_control_keep_their_table():
    rows = {"source-only": row(30.0), "adaptsegnet": row(36.0), "target-only (oracle)": row(50.0)}
    line = table({"rows": rows, "command": ""}).splitlines()[3]
    assert line == "| adaptsegnet | 36.0 | 36.0 | +6.0 | 30 % | 72.0 | 3 | running | 1 |"
    rows["target-only (oracle)"] = row(30.0)
    line = table({"rows": rows, "command": ""}).splitlines()[3]
    assert line == "| adaptsegnet | 36.0 | 36.0 | +6.0 |  | 72.0 | 3 | running | 1 |", "no part of no distance"


def test_the_control_of_a_row_is_the_one_it_names_and_of_older_results_source_only():
    older = {"source-only": {}, "adaptsegnet": {}}
    assert control_name(older["adaptsegnet"], older) == "source-only"
    named = older | {"longer": {"control": None}, "F": {"control": "longer"}, "O": {"control": "not in this table"}}
    assert [control_name(named[name], named) for name in ("F", "O", "longer")] == ["longer", None, None]
    assert control_name({}, {"F": {}}) is None


def test_a_gain_is_taken_from_the_rows_control_and_comes_first():
    """By hand: 36, 40 over 32, 34 is 4, 6: 5 with a deviation of sqrt(2); (38 - 33) / (53 - 33) of the way to the oracle."""
    rows = {
        "source-only": row(30.0, 28.0, control=None, passes=9),
        "longer": row(32.0, 34.0, control=None, passes=18, steps=6),
        "adaptsegnet": row(36.0, 40.0, control="longer", passes=18),
        "elsewhere": row(36.0, 40.0, control="not in this table", passes=18),
        "target-only (oracle)": row(53.0, 53.0, control="source-only", passes=9),
    }
    text = table({"rows": rows, "command": ""})
    head, _, first, _, line, elsewhere, oracle = text.splitlines()[:7]
    assert head.startswith("| method | gain | over | mIoU | seed 0 | seed 1 | closes | common | steps | passes |")
    assert first.startswith("| source-only |  |  | 29.0 ± 1.4 |")
    assert line == "| adaptsegnet | +5.0 ± 1.4 | longer | 38.0 ± 2.8 | 36.0 | 40.0 | 25 % | 76.0 | 3 | 18 | running | 1 |"
    assert elsewhere.startswith("| elsewhere |  | not in this table | 38.0 ± 2.8 |")
    assert oracle.startswith("| target-only (oracle) | +24.0 ± 1.4 | source-only | 53.0 ± 0.0 |") and "| 100 % |" in oracle
    assert "the row with the same start, augmentation and compute" in text and "*: the control" not in text


def test_a_gain_over_a_control_with_another_compute_is_marked():
    rows = {"source-only": row(30.0, control=None, passes=9), "adaptsegnet": row(36.0, control="source-only", passes=18)}
    text = table({"rows": rows, "command": ""})
    assert "| adaptsegnet | +6.0 * | source-only |" in text and "*: the control had another compute (passes)" in text
    rows["adaptsegnet"]["passes"] = 8  # within the control's last step
    assert "+6.0 |" in table({"rows": rows, "command": ""})


def test_the_start_is_scored_first_and_networks_side_by_side_are_those_in_turn(pair, tmp_path):
    rows = (*standard_rows("ministreet")[:2], Row("start", "source-only", plan="proca", part="source"))
    in_turn, side_by_side = (_with_start(pair, tmp_path / str(jobs), rows, jobs) for jobs in (1, 2))
    assert in_turn.keys() == side_by_side.keys()
    for name, row in in_turn.items():
        for seed in ("0", "1"):
            assert row["seeds"][seed]["iou"] == side_by_side[name]["seeds"][seed]["iou"], (name, seed)


def _with_start(pair, out, rows, jobs: int) -> dict:
    """The rows of a comparison whose start was scored before anything was trained."""
    told = []
    options = {"seeds": (0, 1), "rows": rows, "overrides": PLAIN, "quiet": True, "jobs": jobs}
    results = compare("ministreet", pair, out, **options,
                      tell=lambda name, seed, _: told.append((name, seed, len(list(out.rglob("log.jsonl"))))))  # fmt: skip
    # All starts come before any training; two that run side by side end in either order.
    assert sorted(told[:2]) == [("start", 0, 0), ("start", 1, 0)] and len(told) == 6
    start = results["rows"]["start"]
    assert start["steps"] == start["passes"] == 0 and start["seeds"]["0"]["train_seconds"] == 0
    network, recipe = load_network(out / "start" / "seed0" / "best.pt")
    weights = common_start(recipe, pair, quiet=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert results["rows"]["source-only, 2 x compute"]["steps"] == 2 * results["rows"]["source-only"]["steps"]
    return results["rows"]


def test_at_published_size_the_oracle_of_another_network_is_no_ceiling():
    def row(method, miou, control=None, passes=450_000.0):
        runs = {"0": {"miou": miou, "miou_common": miou, "train_seconds": 1.0}}
        return {"method": method, "control": control, "explanation": "", "steps": 9, "passes": passes, "statistics": "running",
                "seeds": runs, **over_seeds(runs)}  # fmt: skip

    rows = {"source-only": row("source-only", 0.4), "as daformer learns": row("source-only", 0.45, passes=182_044 + 4 / 9),
            "daformer": row("daformer", 0.6, "as daformer learns"), "adaptsegnet": row("adaptsegnet", 0.5, "source-only"),
            ORACLE: row("target-only", 0.7, "source-only")}  # fmt: skip
    networks = dict.fromkeys(rows, "deeplab_v2") | {"daformer": "mit", "as daformer learns": "mit"}
    results = {"recipe": "gta5_cityscapes", "rows": rows, "constants": {k: {"network": n} for k, n in networks.items()},
               "command": ""}  # fmt: skip
    lines = {line.split(" |")[0][2:]: line for line in table(results).splitlines() if line.startswith("| ")}
    assert " | 33 % | " in lines["adaptsegnet"] and "%" not in lines["daformer"]
    assert " | 182044.4 | " in lines["as daformer learns"] and " | 450000.0 | " in lines["source-only"]
    assert "passes are of batches as source-only has them" in table(results)
    small = table(results | {"recipe": "ministreet"})
    assert "passes are of batches" not in small and small.count(" % | ") == 3
