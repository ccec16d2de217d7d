"""The projection head of contrastive learning: z = g(h), thrown away after training.

Letters: N pictures, D features of the backbone, E numbers of an embedding.

    2 layers (SimCLR, Chen et al. 2020)      h -> linear -> norm -> relu -> linear -> norm -> z
    3 and more (SimCLR v2)                   further blocks linear -> norm -> relu in between

The loss asks z to forget whatever the augmentation changes (colour, place); the layers in between let h keep it.
"""

from typing import Literal

from torch import Tensor, nn

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


def _norm(kind: Norm, width: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [SyncBatchNorm(width) if kind == "batch" else nn.LayerNorm(width)]
