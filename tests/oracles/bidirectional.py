"""BiDA's contrast as released: maps of cosines brought to the labels' size, then a loop over their pixels. NumPy arrays."""

import math

import numpy as np

IGNORE = 255


def upsampled(grid, size):
    """(h, w, ...) -> (H, W, ...), each pixel the cell that lies over it."""
    (h, w), (H, W) = grid.shape[:2], size
    return np.array([[grid[i * h // H, j * w // W] for j in range(W)] for i in range(H)])


def reduced(label, size):
    """(H, W) -> (h, w), each cell its pixel up and left."""
    (H, W), (h, w) = label.shape, size
    return np.array([[label[i * H // h, j * W // w] for j in range(w)] for i in range(h)])


def class_means(features, labels, num_classes):
    """rho(c) over the cells of all pictures (D, h, w) and labels (H, W): one vector a class, None for a class without."""
    members = [[] for _ in range(num_classes)]
    for f, y in zip(features, labels, strict=True):
        small = reduced(y, f.shape[1:])
        for i, j in np.ndindex(small.shape):
            if small[i, j] != IGNORE:
                members[small[i, j]].append(f[:, i, j])
    return [np.mean(vectors, axis=0) if vectors else None for vectors in members]


def cosine(a, b) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def direction(features, labels, rho, counted, temperature, balanced=False) -> float:
    """The mean cross-entropy over the pixels whose class is in `counted`; 0 when there is none.

    balanced: the mean over those classes of the mean over each one's pixels.
    """
    losses = {c: [] for c in counted}
    for f, y in zip(features, labels, strict=True):
        h, w = f.shape[1:]
        cells = [[[-1.0 if r is None else cosine(f[:, i, j], r) for r in rho] for j in range(w)] for i in range(h)]
        full = upsampled(np.array(cells), y.shape)
        for i, j in np.ndindex(y.shape):
            if y[i, j] in counted:
                e = np.exp(full[i, j] / temperature)
                losses[y[i, j]].append(-math.log(e[y[i, j]] / e.sum()))
    groups = [each for each in losses.values() if each]
    if not balanced:
        groups = [sum(groups, [])] if groups else []
    return sum(sum(each) / len(each) for each in groups) / len(groups) if groups else 0.0


def contrast(
    source, source_labels, target, target_labels, num_classes, temperature, overlap_only=True, pairwise=False, balanced=False
):
    """(forward, backward); pairwise: the mean over pairs of pictures."""
    if pairwise:
        pairs = [
            contrast(*([x] for x in pair), num_classes, temperature, overlap_only, balanced=balanced)
            for pair in zip(source, source_labels, target, target_labels, strict=True)
        ]
        return tuple(sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    rho_s, rho_t = class_means(source, source_labels, num_classes), class_means(target, target_labels, num_classes)
    both = {c for c in range(num_classes) if rho_s[c] is not None and rho_t[c] is not None}
    counted = both if overlap_only else set(range(num_classes))
    return (
        direction(target, target_labels, rho_s, counted, temperature, balanced),
        direction(source, source_labels, rho_t, counted, temperature, balanced),
    )
