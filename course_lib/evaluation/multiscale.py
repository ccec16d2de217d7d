"""Test-time averaging over image sizes and mirror images.

Letters: N images, C classes, H, W the image, (H', W') the wanted size, S scales.
"""

import torch
from torch import Tensor, nn

from course_lib.losses import upsample
from course_lib.losses.inputs import full_precision

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # ProCA's released test


@torch.no_grad()
def multiscale_probabilities(
    segmenter: nn.Module,
    image: Tensor,
    size: tuple[int, int] | None = None,
    scales: tuple[float, ...] = SCALES,
    flip: bool = True,
) -> Tensor:
    """The mean of the network's probabilities (N,C,H',W') over several sizes of an image and of its mirror image.

    p = 1/(2S) sum over scales s, mirrored or not, of softmax(up(logits(resize(image, s))))

    `image` is a normalised batch (N,3,H,W); `size` (H',W') is by default its own. Images and logits are resized
    bilinearly with aligned corners (logits as the network was trained), straight to `size` (ProCA, ECCV 2022). The sum is kept
    in place, so memory does not grow with the number of scales; an image and its mirror image pass the network as one
    batch. The network's mode is not touched: call `segmenter.eval()` first, as `evaluate` does.

    Raises:
        ValueError: without scales, or with one that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"multiscale_probabilities got scales={scales}; it wants at least one, all above 0.")
    height, width = image.shape[2:]
    size = tuple(size or (height, width))
    count = len(scales) * (2 if flip else 1)
    total = None
    for scale in scales:
        views = image if scale == 1 else upsample(image, (max(1, int(height * scale)), max(1, int(width * scale))))
        if flip:
            views = torch.cat([views, views.flip(3)])  # (2N,3,h,w)
        prediction = segmenter(views)
        for i, answer in enumerate(prediction.logits.split(len(image))):  # one of the pair at a time: half the memory
            answer = answer.flip(3) if i == 1 else answer  # mirrored back while it is small
            probability = upsample(full_precision(answer), size, prediction.align_corners).softmax(dim=1)
            total = probability.div_(count) if total is None else total.add_(probability, alpha=1 / count)
    return total
