"""What a pair of domains fixes and what a paper publishes: the forms that the files of `pairs/` and `papers/` fill in.

A layer is {stage: {key: value}}; "*" means all stages that know the key. From the lowest to the highest, each replacing
settings of the one before:

    defaults of the Settings < pair < paper at the pair's scale < paper for this pair < recipe file < --set
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from course_lib.labels import label_space
from course_lib.recipes.recipe import Recipe, Size

Layer = Mapping[str, Mapping[str, Any]]


class Counts(NamedTuple):
    """How many pictures there are."""

    source: int
    target: int
    validation: int


@dataclass(frozen=True)
class PairSettings:
    """What a pair of domains fixes, whatever the method."""

    name: str
    scale: Literal["published", "small"]  # published: each paper's own stages and schedule; small: all methods share the steps
    values: Mapping[str, Any]  # of a recipe
    source: str  # as papers name it in their tables: GTA5, SYNTHIA, ...
    pictures: Counts | None = None  # of complete data
    source_layout: str | None = None  # the data set's folder below --data-root; None: it is not looked for there
    # few labels in one domain: how many pictures are labelled where the command does not say; None: two domains
    labels: str | None = None
    made: bool = False  # whether commands make these pictures where none are given


@dataclass(frozen=True)
class Stage:
    """One step of a plan: what it does, with which constants, on what earlier stages left."""

    name: str
    kind: Literal["start", "prepare", "train", "labels", "choose", "test"]
    recipe: Recipe
    network: str | None = None  # the stage whose network it begins with, labels with, or scores; None: the recipe's own start
    prepared: str | None = None  # the stage that has done `Method.prepare` for it
    labels: str | None = None  # the stage whose pseudo-labels it learns from
    branches: tuple[str, ...] = ()  # of "choose": the trained stages of which the better one on held-out pictures stays
    multiscale: bool = False  # of a test
    trained: str | None = None  # the folder in which it has been trained already, for several plans; only read here


Part = Callable[[list[Stage]], list[Stage]]  # a plan -> a plan that leaves some of its stages out


@dataclass(frozen=True)
class Row:
    """One row of a table: a method with settings, or another row's network scored in another way."""

    name: str
    method: str
    overrides: tuple[str, ...] = ()
    network_of: str | None = None  # score the network of this row instead of training one
    explanation: str = ""
    control: str | None = None  # the row that its gain is taken from
    compute_of: "Row | None" = None  # train as many steps as cost what this row's training costs; a method, at most that
    plan: str | None = None  # the paper whose stages are run in place of one training: in equal shares, or as published
    part: str | None = None  # of these stages (Paper.parts)
    multiscale: bool = False  # score at six scales, plain and mirrored
    published: float | None = None  # mIoU in % that the paper's table has in this place


@dataclass(frozen=True)
class PublishedScore:
    """One published result; `iou` by class name, `miou` by "19", "16", "13", both where they were given."""

    column: str  # the head of its column
    test: str  # "single", "multi-scale"; "" where it is not said
    source: str  # where the numbers were read
    miou: dict[str, float] = field(default_factory=dict)
    iou: dict[str, float] = field(default_factory=dict)


def per_class(classes: tuple[str, ...], values: str) -> dict[str, float]:
    """One number for each class, from a text.

    >>> per_class(("road", "car"), "86.5 73.7")
    {'road': 86.5, 'car': 73.7}
    """
    return dict(zip(classes, map(float, values.split()), strict=True))


def things(space: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """The train ids of classes of a label space, for the feature distance.

    >>> things("synthia16", ("person", "train", "bicycle"))  # the space has no train
    (10, 15)
    """
    return tuple(place for place, name in enumerate(label_space(space).classes) if name.lower().replace("_", " ") in names)


def first_row(paper: str, scale: str, same: tuple[str, ...]) -> Row:
    """Source-only, with the start and the augmentation of the other rows; at published scale the plan's source stage."""
    if scale == "published":
        return Row("source-only", "source-only", plan=paper, part="source", explanation="the source stage alone")
    return Row("source-only", "source-only", same, explanation="source labels alone, augmented like the others")


def labels_alone(same: tuple[str, ...], explanation: str = "source labels alone") -> Row:
    """Source-only of a plan without a source stage, whose network others would take: a training of its own, which learns and is
    augmented as the others."""
    return Row("source-only", "source-only", same, explanation=explanation)


def source_alone(stages: list[Stage]) -> list[Stage]:
    """A plan's first stage, and its network's scores: the part "source" of every plan."""
    source = stages[0]
    return [source, Stage("test", "test", source.recipe, network=source.name)]


def one_training(recipes: dict[str, Recipe]) -> list[Stage]:
    """The plan of a method without stages: train, then test."""
    (name, recipe), *_ = recipes.items()  # a common start, where the recipe has one, is trained inside
    return [Stage(name, "train", recipe), Stage("test", "test", recipe, network=name, multiscale=True)]


@dataclass(frozen=True)
class Paper:
    """What one paper publishes, and what was found for pairs of another size."""

    name: str  # of its method
    reference: str
    summary: str  # of one line, for a table
    stages: Mapping[str, str]  # the settings of its plan by stage -> the method that the stage runs
    borrowed: tuple[str, ...] = ()  # methods of its stages whose own constants are not this paper's
    published: Layer = field(default_factory=dict)
    small: Layer = field(default_factory=dict)  # for pairs of scale "small"; our constants
    pairs: Mapping[str, Layer] = field(default_factory=dict)  # for named pairs
    plan: Callable[[dict[str, Recipe]], list[Stage]] = one_training
    # of a small pair, whose stages share the steps: (recipes by stage, steps, part) -> steps by stage
    shares: Callable[[dict[str, Recipe], int, str | None], dict[str, int]] = lambda recipes, steps, part: {}
    parts: Mapping[str, Part] = field(default_factory=dict)
    # of the paper's ablation: (source, scale, settings of the start, and with its augmentation) -> rows
    rows: Callable[[str, str, tuple[str, ...], tuple[str, ...]], tuple[Row, ...]] | None = None
    scores: Mapping[str, tuple[PublishedScore, ...]] = field(default_factory=dict)  # by source
    label_kinds: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # kind -> density and accuracy in %
    released_test_size: Size | None = None  # of the network's input, as the authors score their files
    compared: bool = False  # whether a comparison that names no method has it
    few_labels: bool = False  # of one domain

    @property
    def stage_of(self) -> dict[str, str]:
        """The stage whose settings `uda train METHOD` takes, by method: the last that runs it. Source-only has no paper."""
        return {method: stage for stage, method in self.stages.items() if method not in ("source-only", *self.borrowed)}
