"""What a page uses where the reader has not solved an exercise: functions of the library with the exercise's arguments.

A page calls them as it calls the reader's (`Session.use`). Each has the name of its check and passes it; a test says so.
"""

import functools
import hashlib
import math
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import evaluation, losses, mixing, pseudo_labels
from course_lib.data import Views
from course_lib.engine import poly

# ---- notebook 01 -------------------------------------------------------------------------------------------------------


def train_ids(raw: Tensor, table: dict[int, int]) -> Tensor:
    """A lookup table of 256 places, as `labels.lookup_table` gives one."""
    places = torch.full((256,), 255, dtype=raw.dtype, device=raw.device)
    places[list(table)] = torch.tensor(list(table.values()), dtype=raw.dtype, device=raw.device)
    return places[raw]


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64: row truth, column prediction; pixels labelled 255 do not count."""
    counts = evaluation.Confusion(num_classes)
    counts.update(prediction, label)
    return counts.matrix


def _confusion(matrix: Tensor) -> evaluation.Confusion:
    counts = evaluation.Confusion(len(matrix))
    counts.matrix += matrix.to(counts.matrix.dtype)
    return counts


def iou(matrix: Tensor) -> Tensor:
    """(C,) float64 from a confusion matrix (C, C): TP / (TP + FP + FN), nan for a class that is neither there nor predicted."""
    return _confusion(matrix).iou()


def mean_iou(matrices: Tensor) -> float:
    """Of the sum of matrices (N, C, C): the mean over the classes that have an IoU."""
    return _confusion(matrices.sum(0)).miou()


def proxy_a_distance(score: Tensor, domain: Tensor) -> Tensor:
    """d_A = 2 (1 - 2 e), e the mean of both domains' error rates or 1 - that; score (P,), domain (P,) 0 or 1."""
    wrong, domain = ((score > 0) != (domain == 1)).cpu().double(), domain.cpu()
    e = (wrong[domain == 0].mean() + wrong[domain == 1].mean()) / 2
    return 2 * (1 - 2 * torch.minimum(e, 1 - e))


def recolour(picture: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """A picture (3, H, W) with mean (3,) and deviation (3,) of another: (x - m) / s * std + mean, s at least 0.001."""
    own_mean, own_std = picture.mean((1, 2)), picture.std((1, 2))
    scaled = (picture - own_mean[:, None, None]) / own_std.clamp(min=1e-3)[:, None, None]
    return scaled * std[:, None, None] + mean[:, None, None]


# ---- notebook 02 -------------------------------------------------------------------------------------------------------


def poly_rate(base: float, step: int, steps: int) -> float:
    """base (1 - step / steps)^0.9."""
    return base * poly(step, steps)


def output_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """softmax of logits (N, C, h, w), upsampled to `size`: (N, C, H, W)."""
    return losses.adversarial.probabilities(logits, tuple(size))


def entropy_map(logits: Tensor) -> Tensor:
    """-sum_c P_c log P_c of logits (N, C, h, w), in nats: (N, h, w)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def adversarial_loss(score: Tensor) -> Tensor:
    """The mean cross-entropy of raw scores of target maps with the label "source"."""
    return losses.domain_loss(score, losses.adversarial.SOURCE)


def discriminator_loss(discriminator: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Half the mean cross-entropy of each domain's maps with its own label; no gradient reaches the maps."""
    of_source = losses.domain_loss(discriminator(source.detach()), losses.adversarial.SOURCE)
    of_target = losses.domain_loss(discriminator(target.detach()), losses.adversarial.TARGET)
    return 0.5 * of_source + 0.5 * of_target


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """x in the forward pass, the gradient times -weight in the backward pass."""
    return (1 + weight) * x.detach() - weight * x


def weight_schedule(steps: int, weight: float) -> Tensor:
    """That of DANN (Ganin et al., JMLR 2016): 2 / (1 + exp(-10 p)) - 1, p from 0 to 1."""
    return weight * (2 * torch.sigmoid(10 * torch.linspace(0, 1, steps)) - 1)


# ---- notebook 03 -------------------------------------------------------------------------------------------------------


def cosine_matrix(z: Tensor) -> Tensor:
    """(B, B) cosine similarities of embeddings z (B, D)."""
    unit = F.normalize(z, dim=1)
    return unit @ unit.T


def pair_loss(s: Tensor, i: int, j: int, temperature: float) -> Tensor:
    """l(i, j) = log sum_{k != i} exp(s_ik / tau) - s_ij / tau, from similarities s (B, B)."""
    others = torch.arange(len(s), device=s.device) != i
    return torch.logsumexp(s[i, others] / temperature, dim=0) - s[i, j] / temperature


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views of a batch, (N, D) each: the mean of l(i, j) over all 2N views."""
    return losses.nt_xent(z_a, z_b, temperature)


def view(pictures: Tensor, seed: int) -> Tensor:
    """One random view of each of the pictures (N, 3, H, W) in 0..1, drawn from the seed."""
    return Views()(pictures, torch.Generator().manual_seed(seed))


# ---- notebook 04 -------------------------------------------------------------------------------------------------------


def class_prototypes(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(C, D) mean features of the classes, from features (N, D, h, w) and labels (N, h, w); 0 for a class that is not there."""
    return losses.bidirectional.batch_prototypes(features.flatten(2), labels.flatten(1), num_classes)[0]


def prototype_contrast(features: Tensor, labels: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """The mean over labelled cells of -log softmax_c(cos(f, p_c) / tau) at the cell's class."""
    return losses.prototype_contrast(features, labels, prototypes, temperature, "cosine")


def balanced_contrast(features: Tensor, labels: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """The same with equal weight of each class that is there."""
    return losses.prototype_contrast(features, labels, prototypes, temperature, "cosine", balanced=True)


def class_thresholds(sure: Tensor, prediction: Tensor, num_classes: int, proportion: float, cap: float) -> Tensor:
    """ProCA's threshold of each class, (C,), as `pseudo_labels.class_thresholds` finds it."""
    return pseudo_labels.class_thresholds(lambda: [(sure, prediction)], num_classes, proportion=proportion, cap=cap)


def own_labels(sure: Tensor, prediction: Tensor) -> Tensor:
    """Train ids where a pixel is surer than its class's threshold (proportion 0.5, cap 0.9), else 255."""
    t = class_thresholds(sure, prediction, int(prediction.max()) + 1, 0.5, 0.9)
    return pseudo_labels.threshold_labels(sure, prediction, t.to(sure.device))


# ---- notebook 05 -------------------------------------------------------------------------------------------------------


def batch_prototypes(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean features (C, D) of a batch, from features (P, D) and labels (P,), and which classes are there, (C,) bool."""
    return losses.bidirectional.batch_prototypes(features.T[None], labels[None], num_classes)


def forward_contrast(f_T: Tensor, y_T: Tensor, rho_S: Tensor, there: Tensor, tau: float) -> Tensor:
    """The mean over labelled cells of -log softmax_c(cos(f_T, rho_S,c) / tau); classes that are not there have cosine -1."""
    s = (F.normalize(f_T, dim=1) @ F.normalize(rho_S, dim=1).T).masked_fill(~there, -1.0)
    counted = (y_T != 255) & there[y_T.clamp(max=len(there) - 1)]
    total = F.cross_entropy(s / tau, y_T.where(counted, 255), ignore_index=255, reduction="sum")
    return total / counted.sum().clamp(min=1)


def calibrate(rho_S: Tensor, mu_S: Tensor, mu_T: Tensor, known: Tensor) -> Tensor:
    """Source prototypes (C, D) moved by the distance of both domains' mean features, where a class is known in both."""
    return pseudo_labels.calibrate(rho_S, mu_S, mu_T, known)


def dynamic_labels(f_T: Tensor, rho: Tensor, T: float, there: Tensor) -> Tensor:
    """The class of the most similar prototype where its cosine similarity exceeds T, else 255."""
    return pseudo_labels.dynamic_labels(f_T, rho, T, there)


def hybrid_labels(y_D: Tensor, y_F: Tensor) -> Tensor:
    """The dynamic label where there is one, else the static one."""
    return pseudo_labels.hybrid_labels(y_D, y_F)


def agreed_labels(y_D: Tensor, s_D: Tensor, y_F: Tensor, s_F: Tensor) -> Tensor:
    """Where both name one class, that class; else the classifier's where its probability is at least 0.9."""
    return y_F.where((y_D == y_F) | (s_F >= 0.9), 255)


# ---- notebook 06 -------------------------------------------------------------------------------------------------------


def average_views(plain: Tensor, mirrored: Tensor) -> Tensor:
    """The mean of the probabilities of a picture and of its mirrored one, turned back: (C, h, w) from logits (1, C, h, w)."""
    return torch.cat([plain.softmax(1), mirrored.flip(-1).softmax(1)]).mean(0)


def paired_gain(ours: list[float], floor: list[float]) -> tuple[float, float]:
    """The mean of the gains seed by seed, and its standard error; nan for a single seed."""
    gains = [a - b for a, b in zip(ours, floor, strict=True)]
    return fmean(gains), stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else math.nan


def corrected_and_newly_wrong(before: Tensor, after: Tensor, truth: Tensor) -> Tensor:
    """(2,): pixels that were wrong and are right now, and those that were right and are wrong now."""
    was, now = before == truth, after == truth
    return torch.stack([(~was & now).sum(), (was & ~now).sum()])


def label_free_score(P: Tensor) -> Tensor:
    """Entropy of the mean prediction less the mean entropy of the predictions: sure of each pixel, and of many classes."""
    mean = P.mean((1, 3, 4))                                               # (K, C)
    return torch.special.entr(mean).sum(1) - torch.special.entr(P).sum(2).mean((1, 2, 3))


# ---- notebook 07 -------------------------------------------------------------------------------------------------------


def ema(teacher: Tensor, student: Tensor, t: int, alpha: float) -> Tensor:
    """a teacher + (1 - a) student with a = min(1 - 1 / (t + 1), alpha)."""
    a = min(1 - 1 / (t + 1), alpha)
    return a * teacher + (1 - a) * student


def class_mix_mask(label: Tensor, order: Tensor) -> Tensor:
    """(H, W) bool: the pixels of half of the classes of a label map, the first of them in `order`, rounded up."""
    there = order[torch.isin(order, label)]
    return torch.isin(label, there[: (len(there) + 1) // 2].to(label.dtype))


def moving_median(moving: Tensor, sure: Tensor, prediction: Tensor, momentum: float) -> Tensor:
    """(C,) thresholds after one more batch: `pseudo_labels.ClassQuantiles` with the median."""
    quantiles = pseudo_labels.ClassQuantiles(len(moving), quantile=0.5, momentum=momentum, cap=1.0).to(moving.device)
    quantiles.moving.copy_(moving)
    quantiles.seen.copy_(moving > 0)
    quantiles.update(sure, prediction)
    return quantiles.thresholds


def masked_consistency(student: nn.Module, teacher: nn.Module, x: Tensor, M: Tensor) -> Tensor:
    """The cross-entropy of the student on masked pictures x M with the teacher's classes of the whole ones."""
    with torch.no_grad():
        y = teacher(x).argmax(1)
    return F.cross_entropy(student(x * M[:, None]), y)


def feature_distance(features: Tensor, frozen: Tensor, counted: Tensor) -> Tensor:
    """The mean length of F - F' over the cells that count: features (N, D, h, w) twice, counted (N, h, w) bool."""
    return losses.feature_distance(features, frozen, counted)


def fused(Z_L: Tensor, a: Tensor, Z_H: Tensor, box: tuple[int, int]) -> Tensor:
    """HRDA's fusion at twice the grid of Z_L: up((1 - a) Z_L) + up(a) Z_H, the detail inside its box alone."""
    (top, left), (height, width), (h, w) = box, Z_H.shape[2:], Z_L.shape[2:]
    inside = torch.zeros_like(a)
    inside[..., top // 2 : (top + height) // 2, left // 2 : (left + width) // 2] = 1
    a = a * inside
    padded = F.pad(Z_H, (left, 2 * w - left - width, top, 2 * h - top - height))
    up = functools.partial(F.interpolate, scale_factor=2, mode="bilinear")
    return up((1 - a) * Z_L) + up(a) * padded


def label_weight(sure: Tensor, prediction: Tensor) -> Tensor:
    """A ramp over the places of a class's pixels: 0 for the quarter that is least sure, 1 for the quarter that is surest."""
    q = torch.zeros_like(sure)
    for c in prediction.unique():
        own = prediction == c
        rank = sure[own].argsort().argsort().to(q.dtype) / own.sum()
        q[own] = (2 * rank - 0.5).clamp(0, 1)
    return q


# the second half: contrast


def distribution_contrast(q: Tensor, mu: Tensor, var: Tensor, y: Tensor, tau: float) -> Tensor:
    """DistCL of features q with means mu and variances var of the classes; see `losses.distribution_contrast`."""
    return losses.distribution_contrast(q, y, mu, var, tau)


def patch_views(student: nn.Module, teacher: nn.Module, x_1: Tensor, x_2: Tensor) -> tuple[Tensor, Tensor]:
    """The student's embedding of one patch, and the teacher's of the other, without a gradient."""
    with torch.no_grad():
        v = teacher(x_2)
    return student(x_1), v


def anchor_classes(label: Tensor) -> Tensor:
    """The classes of a label map, in order, 255 not among them."""
    found = label.unique()
    return found[found != 255]


def cells_of(box: tuple[int, int, int, int], stride: int) -> tuple[int, ...]:
    """A box in pixels as one in cells of this stride."""
    return tuple(side // stride for side in box)


def regulariser(mean_feature: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """How far the mean feature (D,) is from being as near to each prototype (C, D); see `losses.uniform_regulariser`."""
    one = torch.zeros(1, dtype=torch.int64, device=mean_feature.device)  # any class: a single cell is its own mean
    return losses.uniform_regulariser(mean_feature[None], one, prototypes, temperature)


# ---- notebook 08 -------------------------------------------------------------------------------------------------------


def split(names: list[str], count: int, seed: int) -> tuple[list[str], list[str]]:
    """(labelled, rest), sorted: the `count` names with the smallest hash of seed and name, and all others."""
    labelled = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())[:count]
    return sorted(labelled), sorted(set(names) - set(labelled))


def depth_mix_mask(D_i: Tensor, D_j: Tensor, tie: float) -> Tensor:
    """M (h, w) bool: where picture i is shown, by scaled disparities nearer than j or at most `tie` farther away."""
    return mixing.depth_mask(D_i[None], D_j[None], tie)[0]


def negative_classes(mu: Tensor, there: Tensor, c: int, tau: float) -> Tensor:
    """P (C,): of which class a negative of class c is, by the cosines of the class means; c and absent classes 0."""
    s = F.cosine_similarity(mu, mu[c : c + 1], dim=1) / tau
    others = there & (torch.arange(len(mu), device=mu.device) != c)
    return s.masked_fill(~others, -torch.inf).softmax(0)


def remembered(memory: Tensor, features: Tensor, scores: Tensor, k: int) -> Tensor:
    """The memory (N, D) after the k features with the highest scores have gone in at its end."""
    best = scores.argsort(descending=True)[:k]
    return torch.cat([memory, features[best]])[-len(memory) :]


def greedy_choice(predictions: Tensor, truth: Tensor, usable: Tensor, num_classes: int) -> int:
    """Which of the branches' predictions (B, N, P) is best on the usable pictures (N,), by the mean IoU of the classes that
    their labels show; of equal ones the first."""
    shown = tuple(c for c in truth[usable].unique().tolist() if c != 255)
    means = [_confusion(confusion_matrix(p[usable], truth[usable], num_classes)).miou(shown) for p in predictions]
    return means.index(max(means))


def pictures_to_label(features: Tensor, count: int) -> list[int]:
    """Farthest points: begin in the middle, then always the picture that is farthest from all chosen ones."""
    chosen = [torch.cdist(features, features.mean(0, keepdim=True)).argmin().item()]
    while len(chosen) < count:
        distance = torch.cdist(features, features[chosen]).amin(1)
        distance[chosen] = -1.0
        chosen.append(distance.argmax().item())
    return chosen
