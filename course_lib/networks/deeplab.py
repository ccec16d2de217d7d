"""DeepLabV2 on ResNet-101, in the forms that the course's three papers use.

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

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.networks.pointwise import PointwiseConv2d
from course_lib.networks.prediction import Prediction, Segmenter, check_image
from course_lib.networks.sync import synchronised

RATES = (6, 12, 18, 24)  # DeepLab's "ASPP-L"
EXPANSION = 4  # a block's output is four times as wide as its inside (ResNet)
IMAGENET_STD = (0.229, 0.224, 0.225)  # R, G, B of images in 0..1: what torchvision's weights were trained with


@dataclass(frozen=True)
class DeepLabForm:
    """The switches in which published DeepLabV2 networks differ.

    `stem`: "7x7" (one convolution), or "3x3" (three, 32, 32 and 64 channels wide: ResNet-V1c of mmsegmentation).
    `stride_on`: the convolution that halves the grid in layer2, "1x1" (the first) or "3x3" (the second).
    `ceil_mode`: max-pooling rounds an odd grid up: 720x1280 gives 91x161 instead of 90x160.
    `dilation`: "caffe" dilates every block of a layer alike (2 in layer3, 4 in layer4); "torchvision" leaves the
        layer's first block at the dilation of the layer before.
    `aspp_branches`: how many of the four rates are summed. 2 is what AdaptSegNet released: its sum ends after rates
        6 and 12, the other two convolutions are stored and never trained. Its published weights need 2.
    `heads`: 1, or 2 with an auxiliary head on layer3 (multi-level adaptation).
    `bn`: "train"; "affine-frozen" (scale and shift fixed, yet the batch's statistics normalise and the running ones
        follow every forward, the target's too); "frozen" (nothing moves); "sync" (trained, statistics shared by all
        processes).
    `features`: what `Prediction.features` holds: "backbone" (layer4, 2048 channels) or "branches" (the logits of the
        summed ASPP branches side by side, 4 C channels).
    `domain_stem`: source images have a stem and a layer1 of their own.
    `normalisation`: the convention of the images, a key of `course_lib.data.transforms.NORMALISATIONS`.
    `initialisation`: of the backbone without ImageNet weights: "normal" (standard deviation 0.01) or "kaiming".
    `align_corners`: of the resizing of its logits, `Prediction.align_corners`.
    """

    stem: str = "7x7"
    stride_on: str = "1x1"
    ceil_mode: bool = True
    dilation: str = "caffe"
    aspp_branches: int = 4
    heads: int = 1
    bn: str = "affine-frozen"
    features: str = "backbone"
    domain_stem: bool = False
    normalisation: str = "caffe_bgr"
    initialisation: str = "normal"
    align_corners: bool = True

    def __post_init__(self):
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"DeepLabV2's switch {name} is {value!r}; it wants one of {choices}.")


_ALLOWED = {
    "stem": ("7x7", "3x3"),
    "stride_on": ("1x1", "3x3"),
    "ceil_mode": (False, True),
    "dilation": ("caffe", "torchvision"),
    "aspp_branches": (2, 4),
    "heads": (1, 2),
    "bn": ("train", "affine-frozen", "frozen", "sync"),
    "features": ("backbone", "branches"),
    "domain_stem": (False, True),
    "normalisation": ("caffe_bgr", "imagenet"),
    "initialisation": ("normal", "kaiming"),
    "align_corners": (False, True),
}

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
        """(N, inside, h, w) -> (N, 4 width, h', w'), h' = ceil(h / stride)."""
        f = F.relu(self.bn1(self.conv1(x)), inplace=True)
        f = F.relu(self.bn2(self.conv2(f)), inplace=True)
        f = self.bn3(self.conv3(f))
        x = x if self.downsample is None else self.downsample(x)
        return F.relu(f + x, inplace=True)


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


class DeepLabV2(Segmenter):
    """DeepLabV2-ResNet101 in one form: image (N,3,H,W) -> `Prediction` at stride 8. Build it with `deeplab_v2`.

    `blocks` is ResNet-101's (3, 4, 23, 3); tests take fewer.
    """

    pyramid_channels = (256, 512, 1024, 2048)

    def __init__(self, num_classes: int, form: DeepLabForm, blocks: tuple[int, int, int, int] = (3, 4, 23, 3)):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"DeepLabV2 got num_classes={num_classes}; it wants at least 1.")
        self.num_classes, self.form, self.normalisation = num_classes, form, form.normalisation

        def add_stem(own: str) -> None:
            if form.stem == "3x3":
                self.add_module(f"{own}stem", _deep_stem())
            else:
                self.add_module(f"{own}conv1", nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False))
                self.add_module(f"{own}bn1", nn.BatchNorm2d(64))
            self.add_module(f"{own}layer1", _layer(64, 64, blocks[0], stride=1, before=1, dilation=1, form=form))

        add_stem("")
        if form.domain_stem:  # the plain names serve the source, target_* the target, as in the release
            add_stem("target_")
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=form.ceil_mode)
        self.layer2 = _layer(256, 128, blocks[1], stride=2, before=1, dilation=1, form=form)
        self.layer3 = _layer(512, 256, blocks[2], stride=1, before=1, dilation=2, form=form)
        self.layer4 = _layer(1024, 512, blocks[3], stride=1, before=2, dilation=4, form=form)
        _initialise(self, form.initialisation)
        if form.heads == 2:
            self.layer5 = ASPP(1024, num_classes, form.aspp_branches)  # auxiliary
            self.layer6 = ASPP(2048, num_classes, form.aspp_branches)  # main
        else:
            self.layer5 = ASPP(2048, num_classes, form.aspp_branches)
        self.feature_dim = 2048 if form.features == "backbone" else form.aspp_branches * num_classes
        if form.bn in ("affine-frozen", "frozen"):
            for norm in self._norms():
                norm.requires_grad_(False)
        self.train()

    def forward(self, image: Tensor, domain: str = "target") -> Prediction:
        """Features and logits of a batch. `domain` ("source" or "target") chooses the stem where there are two."""
        check_image(image, "DeepLabV2", self.normalisation)
        if domain not in ("source", "target"):
            raise ValueError(f"DeepLabV2 got domain={domain!r}; it wants 'source' or 'target'.")
        own = "target_" if self.form.domain_stem and domain == "target" else ""
        x = self.maxpool(self._stem(own, image))  # stride 4
        bottom = getattr(self, f"{own}layer1")(x)
        x = self.layer2(bottom)  # stride 8 from here on
        middle = self.layer3(x)
        top = self.layer4(middle)
        branches = self._main_head().branches(top)
        return Prediction(
            features=top if self.form.features == "backbone" else torch.cat(branches, dim=1),
            logits=sum(branches),
            aux_logits=self.layer5(middle) if self.form.heads == 2 else None,
            pyramid=(bottom, x, middle, top),
            align_corners=self.form.align_corners,
        )

    def train(self, mode: bool = True) -> "DeepLabV2":
        """As in torch, except that "frozen" batch norm keeps its running statistics."""
        super().train(mode)
        if self.form.bn == "frozen":
            for norm in self._norms():
                norm.eval()
        return self

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The ASPP heads: new for the task, so they learn faster."""
        for name, parameter in self.named_parameters():
            if name.startswith(("layer5.", "layer6.")):
                yield parameter

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Everything below the heads, each tensor once."""
        for name, parameter in self.named_parameters():
            if not name.startswith(("layer5.", "layer6.")):
                yield parameter

    def _stem(self, own: str, image: Tensor) -> Tensor:
        if self.form.stem == "3x3":
            return getattr(self, f"{own}stem")(image)
        conv1, bn1 = (getattr(self, own + name) for name in ("conv1", "bn1"))
        return F.relu(bn1(conv1(image)), inplace=True)

    def _main_head(self) -> ASPP:
        return self.layer6 if self.form.heads == 2 else self.layer5

    def _norms(self) -> Iterator[nn.Module]:
        return (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


def _deep_stem() -> nn.Sequential:
    """Three convolutions, the first with stride 2: (N,3,H,W) -> (N,64,H/2,W/2)."""
    layers: list[nn.Module] = []
    for inside, width, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
        layers += [nn.Conv2d(inside, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _layer(
    inside: int, width: int, count: int, *, stride: int, before: int, dilation: int, form: DeepLabForm
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


def deeplab_v2(
    num_classes: int,
    form: str = "adaptsegnet",
    imagenet: bool | str | Path = False,
    blocks: tuple[int, int, int, int] = (3, 4, 23, 3),
    **switches,
) -> DeepLabV2:
    """Build the DeepLabV2 of a paper: "adaptsegnet" (two heads), "adaptsegnet_single", "proca", "bida" or "sepico".

    `imagenet`: True starts from torchvision's ResNet-101 (downloaded once by torchvision), a path from such a file, or from
    the one that AdaptSegNet's authors start from (DeepLab_resnet_pretrained_init-*.pth: ImageNet, then COCO). "sepico" wants
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
    if form not in FORMS:
        raise ValueError(f"DeepLabV2 has no form {form!r}; it wants one of {', '.join(map(repr, FORMS))}.")
    known = {field.name for field in fields(DeepLabForm)}
    if unknown := sorted(set(switches) - known):
        raise ValueError(
            f"DeepLabV2 has no switch {', '.join(map(repr, unknown))}; the switches are {', '.join(sorted(known))}."
        )
    network = DeepLabV2(num_classes, replace(FORMS[form], **switches), blocks)
    if imagenet:
        load_imagenet(network, None if imagenet is True else imagenet)
    if network.form.bn == "sync":
        synchronised(network)
    return network


def load_imagenet(network: DeepLabV2, path: str | Path | None = None) -> None:
    """Start the backbone from torchvision's ImageNet ResNet, or from AdaptSegNet's COCO file; the heads stay as they are.

    ImageNet's weights expect (RGB / 255 - mean) / std, COCO's "caffe_bgr" images; `start_state` rewrites the stem of a network
    that sees others.
    """
    deep = network.form.stem == "3x3"
    if path is None and deep:
        raise ValueError(
            "torchvision has no ImageNet weights for a stem of three convolutions (stem='3x3'). Give the path of "
            "mmsegmentation's file (resnet101_v1c-*.pth)."
        )
    if path is None:
        from torchvision.models import ResNet101_Weights

        state = ResNet101_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    else:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"No ImageNet file at {path}. Give torchvision's resnet101 file (resnet101-*.pth), AdaptSegNet's start "
                "(DeepLab_resnet_pretrained_init-*.pth), or imagenet=True to let torchvision fetch its own."
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    coco = bool(state) and all(name.startswith("Scale.") for name in state)
    state = {name.removeprefix("Scale."): value for name, value in state.items()}
    head = "layer5." if coco else "fc."  # of other classes
    state = {name: value for name, value in state.items() if not name.startswith(head)}
    if f"{_first(network.form)[0]}.weight" in state:  # else the check below says what it is not
        state = start_state(state, network.form, "caffe_bgr" if coco else "imagenet")

    own = {name: value for name, value in network.state_dict().items() if not name.startswith(("layer5.", "layer6."))}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in own]
    misshapen = [name for name in state if name in own and state[name].shape != own[name].shape]
    if wrong := missing + surplus + misshapen:
        raise ValueError(
            f"The ImageNet file does not fit this ResNet: {len(missing)} tensors missing, {len(surplus)} too many, "
            f"{len(misshapen)} of another shape, the first is {wrong[0]}. Give "
            + ("mmsegmentation's resnet101_v1c file." if deep else "torchvision's resnet101 file, or AdaptSegNet's start.")
        )
    network.load_state_dict(state, strict=False)


def start_state(state: dict[str, Tensor], form: DeepLabForm, convention: str) -> dict[str, Tensor]:
    """A backbone's weights, learnt on images of one `convention`, as the start of a network of this form.

    From "imagenet" to "caffe_bgr", BGR in 0..255 without std, the stem is rewritten: channels reversed,
    w'_c = w_c s / std_c with s the mean of std, and the statistics of bn1 times 255 s. The stem's output after bn1 is
    then the same but for the two conventions' means (0.02 std apart at most), and the weights keep their size, hence
    their learning rate. Where the form has two stems, both start alike.
    """
    state = dict(state)
    if (convention, form.normalisation) == ("caffe_bgr", "imagenet"):
        raise ValueError("These weights know 'caffe_bgr' images; a form with normalisation='imagenet' would show them others.")
    if convention != form.normalisation:
        std = torch.tensor(IMAGENET_STD)
        scale = 255 * std.mean()
        conv1, bn1 = _first(form)
        state[f"{conv1}.weight"] = (state[f"{conv1}.weight"] * (std.mean() / std).view(1, 3, 1, 1)).flip(1)
        state[f"{bn1}.running_mean"] = state[f"{bn1}.running_mean"] * scale
        state[f"{bn1}.running_var"] = state[f"{bn1}.running_var"] * scale**2
    if form.domain_stem:
        state |= {f"target_{n}": v for n, v in state.items() if n.startswith(("conv1.", "bn1.", "stem.", "layer1."))}
    return state


def _first(form: DeepLabForm) -> tuple[str, str]:
    """The names of the first convolution and of its normalisation."""
    return ("stem.0", "stem.1") if form.stem == "3x3" else ("conv1", "bn1")
