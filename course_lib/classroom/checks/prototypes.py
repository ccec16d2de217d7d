"""Exercises of notebook 04: class prototypes, the contrast with them, thresholds per class.

Letters: N pictures, D channels, C classes, (H, W) the features' size, P pixels; n_c pixels of class c, tau the temperature.
"""

import math

import torch

from course_lib.classroom.checks.machinery import Case, Check


def _row(values: list, labels: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of one row and one channel: (N, 1, 1, W) features with (N, 1, W) labels."""
    return torch.tensor(values)[:, None, None], torch.tensor(labels)[:, None]


class_prototypes = Check(
    name="class_prototypes",
    task="Write class_prototypes(features, labels, num_classes): features (N, D, H, W) and train ids (N, H, W) -> (C, D), the "
    "mean feature of every class; ids of 255 count nowhere, a class without pixels has zeros.",
    cases=(
        Case(
            (*_row([[2.0, 4.0]], [[0, 0]]), 1),
            [[3.0]],
            "Two pixels of one class, 2 and 4: their mean is 3. 6 is the sum: divide by the number of the class's pixels.",
        ),
        Case(
            (*_row([[3.0, 5.0]], [[0, 1]]), 2),
            [[3.0], [5.0]],
            "One pixel of each class: both are prototypes as they are. Half of that means that you divide by all pixels; "
            "divide by the number of pixels of the class.",
        ),
        Case(
            (*_row([[3.0, 100.0]], [[0, 255]]), 1),
            [[3.0]],
            "255 means that nobody knows the class: such a pixel belongs to no sum and to no count. Pick pixels with "
            "labels == c, or drop those with labels == 255 first.",
        ),
        Case(
            (*_row([[3.0]], [[0]]), 2),
            [[3.0], [0.0]],
            "Nobody has seen class 1: 0 divided by 0 is NaN, and one NaN spoils the loss of every pixel. Divide by "
            "count.clamp(min=1); the zeros that remain say 'no prototype'.",
        ),
        Case(
            (*_row([[0.0, 0.0, 0.0], [4.0, 1.0, 1.0]], [[0, 0, 0], [0, 1, 1]]), 2),
            [[1.0], [1.0]],
            "Class 0 has three pixels of 0 in one picture and one of 4 in the other: 4 / 4 = 1. A mean of the pictures' means "
            "gives 2; sum over all pictures, then divide once.",
        ),
        Case(
            (torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]), torch.tensor([[[0, 1]]]), 2),
            [[1.0, 3.0], [2.0, 4.0]],
            "Two channels: the first pixel is (1, 3), not (1, 2). The channels stand along dim=1 of (N, D, H, W): "
            "permute(0, 2, 3, 1) before you reshape to (pixels, D).",
        ),
    ),
)

RIGHT, UP, LEFT = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
EASY = math.log1p(math.exp(-1.0))  # one pixel on its prototype, the other prototype at right angles, tau 1


def _contrast(features: list, labels: list, prototypes: list, temperature: float) -> tuple:
    return torch.tensor(features), torch.tensor(labels), torch.tensor(prototypes), temperature


prototype_contrast = Check(
    name="prototype_contrast",
    task="Write prototype_contrast(features, labels, prototypes, temperature): features (P, D), train ids (P,), prototypes "
    "(C, D) -> one number, the mean over labelled pixels of -log softmax(cosines / temperature) at the label.",
    cases=(
        Case(
            _contrast([RIGHT], [0], [RIGHT, UP], 1.0),
            EASY,
            "One pixel on its prototype, the other at right angles: -log(e / (e + 1)) = 0.313. 0.731 is the probability "
            "itself, 0.269 one minus it: the loss is minus its logarithm.",
        ),
        Case(
            _contrast([[10.0, 0.0]], [0], [RIGHT, UP], 1.0),
            EASY,
            "The same direction, ten times as long: with cosines nothing changes. The feature's length is still in yours; "
            "divide every feature by its own (F.normalize, dim=1).",
        ),
        Case(
            _contrast([RIGHT], [0], [[5.0, 0.0], UP], 1.0),
            EASY,
            "A prototype five times as long points where it did. Prototypes are stored as means and have lengths of their "
            "own: normalise them too.",
        ),
        Case(
            _contrast([RIGHT], [0], [RIGHT, UP], 0.5),
            math.log1p(math.exp(-2.0)),
            "The same pixel at temperature 0.5: 0.127. 0.313 means that the temperature was forgotten, 0.474 that it "
            "multiplies: every cosine is divided by it.",
        ),
        Case(
            _contrast([RIGHT, UP], [0, 255], [RIGHT, UP], 1.0),
            EASY,
            "One labelled pixel and one of 255: the mean is over the labelled one alone, 0.313. Half of that means that "
            "ignored pixels still count in the denominator.",
        ),
        Case(
            _contrast([RIGHT, RIGHT], [0, 1], [RIGHT, UP], 1.0),
            EASY + 0.5,
            "Two labelled pixels, 0.313 and 1.313: 0.813. 1.627 is their sum, which grows with the picture; take the mean.",
        ),
        Case(
            _contrast([RIGHT], [255], [RIGHT, UP], 1.0),
            0.0,
            "No pixel is labelled, as at the start of training with a strict threshold: 0, not 0 / 0 = NaN. Divide the sum by "
            "count.clamp(min=1).",
        ),
        Case(
            _contrast([RIGHT], [1], [RIGHT, LEFT], 0.01),
            200.0,
            "exp(1 / 0.01) is too large for a float32, so yours gives infinity or NaN. Leave the logarithm to cross_entropy "
            "or log_softmax.",
        ),
        Case(
            (torch.tensor([RIGHT]).requires_grad_(), torch.tensor([1]), torch.tensor([RIGHT, UP]), 1.0),
            hint="The network learns through this loss: no .item(), no detach() of the features, no torch.no_grad().",
            holds=lambda loss, *_: isinstance(loss, torch.Tensor) and loss.requires_grad,
        ),
    ),
)


def _sure(*classes: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences of each class's pixels, and which class they are predicted as."""
    sure = torch.tensor([value for values in classes for value in values])
    prediction = torch.tensor([c for c, values in enumerate(classes) for _ in values])
    return sure, prediction


class_thresholds = Check(
    name="class_thresholds",
    level="fill in",
    task="Write class_thresholds(sure, prediction, num_classes, proportion, cap): confidences (P,) and predicted classes (P,) "
    "-> (C,), for each class the confidence at place round(proportion * n_c) of its pixels in rising order, at most cap.",
    cases=(
        Case(
            (*_sure([0.2, 0.1, 0.5, 0.3, 0.4]), 1, 0.6, 1.0),
            [0.4],
            "In rising order 0.1 0.2 0.3 0.4 0.5, place round(0.6 * 5) = 3 has 0.4: it and what is surer stay. 0.2 comes "
            "from falling order and would keep nearly everything, the least sure first to stay; 0.3 was not sorted at all; "
            "0.34 was interpolated.",
        ),
        Case(
            (*_sure([0.5, 0.6, 0.7, 0.8, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5]), 2, 0.6, 1.0),
            [0.8, 0.4],
            "A sure class and an unsure one. The same number for both is one threshold for all: it leaves the unsure class "
            "without pixels. Sort the pixels with prediction == c only.",
        ),
        Case(
            (*_sure([0.91, 0.95, 0.97, 0.98, 0.99]), 1, 0.6, 0.9),
            [0.9],
            "All five are surer than the cap of 0.9: the threshold is 0.9, and the easy class keeps everything. Take the "
            "smaller of the two.",
        ),
        Case(
            (*_sure([0.1, 0.2, 0.3, 0.4, 0.5], []), 2, 0.6, 0.9),
            [0.4, 0.0],
            "No pixel is predicted as class 1: its list is empty and has no place to read. Its threshold is 0 (it has nothing "
            "to let through); leave it as it is.",
        ),
        Case(
            (*_sure([0.7]), 1, 0.6, 0.9),
            [0.7],
            "One pixel: round(0.6 * 1) = 1 is the place behind the last. Take the last one then: min(place, n_c - 1). (The "
            "released code reads past the end here.)",
        ),
        Case(
            (*_sure([0.1, 0.2, 0.3]), 1, 0.6, 0.9),
            [0.3],
            "Three pixels: round(1.8) = 2, so the third. 0.2 means that you cut off the digits (int) instead of rounding.",
        ),
    ),
)


_UNEVEN = [[1.0, 0.0]] * 4  # three pixels that fit prototype 0, and one of class 1 that does not
_TWO = [[1.0, 0.0], [0.0, 1.0]]
_HARD = EASY + 1.0

balanced_contrast = Check(
    name="balanced_contrast",
    task="Write balanced_contrast(features, labels, prototypes, temperature): as prototype_contrast, but every labelled class "
    "counts alike: the mean over these classes of the mean over each one's pixels.",
    cases=(
        Case(
            _contrast(_TWO, [0, 1], _TWO, 1.0),
            EASY,
            "One easy pixel of each class: both means are ln(1 + exp(-1)) = 0.3133, and so is theirs.",
        ),
        Case(
            _contrast(_UNEVEN, [0, 0, 0, 1], _TWO, 1.0),
            (EASY + _HARD) / 2,
            "Three pixels of class 0 fit (0.3133 each), the one of class 1 does not (1.3133). The classes' means, 0.3133 and "
            "1.3133, have the mean 0.8133; the mean over pixels, 0.5633, counts class 0 three times.",
        ),
        Case(
            _contrast(_UNEVEN[:2], [0, 0], [[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], 1.0),
            math.log(1 + 2 * math.exp(-1.0)),
            "Only class 0 has labels here. Divide by the number of classes that have some, 1, not by all 3.",
        ),
        Case(
            _contrast(_UNEVEN, [0, 255, 255, 1], _TWO, 1.0),
            (EASY + _HARD) / 2,
            "255 is no class: these pixels count in no class's mean, and are no class of their own.",
        ),
        Case(
            _contrast(_UNEVEN[:2], [255, 255], _TWO, 1.0),
            0.0,
            "No pixel has a label: 0 classes, and the loss is 0, not 0 / 0 = NaN.",
        ),
    ),
)


def _kept_of(answer, prediction, c: int):
    return (answer != 255) & (prediction == c)


def _surest_first(answer, sure, prediction) -> bool:
    for c in prediction.unique().tolist():
        kept = _kept_of(answer, prediction, c)
        dropped = (prediction == c) & ~kept
        if kept.any() and dropped.any() and sure[kept].min() < sure[dropped].max():
            return False
    return True


_ROAD_AND_SIGN = (torch.tensor([0.99, 0.97, 0.95, 0.90, 0.60, 0.30, 0.60, 0.55, 0.45, 0.30]),
                  torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1]))  # fmt: skip

own_labels = Check(
    name="own_labels",
    level="design",
    task="Write own_labels(sure, prediction): confidences (P,) and predicted train ids (P,) -> labels (P,): the prediction "
    "where you trust it, 255 elsewhere. In every class the surest pixels first, some of every class, not all.",
    cases=(
        Case(
            _ROAD_AND_SIGN,
            hint="A label is the predicted class or 255, and nothing else: return train ids (P,), not confidences and not a "
            "mask.",
            holds=lambda answer, sure, prediction: answer.shape == sure.shape
            and bool(((answer == prediction) | (answer == 255)).all()) and answer.dtype == prediction.dtype,
        ),
        Case(
            _ROAD_AND_SIGN,
            hint="A pixel has a label here although a surer one of the same class has none.",
            holds=_surest_first,
        ),
        Case(
            _ROAD_AND_SIGN,
            hint="A class has no label at all. Its surest pixel has 0.60: one number for all classes starves those that are "
            "hard.",
            holds=lambda answer, sure, prediction: all(_kept_of(answer, prediction, c).any() for c in (0, 1)),
        ),
        Case(
            _ROAD_AND_SIGN,
            hint="The pixels with a confidence of 0.30 have a label too. The network is more often wrong than right there.",
            holds=lambda answer, sure, prediction: bool((answer[sure <= 0.3] == 255).all()),
        ),
    ),
)  # fmt: skip
