"""`evaluation.separation`: within, between and silhouette of classes, against loops over pairs."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib.evaluation import separation
from tests.bounds import bound, close

CLASSES = 5


def drawn(seed=0, count=60, dim=7):
    numbers = torch.Generator().manual_seed(seed)
    features = torch.randn(count, dim, generator=numbers, dtype=torch.float64)
    labels = torch.randint(0, CLASSES - 1, (count,), generator=numbers)                # the last class has one cell
    labels[:3] = torch.tensor([255, 255, CLASSES - 1])
    return features, labels


def by_pairs(features, labels):
    """From the definitions: loops over classes and pairs."""
    f = F.normalize(features, dim=1)
    groups = {c: f[labels == c] for c in range(CLASSES) if (labels == c).sum() > 1}
    within, between, silhouette = [], [], []
    for c, own in groups.items():
        cosines = [(own[i] @ own[j]).item() for i in range(len(own)) for j in range(len(own)) if i != j]
        within.append(sum(cosines) / len(cosines))
        between += [(own @ other.T).mean().item() for d, other in groups.items() if d != c]
        scores = []
        for i, x in enumerate(own):
            a = sum(1 - (x @ other).item() for j, other in enumerate(own) if j != i) / (len(own) - 1)
            b = min((1 - other @ x).mean().item() for d, other in groups.items() if d != c)
            scores.append((b - a) / max(a, b))
        silhouette.append(sum(scores) / len(scores))
    return tuple(sum(part) / len(part) for part in (within, between, silhouette))


@pytest.mark.parametrize("seed", range(3))
def test_equals_loops_over_pairs(seed):
    features, labels = drawn(seed)
    found = separation(features, labels, CLASSES)
    assert found.classes == CLASSES - 1
    # means of cosines below 1, over 60 cells of 7 numbers; the silhouette divides by distances of about 1, two of them
    close(found[:3], by_pairs(features, labels), bound(60 + 7 + 5, torch.float64, 4.0))


def test_lengths_and_order_do_not_matter():
    features, labels = drawn()
    other = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    moved = separation(3 * features[other], labels[other], CLASSES)
    close(moved[:3], separation(features, labels, CLASSES)[:3], bound(72, torch.float64, 4.0))


def test_tight_classes_are_above_random_and_swapped_ones():
    labels = torch.arange(4).repeat_interleave(10)
    features = torch.eye(4)[labels] + 0.05 * torch.randn(40, 4, generator=torch.Generator().manual_seed(2))
    tight = separation(features, labels, 4)
    random = separation(torch.randn(40, 4, generator=torch.Generator().manual_seed(3)), labels, 4)
    wrong = separation(features, labels.roll(5), 4)                                    # half of each class is another's
    assert tight.silhouette > 0.9 and max(random.silhouette, wrong.silhouette) < 0.1
    assert tight.within > 0.95 > wrong.within and abs(tight.between) < 0.1


def test_one_point_for_all_is_no_separation():
    found = separation(torch.ones(8, 3), torch.arange(8) % 2, 2)
    assert found.silhouette == 0.0
    close(found[:2], (1.0, 1.0), bound(12, torch.float64))


@pytest.mark.parametrize("labels", [[0, 0, 255], [0, 1, 1], [255, 255, 255]])
def test_fewer_than_two_classes_are_nan(labels):
    found = separation(torch.randn(3, 2), torch.tensor(labels), 2)
    assert all(math.isnan(value) for value in found[:3])


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"features \(2, 3, 4, 4\) and labels \(2, 4, 4\); it wants \(N, D\) and \(N,\)"):
        separation(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="is zero and has no direction. Leave it out"):
        separation(torch.zeros(2, 3), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="not finite"):
        separation(torch.tensor([[1.0, math.nan]]), torch.tensor([0]), 2)
    with pytest.raises(ValueError, match="19"):
        separation(torch.ones(1, 3), torch.tensor([19]), 19)


def test_ignored_features_are_not_looked_at():
    features, labels = drawn()
    features[:2] = math.nan
    assert separation(features, labels, CLASSES).classes == CLASSES - 1
