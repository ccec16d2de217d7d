"""Mixing two pictures: which pixels come from the source, and the picture, label and weight that follow from it.

Letters: N pictures, C classes, (H, W) their size; M (N, H, W) bool, True where a pixel is the source's; x pictures, y labels,
q weights, f_c the share of class c among the source's pixels. Nothing here asks a device for a value: the host never waits.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ranks
from course_lib.data.types import Batch
from course_lib.devices import copies_may_run_ahead
from course_lib.losses.inputs import IGNORE, train_ids
from course_lib.losses.segmentation import count_ids
from course_lib.typed import AT_LEAST_1, SHARE, TEMPERATURE, checked, in_range

Mix = Literal["class", "box"]
Scope = Literal["picture", "batch"]


@dataclass(frozen=True)
class MixingSettings:
    """Of a `Mixer`."""

    mix: Mix = "class"  # [code] DACS
    # whose classes are drawn from. [code] DACS: the picture's, unlabelled pixels as one more; the DAFormer line: the batch's
    mix_scope: Scope = "picture"
    mix_rare: float | None = None  # ours: T of `class_mask`, small numbers paste rare classes first; None: all classes alike
    mix_box: float = 0.5  # French et al.: the share of the picture that the box covers
    unmixed: float = 0.0  # the probability that a picture is left as it is; [code] SemiSegContrast 0.25, DACS 0

    def __post_init__(self) -> None:
        checked(Mix, self.mix, "mix")
        checked(Scope, self.mix_scope, "mix_scope")
        in_range(self, mix_rare=TEMPERATURE, mix_box=SHARE, unmixed=SHARE)


class Mixed(NamedTuple):
    """N mixed pictures: image (N, 3, H, W), label (N, H, W) train ids, weight (N, H, W), mask (N, H, W) bool."""

    image: Tensor
    label: Tensor
    weight: Tensor
    mask: Tensor


def classes_present(label: Tensor, num_classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Which classes each picture has: labels (N, H, W) -> (N, C + 1) bool; the last column is `ignore_index`.

    >>> classes_present(torch.tensor([[[0, 2, 2, 255]]]), 3).tolist()
    [[True, False, True, True]]
    """
    y = _columns(label, num_classes, ignore_index).flatten(1)
    there = torch.zeros(len(y), num_classes + 1, dtype=torch.bool, device=y.device)
    return there.scatter_(1, y, torch.ones_like(y, dtype=torch.bool))


def draw_half(there: Tensor, numbers: Tensor, rarity: Tensor | None = None) -> Tensor:
    """Draw half of the classes that are there, rounded up, one after the other: (N, K) bool -> (N, K) bool.

        s_nc = rarity_c - log(-log u_nc)        the ceil(n / 2) classes with the largest s_n are drawn, n those that are there

    numbers: u (N, K), uniform in (0, 1). rarity (K,): P(next = c) is proportional to exp(rarity_c) among those that are left
    (Gumbel's maximum); None: all alike.
    """
    s = -torch.log(-torch.log(numbers))
    if rarity is not None:
        s = s + rarity
    s = s.masked_fill(~there, -torch.inf)
    place = s.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # 0 for the largest
    half = (there.sum(dim=1, keepdim=True) + 1) // 2                       # ceil(n / 2)
    return place < half


def class_mask(
    label: Tensor,
    num_classes: int,
    scope: Scope = "picture",
    shares: Tensor | None = None,
    temperature: float = 1.0,
    ignore_index: int = IGNORE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """ClassMix: the pixels of half of the classes, (N, H, W) train ids -> M (N, H, W) bool.

        M_n(p) = 1[ y_n(p) in A_n ],   A_n: ceil(n / 2) classes drawn out of the n that picture n has

    scope: "picture" draws among the classes of each picture, never `ignore_index`. "batch", the released way: for each picture
        among what is found anywhere in the batch (of all processes), ignored pixels like a class. A picture then gets fewer
        of its own classes than half, or none, and pixels without a label are pasted.
    shares: f (C,) of the source's pixels: classes are drawn one after the other with P(c) proportional to
        exp((1 - f_c) / temperature), so a small temperature pastes the rarest first. None: all alike.
    generator: of the same state in all processes; each uses its own part of the numbers that it gives for the whole batch.

    Source: ClassMix (Olsson et al., WACV 2021), between domains DACS (Tranheden et al., WACV 2021).

    >>> y = torch.tensor([[[0, 0, 1, 255]]])
    >>> class_mask(y, 2, generator=torch.Generator().manual_seed(0)).tolist()
    [[[False, False, True, False]]]
    """
    if label.ndim != 3:
        raise ValueError(f"class_mask got labels {tuple(label.shape)}; it wants train ids (N, H, W).")
    if shares is not None and shares.shape != (num_classes,):
        raise ValueError(f"shares is {tuple(shares.shape)}; it wants one number for each class, ({num_classes},).")
    y = _columns(label, num_classes, ignore_index).flatten(1)
    there = classes_present(label, num_classes, ignore_index)
    if scope == "picture":
        there = there & (torch.arange(num_classes + 1, device=y.device) < num_classes)
    else:
        checked(Scope, scope, "scope")
        there = (ranks.total(there.sum(dim=0)) > 0).expand_as(there)
    rarity = None
    if shares is not None:
        rarity = (1 - torch.nn.functional.pad(shares.to(y.device).float(), (0, 1))) / temperature
    chosen = draw_half(there, uniform((len(y), num_classes + 1), y.device, generator), rarity)
    return chosen.gather(1, y).view(label.shape)


def box_mask(
    count: int,
    size: tuple[int, int],
    share: float = 0.5,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """CutMix: one box per picture that covers `share` of it, of any shape at any place; M (count, H, W) bool.

        h = round(H share^u),   w = round(W share^(1-u)),   top = floor(v (H - h + 1)),   left = floor(z (W - w + 1))

    u, v, z uniform in (0, 1).

    Source: CutMix (Yun et al., ICCV 2019) in the form for segmentation of French et al. (BMVC 2020).

    >>> box_mask(1, (8, 8), share=0.25, generator=torch.Generator().manual_seed(0)).sum().item()
    16
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it is the share of the picture that the box covers, 0 to 1.")
    H, W = size
    u, v, z = uniform((count, 3), device, generator).unbind(dim=1)
    h, w = (H * share**u).round(), (W * share ** (1 - u)).round()
    top = (v * (H - h + 1)).floor().minimum(H - h)  # rounding: v near 1
    left = (z * (W - w + 1)).floor().minimum(W - w)
    rows = torch.arange(H, device=u.device)[None, :]
    columns = torch.arange(W, device=u.device)[None, :]
    inside_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def depth_mask(pasted: Tensor, under: Tensor, tie: float = 0.03) -> Tensor:
    """DepthMix: the nearer pixel is shown. Disparities (N, H, W) of two pictures each -> M (N, H, W) bool.

        M_n(p) = 1[ s(D_n)(p) >= s(D'_n)(p) - tie ],    s(D) = (D - min D) / (max D - min D)

    D of the pasted picture, D' of the other one; minimum and maximum are those of the pixels where D is known (D >= 0). Unknown
    pixels are as far away as the farthest. Where both pictures are as far away, but for the tie, the pasted one wins: the two
    masks of a pair that is mixed in both ways cover all pixels.

    Source: DepthMix in Hoyer et al., Three ways to improve semantic segmentation with self-supervised depth estimation (CVPR
    2021); tie [code].

    >>> depth_mask(torch.tensor([[[0.1, 0.5, 0.9]]]), torch.tensor([[[0.9, 0.4, 0.1]]])).tolist()
    [[[False, True, True]]]
    """
    if pasted.ndim != 3 or pasted.shape != under.shape:
        raise ValueError(
            f"depth_mask got disparities {tuple(pasted.shape)} and {tuple(under.shape)}; it wants (N, H, W), both of one shape."
        )
    return scaled(pasted) >= scaled(under) - tie


def scaled(D: Tensor) -> Tensor:
    """Disparities (N, H, W) from 0 to 1 in each picture, 0 where unknown (below 0) and in a picture of one distance.

    >>> scaled(torch.tensor([[[0.25, 0.5, 0.75, -1.0]]])).tolist()
    [[[0.0, 0.5, 1.0, 0.0]]]
    """
    known = D >= 0
    least = torch.where(known, D, torch.inf).amin(dim=(1, 2), keepdim=True)
    most = torch.where(known, D, -torch.inf).amax(dim=(1, 2), keepdim=True)
    span = most - least
    return torch.where(known & (span > 0), (D - least) / span, 0)


def mix(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """M a + (1 - M) b, for maps (N, H, W) and for pictures (N, channels, H, W) alike.

    >>> mix(torch.tensor([[[True, False]]]), torch.tensor([[[1, 2]]]), torch.tensor([[[3, 4]]])).tolist()
    [[[1, 4]]]
    """
    if a.shape != b.shape or mask.shape != (len(a), *a.shape[-2:]):
        raise ValueError(
            f"mix got {tuple(a.shape)} and {tuple(b.shape)} with a mask {tuple(mask.shape)}; it wants two of one shape, "
            "(N, H, W) or (N, channels, H, W), and a mask (N, H, W). Crop source and target to one size."
        )
    return torch.where(mask if a.ndim == 3 else mask[:, None], a, b)


def paste(M: Tensor, source: Batch, target: Batch, y: Tensor, q: Tensor, weight: Tensor | None = None) -> Mixed:
    """The pixels M (N, H, W) bool of one batch on another, whose labels are y and their weights q, (N, H, W) both.

    weight (N, H, W): of the labels that are pasted; None: 1.
    """
    weight = torch.ones_like(q) if weight is None else weight
    return Mixed(mix(M, source.image, target.image), mix(M, source.label, y), mix(M, weight, q), M)


def following(x: Tensor) -> Tensor:
    """The picture after each one, in the batch of all processes: (N, ...) -> (N, ...), row n is row n + 1, the last one's is
    the first of all; without gradient.

    >>> following(torch.tensor([[1], [2], [3]])).tolist()
    [[2], [3], [1]]
    """
    first = ranks.gather(x[:1].detach())[(ranks.rank() + 1) % ranks.count()]
    return torch.cat([x[1:].detach(), first[None]])


class Mixer(nn.Module):
    """Pastes pixels of source pictures on target pictures: one mask for picture, label and weight.

        x_m = M x_s + (1 - M) x_t,   y_m = M y_s + (1 - M) y,   q_m = M 1 + (1 - M) q

    With probability `unmixed` a picture is all target (M = 0). For `mix_rare`, f_c is the share of class c among the labelled
    source pixels so far, this batch's (of all processes) among them; the counts are a buffer, and grow in training mode alone.
    Where unlabelled pictures are pasted (ClassMix), these are the teacher's labels, whatever their weight.
    All random numbers of a picture come from the generator, and from the picture's place in the whole batch.
    """

    def __init__(self, num_classes: int, settings: MixingSettings | None = None) -> None:
        super().__init__()
        self.num_classes, self.settings = num_classes, settings or MixingSettings()
        in_range(self, num_classes=AT_LEAST_1)
        if self.settings.mix_rare is not None:
            self.register_buffer("pixels", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def shares(self) -> Tensor:
        """f (C,) float32 of the source pixels so far; 0 before the first."""
        return self.pixels.float() / self.pixels.sum().clamp(min=1)

    def forward(
        self, source: Batch, target: Batch, y: Tensor, q: Tensor, generator: torch.Generator | None = None
    ) -> Mixed:
        """Mix a batch of each domain; y (N, H, W) are the target's pseudo-labels and q (N, H, W) their weights."""
        return paste(self.mask(source.label, generator), source, target, y, q)

    def mask(self, label: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """M of the source's labels (N, H, W)."""
        s = self.settings
        if s.mix == "box":
            M = box_mask(len(label), label.shape[-2:], s.mix_box, label.device, generator)
        else:
            if s.mix_rare is not None and self.training:
                y = _columns(label, self.num_classes, IGNORE)
                self.pixels += ranks.total(count_ids(y, self.num_classes + 1)[:-1])
            shares = None if s.mix_rare is None else self.shares
            M = class_mask(label, self.num_classes, s.mix_scope, shares, s.mix_rare or 1.0, generator=generator)
        return self.some(M, generator)

    def some(self, M: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The masks (N, H, W), with probability `unmixed` empty."""
        if self.settings.unmixed == 0:
            return M
        return M & (uniform((len(M), 1, 1), M.device, generator) >= self.settings.unmixed)


def uniform(shape: tuple[int, ...], device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
    """This process's rows of numbers for the whole batch, uniform in (0, 1), float32 on `device`; drawn where the generator is.

    The generator gives those of all processes, so R processes with N rows each use what one process would with R N rows.
    """
    rows, place = shape[0], torch.device("cpu") if generator is None else generator.device
    numbers = torch.rand(ranks.count() * rows, *shape[1:], generator=generator, device=place)
    numbers = numbers[ranks.rank() * rows : (ranks.rank() + 1) * rows]
    return numbers.to(device, non_blocking=copies_may_run_ahead(device)).clamp(min=math.ulp(0.5))  # no 0: its log is -inf


def _columns(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Train ids with C in place of `ignore_index`."""
    y = train_ids(label, num_classes, ignore_index)
    return torch.where(y == ignore_index, num_classes, y)
