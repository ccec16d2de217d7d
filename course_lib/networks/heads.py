"""Heads on an encoder's maps: those of DAFormer and of SegFormer, and HRDA's attention between two resolutions.

Letters: N images, C classes; F_k the encoder's maps (N, D_k, h_k, w_k), the finest first. All heads bring the maps to one width
by a linear map and to the grid of F_1, and go on from there. Weights have the names of the released files.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.devices import image_layout

WIDTH = 256  # of DAFormer's head and of HRDA's attention


class Embedding(nn.Module):
    """A linear map of each cell: (N, D, h, w) -> (N, width, h, w)."""

    def __init__(self, inside: int, width: int):
        super().__init__()
        self.proj = nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        return maps(self.proj(tokens(x)), tuple(x.shape[2:]))


class ConvNormReLU(nn.Module):
    """relu(BN(conv(x))), the grid as it was."""

    def __init__(self, inside: int, width: int, kernel: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inside, width, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, h, w) -> (N, width, h, w)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class SeparableConv(nn.Module):
    """A dilated 3x3 filter for each channel, then a 1x1 convolution, each with BN and ReLU."""

    def __init__(self, inside: int, width: int, dilation: int):
        super().__init__()
        self.depthwise_conv = ConvNormReLU(inside, inside, 3, dilation, groups=inside)
        self.pointwise_conv = ConvNormReLU(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, h, w) -> (N, width, h, w)."""
        return self.pointwise_conv(self.depthwise_conv(x))


class ContextFusion(nn.Module):
    """DAFormer's context-aware fusion: a 1x1 and three dilated separable convolutions side by side, then a 3x3 of all."""

    def __init__(self, inside: int, width: int, rates: tuple[int, ...] = (6, 12, 18)):
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            [ConvNormReLU(inside, width), *(SeparableConv(inside, width, rate) for rate in rates)]
        )
        self.bottleneck = ConvNormReLU((1 + len(rates)) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, h, w) -> (N, width, h, w)."""
        return self.bottleneck(torch.cat([branch(x) for branch in self.aspp_modules], dim=1))


class DAFormerHead(nn.Module):
    """F_1..F_4 -> features (N, 256, h_1, w_1) and logits: all maps at width 256, stride 4, then `ContextFusion`."""

    def __init__(self, widths: tuple[int, ...], num_classes: int, width: int = WIDTH):
        super().__init__()
        self.embed_layers = nn.ModuleList(Embedding(inside, width) for inside in widths)
        self.fuse_layer = ContextFusion(len(widths) * width, width)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features = self.fuse_layer(torch.cat(embedded(self.embed_layers, pyramid), dim=1))
        return features, self.conv_seg(self.dropout(features))


class SegFormerHead(nn.Module):
    """F_1..F_4 -> features (N, width, h_1, w_1) and logits: all maps at one width, stride 4, and a 1x1 convolution of all."""

    def __init__(self, widths: tuple[int, ...], num_classes: int, width: int):
        super().__init__()
        for k, inside in enumerate(widths, start=1):
            setattr(self, f"linear_c{k}", Embedding(inside, width))
        self.linear_fuse = ConvNormReLU(len(widths) * width, width)
        self.dropout = nn.Dropout2d(0.1)
        self.linear_pred = nn.Conv2d(width, num_classes, 1)

    def forward(self, pyramid: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        layers = [getattr(self, f"linear_c{k}") for k in range(1, len(pyramid) + 1)]
        features = self.linear_fuse(torch.cat(embedded(layers, pyramid)[::-1], dim=1))  # the coarsest first, as released
        return features, self.linear_pred(self.dropout(features))


class ScaleAttention(nn.Module):
    """HRDA's attention between two resolutions: F_1, ... -> a (N, C, h_1, w_1) in (0, 1), for each class and cell how much the
    detail counts.

        a = sigmoid(conv1x1(drop(relu(BN(conv1x1(cat_k up(W_k F_k)))))))

    Source: Hoyer et al., HRDA (ECCV 2022); sizes as released.
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int, width: int = WIDTH):
        super().__init__()
        self.embed_layers = nn.ModuleList(Embedding(inside, width) for inside in widths)
        self.fuse_layer = ConvNormReLU(len(widths) * width, width)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        x = self.fuse_layer(torch.cat(embedded(self.embed_layers, pyramid), dim=1))
        return self.conv_seg(self.dropout(x)).sigmoid()


def tokens(x: Tensor) -> Tensor:
    """(N, D, h, w) -> (N, h w, D)."""
    return x.flatten(2).transpose(1, 2)


def maps(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, h w, D) -> (N, D, h, w), in the memory of x (channels_last) where the device computes with that."""
    x = x.transpose(1, 2).unflatten(2, grid)
    return x.contiguous(memory_format=image_layout(x.device, channels_last=True))


def embedded(layers: Iterable[nn.Module], pyramid: tuple[Tensor, ...]) -> list[Tensor]:
    """Each map through its layer and on the grid of the first."""
    size = pyramid[0].shape[2:]
    found = (layer(x) for layer, x in zip(layers, pyramid, strict=True))
    return [x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in found]
