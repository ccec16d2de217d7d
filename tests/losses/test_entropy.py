"""Entropy against loops, its range and landmarks, its gradient, and what the released double softmax does to both."""

import math

import pytest
import torch

from course_lib.losses import entropy
from tests.bounds import bound, close, near, printed
from tests.oracles import entropy as oracle


def rounding(C):
    """Of the mean over up to 24 places: softmax and its logarithm over C classes and the sum over them are about 4 C roundings
    of terms that add up to less than 3; what a rounded logit changes has the weight p log p < 1."""
    return bound(4 * C + 30, torch.float32, 3.0)


def some_logits(scale: float = 3.0, N: int = 2, C: int = 5) -> torch.Tensor:
    return scale * torch.randn(N, C, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
def test_equals_the_loop_over_places(scale, double):
    logits = some_logits(scale)
    close(entropy(logits, double).item(), oracle.entropy(logits.tolist(), double), rounding(5))


@pytest.mark.parametrize("C", [2, 19])
def test_knowing_nothing_is_log_of_the_classes_and_being_sure_is_0(C):
    sure = 200 * torch.eye(C)[torch.arange(6) % C].T.reshape(1, C, 2, 3)
    close(entropy(torch.full((1, C, 2, 3), 7.0)).item(), math.log(C), rounding(C))
    assert entropy(sure).item() == 0.0
    assert 0 < entropy(some_logits(C=C)) < math.log(C)


@pytest.mark.parametrize("C", [2, 19])
def test_double_softmax_has_another_range(C):
    """papers/bida.md, B3: for 19 classes 2.0310 to 2.9444; a network that is sure of everything still pays."""
    sure = 200 * torch.eye(C)[0].view(1, C, 1, 1)
    least, most = math.log(math.e + C - 1) - 1, math.log(C)
    close(entropy(sure, double_softmax=True).item(), least, rounding(C))
    close(entropy(torch.zeros(1, C, 1, 1), double_softmax=True).item(), most, rounding(C))
    assert least < entropy(some_logits(C=C), double_softmax=True) < most
    if C == 19:
        close(least, *printed("2.0310"))
        close(most, *printed("2.9444"))


def test_a_constant_added_to_the_logits_changes_nothing():
    logits = some_logits()
    close(entropy(logits + 100).item(), entropy(logits).item(), rounding(5) + bound(1, torch.float32, 2 * math.log(5) * 128))


def test_it_is_the_mean_over_places_and_pictures():
    logits = some_logits()
    each = [entropy(logits[n : n + 1, :, i : i + 1, j : j + 1]).item() for n in range(2) for i in range(3) for j in range(4)]
    assert near(entropy(logits).item(), sum(each) / 24, rounding(5)) and max(each) > 2 * min(each)


# ---- the gradient ---------------------------------------------------------------------------------------------------


def test_gradient_is_the_formula():
    logits = some_logits().requires_grad_()
    entropy(logits).backward()
    wanted = torch.tensor([oracle.gradient(z) for z in oracle.columns(logits.tolist())]) / 24
    close(logits.grad.movedim(1, -1).reshape(-1, 5), wanted, bound(40, torch.float32, 2 / 24))


def test_double_softmax_pulls_a_third_as_much_at_a_sure_pixel():
    """papers/bida.md, B3: at logits (4, 0, ..., 0) about 0.36 of the true gradient."""
    sizes = []
    for double in (False, True):
        logits = 4 * torch.eye(19)[0].view(1, 19, 1, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(entropy(logits, double), logits)
        sizes.append(gradient.norm().item())
    close(sizes[1] / sizes[0], 0.36, printed("0.36")[1])


@pytest.mark.parametrize("double", [False, True])
def test_descending_makes_predictions_surer(double):
    logits = some_logits(1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(entropy(logits, double), logits)
    sure = [x.softmax(1).amax(1).mean() for x in (logits, logits - gradient)]
    assert sure[1] > sure[0]


@pytest.mark.parametrize("double", [False, True])
def test_the_surest_and_the_least_sure_have_finite_gradient(double):
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]).T.reshape(1, 3, 1, 2).requires_grad_()
    loss = entropy(logits, double)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
