"""From a sample as read to a sample as a network wants it: sizes, augmentation, normalisation.

Letters: H, W image size. Sizes are (height, width). Image and label move together: the image bicubic with antialiasing,
the label nearest, both as Pillow does. Random choices come from torch's generator, which the data set seeds per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from course_lib.data.colours import Change, Photometric, apply, draw, uniform
from course_lib.data.disparity import UNKNOWN
from course_lib.data.types import ExtendedSample, Sample, Unfinished
from course_lib.labels import IGNORE
from course_lib.typed import COUNT, SHARE, checked, in_range

Size = tuple[int, int]
CROPS_AGAIN = 10  # [code] DAFormer
MOST_SEEN = 2**25  # pixels that a network is given at once, 34 megapixels; the largest street pictures have 20

# (height, width) of the network's input: AdaptSegNet's released code; SYNTHIA's from ProCA's.
PUBLISHED_SIZES: dict[str, Size] = {"gta5": (720, 1280), "synthia": (760, 1280), "cityscapes": (512, 1024)}


@dataclass(frozen=True)
class Normalisation:
    """z = (x - mean) / std, per channel, of x in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False  # channels in the order blue, green, red

    def normalise(self, image: Tensor) -> Tensor:
        """RGB in 0..255 (..., 3, H, W), uint8 or float -> float32 as the network wants it."""
        x = (image.flip(-3) if self.bgr else image).to(torch.float32, copy=True)
        for k, (mean, std) in enumerate(zip(self.mean, self.std)):  # numbers: nothing to be brought to the device
            x[..., k, :, :].sub_(mean).div_(std)
        return x

    def denormalise(self, image: Tensor) -> Tensor:
        """The way back, for figures: float (..., 3, H, W) -> uint8 RGB."""
        x = image.to(torch.float32, copy=True)
        for k, (mean, std) in enumerate(zip(self.mean, self.std)):
            x[..., k, :, :].mul_(std).add_(mean)
        return (x.flip(-3) if self.bgr else x).round().clamp(0, 255).to(torch.uint8)


NORMALISATIONS: dict[str, Normalisation] = {
    # AdaptSegNet, BiDA (released code): BGR in 0..255 less the mean of the Caffe models, no division
    "caffe_bgr": Normalisation((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), bgr=True),
    # ProCA (released code), torchvision's weights: RGB in 0..1, mean (.485, .456, .406), std (.229, .224, .225)
    "imagenet": Normalisation((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    # EfficientNet-lite (TensorFlow's release): (x - 127) / 128
    "efficientnet_lite": Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    # RGB in 0..1: as contrastive views want it; the method normalises what it has made of it
    "unit": Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}


def normalisation_named(name: str) -> Normalisation:
    """An entry of NORMALISATIONS; ValueError with the known names for another."""
    if name not in NORMALISATIONS:
        raise ValueError(
            f"Unknown normalisation {name!r}. Known: {', '.join(NORMALISATIONS)}. "
            "Pass the network's own: network.normalisation."
        )
    return NORMALISATIONS[name]


def denormalise(image: Tensor, normalisation: str) -> Tensor:
    """A network's input as a picture again: float (..., 3, H, W) -> uint8 RGB, for figures."""
    return normalisation_named(normalisation).denormalise(image)


def resize(image: Tensor, label: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) uint8 bicubic with antialiasing, label (H, W) nearest, to `size`; as Pillow resizes them."""
    return resize_image(image, size), resize_label(label, size)


def resize_image(image: Tensor, size: Size) -> Tensor:
    """(3, H, W) uint8 to `size`, bicubic with antialiasing; the image itself where it has that size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return v2.functional.resize(image, list(size), InterpolationMode.BICUBIC, antialias=True)


def resize_label(label: Tensor, size: Size) -> Tensor:
    """(H, W) to `size`, the nearest pixel; the label itself where it has that size."""
    if tuple(label.shape[-2:]) == tuple(size):
        return label
    rows, columns = (nearest(old, new) for old, new in zip(label.shape, size))
    return label.index_select(0, rows).index_select(1, columns)


def nearest(old: int, new: int) -> Tensor:
    """Which of `old` pixels lies under the centre of each of `new`, rounding errors included, as Pillow steps along.

    (v2.Resize is half a pixel off on a Mask; torch's "nearest-exact" decides ties otherwise.)

    >>> nearest(6, 3).tolist(), nearest(2, 5).tolist()
    ([1, 3, 5], [0, 0, 1, 1, 1])
    """
    steps = torch.full((new,), old / new, dtype=torch.float64)
    steps[0] /= 2
    return steps.cumsum(0).long().clamp_(max=old - 1)


def train_transform(
    size: Size | None,
    normalisation: str,
    *,
    flip: bool = False,
    scale: tuple[float, float] | None = None,
    crop: Size | None = None,
    photometric: Photometric = "none",
    blur: bool | None = None,
    colours_on: Literal["loader", "device"] = "loader",
    shown_pixels: int = 0,
    plain: bool = False,
    margins: tuple[float, float, float] = (0.0, 0.0, 0.0),
    crop_share: float = 1.0,
) -> Callable[[Sample | ExtendedSample], Sample | ExtendedSample | Unfinished]:
    """What happens to a training picture: resize, random scale, random crop, flip, colours, blur, normalise.

    `size`: of the whole picture (None: as it is on disk).      `scale`: times U(lo, hi), the same in both directions.
    `crop`: a random window; where the picture is smaller it is padded below and right, image 0, label 255.
    `flip`: left-right with probability 1/2.                    `photometric`: a preset of `data.colours`.
    `blur`: Gaussian 3x3 on (True) or off (False); None: as the preset has it ("weak" on, others off).
    `normalisation`: a key of NORMALISATIONS, the network's own.
    `colours_on`: where colours, blur and normalisation are done. "device": they are drawn here, and done when the batch
    comes to its device (`UnfinishedBatch.to`): the same draws, a quarter of the bytes to copy, and workers are free of it.
    `shown_pixels`: for rare class sampling, a crop is drawn again until it has more pixels of the drawn class (`random_crop`).
    `crop_share`: a crop is drawn again while one class has this share of its labelled pixels or more (`random_crop`).
    `plain`: give the picture without its colours, too (`Batch.plain`).
    A disparity, where the sample has one, goes through the same resize, crop and flip (`data.disparity`).
    `margins`: with `plain`, which pixels are away from the upper, lower and side margins of the WHOLE picture, given as shares
    of its height and width (`Batch.valid`): of pictures that show the car's own bonnet, or have a black border.

    >>> train_transform(PUBLISHED_SIZES["gta5"], "caffe_bgr").size  # AdaptSegNet's source: nothing random
    (720, 1280)
    """
    return TrainTransform(size, normalisation, flip, scale, crop, photometric, blur, colours_on, shown_pixels, plain, margins,
                          crop_share)  # fmt: skip


def test_transform(size: Size | None, normalisation: str, resize_label: bool = False) -> Callable[[Sample], Sample]:
    """What happens to a test picture: image resized to `size` and normalised; the label stays at its own size.

    Published scores are taken there: the network's output is upsampled to the label, not the label reduced.
    `resize_label`: the label is brought to `size` too, as in training, for passes over training pictures.
    """
    return TestTransform(size, normalisation, resize_label)


test_transform.__test__ = False  # a transform for tests, not a test


@dataclass(frozen=True)
class TrainTransform:
    """See `train_transform`."""

    size: Size | None
    normalisation: str
    flip: bool = False
    scale: tuple[float, float] | None = None
    crop: Size | None = None
    photometric: Photometric = "none"
    blur: bool | None = None
    colours_on: Literal["loader", "device"] = "loader"
    shown_pixels: int = 0
    plain: bool = False
    margins: tuple[float, float, float] = (0.0, 0.0, 0.0)
    crop_share: float = 1.0

    def __post_init__(self) -> None:
        in_range(self, shown_pixels=COUNT, crop_share=SHARE)
        check_margins(self.margins)
        normalisation_named(self.normalisation)
        _check_size("size", self.size)
        _check_size("crop", self.crop)
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Got scale={self.scale}, wanted (lo, hi) with 0 < lo <= hi, such as (0.5, 1.5).")
        checked(Photometric, self.photometric, "photometric")
        if self.colours_on not in ("loader", "device"):
            raise ValueError(f"Got colours_on={self.colours_on!r}, wanted 'loader' or 'device'.")

    @property
    def pads(self) -> bool:
        """Whether a crop can be larger than the picture: of its padding nothing is valid, whatever a teacher predicts there."""
        if self.crop is None or self.size is None:
            return self.crop is not None
        least = 1.0 if self.scale is None else self.scale[0]
        return any(round(least * side) < wanted for side, wanted in zip(self.size, self.crop))

    def __call__(self, sample: Sample | ExtendedSample, shown: int | None = None) -> Sample | ExtendedSample | Unfinished:
        """shown: a class of which the crop should have more than `shown_pixels` pixels."""
        image, label, name = sample[:3]
        D = _disparity_of(sample)
        height, width = self.size or image.shape[-2:]
        if self.scale is not None:
            s = uniform(*self.scale)
            height, width = max(1, round(s * height)), max(1, round(s * width))
        image, label = resize(image, label, (height, width))
        D = None if D is None else resize_label(D, (height, width))
        if any(self.margins) or self.pads:  # beside the label, so that both move alike
            label = torch.stack([_planes(label), inside_margins((height, width), self.margins).to(label.dtype)])
        if self.crop is not None:
            beside = () if D is None else ((D, UNKNOWN),)
            chosen = shown, self.shown_pixels, self.crop_share
            image, label, *rest = random_crop(image, label, self.crop, *chosen, beside)
            D = rest[0] if rest else None
        _check_seen(image, name)
        if self.flip and uniform(0, 1) < 0.5:
            image, label, D = image.flip(-1), label.flip(-1), None if D is None else D.flip(-1)
        blur = self.blur if self.blur is not None else self.photometric == "weak"
        finish = Finish(tuple(draw(self.photometric, blur)), self.normalisation)
        plain = Finish((), self.normalisation) if self.plain else None
        valid = None
        if label.ndim == 3:
            label, valid = label[0], label[1] == 1  # a crop's padding is not
        image, label = _planes(image), _planes(label).long()
        if self.colours_on == "device":
            return Unfinished(image, label, name, finish, plain, valid, D)
        if plain is not None or D is not None or valid is not None:
            return ExtendedSample(finish(image), label, name, plain and plain(image), valid, D)
        return Sample(finish(image), label, name)


@dataclass(frozen=True)
class Finish:
    """What turns a picture of the right size into what the network wants: its changes of colour, then normalisation."""

    changes: tuple[Change, ...]
    normalisation: str

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB -> float32, on the image's device."""
        return NORMALISATIONS[self.normalisation].normalise(apply(image, self.changes))


@dataclass(frozen=True)
class TestTransform:
    """See `test_transform`. A disparity is brought to `size` with the image."""

    __test__ = False  # a transform for tests, not a test

    size: Size | None
    normalisation: str
    resize_label: bool = False

    def __post_init__(self) -> None:
        normalisation_named(self.normalisation)
        _check_size("size", self.size)

    def __call__(self, sample: Sample | ExtendedSample) -> Sample | ExtendedSample:
        image = sample.image if self.size is None else resize_image(sample.image, self.size)
        _check_seen(image, sample.name)
        label = resize_label(sample.label, self.size) if self.resize_label and self.size is not None else sample.label
        image, label = _planes(image), _planes(label).long()
        image = NORMALISATIONS[self.normalisation].normalise(image)
        if (D := _disparity_of(sample)) is None:
            return Sample(image, label, sample.name)
        D = D if self.size is None else resize_label(D, self.size)
        return ExtendedSample(image, label, sample.name, disparity=D)


def inside_margins(size: Size, margins: tuple[float, float, float]) -> Tensor:
    """Which pixels of a whole picture are away from its margins, (H, W) bool.

        M(i, j) = 1[ i >= round(top H), i < H - round(bottom H), round(side W) <= j < W - round(side W) ]

    margins: top, bottom, side, shares of the height and, at the sides, of the width. A mask of the crop in place of the picture
    would hide the middle of the picture (so the released code of DAFormer).

    Source: HRDA (ECCV 2022), released code.

    >>> inside_margins((4, 2), (0.25, 0.5, 0.0))[:, 0].tolist()
    [False, True, False, False]
    """
    check_margins(margins)
    (H, W), (top, bottom, side) = size, margins
    row, column = torch.arange(H)[:, None], torch.arange(W)
    return (
        (row >= round(top * H)) & (row < H - round(bottom * H)) & (column >= round(side * W)) & (column < W - round(side * W))
    )


def check_margins(margins: tuple[float, float, float]) -> None:
    """Raise ValueError for anything but three shares."""
    if len(margins) != 3 or not all(0 <= share < 1 for share in margins):
        raise ValueError(f"margins are {margins}; wanted (top, bottom, side), shares of the picture from 0 to below 1.")


def random_crop(
    image: Tensor,
    label: Tensor,
    size: Size,
    shown: int | None = None,
    shown_pixels: int = 0,
    most: float = 1.0,
    beside: Sequence[tuple[Tensor, float]] = (),
) -> tuple[Tensor, ...]:
    """The same random window of image and label, padded first (image 0, label IGNORE) if it does not fit (ProCA).

    beside: further maps (H, W), each with the value of its padding, of which the same window is returned after the two.
    With a class `shown`, the window is drawn again until it has more than `shown_pixels` pixels of the class; with `most` below
    1, until there are at least two classes and none has this share of the labelled pixels. At most `CROPS_AGAIN` times; the
    last one is taken as it is (DAFormer, released code, in which each of ten tries for the class has ten of its own for the
    share).
    """
    image, label, *others = (_padded(x, size, value) for x, value in ((image, 0), (label, IGNORE), *beside))
    window, y = _window(image, size), label[0] if label.ndim == 3 else label  # beside it may be the pixels that count
    for _ in range(CROPS_AGAIN if shown is not None or most < 1 else 0):
        if (shown is None or (y[window] == shown).sum() > shown_pixels) and (most == 1 or _varied(y[window], most)):
            break
        window = _window(image, size)
    return tuple(x[window] for x in (image, label, *others))


def _padded(x: Tensor, size: Size, value: float) -> Tensor:
    """The map with `value` below and right of it, so that `size` fits."""
    below, right = max(0, size[0] - x.shape[-2]), max(0, size[1] - x.shape[-1])
    return F.pad(x, (0, right, 0, below), value=value) if below or right else x


def _disparity_of(sample: Sample | ExtendedSample) -> Tensor | None:
    return getattr(sample, "disparity", None)


def _varied(label: Tensor, most: float) -> bool:
    """Whether no class has the share `most` of the labelled pixels, and there are at least two."""
    counts = torch.bincount(label[label != IGNORE].flatten().long(), minlength=1)
    return int((counts > 0).sum()) > 1 and counts.max().item() < most * counts.sum().item()


def _window(image: Tensor, size: Size) -> tuple:
    height, width = size
    top = int(torch.randint(image.shape[-2] - height + 1, ()))
    left = int(torch.randint(image.shape[-1] - width + 1, ()))
    return ..., slice(top, top + height), slice(left, left + width)


def _planes(picture: Tensor) -> Tensor:
    """A plain tensor, plane after plane: a decoded picture has its colours interleaved, which is slow from here on."""
    return picture.as_subclass(Tensor).contiguous()


def _check_seen(image: Tensor, name: str) -> None:
    """A file of some kilobytes may unfold to more than a network's memory, where nothing resizes it."""
    height, width = image.shape[-2:]
    if height * width > MOST_SEEN:
        raise ValueError(
            f"A network would be given {name!r} at {width}x{height}: {height * width / 1e6:.0f} megapixels, and at most "
            f"{MOST_SEEN / 1e6:.0f} are taken. Make the picture smaller, or set a size or a crop."
        )


def _check_size(what: str, size: Size | None) -> None:
    if size is not None and (len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f"Got {what}={size!r}, wanted (height, width) in whole pixels, such as (512, 1024), or None.")
