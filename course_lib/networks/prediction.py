"""What every segmentation network returns, and the check of what it is given.

Letters: N images, C classes, D feature channels; H, W the image, h, w the network's output grid (stride 8 or 4).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prediction(NamedTuple):
    """Features and class scores of a batch, on the network's own grid: nothing is upsampled yet.

    The losses read `logits` (and `aux_logits`), the contrastive terms read `features`.
    """

    features: Tensor  # (N, D, h, w)
    logits: Tensor  # (N, C, h, w), before softmax
    aux_logits: Tensor | None = None  # (N, C, h', w') of the earlier head, where the network has one


class Segmenter(nn.Module):
    """Base of the segmentation networks: a batch of images (N, 3, H, W) in, a `Prediction` out."""

    num_classes: int
    feature_dim: int  # D
    normalisation: str  # the convention of its images: course_lib.data.NORMALISATIONS
    __call__: Callable[..., Prediction]

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Those that learn at the backbone's rate."""
        raise NotImplementedError

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Those that learn at the head's rate."""
        raise NotImplementedError


def pooled(features: Tensor) -> Tensor:
    """The mean over the grid of features (N, D, h, w): (N, D), summed and returned in float32, or float64 where they are."""
    return features.mean((2, 3), dtype=torch.promote_types(features.dtype, torch.float32))


SMALLEST = 16  # pixels: below, the stride-8 grid is a single cell


def check_image(image: Tensor, network: str, normalisation: str) -> None:
    """Refuse anything but a batch (N, 3, H, W) of floating point images of at least 16x16.

    Raises:
        ValueError: for another number of axes or channels, or a smaller image. TypeError: for whole numbers.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        shape = tuple(image.shape)
        if image.ndim == 3 and shape[0] == 3:
            advice = "Add the batch axis: image[None]."
        elif image.ndim == 4 and shape[3] == 3:
            advice = "The channels stand last: image.permute(0, 3, 1, 2)."
        elif image.ndim == 4 and shape[1] == 4:
            advice = "Drop the alpha channel: image[:, :3]."
        elif image.ndim == 4 and shape[1] == 1:
            advice = "Repeat the grey channel: image.expand(-1, 3, -1, -1)."
        else:
            advice = "course_lib.data gives batches of this shape."
        raise ValueError(f"{network} got an image batch of shape {shape}; it wants (N, 3, H, W). {advice}")
    if not image.is_floating_point():
        raise TypeError(
            f"{network} got {str(image.dtype).removeprefix('torch.')} pixels; it wants floating point ones in the "
            f"convention '{normalisation}'. Normalise first: course_lib.data.transforms.NORMALISATIONS."
        )
    if min(image.shape[2:]) < SMALLEST:
        height, width = image.shape[2:]
        raise ValueError(
            f"{network} got an image of {height}x{width}; it wants at least {SMALLEST}x{SMALLEST}, because its grid is "
            "8 times coarser. Use larger pictures or crops."
        )
