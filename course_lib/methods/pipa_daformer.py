"""PiPa on DAFormer (Chen et al., ACM MM 2023): pixels of a class near to one another, a place the same in two windows.

Letters: as in `daformer`.

    the step         DAFormer's:  L_S + L_FD + L_mix
    pixel contrast   L_pixel on source pictures, by their labels                       methods/terms/pixel_contrast.py
    patch contrast   L_patch on target pictures, by two windows that overlap           methods/terms/patch_contrast.py
"""

from course_lib.methods.daformer import DAFormer


class PiPaDAFormer(DAFormer):
    """DAFormer, with contrast of source pixels and of two windows of a target picture."""

    name = "pipa-daformer"
    own_terms = (*DAFormer.own_terms, "pixel_contrast", "patch_contrast")
