"""CLUDA's contrast of two resolutions: cells of a class are drawn to one another in the halved picture, and to what a window
shows of the class at full resolution.

Letters: u the features of the halved picture, v those of the window, on g x g cells of each picture; i, j, k cells of the whole
batch, y their labels, q their weights (1 on source pictures); S the cells that the window shows; F_1, F_2, ... the encoder's
maps of the halved picture; tau the temperature.

    omega_i     omega(F_1, F_2, ...)_i in (0, 1) for i in S, else 0;      w_ij = omega_i omega_j     networks/heads.py
    C(a, b)_ij  = log( exp(a_i.b_j / tau) + sum_{k : y_k != y_i} exp(a_i.b_k / tau) ) - a_i.b_j / tau
    P_i         = {j in S : y_j = y_i, j != i}
    L           = 1/2 mean_i  1/|P_i| sum_{j in P_i} q_i q_j [ w_ij C(u, u)_ij + (1 - w_ij) C(u, v)_ij ]

All u_i and v_i have unit length; C and both means are those of losses/pair_contrast.py. omega is learnt with the network: w_ij
is the part of a pair's loss that is C(u, u). A cell i outside S has w = 0: it is drawn to what the window shows of its class. k
is in S for C(u, v), anywhere for C(u, u). Cells of the label 255 or the weight 0 take no part, not even as negatives. The term
is called for source and for mixed pictures, each in its own backward pass.

Source: CLUDA (Vayyat et al., arXiv 2022) and its release, which does five things otherwise. Four are `as_released`: features
are laid in rows cell by cell, but labels, weights and masks picture by picture; 255 is a class; a cell of road (0) counts as
outside S; v is 0 outside S, and these zeros are pairs. The fifth: from step 12,000 on its mixed pictures take the window of the
largest mean entropy, by a search that changes the map it searches. `networks/windows.py` does not change it. Of less weight:
labels and q are those of the pixel where features are read (released: labels up to a cell before it, q bilinear), and u is
resampled once (released: twice).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.losses import pair_contrast
from course_lib.losses.inputs import IGNORE, full_precision, without_autocast
from course_lib.losses.pair_contrast import Weight
from course_lib.methods.step import Losses, Step
from course_lib.methods.terms.base import Term, TermSettings, at_middles
from course_lib.methods.terms.base import in_rows as by_picture
from course_lib.networks import HRDA, Box, Boxes, Prediction
from course_lib.networks.heads import WIDTH, ScaleAttention
from course_lib.networks.sync import synchronised
from course_lib.typed import AT_LEAST_1, TEMPERATURE, in_range


@dataclass(frozen=True)
class ResolutionContrastSettings(TermSettings):
    """Source: CLUDA (Vayyat et al., arXiv 2022), released code."""

    weight: float = 1.0  # [code]
    contrast_temperature: float = 1.0  # [code] none: the cosines themselves
    grid: int = 65  # [code] g
    omega_width: int = WIDTH  # [code] of the attention
    gather: bool = True  # ours: candidates of all processes; False, [code] of this one: R processes are then not as one
    as_released: bool = False  # four of the release's mistakes, for teaching

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, contrast_temperature=TEMPERATURE, grid=(2, 10_000), omega_width=AT_LEAST_1)


class Cells(NamedTuple):
    """The cells of a batch in rows, picture by picture, each in reading order."""

    u: Tensor  # (N g g, D)
    v: Tensor  # (N g g, D); 0 outside S
    y: Tensor  # (N g g,) train ids
    S: Tensor  # (N g g,) bool
    omega: Tensor  # (N g g,)
    q: Tensor  # (N g g,)


class ResolutionContrast(Term):
    """Cells of a class alike at two resolutions, for networks that have them.

    Its attention learns with the segmenter; it has no memory. Each process draws the attention's dropout for itself, as the
    dropout of the network: R processes are one but for that.
    """

    name = "resolution_contrast"
    Settings = ResolutionContrastSettings
    reads, also = ("source",), (("mixed",),)

    def __init__(self, segmenter: nn.Module, settings: ResolutionContrastSettings | None = None) -> None:
        super().__init__(segmenter, settings)
        if not isinstance(segmenter, HRDA):
            raise ValueError(
                f"resolution_contrast compares two resolutions, and {type(segmenter).__name__} has one. Choose network=hrda, "
                "with network_options={'of': the network of one resolution}."
            )
        self.omega = synchronised(ScaleAttention(segmenter.pyramid_channels, 1, self.settings.omega_width))

    def forward(self, P: dict[str, Prediction], step: Step) -> Losses:
        losses = {}
        for name in ("source", "mixed"):
            if name in P:
                y = step.batches[name].label
                q = torch.ones_like(y, dtype=torch.float32) if name == "source" else step.taught.mixed_weight
                losses[name] = self.contrast(self.cells(P[name], y, q))
        return losses

    def cells(self, P: Prediction, y: Tensor, q: Tensor) -> Cells:
        """y, q (N, H, W) are those of the whole pictures, P their prediction."""
        g, released, box = self.settings.grid, self.settings.as_released, P.detail.box
        grid = tuple(P.logits.shape[2:])  # of both resolutions
        u = resampled(P.features, g)
        v = resampled(P.detail.features, g, grid, box.on(tuple(y.shape[1:]), grid))
        u, v = ((by_cell if released else by_picture)(F.normalize(x, dim=1)) for x in (u, v))
        S, y, q = (at_middles(maps, (g, g), align_corners=True) for maps in (box.mask(y).expand_as(y), y, q))
        omega = torch.where(S & (y != 0) if released else S, resampled(self.omega(P.pyramid), g)[:, 0], 0.0)
        if released:
            y, S = torch.where(y == IGNORE, IGNORE - 1, y), torch.ones_like(S)
        else:
            y = torch.where(q > 0, y, IGNORE)  # the weight of a pair says nothing of negatives
        return Cells(u, v, y.flatten(), S.flatten(), omega.flatten(), q.flatten())

    def contrast(self, cells: Cells) -> Tensor:
        """L of one batch, a scalar: the mean of both kinds of pairs."""
        tau, gather, (u, v, y, S, omega, q) = self.settings.contrast_temperature, self.settings.gather, cells
        w, y_S = q * omega, torch.where(S, y, IGNORE)
        C_uu = pair_contrast(u, u, y, y, tau, same_rows=True, positive=S, weight=(w, w), gather=gather)
        C_uv = pair_contrast(u, v, y, y_S, tau, same_rows=True, weight=rest(q, omega), gather=gather)
        return (C_uu + C_uv) / 2                                                             # L


def rest(q: Tensor, omega: Tensor) -> Weight:
    """q_i q_j (1 - omega_i omega_j) as the factors of `pair_contrast`: (A,) and (A,) -> (A, 2) twice.

    >>> a, b = rest(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0]))
    >>> (a @ b.T).tolist()
    [[0.75, 1.0], [1.0, 0.0]]
    """
    return torch.stack([q, -q * omega], dim=1), torch.stack([q, q * omega], dim=1)


# ---- maps at cells


def bilinear(size: int, cells: int, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """What `size` places in a row give to `cells` places whose ends are theirs, (cells, size):  max(0, 1 - |x_i - k|),
    x_i = i (size - 1) / (cells - 1), a distance of whole numbers.

    >>> bilinear(3, 5, "cpu").tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    """
    i, k = torch.arange(cells, device=device), torch.arange(size, device=device)
    last = max(1, cells - 1)
    return (last - (i[:, None] * (size - 1) - k * last).abs()).clamp(min=0).to(dtype) / last


def resampled(maps: Tensor, cells: int, grid: tuple[int, int] | None = None, place: Box | Boxes | None = None) -> Tensor:
    """Maps (N, D, h, w) at cells x cells places, bilinear with aligned corners, in full precision: (N, D, cells, cells).

    grid, place: the maps lie at `place` of a larger grid, with `Boxes` each picture's at its own, zeros around them; they are
    brought to its size first. The large maps are never made.
    """
    with without_autocast(maps):
        x = full_precision(maps)
        if place is not None and tuple(x.shape[2:]) != place[2:]:  # grids that round up
            x = F.interpolate(x, size=place[2:], mode="bilinear", align_corners=False)
        rows, columns = (bilinear(size, cells, x.device, x.dtype) for size in (x.shape[2:] if grid is None else grid))
        if isinstance(place, Boxes):
            at = (first[:, None] + torch.arange(side, device=x.device) for first, side in zip(place[:2], place[2:]))
            rows, columns = (weights[:, i].transpose(0, 1)[:, None] for weights, i in zip((rows, columns), at))
        elif place is not None:
            rows, columns = rows[:, place.top :][:, : place.height], columns[:, place.left :][:, : place.width]
        return rows @ x @ columns.mT


def by_cell(maps: Tensor) -> Tensor:
    """(N, D, h, w) -> (h w N, D), as the release lays features: row 1 is the same cell of the next picture."""
    return maps.permute(2, 3, 0, 1).flatten(0, 2)
