"""The 1x1 convolution with a stride, without a fault of torch's CPU library.

Letters: N images, I channels in, O channels out, s the stride; H, W the grid, h = ceil(H/s), w = ceil(W/s).
"""

from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16  # channels that oneDNN's kernel for AVX-512 takes at once; the one for AVX2 takes 8


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution of every s-th pixel: (N,I,H,W) -> (N,O,h,w). Function and parameters are those of `nn.Conv2d`.

    The plain operation has a fault on x86 processors. In channels_last, with a stride that divides H and W and fewer channels
    than one vector holds (I < 16 with AVX-512, I < 8 with AVX2), oneDNN 3.13 (torch 2.15) computes the gradient of the weight
    with writes past the end of its buffer, from a few hundred output pixels on (256 with AVX2, 784 with AVX-512). The process
    crashes, or its numbers are wrong. https://github.com/uxlfoundation/oneDNN/issues/6035 reports the same. Here the pixels
    are selected first, and the convolution has stride 1.

    `avg_pool2d` with a window of one pixel selects them exactly (a mean of one number), and unlike x[..., ::s, ::s] it keeps
    channels_last in both directions. Wider inputs and other devices take torch's own way: the numbers of the networks at
    their default widths are those of `nn.Conv2d`, bit for bit.

    >>> import torch
    >>> tuple(PointwiseConv2d(4, 8, stride=2)(torch.zeros(2, 4, 17, 32)).shape)
    (2, 8, 9, 16)
    """

    def __init__(self, inside: int, out: int, stride: int = 1, bias: bool = True):
        super().__init__(inside, out, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1) or self.in_channels >= BLOCK or x.device.type != "cpu":
            return super().forward(x)
        return F.conv2d(F.avg_pool2d(x, 1, self.stride), self.weight, self.bias)
