"""PiPa on HRDA (Chen et al., ACM MM 2023): HRDA's constants, longer, and two contrastive terms.

Sources and differences as for `pipa_daformer`.
"""

from functools import partial

from course_lib.recipes.paper import Paper, PublishedScore
from course_lib.recipes.papers import hrda, pipa_daformer

PUBLISHED = {
    "adapt": hrda.PUBLISHED["adapt"] | pipa_daformer.STEPS | pipa_daformer.COLOURS
    | {"terms.patch_contrast.weight": 0.01},  # [code]
}
SMALL = {"adapt": hrda.SMALL["adapt"] | pipa_daformer.TERMS | {"terms.patch_contrast.weight": 0.01}}

SCORES = {
    "GTA5": (PublishedScore("paper", "single", "the authors' README", {"19": 75.6}),),
    "SYNTHIA": (PublishedScore("paper", "single", "the authors' README", {"16": 68.2}),),
}

PAPER = Paper(
    name="pipa-hrda",
    reference="Chen et al., ACM MM 2023",
    summary="HRDA with contrast of pixels on the source and of two windows on the target",
    stages={"adapt": "pipa-hrda"},
    published=PUBLISHED,
    small=SMALL,
    pairs=hrda.PAIRS,
    rows=partial(pipa_daformer.rows, method="pipa-hrda"),
    scores=SCORES,
    released_test_size=(1024, 2048),
)
