"""SegSDF (Hoyer et al., CVPR 2021): depth -> adapt -> test.

Sources: [code] the authors' released behaviour, [paper] the paper, [readme] the authors' page. Other than released: depth is
given, so the first stage learns it from depth files and not from video (300,000 steps there); the rate falls as a power of the
steps that are left (there to a tenth at 30,000); gradients are not clipped (there at 10); pictures are normalised as ImageNet's
(there (x - 0.45) / 0.225); the stage of depth has the rates of the second one (there Adam with 1e-4, then 1e-5 and a
feature distance); ResNet-101 is dilated from layer 3 on, to stride 8 (there in the last layer alone, stride 16); the last
network is scored (there the best on the validation labels, at 1024x512 against labels of that size, which is another score).
"""

from dataclasses import replace

from course_lib.recipes.paper import Paper, Row, Stage
from course_lib.recipes.papers import dacs
from course_lib.recipes.recipe import Recipe

DEEPLAB = {"of": "deeplab_v2", "form": "proca", "bn": "train", "imagenet": True}  # torchvision's ResNet-101, dilated
PUBLISHED = {
    "*": dict(
        network="multitask",
        source_size=(512, 1024),  # [code]
        target_size=(512, 1024),  # [code]
        test_size=(512, 1024),  # [code]
        crop=(512, 512),  # [code]
        flip=True,  # [code]
        batch_size=2,  # [code] 2 labelled ones and 2 others
        lr=1e-3,  # [code] of the encoder, heads 1e-2
        head_factor=10.0,  # [code]
        weight_decay=5e-4,  # [code]
        steps=40_000,  # [code]
        schedule_steps=40_000,  # ours: the rate ends at 0
    ),
    "depth": dict(network_options=DEEPLAB | {"tasks": "depth"}, select="last"),
    "adapt": dict(network_options=DEEPLAB | {"tasks": "both"}, select="last"),
}
# ours: the course's encoder with its ImageNet weights, all of which learn; decoders without statistics of batches
INSIDE = {
    "of": "efficientnet_lite0", "norm": "frozen", "frozen_blocks": 0, "decoder_width": 64, "decoder_norm": "group",
    "rates": [1, 2],
}  # fmt: skip
SMALL = {
    # the stage of depth is the start: as many steps of classes as the others have, of their start (400) and after it (300)
    "*": dict(network="multitask", start_steps=0, steps=700),
    "depth": dict(
        network_options=INSIDE | {"tasks": "depth"}, select="last", photometric="strong", target_photometric="strong"
    ),
    "adapt": dacs.SMALL["adapt"]  # as DACS and ClassMix: the weight of a label is that of its pixel
    | dict(
        network_options=INSIDE | {"tasks": "both"},
        share_after=False,
        # outputs for classes are untrained at first, and a threshold for each class takes half of the labels all the same
        ramp_steps=400,
    ),
}


def plan(recipes: dict[str, Recipe]) -> list[Stage]:
    """The stages, from their settings."""
    depth, adapt = recipes["depth"], recipes["adapt"]
    return [
        Stage("depth", "train", depth),
        Stage("adapt", "train", adapt, network="depth"),
        Stage("test", "test", adapt, network="adapt"),
    ]


def of_labels(stages: list[Stage]) -> list[Stage]:
    """Classes alone, from labels alone, beginning with what depth has taught: transfer."""
    alone = {"network_options": {"tasks": "segmentation"}, "lambda_mix": 0.0, "lambda_depth": 0.0}
    depth, *others = stages
    return [depth, *(replace(stage, recipe=stage.recipe.updated(alone)) for stage in others)]


def shares(recipes: dict[str, Recipe], steps: int, part: str | None = None) -> dict[str, int]:
    """Of a small pair: every row trains the classes for all of the steps, and depth, where it does, for as many more."""
    return {"depth": steps, "adapt": steps}


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Labels alone; + transfer; + multi-task; + DepthMix; and mixing by classes in its place."""
    short = () if scale == "published" else ("start_steps=400", "steps=300")
    # as published, over labels alone, though these need one of the network's two tasks
    control = "source-only" if scale == "published" else None
    return (
        Row("source-only", "source-only", (*same, *short, "network_options={'tasks': 'segmentation'}"),
            explanation="the labelled pictures alone"),
        Row("+ transfer", "segsdf", plan="segsdf", part="transfer", control=control,
            explanation="encoder and decoder begin as those of depth"),
        Row("+ multi-task", "segsdf", ("lambda_mix=0",), plan="segsdf", control=control,
            explanation="and learn depth, too, with attention"),
        Row("+ mixing by classes", "segsdf", ("depth_mix=no",), plan="segsdf", control=control,
            explanation="and unlabelled pictures, mixed by classes"),
        Row("+ DepthMix", "segsdf", plan="segsdf", control=control, explanation="mixed by depth: the whole method"),
    )  # fmt: skip


PAPER = Paper(
    name="segsdf",
    reference="Hoyer et al., CVPR 2021",
    summary="depth helps: transfer, a second task, and what is nearer in front",
    stages={"depth": "depth", "adapt": "segsdf"},
    published=PUBLISHED,
    small=SMALL,
    plan=plan,
    shares=shares,
    parts={"transfer": of_labels},
    rows=rows,
    few_labels=True,
)
