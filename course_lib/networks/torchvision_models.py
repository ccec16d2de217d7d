"""Models of torchvision: --set network=torchvision:NAME.

Its segmentation models are taken as they are; of its classification models the convolutional part gets a small head.
"""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from course_lib.networks.adapter import PROBE, Adapter
from course_lib.networks.encoders import MAPS, EncoderNetwork
from course_lib.networks.prediction import eval_mode
from course_lib.registry import find_named


def torchvision_model(name: str, num_classes: int, pretrained: bool = False, head_dim: int = 128, **options: Any) -> nn.Module:
    """The model NAME of torchvision; other options go to its builder.

    pretrained: with torchvision's ImageNet weights, which it downloads. head_dim: feature channels of the head that a
    classification model gets.

    Raises ValueError for a name or an option that torchvision does not have, and for a model without maps (N, D, h, w).
    """
    segmentation = torchvision.models.list_models(module=torchvision.models.segmentation)
    classification = torchvision.models.list_models(module=torchvision.models)
    find_named("torchvision model", name, (*segmentation, *classification))
    weights = "DEFAULT" if pretrained else None
    try:
        if name in segmentation:
            options |= {"weights": None, "weights_backbone": weights}
            model = torchvision.models.get_model(name, num_classes=num_classes, **options)
            return Adapter(model, num_classes, f"torchvision:{name}")
        model = torchvision.models.get_model(name, weights=weights, **options)
    except TypeError as error:
        raise ValueError(f"torchvision:{name} cannot be built with the options {options}: {error}.") from error
    encoder = _Layers(model) if hasattr(model, "layer4") else _Features(model, name)
    return EncoderNetwork(encoder, _channels(encoder, name), num_classes, f"torchvision:{name}", head_dim)


class _Layers(nn.Module):
    """A ResNet without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        self.layers = nn.ModuleList([model.layer1, model.layer2, model.layer3, model.layer4])

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[-MAPS:]


class _Features(nn.Module):
    """The `features` of a model: the last map of each resolution."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        if not isinstance(getattr(model, "features", None), nn.Sequential):
            raise ValueError(f"torchvision:{name} has neither `layer4` nor `features`. Choose another, for example resnet18.")
        self.features = model.features

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for layer in self.features:
            x = layer(maps[-1])
            maps = [*(maps if x.shape[2:] != maps[-1].shape[2:] else maps[:-1]), x]
        return maps[1:][-MAPS:]


@torch.no_grad()
def _channels(encoder: nn.Module, name: str) -> list[int]:
    """How wide the maps are, from one image."""
    image = torch.zeros(1, 3, *PROBE, device=next(encoder.parameters()).device)
    with eval_mode(encoder):
        maps = encoder(image)
    if any(x.ndim != 4 or x.shape[2] > PROBE[0] or x.shape[3] > PROBE[1] or x.shape[1] < x.shape[2] for x in maps):
        raise ValueError(f"torchvision:{name} gives no maps (N, D, h, w). Choose a convolutional model, for example resnet18.")
    return [x.shape[1] for x in maps]
