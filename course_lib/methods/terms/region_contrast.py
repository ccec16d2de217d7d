"""ReCo's region contrast: unsure cells of a class are drawn to the mean of their class, away from cells of classes like it.

Letters: F the features below the classifier of labelled and of mixed pictures, r the representation of a cell; y the label of a
cell, in mixed pictures the teacher's where none was pasted, p' the teacher's confidence there (1 where a label was pasted); p_y
what the network itself gives to that class; theta_w, theta_s the weak and the strong threshold; mu_c, q, k as in the loss.

    r = conv1x1(relu(BN(conv3x3(F))))
    a cell is valid    where it has a label; of mixed pictures where p' >= theta_w, too
    a cell is hard     where it is valid and p_y < theta_s
    L = mean_c mean_q  - log exp(cos(q, mu_c) / tau) / ( exp(cos(q, mu_c) / tau) + sum_k exp(cos(q, k) / tau) )

over the classes c that have hard cells, q among those, and k among the valid cells of other classes: losses/region_contrast.py.
Means and k are of both kinds of pictures, so that both predictions are one backward pass. A cell has the label of the pixel at
its middle, where the teacher's enlarged scores are those of the cell. F are the decoder's where there is one (published: the
304 channels of DeepLabV3+, stride 4), else the encoder's last map (DeepLabV2, stride 8); of two resolutions those of the whole
picture.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from course_lib.devices import copies_may_run_ahead
from course_lib.losses import region_contrast
from course_lib.losses.inputs import IGNORE
from course_lib.losses.prototype import labels_at
from course_lib.losses.region_contrast import MeanOver, RegionNumbers
from course_lib.methods.step import Losses, Step
from course_lib.methods.terms.base import Term, TermSettings, at_middles
from course_lib.networks import Prediction
from course_lib.networks.sync import SyncBatchNorm
from course_lib.typed import AT_LEAST_1, SHARE, TEMPERATURE, checked, in_range

LabelAt = Literal["middle", "corner"]


@dataclass(frozen=True)
class RegionContrastSettings(TermSettings):
    """Source: ReCo (Liu et al., ICLR 2022), released code."""

    weight: float = 1.0  # [code]
    contrast_temperature: float = 0.5  # [code] tau, of the classes of negatives, too
    queries: int = 256  # [code] of each class, of the batch of all processes
    negatives: int = 512  # [code] of each query
    weak_threshold: float = 0.7  # [code] theta_w
    strong_threshold: float = 0.97  # [code] theta_s
    hidden: int = 256  # [code] of the representation head
    out: int = 256  # [code] numbers of r
    # ours; "corner", [code]: that of the upper left pixel, which is up to a cell away where corners are aligned
    label_at: LabelAt = "middle"
    # [code]: a loss that gets small as fewer classes have hard cells; "hard": the mean over those that have one
    mean_over: MeanOver = "present"
    gather: bool = True  # ours: cells of all processes; False, [code] of this one: R processes are then not as one

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, contrast_temperature=TEMPERATURE, queries=AT_LEAST_1, negatives=AT_LEAST_1, weak_threshold=SHARE,
                 strong_threshold=SHARE, hidden=AT_LEAST_1, out=AT_LEAST_1)  # fmt: skip
        checked(LabelAt, self.label_at, "label_at")
        checked(MeanOver, self.mean_over, "mean_over")


class RegionContrast(Term):
    """Unsure cells near to the mean of their class, for methods with a teacher.

    The representation head learns with the segmenter. No memory: which cells are drawn depends on the step's numbers alone.
    """

    name = "region_contrast"
    Settings = RegionContrastSettings
    reads, taught = ("source", "mixed"), True

    def __init__(self, segmenter: nn.Module, settings: RegionContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        s = self.settings
        first = nn.Conv2d(segmenter.feature_dim, s.hidden, 3, padding=1, bias=False)
        last = nn.Conv2d(s.hidden, s.out, 1)
        self.project = nn.Sequential(first, SyncBatchNorm(s.hidden), nn.ReLU(inplace=True), last)

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        s, sure = self.settings, {"source": None, "mixed": step.taught.mixed_sure}
        parts = [self.cells(P[name], step.batches[name].label, sure[name]) for name in self.reads]
        # picture by picture: the n-th labelled and the n-th mixed one (or all its views), then the next ones. R processes then
        # have the cells in the order in which one process has them
        N = len(parts[0][1])
        r, y, hard = (torch.cat([beside(x, N) for x in part], dim=1).flatten(0, 1) for part in zip(*parts))
        numbers = region_numbers((self.segmenter.num_classes, s.queries, s.negatives), y.device, step.numbers)
        return {"contrast": region_contrast(r, y, hard, numbers, s.contrast_temperature, s.gather, mean_over=s.mean_over)}  # L

    def embedding(self, P: Prediction) -> Tensor:
        """r of all cells."""
        return self.project(P.features)

    def cells(self, P: Prediction, label: Tensor, sure: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """r (N, h w, D), y and which cells are hard, (N, h w) both; y is 255 where a cell is not valid. sure: p' (N, H, W)."""
        r = self.embedding(P)
        grid = tuple(r.shape[2:])
        with torch.no_grad():
            y = self.at(label, grid, P.align_corners)
            if sure is not None:
                y = torch.where(self.at(sure, grid, P.align_corners) >= self.settings.weak_threshold, y, IGNORE)
            p = P.resized(grid).softmax(1)
            p_y = p.gather(1, y.clamp(max=p.shape[1] - 1)[:, None])[:, 0]
            hard = (p_y < self.settings.strong_threshold) & (y != IGNORE)
        return r.flatten(2).mT, y.flatten(1), hard.flatten(1)

    def at(self, maps: Tensor, grid: tuple[int, int], align_corners: bool) -> Tensor:
        """Labels or confidences (N, H, W) of the cells, (N, h, w)."""
        return labels_at(maps, grid) if self.settings.label_at == "corner" else at_middles(maps, grid, align_corners)


def beside(x: Tensor, N: int) -> Tensor:
    """(k N, n, ...), k views of N pictures each with n cells, to (N, k n, ...)."""
    return x.unflatten(0, (-1, N)).transpose(0, 1).flatten(1, 2)


def region_numbers(size: tuple[int, int, int], device: torch.device, generator: torch.Generator) -> RegionNumbers:
    """The numbers that draw the cells of all processes, drawn where the generator is; size (C, Q, K)."""
    drawn = (torch.rand(shape, generator=generator) for shape in (size[:2], size, size))
    return RegionNumbers(*(u.to(device, non_blocking=copies_may_run_ahead(device)) for u in drawn))
