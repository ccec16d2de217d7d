"""SePiCo (Xie et al., TPAMI 2023): cells of both domains near to their class, as the source has it.

Letters: as in `dacs`; f_c the share of class c among the source's pixels, T a temperature.

    source pictures         as in `daformer`, by rare classes                          data/sampling.py
    the step                that of DACS:  L_S + L_mix
    distribution contrast   L_k(z_S, y_S) + L_k(z_T, y~) + lambda_R R                  methods/terms/distribution_contrast.py
    the network             DAFormer's, or DeepLabV2

No feature distance.
"""

from course_lib.methods.dacs import DACS


class SePiCo(DACS):
    """DACS, and cells of both domains near to their class in the source: its mean, its centroids or its distribution."""

    name = "sepico"
    own_terms = ("distribution_contrast",)
