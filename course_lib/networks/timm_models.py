"""Encoders of timm (extra `backbones`) with a small head: --set network=timm:NAME.

Sources: timm's documentation of feature extraction (`features_only`), its registry of models.
"""

from typing import Any

import torch
from torch import Tensor, nn

from course_lib.extras import require
from course_lib.networks.encoders import MAPS, EncoderNetwork
from course_lib.networks.prediction import eval_mode

PROBE = (96, 128)  # 16 divides both, 14 does not


def timm_model(name: str, num_classes: int, pretrained: bool = False, head_dim: int = 128, **options: Any) -> nn.Module:
    """The encoder NAME of timm with a head of `head_dim` feature channels; other options go to `timm.create_model`.

    pretrained: with timm's weights, which it downloads. Vision transformers take images of any size; those whose patches do
    not divide an image pad it.

    Raises ModuleNotFoundError without timm; ValueError for a name or an option that timm does not have, and for an encoder
    that gives no maps or takes images of one size alone.
    """
    require("backbones", ("timm",), f"The network timm:{name}")
    import timm

    if not timm.is_model(name.partition(".")[0]):
        from difflib import get_close_matches

        near = get_close_matches(name, timm.list_models(), n=3)
        guess = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"timm {timm.__version__} has no model {name!r}.{guess} `timm.list_models()` has all.")
    for sizes in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):  # as far as the model has such an option
        try:
            encoder = timm.create_model(name, pretrained=pretrained, features_only=True, **sizes, **options)
            break
        except TypeError as error:
            if not sizes or not any(option in str(error) for option in sizes):
                raise ValueError(f"timm:{name} cannot be built with the options {options}: {error}.") from error
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise ValueError(f"timm:{name} gives no feature maps: {error}. Choose another encoder.") from error
    info = encoder.feature_info
    channels, strides = info.channels()[-MAPS:], info.reduction()[-MAPS:]
    maps = _Maps(encoder, channels)
    config = getattr(encoder, "default_cfg", None) or getattr(encoder, "pretrained_cfg", {})
    divisor = 1 if _takes(maps, PROBE[0] + 1, PROBE[1] + 3) else max(strides)
    if divisor > 1 and not _takes(maps, 3 * divisor, 4 * divisor):
        raise ValueError(f"timm:{name} takes images of one size alone. Choose another encoder, for example timm:resnet18.")
    return EncoderNetwork(maps, channels, num_classes, f"timm:{name}", head_dim, config["mean"], config["std"], divisor)


class _Maps(nn.Module):
    """The last maps of timm's list, channels first (Swin has them last)."""

    def __init__(self, model: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.model, self.channels = model, channels

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.model(image)[-len(self.channels) :]
        return [x if x.shape[1] == D else x.permute(0, 3, 1, 2) for x, D in zip(maps, self.channels)]


@torch.no_grad()
def _takes(maps: nn.Module, height: int, width: int) -> bool:
    """Whether images of this size pass."""
    try:
        with eval_mode(maps):
            found = maps(torch.zeros(1, 3, height, width, device=next(maps.parameters()).device))
        return all(x.ndim == 4 and x.shape[1] == D for x, D in zip(found, maps.channels))
    except (AssertionError, RuntimeError, ValueError):
        return False
