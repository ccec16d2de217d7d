"""ResNet with dilated layers, the backbone of DeepLab: its forms, its stem and its blocks.

Letters: N images; H, W the image; F_1 ... F_4 the maps after layer1 ... layer4, 256, 512, 1024 and 2048 channels wide.

    image (N,3,H,W) -> stem /4 -> layer1 /4 -> layer2 -> layer3 -> layer4

A stride in a layer halves the grid; dilation lets a layer see as far on the grid of the layer before. Names of parameters are
torchvision's and AdaptSegNet's (conv1, bn1, layer1 ... layer4); a stem of three convolutions is `stem`, as in mmsegmentation.

Sources: He et al., ResNet, CVPR 2016; Chen et al., DeepLab, PAMI 2018, and V3+, ECCV 2018.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.networks.pointwise import PointwiseConv2d
from course_lib.networks.prediction import Segmenter

EXPANSION = 4  # a block's output is four times as wide as its inside (ResNet)
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # blocks of each layer


@dataclass(frozen=True)
class ResNetForm:
    """The switches in which the backbones of published networks differ.

    `stem`: "7x7" (one convolution), or "3x3" (three, 32, 32 and 64 channels wide: ResNet-V1c of mmsegmentation).
    `stride_on`: the convolution that halves the grid in a layer's first block, "1x1" (the first) or "3x3" (the second).
    `ceil_mode`: max-pooling rounds an odd grid up: 720x1280 gives 91x161 instead of 90x160 at stride 8.
    `dilation`: "caffe" dilates every block of a layer alike; "torchvision" leaves the layer's first block at the dilation of
        the layer before.
    `bn`: of the backbone, "train"; "affine-frozen" (scale and shift fixed, yet the batch's statistics normalise and the running
        ones follow every forward, the target's too); "frozen" (nothing moves); "sync" (trained, statistics shared by all
        processes, in the heads, too).
    `domain_stem`: source images have a stem and a layer1 of their own.
    `normalisation`: the convention of the images, a key of `course_lib.data.transforms.NORMALISATIONS`.
    `initialisation`: of the backbone without ImageNet weights: "normal" (standard deviation 0.01) or "kaiming".
    `align_corners`: of the resizing of its logits, `Prediction.align_corners`.
    """

    stem: str = "7x7"
    stride_on: str = "1x1"
    ceil_mode: bool = True
    dilation: str = "caffe"
    bn: str = "affine-frozen"
    domain_stem: bool = False
    normalisation: str = "caffe_bgr"
    initialisation: str = "normal"
    align_corners: bool = True

    network: ClassVar[str] = "ResNet"
    allowed: ClassVar[dict[str, tuple]] = {
        "stem": ("7x7", "3x3"),
        "stride_on": ("1x1", "3x3"),
        "ceil_mode": (False, True),
        "dilation": ("caffe", "torchvision"),
        "bn": ("train", "affine-frozen", "frozen", "sync"),
        "domain_stem": (False, True),
        "normalisation": ("caffe_bgr", "imagenet"),
        "initialisation": ("normal", "kaiming"),
        "align_corners": (False, True),
    }

    def __post_init__(self) -> None:
        for name, allowed in self.allowed.items():
            value = getattr(self, name)
            if value not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"{self.network}'s switch {name} is {value!r}; it wants one of {choices}.")


class Bottleneck(nn.Module):
    """Add to x what a 1x1, a 3x3 (dilated) and a 1x1 convolution make of it: relu(x + f(x)) (ResNet).

    `project` sends x through a 1x1 convolution where its width or its grid changes.
    """

    def __init__(self, inside: int, width: int, stride: int, dilation: int, project: bool, stride_on: str):
        super().__init__()
        first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = PointwiseConv2d(inside, width, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * width)
        self.downsample = (
            nn.Sequential(
                PointwiseConv2d(inside, EXPANSION * width, stride, bias=False), nn.BatchNorm2d(EXPANSION * width)
            )
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) -> (N, 4 width, H / stride, W / stride)."""
        f = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f = F.relu(self.bn2(self.conv2(f)), inplace=True)
        f = self.bn3(self.conv3(f))
        x = x if self.downsample is None else self.downsample(x)
        return F.relu(f + x, inplace=True)


class ResNetSegmenter(Segmenter):
    """Base of the networks on a ResNet: F_1 ... F_4 by `maps`, and which weights learn how fast.

    strides, dilations: of layer1 ... layer4. `heads` are the beginnings of names of what follows the backbone.
    """

    pyramid_channels = (256, 512, 1024, 2048)
    heads: tuple[str, ...] = ()

    def __init__(
        self, num_classes: int, form: ResNetForm, blocks: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"{form.network} got num_classes={num_classes}; it wants at least 1.")
        self.num_classes, self.form, self.normalisation, self.blocks = num_classes, form, form.normalisation, tuple(blocks)

        def add_stem(own: str) -> None:
            if form.stem == "3x3":
                self.add_module(f"{own}stem", _deep_stem())
            else:
                self.add_module(f"{own}conv1", nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False))
                self.add_module(f"{own}bn1", nn.BatchNorm2d(64))
            how = dict(stride=strides[0], before=1, dilation=dilations[0], form=form)
            self.add_module(f"{own}layer1", _layer(64, 64, blocks[0], **how))

        add_stem("")
        if form.domain_stem:  # the plain names serve the source, target_* the target, as in the release
            add_stem("target_")
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=form.ceil_mode)
        for k in (1, 2, 3):
            how = dict(stride=strides[k], before=dilations[k - 1], dilation=dilations[k], form=form)
            self.add_module(f"layer{k + 1}", _layer(self.pyramid_channels[k - 1], 64 * 2**k, blocks[k], **how))
        _initialise(self, form.initialisation)
        if form.bn in ("affine-frozen", "frozen"):
            for norm in self._norms():
                norm.requires_grad_(False)

    def maps(self, image: Tensor, domain: str = "target") -> tuple[Tensor, ...]:
        """F_1 ... F_4. `domain` ("source" or "target") chooses the stem where there are two."""
        if domain not in ("source", "target"):
            raise ValueError(f"{self.form.network} got domain={domain!r}; it wants 'source' or 'target'.")
        own = "target_" if self.form.domain_stem and domain == "target" else ""
        F_1 = getattr(self, f"{own}layer1")(self.maxpool(self._stem(own, image)))
        F_2 = self.layer2(F_1)
        F_3 = self.layer3(F_2)
        return F_1, F_2, F_3, self.layer4(F_3)

    def train(self, mode: bool = True) -> "ResNetSegmenter":
        """As in torch, except that "frozen" batch norm keeps its running statistics."""
        super().train(mode)
        if self.form.bn == "frozen":
            for norm in self._norms():
                norm.eval()
        return self

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """What is new for the task, so that it learns faster."""
        return (parameter for name, parameter in self.named_parameters() if name.startswith(self.heads))

    def _stem(self, own: str, image: Tensor) -> Tensor:
        if self.form.stem == "3x3":
            return getattr(self, f"{own}stem")(image)
        conv1, bn1 = (getattr(self, own + name) for name in ("conv1", "bn1"))
        return F.relu(bn1(conv1(image)), inplace=True)

    def _norms(self) -> Iterator[nn.Module]:
        """Those of the backbone."""
        named = self.named_modules()
        return (m for name, m in named if isinstance(m, nn.BatchNorm2d) and not name.startswith(self.heads))


def _deep_stem() -> nn.Sequential:
    """Three convolutions, the first with stride 2: (N,3,H,W) -> (N,64,H/2,W/2)."""
    layers: list[nn.Module] = []
    for inside, width, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
        layers += [nn.Conv2d(inside, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _layer(
    inside: int, width: int, count: int, *, stride: int, before: int, dilation: int, form: ResNetForm
) -> nn.Sequential:
    """`count` blocks; the first may change the grid, projects its shortcut, and dilates as the form says."""
    first = dilation if form.dilation == "caffe" else before
    head = Bottleneck(inside, width, stride, first, project=True, stride_on=form.stride_on)
    tail = (
        Bottleneck(EXPANSION * width, width, 1, dilation, project=False, stride_on=form.stride_on)
        for _ in range(count - 1)
    )
    return nn.Sequential(head, *tail)


def _initialise(network: nn.Module, how: str) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and how == "normal":
            nn.init.normal_(module.weight, std=0.01)  # AdaptSegNet, BiDA
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015


def in_form(kind: type[ResNetForm], forms: Mapping[str, ResNetForm], form: str, switches: dict[str, Any]) -> Any:
    """One of `forms`, with details changed by `switches`. Raises ValueError for an unknown name or value."""
    if form not in forms:
        raise ValueError(f"{kind.network} has no form {form!r}; it wants one of {', '.join(map(repr, forms))}.")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(switches) - known):
        raise ValueError(
            f"{kind.network} has no switch {', '.join(map(repr, unknown))}; the switches are {', '.join(sorted(known))}."
        )
    return replace(forms[form], **switches)
