"""CLUDA on HRDA (Vayyat et al., arXiv 2022): cells of a class are near to one another at two resolutions.

    the step              HRDA's
    resolution contrast   L on source pictures, and on mixed ones with the weights of their labels
                                                                                   methods/terms/resolution_contrast.py
"""

from course_lib.methods.hrda import HRDA


class CLUDAHRDA(HRDA):
    """HRDA, and cells of a class near to one another at both resolutions."""

    name = "cluda-hrda"
    own_terms = (*HRDA.own_terms, "resolution_contrast")
