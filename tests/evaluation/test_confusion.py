"""Confusion: counts and scores against loops over pixels, Cityscapes' rule for absent classes, errors."""

import math

import numpy as np
import pytest
import torch

from course_lib.evaluation import Confusion
from course_lib.labels import CITYSCAPES19
from tests.bounds import bound, close, near
from tests.oracles import confusion as oracle

ROUNDING = bound(50, torch.float64)  # counts are exact: one division, and means over up to 19 classes


def random_maps(num_classes: int, seed: int, shape=(2, 7, 9)):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, label, rng.integers(0, num_classes, shape))
    label[rng.random(shape) < 0.2] = 255
    return prediction, label


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 5, 19])
def test_counts_and_iou_equal_the_loops(num_classes, seed):
    prediction, label = random_maps(num_classes, seed, shape=(2, 5, 6))
    confusion = Confusion(num_classes)
    confusion.update(torch.from_numpy(prediction), torch.from_numpy(label))
    assert confusion.matrix.tolist() == oracle.counts(prediction, label, num_classes).tolist()
    expected = oracle.iou(prediction, label, num_classes)
    close(confusion.iou().tolist(), expected, ROUNDING, nan_ok=True)
    close(confusion.miou(), oracle.mean(expected), ROUNDING)
    known = label != 255
    close(confusion.accuracy(), (prediction == label)[known].mean(), ROUNDING)
    recalls = [(prediction == c)[label == c].mean() for c in range(num_classes) if (label == c).any()]
    close(confusion.mean_accuracy(), np.mean(recalls), ROUNDING)


def test_logits_count_as_their_argmax():
    logits = torch.randn(2, 4, 5, 6)
    label = torch.randint(0, 4, (2, 5, 6))
    by_logits, by_ids = Confusion(4), Confusion(4)
    by_logits.update(logits, label)
    by_ids.update(logits.argmax(1), label)
    assert torch.equal(by_logits.matrix, by_ids.matrix)


def test_rows_are_truth_and_columns_what_was_said():
    confusion = Confusion(3)
    confusion.update(torch.tensor([[2]]), torch.tensor([[0]]))
    assert confusion.matrix.nonzero().tolist() == [[0, 2]]


def test_absent_class_is_nan_and_an_invented_one_is_zero():
    """cityscapesScripts: no true, false positive or missed pixel gives nan, which the mean leaves out."""
    confusion = Confusion(4)
    confusion.update(torch.tensor([[0, 0, 3]]), torch.tensor([[0, 0, 0]]))
    iou = confusion.iou().tolist()
    close(iou, [2 / 3, math.nan, math.nan, 0.0], ROUNDING, nan_ok=True)
    close(confusion.miou(), 1 / 3, ROUNDING)
    close(confusion.miou((0, 1)), 2 / 3, ROUNDING)
    assert math.isnan(confusion.miou((1, 2)))


def test_ignored_pixels_do_not_count_not_even_as_false_alarms():
    confusion = Confusion(2)
    confusion.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 255, 255]]))
    assert confusion.matrix.tolist() == [[1, 0], [0, 0]]
    assert math.isnan(confusion.iou()[1])


def test_a_prediction_of_no_class_is_a_miss_and_no_false_alarm():
    confusion = Confusion(3)
    confusion.update(torch.tensor([[0, 255, 255, 1, 255]]), torch.tensor([[0, 0, 2, 1, 255]]))
    assert confusion.iou().tolist() == [1 / 2, 1.0, 0.0]
    assert confusion.matrix.sum().item() == 2 and confusion.missed.tolist() == [1, 0, 1]
    assert confusion.accuracy() == 2 / 4 and near(confusion.mean_accuracy(), (1 / 2 + 1 + 0) / 3, ROUNDING)
    assert confusion.shares().tolist() == [2 / 4, 1 / 4, 1 / 4]
    merged = Confusion(3).merge(confusion)
    assert merged.iou().tolist() == confusion.iou().tolist()
    assert "4 pixels" in repr(merged)


def test_nothing_counted_is_nan():
    confusion = Confusion(3)
    confusion.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255))
    assert math.isnan(confusion.miou()) and math.isnan(confusion.accuracy()) and math.isnan(confusion.mean_accuracy())


def test_images_are_pooled_and_tables_merge():
    parts = [random_maps(4, seed) for seed in range(3)]
    whole, merged = Confusion(4), Confusion(4)
    for prediction, label in parts:
        part = Confusion(4)
        for table in (whole, part):
            table.update(torch.from_numpy(prediction), torch.from_numpy(label))
        assert merged.merge(part) is merged
    assert torch.equal(whole.matrix, merged.matrix)
    with pytest.raises(ValueError, match="table of 5 classes cannot be merged into one of 4"):
        merged.merge(Confusion(5))


def test_subsets_are_the_published_classes():
    confusion = Confusion(19)
    ids = torch.arange(19)
    said = ids.clone()
    left_out = [CITYSCAPES19.classes.index(name) for name in ("terrain", "truck", "train")]
    said[left_out] = 18  # wrong in what the 16 leave out: bicycle suffers by false alarms
    confusion.update(said[None], ids[None])
    assert confusion.miou() == confusion.miou("19")
    close(confusion.miou(), (15 + 1 / 4) / 19, ROUNDING)
    close(confusion.miou("16"), (15 + 1 / 4) / 16, ROUNDING)
    close(confusion.miou("13"), (12 + 1 / 4) / 13, ROUNDING)
    assert confusion.subsets() == ("19", "16", "13")


def test_subsets_of_other_spaces():
    confusion = Confusion(16)
    ids = torch.arange(16)
    said = ids.clone()
    said[[3, 4, 5]] = 15  # wall, fence, pole, which the 13 leave out
    confusion.update(said[None], ids[None])
    close(confusion.miou("13"), (12 + 1 / 4) / 13, ROUNDING)
    assert Confusion(11).subsets() == ("11",)
    assert Confusion(7).subsets() == ("7",)
    with pytest.raises(ValueError, match="this table has 7 classes. Give the train ids as a tuple"):
        Confusion(7).miou("13")
    with pytest.raises(ValueError, match="mIoU got class 7; this table has 0 to 6"):
        Confusion(7).miou((1, 7))


def test_common_classes_hold_more_than_their_share():
    confusion = Confusion(3)
    label = torch.tensor([0] * 994 + [1] * 6 + [2] * 5 + [255] * 500)  # of 1005: 0.597 % and 0.498 %
    said = torch.where(label == 2, 0, label)
    confusion.update(said[None], label[None])
    close(confusion.shares().tolist(), [994 / 1005, 6 / 1005, 5 / 1005], ROUNDING)
    assert confusion.common() == (0, 1)
    assert confusion.common(0.1) == (0,)
    close(confusion.miou(confusion.common()), (994 / 999 + 1) / 2, ROUNDING)


def test_many_pixels_are_counted_exactly():
    """Beyond 2^24 a float32 counter would stand still."""
    confusion = Confusion(2)
    confusion.matrix[0, 0] = 2**40
    confusion.update(torch.tensor([[0, 0, 0]]), torch.tensor([[0, 0, 0]]))
    assert confusion.matrix[0, 0].item() == 2**40 + 3


def test_small_integer_types_do_not_overflow():
    confusion = Confusion(19)
    confusion.update(torch.full((1, 3), 18, dtype=torch.uint8), torch.tensor([[18, 18, 255]], dtype=torch.uint8))
    assert confusion.matrix[18, 18].item() == 2


@pytest.mark.parametrize(
    ("prediction", "label", "words"),
    [
        (torch.tensor([[0]]), torch.tensor([[33]]), "id 33 in the label; it wants 0 to 2 or 255.*lookup_table"),
        (torch.tensor([[0]]), torch.tensor([[-1]]), "id -1 in the label"),
        (torch.tensor([[3]]), torch.tensor([[0]]), r"id 3 in the prediction; it wants 0 to 2 or 255 \(none of them\)\. Is the"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 8, 8).long(), r"prediction of \(1, 4, 4\).*losses.upsample"),
        (torch.zeros(1, 5, 4, 4), torch.zeros(1, 4, 4).long(), "Confusion of 3 classes got logits of 5"),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4).long(), "floating point class ids"),
    ],
)
def test_errors(prediction, label, words):
    with pytest.raises(ValueError, match=words):
        Confusion(3).update(prediction, label)


@pytest.mark.parametrize("logits, label", [
    ((2, 3, 4, 5), (2, 5, 4)), ((2, 3, 7), (3, 7, 1)), ((2, 4, 3, 5), (2, 4, 5)), ((2, 3, 4, 5), (2, 1, 4, 5)), ((4,), ()),
    ((2, 3, 4, 5, 6), (2, 4, 5)), ((0,), (1, 1)),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_wrong_shapes_have_an_error_of_their_own(logits, label, dtype):
    with pytest.raises(ValueError, match="^Confusion (got a prediction of|of 3 classes got logits of)"):
        Confusion(3).update(torch.zeros(logits, dtype=dtype), torch.zeros(label, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(2,), (2, 7), (2, 3), (2, 3, 4), (2, 3, 4, 5), (0, 4)])
def test_logits_may_have_any_axes(shape):
    """(N, C) with (N,), (N, C, L) with (N, L) and so on; no pictures count nothing."""
    label = torch.arange(math.prod(shape)).view(shape) % 3
    logits = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    confusion = Confusion(3)
    confusion.update(logits, label)
    assert confusion.matrix.diagonal().tolist() == [(label == c).sum() for c in range(3)]
    assert confusion.matrix.sum() == label.numel()


def test_one_picture_needs_no_axis_of_its_own():
    label = torch.arange(20).view(4, 5) % 3
    confusion = Confusion(3)
    confusion.update(torch.nn.functional.one_hot(label, 3).movedim(-1, 0).float(), label)
    assert confusion.accuracy() == 1 and confusion.matrix.sum() == 20


@pytest.mark.parametrize("c", range(3))
def test_logits_that_are_nan_are_an_error(c):
    logits, label = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    logits[0, c, 1, 0] = math.nan
    with pytest.raises(ValueError, match="id -1 in the prediction.*logits are NaN.*diverged"):
        Confusion(3).update(logits, label)


@pytest.mark.parametrize("prediction, label, words", [
    (np.zeros((1, 2)), torch.zeros(1, 2).long(), "a prediction of type ndarray.*torch.as_tensor"),
    (torch.zeros(1, 2).long(), np.zeros((1, 2)), "a label of type ndarray.*torch.as_tensor"),
    ([[0]], torch.zeros(1, 1).long(), "a prediction of type list"),
])  # fmt: skip
def test_what_is_no_tensor_is_named(prediction, label, words):
    with pytest.raises(TypeError, match=words):
        Confusion(3).update(prediction, label)


def test_labels_of_floats_are_named():
    with pytest.raises(ValueError, match="floating point class ids.*a label of torch.float32"):
        Confusion(3).update(torch.zeros(1, 2).long(), torch.zeros(1, 2))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16])
def test_ids_of_any_integer_type(dtype):
    confusion = Confusion(3)
    confusion.update(torch.tensor([0, 1, 1]).to(dtype), torch.tensor([0, 2, 1]).to(dtype))
    assert confusion.matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_reset_forgets_everything():
    confusion, fresh = Confusion(3), Confusion(3)
    confusion.update(torch.tensor([0, 255, 2]), torch.tensor([0, 1, 1]))
    confusion.reset()
    assert torch.equal(confusion.matrix, fresh.matrix) and torch.equal(confusion.missed, fresh.missed)


def test_the_normalised_table_has_recall_and_precision_on_its_diagonal():
    confusion = Confusion(4)  # class 3 is nowhere; one pixel of class 1 is predicted as no class
    confusion.update(torch.tensor([0, 0, 1, 1, 255, 2, 0]), torch.tensor([0, 0, 0, 1, 1, 2, 255]))
    of_truth, of_prediction, of_all = (confusion.normalised(over) for over in ("truth", "prediction", "all"))
    assert torch.equal(confusion.normalised().nan_to_num(-1), of_truth.nan_to_num(-1))
    close(of_truth[:3], [[2 / 3, 1 / 3, 0, 0], [0, 1 / 2, 0, 0], [0, 0, 1, 0]], ROUNDING)
    close(of_prediction[:, :3], [[1, 1 / 2, 0], [0, 1 / 2, 0], [0, 0, 1], [0, 0, 0]], ROUNDING)
    close(of_all, [[2 / 6, 1 / 6, 0, 0], [0, 1 / 6, 0, 0], [0, 0, 1 / 6, 0], [0, 0, 0, 0]], ROUNDING)
    assert of_truth[3].isnan().all() and of_prediction[:, 3].isnan().all()
    with pytest.raises(ValueError, match="over is 'rows'; choose 'truth'"):
        confusion.normalised("rows")


@pytest.mark.parametrize("ignore_index", [-1, 0, 3, 1000])
def test_another_id_is_ignored(ignore_index):
    """A class, too: its pixels do not count, and who predicts it elsewhere is wrong."""
    prediction, label = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 2, 255, 255])
    confusion, wanted = Confusion(3, ignore_index=ignore_index), Confusion(3)
    confusion.update(prediction, torch.where(label == 255, ignore_index, label))
    wanted.update(prediction, label)
    assert torch.equal(confusion.matrix, wanted.matrix)
    with pytest.raises(ValueError, match=f"id 255 in the label; it wants 0 to 2 or {ignore_index} "):
        confusion.update(prediction, label)


def test_more_classes_than_255_once_255_is_not_ignored():
    confusion = Confusion(300, ignore_index=-1)
    confusion.update(torch.tensor([255, 299]), torch.tensor([255, 299]))
    assert confusion.matrix[255, 255] == 1 and confusion.miou() == 1


def test_a_prediction_on_an_ignored_pixel_may_be_anything():
    confusion = Confusion(3)
    confusion.update(torch.tensor([[255, 1]]), torch.tensor([[255, 1]]))
    assert confusion.matrix.sum().item() == 1


def test_number_of_classes_is_checked():
    with pytest.raises(ValueError, match="num_classes=256; it wants 1 to 255"):
        Confusion(256)
