"""A segmentation network that a laptop's processor trains in minutes.

Letters: N images, C classes, D feature channels; H, W the image.

    image (N,3,H,W) -> stem, block    skip   D channels at stride 4
                    -> 3 blocks       deep  2D channels at stride 8, dilated 1, 2, 4
    context  = sum over rates r of conv3x3(deep, dilation r)        D channels at stride 8, as DeepLab's ASPP
    features = conv3x3(up(context) + conv1x1(skip))                 (N,D,H/4,W/4)
    logits   = conv1x1(features)                                    (N,C,H/4,W/4)

The parts are those of the big networks (residual blocks, dilation, summed rates, a skip) at a size where 400 steps
take a few minutes. Group normalisation (Wu & He 2018) needs no statistics of the data, so batches may be small and
training and testing compute the same; `norm="batch"` shows what batch statistics do under a domain gap.
"""

from collections.abc import Iterator
from math import gcd

from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.networks.pointwise import PointwiseConv2d
from course_lib.networks.prediction import Prediction, Segmenter, check_image
from course_lib.networks.sync import SyncBatchNorm

RATES = (1, 3, 6)  # at stride 8 and 128x256 the grid is 16x32: DeepLab's 12 to 24 would only see padding
GROUPS = 8  # channels per normalisation group: 64 channels, 8 groups


def norm_layer(channels: int, kind: str) -> nn.Module:
    """Normalisation of `kind` "group", "batch" or "sync" (batch, over all processes)."""
    if kind == "group":
        return nn.GroupNorm(gcd(GROUPS, channels), channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else SyncBatchNorm(channels)


class Block(nn.Module):
    """relu(shortcut(x) + f(x)), f two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inside: int, width: int, norm: str, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm_layer(width, norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm2 = norm_layer(width, norm)
        same = stride == 1 and inside == width
        self.shortcut = nn.Identity() if same else PointwiseConv2d(inside, width, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, h, w) -> (N, width, h', w'), h' = ceil(h / stride)."""
        f = F.relu(self.norm1(self.conv1(x)), inplace=True)
        f = self.norm2(self.conv2(f))
        return F.relu(f + self.shortcut(x), inplace=True)


class Small(Segmenter):
    """The course's CPU network: image (N,3,H,W) -> `Prediction` with D-channel features and logits at stride 4.

    `aux` adds a 1x1 head on the stride-8 features, for adaptation at two levels. Build it with `small`.
    """

    normalisation = "imagenet"

    def __init__(self, num_classes: int, width: int = 64, aux: bool = False, norm: str = "group"):
        super().__init__()
        if num_classes < 1 or width < 8:
            raise ValueError(f"small got num_classes={num_classes}, width={width}; it wants at least 1 and 8.")
        if norm not in ("group", "batch", "sync"):
            raise ValueError(f"small got norm={norm!r}; it wants 'group', 'batch' or 'sync' (batch, over all processes).")
        self.num_classes, self.feature_dim = num_classes, width
        deep = 2 * width
        self.pyramid_channels = (width, deep)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), norm_layer(width // 2, norm), nn.ReLU(inplace=True)
        )
        self.skip = Block(width // 2, width, norm, stride=2)
        self.deep = nn.Sequential(
            Block(width, deep, norm, stride=2), Block(deep, deep, norm, dilation=2), Block(deep, deep, norm, dilation=4)
        )
        self.context = nn.ModuleList(nn.Conv2d(deep, width, 3, padding=r, dilation=r, bias=False) for r in RATES)
        self.context_norm = norm_layer(width, norm)
        self.lateral = nn.Conv2d(width, width, 1, bias=False)
        self.fuse = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), norm_layer(width, norm), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.aux_classifier = nn.Conv2d(deep, num_classes, 1) if aux else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Prediction:
        skip, deep = self.pyramid(image)
        context = F.relu(self.context_norm(sum(conv(deep) for conv in self.context)), inplace=True)
        context = F.interpolate(context, size=skip.shape[2:], mode="bilinear", align_corners=True)
        features = self.fuse(context + self.lateral(skip))  # (N,D,H/4,W/4)
        return Prediction(
            features=features,
            logits=self.classifier(features),
            aux_logits=None if self.aux_classifier is None else self.aux_classifier(deep),
            pyramid=(skip, deep),
        )

    def pyramid(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """skip (N,D,H/4,W/4), deep (N,2D,H/8,W/8)."""
        check_image(image, "small", self.normalisation)
        skip = self.skip(self.stem(image))
        return skip, self.deep(skip)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The 1x1 classifiers."""
        yield from self.classifier.parameters()
        if self.aux_classifier is not None:
            yield from self.aux_classifier.parameters()


def small(num_classes: int, width: int = 64, aux: bool = False, norm: str = "group") -> Small:
    """Build the CPU network: about 1 million weights at width 64, `width` feature channels at stride 4.

    >>> import torch
    >>> prediction = small(19)(torch.zeros(1, 3, 64, 128))
    >>> tuple(prediction.features.shape), tuple(prediction.logits.shape)
    ((1, 64, 16, 32), (1, 19, 16, 32))
    """
    return Small(num_classes, width=width, aux=aux, norm=norm)
