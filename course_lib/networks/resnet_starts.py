"""The files from which a ResNet's backbone starts: ImageNet's, and those of networks that have been trained on COCO."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.networks.resnet import DEPTHS, ResNetForm, ResNetSegmenter
from course_lib.networks.sync import synchronised
from course_lib.networks.weight_file import COUNTER

IMAGENET_STD = (0.229, 0.224, 0.225)  # R, G, B of images in 0..1: what torchvision's weights were trained with


def start(network: ResNetSegmenter, imagenet: bool | str | Path) -> None:
    """The new network's backbone gets torchvision's weights (True) or those of a file; its normalisation what the form says."""
    if imagenet:
        load_imagenet(network, None if imagenet is True else imagenet)
    if network.form.bn == "sync":
        synchronised(network)


class Start(NamedTuple):
    """A kind of file from which a backbone may start."""

    prefix: str  # before the names of the backbone
    heads: tuple[str, ...]  # beginnings of names: of other classes, left out
    convention: str  # of the images that it has seen


STARTS = (
    Start("Scale.", ("Scale.layer5.",), "caffe_bgr"),  # COCO: what AdaptSegNet's authors start from
    Start("backbone.", ("classifier.", "aux_classifier."), "imagenet"),  # COCO: torchvision's deeplabv3 and fcn
    Start("", ("layer5.",), "caffe_bgr"),  # COCO: resnet101COCO-41f33a49.pth, from which ClassMix, DACS, GIST and others start
    Start("", ("fc.",), "imagenet"),  # ImageNet: torchvision's resnet, mmsegmentation's resnet_v1c
)


def load_imagenet(network: ResNetSegmenter, path: str | Path | None = None) -> None:
    """Start the backbone from torchvision's ImageNet ResNet, or from a file of one of the kinds of `STARTS`; heads stay.

    ImageNet's weights expect (RGB / 255 - mean) / std, the authors' COCO files "caffe_bgr" images; `start_state` rewrites the
    stem of a network that sees others. Raises FileNotFoundError, or ValueError for a file that is no ResNet of this depth.
    """
    depth = next((depth for depth, blocks in DEPTHS.items() if blocks == network.blocks), None)
    deep, name = network.form.stem == "3x3", f"resnet{depth or 101}"
    state = _of_torchvision(network, depth) if path is None else _of_file(Path(path), name)
    first = f"{_first(network.form)[0]}.weight"
    start = next((start for start in STARTS if _is(start, state, first)), STARTS[-1])
    state = {name.removeprefix(start.prefix): value for name, value in state.items() if not name.startswith(start.heads)}
    if first in state:  # else the check below says what it is not
        state = start_state(state, network.form, start.convention)

    own = {name: value for name, value in network.state_dict().items() if not name.startswith(network.heads)}
    missing = [name for name in own if name not in state and not name.endswith(COUNTER)]
    surplus = [name for name in state if name not in own]
    misshapen = [name for name in state if name in own and state[name].shape != own[name].shape]
    if wrong := missing + surplus + misshapen:
        others = "torchvision's deeplabv3 on COCO, or AdaptSegNet's start"
        raise ValueError(
            f"The ImageNet file does not fit this ResNet: {len(missing)} tensors missing, {len(surplus)} too many, "
            f"{len(misshapen)} of another shape, the first is {wrong[0]}. Give "
            + (f"mmsegmentation's {name}_v1c file." if deep else f"torchvision's {name} file, {others}.")
        )
    network.load_state_dict(state, strict=False)


def _is(start: Start, state: dict[str, Any], first: str) -> bool:
    """first: the name of the first convolution.

    Two kinds have names without a prefix. That of COCO has another head than ImageNet's, or none, and was saved before batch
    norm counted its batches (torch 0.4.1).
    """
    if start.prefix + first not in state:
        return False
    if start.prefix or start.convention == "imagenet":
        return True
    if any(name.startswith(start.heads) for name in state):
        return True
    return not any(name.startswith("fc.") or name.endswith(COUNTER) for name in state)


def _of_torchvision(network: ResNetSegmenter, depth: int | None) -> dict[str, Tensor]:
    if network.form.stem == "3x3":
        raise ValueError(
            "torchvision has no ImageNet weights for a stem of three convolutions (stem='3x3'). Give the path of "
            "mmsegmentation's file (resnet101_v1c-*.pth)."
        )
    if depth is None:
        raise ValueError(
            f"torchvision has no ImageNet weights for a ResNet of {network.blocks} blocks; it has those of depth "
            f"{' and '.join(map(str, DEPTHS))}. Give the path of a file, or imagenet=False."
        )
    from torchvision.models import get_model_weights

    return get_model_weights(f"resnet{depth}").IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)


def _of_file(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"No ImageNet file at {path}. Give torchvision's {name} file ({name}-*.pth), AdaptSegNet's start "
            "(DeepLab_resnet_pretrained_init-*.pth), or imagenet=True to let torchvision download its own."
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def start_state(state: dict[str, Tensor], form: ResNetForm, convention: str) -> dict[str, Tensor]:
    """A backbone's weights, learnt on images of one `convention`, as the start of a network of this form.

    From "imagenet" to "caffe_bgr", BGR in 0..255 without std, the stem is rewritten: channels reversed,
    w'_c = w_c s / std_c with s the mean of std, and the statistics of bn1 times 255 s. The stem's output after bn1 is
    then the same but for the two conventions' means (0.02 std apart at most), and the weights keep their size, hence
    their learning rate. Where the form has two stems, both start alike.
    """
    state = dict(state)
    if (convention, form.normalisation) == ("caffe_bgr", "imagenet"):
        raise ValueError(
            "These weights were trained on 'caffe_bgr' images; this network has normalisation='imagenet'. Give it "
            "normalisation='caffe_bgr', or start from torchvision's file."
        )
    if convention != form.normalisation:
        std = torch.tensor(IMAGENET_STD)
        scale = 255 * std.mean()
        conv1, bn1 = _first(form)
        state[f"{conv1}.weight"] = (state[f"{conv1}.weight"] * (std.mean() / std).view(1, 3, 1, 1)).flip(1)
        state[f"{bn1}.running_mean"] = state[f"{bn1}.running_mean"] * scale
        state[f"{bn1}.running_var"] = state[f"{bn1}.running_var"] * scale**2
    if form.domain_stem:
        state |= {f"target_{n}": v for n, v in state.items() if n.startswith(("conv1.", "bn1.", "stem.", "layer1."))}
    return state


def _first(form: ResNetForm) -> tuple[str, str]:
    """The names of the first convolution and of its normalisation."""
    return ("stem.0", "stem.1") if form.stem == "3x3" else ("conv1", "bn1")
