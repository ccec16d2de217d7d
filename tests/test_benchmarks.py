"""The benchmarks compare what is alike, `make bench` runs them all, and the ledger says what the result files say."""

import dataclasses
import importlib
import json
import math
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import (
    contrast_speed,
    few_label_speed,
    few_labels,
    few_labels_page,
    ledger,
    mean_teacher,
    mean_teacher_speed,
    measuring,
    prepared_storage,
    released_steps,
    step_speed,
    what_contrast_adds,
)
from course_lib import losses
from course_lib.data import open_dataset, test_loader, test_transform
from course_lib.experiments.compare import Kept, Task, row_folder
from course_lib.experiments.compute import step_cost
from course_lib.experiments.parts import Pair, opened
from course_lib.experiments.rows import method_row, row_compute, row_recipe
from course_lib.experiments.state import load_network
from course_lib.experiments.train import train_recipe
from course_lib.labels import CITYSCAPES19
from course_lib.recipes import Row
from course_lib.recipes import recipe as find_recipe
from tests.bounds import bound, close

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
IMPORTED = {"__init__.py", "from_scratch.py", "gpu_rows.py", "measuring.py", "memory_contrast_speed.py", "released_bida.py",
            "released_proca.py", "released_steps.py"}  # fmt: skip


def test_make_bench_runs_every_script():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    listed = re.search(r"^BENCH \?= (.*)$", makefile, re.M)[1].split()
    # hours, what looks at their networks, and the page of some; make gpu; a list; minutes for each page; before and after a
    # change
    hours = {"daformer.py", "few_labels.py", "mean_teacher.py", "what_contrast_adds.py"}
    hours |= {"contrast_page.py", "few_labels_features.py", "few_labels_page.py"}
    apart = IMPORTED | hours | {"gpu_check.py", "last_slide.py", "live_runs.py", "same_numbers.py", "unsourced.py"}
    assert sorted(f"{name}.py" for name in listed) == sorted({path.name for path in FOLDER.glob("*.py")} - apart)
    assert listed[-1] == "ledger"  # after those that may write results


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_is_a_module_of_the_package(path):
    """As `python -m benchmarks.NAME` finds it: it imports its neighbours by the package's name."""
    module = importlib.import_module(f"benchmarks.{path.stem}")
    assert hasattr(module, "main") == (path.name not in IMPORTED)


def test_every_text_starts_a_benchmark_in_the_one_way():
    texts = [*FOLDER.rglob("*.py"), *FOLDER.rglob("*.md"), *FOLDER.rglob("*.json"), *(ROOT / "docs").rglob("*.md")]
    files = [path.name for path in (*texts, ROOT / "Makefile") if "python benchmarks/" in path.read_text(encoding="utf-8")]
    assert files == [], "python -m benchmarks.NAME"


def test_a_results_file_names_the_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["anywhere/benchmarks/step_speed.py", "--rounds", "5", "--note", "two words"])
    assert measuring.command() == "python -m benchmarks.step_speed --rounds 5 --note 'two words'"


def test_times_are_medians_of_rounds_in_turn():
    ran, clock = [], iter([0, 1, 1, 6, 6, 8, 8, 13, 13, 22, 22, 27])  # 1, 2 and 9 s of the first, always 5 s of the second
    actions = [lambda: ran.append("a"), lambda: ran.append("b")]
    assert measuring.medians(actions, 3, clock=clock.__next__) == [2, 5] and "".join(ran) == "ababab"


def test_two_ways_are_not_timed_where_they_differ():
    with pytest.raises(SystemExit, match="gradient differs by 1.0e.00 of its size: times cannot be compared"):
        measuring.two_ways(1, lambda x: (x, 2 * x), lambda x: (x, x), [torch.ones(3)], ("loss", "gradient"), 1)


# ---- a step of ours and the plain one -------------------------------------------------------------------------------


def tiny(method: str):
    size = (65, 97)
    return dataclasses.replace(step_speed.REDUCED[method], source=size, target=size, blocks=(1, 1, 1, 1))


@pytest.mark.parametrize("method", ["adaptsegnet", "proca", "bida"])
def test_both_ways_of_a_step_have_the_same_losses(method):
    ways = [step_speed.Way("course_lib"), step_speed.Way("all", channels_last=True, fused=True)]
    found = step_speed.check(tiny(method), ways, torch.device("cpu"))
    assert found.keys() == {"course_lib", "all"} and max(found.values()) < 1e-4


def test_without_agreement_there_are_no_times(monkeypatch):
    monkeypatch.setattr(released_steps, "entropy", lambda logits: logits.mean())
    with pytest.raises(SystemExit, match=r"bida, course_lib: entropy\w* differs by .*times cannot be compared"):
        step_speed.check(tiny("bida"), [step_speed.Way("course_lib")], torch.device("cpu"))
    with pytest.raises(SystemExit, match=r"Only one of both ways has the losses \['b'\]"):
        step_speed.difference({"a": 1.0}, {"a": 1.0, "b": 2.0})


def test_a_loss_that_is_not_a_number_is_no_agreement():
    value, name = step_speed.difference({"a": float("nan")}, {"a": 1.0})
    assert name == "a" and not value <= step_speed.TOLERANCE["fp32"]


# ---- the ledger -----------------------------------------------------------------------------------------------------


def test_the_ledger_is_what_its_script_writes():
    written = (FOLDER / "ledger.md").read_text(encoding="utf-8")
    assert written == ledger.text(), "run: python -m benchmarks.ledger"


def test_a_new_result_file_is_a_new_row(tmp_path):
    content = json.loads((FOLDER / "results" / "proca_ablation.json").read_text(encoding="utf-8"))
    content["rows"] = {"base, FC": content["rows"]["F+O"] | {"method": "bida"}, "source-only": content["rows"]["source-only"]}
    content |= {"recipe": "camvid_dusk", "space": "camvid11"}
    content["machine"]["gpu"] = "NVIDIA H100"
    for run in content["rows"]["base, FC"]["seeds"].values():
        run["peak_mib"] = 2048
    (tmp_path / "camvid_bida.json").write_text(json.dumps(content), encoding="utf-8")
    adaptsegnet, simclr, proca, bida = re.split(r"^## ", ledger.text(tmp_path), flags=re.M)[1:]
    (row,) = [line for line in bida.splitlines() if line.startswith("| ours |")]
    assert "CamVid day -> dusk, 11 classes: base, FC | 45.8 ± 0.6 (source-only 42.9) | 0, 1, 2 |" in row
    assert "NVIDIA H100 | 1.3 | 2,048 MiB | `results/camvid_bida.json`" in row
    assert "| ours, MiniStreet | - | not measured: no result file has it yet |" in bida
    assert "| ours |" not in adaptsegnet + simclr + proca


def test_what_is_missing_says_why(tmp_path):
    text = ledger.text(tmp_path)
    assert text.count("not measured: no CUDA GPU at hand") == 4
    assert text.count("not measured: no result file has it yet") == 7


@pytest.mark.parametrize("name", list(mean_teacher_speed.PARTS))
def test_both_ways_of_a_mean_teachers_parts_give_the_same(name):
    ours, plain, make, tolerance = mean_teacher_speed.PARTS[name]
    inputs = make(3, (24, 40))
    (a,), (b,) = ours(*inputs), plain(*inputs)
    assert a.shape == b.shape and a.std() > 0
    assert (a - b).abs().mean() <= tolerance


@pytest.mark.parametrize("name", list(contrast_speed.PARTS))
def test_contrastive_losses_and_their_transcriptions_agree(name):
    """Value, and gradient of every real input."""
    part = contrast_speed.PARTS[name]
    inputs = part.make(300)
    for a, b in zip(*(contrast_speed.value_and_gradient(loss, inputs) for loss in (part.ours, part.plain)), strict=True):
        largest = float(b.abs().max())  # products of WIDTH numbers over tau in an exponent, sums over 300 cells
        assert largest > 0
        close(a, b, bound(2 * contrast_speed.WIDTH + 300 + 30, torch.float32, 21 * largest))


def test_contrastive_losses_are_not_timed_where_they_differ(monkeypatch):
    name = "all pairs, 4,096 anchors"
    wrong = contrast_speed.PARTS[name]._replace(plain=lambda u, y: 2 * contrast_speed.plain_pairs(u, y), cells=50)
    monkeypatch.setitem(contrast_speed.PARTS, name, wrong)
    with pytest.raises(SystemExit, match="times cannot be compared"):
        contrast_speed.row(name, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", list(few_label_speed.PARTS))
def test_parts_for_few_labels_and_their_transcriptions_agree(name):
    part = few_label_speed.PARTS[name]
    inputs = part.make(2000)
    ours, plain = part.ours(*inputs), part.plain(*inputs)
    assert part.off(ours, plain, inputs) <= 1
    for k, x in enumerate(ours):
        assert part.off((*ours[:k], (x + 1) % 2000, *ours[k + 1 :]), plain, inputs) > 1


def test_three_pictures_are_mixed_by_depth_in_both_ways():
    inputs = few_label_speed.depth_inputs(1200, pictures=3)
    ours, plain = few_label_speed.our_mixing(*inputs), few_label_speed.plain_mixing(*inputs)
    assert few_label_speed.in_pixels(ours, plain, inputs) <= 1 and 0.1 < ours[2].mean() < 0.9


def test_a_part_for_few_labels_is_measured_in_both_ways(monkeypatch):
    name = "DepthMix, two pictures of 512x512"
    monkeypatch.setitem(few_label_speed.PARTS, name, few_label_speed.PARTS[name]._replace(cells=800))
    assert re.fullmatch(rf"\| {name} \|( [\d,]+ \|){{2}} [\d.]+ x \|( [\d,]+ \|){{2}}",
                        few_label_speed.row(name, 1, torch.device("cpu")))  # fmt: skip


def test_parts_for_few_labels_are_not_timed_where_they_differ(monkeypatch):
    name = "region contrast, 16,384 cells"
    part = few_label_speed.PARTS[name]
    wrong = part._replace(plain=lambda *inputs: tuple(2 * x for x in part.plain(*inputs)), cells=300)
    monkeypatch.setitem(few_label_speed.PARTS, name, wrong)
    with pytest.raises(SystemExit, match="times cannot be compared"):
        few_label_speed.row(name, 1, torch.device("cpu"))


def test_the_mean_teachers_parts_are_not_timed_where_they_differ(monkeypatch):
    ours, _, make, _ = mean_teacher_speed.PARTS["ClassMix"]
    monkeypatch.setitem(mean_teacher_speed.PARTS, "ClassMix", (ours, lambda y: (1 - ours(y)[0],), make, 0.0))
    with pytest.raises(SystemExit, match="ClassMix differs by 1.0e.00 in the mean: times cannot be compared"):
        mean_teacher_speed.row("ClassMix", 2, (16, 16), 1, torch.device("cpu"))


@pytest.mark.parametrize("design", [False, True])
@pytest.mark.parametrize("pair", ["ministreet", "ministreet_camvid", "camvid_dusk"])
def test_rows_of_the_mean_teacher_have_controls_of_their_start_network_colours_and_compute(pair, design, monkeypatch):
    monkeypatch.setattr(mean_teacher, "MAIN", {pair: "class-wise, half of the pictures unmixed"})
    rows = {row.name: row for row in mean_teacher.rows_of(pair, design)}
    assert ("class-wise, half of the pictures unmixed" in rows) and ("BiDA" in rows) == (not design)
    first, oracle = rows["source-only"], rows["target-only (oracle)"]
    for row in (row for row in rows.values() if row.control and row is not oracle):
        control = rows[row.control]
        ours, theirs = (row_recipe(each, pair, (), 0) for each in (row, control))
        for name in ("network", "network_options", "start_steps", "start_photometric", "photometric"):
            assert getattr(ours, name) == getattr(theirs, name), (row.name, name)
        spent, cost = row_compute(row, pair, (), 0), step_cost(theirs)
        assert spent <= row_compute(control, pair, (), 0) < spent + cost, row.name
    assert row_recipe(first, pair, (), 0).loop.steps == row_recipe(oracle, pair, (), 0).loop.steps


def test_source_only_with_rare_class_sampling_stands_beside_a_main_row_that_has_it():
    rows = {row.name: row for row in mean_teacher.rows_of("ministreet_camvid", False)}
    alone = rows["source-only, 3.5 x compute, rare class sampling"]
    assert mean_teacher.MAIN["ministreet_camvid"] in rows and alone.control == "source-only, 3.5 x compute"
    ours, theirs = (row_recipe(row, "ministreet_camvid", (), 0) for row in (alone, rows[alone.control]))
    assert ours.sampling == "rare-class" and theirs.sampling != "rare-class" and ours.loop.steps == theirs.loop.steps


def test_the_mean_teachers_reported_seeds_wait_for_its_main_row(monkeypatch, capsys):
    monkeypatch.setattr(mean_teacher, "MAIN", {})
    monkeypatch.setattr("sys.argv", ["mean_teacher", "ministreet", "--seeds", "0"])
    with pytest.raises(SystemExit, match="No main row is named for ministreet: run --design, then name one in MAIN"):
        mean_teacher.main()


def test_the_long_table_has_the_best_rows_and_their_controls(monkeypatch):
    asked = {}
    monkeypatch.setattr(mean_teacher, "compare", lambda *_, **options: asked.update(options) or {"rows": {}})
    monkeypatch.setattr(mean_teacher, "pictures", lambda *_: "pictures")
    monkeypatch.setattr(mean_teacher, "table", lambda results: "")
    monkeypatch.setattr(mean_teacher, "write_whole", lambda path, text: asked.setdefault("written", []).append(path.name))
    monkeypatch.setattr("sys.argv", ["mean_teacher", "ministreet", "--long"])
    mean_teacher.main()
    assert asked["seeds"] == (0, 1, 2) and asked["overrides"] == ("steps=1500",)
    assert asked["written"] == ["mean_teacher_ministreet_long.json", "mean_teacher_ministreet_long.md"]
    assert [row.name for row in asked["rows"]] == ["source-only", "source-only, 2 x compute", "source-only, 2.33 x compute",
                                                   "ProCA", *mean_teacher.LONG[:2]]  # fmt: skip
    reported = json.loads((FOLDER / "results/mean_teacher_ministreet.json").read_text(encoding="utf-8"))["rows"]
    methods = [name for name, row in reported.items() if row["method"] not in ("source-only", "target-only")]
    best = sorted(methods, key=lambda name: reported[name]["miou_mean"], reverse=True)[:3]
    assert set(best) == set(mean_teacher.LONG)


@pytest.mark.parametrize("words, written", [
    ((), {"scores_of.json", "scores_of.md"}), (("--design",), {"scores_of.md"}), (("--seeds", "3"), set()),
    (("--rows", "b"), set()),
])  # fmt: skip
def test_a_table_is_written_where_it_is_complete(words, written, tmp_path, monkeypatch, capsys):
    """That of --design as a table alone; each run takes the scores of all comparisons before it."""
    asked = {}

    def stand_in(pair, pictures, out, **options):
        asked.update(options, pair=pair, out=out)
        return {"rows": {row.name: {} for row in options["rows"]}}

    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/earlier.json").write_text('{"a": {"0": {"key": "k", "scores": {}}}}', encoding="utf-8")
    monkeypatch.setattr(mean_teacher, "RESULTS", tmp_path)
    monkeypatch.setattr(mean_teacher, "compare", stand_in)
    monkeypatch.setattr(mean_teacher, "pictures", lambda *_: "pictures")
    monkeypatch.setattr(mean_teacher, "table", lambda results: " ".join(results["rows"]))
    args = mean_teacher.options("A table.", ("ministreet",)).parse_args(["ministreet", "--out", str(tmp_path / "runs"), *words])
    mean_teacher.measure(args, "scores_of", (Row("a", "source-only"), Row("b", "dacs")), ("steps=2",))
    assert {path.name for path in tmp_path.iterdir()} - {"scores"} == written
    assert asked["out"] == tmp_path / "runs/scores_of" and asked["overrides"] == ("steps=2",)
    assert asked["seeds"] == ((3,) if "--seeds" in words else (100, 101) if "--design" in words else (0, 1, 2, 3, 4))
    assert asked["kept"].path == tmp_path / "scores/scores_of.json" and asked["kept"].others["k"]["scores"] == {}
    assert capsys.readouterr().out == ("b\n" if "--rows" in words else "a b\n")


def test_a_row_that_is_not_there_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(mean_teacher, "compare", lambda *_, **__: pytest.fail("a comparison of other rows"))
    for mistyped in (["b2"], ["a", "b2"]):
        args = mean_teacher.options("A table.", ("ministreet",)).parse_args(["ministreet", "--rows", *mistyped])
        with pytest.raises(SystemExit, match="There is no row 'b2'"):
            mean_teacher.measure(args, "scores_of", (Row("a", "source-only"), Row("b", "dacs")))


def test_pictures_of_the_mean_teacher_are_there_to_be_read(tmp_path, monkeypatch):
    """The texts that name CamVid, with a folder of each form."""
    for looks in ("train", "val"):
        for folder in (looks, f"{looks}annot"):
            (tmp_path / folder).mkdir()
            Image.new("L" if folder.endswith("annot") else "RGB", (8, 6)).save(tmp_path / folder / "a.png")
    for look in ("day", "dusk"):
        for folder in ("images", "labels"):
            (tmp_path / look / folder).mkdir(parents=True)
            for name in "ab":
                Image.new("L" if folder == "labels" else "RGB", (8, 6)).save(tmp_path / look / folder / f"{name}.png")
    monkeypatch.setattr(mean_teacher.ministreet, "cached", lambda *_, **__: tmp_path)
    for pair in ("ministreet_camvid", "camvid_dusk"):
        texts = mean_teacher.pictures(pair, False, tmp_path).sets()
        for domain, (text, split) in texts.items():
            if text.startswith("camvid:"):
                assert len(open_dataset(text, split, "camvid11")) in (1, 2), domain
    with pytest.raises(SystemExit, match="camvid_dusk wants CamVid: --camvid FOLDER"):
        mean_teacher.pictures("camvid_dusk", False, None)


def test_the_tables_of_prepared_storage_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_storage, "SIZE", (32, 64))
    root = prepared_storage.make("gta5", tmp_path / "original", 2, 1, size=(48, 96), workers=1, progress=False)
    lines = prepared_storage.tables(prepared_storage.find_pairs("gta5", root), root, "game", tmp_path)
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert len(rows) == 3 + len(prepared_storage.PICTURES) + len(prepared_storage.LABELS) + 3  # heads, then ways of storing
    assert [row.split(" | ")[-2] for row in rows if row.startswith("| PNG")] == ["inf"] * 3  # nothing is lost


def test_weights_of_a_contrast_are_compared_over_the_base_of_as_many_steps():
    changes, rows = what_contrast_adds.planned("ministreet", True)
    table = {row.name: row for row in rows}
    assert len(table) == len(rows) == 23
    assert {row.control for row in rows} == {None, "base", "two resolutions", "one weight"}
    assert {row_recipe(row, "ministreet", changes, 100).loop.steps for row in rows} == {300}
    assert not any(row.compute_of for row in rows)


@pytest.mark.parametrize(("pair", "count"), [("ministreet", 26), ("ministreet_camvid", 5)])
def test_each_contrastive_row_has_a_base_of_its_compute(pair, count):
    changes, rows = what_contrast_adds.planned(pair, False)
    table = {row.name: row for row in rows}
    assert len(table) == len(rows) == count
    recipes = {name: row_recipe(row, pair, changes, 0) for name, row in table.items()}
    main = Row("main", "dacs", mean_teacher.SWITCHES[mean_teacher.MAIN[pair]])
    assert recipes["base"] == row_recipe(main, pair, (), 0), "the row of the mean teacher that was named beforehand"
    for name, recipe in recipes.items():
        control = table[name].control
        assert (control is None) == (not recipe.terms), name
        if control is not None:
            ours, theirs = (row_compute(table[n], pair, changes, 0) for n in (name, control))
            assert ours - step_cost(recipes[control]) < theirs <= ours, name
            assert recipe.settings == recipes[control].settings and recipe.network == recipes[control].network, name
    assert table["+ pixels"].control == "base" and recipes["base, 1.57 x compute"].loop.steps == 471


def test_the_plans_have_of_each_term_the_better_weight_of_the_development_seeds():
    """Where it is better by more than 0.3 points; else the smaller one. All other settings of the term are the same."""
    scores = json.loads((FOLDER / "results/scores/contrast_ministreet_design.json").read_text(encoding="utf-8"))
    tried = {}  # term -> its settings -> mIoU
    for row in what_contrast_adds.planned("ministreet", True)[1]:
        if row.control is not None and ", weight " in row.name:  # the others ask why, not how much
            name, _, _ = row.name.removeprefix("two resolutions, ").partition(", weight ")
            settings = tuple(text for text in row.overrides if text.startswith("terms"))
            found = statistics.fmean(100 * run["scores"]["miou"] for run in scores[row.name].values())
            tried.setdefault(name, {})[settings] = found
    chosen = {}
    for name, weights in tried.items():
        (small, low), (large, high) = weights.items()  # in the order of the plan, the smaller one first
        chosen[name] = large if high > low + 0.3 else small
    rows = [row for pair in what_contrast_adds.PAIRS for row in what_contrast_adds.planned(pair, False)[1] if row.control]
    assert {row.name.split(", ")[-1] for row in rows} == set(chosen)
    for row in rows:
        assert tuple(text for text in row.overrides if text.startswith("terms")) == chosen[row.name.split(", ")[-1]], row.name


@pytest.mark.parametrize("labels", [20, 80])
def test_rows_of_few_labels_have_controls_of_their_start_colours_and_compute(labels, monkeypatch):
    chosen = ("ClassMix, labelled pasted", "ReCo, weight 0.1", "SemiSegContrast, class-wise", "GIST",
              "SegSDF, class-wise with a ramp")  # fmt: skip
    monkeypatch.setattr(few_labels, "CHOSEN", {"ministreet": chosen})
    pair, rows = "ministreet_few_labels", {row.name: row for row in few_labels.rows_of("ministreet", labels, False)}
    settings = few_labels.settings_of("ministreet", False)
    recipes = {name: row_recipe(row, pair, settings, 0) for name, row in rows.items()}
    costs = {name: row_compute(row, pair, (), 0) for name, row in rows.items()}
    methods = {name: row for name, row in rows.items() if row.control is not None}
    parts = [*few_labels.WITHOUT.values(), few_labels.SUPERVISED_ROW] if labels == few_labels.TWENTY else []
    assert list(methods) == [few_labels.PLAIN, *chosen, *parts]
    for name, row in methods.items():
        ours, theirs = recipes[name], recipes[row.control]
        assert theirs.method == "supervised" and theirs.photometric == theirs.start_photometric == "strong"
        alike = ours.start_photometric == ours.photometric == ("none" if name == few_labels.PLAIN else "strong")
        assert alike and ours.network_options.get("of") in (None, "efficientnet_lite0"), name
        if row.method != "segsdf" or labels == few_labels.TWENTY:
            assert ours.network == theirs.network and ours.start_steps == theirs.start_steps, name
            assert costs[name] <= costs[row.control] < costs[name] + step_cost(theirs), name
    assert {each.select for each in recipes.values()} == {"last"}, "no row is chosen among its checkpoints"
    for row in (row for name, row in methods.items() if name not in parts and row.method != "gist"):
        assert recipes[row.name].first_batch == recipes[row.control].first_batch == 400, "not the batches of the start"
    classmix, reco = recipes["ClassMix, labelled pasted"], recipes["ReCo, weight 0.1"]
    assert reco.settings.mixing == classmix.settings.mixing and reco.settings.mix_from == classmix.settings.mix_from
    assert reco.settings.scored == "segmenter", "the network that learns, as in all rows"
    assert recipes["SemiSegContrast, class-wise"].terms["memory_contrast"].labelled == labels
    for name, whole in zip(parts, ("ReCo, weight 0.1", "SemiSegContrast, class-wise", "SemiSegContrast, class-wise")):
        settings, alone = recipes[name].settings, few_labels.SUPERVISED_ROW
        changed = {"lambda_mix": 0.0, "lambda_entropy": 0.0} if name == alone else {}
        assert not recipes[name].terms and settings == replace(recipes[whole].settings, **changed), name
    assert rows[chosen[-1]].control == rows["ClassMix, labelled pasted"].control or labels == few_labels.TWENTY
    assert "exact depth of all pictures, which no other row has" in rows[chosen[-1]].explanation


def test_photographs_have_labels_alone_with_the_compute_and_with_the_steps_of_classmix():
    pair, settings = "camvid_few_labels", few_labels.settings_of("camvid", False)
    rows = {row.name: row for row in few_labels.rows_of("camvid", 20, False)}
    (classmix,) = few_labels.CHOSEN["camvid"]
    assert list(rows) == [rows[classmix].control, few_labels.SHORT, few_labels.PLAIN, classmix]
    short, control = (row_recipe(rows[name], pair, settings, 0) for name in (few_labels.SHORT, rows[classmix].control))
    assert short.loop.steps == row_recipe(rows[classmix], pair, settings, 0).loop.steps < control.loop.steps
    assert short.updated({"loop.steps": control.loop.steps}) == control, "alike but for the steps"


@pytest.mark.parametrize("name", few_labels.CHOSEN)
def test_the_rows_of_few_labels_are_the_better_ones_of_the_development_seeds(name):
    """Of each method's variants, by the mean of both seeds; the recipe's own, the first, unless another has 0.3 points more. Of
    GIST and RIST the better one."""
    scores = json.loads((FOLDER / f"results/scores/few_labels_{name}_20_design.json").read_text(encoding="utf-8"))
    groups = {}
    for row, (method, _) in few_labels.VARIANTS[name].items():
        if set(scores.get(row, ())) >= {"100", "101"}:
            mean = statistics.fmean(100 * scores[row][seed]["scores"]["miou"] for seed in ("100", "101"))
            groups.setdefault({"gist": "stages", "rist": "stages"}.get(method, method), {})[row] = mean
    wanted = set()
    for group, means in groups.items():
        own, best = next(iter(means)), max(means, key=means.get)
        wanted.add(best if group == "stages" or means[best] > means[own] + 0.3 else own)
    assert set(few_labels.CHOSEN[name]) == wanted


@pytest.mark.parametrize("labels, name", [(0, "game"), (20, "game and labels")])
def test_adaptation_has_the_start_and_the_steps_of_few_labels(labels, name):
    """The recipe of a mean teacher between domains has a start of 700 steps, those with few labels one of 400."""
    rows = few_labels.adaptation_rows(labels)
    ours = [row_recipe(row, "ministreet", (), 0) for row in rows]
    theirs = row_recipe(method_row("classmix"), "ministreet_few_labels", (), 0)
    control, adapted = rows
    assert (control.name, adapted.name) == (name, few_labels.ADAPTED) and adapted.control == name
    assert {recipe.start_steps for recipe in ours} == {theirs.start_steps}
    assert {recipe.start_photometric for recipe in ours} == {theirs.start_photometric} == {"strong"}
    assert {str(recipe.network_options) for recipe in ours} == {str(theirs.network_options)}
    assert ours[1].loop.steps == theirs.loop.steps and ours[1].settings.mixing.mix_rare == 0.05
    assert ["few_labels" in recipe.terms for recipe in ours] == [labels > 0] * 2
    spent = [row_compute(row, "ministreet", (), 0) for row in rows]
    assert spent[1] <= spent[0] < spent[1] + 6


def test_few_labels_are_those_of_the_seed(tmp_path, monkeypatch):
    """The comparisons of all seeds become one table; with as many labels as pictures all are labelled, and none is left out."""
    folder = lambda layout, count, seed, split="train": tmp_path / f"{layout}{seed}"  # noqa: E731
    monkeypatch.setattr(few_labels.ministreet, "cached", folder)
    one, two = few_labels.pictures("ministreet", 20, 3, False, None)
    assert one.source.endswith("cityscapes2@train+labelled=20+seed=3") and one.target.endswith("+unlabelled=20+seed=3")
    assert two.source.endswith("gta5:" + str(tmp_path / "gta51")) and (two.labelled, two.target) == (one.source, one.target)
    every = few_labels.pictures("ministreet", 400, 3, False, None)[0]
    assert every.source == every.target == f"cityscapes:{tmp_path / 'cityscapes2'}"
    none, adapted = few_labels.pictures("ministreet", 0, 3, False, None)
    assert none is None and adapted.labelled is None
    assert (adapted.source, adapted.target, adapted.validation) == (two.source, every.target, two.validation)
    with pytest.raises(SystemExit, match="camvid wants CamVid: --camvid FOLDER"):
        few_labels.pictures("camvid", 10, 0, False, None)
    run = {"miou": 0.5, "miou_common": 0.4}
    parts = [
        {"rows": {name: {"seeds": {seed: run | {"miou": miou}}, "miou_mean": None}}, "constants": {name: {}}}
        for name, seed, miou in (("a", "0", 0.25), ("b", "0", 0.5), ("a", "1", 0.75), ("b", "1", 0.5))
    ]
    whole = few_labels.merged(parts)["rows"]
    assert [(name, row["miou_mean"], list(row["seeds"])) for name, row in whole.items()] == [
        ("a", 50.0, ["0", "1"]), ("b", 50.0, ["0", "1"])]  # fmt: skip
    assert whole["a"]["miou_spread"] == pytest.approx(50 / 2**0.5) and whole["a"]["common_mean"] == pytest.approx(40)


def test_reported_seeds_of_few_labels_wait_for_the_chosen_rows(monkeypatch):
    monkeypatch.setattr(few_labels, "CHOSEN", {})
    monkeypatch.setattr("sys.argv", ["few_labels", "ministreet"])
    with pytest.raises(SystemExit, match="No rows are chosen for ministreet: run --design, then name them in CHOSEN"):
        few_labels.main()


def pair_name(recipe):
    """Of a recipe that `few_labels` compares; adaptation is from MiniStreet's game."""
    return recipe.removesuffix("_few_labels")


@pytest.fixture
def few_runs(tmp_path, monkeypatch):
    """The comparisons that `few_labels` asks for, (recipe, pair, names of rows); none is run, each row has the score of its
    seed. Results lie in results/."""
    asked = []

    def compare(recipe, pair, out, *, seeds, rows, overrides, **_):
        assert overrides == few_labels.settings_of(pair_name(recipe), design=False)
        asked.append((recipe, pair, [row.name for row in rows]))
        fixed = {"published": None, "statistics": "running", "steps": 300, "passes": 2100}
        scores = {str(seed): {"miou": 0.4 + seed / 100, "miou_common": 0.5, "train_seconds": 0.0} for seed in seeds}
        found = {row.name: {"method": row.method, "explanation": row.explanation, "control": row.control, **fixed,
                            "seeds": scores} for row in rows}  # fmt: skip
        return {"rows": found, "constants": {}, "command": "", "machine": {}}

    monkeypatch.setattr(few_labels, "compare", compare)
    monkeypatch.setattr(few_labels, "RESULTS", tmp_path / "results")
    folder = lambda layout, count, seed, split="train": tmp_path / f"{layout}{seed}"  # noqa: E731
    monkeypatch.setattr(few_labels.ministreet, "cached", folder)
    chosen = ("ClassMix, labelled pasted", "ReCo, weight 1", "SemiSegContrast, class-wise", "GIST",
              "SegSDF, class-wise with a ramp")  # fmt: skip
    monkeypatch.setattr(few_labels, "CHOSEN", {"ministreet": chosen, "camvid": chosen[:1]})
    (tmp_path / "results" / "scores").mkdir(parents=True)
    return asked


def run_few_labels(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["few_labels", *words])
    few_labels.main()


def test_without_labels_adaptation_alone_is_measured(few_runs, monkeypatch, capsys):
    run_few_labels(monkeypatch, "ministreet", "--labels", "0")
    assert [(recipe, pair.labelled, rows) for recipe, pair, rows in few_runs] == [
        ("ministreet", None, ["game", few_labels.ADAPTED])] * 3  # fmt: skip
    printed = capsys.readouterr().out
    assert "0 labels\n| method | gain | over |" in printed and "adapted from the game | +0.0 ± 0.0 | game |" in printed


def test_the_reported_run_of_few_labels_has_the_tables_of_its_page(few_runs, tmp_path, monkeypatch):
    run_few_labels(monkeypatch, "ministreet")
    counts = (0, 10, 20, 80, 400)
    written = {path.name for path in (tmp_path / "results").glob("few_labels_*")}
    assert written == {f"few_labels_ministreet_{n}.{ending}" for n in counts for ending in ("json", "md")}
    monkeypatch.setattr(few_labels_page, "RESULTS", tmp_path / "results")
    found = few_labels_page.curves(few_labels_page.read("ministreet"))
    begin = {name: counts[name not in (few_labels.ADAPTED, few_labels.BOTH) :] for name in found}
    begin |= dict.fromkeys(few_labels_page.PARTS, (few_labels.TWENTY,))
    assert len(found) == 12 and all(tuple(points) == begin[name] for name, points in found.items())


def test_the_table_of_camvid_says_where_its_constants_were_chosen(few_runs, tmp_path, monkeypatch):
    run_few_labels(monkeypatch, "camvid", "--camvid", "photographs")
    said = {path.stem: few_labels.NOTES["camvid"] in path.read_text(encoding="utf-8")
            for path in (tmp_path / "results").glob("*.md")}  # fmt: skip
    assert said == {f"few_labels_camvid_{n}": True for n in (10, 20, 80)}


@pytest.mark.parametrize(
    "words, error",
    [
        (("ministreet", "--rows", "ReCo, weight 1", "GISt"), "There is no row 'GISt'. Did you mean GIST"),
        (("ministreet", "--labels", "0", "--rows", "GIST"), "There is no row 'GIST'.* There are: game, adapted from the game"),
        (("camvid", "--camvid", "photographs", "--labels", "0"), "camvid has no rows with 0 labels: adaptation alone has"),
        (("ministreet", "--design", "--labels", "0"), "ministreet has no rows with 0 labels"),
    ],
)
def test_rows_of_few_labels_that_are_not_there_are_named(words, error, few_runs, monkeypatch):
    with pytest.raises(SystemExit, match=error):
        run_few_labels(monkeypatch, *words)
    assert few_runs == []


def test_a_row_of_few_labels_runs_where_it_is(few_runs, monkeypatch):
    run_few_labels(monkeypatch, "ministreet", "--rows", "ReCo, weight 1", "--seeds", "0")
    assert [rows for _, _, rows in few_runs] == [["ReCo, weight 1"]] * 4, "with 0 labels there is none"


@pytest.fixture
def one_row(tmp_path):
    """The pictures of "a row", whose network of seed 3 in runs/ has seen one step."""
    source = prepared_storage.make("gta5", tmp_path / "game", 2, 1, size=(32, 64), workers=1, progress=False)
    camera = {"size": (32, 64), "workers": 1, "progress": False, "split": "val"}
    scored = prepared_storage.make("cityscapes", tmp_path / "camera", 2, 2, **camera)
    sizes = (f"{of}_size=64x32" for of in ("source", "target", "test"))
    recipe = find_recipe("ministreet", "source-only").override("network=small", "start_steps=0", "steps=1", *sizes)
    pair = Pair(f"gta5:{source}", None, f"cityscapes:{scored}@val")
    train_recipe(recipe, replace(pair, validation=None), row_folder(tmp_path / "runs", "a row", 3), quiet=True)
    return pair


@pytest.fixture
def one_term(one_row, tmp_path):
    """"a row" once more, with a term whose projector is wide, for ten steps."""
    term = "terms.pixel_contrast"
    recipe = find_recipe("ministreet", "source-only").override(
        "network=small", "start_steps=0", "steps=10", *(f"{of}_size=64x32" for of in ("source", "target", "test")),
        "terms=+pixel_contrast", f"{term}.out=100", f"{term}.per_class=5", f"{term}.anchors=40", f"{term}.least=0",
    )  # fmt: skip
    folder = row_folder(tmp_path / "runs", "with a term", 3)
    train_recipe(recipe, replace(one_row, validation=None), folder, quiet=True)
    return folder


def test_what_features_are_like_is_kept_with_each_row(one_row, one_term, tmp_path, monkeypatch):
    """Numbers in their ranges, and a second row beside the first."""
    monkeypatch.setattr(what_contrast_adds, "LEAST", 2)
    shutil.copytree(tmp_path / "runs/a_row", tmp_path / "runs/another")
    rows = ("a row", "another", "with a term")
    (tmp_path / "scores.json").write_text(json.dumps({row: {"3": {"key": row}} for row in rows}), encoding="utf-8")
    keep = what_contrast_adds.WithFeatures(tmp_path / "scores.json", tmp_path / "features.json")
    for row in rows:
        keep.look(tmp_path / "runs", one_row, row, 3, {})
    kept = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    assert [kept[row]["3"].pop("key") for row in rows] == list(rows)
    assert list(kept) == ["a row", "another", "with a term"] and kept["a row"] == kept["another"]
    plain, found = kept["a row"]["3"], kept["with a term"]["3"]
    measures = {"within", "between", "silhouette", "classes"}
    shares = {f"{way}_{part}" for way in ("cosine", "classifier") for part in ("half", "all")}
    assert plain.keys() == measures | shares
    assert found.keys() == plain.keys() | {f"own_{key}" for key in measures} | {"loss_start", "loss_end"}
    for own in ("", "own_"):
        assert 1 < found[f"{own}classes"] <= 19 and -1 <= found[f"{own}silhouette"] <= 1
        assert found[f"{own}between"] <= found[f"{own}within"] <= 1
    assert all(0 <= each[share] <= 1 for each in (plain, found) for share in shares)
    assert found["own_within"] != found["within"], "the projector's output, not the features"
    assert found["loss_end"] < found["loss_start"], "ten steps on one batch"


def test_the_classifier_s_labels_are_those_of_the_network(one_row, tmp_path):
    """Right cells of a class counted from its prediction, with the labels of a grid that has the network's own size."""
    checkpoint = row_folder(tmp_path / "runs", "a row", 3) / "best.pt"
    network, recipe = load_network(checkpoint)
    network.eval()
    read = test_transform((32, 64), network.normalisation, resize_label=True)
    (batch,) = test_loader(opened(recipe, one_row.validation, "val", read), 4)  # as it is measured: the same rounding
    with torch.no_grad():
        P = network(batch.image)
    cells = tuple(P.features.shape[2:])
    y = losses.label_down(batch.label, cells, 19, 0.75)
    right, known = int((P.resized(cells).argmax(1) == y)[y != 255].sum()), int((y != 255).sum())
    assert what_contrast_adds.features_of(checkpoint, one_row)["classifier_all"] == right / known


def test_classes_of_few_cells_and_cells_without_direction_take_no_part():
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).repeat_interleave(torch.tensor([60, 60, 10]), dim=0)
    f, y = torch.cat([f, torch.tensor([[-1.0, 0.0]])]), torch.tensor([0] * 60 + [1] * 70 + [2])
    found = what_contrast_adds._separated(f, y, 3)
    assert found == {"within": 1, "between": 0, "silhouette": 1, "classes": 2}


def test_a_score_without_features_of_its_network_is_not_taken(tmp_path, monkeypatch):
    """Of a run that was stopped between the two files, or of another table's equal row: no network is there to look at. The
    scores stay in their file all the same."""
    monkeypatch.setattr(Kept, "key", lambda self, task: f"{task.row.name} {task.recipe.seed}")
    plain, row = find_recipe("ministreet", "source-only"), Row("base", "source-only")
    tasks = [Task(row, replace(plain, seed=seed), [], Pair("a", None), tmp_path, "cpu") for seed in (0, 1, 2)]
    scores, features = tmp_path / "scores/contrast.json", tmp_path / "features/contrast.json"
    scores.parent.mkdir()
    kept = {"base": {str(seed): {"key": f"base {seed}", "train_seconds": 1.0, "scores": {}} for seed in (0, 1, 2)}}
    scores.write_text(json.dumps(kept), encoding="utf-8")
    (scores.parent / "mean_teacher.json").write_text(json.dumps({"main": {"0": {"key": "base 0"}}}), encoding="utf-8")
    found = what_contrast_adds.WithFeatures(scores, features)
    assert [found.find(task) for task in tasks] == [None] * 3
    features.parent.mkdir()
    features.write_text(json.dumps({"base": {"1": {"key": "base 1"}, "2": {"key": "of other constants"}}}), encoding="utf-8")
    assert [found.find(task) for task in tasks] == [None, kept["base"]["1"], None]
    found.add(tasks[2], kept["base"]["2"] | {"scores": {"miou": 0.5}})
    written = json.loads(scores.read_text(encoding="utf-8"))
    assert written["base"].keys() == {"0", "1", "2"} and written["base"]["0"] == kept["base"]["0"]


def test_what_a_class_is_predicted_as_and_what_is_predicted_as_it(one_row, tmp_path):
    out = tmp_path / "runs"
    rows = (Row("a row", "source-only"), Row("not trained", "source-only"))
    pixels = mean_teacher.Pixels.of(row_folder(out, "a row", 3) / "best.pt", one_row.validation)
    assert len(pixels.truth) > 1000 and len({len(each) for each in pixels[:3]}) == 1 and len(pixels.classes) == 19
    c = int(pixels.truth.mode().values)
    _, _, line, _, made = mean_teacher.confused(one_row, out, rows, (3,), [CITYSCAPES19.classes[c]])
    assert made.startswith("Seeds 3, the scored pictures. Made by `")
    row, name, most, area, right = (cell.strip() for cell in line.strip("|").split("|"))
    assert (row, name) == ("a row", CITYSCAPES19.classes[c])
    shares = pixels.predicted_as(c)
    first = int(shares.argmax())
    assert most.split(", ")[0] == f"{CITYSCAPES19.classes[first]} {100 * shares[first]:.0f}"
    expected = pixels.area_and_right(c)
    assert (area, right) == (f"{expected[0]:.1f}", f"{100 * expected[1]:.0f}")


def test_networks_that_are_not_there_and_unknown_classes_are_errors(one_row, tmp_path):
    out, rows = tmp_path / "runs", (Row("a row", "source-only"),)
    with pytest.raises(ValueError, match="No row has its networks of the seeds 4 in .*runs: train them first"):
        mean_teacher.confused(one_row, out, rows, (4,), ["road"])
    with pytest.raises(ValueError, match="There is no class 'raod'. Did you mean road"):
        mean_teacher.confused(one_row, out, rows, (3,), ["raod"])


def test_the_surest_half_of_a_class_may_be_wrong():
    truth, prediction = torch.tensor([5, 2, 2, 5, 5, 2]), torch.tensor([5, 5, 5, 5, 2, 2])
    pixels = mean_teacher.Pixels(truth, prediction, torch.tensor([0.3, 0.9, 0.8, 0.2, 0.9, 0.9]), CITYSCAPES19.classes)
    assert pixels.area_and_right(5) == (pytest.approx(4 / 3), pytest.approx(1 / 3))  # 0.3, 0.8 and 0.9: from the median on
    assert pixels.predicted_as(2).tolist() == pytest.approx([0, 0, 1 / 3, 0, 0, 2 / 3] + [0] * 13)
    assert math.isnan(pixels.area_and_right(7)[1]) and pixels.predicted_as(7).sum() == 0
