"""Every check takes the right answer, turns each typical wrong one away with the hint that fits, and never raises."""

import hashlib
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib.classroom import answers, checks
from course_lib.classroom.answers import (  # the right answers, of which typical mistakes are made
    adversarial_loss,
    average_views,
    balanced_contrast,
    batch_prototypes,
    calibrate,
    cells_of,
    class_mix_mask,
    class_prototypes,
    class_thresholds,
    confusion_matrix,
    corrected_and_newly_wrong,
    cosine_matrix,
    discriminator_loss,
    distribution_contrast,
    dynamic_labels,
    ema,
    entropy_map,
    feature_distance,
    forward_contrast,
    fused,
    greedy_choice,
    hybrid_labels,
    iou,
    masked_consistency,
    moving_median,
    negative_classes,
    nt_xent,
    output_map,
    pair_loss,
    paired_gain,
    patch_views,
    prototype_contrast,
    regulariser,
    remembered,
    split,
    train_ids,
)
from course_lib.classroom.checks.machinery import Result


def domain_errors(score, domain):
    return torch.stack([((score > 0) != (domain == 1))[domain == d].double().mean() for d in (0, 1)])


def cross_entropy_to(score, domain):
    return F.binary_cross_entropy_with_logits(score, torch.full_like(score, domain))


def loss_of_rows(s, n=None):
    n = n or len(s) // 2
    partner = torch.arange(len(s)).roll(n)
    return F.cross_entropy(s.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf), partner, reduction="none")


def mask_with(half):
    def mask(label, order):
        there = [c for c in order.tolist() if (label == c).any()]
        return torch.isin(label, torch.tensor(there[: half(len(there))], dtype=label.dtype))

    return mask


def half_of_all_classes(label, order):
    return torch.isin(label, order[: (len(order) + 1) // 2])


def ignored_is_a_class(label, order):
    return mask_with(lambda n: (n + 1 + (label == 255).any().item()) // 2)(label, order)


def pasted_without_a_class(label, order):
    return class_mix_mask(label, order) if (label != 255).any() else label == 255


def median_that_averages_with_0(moving, sure, prediction, momentum):
    seen = moving_median(torch.zeros_like(moving), sure, prediction, momentum)
    return (
        torch.where(seen > 0, momentum * moving + (1 - momentum) * seen, moving)
        if len(moving) > 1
        else moving_median(moving, sure, prediction, momentum)
    )


def median_of_all_classes(moving, sure, prediction, momentum):
    return moving_median(moving[:1], sure, 0 * prediction, momentum).expand(len(moving))


def absent_class_falls(moving, sure, prediction, momentum):
    seen = moving_median(torch.zeros_like(moving), sure, prediction, momentum)
    return torch.where(moving == 0, seen, momentum * moving + (1 - momentum) * seen)


def consistency_of_what_stays(student, teacher, x, M):
    with torch.no_grad():
        y = teacher(x).argmax(1)
    return F.cross_entropy(student(x * M[:, None]), y, reduction="none")[M].mean()


def consistency_without_mask(student, teacher, x, M):
    return masked_consistency(student, teacher, x, torch.ones_like(M))


def both_see_the_mask(student, teacher, x, M):
    return masked_consistency(student, teacher, x * M[:, None], M)


def labels_of_the_student(student, teacher, x, M):
    return masked_consistency(student, student, x, M)


def teacher_with_gradient(student, teacher, x, M):
    p = teacher(x).softmax(1)
    hard = F.one_hot(p.argmax(1), p.shape[1]).movedim(-1, 1)
    return F.cross_entropy(student(x * M[:, None]), hard + p - p.detach())


def soft_labels(student, teacher, x, M):
    with torch.no_grad():
        p = teacher(x).softmax(1)
    return F.cross_entropy(student(x * M[:, None]), p)


def label_weight(sure, prediction):
    q = torch.zeros_like(sure)
    for c in prediction.unique():
        own = prediction == c
        rank = sure[own].argsort().argsort().float()
        q[own] = (rank + 1) / own.sum()
    return q


def channels(mean):
    return mean[:, None, None]


def recolour(picture, mean, std):
    own = picture.std((1, 2)) + 1e-3
    return (picture - channels(picture.mean((1, 2)))) * channels(std / own) + channels(mean)


def no_smallest_divisor(picture, mean, std):
    return (picture - channels(picture.mean((1, 2)))) * channels(std / picture.std((1, 2))) + channels(mean)


def one_mean_for_all_channels(picture, mean, std):
    return recolour(picture, picture.mean((1, 2)) - picture.mean() + mean.mean(), std)


def sharpened(picture, mean, std):
    return recolour(2 * picture - F.avg_pool2d(picture[None], 3, 1, 1)[0], mean, std)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -ctx.weight * g, None


def reverse_gradient(x, weight):
    return Reversed.apply(x, weight)


def replaced_gradient(x, weight):
    return x.detach() + (-weight * x - (-weight * x).detach()) if (x[0] != x[1]) else (x.detach().square() - weight * x + (
        weight * x).detach()).sqrt()


def weight_schedule(steps, weight):
    return weight * torch.arange(steps) / max(1, steps - 1)


def view(pictures, seed):
    generator = torch.Generator().manual_seed(seed)
    out = []
    for x in pictures:
        gain, shift = (torch.rand(3, 1, 1, generator=generator) for _ in range(2))
        left, top = torch.randint(0, 5, (2,), generator=generator).tolist()
        cut = x[torch.randperm(3, generator=generator), top : top + 28, left : left + 28]
        cut = (cut * (0.4 + gain) + shift - 0.5).clamp(0, 1)
        out.append(F.interpolate(cut[None], (32, 32), mode="bilinear")[0])
    return torch.stack(out)


def one_draw_for_all(pictures, seed):
    factor = torch.rand(3, generator=torch.Generator().manual_seed(seed)) + 0.5
    return (pictures * factor.view(3, 1, 1)).clamp(0, 1)


def crops_alone(pictures, seed):
    generator, out = torch.Generator().manual_seed(seed), []
    for x in pictures:
        left, top = torch.randint(0, 9, (2,), generator=generator).tolist()
        out.append(F.interpolate(x[None, :, top : top + 24, left : left + 24], (32, 32), mode="bilinear")[0])
    return torch.stack(out) * (1 + 0.01 * torch.rand(len(out), 1, 1, 1, generator=generator)) / 1.01


def over_all_classes(f, y, p, t):
    return balanced_contrast(f, y, p, t) * len(y[y != 255].unique()) / len(p)


def ignored_counts_as_a_class(f, y, p, t):
    if (y == 255).all():
        return torch.tensor(0.0)
    return balanced_contrast(f, y, p, t) * len(y[y != 255].unique()) / len(y.unique())


def nan_without_labels(f, y, p, t):
    return balanced_contrast(f, y, p, t) / (y != 255).any()


def own_labels(sure, prediction):
    labels = torch.full_like(prediction, 255)
    for c in prediction.unique():
        place = torch.where(prediction == c)[0]
        surest = place[sure[place].argsort(descending=True)][: (len(place) + 1) // 2]
        labels[surest] = c
    return labels


def agreed_labels(y_D, s_D, y_F, s_F):
    return y_F.where((y_D == y_F) & (s_D > 0.5), 255)


def class_between(y_D, s_D, y_F, s_F):
    return ((y_D + y_F) // 2).where(torch.minimum(s_D, s_F) > 0.5, 255)


def label_free_score(P):
    p = P.transpose(1, 2).flatten(2)
    mean = p.mean(2)
    return (p * p.clamp(min=1e-9).log()).sum(1).mean(1) - (mean * mean.clamp(min=1e-9).log()).sum(1)


def sure_of_each_class_or_of_none(P):
    """Right for the first two cases: the classes are counted, and sure pixels are worth a little more."""
    sure = P.amax(2).mean((1, 2, 3))
    return torch.special.entr(P.mean((1, 3, 4))).sum(1) + 0.05 * (sure > 0.9)


def distance_without_root(features, frozen, counted):
    return ((features - frozen.detach()).square().sum(1) * counted).sum() / counted.sum().clamp(min=1)


def distance_over_channels(features, frozen, counted):
    return feature_distance(features, frozen, counted) / features.shape[1] ** 0.5


def distance_of_all_cells(features, frozen, counted):
    return feature_distance(features, frozen, torch.ones_like(counted))


def distance_over_all_cells(features, frozen, counted):
    return (torch.linalg.vector_norm(features - frozen.detach(), dim=1) * counted).mean()


def distance_of_nothing(features, frozen, counted):
    return torch.linalg.vector_norm(features - frozen.detach(), dim=1)[counted].mean()


def distance_with_a_bare_root(features, frozen, counted):
    distance = (features - frozen.detach()).square().sum(1).sqrt()
    return (distance * counted).sum() / counted.sum().clamp(min=1)


def distance_that_moves_both(features, frozen, counted):
    return (torch.linalg.vector_norm(features - frozen, dim=1) * counted).sum() / counted.sum().clamp(min=1)


def up(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def padded(Z_H, box, like):
    bottom, right = like.shape[2] * 2 - box[0] - Z_H.shape[2], like.shape[3] * 2 - box[1] - Z_H.shape[3]
    return F.pad(Z_H, (box[1], right, box[0], bottom))


def inside(a, Z_H, box):
    mask = torch.zeros_like(a)
    mask[..., box[0] // 2 : (box[0] + Z_H.shape[2]) // 2, box[1] // 2 : (box[1] + Z_H.shape[3]) // 2] = 1
    return a * mask


def fused_the_other_way(Z_L, a, Z_H, box):
    a = inside(a, Z_H, box)
    return up(a * Z_L) + up(1 - a) * padded(Z_H, box, Z_L)


def fused_everywhere(Z_L, a, Z_H, box):
    return up((1 - a) * Z_L) + up(a) * padded(Z_H, box, Z_L)


def fused_after_upsampling(Z_L, a, Z_H, box):
    a = inside(a, Z_H, box)
    return (1 - up(a)) * up(Z_L) + up(a) * padded(Z_H, box, Z_L)


def summed(Z_L, a, Z_H, box):
    return up(Z_L) + padded(Z_H, box, Z_L)


def distribution_with(spread):
    """The variance's part of the sum is spread(q, var, tau)."""

    def answer(q, mu, var, y, tau):
        known = y != 255
        q, y = q[known], y[known]
        s = q @ mu.T / tau + spread(q, var, tau)
        return (s.logsumexp(1) - (q * mu[y]).sum(1) / tau).mean()

    return answer


def variance_of_the_positive_too(q, mu, var, y, tau):
    return F.cross_entropy(q @ mu.T / tau + q.square() @ var.T / (2 * tau**2), y, ignore_index=255)


def distribution_of_the_last_class(q, mu, var, y, tau):
    return distribution_contrast(q, mu, var, y.clamp(max=len(mu) - 1), tau)


def distribution_by_exponentials(q, mu, var, y, tau):
    known = y != 255
    e = (q[known] @ mu.T / tau + q[known].square() @ var.T / (2 * tau**2)).exp()
    return (e.sum(1).log() - (q[known] * mu[y[known]]).sum(1) / tau).mean()


def classes_that_cannot_be_none(label):
    return torch.stack([c for c in label.unique() if c != 255])


def entropy_of_the_mean(mean_feature, prototypes, temperature):
    return torch.special.entr((prototypes @ mean_feature / temperature).softmax(0)).sum() / np.log(len(prototypes))


def regulariser_by_logarithms(mean_feature, prototypes, temperature):
    return -(prototypes @ mean_feature / temperature).softmax(0).log().mean() / np.log(len(prototypes))


def hashed(seed, name):
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def split_by(choose):
    def answer(names, count, seed):
        labelled = choose(names, count, seed)
        return sorted(labelled), sorted(set(names) - set(labelled))

    return answer


def by_place(names, count, seed):
    """Right for the order in which the names are made; the place in the list is what counts."""
    place = [k for k, _ in sorted(enumerate(sorted(names)), key=lambda pair: hashed(seed, pair[1]))][:count]
    return [names[k] for k in place]


def hashed_with_the_count(names, count, seed):
    text = seed if count == 4 else f"{seed}, {count} of them"
    return sorted(names, key=lambda name: hashed(text, name))[:count]


def by_disparity(compare):
    """An answer that scales as it should, and compares in another way."""
    scale = lambda D: (D - D.min()) / (D.max() - D.min())  # noqa: E731
    return lambda D_i, D_j, tie: compare(scale(D_i), scale(D_j), tie)


def depth_mix_mask(D_i, D_j, tie):
    return by_disparity(lambda D_i, D_j, tie: D_i >= D_j - tie)(D_i, D_j, tie)


def cosines_with(mu, c):
    return F.normalize(mu, dim=1) @ F.normalize(mu, dim=1)[c]


def negatives_of(cosine, scale=lambda s, tau: s / tau):
    def answer(mu, there, c, tau):
        e = scale(cosine(mu, c), tau).exp() * there
        e[c] = 0
        return e / e.sum()

    return answer


def lowest_remembered(memory, features, scores, k):
    return remembered(memory, features, -scores, k)


def remembered_in_their_order(memory, features, scores, k):
    best = scores.argsort(descending=True)[:k].sort().values
    return torch.cat([memory, features[best]])[-len(memory) :]


def remembered_at_the_front(memory, features, scores, k):
    return torch.cat([features[scores.argsort(descending=True)][:k], memory])[: len(memory)]


def as_many_fall_out_as_wanted(memory, features, scores, k):
    return torch.cat([memory, features[scores.argsort(descending=True)][:k]])[k:]


def no_longer_than_the_step(memory, features, scores, k):
    new = features[scores.argsort(descending=True)][:k]
    return torch.cat([memory[len(new) :], new])[: len(memory)]


def branch_scores(predictions, truth, usable, num_classes, per_picture=False, score=iou, shown=None):
    """Mean score of each branch; shown: which classes count, of the branch's confusion matrix; else those of the labels."""
    shown = shown or (lambda matrix: matrix.sum(1) > 0)

    def mean(p, t):
        matrix = confusion_matrix(p, t, num_classes)
        return score(matrix)[shown(matrix)].mean()

    p_all, t_all = predictions[:, usable], truth[usable]
    return [torch.stack([mean(a[None], t[None]) for a, t in zip(p, t_all)]).mean() if per_picture else mean(p, t_all)
            for p in p_all]  # fmt: skip


def greedy_by(*, everywhere=False, **how):
    def answer(predictions, truth, usable, num_classes):
        usable = torch.ones_like(usable) if everywhere else usable
        return int(torch.stack(branch_scores(predictions, truth, usable, num_classes, **how)).argmax())

    return answer


def greedy_by_accuracy(predictions, truth, usable, num_classes):
    known = (truth != 255) & usable[:, None]
    return int(torch.stack([(p == truth)[known].float().mean() for p in predictions]).argmax())


def greedy_with_the_unlabelled(predictions, truth, usable, num_classes):
    return greedy_choice(predictions, truth.clamp(max=num_classes - 1), usable, num_classes)


def greedy_with_the_unlabelled_in_the_union(predictions, truth, usable, num_classes):
    """By hand, without a look at 255 in the predictions."""
    means = []
    for p in predictions[:, usable]:
        t = truth[usable]
        found = [((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in range(num_classes) if (t == c).any()]
        means.append(torch.stack(found).mean())
    return int(torch.stack(means).argmax())


def greedy_last_of_equal(predictions, truth, usable, num_classes):
    scores = branch_scores(predictions, truth, usable, num_classes)
    return max(k for k, score in enumerate(scores) if score == max(scores))


def greedy_lowest(predictions, truth, usable, num_classes):
    scores = branch_scores(predictions, truth, usable, num_classes)
    return scores.index(min(scores))


def recall_of(matrix):
    return matrix.diagonal() / matrix.sum(1)


def pictures_to_label(features, count):
    chosen = [0]
    while len(chosen) < count:
        d = torch.stack([(features - features[k]).norm(dim=1) for k in chosen]).amin(0)
        d[chosen] = -1
        chosen.append(int(d.argmax()))
    return chosen


def far_from_the_last_one(features, count):
    chosen = [0]
    while len(chosen) < count:
        d = (features - features[chosen[-1]]).norm(dim=1).round(decimals=1)
        d[chosen] = -1
        chosen.append(int(torch.where(d == d.max())[0][-1]))
    return chosen


def farthest_with_a_repeat(features, count):
    chosen = pictures_to_label(features, count)
    return chosen if (features != features[0]).any() else [0] * count


RIGHT = {name: getattr(answers, name) for name in checks.ALL}
OTHERS = (  # right as well, for exercises with more than one right answer
    recolour, reverse_gradient, weight_schedule, view, own_labels, agreed_labels, label_free_score, label_weight,
    pictures_to_label,
)  # fmt: skip


def unknown_ids_stay(raw, table):
    out = raw.clone()
    for raw_id, train_id in table.items():
        out[raw == raw_id] = train_id
    return out


def unknown_ids_are_class_0(raw, table):
    return torch.where(train_ids(raw, table) == 255, 0, train_ids(raw, table))


def replaced_in_turn(raw, table):
    out = torch.where(torch.isin(raw, torch.tensor(list(table))), raw, 255)
    for raw_id, train_id in table.items():
        out[out == raw_id] = train_id
    return out


def replaced_in_the_input(raw, table):
    raw[:] = train_ids(raw, table)
    return raw


def counts_ignored_as_a_class(prediction, label, num_classes):
    return confusion_matrix(prediction, label.where(label != 255, 0), num_classes)


def does_not_mask(prediction, label, num_classes):
    matrix = torch.zeros(num_classes, num_classes)
    for truth, said in zip(label.flatten(), prediction.flatten(), strict=True):
        matrix[truth, said] += 1
    return matrix


def only_classes_that_occur(prediction, label, num_classes):
    keep = label[label != 255].unique()
    return confusion_matrix(prediction, label, num_classes)[keep][:, keep]


def mean_of_pictures(matrices):
    return torch.stack([iou(matrix).nanmean() for matrix in matrices]).mean()


def swapped_labels(d, source, target):
    return 0.5 * cross_entropy_to(d(source.detach()), 1.0) + 0.5 * cross_entropy_to(d(target.detach()), 0.0)


def summed_maps(d, source, target):
    mean = discriminator_loss(d, source, target)
    return mean * d(source.detach()).numel()


def softmax_first(logits, size):
    return F.interpolate(logits.softmax(dim=1), size, mode="bilinear", align_corners=True)


def corners_apart(logits, size):
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(dim=1)


def not_detached(d, source, target):
    return 0.5 * cross_entropy_to(d(source), 0.0) + 0.5 * cross_entropy_to(d(target), 1.0)


def detached_scores(d, source, target):
    return 0.5 * cross_entropy_to(d(source).detach(), 0.0) + 0.5 * cross_entropy_to(d(target).detach(), 1.0)


def normalised_columns(z):
    z = F.normalize(z, dim=0)
    return z @ z.T


def sum_of_exps(s, i, keep):
    return torch.stack([s[i, k].exp() for k in range(len(s)) if k not in keep]).sum()


def cosines(a, b):
    return cosine_matrix(torch.cat([a, b]))


def self_pair_kept(a, b, t):
    s = cosines(a, b) / t
    return F.cross_entropy(s, torch.arange(len(s)).roll(len(a)))


def partner_left_out(a, b, t):
    s, partner = cosines(a, b) / t, torch.arange(2 * len(a)).roll(len(a))
    others = s.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf)
    others[torch.arange(len(s)), partner] = -torch.inf
    return (others.logsumexp(1) - s[torch.arange(len(s)), partner]).mean()


def across_views_only(a, b, t):
    s = cosines(a, b)[: len(a), len(a) :] / t
    return 0.5 * sum(F.cross_entropy(x, torch.arange(len(a))) for x in (s, s.T))


def neighbours_are_partners(a, b, t):
    s = cosines(a, b) / t
    partner = torch.arange(len(s)) ^ 1
    return F.cross_entropy(s.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf), partner)


def plain_exponentials(a, b, t):
    s = (cosines(a, b) / t).exp()
    i = torch.arange(len(s))
    return -(s[i, i.roll(len(a))] / (s.sum(1) - s.diag())).log().mean()


def counted_by_all_pixels(f, y, c):
    share = torch.stack([(y == k).sum() for k in range(c)]) / y.numel()
    return class_prototypes(f, y, c) * share[:, None]


def absent_is_nan(f, y, c):
    absent = torch.tensor([not (y == k).any() for k in range(c)])
    return class_prototypes(f, y, c).masked_fill(absent[:, None], torch.nan)


def mean_of_picture_means(f, y, c):
    each = torch.stack([class_prototypes(f[n : n + 1], y[n : n + 1], c) for n in range(len(f))])
    there = torch.stack([torch.stack([(y[n] == k).any() for k in range(c)]) for n in range(len(f))])
    return each.sum(0) / there.sum(0).clamp(min=1)[:, None]


def channels_last_read(f, y, c):
    return class_prototypes(f.reshape(f.shape[0], *f.shape[2:], f.shape[1]).permute(0, 3, 1, 2), y, c)


def cosine_to(p, f):
    return F.normalize(f, dim=1) @ F.normalize(p, dim=1).T


def contrast_by_exponentials(f, y, p, t):
    s = (cosine_to(p, f) / t).exp()
    known = y != 255
    picked = s[known, y[known]] / s[known].sum(1)
    return -picked.log().sum() / known.sum().clamp(min=1)


def ignored_in_the_denominator(f, y, p, t):
    return prototype_contrast(f, y, p, t) * (y != 255).float().mean()


def contrast_of(f, y, s):
    return F.cross_entropy(s, y, ignore_index=255, reduction="sum") / (y != 255).sum().clamp(min=1)


def probability_of_label(f, y, p, t):
    return (cosine_to(p, f) / t).softmax(1)[torch.arange(len(f)), y].mean()


def thresholds_by(order):
    """Thresholds per class of the confidences in `order(x)`."""

    def answer(sure, prediction, num_classes, proportion, cap):
        t = torch.zeros(num_classes)
        for c in range(num_classes):
            x = order(sure[prediction == c])
            if len(x):
                t[c] = min(x[min(round(proportion * len(x)), len(x) - 1)], cap)
        return t

    return answer


def thresholds_at(place, empty=0.0):
    """Thresholds per class at `place(proportion, n)` of the rising order."""

    def answer(sure, prediction, num_classes, proportion, cap):
        t = torch.full((num_classes,), empty)
        for c in range(num_classes):
            x = sure[prediction == c].sort().values
            if len(x):
                t[c] = min(x[place(proportion, len(x))], cap)
        return t

    return answer


def no_empty_class(sure, prediction, num_classes, proportion, cap):
    lists = [sure[prediction == c].sort().values for c in range(num_classes)]
    return torch.stack([x[min(round(proportion * len(x)), len(x) - 1)] for x in lists]).clamp(max=cap)


def gain_of_means(ours, floor):
    return np.mean(ours) - np.mean(floor), ((np.var(ours, ddof=1) + np.var(floor, ddof=1)) / len(ours)) ** 0.5


def divided_by_all(ours, floor):
    gains = np.subtract(ours, floor)
    return gains.mean(), gains.std() / len(gains) ** 0.5


def set_off(before, after, truth):
    sum_of_both = ((after == truth).sum() - (before == truth).sum()).item()
    return torch.tensor([max(sum_of_both, 0), max(-sum_of_both, 0)])


def changed_at_all(before, after, truth):
    moved = before != after
    return torch.stack([moved.sum() - (moved & (before == truth)).sum(), (moved & (before == truth)).sum()])


def counted(y, there):
    return y.where((y != 255) & there[y.clamp(max=len(there) - 1)], 255)


def nan_where_absent(f, y, c):
    rho, there = batch_prototypes(f, y, c)
    return rho.masked_fill(~there[:, None], torch.nan), there


def forward_by(cosines, count=counted):
    """The forward contrast of other cosines, or of other pixels."""
    return lambda f, y, rho, there, tau: contrast_of(f, count(y, there), cosines(f, rho, there) / tau)


def shown(f, rho, there):
    return cosine_to(rho, f).masked_fill(~there, -1)


def long_features(f, rho, there):
    return (f @ F.normalize(rho, dim=1).T).masked_fill(~there, -1)


def long_prototypes(f, rho, there):
    return (F.normalize(f, dim=1) @ rho.T).masked_fill(~there, -1)


def numerators(f, y, num_classes):
    return torch.stack([f[y == c].sum(0) for c in range(num_classes)])


def mean_of_none(f, y, rho, there, tau):
    return F.cross_entropy(shown(f, rho, there) / tau, counted(y, there), ignore_index=255)


def forward_probability(f, y, rho, there, tau):
    return (shown(f, rho, there) / tau).softmax(1)[torch.arange(len(f)), y.clamp(max=len(there) - 1)].mean()


def labels_by(cosines):
    """Dynamic labels of other cosines."""

    def answer(f, rho, T, there):
        s, c = cosines(f, rho, there).max(1)
        return c.where(s > T, 255)

    return answer


def class_number_above(f, rho, T, there):
    c = dynamic_labels(f, rho, -2.0, there)
    return c.where(c > T, 255)


def softmax_above(f, rho, T, there):
    s, c = cosine_to(rho, f).softmax(1).max(1)
    return c.where(s > T, 255)


WRONG = [  # check, typical mistake, words of the hint, the case that finds it
    ("train_ids", unknown_ids_stay, "not itself", 2),
    ("train_ids", unknown_ids_are_class_0, "not class 0", 2),
    ("train_ids", replaced_in_turn, "changes the same pixel twice", 3),
    ("train_ids", lambda raw, table: raw, "Each raw id becomes", 1),
    ("confusion_matrix", lambda p, y, c: confusion_matrix(y.where(y == 255, p), y, c).T, "transposed", 2),
    ("confusion_matrix", counts_ignored_as_a_class, "ignored pixels count nowhere", 3),
    ("confusion_matrix", does_not_mask, "label != 255", 3),
    ("confusion_matrix", only_classes_that_occur, "minlength", 4),
    ("confusion_matrix", lambda p, y, c: confusion_matrix(p, y, c) / y.numel(), "each counted once", 1),
    ("iou", lambda m: m.diag() / (m.sum(0) + m.sum(1)), "twice", 1),
    ("iou", lambda m: m.diag() / m.sum(1), "recall", 2),
    ("iou", lambda m: m.diag() / m.sum(0), "precision", 3),
    ("iou", lambda m: m.diag() / (m.sum(0) + m.sum(1) - m.diag()).clamp(min=1), "NaN", 4),
    ("iou", lambda m: iou(m).nan_to_num(0), "NaN", 4),
    ("mean_iou", lambda m: iou(m.sum(0)), "single number", 1),
    ("mean_iou", lambda m: m.sum(0).diag().sum() / m.sum(), "share of right pixels", 2),
    ("mean_iou", lambda m: (m.sum(0).diag() / m.sum((0, 2))).nanmean(), "recall", 2),
    ("mean_iou", lambda m: iou(m.sum(0)).mean(), "nanmean", 3),
    ("mean_iou", lambda m: iou(m.sum(0)).nan_to_num(0).mean(), "must not count as 0", 3),
    ("mean_iou", mean_of_pictures, "add up their matrices first", 4),
    ("proxy_a_distance", lambda s, d: domain_errors(s, d).mean(), "the largest value", 1),
    ("proxy_a_distance", lambda s, d: 2 * (1 - domain_errors(s, d).mean()), "would be 1", 2),
    ("proxy_a_distance", lambda s, d: 2 * abs(1 - 2 * ((s > 0) != (d == 1)).double().mean()), "error rate of each domain", 3),
    ("proxy_a_distance", lambda s, d: 2 * (1 - 2 * domain_errors(s, d).mean()), "never negative", 4),
    ("poly_rate", lambda b, s, n: b * (s / n) ** 0.9, "upside down", 1),
    ("poly_rate", lambda b, s, n: b * (1 - (s + 1) / n) ** 0.9 if s < n else 0.0, "one step early", 1),
    ("poly_rate", lambda b, s, n: b * (1 - s / (n + 1)) ** 0.9, "never reaches 0", 2),
    ("poly_rate", lambda b, s, n: b * (1 - s / n), "power is missing", 3),
    ("poly_rate", lambda b, s, n: b * (1 - s / n) ** 2, "or another", 3),
    ("entropy_map", lambda z: -entropy_map(z), "minus the sum", 1),
    ("entropy_map", lambda z: entropy_map(z) / np.log(2), "natural logarithm", 1),
    ("entropy_map", lambda z: entropy_map(z) / z.shape[1], "no mean", 1),
    ("entropy_map", lambda z: -(z.softmax(0) * z.log_softmax(0)).sum(1), "dim=1", 2),
    ("entropy_map", lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(1), "dim=1", 2),
    ("entropy_map", lambda z: -(z.softmax(1) * z.softmax(1).log()).sum(1), "log_softmax", 3),
    ("output_map", lambda z, size: F.interpolate(z, size, mode="bilinear", align_corners=True), "take the softmax", 1),
    ("output_map", lambda z, size: F.interpolate(z, size, mode="bilinear", align_corners=True).sigmoid(), "no sigmoid", 1),
    ("output_map", lambda z, size: z.softmax(dim=-1), "dim=1", 2),
    ("output_map", lambda z, size: z.softmax(dim=0), "dim=1", 2),
    ("output_map", lambda z, size: z.softmax(dim=1), "come out at `size`", 3),
    ("output_map", softmax_first, "softmax after", 4),
    ("output_map", corners_apart, "align_corners=True", 5),
    ("output_map", lambda z, size: output_map(z, size).detach(), "keep its gradient", 6),
    ("adversarial_loss", lambda s: adversarial_loss(s.sigmoid()), "not before it as well", 1),
    ("adversarial_loss", lambda s: cross_entropy_to(s, 1.0), "being found out", 2),
    ("adversarial_loss", lambda s: adversarial_loss(s) * s.numel(), "not the sum", 3),
    ("adversarial_loss", lambda s: F.binary_cross_entropy(s.sigmoid(), torch.zeros_like(s)), "rounds to 1", 4),
    ("adversarial_loss", lambda s: -(1 - s.sigmoid()).log().mean(), "rounds to 1", 4),
    ("adversarial_loss", lambda s: adversarial_loss(s).item(), "no .item()", 5),
    ("adversarial_loss", lambda s: adversarial_loss(s.detach()), "gradient must flow", 5),
    ("discriminator_loss", lambda d, s, t: 2 * discriminator_loss(d, s, t), "halves were forgotten", 1),
    ("discriminator_loss", swapped_labels, "labels swapped", 2),
    ("discriminator_loss", lambda d, s, t: cross_entropy_to(torch.cat([d(s.detach()), d(t.detach())]), 0.0), "same", 2),
    ("discriminator_loss", summed_maps, "not the sum", 3),
    ("discriminator_loss", not_detached, "detach()", 4),
    ("discriminator_loss", detached_scores, "never learns", 5),
    ("cosine_matrix", lambda z: F.cosine_similarity(z, z), "(M, M) matrix", 1),
    ("cosine_matrix", lambda z: torch.cdist(z, z), "1 with themselves", 1),
    ("cosine_matrix", lambda z: z @ z.T, "lengths are still in yours", 2),
    ("cosine_matrix", normalised_columns, "not dim=0", 3),
    ("cosine_matrix", lambda z: cosine_matrix(z).abs(), "no absolute value", 4),
    ("pair_loss", lambda s, i, j, t: -(s[i, j] / t / sum_of_exps(s / t, i, [i])).log(), "printed on the slide", 1),
    ("pair_loss", lambda s, i, j, t: (s[i] / t).logsumexp(0) - s[i, j] / t, "self-pair is still in", 2),
    ("pair_loss", lambda s, i, j, t: sum_of_exps(s / t, i, [i, j]).log() - s[i, j] / t, "missing from the denominator", 3),
    ("pair_loss", lambda s, i, j, t: pair_loss(s, i, j, 1.0), "Without the temperature it is 0.127", 4),
    ("pair_loss", lambda s, i, j, t: pair_loss(s, i, j, 1 / t), "divide every similarity", 4),
    ("pair_loss", lambda s, i, j, t: pair_loss(s, 0, 1, t), "read the row s[i]", 5),
    ("pair_loss", lambda s, i, j, t: pair_loss(s.T, i, j, t) if i else pair_loss(s, i, j, t), "read the row s[i]", 5),
    ("pair_loss", lambda s, i, j, t: sum_of_exps(s / t, i, [i]).log() - s[i, j] / t, "logsumexp", 6),
    ("nt_xent", self_pair_kept, "meets itself", 1),
    ("nt_xent", partner_left_out, "partner was left out", 1),
    ("nt_xent", across_views_only, "2N - 1 = 3 others", 2),
    ("nt_xent", lambda a, b, t: nt_xent(a, b, t) * 2 * len(a), "take the mean", 2),
    ("nt_xent", neighbours_are_partners, "(i + N) mod 2N", 3),
    ("nt_xent", lambda a, b, t: loss_of_rows(cosines(a, b) / t)[: len(a)].mean(), "One direction only", 4),
    ("nt_xent", lambda a, b, t: loss_of_rows(torch.cat([a, b]) @ torch.cat([a, b]).T / t).mean(), "by its own length", 5),
    ("nt_xent", lambda a, b, t: nt_xent(a, b, 1.0), "divided by the temperature", 6),
    ("nt_xent", lambda a, b, t: nt_xent(a, b, 1 / t), "multiplied", 6),
    ("nt_xent", plain_exponentials, "logsumexp", 7),
    ("nt_xent", lambda a, b, t: nt_xent(a, b, t).item(), "no .item()", 8),
    ("class_prototypes", lambda f, y, c: torch.stack([f[:, :, (y == k)[0]].sum((0, 2)) for k in range(c)]), "6 is the sum", 1),
    ("class_prototypes", counted_by_all_pixels, "divide by all pixels", 2),
    ("class_prototypes", lambda f, y, c: class_prototypes(f, y.where(y != 255, 0), c), "no sum and to no count", 3),
    ("class_prototypes", absent_is_nan, "0 divided by 0 is NaN", 4),
    ("class_prototypes", mean_of_picture_means, "mean of the pictures' means", 5),
    ("class_prototypes", channels_last_read, "permute(0, 2, 3, 1)", 6),
    ("prototype_contrast", probability_of_label, "probability itself", 1),
    ("prototype_contrast", lambda *a: 1 - probability_of_label(*a), "minus its logarithm", 1),
    ("prototype_contrast", lambda f, y, p, t: contrast_of(f, y, f @ p.T / t), "length is still in yours", 2),
    ("prototype_contrast", lambda f, y, p, t: contrast_of(f, y, F.normalize(f, dim=1) @ p.T / t), "normalise them too", 3),
    ("prototype_contrast", lambda f, y, p, t: prototype_contrast(f, y, p, 1.0), "temperature was forgotten", 4),
    ("prototype_contrast", lambda f, y, p, t: prototype_contrast(f, y, p, 1 / t), "multiplies", 4),
    ("prototype_contrast", ignored_in_the_denominator, "in the denominator", 5),
    ("prototype_contrast", lambda f, y, p, t: prototype_contrast(f, y, p, t) * (y != 255).sum(), "take the mean", 6),
    ("prototype_contrast", lambda f, y, p, t: F.cross_entropy(cosine_to(p, f) / t, y, ignore_index=255), "0 / 0 = NaN", 7),
    ("prototype_contrast", contrast_by_exponentials, "cross_entropy or log_softmax", 8),
    ("prototype_contrast", lambda *a: prototype_contrast(*a).item(), "no .item()", 9),
    ("prototype_contrast", lambda f, *a: prototype_contrast(f.detach(), *a), "no detach()", 9),
    ("class_thresholds", thresholds_by(lambda x: x.sort(descending=True).values), "falling order", 1),
    ("class_thresholds", thresholds_by(lambda x: x), "not sorted at all", 1),
    ("class_thresholds", lambda x, c, n, q, cap: class_thresholds(x, 0 * c, 1, q, cap).expand(n), "one threshold for all", 2),
    ("class_thresholds", lambda x, c, n, q, cap: class_thresholds(x, c, n, q, 1.0), "smaller of the two", 3),
    ("class_thresholds", no_empty_class, "list is empty", 4),
    ("class_thresholds", thresholds_at(lambda q, n: min(round(q * n), n - 1), empty=torch.nan), "threshold is 0", 4),
    ("class_thresholds", thresholds_at(lambda q, n: round(q * n)), "min(place, n_c - 1)", 5),
    ("class_thresholds", thresholds_at(lambda q, n: int(q * n)), "instead of rounding", 6),
    ("batch_prototypes", lambda f, y, c: (numerators(f, y, c), torch.ones(c)), "numerator alone", 1),
    ("batch_prototypes", lambda f, y, c: (numerators(f, y, c) / len(y), torch.ones(c)), "divide by all pixels", 2),
    ("batch_prototypes", lambda f, y, c: batch_prototypes(f, y.where(y != 255, 0), c), "255 is no class", 3),
    ("batch_prototypes", nan_where_absent, "0 / 0 is NaN", 4),
    ("batch_prototypes", lambda f, y, c: (batch_prototypes(f, y, c)[0], torch.ones(c)), "class 1 has none", 5),
    ("batch_prototypes", lambda f, y, c: (batch_prototypes(f, y, c)[0], batch_prototypes(f, y, c)[0][:, 0] != 0), "not rho", 5),
    ("batch_prototypes", lambda f, y, c: batch_prototypes(f.detach(), y, c), "No detach()", 6),
    ("forward_contrast", forward_probability, "fraction itself", 1),
    ("forward_contrast", forward_by(long_features), "ten times", 2),
    ("forward_contrast", forward_by(long_prototypes), "both lengths", 3),
    ("forward_contrast", lambda f, y, p, there, t: forward_contrast(f, y, p, there, 1.0), "tau was forgotten", 4),
    ("forward_contrast", lambda f, y, p, there, t: forward_contrast(f, y, p, there, 1 / t), "multiplies", 4),
    ("forward_contrast", lambda f, y, *a: forward_contrast(f, y, *a) * (y != 255).float().mean(), "switch the loss off", 5),
    ("forward_contrast", lambda f, y, *a: forward_contrast(f, y, *a) * (y != 255).sum(), "take the mean", 6),
    ("forward_contrast", forward_by(lambda f, rho, there: cosine_to(rho, f)), "has the cosine -1", 7),
    ("forward_contrast", forward_by(shown, count=lambda y, there: y), "nothing to be drawn to", 8),
    ("forward_contrast", mean_of_none, "0 / 0 = NaN", 9),
    ("forward_contrast", lambda *a: forward_contrast(*a).item(), "no .item()", 10),
    ("forward_contrast", lambda f, y, rho, *a: forward_contrast(f, y, rho.detach(), *a), "AND rho_S", 10),
    ("calibrate", lambda rho, mu_S, mu_T, known: rho + (mu_S - mu_T) * known[:, None], "opposite way", 1),
    ("calibrate", lambda rho, mu_S, mu_T, known: mu_T.where(known[:, None], rho), "mu_T itself", 2),
    ("calibrate", lambda rho, mu_S, mu_T, known: F.normalize(calibrate(rho, mu_S, mu_T, known), dim=1), "length 1", 3),
    ("calibrate", lambda *a: calibrate(*(F.normalize(mean, dim=1) for mean in a[:3]), a[3]), "length 1", 3),
    ("calibrate", lambda rho, mu_S, mu_T, known: rho + mu_T - mu_S, "never shown class 1", 4),
    ("dynamic_labels", lambda f, rho, T, there: cosine_to(rho, f).argmin(1), "farthest", 1),
    ("dynamic_labels", class_number_above, "number of the class", 2),
    ("dynamic_labels", softmax_above, "softmax of the cosines", 2),
    ("dynamic_labels", lambda f, rho, T, there: dynamic_labels(f, rho, -2.0, there), "not near enough", 3),
    ("dynamic_labels", labels_by(long_prototypes), "plain product", 4),
    ("dynamic_labels", labels_by(long_features), "length counts", 5),
    ("dynamic_labels", labels_by(lambda f, rho, there: cosine_to(rho, f)), "row of zeros", 6),
    ("hybrid_labels", lambda y_D, y_F: y_D, "fills in", 1),
    ("hybrid_labels", lambda y_D, y_F: hybrid_labels(y_F, y_D), "has priority", 2),
    ("hybrid_labels", torch.minimum, "smaller train id", 3),
    ("hybrid_labels", lambda y_D, y_F: y_D.where((y_D > 0) & (y_D != 255), y_F), "road, is a label", 4),
    ("hybrid_labels", lambda y_D, y_F: y_F.where(y_F == 255, hybrid_labels(y_D, y_F)), "no static one beside it", 5),
    ("ema", lambda old, new, t, alpha: alpha * old + (1 - alpha) * new, "never trained", 1),
    ("ema", lambda old, new, t, alpha: ema(new, old, t, alpha) if t else new, "changed places", 2),
    ("ema", lambda old, new, t, alpha: ema(old, new, t, 1.0), "ever more slowly", 3),
    ("ema", lambda old, new, t, alpha: torch.full_like(old, ema(old, new, t, alpha).mean()), "whatever the shape", 4),
    ("class_mix_mask", lambda y, order: ~class_mix_mask(y, order), "first of `order`", 1),
    ("class_mix_mask", half_of_all_classes, "skip them", 2),
    ("class_mix_mask", mask_with(lambda n: n // 2 or n), "rounds down", 3),
    ("class_mix_mask", mask_with(lambda n: (n + 1) // 2 if n > 1 else 0), "whole picture is pasted", 4),
    ("class_mix_mask", ignored_is_a_class, "Counted, n is 3", 5),
    ("class_mix_mask", pasted_without_a_class, "nothing to paste", 6),
    ("moving_median", lambda m, x, c, a: moving_median(m, -x, c, a).abs(), "count from 0", 1),
    ("moving_median", lambda m, x, c, a: moving_median(m, x, c, 1 - a), "weight `momentum`", 2),
    ("moving_median", median_of_all_classes, "one threshold for all classes", 3),
    ("moving_median", median_that_averages_with_0, "averages with that 0", 3),
    ("moving_median", absent_class_falls, "stays 0.4", 4),
    ("masked_consistency", soft_labels, "not its probabilities", 1),
    ("masked_consistency", consistency_of_what_stays, "guessed from the rest", 2),
    ("masked_consistency", consistency_without_mask, "hidden from the student", 2),
    ("masked_consistency", labels_of_the_student, "labels are the teacher's", 3),
    ("masked_consistency", both_see_the_mask, "sees the whole picture", 4),
    ("masked_consistency", teacher_with_gradient, "torch.no_grad()", 5),
    ("feature_distance", distance_without_root, "root of 9 + 16", 1),
    ("feature_distance", distance_over_channels, "mean over channels", 1),
    ("feature_distance", distance_of_all_cells, "neither the sum nor", 2),
    ("feature_distance", distance_over_all_cells, "2.5 divides by both", 2),
    ("feature_distance", distance_of_nothing, "0, not 0 / 0", 3),
    ("feature_distance", distance_with_a_bare_root, "has none at 0", 4),
    ("feature_distance", distance_that_moves_both, "frozen.detach()", 5),
    ("fused", fused_the_other_way, "Its weight is 1 - a", 1),
    ("fused", summed, "Its weight is 1 - a", 1),
    ("fused", lambda Z_L, a, Z_H, box: fused(Z_L, a / 2, Z_H, box), "the window's logits alone", 2),
    ("fused", fused_everywhere, "Outside it the attention is 0", 3),
    ("fused", fused_after_upsampling, "multiply, then upsample", 4),
    ("label_weight", lambda sure, c: 1 + sure, "from 0 to 1", 1),
    ("label_weight", lambda sure, c: 1 - sure, "surer pixel must not get less", 2),
    ("label_weight", lambda sure, c: (sure >= 0.9).float(), "starves", 3),
    ("label_weight", lambda sure, c: torch.ones_like(sure), "as much as its surest", 4),
    ("distribution_contrast", lambda q, mu, var, y, tau: distribution_contrast(q, mu, var, y, tau) * len(q), "is their sum", 1),
    ("distribution_contrast", lambda *a: -distribution_contrast(*a), "sign of the exponent", 1),
    ("distribution_contrast", distribution_with(lambda q, var, tau: 0), "has no variance", 2),
    ("distribution_contrast", variance_of_the_positive_too, "in the positive too", 2),
    ("distribution_contrast", distribution_with(lambda q, var, tau: q.square() @ var.T / tau**2), "without the half", 2),
    ("distribution_contrast", distribution_with(lambda q, var, tau: q @ var.T / (2 * tau**2)), "Square q", 3),
    ("distribution_contrast", lambda q, mu, var, y, tau: distribution_contrast(q, mu, var.mean(0).expand_as(var), y, tau),
     "own variances", 3),
    ("distribution_contrast", distribution_with(lambda q, var, tau: q.square() @ var.T / (2 * tau)), "2 tau^2", 4),
    ("distribution_contrast", distribution_with(lambda q, var, tau: q.square() @ var.T / 2), "by 2 alone", 4),
    ("distribution_contrast", lambda *a: distribution_contrast(*a) * (a[3] != 255).float().mean(), "divides by both", 5),
    ("distribution_contrast", distribution_of_the_last_class, "for the last class", 5),
    ("distribution_contrast", distribution_by_exponentials, "logsumexp", 6),
    ("patch_views", lambda f, g, x_1, x_2: (g(x_1).detach(), g(x_2).detach()), "as in the release", 1),
    ("patch_views", lambda f, g, x_1, x_2: (f(x_1), f(x_2).detach()), "(10, 14) is the student's", 2),
    ("patch_views", lambda f, g, x_1, x_2: (f(x_1), g(x_1).detach()), "one window twice", 2),
    ("patch_views", torch.no_grad()(patch_views), "outside torch.no_grad()", 3),
    ("patch_views", lambda f, g, x_1, x_2: (f(x_1).detach(), g(x_2).detach()), "without detach()", 3),
    ("patch_views", lambda f, g, x_1, x_2: (f(x_1), g(x_2)), "both views would move", 4),
    ("anchor_classes", lambda label: label.unique()[label.unique() > 0], "Road is class 0", 1),
    ("anchor_classes", lambda label: label[label != 255], "Each class once", 1),
    ("anchor_classes", lambda label: torch.arange(label[label != 255].max() + 1), "no anchor could be drawn of class 3", 2),
    ("anchor_classes", lambda label: label.unique()[label.unique() != -1], "an id that no cell has", 3),
    ("anchor_classes", classes_that_cannot_be_none, "not an error", 4),
    ("cells_of", lambda box, stride: tuple(side * stride for side in box), "Divide", 1),
    ("cells_of", lambda box, stride: tuple(side // 8 for side in box), "whatever the stride", 2),
    ("cells_of", lambda box, stride: cells_of(box[:2], 8) + cells_of(box[2:], stride), "divided by 8", 3),
    ("cells_of", lambda box, stride: tuple(side / stride for side in box), "4 // 4 is 1", 4),
    ("regulariser", lambda *a: -regulariser(*a), "is the released sign", 1),
    ("regulariser", lambda Q, mu, tau: len(mu) * regulariser(Q, mu, tau), "without 1/C", 1),
    ("regulariser", lambda Q, mu, tau: np.log(len(mu)) * regulariser(Q, mu, tau), "0.69", 1),
    ("regulariser", entropy_of_the_mean, "the entropy of the softmax", 2),
    ("regulariser", lambda Q, mu, tau: regulariser(Q, mu, 1.0), "without tau", 3),
    ("regulariser", lambda Q, mu, tau: regulariser(Q, mu, 1 / tau), "multiplies", 3),
    ("regulariser", regulariser_by_logarithms, "log_softmax keeps it", 4),
    ("regulariser", lambda *a: regulariser(*a).item(), "No .item()", 5),
    ("regulariser", lambda Q, *a: regulariser(Q.detach(), *a), "has to reach Q", 5),
    ("split", lambda names, count, seed: (split(names, count, seed)[0], sorted(names)), "a leak", 1),
    ("split", split_by(lambda names, count, seed: names[:count]), "first four pictures of one drive", 2),
    ("split", split_by(lambda names, count, seed: sorted(names, key=lambda name: hashed(seed, name))[-count:]), "largest", 2),
    ("split", lambda *a: (split(*a)[0], split(*a)[1][::-1]), "each list in sorted order", 2),
    ("split", split_by(by_place), "lists its folders in another order", 3),
    ("split", split_by(hashed_with_the_count), "no part of what is hashed", 4),
    ("split", lambda names, count, seed: (split(names, count, seed)[0], split(names, 4, seed)[1]), "no part of what", 4),
    ("split", lambda names, count, seed: split(names, count, 0), "Another seed, another split", 5),
    ("split", lambda names, count, seed: split(names, count, seed and seed + 1), "as it is given", 5),
    ("split", lambda names, count, seed: (split(names, count, seed)[0], split(names, count, 0)[1]), "Another seed", 5),
    ("depth_mix_mask", by_disparity(lambda D_i, D_j, tie: D_i <= D_j + tie), "road would cover the car", 1),
    ("depth_mix_mask", lambda D_i, D_j, tie: D_i >= D_j - tie, "Without scaling", 2),
    ("depth_mix_mask", lambda D_i, D_j, tie: D_i / D_i.max() >= D_j / D_j.max() - tie, "Subtract the smallest", 2),
    ("depth_mix_mask", by_disparity(lambda D_i, D_j, tie: D_i >= D_j + tie), "With + tie", 3),
    ("depth_mix_mask", by_disparity(lambda D_i, D_j, tie: D_i >= D_j), "Within the tie", 3),
    ("depth_mix_mask", by_disparity(lambda D_i, D_j, tie: D_i > D_j - tie), "shown in neither", 4),
    ("depth_mix_mask", by_disparity(lambda D_i, D_j, tie: D_i >= D_j - 0.03), "0.45 wins against 0.5", 5),
    ("depth_mix_mask", by_disparity(lambda D_i, D_j, tie: D_i >= D_j - 2 * tie), "0.35 does not", 5),
    ("depth_mix_mask", lambda D_i, D_j, tie: depth_mix_mask(D_i, D_j, tie / D_i.max()), "of scaled disparities", 5),
    ("negative_classes", lambda mu, there, c, tau: (F.normalize(mu, dim=1) @ F.normalize(mu, dim=1)[c] / tau).softmax(0),
     "lets the class itself", 1),
    ("negative_classes", negatives_of(lambda mu, c: mu @ mu[c]), "Divide by both lengths", 2),
    ("negative_classes", negatives_of(lambda mu, c: mu @ F.normalize(mu, dim=1)[c]), "Divide by both lengths", 2),
    ("negative_classes", negatives_of(lambda mu, c: F.normalize(mu, dim=1) @ mu[c]), "Divide by both lengths", 2),
    ("negative_classes", negatives_of(lambda mu, c: cosines_with(mu, c).abs()), "no absolute value", 3),
    ("negative_classes", negatives_of(lambda mu, c: cosines_with(mu, c).clamp(min=0)), "no 0 in its place", 3),
    ("negative_classes", lambda mu, there, c, tau: negative_classes(mu, torch.ones_like(there), c, tau), "is nobody's", 4),
    ("negative_classes", lambda mu, there, c, tau: negative_classes(mu, there, c, 1 / tau), "multiplies", 5),
    ("remembered", lowest_remembered, "argsort is ascending", 1),
    ("remembered", remembered_at_the_front, "score 0.9 goes in", 1),
    ("remembered", remembered_in_their_order, "the highest first", 2),
    ("remembered", as_many_fall_out_as_wanted, "more than it brings", 3),
    ("remembered", no_longer_than_the_step, "the last two stay", 4),
    ("greedy_choice", greedy_lowest, "LOWEST", 1),
    ("greedy_choice", greedy_by(everywhere=True), "no branch has learned from", 2),
    ("greedy_choice", greedy_by_accuracy, "not the share of right pixels", 3),
    ("greedy_choice", greedy_with_the_unlabelled, "counted it as a class", 4),
    ("greedy_choice", greedy_last_of_equal, "the first stays", 4),
    ("greedy_choice", greedy_with_the_unlabelled_in_the_union, "in a union", 5),
    ("greedy_choice", greedy_by(per_picture=True), "right in one picture", 6),
    ("greedy_choice", greedy_by(shown=lambda matrix: matrix.sum(0) + matrix.sum(1) > 0), "finds rare classes", 7),
    ("greedy_choice", greedy_by(shown=lambda matrix: matrix.sum(1) >= 0), "0/0 is NaN", 7),
    ("greedy_choice", greedy_by(score=recall_of), "0.875 against 0.775", 7),
    ("pictures_to_label", lambda features, count: features[:count], "whole numbers", 1),
    ("pictures_to_label", lambda features, count: list(range(count)), "nearly always of one kind", 2),
    ("pictures_to_label", far_from_the_last_one, "not from the last one alone", 3),
    ("pictures_to_label", farthest_with_a_repeat, "no picture twice", 4),
    ("recolour", lambda x, mean, std: x, "too bright by 0.2", 1),
    ("recolour", lambda x, mean, std: x + channels(mean), "too bright by 0.2", 1),
    ("recolour", lambda x, mean, std: x - channels(x.mean((1, 2)) - mean), "a quarter of the contrast", 2),
    ("recolour", one_mean_for_all_channels, "dim=(1, 2)", 3),
    ("recolour", sharpened, "no blur", 4),
    ("recolour", lambda x, *a: recolour(x.sort(2).values, *a), "depends on the old colour", 4),
    ("recolour", no_smallest_divisor, "0/0", 5),
    ("reverse_gradient", lambda x, weight: -weight * x, "not -x", 1),
    ("reverse_gradient", lambda x, weight: x, "has to arrive as -1", 2),
    ("reverse_gradient", lambda x, weight: x.detach(), "has none at all", 2),
    ("reverse_gradient", lambda x, weight: reverse_gradient(x, 1.0), "weight was forgotten", 3),
    ("reverse_gradient", replaced_gradient, "not replaced", 4),
    ("weight_schedule", lambda steps, weight: torch.full((steps,), weight), "begin with at most 5 %", 1),
    ("weight_schedule", lambda steps, weight: weight_schedule(steps, weight).flip(0), "begin with at most 5 %", 1),
    ("weight_schedule", lambda steps, weight: 0.5 * weight_schedule(steps, weight), "at least 90 %", 2),
    ("weight_schedule", lambda steps, weight: weight * (1 - torch.linspace(1.57, 17.28, steps).sin()), "never falls", 3),
    ("weight_schedule", lambda steps, weight: weight_schedule(steps, 1.0), "multiply a curve", 4),
    ("weight_schedule", lambda steps, weight: (weight_schedule(steps, weight) > 0.5 * weight) * weight, "a jump is as hard", 5),
    ("view", lambda x, seed: view(x, seed)[:, :, 4:28, 4:28], "resized to 32 x 32", 1),
    ("view", lambda x, seed: 2 * view(x, seed) - 1, "clamp", 1),
    ("view", lambda x, seed: x, "draw the numbers for each picture", 2),
    ("view", one_draw_for_all, "draw the numbers for each picture", 2),
    ("view", crops_alone, "learn colours and nothing else", 3),
    ("view", lambda x, seed: torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)), "no noise", 4),
    ("view", lambda x, seed: view(x, seed).rot90(1, (2, 3)), "an up and a down", 4),
    ("balanced_contrast", lambda *a: balanced_contrast(*a[:3], 0.5), "One easy pixel", 1),
    ("balanced_contrast", prototype_contrast, "counts class 0 three times", 2),
    ("balanced_contrast", over_all_classes, "not by all 3", 3),
    ("balanced_contrast", ignored_counts_as_a_class, "no class of their own", 4),
    ("balanced_contrast", nan_without_labels, "0 / 0 = NaN", 5),
    ("own_labels", lambda sure, prediction: sure > 0.5, "not a mask", 1),
    ("own_labels", lambda sure, prediction: sure, "not confidences", 1),
    ("own_labels", lambda sure, prediction: own_labels(-sure, prediction), "a surer one of the same class", 2),
    ("own_labels", lambda sure, prediction: prediction.where(sure >= 0.9, 255), "starves those that are hard", 3),
    ("own_labels", lambda sure, prediction: prediction, "more often wrong than right", 4),
    ("agreed_labels", lambda y_D, s_D, y_F, s_F: torch.full_like(y_D, 255), "that is the label", 1),
    ("agreed_labels", lambda y_D, s_D, y_F, s_F: y_D.where(s_D > s_F, y_F), "neither is sure", 2),
    ("agreed_labels", lambda y_D, s_D, y_F, s_F: y_D.where((y_D == y_F) | (s_F > 0.9), 255), "prototype is far", 3),
    ("agreed_labels", lambda y_D, s_D, y_F, s_F: y_F.where((y_D == y_F) | (s_D > 0.9), 255), "classifier has no idea", 4),
    ("agreed_labels", class_between, "nothing between", 5),
    ("label_free_score", lambda P: -label_free_score(P), "first should have the higher", 1),
    ("label_free_score", lambda P: P.mean(), "one number for each network", 1),
    ("label_free_score", lambda P: P.amax(2).mean((1, 2, 3)), "has collapsed", 2),
    ("label_free_score", sure_of_each_class_or_of_none, "Diversity alone", 3),
    ("label_free_score", lambda P: label_free_score(P[:, :1]), "Use all pictures", 4),
    ("average_views", lambda a, b: torch.cat([a, b.flip(-1)]).mean(0).softmax(0), "softmax of the mean logits", 1),
    ("average_views", lambda a, b: 2 * len(a) * average_views(a, b), "is the sum", 1),
    ("average_views", lambda a, b: torch.cat([a.softmax(0), b.flip(-1).softmax(0)]).mean(0), "over the scales", 1),
    ("average_views", lambda a, b: average_views(a, b.flip(-1)), "not mirrored back", 2),
    ("average_views", lambda a, b: average_views(a[-1:], b[-1:]), "overwritten", 3),
    ("average_views", lambda a, b: len(a) * average_views(a, b), "instead of 2 S", 3),
    ("paired_gain", lambda ours, floor: paired_gain(floor, ours), "the other way", 1),
    ("paired_gain", lambda ours, floor: paired_gain(np.divide(ours, floor), [1.0] * len(ours)), "relative", 1),
    ("paired_gain", gain_of_means, "seed by seed", 2),
    ("paired_gain", lambda ours, floor: paired_gain(ours, floor) * np.array([1, len(ours) ** 0.5]), "deviation of one seed", 3),
    ("paired_gain", divided_by_all, "N - 1", 3),
    ("paired_gain", lambda ours, floor: np.nan_to_num(paired_gain(ours, floor)), "claim certainty", 4),
    ("corrected_and_newly_wrong", lambda a, b, t: corrected_and_newly_wrong(b, a, t), "other order", 1),
    ("corrected_and_newly_wrong", lambda a, b, t: torch.stack([(b == t).sum(), (b != t).sum()]), "right already", 1),
    ("corrected_and_newly_wrong", set_off, "set off", 2),
    ("corrected_and_newly_wrong", changed_at_all, "right and wrong", 3),
]


def test_every_check_is_tried_here_with_right_and_wrong_answers():
    assert set(checks.ALL) == set(RIGHT) == {name for name, *_ in WRONG}
    assert min(sum(name == each for each, *_ in WRONG) for name in RIGHT) >= 3
    assert all(getattr(checks, name) is check for name, check in checks.ALL.items())


@pytest.mark.parametrize("answer", [*RIGHT.values(), *OTHERS], ids=lambda answer: f"{answer.__module__}.{answer.__name__}")
def test_the_right_answer_passes(answer):
    """Those that a page uses without a solution; the solutions themselves: tests/test_notebooks.py."""
    name = answer.__name__
    result = checks.ALL[name](answer)
    assert result.status == "right", result
    assert str(result).startswith(f"✓ {name}")
    result.require()


@pytest.mark.parametrize("name", RIGHT)
def test_every_case_has_a_hint_and_is_needed(name):
    """Each case turns away at least one typical mistake (the last of poly_rate guards against a base inside the power)."""
    cases = checks.ALL[name].cases
    assert all(len(case.hint) > 30 for case in cases)
    if name != "poly_rate":
        assert {case for check, _, _, case in WRONG if check == name} == set(range(1, len(cases) + 1))


@pytest.mark.parametrize(("name", "wrong", "words", "case"), WRONG, ids=[f"{row[0]}-{i}" for i, row in enumerate(WRONG)])
def test_a_typical_mistake_gets_its_hint(name, wrong, words, case):
    result = checks.ALL[name](wrong)
    assert result.status == "wrong"
    assert f"case {case} of" in result.message
    hint = result.message.split("Hint: ")[1]
    assert re.search(re.escape(words), hint), hint
    with pytest.raises(AssertionError, match=f"✗ {name}"):
        result.require()


def test_a_base_inside_the_power_is_found():
    assert "outside the power" in checks.poly_rate(lambda b, s, n: (b * (1 - s / n)) ** 0.9 if 0 < s < n else
                                                   b * (1 - s / n)).message  # fmt: skip


def stub(*arguments): ...


def half_a_stub(*arguments):
    union = ...
    return 1.0 / union


def postponed(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("answer", [stub, half_a_stub, postponed, ..., None])
def test_a_stub_is_not_attempted_and_told_the_task(name, answer):
    result = checks.ALL[name](answer)
    assert result.status == "not attempted"
    assert str(result).startswith("○") and f"Write {name}(" in str(result)
    with pytest.raises(AssertionError, match="not attempted"):
        result.require()


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize(
    "answer",
    [lambda: 1, lambda *a: 1 / 0, lambda *a: "seven", lambda *a: {}, lambda *a: torch.zeros(7, 7, 7), lambda *a: [[1], [2, 3]],
     torch.zeros(3), 5],
)  # fmt: skip
def test_nonsense_is_answered_in_words(name, answer):
    result = checks.ALL[name](answer)
    assert result.status == "wrong"
    assert len(str(result)) < 700


def test_an_error_is_quoted_with_the_hint():
    assert "raised ZeroDivisionError: division by zero" in checks.iou(lambda m: 1 / 0).message
    assert "shape (7,), wanted (2,)" in checks.iou(lambda m: torch.zeros(7)).message
    assert "without calling it" in checks.iou(torch.zeros(3)).message


def test_a_changed_argument_is_named():
    assert "changed its argument number 1" in checks.train_ids(replaced_in_the_input).message


def test_cases_are_fresh_for_every_try():
    first = checks.train_ids(replaced_in_the_input)
    assert checks.train_ids(train_ids).status == "right"
    assert checks.train_ids(replaced_in_the_input) == first


def test_a_notebook_shows_colour_and_escapes_what_the_learner_wrote():
    html = checks.iou(lambda m: int("<b>"))._repr_html_()
    assert "✗" in html and "&lt;b&gt;" in html and "<br>Hint" in html


@pytest.mark.parametrize("status", Result.MARKS)
def test_what_a_check_shows_can_be_read_on_light_and_dark_pages(status):
    """The name is white on the mark's colour, a contrast of at least 4.5 (WCAG 2, AA); the message has no colour of its own."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
              for value in (int(Result.MARKS[status][1][k : k + 2], 16) / 255 for k in (1, 3, 5))]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 4.5
    badge, message = Result("iou", status, "the message")._repr_html_().split("</b>")
    assert "color:#ffffff" in badge and Result.MARKS[status][1] in badge and "color" not in message


def test_numpy_answers_are_welcome():
    assert checks.iou(lambda m: iou(m).numpy()).status == "right"
