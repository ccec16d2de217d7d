"""DeepLabV3+ on ResNet-50 or ResNet-101: context at stride 16, and a decoder that brings it to stride 4.

Letters: N images, C classes; H, W the image; F_1 (stride 4) and F_4 (stride 16) the backbone's maps; h, w the grid of F_1.
Each conv(...) of k channels is followed by batch normalisation and ReLU, the last one of the network is not.

    a = cat(conv1x1(F_4), conv3x3(F_4, dilation 6), ... 12, ... 18, conv1x1(mean of F_4 over its grid))    5 x 256 channels
    z = drop(conv1x1(a))                                        256 at stride 16
    g = cat(conv1x1(F_1), up(z))                                48 + 256 = 304 at stride 4, corners aligned
    d = drop(conv3x3(conv3x3(g)))                               256, or of one convolution alone
    logits = conv1x1(d)                                         (N,C,h,w)

Sources: Chen et al., DeepLabV3+, ECCV 2018; Liu et al., ReCo, ICLR 2022; Alonso et al., SemiSegContrast, ICCV 2021, and what
the authors released with them.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import ranks
from course_lib.networks.heads import ConvNormReLU
from course_lib.networks.prediction import Prediction, check_image, pooled
from course_lib.networks.resnet import DEPTHS, ResNetForm, ResNetSegmenter, in_form
from course_lib.networks.resnet_starts import start
from course_lib.networks.sync import SyncBatchNorm

RATES = (6, 12, 18)  # at stride 16
WIDTH, LOW = 256, 48  # channels of the context and the decoder; of F_1 in the decoder
SMALLEST = 32  # pixels: two cells at stride 16


@dataclass(frozen=True)
class DeepLabV3PlusForm(ResNetForm):
    """The switches in which published DeepLabV3+ networks differ: those of the backbone (`ResNetForm`), and

    `decoder_convs`: 3x3 convolutions between g and the classifier, 2 (paper) or 1 (ReCo).
    `features`: what `Prediction.features` holds, the input of contrast: "fused" (g, 304 channels: ReCo's representation head
        is beside the decoder, so that contrast does not change what the classifier reads) or "decoder" (d before its dropout,
        256 channels: the classifier's input, as SemiSegContrast has it).
    `dropout`: whether z (.5) and d (.1, single numbers) are dropped at random in training.
    """

    stride_on: str = "3x3"
    ceil_mode: bool = False
    dilation: str = "torchvision"
    bn: str = "train"
    normalisation: str = "imagenet"
    initialisation: str = "kaiming"
    decoder_convs: int = 2
    features: str = "fused"
    dropout: bool = False

    network = "DeepLabV3+"
    allowed = ResNetForm.allowed | {
        "domain_stem": (False,), "decoder_convs": (1, 2), "features": ("fused", "decoder"), "dropout": (False, True)
    }  # fmt: skip


FORMS = {
    "paper": DeepLabV3PlusForm(),  # with torchvision's ResNet
    "reco": DeepLabV3PlusForm(decoder_convs=1),  # [code]
    # [code] scale and shift of the backbone's normalisation are fixed; its strides are those of Caffe's ResNet
    "semiseg": DeepLabV3PlusForm(
        stride_on="1x1", ceil_mode=True, dilation="caffe", bn="affine-frozen", features="decoder", dropout=True
    ),
}


class ImagePooling(nn.Module):
    """The mean of a map over its grid, as a map: (N,D,h,w) -> (N,256,1,1), relu(BN(conv1x1(mean))).

    Batch normalisation has one value of each picture here. A single picture (of one process) has no variance, torch refuses it:
    in training, too, it is normalised with the running statistics, which then stay as they are. Measuring statistics from
    single pictures is an error.
    """

    def __init__(self, inside: int, width: int):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y, bn = self.conv(pooled(x).to(x.dtype)[:, :, None, None]), self.bn
        shared = isinstance(bn, SyncBatchNorm) and not bn.alone and ranks.count() > 1
        if not bn.training or len(y) > 1 or shared:
            return F.relu(bn(y))
        if bn.momentum is None and not bn.num_batches_tracked:  # being measured, never in a step
            raise ValueError(
                "DeepLabV3+ got a single picture for measuring statistics: its image pooling has one value of each picture, "
                "and one value has no variance. Give batches of at least 2 pictures."
            )
        return F.relu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))


class Context(nn.Module):
    """Atrous spatial pyramid pooling: F_4 -> z, (N,2048,h,w) -> (N,256,h,w)."""

    def __init__(self, inside: int, width: int = WIDTH):
        super().__init__()
        self.branches = nn.ModuleList(
            [ConvNormReLU(inside, width), *(ConvNormReLU(inside, width, 3, rate) for rate in RATES)]
        )
        self.pooling = ImagePooling(inside, width)
        self.project = ConvNormReLU((2 + len(RATES)) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pooling(x).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))


class DeepLabV3Plus(ResNetSegmenter):
    """DeepLabV3+ in one form: image (N,3,H,W) -> `Prediction` at stride 4. Build it with `deeplab_v3plus`."""

    heads = ("context.", "low.", "decoder.", "classifier.")

    def __init__(self, num_classes: int, form: DeepLabV3PlusForm, blocks: tuple[int, int, int, int] = DEPTHS[101]):
        super().__init__(num_classes, form, blocks, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
        self.context = Context(self.pyramid_channels[-1])
        self.low = ConvNormReLU(self.pyramid_channels[0], LOW)
        widths = (LOW + WIDTH, *[WIDTH] * form.decoder_convs)
        self.decoder = nn.Sequential(*(ConvNormReLU(inside, out, 3) for inside, out in zip(widths, widths[1:])))
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)
        self.feature_dim = LOW + WIDTH if form.features == "fused" else WIDTH
        self.train()

    def forward(self, image: Tensor) -> Prediction:
        """Features and logits of a batch."""
        check_image(image, self.form.network, self.normalisation, SMALLEST)
        maps = self.maps(image)
        drops = self.training and self.form.dropout
        z = F.dropout(self.context(maps[-1]), 0.5, drops)
        low = self.low(maps[0])
        g = torch.cat([low, F.interpolate(z, size=low.shape[2:], mode="bilinear", align_corners=True)], dim=1)
        d = self.decoder(g)
        return Prediction(
            features=g if self.form.features == "fused" else d,
            logits=self.classifier(F.dropout(d, 0.1, drops)),
            pyramid=maps,
            align_corners=self.form.align_corners,
        )


def deeplab_v3plus(
    num_classes: int,
    form: str = "paper",
    depth: int = 101,
    imagenet: bool | str | Path = False,
    blocks: tuple[int, int, int, int] | None = None,
    **switches,
) -> DeepLabV3Plus:
    """Build DeepLabV3+ at output stride 16: "paper", "reco" (one convolution in the decoder) or "semiseg" (with dropout).

    `depth`: 50 or 101 (`blocks`, of each layer, for another one). `imagenet`: True starts from torchvision's ResNet (downloaded
    once by torchvision), a path from such a file or from one trained on COCO (`resnet_starts.STARTS`). `switches` change single
    details of the form, e.g. `bn="frozen"`; see `DeepLabV3PlusForm`.

    Raises:
        ValueError: for an unknown form, depth, switch or value, or a file that is no ResNet of this depth.
        FileNotFoundError: where the ImageNet file is not there.

    >>> with torch.device("meta"):  # shapes alone, no memory
    ...     network = deeplab_v3plus(19, "reco")
    ...     prediction = network(torch.empty(2, 3, 512, 1024))
    >>> tuple(prediction.logits.shape), tuple(prediction.features.shape)
    ((2, 19, 128, 256), (2, 304, 128, 256))
    """
    if depth not in DEPTHS:
        raise ValueError(f"DeepLabV3+ has no depth {depth!r}; it wants one of {', '.join(map(str, DEPTHS))}.")
    network = DeepLabV3Plus(num_classes, in_form(DeepLabV3PlusForm, FORMS, form, switches), blocks or DEPTHS[depth])
    start(network, imagenet)
    return network
