"""An image encoder of another library with a small head, as a segmentation network.

Letters: N images, C classes, D feature channels; H, W the image; F_1, ..., F_n the encoder's last maps, the finest first.

    image (N,3,H,W) -> encoder -> F_1, ..., F_n
    features = relu(GN(conv3x3(sum over k of up(conv1x1(F_k)))))     (N,D,h,w) on the grid of F_1
    logits   = conv1x1(features)                                    (N,C,h,w)

The head sums lateral 1x1 convolutions as a feature pyramid does (Lin et al., CVPR 2017), on one level alone.
"""

from collections.abc import Iterator
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.networks.adapter import pad, unpad
from course_lib.networks.prediction import Prediction, Segmenter, check_image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAPS = 3  # of an encoder, the last: strides 8, 16, 32 of most


class EncoderNetwork(Segmenter):
    """image -> Prediction. `encoder` returns a list of maps (N, D_k, h_k, w_k) of the widths `channels`.

    mean, std: of the encoder's images in 0..1; they come in the convention "imagenet" and are converted.
    """

    normalisation = "imagenet"

    def __init__(
        self,
        encoder: nn.Module,
        channels: list[int],
        num_classes: int,
        name: str,
        head_dim: int = 128,
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
        divisor: int = 1,
    ) -> None:
        super().__init__()
        self.encoder, self.name, self.divisor = encoder, name, divisor
        self.num_classes, self.feature_dim, self.pyramid_channels = num_classes, head_dim, tuple(channels)
        self.lateral = nn.ModuleList(nn.Conv2d(width, head_dim, 1) for width in channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(head_dim, head_dim, 3, padding=1, bias=False),
            nn.GroupNorm(gcd(32, head_dim), head_dim),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Conv2d(head_dim, num_classes, 1)
        ours_mean, ours_std, mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (*IMAGENET, mean, std))
        self.same = bool(torch.equal(ours_mean, mean) and torch.equal(ours_std, std)) if not mean.is_meta else False
        self.register_buffer("scale", ours_std / std, persistent=False)
        self.register_buffer("shift", (ours_mean - mean) / std, persistent=False)

    def forward(self, image: Tensor) -> Prediction:
        check_image(image, self.name, self.normalisation)
        padded = pad(image, self.divisor, self.name)
        maps = self.encoder(padded if self.same else padded * self.scale + self.shift)
        size = maps[0].shape[2:]
        summed = sum(
            F.interpolate(lateral(x), size=size, mode="bilinear", align_corners=False) for lateral, x in zip(self.lateral, maps)
        )
        features = self.fuse(summed)
        if padded is not image:
            features = unpad(features, image, padded)
            maps = [unpad(x, image, padded) for x in maps]
        return Prediction(features, self.classifier(features), pyramid=tuple(maps))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All that is not the encoder's."""
        for module in (self.lateral, self.fuse, self.classifier):
            yield from module.parameters()
