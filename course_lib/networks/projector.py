"""The projection heads of contrastive learning: z = g(h), thrown away after training.

Letters: N pictures, D features of the backbone, E numbers of an embedding; F_1, F_2, ... the encoder's maps (N, D_k, h_k, w_k),
the finest first.

    2 layers (SimCLR, Chen et al. 2020)      h -> linear -> norm -> relu -> linear -> norm -> z
    3 and more (SimCLR v2)                   further blocks linear -> norm -> relu in between

The loss removes from z what the augmentation changes (colour, place); with the head in between, h can keep it.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.losses.inputs import full_precision
from course_lib.networks.sync import SyncBatchNorm

Norm = Literal["batch", "layer", "none"]


class Projector(nn.Module):
    """h (N, D) -> z (N, E), not yet of unit length.

    `layers=0` is no head: z = h. `hidden` is the width in between, by default D. norm="batch" is published, on the output
    too (as released; linear layers then have no bias), with statistics of the batch of all processes; "layer" and "none" look
    at one picture alone.

    >>> import torch
    >>> tuple(Projector(64, out=128)(torch.zeros(4, 64)).shape)
    (4, 128)
    """

    def __init__(self, inside: int, hidden: int | None = None, out: int = 128, layers: int = 2, norm: Norm = "batch") -> None:
        super().__init__()
        if layers < 0 or inside < 1 or out < 1 or (hidden or 1) < 1:
            raise ValueError(f"Projector got inside={inside}, hidden={hidden}, out={out}, layers={layers}; wanted widths >= 1.")
        if norm not in ("batch", "layer", "none"):
            raise ValueError(f"Projector got norm={norm!r}; it wants 'batch' (published), 'layer' or 'none'.")
        widths = [inside, *[hidden or inside] * (layers - 1), out][: layers + 1]
        blocks: list[nn.Module] = []
        for k, (before, after) in enumerate(zip(widths, widths[1:])):
            blocks += [nn.Linear(before, after, bias=norm == "none"), *_norm(norm, after)]
            blocks += [nn.ReLU(inplace=True)] * (k < layers - 1)
        self.inside, self.out, self.layers = inside, widths[-1], nn.Sequential(*blocks)

    def forward(self, h: Tensor) -> Tensor:
        if h.ndim != 2 or h.shape[1] != self.inside:
            raise ValueError(f"Projector got h of shape {tuple(h.shape)}; it wants (N, {self.inside}): pool the grid first.")
        return self.layers(h)


class GridProjector(nn.Module):
    """An embedding of each cell of the encoder's maps: F_1, F_2, ... -> z (N, E, h_1, w_1), of unit length, float32.

        x = cat_k up(F_k)  at the grid of F_1,    z = unit(conv1x1(relu(BN(conv1x1(x)))))

    `hidden` is the width in between, by default that of x. out_norm: z = unit(relu(BN(...))), as SePiCo has it: no number of it
    is negative. maps: "all" (published for MiT) or "last", F_n alone on its own grid (published for DeepLabV2). Statistics are
    those of all processes. Under autocast the length is computed in float32; float64 stays.

    Source: PiPa (ACM MM 2023) and SePiCo (TPAMI 2023), released code.

    >>> F_1, F_2 = torch.zeros(2, 16, 8, 16), torch.zeros(2, 32, 4, 8)
    >>> tuple(GridProjector((16, 32), out=24)((F_1, F_2)).shape)
    (2, 24, 8, 16)
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        hidden: int | None = None,
        out: int = 256,
        out_norm: bool = False,
        maps: Literal["all", "last"] = "all",
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or out < 1 or (hidden or 1) < 1:
            raise ValueError(f"GridProjector got widths={widths}, hidden={hidden}, out={out}; it wants widths >= 1.")
        if maps not in ("all", "last"):
            raise ValueError(f"GridProjector got maps={maps!r}; it wants 'all' or 'last'.")
        self.maps = maps
        inside = sum(widths) if maps == "all" else widths[-1]
        hidden = hidden or inside
        blocks = [nn.Conv2d(inside, hidden, 1), SyncBatchNorm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, out, 1)]
        self.layers = nn.Sequential(*blocks, *([SyncBatchNorm(out), nn.ReLU(inplace=True)] if out_norm else []))

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        grid = pyramid[0].shape[2:]
        maps = pyramid if self.maps == "all" else pyramid[-1:]
        x = torch.cat([maps[0], *(F.interpolate(m, size=grid, mode="bilinear", align_corners=False) for m in maps[1:])], dim=1)
        z = self.layers(x)
        return F.normalize(full_precision(z), dim=1)


def _norm(kind: Norm, width: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [SyncBatchNorm(width) if kind == "batch" else nn.LayerNorm(width)]
