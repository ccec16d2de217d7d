"""Cross-entropy against a slow oracle, its edge cases, and the published upsampling."""

import pytest
import torch

from course_lib.losses import cross_entropy, upsample
from tests.bounds import bound, close
from tests.oracles import losses as oracle

ROUNDING = bound(60, torch.float64, 10.0)  # log softmax over 5 classes, then the mean over 42 pixels; no term is above 10


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 5, (2, 4, 6), generator=generator)
    label[0, 1] = 255
    return logits, label


def test_equals_the_oracle(problem):
    logits, label = problem
    close(cross_entropy(logits, label).item(), oracle.cross_entropy(logits.tolist(), label.tolist()), ROUNDING)


def test_ignored_pixels_have_no_say(problem):
    logits, label = problem
    changed = logits.clone()
    changed[0, :, 1] = 100 * torch.randn(5, 6, dtype=torch.float64)
    assert cross_entropy(changed, label) == cross_entropy(logits, label)


def test_all_ignored_is_zero_with_zero_gradient(problem):
    logits = problem[0].requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 4, 6), 255))
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.abs().max() == 0.0


def test_class_weights_are_torchs(problem):
    logits, label = problem
    weight = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, label, weight=weight, ignore_index=255)
    close(cross_entropy(logits, label, weight).item(), expected.item(), ROUNDING)


def test_logits_come_to_the_labels_size_with_corners_aligned():
    ramp = torch.arange(3.0).expand(1, 1, 3, 3)
    assert upsample(ramp, (5, 5))[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    small = torch.randn(1, 4, 3, 5)
    label = torch.randint(0, 4, (1, 17, 33))
    assert cross_entropy(small, label) == cross_entropy(upsample(small, (17, 33)), label)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"logits \(1, 4, 3, 5\) and labels \(2, 3, 5\).*one-hot"):
        cross_entropy(torch.zeros(1, 4, 3, 5), torch.zeros(2, 3, 5, dtype=torch.int64))
