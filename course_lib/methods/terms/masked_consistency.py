"""MIC's masked consistency: the network has to find the classes of hidden parts of a target picture from what is round them.

Letters: x_T a target picture, y~ the teacher's labels for it and q their weights; M the cells that stay visible, r the share
that is hidden; P(x) the network's prediction.

    x_M = M * colours(x_T),   L_M = 1/(N H W) sum_p q_p CE(P(x_M)_p, y~_p)

over hidden and visible pixels alike. The teacher has seen the whole picture; its labels are those of the method's own step.
"""

from dataclasses import dataclass

from torch import nn

from course_lib.data import NORMALISATIONS
from course_lib.data.colours import Photometric
from course_lib.masks import MaskSettings, block_mask
from course_lib.methods.step import Losses, Passes, Step
from course_lib.methods.supervision import recoloured, weighted_loss
from course_lib.methods.terms.base import Term, TermSettings
from course_lib.networks import Prediction
from course_lib.typed import SHARE, checked, in_range


@dataclass(frozen=True)
class MaskedConsistencySettings(TermSettings):
    """Source: MIC (Hoyer et al., CVPR 2023), released code."""

    weight: float = 1.0  # [code] lambda_M
    masks: MaskSettings = MaskSettings()
    masked_photometric: Photometric = "jitter"  # [code] a draw of its own
    masked_blur: float = 1.0  # [code] its probability

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, masked_blur=SHARE)
        checked(Photometric, self.masked_photometric, "masked_photometric")


class MaskedConsistency(Term):
    """Labels for hidden parts of target pictures, for methods with a teacher.

    It has no state: masks and colours depend on the step's numbers.
    """

    name = "masked_consistency"
    Settings = MaskedConsistencySettings
    reads, taught = ("teacher",), True

    def __init__(self, segmenter: nn.Module, settings: MaskedConsistencySettings | None = None) -> None:
        super().__init__(segmenter, settings)
        self.normalisation = NORMALISATIONS[segmenter.normalisation]

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        s, (x_T, y, q, numbers, *_) = self.settings, step.taught
        N, size = len(x_T), tuple(x_T.shape[-2:])
        x = recoloured(x_T, self.normalisation, s.masked_photometric, s.masked_blur, numbers)
        M = block_mask(N, size, s.masks.mask_cell, s.masks.mask_hidden, x.device, numbers)
        P_M = self.segmenter(x * M[:, None])                                                 # P(x_M)
        return {"consistency": weighted_loss(P_M, y, q)}                                     # L_M

    def passes(self) -> Passes:
        return Passes(trained=1, frozen=0)
