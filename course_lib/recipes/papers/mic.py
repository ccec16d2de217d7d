"""MIC (Hoyer et al., CVPR 2023): HRDA's constants and masks.

Sources: [code] the authors' released behaviour, [abs] the abstract. The start as for DAFormer. On DAFormer in place of HRDA:
the row "on DAFormer" of its ablation.
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import daformer, hrda
from course_lib.recipes.recipe import SIZES, assignment

PUBLISHED = {
    "adapt": hrda.PUBLISHED["adapt"] | {
        "terms.masked_consistency.masks.mask_cell": 64,  # [code] 32 of crops of 512
        "terms.masked_consistency.masks.mask_hidden": 0.7,  # [code]
        "terms.masked_consistency.masked_photometric": "small-jitter",  # [code]
    },
}  # fmt: skip
SMALL = {
    "adapt": hrda.SMALL["adapt"] | {
        # ours: the weight of two that were tried (benchmarks/results/daformer_ministreet_design.md); cells of 16 were equal
        "terms.masked_consistency.masks.mask_cell": 32,  # a quarter of the height
        "terms.masked_consistency.masks.mask_hidden": 0.5,  # ours
        "terms.masked_consistency.weight": 0.3,  # ours
    },
}  # fmt: skip


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Source-only; without masks, which is HRDA; with them; and on DAFormer."""
    one = hrda.rows(source, scale, start, same)[1].overrides
    if scale == "published":  # DAFormer's pictures, crops and margins
        base = daformer.PUBLISHED["adapt"] | (daformer.PAIRS["synthia_cityscapes"]["adapt"] if source == "SYNTHIA" else {})
        sizes = (assignment(key, base[key]) for key in SIZES)
        one += (*sizes, f"target_margins={base['target_margins']}", "rare_crop_pixels=1500",
                "terms.masked_consistency.masks.mask_cell=32")  # fmt: skip
    return (
        labels_alone(same),
        Row("without masks", "mic", ("terms=-masked_consistency",), explanation="HRDA"),
        Row("with masks", "mic", explanation="the whole method"),
        Row("on DAFormer", "mic", one, explanation="masks at one resolution"),
    )


SCORES = {
    "GTA5": (PublishedScore("paper", "single", "the paper's abstract", {"19": 75.9}),),
    "SYNTHIA": (PublishedScore("paper", "single", "the paper's table, as it is quoted", {"16": 67.3}),),
}

PAPER = Paper(
    name="mic",
    reference="Hoyer et al., CVPR 2023",
    summary="HRDA, and labels for hidden parts of target pictures",
    stages={"adapt": "mic"},
    published=PUBLISHED,
    small=SMALL,
    pairs=hrda.PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(1024, 2048),
)
