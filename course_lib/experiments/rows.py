"""The rows of a table: what each trains, and the control that its gain is taken from.

A table has five kinds of rows: source-only with the same steps; source-only with the compute of a method, without and with
strong photometric augmentation; target pictures forwarded through the normalisation layers without a loss; the methods; the
oracle. The gain of a row is taken from its control, the row with the same start, augmentation and compute
(experiments.compute).
"""

import math
from dataclasses import replace
from fractions import Fraction

from course_lib.experiments.compute import compute, equal_steps, load
from course_lib.experiments.plan import plan, stage_recipes
from course_lib.methods import find_method, load_method
from course_lib.methods.terms import find_term
from course_lib.methods.terms.base import read_by
from course_lib.outside import short
from course_lib.recipes import PAPERS, Recipe, Row, Stage, find_pair, overridden, own_paper
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.paper import one_training
from course_lib.recipes.recipe import assignment, named_terms, slots, split_assignment
from course_lib.registry import find_named

ORACLE = "target-only (oracle)"
# beside the network, the start and the colours, what decides how source-only learns
LEARNS = ("data.source_size", "data.scale", "data.crop", "data.crop_share", "data.flip", "data.batch_size", "loop.accumulate",
          "loop.schedule", "loop.power", "loop.warmup")  # fmt: skip
# and at published size; a control of equal compute then has more of the steps
SCHEDULE = ["loop.steps", "loop.schedule_steps", "loop.save_every", "scoring.select"]
ONE_DOMAIN = {"source-only": "supervised", "source labels": "the labelled pictures"}  # words of tables with few labels


def row_recipe(row: Row, pair: str, overrides: tuple[str, ...], seed: int) -> Recipe:
    """The row's constants: the recipe, then those of `overrides` that it has, which all rows share, then what the row sets."""
    recipe = _common(row.method, pair, overrides).override(*row.overrides, f"seed={seed}")
    if row.compute_of is None:
        return recipe
    passes = _compute(row.compute_of, pair, overrides, seed) / load(recipe, _common("source-only", pair, overrides))
    at_most = row.method not in ("source-only", "supervised")  # a method never has more than its control
    steps, was = equal_steps(passes, recipe, at_most), recipe.loop
    # a schedule of a length of its own is stretched, too: else the rate would be 0 long before the end
    schedule = math.ceil(was.schedule_steps * Fraction(steps, was.steps)) if was.schedule_steps else None
    return recipe.updated({"loop.steps": steps, "loop.schedule_steps": schedule})


def _common(method: str, pair: str, overrides: tuple[str, ...]) -> Recipe:
    """A method's constants with those of `overrides` that it has."""
    return overridden({"": find_recipe(pair, method)}, overrides, strict=False)[""]


def row_stages(row: Row, pair: str, overrides: tuple[str, ...], seed: int) -> list[Stage]:
    """The row's stages: of a small pair those of a plan train as many steps together as any other row, of one with published
    stages as many as published."""
    recipe = row_recipe(row, pair, overrides, seed)
    if row.plan is None:
        stages = one_training({row.method: recipe})
    else:
        steps = recipe.loop.steps if find_pair(pair).scale == "small" else None
        stages = plan(pair, row.plan, (*row.overrides, f"seed={seed}"), steps, row.part, common=overrides)
    stages = [replace(stage, multiscale=False) for stage in stages]  # multi-scale scores are a row of their own
    return stages if row.network_of is None else stages[-1:]


def row_compute(row: Row, pair: str, overrides: tuple[str, ...], seed: int) -> float:
    """What the row's training costs, in passes of batches as source-only has them (experiments.compute)."""
    passes = _compute(row, pair, overrides, seed)
    return int(passes) if passes.denominator == 1 else float(passes)


def _compute(row: Row, pair: str, overrides: tuple[str, ...], seed: int) -> Fraction:
    return compute(row_stages(row, pair, overrides, seed), _common("source-only", pair, overrides))


def check_overrides(rows: tuple[Row, ...], pair: str, overrides: tuple[str, ...]) -> None:
    """Raise ValueError for a setting that no row has."""
    plans = [stage_recipes(pair, row.plan) for row in rows if row.plan is not None]
    recipes = [stage.recipe for row in rows for stage in row_stages(row, pair, (), 0)]
    recipes += [recipe for plan in plans for recipe in plan.values()]  # of stages that a part leaves out, too
    overridden({str(k): recipe for k, recipe in enumerate(recipes)},
               (text for text in overrides if not any(_of_a_stage(text, plan) for plan in plans)))  # fmt: skip


def terms_left_out(rows: tuple[Row, ...], pair: str, overrides: tuple[str, ...]) -> list[str]:
    """A note on each term of `overrides` that some rows cannot have: their methods offer no prediction that it reads."""
    notes, changes = [], [text for key, text in map(split_assignment, overrides) if key == "terms" and text[:1] != "-"]
    for name in dict.fromkeys(name for text in changes for name in named_terms(text)):
        without = [
            row.name
            for row in rows
            if row.network_of is None and not any(name in s.recipe.terms for s in row_stages(row, pair, overrides, 0))
        ]
        reads = read_by(find_term(name))
        if without:
            notes.append(f"The term {short(name)} reads the predictions of {reads}. Rows without it: {', '.join(without)}.")
    return notes


def _of_a_stage(assignment: str, recipes: dict[str, Recipe]) -> bool:
    """Whether STAGE.KEY names a setting of one of these stages."""
    stage, _, key = split_assignment(assignment)[0].partition(".")
    return stage in recipes and recipes[stage].has(key)


def standard_rows(
    pair: str, methods: tuple[str, ...] = (), own: tuple[Row, ...] = (), overrides: tuple[str, ...] = ()
) -> tuple[Row, ...]:
    """Source-only, its controls, the methods, each with a control, and the oracle.

    own: rows beside those of `methods`. With neither, the methods are those of `compared`. overrides: of all rows.
    """
    methods = tuple(load_method(method) for method in methods)
    plain = _common("source-only", pair, overrides)
    frozen = plain.network_options.get("norm") == "frozen"  # then bn-control would train source-only's network, bit for bit
    controls = ("source-only", "supervised", "target-only", "bn-control")
    named = methods or ([] if own else compared(pair))
    adapting = [*(method_row(name) for name in named if name not in controls), *own]
    placed, found = with_controls(adapting, pair, overrides)
    norm = Row(
        "bn-control",
        "bn-control",
        network_of="source-only" if frozen else None,
        control="source-only",
        explanation="target pictures pass the normalisation layers in training, no loss"
        + ("; these layers are frozen, so it is source-only's network" if frozen else ""),
    )
    norm_control = () if frozen else (control_of(norm, pair),)
    first = next((control for control in found if not control.overrides), None)
    photometric = () if first is None else (Row(
        "source-only + photometric",
        "source-only",
        ("photometric=strong",),
        control=first.name,
        compute_of=first.compute_of,
        explanation="strong photometric augmentation, the steps that cost what a method with two domains costs",
    ),)  # fmt: skip
    first_row = Row("source-only", "source-only", explanation="source labels alone")
    how = ", with the network and the schedule of source-only" if _published(pair) else ""
    oracle = Row(ORACLE, "target-only", control="source-only", explanation=f"trained on the target's labels{how}")
    if find_pair(pair).labels is not None:  # of one domain: no statistics of another
        return in_one_domain((first_row, *found, *photometric, *placed, oracle))
    return (
        first_row,
        *norm_control,
        *found,
        *photometric,
        Row(
            "source-only, target statistics",
            "source-only",
            ("statistics=target",),
            network_of="source-only",
            control="source-only",
            explanation="source-only's network, its normalisation statistics re-estimated on target pictures",
        ),
        replace(norm, control=norm_control[0].name if norm_control else "source-only"),
        *placed,
        oracle,
    )


def in_one_domain(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of a table with few labels in one domain: what is source-only elsewhere is supervised there, its oracle has all
    labels.

    >>> in_one_domain((Row("source-only, 2 x compute", "source-only", explanation="source labels alone"),))[0].name
    'supervised, 2 x compute'
    """

    def renamed(row: Row | None) -> Row | None:
        if row is None:
            return None
        words = {key: value for key in ("name", "method", "network_of", "control", "explanation")
                 if (value := getattr(row, key)) is not None}  # fmt: skip
        for was, now in ONE_DOMAIN.items():
            words = {key: value.replace(was, now) for key, value in words.items()}
        if row.method == "target-only":
            words["explanation"] = words["explanation"].replace("the target's labels", "the labels of all pictures")
        return replace(row, **words, compute_of=renamed(row.compute_of))

    return tuple(map(renamed, rows))


def compared(pair: str) -> list[str]:
    """The methods that a comparison on this pair has if it names none."""
    few_labels = find_pair(pair).labels is not None
    return [name for name, paper in PAPERS.items() if paper.compared and paper.few_labels == few_labels]


def method_row(method: str) -> Row:
    """A method by its own settings: all stages of its paper, where it has some."""
    paper = own_paper(method)
    staged = paper is not None and len(paper.stages) > 1
    return Row(method, method, plan=method if staged else None, explanation=paper.summary if paper else "")


def control_of(row: Row, pair: str, overrides: tuple[str, ...] = (), common: tuple[str, ...] = ()) -> Row:
    """The row that `row` has to be read against: source-only with its compute, named by how much that is of source-only's.

    overrides: of the control; common: of all rows, where the name depends on them: at published size, where steps differ.

    >>> control_of(Row("bn-control", "bn-control"), "ministreet").name
    'source-only, 1.33 x compute'
    """
    plain = Row("source-only", "source-only", overrides)
    if _published(pair):
        first = replace(plain, overrides=())
        times = row_compute(row, pair, common, 0) / row_compute(first, pair, common, 0)
        name, how = f"source-only, {times:.3g} x compute", f"the compute of {row.name}"
        if overrides:
            name, how = f"{name}, as {row.name} learns", f"with the network, pictures, optimiser and compute of {row.name}"
        return replace(plain, name=name, compute_of=row, explanation=f"source labels alone, {how}")
    times = row_compute(row, pair, (), 0) / row_compute(plain, pair, (), 0)
    return replace(
        plain,
        name=f"source-only, {times:.3g} x compute",
        compute_of=row,
        explanation=f"source labels alone, {times:.3g} times the steps: the compute of {row.name}",
    )


def start_and_augmentation(
    method: str, pair: str, overrides: tuple[str, ...] = (), own: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The settings of a method's network, start, pictures and optimiser where they are not source-only's, and these with its
    colours: what its control has to have, too.

    overrides: of all rows; own: of the method's row.
    """
    recipe, plain = _learner(method, pair, overrides, own), _common("source-only", pair, overrides)
    start = (*_learns(recipe, plain, _published(pair)), f"start_steps={recipe.start_steps}")
    if (recipe.network, recipe.network_options) != (plain.network, plain.network_options):
        start = (f"network={recipe.network}", f"network_options={recipe.network_options}", *start)
    return start, (*start, f"start_photometric={recipe.start_photometric}", f"photometric={recipe.photometric}")


def _learner(method: str, pair: str, overrides: tuple[str, ...], own: tuple[str, ...]) -> Recipe:
    """The constants with which the control of a method learns: the method's own; of published stages those of the source stage,
    which learns from source labels, too, or else of the stage that runs the method."""
    paper = own_paper(method)
    if _published(pair) and paper is not None and len(paper.stages) > 1:
        stages = stage_recipes(pair, method, own, common=overrides)
        if (stage := "source" if "source" in stages else paper.stage_of.get(method)) is not None:
            return stages[stage]
    return _common(method, pair, (*overrides, *own))


def _learns(recipe: Recipe, plain: Recipe, published: bool) -> tuple[str, ...]:
    """The settings of how a network learns that differ from those of `plain`. At published size papers have steps of their own
    and choose checkpoints in their own ways: a control has those of its method."""
    ours, theirs = slots(recipe), slots(plain)
    keys = [key for key in ours if key.partition(".")[0] in ("optimiser", "heads") or key in LEARNS]
    keys += SCHEDULE * published + ["data.sampling"] * (recipe.method == "source-only")  # of a method it is a part of its idea
    return tuple(assignment(key, ours[key].value) for key in keys if ours[key].value != theirs[key].value)


def _published(pair: str) -> bool:
    return find_pair(pair).scale == "published"


def with_controls(rows: list[Row], pair: str, overrides: tuple[str, ...] = ()) -> tuple[list[Row], list[Row]]:
    """The rows with the names of their controls, and these: source-only with the compute, start and augmentation of each row.
    Rows with one cost share a control. overrides: of all rows."""
    plain, controls, placed = start_and_augmentation("source-only", pair, overrides)[1], {}, []
    for row in rows:
        same = start_and_augmentation(row.method, pair, overrides, row.overrides)[1]
        control = control_of(row, pair, same if same != plain else (), overrides)
        if control.overrides and not _published(pair):
            explanation = f"{control.explanation}, augmented likewise"
            control = replace(control, name=f"{control.name}, augmented", explanation=explanation)
        key = (control.name, control.overrides)
        control = controls.setdefault(key, control)
        if sum(other.name == control.name for other in controls.values()) > 1:
            control = controls[key] = replace(control, name=f"{control.name} as {row.name}")
        placed.append(replace(row, control=control.name))
    return placed, list(controls.values())


def ablation_rows(method: str, pair: str, source: str | None = None, overrides: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """The rows of a paper's table, all with equal steps, and the controls with their compute that a gain is taken from.

    Of a pair with published stages every stage has its published steps, so that rows differ in how long they train, and their
    control is the source stage alone: longer training there would take days. The table marks unequal compute.

    source: of the paper's numbers that stand beside, "GTA5" or "SYNTHIA"; default: the pair's. overrides: of all rows, among
        them a start and an augmentation, which the controls then have, too.

    >>> [row.name for row in ablation_rows('proca', "ministreet")][:4]
    ['source-only', 'source-only, 2 x compute', 'source-only, 1.5 x compute', 'F']
    """
    find_method(method)
    paper, settings = own_paper(method), find_pair(pair)
    if paper is None or paper.rows is None:
        having = [name for name, paper in PAPERS.items() if paper.rows is not None]
        raise ValueError(f"{method} declares no rows of an ablation. These do: {', '.join(having)}.")
    published = _published(pair)
    start, same = start_and_augmentation(method, pair, overrides)
    first, *rows = paper.rows(source or settings.source, settings.scale, start, same)
    for name in (name for name in compared(pair) if name != method):
        explanation = f"{PAPERS[name].summary}, {'its own schedule' if published else 'augmented alike'}"
        rows.append(Row(name, name, () if published else same, explanation=explanation))
    rows.append(Row(ORACLE, "target-only", same, control="source-only", explanation="trained on the target's labels"))
    named = in_one_domain if settings.labels is not None else tuple
    if published:
        theirs = _last_training(first, pair, overrides)
        alike = {row.name for row in rows if row.network_of or _last_training(row, pair, overrides) == theirs}
        rows = [replace(row, control=row.control or first.name) if row.name in alike else row for row in rows]
        return named((first, *rows))
    controls, placed = {}, []
    for row in rows:
        if row.control is None and any(text.startswith("network=") for text in row.overrides):
            control = control_of(row, pair, start_and_augmentation(row.method, pair, overrides, row.overrides)[1])
            control = replace(control, name=f"{control.name}, network of {row.name}")
            row = replace(row, control=controls.setdefault(control.name, control).name)
        elif row.control is None:
            control = control_of(row, pair, same)
            row = replace(row, control=controls.setdefault(control.name, control).name)
        placed.append(row)
    return named((first, *controls.values(), *placed))


def _last_training(row: Row, pair: str, overrides: tuple[str, ...]) -> tuple[object, ...]:
    """The network and the kind of optimiser of a row's last training: a gain over a row with others would be theirs, too."""
    recipe = [stage.recipe for stage in row_stages(row, pair, overrides, 0) if stage.kind == "train"][-1]
    return recipe.network, recipe.network_options, recipe.optimiser.optimiser


def find_rows(rows: tuple[Row, ...], names: list[str]) -> tuple[Row, ...]:
    """Some of the rows by name; ValueError for a name that is not there."""
    for name in names:
        find_named("row", name, tuple(row.name for row in rows))
    return tuple(row for row in rows if row.name in names)
