"""Choosing a checkpoint without looking at target labels.

Letters: N images, C classes, P (N, C, h, w) class probabilities, p runs over all their pixels, H entropy in nats.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn

from course_lib import ranks
from course_lib.devices import long_sums, widened
from course_lib.evaluation.scoring import network_device
from course_lib.losses.inputs import full_precision
from course_lib.networks.prediction import eval_mode


@torch.no_grad()
def information(segmenter: nn.Module, loader: Iterable, *, device: torch.device | str | None = None) -> float:
    """How much the predictions tell about the pictures: 0 (nothing) to ln C (each pixel sure, all classes used).

        I = H( mean_p P_p ) - mean_p H( P_p )          mutual information of pixel and class

    The second term rewards sure predictions, the first one keeps a network that calls everything "road" from winning:
    entropy alone would choose it. Labels are not looked at. (Bridle et al. 1991; as a criterion for unlabelled data:
    Krause et al. 2010.) It is a proxy: a network can be sure, varied and wrong.

    Raises ValueError for an empty loader.
    """
    device = network_device(segmenter, device)
    segmenter.to(device)
    C = segmenter.num_classes
    counts = torch.zeros(C + 2, **long_sums(device))  # per class sum of P, sum of entropies, pixels
    with eval_mode(segmenter), ranks.fail_together():
        for batch in loader:
            P = widened(torch.softmax(full_precision(segmenter(batch.image.to(device)).logits), dim=1))
            counts[:C] += P.sum(dim=(0, 2, 3))
            counts[C] -= torch.special.xlogy(P, P).sum()
            counts[C + 1] += P[:, 0].numel()
    counts = ranks.total(counts)
    if not counts[-1]:
        raise ValueError("information got no pictures: the loader is empty. Check the target's path and split.")
    mean = counts[:-2] / counts[-1]
    value = -torch.special.xlogy(mean, mean).sum() - counts[-2] / counts[-1]
    return min(max(value.item(), 0.0), math.log(len(mean)))  # rounding aside, it lies in there
