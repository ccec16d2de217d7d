"""Windows of pictures, as HRDA reads them: which there are, the most uncertain one, the mean where they overlap.

Letters: N pictures of H x W pixels.
"""

import torch
from torch import Tensor

from course_lib.losses.inputs import full_precision
from course_lib.networks.prediction import Box, Boxes

WINDOWS = 3  # along each side


def quarters(H: int, W: int) -> list[Box]:
    """The nine windows of half of a picture's sides, a quarter apart."""
    places = range(WINDOWS)
    return [Box(i * (H // 4), j * (W // 4), H // 2, W // 2) for i in places for j in places]


def most_uncertain(entropy: Tensor, windows: list[Box]) -> Tensor:
    """Of each picture the window whose mean entropy is the largest: maps (N, H, W) -> (N,) indices; the map stays as it is.

    >>> entropy = torch.zeros(1, 4, 4)
    >>> entropy[0, 3, 3] = 1.0
    >>> most_uncertain(entropy, quarters(4, 4)).tolist(), len(quarters(4, 4))
    ([8], 9)
    """
    return torch.stack([box.of(entropy).mean((1, 2)) for box in windows], dim=1).argmax(1)


@torch.no_grad()
def uncertain_quarters(logits: Tensor, size: tuple[int, int]) -> Boxes:
    """For each picture of `size` (H, W) the one of its `quarters` where -sum_c p_c log p_c is largest on average; logits
    (N, C, h, w) on a grid whose sides 4 divides, p their softmax. Of equal ones the first.

    >>> logits = torch.zeros(1, 2, 4, 4)
    >>> logits[:, 0, :, :2] = 9.0
    >>> box = uncertain_quarters(logits, (64, 128))
    >>> box.top.tolist(), box.left.tolist(), box.height, box.width
    ([0], [64], 32, 64)
    """
    log_p = full_precision(logits).log_softmax(1)
    best = most_uncertain(-(log_p.exp() * log_p).sum(1), quarters(*logits.shape[2:]))
    H, W = size
    return Boxes(best // WINDOWS * (H // 4), best % WINDOWS * (W // 4), H // 2, W // 2)


def check_box(box: Box | Boxes, image: Tensor, step: int) -> Box | Boxes:
    """The box, if it lies in the picture and all of its numbers are multiples of `step`; else ValueError. Of `Boxes` the places
    are not looked at: a GPU would have to be waited for.
    """
    H, W = image.shape[2:]
    numbers = (0, 0, *box[2:]) if isinstance(box, Boxes) else box
    if numbers is not box and not len(image) == len(box.top) == len(box.left):
        raise ValueError(f"Got windows of {len(box.top)} pictures for a batch of {len(image)}; it wants one for each.")
    box, given = Box(*numbers), box
    inside = min(box) >= 0 and box.top + box.height <= H and box.left + box.width <= W and box.height and box.width
    if not inside or any(side % step for side in box):
        raise ValueError(
            f"Got the box {tuple(box)} of a picture of {W}x{H}; it wants (top, left, height, width) inside, all multiples of "
            f"{step}, twice the network's stride."
        )
    return given


def mean(parts: list[Tensor], boxes: list[Box], size: tuple[int, int]) -> Tensor:
    """The parts at their places, the mean where they overlap."""
    total = parts[0].new_zeros(*parts[0].shape[:2], *size)
    count = total.new_zeros(1, 1, *size)
    for part, box in zip(parts, boxes):
        place = ..., slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        total[place] += part
        count[place] += 1
    return total / count


def places(side: int, window: int) -> list[int]:
    """Where windows begin, half a window apart; the last ends with the picture."""
    last = max(0, side - window)
    return sorted({min(place, last) for place in range(0, last + window // 2, window // 2)} | {last})
