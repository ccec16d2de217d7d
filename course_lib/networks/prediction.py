"""What every segmentation network returns, and the check of what it is given.

Letters: N images, C classes, D feature channels; H, W the image, h, w the network's output grid (stride 8 or 4); F_1, F_2, ...
the encoder's maps, the finest first.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.losses.inputs import full_precision
from course_lib.losses.segmentation import upsample


class Box(NamedTuple):
    """A window of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, maps: Tensor) -> Tensor:
        """The window of maps (..., H, W) of the picture's size."""
        return maps[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def mask(self, like: Tensor) -> Tensor:
        """Which places of maps (..., H, W) it holds: (1, H, W) bool."""
        found = torch.zeros(1, *like.shape[-2:], dtype=torch.bool, device=like.device)
        self.of(found).fill_(True)
        return found

    def on(self, size: tuple[int, int], grid: tuple[int, int]) -> "Box":
        """The window of a picture of `size` in cells of its `grid`."""
        return Box(*_scaled(self, size, grid))


class Boxes(NamedTuple):
    """A window for each picture, all of one size, in pixels; their places stay on the device, unread by the host."""

    top: Tensor  # (N,) whole numbers
    left: Tensor  # (N,)
    height: int
    width: int

    def of(self, maps: Tensor) -> Tensor:
        """The windows of maps (N, H, W) or (N, D, H, W) of the pictures' size."""
        return maps[self._places(maps)]

    def put(self, parts: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (N, D, *size) with `parts` (N, D, height, width) at the windows, 0 elsewhere."""
        found = parts.new_zeros(*parts.shape[:2], *size)
        return found.index_put(self._places(found), parts)

    def mask(self, like: Tensor) -> Tensor:
        """Which places of maps (N, ..., H, W) they hold: (N, H, W) bool."""
        rows, columns = (torch.arange(side, device=self.top.device) for side in like.shape[-2:])
        inside = [(i >= a[:, None]) & (i < a[:, None] + side) for i, a, side in zip((rows, columns), self[:2], self[2:])]
        return inside[0][:, :, None] & inside[1][:, None]

    def on(self, size: tuple[int, int], grid: tuple[int, int]) -> "Boxes":
        """As `Box.on`."""
        return Boxes(*_scaled(self, size, grid))

    def _places(self, maps: Tensor) -> tuple[Tensor, ...]:
        """An index for each axis of the maps."""
        (N, *D), device = maps.shape[:-2], self.top.device
        axes = [torch.arange(side, device=device) for side in (N, *D, self.height, self.width)]
        found = [axis.view(*(-1 if i == k else 1 for i in range(len(axes)))) for k, axis in enumerate(axes)]
        top, left = (x.view(-1, *[1] * (len(axes) - 1)) for x in (self.top, self.left))
        return (*found[:-2], found[-2] + top, found[-1] + left)


def _scaled(box: Box | Boxes, size: tuple[int, int], grid: tuple[int, int]) -> Iterator:
    return (side * cells // pixels for side, cells, pixels in zip(box, grid * 2, size * 2))


class Detail(NamedTuple):
    """What a network of two resolutions says of a window that it has seen at full resolution, for a loss of its own."""

    logits: Tensor  # (N, C, h', w')
    box: Box | Boxes  # of the training pictures, one for all or one for each
    weight: float  # of its loss; that of the whole picture has 1 - weight
    features: Tensor | None = None  # (N, D, h', w'), those below `logits`


class Prediction(NamedTuple):
    """Features and class scores of a batch, on the network's own grid: nothing is upsampled yet.

    The losses read `logits` (and `aux_logits`, `detail`), the contrastive terms read `features`.
    """

    features: Tensor  # (N, D, h, w); of two resolutions a grid coarser than that of the logits
    logits: Tensor  # (N, C, h, w), before softmax
    aux_logits: Tensor | None = None  # (N, C, h', w') of the earlier head, where the network has one
    pyramid: tuple[Tensor, ...] | None = None  # F_k (N, D_k, h_k, w_k), where the network gives its encoder's maps
    detail: Detail | None = None  # in training, of a network of two resolutions
    align_corners: bool = True  # how the logits are brought to another size: `resized`
    disparity: Tensor | None = None  # (N, h, w) in (0, 1), of a network that predicts depth (data.disparity)
    aux_disparity: Tensor | None = None  # (N, h, w) of the earlier output, where the network has one

    def resized(self, size: tuple[int, int]) -> Tensor:
        """The logits at another size, (N, C, *size), bilinear, as the network was trained; half precision becomes float32."""
        logits = full_precision(self.logits)
        if tuple(logits.shape[-2:]) == tuple(size):
            return logits
        return upsample(logits, size, self.align_corners)


class Cost(NamedTuple):
    """Forward passes at the picture's size that one call costs, in those of the network inside (1 where there is none)."""

    training: float = 1.0
    whole: float = 1.0  # in eval mode, as the teacher and the test call it
    pyramid: float = 1.0  # of `Segmenter.pyramid`, at most; the head, which it leaves out, is counted


class Segmenter(nn.Module):
    """Base of the segmentation networks: a batch of images (N, 3, H, W) in, a `Prediction` out."""

    num_classes: int
    feature_dim: int  # D
    normalisation: str  # the convention of its images: course_lib.data.NORMALISATIONS
    pyramid_channels: tuple[int, ...] = ()  # D_1, D_2, ...; (): its predictions have no pyramid
    cost: Cost = Cost()
    multiple: int = 1  # the sides of training pictures have to be multiples of it
    gives_disparity: bool = False  # whether its predictions have `disparity`
    __call__: Callable[..., Prediction]

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Those that learn at the backbone's rate: all that are not `head_parameters`."""
        heads = {id(parameter) for parameter in self.head_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in heads)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Those that learn at the head's rate."""
        raise NotImplementedError

    def passes_of(self, size: tuple[int, int]) -> float:
        """Forward passes that a picture of `size` (height, width) costs in eval mode, in those of `cost`."""
        return self.cost.whole

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...] | None:
        """The encoder's maps alone, as `Prediction.pyramid` has them."""
        return self(image).pyramid

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with what an earlier stage has learnt, the state of its network."""
        self.load_state_dict(weights)


def pooled(features: Tensor) -> Tensor:
    """The mean over the grid of features (N, D, h, w): (N, D), summed and returned in float32, or float64 where they are."""
    return features.mean((2, 3), dtype=torch.promote_types(features.dtype, torch.float32))


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode back afterwards (a frozen layer in a training network stays frozen)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def needs_pyramid(segmenter: nn.Module, name: str) -> None:
    """Raise ValueError where the predictions of the network that `name` reads have no pyramid."""
    if not getattr(segmenter, "pyramid_channels", ()):
        raise ValueError(
            f"{name} reads the encoder's maps, and {type(segmenter).__name__} gives none. Choose another network, or return "
            "Prediction(features, logits, pyramid=(F_1, F_2, ...)) from your own."
        )


SMALLEST = 16  # pixels, of a grid of stride 8


def check_image(image: Tensor, network: str, normalisation: str, smallest: int = SMALLEST) -> None:
    """Refuse anything but a batch (N, 3, H, W) of floating point images of at least `smallest` pixels on both sides.

    Raises:
        ValueError: for another number of axes or channels, or a smaller image. TypeError: for whole numbers.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        shape = tuple(image.shape)
        if image.ndim == 3 and shape[0] == 3:
            advice = "Add the batch axis: image[None]."
        elif image.ndim == 4 and shape[3] == 3:
            advice = "The channels stand last: image.permute(0, 3, 1, 2)."
        elif image.ndim == 4 and shape[1] == 4:
            advice = "Drop the alpha channel: image[:, :3]."
        elif image.ndim == 4 and shape[1] == 1:
            advice = "Repeat the grey channel: image.expand(-1, 3, -1, -1)."
        else:
            advice = "course_lib.data gives batches of this shape."
        raise ValueError(f"{network} got an image batch of shape {shape}; it wants (N, 3, H, W). {advice}")
    if not image.is_floating_point():
        raise TypeError(
            f"{network} got {str(image.dtype).removeprefix('torch.')} pixels; it wants floating point ones in the "
            f"convention '{normalisation}'. Normalise first: course_lib.data.transforms.NORMALISATIONS."
        )
    if min(image.shape[2:]) < smallest:
        height, width = image.shape[2:]
        raise ValueError(
            f"{network} got an image of {height}x{width}; it wants at least {smallest}x{smallest}: below, its coarsest "
            "grid has a single cell. Use larger pictures or crops."
        )
