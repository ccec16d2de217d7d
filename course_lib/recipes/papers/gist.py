"""GIST (Teh et al., CRV 2022): stages on labels or on pseudo-labels, the better one on held-out labelled pictures.

    supervised -> (labels-k -> labelled-k, unlabelled-k -> choose-k) for k = 1 ... rounds -> test

Sources: [abs] the abstract. Stage lengths and rates are not given where we looked: those of the pair.
"""

from collections.abc import Callable
from dataclasses import replace

from course_lib.data.sampling import SeedStream, mixed_seed
from course_lib.recipes.paper import Paper, Part, PublishedScore, Row, Stage, labels_alone
from course_lib.recipes.papers import dacs
from course_lib.recipes.recipe import Recipe

PUBLISHED = {
    "*": dict(
        # [abs] DeepLabV2 from COCO, which cannot be shipped: "network_options={'imagenet': 'resnet101COCO-41f33a49.pth'}"
        network_options={"form": "adaptsegnet_single", "imagenet": True},
        crop=(512, 512),  # ours, as ClassMix's: of pictures at 1024x512
    ),
    "labelled": (_STAGE := dict(
        steps=10_000,  # ours
        schedule_steps=10_000,  # ours
    )),
    "unlabelled": _STAGE,
    "labels": dict(
        one_threshold=0.0,  # ours: every pixel has a label, argmax
    ),
}
SMALL = {
    "*": dict(photometric="strong", target_photometric="strong", start_photometric="strong"),
    "labels": PUBLISHED["labels"],
}
PAIRS = {
    "ministreet_few_labels": {"*": dict(network_options=dacs.FREE)},
    "camvid_few_labels": {"*": dict(network_options=dacs.FREE | {"norm": "frozen"})},
}
TRAINED = {"supervised": "supervised", "labels": "self-training", "labelled": "supervised", "unlabelled": "self-training"}
BORROWED = ("supervised", "self-training")


def plan(recipes: dict[str, Recipe]) -> list[Stage]:
    """The stages; both branches of a round begin with the network that was chosen before."""
    stages, network = first(recipes), "supervised"
    for k in range(1, recipes["choose"].settings.rounds + 1):
        branches = (f"labelled-{k}", f"unlabelled-{k}")
        stages += labelling(k, recipes, network)
        stages.append(on_labels(k, recipes, network))
        stages.append(on_pseudo_labels(k, recipes, network))
        network = f"choose-{k}"
        stages.append(Stage(network, "choose", recipes["choose"], branches=branches))
    return [*stages, Stage("test", "test", recipes["unlabelled"], network=network)]


def drawn_plan(recipes: dict[str, Recipe]) -> list[Stage]:
    """RIST's stages: what a round learns from depends on the seed and on its number alone."""
    stages, network, settings = first(recipes), "supervised", recipes["draw"].settings
    for k in range(1, settings.rounds + 1):
        if mixed_seed(recipes["draw"].seed, SeedStream.DRAWN, k) % 2:
            stages.append(on_labels(k, recipes, network))
        else:
            stages += [*labelling(k, recipes, network), on_pseudo_labels(k, recipes, network)]
        network = stages[-1].name
    return [*stages, Stage("test", "test", recipes["unlabelled"], network=network)]


def first(recipes: dict[str, Recipe]) -> list[Stage]:
    """Supervised training, the common start of a small pair."""
    recipe = recipes["supervised"]
    return [Stage("supervised", "start" if recipe.has_start else "train", recipe)]


def labelling(k: int, recipes: dict[str, Recipe], network: str) -> list[Stage]:
    """The stage that labels the other pictures with the network of the round before."""
    return [Stage(f"labels-{k}", "labels", recipes["labels"], network=network)]


def on_labels(k: int, recipes: dict[str, Recipe], network: str) -> Stage:
    """The round's training on labels."""
    return Stage(f"labelled-{k}", "train", _continued(k, recipes, "labelled"), network=network)


def on_pseudo_labels(k: int, recipes: dict[str, Recipe], network: str) -> Stage:
    """The round's training on pseudo-labels."""
    return Stage(f"unlabelled-{k}", "train", _continued(k, recipes, "unlabelled"), network=network, labels=f"labels-{k}")


def _continued(k: int, recipes: dict[str, Recipe], name: str) -> Recipe:
    """A round's batches come after those of the supervised training and of the earlier rounds. Otherwise each round would read
    the same first pictures in the same colours, and the rest of D_U never."""
    supervised, recipe = recipes["supervised"], recipes[name]
    before = supervised.start_steps if supervised.has_start else supervised.loop.steps
    batches = before * supervised.loop.accumulate + (k - 1) * recipe.loop.steps * recipe.loop.accumulate
    return recipe.updated({"first_batch": batches})


def mixed(stages: list[Stage]) -> list[Stage]:
    """FIST: every round on labels and pseudo-labels in a fixed ratio, half and half."""
    found = []
    for stage in stages:
        if stage.kind == "choose" or stage.name.startswith("labelled-"):
            continue
        network = stage.network and stage.network.replace("choose-", "unlabelled-")
        stage = replace(stage, network=network)
        if stage.name.startswith("unlabelled-"):
            stage = replace(stage, recipe=stage.recipe.updated({"lambda_source": 1.0}))
        found.append(stage)
    return found


def shares(branches: int) -> Callable[[dict[str, Recipe], int, str | None], dict[str, int]]:
    """Of a small pair: the rounds share the steps, and the branches of a round those of the round."""

    def share(recipes: dict[str, Recipe], steps: int, part: str | None = None) -> dict[str, int]:
        settings = recipes["choose" if "choose" in recipes else "draw"].settings
        each = max(1, steps // (settings.rounds * (1 if part == "fixed ratio" else branches)))
        return {"labelled": each, "unlabelled": each}

    return share


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Labelled pictures alone; a fixed ratio; by chance; the better one."""
    return (
        labels_alone(same),
        Row("FIST", "gist", plan="gist", part="fixed ratio",
            explanation="a batch of labels and one of pseudo-labels in each step, in stages"),
        Row("RIST", "rist", plan="rist", explanation="stages on labels or on pseudo-labels by chance"),
        Row("GIST", "gist", plan="gist", explanation="stages on labels or on pseudo-labels, the better on held-out pictures"),
    )


SCORES = {
    "Cityscapes": (
        PublishedScore("paper, 1/30", "single", "a leaderboard, from COCO", {"19": 58.70}),
        PublishedScore("paper, 1/8", "single", "a leaderboard, from COCO", {"19": 62.57}),
        PublishedScore("paper, 1/4", "single", "a leaderboard, from COCO", {"19": 65.14}),
    ),
}
PARTS: dict[str, Part] = {"fixed ratio": mixed}
PAPER = Paper(
    name="gist",
    reference="Teh et al., CRV 2022",
    summary="stages on labels or on pseudo-labels, the better one on held-out labelled pictures",
    stages=TRAINED | {"choose": "gist"},
    borrowed=BORROWED,
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    plan=plan,
    shares=shares(branches=2),
    parts=PARTS,
    rows=rows,
    scores=SCORES,
    few_labels=True,
)
