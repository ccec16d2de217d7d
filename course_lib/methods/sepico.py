"""SePiCo (Xie et al., TPAMI 2023): cells of both domains near to their class, as the source has it.

Letters: as in `dacs`; f_c the share of class c among the source's pixels, T a temperature; n_c the pixels of a window that the
teacher labels as class c.

    source pictures         as in `daformer`, by rare classes                          data/sampling.py
    target pictures         of ten windows the one with the largest  sum_c log n_c,  no class with 3/4   `balanced_windows`
    the step                that of DACS, whose labels are the teacher's of the window:  L_S + L_mix
    distribution contrast   L_k(z_S, y_S) + L_k(z_T, y~) + lambda_R R                  methods/terms/distribution_contrast.py
    the network             DAFormer's, or DeepLabV2

No feature distance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.data import Batch
from course_lib.data.sampling import SeedStream, mixed_seed
from course_lib.methods.dacs import DACS, DACSSettings, plain
from course_lib.methods.step import Losses, Stream
from course_lib.mixing import uniform
from course_lib.typed import checked

WINDOWS, MOST = 10, 0.75  # [code] drawn windows of a picture; a class has less than this share
TargetCrops = Literal["balanced", "drawn"]


@dataclass(frozen=True)
class SePiCoSettings(DACSSettings):
    """DACS's, and how target pictures that are larger than the source's crops are cut."""

    target_crops: TargetCrops = "balanced"  # [code] by the teacher's labels; "drawn": as the source's

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(TargetCrops, self.target_crops, "target_crops")


class SePiCo(DACS):
    """DACS, and cells of both domains near to their class in the source: its mean, its centroids or its distribution."""

    name = "sepico"
    Settings = SePiCoSettings
    own_terms = ("distribution_contrast",)

    @classmethod
    def streams(cls, settings: SePiCoSettings) -> dict[str, Stream]:
        return super().streams(settings) | {"target": Stream(plain=True, whole=settings.target_crops == "balanced")}

    def losses(self, source: Batch, target: Batch) -> Iterator[Losses]:
        yield from super().losses(source, self.cut(target, tuple(source.image.shape[-2:])))

    def cut(self, target: Batch, size: tuple[int, int]) -> Batch:
        """Windows of `size` (height, width) of the target pictures (N, 3, H, W); pictures of that size stay as they are."""
        if tuple(target.image.shape[-2:]) == size:
            return target
        image = plain(target).image
        y = self.teacher(image).resized(tuple(image.shape[-2:])).argmax(1)
        if target.valid is not None:
            y = torch.where(target.valid, y, self.segmenter.num_classes)
        numbers = torch.Generator().manual_seed(mixed_seed(self.seed, SeedStream.WINDOWS, *self.place))
        drawn = uniform((len(y), WINDOWS, 2), y.device, numbers)
        return windows_of(target, balanced_windows(y, size, drawn, self.segmenter.num_classes), size)


@torch.no_grad()
def balanced_windows(y: Tensor, size: tuple[int, int], drawn: Tensor, num_classes: int) -> Tensor:
    """Where the window of each picture begins, (N, 2) rows and columns: of the drawn ones that with the largest sum_c log n_c.

    y (N, H, W) labels, others than 0 to num_classes - 1 do not count; drawn (N, K, 2) numbers in [0, 1). A window in which one
    class has at least 3/4 of the labelled pixels, or that has a single one, is taken where all K are like that: then the first.

    Source: SePiCo (TPAMI 2023), released code.

    >>> y = torch.tensor([[[0, 0, 0, 1, 2, 2]]])
    >>> balanced_windows(y, (1, 3), torch.tensor([[[0.0, 0.0], [0.0, 0.5]]]), 3).tolist()  # 0 0 0, or 0 1 2
    [[0, 2]]
    """
    (N, H, W), (h, w) = y.shape, size
    if h > H or w > W:
        raise ValueError(f"Windows of {w}x{h} do not fit into target pictures of {W}x{H}. Set target_size to the crop or more.")
    n, top, left = torch.arange(N, device=y.device)[:, None], *(
        (drawn[:, :, k] * (side + 1)).long() for k, side in enumerate((H - h, W - w))
    )
    found = []
    for c in range(num_classes):
        area = F.pad((y == c).cumsum(1).cumsum(2), (1, 0, 1, 0))  # of the pixels above and left: a window takes four numbers
        found.append(area[n, top + h, left + w] - area[n, top, left + w] - area[n, top + h, left] + area[n, top, left])
    n_c = torch.stack(found, dim=2)                                                          # (N, K, C)
    varied = (n_c.amax(2) < MOST * n_c.sum(2)) & ((n_c > 0).sum(2) > 1)
    score = torch.where(varied, n_c.clamp(min=1).float().log().sum(2), -1.0)
    return torch.stack([top, left], dim=2)[n[:, 0], score.argmax(1)]


def windows_of(batch: Batch, begins: Tensor, size: tuple[int, int]) -> Batch:
    """The windows of a batch of larger pictures; begins (N, 2) their first rows and columns."""
    n = torch.arange(len(begins), device=begins.device)[:, None, None]
    rows, columns = (begins[:, k, None] + torch.arange(side, device=begins.device) for k, side in enumerate(size))

    def cut(x: Tensor | None) -> Any:
        if x is None:
            return None
        if x.ndim == 4:
            return x.movedim(1, 3)[n, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
        return x[n, rows[:, :, None], columns[:, None, :]]

    return batch._replace(image=cut(batch.image), label=cut(batch.label), plain=cut(batch.plain), valid=cut(batch.valid))
