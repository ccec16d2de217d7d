"""ProCA (Jiang et al., ECCV 2022): source -> prototypes (-> first-labels) -> contrast -> labels -> self-training -> test.

first-labels are there where the contrast reads label files (`target_labels=static`) and does not label by itself.
Sources: [code] the authors' released behaviour, [paper] the paper, [slides] the seminar.
"""

from dataclasses import replace

from course_lib.labels import SPACES
from course_lib.recipes.paper import Paper, PublishedScore, Row, Stage, first_row, per_class
from course_lib.recipes.recipe import Recipe

PUBLISHED = {
    "*": dict(
        sampling="class-balanced",  # [code] FADA's
        network_options={"form": "proca", "imagenet": True},
        batch_size=8,  # [code] over 4 GPUs
        lr=5e-4,  # [code]
        steps=90_000,  # [code]
        schedule_steps=90_000,  # [code]
        save_every=1_000,  # [code]
        label_share=0.4,  # [code] 1 - THRESHOLD_PERCENT
        cap=0.9,  # [code]
    ),
    "source": dict(
        steps=20_000,  # [code]
        schedule_steps=31_250,  # [code]
        lambda_lovasz=0.75,  # [code]
    ),
    "contrast": dict(
        batch_size=4,  # [code] 4 of each domain
        photometric="weak",  # [code] jitter, grey, blur
        lr=2.5e-4,  # [code]
        # [code] cosines divided by 50, raw logits compared with 0.9 (SDCA: probabilities), strict mean fed by both domains
        score="logit",
        lambda_lovasz=0.75,  # [code]
    ),
    "self-training": (
        _SELF_TRAINING := dict(
            target_size=(1024, 2048),  # [code]
            scale=(0.5, 1.5),  # [code]
            crop=(512, 1024),  # [code]
            flip=True,  # [code]
            target_photometric="weak",  # [code]
            test_size=(1024, 2048),  # [code] of the final network
            lambda_source=0.0,  # [code]
            self_training_from="own",  # [code] from ImageNet again
        )
    ),
    "labels": _SELF_TRAINING | dict(test_size=(512, 1024)),  # [code] the network's input; labels at the picture's size
}
# chosen on development seeds: benchmarks/results/proca_design.md
SMALL = {
    "*": dict(
        # the stages are released with jitter, blur and grey; here the augmentation that every row of the table gets
        photometric="strong",
        target_photometric="strong",
        start_photometric="strong",
        label_share=0.4,
        cap=0.9,
    ),
    "contrast": dict(
        lambda_feat=0.1,
        lambda_out=0.1,
        balanced=True,  # the published mean over pixels loses mIoU here, whatever its weight
        contrast_temperature=0.1,
        target_labels="static",  # labels of the network in training end in collapse
    ),
    "labels": (_AFTER := dict(lambda_source=1.0, self_training_from="contrast")),
    "self-training": _AFTER,
}
PAIRS = {
    "synthia_cityscapes": {"*": dict(source_size=(760, 1280))},  # [code]
    # label files hold a network to what it knew when it wrote them: its source stage has to be over (proca_design.md)
    "ministreet": {"*": dict(start_steps=700)},
}


def plan(recipes: dict[str, Recipe]) -> list[Stage]:
    """The stages, from their settings."""
    source, contrast, labels, after = (recipes[name] for name in ("source", "contrast", "labels", "self-training"))
    begins = after.settings.self_training_from
    first = "first-labels" if contrast.streams["target"].labels == "files" else None
    return [
        Stage("source", "start" if source.has_start else "train", source),
        Stage("prototypes", "prepare", contrast, network="source"),
        *([Stage(first, "labels", labels, network="source")] if first else []),
        Stage("contrast", "train", contrast, network="source", prepared="prototypes", labels=first),
        Stage("labels", "labels", labels, network="contrast"),
        Stage("self-training", "train", after, network=None if begins == "own" else begins, labels="labels"),
        Stage("test", "test", after, network="self-training", multiscale=True),
    ]


def shares(recipes: dict[str, Recipe], steps: int, part: str | None = None) -> dict[str, int]:
    """Of a small pair: half the steps each; all for the contrast where it ends the plan."""
    first = steps if part == "contrast" else steps // 2
    return {"contrast": max(1, first), "self-training": max(1, steps - first)}


def straight_to_labels(stages: list[Stage]) -> list[Stage]:
    """Without the contrast: the source's network writes the labels, as the paper has Ada-ST alone."""
    left = [stage for stage in stages if stage.name not in ("prototypes", "first-labels", "contrast")]
    return [replace(stage, network="source") if stage.network == "contrast" else stage for stage in left]


def without_contrast(stages: list[Stage]) -> list[Stage]:
    """With source-only training in place of the contrast: what Ada-ST does alone, at equal steps."""

    def plain(stage: Stage) -> Stage:
        return replace(stage, recipe=stage.recipe.of("source-only"), prepared=None, labels=None)

    left = [stage for stage in stages if stage.name not in ("prototypes", "first-labels")]
    return [plain(stage) if stage.name == "contrast" else stage for stage in left]


def contrast_alone(stages: list[Stage]) -> list[Stage]:
    """The plan that ends with the contrast, and scores its network."""
    left = [stage for stage in stages if stage.name not in ("labels", "self-training", "test")]
    return [*left, Stage("test", "test", left[-1].recipe, network="contrast")]


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Source-only; contrast among features, outputs, both; class-wise self-training; how prototypes are kept.

    The numbers are the paper's for GTA5; for other sources the slides have none.
    """
    full, contrast = scale == "published", dict(plan="proca", part="contrast")
    half = "half the steps {}, class-wise pseudo-labels, then half the steps self-training"
    found = (
        replace(first_row("proca", scale, same), published=37.3),
        Row("F", "proca", ("lambda_out=0",), **contrast, published=47.9, explanation="contrast among features"),
        Row("O", "proca", ("lambda_feat=0",), **contrast, published=48.4, explanation="contrast among outputs"),
        Row("F+O", "proca", **contrast, published=48.8,
            explanation="both; prototypes fed by both domains (the paper's mixed)"),
        Row("Ada-ST", "self-training", plan="proca", part="straight to labels" if full else "without contrast", published=43.9,
            explanation="source stage, class-wise pseudo-labels, self-training, as released" if full
            else half.format("source-only")),
        Row("F+O, Ada-ST", "self-training", plan="proca", published=55.1,
            explanation="all stages as released" if full else half.format("contrast")),
        Row("F+O, Ada-ST, MST", "self-training", network_of="F+O, Ada-ST", multiscale=True, published=56.3,
            control="F+O, Ada-ST", explanation="the network of the row above, tested at six scales"),
        Row("F+O, fixed prototypes", "proca", ("rule=fixed",), **contrast, published=47.8,
            explanation="prototypes stay those of the common start"),
        Row("F+O, source prototypes", "proca", ("feed=source",), **contrast, published=48.3,
            explanation="prototypes fed by the source alone"),
    )  # fmt: skip
    if not full:
        found += (
            Row("F+O, mean over pixels", "proca", ("balanced=no",), **contrast,
                explanation="as published: every pixel counts alike, not every class"),
            Row("source-only, no augmentation", "source-only", start, control="source-only",
                explanation="below the first row by what augmentation brings"),
        )  # fmt: skip
    return found if source == "GTA5" else tuple(replace(row, published=None) for row in found)


SCORES = {
    "GTA5": (
        PublishedScore("paper", "single", "seminar slides, the paper's ablation: F, O, Ada-ST", {"19": 55.1}),
        PublishedScore("paper", "multi-scale", "seminar slides, the paper's ablation: F, O, Ada-ST, MST", {"19": 56.3}),
        PublishedScore("released", "single", "the authors' README", {"19": 55.1}),
        PublishedScore(
            "released", "multi-scale", "log in the authors' README", {"19": 56.30},
            per_class(SPACES["cityscapes19"].classes, "91.93 48.44 87.27 41.47 31.80 41.92 47.89 36.66 86.46 42.28 84.72 68.35 "
                                                      "43.05 88.10 39.64 48.78 40.57 43.56 56.88"),
        ),
    ),
    "SYNTHIA": (
        PublishedScore("paper", "", "the paper's introduction; its list of contributions says 52.6", {"16": 53.0}),
        PublishedScore("released", "single", "the authors' README", {"16": 52.0}),
        PublishedScore(
            "released", "multi-scale", "log in the authors' README; mIoU-13 is the mean of its 13 classes",
            {"16": 52.96, "13": 59.58},
            per_class(SPACES["synthia16"].classes, "90.53 52.12 84.57 29.20 3.28 40.27 37.37 27.26 86.41 85.86 69.82 28.66 "
                                                   "88.67 53.67 14.84 54.81"),
        ),
    ),
}  # fmt: skip

PAPER = Paper(
    name="proca",
    reference="Jiang et al., ECCV 2022",
    summary="prototype contrast, class-wise pseudo-labels, self-training",
    stages={"source": "source-only", "contrast": "proca", "labels": "self-training", "self-training": "self-training"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    plan=plan,
    shares=shares,
    parts={"contrast": contrast_alone, "straight to labels": straight_to_labels, "without contrast": without_contrast},
    rows=rows,
    scores=SCORES,
    released_test_size=(1024, 2048),
)
