"""The colours of a training picture: what happens to them is drawn first, as a few numbers, and done afterwards.

So the numbers can be drawn where the picture is loaded, and the work done there or, for a whole batch, on the device.
Letters: H, W image size. A change is a name and its numbers, such as ("brightness", 1.2).

    weak     ProCA (released code): brightness, contrast, saturation +-.5, hue +-.2, in random order; grey with p = .2
    strong   gamma, a gain per channel, brightness, contrast, saturation: so much that a network cannot rely on colours, the
             control of many an adaptation method. Ranges: this course's study of CamVid day -> dusk; saturation's is contrast's
    blur     Gaussian 3x3, sigma U(.1, 2) (ProCA, released code)
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

Photometric = Literal["none", "weak", "strong"]
Change = tuple[str | float, ...]

GREY_PROBABILITY = 0.2
_JITTER = v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
LUMA = (0.299, 0.587, 0.114)  # grey of RGB, ITU-R 601, as Pillow


def draw(photometric: Photometric, blur: bool) -> list[Change]:
    """The changes of one picture, in their order, out of torch's generator.

    >>> _ = torch.manual_seed(0)
    >>> [name for name, *_ in draw("weak", blur=True)]
    ['brightness', 'contrast', 'hue', 'saturation', 'blur']
    """
    changes = {"none": list, "weak": _draw_weak, "strong": _draw_strong}[photometric]()
    return changes + [("blur", uniform(0.1, 2.0))] if blur else changes


def apply(image: Tensor, changes: Sequence[Change]) -> Tensor:
    """Do them to a picture (3, H, W) uint8 RGB, on its own device and without asking it anything."""
    for name, *numbers in changes:
        image = CHANGES[name](image, *numbers)
    return image


def check_photometric(photometric: str) -> None:
    """Raise ValueError for a preset that there is not."""
    if photometric not in get_args(Photometric):
        raise ValueError(f"Got photometric={photometric!r}, wanted one of: {', '.join(get_args(Photometric))}.")


def _draw_weak() -> list[Change]:
    drawn = _JITTER.make_params([])
    names = [("brightness", "contrast", "saturation", "hue")[k] for k in drawn["fn_idx"].tolist()]
    grey = [("grey",)] if torch.rand(1).item() < GREY_PROBABILITY else []
    return [(name, drawn[f"{name}_factor"]) for name in names] + grey


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


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian 3x3 with reflected borders; columns, then rows: what v2.GaussianBlur does, in a tenth of its time on a CPU."""
    tail = math.exp(-0.5 / sigma**2)
    middle, side = 1 / (1 + 2 * tail), tail / (1 + 2 * tail)
    x = F.pad(image.float(), (1, 1, 1, 1), mode="reflect")
    x = middle * x[..., 1:-1] + side * (x[..., :-2] + x[..., 2:])
    x = middle * x[..., 1:-1, :] + side * (x[..., :-2, :] + x[..., 2:, :])
    return x.round_().to(torch.uint8)


CHANGES: dict[str, Callable[..., Tensor]] = {
    "brightness": v2.functional.adjust_brightness,
    "contrast": v2.functional.adjust_contrast,
    "saturation": v2.functional.adjust_saturation,
    "hue": v2.functional.adjust_hue,
    "grey": lambda image: v2.functional.rgb_to_grayscale(image, num_output_channels=3),
    "strong": strong,
    "blur": gaussian_blur,
}


def uniform(low: float, high: float) -> float:
    """One draw from U(low, high) out of torch's generator."""
    return low + (high - low) * torch.rand(()).item()
