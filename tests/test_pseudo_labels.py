"""Class-wise thresholds and a picture's surest pixels against sorting everything, edges, and quality against counting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pseudo_labels import (
    ClassThresholds,
    LabelQuality,
    accuracy_by_density,
    any_class_labels,
    batch_thresholds,
    class_thresholds,
    confidence,
    density_accuracy,
    dynamic_labels,
    hybrid_labels,
    picture_labels,
    threshold_labels,
)
from tests.bounds import bound, close
from tests.oracles import pseudo_labels as oracle

DIVISION = bound(1, torch.float32)  # counts are exact

def pictures(count: int = 6, classes: int = 5, size=(20, 30), seed: int = 0):
    """Softmax outputs of random logits: each class as sure as its number says."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        logits = torch.randn(1, classes, *size, generator=generator)
        yield confidence(logits * torch.linspace(0.5, 6, classes)[:, None, None])


def together(read):
    sure, prediction = zip(*read())
    return torch.cat(sure).flatten(), torch.cat(prediction).flatten()


# ---- thresholds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proportion, cap", [(0.6, 0.9), (0.5, 0.9), (0.0, 1.0), (1.0, 1.0), (0.987, 1.0), (0.6, 0.0)])
def test_equal_sorting_everything_to_the_last_bit(proportion, cap):
    sure, prediction = together(pictures)
    wanted = oracle.thresholds(sure.tolist(), prediction.tolist(), 7, proportion, cap)
    found = class_thresholds(pictures, 7, proportion, cap)
    assert torch.equal(found, torch.tensor(wanted)) and found.dtype == torch.float32
    assert wanted[5:] == [0.0, 0.0]  # never predicted


def test_published_numbers_keep_the_top_forty_percent_up_to_the_cap():
    """Class 0 is never above 0.9: 40 % stay. Class 1 is mostly: everything from 0.9 on."""
    sure = torch.cat([torch.linspace(0.3, 0.7, 1000), torch.linspace(0.8, 1.0, 1000)])
    prediction = torch.arange(2).repeat_interleave(1000)
    t = class_thresholds(lambda: [(sure, prediction)], 2)
    labels = threshold_labels(sure, prediction, t)
    assert (labels[:1000] == 0).sum() == 400 and t[1] == torch.tensor(0.9)
    assert (labels[1000:] == 1).sum() == (sure[1000:] >= 0.9).sum() == 500


def test_the_table_of_the_slide():
    """Six pixels each of road, sign and car, the same share of each: nothing of a class is taken for another's confidence."""
    sure = torch.tensor(
        [[0.99, 0.97, 0.95, 0.90, 0.87, 0.84], [0.6, 0.55, 0.54, 0.50, 0.45, 0.40], [0.87, 0.85, 0.81, 0.77, 0.72, 0.68]]
    )
    prediction = torch.arange(3)[:, None].expand(3, 6)
    t = class_thresholds(lambda: [(sure, prediction)], 3, proportion=0.5, cap=1.0)
    assert torch.equal(t, sure[:, 2])
    assert (threshold_labels(sure, prediction, t) != 255).sum(1).tolist() == [3, 3, 3]
    assert (threshold_labels(sure, prediction, 0.84) != 255).sum(1).tolist() == [6, 0, 2]  # one for all: the sign starves


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.floats(0, 1, width=32).map(abs), st.integers(0, 3)) | st.sampled_from([(0.5, 0), (1.0, 1), (0.0, 2)]),
        min_size=1,
        max_size=40,
    ),
    proportion=st.floats(0, 1),
    cap=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_any_values_ties_and_tiny_classes(values, proportion, cap):
    """Ties, 0, 1, denormal numbers, a class with one pixel (the released code reads past its end) and with none."""
    sure, prediction = torch.tensor([v for v, _ in values]), torch.tensor([c for _, c in values])
    wanted = oracle.thresholds(sure.tolist(), prediction.tolist(), 4, proportion, cap)
    assert torch.equal(class_thresholds(lambda: [(sure, prediction)], 4, proportion, cap), torch.tensor(wanted))


def test_a_class_predicted_once_is_kept():
    sure, prediction = torch.tensor([0.3, 0.6, 0.7]), torch.tensor([0, 1, 1])
    t = class_thresholds(lambda: [(sure, prediction)], 3)
    close(t.tolist(), [0.3, 0.7, 0.0], bound(1, torch.float32))
    assert threshold_labels(sure, prediction, t).tolist() == [0, 255, 1]


def test_memory_does_not_grow_with_the_images():
    def numbers(search):
        return sum(value.numel() for value in vars(search).values() if isinstance(value, torch.Tensor))

    sizes = []
    for count in (1, 8):
        search = ClassThresholds(5)
        for _ in range(2):
            for picture in pictures(count):
                search.add(*picture)
            if search.lower is None:
                search.narrow()
        search.thresholds()
        sizes.append(numbers(search))
    assert sizes[0] == sizes[1] < 5 * (2**14 + 2**16 + 20)


def test_a_second_pass_over_something_else_is_refused():
    search = ClassThresholds(5)
    for picture in pictures():
        search.add(*picture)
    with pytest.raises(ValueError, match="has seen one pass. Call narrow"):
        search.thresholds()
    search.narrow()
    for picture in pictures(count=5):
        search.add(*picture)
    with pytest.raises(ValueError, match="second pass saw other confidences than the first. Give both the same images"):
        search.thresholds()
    again = list(pictures())
    with pytest.raises(ValueError, match="in evaluation mode"):  # as many pixels, others
        class_thresholds(lambda: [again.pop()], 5)


@pytest.mark.parametrize(
    "sure, prediction, message",
    [
        (torch.zeros(3, 4), torch.zeros(4, 3, dtype=torch.int64), r"confidences \(3, 4\) and predictions \(4, 3\)"),
        (torch.tensor([0.5, 1.5]), torch.tensor([0, 1]), "confidences from 0.5 to 1.5; it wants probabilities"),
        (torch.tensor([-0.5, 0.5]), torch.tensor([0, 1]), "confidences from -0.5 to 0.5"),
        (torch.tensor([math.nan, 0.5]), torch.tensor([0, 1]), "confidences from nan"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0, 2]), "class 2; it was built for 0 to 1"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0, -1]), "class -1; it was built for 0 to 1"),
    ],
)
def test_errors_say_what_came(sure, prediction, message):
    with pytest.raises(ValueError, match=message):
        ClassThresholds(2).add(sure, prediction)


def test_shares_are_shares():
    with pytest.raises(ValueError, match="proportion is 60 and cap is 0.9"):
        ClassThresholds(2, proportion=60)


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_released_test_looks_at_the_logit_and_keeps_nearly_everything():
    logits = torch.zeros(1, 19, 1, 2)
    logits[0, 4, 0] = torch.tensor([0.95, 5.0])
    sure, prediction = confidence(logits)
    wanted = [math.exp(0.95) / (18 + math.exp(0.95)), math.exp(5) / (18 + math.exp(5))]
    close(sure[0, 0], wanted, bound(19 + 8, torch.float32))
    assert threshold_labels(sure, prediction, 0.9).tolist() == [[[255, 255]]]
    assert threshold_labels(*confidence(logits, "logit"), 0.9).tolist() == [[[4, 4]]]
    with pytest.raises(ValueError, match="score is 'margin'; choose 'probability' or 'logit'"):
        confidence(logits, "margin")


def test_a_pixel_exactly_at_the_threshold_is_kept():
    labels = threshold_labels(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), torch.tensor([0.5, 0.5000001]))
    assert labels.tolist() == [0, 255] and labels.dtype == torch.int64


# ---- the surest of every picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 1.0, 1 / 600, 0.0016])
def test_the_surest_share_of_every_picture_equals_sorting_it(share):
    sure, prediction = (torch.cat(part) for part in zip(*pictures(3)))
    found = picture_labels(sure, prediction, share)
    for n in range(3):
        wanted = oracle.surest(sure[n].flatten().tolist(), prediction[n].flatten().tolist(), share)
        assert found[n].flatten().tolist() == wanted
        assert (found[n] != 255).sum() == int(share * 600)
    assert found.dtype == torch.int64 and found.shape == sure.shape


def test_every_picture_has_its_own_limit():
    """One is nowhere as sure as the other: a limit for both together would give it nothing."""
    sure = torch.tensor([[[0.9, 0.8, 0.7, 0.6]], [[0.1, 0.2, 0.3, 0.4]]])
    assert picture_labels(sure, torch.zeros(2, 1, 4).long(), 0.5).tolist() == [[[0, 0, 255, 255]], [[255, 255, 0, 0]]]


def test_pixels_as_sure_as_the_last_are_all_kept():
    """The released test is a strict ">": of a picture that is sure of everything it keeps nothing."""
    sure = torch.tensor([[[0.9, 0.5, 0.5, 0.5, 0.2]], [[1.0, 1.0, 1.0, 1.0, 1.0]]])
    assert picture_labels(sure, torch.full((2, 1, 5), 7), 0.4).tolist() == [[[7, 7, 7, 7, 255]], [[7] * 5]]


@pytest.mark.parametrize("share, kept", [(0.0, 0), (0.24, 0), (0.25, 1), (0.99, 3), (1.0, 4)])
def test_a_share_of_less_than_a_pixel_is_nothing_and_1_is_everything(share, kept):
    prediction = torch.tensor([[[3, 1], [2, 0]]], dtype=torch.uint8)
    found = picture_labels(torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]), prediction, share)
    assert (found != 255).sum() == kept and found.dtype == torch.int64
    assert torch.equal(found[found != 255], prediction[found != 255].long())


@pytest.mark.parametrize("share", [-0.1, 1.1, 10, math.nan])
def test_the_share_of_a_picture_is_a_share(share):
    with pytest.raises(ValueError, match=f"share is {share}; it is a share of the pixels, 0 to 1"):
        picture_labels(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), share)


# ---- the released test of any class ---------------------------------------------------------------------------------


def some_probabilities(count: int = 4):
    """Class 4 is said often and surely, class 0 seldom and unsurely."""
    logits = torch.randn(count, 5, 20, 30, generator=torch.Generator().manual_seed(1))
    return (logits + torch.linspace(0, 2, 5)[:, None, None]).softmax(1)


def test_any_class_leaks_what_its_own_class_turns_away():
    """Road at 0.7 is not sure enough for road; that it is pole with 0.3 is enough for pole: it passes, as road."""
    probabilities, t = torch.tensor([0.7, 0.3]).view(1, 2, 1, 1), torch.tensor([0.9, 0.2])
    sure, prediction = probabilities.max(1)
    assert threshold_labels(sure, prediction, t).item() == 255 and any_class_labels(probabilities, t).item() == 0


def test_any_class_equals_the_loop_over_pixels():
    probabilities, t = some_probabilities(), torch.tensor([0.4, 0.5, 0.9, 0.95, 0.0])
    found = any_class_labels(probabilities, t)
    columns = probabilities.movedim(1, -1).reshape(-1, 5)
    assert found.flatten().tolist() == [oracle.any_class(column, t.tolist()) for column in columns.tolist()]
    assert 0.2 < (found == 255).float().mean() < 0.8 and found.dtype == torch.int64


def test_any_class_keeps_what_class_wise_thresholds_keep_and_more():
    probabilities = some_probabilities()
    sure, prediction = probabilities.max(1)
    t = class_thresholds(lambda: [(sure, prediction)], 5, proportion=0.3)
    own, any_class = threshold_labels(sure, prediction, t), any_class_labels(probabilities, t)
    assert torch.equal(any_class[own != 255], own[own != 255])
    more = (any_class != 255) & (own == 255)
    assert more.sum() > 10 and torch.equal(any_class[more], prediction[more])


def test_a_class_that_is_never_predicted_vouches_for_nobody():
    """Its threshold is 0, and every pixel is it with at least that."""
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.9, 0.1, 0.0]]).T.reshape(1, 3, 1, 3)
    assert any_class_labels(probabilities, torch.tensor([0.8, 0.5, 0.0])).tolist() == [[[255, 2, 0]]]


# ---- quality --------------------------------------------------------------------------------------------------------


def case():
    labels = torch.tensor([[0, 0, 1, 255], [0, 1, 1, 255], [2, 2, 255, 255], [0, 1, 255, 0]])
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 255], [2, 255, 0, 1], [0, 1, 2, 2]])
    return labels, truth


def test_density_and_accuracy_by_hand():
    """Eleven labels on sixteen pixels, two of them where the truth is not known; of the nine left six are right."""
    labels, truth = case()
    density, accuracy = density_accuracy(labels, truth)
    close((density, accuracy), (9 / 16, 6 / 9), DIVISION)
    close((density, accuracy), oracle.density_accuracy(labels.flatten().tolist(), truth.flatten().tolist()), DIVISION)


def test_per_class_is_of_the_labels_that_say_it():
    quality = LabelQuality(4).add(*case())
    close(quality.class_density.tolist(), [5 / 16, 3 / 16, 1 / 16, 0.0], DIVISION)
    close(quality.class_accuracy, [3 / 5, 2 / 3, 1.0, math.nan], DIVISION, nan_ok=True)
    close(quality.class_density.sum().item(), quality.density, DIVISION)


def test_images_are_pooled_and_bytes_are_labels_too():
    labels, truth = case()
    quality = LabelQuality(3)
    for row, true in zip(labels.byte(), truth.byte()):
        quality.add(row, true)
    assert (quality.density, quality.accuracy) == density_accuracy(labels, truth)


def test_nothing_labelled_has_no_accuracy():
    density, accuracy = density_accuracy(torch.full((2, 2), 255), torch.zeros(2, 2, dtype=torch.int64))
    assert density == 0.0 and math.isnan(accuracy)


def test_quality_errors():
    with pytest.raises(ValueError, match=r"labels \(2, 3\) and truth \(3, 2\)"):
        density_accuracy(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="label 7; it was built for 0 to 2"):
        LabelQuality(3).add(torch.tensor([7]), torch.tensor([1]))
    with pytest.raises(ValueError, match="label -1; it was built for 0 to 2"):
        LabelQuality(3).add(torch.tensor([-1]), torch.tensor([1]))


@pytest.mark.parametrize("proportion", [0.0, 0.37, 0.6, 1.0])
@pytest.mark.parametrize("cap", [0.5, 0.9, 1.0])
def test_thresholds_of_one_batch_are_those_of_the_search(proportion, cap):
    generator = torch.Generator().manual_seed(3)
    sure = torch.rand(2, 16, 32, generator=generator)
    sure[0, :4] = sure[0, 4, 0]  # ties
    sure[1, :4] = 1.0
    prediction = torch.randint(0, 5, sure.shape, generator=generator)
    prediction[0, 0, 0] = 6  # one pixel of 6, none of 5
    wanted = class_thresholds(lambda: [(sure, prediction)], 7, proportion, cap)
    assert torch.equal(batch_thresholds(sure, prediction, 7, proportion, cap), wanted)


def test_confidence_is_float32_of_the_formats_own_numbers():
    """float64 logits that float32 cannot tell apart; half precision whose softmax float16 would round."""
    logits = torch.tensor([1.0, 1.0 + 1e-12, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    for score in ("probability", "logit"):
        sure, prediction = confidence(logits, score)
        assert sure.dtype == torch.float32 and prediction.item() == 1
    half = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float16).view(1, 3, 1, 1)
    assert torch.equal(confidence(half)[0], confidence(half.float())[0])


@pytest.mark.parametrize("ignore_index", [-1, 0, 1000])
def test_another_id_stands_for_no_label(ignore_index):
    """In what is written, and in what is read."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2, 4, 3, 5, generator=generator).softmax(1)
    f, rho = torch.randn(2, 6, 3, 5, generator=generator), torch.randn(4, 6, generator=generator)
    sure, prediction = p.max(1)
    few = torch.full((4,), 0.3)
    for make in (lambda **how: threshold_labels(sure, prediction, few, **how), lambda **how: any_class_labels(p, few, **how),
                 lambda **how: picture_labels(sure, prediction, 0.5, **how),
                 lambda **how: picture_labels(sure, prediction, 0, **how),
                 lambda **how: dynamic_labels(f, rho, 0.3, **how)):  # fmt: skip
        labels, found = make(), make(ignore_index=ignore_index)
        assert (labels == 255).any() and torch.equal(found, torch.where(labels == 255, ignore_index, labels))
    a, b = (torch.where(torch.rand(30, generator=generator) < 0.5, 255, torch.randint(1, 4, (30,), generator=generator))
            for _ in range(2))  # fmt: skip
    other_a, other_b = (torch.where(y == 255, ignore_index, y) for y in (a, b))
    hybrid = hybrid_labels(a, b)
    assert torch.equal(hybrid_labels(other_a, other_b, ignore_index), torch.where(hybrid == 255, ignore_index, hybrid))
    assert density_accuracy(other_a, other_b, ignore_index) == density_accuracy(a, b)


def test_accuracy_by_density_is_that_of_labels_above_a_threshold():
    generator = torch.Generator().manual_seed(3)
    sure = torch.randperm(600, generator=generator).view(3, 10, 20) / 600  # no two alike
    labels, truth = (torch.randint(0, 4, (3, 10, 20), generator=generator) for _ in range(2))
    truth[0, :4] = 255
    density, accuracy = accuracy_by_density(sure, labels, truth, points=12)
    for k in range(12):
        surest = labels.where(sure >= sure.flatten().sort(descending=True).values[50 * (k + 1) - 1], 255)
        counted = density_accuracy(surest, truth)
        close(torch.stack([density[k], accuracy[k]]), torch.tensor(counted, dtype=torch.float64), DIVISION)
    assert density[-1] < 1  # unknown truth


def test_accuracy_by_density_says_what_came():
    ones = torch.ones(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"shapes \(4,\), \(4,\), \(2,\).*one shape"):
        accuracy_by_density(ones, ones, ones[:2])
    with pytest.raises(ValueError, match="points is 5.*from 1 to the 4 pixels"):
        accuracy_by_density(ones, ones, ones, points=5)
