"""Few labels in one domain, by the command line and in Python: data, starts, controls, kept scores, three streams, stages."""

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import cli
from course_lib.cli_labels import FewLabels
from course_lib.data import Batch, cache_folder, open_dataset, test_transform
from course_lib.data.layouts import find_pairs, parse
from course_lib.engine import CheckpointError, LoopSettings, Stopped, load_checkpoint
from course_lib.engine import train as train_loop
from course_lib.evaluation import Confusion, ids_of
from course_lib.experiments import choosing, train
from course_lib.experiments.areas import area_curve, networks_of
from course_lib.experiments.choosing import CHOICE, read_choice
from course_lib.experiments.compare import Kept, compare, row_folder
from course_lib.experiments.compute import step_cost, training_cost
from course_lib.experiments.estimate import training_memory
from course_lib.experiments.needed import content_of
from course_lib.experiments.parts import Pair, batches, divided, held_out, hold_out, training_set
from course_lib.experiments.plan import forget_plan, plan, run_plan, stage_recipes
from course_lib.experiments.rows import ORACLE, ablation_rows, method_row, row_recipe, standard_rows
from course_lib.experiments.start import start_recipe
from course_lib.experiments.state import fingerprint
from course_lib.experiments.train import load_network, train_recipe
from course_lib.methods import METHODS, OptimiserSettings, SourceOnly
from course_lib.methods.terms.few_labels import FewLabels as FewLabelsTerm
from course_lib.networks import small
from course_lib.recipes import PAPERS, find_pair, recipe
from course_lib.recipes.pairs import PAIRS
from tests.bounds import bound
from tests.data.trees import write_image, write_label
from tests.experiments.conftest import TINY
from tests.processes import assert_like_one, own_part, together, uda

OWN = """pictures = "images/*.png"
labels = "labels/*.png"
classes = { road = 0, car = 1 }
splits = { train = "train.txt" }
"""
NARROW = (*TINY, "network_options={'width': 16}")
ONE = [name for name, pair in PAIRS.items() if pair.labels is not None]


def words(settings=NARROW) -> list[str]:
    return [word for text in settings for word in ("--set", text)]


def run_cli(*given: object) -> None:
    try:
        cli.app([str(word) for word in given], standalone_mode=False)
    except SystemExit as ended:
        assert not ended.code, given


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> dict[str, str]:
    """MiniStreet's camera, 8 pictures and 2 to score on, and 4 of the game."""
    from course_lib.data import ministreet

    root, options = tmp_path_factory.mktemp("few"), {"size": (32, 64), "workers": 1, "progress": False}
    ministreet.make("cityscapes", root / "camera", 8, 2, **options)
    ministreet.make("cityscapes", root / "camera", 2, 3, split="val", **options)
    ministreet.make("gta5", root / "game", 4, 1, **options)
    return {"camera": f"cityscapes:{root / 'camera'}", "game": f"gta5:{root / 'game'}"}


def pair_of(street, labels="4", **how) -> Pair:
    labelled, others = divided(street["camera"], labels, **how)
    return Pair(labelled, others, f"{street['camera']}@val")


def pictures_of(checkpoint: Path) -> dict[str, str]:
    return load_checkpoint(checkpoint)["pictures"]


# ---- the pairs of one domain


@pytest.mark.parametrize("name", ONE)
def test_every_pair_of_one_domain_has_its_recipes(name):
    assert set(ONE) == {"ministreet_few_labels", "camvid_few_labels", "cityscapes_few_labels"}
    labelled, classmix = recipe(name, "supervised"), recipe(name, "classmix")
    assert labelled.source_size == labelled.target_size == classmix.test_size == labelled.test_size
    assert training_cost(classmix) > training_cost(labelled) * 2
    if find_pair(name).pictures:
        assert int(find_pair(name).labels) == find_pair(name).pictures.source


def test_published_constants_are_those_of_the_release():
    chosen = recipe("cityscapes_few_labels", "classmix")
    s = chosen.settings
    assert (chosen.crop, chosen.batch_size, chosen.loop.steps, chosen.optimiser.lr) == ((512, 512), 2, 40_000, 2.5e-4)
    assert (s.mix_from, s.labels.weighting, s.labels.threshold, s.teacher.alpha, s.lambda_mix) == (
        "unlabelled", "batch", 0.968, 0.99, 1.0,
    )  # fmt: skip
    assert (s.mixing.mix, s.mixing.mix_scope, s.mixed_photometric, s.mixed_blur) == ("class", "picture", "jitter", 0.5)
    assert not chosen.flip and chosen.source_size == (512, 1024) and find_pair("cityscapes_few_labels").labels == "372"


def test_the_small_start_is_that_of_the_study():
    chosen = recipe("ministreet_few_labels", "classmix")
    assert (chosen.start_steps, chosen.loop.steps) == (400, 300)
    assert chosen.start_photometric == chosen.photometric == chosen.settings.mixed_photometric == "strong"
    assert chosen.settings.labels.weighting == "class" and chosen.network_options["frozen_blocks"] == 0


# ---- training


def test_supervised_sees_the_labelled_part_alone_and_its_start_too(street, tmp_path, monkeypatch):
    opened = []
    plain = train.training_set

    def spy(*args, **more):
        found = plain(*args, **more)
        opened.append([found.name_of(i) for i in range(len(found))])
        return found

    monkeypatch.setattr(train, "training_set", spy)
    monkeypatch.setattr("course_lib.experiments.start.training_set", spy)
    given = ("train", "supervised", "--target", street["camera"], "--labels", "3", "--out", tmp_path / "run", "--quiet")
    run_cli(*given, *words())
    labelled = [pair.name for pair in open_dataset(street["camera"], "train+labelled=3").pairs]
    assert opened == [labelled, labelled] and len(labelled) == 3, "the start, then the training"
    assert json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))["name"] == "ministreet_few_labels"


def test_the_labelled_pictures_are_chosen_by_their_classes_where_the_command_says_so(street, tmp_path):
    given = ("train", "supervised", "--target", street["camera"], "--labels", "2", "--label-choice", "class-balanced")
    run_cli(*given, "--out", tmp_path / "run", "--quiet", *words())
    labelled = open_dataset(street["camera"], "train+labelled=2+choice=class-balanced")
    at_random = open_dataset(street["camera"], "train+labelled=2")
    assert [pair.name for pair in labelled.pairs] != [pair.name for pair in at_random.pairs]
    found = load_checkpoint(tmp_path / "run" / "last.pt")["pictures"]["source"]
    assert found.startswith("2") and fingerprint(labelled) in found


def test_the_oracle_has_all_labels(street):
    pair = pair_of(street)
    assert len(training_set(recipe("ministreet_few_labels", "target-only"), pair.target, "target", "imagenet")) == 8
    assert len(training_set(recipe("ministreet_few_labels", "classmix"), pair.target, "target", "imagenet")) == 4


def test_a_run_is_resumed_bit_for_bit_and_not_with_another_part(street, tmp_path):
    chosen = recipe("ministreet_few_labels", "classmix").override(*NARROW, "steps=4", "mix_from=unlabelled", "mix_rare=0.1")
    pair, asked = pair_of(street), iter([False, True])
    train_recipe(chosen, pair, tmp_path / "whole", quiet=True)
    with pytest.raises(Stopped, match="after step 2 of 4"):
        train_recipe(chosen, pair, tmp_path / "parts", stop=lambda: next(asked), quiet=True)
    for labels, how in (("3", {}), ("4", {"seed": 1}), ("4", {"pixels": "5%"})):
        with pytest.raises(CheckpointError, match="holds a run on other (source|target) pictures"):
            train_recipe(chosen, pair_of(street, labels, **how), tmp_path / "parts", existing="resume", quiet=True)
    train_recipe(chosen, pair, tmp_path / "parts", existing="resume", quiet=True)
    whole, parts = (load_checkpoint(tmp_path / part / "last.pt") for part in ("whole", "parts"))
    for part in ("segmenter", "method"):
        assert all(torch.equal(value, parts[part][key]) for key, value in whole[part].items())
    assert whole["pictures"] == parts["pictures"] and whole["pictures"]["source"].startswith("4 pictures")


def test_two_processes_train_classmix_like_one(street, tmp_path):
    """By the command line, each with one unlabelled picture of the two, whose partner is the other's."""
    given = ["train", "classmix", "--target", street["camera"], "--labels", "4", *words((*NARROW, "mix_from=unlabelled")),
             "--device", "cpu", "--quiet"]  # fmt: skip
    for count in (1, 2):
        codes, said = uda([*given, "--out", str(tmp_path / f"{count}")], tmp_path / f"{count}.txt", tmp_path / "cache", count)
        assert codes == [0] * count, said
    texts = [(tmp_path / f"{n}" / "log.jsonl").read_text(encoding="utf-8") for n in (1, 2)]
    logs = [[json.loads(line)["losses"] for line in text.splitlines()] for text in texts]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys() and all(abs(one[name] - two[name]) < 1e-3 for name in one)
    assert pictures_of(tmp_path / "1" / "last.pt") == pictures_of(tmp_path / "2" / "last.pt")


def test_a_batch_of_one_is_an_error_before_the_start(street, tmp_path):
    chosen = recipe("ministreet_few_labels", "classmix").override(*NARROW, "mix_from=unlabelled", "batch_size=1")
    words = "classmix mixes two unlabelled pictures, and a step has 1. Set batch_size to 2 or more, or mix_from=labelled"
    with pytest.raises(ValueError, match=words):
        train_recipe(chosen, pair_of(street), tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match=f"Stage adapt: {words}"):
        stages = plan("ministreet_few_labels", "classmix", (*NARROW, "mix_from=unlabelled", "batch_size=1"))
        run_plan(stages, pair_of(street), tmp_path / "plan", quiet=True)
    assert not (tmp_path / "run").exists() and not (tmp_path / "plan").exists()


def test_partial_labels_reach_the_step(street):
    pair = pair_of(street, pixels="1")
    pictures = training_set(recipe("ministreet_few_labels", "supervised").override(*NARROW), pair.source, "source", "imagenet")
    for i in range(len(pictures)):
        label = pictures[i].label
        kept = label[label != 255]
        assert 0 < len(kept) == len(kept.unique()), "one pixel of each class"
    assert pair.target.endswith("+unlabelled=4")


@pytest.mark.parametrize("given, message", [
    (("--labels", "0"), "Labels for 0 pictures"),
    (("--labels", "9"), "Labels for 9 pictures, and there are 8"),
    (("--labels", "1/0"), "wanted a share above 0"),
    (("--labels", "half"), "No list file 'half'"),
    (("--labels", "half", "--label-seed", "0"), "The list 'half' says which pictures are labelled: leave out the seed 0"),
    (("--labels", "2", "--label-choice", "rare"), "it holds 'rare', wanted one of"),
    (("--labels", "2", "--label-pixels", "3"), "Label pixels are '3'"),
    (("--label-seed", "1"), "--label-seed wants --labels"),
    (("--label-pixels", "1"), "--label-pixels wants --labels"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(street, tmp_path, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_cli("train", "classmix", "--target", street["camera"], *given, "--out", tmp_path / "run", *words(), "--quiet")
    assert not (tmp_path / "run").exists()


def test_labels_want_a_target_and_a_method_that_reads_them(street, tmp_path):
    with pytest.raises(ValueError, match="simclr reads no labels: leave out --labels"):
        run_cli("train", "simclr", "--data", "folder:x", "--labels", "2", "--out", tmp_path)
    with pytest.raises(ValueError, match="give --target LAYOUT:PATH"):
        run_cli("train", "classmix", "--labels", "2", "--out", tmp_path)
    given = ("--target", street["camera"], "--labels", "2", "--out", tmp_path / "run", "--pseudo-labels", tmp_path)
    with pytest.raises(ValueError, match="classmix learns from no files of pseudo-labels: leave out --pseudo-labels"):
        run_cli("train", "classmix", *given, *words(), "--quiet")
    assert not (tmp_path / "run").exists()


def test_a_list_file_is_a_published_split(street, tmp_path):
    names = [pair.name for pair in open_dataset(street["camera"]).pairs]
    (tmp_path / "split.txt").write_text("\n".join(names[2:4]), encoding="utf-8")
    run_cli("train", "supervised", "--target", street["camera"], "--labels", tmp_path / "split.txt", "--out", tmp_path / "run",
            *words(), "--quiet")  # fmt: skip
    assert pictures_of(tmp_path / "run" / "last.pt")["source"].startswith("2 pictures")


def test_a_list_of_the_split_with_wrong_names_is_named(street, tmp_path):
    """Not "there are 0 pictures", and no traceback."""
    folder = tmp_path / "own"
    for k in range(3):
        write_image(folder / "images" / f"p{k}.png")
        write_label(folder / "labels" / f"p{k}.png", np.zeros((6, 8), dtype=np.uint8))
    (folder / "dataset.toml").write_text(OWN, encoding="utf-8")
    (folder / "train.txt").write_text("q0\nq1\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("p0.png\n", encoding="utf-8")
    for labels in ("1", tmp_path / "two.txt"):
        with pytest.raises(FileNotFoundError, match=r"train.txt', line 1: no picture 'q0' in .*, which has 3 such as"):
            run_cli("train", "classmix", "--target", f"own:{folder}", "--labels", labels, "--out", tmp_path / "run", *words())


def test_a_partly_labelled_set_is_compared_without_an_oracle(street, tmp_path, capsys, monkeypatch):
    """Label files of the labelled pictures are enough; a note says what is left out, and whose constants there are."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(street["camera"].partition(":")[2], tmp_path / "camera")
    camera = f"cityscapes:{tmp_path / 'camera'}"
    labelled = {pair.name for pair in open_dataset(camera, "train+labelled=3").pairs}
    for pair in find_pairs(*parse(camera), "train"):
        if pair.name not in labelled:
            pair.label.unlink()
    short = (*NARROW, "steps=1", "start_steps=1")
    given = ("--target", camera, "--labels", "3", "--seeds", "0", "--out", tmp_path / "out")
    run_cli("compare", "classmix", *given, *words(short))
    said = capsys.readouterr().err
    assert f"uda: note: 5 pictures of {camera} have no label file: there is no oracle, which learns from all labels." in said
    assert "uda: note: The constants are those of ministreet_few_labels, small pictures and few steps." in said
    rows = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ["supervised", "supervised, 2.33 x compute, augmented", "classmix"]
    assert rows["classmix"]["control"] == "supervised, 2.33 x compute, augmented"


def test_pictures_without_a_label_file_are_part_of_what_a_comparison_is_of(street, tmp_path):
    shutil.copytree(street["camera"].partition(":")[2], tmp_path / "camera")
    pair = Pair(None, f"cityscapes:{tmp_path / 'camera'}")
    pictures = find_pairs(*parse(pair.target), "train")
    whole = content_of(pair, "cityscapes19")
    for each in pictures[1:]:
        each.label.unlink()
    partly = content_of(pair, "cityscapes19")
    pictures[-1].image.write_bytes(pictures[0].image.read_bytes() + b"\0")
    assert len({whole, partly, content_of(pair, "cityscapes19")}) == 3


def test_labels_of_scored_pictures_are_noted(street, tmp_path, capsys):
    """Where the split that is trained on is the one that is scored; not where they are two."""
    scored = f"{street['camera']}@val"
    twice = f"Labels of {scored} are learnt from and scored: no score of unseen pictures. Give another --validation."
    for split, noted in (("val", True), ("train", False)):
        run_cli("run", "supervised", "--target", f"{street['camera']}@{split}", "--labels", "1", "--plan", *words())
        assert (f"uda: note: {twice}\n" in capsys.readouterr().err) == noted
    beside = Pair(street["game"], street["camera"], scored, labelled=f"{scored}+labelled=1")
    assert beside.trained_and_scored() == [twice]
    assert Pair("gta5:a", "cityscapes:b@val", "cityscapes:b").trained_and_scored() == [], "no label of the target is read"


def test_a_method_for_few_labels_without_a_source_says_labels(street, tmp_path):
    missing = "Missing --source, as LAYOUT:PATH, for example --source gta5:/data/gta5"
    for method, more in (("classmix", ", or --labels: how many pictures of --target are labelled."), ("dacs", ".")):
        with pytest.raises(ValueError) as raised:
            run_cli("train", method, "--target", street["camera"], "--out", tmp_path / "run", *words())
        assert str(raised.value) == missing + more


# ---- tables


def test_rows_say_supervised_and_have_controls_of_equal_compute():
    rows = {row.name: row for row in standard_rows("ministreet_few_labels", ("classmix",), overrides=NARROW)}
    assert list(rows) == ["supervised", "supervised, 2.33 x compute, augmented", "classmix", ORACLE]
    control = rows["supervised, 2.33 x compute, augmented"]
    assert control.method == "supervised" and "photometric=strong" in control.overrides
    assert rows["classmix"].control == control.name and rows[ORACLE].control == "supervised"
    assert "labels of all pictures" in rows[ORACLE].explanation
    assert [row.name for row in standard_rows("ministreet_few_labels")] == list(rows), "ClassMix is what it compares"
    texts = [f"{row.name} {row.explanation} {row.control}" for name in ("classmix", "gist") for row in
             ablation_rows(name, "ministreet_few_labels")]  # fmt: skip
    assert not any("source" in text for text in texts)
    assert "source-only" in {row.name for row in standard_rows("ministreet", ("dacs",))}, "between domains nothing changed"


def test_a_comparison_of_one_domain(street, tmp_path):
    given = ("--recipe", "ministreet_few_labels", "--target", street["camera"], "--labels", "4", "--seeds", "0", "--quiet")
    run_cli("compare", "classmix", *given, "--out", tmp_path / "out", *words())
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    rows = results["rows"]
    assert list(rows) == ["supervised", "supervised, 2.33 x compute, augmented", "classmix", ORACLE]
    assert rows["classmix"]["passes"] == 14 and rows["supervised, 2.33 x compute, augmented"]["passes"] == 15
    assert "source-only" not in (tmp_path / "out" / "results.md").read_text(encoding="utf-8").replace("over source-only", "")
    oracle = next((tmp_path / "out").glob("target-only*/seed0/1_target-only/last.pt"))
    assert pictures_of(oracle)["target"].startswith("8 pictures")


def test_an_ablation_of_one_domain_has_the_fixed_ratio(street, tmp_path):
    given = ("--target", street["camera"], "--labels", "4", "--seeds", "1", "--rows", "FIST", "--out", tmp_path, "--quiet")
    run_cli("ablate", "gist", *given, *words((*NARROW, "rounds=1")))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["recipe"] == "ministreet_few_labels" and list(results["rows"]) == ["FIST"]
    assert results["rows"]["FIST"]["passes"] == 2 * 6, "two steps on labels and on pseudo-labels"


def test_kept_scores_know_the_part(street, tmp_path):
    rows = standard_rows("ministreet_few_labels", ("classmix",), overrides=NARROW)[:1]
    options = {"seeds": (0,), "rows": rows, "overrides": NARROW, "quiet": True, "jobs": 1}
    told = []
    options["tell"] = lambda *found: told.append(found[0])
    for k, pair in enumerate([pair_of(street), pair_of(street), pair_of(street, seed=1), pair_of(street, pixels="5%")]):
        compare("ministreet_few_labels", pair, tmp_path / f"{k}", **options, kept=Kept(tmp_path / "kept.json"))
    assert len(told) == 3, "the same pictures again were not trained again; others, and fewer pixels, were"


@pytest.mark.parametrize("labels, given, labelled", [
    ("3", (), 3), ("3", ("terms.memory_contrast.labelled=7",), 7), ("3", ("labelled = 7",), 7),
    ("3", ("memory_contrast.labelled=7", "mix_labelled=0.5"), 7), ("3", ("mix_labelled=0.5",), 3),
    ("1/2", (), 4), ("list", (), 2), (None, (), 20),
])  # fmt: skip
def test_the_number_of_labels_is_that_of_the_memory(labels, given, labelled, street, tmp_path):
    """Of a share and of a list, too, where the pictures are known; unless a setting gives another one."""
    if labels == "list":
        names = [pair.name for pair in find_pairs(*parse(street["camera"]), "train")]
        (tmp_path / "list.txt").write_text("\n".join([*names[:2], names[0]]), encoding="utf-8")
        labels = str(tmp_path / "list.txt")
    pair, few = "ministreet_few_labels", FewLabels(labels)
    chosen = recipe(pair, "semiseg").override(*given, *few.counted(pair, ["semiseg"], given, street["camera"]))
    assert chosen.terms["memory_contrast"].labelled == labelled
    assert few.counted(pair, ["classmix"], given, street["camera"]) == ()
    assert FewLabels("1/2").counted(pair, ["semiseg"], given) == ()


def test_a_share_of_the_pictures_below_a_root_is_counted_for_the_memory(street, tmp_path, monkeypatch):
    for name, text in (("GTA5", street["game"]), ("cityscapes", street["camera"])):
        (tmp_path / name).symlink_to(text.partition(":")[2], target_is_directory=True)
    planned = []
    monkeypatch.setattr("course_lib.experiments.estimate.plan_text", lambda stages, *_: planned.extend(stages) or "")
    run_cli("run", "semiseg", "--recipe", "gta5_cityscapes", "--data-root", tmp_path, "--labels", "1/2", "--plan")
    (training,) = (stage for stage in planned if stage.kind == "train")
    assert training.recipe.terms["memory_contrast"].labelled == 4 and "few_labels" in training.recipe.terms


@pytest.mark.parametrize("few", [False, True])
def test_a_comparison_reads_what_lies_below_a_root_and_leaves_out_bad_files(few, street, tmp_path, monkeypatch):
    for name, text in (("GTA5", street["game"]), ("cityscapes", street["camera"])):
        (tmp_path / name).symlink_to(text.partition(":")[2], target_is_directory=True)
    given = {}

    def stand_in(recipe, pair, out, rows, overrides, **_):
        given.update(pair=pair, rows=[row.name for row in rows], overrides=overrides)
        return {"rows": {}}

    monkeypatch.setattr("course_lib.experiments.compare.compare", stand_in)
    monkeypatch.setattr("course_lib.experiments.table.table", lambda results: "")
    more = ["--labels", "1/2"] if few else []
    run_cli("compare", "semiseg" if few else "dacs", "--recipe", "gta5_cityscapes", "--data-root", tmp_path, "--skip-bad",
            "--out", tmp_path / "out", *more)  # fmt: skip
    pair = given["pair"]
    city = f"cityscapes:{tmp_path / 'cityscapes'}"
    assert pair.skip_bad and pair.source == f"gta5:{tmp_path / 'GTA5'}" and pair.validation == f"{city}@val"
    assert pair.target == city + "@train+unlabelled=1/2" * few
    assert ("terms.memory_contrast.labelled=4" in given["overrides"]) == few == (pair.labelled is not None)
    assert "target-only (oracle)" in given["rows"]


@pytest.mark.parametrize("recipe_named", [False, True])
def test_without_a_recipe_the_command_says_whose_constants_it_has(recipe_named, street, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("course_lib.experiments.train.train_recipe", lambda *_, **__: tmp_path / "last.pt")
    more = ["--recipe", "ministreet_few_labels"] if recipe_named else []
    run_cli("train", "classmix", "--target", street["camera"], "--labels", "3", "--out", tmp_path / "a", *more, *words())
    said = "uda: note: The constants are those of ministreet_few_labels, small pictures and few steps. Name others with"
    assert (said in capsys.readouterr().err) == (not recipe_named)


def test_a_picture_that_a_list_names_twice_is_held_out_or_not(street, tmp_path):
    names = [pair.name for pair in find_pairs(*parse(street["camera"]), "train")]
    for twice in names[:5]:
        (tmp_path / "list.txt").write_text("\n".join([*names[:5], twice]), encoding="utf-8")
        labelled = divided(street["camera"], str(tmp_path / "list.txt"))[0]
        parts = [{pair.name for pair in find_pairs(*parse(text.rpartition("@")[0]), text.rpartition("@")[2])}
                 for text in held_out(labelled, "1/5")]  # fmt: skip
        assert not parts[0] & parts[1] and parts[0] | parts[1] == set(names[:5]), twice
    (tmp_path / "list.txt").write_text(f"{names[0]}\n{names[0]}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 picture is labelled.*wants at least 2"):
        text = held_out(divided(street["camera"], str(tmp_path / "list.txt"))[0], "1/5")[0]
        find_pairs(*parse(text.rpartition("@")[0]), text.rpartition("@")[2])


def test_some_pixels_of_all_pictures_have_labels(street, tmp_path):
    """ReCo's other setting: the pictures without labels are the same ones."""
    given = ["train", "reco", "--target", street["camera"], "--labels", "1/1", "--label-pixels", "5%", "--quiet"]
    run_cli(*given, "--out", tmp_path / "a", *words())
    assert [pictures_of(tmp_path / "a" / "last.pt")[name].split()[0] for name in ("source", "target")] == ["8", "8"]
    with pytest.raises(ValueError, match="All 8 pictures .* no other is left. .*--labels 1/1 --label-pixels 5%"):
        cli.app([str(word) for word in ("train", "reco", "--target", street["camera"], "--labels", "8", "--quiet", "--out",
                                        tmp_path / "b", *words())], standalone_mode=False)  # fmt: skip


@pytest.mark.parametrize("command", ["train", "compare", "run", "ablate"])
def test_every_command_gives_the_memory_its_number_of_labels(command, street, monkeypatch, tmp_path):
    class Seen(Exception):
        pass

    def stop(first, *rest, rows=(), overrides=(), **_):
        stages = first if isinstance(first, list) else [first]
        recipes = [row_recipe(row, first, overrides, 0) for row in rows] or [getattr(each, "recipe", each) for each in stages]
        counts = {each.terms["memory_contrast"].labelled for each in recipes if "memory_contrast" in each.terms}
        raise Seen(*counts)

    places = {"train": "train.train_recipe", "run": "plan.run_plan"}
    monkeypatch.setattr(f"course_lib.experiments.{places.get(command, 'compare.compare')}", stop)
    given = ["--recipe", "ministreet_few_labels", "--target", street["camera"], "--labels", "3", "--out", tmp_path / "out"]
    with pytest.raises(Seen, match="^3$"):
        run_cli(command, "semiseg", *given, *words())


# ---- a source, a target and a few of its labels


MEMORY = ("terms.memory_contrast.first_step=0", "terms.memory_contrast.loss_from=0", "terms.memory_contrast.least_confidence=0")


@pytest.mark.parametrize("method, settings, losses", [
    ("dacs", (), []),
    ("reco", (), ["region_contrast.contrast"]),
    ("semiseg", MEMORY, ["entropy", "memory_contrast.source", "memory_contrast.mixed"]),
])  # fmt: skip
def test_three_streams_in_one_step(method, settings, losses, street, tmp_path):
    given = ["train", method, "--source", street["game"], "--target", street["camera"], "--labels", "3", "--quiet"]
    run_cli(*given, "--out", tmp_path / "a", *words((*NARROW, *settings)))
    content = load_checkpoint(tmp_path / "a" / "last.pt")
    assert [content["pictures"][name][:1] for name in ("source", "target", "labelled")] == ["4", "5", "3"]
    record = json.loads((tmp_path / "a" / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(record["losses"]) == {"segmentation", "mixed", "few_labels.segmentation", *losses}
    assert content["recipe"]["name"] == "ministreet" and "few_labels" in content["recipe"]["terms"]


def three(street, *settings) -> tuple:
    chosen = recipe("ministreet", "dacs").override(*NARROW, "terms=+few_labels", *settings)
    labelled, others = divided(street["camera"], "3")
    return chosen, Pair(street["game"], others, f"{street['camera']}@val", labelled=labelled)


def test_three_streams_are_resumed_bit_for_bit(street, tmp_path):
    chosen, pair = three(street, "steps=4", "start_steps=0", "weighting=threshold", "threshold=0")
    asked = iter([False, True])
    train_recipe(chosen, pair, tmp_path / "whole", quiet=True)
    with pytest.raises(Stopped, match="after step 2 of 4"):
        train_recipe(chosen, pair, tmp_path / "parts", stop=lambda: next(asked), quiet=True)
    other = replace(pair, labelled=divided(street["camera"], "3", seed=5)[0])
    with pytest.raises(CheckpointError, match="holds a run on other labelled pictures"):
        train_recipe(chosen, other, tmp_path / "parts", existing="resume", quiet=True)
    train_recipe(chosen, pair, tmp_path / "parts", existing="resume", quiet=True)
    whole, parts = (load_checkpoint(tmp_path / part / "last.pt") for part in ("whole", "parts"))
    assert all(torch.equal(value, parts["segmenter"][key]) for key, value in whole["segmenter"].items())
    logs = [(tmp_path / part / "log.jsonl").read_text(encoding="utf-8") for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def _third_stream(labels: int = 4) -> dict:
    """Three steps of source-only with a third stream, on this process's pictures."""
    g = torch.Generator().manual_seed(1)

    def pictures() -> Batch:
        label = torch.randint(0, 5, (labels, 4, 8), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2)
        return Batch(torch.randn(labels, 3, 16, 32, generator=g), label, [f"{i}.png" for i in range(labels)])

    torch.manual_seed(0)
    network, optimiser = small(5, width=8), OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    m = SourceOnly(network, optimiser=optimiser, terms={"few_labels": FewLabelsTerm(network)}).train()
    streams = {name: repeat(own_part(pictures())) for name in ("source", "labelled")}
    log = train_loop(m, streams, LoopSettings(steps=3, log_every=1, warmup=0), quiet=True)
    return {"losses": [record["losses"] for record in log.records], "state": m.state_dict()}


def test_two_processes_with_a_third_stream_train_like_one(tmp_path):
    one = _third_stream()
    assert set(one["losses"][0]) == {"segmentation", "few_labels.segmentation"}
    logits = bound(200, torch.float32, 20.0) + bound(4 * 16 * 32, torch.float32, 20.0)  # below 20, as in test_semiseg
    assert_like_one(together(_third_stream, tmp_path), one, logits * 3)


def test_the_third_stream_costs_one_pass_and_is_missed_by_name(street, tmp_path):
    chosen, pair = three(street)
    assert step_cost(chosen) == 7 and training_cost(chosen) == 2 * (7 + 3) and training_memory(chosen) > 0
    with pytest.raises(ValueError, match="few_labels reads labelled target pictures; say how many there are: --labels 20"):
        train_recipe(chosen, replace(pair, labelled=None), tmp_path, quiet=True)


@pytest.mark.parametrize("method", ["source-only", "adaptsegnet", "self-training"])
def test_other_methods_take_the_third_stream(method):
    chosen = recipe("ministreet", method)
    names = list(chosen.override("terms=+few_labels").streams)
    assert names == [*METHODS[method].streams(chosen.settings), "labelled"]


# ---- stages: GIST and RIST

GIST = ("ministreet_few_labels", "gist", (*NARROW, "rounds=2", "steps=2"))


@pytest.fixture(scope="module")
def gist(street, tmp_path_factory):
    """A whole run, with 5 labels of which 1 is held out."""
    patch = pytest.MonkeyPatch()
    patch.setenv("COURSE_CACHE", str(tmp_path_factory.mktemp("cache")))
    out = tmp_path_factory.mktemp("gist")
    run_plan(plan(*GIST), pair_of(street, "5"), out, quiet=True)
    yield out
    patch.undo()


def test_gist_is_a_plan_and_no_method_of_its_own(street, tmp_path):
    for name in ("gist", "rist"):
        said = f"{name} has no step of its own: it is a plan of stages. Run it: `uda run {name}`"
        with pytest.raises(ValueError, match=said):
            run_cli("train", name, "--target", street["camera"], "--labels", "5", "--out", tmp_path / "run")
        with pytest.raises(ValueError, match=f"Run it: `uda run {name}`"):
            train_recipe(recipe("ministreet_few_labels", name), pair_of(street), tmp_path / "run", quiet=True)


def test_the_better_branch_stays_and_the_file_says_which(gist):
    for k in (1, 2):
        folder = next(gist.glob(f"*_choose-{k}"))
        choice = read_choice(folder)
        assert set(choice["scores"]) == {f"labelled-{k}", f"unlabelled-{k}"}
        assert choice["scores"][choice["chosen"]] == max(choice["scores"].values())
        branch = next(gist.glob(f"*_{choice['chosen']}")) / "best.pt"
        assert (folder / "best.pt").read_bytes() == branch.read_bytes()
    test = json.loads(next(gist.glob("*_test/scores.json")).read_text(encoding="utf-8"))
    assert test["single"]["images"] == 2


def test_networks_are_compared_over_the_classes_that_the_held_out_labels_show(street, tmp_path, monkeypatch):
    """A rare class that one network predicts where none is lowers the mean over all classes, and does not decide here."""
    truth = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    said = {"careful": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0]]), "better": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2]])}
    found = {}
    for name, prediction in said.items():
        confusion = Confusion(3)
        confusion.update(prediction, truth)
        shares = tuple(confusion.shares().tolist())
        found[name] = SimpleNamespace(iou=tuple(confusion.iou().tolist()), shares=shares, miou=confusion.miou())
        (tmp_path / f"{name}.pt").write_bytes(name.encode())
    assert found["careful"].miou > found["better"].miou
    monkeypatch.setattr(choosing, "score_network", lambda path, *_, **__: found[Path(path).stem])
    stage = next(stage for stage in plan(*GIST) if stage.kind == "choose")
    branches = {name: str(tmp_path / f"{name}.pt") for name in said}
    made = choosing.choose(stage, branches, f"{street['camera']}@train", pair_of(street), tmp_path / "choose",
                           device=torch.device("cpu"), quiet=True)  # fmt: skip
    assert made["chosen"] == "better" and made["scores"] == pytest.approx({"careful": (4 / 5 + 3 / 4) / 2, "better": 7 / 8})
    assert (tmp_path / "choose" / "best.pt").read_bytes() == b"better"


def test_a_row_of_a_comparison_holds_the_same_pictures_out(gist, street, tmp_path):
    row = method_row("gist")
    found = compare(GIST[0], pair_of(street, "5"), tmp_path, seeds=(0,), rows=(row,), overrides=GIST[2], jobs=1, quiet=True)
    kept = json.loads((row_folder(tmp_path, row.name, 0) / "scores.json").read_text(encoding="utf-8"))["scores"]["miou"]
    assert found["rows"][row.name]["miou_mean"] == pytest.approx(100 * kept)
    alone, ours = (read_choice(next(out.glob("*_choose-2"))) for out in (gist, row_folder(tmp_path, row.name, 0)))
    assert alone["key"]["pictures"] == ours["key"]["pictures"] and alone["scores"].keys() == ours["scores"].keys()


def test_the_first_stage_of_a_row_does_not_see_what_is_held_out(street, tmp_path):
    """Without a common start, as at full size, it is a training of its own; RIST, which holds nothing out, learns from all."""
    few, rows = (*NARROW, "rounds=1", "start_steps=0"), (method_row("gist"), method_row("rist"))
    compare(GIST[0], pair_of(street, "5"), tmp_path, seeds=(0,), rows=rows, overrides=few, jobs=1, quiet=True)
    paths = tmp_path.rglob("1_supervised/last.pt")
    first = {path.relative_to(tmp_path).parts[0]: pictures_of(path)["source"] for path in paths}
    assert {folder: text.partition(" ")[0] for folder, text in first.items()} == {"gist": "4", "shared": "5"}
    assert first["gist"] == pictures_of(tmp_path / "gist" / "seed0" / "3_labelled-1" / "last.pt")["source"]


def test_each_common_start_learns_from_the_pictures_of_its_rows(street, tmp_path, monkeypatch):
    """That of GIST from the four that are not held out, before its row, that of RIST from all five; none that nothing uses."""
    from course_lib.experiments import compare as module

    begun, start = [], module.common_start
    monkeypatch.setattr(module, "common_start", lambda recipe, pair, **k: begun.append(pair.source) or start(recipe, pair, **k))
    few = (*NARROW, "rounds=1", "start_steps=1", "steps=1")
    for rows, wanted in ((("gist",), 1), (("gist", "rist"), 2)):
        begun.clear()
        pair, out = pair_of(street, "5"), tmp_path / str(wanted)
        compare(GIST[0], pair, out, seeds=(0,), rows=tuple(map(method_row, rows)), overrides=few, jobs=1, quiet=True)
        assert begun == [held_out(pair.source, "1/5")[0], pair.source][:wanted]
        assert len(list((cache_folder() / "starts").glob("*.pt"))) == wanted


def test_every_pixel_of_every_other_picture_has_a_pseudo_label(gist, street):
    for folder in gist.glob("*_labels-*"):
        manifest = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        assert manifest["pictures"] == 3 and manifest["labelled"] == 1.0 and manifest["settings"]["one_threshold"] == 0.0


def test_held_out_pictures_are_never_learnt_from(gist, street):
    labelled = [pair.name for pair in open_dataset(street["camera"], "train+labelled=5").pairs]
    held, trained = (
        [pair.name for pair in open_dataset(street["camera"], f"train+labelled=5+{word}=1/5").pairs]
        for word in ("held", "without")
    )
    assert len(held) == 1 and sorted(held + trained) == labelled
    for k in (1, 2):
        assert pictures_of(next(gist.glob(f"*_labelled-{k}")) / "last.pt")["source"].startswith("4 pictures")
        assert pictures_of(next(gist.glob(f"*_unlabelled-{k}")) / "last.pt")["target"].startswith("3 pictures")


def test_the_choice_does_not_depend_on_validation_labels(gist, street, tmp_path):
    """With poisoned validation labels the scores are others, the choices the same."""
    for label in sorted((Path(street["camera"].partition(":")[2]) / "gtFine" / "val").rglob("*_labelIds.png")):
        before = label.read_bytes()
        poisoned = np.full(np.array(Image.open(label)).shape, 7, dtype=np.uint8)
        Image.fromarray(poisoned).save(label)
        label.with_suffix(".before").write_bytes(before)
    try:
        run_plan(plan(*GIST), pair_of(street, "5"), tmp_path / "again", quiet=True)
    finally:
        for kept in (Path(street["camera"].partition(":")[2]) / "gtFine" / "val").rglob("*.before"):
            kept.with_suffix(".png").write_bytes(kept.read_bytes())
            kept.unlink()
    scores = []
    for out in (gist, tmp_path / "again"):
        scores.append(json.loads(next(out.glob("*_test/scores.json")).read_text(encoding="utf-8"))["single"]["iou"])
    assert scores[0] != scores[1]
    for k in (1, 2):
        ours, theirs = (read_choice(next(out.glob(f"*_choose-{k}"))) for out in (gist, tmp_path / "again"))
        assert ours["scores"] == theirs["scores"] and ours["chosen"] == theirs["chosen"]


def test_a_stopped_plan_goes_on_bit_for_bit(gist, street, tmp_path):
    left, stopped = 5, 0

    def stop():
        nonlocal left
        left -= 1
        return left % 2 == 0

    for _ in range(20):
        try:
            run_plan(plan(*GIST), pair_of(street, "5"), tmp_path, quiet=True, stop=stop)
            break
        except Stopped:
            stopped += 1
    assert stopped > 2
    last = [load_checkpoint(next(out.glob("*_choose-2")) / "best.pt")["segmenter"] for out in (gist, tmp_path)]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())


def test_a_choice_is_kept_and_made_again_where_something_is_missing_or_other(gist, street, monkeypatch, tmp_path):
    scored = []
    plain = choosing.score_network
    monkeypatch.setattr(choosing, "score_network", lambda path, *rest, **how: scored.append(path) or plain(path, *rest, **how))
    folder = next(gist.glob("*_choose-2"))
    before = (folder / CHOICE).read_bytes()
    run_plan(plan(*GIST), pair_of(street, "5"), gist, quiet=True)
    assert not scored
    (folder / "best.pt").unlink()
    run_plan(plan(*GIST), pair_of(street, "5"), gist, quiet=True)
    assert len(scored) == 2 and (folder / CHOICE).read_bytes() == before
    (folder / CHOICE).write_text('{"chosen": 3}', encoding="utf-8")
    with pytest.raises((ValueError, FileExistsError), match="choice.json"):
        run_plan(plan(*GIST), pair_of(street, "5"), gist, quiet=True)
    (folder / CHOICE).write_bytes(before)
    with pytest.raises(CheckpointError, match="other source pictures"):
        run_plan(plan(*GIST), pair_of(street, "5", seed=3), gist, quiet=True)


def test_a_choice_that_was_cut_off_between_its_two_files_is_made_again(gist, street, monkeypatch):
    folder = next(gist.glob("*_choose-2"))
    before, cut = (folder / CHOICE).read_bytes(), []
    (folder / CHOICE).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "write_json", lambda *_: cut.append(1) or (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan(*GIST), pair_of(street, "5"), gist, quiet=True)
    assert cut and (folder / "best.pt").is_file() and not (folder / CHOICE).exists()
    run_plan(plan(*GIST), pair_of(street, "5"), gist, quiet=True)
    assert (folder / CHOICE).read_bytes() == before


def test_two_labels_are_the_least_that_can_be_held_out_of(street, tmp_path):
    with pytest.raises(ValueError, match="1 picture is labelled, and a part of those is held out: it wants at least 2"):
        run_plan(plan(*GIST), pair_of(street, "1"), tmp_path, quiet=True)
    assert plan("ministreet_few_labels", "gist", ("held_out=1/2",))[4].recipe.settings.held_out == "1/2"


@pytest.mark.parametrize("share", ["3/2", "1/0", "0/5", "1", "a fifth"])
def test_a_share_that_cannot_be_held_out_is_refused_before_any_work(street, share):
    said = f"share that is held out is '{share}'; wanted one above 0 and below 1, such as 1/5"
    with pytest.raises(ValueError, match=said):
        run_cli("run", "gist", "--target", street["camera"], "--labels", "5", "--plan", "--set", f"held_out={share}")


@pytest.mark.parametrize("method, setting", [("gist", "rounds=0"), ("gist", "choose.rounds=0"), ("rist", "rounds=-1")])
def test_a_plan_without_a_round_is_refused(method, setting):
    with pytest.raises(ValueError, match=r"rounds is (0|-1); it wants a whole number from 1 to 1,000,000,000"):
        plan("ministreet_few_labels", method, (*NARROW, setting))


def _chosen(pair: Pair, out: Path) -> dict:
    """All stages but the test, without a common start, which the caches of several processes would not share."""
    stages = plan(*GIST[:2], (*NARROW, "rounds=1", "steps=2", "start_steps=0"))
    return run_plan(stages[:-1], pair, out, quiet=True)


def test_two_processes_choose_together(street, tmp_path):
    """Of the one picture that is held out, the second process has none; then one process scores the same networks alone."""
    pair, out = pair_of(street, "5"), tmp_path / "run"
    first, second = together(partial(_chosen, pair, out), tmp_path)
    assert first == second and set(first["scores"]) == {"labelled-1", "unlabelled-1"}
    for name in (CHOICE, "best.pt"):
        (out / "5_choose-1" / name).unlink()
    assert _chosen(pair, out) == first
    assert pictures_of(out / "1_supervised" / "last.pt")["source"].startswith("4 pictures")


def test_a_plan_is_forgotten_with_its_choices(street, tmp_path):
    stages = plan(*GIST)
    run_plan(stages, pair_of(street, "5"), tmp_path, quiet=True)
    forget_plan(stages, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("best.pt", CHOICE, "labels.json")]


def test_rist_draws_by_its_seed():
    recipes = stage_recipes("ministreet_few_labels", "rist")

    def names(seed):
        return [stage.name for stage in PAPERS["rist"].plan(recipes | {"draw": replace(recipes["draw"], seed=seed)})]

    assert names(3) == names(3) == [stage.name for stage in plan("ministreet_few_labels", "rist", ("seed=3",))]
    drawn = [tuple(name for name in names(seed) if name.startswith(("labelled", "unlabelled"))) for seed in range(200)]
    assert len(set(drawn)) == 8 and names(3)[0] == "supervised" and names(3)[-1] == "test"
    human = sum(name.startswith("labelled") for each in drawn for name in each)
    assert abs(human - 300) < 3 * np.sqrt(600) / 2, "half and half, within three standard deviations"


def test_each_round_begins_after_the_batches_of_earlier_rounds():
    """The start has read the first 40 batches of the labelled pictures; a round of GIST has two branches of 50 steps."""
    for method, each in (("gist", 50), ("rist", 100)):
        stages = [stage for stage in plan("ministreet_few_labels", method, ("start_steps=40",)) if stage.kind == "train"]
        found = {stage.name: (stage.recipe.first_batch, stage.recipe.loop.steps) for stage in stages}
        assert found == {name: (40 + each * (int(name[-1]) - 1), each) for name in found}, "supervised is the common start"
        assert {name[-1] for name in found} == {"1", "2", "3"}
    full = {stage.name: stage.recipe for stage in plan("cityscapes_few_labels", "gist") if stage.kind == "train"}
    assert full["supervised"].first_batch == 0 and full["labelled-1"].first_batch == full["supervised"].loop.steps
    assert full["unlabelled-2"].first_batch == full["unlabelled-1"].first_batch + full["unlabelled-1"].loop.steps


def test_the_first_batch_of_a_recipe_is_where_its_streams_begin(street, tmp_path):
    """Also of a run that is continued; a recipe of which it is 0 is the same as before there was this setting."""
    plain = recipe("ministreet_few_labels", "self-training").override(*(text for text in NARROW if "=" in text))
    later = plain.override("first_batch=3")
    pictures = training_set(plain, street["camera"], "source", "imagenet")

    def drawn(chosen, start=0, n=4):
        return [batch.name for batch, _ in zip(batches(chosen, pictures, "source", start), range(n))]

    every = drawn(plain, n=9)
    assert drawn(later) == every[3:7] and drawn(later, start=2) == every[5:9] != every[:4]
    assert "first_batch" not in plain.identity() and later.identity() == plain.identity() | {"first_batch": 3}
    assert start_recipe(later) == start_recipe(plain), "the common start begins at 0"
    with pytest.raises(ValueError, match="first_batch is -1"):
        plain.override("first_batch=-1")


def test_where_all_pictures_are_labelled_none_that_is_held_out_is_learnt_from_without_its_label(street):
    every = f"{street['camera']}@train"
    held, text = hold_out(plan(*GIST), Pair(every, every, None))
    assert held.source == held.target == f"{street['camera']}@train+labelled=1/1+without=1/5"
    assert text == f"{street['camera']}@train+labelled=1/1+held=1/5"
    part = pair_of(street, "5")
    assert hold_out(plan(*GIST), part)[0].target == part.target


def test_steps_are_shared_so_that_all_rows_train_equally_long():
    rows = {row.name: row for row in ablation_rows("gist", "ministreet_few_labels")}
    from course_lib.experiments.compare import trained_steps
    from course_lib.experiments.rows import row_stages

    assert {trained_steps(row_stages(rows[name], "ministreet_few_labels", (), 0)) for name in ("FIST", "RIST", "GIST")} == {300}
    fixed = row_stages(rows["FIST"], "ministreet_few_labels", (), 0)
    assert [stage.name for stage in fixed if stage.kind == "train"] == ["unlabelled-1", "unlabelled-2", "unlabelled-3"]
    assert {stage.recipe.settings.lambda_source for stage in fixed if stage.kind == "train"} == {1.0}
    before = ["supervised", "unlabelled-1", "unlabelled-2"]
    assert [stage.network for stage in fixed] == [None, *(name for name in before for _ in range(2)), "unlabelled-3"]


def test_rist_by_the_command_line_leaves_a_report(street, tmp_path):
    given = ("run", "rist", "--target", street["camera"], "--labels", "4", "--out", tmp_path / "out", "--quiet")
    run_cli(*given, *words((*NARROW, "rounds=1")))
    assert "mIoU" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert PAPERS["rist"].stages["draw"] == "rist"


def test_the_curve_of_areas_by_stage(gist, street):
    stages = plan(*GIST)
    assert networks_of(stages) == ["supervised", "choose-1", "choose-2"]
    curve = area_curve(stages, gist, f"{street['camera']}@val", quiet=True)
    assert list(curve) == networks_of(stages) and all(len(ratios) == 19 for ratios in curve.values())
    pictures = open_dataset(street["camera"], "val")
    pixels = np.array([np.bincount(pictures[i].label.flatten(), minlength=256)[:19] for i in range(2)]).sum(0)
    segmenter, chosen = load_network(next(gist.glob("*_choose-2")) / "best.pt")
    seen = open_dataset(street["camera"], "val", transform=test_transform(chosen.test_size, segmenter.normalisation))
    with torch.no_grad():
        said = [ids_of(segmenter.eval()(seen[i].image[None]), (32, 64))[0][seen[i].label != 255] for i in range(2)]
    predicted = np.bincount(torch.cat(said), minlength=19)
    there = pixels > 0
    assert np.array_equal(np.round(np.array(curve["choose-2"])[there] * pixels[there]), predicted[there])
