"""MIC (Hoyer et al., CVPR 2023): HRDA, or DAFormer, and a prediction of hidden parts from what is round them.

Letters: as in `hrda`; M the cells of a target picture that stay visible.

    the step               HRDA's:  L_S + L_FD + L_mix
    masked consistency     L_M = 1/(N H W) sum_p q_p CE(P(M x_T)_p, y~_p)            methods/terms/masked_consistency.py

The labels y~ and their weights q are those of the step: one pass of the teacher serves both L_mix and L_M.
"""

from course_lib.methods.hrda import HRDA


class MIC(HRDA):
    """HRDA, and labels for hidden parts of target pictures.

    On DAFormer: with its network (`recipes/papers/mic.py`).
    """

    name = "mic"
    own_terms = (*HRDA.own_terms, "masked_consistency")
