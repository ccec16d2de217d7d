"""Published weights: which release a file is, the network that fits it, and what the file did not hold.

Letters: C classes.

    file -> names and tensors -> pattern -> deeplab_v2(C, form) without memory -> every tensor from the file

The network is built on torch's "meta" device, where weights have a shape and no values. A layer that nothing fills
therefore cannot exist: it is an error, or it is a head of a start file, initialised at random and named in the report.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.networks import mmseg_files
from course_lib.networks.deeplab import ASPP, deeplab_v2
from course_lib.networks.patterns import IMAGENET, Pattern, recognise, width
from course_lib.networks.prediction import Segmenter
from course_lib.networks.resnet import DEPTHS
from course_lib.networks.resnet_starts import start_state
from course_lib.networks.weight_file import COUNTER, copies, few, listed, misfit, read_tensors
from course_lib.terminal import shown

HEADS = ("layer5", "layer6")


@dataclass(frozen=True)
class Report:
    """What a published file was and what became of its tensors; `print` it. Names are the file's, fresh ones ours."""

    file: str
    pattern: str
    network: str  # the call that builds the same network without the weights
    normalisation: str  # of the images that it wants
    loaded: int  # tensors from the file
    missing: tuple[str, ...]  # counters, nothing else
    fresh: tuple[str, ...]  # drawn at random: the heads of a start file
    left_over: tuple[str, ...]
    seed: int
    note: str = ""
    test_size: tuple[int, int] | None = None  # (height, width) of images in its authors' test; None: as in their paper's recipe

    def __str__(self) -> str:
        fresh = ", ".join(sorted({name.split(".")[0] for name in self.fresh}))
        lines = [
            f"{shown(self.file)}: {self.pattern}",
            f"  network    {self.network}, images in the convention {self.normalisation!r}",
            f"  loaded     {self.loaded} tensors",
            f"  missing    {few(self.missing)} (counters, start at 0)" if self.missing else "  missing    nothing",
            f"  random     {fresh} ({len(self.fresh)} tensors, seed {self.seed}): train before use"
            if fresh
            else "  random     nothing",
            f"  left over  {few(self.left_over) if self.left_over else 'nothing'}",
        ]
        return "\n".join(lines + [f"  note       {self.note}"] * bool(self.note))


class Published(NamedTuple):
    """`network, report = load_published(path)`."""

    network: Segmenter
    report: Report


def load_published(
    path: str | Path,
    num_classes: int | None = None,
    form: str | None = None,
    seed: int = 0,
    blocks: tuple[int, int, int, int] = DEPTHS[101],
    which: mmseg_files.Which = "student",
    **switches,
) -> Published:
    """Read a released file, or a start file, into the network that fits it.

    Recognised by its tensors' names, whatever the file is called, with or without `module.` before every name and
    inside one entry such as "state_dict":

        AdaptSegNet multi-level   layer5 on layer3, layer6 on layer4          two ASPP branches summed, as released
        AdaptSegNet one level     layer5 on layer4; the oracle too            two ASPP branches summed, as released
        ProCA                     entries feature_extractor and classifier
        BiDA                      target_conv1, target_bn1, target_layer1     layer6 is left over
        DAFormer, MIC on it       model.backbone.patch_embed1, model.decode_head.conv_seg        ema_ and imnet_ are left over
        HRDA, MIC on HRDA         likewise, model.decode_head.head and .scale_attention
        SePiCo                    DAFormer's, or backbone.stem of DeepLabV2   auxiliary_head is left over
        PiPa                      DAFormer's or HRDA's      cls_head, proj_head, project and classifier are left over
        CLUDA                     HRDA's                                      decode_head.feat_weighter is left over
        SegFormer                 backbone.patch_embed1, decode_head.linear_pred
        ImageNet start            fc                                          fc is left over, heads are drawn
        COCO start                Scale. before every name                    its layer5 is left over, heads are drawn

    Args:
        num_classes: C; needed for a start file, otherwise the file's own, which it must then equal.
        form: of `deeplab_v2`, for a start file only; default "proca" for ImageNet, "adaptsegnet" for COCO.
        seed: of heads that are drawn; torch's own random state stays as it was.
        blocks: of ResNet-101; another depth is an error unless it is asked for.
        which: of a file from a training with mmsegmentation (DAFormer and later), the "student" (published and scored) or the
            "teacher".
        switches: single details against those of the release, e.g. `aspp_branches=4`; see `DeepLabForm`.

    Raises:
        FileNotFoundError: where nothing is there.
        ValueError: naming the file and the tensors, for one that cannot be read, is of none of these kinds, holds a name
            that its kind does not have, lacks one, or holds another shape or a number that is not finite.

    >>> load_published("GTA2Cityscapes_multi-ed35151c.pth")
    Traceback (most recent call last):
    FileNotFoundError: There is no file GTA2Cityscapes_multi-ed35151c.pth. ...
    """
    path = Path(path)
    tensors, beside = read_tensors(path)
    if mmseg_files.is_of_mmseg(tensors):
        found = mmseg_files.load(path, tensors, num_classes, which, form, blocks, switches)
        return _of_mmseg(path, found, beside, seed)
    pattern = recognise(path, tensors)
    state = {pattern.ours(name): value for name, value in tensors.items()}
    spelt = {pattern.ours(name): name for name in tensors}
    form = _form(path, pattern, form)
    classes = _classes(path, pattern, state, num_classes)
    left_over = [name for name in state if re.fullmatch(pattern.unused, name)]
    for name in left_over:
        del state[name]

    switches = {**pattern.switches, **switches}
    with torch.device("meta"):
        network = deeplab_v2(classes, form, blocks=blocks, **switches)
    drawn = [name for name in HEADS if pattern.starts and hasattr(network, name)]
    own = network.state_dict()
    begins = tuple(f"{name}." for name in drawn) + (("target_",) if pattern.starts else ())  # not the file's to fill
    wanted = {name: value for name, value in own.items() if not (begins and name.startswith(begins))}
    missing = [name for name in wanted if name not in state and name.endswith(COUNTER)]
    loaded = len(state)
    state = _fit(path, pattern, state, spelt, wanted, blocks) | {name: torch.zeros((), dtype=torch.long) for name in missing}
    if pattern.starts:
        state = start_state(state, network.form, "imagenet" if pattern is IMAGENET else "caffe_bgr")
    fresh = _draw(network, drawn, seed)
    network.load_state_dict(copies(state | fresh), strict=True, assign=True)

    options = "".join(f", {name}={value!r}" for name, value in switches.items())
    report = Report(
        file=path.name,
        pattern=pattern.title,
        network=f"deeplab_v2({classes}, {form!r}{options})",
        normalisation=network.normalisation,
        loaded=loaded,
        missing=tuple(map(pattern.in_file, missing)),
        fresh=tuple(fresh),
        left_over=(*(spelt[name] for name in left_over), *beside),
        seed=seed,
        note=pattern.note if all(getattr(network.form, k) == v for k, v in pattern.switches.items()) else "",
    )
    return Published(network, report)


def _of_mmseg(path: Path, found: mmseg_files.Found, beside: list[str], seed: int) -> Published:
    report = Report(
        file=path.name, pattern=found.title, network=found.call, normalisation=found.network.normalisation, loaded=found.loaded,
        missing=found.missing, fresh=(), left_over=(*found.left_over, *beside), seed=seed, note=found.note,
        test_size=found.test_size,
    )  # fmt: skip
    return Published(found.network, report)


def _form(path: Path, pattern: Pattern, form: str | None) -> str:
    if form is None or form == pattern.form:
        return pattern.form
    if not pattern.starts:
        raise ValueError(f"{path} is {pattern.title}, whose form is {pattern.form!r}, not {form!r}. Leave `form` out.")
    if form not in pattern.starts:
        allowed = ", ".join(map(repr, pattern.starts))
        raise ValueError(f"{path} is {pattern.title}; form is {form!r}, it wants one of {allowed}.")
    return form


def _classes(path: Path, pattern: Pattern, state: dict[str, Any], wanted: int | None) -> int:
    """C: asked for with a start file, read from the classifier's shape elsewhere."""
    if pattern.starts:
        if wanted is None:
            raise ValueError(
                f"{path} is {pattern.title}: it has no classifier for your classes. Give num_classes, for example 19."
            )
        return wanted
    shape = width(state, pattern.main)
    if shape is None:
        name = pattern.in_file(f"{pattern.main}.conv2d_list.0.weight")
        raise ValueError(f"{path} looks like {pattern.title}, but has no classifier ({name} ...). Fetch the whole file.")
    if wanted not in (None, shape[0]):
        raise ValueError(f"{path} has {shape[0]} classes; num_classes is {wanted}. Leave num_classes out.")
    return shape[0]


def _fit(
    path: Path,
    pattern: Pattern,
    state: dict[str, Any],
    spelt: dict[str, str],
    wanted: dict[str, Tensor],
    blocks: tuple[int, ...],
) -> dict[str, Tensor]:
    """The file's tensors in the network's type, after all of them have been found to be there and to fit."""
    problems = {name: misfit(value, wanted[name]) for name, value in state.items() if name in wanted}
    lists = {
        "missing": [pattern.in_file(name) for name in wanted if name not in state and not name.endswith(COUNTER)],
        "unknown": [spelt[name] for name in state if name not in wanted],
        "unfit": [f"{spelt[name]} ({why})" for name, why in problems.items() if why],
    }
    if found := listed(lists):
        depth = tuple(len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
        advice = "Fetch the whole file from its authors, or rename what it calls differently"
        if depth != tuple(blocks):
            advice = f"Its layers have {depth} blocks, wanted {tuple(blocks)}: pass blocks={depth} if that depth is meant"
        raise ValueError(
            f"{path} looks like {pattern.title}, but {found}. No layer is left at random, so nothing is loaded. {advice}."
        )
    return {name: value.detach().to(wanted[name].dtype) for name, value in state.items()}


def _draw(network: nn.Module, heads: Iterable[str], seed: int) -> dict[str, Tensor]:
    """New weights for these heads."""
    fresh = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for head in heads:
            blank = getattr(network, head)
            drawn = ASPP(blank.conv2d_list[0].in_channels, network.num_classes, blank.summed)
            fresh |= {f"{head}.{name}": value for name, value in drawn.state_dict().items()}
    return fresh
