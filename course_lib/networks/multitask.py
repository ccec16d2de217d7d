"""Two tasks on one encoder: segmentation and depth, whose decoders read each other by attention (PAD).

Letters: N images, C classes; F_1, ..., F_n the encoder's maps, the finest first; S and G (N, width, h, w) what the decoders of
segmentation and of depth make of them, on the grid of F_1; Z logits (N, C, h, w), D disparity (N, h, w) in (0, 1), as
`data.disparity` has it; W, A convolutions 3x3.

    S = decoder(F),   G = decoder'(F)                                          two decoders of one form
    Z_0 = conv(S),    D_0 = sigmoid(conv(G))                                   intermediate outputs
    S' = S + W G * sigmoid(A G),   G' = G + W' S * sigmoid(A' S)               A, A' start at 0: the gates at 1/2
    Z = conv(relu(conv(S'))),      D = sigmoid(conv(relu(conv(G'))))           outputs

Sources: Xu et al., PAD-Net (CVPR 2018); Hoyer et al., three ways to improve semantic segmentation with self-supervised depth
estimation (CVPR 2021). The decoders end on the grid of the encoder's finest map, the released ones at the picture's size.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.losses.inputs import full_precision
from course_lib.networks.prediction import Prediction, Segmenter, eval_mode, needs_pyramid
from course_lib.networks.small import norm_layer
from course_lib.typed import checked

Tasks = Literal["segmentation", "depth", "both"]
WIDTH = 256
RATES = (6, 12, 18)  # of the dilated convolutions on F_n, as in DeepLabV3
SKIP = 48  # channels of a finer map beside the decoder's, as in DeepLabV3+
PROBE = (64, 96)  # height and width of a picture on which the encoder is tried


class MultiTask(Segmenter):
    """The encoder of a segmentation network with a decoder for each task: image (N, 3, H, W) -> `Prediction`.

    tasks: "both", as above: aux_logits are Z_0, aux_disparity D_0, features S'. "segmentation": S and conv(S) alone. "depth": G
    and D alone; the classifier on G is not trained, and `Method.segments` of what trains it is False. norm: of the decoders,
    "batch", "sync" or "group".

    The decoder and classifier of the network inside get no gradient. Raises ValueError for a network whose
    predictions have no pyramid.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        tasks: Tasks = "both",
        width: int = WIDTH,
        rates: tuple[int, ...] = RATES,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.tasks = checked(Tasks, tasks, "tasks")
        needs_pyramid(segmenter, "multitask")
        if norm not in ("batch", "sync", "group"):
            raise ValueError(f"multitask got norm={norm!r}; it wants 'batch', 'sync' (over all processes) or 'group'.")
        C, widths = segmenter.num_classes, segmenter.pyramid_channels
        self.num_classes, self.feature_dim, self.pyramid_channels = C, width, widths
        self.normalisation, self.multiple = segmenter.normalisation, segmenter.multiple
        self.gives_disparity = tasks != "segmentation"
        self.segmenter = segmenter
        for parameter in _unread(segmenter):
            parameter.requires_grad_(False)
        names = ("segmentation", "depth") if tasks == "both" else (tasks,)
        outputs = {"segmentation": C, "depth": 1}
        self.decoders = nn.ModuleDict({name: Decoder(widths, width, rates, norm) for name in names})
        self.outputs = nn.ModuleDict({name: nn.Conv2d(width, outputs[name], 1) for name in names})
        if tasks == "both":
            self.messages = nn.ModuleDict({name: Message(width) for name in names})  # from that task to the other
            self.finals = nn.ModuleDict(
                {name: nn.Sequential(_conv(width, width, 3, norm), nn.Conv2d(width, outputs[name], 1)) for name in names}
            )
        elif tasks == "depth":
            self.classifier = nn.Conv2d(width, C, 1).requires_grad_(False)

    def forward(self, image: Tensor) -> Prediction:
        maps = self.pyramid(image)
        x = {name: decoder(maps) for name, decoder in self.decoders.items()}                              # S, G
        first = {name: output(x[name]) for name, output in self.outputs.items()}                          # Z_0, D_0
        corners = {"pyramid": maps, "align_corners": False}
        if self.tasks == "segmentation":
            return Prediction(x["segmentation"], first["segmentation"], **corners)
        D_0 = _disparity(first["depth"])
        if self.tasks == "depth":
            return Prediction(x["depth"], self.classifier(x["depth"]), disparity=D_0, **corners)
        S, G = x["segmentation"], x["depth"]
        S, G = S + self.messages["depth"](G), G + self.messages["segmentation"](S)                        # S', G'
        Z, D = self.finals["segmentation"](S), _disparity(self.finals["depth"](G))
        return Prediction(S, Z, first["segmentation"], disparity=D, aux_disparity=D_0, **corners)

    def pyramid(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.segmenter.pyramid(image)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the encoder inside that learn."""
        return (parameter for parameter in self.segmenter.parameters() if parameter.requires_grad)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The decoders, and all that comes after them."""
        inside = {id(parameter) for parameter in self.segmenter.parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in inside)

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the weights of such a network after another stage: a decoder of segmentation that was not trained there
        begins as the decoder of depth (the paper's transfer); layers that it had not are as they were drawn.

        Raises ValueError where the network inside, or a decoder, is another.
        """
        given = dict(weights)
        if not any(name.startswith("decoders.segmentation.") for name in given):
            decoder = {name: value for name, value in given.items() if name.startswith("decoders.depth.")}
            given |= {name.replace("depth", "segmentation", 1): value for name, value in decoder.items()}
        own = self.state_dict()
        inside = [name for name in own if name.startswith(("segmenter.", "decoders.")) and name not in given]
        wrong = inside + [name for name in own if name in given and given[name].shape != own[name].shape]
        if wrong:
            raise ValueError(
                f"These weights are of another network than this multitask: {wrong[0]} is missing or of another shape, and "
                f"{len(wrong) - 1} more. Train the stage before with the same network_options, but for tasks."
            )
        self.load_state_dict({name: given.get(name, value) for name, value in own.items()})


class Decoder(nn.Module):
    """F_1, ..., F_n -> (N, width, h_1, w_1): context of F_n at several dilations, then one finer map after the other.

        x = conv1x1(cat(conv1x1(F_n), conv3x3(F_n, dilation r) for each r))
        x = conv3x3(cat(up(x), conv1x1(F_k))),   k = n - 1, ..., 1
    """

    def __init__(self, widths: tuple[int, ...], width: int, rates: tuple[int, ...], norm: str) -> None:
        super().__init__()
        *finer, last = widths
        self.context = nn.ModuleList([_conv(last, width, 1, norm), *(_conv(last, width, 3, norm, rate) for rate in rates)])
        self.bottleneck = _conv((1 + len(rates)) * width, width, 1, norm)
        skip = min(SKIP, width)
        self.skips = nn.ModuleList(_conv(inside, skip, 1, norm) for inside in finer)
        self.fuse = nn.ModuleList(_conv(width + skip, width, 3, norm) for _ in finer)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        x = self.bottleneck(torch.cat([branch(maps[-1]) for branch in self.context], dim=1))
        for k in range(len(maps) - 2, -1, -1):
            x = F.interpolate(x, size=maps[k].shape[2:], mode="bilinear", align_corners=False)
            x = self.fuse[k](torch.cat([x, self.skips[k](maps[k])], dim=1))
        return x


class Message(nn.Module):
    """What one task gives to the other, (N, width, h, w) -> the same:  W x * sigmoid(A x), A zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.attention = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.message(x) * self.attention(x).sigmoid()


def _conv(inside: int, width: int, kernel: int, norm: str, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inside, width, kernel, padding=padding, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, norm_layer(width, norm), nn.ReLU(inplace=True))


def _disparity(x: Tensor) -> Tensor:
    """(N, 1, h, w) before the sigmoid -> (N, h, w) in (0, 1), float32 or float64."""
    return full_precision(x[:, 0]).sigmoid()


def _unread(segmenter: Segmenter) -> list[nn.Parameter]:
    """The parameters on which the encoder's maps do not depend."""
    learning = [parameter for parameter in segmenter.parameters() if parameter.requires_grad]
    with eval_mode(segmenter), torch.enable_grad():
        image = torch.zeros(1, 3, *PROBE, device=next(segmenter.parameters()).device)
        total = sum(x.sum() for x in segmenter.pyramid(image))
        gradients = torch.autograd.grad(total, learning, allow_unused=True)
    return [parameter for parameter, gradient in zip(learning, gradients) if gradient is None]


def multitask(
    num_classes: int,
    of: str = "deeplab_v2",
    tasks: Tasks = "both",
    decoder_width: int = WIDTH,
    rates: tuple[int, ...] = RATES,
    decoder_norm: str = "batch",
    **options,
) -> MultiTask:
    """Segmentation and depth on the encoder of the network `of`, built with the other options; see `MultiTask`.

    >>> with torch.device("meta"):  # shapes alone, no memory
    ...     network = multitask(19, "small", width=16, decoder_width=32, decoder_norm="group")
    ...     prediction = network(torch.empty(1, 3, 64, 128))
    >>> tuple(prediction.logits.shape), tuple(prediction.disparity.shape)
    ((1, 19, 16, 32), (1, 16, 32))
    """
    from course_lib.networks import build

    if of in ("multitask", "hrda"):
        raise ValueError(f"multitask of {of!r}: it wants a network with an encoder, such as 'deeplab_v2', 'mit' or 'small'.")
    return MultiTask(build(of, num_classes, **options), tasks, decoder_width, tuple(rates), decoder_norm)
