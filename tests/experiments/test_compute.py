"""What training costs in passes; that a control has the start, the augmentation and the compute of its method."""

from fractions import Fraction

import pytest

from course_lib.demo import demo_rows, demo_settings
from course_lib.engine.loop import rate_at
from course_lib.experiments.compute import compute, equal_steps, load, step_cost
from course_lib.experiments.plan import plan
from course_lib.experiments.rows import (
    ORACLE,
    ablation_rows,
    control_of,
    row_compute,
    row_recipe,
    row_stages,
    standard_rows,
    with_controls,
)
from course_lib.files import folder_name
from course_lib.recipes import PAIRS, PAPERS, Row, find_pair, recipe

STEPS = ("steps=300",)
OWN = (*STEPS, "start_steps=5", "start_photometric=none", "photometric=weak")  # of all rows, so of the controls, too
TABLES = {
    "demo": ("ministreet", demo_rows(), demo_settings(quick=False)),
    "quick demo": ("ministreet", demo_rows(), demo_settings(quick=True)),
    **{f"compare {name}": (name, standard_rows(name), STEPS) for name in ("ministreet", "camvid_dusk", "ministreet_camvid")},
    **{f"ablate {paper}": ("ministreet", ablation_rows(paper, "ministreet"), STEPS) for paper in ("proca", "bida")},
    **{f"ablate {p}, CamVid": ("ministreet_camvid", ablation_rows(p, "ministreet_camvid"), STEPS) for p in ("proca", "bida")},
    "ablate proca, its start set": ("ministreet", ablation_rows("proca", "ministreet", overrides=OWN), OWN),
    "compare proca, its start set": ("ministreet", standard_rows("ministreet", ("proca",), overrides=OWN), OWN),
}


def test_a_step_costs_a_forward_pass_and_two_backward_for_each_batch_that_trains():
    costs = {method: step_cost(recipe("ministreet", method)) for method in ("source-only", "target-only", "bn-control", "bida")}
    assert costs == {"source-only": 3, "target-only": 3, "bn-control": 4, "bida": 6}
    assert step_cost(recipe("ministreet", "self-training").override("lambda_source=0")) == 3
    assert step_cost(recipe("ministreet", "bida").override("accumulate=2")) == 12


def test_the_stages_that_train_are_counted_and_the_start_is_not():
    stages = plan("ministreet", "proca", ("contrast.steps=10", "self-training.steps=5", "self-training.lambda_source=0"))
    assert compute(stages) == 10 * 6 + 5 * 3


def test_a_control_has_at_least_the_compute_and_less_than_a_step_more():
    plain = recipe("ministreet", "source-only")
    assert [equal_steps(passes, plain) for passes in (0, 1, 3, 4, 600)] == [0, 1, 1, 2, 200]
    half = Row("Ada-ST", "self-training", plan="proca", part="without contrast")
    labelled = plain.override("terms=+few_labels", "terms.few_labels.first_step=10")  # 3 passes more from then on
    assert [equal_steps(passes, labelled) for passes in (30, 31, 36, 37, 600)] == [10, 11, 11, 12, 105]
    assert [equal_steps(passes, labelled, at_most=True) for passes in (2, 30, 35, 36)] == [1, 10, 10, 11]
    control = control_of(half, "ministreet")
    assert control.name == "source-only, 1.5 x compute"
    assert row_recipe(control, "ministreet", ("steps=301",), 0).loop.steps == -(-(151 * 6 + 150 * 3) // 3)


@pytest.mark.parametrize("table", TABLES)
def test_every_method_is_read_against_a_row_with_its_start_augmentation_and_compute(table):
    name, rows, overrides = TABLES[table]
    by_name, methods = {row.name: row for row in rows}, 0
    assert len(by_name) == len(rows)
    for row in rows:
        assert row.control is None or row.control in by_name, row.name
        trained = by_name[row.network_of] if row.network_of else row
        if row.multiscale or trained.method in ("source-only", "target-only"):
            continue  # another test of a row's network, a control, the ceiling
        methods += 1
        control = by_name[row.control]
        plain = row_recipe(control, name, overrides, 0)
        assert plain.method == "source-only"
        start = ("start_from",) if plain.start_from else ("start_from", "start_steps", "start_lr", "start_photometric")
        for stage in row_stages(trained, name, overrides, 0):
            keys = {"start": start, "train": (*start, "photometric", "crop", "batch_size")}.get(stage.kind, ())
            assert {key: getattr(stage.recipe, key) for key in keys} == {key: getattr(plain, key) for key in keys}, row.name
        costs = [row_compute(each, name, overrides, 0) for each in (trained, control)]
        # the control ends with a whole step; a row that got its steps from a control's passes ends with a whole step of its own
        step = step_cost(plain if trained.compute_of is None else row_recipe(trained, name, overrides, 0))
        assert 0 <= costs[1] - costs[0] < step, f"{row.name} costs {costs[0]}, {control.name} {costs[1]}"
    assert methods >= 1 + ("demo" in table) * 2


def test_the_oracle_and_the_rows_of_a_borrowed_network_have_their_controls():
    rows = {row.name: row for row in demo_rows()}
    assert rows["bn-control"].control == rows["source-only, target statistics"].control == "source-only"
    assert rows["proca"].control == rows["bida"].control == "source-only + photometric"
    assert rows["adaptsegnet"].control == rows["source-only + photometric"].control == "source-only, 2 x compute"
    names = [row.name for row in standard_rows("camvid_dusk")]
    assert "source-only, 1.33 x compute" in names, "there bn-control trains, and costs a forward pass more"


def test_at_published_size_the_source_stage_alone_is_the_control():
    rows = {row.name: row for row in ablation_rows("proca", "gta5_cityscapes")}
    assert {row.control for row in rows.values()} == {None, "source-only", "F+O, Ada-ST"}
    costs = {name: row_compute(rows[name], "gta5_cityscapes", (), 0) for name in ("source-only", "F+O")}
    assert costs == {"source-only": 8 * 60_000, "F+O": 8 * 60_000 + 4 * 90_000 * 6}, "of batches of one picture"


PUBLISHED = ("bida", "classmix", "cluda-hrda", "dacs", "daformer", "hrda", "mic", "pipa-daformer", "proca", "reco", "segsdf",
             "semiseg", "sepico")  # fmt: skip


LEARNT = ("network", "network_options", "optimiser", "heads", "batch_size", "source_size", "crop", "crop_share", "scale",
          "flip", "photometric", "select")  # fmt: skip


@pytest.mark.parametrize("method", PUBLISHED)
def test_at_published_size_a_control_learns_as_its_method_does(method):
    """A transformer that learns by SGD, one picture at a time, is no control of one that learns by AdamW from crops. Of a paper
    with a source stage the control is that stage, made longer: not the fine-tuning after it."""
    pair = "cityscapes_few_labels" if PAPERS[method].few_labels else "gta5_cityscapes"
    rows = {row.name: row for row in standard_rows(pair, (method,))}
    control = rows[rows[method].control]
    theirs = row_recipe(control, pair, (), 0)
    stages = {stage.name: stage.recipe for stage in row_stages(rows[method], pair, (), 0) if stage.kind == "train"}
    assert ("source" in stages) == (method in ("bida", "proca"))
    ours = stages.get("source", list(stages.values())[-1])
    for key in (*LEARNT, *["sampling"] * ("source" in stages)):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert (ours.loop.schedule, ours.loop.warmup) == (theirs.loop.schedule, theirs.loop.warmup)
    first = rows["source-only" if "source-only" in rows else "supervised"]
    times = row_compute(rows[method], pair, (), 0) / row_compute(first, pair, (), 0)
    assert f"{times:.3g} x compute" in control.name and "as " + method in control.name
    spent = [row_compute(row, pair, (), 0) for row in (rows[method], control)]
    unit = recipe(pair, "source-only")
    assert 0 <= spent[1] - spent[0] < step_cost(theirs) * load(theirs, unit), spent
    for part in (0.25, 0.5, 0.75, 1.0):  # the schedule is stretched; a step changes the rate by at most 1 / 1,200
        rates = [rate_at(round(part * each.loop.steps) - 1, each.loop) for each in (ours, theirs)]
        assert rates[0] == pytest.approx(rates[1], abs=1e-3), part


@pytest.mark.parametrize("pair, methods", [
    ("gta5_cityscapes", ("hrda", "cluda-hrda", "mic", "daformer", "sepico")),
    ("cityscapes_few_labels", ("classmix", "reco", "semiseg")),
])
def test_controls_of_several_methods_have_names_of_their_own(pair, methods):
    rows = standard_rows(pair, methods)
    names = [row.name for row in rows]
    assert len(names) == len(set(names)) and {row.control for row in rows} - {None} <= set(names)
    assert len({folder_name(name) for name in names}) == len(names)
    assert len({rows[names.index(method)].control for method in methods}) == len(methods)


def test_settings_of_a_stage_reach_the_control():
    given = ("source.lr=0.003", "source.batch_size=3", "contrast.lr=0.001")
    rows = {row.name: row for row in standard_rows("gta5_cityscapes", ("proca",), overrides=given)}
    control = row_recipe(rows[rows["proca"].control], "gta5_cityscapes", given, 0)
    assert (control.optimiser.lr, control.batch_size) == (0.003, 3)


def test_a_gain_over_another_network_is_not_given():
    rows = {row.name: row for row in ablation_rows("mic", "gta5_cityscapes")}
    assert rows["with masks"].control == rows[ORACLE].control == "source-only"
    assert rows["on DAFormer"].control is rows["adaptsegnet"].control is None
    first, oracle = (row_recipe(rows[name], "gta5_cityscapes", (), 0) for name in ("source-only", ORACLE))
    assert first.network == oracle.network == "hrda" and first.optimiser == oracle.optimiser
    pair = "cityscapes_few_labels"
    over = {row.name: row.control for row in ablation_rows("segsdf", pair)}
    assert over["+ transfer"] == over["+ DepthMix"] == "supervised" and over["classmix"] is None, "the paper's own comparison"
    first, without = (row_recipe(row, pair, (), 0) for row in ablation_rows("reco", pair)[:2])
    assert first.photometric == without.photometric == "jitter", "labels alone are augmented as the others"


def test_pictures_of_another_size_and_number_are_counted_as_such():
    plain = recipe("ministreet", "source-only")  # of 4 pictures
    assert load(plain, plain) == 1 and load(plain.override("batch_size=6"), plain) == Fraction(3, 2)
    assert load(plain.override("source_size=64x32"), plain.override("crop=128x32")) == Fraction(1, 2)
    assert load(plain.override("source_size=none", "batch_size=8"), plain) == 2, "sizes as on disk are not known"
    larger = Row("larger", "bida", ("batch_size=8", "crop=64x64"))
    (placed,), (control,) = with_controls([larger], "ministreet", ())
    mine, its = (row_recipe(row, "ministreet", (), 0) for row in (placed, control))
    assert (its.batch_size, its.crop) == (8, (64, 64)) and its.loop.steps == 2 * mine.loop.steps
    costs = [row_compute(row, "ministreet", (), 0) for row in (placed, control)]
    assert costs[0] == costs[1] == mine.loop.steps * 6 * float(load(mine, plain)) != mine.loop.steps * 6


def test_a_schedule_of_its_own_length_is_stretched_with_the_steps():
    shorter = ("steps=100", "schedule_steps=150")
    rows = {row.name: row for row in standard_rows("ministreet", ("bida",), overrides=shorter)}
    loop = row_recipe(rows[rows["bida"].control], "ministreet", shorter, 0).loop
    assert (loop.steps, loop.schedule_steps) == (200, 300)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_first_row_of_an_ablation_trains_on_the_source_alone(pair):
    for paper in ("proca", "bida", "dacs") if pair != "ministreet_crops" else ():
        first, *others = ablation_rows(paper, pair)
        methods = {stage.recipe.method for stage in row_stages(first, pair, (), 0) if stage.kind in ("start", "train")}
        name = "source-only" if find_pair(pair).labels is None else "supervised"  # the same training under two names
        assert first.name == name and methods in ({"source-only"}, {name}), paper
        adapting = next(row for row in others if row.method == paper or row.plan == paper)
        ours, theirs = (row_recipe(row, pair, (), 0) for row in (adapting, first))
        if paper == "dacs":  # of the others, published networks have the paper's form in their source stage
            assert (ours.network, ours.network_options) == (theirs.network, theirs.network_options)


def test_a_control_has_the_network_of_its_row():
    for rows in (standard_rows("ministreet", ("dacs",)), ablation_rows("dacs", "ministreet")):
        named = {row.name: row for row in rows}
        adapting = [row for row in rows if row.method == "dacs"]
        assert adapting
        for row in adapting:
            pair = (named[row.control], row)
            recipes = [row_recipe(each, "ministreet", (), 0) for each in pair]
            assert [recipe.network_options["frozen_blocks"] for recipe in recipes] == [0, 0]
            assert [(recipe.start_steps, recipe.photometric) for recipe in recipes] == [(700, "strong")] * 2
            spent = [row_compute(each, "ministreet", (), 0) for each in pair]
            assert spent == [300 * 7, 300 * 7]
