"""What methods and terms do with a picture and its labels: new colours, and the cross-entropy of a whole prediction, with that
of the window which a network of two resolutions has seen in detail.

Letters: N images, (H, W) their size; y labels, q weights of pixels; w the weight of the detail.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.data import colours
from course_lib.data.colours import Photometric
from course_lib.data.transforms import Normalisation
from course_lib.devices import copies_may_run_ahead
from course_lib.losses import cross_entropy
from course_lib.networks.prediction import Box, Boxes, Prediction


def supervised_loss(P: Prediction, label: Tensor) -> Tensor:
    """`cross_entropy` of a prediction; with a detail, of its window too:  (1 - w) CE(fused, y) + w CE(detail, y in the box).

    label (N, H, W) of the picture's size. w is the detail's `weight`.

    Source: HRDA (ECCV 2022), the loss of the source.
    """
    return _with_detail(P, lambda logits, box: cross_entropy(logits, _within(label, box), align_corners=P.align_corners))


def weighted_loss(P: Prediction, label: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy where each pixel has a weight, the mean over ALL pixels:  1/(N H W) sum_p q_p CE(P_p, y_p).

    label (N, H, W) of the picture's size, 255 counts as 0; weight q (N, H, W). A detail as in `supervised_loss`, its weights
    those of its window.

    Source: DACS (WACV 2021), L_mix, released code; HRDA (ECCV 2022), for the mixed pictures.
    """

    def part(logits: Tensor, box: Box | Boxes | None) -> Tensor:
        losses = cross_entropy(logits, _within(label, box), reduction="none", align_corners=P.align_corners)
        return (_within(weight, box) * losses).mean()

    return _with_detail(P, part)


def _with_detail(P: Prediction, loss: Callable[[Tensor, Box | Boxes | None], Tensor]) -> Tensor:
    if P.detail is None:
        return loss(P.logits, None)
    w = P.detail.weight
    return (1 - w) * loss(P.logits, None) + w * loss(P.detail.logits, P.detail.box)


def _within(maps: Tensor, box: Box | Boxes | None) -> Tensor:
    return maps if box is None else box.of(maps)


@torch.no_grad()
def recoloured(
    image: Tensor, normalisation: Normalisation, photometric: Photometric, blur: float, numbers: torch.Generator
) -> Tensor:
    """Normalised pictures (N, 3, H, W) with other colours, and blurred with the probability `blur`; drawn for the batch of all
    processes."""
    if photometric == "none" and blur == 0:
        return image
    N = len(image)
    drawn = colours.draw_mixed(photometric, blur, ranks.count() * N, numbers)
    own = drawn[ranks.rank() * N : (ranks.rank() + 1) * N]
    place = image.device if copies_may_run_ahead(image.device) else "cpu"  # a change of hue has a copy that runs ahead
    pictures = normalisation.denormalise(image).to(place)                                            # uint8 RGB
    changed = torch.stack([colours.apply(picture, changes) for picture, changes in zip(pictures, own)])
    return torch.empty_like(image).copy_(normalisation.normalise(changed))  # in the memory order of `image`
