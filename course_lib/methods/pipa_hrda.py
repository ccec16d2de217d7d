"""PiPa on HRDA (Chen et al., ACM MM 2023): `pipa_daformer` at two resolutions.

    the step         HRDA's
    pixel contrast, patch contrast   on the features of the halved picture, of a window the halved window
"""

from course_lib.methods.hrda import HRDA


class PiPaHRDA(HRDA):
    """HRDA, with contrast of source pixels and of two windows of a target picture."""

    name = "pipa-hrda"
    own_terms = (*HRDA.own_terms, "pixel_contrast", "patch_contrast")
