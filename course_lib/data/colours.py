"""The colours of a training picture: what happens to them is drawn first, as a few numbers, and done afterwards.

So the numbers can be drawn where the picture is loaded, and the work done there or, for a whole batch, on the device.
Letters: H, W image size. A change is a name and its numbers, such as ("brightness", 1.2).

    weak     ProCA (released code): brightness, contrast, saturation +-.5, hue +-.2, in random order; grey with p = .2
    strong   gamma, a gain per channel, brightness, contrast, saturation: so much that a network cannot rely on colours, the
             control of many adaptation methods. Ranges: this course's study of CamVid day -> dusk; saturation's is contrast's
    jitter   DACS (released code): with p = .8, brightness, contrast, saturation, hue +-.25, in random order
    mild     PiPa's windows (released code): with p = .5 a blur of 5x5, then with p = .8 brightness, contrast, saturation +-.4,
             hue +-.1, in random order; grey with p = .2
    blur     Gaussian 3x3, sigma U(.1, 2) (ProCA, released code)
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

Photometric = Literal["none", "weak", "strong", "jitter", "small-jitter", "mild"]
Change = tuple[str | float, ...]

GREY_PROBABILITY = 0.2
JITTER_PROBABILITY = 0.8
BLUR_PROBABILITY = 0.5  # of the preset "mild"
_WEAK = v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
_JITTER = v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.25)
_SMALL_JITTER = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2)
_MILD = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
BINOMIAL = (6 / 16, 4 / 16, 1 / 16)  # the middle and a side of OpenCV's Gaussian of 5 pixels whose sigma is not given
LUMA = (0.299, 0.587, 0.114)  # grey of RGB, ITU-R 601, as Pillow


def draw(photometric: Photometric, blur: bool) -> list[Change]:
    """The changes of one picture, in their order, out of torch's generator.

    >>> _ = torch.manual_seed(0)
    >>> [name for name, *_ in draw("weak", blur=True)]
    ['brightness', 'contrast', 'hue', 'saturation', 'blur']
    """
    presets = {"none": list, "weak": _draw_weak, "strong": _draw_strong, "jitter": _draw_jitter, "mild": _draw_mild,
               "small-jitter": partial(_draw_jitter, _SMALL_JITTER)}  # fmt: skip
    changes = presets[photometric]()
    return changes + [("blur", uniform(0.1, 2.0))] if blur else changes


def draw_mixed(photometric: Photometric, blur: float, count: int, generator: torch.Generator) -> list[list[Change]]:
    """The changes of each of `count` mixed pictures: a preset ("weak" without its blur), then with probability `blur` a
    Gaussian, sigma U(.15, 1.15).

    Source: DACS (WACV 2021), released code, which draws once for both pictures of a batch whether there is a change at all. Its
    Gaussian is a tenth of the picture wide; here it ends at 4 sigma, where its weights are below 1/2900 of the middle one.
    """
    with torch.random.fork_rng(devices=[]):  # the presets draw from torch's own generator, which stays as it is
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        found = []
        for _ in range(count):
            changes = draw(photometric, blur=False)
            blurred, sigma = uniform(0, 1) < blur, uniform(0.15, 1.15)
            found.append(changes + [("blur", sigma, math.ceil(4 * sigma))] if blurred else changes)
        return found


def apply(image: Tensor, changes: Sequence[Change]) -> Tensor:
    """Do them to a picture (3, H, W) uint8 RGB, on its own device, without waiting for that."""
    for name, *numbers in changes:
        image = CHANGES[name](image, *numbers)
    return image


def _draw_weak() -> list[Change]:
    changes = _jittered(_WEAK)
    return changes + [("grey",)] if torch.rand(1).item() < GREY_PROBABILITY else changes


def _draw_jitter(preset: v2.ColorJitter = _JITTER) -> list[Change]:
    return _jittered(preset) if uniform(0, 1) < JITTER_PROBABILITY else []


def _draw_mild() -> list[Change]:
    changes: list[Change] = [("blur of 5",)] if uniform(0, 1) < BLUR_PROBABILITY else []
    changes += _jittered(_MILD) if uniform(0, 1) < JITTER_PROBABILITY else []
    return changes + [("grey",)] if uniform(0, 1) < GREY_PROBABILITY else changes


def _jittered(preset: v2.ColorJitter) -> list[Change]:
    drawn = preset.make_params([])
    names = [("brightness", "contrast", "saturation", "hue")[k] for k in drawn["fn_idx"].tolist()]
    return [(name, drawn[f"{name}_factor"]) for name in names]


def _draw_strong() -> list[Change]:
    gamma = uniform(0.6, 1.8)
    gains = torch.empty(3).uniform_(0.85, 1.15).tolist()  # white balance
    return [("strong", gamma, *gains, uniform(0.3, 1.3), uniform(0.5, 1.5), uniform(0.5, 1.5))]


def strong(
    image: Tensor, gamma: float, red: float, green: float, blue: float, brightness: float, contrast: float, saturation: float
) -> Tensor:
    """The preset of that name on a picture (3, H, W) uint8: a power, then factors; the mean and the grey of pixels stay."""
    x = image.float() / 255
    x = x ** gamma
    x = torch.stack([gain * plane for gain, plane in zip((red, green, blue), x)])
    x = x * brightness
    mean = x.mean()
    x = mean + contrast * (x - mean)
    grey = sum(share * plane for share, plane in zip(LUMA, x))
    x = grey + saturation * (x - grey)
    return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


def gaussian_blur(image: Tensor, sigma: float, radius: int = 1) -> Tensor:
    """Gaussian of 2 radius + 1 pixels with reflected borders; columns, then rows: what v2.GaussianBlur does, in a tenth of its
    time on a CPU. A radius beyond the picture is cut."""
    radius = min(radius, *(n - 1 for n in image.shape[-2:]))
    tails = [math.exp(-0.5 * k**2 / sigma**2) for k in range(1, radius + 1)]
    return _filtered(image, *(weight / (1 + 2 * sum(tails)) for weight in (1.0, *tails))).round_().to(torch.uint8)


def blur_of_5(image: Tensor) -> Tensor:
    """The filter 1, 4, 6, 4, 1 (sixteenths) along rows and columns, reflected borders, halves rounded up (OpenCV).
    All numbers are multiples of 1/256, so that float32 is exact. Pictures of less than 3 pixels stay as they are."""
    if min(image.shape[-2:]) < len(BINOMIAL):
        return image
    return (_filtered(image, *BINOMIAL) + 0.5).floor_().to(torch.uint8)


def _filtered(image: Tensor, middle: float, *sides: float) -> Tensor:
    """sum_k weight_|k| x(i + k) along columns, then rows, in float32; borders are reflected."""
    radius = len(sides)
    x = F.pad(image.float(), (radius,) * 4, mode="reflect")
    for axis in (-1, -2):
        n = x.shape[axis] - 2 * radius
        blurred = middle * x.narrow(axis, radius, n)
        for k, side in enumerate(sides, 1):
            blurred = blurred + side * (x.narrow(axis, radius - k, n) + x.narrow(axis, radius + k, n))
        x = blurred
    return x


CHANGES: dict[str, Callable[..., Tensor]] = {
    "brightness": v2.functional.adjust_brightness,
    "contrast": v2.functional.adjust_contrast,
    "saturation": v2.functional.adjust_saturation,
    "hue": v2.functional.adjust_hue,
    "grey": lambda image: v2.functional.rgb_to_grayscale(image, num_output_channels=3),
    "strong": strong,
    "blur": gaussian_blur,
    "blur of 5": blur_of_5,
}


def uniform(low: float, high: float) -> float:
    """One draw from U(low, high) out of torch's generator."""
    return low + (high - low) * torch.rand(()).item()
