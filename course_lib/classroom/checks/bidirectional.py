"""Exercises of notebook 05: prototypes of an iteration, the forward contrast, calibration, dynamic and hybrid labels.

Letters: D channels, C classes, P pixels; f features, y labels, rho(c) prototype of class c, tau the temperature, T the
threshold.
"""

import math

import torch

from course_lib.classroom.checks.machinery import Case, Check

RIGHT, UP, LEFT, DOWN, NOWHERE = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]
EASY = math.log1p(math.exp(-1.0))  # one pixel on its prototype, the other prototype at right angles, tau 1


def _line(values: list, labels: list, num_classes: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Pixels of one channel."""
    return torch.tensor(values)[:, None], torch.tensor(labels), num_classes


batch_prototypes = Check(
    name="batch_prototypes",
    task="Write batch_prototypes(features, labels, num_classes): features (P, D) and train ids (P,) -> rho (C, D), the mean "
    "feature of every class, and there (C,) bool, which classes have a pixel; 255 counts nowhere.",
    cases=(
        Case(
            _line([2.0, 4.0], [0, 0], 1),
            [[3.0]],
            "Two pixels of one class, 2 and 4: rho is 3. 6 is the numerator alone: divide by the number of the class's pixels.",
            part=lambda answer: answer[0],
        ),
        Case(
            _line([3.0, 5.0], [0, 1], 2),
            [[3.0], [5.0]],
            "One pixel of each class: rho is that pixel. Half of it means that you divide by all pixels; the denominator is "
            "the sum of y(p, c) over p, of this class alone.",
            part=lambda answer: answer[0],
        ),
        Case(
            _line([3.0, 100.0], [0, 255], 1),
            [[3.0]],
            "A label of 255 is no class: y(p, c) is 0 for every c. That pixel belongs to no numerator and to no denominator.",
            part=lambda answer: answer[0],
        ),
        Case(
            _line([3.0], [0], 2),
            [[3.0], [0.0]],
            "This picture has no pixel of class 1, and 0 / 0 is NaN, which no later step gets rid of. Divide by "
            "count.clamp(min=1); `there` tells the zeros that remain from a real prototype.",
            part=lambda answer: answer[0],
        ),
        Case(
            _line([1.0, -1.0], [0, 0], 2),
            [1.0, 0.0],
            "The second answer is `there`: class 0 has two pixels, although their mean is 0; class 1 has none. Ask the "
            "count, not rho.",
            part=lambda answer: answer[1],
        ),
        Case(
            (torch.tensor([[2.0], [4.0]]).requires_grad_(), torch.tensor([0, 0]), 1),
            hint="In BiDA the prototypes of the iteration carry gradient: both losses reach the features of both domains "
            "through them. No detach(), no torch.no_grad().",
            holds=lambda answer, *_: answer[0].requires_grad,
        ),
    ),
)


def _contrast(f_T: list, y_T: list, rho_S: list, there: list, tau: float) -> tuple:
    return torch.tensor(f_T), torch.tensor(y_T), torch.tensor(rho_S), torch.tensor(there), tau


def _reaches_both(loss, f_T, y_T, rho_S, *_) -> bool:
    return all(g is not None for g in torch.autograd.grad(loss, (f_T, rho_S), allow_unused=True))


forward_contrast = Check(
    name="forward_contrast",
    task="Write forward_contrast(f_T, y_T, rho_S, there, tau): target features (P, D), labels (P,), source prototypes (C, D) "
    "and which of them are there (C,) -> one number, the mean over counted pixels of -log softmax(cosines / tau) at the "
    "label.",
    cases=(
        Case(
            _contrast([RIGHT], [0], [RIGHT, UP], [True, True], 1.0),
            EASY,
            "A target pixel on its class's source prototype, the other at right angles: -log(e / (e + 1)) = 0.313. 0.731 is "
            "the fraction itself; the loss is minus its logarithm.",
        ),
        Case(
            _contrast([[10.0, 0.0]], [0], [RIGHT, UP], [True, True], 1.0),
            EASY,
            "The same direction, ten times as long: s is the cosine, which does not see lengths. Divide every feature by its "
            "own (F.normalize, dim=1).",
        ),
        Case(
            _contrast([RIGHT], [0], [[5.0, 0.0], UP], [True, True], 1.0),
            EASY,
            "rho is a mean and has a length of its own, here 5. The cosine divides by both lengths: normalise rho too.",
        ),
        Case(
            _contrast([RIGHT], [0], [RIGHT, UP], [True, True], 0.5),
            math.log1p(math.exp(-2.0)),
            "At tau = 0.5 the loss is 0.127. 0.313 means that tau was forgotten, 0.474 that it multiplies: divide every "
            "cosine by it.",
        ),
        Case(
            _contrast([RIGHT, UP], [0, 255], [RIGHT, UP], [True, True], 1.0),
            EASY,
            "One labelled pixel and one of 255: the mean is over the labelled one, 0.313. Half of that means that pixels "
            "without a label still count in the denominator. With sparse labels that would nearly switch the loss off.",
        ),
        Case(
            _contrast([RIGHT, RIGHT], [0, 1], [RIGHT, UP], [True, True], 1.0),
            EASY + 0.5,
            "Two labelled pixels, 0.313 and 1.313: 0.813. 1.627 is their sum, which grows with the picture; take the mean.",
        ),
        Case(
            _contrast([RIGHT], [0], [RIGHT, NOWHERE], [True, False], 0.5),
            math.log1p(math.exp(-4.0)),
            "Class 1 has no prototype in this batch. Its row of zeros gives a cosine of 0, as if it stood at a right angle; "
            "as released, a class that is not there has the cosine -1: s.masked_fill(~there, -1).",
        ),
        Case(
            _contrast([RIGHT, UP], [0, 1], [RIGHT, NOWHERE], [True, False], 1.0),
            math.log1p(math.exp(-2.0)),
            "The second pixel's class has no source prototype: there is nothing to be drawn to, and it is not counted (the "
            "release's rule: classes that both domains show). Count pixels with a label whose class is there.",
        ),
        Case(
            _contrast([UP], [1], [RIGHT, NOWHERE], [True, False], 1.0),
            0.0,
            "No pixel is counted: 0, not 0 / 0 = NaN (the released code's NaN survives even a weight of 0). Divide the sum "
            "by count.clamp(min=1).",
        ),
        Case(
            (
                torch.tensor([RIGHT]).requires_grad_(),
                torch.tensor([1]),
                torch.tensor([RIGHT, UP]).requires_grad_(),
                torch.tensor([True, True]),
                1.0,
            ),
            hint="Gradient must reach the target's features AND rho_S, through which the source's features learn: no "
            "detach(), no .item(), no torch.no_grad().",
            holds=_reaches_both,
        ),
    ),
)


def _bank(rho_S: list, mu_S: list, mu_T: list, known: list) -> tuple:
    return torch.tensor(rho_S), torch.tensor(mu_S), torch.tensor(mu_T), torch.tensor(known)


calibrate = Check(
    name="calibrate",
    level="fill in",
    task="Write calibrate(rho_S, mu_S, mu_T, known): prototypes of the batch and both moving averages (C, D), known (C,) "
    "bool -> (C, D), rho_S + xi with xi = mu_T - mu_S; a class that is not known in both domains stays where it is.",
    cases=(
        Case(
            _bank([RIGHT], [RIGHT], [UP], [True]),
            [UP],
            "The batch's prototype lies on the source's average, so it must land on the target's, (0, 1). (2, -1) is the "
            "opposite way: xi points from the source to the target, mu_T - mu_S.",
        ),
        Case(
            _bank([DOWN], [RIGHT], [UP], [True]),
            [LEFT],
            "(0, 1) is mu_T itself. xi is a shift, (-1, 1) here, and moves THIS batch's rho_S, (0, -1), to (-1, 0): what is "
            "particular to the pictures of the batch stays.",
        ),
        Case(
            _bank([[3.0, 0.0]], [[2.0, 0.0]], [[2.0, 2.0]], [True]),
            [[3.0, 2.0]],
            "Vectors as they are: (3, 0) + (0, 2) = (3, 2). The slides bring nothing to length 1 here; the cosine does it "
            "later.",
        ),
        Case(
            _bank([RIGHT, UP], [RIGHT, UP], [UP, NOWHERE], [True, False]),
            [UP, UP],
            "The target has never shown class 1: its mu_T is a row of zeros, no prototype, and mu_T - mu_S would carry rho_S "
            "away. Without both averages there is no bias: use 0 where ~known.",
        ),
    ),
)


def _ask(f_T: list, rho: list, T: float, there: list) -> tuple:
    return torch.tensor(f_T), torch.tensor(rho), T, torch.tensor(there)


dynamic_labels = Check(
    name="dynamic_labels",
    task="Write dynamic_labels(f_T, rho, T, there): features (P, D), prototypes (C, D), a cosine T, which prototypes are "
    "there (C,) -> (P,), the class of the nearest prototype where its cosine is above T, 255 elsewhere.",
    cases=(
        Case(
            _ask([RIGHT, UP], [RIGHT, UP], -2.0, [True, True]),
            [0, 1],
            "Each pixel lies on a prototype, and T = -2 turns nothing away: classes 0 and 1. Take the argmax of the cosines "
            "over the classes (dim=1); the smallest cosine is the farthest prototype.",
        ),
        Case(
            _ask([RIGHT], [RIGHT, UP], 0.8, [True, True]),
            [0],
            "The pixel lies on prototype 0: its cosine is 1, above 0.8. 255 comes from comparing something else with T: the "
            "number of the class (the released test) or a softmax of the cosines.",
        ),
        Case(
            _ask([[0.6, 0.6]], [RIGHT, UP], 0.9, [True, True]),
            [255],
            "Halfway between two prototypes: both cosines are 0.71, below T = 0.9. The nearest one is not near enough: 255.",
        ),
        Case(
            _ask([[2.0, 1.0]], [RIGHT, [0.0, 5.0]], 0.5, [True, True]),
            [0],
            "The cosines are 0.89 and 0.45. With a plain product the second prototype wins because it is five times as long: "
            "normalise the prototypes.",
        ),
        Case(
            _ask([[10.0, 10.0]], [RIGHT, UP], 0.9, [True, True]),
            [255],
            "Halfway again, and far from the origin: the cosine is still 0.71. In yours the feature's length counts: "
            "normalise it, or a long feature is above every T.",
        ),
        Case(
            _ask([LEFT], [NOWHERE, RIGHT], -2.0, [False, True]),
            [1],
            "Class 0 has no prototype here, only a row of zeros, whose cosine of 0 beats every negative one. Set the cosines "
            "of classes that are not there to -inf before the argmax.",
        ),
    ),
)


def _two(y_D: list, y_F: list) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(y_D), torch.tensor(y_F)


hybrid_labels = Check(
    name="hybrid_labels",
    task="Write hybrid_labels(y_D, y_F): dynamic and static train ids of one shape -> the dynamic label where there is one, "
    "else the static one, 255 where neither has one.",
    cases=(
        Case(
            _two([255, 255], [2, 255]),
            [2, 255],
            "There is no dynamic label: the static one fills in, and where that is missing too, 255 stays.",
        ),
        Case(
            _two([1], [2]),
            [1],
            "Both have a label and they disagree: on the slides the dynamic one has priority, 1. (A comment in the release "
            "has it the other way round; nothing there reads the result.)",
        ),
        Case(
            _two([5], [3]),
            [5],
            "Dynamic 5, static 3: 5. The smaller train id is not the better label; ask only whether the dynamic one is 255.",
        ),
        Case(
            _two([0], [3]),
            [0],
            "Class 0, road, is a label like any other. No label is 255 and nothing else: y_D != 255, not y_D > 0.",
        ),
        Case(
            _two([1], [255]),
            [1],
            "The dynamic label needs no static one beside it: it is there to say something where the classifier is not sure.",
        ),
    ),
)


def _opinions(y_D: list, s_D: list, y_F: list, s_F: list) -> tuple:
    return torch.tensor(y_D), torch.tensor(s_D), torch.tensor(y_F), torch.tensor(s_F)


agreed_labels = Check(
    name="agreed_labels",
    level="design",
    task="Write agreed_labels(y_D, s_D, y_F, s_F): of each pixel the class of the nearest prototype with its cosine, and that "
    "of the classifier with its probability, all (P,) -> labels (P,): one of the two classes, or 255 where you trust neither.",
    cases=(
        Case(
            _opinions([3, 5], [0.95, 0.9], [3, 5], [0.99, 0.97]),
            [3, 5],
            "Both name one class, and both are sure: that is the label.",
        ),
        Case(
            _opinions([3, 5], [0.2, 0.1], [4, 2], [0.3, 0.25]),
            [255, 255],
            "They name two classes, and neither is sure (cosines of 0.2 and 0.1, probabilities of 0.3 and 0.25): no label.",
        ),
        Case(
            _opinions([3, 5, 3], [0.1, 0.15, 0.1], [4, 2, 0], [0.99, 0.98, 0.99]),
            hint="The classifier is sure here, and the nearest prototype is far (a cosine of 0.1): its class cannot be the "
            "label.",
            holds=lambda answer, y_D, s_D, y_F, s_F: bool(((answer == y_F) | (answer == 255)).all()),
        ),
        Case(
            _opinions([3, 5, 1], [0.97, 0.98, 0.99], [4, 2, 0], [0.25, 0.2, 0.3]),
            hint="The prototype is near here, and the classifier has no idea (a probability of 0.25): its class cannot be the "
            "label.",
            holds=lambda answer, y_D, s_D, y_F, s_F: bool(((answer == y_D) | (answer == 255)).all()),
        ),
        Case(
            _opinions([2, 8], [0.7, 0.7], [6, 10], [0.7, 0.7]),
            hint="A label is one of the two classes or 255: train ids are names, and there is nothing between two of them.",
            holds=lambda answer, y_D, s_D, y_F, s_F: bool(((answer == y_D) | (answer == y_F) | (answer == 255)).all()),
        ),
    ),
)
