"""Exercises of notebook 07: the moving average, ClassMix's mask, thresholds per class, masked consistency, a weight of labels.

Letters: theta' the teacher's weights, theta the student's, t the step, C classes, P pixels, (H, W) the size of a picture; y
labels, M masks, q the weight of a label.
"""

import math

import torch

from course_lib.classroom.checks.machinery import Case, Check

ROAD_AND_BUS = ([0.99, 0.98, 0.97, 0.96, 0.40, 0.30], [0, 0, 0, 0, 1, 1])  # no bus pixel is surer than any road pixel


def _weights(old: list, new: list, t: int, alpha: float) -> tuple:
    return torch.tensor(old), torch.tensor(new), t, alpha


ema = Check(
    name="ema",
    level="fill in",
    task="Write ema(teacher, student, t, alpha): the teacher's weights after step t, a_t theta' + (1 - a_t) theta, with "
    "a_t = min(1 - 1/(t+1), alpha). Return a new tensor.",
    cases=(
        Case(
            _weights([8.0], [4.0], 0, 0.99),
            [4.0],
            "At t = 0 the teacher becomes the student: a_0 = 1 - 1/(0+1) = 0. With alpha alone it would keep 99 % of weights "
            "that were never trained.",
        ),
        Case(
            _weights([3.0], [6.0], 2, 0.99),
            [4.0],
            "t = 2: a_2 = 1 - 1/3 = 2/3 belongs to the old teacher, 1/3 to the student: 2/3 of 3 and 1/3 of 6 is 4. 5 means "
            "that the two have changed places.",
        ),
        Case(
            _weights([1.0], [2.0], 999, 0.9),
            [1.1],
            "After 1000 steps 1 - 1/(t+1) is 0.999, and alpha = 0.9 is smaller: the minimum is 0.9. The maximum gives 1.001, a "
            "teacher that forgets ever more slowly.",
        ),
        Case(
            _weights([[1.0, 2.0]], [[3.0, 4.0]], 1, 0.99),
            [[2.0, 3.0]],
            "All weights move by the same share, whatever the shape of the tensor.",
        ),
    ),
)


def _picture(label: list, order: list) -> tuple:
    return torch.tensor([label]), torch.tensor(order)


class_mix_mask = Check(
    name="class_mix_mask",
    task="Write class_mix_mask(label, order): label (H, W) train ids, order (C,) all classes in the order in which they are "
    "drawn -> M (H, W) bool, True on the pixels of the first ceil(n / 2) of the n classes that this picture has.",
    cases=(
        Case(
            _picture([0, 1, 1, 0], [1, 0]),
            [[False, True, True, False]],
            "Two classes, so one is pasted: the first of `order`, class 1. All its pixels, and no other.",
        ),
        Case(
            _picture([2, 0, 2], [3, 1, 0, 2]),
            [[False, True, False]],
            "The picture has classes 0 and 2. 3 and 1 come first in `order`, and are not there: skip them. Half of C in place "
            "of half of the n that are there pastes nothing here.",
        ),
        Case(
            _picture([0, 1, 2], [2, 0, 1]),
            [[True, False, True]],
            "Three classes: ceil(3 / 2) = 2 are pasted. n // 2 rounds down.",
        ),
        Case(
            _picture([4, 4], [0, 1, 2, 3, 4]),
            [[True, True]],
            "One class alone: ceil(1 / 2) = 1, the whole picture is pasted.",
        ),
        Case(
            _picture([255, 0, 1, 255], [0, 1]),
            [[False, True, False, False]],
            "255 is no class: it is not counted among the n, and its pixels stay the target's. Counted, n is 3 and two "
            "classes would be pasted.",
        ),
        Case(
            _picture([255, 255], [0, 1]),
            [[False, False]],
            "No class at all, nothing to paste: the target's picture stays whole.",
        ),
    ),
)  # fmt: skip


def _batch(moving: list, sure: list, prediction: list, momentum: float) -> tuple:
    return torch.tensor(moving), torch.tensor(sure), torch.tensor(prediction), momentum


moving_median = Check(
    name="moving_median",
    task="Write moving_median(moving, sure, prediction, momentum): moving (C,) the thresholds so far, 0 for a class never "
    "predicted; sure (P,) confidences and prediction (P,) train ids of a batch -> the new thresholds (C,). The batch's value "
    "of class c is number round(n_c / 2), counted from 0, of its n_c confidences in rising order.",
    cases=(
        Case(
            _batch([0.0], [0.9, 0.3, 0.5, 0.7], [0, 0, 0, 0], 0.9),
            [0.7],
            "Four confidences, rising: 0.3, 0.5, 0.7, 0.9. Number round(4 / 2) = 2 from 0 is 0.7. Sort first; count from 0.",
        ),
        Case(
            _batch([0.8], [0.5], [0], 0.9),
            [0.77],
            "The old threshold has the weight `momentum`: 0.9 of 0.8 and 0.1 of 0.5 is 0.77.",
        ),
        Case(
            _batch([0.0, 0.0], [0.9, 0.9, 0.2], [0, 0, 1], 0.9),
            [0.9, 0.2],
            "Each class has its own order, and the first batch that has it sets it: 0 means never seen, not a threshold of 0. "
            "0.02 averages with that 0; 0.9 twice means one threshold for all classes.",
        ),
        Case(
            _batch([0.6, 0.4], [0.6, 0.6], [0, 0], 0.9),
            [0.6, 0.4],
            "No pixel of this batch is predicted as class 1: its threshold stays 0.4.",
        ),
    ),
)


def _once(x):  # two classes: the mean of the colours for 0, minus that for 1
    z = x.mean(1, keepdim=True)
    return torch.cat([z, -z], 1)


class _Weighted:
    """A network with a weight that can take a gradient; `copy.deepcopy` works on it."""

    def __init__(self) -> None:
        self.w = torch.ones(1, requires_grad=True)

    def __call__(self, x):
        return _once(x) * self.w


def _grey(values: list) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1).expand(1, 3, 1, -1).clone()


def _only_the_student_learns(loss, student, teacher, *_) -> bool:
    loss.backward()
    return student.w.grad is not None and teacher.w.grad is None


masked_consistency = Check(
    name="masked_consistency",
    task="Write masked_consistency(student, teacher, x, M): the networks map pictures (N, 3, H, W) to logits (N, C, H, W); M "
    "(N, H, W) bool says which pixels stay. The cross-entropy of the student's prediction of the masked picture with the "
    "teacher's labels of the whole one, mean over all pixels.",
    cases=(
        Case(
            (_once, _once, _grey([1.0, 1.0]), torch.tensor([[[True, True]]])),
            math.log1p(math.exp(-2.0)),
            "Nothing is hidden: logits (1, -1) with label 0, -log softmax = log(1 + e^-2) = 0.127. The labels are the "
            "teacher's argmax, not its probabilities.",
        ),
        Case(
            (_once, _once, _grey([1.0, -1.0]), torch.tensor([[[True, False]]])),
            (math.log1p(math.exp(-2.0)) + math.log(2.0)) / 2,
            "The second pixel is hidden from the student: x = 0 there, logits (0, 0), loss ln 2. It counts: what has to be "
            "guessed from the rest of the picture is the exercise for the network. A mean over the pixels that stay leaves "
            "it out.",
        ),
        Case(
            (_once, lambda x: -_once(x), _grey([1.0]), torch.tensor([[[True]]])),
            math.log1p(math.exp(2.0)),
            "The labels are the teacher's: here it says class 1 where the student says 0, loss log(1 + e^2) = 2.127.",
        ),
        Case(
            (lambda x: _once(x + 1), lambda x: _once(0.5 - x), _grey([0.0, 1.0]), torch.tensor([[[True, False]]])),
            math.log1p(math.exp(-2.0)) + 1,
            "The teacher sees the whole picture: its labels are 0 and 1 here. Of the masked picture it would say 0 and 0. Mask "
            "the student's input alone.",
        ),
        Case(
            (_Weighted(), _Weighted(), _grey([1.0]), torch.tensor([[[True]]])),
            hint="The student gets a gradient, the teacher none: run the teacher under torch.no_grad().",
            holds=_only_the_student_learns,
        ),
    ),
)


def _rising(q, sure, prediction, *_) -> bool:
    pairs = [(i, j) for i in range(len(sure)) for j in range(len(sure)) if prediction[i] == prediction[j]]
    return all(q[i] <= q[j] + 1e-6 for i, j in pairs if sure[i] < sure[j])


label_weight = Check(
    name="label_weight",
    level="design",
    task="Write label_weight(sure, prediction): confidences (P,) and predicted train ids (P,) -> q (P,), the weight of each "
    "label, from 0 to 1. A surer pixel of a class never gets less, no class goes without, and no class is trusted whole.",
    cases=(
        Case(
            tuple(map(torch.tensor, ROAD_AND_BUS)),
            hint="q has one number for each pixel, from 0 to 1.",
            holds=lambda q, sure, *_: q.shape == sure.shape and bool(((q >= 0) & (q <= 1)).all()),
        ),
        Case(
            tuple(map(torch.tensor, ROAD_AND_BUS)),
            hint="Within a class the surer pixel must not get less than the doubtful one.",
            holds=_rising,
        ),
        Case(
            tuple(map(torch.tensor, ROAD_AND_BUS)),
            hint="The bus's surest pixel, confidence 0.40, has next to no weight: the class starves, and with it goes from "
            "the labels what the network does not yet know. Compare a pixel with others of its class.",
            holds=lambda q, *_: bool(q[4] > 0.1),
        ),
        Case(
            tuple(map(torch.tensor, ROAD_AND_BUS)),
            hint="The bus's least sure pixel, 0.30, counts as much as its surest. Wrong labels are mostly among the least "
            "sure; give those of each class less.",
            holds=lambda q, *_: bool(q[5] < q[4]),
        ),
    ),
)


def _cells(values: list) -> torch.Tensor:
    """A list of cells, each a list of channels -> (1, D, 1, cells)."""
    return torch.tensor(values).T[None, :, None].contiguous()


def _finite_gradient(loss, features, *_) -> bool:
    (gradient,) = torch.autograd.grad(loss, features, allow_unused=True)
    return gradient is None or bool(gradient.isfinite().all())


def _frozen_stays(loss, features, frozen, *_) -> bool:
    loss.backward()
    return features.grad is not None and frozen.grad is None


def _leaf(values: list) -> torch.Tensor:
    return _cells(values).requires_grad_()


feature_distance = Check(
    name="feature_distance",
    task="Write feature_distance(features, frozen, counted): two maps (N, D, h, w) and (N, h, w) bool, the cells that count -> "
    "the mean of their Euclidean distances; 0 where no cell counts. No gradient for `frozen`.",
    cases=(
        Case(
            (_cells([[3.0, 4.0]]), _cells([[0.0, 0.0]]), torch.tensor([[[True]]])),
            5.0,
            "One cell, the difference (3, 4): its length is the root of 9 + 16, 5. 25 is without the root; 3.5 is a mean over "
            "channels.",
        ),
        Case(
            (_cells([[3.0, 4.0], [1.0, 1.0]]), _cells([[0.0, 0.0], [1.0, 7.0]]), torch.tensor([[[True, False]]])),
            5.0,
            "The second cell does not count: it is in neither the sum nor the number of cells. 5.5 has both cells, 2.5 divides "
            "by both.",
        ),
        Case(
            (_leaf([[3.0, 4.0]]), _cells([[0.0, 0.0]]), torch.tensor([[[False]]])),
            0.0,
            "No cell counts: 0, not 0 / 0. (The released code gives NaN here, which its users have reported.)",
        ),
        Case(
            (_leaf([[1.0, 2.0]]), _cells([[1.0, 2.0]]), torch.tensor([[[True]]])),
            hint="At the start of a run both maps are equal: the value is 0, and the gradient has to be a number. The root "
            "of a sum of squares has none at 0: torch.linalg.vector_norm gives 0 there.",
            holds=_finite_gradient,
        ),
        Case(
            (_leaf([[3.0, 4.0]]), _leaf([[0.0, 0.0]]), torch.tensor([[[True]]])),
            hint="The features get a gradient, the frozen ones none: frozen.detach().",
            holds=_frozen_stays,
        ),
    ),
)


def _map(values: list) -> torch.Tensor:
    """Rows of numbers -> (1, 1, h, w)."""
    return torch.tensor(values)[None, None]


fused = Check(
    name="fused",
    task="Write fused(Z_L, a, Z_H, box): the logits (N, C, h, w) of the halved picture and the attention there; the logits "
    "(N, C, k, l) of the window; box = (top, left) of the window on the grid (2h, 2w), even numbers -> logits (N, C, 2h, 2w). "
    "Upsample with F.interpolate(x, scale_factor=2, mode='bilinear').",
    cases=(
        Case(
            (_map([[2.0, 4.0]]), _map([[0.0, 0.0]]), torch.full((1, 1, 2, 2), 9.0), (0, 0)),
            [[[[2.0, 2.5, 3.5, 4.0], [2.0, 2.5, 3.5, 4.0]]]],
            "An attention of 0 leaves the halved picture, twice as large: 2, 2.5, 3.5, 4. Its weight is 1 - a, the window's a.",
        ),
        Case(
            (_map([[2.0, 2.0]]), _map([[1.0, 1.0]]), torch.full((1, 1, 2, 4), 9.0), (0, 0)),
            torch.full((1, 1, 2, 4), 9.0),
            "An attention of 1 and a window as large as the picture: the window's logits alone, 9.",
        ),
        Case(
            (_map([[2.0, 2.0, 2.0]]), _map([[1.0, 1.0, 1.0]]), torch.full((1, 1, 2, 2), 9.0), (0, 4)),
            [[[[2.0, 2.0, 2.0, 1.5, 7.25, 9.0], [2.0, 2.0, 2.0, 1.5, 7.25, 9.0]]]],
            "The window covers the last third. Outside it the attention is 0 before anything is upsampled, or a part "
            "of the logits is lost there (0 in place of 2); the window's logits are 0 outside. One cell beside it mixes.",
        ),
        Case(
            (_map([[0.0, 4.0]]), _map([[0.0, 1.0]]), torch.zeros(1, 1, 2, 4), (0, 0)),
            torch.zeros(1, 1, 2, 4),
            "(1 - a) and Z_L belong to one cell: multiply, then upsample. The other way round the cell with a = 1 still says "
            "something: 0.75 in place of 0.",
        ),
    ),
)
