"""Released files of DAFormer, HRDA and MIC: mmsegmentation's names -> our network, without that library.

    model.<name>         the student          ema_model.<name>     the teacher         imnet_model.<name>   the frozen start
    backbone.*           MiT                  decode_head.*        DAFormer's head, or SegFormer's
    decode_head.head.*   the head inside HRDA        decode_head.scale_attention.*    HRDA's attention

A published file has the student alone; one from training has all three, and the optimiser. Files without `model.` hold one
network. What is left over is named, what is missing or unknown is an error: no layer is left at random.

Source: the names in the public code (github.com/lhoyer/DAFormer, /HRDA, /MIC); no file was opened for this.
"""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from course_lib.networks.hrda import hrda
from course_lib.networks.mit import SIZES, mit
from course_lib.networks.prediction import Segmenter
from course_lib.networks.weight_file import copies, few, misfit

Which = Literal["student", "teacher"]
PREFIX = {"student": "model.", "teacher": "ema_model."}
OTHERS = ("model.", "ema_model.", "imnet_model.", "mic.")  # networks beside each other in a file of a training
HRDA = (("segmenter.backbone.", "backbone."), ("segmenter.decode_head.", "decode_head.head."),
        ("attention.", "decode_head.scale_attention."))  # fmt: skip
ONE = (("", ""),)
COUNTER = ".num_batches_tracked"
UNUSED = {"segformer": r"decode_head\.conv_seg\.(weight|bias)"}  # registered in the released head and never called


class Found(NamedTuple):
    """A network with a file's weights, and what to report."""

    network: Segmenter
    title: str
    call: str  # that builds it without the weights
    loaded: int
    missing: tuple[str, ...]  # counters
    left_over: tuple[str, ...]


def is_of_mmseg(tensors: dict[str, Any]) -> bool:
    """Whether names are those of an encoder MiT with a head in mmsegmentation."""
    return any(re.fullmatch(r"((ema_|imnet_)?model\.)?backbone\.patch_embed1\.proj\.weight", name) for name in tensors)


def load(path: Path, tensors: dict[str, Any], num_classes: int | None, which: Which) -> Found:
    """The network of a file; `which` of its networks. Raises ValueError as `published.load_published`."""
    state, left_over = _chosen(path, tensors, which)
    size, head = _size(path, state), _head(path, state)
    classes = _classes(path, state, head, num_classes)
    two = head == "hrda"
    options = {"size": size} | ({"head": head} if head == "segformer" else {})
    options = {"of": "mit", **options, "window": 1024} if two else options
    with torch.device("meta"):
        network = hrda(classes, **options) if two else mit(classes, **options)
    spelling, prefix = HRDA if two else ONE, PREFIX[which] if any(name.startswith(PREFIX[which]) for name in tensors) else ""
    unused = [name for name in state if re.fullmatch(UNUSED.get(head, r"(?!)"), name)]
    state = {name: value for name, value in state.items() if name not in unused}

    own = network.state_dict()
    wanted = {_in_file(name, spelling): value for name, value in own.items() if name not in ("key", "draws")}
    missing = [name for name in wanted if name not in state]
    counters = tuple(prefix + name for name in missing if name.endswith(COUNTER))
    problems = {name: misfit(value, wanted[name]) for name, value in state.items() if name in wanted}
    lists = {
        "missing": [prefix + name for name in missing if not name.endswith(COUNTER)],
        "unknown": [prefix + name for name in state if name not in wanted],
        "unfit": [f"{prefix}{name} ({why})" for name, why in problems.items() if why],
    }
    title = f"{_title(head)} (MiT-{size.upper()}), the {which}"
    if any(lists.values()):
        found = "; ".join(f"{len(names)} {what}: {few(names)}" for what, names in lists.items() if names)
        raise ValueError(
            f"{path} looks like {title}, but {found}. No layer is left at random, so nothing is loaded. Fetch the whole file "
            "from its authors, or rename what it calls differently."
        )
    weights = {name: state.get(_in_file(name, spelling), torch.zeros((), dtype=torch.long)) for name in own}
    network.load_state_dict(copies({name: value.detach().to(own[name].dtype) for name, value in weights.items()}), assign=True)
    arguments = "".join(f", {key}={value!r}" for key, value in options.items())
    return Found(
        network, title, f"{'hrda' if two else 'mit'}({classes}{arguments})", len(state), counters,
        (*(prefix + name for name in unused), *left_over),
    )  # fmt: skip


def _chosen(path: Path, tensors: dict[str, Any], which: Which) -> tuple[dict[str, Any], list[str]]:
    """The tensors of one network, without its prefix, and the names of the others."""
    if which not in PREFIX:
        raise ValueError(f"which is {which!r}; it wants one of {', '.join(map(repr, PREFIX))}.")
    prefixed = [name for name in tensors if name.startswith(OTHERS)]
    if not prefixed:
        if which == "teacher":
            raise ValueError(f"{path} holds one network, without model. or ema_model. before its names. Leave `which` out.")
        return dict(tensors), []
    prefix = PREFIX[which]
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not state:
        there = sorted({name.split(".")[0] for name in prefixed})
        raise ValueError(f"{path} has no {which} ({prefix}*), but {', '.join(there)}. Published files hold the student alone.")
    return state, [name for name in tensors if not name.startswith(prefix)]


def _size(path: Path, state: dict[str, Any]) -> str:
    blocks = tuple(
        len({match[1] for name in state if (match := re.match(rf"backbone\.block{k}\.(\d+)\.", name))}) for k in range(1, 5)
    )
    width = getattr(state.get("backbone.patch_embed1.proj.weight"), "shape", (0,))[0]
    for name, size in SIZES.items():
        if (size.blocks, size.widths[0]) == (blocks, width):
            return name
    known = "; ".join(f"{name} {size.blocks}" for name, size in SIZES.items())
    raise ValueError(f"{path} holds an encoder MiT of {blocks} blocks, {width} wide at first; this library has {known}.")


def _head(path: Path, state: dict[str, Any]) -> str:
    for head, name in (("hrda", "decode_head.head.conv_seg.weight"), ("segformer", "decode_head.linear_pred.weight"),
                       ("daformer", "decode_head.conv_seg.weight")):  # fmt: skip
        if name in state:
            return head
    heads = [name for name in state if not name.startswith("backbone.")]
    raise ValueError(
        f"{path} holds an encoder MiT without a head that is known ({few(heads) if heads else 'no other names'}). As the start "
        "of a training: --set network=mit --set \"network_options={'imagenet': 'FILE'}\"."
    )


def _classes(path: Path, state: dict[str, Any], head: str, wanted: int | None) -> int:
    last = {"hrda": "decode_head.head.conv_seg", "segformer": "decode_head.linear_pred"}.get(head, "decode_head.conv_seg")
    shape = getattr(state[f"{last}.weight"], "shape", ())
    if len(shape) != 4:
        raise ValueError(f"{path}: {last}.weight is {tuple(shape)}; wanted (classes, channels, 1, 1). Fetch the whole file.")
    if wanted not in (None, shape[0]):
        raise ValueError(f"{path} has {shape[0]} classes; num_classes is {wanted}. Leave num_classes out.")
    return shape[0]


def _title(head: str) -> str:
    return {"hrda": "HRDA, or MIC on HRDA", "daformer": "DAFormer, or MIC on it", "segformer": "SegFormer"}[head]


def _in_file(name: str, spelling: tuple[tuple[str, str], ...]) -> str:
    ours, theirs = next(pair for pair in spelling if name.startswith(pair[0]) or name in ("key", "draws"))
    return theirs + name.removeprefix(ours)
