"""CLUDA on HRDA (Vayyat et al., arXiv 2022): HRDA's constants and a contrast between its two resolutions.

Sources: [code] the authors' released behaviour, [abs] the abstract. Other than released: what the file of the term names, and
the last network is kept (there the best on the test pictures).
"""

from course_lib.recipes.paper import Paper, PublishedScore, Row, labels_alone
from course_lib.recipes.papers import hrda

# logits are brought to size before they are fused, where HRDA fuses them first; the row without contrast has that, too
FUSED_LATE = {"network_options": hrda.PUBLISHED["adapt"]["network_options"] | {"upsample_first": True}}  # [code]
PUBLISHED = {"adapt": hrda.PUBLISHED["adapt"] | FUSED_LATE}
# ours, not compared with others
SMALL = {
    "adapt": hrda.SMALL["adapt"] | {"terms.resolution_contrast.grid": 16, "terms.resolution_contrast.omega_width": 64},
}  # fmt: skip


def rows(source: str, scale: str, start: tuple[str, ...], same: tuple[str, ...]) -> tuple[Row, ...]:
    """Source-only; without contrast, which is HRDA; with it; without a temperature's effect."""
    return (
        labels_alone(same),
        Row("without contrast", "cluda-hrda", ("terms=-resolution_contrast",), explanation="HRDA"),
        Row("with contrast", "cluda-hrda", explanation="the whole method: cosines, no temperature"),
        Row("temperature 0.1", "cluda-hrda", ("terms.resolution_contrast.contrast_temperature=0.1",),
            explanation="near wrong cells count most"),
    )  # fmt: skip


SCORES = {
    "GTA5": (PublishedScore("paper", "single", "the paper's abstract", {"19": 74.4}),),
    "SYNTHIA": (PublishedScore("paper", "single", "the paper's abstract", {"16": 67.2}),),
}

PAPER = Paper(
    name="cluda-hrda",
    reference="Vayyat et al., arXiv 2022",
    summary="HRDA with contrast between the halved picture and its window",
    stages={"adapt": "cluda-hrda"},
    published=PUBLISHED,
    small=SMALL,
    pairs=hrda.PAIRS,
    rows=rows,
    scores=SCORES,
    released_test_size=(1024, 2048),
)
