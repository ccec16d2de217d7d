"""PiPa's pixel contrast: source cells of one class are drawn to one another and away from cells of all other classes.

Letters: F_1, F_2, ... the encoder's maps of a source picture, h, w the grid of F_1; z the embedding of a cell, of unit length;
y its label, y' the class that the network predicts there; tau the temperature. A cell is hard where y' != y, else easy.

    z = g(F_1, F_2, ...)                                                                        networks/projector.py
    pairs    (picture, class) with more than `least` cells;   n = min(floor(anchors / number of pairs), per_class)
    A        of each pair n cells, drawn at random: n/2 hard and n/2 easy ones; where there are fewer of one kind,
             the rest are of the other
    C_ij = log( exp(z_i.z_j / tau) + sum_{k in A, y_k != y_i} exp(z_i.z_k / tau) ) - z_i.z_j / tau
    L    = tau / tau_0  mean_{i in A}  mean_{j in A, y_j = y_i, j != i}  C_ij                   losses/pair_contrast.py

y' is that of the network's own classifier in this step. On a network of two resolutions F_k are those of the halved picture,
and y are the labels of the same whole picture: there is no window to be matched.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.losses import label_down, pair_contrast
from course_lib.losses.inputs import IGNORE
from course_lib.losses.prototype import labels_at
from course_lib.methods.step import Losses, Step
from course_lib.methods.terms.base import Term, TermSettings
from course_lib.mixing import uniform
from course_lib.networks import Prediction
from course_lib.networks.prediction import needs_pyramid
from course_lib.networks.projector import GridProjector
from course_lib.typed import AT_LEAST_1, COUNT, TEMPERATURE, checked, in_range

CellLabels = Literal["nearest", "share"]
Hardness = Literal["network", "random"]


@dataclass(frozen=True)
class PixelContrastSettings(TermSettings):
    """Source: PiPa (Chen et al., ACM MM 2023) and ContrastiveSeg (Wang et al., ICCV 2021), released code."""

    weight: float = 0.1  # [code]
    contrast_temperature: float = 0.1  # [code] tau
    base_temperature: float = 0.07  # [code] tau_0; the same as tau: the mean alone
    hidden: int | None = None  # of the projector; None: as wide as all maps together, [code] 1024 for MiT
    out: int = 256  # [code] numbers of an embedding
    anchors: int = 1024  # [code] at most, of the batch of all processes
    per_class: int = 100  # [code] at most, of one class of one picture
    least: int = 100  # [code] a class has more cells than this in a picture, or none of them is an anchor
    cell_labels: CellLabels = "nearest"  # [code]; "share": a cell has a class that covers `cell_share` of it, else none
    cell_share: float = 0.75  # [code] DAFormer's `label_down`
    gather: bool = True  # ours: anchors of all processes; False, [code] of this one: R processes are then not as one
    # two of the release's mistakes, for teaching. "random", [code]: y' of a head that never gets a loss, here a GridProjector;
    # True, [code]: its ignore_label is -1, so that pixels of 255 are contrasted as one more class
    hard_by: Hardness = "network"
    ignore_as_class: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, contrast_temperature=TEMPERATURE, base_temperature=TEMPERATURE, hidden=AT_LEAST_1, out=AT_LEAST_1,
                 anchors=AT_LEAST_1, per_class=AT_LEAST_1, least=COUNT, cell_share=(0.01, 1.0))  # fmt: skip
        checked(CellLabels, self.cell_labels, "cell_labels")
        checked(Hardness, self.hard_by, "hard_by")


class PixelContrast(Term):
    """Source cells near to those of their class.

    The projector learns with the segmenter. No memory: which cells are drawn depends on the step's numbers alone.
    """

    name = "pixel_contrast"
    Settings = PixelContrastSettings
    reads = ("source",)

    def __init__(self, segmenter: nn.Module, settings: PixelContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        needs_pyramid(segmenter, self.name)
        s, widths = self.settings, segmenter.pyramid_channels
        self.projector = GridProjector(widths, s.hidden, s.out)
        self.random = GridProjector(widths, s.hidden, segmenter.num_classes) if s.hard_by == "random" else None
        if self.random is not None:
            self.random.requires_grad_(False)

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        s, P, C = self.settings, P["source"], self.segmenter.num_classes
        z = self.embedding(P)                                                                # (N, D, h, w)
        with torch.no_grad():
            y = self.cells(step.batches["source"].label, tuple(z.shape[2:]))
            hard = self.predicted(P, tuple(z.shape[2:])) != y
            u = uniform(tuple(y.shape), y.device, step.numbers)
            A, there = anchors(y, hard, u, C + s.ignore_as_class, s.anchors, s.per_class, s.least, s.gather)
            y_A = torch.where(there, y.flatten()[A], IGNORE)
        picture, cell = A // y[0].numel(), A % y[0].numel()
        z_A = z.flatten(2)[picture, :, cell]                                                 # (|A|, D)
        L = pair_contrast(z_A, z_A, y_A, y_A, s.contrast_temperature, same_rows=True, gather=s.gather)
        return {"contrast": s.contrast_temperature / s.base_temperature * L}

    def embedding(self, P: Prediction) -> Tensor:
        """z of all cells."""
        return self.projector(P.pyramid)

    def cells(self, label: Tensor, grid: tuple[int, int]) -> Tensor:
        """y (N, h, w) of labels (N, H, W)."""
        s, C = self.settings, self.segmenter.num_classes
        y = labels_at(label, grid) if s.cell_labels == "nearest" else label_down(label, grid, C, s.cell_share)
        return torch.where(y == IGNORE, C, y) if s.ignore_as_class else y

    def predicted(self, P: Prediction, grid: tuple[int, int]) -> Tensor:
        """y' (N, h, w)."""
        scores = P.resized(grid) if self.random is None else self.random(P.pyramid)
        return scores.argmax(1)


@torch.no_grad()
def anchors(
    y: Tensor,
    hard: Tensor,
    numbers: Tensor,
    num_classes: int,
    most: int = 1024,
    per_class: int = 100,
    least: int = 100,
    gather: bool = False,
) -> tuple[Tensor, Tensor]:
    """Which cells are anchors: indices (A,) into the flattened maps, and which of them are anchors, (A,) bool; others fill up.

    y (N, h, w) train ids, other ids are no class; hard (N, h, w) bool; numbers (N, h, w) uniform in (0, 1), the order in which
    cells of one class and kind are drawn. `most`, `per_class`, `least`: `PixelContrastSettings`; at least one cell of each pair
    is drawn. gather: pairs are counted over all processes. A is the same in each step.

    >>> y = torch.tensor([[[0, 0, 0, 0, 1, 255]]])
    >>> hard, numbers = torch.tensor([[[True, False, False, False, True, True]]]), torch.arange(6).view(1, 1, 6) / 6
    >>> index, there = anchors(y, hard, numbers, 2, most=4, per_class=2, least=1)  # one pair, two cells: one hard, one easy
    >>> index[there].tolist()
    [0, 1]
    """
    N, K = len(y), num_classes
    y, hard, numbers = (x.flatten(1) for x in (y, hard, numbers))
    kind = 2 * torch.where(y < K, y, K) + hard                                               # (N, P), of 2K + 2
    count = torch.zeros(N, 2 * K + 2, dtype=torch.int64, device=y.device).scatter_add_(1, kind, torch.ones_like(kind))
    easy_there, hard_there = count.unflatten(1, (K + 1, 2)).unbind(2)                        # (N, K + 1)
    kept = easy_there + hard_there > least
    kept = kept & (torch.arange(K + 1, device=y.device) < K)
    pairs = ranks.total(kept.sum()) if gather else kept.sum()
    n = (most // pairs.clamp(min=1)).clamp(1, per_class)
    hard_kept = torch.minimum(hard_there, torch.maximum(n // 2, n - easy_there))
    easy_kept = torch.minimum(easy_there, n - hard_kept)
    quota = torch.stack([easy_kept, hard_kept], dim=2) * kept[:, :, None]
    order = numbers.argsort(dim=1)
    order = order.gather(1, kind.gather(1, order).argsort(dim=1, stable=True))                   # kind by kind, each at random
    sorted_kind = kind.gather(1, order)
    place = torch.arange(kind.shape[1], device=y.device) - (count.cumsum(1) - count).gather(1, sorted_kind)
    chosen = torch.zeros_like(kind).scatter_(1, order, (place < quota.flatten(1).gather(1, sorted_kind)).long())
    size = min(max(most, N * K), chosen.numel())
    index = chosen.flatten().argsort(stable=True, descending=True)[:size]
    return index, chosen.flatten()[index] > 0
