"""The kinds of published weight files, and how to tell them apart by the names of their tensors.

Letters: C classes.

Sources: the names in the files that the authors of AdaptSegNet (Tsai et al. 2018), ProCA (Jiang et al. 2022) and BiDA
(Lee et al. 2022) released, and of the ImageNet and COCO files from which they started.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from course_lib.networks.deeplab import FORMS
from course_lib.networks.weight_file import few

HEAD_KEYS = r"conv2d_list\.[0-3]\.(weight|bias)"


@dataclass(frozen=True)
class Pattern:
    """One kind of published file.

    `form`, `switches`: the `deeplab_v2` that repeats its scores. `main`: the head whose width is C. `unused`: names
    (a regular expression) that the network has no use for. `spelling`: (our prefix, the file's), the first match counts.
    `starts`: empty, or the forms that may begin with this backbone, which then get new heads.
    """

    title: str
    form: str
    switches: Mapping[str, Any] = field(default_factory=dict)
    main: str = "layer5"
    unused: str = r"(?!)"  # nothing
    spelling: tuple[tuple[str, str], ...] = (("", ""),)
    starts: tuple[str, ...] = ()
    note: str = ""

    def in_file(self, name: str) -> str:
        """What the file calls our tensor `name`."""
        ours, theirs = next(pair for pair in self.spelling if name.startswith(pair[0]))
        return theirs + name.removeprefix(ours)

    def ours(self, name: str) -> str:
        """Our name of the file's tensor `name`; a name of another spelling stays as it is, and is then reported as unknown."""
        known = (ours + name.removeprefix(theirs) for ours, theirs in self.spelling if name.startswith(theirs))
        return next((own for own in known if self.in_file(own) == name), name)


_TWO = "the first 2 of 4 ASPP branches are summed, as in the released code; aspp_branches=4 sums all"
MULTI = Pattern("AdaptSegNet, multi-level", "adaptsegnet", {"aspp_branches": 2}, main="layer6", note=_TWO)
SINGLE = Pattern("AdaptSegNet, one level or oracle", "adaptsegnet_single", {"aspp_branches": 2}, note=_TWO)
PROCA = Pattern("ProCA", "proca", spelling=(("layer5.", "classifier."), ("", "feature_extractor.backbone.")))
BIDA = Pattern(
    "BiDA",
    "bida",
    {"domain_stem": True},
    unused=rf"layer6\.{HEAD_KEYS}",  # registered in the released network and never called
    note="source and target pictures have a stem and a layer1 each; scoring takes the target's",
)
IMAGENET = Pattern(
    "an ImageNet start (torchvision)",
    "proca",
    unused=r"fc\.(weight|bias)",
    starts=tuple(name for name, form in FORMS.items() if form.stem == "7x7"),
)
COCO = Pattern(
    "a COCO start",
    "adaptsegnet",
    unused=rf"layer5\.{HEAD_KEYS}",  # its head knows other classes
    spelling=(("", "Scale."),),
    starts=("adaptsegnet", "adaptsegnet_single", "bida"),  # ProCA's strides and images differ
)


def recognise(path: Path, tensors: dict[str, Any]) -> Pattern:
    """Which kind of file has these names; those that are known and of no use here are refused by name."""
    first = {name.split(".")[0] for name in tensors}
    if "feature_extractor" in first:
        return PROCA
    if first == {"Scale"}:
        return COCO
    if any(name.startswith("target_") for name in first):
        return BIDA
    head = width(tensors, "layer5")  # it reads layer3 (1024 channels) or layer4 (2048)
    if "layer6" in first and head is not None and head[1] == 2048:
        raise ValueError(
            f"{path} has BiDA's two heads on layer4, but none of its target_conv1, target_bn1, target_layer1. If source and "
            "target are meant to share the stem, copy conv1, bn1 and layer1 to these names and save it again."
        )
    if "layer6" in first or (head is not None and head[1] == 1024):
        return MULTI
    if "layer5" in first:
        return SINGLE
    if "fc" in first:
        return IMAGENET
    if "features" in first:
        why = "is a VGG-16 network; this library has the ResNet-101 of the papers. Give the authors' ResNet-101 file"
    elif {"conv1.bias", "classifier.weight"} <= set(tensors):
        why = "is a discriminator, not a segmentation network. Give the file without _D1 or _D2 in its name"
    elif {"Proto", "Amount"} <= first:
        why = "holds ProCA's prototypes, not a network. Give its model_*.pth"
    elif {"conv1", "layer4"} <= first:
        why = "is a ResNet without a head: neither layer5 nor ImageNet's fc. Give the whole file"
    else:
        why = (
            f"is none of the published kinds: its names are {few(tensors)}. It wants a release of AdaptSegNet, ProCA, BiDA, "
            "DAFormer, HRDA, MIC, SePiCo, PiPa or CLUDA, or an ImageNet or COCO start; "
            "help(course_lib.networks.load_published) lists the names"
        )
    raise ValueError(f"{path} {why}.")


def width(state: dict[str, Any], head: str) -> tuple[int, int] | None:
    """(classes, channels that it reads) of a head."""
    for name, value in state.items():
        if name.startswith(f"{head}.") and isinstance(value, Tensor) and value.ndim == 4:
            return value.shape[0], value.shape[1]
    return None
