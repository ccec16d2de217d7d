"""Networks: a batch of images (N,3,H,W) in, a `Prediction` (features, logits) on the network's own grid out.

Every segmentation network has what `Segmenter` names.
"""

import difflib
from typing import Any

import torch

from course_lib.networks.deeplab import DeepLabForm, DeepLabV2, deeplab_v2, load_imagenet
from course_lib.networks.discriminator import Discriminator
from course_lib.networks.groups import parameter_groups
from course_lib.networks.prediction import Prediction, Segmenter, check_image, pooled
from course_lib.networks.projector import Projector
from course_lib.networks.published import Published, load_published
from course_lib.networks.small import Small, small

__all__ = [
    "BLANK",
    "NAMES",
    "DeepLabForm",
    "DeepLabV2",
    "Discriminator",
    "Prediction",
    "Projector",
    "Published",
    "Segmenter",
    "Small",
    "build",
    "check_image",
    "deeplab_v2",
    "load_imagenet",
    "load_published",
    "parameter_groups",
    "pooled",
    "small",
]

NAMES = ("deeplab_v2", "small", "efficientnet_lite0")
# options that leave ImageNet's weights away, for a network that gets its weights from elsewhere
BLANK = {"deeplab_v2": {"imagenet": False}, "efficientnet_lite0": {"pretrained": False}}


def build(name: str, num_classes: int, seed: int | None = None, **options: Any) -> Segmenter:
    """Build a segmentation network by name; `options` go to `deeplab_v2`, `small` or `efficientnet_lite0`.

    `seed` fixes the initial weights and leaves torch's own random state as it was.

    >>> build("small", num_classes=19, seed=0).feature_dim
    64

    Raises:
        ValueError: for an unknown name, or an option that this network does not have.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"There is no network {name!r}; it wants one of {', '.join(map(repr, NAMES))}.{guess}")
    if name == "efficientnet_lite0":
        from course_lib.networks.efficientnet import efficientnet_lite0 as builder  # its weights are an optional extra
    else:
        builder = {"deeplab_v2": deeplab_v2, "small": small}[name]
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return builder(num_classes, **options)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            raise ValueError(f"Network {name!r}: {error}. See help(course_lib.networks.{name}).") from None
