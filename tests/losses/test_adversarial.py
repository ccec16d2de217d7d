"""The discriminator's losses against slow oracles; which way each gradient pushes."""

import math

import pytest
import torch

from course_lib.losses.adversarial import SOURCE, TARGET, domain_loss, probabilities
from tests.bounds import bound, close
from tests.oracles import losses as oracle


@pytest.mark.parametrize("gan, slow", [("vanilla", oracle.vanilla), ("least-squares", oracle.least_squares)])
@pytest.mark.parametrize("domain", [SOURCE, TARGET])
def test_equals_the_oracle(gan, slow, domain):
    score = torch.randn(2, 1, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(domain_loss(score, domain, gan).item(), slow(score.flatten().tolist(), domain), bound(40, torch.float64, 10.0))


def test_a_discriminator_that_cannot_tell_pays_ln_2():
    close(domain_loss(torch.zeros(1, 1, 2, 2), SOURCE).item(), math.log(2), bound(10, torch.float32))


@pytest.mark.parametrize("gan", ["vanilla", "least-squares"])
def test_target_is_the_upper_side(gan):
    """Source is 0 and target 1: raising the score helps to say target and hurts to say source."""
    score = torch.full((1, 1, 1, 1), 0.5, requires_grad=True)
    for domain, sign in ((TARGET, -1), (SOURCE, 1)):
        (gradient,) = torch.autograd.grad(domain_loss(score, domain, gan), score)
        assert gradient.item() * sign > 0


def test_confident_scores_stay_finite():
    close(domain_loss(torch.full((1, 1, 1, 1), -1e4), TARGET).item(), 1e4, bound(10, torch.float32, 1e4))


def test_probabilities_upsample_before_the_softmax():
    logits = torch.tensor([[[[0.0, 8.0]], [[8.0, 0.0]]]])  # two classes, opposite ends
    picture = probabilities(logits, (1, 3))
    assert picture.shape == (1, 2, 1, 3)
    close(picture.sum(dim=1), torch.ones(1, 1, 3), bound(10, torch.float32))
    close(picture[0, 0, 0, 1].item(), 0.5, bound(10, torch.float32))  # halfway between the logits, not between the certainties
    close(picture[0, 0, 0, 0].item(), 1 / (1 + math.exp(8)), bound(10, torch.float32, math.exp(-8)))


def test_wrong_words_are_named():
    with pytest.raises(ValueError, match="domain is 0.5.*SOURCE"):
        domain_loss(torch.zeros(1, 1, 1, 1), 0.5)
    with pytest.raises(ValueError, match="gan is 'wgan'.*'least-squares'"):
        domain_loss(torch.zeros(1, 1, 1, 1), SOURCE, "wgan")
