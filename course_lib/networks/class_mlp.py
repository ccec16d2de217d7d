"""A small network for each class, in the work of one: rows are sorted by class and computed in blocks of one class each.

Letters: C classes, P rows of D numbers, H hidden numbers, B rows of a block.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.losses.inputs import IGNORE, full_precision, train_ids, without_autocast
from course_lib.losses.segmentation import count_ids

SLOPE = 0.2  # of the leaky ReLU below 0


class ClassMLP(nn.Module):
    """A number for each row, from the two layers of its class; 0 for rows of 255. (P, D) with (P,) -> (P,) float32.

        s_i = u_c . lrelu(W_c x_i + b_c) + d_c,    c = y_i

    Shapes are fixed, whatever classes the rows have: ceil(P / B) + C + 1 blocks hold every division of P rows into classes.
    Half precision and autocast are computed in float32, float64 in float64.

    Source: the class-specific selectors of SemiSegContrast (ICCV 2021), which have batch normalisation between the layers: its
    statistics would be those of one class in one batch.

    >>> tuple(ClassMLP(3, 8, 16)(torch.zeros(5, 8), torch.tensor([0, 2, 2, 255, 1])).shape)
    (5,)
    """

    def __init__(self, num_classes: int, inside: int, hidden: int, block: int = 256) -> None:
        super().__init__()
        if min(num_classes, inside, hidden, block) < 1:
            raise ValueError(
                f"ClassMLP got num_classes={num_classes}, inside={inside}, hidden={hidden}, block={block}; it wants 1 or more."
            )
        self.num_classes, self.inside, self.block = num_classes, inside, block
        self.first = nn.Parameter(torch.empty(num_classes, hidden, inside).uniform_(-1, 1) / inside**0.5)  # as nn.Linear
        self.first_bias = nn.Parameter(torch.empty(num_classes, hidden).uniform_(-1, 1) / inside**0.5)
        self.second = nn.Parameter(torch.empty(num_classes, hidden).uniform_(-1, 1) / hidden**0.5)
        self.second_bias = nn.Parameter(torch.empty(num_classes).uniform_(-1, 1) / hidden**0.5)

    def forward(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Rows (P, D) with classes (P,), train ids -> (P,): the number that the network of its class gives to each row."""
        if rows.ndim != 2 or rows.shape[1] != self.inside or classes.shape != rows.shape[:1]:
            raise ValueError(
                f"ClassMLP got rows {tuple(rows.shape)} and classes {tuple(classes.shape)}; it wants (P, {self.inside}) and "
                "(P,)."
            )
        y = train_ids(classes, self.num_classes)
        y = torch.where(y == IGNORE, self.num_classes, y)
        with without_autocast(rows):
            x = full_precision(rows)
            if len(x) == 0:
                return x.new_zeros(0)
            place, of_block = self._blocks(y)
            source = place.new_zeros(len(of_block) * self.block)                             # row 0 where a block is not full
            laid = x.index_select(0, source.index_copy_(0, place, torch.arange(len(x), device=x.device)))
            parts = (self.first, self.first_bias, self.second, self.second_bias)
            W, b, u, d = (part.to(x.dtype).index_select(0, of_block) for part in parts)
            hidden = F.leaky_relu_(torch.baddbmm(b[:, None], laid.view(len(of_block), self.block, -1), W.mT), SLOPE)
            s = torch.baddbmm(d[:, None, None], hidden, u[:, :, None])                      # (G, B, 1)
            return torch.where(y < self.num_classes, s.flatten().index_select(0, place), 0.0)

    def _blocks(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where each row is laid, (P,), and the class of each block, (G,); those of no class are in blocks of the last one."""
        C, B = self.num_classes, self.block
        order = y.argsort(stable=True)
        counts = count_ids(y, C + 1)
        blocks = (counts + B - 1) // B
        ends = blocks.cumsum(0)
        sorted_y = y.index_select(0, order)
        within = torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts).index_select(0, sorted_y)
        laid = (ends - blocks).index_select(0, sorted_y) * B + within
        place = torch.empty_like(order).index_copy_(0, order, laid)
        G = -(-len(y) // B) + C + 1
        of_block = torch.searchsorted(ends, torch.arange(G, device=y.device), right=True).clamp(max=C - 1)
        return place, of_block

    def extra_repr(self) -> str:
        return f"{self.num_classes} classes, {self.inside} numbers, {self.first.shape[1]} hidden"
