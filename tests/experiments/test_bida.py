"""BiDA's rounds as a plan: names, rates and shares of steps; run, stopped, one stage alone; published constants; two stems."""

import json
from functools import partial

import pytest
import torch

from course_lib.engine import CheckpointError, Stopped, load_checkpoint, save_checkpoint
from course_lib.engine.loop import poly
from course_lib.experiments import plan as module
from course_lib.experiments.compare import compare
from course_lib.experiments.plan import folder_of, plan, run_plan
from course_lib.experiments.pretrained import take_network
from course_lib.experiments.rows import ablation_rows, find_rows, row_stages
from course_lib.methods import BiDASettings
from course_lib.methods.bida import KINDS
from course_lib.networks import build
from course_lib.recipes import recipe
from tests.experiments.conftest import TINY

SMALL = (*TINY, "network_options={'width': 16}", "rounds=2")
ROUNDS = ["source", "labels-1", "round-1", "labels-2", "round-2", "test"]


def stages(*more: str):
    return plan("ministreet", "bida", (*SMALL, *more))


def by_name(*more: str):
    return {stage.name: stage for stage in stages(*more)}


# ---- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_every_round_begins_with_the_network_before_and_labels_that_it_wrote(rounds):
    made = stages(f"rounds={rounds}")
    assert made[0].name == "source" and made[0].kind == "start" and made[0].recipe.method == "source-only"
    network, expected = "source", []
    for k in range(1, rounds + 1):
        expected += [(f"labels-{k}", "labels", network, None), (f"round-{k}", "train", network, f"labels-{k}")]
        network = f"round-{k}"
    expected.append(("test", "test", network, f"labels-{rounds}"))
    assert [(stage.name, stage.kind, stage.network, stage.labels) for stage in made[1:]] == expected
    assert {stage.recipe.method for stage in made[1:]} == {"bida"} and made[-1].multiscale
    assert [folder_of(made, stage.name, "out").name for stage in made[:3]] == ["1_source", "2_labels-1", "3_round-1"]


def test_the_rate_falls_from_round_to_round():
    made = by_name("rounds=3", "round.lr=0.008", "round.round_rate=0.25")
    assert [made[f"round-{k}"].recipe.optimiser.lr for k in (1, 2, 3)] == [0.008, 0.002, 0.0005]
    level = by_name("rounds=3", "round.lr=0.008", "round_rate=1")
    assert {level[f"round-{k}"].recipe.optimiser.lr for k in (1, 2, 3)} == {0.008}


def test_rounds_differ_in_nothing_but_the_rate():
    made = by_name("round_rate=0.5")
    first, second = (made[f"round-{k}"].recipe.to_dict() for k in (1, 2))
    assert first.pop("optimiser").pop("lr") == 2 * second.pop("optimiser").pop("lr") and first == second


@pytest.mark.parametrize("rounds", [2, 3])
def test_the_rounds_of_a_small_recipe_share_the_steps_of_a_method(rounds):
    whole = recipe("ministreet", "bida").loop.steps
    shares = [stage.recipe.loop.steps for stage in plan("ministreet", "bida") if stage.kind == "train"]
    assert shares == [whole // 2] * 2 and recipe("ministreet", "bida").settings.rounds == 2
    (row,) = find_rows(ablation_rows("bida", "ministreet"), ["base, FC, BC, dynamic"])
    made = row_stages(row, "ministreet", ("steps=300", f"rounds={rounds}"), 0)
    assert [stage.recipe.loop.steps for stage in made if stage.kind == "train"] == [300 // rounds] * rounds


def test_settings_reach_all_rounds_the_labels_or_everything():
    made = by_name("round.lambda_fc=0.7", "labels.label_share=0.2", "seed=5")
    assert [made[name].recipe.settings.lambda_fc for name in ROUNDS[1:]] == [0.1, 0.7, 0.1, 0.7, 0.7]
    assert [made[name].recipe.pseudo.label_share for name in ROUNDS[1:]] == [0.2, 0.4, 0.2, 0.4, 0.4]
    assert made["source"] == by_name("seed=5")["source"], "which reads neither"
    assert {stage.recipe.seed for stage in made.values()} == {5}


def test_wrong_stages_are_named(pair, tmp_path):
    with pytest.raises(ValueError, match="no stage 'round-1'. Did you mean round"):
        stages("round-1.lr=1")
    with pytest.raises(ValueError, match="There is no stage 'round-3'. Did you mean round-"):
        run_plan(stages(), pair, tmp_path, only="round-3", quiet=True)
    with pytest.raises(ValueError, match="recipe 'ministreet_crops' has no stages of 'bida'. Choose ministreet"):
        plan("ministreet_crops", "bida")


# ---- run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(pair, tmp_path_factory):
    """A plan that ran to its end: (its folder, what it told, its scores)."""
    root, told = tmp_path_factory.mktemp("bida"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(root / "cache"))
        scores = run_plan(stages(), pair, root / "out", quiet=True, tell=told.append)
    return root / "out", told, scores


def test_all_stages_run_and_leave_what_the_next_one_wants(finished):
    out, told, scores = finished
    assert [text.split(": ")[1] for text in told] == ROUNDS and told[0].startswith("stage 1 of 6")
    assert {"single", "multiscale"} <= scores.keys() and scores["multiscale"]["multiscale"] is True
    for number, name in ((2, "labels-1"), (4, "labels-2")):
        manifest = json.loads((out / f"{number}_{name}" / "labels.json").read_text(encoding="utf-8"))
        assert manifest["pictures"] == 4 and 0 < manifest["quality"]["density"] <= 1
    for number, name in ((3, "round-1"), (5, "round-2")):
        left = load_checkpoint(out / f"{number}_{name}" / "best.pt")
        assert left["step"] == left["method"]["steps"] == 2 and left["method"]["mu_T.count"].sum() > 0


def test_other_numbers_of_rounds_share_the_same_steps():
    def steps(*overrides: str) -> list[int]:
        return [s.recipe.loop.steps for s in plan("ministreet", "bida", overrides) if s.name.startswith("round")]

    assert steps() == [150, 150] and steps("rounds=3") == [100, 100, 100]
    assert steps("rounds=3", "round.steps=7") == steps("rounds=3", "steps=7") == [7, 7, 7]


def test_scores_tell_how_good_the_kinds_of_labels_are(finished):
    out, _, scores = finished
    kinds = json.loads((out / "6_test" / "scores.json").read_text(encoding="utf-8"))["label_kinds"]
    assert list(kinds) == list(KINDS) and kinds == scores["label_kinds"]
    last = json.loads((out / "4_labels-2" / "labels.json").read_text(encoding="utf-8"))["quality"]
    assert kinds["static"]["density"] == pytest.approx(last["density"], abs=1e-6)
    assert kinds["hybrid"]["density"] >= max(kinds["static"]["density"], kinds["dynamic"]["density"])


def test_a_finished_plan_is_not_run_again(finished, pair, monkeypatch):
    out, _, scores = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(module, "score_network", lambda *_, **__: pytest.fail("scored again"))
    monkeypatch.setattr(module, "label_kinds", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr("course_lib.experiments.train.Choice.look", lambda *_: pytest.fail("trained again"))
    assert run_plan(stages(), pair, out, quiet=True) == json.loads(json.dumps(scores))
    pictures = {path for path in before if path.suffix in (".png", ".pt")}
    assert len(pictures) > 10 and all(path.stat().st_mtime_ns == before[path] for path in pictures)


def test_each_round_is_given_the_network_and_labels_before_it(pair, tmp_path, monkeypatch):
    given, train = [], module.train_recipe

    def watched(recipe, pair, folder, **options):
        given.append((recipe.optimiser.lr, pair.start, pair.pseudo_labels, folder))
        return train(recipe, pair, folder, **options)

    monkeypatch.setattr(module, "train_recipe", watched)
    run_plan(stages("round_rate=0.5", "round.lr=0.002", "steps=1"), pair, tmp_path, quiet=True)
    assert given == [
        (0.002, str(tmp_path / "1_source" / "best.pt"), str(tmp_path / "2_labels-1"), tmp_path / "3_round-1"),
        (0.001, str(tmp_path / "3_round-1" / "best.pt"), str(tmp_path / "4_labels-2"), tmp_path / "5_round-2"),
    ]


@pytest.mark.parametrize("left", [1, 3, 5])
def test_a_plan_that_was_stopped_goes_on_bit_for_bit(left, finished, pair, tmp_path):
    """In the middle of the start, of the first round and of the second: two steps each."""
    cut = tmp_path / "cut"

    def stop():
        nonlocal left
        left -= 1
        return left == 0

    with pytest.raises(Stopped):
        run_plan(stages(), pair, cut, quiet=True, stop=stop)
    scores = run_plan(stages(), pair, cut, quiet=True)
    for name in ("3_round-1", "5_round-2"):
        a, b = (load_checkpoint(folder / name / "last.pt") for folder in (cut, finished[0]))
        for part in ("segmenter", "method"):
            assert a[part].keys() == b[part].keys() and all(torch.equal(a[part][key], b[part][key]) for key in a[part])
        assert (cut / name / "log.jsonl").read_bytes() == (finished[0] / name / "log.jsonl").read_bytes()
    assert scores["single"]["iou"] == finished[2]["single"]["iou"] and scores["label_kinds"] == finished[2]["label_kinds"]


def test_a_stage_alone_wants_the_earlier_ones(pair, tmp_path):
    with pytest.raises(CheckpointError, match="stage 'source' has not left .*1_source.*Run it first"):
        run_plan(stages(), pair, tmp_path, only="labels-1", quiet=True)
    run_plan(stages(), pair, tmp_path, only="source", quiet=True)
    with pytest.raises(CheckpointError, match="stage 'labels-1' has not left .*2_labels-1.*Run it first"):
        run_plan(stages(), pair, tmp_path, only="round-1", quiet=True)
    run_plan(stages(), pair, tmp_path, only="labels-1", quiet=True)
    run_plan(stages(), pair, tmp_path, only="round-1", quiet=True)
    with pytest.raises(CheckpointError, match="stage 'round-2' has not left .*5_round-2.*Run it first"):
        run_plan(stages(), pair, tmp_path, only="test", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and path.name[0].isdigit()) == [
        "1_source", "2_labels-1", "3_round-1",
    ]  # fmt: skip


def test_without_dynamic_labels_no_kinds_are_measured(pair, tmp_path):
    scores = run_plan(stages("round.dynamic=none", "rounds=1", "steps=1"), pair, tmp_path, quiet=True)
    assert "single" in scores and "label_kinds" not in scores


def test_an_ablation_trains_every_row_with_equal_steps(pair, tmp_path):
    wanted = ["source-only", "base", "base, FC", "base, FC, BC, dynamic"]
    chosen = find_rows(ablation_rows("bida", "ministreet", overrides=SMALL), wanted)
    rows = compare("ministreet", pair, tmp_path, seeds=(0,), rows=chosen, overrides=SMALL, quiet=True, jobs=1)["rows"]
    assert list(rows) == wanted and {row["steps"] for row in rows.values()} == {2}
    assert [rows[name]["published"] for name in wanted] == [None, 49.5, 51.2, 57.1]
    for folder in ("base", "base_FC", "base_FC_BC_dynamic"):
        steps = [load_checkpoint(tmp_path / folder / "seed0" / name / "last.pt")["step"] for name in ("3_round-1", "5_round-2")]
        assert steps == [1, 1]
    last = rows["base, FC, BC, dynamic"]["seeds"]["0"]
    assert list(last["label_kinds"]) == list(KINDS) and last["labels"]["accuracy"] is not None
    assert rows["base, FC"]["seeds"]["0"]["label_kinds"] is None
    assert last["peak_mib"] > 100  # the process with torch in it
    log = (tmp_path / "base" / "seed0" / "5_round-2" / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert list(json.loads(log)["losses"]) == ["segmentation", "static", "entropy", "entropy_target"]


# ---- published constants --------------------------------------------------------------------------------------------


def test_gta5_has_the_released_constants():
    """papers/bida.md, B2 to B4."""
    made = {stage.name: stage for stage in plan("gta5_cityscapes", "bida")}
    assert list(made)[-2:] == ["round-10", "test"] and len(made) == 1 + 2 * 10 + 1
    source, labels, first, last = (made[name].recipe for name in ("source", "labels-1", "round-1", "round-10"))
    s = first.settings
    assert (s.lambda_static, s.lambda_entropy, s.lambda_entropy_target) == (0.3, 0.4, pytest.approx(0.4 * 0.3))
    assert (s.lambda_fc, s.lambda_bc, s.tau) == (0.2, 0.2, 0.1) and s.overlap_only and s.through_prototypes and s.pairwise
    assert first.optimiser.lr == 7.5e-5 and last.optimiser.lr == pytest.approx(1.5e-7, rel=0.03)  # halved nine times
    assert first.optimiser.head_factor == 10 and first.optimiser.weight_decay == 5e-4
    assert first.loop.steps == 2 * 5002 and poly(first.loop.steps, first.loop.schedule_steps) == pytest.approx(0.199, abs=1e-3)
    assert sum(stage.recipe.loop.steps for stage in made.values() if stage.name.startswith("round")) == 100_040
    assert (first.batch_size, first.crop, first.scale, first.flip) == (2, (730, 730), (0.8, 1.2), True)
    assert {first.photometric, first.target_photometric} == {"none"}
    assert min(first.source_size) == min(first.target_size) == 850 and first.test_size == (730, 1460)
    assert (min(source.source_size), source.crop, made["source"].kind) == (720, (600, 600), "train")
    assert first.network_options == {"form": "bida", "imagenet": True} and first.space == "cityscapes19"
    p = labels.pseudo
    assert (p.label_share, p.cap, p.picture_share, p.any_class) == (0.1, 1.0, 0.1, False)


def test_what_no_source_gives_follows_the_slides():
    """papers/bida.md, B4 and B9: calibrated prototypes of the batch, dynamic labels, true entropy, one stem."""
    s = plan("gta5_cityscapes", "bida")[2].recipe.settings
    assert (s.dynamic, s.dynamic_prototypes, s.double_softmax, s.by_class) == ("calibrated", "batch", False, False)
    assert s == BiDASettings()


def test_synthia_has_its_own_sizes_classes_and_schedule():
    gta5, synthia = ({s.name: s.recipe for s in plan(name, "bida")} for name in ("gta5_cityscapes", "synthia_cityscapes"))
    first = synthia["round-1"]
    assert {recipe.space for recipe in synthia.values()} == {"synthia16"}
    assert {recipe.name for recipe in synthia.values()} == {"synthia_cityscapes"}
    assert sum(recipe.loop.steps for name, recipe in synthia.items() if name.startswith("round")) == 94_000
    assert (first.loop.schedule_steps, first.crop) == (18_267, (730, 730))
    for name, short in (("source", 720), ("labels-1", 850), ("round-1", 850)):
        height, width = synthia[name].source_size
        assert height == short and width == pytest.approx(short * 1280 / 760, abs=1)
    assert first.settings == gta5["round-1"].settings and first.pseudo == gta5["round-1"].pseudo


@pytest.mark.parametrize("name", ["gta5_cityscapes", "synthia_cityscapes", "ministreet", "camvid_dusk"])
def test_the_recipe_of_the_method_is_that_of_its_first_round(name):
    first = next(stage for stage in plan(name, "bida") if stage.name == "round-1").recipe
    whole = recipe(name, "bida")
    assert whole.method == "bida" and whole.override(f"steps={first.loop.steps}") == first


# ---- a stem for each domain -----------------------------------------------------------------------------------------

SHALLOW = {"form": "bida", "blocks": (1, 1, 1, 1)}


def deeplab(**options):
    return build("deeplab_v2", 5, seed=0, **SHALLOW, **options)


def saved(path, network, **options):
    made_by = recipe("gta5_cityscapes", "source-only").to_dict() | {"network_options": SHALLOW | options}
    return save_checkpoint(path, {"recipe": made_by, "segmenter": network.state_dict()})


def asking(**options):
    chosen = recipe("gta5_cityscapes", "bida")
    return type(chosen).from_dict(chosen.to_dict() | {"network_options": SHALLOW | options})


def test_two_stems_begin_as_the_one_of_the_start(tmp_path):
    one, two = deeplab().eval(), deeplab(domain_stem=True).eval()
    with torch.no_grad():
        one.bn1.running_mean.fill_(0.5)
        one.layer1[0].conv2.weight.add_(0.01)
    two.load_state_dict(take_network(saved(tmp_path / "one.pt", one), asking(domain_stem=True)))
    own = two.state_dict()
    pairs = [(name, f"target_{name}") for name in own if name.startswith(("conv1.", "bn1.", "layer1."))]
    assert len(pairs) > 15 and all(torch.equal(own[a], own[b]) for a, b in pairs)
    assert all(torch.equal(value, own[name]) for name, value in one.state_dict().items())
    image = torch.randn(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = one(image).logits
        assert torch.equal(two(image, domain="source").logits, wanted) and torch.equal(two(image).logits, wanted)


def test_two_stems_that_have_learnt_are_taken_as_they_are(tmp_path):
    """From round to round."""
    two = deeplab(domain_stem=True)
    found = take_network(saved(tmp_path / "two.pt", two, domain_stem=True), asking(domain_stem=True))
    assert found.keys() == two.state_dict().keys() and all(torch.equal(v, found[k]) for k, v in two.state_dict().items())
    assert not torch.equal(found["conv1.weight"], found["target_conv1.weight"])


def test_stems_of_three_convolutions_are_handed_over_likewise(tmp_path):
    """From one to two, and from round to round, where the target's first block has learnt."""
    deep = {"stem": "3x3"}
    one, two = deeplab(**deep), deeplab(**deep, domain_stem=True)
    found = take_network(saved(tmp_path / "one.pt", one, **deep), asking(**deep, domain_stem=True))
    assert found.keys() == two.state_dict().keys()
    assert torch.equal(found["target_stem.0.weight"], one.state_dict()["stem.0.weight"])
    with torch.no_grad():
        two.target_layer1[0].conv2.weight.add_(0.01)
    found = take_network(saved(tmp_path / "two.pt", two, **deep, domain_stem=True), asking(**deep, domain_stem=True))
    assert found.keys() == two.state_dict().keys() and all(torch.equal(v, found[k]) for k, v in two.state_dict().items())


def test_one_stem_stays_one(tmp_path):
    one = deeplab()
    found = take_network(saved(tmp_path / "one.pt", one), asking())
    assert found.keys() == one.state_dict().keys()


def test_rounds_with_two_stems_run_from_a_start_with_one(pair, tmp_path):
    made = partial(plan, "ministreet", "bida")((
        *TINY, "network=deeplab_v2", f"network_options={SHALLOW}", "rounds=1", "steps=1", "start_steps=1", "batch_size=1",
        "round.network_options={'domain_stem': True}",
    ))  # fmt: skip
    run_plan(made, pair, tmp_path, quiet=True)
    start, end = (load_checkpoint(tmp_path / name / "best.pt")["segmenter"] for name in ("1_source", "3_round-1"))
    assert "target_conv1.weight" not in start
    assert not torch.equal(end["conv1.weight"], end["target_conv1.weight"])  # each has learnt from its own domain


def test_rounds_of_published_length_read_on_and_small_ones_begin_again():
    """Ten rounds of the same 12,005 batches would never read a fifth of GTA5's pictures. Small pairs: as they were measured."""
    stages = [stage for stage in plan("gta5_cityscapes", "bida") if stage.name.startswith("round-")]
    steps = stages[0].recipe.loop.steps * stages[0].recipe.loop.accumulate
    assert len(stages) == 10 and [stage.recipe.first_batch for stage in stages] == [k * steps for k in range(10)]
    small = [stage for stage in plan("ministreet", "bida") if stage.name.startswith("round-")]
    assert len(small) == 2 and {stage.recipe.first_batch for stage in small} == {0}
