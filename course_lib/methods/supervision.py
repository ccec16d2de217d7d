"""What methods and terms do with a picture and its labels: new colours; the cross-entropy of a whole prediction, with that of
the window which a network of two resolutions has seen in detail; the loss of a predicted depth.

Letters: N images, (H, W) their size; y labels, q weights of pixels; w the weight of the detail.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.data import Batch, colours
from course_lib.data.colours import Photometric
from course_lib.data.transforms import Normalisation
from course_lib.devices import copies_may_run_ahead
from course_lib.losses import berhu, cross_entropy
from course_lib.losses.inputs import IGNORE
from course_lib.networks.prediction import Box, Boxes, Prediction


def supervised_loss(P: Prediction, label: Tensor, classes: Tensor | None = None) -> Tensor:
    """`cross_entropy` of a prediction; with a detail, of its window too:  (1 - w) CE(fused, y) + w CE(detail, y in the box).

    label (N, H, W) of the picture's size. w is the detail's `weight`. classes: weights of the classes (C,).

    Source: HRDA (ECCV 2022), the loss of the source.
    """

    def part(logits: Tensor, box: Box | Boxes | None) -> Tensor:
        return cross_entropy(logits, _within(label, box), classes, align_corners=P.align_corners)

    return _with_detail(P, part)


Over = Literal["pixels", "labelled", "positive"]


def weighted_loss(P: Prediction, label: Tensor, weight: Tensor, over: Over = "pixels") -> Tensor:
    """Cross-entropy where each pixel has a weight, a mean over pixels:  1/|B| sum_p q_p CE(P_p, y_p).

    label (N, H, W) of the picture's size, 255 counts as 0; weight q (N, H, W). A detail as in `supervised_loss`, its weights
    those of its window.

    over: B. "pixels": all of them; "labelled": those with a label, whatever their weight; "positive": those whose CE is not
        exactly 0, which it is where the network is surer than float32 can say. The last two are of all processes; empty: 0.

    Source: DACS (WACV 2021), L_mix, released code; HRDA (ECCV 2022), for the mixed pictures; "positive" ReCo (ICLR 2022).
    """

    def part(logits: Tensor, box: Box | Boxes | None) -> Tensor:
        y = _within(label, box)
        losses = cross_entropy(logits, y, reduction="none", align_corners=P.align_corners)
        weighted = _within(weight, box) * losses
        if over == "pixels":
            return weighted.mean()
        counted = ranks.total((y != IGNORE if over == "labelled" else losses > 0).sum())
        return weighted.sum() * ranks.count() / counted.clamp(min=1)

    return _with_detail(P, part)


def depth_loss(P: Prediction, batch: Batch, bottom: float = 0.1) -> Tensor:
    """`berhu` of a predicted disparity; where the network has an earlier output, the mean of both.

    Raises ValueError for a batch without disparity. bottom: see there.
    """
    if batch.disparity is None:
        raise ValueError(
            "A loss of depth reads Batch.disparity, and this batch has none. Streams that say Stream(depth=True) have it; in "
            "Python: open_dataset(..., depth=True)."
        )
    outputs = [P.disparity] if P.aux_disparity is None else [P.disparity, P.aux_disparity]
    return sum(berhu(D, batch.disparity, bottom=bottom) for D in outputs) / len(outputs)


def require_disparity(segmenter: nn.Module, method: str) -> None:
    """Raise ValueError for a network that predicts no depth."""
    if not getattr(segmenter, "gives_disparity", False):
        raise ValueError(
            f"{method} learns depth, and the network {type(segmenter).__name__} predicts none. Choose network=multitask with a "
            "network inside (network_options={'of': 'small'}), tasks 'both' or 'depth'; your own returns Prediction(features, "
            "logits, disparity=...)."
        )


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
