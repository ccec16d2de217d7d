"""Features made visible by their principal components.

Letters: N pixels, D features, C classes, (h, w) the feature map's size.
"""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from course_lib.classroom.figures.style import styled, to_array
from course_lib.labels import CITYSCAPES19, IGNORE, LabelSpace, label_space

MARKERS = "o^sDvP"  # one per domain


def principal_components(points_ND: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the `count` directions (D, count) of greatest variance, signs fixed so that a figure repeats."""
    mean = points_ND.mean(0)
    _, _, directions_KD = torch.linalg.svd(points_ND - mean, full_matrices=False)  # also where D is far above N
    directions = directions_KD[:count].T
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return mean, directions * largest.sign()


@styled
def feature_map(width: float = 9.0, **maps) -> Figure:
    """Paint feature maps (D, h, w) with their first three principal components as red, green and blue.

    The components are shared: `feature_map(source=f_s, target=f_t)` gives equal features equal colours in both.
    """
    tensors = {name.replace("_", " "): _one_map(name, features) for name, features in maps.items()}
    if not tensors:
        raise ValueError("feature_map() came without a map. Call it as feature_map(source=features, target=features).")
    pixels = torch.cat([f.flatten(1).T for f in tensors.values()])
    mean, directions = principal_components(pixels, 3)
    projected = (pixels - mean) @ directions
    low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
    h, w = next(iter(tensors.values())).shape[1:]
    figure = Figure(figsize=(width, width / len(tensors) * h / w + 0.3))
    for axes, (name, features) in zip(figure.subplots(1, len(tensors), squeeze=False)[0], tensors.items(), strict=True):
        colours = ((features.flatten(1).T - mean) @ directions - low) / (high - low).clamp(min=1e-12)
        axes.imshow(colours.clamp(0, 1).reshape(*features.shape[1:], 3).numpy())
        axes.set(title=name)
        axes.set_axis_off()
    return figure


@styled
def feature_scatter(
    features: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    space: str | LabelSpace = CITYSCAPES19,
    points: int = 400,
    width: float = 6.5,
    seed: int = 0,
) -> Figure:
    """Scatter pixels' features in their first two principal components: colour is the class, shape the domain.

    features: domain -> (N, D); labels: domain -> (N,) train ids. Ignored pixels are left out, at most `points` of each
    domain are drawn, the same ones for the same `seed`.
    """
    space, draw = label_space(space), np.random.default_rng(seed)
    kept: dict[str, tuple[Tensor, np.ndarray]] = {}
    for domain, z_ND in features.items():
        z_ND, y_N = torch.as_tensor(z_ND).detach().cpu().float(), to_array(labels[domain])
        if z_ND.ndim != 2 or len(z_ND) != len(y_N):
            raise ValueError(
                f"{domain!r} came with features {tuple(z_ND.shape)} and labels {y_N.shape}; wanted (N, D) and (N,). "
                "Flatten the maps: features.permute(0, 2, 3, 1).flatten(0, 2)."
            )
        known = np.flatnonzero(y_N != IGNORE)
        known = draw.permutation(known)[:points]
        kept[domain] = (z_ND[known], y_N[known])
    mean, directions = principal_components(torch.cat([z for z, _ in kept.values()]), 2)
    figure = Figure(figsize=(width, width * 0.6))
    axes = figure.subplots()
    palette = np.array(space.palette) / 255
    for marker, (z_ND, y_N) in zip(MARKERS, kept.values(), strict=False):
        x, y = ((z_ND - mean) @ directions).T.numpy()
        axes.scatter(x, y, s=14, c=palette[y_N], marker=marker, linewidths=0.3, edgecolors="black", alpha=0.8)
    present = sorted({int(c) for _, y_N in kept.values() for c in y_N})
    keys = [(marker, "grey", domain) for marker, domain in zip(MARKERS, kept, strict=False)]
    keys += [("s", palette[c], space.classes[c]) for c in present]
    handles = [Line2D([], [], marker=marker, linestyle="", color=colour, label=name) for marker, colour, name in keys]
    figure.legend(handles=handles, loc="outside right upper", fontsize=7)
    axes.set(xlabel="first component", ylabel="second component")
    return figure


def _one_map(name: str, features) -> Tensor:
    features = torch.as_tensor(features).detach().cpu().float()
    if features.ndim == 4 and len(features) == 1:
        features = features[0]
    if features.ndim != 3 or len(features) < 3:
        raise ValueError(
            f"{name!r} came with shape {tuple(features.shape)}; wanted one map (D, h, w) with D >= 3. "
            "Pick one of the batch: features[0]."
        )
    return features
