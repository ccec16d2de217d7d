"""The discriminator of output-space adaptation: it predicts the domain of a softmax map.

Letters: N images, C classes, H, W the softmax map, L the number of layers ("depth").
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Discriminator(nn.Module):
    """Tell source from target by softmax maps: (N,C,H,W) -> one logit per patch (N,1,H/2^L,W/2^L).

    L convolutions 4x4, stride 2, padding 1, with bias; C -> 64 -> 128 -> 256 -> 512 -> 1 as published, leaky ReLU
    (0.2) between them, no normalisation, no sigmoid (AdaptSegNet, Tsai et al. 2018). Smaller pictures want a smaller
    `depth`: at 128x256 five layers leave 4x8 patches, three leave 16x32.

    Raises:
        ValueError: for another number of channels, or a map that the stride reduces to nothing.

    >>> import torch
    >>> tuple(Discriminator(19)(torch.zeros(1, 19, 64, 128)).shape)
    (1, 1, 2, 4)
    """

    def __init__(self, num_classes: int, width: int = 64, depth: int = 5):
        super().__init__()
        if num_classes < 1 or width < 1 or depth < 2:
            raise ValueError(
                f"Discriminator got num_classes={num_classes}, width={width}, depth={depth}; "
                "it wants at least 1, 1 and 2. As published: width=64, depth=5."
            )
        self.num_classes, self.depth = num_classes, depth
        widths = [num_classes, *(width * 2**i for i in range(depth - 1))]
        for i in range(1, depth):
            setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 4, stride=2, padding=1))
        self.classifier = nn.Conv2d(widths[-1], 1, 4, stride=2, padding=1)

    def forward(self, softmax_map: Tensor) -> Tensor:
        shape, smallest = tuple(softmax_map.shape), 2**self.depth
        if len(shape) != 4 or shape[1] != self.num_classes:
            raise ValueError(
                f"Discriminator got a map of shape {shape}; it wants (N, {self.num_classes}, H, W). "
                "Give it softmax(logits) of the classes that it was built for: Discriminator(num_classes)."
            )
        if min(shape[2:]) < smallest:
            raise ValueError(
                f"Discriminator of depth {self.depth} got a map of {shape[2]}x{shape[3]}; it wants at least "
                f"{smallest}x{smallest}. Upsample the map to the image size, or build it with a smaller depth."
            )
        x = softmax_map
        for i in range(1, self.depth):
            x = F.leaky_relu(getattr(self, f"conv{i}")(x), 0.2, inplace=True)
        return self.classifier(x)
