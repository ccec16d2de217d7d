"""The losses of AdaptSegNet: a discriminator learns the domain of a prediction, the segmenter is trained against it.

Letters: N images, C classes, (H, W) the image's size, (h, w) the discriminator's output size.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.losses.inputs import full_precision
from course_lib.losses.segmentation import upsample

SOURCE, TARGET = 0.0, 1.0  # the discriminator's targets, as released (the paper's text has them the other way round)

Gan = Literal["vanilla", "least-squares"]


def probabilities(logits: Tensor, size: tuple[int, int] | None = None, align_corners: bool = True) -> Tensor:
    """What the discriminator looks at: softmax(logits) as a C-channel picture, upsampled to `size` when given (`upsample`).

    (N, C, h, w) -> (N, C, *size). Upsampling comes before the softmax, as published. Half precision becomes float32
    first.
    """
    logits = full_precision(logits)
    return torch.softmax(logits if size is None else upsample(logits, size, align_corners), dim=1)


def domain_loss(score: Tensor, domain: float, gan: Gan = "vanilla") -> Tensor:
    """The loss of the discriminator's `score` map for the label `domain`, averaged over the map.

        vanilla        L = - mean_p [ z log s(D_p) + (1 - z) log(1 - s(D_p)) ],   s the logistic function, z the domain
        least-squares  L = mean_p (D_p - z)^2

    score (N, 1, h, w): raw discriminator outputs, no sigmoid. domain: `SOURCE` (0) or `TARGET` (1).
    With the true domain it trains the discriminator (eq. 2 of the paper); with the wrong one, SOURCE for a target
    prediction, it is the segmenter's adversarial loss (eq. 4). Maps of several processes are of one size: the mean of their
    losses is the loss of the whole batch. Half precision is computed in float32.
    No pictures: 0.

    >>> round(domain_loss(torch.zeros(1, 1, 4, 8), TARGET).item(), 4)  # cannot tell: ln 2
    0.6931
    """
    if domain not in (SOURCE, TARGET):
        raise ValueError(f"domain is {domain!r}; it must be SOURCE ({SOURCE}) or TARGET ({TARGET}).")
    score = full_precision(score)
    wanted = torch.full_like(score, domain)
    if not score.numel():
        return score.sum()  # a mean over nothing is NaN
    if gan == "vanilla":
        return F.binary_cross_entropy_with_logits(score, wanted)
    if gan == "least-squares":
        return F.mse_loss(score, wanted)
    raise ValueError(f"gan is {gan!r}; choose 'vanilla' (cross-entropy) or 'least-squares'.")
