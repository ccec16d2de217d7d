"""How undecided predictions are: a loss that needs no label.

Letters: N images, C classes, (h, w) the network's output size; p = softmax(logits).
"""

import torch
from torch import Tensor

from course_lib.losses.inputs import Reduction, full_precision, mean_or_map


def entropy(logits: Tensor, double_softmax: bool = False, reduction: Reduction = "mean") -> Tensor:
    """The mean entropy of the predictions, a number from 0 (sure) to ln C (knows nothing).

        E = - 1/(N h w) sum_{n,i,j} sum_c p_c log p_c

    logits (N, C, h, w). Half precision and autocast are computed in float32, float64 in float64.
    double_softmax: the released form, - sum_c p_c log softmax(p)_c with the softmax taken twice, as in CCM's
        code. Its range is not 0 to ln C but ln(e + C - 1) - 1 to ln C: 2.03 to 2.94 for 19 classes, and the gradient at a
        sure pixel is a third. (Released too: taken after upsampling to the picture's size; here on the grid it is given.)

    reduction: "none" gives the map (N, h, w) of the entropies. No pictures: 0.

    Source: BiDA (ECCV 2022), part of L_base; CCM (ECCV 2020).

    >>> round(entropy(torch.zeros(1, 19, 2, 2)).item(), 4)  # ln 19
    2.9444
    >>> sure = torch.eye(19)[0].view(1, 19, 1, 1) * 100
    >>> round(entropy(sure).item(), 4), round(entropy(sure, double_softmax=True).item(), 4)
    (0.0, 2.031)
    """
    logits = full_precision(logits)
    p = torch.softmax(logits, dim=1)
    E = -(p * torch.log_softmax(p if double_softmax else logits, dim=1)).sum(dim=1)
    return mean_or_map(E, reduction)
