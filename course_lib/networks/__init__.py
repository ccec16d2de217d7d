"""Networks: a batch of images (N,3,H,W) in, a `Prediction` (features, logits) on the network's own grid out.

Every segmentation network has what `Segmenter` names.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import outside
from course_lib.networks.adapter import Adapter, adapted
from course_lib.networks.deeplab import DeepLabForm, DeepLabV2, deeplab_v2
from course_lib.networks.deeplab_v3plus import DeepLabV3Plus, DeepLabV3PlusForm, deeplab_v3plus
from course_lib.networks.discriminator import Discriminator
from course_lib.networks.groups import parameter_groups
from course_lib.networks.hrda import HRDA, hrda
from course_lib.networks.mit import MiT, mit
from course_lib.networks.multitask import MultiTask, multitask
from course_lib.networks.prediction import Box, Boxes, Cost, Detail, Prediction, Segmenter, check_image, pooled
from course_lib.networks.projector import Projector
from course_lib.networks.published import Published, load_published
from course_lib.networks.resnet_starts import load_imagenet
from course_lib.networks.small import Small, small
from course_lib.networks.torchvision_models import torchvision_model
from course_lib.networks.weight_file import listed
from course_lib.registry import find_named

__all__ = [
    "BLANK",
    "NAMES",
    "HRDA",
    "Adapter",
    "Box",
    "Boxes",
    "Cost",
    "DeepLabForm",
    "DeepLabV2",
    "DeepLabV3Plus",
    "DeepLabV3PlusForm",
    "Detail",
    "Discriminator",
    "MiT",
    "MultiTask",
    "Prediction",
    "Projector",
    "Published",
    "Segmenter",
    "Small",
    "adapted",
    "blank_options",
    "build",
    "check_image",
    "deeplab_v2",
    "deeplab_v3plus",
    "hrda",
    "load_builder",
    "load_imagenet",
    "load_published",
    "mit",
    "multitask",
    "parameter_groups",
    "pooled",
    "small",
    "weights_of",
]

NAMES = ("deeplab_v2", "deeplab_v3plus", "small", "efficientnet_lite0", "mit", "hrda", "multitask")
# options that leave ImageNet's weights away, for a network that gets its weights from elsewhere
BLANK = {
    "deeplab_v2": {"imagenet": False}, "deeplab_v3plus": {"imagenet": False},
    "efficientnet_lite0": {"pretrained": False}, "mit": {"imagenet": None},
}  # fmt: skip
LIBRARIES = ("timm", "torchvision")  # "timm:NAME": these may be built from a checkpoint, they run no code of its author


def blank_options(name: str, options: dict) -> dict:
    """The options with which `build` makes a network whose weights come from elsewhere: nothing is downloaded."""
    if name in ("hrda", "multitask"):
        return options | blank_options(options.get("of", "mit" if name == "hrda" else "deeplab_v2"), options)
    if name.partition(":")[0] in LIBRARIES:
        return options | {"pretrained": False}
    if name in BLANK:
        return {key: value for key, value in options.items() if key not in ("pretrained", "imagenet")} | BLANK[name]
    return options


def load_builder(network: str, near: Path | None = None) -> str:
    """The name by which recipes know a network, which is imported where it comes from outside this library.

    network: a name of NAMES, "timm:NAME", "torchvision:NAME", "FILE.py:FUNCTION", "MODULE:FUNCTION", or the name of an entry
    point of the group course_lib.networks. A FUNCTION, or a class, is called with `num_classes` and the network's options
    (`adapter`). near: see `outside.load`, which says what is raised.

    >>> load_builder("small")
    'small'
    """
    if isinstance(network, str):
        if network in NAMES or network.partition(":")[0] in LIBRARIES:
            return network
        points = outside.entry_point_names("network")
        if not outside.is_reference(network) and network not in points:
            _refuse(network, points)
    return outside.load(network, "network", None, near).name


def weights_of(network: nn.Module, tensors: dict[str, Any], where: Path | str) -> dict[str, Tensor]:
    """The tensors of a file as those of `network`, all of them; half precision becomes the network's type.

    `module.` or `_orig_mod.` before every name (training in parallel, `torch.compile`) is left out; the names may be those of
    a network inside an adapter. Raises ValueError naming the first tensors that are missing, left over or of another shape.
    """
    own = network.state_dict()
    given = dict(tensors)
    for prefix in ("module.", "_orig_mod.") * 2:
        if given and all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    if not given.keys() & own.keys():
        given = {f"network.{name}": value for name, value in given.items()}
    unfit = sorted(name for name in own.keys() & given.keys() if not _fits(given[name], own[name]))
    problems = {
        "missing": sorted(own.keys() - given.keys()),
        "left over": sorted(given.keys() - own.keys()),
        "of another shape or not finite": unfit,
    }
    if found := listed(problems):
        raise ValueError(f"{where} has the weights of another network: {found}. Give its --set network= and network_options=.")
    return {name: value.detach().to(own[name].dtype).contiguous() for name, value in given.items()}


def _fits(value: Any, own: Tensor) -> bool:
    same = isinstance(value, Tensor) and value.shape == own.shape and value.is_floating_point() == own.is_floating_point()
    return same and value.layout == torch.strided and value.device.type == "cpu" and bool(torch.isfinite(value).all())


def _refuse(name: str, others: list[str]) -> None:
    find_named("network", name, (*NAMES, *others, *(f"{library}:NAME" for library in LIBRARIES), "FILE.py:NAME"))


def build(name: str, num_classes: int, seed: int | None = None, **options: Any) -> Segmenter:
    """Build a segmentation network by name; `options` go to the function of that name, to that of
    `load_builder`, or to the timm or torchvision model.

    `seed` fixes the initial weights and leaves torch's own random state as it was.

    >>> build("small", num_classes=19, seed=0).feature_dim
    64

    Raises:
        ValueError: for an unknown name, an option that this network does not have, code that is not loaded, or a network
            that does not segment (`adapter.adapted`).
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return _builder(name)(num_classes, **options)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            where = f"See help(course_lib.networks.{name})" if name in NAMES else "Its function has the options"
            raise ValueError(f"Network {name!r}: {error}. {where}.") from None


def _builder(name: str):
    """(num_classes, **options) -> a segmentation network."""
    library, _, model = name.partition(":")
    if library == "timm":
        from course_lib.networks.timm_models import timm_model  # an optional extra

        return partial(timm_model, model)
    if library == "torchvision":
        return partial(torchvision_model, model)
    if ("network", name) in outside.LOADED:
        return partial(adapted, outside.LOADED["network", name].object, name)
    if outside.is_reference(name):
        raise ValueError(outside.not_loaded(name, "network"))
    if name not in NAMES:
        points = outside.entry_point_names("network")
        if name in points:
            raise ValueError(outside.not_loaded(name, "network"))
        _refuse(name, points)
    if name == "efficientnet_lite0":
        from course_lib.networks.efficientnet import efficientnet_lite0 as builder  # its weights are an optional extra

        return builder
    return {
        "deeplab_v2": deeplab_v2, "deeplab_v3plus": deeplab_v3plus, "small": small, "mit": mit, "hrda": hrda,
        "multitask": multitask,
    }[name]  # fmt: skip
