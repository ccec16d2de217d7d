"""What training costs in passes; that a control has the start, the augmentation and the compute of its method."""

import pytest

from course_lib.demo import demo_rows, demo_settings
from course_lib.experiments.compute import compute, equal_steps, step_cost
from course_lib.experiments.plan import plan
from course_lib.experiments.rows import (
    ablation_rows,
    control_of,
    row_compute,
    row_recipe,
    row_stages,
    standard_rows,
)
from course_lib.recipes import PAIRS, Row, find_pair, recipe

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
    assert costs == {"source-only": 60_000, "F+O": 60_000 + 90_000 * 6}


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
