"""What every loss does with number formats and labels; the losses and their inputs are those of test_arithmetic."""

import math

import pytest
import torch
from torch import Tensor

from course_lib.losses import cross_entropy, entropy, lovasz_softmax, upsample
from course_lib.losses.adversarial import TARGET, domain_loss, probabilities
from tests.bounds import bound, close
from tests.losses.test_arithmetic import CASES, Inputs, drawn

HALF = [torch.float16, torch.bfloat16]


def cast(x: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in x.items()}


def computed(name: str, x: Inputs, *autocast: torch.dtype) -> list[Tensor]:
    """The loss, and its gradient for each operand that has one."""
    leaves = {key: x[key].clone().requires_grad_() for key in CASES[name].operands if key not in CONSTANTS}
    with torch.autocast("cpu", *autocast, enabled=bool(autocast)):
        loss = CASES[name].loss(x | leaves)
    return [loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))]


CONSTANTS = {"bank", "prototypes", "weight"}  # inputs that get no gradient


# ---- number formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32(name, dtype):
    """To the last bit what float32 gives for the same numbers; each gradient is rounded to its operand's format."""
    x = cast(drawn(0), dtype)
    found, wanted = computed(name, x), computed(name, cast(x, torch.float32))
    assert found[0].dtype == torch.float32 and torch.equal(found[0], wanted[0])
    for slope, exact in zip(found[1:], wanted[1:]):
        assert slope.dtype == dtype and torch.equal(slope, exact.to(dtype))


@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name):
    """Lovasz-softmax took its product in half precision there: 0.3 % of the gradient, and weights below 6e-8 were 0."""
    for found, wanted in zip(computed(name, drawn(0), torch.bfloat16), computed(name, drawn(0))):
        assert found.dtype == torch.float32 and torch.equal(found, wanted)


@pytest.mark.parametrize("name", CASES)
def test_float64_stays(name):
    x = cast(drawn(0), torch.float64)
    x["bank"] = torch.nn.functional.normalize(x["bank"])  # the oracle's rows are of length 1
    exact = CASES[name].exact(x)
    assert all(part.dtype == torch.float64 for part in computed(name, x))
    # of the bound of float32, whose errors are above a thousandth of it
    close(CASES[name].loss(x), exact, CASES[name].tolerance(exact) * 1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_sums_over_many_pixels_and_large_scores_do_not_overflow(dtype):
    """65536 pixels of ln 19 are more than float16 holds, and so is the square of 300."""
    logits, label = torch.zeros(1, 19, 256, 256, dtype=dtype), torch.zeros(1, 256, 256, dtype=torch.int64)
    rounding = bound(200, torch.float32, math.log(19))
    close(cross_entropy(logits, label), math.log(19), rounding)
    close(entropy(logits), math.log(19), rounding)
    close(lovasz_softmax(logits, label), 18 / 19, rounding)
    score = torch.full((1, 1, 300, 300), -300, dtype=dtype)
    close(domain_loss(score, TARGET), 300.0, bound(90_000, torch.float32, 300.0))
    close(domain_loss(score, TARGET, "least-squares"), 301.0**2, bound(90_000, torch.float32, 301.0**2))


@pytest.mark.parametrize("dtype", HALF)
def test_upsampling_before_a_softmax_is_in_float32(dtype):
    logits = (3 * torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    label = torch.arange(7 * 9).view(1, 7, 9) % 5
    wide = upsample(logits.float(), (7, 9))
    assert torch.equal(probabilities(logits, (7, 9)), wide.softmax(1)) and probabilities(logits).dtype == torch.float32
    for loss in (cross_entropy, lovasz_softmax):
        assert loss(logits, label) == loss(wide, label)
    assert probabilities(logits.double(), (7, 9)).dtype == torch.float64
