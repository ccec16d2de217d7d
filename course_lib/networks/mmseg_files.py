"""Released files of DAFormer, HRDA, MIC, SePiCo, PiPa and CLUDA: mmsegmentation's names -> our network, without that library.

    model.<name>         the student          ema_model.<name>     the teacher         imnet_model.<name>   the frozen start
    backbone.*           MiT, or the ResNet of DeepLabV2           decode_head.*       DAFormer's head, SegFormer's, DeepLabV2's
    decode_head.head.*   the head inside HRDA        decode_head.scale_attention.*    HRDA's attention
    auxiliary_head.*     SePiCo        cls_head.*, proj_head.*, project.*, classifier.*     PiPa
    decode_head.feat_weighter.*        CLUDA: heads for the loss of the training

A published file has the student alone; one from training has all three, and the optimiser. Files without `model.` hold one
network. What is left over is named, what is missing or unknown is an error: no layer is left at random. Heads for the loss are
left over; one that is there in part is an error, too.

Source: the names in the public code (github.com/lhoyer/DAFormer, /HRDA, /MIC; BIT-DA/SePiCo; chen742/PiPa; user0407/CLUDA); no
file was opened for this.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from course_lib.networks.deeplab import RATES, deeplab_v2
from course_lib.networks.hrda import hrda
from course_lib.networks.mit import SIZES, mit
from course_lib.networks.prediction import Segmenter
from course_lib.networks.resnet import DEPTHS
from course_lib.networks.weight_file import COUNTER, copies, few, listed, misfit

Which = Literal["student", "teacher"]
PREFIX = {"student": "model.", "teacher": "ema_model."}
OTHERS = ("model.", "ema_model.", "imnet_model.", "mic.")  # networks beside each other in a file of a training
UNUSED = {"segformer": r"decode_head\.conv_seg\.(weight|bias)"}  # registered in the released head and never called

SPELLING = {  # (ours, the file's) beginning of a name, by kind of network
    "mit": (("", ""),),
    "hrda": (("segmenter.backbone.", "backbone."), ("segmenter.decode_head.", "decode_head.head."),
             ("attention.", "decode_head.scale_attention.")),
    "deeplab": (*((f"layer5.conv2d_list.{i}.", f"decode_head.aspp_modules.{i}.conv.") for i in range(len(RATES))),
                ("", "backbone.")),
}  # fmt: skip
LAST = {  # the layer that gives the logits, by kind of head; in this order a file is looked through
    "hrda": "decode_head.head.conv_seg",
    "segformer": "decode_head.linear_pred",
    "deeplab": "decode_head.aspp_modules.0.conv",
    "daformer": "decode_head.conv_seg",
}
TITLE = {
    "hrda": "HRDA, or MIC on HRDA",
    "segformer": "SegFormer",
    "deeplab": "DeepLabV2 of mmsegmentation",
    "daformer": "DAFormer, or MIC on it",
}

# ---- heads for the loss of a training

W, AFFINE = ("weight",), ("weight", "bias")
BN = (*AFFINE, "running_mean", "running_var", "num_batches_tracked")


def _names(layers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(f"{layer}.{part}" for layer, parts in layers.items() for part in parts)


class Training(NamedTuple):
    """What a method's training adds to a network: heads that scoring does not read."""

    titles: dict[str, str]  # of the file, by kind of the network's head: those on which the method was released
    inside: tuple[str, ...]  # names in the network
    beside: tuple[str, ...]  # names beside it: without model.
    sizes: dict[str, tuple[int, int]]  # (height, width) of the authors' test, by kind of head
    options: Mapping[str, Any] = {}  # of the network, beside those of the plain one


FEAT_WEIGHTER = {f"decode_head.feat_weighter.embed_layers.{k}.proj": AFFINE for k in range(4)} | {
    "decode_head.feat_weighter.conv_seg": AFFINE,
    "decode_head.feat_weighter.fuse_layer.conv": W,
    "decode_head.feat_weighter.fuse_layer.bn": BN,
}
TRAININGS = (
    Training(
        {"daformer": "SePiCo, DAFormer's network", "deeplab": "SePiCo, DeepLabV2"},
        _names({f"auxiliary_head.convs.{i}.{part}": names for i in (0, 1) for part, names in (("conv", W), ("bn", BN))}),
        (),
        {"daformer": (640, 1280), "deeplab": (640, 1280)},
    ),
    Training(
        {"daformer": "PiPa on DAFormer", "hrda": "PiPa on HRDA"},
        _names({"cls_head.0": AFFINE, "cls_head.1.0": BN, "cls_head.3": W, "proj_head.proj.0": AFFINE,
                "proj_head.proj.1.0": BN, "proj_head.proj.2": AFFINE}),
        _names({"project.0": AFFINE, "project.2": AFFINE, "classifier": AFFINE}),
        {"daformer": (640, 1280), "hrda": (1024, 2048)},
    ),
    Training(
        {"hrda": "CLUDA on HRDA"}, _names(FEAT_WEIGHTER), (), {"hrda": (1024, 2048)}, {"upsample_first": True},
    ),
)  # fmt: skip


class Found(NamedTuple):
    """A network with a file's weights, and what to report."""

    network: Segmenter
    title: str
    call: str  # that builds it without the weights
    loaded: int
    missing: tuple[str, ...]  # counters
    left_over: tuple[str, ...]
    note: str
    test_size: tuple[int, int] | None


def is_of_mmseg(tensors: dict[str, Any]) -> bool:
    """Whether names are those of an encoder MiT, or of a ResNet-V1c, with a head in mmsegmentation."""
    pattern = r"((ema_|imnet_)?model\.)?backbone\.(patch_embed1\.proj|stem\.0)\.weight"
    return any(re.fullmatch(pattern, name) for name in tensors)


def load(
    path: Path,
    tensors: dict[str, Any],
    num_classes: int | None = None,
    which: Which = "student",
    form: str | None = None,
    blocks: tuple[int, ...] = DEPTHS[101],
    switches: Mapping[str, Any] | None = None,
) -> Found:
    """The network of a file; `which` of its networks. `form`, `blocks` and `switches` are DeepLabV2's.

    Raises ValueError as `published.load_published`.
    """
    prefix = _prefix(path, tensors, which)
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    head = _head(path, state)
    training = _training(tensors, prefix, head)
    title = training.titles[head] if training else TITLE[head]
    extra = training.options if training else {}
    network, call, encoder = _blank(path, state, head, title, num_classes, form, blocks, switches or {}, extra)
    spelling = SPELLING.get(head, SPELLING["mit"])

    own = network.state_dict()
    wanted = {prefix + _in_file(name, spelling): value for name, value in own.items() if name not in ("key", "draws")}
    missing = [name for name in wanted if name not in tensors]
    others = [name for name in tensors if name not in wanted]
    left_over = _left_over(others, training, prefix, head)
    problems = {name: misfit(tensors[name], value) for name, value in wanted.items() if name in tensors}
    lists = {
        "missing": [name for name in missing if not name.endswith(COUNTER)] + _lacking(tensors, training, prefix),
        "unknown": [name for name in others if name not in left_over],
        "unfit": [f"{name} ({why})" for name, why in problems.items() if why],
    }
    title = f"{title} ({encoder}), the {which}"
    if found := listed(lists):
        raise ValueError(
            f"{path} looks like {title}, but {found}. No layer is left at random, so nothing is loaded. Fetch the whole file "
            "from its authors, or rename what it calls differently."
        )
    zero = torch.zeros((), dtype=torch.long)  # a counter that the file does not have
    weights = {name: tensors.get(prefix + _in_file(name, spelling), zero) for name in own}
    network.load_state_dict(copies({name: value.detach().to(own[name].dtype) for name, value in weights.items()}), assign=True)
    return Found(
        network, title, call, len(problems), tuple(name for name in missing if name.endswith(COUNTER)), tuple(left_over),
        _note(training, left_over, prefix), training.sizes[head] if training else None,
    )  # fmt: skip


def _prefix(path: Path, tensors: dict[str, Any], which: Which) -> str:
    """What stands before the names of the network that is wanted."""
    if which not in PREFIX:
        raise ValueError(f"which is {which!r}; it wants one of {', '.join(map(repr, PREFIX))}.")
    prefixed = [name for name in tensors if name.startswith(OTHERS)]
    if not prefixed:
        if which == "teacher":
            raise ValueError(f"{path} holds one network, without model. or ema_model. before its names. Leave `which` out.")
        return ""
    if not any(name.startswith(PREFIX[which]) for name in prefixed):
        there = sorted({name.split(".")[0] for name in prefixed})
        raise ValueError(
            f"{path} has no {which} ({PREFIX[which]}*), but {', '.join(there)}. Published files hold the student alone."
        )
    return PREFIX[which]


# ---- the network


def _blank(
    path: Path, state: dict[str, Any], head: str, title: str, num_classes: int | None, form: str | None,
    blocks: tuple[int, ...], switches: Mapping[str, Any], extra: Mapping[str, Any],
) -> tuple[Segmenter, str, str]:  # fmt: skip
    """The network without weights, the call that builds it, and what its encoder is."""
    if head == "deeplab":
        if form not in (None, "sepico"):
            raise ValueError(f"{path} is {title}, whose form is 'sepico', not {form!r}. Leave `form` out.")
        _check_depth(path, state, blocks)
        build, fixed, given, options = deeplab_v2, ("sepico",), {"blocks": tuple(blocks)}, dict(switches)
        encoder = "ResNet-101" if tuple(blocks) == DEPTHS[101] else f"ResNet of {tuple(blocks)} blocks"
    else:
        if form is not None or switches:
            given = ", ".join([*(["form"] if form is not None else []), *switches])
            raise ValueError(f"{path} is {title}: {given} is of DeepLabV2 alone. Leave it out.")
        size = _size(path, state)
        build, encoder, fixed, given = mit, f"MiT-{size.upper()}", (), {}
        options = {"size": size} | ({"head": head} if head == "segformer" else {})
        if head == "hrda":
            build, options = hrda, {"of": "mit", **options, "window": 1024, **extra}
    classes = _classes(path, state, head, num_classes)
    with torch.device("meta"):
        network = build(classes, *fixed, **given, **options)
    arguments = ", ".join([str(classes), *map(repr, fixed), *(f"{key}={value!r}" for key, value in options.items())])
    return network, f"{build.__name__}({arguments})", encoder


def _size(path: Path, state: dict[str, Any]) -> str:
    blocks = _depth(state, "block")
    width = getattr(state.get("backbone.patch_embed1.proj.weight"), "shape", (0,))[0]
    for name, size in SIZES.items():
        if (size.blocks, size.widths[0]) == (blocks, width):
            return name
    known = "; ".join(f"{name} {size.blocks}" for name, size in SIZES.items())
    raise ValueError(f"{path} holds an encoder MiT of {blocks} blocks, {width} wide at first; this library has {known}.")


def _check_depth(path: Path, state: dict[str, Any], blocks: tuple[int, ...]) -> None:
    depth = _depth(state, "layer")
    if depth != tuple(blocks):
        raise ValueError(
            f"{path} holds a ResNet of {depth} blocks, wanted {tuple(blocks)}. Fetch the whole file from its authors, or pass "
            f"blocks={depth} if that depth is meant."
        )


def _depth(state: dict[str, Any], layer: str) -> tuple[int, ...]:
    """The number of blocks in each of the encoder's four layers."""
    return tuple(
        len({match[1] for name in state if (match := re.match(rf"backbone\.{layer}{k}\.(\d+)\.", name))}) for k in range(1, 5)
    )


def _head(path: Path, state: dict[str, Any]) -> str:
    """The kind of the head, one of `LAST`."""
    transformer = "backbone.patch_embed1.proj.weight" in state
    for head, layer in LAST.items():
        if f"{layer}.weight" in state and transformer == (head != "deeplab"):
            return head
    others = [name for name in state if not name.startswith("backbone.")]
    start = 'mit --set "network_options={\'imagenet\': \'FILE\'}"'
    if not transformer:
        start = "deeplab_v2 --set \"network_options={'form': 'sepico', 'imagenet': 'FILE'}\""
    raise ValueError(
        f"{path} holds an encoder {'MiT' if transformer else 'ResNet'} without a head that is known "
        f"({few(others) if others else 'no other names'}). As the start of a training: --set network={start}."
    )


def _classes(path: Path, state: dict[str, Any], head: str, wanted: int | None) -> int:
    name = f"{LAST[head]}.weight"
    shape = getattr(state[name], "shape", ())
    if len(shape) != 4:
        raise ValueError(f"{path}: {name} is {tuple(shape)}; wanted (classes, channels, height, width). Fetch the whole file.")
    if wanted not in (None, shape[0]):
        raise ValueError(f"{path} has {shape[0]} classes; num_classes is {wanted}. Leave num_classes out.")
    return shape[0]


def _in_file(name: str, spelling: tuple[tuple[str, str], ...]) -> str:
    ours, theirs = next(pair for pair in spelling if name.startswith(pair[0]) or name in ("key", "draws"))
    return theirs + name.removeprefix(ours)


# ---- what a training adds


def _training(tensors: dict[str, Any], prefix: str, head: str) -> Training | None:
    """The method whose heads are beside this network; None: a plain network."""
    for training in TRAININGS:
        if head in training.titles and any(name in tensors for name in (*_inside(training, prefix), *training.beside)):
            return training
    return None


def _inside(training: Training, prefix: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in training.inside)


def _left_over(names: list[str], training: Training | None, prefix: str, head: str) -> dict[str, None]:
    """Those of the names that have no place in the network and are known."""
    aside = {*_inside(training, prefix), *training.beside} if training else set()
    networks = tuple(other for other in OTHERS if other != prefix) if prefix else ()
    unused = UNUSED.get(head, r"(?!)")
    known = (
        name for name in names
        if name in aside or name.startswith(networks) or re.fullmatch(unused, name.removeprefix(prefix))
    )  # fmt: skip
    return dict.fromkeys(known)


def _lacking(tensors: dict[str, Any], training: Training | None, prefix: str) -> list[str]:
    """Names of heads that are there in part; counters do not count."""
    groups = (_inside(training, prefix), training.beside) if training else ()
    there = [group for group in groups if any(name in tensors for name in group)]
    return [name for group in there for name in group if name not in tensors and not name.endswith(COUNTER)]


def _note(training: Training | None, left_over: Mapping[str, None], prefix: str) -> str:
    if training is None:
        return ""
    names = [name.removeprefix(prefix) for name in (*_inside(training, prefix), *training.beside) if name in left_over]
    heads = dict.fromkeys(".".join(name.split(".")[: 2 if name.startswith("decode_head.") else 1]) for name in names)
    return f"{', '.join(heads)}: for the loss of the training alone, so left over"
