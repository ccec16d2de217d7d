"""Two views of one picture: the augmentation that SimCLR learns from (Chen et al. 2020, section 3 and appendix A).

Letters: N pictures, H, W their size, S x S a view, K = 35 uniform numbers that decide one view.

    crop and resize   area U(0.08, 1) of the picture, ratio 3/4 to 4/3, back to S x S
    flip              p = 0.5
    colour jitter     p = 0.8: brightness, contrast, saturation U(1 - 0.8 s, 1 + 0.8 s), hue U(-0.2 s, 0.2 s), in random
                      order, clipped to [0, 1] after each
    grey              p = 0.2
    blur              p = 0.5: Gaussian, sigma U(0.1, 2), as wide as a tenth of the view

All pictures of a batch are disturbed at once, each by its own numbers, on the batch's device. The numbers are drawn on the
CPU, K for each picture in the order of the batch: the views of picture i depend on the generator and on i alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.data.colours import LUMA
from course_lib.typed import SHARE, in_range

BRIGHTNESS = CONTRAST = SATURATION = 0.8  # times s; paper, appendix A, and the released code
HUE = 0.2  # times s
ATTEMPTS = 10  # at a box that fits into the picture, then the largest that does: torchvision's RandomResizedCrop
BLUR_WIDTH = 0.1  # of the view: the window of the blur, released code

_BOX, _FLIP, _JITTER, _FACTORS, _ORDER, _GREY, _BLUR = 0, 2 * ATTEMPTS + 2, 23, 24, 28, 32, 33
NUMBERS = 35  # per view


@dataclass(frozen=True)
class ViewSettings:
    """How strongly a view differs from its picture. Defaults: the paper's for ImageNet; for CIFAR's 32x32 pictures
    the released code has `jitter_strength=0.5, blur_probability=0`."""

    view_size: int | None = None  # pixels, square; None: the picture's own size
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    jitter_strength: float = 1.0  # s
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view

    def __post_init__(self) -> None:
        in_range(self, flip_probability=SHARE, jitter_probability=SHARE, grey_probability=SHARE, blur_probability=SHARE,
                 view_size=(1, 8192))  # fmt: skip
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area is {self.crop_area}; it wants (lo, hi), parts of the picture: 0 < lo <= hi <= 1.")
        for name in ("crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is {(low, high)}; it wants (lo, hi) with 0 < lo <= hi.")
        if self.jitter_strength < 0 or self.jitter_strength * HUE > 0.5:
            raise ValueError(f"jitter_strength is {self.jitter_strength}; it wants 0 (none) to 2.5 (any hue), published: 1.")


WEAK_VIEWS = ViewSettings(crop_area=(0.9, 1.0), jitter_probability=0, grey_probability=0, blur_probability=0)


class Views:
    """Draws one view of each picture: `Views(settings)(images, generator)`; call it twice for two views.

    >>> views, generator = Views(ViewSettings()), torch.Generator().manual_seed(0)
    >>> images = torch.rand(4, 3, 32, 32)
    >>> view_a, view_b = views(images, generator), views(images, generator)
    >>> tuple(view_a.shape), bool((view_a == view_b).all())
    ((4, 3, 32, 32), False)
    """

    def __init__(self, settings: ViewSettings = ViewSettings()) -> None:
        self.settings = settings
        self._checked = False

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """images (N, 3, H, W) RGB in [0, 1] -> (N, 3, S, S) in [0, 1]; `generator` lives on the CPU."""
        return self.apply(images, self.draw(len(images), generator))

    @staticmethod
    def draw(count: int, generator: torch.Generator | None = None) -> Tensor:
        """The numbers of `count` views: (count, K) in [0, 1), on the CPU. A process that has some of the pictures draws
        all rows and uses its own."""
        return torch.rand(count, NUMBERS, generator=generator)

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The views that these numbers (N, K) describe, one of each picture."""
        self._check(images, numbers)
        s, u = self.settings, numbers
        height, width = images.shape[-2:]
        size = (height, width) if s.view_size is None else (s.view_size, s.view_size)
        box = boxes(u[:, _BOX:_FLIP], (height, width), s.crop_area, s.crop_ratio)
        x = crop_and_resize(images, box, size, flip=u[:, _FLIP] < s.flip_probability)
        jitter = u[:, _JITTER] < s.jitter_probability if s.jitter_strength else torch.zeros(len(u), dtype=torch.bool)
        x = colour_jitter(x, jitter_factors(u[:, _FACTORS:_ORDER], s.jitter_strength), u[:, _ORDER:_GREY].argsort(1), jitter)
        x = _where(u[:, _GREY] < s.grey_probability, x, grey)
        low, high = s.blur_sigma
        sigma = low + (high - low) * u[:, _BLUR + 1]
        return _where(u[:, _BLUR] < s.blur_probability, x, gaussian_blur, sigma)

    def _check(self, images: Tensor, numbers: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"Views got {images.dtype} pictures of shape {tuple(images.shape)}; it wants floating point (N, 3, H, W). "
                "From bytes: images.float() / 255."
            )
        if tuple(numbers.shape) != (len(images), NUMBERS):
            raise ValueError(f"Views got numbers {tuple(numbers.shape)} for {len(images)} pictures; it wants one row each.")
        if not self._checked:  # once: on a GPU reading the values waits for the device
            low, high = images.amin().item(), images.amax().item()
            if low < 0 or high > 1:
                raise ValueError(
                    f"Views got pictures with values from {low:.3g} to {high:.3g}; it wants RGB in [0, 1]. "
                    "Normalise after the views are drawn, not before."
                )
            self._checked = True


# ---- where: crop, resize, flip --------------------------------------------------------------------------------------


def boxes(u: Tensor, size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Random boxes (N, 4): top, left, height, width in pixels, real numbers (torchvision rounds them).

    An attempt draws area a ~ U(area) H W and ratio r, ln r ~ U(ln ratio): w = sqrt(a r), h = sqrt(a / r). The first of 10
    that fits counts; if none does, the middle of the picture, as large as the ratios allow.
    """
    H, W = size
    tries = u[:, : 2 * ATTEMPTS].view(len(u), ATTEMPTS, 2)
    a = H * W * (area[0] + (area[1] - area[0]) * tries[..., 0])
    r = torch.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * tries[..., 1])
    h, w = (a / r).sqrt(), (a * r).sqrt()
    fits = (h <= H) & (w <= W)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)  # the first True
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    top, left = u[:, -2] * (H - h), u[:, -1] * (W - w)
    r_middle = min(max(W / H, ratio[0]), ratio[1])
    h_middle, w_middle = min(H, W / r_middle), min(W, H * r_middle)
    middle = torch.tensor([(H - h_middle) / 2, (W - w_middle) / 2, h_middle, w_middle])
    return torch.where(fits.any(1, keepdim=True), torch.stack([top, left, h, w], dim=1), middle)


def crop_and_resize(images: Tensor, box: Tensor, size: tuple[int, int], flip: Tensor | None = None) -> Tensor:
    """Cut box n (top, left, height, width) out of picture n and resize it, bilinear with antialiasing: (N, 3, *size).

    Both are one weighted mean per axis, so two products of small matrices do it: Y_n image X_n'. `flip` (N,): mirrored.
    """
    box = box.double()  # positions; the weights are rounded at the end
    Y = _resampling(box[:, 0], box[:, 2], images.shape[-2], size[0])
    X = _resampling(box[:, 1], box[:, 3], images.shape[-1], size[1])
    if flip is not None:
        X = torch.where(flip[:, None, None], X.flip(1), X)
    Y, X = (weights.to(images.device, images.dtype)[:, None] for weights in (Y, X))
    return Y @ images @ X.transpose(-1, -2)


def _resampling(start: Tensor, length: Tensor, inside: int, outside: int) -> Tensor:
    """(N, outside, inside): the weight of every pixel for every new pixel, a triangle around the new pixel's centre.

    The triangle is one new pixel wide on each side, at least one old one; it does not look beyond the box.
    """
    scale = (length / outside)[:, None, None]
    centre = start[:, None, None] + scale * (torch.arange(outside)[:, None] + 0.5)
    pixel = torch.arange(inside) + 0.5
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    first, last = start[:, None, None], (start + length)[:, None, None]
    weight = weight * ((pixel > first - 0.5) & (pixel < last + 0.5))  # pixels of which the box has a part
    return (weight / weight.sum(2, keepdim=True)).float()


# ---- colours --------------------------------------------------------------------------------------------------------


def jitter_factors(u: Tensor, strength: float) -> Tensor:
    """(N, 4) uniform numbers -> factors of brightness, contrast and saturation, and the turn of the hue (1 is a whole)."""
    spread = torch.tensor([BRIGHTNESS, CONTRAST, SATURATION, HUE]) * strength
    low = torch.tensor([1.0, 1.0, 1.0, 0.0]) - spread
    low[:3].clamp_(min=0)
    high = torch.tensor([1.0, 1.0, 1.0, 0.0]) + spread
    return low + (high - low) * u


def colour_jitter(x: Tensor, factors: Tensor, order: Tensor, which: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of the pictures in `which` (N,), each in its own order (N, 4)."""
    x = x.clone()
    for place in range(4):
        for kind, change in enumerate((brightness, contrast, saturation, hue)):
            rows = ((order[:, place] == kind) & which).nonzero()[:, 0]
            if len(rows):
                factor = factors[rows, kind].to(x.device, x.dtype)[:, None, None, None]
                rows = rows.to(x.device)
                x[rows] = change(x[rows], factor).clamp_(0, 1)
    return x


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """f x"""
    return factor * x


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """f x + (1 - f) m, m the mean grey of the picture"""
    return factor * x + (1 - factor) * grey(x).mean((1, 2, 3), keepdim=True)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """f x + (1 - f) grey(x)"""
    return factor * x + (1 - factor) * grey(x)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by `turn` of a whole circle; value and chroma of HSV stay."""
    value, chroma = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    r, g, b = x.split(1, dim=1)
    c = chroma.clamp(min=1e-12)
    sixth = torch.where(value == r, (g - b) / c, torch.where(value == g, 2 + (b - r) / c, 4 + (r - g) / c))
    k = (torch.tensor([5.0, 3.0, 1.0], device=x.device, dtype=x.dtype).view(3, 1, 1) + sixth + 6 * turn) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(x: Tensor) -> Tensor:
    """The luma of each pixel in all three channels."""
    weights = torch.tensor(LUMA, device=x.device, dtype=x.dtype).view(3, 1, 1)
    return (weights * x).sum(1, keepdim=True).expand_as(x)


# ---- blur -----------------------------------------------------------------------------------------------------------


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur picture n with sigma_n (N,) pixels; at the border the weights of the pixels that are there sum to 1.

    (The released code pads with black, which marks the border of a blurred view.)
    """
    Y, X = (_gaussian(sigma, side).to(x.device, x.dtype)[:, None] for side in x.shape[-2:])
    return Y @ x @ X.transpose(-1, -2)


def _gaussian(sigma: Tensor, side: int) -> Tensor:
    """(N, side, side): row i has the weights of all pixels for pixel i."""
    distance = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    weight = torch.exp(-0.5 * (distance / sigma[:, None, None].double()) ** 2)
    weight = weight * (distance <= max(1, int(BLUR_WIDTH * side) // 2))
    return (weight / weight.sum(2, keepdim=True)).float()


def _where(which: Tensor, x: Tensor, change, *rows: Tensor) -> Tensor:
    """x, with `change` made to the pictures in `which` (N,); `rows` are further arguments, one row per picture."""
    index = which.nonzero()[:, 0]
    if not len(index):
        return x
    x = x.clone()
    there = index.to(x.device)
    x[there] = change(x[there], *(row[index] for row in rows))
    return x
