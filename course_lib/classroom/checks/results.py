"""Exercises of notebook 06: multi-scale testing, a gain over several seeds, what one network mends and breaks of another.

Letters: S scales, C classes, (H, W) a picture's size, N seeds.
"""

import torch

from course_lib.classroom.checks.machinery import Case, Check

NAN = float("nan")


def _logits(*pixels: float) -> torch.Tensor:
    """A picture of one row and two classes, (2, 1, W): class 0 has these logits, class 1 has 0."""
    row = torch.tensor(pixels)
    return torch.stack([row, torch.zeros_like(row)])[:, None]


SURE = 0.880797  # softmax of the logits (2, 0)

average_views = Check(
    name="average_views",
    task="Write average_views(plain, mirrored): logits (S, C, H, W) of a picture at S scales, brought to one size, and of its "
    "mirror image at the same scales -> (C, H, W), the mean of all 2 S answers' probabilities, for the picture as it is.",
    cases=(
        Case(
            (_logits(2.0)[None], _logits(0.0)[None]),
            [[[(SURE + 0.5) / 2]], [[(1.5 - SURE) / 2]]],
            "One pixel: one answer says 0.881, the other 0.5: the mean is 0.690. 0.731 is the softmax of the mean logits: the "
            "surest view would outvote the others; 1.381 is the sum: divide by the number of answers, 2 S. A softmax of 1 was "
            "taken over the scales: classes stand along dim=1.",
        ),
        Case(
            (_logits(2.0, 0.0)[None], _logits(0.0, 2.0)[None]),
            [[[SURE, 0.5]], [[1 - SURE, 0.5]]],
            "The mirror image says exactly the same, mirrored: the left pixel is 0.881 and the right one 0.5. 0.690 for both "
            "means that its answer was not mirrored back: flip(-1) along W.",
        ),
        Case(
            (torch.stack([_logits(0.0), _logits(2.0)]), torch.stack([_logits(0.0), _logits(2.0)])),
            [[[(SURE + 0.5) / 2]], [[(1.5 - SURE) / 2]]],
            "Two scales, 0.5 and 0.881: their mean is 0.690. 0.881 is the last scale alone (the sum was overwritten, = in the "
            "place of +=) or the surest one; 1.381 was divided by 2 instead of 2 S.",
        ),
    ),
)

paired_gain = Check(
    name="paired_gain",
    level="fill in",
    task="Write paired_gain(ours, floor): two lists of N scores, one for each seed -> (mean gain, its standard error), the "
    "gain of each seed over the same seed's floor.",
    cases=(
        Case(
            ([50.0, 50.0], [40.0, 40.0]),
            [10.0, 0.0],
            "50 against 40: a gain of 10 points. -10 was subtracted the other way; 0.25 or 25 is relative, which a floor of 4 "
            "would turn into hundreds of per cent: gains of mIoU are told in points.",
        ),
        Case(
            ([50.0, 40.0, 45.0], [47.0, 37.0, 42.0]),
            [3.0, 0.0],
            "Every seed gains exactly 3, so there is no doubt about the gain: its error is 0. The seeds' own ups and downs (5) "
            "are common to both lists and cancel: subtract seed by seed first, then take the spread.",
        ),
        Case(
            ([10.0, 12.0, 14.0], [10.0, 10.0, 10.0]),
            [2.0, 2.0 / 3**0.5],
            "Gains of 0, 2 and 4: mean 2, standard deviation 2, standard error 2 / sqrt(3) = 1.15. 2 is the deviation of one "
            "seed; 1.63 and 0.94 come from dividing by N where N - 1 is right: the mean was taken from the same three numbers.",
        ),
        Case(
            ([45.0], [40.0]),
            [5.0, NAN],
            "One seed: a gain of 5, and nobody knows how sure. Its error is NaN, not 0: 0 would claim certainty.",
        ),
    ),
)

corrected_and_newly_wrong = Check(
    name="corrected_and_newly_wrong",
    task="Write corrected_and_newly_wrong(before, after, truth): three label maps of one shape -> (2,), how many pixels were "
    "wrong and became right, and how many were right and became wrong.",
    cases=(
        Case(
            (torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]]), torch.tensor([[1, 1, 1]])),
            [1, 0],
            "One pixel was wrong and became right: corrected is 1, newly wrong 0. 3 counts all that are right now; the pixels "
            "that were right already are no merit of the second network. 0, 1 has the two in the other order.",
        ),
        Case(
            (torch.tensor([[1, 0]]), torch.tensor([[0, 1]]), torch.tensor([[1, 1]])),
            [1, 1],
            "One pixel each way. 0 and 0 means that they were set off against each other: that is what the difference of two "
            "scores does, and what this exercise wants to see behind.",
        ),
        Case(
            (torch.tensor([[0, 1]]), torch.tensor([[2, 1]]), torch.tensor([[1, 1]])),
            [0, 0],
            "The first pixel changed from one wrong class to another: neither corrected nor newly wrong. Ask for right and "
            "wrong, not for before != after.",
        ),
    ),
)


def _network(*pictures: list) -> torch.Tensor:
    """(N, 3, 1, W) probabilities: for each picture the pixels' probabilities of classes 0 and 1; class 2 has the rest."""
    first = torch.tensor(pictures)                                         # (N, W, 2)
    return torch.cat([first, 1 - first.sum(2, keepdim=True)], dim=2).permute(0, 2, 1)[:, :, None]


_SHARP = _network([[0.96, 0.02], [0.02, 0.96]], [[0.02, 0.02], [0.96, 0.02]])  # sure, of all three classes
_BLUNT = _network([[0.5, 0.25], [0.25, 0.5]], [[0.25, 0.25], [0.5, 0.25]])  # the same classes, unsure
_ONE_CLASS = _network([[0.98, 0.01], [0.98, 0.01]], [[0.98, 0.01], [0.98, 0.01]])  # surest of all, and road everywhere
_NOTHING = _network([[1 / 3, 1 / 3]] * 2, [[1 / 3, 1 / 3]] * 2)


def _first_is_best(answer, P) -> bool:
    return answer.shape == (len(P),) and bool(answer[0] > answer[1:].max())


label_free_score = Check(
    name="label_free_score",
    level="design",
    task="Write label_free_score(P): probabilities (K, N, C, H, W) of K networks on the same N target pictures -> (K,), the "
    "higher, the better you expect the network to be. No label is there.",
    cases=(
        Case(
            (torch.stack([_SHARP, _BLUNT]),),
            hint="Both networks name the same classes; the first is sure, the second is not. The first should have the higher "
            "score, one number for each network, (K,).",
            holds=_first_is_best,
        ),
        Case(
            (torch.stack([_SHARP, _ONE_CLASS]),),
            hint="The second network calls everything road, and nobody is surer. It has collapsed: confidence alone takes it "
            "for the best. Look at the mean prediction as well: how many classes does it have?",
            holds=_first_is_best,
        ),
        Case(
            (torch.stack([_SHARP, _NOTHING]),),
            hint="The second network says 1/3 for every class everywhere: many classes, and it knows nothing. Diversity alone "
            "is no sign of quality.",
            holds=_first_is_best,
        ),
        Case(
            (torch.stack([_SHARP, torch.cat([_SHARP[:1], _ONE_CLASS[1:]])]),),
            hint="On the first picture these two are equal; the second picture tells them apart. Use all pictures.",
            holds=_first_is_best,
        ),
    ),
)
