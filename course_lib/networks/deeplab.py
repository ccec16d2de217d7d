"""DeepLabV2 on ResNet-101, in the forms of AdaptSegNet, ProCA, BiDA and SePiCo.

Letters: N images, C classes, D feature channels; H, W the image, h, w the grid at stride 8.

    image (N,3,H,W) -> stem /4 -> layer1 /4 -> layer2 /8 -> layer3 /8, dilated -> layer4 /8, dilated
    logits (N,C,h,w) = sum over rates r of conv3x3(layer4, dilation r),   r in 6, 12, 18, 24

The papers agree on this and differ in details that move the output by a pixel or a score by a point. Each detail is
a switch of `DeepLabForm`; a form is a named set of switches. Names of parameters are those of AdaptSegNet's
published files (conv1, bn1, layer1 ... layer4; the heads are layer5 and layer6, a head's branches `conv2d_list`); a stem of
three convolutions is `stem`, as in mmsegmentation.

Sources: Chen et al., DeepLab, PAMI 2018; He et al., ResNet, CVPR 2016; Tsai et al., AdaptSegNet, CVPR 2018;
Jiang et al., ProCA, ECCV 2022; Lee et al., BiDA, ECCV 2022; Xie et al., SePiCo, TPAMI 2023, and what the authors released with
them.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib.networks.prediction import Prediction, check_image
from course_lib.networks.resnet import DEPTHS, ResNetForm, ResNetSegmenter, in_form
from course_lib.networks.resnet_starts import start

RATES = (6, 12, 18, 24)  # DeepLab's "ASPP-L"


@dataclass(frozen=True)
class DeepLabForm(ResNetForm):
    """The switches in which published DeepLabV2 networks differ: those of the backbone (`ResNetForm`), and

    `aspp_branches`: how many of the four rates are summed. 2 is what AdaptSegNet released: its sum ends after rates
        6 and 12, the other two convolutions are stored and never trained. Its published weights need 2.
    `heads`: 1, or 2 with an auxiliary head on layer3 (multi-level adaptation).
    `features`: what `Prediction.features` holds: "backbone" (layer4, 2048 channels) or "branches" (the logits of the
        summed ASPP branches side by side, 4 C channels).
    """

    aspp_branches: int = 4
    heads: int = 1
    features: str = "backbone"

    network = "DeepLabV2"
    allowed = ResNetForm.allowed | {"aspp_branches": (2, 4), "heads": (1, 2), "features": ("backbone", "branches")}


FORMS = {
    # AdaptSegNet, multi-level: the paper's four rates; aspp_branches=2 gives the released sum.
    "adaptsegnet": DeepLabForm(heads=2),
    # AdaptSegNet, one level: also the network of the published oracle.
    "adaptsegnet_single": DeepLabForm(heads=1),
    # ProCA: torchvision's ResNet. The authors train batch norm, across processes where there are several (bn="sync").
    "proca": DeepLabForm(
        stride_on="3x3",
        ceil_mode=False,
        dilation="torchvision",
        bn="train",
        normalisation="imagenet",
        initialisation="kaiming",
    ),
    # BiDA: contrast on the branches' logits. The paper shares all weights; the release has domain_stem=True.
    "bida": DeepLabForm(features="branches"),
    # SePiCo: mmsegmentation's ResNetV1c with dilations (1, 1, 2, 4), contracted in a layer's first block.
    "sepico": DeepLabForm(
        stem="3x3",
        stride_on="3x3",
        ceil_mode=False,
        dilation="torchvision",
        bn="train",
        normalisation="imagenet",
        initialisation="kaiming",
        align_corners=False,
    ),
}


class ASPP(nn.Module):
    """Read class scores at several scales of context: logits = sum_r conv3x3(x, dilation r) (DeepLab, ASPP-L).

    All four convolutions are always there, so that published files fit; only the first `summed` take part.
    """

    def __init__(self, inside: int, num_classes: int, summed: int = len(RATES)):
        super().__init__()
        self.summed = summed
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(inside, num_classes, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for conv in self.conv2d_list:
            nn.init.normal_(conv.weight, std=0.01)

    def branches(self, x: Tensor) -> list[Tensor]:
        """The terms of the sum, (N,C,h,w) each."""
        return [conv(x) for conv in self.conv2d_list[: self.summed]]

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, h, w) -> logits (N, C, h, w)."""
        return sum(self.branches(x))


class DeepLabV2(ResNetSegmenter):
    """DeepLabV2-ResNet101 in one form: image (N,3,H,W) -> `Prediction` at stride 8. Build it with `deeplab_v2`.

    `blocks` is ResNet-101's (3, 4, 23, 3); tests take fewer.
    """

    heads = ("layer5.", "layer6.")

    def __init__(self, num_classes: int, form: DeepLabForm, blocks: tuple[int, int, int, int] = DEPTHS[101]):
        super().__init__(num_classes, form, blocks, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
        if form.heads == 2:
            self.layer5 = ASPP(1024, num_classes, form.aspp_branches)  # auxiliary
            self.layer6 = ASPP(2048, num_classes, form.aspp_branches)  # main
        else:
            self.layer5 = ASPP(2048, num_classes, form.aspp_branches)
        self.feature_dim = 2048 if form.features == "backbone" else form.aspp_branches * num_classes
        self.train()

    def forward(self, image: Tensor, domain: str = "target") -> Prediction:
        """Features and logits of a batch. `domain` ("source" or "target") chooses the stem where there are two."""
        check_image(image, "DeepLabV2", self.normalisation)
        maps = self.maps(image, domain)
        main = self.layer6 if self.form.heads == 2 else self.layer5
        branches = main.branches(maps[-1])
        return Prediction(
            features=maps[-1] if self.form.features == "backbone" else torch.cat(branches, dim=1),
            logits=sum(branches),
            aux_logits=self.layer5(maps[-2]) if self.form.heads == 2 else None,
            pyramid=maps,
            align_corners=self.form.align_corners,
        )


def deeplab_v2(
    num_classes: int,
    form: str = "adaptsegnet",
    imagenet: bool | str | Path = False,
    blocks: tuple[int, int, int, int] = DEPTHS[101],
    **switches,
) -> DeepLabV2:
    """Build the DeepLabV2 of a paper: "adaptsegnet" (two heads), "adaptsegnet_single", "proca", "bida" or "sepico".

    `imagenet`: True starts from torchvision's ResNet-101 (downloaded once by torchvision), a path from such a file, or from
    a COCO file (`resnet_starts.STARTS`), such as AdaptSegNet's start (DeepLab_resnet_pretrained_init-*.pth). "sepico" wants
    the path of mmsegmentation's resnet101_v1c-*.pth: torchvision has no weights for its stem.
    `switches` change single details of the form, e.g. `aspp_branches=2`; see `DeepLabForm`.

    Raises:
        ValueError: for an unknown form, switch or value, or a file that is no ResNet of this depth.
        FileNotFoundError: where the ImageNet file is not there.

    >>> with torch.device("meta"):  # shapes alone, no memory
    ...     network = deeplab_v2(19, "adaptsegnet")
    ...     prediction = network(torch.empty(1, 3, 720, 1280))
    >>> tuple(prediction.logits.shape), tuple(prediction.features.shape)
    ((1, 19, 91, 161), (1, 2048, 91, 161))
    """
    network = DeepLabV2(num_classes, in_form(DeepLabForm, FORMS, form, switches), blocks)
    start(network, imagenet)
    return network
