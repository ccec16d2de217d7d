"""HRDA: a network that sees the whole picture at half its resolution and a window of it at full resolution.

Letters: N images, C classes; H, W the picture; s the stride of the network inside; Z_L, Z_H its logits for the halved picture
and for the window, a the attention of the detail, (N, C, h, w) each; up: twice as large.

    Z_L = f(half(x)),   a = A(F_1, F_2, ... of half(x)) in (0, 1)                          on the grid H / 2s
    training   one window of H/2 x W/2 pixels at random, or by the entropy of Z_L:  Z_H = f(window(x)), a <- 0 outside it
    else       nine windows, H/4 and W/4 apart:  Z_H = the mean of their logits where they overlap
    Z = up((1 - a) Z_L) + up(a) Z_H                                                          on the grid H / s
        or, with upsample_first, (1 - up(a)) up(Z_L) + up(a) Z_H

Source: Hoyer et al., HRDA (ECCV 2022); inner windows are half of the picture here, 512 pixels in the release, which is the same
for windows of 1024. upsample_first: CLUDA [code].
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.networks.adapter import pad, unpad
from course_lib.networks.heads import WIDTH, ScaleAttention
from course_lib.networks.prediction import Box, Boxes, Cost, Detail, Prediction, Segmenter, eval_mode, needs_pyramid
from course_lib.networks.sync import synchronised
from course_lib.networks.windows import WINDOWS, check_box, mean, places, quarters, uncertain_quarters

PROBE = (64, 128)  # height and width of the picture on which the stride is found


class HRDA(Segmenter):
    """Two resolutions of one segmentation network, whose weights serve both: image (N, 3, H, W) -> `Prediction`.

    features and pyramid are those of the halved picture, the logits are fused (up() of the attention reaches one cell beyond
    the window, where there is no detail: scores are smaller there, as published). In training the sides of pictures have to be
    multiples of 4 s, and `Prediction.detail` has the window for the second loss; in eval mode other sizes are padded.

    detail_weight: of that loss (lambda_d). attention_bn: statistics of the attention's batch normalisation, "train" (of this
    process) or "sync" (of all). window: pictures larger than window x window are read window by window in eval
    mode, half a window apart, and the mean of their logits is taken (published: 1024 for Cityscapes at 2048x1024).
    upsample_first: Z_L and a are brought to the grid of Z before they are multiplied, as CLUDA released it.

    Where the training's window lies depends on two buffers, a key that is drawn with the first weights and the number of
    training passes so far: a resumed run draws what it would have drawn, and all processes the same. (The release never takes
    the last place on either side, ours does.)

    Raises ValueError for a network whose predictions have no pyramid.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        attention_width: int = WIDTH,
        detail_weight: float = 0.1,
        window: int | None = None,
        attention_bn: str = "train",
        upsample_first: bool = False,
    ) -> None:
        super().__init__()
        if attention_bn not in ("train", "sync"):
            raise ValueError(f"hrda got attention_bn={attention_bn!r}; it wants 'train' or 'sync' (of all processes).")
        if not 0 <= detail_weight < 1:
            raise ValueError(f"hrda got detail_weight={detail_weight}; it wants a share from 0 to below 1.")
        needs_pyramid(segmenter, "hrda")
        self.num_classes, self.feature_dim = segmenter.num_classes, segmenter.feature_dim
        self.normalisation, self.pyramid_channels = segmenter.normalisation, segmenter.pyramid_channels
        self.detail_weight, self.window, self.upsample_first = detail_weight, window, upsample_first
        self.cost = Cost(training=0.25 + 0.25, whole=0.25 + 0.25 * WINDOWS**2, pyramid=0.25)
        self.segmenter = segmenter
        self.attention = ScaleAttention(segmenter.pyramid_channels, segmenter.num_classes, attention_width)
        if attention_bn == "sync":
            synchronised(self.attention)
        self.register_buffer("key", torch.randint(2**31, ()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.known: tuple[int, int] | None = None  # both on the host, which would wait for a GPU in each step
        self.stride = _stride(segmenter)
        self.multiple = 4 * self.stride

    def forward(self, image: Tensor, box: Box | Boxes | Literal["uncertain"] | None = None) -> Prediction:
        """box: the window of a training pass, or one for each picture, see `check_box`; None: one for all, drawn at random;
        "uncertain": for each picture the one of nine that `uncertain_quarters` takes by Z_L (CLUDA).
        """
        if self.training:
            return self._with_window(image, self._check(image, box))
        if self.window is not None and max(image.shape[2:]) > self.window:
            return self._by_windows(image)
        padded = pad(image, self.multiple, "hrda")
        found = self._with_all_windows(padded)
        if padded is image:
            return found
        pyramid = tuple(unpad(x, image, padded) for x in found.pyramid)
        return found._replace(
            features=unpad(found.features, image, padded), logits=unpad(found.logits, image, padded), pyramid=pyramid
        )

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        """The maps of the halved picture."""
        return self.segmenter.pyramid(halved(image))

    def passes_of(self, size: tuple[int, int]) -> float:
        """Large pictures are read in windows, which overlap."""
        if self.window is None or max(size) <= self.window:
            return self.cost.whole
        windows = math.prod(len(places(side, self.window)) for side in size)
        return self.cost.whole * windows * math.prod(min(side, self.window) for side in size) / math.prod(size)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the network inside."""
        return self.segmenter.backbone_parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the network inside, and the attention."""
        yield from self.segmenter.head_parameters()
        yield from self.attention.parameters()

    # ---- the two ways to see the detail

    def _with_window(self, image: Tensor, box: Box | Boxes | str) -> Prediction:
        whole, a = self._whole(image)
        size = tuple(image.shape[2:])
        if isinstance(box, str):
            box = uncertain_quarters(whole.logits, size)
        window = self.segmenter(box.of(image))
        inside = box.on(size, tuple(a.shape[2:])).mask(a)[:, None].to(a.dtype)
        fine = tuple(side // self.stride for side in size)
        place = box.on(size, fine)
        Z_H = _at(window.logits, place[2:])
        if isinstance(place, Box):
            top, left, height, width = place
            Z_H = F.pad(Z_H, (left, fine[1] - left - width, top, fine[0] - top - height))
        else:
            Z_H = place.put(Z_H, fine)
        detail = Detail(window.logits, box, self.detail_weight, window.features)
        return whole._replace(logits=self._fused(whole.logits, a * inside, Z_H), aux_logits=None, detail=detail)

    def _with_all_windows(self, image: Tensor) -> Prediction:
        whole, a = self._whole(image)
        H, W = image.shape[2:]
        boxes, s = quarters(H, W), self.stride
        logits = self.segmenter(torch.cat([box.of(image) for box in boxes])).logits                   # all in one batch
        logits = _at(logits, (H // 2 // s, W // 2 // s)).unflatten(0, (len(boxes), -1))             # window by window
        Z_H = mean(list(logits), [Box(*(side // s for side in box)) for box in boxes], (H // s, W // s))
        return whole._replace(logits=self._fused(whole.logits, a, Z_H), aux_logits=None)

    def _whole(self, image: Tensor) -> tuple[Prediction, Tensor]:
        """The prediction for the halved picture, its logits on the grid H / 2s, and the attention there."""
        whole = self.segmenter(halved(image))
        grid = tuple(side // (2 * self.stride) for side in image.shape[2:])
        return whole._replace(logits=_at(whole.logits, grid)), _at(self.attention(whole.pyramid), grid)

    def _by_windows(self, image: Tensor) -> Prediction:
        """Each window of `self.window` pixels by itself; the mean of logits, and of features, where they overlap."""
        tops, lefts = (places(side, self.window) for side in image.shape[2:])
        height, width = (min(side, self.window) for side in image.shape[2:])
        boxes = [Box(top, left, height, width) for top in tops for left in lefts]
        found = [self(box.of(image)) for box in boxes]
        logits = mean([P.resized((height, width)) for P in found], boxes, image.shape[2:])
        grids = [P.features.shape[2:] for P in found]
        coarse = [Box(round(b.top * h / height), round(b.left * w / width), h, w) for b, (h, w) in zip(boxes, grids)]
        size = tuple(max(b[k] + b[k + 2] for b in coarse) for k in (0, 1))
        features = mean([P.features for P in found], coarse, size)
        return Prediction(features, logits, align_corners=found[0].align_corners)

    def _fused(self, Z_L: Tensor, a: Tensor, Z_H: Tensor) -> Tensor:
        size = Z_H.shape[2:]
        up_a = _up(a, size)
        if self.upsample_first:
            return (1 - up_a) * _up(Z_L, size) + up_a * Z_H
        return _up((1 - a) * Z_L, size) + up_a * Z_H                                    # Z = up((1 - a) Z_L) + up(a) Z_H

    # ---- where the window of a training pass lies

    @torch.compiler.disable
    def _drawn(self, image: Tensor) -> Box:
        H, W = image.shape[2:]
        if image.is_meta:
            return Box(0, 0, H // 2, W // 2)
        key, draws = self.known or (int(self.key), int(self.draws))
        numbers = torch.Generator().manual_seed((key * 1_000_003 + draws) % 2**63)
        self.known = key, draws + 1
        self.draws += 1
        step = 2 * self.stride
        top, left = (step * int(torch.randint(side // 2 // step + 1, (), generator=numbers)) for side in (H, W))
        return Box(top, left, H // 2, W // 2)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self.known = None

    def _check(self, image: Tensor, box: Any) -> Box | Boxes | str:
        height, width = image.shape[2:]
        multiple = self.multiple if box != "uncertain" else 2 * self.multiple  # quarters of the halved picture's grid
        if height % multiple or width % multiple:
            which = "" if multiple == self.multiple else " where windows are chosen by their entropy"
            raise ValueError(
                f"hrda trains on pictures whose sides are multiples of {multiple}{which}; got {width}x{height}. Set "
                "source_size, target_size or crop to such sizes."
            )
        if box is None:
            return self._drawn(image)
        if isinstance(box, str):
            if box != "uncertain":
                raise ValueError(f"hrda got box={box!r}; it wants a Box, Boxes, 'uncertain' or None (drawn at random).")
            return box
        return check_box(box, image, 2 * self.stride)


def halved(image: Tensor) -> Tensor:
    """(N, 3, H, W) at half its size: the mean of every 2 x 2 pixels."""
    return F.avg_pool2d(image, 2)


def _up(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _at(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map on the nominal grid; it has another where the network rounds sizes up."""
    return x if tuple(x.shape[2:]) == tuple(grid) else _up(x, grid)


@torch.no_grad()
def _stride(segmenter: Segmenter) -> int:
    """Pixels of a cell of the logits' grid, found on one picture."""
    parameter = next(segmenter.parameters())
    with eval_mode(segmenter):
        grid = segmenter(torch.zeros(1, 3, *PROBE, device=parameter.device)).logits.shape[2:]
    return 2 ** math.ceil(math.log2(PROBE[0] / grid[0]))  # of grids that round up, too: 9 of 64 pixels are stride 8


def hrda(
    num_classes: int,
    of: str = "mit",
    attention_width: int = WIDTH,
    detail_weight: float = 0.1,
    window: int | None = None,
    attention_bn: str = "train",
    upsample_first: bool = False,
    **options,
) -> HRDA:
    """Two resolutions of the network `of`, built with the other options (`networks.build`); see `HRDA`.

    >>> with torch.device("meta"):  # shapes alone, no memory
    ...     network = hrda(19, "small", width=16)
    ...     prediction = network(torch.empty(1, 3, 64, 128))
    >>> tuple(prediction.logits.shape), tuple(prediction.detail.logits.shape), prediction.detail.box.height
    ((1, 19, 16, 32), (1, 19, 8, 16), 32)
    """
    from course_lib.networks import build

    if of == "hrda":
        raise ValueError("hrda of 'hrda': it wants a network of one resolution, such as 'mit', 'deeplab_v2' or 'small'.")
    return HRDA(build(of, num_classes, **options), attention_width, detail_weight, window, attention_bn, upsample_first)
