"""Weights of classes from how often they occur in the last steps, labels and pseudo-labels together.

Letters: C classes, T steps that are remembered, f_c the pixels of class c in them.
"""

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.losses.inputs import IGNORE, train_ids
from course_lib.losses.segmentation import count_ids
from course_lib.typed import AT_LEAST_1, in_range


class ClassBalance(nn.Module):
    """A weight for each class, the square root of the median frequency over its own, of the last T batches of all processes.

        w_c = sqrt(median(f) / f_c)

    The median is that of the classes that occur; a class that does not has the largest weight of those that do. Before the
    first batch all are 1. State: counts (T, C) in a ring, and how many came.

    Source: SemiSegContrast (Alonso et al., ICCV 2021), where the labelled pictures are counted in their first epoch alone and
    pseudo-labels in the last epoch, and classes that do not occur are in the median.

    >>> balance = ClassBalance(3, window=2)
    >>> balance.update(torch.tensor([0, 0, 0, 0, 1, 255]))
    >>> balance.weights.tolist()  # the median of 4 and 1 is 2.5
    [0.7905694246292114, 1.5811388492584229, 1.5811388492584229]
    """

    def __init__(self, num_classes: int, window: int) -> None:
        super().__init__()
        self.num_classes, self.window = num_classes, window
        in_range(self, num_classes=AT_LEAST_1, window=AT_LEAST_1)
        self.register_buffer("counts", torch.zeros(window, num_classes, dtype=torch.int64))
        self.register_buffer("taken", torch.zeros(1, dtype=torch.int64))

    @torch.no_grad()
    def update(self, *labels: Tensor) -> None:
        """Take in a step's labels and pseudo-labels, train ids of any shape; 255 does not count."""
        C = self.num_classes
        ids = (train_ids(y, C) for y in labels)
        new = sum(count_ids(torch.where(y == IGNORE, C, y), C + 1)[:C] for y in ids)
        self.counts.index_copy_(0, self.taken % self.window, ranks.total(new)[None])
        self.taken += 1

    @property
    def weights(self) -> Tensor:
        """w (C,) float32."""
        f = self.counts.sum(0).float()
        there = f > 0
        n = there.sum()
        ordered = torch.where(there, f, torch.inf).sort().values
        middle = torch.stack([(n - 1).clamp(min=0) // 2, (n // 2).clamp(max=len(f) - 1)])
        median = ordered.index_select(0, middle).mean()
        w = torch.where(there, (median / f.clamp(min=1)).sqrt(), 0.0)
        return torch.where(there, w, torch.where(n > 0, w.amax(), 1.0))

    def extra_repr(self) -> str:
        return f"{self.num_classes} classes, {self.window} steps"
