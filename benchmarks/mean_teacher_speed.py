"""The parts of a mean teacher's step beside the plain way of released code, on the same tensors: masks, colours, thresholds.

    python -m benchmarks.mean_teacher_speed [--rounds 9] [--batch 4] [--size 512x512] [--device cpu] [--out FILE]

    ClassMix      mixing.class_mask                   a loop over the classes that torch.unique finds in each picture
    colours       data.colours.apply, on the device   each picture to PIL, torchvision's jitter, and back
    thresholds    pseudo_labels.batch_thresholds      the confidences of each class sorted, one class after the other

Both ways in turn, in one process; a row gives medians. Masks and thresholds are equal bit for bit. Colours differ by the
rounding of PIL, four times to whole levels: less than 1 of 255 in the mean. The plain ways of masks and thresholds wait for the
device once for each class.
"""

import os
import platform
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from benchmarks.measuring import command, command_line, hand_over, medians, parsed
from course_lib.data import colours
from course_lib.mixing import class_mask
from course_lib.pseudo_labels import batch_thresholds

CLASSES = 19
JITTER = ("brightness", "contrast", "saturation", "hue")


def label_maps(batch: int, size: tuple[int, int]) -> Tensor:
    """Train ids (N, H, W) in patches, some of them ignored."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(0, CLASSES + 1, (batch, 1, 16, 16), generator=generator).float()
    label = torch.nn.functional.interpolate(patches, size=size, mode="nearest")[:, 0].long()
    return label.where(label < CLASSES, 255)


def mask_inputs(batch: int, size: tuple[int, int]) -> tuple[Tensor]:
    return (label_maps(batch, size),)


def our_mask(label: Tensor) -> tuple[Tensor]:
    """Half of the classes of each picture, from numbers of seed 0."""
    return (class_mask(label, CLASSES, generator=torch.Generator().manual_seed(0)).float(),)


def plain_mask(label: Tensor) -> tuple[Tensor]:
    """The same classes, found with `unique` and marked one after the other."""
    u = torch.rand(len(label), CLASSES + 1, generator=torch.Generator().manual_seed(0), device="cpu")
    first = -torch.log(-torch.log(u))
    masks = []
    for picture, order in zip(label, first):
        there = sorted((c for c in picture.unique().tolist() if c != 255), key=lambda c: -order[c].item())
        mask = torch.zeros_like(picture, dtype=torch.bool)
        for c in there[: (len(there) + 1) // 2]:
            mask |= picture == c
        masks.append(mask)
    return (torch.stack(masks).float(),)


def threshold_inputs(batch: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Confidences (N, H, W) and predicted classes."""
    sure = torch.rand(batch, *size, generator=torch.Generator().manual_seed(1))
    return sure, label_maps(batch, size).clamp(max=CLASSES - 1)


def our_thresholds(sure: Tensor, prediction: Tensor) -> tuple[Tensor]:
    return (batch_thresholds(sure, prediction, CLASSES, proportion=0.5, cap=1.0),)


def plain_thresholds(sure: Tensor, prediction: Tensor) -> tuple[Tensor]:
    """Number round(n_c / 2) of each class's confidences in rising order."""
    thresholds = torch.zeros(CLASSES)
    for c in range(CLASSES):
        x = sure[prediction == c].sort().values
        if len(x):
            thresholds[c] = x[min(round(0.5 * len(x)), len(x) - 1)]
    return (thresholds,)


def colour_inputs(batch: int, size: tuple[int, int]) -> tuple[Tensor]:
    """Pictures (N, 3, H, W) uint8: gradients with noise."""
    generator = torch.Generator().manual_seed(2)
    smooth = torch.rand(batch, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(smooth, size=size, mode="bilinear", align_corners=False)
    return ((255 * (0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=generator))).to(torch.uint8),)


def factors(batch: int) -> list[tuple[float, ...]]:
    """Of each picture: brightness, contrast, saturation, hue, DACS's ranges."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(batch, 4, generator=generator) / 2 - 0.25
    return [(1 + b, 1 + c, 1 + s, h) for b, c, s, h in spread.tolist()]


def our_colours(pictures: Tensor) -> tuple[Tensor]:
    changed = [colours.apply(picture, list(zip(JITTER, drawn))) for picture, drawn in zip(pictures, factors(len(pictures)))]
    return (torch.stack(changed).float(),)


def plain_colours(pictures: Tensor) -> tuple[Tensor]:
    done = []
    for picture, drawn in zip(pictures, factors(len(pictures))):
        image = tv.to_pil_image(picture.cpu())
        for change, factor in zip((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue), drawn):
            image = change(image, factor)
        done.append(tv.pil_to_tensor(image))
    return (torch.stack(done).float().to(pictures.device),)


PARTS: dict[str, tuple[Callable, Callable, Callable, float]] = {  # ours, plain, inputs, the largest mean difference
    "ClassMix": (our_mask, plain_mask, mask_inputs, 0.0),
    "colours": (our_colours, plain_colours, colour_inputs, 1.0),
    "thresholds": (our_thresholds, plain_thresholds, threshold_inputs, 0.0),
}


def row(name: str, batch: int, size: tuple[int, int], rounds: int, device: torch.device) -> str:
    ours, plain, make, tolerance = PARTS[name]
    inputs = [tensor.to(device) for tensor in make(batch, size)]
    off = max((a - b.to(a)).abs().mean().item() for a, b in zip(ours(*inputs), plain(*inputs), strict=True))
    if not off <= tolerance:
        raise SystemExit(f"{name} differs by {off:.1e} in the mean: times cannot be compared.")
    a, b = (1e3 * t for t in medians([lambda: ours(*inputs), lambda: plain(*inputs)], rounds, device))
    return f"| {name} | {a:,.1f} | {b:,.1f} | {b / a:.1f} x |"


def size_of(text: str) -> tuple[int, int]:
    """(H, W) of WIDTHxHEIGHT."""
    width, height = map(int, text.split("x"))
    return height, width


def main() -> None:
    parser = command_line(__doc__, rounds=9, device=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=size_of, default=(512, 512), help="WIDTHxHEIGHT")
    given = parsed(parser)
    H, W = given.size
    lines = [
        "# The parts of a mean teacher's step beside the plain way",
        "",
        f"`{command()}`",
        "",
        f"{given.device}, threads: {given.threads} of {os.cpu_count()} ({platform.machine()}), torch {torch.__version__};",
        f"{given.batch} pictures of {W}x{H}, medians of {given.rounds} rounds.",
        "",
        "| part | course_lib, ms | plain, ms | faster |",
        "|---|---|---|---|",
    ]
    lines += [row(name, given.batch, given.size, given.rounds, given.device) for name in PARTS]
    hand_over(lines, given.out)


if __name__ == "__main__":
    main()
