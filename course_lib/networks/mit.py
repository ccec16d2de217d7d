"""The Mix Transformer (MiT) with a head of SegFormer or of DAFormer.

Letters: N images, C classes, D feature channels; H, W the image; F_1, ..., F_4 maps at strides 4, 8, 16, 32, D_k channels wide;
an attention: n cells, m cells after the reduction by R x R, d channels of a head.

    each stage     x = LN(conv_k,s(x))                                   overlapping patches: 7x7 stride 4, then 3x3 stride 2
                   L blocks:  x = x + drop(A(LN(x))),   x = x + drop(M(LN(x)))
                   F = LN(x)
    A(x)           softmax(Q K^T / sqrt(d)) V,  Q from x, K and V from LN(conv_R,R(x)): (n, m) scores, m = n / R^2
    M(x)           W_2 gelu(depthwise 3x3(W_1 x)); there is no other encoding of a cell's place than the zero padding of the 3x3

Source: Xie et al., SegFormer (NeurIPS 2021); the head of DAFormer: Hoyer et al. (CVPR 2022).
Weights have the names of the released files, so that those fit; no file is shipped (NVIDIA's are for non-commercial use).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from course_lib.networks.heads import WIDTH, DAFormerHead, SegFormerHead, maps, tokens
from course_lib.networks.prediction import Prediction, Segmenter, check_image
from course_lib.networks.sync import synchronised
from course_lib.networks.weight_file import listed, read_tensors


class Size(NamedTuple):
    """Of an encoder: widths and blocks of its four stages, channels of SegFormer's head."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    head: int


WIDE = (64, 128, 320, 512)
SIZES = {  # SegFormer, table 6 of the appendix
    "b0": Size((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": Size(WIDE, (2, 2, 2, 2), 256),
    "b2": Size(WIDE, (3, 4, 6, 3), 768),
    "b3": Size(WIDE, (3, 4, 18, 3), 768),
    "b4": Size(WIDE, (3, 8, 27, 3), 768),
    "b5": Size(WIDE, (3, 6, 40, 3), 768),
}
HEADS_OF_ATTENTION = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # R
PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))  # kernel, stride
DROP_PATH = 0.1  # of the last block; it rises from 0
SMALLEST = 32  # pixels: below, the grid of the first stage is smaller than R x R


class PatchEmbedding(nn.Module):
    """Cells of the next grid from overlapping patches: (N, D', H', W') -> tokens (N, h w, D) and their (h, w)."""

    def __init__(self, inside: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(inside, width, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(x)
        return self.norm(tokens(x)), tuple(x.shape[2:])


class Attention(nn.Module):
    """A(x): a query for each cell; keys and values of R x R cells together."""

    def __init__(self, width: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, h w, D) of the grid (h, w) -> the same shape."""
        N, n, D = x.shape
        few = self.norm(tokens(self.sr(maps(x, grid)))) if self.reduction > 1 else x                   # (N, m, D)
        q = self.q(x).view(N, n, self.heads, -1).transpose(1, 2)                                       # (N, heads, n, d)
        k, v = self.kv(few).view(N, few.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)            # (N, heads, m, d)
        seen = F.scaled_dot_product_attention(q, k, v)                                          # softmax(Q K^T / sqrt d) V
        return self.proj(seen.transpose(1, 2).reshape(N, n, D))


class DepthwiseConv(nn.Module):
    """A 3x3 filter for each channel, on tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, h w, D) of the grid (h, w) -> the same shape."""
        return tokens(self.dwconv(maps(x, grid)))


class MixFFN(nn.Module):
    """M(x): two linear maps with a depthwise 3x3 convolution and GELU between them."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.dwconv = DepthwiseConv(ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, h w, D) of the grid (h, w) -> the same shape."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), grid)))


class Block(nn.Module):
    """Attention, then `MixFFN`, each of the normalised input, added to the input."""

    def __init__(self, width: int, heads: int, reduction: int, drop: float):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, heads, reduction)
        self.mlp = MixFFN(width)
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, h w, D) of the grid (h, w) -> the same shape."""
        x = x + self.drop(self.attn(self.norm1(x), grid))
        return x + self.drop(self.mlp(self.norm2(x), grid))


class MixTransformer(nn.Module):
    """The encoder alone: image (N, 3, H, W) -> F_1, ..., F_4, (N, D_k, h_k, w_k) each."""

    def __init__(self, size: Size):
        super().__init__()
        drop = iter(torch.linspace(0, DROP_PATH, sum(size.blocks), device="cpu").tolist())
        before = (3, *size.widths)
        for k in range(4):
            blocks = [Block(size.widths[k], HEADS_OF_ATTENTION[k], REDUCTIONS[k], next(drop)) for _ in range(size.blocks[k])]
            setattr(self, f"patch_embed{k + 1}", PatchEmbedding(before[k], size.widths[k], *PATCHES[k]))
            setattr(self, f"block{k + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{k + 1}", nn.LayerNorm(size.widths[k], eps=1e-6))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x, found = image, []
        for k in range(1, 5):
            x, grid = getattr(self, f"patch_embed{k}")(x)
            for block in getattr(self, f"block{k}"):
                x = block(x, grid)
            x = maps(getattr(self, f"norm{k}")(x), grid)
            found.append(x)
        return tuple(found)


class MiT(Segmenter):
    """Image (N, 3, H, W) -> Prediction(features, logits) at stride 4, and the four maps of the encoder. Build it with `mit`."""

    normalisation = "imagenet"

    def __init__(self, num_classes: int, size: str = "b5", head: str = "daformer"):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"MiT has no size {size!r}; it wants one of {', '.join(map(repr, SIZES))}.")
        if head not in ("daformer", "segformer"):
            raise ValueError(f"MiT has no head {head!r}; it wants 'daformer' or 'segformer'.")
        widths = SIZES[size].widths
        self.num_classes, self.pyramid_channels = num_classes, widths
        self.backbone = MixTransformer(SIZES[size])
        if head == "daformer":
            self.decode_head, self.feature_dim = DAFormerHead(widths, num_classes), WIDTH
        else:
            self.decode_head, self.feature_dim = SegFormerHead(widths, num_classes, SIZES[size].head), SIZES[size].head

    def forward(self, image: Tensor) -> Prediction:
        pyramid = self.pyramid(image)
        features, logits = self.decode_head(pyramid)
        return Prediction(features, logits, pyramid=pyramid, align_corners=False)  # as its releases train and test

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        """The encoder's maps, without the head."""
        check_image(image, "MiT", self.normalisation, SMALLEST)
        return self.backbone(image)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The head."""
        return self.decode_head.parameters()


def mit(
    num_classes: int, size: str = "b5", head: str = "daformer", imagenet: str | Path | None = None, bn: str = "train"
) -> MiT:
    """SegFormer's encoder "b0" to "b5" with the head of "daformer" or "segformer".

    imagenet: a file of the encoder's weights as released (mit_b5.pth); None: at random. bn: of the head's batch
    normalisation, "train" (statistics of this process) or "sync" (of all processes).

    Raises ValueError for another size, head or bn, and for a file that is not of this encoder.

    >>> with torch.device("meta"):  # shapes alone, no memory
    ...     prediction = mit(19, "b0")(torch.empty(1, 3, 64, 128))
    >>> [tuple(F_k.shape[1:]) for F_k in prediction.pyramid]
    [(32, 16, 32), (64, 8, 16), (160, 4, 8), (256, 2, 4)]
    """
    if bn not in ("train", "sync"):
        raise ValueError(f"mit got bn={bn!r}; it wants 'train' or 'sync' (statistics of all processes).")
    network = MiT(num_classes, size, head)
    if imagenet is not None:
        load_encoder(network, Path(imagenet))
    return synchronised(network) if bn == "sync" else network


def load_encoder(network: MiT, path: Path) -> None:
    """Start the encoder from a released file; the classifier of ImageNet's 1,000 classes in it is not used."""
    tensors, _ = read_tensors(path)
    given = {name.removeprefix("backbone."): value for name, value in tensors.items() if not name.startswith("head.")}
    own = network.backbone.state_dict()
    problems = {
        "missing": sorted(own.keys() - given.keys()),
        "unknown": sorted(given.keys() - own.keys()),
        "of another shape": sorted(n for n in own.keys() & given.keys() if tuple(given[n].shape) != tuple(own[n].shape)),
    }
    if found := listed(problems):
        raise ValueError(f"{path} does not hold this MiT encoder: {found}. Choose its size: mit(C, size='b0' to 'b5').")
    network.backbone.load_state_dict(given)


def _initialise(module: nn.Module) -> None:
    """Linear maps N(0, .02) cut at 2, convolutions N(0, sqrt(2 / fan out)), as released."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)
