"""RIST (Teh et al., CRV 2022): GIST's stages, each on labels or on pseudo-labels by chance; the constants are GIST's.

    supervised -> (labelled-k, or labels-k -> unlabelled-k) for k = 1 ... rounds -> test
"""

from course_lib.recipes.paper import Paper
from course_lib.recipes.papers import gist

PAPER = Paper(
    name="rist",
    reference="Teh et al., CRV 2022",
    summary="stages on labels or on pseudo-labels by chance",
    stages=gist.TRAINED | {"draw": "rist"},
    borrowed=gist.BORROWED,
    published=gist.PUBLISHED,
    small=gist.SMALL,
    pairs=gist.PAIRS,
    plan=gist.drawn_plan,
    shares=gist.shares(branches=1),
    rows=gist.rows,
    few_labels=True,
)
