"""PiPa on DAFormer (Chen et al., ACM MM 2023): DAFormer's constants, longer and with larger crops, and two contrastive terms.

Sources: [code] the authors' released behaviour, [readme] the authors' page. Other than released: what the terms' files name,
and L_S as in `daformer`. The start as for DAFormer.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import daformer

STEPS = {"steps": 60_000, "schedule_steps": 60_000, "save_every": 6_000}  # [code]
COLOURS = {"terms.patch_contrast.patch_photometric": "mild", "terms.patch_contrast.patch_blur": 0.0}  # [code] of the windows
PUBLISHED = {
    "adapt": daformer.PUBLISHED["adapt"] | STEPS | COLOURS | dict(
        crop=(640, 640),  # [code]
        target_size=(640, 1280),  # [code]
        test_size=(640, 1280),  # [code]
        target_margins=(15 / 640, 120 / 640, 0.0),  # [code] DAFormer's rows, of larger crops
        rare_temperature=0.1,  # [code]
    ),
}  # fmt: skip
# ours, not compared with others: a tenth of the published cells
TERMS = {
    "terms.pixel_contrast.hidden": 64,
    "terms.pixel_contrast.out": 64,
    "terms.pixel_contrast.anchors": 512,
    "terms.pixel_contrast.per_class": 50,
    "terms.pixel_contrast.least": 20,
    "terms.patch_contrast.first_step": 0,
    "terms.patch_contrast.pool": 1,
    "terms.patch_contrast.hidden": 64,
    "terms.patch_contrast.embedding": 64,
    "terms.patch_contrast.queue_cells": 200,
}
SMALL = {"adapt": daformer.SMALL["adapt"] | TERMS}
PAIRS = daformer.PAIRS


def rows(
    source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...], method: str = "pipa-daformer"
) -> tuple[Row, ...]:
    """Source-only; without contrast; each contrast; both."""
    return (
        labels_alone(same),
        Row("without contrast", method, ("terms=-pixel_contrast,patch_contrast",), explanation="the method below"),
        Row("pixels", method, ("terms=-patch_contrast",), explanation="cells of the source, by their labels"),
        Row("patches", method, ("terms=-pixel_contrast",), explanation="two windows of a target picture"),
        Row("both", method, explanation="the whole method"),
    )


SCORES = {
    "GTA5": (PublishedScore("paper", "single", "the authors' README", {"19": 71.7}),),
    "SYNTHIA": (PublishedScore("paper", "single", "the authors' README", {"16": 63.4}),),
}

PAPER = Paper(
    name="pipa-daformer",
    reference="Chen et al., ACM MM 2023",
    summary="DAFormer with contrast of pixels on the source and of two windows on the target",
    stages={"adapt": "pipa-daformer"},
    published=PUBLISHED,
    small=SMALL,
    pairs=PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(640, 1280),
)
