"""Lovasz-softmax against its definition, its gradient against differences, and its edge cases."""

import pytest
import torch

from course_lib.losses import lovasz_softmax, upsample
from tests.bounds import bound, close, stated
from tests.oracles import lovasz as oracle


def problem(N=2, C=4, H=3, W=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, C, H, W, generator=generator, dtype=torch.float64)
    label = torch.randint(0, C - 1, (N, H, W), generator=generator)  # the last class is nowhere
    label[0, 1] = 255
    return logits, label


# softmax over 4 classes, then one inner product over up to 120 numbers; slope times p adds up to at most 1 for each class, and
# so does the constant, against which it cancels
ROUNDING = bound(150, torch.float64, 2.0)


def slow(logits, label) -> float:
    p = torch.softmax(logits, 1).permute(0, 2, 3, 1).flatten(0, 2)
    return oracle.lovasz_softmax(p.tolist(), label.flatten().tolist())


def test_equals_the_definition():
    logits, label = problem()
    close(lovasz_softmax(logits, label).item(), slow(logits, label), ROUNDING)


def test_pixels_predicted_without_doubt_give_one_minus_iou():
    label = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    said = torch.tensor([[[0, 0, 1, 1, 0, 1]]])
    logits = 100 * torch.nn.functional.one_hot(said).permute(0, 3, 1, 2).double()
    iou = (2 / 4 + 1 / 3) / 2
    close(lovasz_softmax(logits, label).item(), 1 - iou, ROUNDING)


def test_gradient_is_that_of_the_value():
    logits, label = problem()
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, label), logits.requires_grad_())


def test_ignored_pixels_have_no_say():
    logits, label = problem()
    changed = logits.clone()
    changed[0, :, 1] = 100 * torch.randn(4, 5, dtype=torch.float64)
    close(lovasz_softmax(changed, label).item(), lovasz_softmax(logits, label).item(), ROUNDING)


def test_all_ignored_is_zero_with_zero_gradient():
    logits = problem()[0].requires_grad_()
    loss = lovasz_softmax(logits, torch.full((2, 3, 5), 255))
    loss.backward()
    assert loss.item() == 0.0 and not logits.grad.any()


def test_many_pixels_in_float32_keep_their_digits():
    """Differences of nearly equal Jaccard losses would lose them: 300,000 pixels, one rare class."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 3, 500, 600, generator=generator)
    label = (torch.rand(1, 500, 600, generator=generator) > 0.5).long()
    label[0, 0, :7] = 2
    single, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    for x in (single, double):
        lovasz_softmax(x, label).backward()
    # softmax over 3 classes, slope and product (14), then two sums: torch adds in a cascade of at most 4 levels, each of up to
    # 16 numbers in a row for these 900,000, and joins the lanes of its vectors (32). Sizes as in ROUNDING
    rounding = bound(14 + 4 * 16 + 32, torch.float32, 2.0)
    close(lovasz_softmax(single, label).item(), lovasz_softmax(double, label).item(), rounding)
    error = (single.grad - double.grad).abs().sum() / double.grad.abs().sum()
    close(error, 0.0, stated(1e-3, "equal errors of float32 may change places"))


def test_logits_come_to_the_labels_size():
    logits, label = torch.randn(1, 3, 3, 4), torch.randint(0, 3, (1, 9, 13))
    assert lovasz_softmax(logits, label) == lovasz_softmax(upsample(logits, (9, 13)), label)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"logits \(1, 4, 3, 5\) and labels \(2, 3, 5\).*softmax is inside"):
        lovasz_softmax(torch.zeros(1, 4, 3, 5), torch.zeros(2, 3, 5, dtype=torch.int64))
