"""Exercises of notebook 08: which pictures are labelled, DepthMix, region negatives, a ranked memory, a greedy choice.

Letters: N pictures or cells, D numbers of a feature, C classes, B branches; y train ids, 255 where a pixel has none.
"""

import torch

from course_lib.classroom.checks.machinery import Case, Check

NAMES = [f"aachen_{k:06d}" for k in range(12)]
# by hashlib.sha256(f"{seed} {name}".encode()).hexdigest(), smallest first; then all others
PARTS_4 = [3, 4, 9, 11, 0, 1, 2, 5, 6, 7, 8, 10]
PARTS_6 = [3, 4, 7, 9, 10, 11, 0, 1, 2, 5, 6, 8]
OTHER_SEED = [0, 1, 3, 7, 2, 4, 5, 6, 8, 9, 10, 11]


def _places(parts: tuple) -> list:
    """Of the labelled names, then of the rest."""
    return [NAMES.index(name) for part in parts for name in part]


def _nothing_twice(parts: tuple, names: list, *_) -> bool:
    return sorted([*parts[0], *parts[1]]) == sorted(names)


split = Check(
    name="split",
    task="Write split(names, count, seed) -> (labelled, rest), two sorted lists of names: labelled are the `count` names whose "
    "hashlib.sha256(f'{seed} {name}'.encode()).hexdigest() is smallest, rest all others.",
    cases=(
        Case(
            (NAMES, 4, 0),
            hint="Every name is in one of the two lists, and in one alone. A labelled picture among the unlabelled ones is a "
            "leak: its pseudo-label is scored on pixels whose truth was trained on.",
            holds=_nothing_twice,
        ),
        Case(
            (NAMES, 4, 0),
            PARTS_4,
            "The four smallest hashes are labelled, all others are not, each list in sorted order. The first four names are "
            "the first four pictures of one drive; the largest hashes are another set.",
            part=_places,
        ),
        Case(
            (NAMES[::-1], 4, 0),
            PARTS_4,
            "The same names in another order are the same split. A shuffled list, or the place of a name in it, gives another "
            "one on a machine that lists its folders in another order.",
            part=_places,
        ),
        Case(
            (NAMES, 6, 0),
            PARTS_6,
            "The six labelled ones have the four of before among them, so that a curve over 4, 6, ... labels adds pictures and "
            "changes none. The number of labels is no part of what is hashed.",
            part=_places,
        ),
        Case(
            (NAMES, 4, 1),
            OTHER_SEED,
            "Another seed, another split: the text that is hashed begins with the seed, as it is given, and a blank.",
            part=_places,
        ),
    ),
)


def _row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


depth_mix_mask = Check(
    name="depth_mix_mask",
    level="fill in",
    task="Write depth_mix_mask(D_i, D_j, tie): disparities (h, w) of two pictures, large where a thing is near -> M (h, w), "
    "bool: where picture i is shown. Scale each picture's disparities to [0, 1], its farthest pixel to 0 and its nearest to 1; "
    "i is shown where its scaled disparity is at least that of j less tie.",
    cases=(
        Case(
            (_row(0.0, 0.9, 0.1, 1.0), _row(1.0, 0.5, 0.5, 0.0), 0.0),
            [[False, True, False, True]],
            "Disparity is large where a thing is near, and the nearer one hides the other: i is shown where D_i >= D_j. With "
            "<= the road would cover the car.",
        ),
        Case(
            (_row(0.0, 0.2, 0.4), _row(60.0, 34.0, 20.0), 0.0),
            [[False, True, True]],
            "Scaled, i has 0, 0.5, 1 and j has 1, 0.35, 0. Without scaling the picture with the larger disparities covers all. "
            "Subtract the smallest, then divide by the largest less the smallest.",
        ),
        Case(
            (_row(0.0, 0.48, 0.4, 1.0), _row(1.0, 0.5, 0.5, 0.0), 0.03),
            [[False, True, False, True]],
            "Within the tie, 0.03, i wins although it is a little farther away: D_i >= D_j - tie. With + tie it has to be "
            "nearer by that much.",
        ),
        Case(
            (_row(0.5, 0.0), _row(0.5, 0.0), 0.0),
            [[True, True]],
            "Equal disparities: >= shows i. With > a pixel could be shown in neither of the two mixtures, of i on j and of j "
            "on i.",
        ),
        Case(
            (_row(0.0, 1.8, 1.4, 4.0), _row(4.0, 2.0, 2.0, 0.0), 0.1),
            [[False, True, False, True]],
            "The tie is 0.1 here, of scaled disparities: 0.45 wins against 0.5, and 0.35 does not.",
        ),
    ),
)


def _means(mu: list, there: list, c: int, tau: float) -> tuple:
    return torch.tensor(mu), torch.tensor(there), c, tau


ALL_3 = [True, True, True]
MEANS = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]

negative_classes = Check(
    name="negative_classes",
    task="Write negative_classes(mu, there, c, tau): class means mu (C, D), there (C,) bool: whether the batch shows a class, "
    "c the query's class -> P (C,): the probability that a negative is of each class, softmax of cos(mu_c, mu_c') / tau over "
    "the other classes that are there.",
    cases=(
        Case(
            _means(MEANS, ALL_3, 0, 1.0),
            [0.0, 0.6457, 0.3543],
            "Class 0's cosines: 0.6 with class 1, 0 with class 2. Its own class is no negative: P = 0 there, and the two "
            "others add up to 1. (0.491, 0.329, 0.181) lets the class itself into the softmax.",
        ),
        Case(
            _means([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]], ALL_3, 1, 1.0),
            [0.4502, 0.0, 0.5498],
            "The means have the lengths 2, 5 and 1: a cosine does not depend on them. Divide by both lengths; class 1's "
            "cosines are 0.6 with class 0 and 0.8 with class 2.",
        ),
        Case(
            _means([[1.0, 0.0], [3.0, 4.0], [-2.0, 0.0]], ALL_3, 0, 1.0),
            [0.0, 0.8320, 0.1680],
            "A cosine of -1 is a class that is unlike the query's: it has the smaller probability, no absolute value and no 0 "
            "in its place.",
        ),
        Case(
            _means(MEANS, [True, True, False], 0, 1.0),
            [0.0, 1.0, 0.0],
            "Class 2 is not in the batch: its mean is nobody's, and no cell could be drawn. P = 0.",
        ),
        Case(
            _means(MEANS, ALL_3, 2, 0.1),
            [0.0003, 0.9997, 0.0],
            "tau = 0.1: the cosines are divided by it, so that nearly all negatives are of the nearest class. (0.480, 0.520) "
            "multiplies.",
        ),
    ),
)  # fmt: skip


def _memory(memory: list, features: list, scores: list, k: int) -> tuple:
    return *(torch.tensor(values) for values in (memory, features, scores)), k


OLD = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
NEW = [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]

remembered = Check(
    name="remembered",
    task="Write remembered(memory, features, scores, k): memory (N, D), the oldest first; features (M, D) of this step and "
    "their scores (M,) -> the memory (N, D) after the k features with the highest scores have gone in at the end, the highest "
    "first, and as many have fallen out at the front.",
    cases=(
        Case(
            _memory(OLD, NEW, [0.9, 0.1, 0.5], 1),
            [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]],
            "The feature with the score 0.9 goes in. (5, 5) has the LOWEST score: argsort is ascending, and the release takes "
            "its beginning.",
        ),
        Case(
            _memory(OLD, NEW, [0.5, 0.1, 0.9], 2),
            [[3.0, 3.0], [6.0, 6.0], [4.0, 4.0]],
            "Two go in, the highest first: (6, 6), then (4, 4). The two oldest fall out, at the front; the length stays N.",
        ),
        Case(
            _memory(OLD, NEW[:1], [0.2], 2),
            [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]],
            "There is one feature, and k is 2: one goes in, and one falls out. A class that a step hardly shows must not push "
            "out more than it brings.",
        ),
        Case(
            _memory(OLD[:2], NEW, [0.9, 0.1, 0.5], 3),
            [[6.0, 6.0], [5.0, 5.0]],
            "Three go into a memory of two: of the row that is (1, 1) (2, 2) (4, 4) (6, 6) (5, 5) the last two stay.",
        ),
    ),
)


def _branches(*maps: list, truth: list, usable: list | None = None, classes: int = 2) -> tuple:
    return torch.tensor(maps), torch.tensor(truth), torch.tensor(usable or [True] * len(truth)), classes


RIGHT = [0, 0, 1, 1]

greedy_choice = Check(
    name="greedy_choice",
    task="Write greedy_choice(predictions, truth, usable, num_classes): predictions (B, N, P) of B branches for N labelled "
    "pictures of P pixels, truth (N, P), usable (N,) bool: True for a picture that no branch was trained on -> the number of "
    "the branch with the highest mean IoU on the usable pictures, over the classes that their labels show, pixels of all "
    "pictures counted together; of equal ones the first.",
    cases=(
        Case(
            _branches([[1, 1, 1, 1]], [[0, 0, 0, 1]], truth=[[0, 0, 0, 1]]),
            1,
            "Branch 1 is right everywhere, its mean IoU is 1. 0 is the branch with the LOWEST.",
        ),
        Case(
            _branches([RIGHT, [0, 1, 1, 1]], [[0, 1, 0, 1], RIGHT], truth=[RIGHT, RIGHT], usable=[False, True]),
            1,
            "The first picture is one that the branches were trained on. Branch 0 is right there and worse on the other one: "
            "choose on pictures that no branch has learned from.",
        ),
        Case(
            _branches([[0] * 10], [[0] * 6 + [1] * 4], truth=[[0] * 8 + [1] * 2]),
            1,
            "Both branches have 8 pixels of 10 right, but the first never finds class 1: IoU 0.8 and 0, the second 0.75 and "
            "0.5. Compare the mean IoU, not the share of right pixels.",
        ),
        Case(
            _branches([[0, 0, 1, 0]], [[0, 0, 1, 1]], truth=[[0, 0, 1, 255]]),
            0,
            "The last pixel has no label, 255: it says nothing of either branch. They are equal, so the first stays. 1 has "
            "counted it as a class.",
        ),
        Case(
            _branches([[0, 0, 1, 1]], [[0, 0, 1, 0]], truth=[[0, 0, 1, 255]]),
            0,
            "Leave the pixel without a label out of the predictions, too: in a union it would lower the IoU of whichever class "
            "is predicted there.",
        ),
        Case(
            _branches([[0, 0, 1, 1], [1, 1, 1, 0]], [[0, 0, 0, 0], [0, 0, 1, 1]], truth=[[0, 0, 1, 1], [0, 0, 0, 1]]),
            1,
            "Add up the counts of all pictures, then divide: branch 0 has IoU 2/6 and 2/6, branch 1 has 4/7 and 1/4. The mean "
            "over pictures, 0.5 and 0.42, takes the branch that is right in one picture and wrong in the other.",
        ),
        Case(
            _branches([[0, 0, 0, 0, 1, 1, 1, 0]], [[0, 0, 0, 0, 1, 1, 1, 2]], truth=[[0] * 4 + [1] * 4], classes=3),
            1,
            "Class 2 is in no label here: branch 1 predicts it once, branch 0 never, and both are compared over classes 0 and "
            "1: 0.875 against 0.775. With an IoU of 0 for class 2 the branch that finds rare classes would lose on every few "
            "pictures that do not show them; 0/0 is NaN.",
        ),
    ),
)  # fmt: skip


def _groups(*sizes: int) -> torch.Tensor:
    """Groups of pictures at right angles to one another, each picture a little off its group."""
    numbers = torch.Generator().manual_seed(0)
    middle = torch.cat([torch.eye(len(sizes))[k].repeat(size, 1) for k, size in enumerate(sizes)])
    return middle + 0.01 * torch.randn(middle.shape, generator=numbers)


def _indices(chosen, features, count) -> bool:
    chosen = [int(k) for k in chosen]
    return len(chosen) == len(set(chosen)) == count and all(0 <= k < len(features) for k in chosen)


def _groups_shown(chosen, sizes: tuple) -> int:
    group = [k for k, size in enumerate(sizes) for _ in range(size)]
    return len({group[int(k)] for k in chosen})


pictures_to_label = Check(
    name="pictures_to_label",
    level="design",
    task="Write pictures_to_label(features, count): one vector for each picture, (N, D) -> the numbers of `count` pictures "
    "that somebody should label. Nobody has labelled any yet; pictures that are nearly alike teach nearly the same.",
    cases=(
        Case(
            (_groups(4, 4), 3),
            hint="`count` different whole numbers from 0 to N - 1.",
            holds=_indices,
        ),
        Case(
            (_groups(40, 3, 2), 3),
            hint="45 pictures of three kinds, 40 of one kind: three labels should show all three. The first three, or three "
            "drawn at random, are nearly always of one kind; take a picture that is far from those that you have.",
            holds=lambda chosen, *_: _groups_shown(chosen, (40, 3, 2)) == 3,
        ),
        Case(
            (_groups(3, 2, 40) @ torch.tensor([[0.0], [10.0], [4.0]]), 3),
            hint="Three kinds on a line, at 0, 10 and 4: each has to be there. Begin with two that are far apart; "
            "the next one has to be far from ALL that were chosen, not from the last one alone.",
            holds=lambda chosen, *_: _groups_shown(chosen, (3, 2, 40)) == 3,
        ),
        Case(
            (torch.ones(5, 3), 2),
            hint="All pictures are alike: still two different ones, no error and no picture twice.",
            holds=_indices,
        ),
    ),
)
