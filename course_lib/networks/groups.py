"""Which weights learn how fast."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)  # _NormBase: batch and instance normalisation


def parameter_groups(
    network: nn.Module,
    lr: float,
    head_factor: float = 10.0,  # DeepLab, and the code of AdaptSegNet, ProCA and BiDA
    backbone_factor: float = 1.0,
    weight_decay: float = 5e-4,  # the code of AdaptSegNet, ProCA and BiDA
    published_duplicates: bool = False,
    norm_decay: bool = True,
) -> list[dict]:
    """Give a network's backbone and heads their own learning rates: groups for any torch optimiser.

    lr_backbone = backbone_factor * lr,   lr_head = head_factor * lr;   weights that are frozen are left out

    `published_duplicates=True` repeats an effect of AdaptSegNet's released code: its list walks all sub-modules and
    names each backbone weight once per module around it (the stem once, a layer's weights 3 times, shortcut
    projections 4 times: 314 entries for 104 tensors). Plain SGD then steps as often, which in a steady state is
    that many times the rate; here the rate itself is multiplied, once per tensor. Heads were listed once.

    `norm_decay=False`: scale and shift of normalisation layers do not decay; they have groups of their own.

    >>> from course_lib.networks import small
    >>> [(g["name"], round(g["lr"], 4)) for g in parameter_groups(small(19), lr=1e-3)]
    [('backbone', 0.001), ('head', 0.01)]
    """
    if lr <= 0 or head_factor < 0 or backbone_factor < 0:
        raise ValueError(
            f"parameter_groups got lr={lr}, head_factor={head_factor}, backbone_factor={backbone_factor}; "
            "it wants lr > 0 and factors of at least 0."
        )
    heads = {id(parameter) for parameter in network.head_parameters()}
    norms = {id(p) for m in network.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    groups: dict[str, dict] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        entries = name.count(".") if published_duplicates else 1  # layer3, layer3.0, layer3.0.conv1: 3
        label, factor = ("head", head_factor) if id(parameter) in heads else ("backbone", backbone_factor * entries)
        if label == "backbone" and entries > 1:
            label = f"backbone x{entries}"
        decay = weight_decay
        if not norm_decay and id(parameter) in norms:
            label, decay = f"{label}, normalisation", 0.0
        group = groups.setdefault(label, {"name": label, "params": [], "lr": lr * factor, "weight_decay": decay})
        group["params"].append(parameter)
    if not groups:
        raise ValueError("parameter_groups found no weight to train: all have requires_grad=False.")
    return list(groups.values())
