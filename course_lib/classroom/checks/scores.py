"""Exercises of notebook 01: labels on disk to train ids, from counts of pixels to mIoU, the distance of two domains, colours.

Letters: N pictures, C classes, (H, W) a label's size. A confusion matrix has a row per true class, a column per
predicted one.
"""

import torch

from course_lib.classroom.checks.machinery import Case, Check

NAN = float("nan")


def _map(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64)


train_ids = Check(
    name="train_ids",
    level="fill in",
    task="Write train_ids(raw, table): raw (H, W) ids -> train ids by the dict `table`, 255 where it has none.",
    cases=(
        Case(
            (_map([[7, 26], [26, 7]]), {7: 0, 26: 13}),
            _map([[0, 13], [13, 0]]),
            "Each raw id becomes what the table says for it: 7 becomes 0, 26 becomes 13.",
        ),
        Case(
            (_map([[7, 5], [3, 7]]), {7: 0}),
            _map([[0, 255], [255, 0]]),
            "A raw id that is not in the table does not count: it becomes 255, not itself and not class 0. "
            "Start from a map full of 255.",
        ),
        Case(
            (_map([[7, 8], [11, 7]]), {7: 8, 8: 11, 11: 2}),
            _map([[8, 11], [2, 8]]),
            "Here 7 becomes 8 while 8 becomes 11. Replacing inside one map changes the same pixel twice: "
            "read from `raw`, write into another map.",
        ),
    ),
)

confusion_matrix = Check(
    name="confusion_matrix",
    task="Write confusion_matrix(prediction, label, num_classes): (H, W) and (H, W) train ids -> (C, C) counts.",
    cases=(
        Case(
            (_map([[0, 1], [2, 2]]), _map([[0, 1], [2, 2]]), 3),
            [[1, 0, 0], [0, 1, 0], [0, 0, 2]],
            "Everything is right here, so the pixels of each class stand on the diagonal, each counted once.",
        ),
        Case(
            (_map([[1, 1], [1, 2]]), _map([[0, 0], [1, 2]]), 3),
            [[0, 2, 0], [0, 1, 0], [0, 0, 1]],
            "Two pixels of class 0 were called 1. The row is the truth, the column the prediction: they belong "
            "in row 0, column 1. Yours may be transposed.",
        ),
        Case(
            (_map([[0, 0], [1, 1]]), _map([[0, 255], [1, 255]]), 2),
            [[1, 0], [0, 1]],
            "Two pixels have the label 255: ignored pixels count nowhere. Keep only `label != 255` before counting.",
        ),
        Case(
            (_map([[0, 0]]), _map([[0, 0]]), 4),
            [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            "Classes that do not occur have rows and columns of zeros: the matrix is always num_classes wide "
            "(bincount takes minlength).",
        ),
    ),
)

iou = Check(
    name="iou",
    task="Write iou(matrix): (C, C) counts -> (C,) intersection over union of each class.",
    cases=(
        Case(
            (torch.tensor([[3.0, 0.0], [0.0, 5.0]]),),
            [1.0, 1.0],
            "All pixels are right, so every IoU is 1. Row sum plus column sum counts the right pixels twice: "
            "the union is row + column - intersection.",
        ),
        Case(
            (torch.tensor([[3.0, 0.0], [2.0, 5.0]]),),
            0.6,
            "Two pixels of class 1 were called class 0. They belong to the union of class 0: dividing by the "
            "row (the truth) alone forgets them, and gives recall.",
            part=lambda answer: answer[0],
        ),
        Case(
            (torch.tensor([[3.0, 0.0], [2.0, 5.0]]),),
            5 / 7,
            "Two pixels of class 1 were missed. They belong to the union of class 1: dividing by the column "
            "(the prediction) alone forgets them, and gives precision.",
            part=lambda answer: answer[1],
        ),
        Case(
            (torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]),),
            [1.0, NAN, 1.0],
            "Class 1 occurs neither in the truth nor in the prediction: its union is empty and its IoU is NaN, "
            "not 0 (0 would say: always wrong).",
        ),
    ),
)

mean_iou = Check(
    name="mean_iou",
    task="Write mean_iou(matrices): (N, C, C), one confusion matrix for each picture -> the mIoU of the data set.",
    cases=(
        Case(
            (torch.tensor([[[4.0, 0.0], [0.0, 4.0]]]),),
            1.0,
            "One picture, all pixels right: the mean of the IoUs is 1, a single number between 0 and 1.",
        ),
        Case(
            (torch.tensor([[[90.0, 0.0], [5.0, 5.0]]]),),
            (90 / 95 + 0.5) / 2,
            "Every class has the same weight, however few its pixels: the mean over classes of their IoU. "
            "The share of right pixels (.95 here) is another score, and recall another still.",
        ),
        Case(
            (torch.tensor([[[4.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]]),),
            1.0,
            "Class 1 is absent. Average over the classes that occur: NaN must not spread (nanmean), and an absent "
            "class must not count as 0.",
        ),
        Case(
            (torch.tensor([[[9.0, 0.0], [0.0, 1.0]], [[0.0, 10.0], [0.0, 10.0]]]),),
            (9 / 19 + 11 / 21) / 2,
            "Two pictures: add up their matrices first, then take the IoUs of the sum. "
            "The mean of each picture's mIoU is another number.",
        ),
    ),
)

_BOTH = torch.tensor([0, 0, 1, 1])

proxy_a_distance = Check(
    name="proxy_a_distance",
    task="Write proxy_a_distance(score, domain): score (N,) of a domain classifier on features that it has not seen, above 0 "
    "for 'target'; domain (N,), 0 for source, 1 for target -> d_A = 2 (1 - 2 e), one number; e is the mean of the two domains' "
    "error rates, or 1 - e where that is smaller.",
    cases=(
        Case(
            (torch.tensor([-1.0, -2.0, 3.0, 0.5]), _BOTH),
            2.0,
            "No error at all: the domains can be told apart completely, and d_A = 2 (1 - 2 * 0) = 2, the largest value.",
        ),
        Case(
            (torch.tensor([-1.0, 2.0, 3.0, -0.5]), _BOTH),
            0.0,
            "Half of each domain is wrong, e = 0.5: that is guessing, and d_A is 0. 2 (1 - e) would be 1.",
        ),
        Case(
            (torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 2.0]), torch.tensor([0, 1, 1, 1, 1, 1])),
            0.0,
            "A classifier that always says 'target' tells nothing apart, although five of six are targets here. Take the error "
            "rate of each domain first (1 and 0), then their mean, 0.5.",
        ),
        Case(
            (torch.tensor([1.0, 2.0, -3.0, -0.5]), _BOTH),
            2.0,
            "Everything is wrong, e = 1: the opposite answer is always right, so the domains can be told apart. Use 1 - e "
            "where it is smaller than e; d_A is never negative.",
        ),
    ),
)

_GAME = torch.tensor([0.4, 0.5, 0.3]), torch.tensor([0.2, 0.1, 0.25])  # mean and deviation of each channel


def _street(mean, std) -> torch.Tensor:
    """(3, 16, 24) with these means and deviations of its channels: a pattern that is another one in each channel."""
    waves = torch.sin(torch.arange(3 * 16 * 24, dtype=torch.float32) * torch.tensor(0.7)).view(3, 16, 24)
    waves = (waves - waves.mean((1, 2), keepdim=True)) / waves.std((1, 2), keepdim=True)
    return waves * torch.as_tensor(std).view(-1, 1, 1) + torch.as_tensor(mean).view(-1, 1, 1)


def _halved(of):
    """Whether this statistic of every channel has come at least half of the way, or was there before."""

    def holds(answer, picture, mean, std) -> bool:
        wanted = mean if of is torch.mean else std
        far = (of(picture, dim=(1, 2)) - wanted).abs()
        return answer.shape == picture.shape and bool(((of(answer, dim=(1, 2)) - wanted).abs() <= 0.5 * far + 0.01).all())

    return holds


def _by_colour_alone(answer, picture, *_) -> bool:
    """Pixels of one colour keep one colour, wherever they are: the second half of this picture repeats the first."""
    half = picture.shape[-1] // 2
    return answer.shape == picture.shape and bool(torch.allclose(answer[..., :half], answer[..., half:], atol=1e-4))


recolour = Check(
    name="recolour",
    level="design",
    task="Write recolour(picture, mean, std): a target picture (3, H, W), RGB from 0 to 1, and mean and standard deviation "
    "(3,) of the source's channels -> the picture (3, H, W) with the colours of the source. Both have to come at least half "
    "of the way in every channel; where a pixel is must not matter.",
    cases=(
        Case(
            (_street([0.6, 0.7, 0.5], _GAME[1]), *_GAME),
            hint="All channels are too bright by 0.2 here. Their means have to come nearer to `mean`: subtract the picture's "
            "own means first.",
            holds=_halved(torch.mean),
        ),
        Case(
            (_street([0.4, 0.5, 0.3], [0.05, 0.03, 0.06]), *_GAME),
            hint="The means fit, but this picture has a quarter of the contrast. Divide by its own deviation, multiply by "
            "`std`.",
            holds=_halved(torch.std),
        ),
        Case(
            (_street([0.7, 0.3, 0.3], _GAME[1]), *_GAME),
            hint="Red is too bright here, green too dark, blue fits. Each channel has its own mean: take them over height and "
            "width alone, dim=(1, 2).",
            holds=_halved(torch.mean),
        ),
        Case(
            (_street([0.6, 0.7, 0.5], [0.05, 0.05, 0.05])[..., :12].repeat(1, 1, 2), *_GAME),
            hint="The right half of this picture repeats the left one, and must after it. The new colour depends on the old "
            "colour alone: no blur, nothing that differs from place to place.",
            holds=_by_colour_alone,
        ),
        Case(
            (torch.full((3, 4, 6), 0.5), *_GAME),
            hint="A picture of one colour has the deviation 0, and 0/0 is NaN: keep the divisor above a small number.",
            holds=lambda answer, *_: bool(torch.isfinite(answer).all()),
        ),
    ),
)
