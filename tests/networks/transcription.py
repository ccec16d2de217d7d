"""MiT, the head of DAFormer, HRDA and SePiCo's DeepLabV2 by the released names, with functions of torch alone: slow and
plain, for comparison.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def linear(state: State, x: Tensor, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state: State, x: Tensor, name: str, eps: float) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (var + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def conv(state: State, x: Tensor, name: str, **how) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **how)


def bn(state: State, x: Tensor, name: str) -> Tensor:
    kind = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *kind, training=False)


def bn_relu(state: State, x: Tensor, name: str) -> Tensor:
    return bn(state, x, name).relu()


def to_map(x: Tensor, h: int, w: int) -> Tensor:
    return x.permute(0, 2, 1).reshape(len(x), -1, h, w)


def to_tokens(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], -1).permute(0, 2, 1)


def up(x: Tensor, size) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def encoder(state: State, image: Tensor, blocks) -> list[Tensor]:
    """F_1, ..., F_4."""
    x, pyramid = image, []
    for stage, (depth, heads, R) in enumerate(zip(blocks, (1, 2, 5, 8), (8, 4, 2, 1)), start=1):
        stem, (kernel, stride) = f"backbone.patch_embed{stage}", (7, 4) if stage == 1 else (3, 2)
        x = conv(state, x, f"{stem}.proj", stride=stride, padding=kernel // 2)
        h, w = x.shape[2:]
        x = layer_norm(state, to_tokens(x), f"{stem}.norm", 1e-5)
        for i in range(depth):
            b = f"backbone.block{stage}.{i}"
            y = layer_norm(state, x, f"{b}.norm1", 1e-6)
            q, z = linear(state, y, f"{b}.attn.q"), y
            if R > 1:
                z = to_tokens(conv(state, to_map(y, h, w), f"{b}.attn.sr", stride=R))
                z = layer_norm(state, z, f"{b}.attn.norm", 1e-5)
            k, v = linear(state, z, f"{b}.attn.kv").chunk(2, dim=-1)
            q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
            scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
            x = x + linear(state, (scores @ v).transpose(1, 2).flatten(2), f"{b}.attn.proj")
            y = linear(state, layer_norm(state, x, f"{b}.norm2", 1e-6), f"{b}.mlp.fc1")
            y = to_tokens(conv(state, to_map(y, h, w), f"{b}.mlp.dwconv.dwconv", padding=1, groups=y.shape[-1]))
            x = x + linear(state, F.gelu(y), f"{b}.mlp.fc2")
        x = to_map(layer_norm(state, x, f"backbone.norm{stage}", 1e-6), h, w)
        pyramid.append(x)
    return pyramid


def embedded(state: State, name: str, pyramid: list[Tensor]) -> Tensor:
    maps = [
        to_map(linear(state, to_tokens(F_k), f"{name}.embed_layers.{k}.proj"), *F_k.shape[2:]) for k, F_k in enumerate(pyramid)
    ]
    return torch.cat([up(x, pyramid[0].shape[2:]) for x in maps], dim=1)


def daformer_head(state: State, name: str, pyramid: list[Tensor]) -> Tensor:
    """Logits."""
    x, fuse = embedded(state, name, pyramid), f"{name}.fuse_layer"
    branches = [bn_relu(state, conv(state, x, f"{fuse}.aspp_modules.0.conv"), f"{fuse}.aspp_modules.0.bn")]
    for k, rate in enumerate((6, 12, 18), start=1):
        branch = f"{fuse}.aspp_modules.{k}"
        y = conv(state, x, f"{branch}.depthwise_conv.conv", padding=rate, dilation=rate, groups=x.shape[1])
        y = conv(state, bn_relu(state, y, f"{branch}.depthwise_conv.bn"), f"{branch}.pointwise_conv.conv")
        branches.append(bn_relu(state, y, f"{branch}.pointwise_conv.bn"))
    x = conv(state, torch.cat(branches, 1), f"{fuse}.bottleneck.conv", padding=1)
    return conv(state, bn_relu(state, x, f"{fuse}.bottleneck.bn"), f"{name}.conv_seg")


def hrda(state: State, image: Tensor, blocks, upsample_first: bool = False) -> Tensor:
    """Logits of a whole picture: halved, and nine windows of half its size.

    upsample_first: as CLUDA's hrda_head.py fuses them, (1 - up(a)) up(Z_L) + up(a) Z_H.
    """
    name = "decode_head.scale_attention"
    H, W = image.shape[2:]
    whole = encoder(state, up(image, (H // 2, W // 2)), blocks)
    Z_L = daformer_head(state, "decode_head.head", whole)
    x = conv(state, embedded(state, name, whole), f"{name}.fuse_layer.conv")
    a = conv(state, bn_relu(state, x, f"{name}.fuse_layer.bn"), f"{name}.conv_seg").sigmoid()
    Z_H = torch.zeros(len(image), Z_L.shape[1], H // 4, W // 4)
    count = torch.zeros(1, 1, H // 4, W // 4)
    for top in (0, H // 4, H // 2):
        for left in (0, W // 4, W // 2):
            window = image[:, :, top : top + H // 2, left : left + W // 2]
            place = ..., slice(top // 4, (top + H // 2) // 4), slice(left // 4, (left + W // 2) // 4)
            Z_H[place] += daformer_head(state, "decode_head.head", encoder(state, window, blocks))
            count[place] += 1
    size = (H // 4, W // 4)
    if upsample_first:
        return (1 - up(a, size)) * up(Z_L, size) + up(a, size) * Z_H / count
    return up((1 - a) * Z_L, size) + up(a, size) * Z_H / count


def bottlenecks(state: State, x: Tensor, prefix: str, blocks, strides, dilations) -> list[Tensor]:
    """F_1, ..., F_4 of a ResNet with its strides on the 3x3; a layer's first block has half of the layer's dilation."""
    found = []
    for layer, (depth, stride, dilation) in enumerate(zip(blocks, strides, dilations), start=1):
        for i in range(depth):
            b = f"{prefix}layer{layer}.{i}"
            s, d = (stride, max(dilation // 2, 1)) if i == 0 else (1, dilation)
            y = bn_relu(state, conv(state, x, f"{b}.conv1"), f"{b}.bn1")
            y = bn_relu(state, conv(state, y, f"{b}.conv2", stride=s, padding=d, dilation=d), f"{b}.bn2")
            y = bn(state, conv(state, y, f"{b}.conv3"), f"{b}.bn3")
            if i == 0:
                x = bn(state, conv(state, x, f"{b}.downsample.0", stride=s), f"{b}.downsample.1")
            x = (x + y).relu()
        found.append(x)
    return found


def deeplab_v2(state: State, image: Tensor, blocks) -> Tensor:
    """Logits at stride 8: mmsegmentation's ResNetV1c with strides (1, 2, 1, 1), dilations (1, 1, 2, 4), contract_dilation=True
    and style "pytorch"; the sum of four convolutions, dilated by 6, 12, 18 and 24.
    """
    x = image
    for i, stride in ((0, 2), (3, 1), (6, 1)):
        x = conv(state, x, f"backbone.stem.{i}", stride=stride, padding=1)
        x = bn_relu(state, x, f"backbone.stem.{i + 1}")
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    x = bottlenecks(state, x, "backbone.", blocks, (1, 2, 1, 1), (1, 1, 2, 4))[-1]
    rates = (6, 12, 18, 24)
    maps = [conv(state, x, f"decode_head.aspp_modules.{i}.conv", padding=r, dilation=r) for i, r in enumerate(rates)]
    return maps[0] + maps[1] + maps[2] + maps[3]


def deeplab_v3plus(state: State, image: Tensor, blocks, convs: int) -> tuple[Tensor, Tensor]:
    """The 304 channels and the logits, both at stride 4, of DeepLabV3+ at output stride 16 on torchvision's ResNet."""
    x = bn_relu(state, conv(state, image, "conv1", stride=2, padding=3), "bn1")
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    F_1, _, _, F_4 = bottlenecks(state, x, "", blocks, (1, 2, 2, 1), (1, 1, 1, 2))

    def unit(x: Tensor, name: str, **how) -> Tensor:
        return bn_relu(state, conv(state, x, f"{name}.conv", **how), f"{name}.bn")

    parts = [unit(F_4, "context.branches.0")]
    parts += [unit(F_4, f"context.branches.{k}", padding=6 * k, dilation=6 * k) for k in (1, 2, 3)]
    mean = F_4.sum((2, 3), keepdim=True) / (F_4.shape[2] * F_4.shape[3])
    parts.append(unit(mean, "context.pooling").repeat(1, 1, *F_4.shape[2:]))
    low, z = unit(F_1, "low"), unit(torch.cat(parts, 1), "context.project")
    g = torch.cat([low, aligned(z, low.shape[2:])], 1)
    d = g
    for k in range(convs):
        d = unit(d, f"decoder.{k}", padding=1)
    return g, conv(state, d, "classifier")


def aligned(x: Tensor, size) -> Tensor:
    """Bilinear with aligned corners, by two matrices: output i of n lies at i (m - 1) / (n - 1) of m inputs."""

    def matrix(n: int, m: int) -> Tensor:
        place = torch.arange(n, dtype=torch.float64) * (m - 1) / (n - 1)
        return (1 - (place[:, None] - torch.arange(m)).abs()).clamp(min=0).to(x.dtype)

    return matrix(size[0], x.shape[2]) @ x @ matrix(size[1], x.shape[3]).T
