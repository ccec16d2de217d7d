"""CLUDA on HRDA (Vayyat et al., arXiv 2022): cells of a class are near to one another at two resolutions.

Letters: as in `hrda`; p the softmax of Z_L, the logits of the halved picture; B_k the nine windows of half of a picture,
a quarter apart (multiples of 256 pixels in a crop of 1024).

    the step              HRDA's
    the window            of a mixed picture, from step 12,000 on:  arg max_k mean over B_k of  -sum_c p_c log p_c,
                          for each picture its own                                                      networks/windows.py
    resolution contrast   L on source pictures, and on mixed ones with the weights of their labels
                                                                                   methods/terms/resolution_contrast.py
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from course_lib.methods.dacs import DACSSettings
from course_lib.methods.hrda import HRDA
from course_lib.networks import HRDA as TwoResolutions
from course_lib.networks import Prediction
from course_lib.typed import COUNT, in_range


@dataclass(frozen=True)
class CLUDASettings(DACSSettings):
    """HRDA's, and from which step on the windows of mixed pictures are those of the largest entropy."""

    uncertain_from: int = 12_000  # [code]

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, uncertain_from=COUNT)


class CLUDAHRDA(HRDA):
    """HRDA, and cells of a class near to one another at both resolutions."""

    name = "cluda-hrda"
    Settings = CLUDASettings
    own_terms = (*HRDA.own_terms, "resolution_contrast")

    def __init__(self, segmenter: nn.Module, *rest: Any, **others: Any) -> None:
        super().__init__(segmenter, *rest, **others)
        self.has_windows = isinstance(segmenter, TwoResolutions)  # not without the contrast, on a network of one resolution

    def see_mixed(self, image: Tensor) -> Prediction:
        step, _ = self.place
        if self.has_windows and step >= self.settings.uncertain_from:
            return self.segmenter(image, "uncertain")
        return self.segmenter(image)
