"""Exercises of notebook 07, second half: contrast with distributions, and four mistakes of released code.

Letters: P cells, D numbers of a feature q, C classes; mu and var their means and variances, channel by channel; y train ids,
tau the temperature.
"""

import math
import operator

import torch

from course_lib.classroom.checks.machinery import Case, Check


def _cells(q: list, mu: list, var: list, y: list, tau: float) -> tuple:
    return torch.tensor(q), torch.tensor(mu), torch.tensor(var), torch.tensor(y), tau


EYE_2, EYE_3 = ([[float(i == j) for j in range(n)] for i in range(n)] for n in (2, 3))
NO_SPREAD = [[0.0, 0.0], [0.0, 0.0]]

distribution_contrast = Check(
    name="distribution_contrast",
    task="Write distribution_contrast(q, mu, var, y, tau): features q (P, D), means mu and variances var (C, D) of the "
    "classes, train ids y (P,), 255 where a cell has none, temperature tau -> the mean of the loss over the cells that have a "
    "class.",
    cases=(
        Case(
            _cells(EYE_3, EYE_3, [[0.0] * 3] * 3, [0, 1, 2], 1.0),
            math.log(1 + 2 / math.e),
            "Variance 0: the cross-entropy of the products q.mu_c with the cell's class, ln(1 + 2/e) = 0.551 for each of the "
            "three cells. 1.654 is their sum; take the mean. A negative number has the sign of the exponent.",
        ),
        Case(
            _cells(EYE_3, EYE_3, [[1.0] * 3] * 3, [0, 1, 2], 1.0),
            math.log(1 + 2 / math.e) + 0.5,
            "Variance 1, tau = 1: every class of the sum has + q^2.v_c / 2 = 1/2, and the positive, q.mu_y, has not: 0.551 + "
            "0.5. 0.551 has no variance, or has it in the positive too; 1.551 is without the half.",
        ),
        Case(
            _cells([[0.6, 0.8]], EYE_2, [[1.0, 0.0], [0.0, 0.0]], [0], 1.0),
            math.log(math.exp(0.78) + math.exp(0.8)) - 0.6,
            "Class 0 varies in channel 0 alone, class 1 not at all. Square q channel by channel, then multiply by the class's "
            "own variances: (0.36 x 1 + 0.64 x 0) / 2 = 0.18 for class 0, and 0 for class 1.",
        ),
        Case(
            _cells([[1.0, 0.0]], EYE_2, [[0.1, 0.1], [0.0, 0.0]], [0], 0.5),
            math.log(math.exp(2.2) + 1.0) - 2.0,
            "tau = 0.5: the mean is divided by tau, 1 / 0.5 = 2, the variance by 2 tau^2, 0.1 / 0.5 = 0.2. Divided by 2 tau it "
            "is 0.1, by 2 alone 0.05.",
        ),
        Case(
            _cells([[1.0, 0.0], [1.0, 0.0]], EYE_2, NO_SPREAD, [0, 255], 1.0),
            math.log(1 + 1 / math.e),
            "The second cell has no class, 255: it belongs neither to the sum nor to the number of cells. 0.157 divides by "
            "both; 0.813 has taken 255 for the last class.",
        ),
        Case(
            _cells([[1.0, 0.0]], EYE_2, NO_SPREAD, [1], 0.01),
            100.0,
            "tau = 0.01: exp(100) does not fit into float32. torch.logsumexp, or cross_entropy, subtracts the largest first.",
        ),
    ),
)  # fmt: skip


class _Scaled:
    """A network of one weight that can take a gradient; `copy.deepcopy` works on it."""

    def __init__(self, w: float) -> None:
        self.w = torch.tensor(w, requires_grad=True)

    def __call__(self, x):
        return self.w * x


def _windows() -> tuple:
    return _Scaled(2.0), _Scaled(3.0), torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0])


def _student_learns(views, student, *_) -> bool:
    views[0].sum().backward()
    return student.w.grad is not None


patch_views = Check(
    name="patch_views",
    task="Write patch_views(student, teacher, x_1, x_2): the networks map pictures to features; x_1 and x_2 are two windows of "
    "a picture -> (u, v): u of the first window, which learns; v of the second one, the teacher's, a constant.",
    cases=(
        Case(
            _windows(),
            [2.0, 4.0],
            "u is the student's of the first window, 2 x (1, 2). (3, 6) is the teacher's, as in the release: its weights take "
            "no gradient, so the loss cannot move the network that is trained.",
            part=lambda views: views[0],
        ),
        Case(
            _windows(),
            [15.0, 21.0],
            "v is the teacher's of the second window, 3 x (5, 7). (10, 14) is the student's, (3, 6) the teacher's of the "
            "first: one window twice.",
            part=lambda views: views[1],
        ),
        Case(
            _windows(),
            hint="A gradient has to reach the student through u: run it outside torch.no_grad(), without detach().",
            holds=_student_learns,
        ),
        Case(
            _windows(),
            hint="v is a constant: run the teacher under torch.no_grad(), or detach v. With a gradient both views would move.",
            holds=lambda views, *_: not views[1].requires_grad,
        ),
    ),
)


def _label(rows: list) -> tuple:
    return (torch.tensor(rows),)


anchor_classes = Check(
    name="anchor_classes",
    task="Write anchor_classes(label): label (h, w) train ids of cells, 255 where a cell has none -> the classes of which "
    "there can be anchors, each once, in rising order.",
    cases=(
        Case(
            _label([[1, 0], [0, 1]]),
            [0, 1],
            "Each class once, in rising order: label.unique(). Road is class 0, and a class: `label > 0` leaves it out.",
        ),
        Case(
            _label([[2, 5], [5, 2]]),
            [2, 5],
            "Only the classes that are there. All ids up to the largest are too many: no anchor could be drawn of class 3.",
        ),
        Case(
            _label([[3, 255], [255, 0]]),
            [0, 3],
            "255 means no label. The release leaves out -1, an id that no cell has, so that everything without a label is one "
            "more class: cells of a border and of a car's bonnet are drawn together, and away from all others.",
        ),
        Case(
            _label([[255, 255]]),
            [],
            "No cell has a class: no classes, an empty tensor, not an error.",
        ),
    ),
)


cells_of = Check(
    name="cells_of",
    task="Write cells_of(box, stride): box = (top, left, height, width) in pixels, all multiples of stride, the pixels from "
    "one cell of the features to the next -> the same box in cells, four whole numbers.",
    cases=(
        Case(
            ((16, 32, 48, 64), 8),
            [2, 4, 6, 8],
            "Stride 8: a cell has 8 pixels, so there are fewer cells than pixels. Divide.",
        ),
        Case(
            ((0, 0, 16, 32), 2),
            [0, 0, 8, 16],
            "The features have stride 2: 16 x 32 pixels are 8 x 16 cells. (0, 0, 2, 4) divides by 8 whatever the stride is, as "
            "the release does with HRDA's maps.",
        ),
        Case(
            ((8, 24, 16, 32), 4),
            [2, 6, 4, 8],
            "Stride 4: all four numbers are divided by it. With the corner divided by 8, (1, 3), the box has the right size, "
            "in the wrong place.",
        ),
        Case(
            ((4, 8, 12, 16), 4),
            hint="Cells are counted: whole numbers. 4 / 4 is 1.0, which cannot cut a tensor; 4 // 4 is 1.",
            holds=lambda cells, *_: [operator.index(side) for side in cells] == [1, 2, 3, 4],
        ),
    ),
)


def _mean(Q: list, mu: list, tau: float) -> tuple:
    return torch.tensor(Q), torch.tensor(mu), tau


def _downhill_is_uniform(value, Q, *_) -> bool:
    (g,) = torch.autograd.grad(value, Q)
    return bool(g[0] > 0 > g[1])


regulariser = Check(
    name="regulariser",
    task="Write regulariser(mean_feature, prototypes, temperature): Q (D,), mu (C, D), tau -> R, whose minimum, 1, is where Q "
    "is as near to every class: -1/(C ln C) times the sum over classes of log softmax_c(Q.mu_c / tau).",
    cases=(
        Case(
            _mean([0.5, 0.5], EYE_2, 1.0),
            1.0,
            "Q is as near to both classes: every log softmax is -ln C, C of them over C ln C is 1. -1 is the released sign; "
            "2 or 0.69 are without 1/C or 1/ln C.",
        ),
        Case(
            _mean([1.0, 0.0], EYE_2, 1.0),
            (2 * math.log1p(math.exp(1.0)) - 1.0) / (2 * math.log(2.0)),
            "Q is nearer to class 0, so R is more than 1: (0.313 + 1.313) / (2 ln 2) = 1.173. 0.840 is the entropy of the "
            "softmax, which is largest where it is uniform: to minimise that pushes away.",
        ),
        Case(
            _mean([0.5, 0.0], EYE_2, 0.5),
            (2 * math.log1p(math.exp(1.0)) - 1.0) / (2 * math.log(2.0)),
            "tau = 0.5: the products are divided by it before the softmax, 0.5 / 0.5 = 1. 1.045 is without tau, 1.011 "
            "multiplies.",
        ),
        Case(
            _mean([1.0, 0.0], EYE_2, 0.002),
            500 / (2 * math.log(2.0)),
            "tau = 0.002: the softmax of class 1 is exp(-500), 0 in float32, and its logarithm is infinite. log_softmax "
            "keeps it.",
        ),
        Case(
            (torch.tensor([1.0, 0.0], requires_grad=True), torch.tensor(EYE_2), 1.0),
            hint="A gradient has to reach Q: downhill leads from class 0 to class 1, which is too far away. No .item(), no "
            "detach().",
            holds=_downhill_is_uniform,
        ),
    ),
)
