"""Exercises of notebook 02: the learning rate's decay, the discriminator's view, the two losses of the game, entropy.

Letters: N pictures, C classes, (H, W) a map's size. The discriminator is to say 0 for the source,
1 for the target.
"""

import math

import torch
from torch import nn

from course_lib.classroom.checks.machinery import Case, Check


def _softplus(x: float) -> float:
    """-log of the logistic function at -x: the cross-entropy of the raw score x when 0 was wanted."""
    return math.log1p(math.exp(x))


class Scorer(nn.Module):
    """A discriminator for the checks: its score is `slope * (first channel - 1/2)`, on the map as it came."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, probability: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> scores (N, 1, h, w)."""
        return self.slope * (probability[:, :1] - 0.5)


def _picture(first: float, size: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """(1, 2, H, W) probabilities whose first class has probability `first`, as a segmenter would give them."""
    return torch.tensor([first, 1 - first]).view(1, 2, 1, 1).expand(1, 2, *size).clone().requires_grad_()


poly_rate = Check(
    name="poly_rate",
    level="fill in",
    task="Write poly_rate(base, step, steps): the learning rate base * (1 - step / steps) ** 0.9.",
    cases=(
        Case(
            (0.1, 0, 100),
            0.1,
            "Step 0 has the whole base rate: (1 - step / steps) is 1 there. "
            "Is the fraction upside down, or one step early?",
        ),
        Case(
            (1.0, 10, 10),
            0.0,
            "At the last step nothing is left: 1 - steps / steps = 0. Yours never reaches 0; divide by `steps` itself.",
        ),
        Case(
            (1.0, 50, 100),
            0.5**0.9,
            "Half-way the factor is 0.5 to the power 0.9, 0.536. A straight line gives 0.5: "
            "the power is missing, or another.",
        ),
        Case((0.1, 50, 100), 0.1 * 0.5**0.9, "The base rate stands outside the power: base * (...) ** 0.9."),
    ),
)

entropy_map = Check(
    name="entropy_map",
    task="Write entropy_map(logits): (N, C, H, W) -> (N, H, W), minus the sum over classes of p log p, p the softmax.",
    cases=(
        Case(
            (torch.zeros(2, 2, 2, 2),),
            torch.full((2, 2, 2), math.log(2)),
            "Two equally likely classes have entropy ln 2 = 0.693: minus the sum of p log p, the natural logarithm, "
            "a sum and no mean.",
        ),
        Case(
            (torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone(),),
            torch.full((1, 2, 2), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))),
            "Each pixel has probabilities 1/4 and 3/4. They must add up to 1 over the classes: softmax over dim=1, "
            "and the sum over dim=1 too.",
        ),
        Case(
            (torch.tensor([0.0, 200.0]).view(1, 2, 1, 1),),
            torch.zeros(1, 1, 1),
            "A sure pixel has entropy 0, but 0 * log 0 gives NaN. Use log_softmax for the logarithm.",
        ),
    ),
)

output_map = Check(
    name="output_map",
    task="Write output_map(logits, size): raw scores (N, C, h, w) -> what the discriminator sees, probabilities "
    "(N, C, *size). Upsample first (bilinear, corners aligned), then softmax over the classes.",
    cases=(
        Case(
            (torch.full((1, 1, 1, 1), 3.0), (1, 1)),
            torch.ones(1, 1, 1, 1),
            "With one class alone its probability is 1, whatever the raw score: take the softmax (no sigmoid, no raw "
            "scores: their scale would give the domain away).",
        ),
        Case(
            (torch.zeros(2, 3, 2, 2), (2, 2)),
            torch.full((2, 3, 2, 2), 1 / 3),
            "Three equally likely classes: 1/3 each, at every pixel of every picture. The probabilities add up to 1 over "
            "the classes, which stand in dim=1.",
        ),
        Case(
            (torch.zeros(1, 2, 1, 1), (2, 4)),
            torch.full((1, 2, 2, 4), 0.5),
            "The map must come out at `size`, here (2, 4): upsample the logits before the softmax.",
        ),
        Case(
            (torch.tensor([[-6.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2), (1, 3)),
            1 / (1 + math.exp(2.0)),
            "The pixel in the middle has the mean of its neighbours' scores, (-2, 0), and so probability 0.119. "
            "The mean of their probabilities is 0.442: upsample first, softmax after.",
            part=lambda answer: answer[0, 0, 0, 1],
        ),
        Case(
            (torch.tensor([[0.0, 3.0], [0.0, 0.0]]).view(1, 2, 1, 2), (1, 4)),
            1 / (1 + math.exp(-1.0)),
            "Between two aligned corners the scores 0 and 3 become 0, 1, 2, 3, so the second pixel has probability "
            "0.731: interpolate with mode='bilinear' and align_corners=True, as the published networks did.",
            part=lambda answer: answer[0, 0, 0, 1],
        ),
        Case(
            (torch.zeros(1, 2, 1, 1, requires_grad=True), (2, 2)),
            hint="The segmenter learns through this map: keep its gradient (no detach, no torch.no_grad, no argmax).",
            holds=lambda answer, logits, size: isinstance(answer, torch.Tensor) and answer.requires_grad,
        ),
    ),
)

adversarial_loss = Check(
    name="adversarial_loss",
    task="Write adversarial_loss(score): the segmenter's loss from the discriminator's raw scores (N, 1, h, w) of a "
    "target prediction. It wants them taken for source (0).",
    cases=(
        Case(
            (torch.zeros(1, 1, 1, 1),),
            math.log(2),
            "A score of 0 means 'cannot tell', and costs ln 2 = 0.693. `score` is raw: the sigmoid is taken once, "
            "inside binary_cross_entropy_with_logits, not before it as well.",
        ),
        Case(
            (torch.full((1, 1, 1, 1), 3.0),),
            _softplus(3.0),
            "The discriminator is sure that this is target (score +3). The segmenter wanted it taken for source, "
            "label 0, so this costs much (3.05). With label 1 you reward being found out.",
        ),
        Case(
            (torch.zeros(2, 1, 2, 4),),
            math.log(2),
            "16 scores of 0 cost as much as one: take the mean over the map, not the sum, "
            "or the weight depends on the picture's size.",
        ),
        Case(
            (torch.full((1, 1, 1, 1), 200.0),),
            200.0,
            "A score of 200 costs 200. Sigmoid first, logarithm after rounds to 1 and log 0: "
            "use binary_cross_entropy_with_logits.",
        ),
        Case(
            (torch.zeros(1, 1, 1, 1, requires_grad=True),),
            hint="The segmenter learns through this loss, so a gradient must flow back to the score: "
            "no .item(), no detach(), no torch.no_grad().",
            holds=lambda loss, score: isinstance(loss, torch.Tensor) and loss.requires_grad,
        ),
    ),
)


def _spares_the_segmenter(loss, discriminator, source, target) -> bool:
    if loss.requires_grad:
        loss.backward()
    return source.grad is None and target.grad is None


def _teaches_the_discriminator(loss, discriminator, source, target) -> bool:
    if not loss.requires_grad:
        return False
    loss.backward()
    return discriminator.slope.grad is not None and discriminator.slope.grad.abs().item() > 0


discriminator_loss = Check(
    name="discriminator_loss",
    task="Write discriminator_loss(discriminator, source, target): half the cross-entropy of 'source is 0' plus half "
    "that of 'target is 1', both probability maps (N, C, H, W) detached.",
    cases=(
        Case(
            (Scorer(0.0), _picture(0.5), _picture(0.5)),
            math.log(2),
            "This discriminator cannot tell, so its loss is ln 2 = 0.693, the mean of the two domains. "
            "Twice that (1.386) means that the halves were forgotten.",
        ),
        Case(
            (Scorer(6.0), _picture(0.0), _picture(1.0)),
            _softplus(-3.0),
            "This discriminator is right: -3 for the source (0), +3 for the target (1), so it pays little (0.049). "
            "Yours has the domains' labels swapped, or the same for both.",
        ),
        Case(
            (Scorer(0.0), _picture(0.5, (2, 4)), _picture(0.5, (2, 4))),
            math.log(2),
            "A bigger map must not cost more: take the mean over its scores, not the sum.",
        ),
        Case(
            (Scorer(1.0), _picture(0.2), _picture(0.9)),
            hint="Your loss sends a gradient into the prediction: the segmenter would learn to help the discriminator. "
            "Pass source.detach() and target.detach() to it.",
            holds=_spares_the_segmenter,
        ),
        Case(
            (Scorer(1.0), _picture(0.2), _picture(0.9)),
            hint="The discriminator gets no gradient, so it never learns: detach the predictions, not its scores.",
            holds=_teaches_the_discriminator,
        ),
    ),
)


def _gradient(answer, x, wanted: float, of=lambda answer: answer.sum()) -> bool:
    if not answer.requires_grad:
        return False
    found = torch.autograd.grad(of(answer), x, allow_unused=True)[0]
    return found is not None and bool(torch.allclose(found, torch.full_like(x, wanted), atol=1e-5))


def _leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values, requires_grad=True)


reverse_gradient = Check(
    name="reverse_gradient",
    task="Write reverse_gradient(x, weight): the tensor x as it is, but in the backward pass its gradient is multiplied by "
    "-weight.",
    cases=(
        Case(
            (_leaf(2.0, -3.0), 0.5),
            [2.0, -3.0],
            "Forwards nothing happens: the result is x itself, not -x and not weight * x.",
        ),
        Case(
            (_leaf(2.0, -3.0), 1.0),
            hint="The gradient of the sum of x is 1; with weight 1 it has to arrive as -1. A detached x has none at all. One "
            "way: -weight * x has the right gradient; add what its value lacks, detached.",
            holds=lambda answer, x, _: _gradient(answer, x, -1.0),
        ),
        Case(
            (_leaf(2.0, -3.0), 0.5),
            hint="The weight was forgotten: with 0.5 a gradient of 1 arrives as -0.5.",
            holds=lambda answer, x, _: _gradient(answer, x, -0.5),
        ),
        Case(
            (_leaf(2.0, 2.0), 1.0),
            hint="The loss here is x squared. Its gradient at x = 2 is 4, so -4 has to arrive: what comes from behind is "
            "multiplied, not replaced by -weight.",
            holds=lambda answer, x, _: _gradient(answer, x, -4.0, lambda answer: answer.square().sum()),
        ),
    ),
)


def _schedule(test) -> dict:
    """A judgement of all numbers of a schedule, in parts of the weight."""
    return {"holds": lambda answer, steps, weight: answer.shape == (steps,) and bool(test(answer / weight))}


weight_schedule = Check(
    name="weight_schedule",
    level="design",
    task="Write weight_schedule(steps, weight): the weight of the game at every step, (steps,). It begins near 0, while D "
    "knows nothing, never falls, makes no jump, and ends at (nearly) `weight`.",
    cases=(
        Case(
            (100, 1.0),
            hint="At step 0 the discriminator knows nothing, and its gradient is noise: begin with at most 5 % of the weight. "
            "The answer is a tensor (steps,).",
            **_schedule(lambda part: part[0].abs() <= 0.05),
        ),
        Case(
            (100, 1.0),
            hint="At the end the game has its full weight, at least 90 % of it.",
            **_schedule(lambda part: part[-1] >= 0.9),
        ),
        Case(
            (100, 1.0),
            hint="It never falls: each step's weight is at least that of the step before.",
            **_schedule(lambda part: (part.diff() >= -1e-6).all()),
        ),
        Case(
            (200, 0.001),
            hint="The weight is 0.001 here, and yours goes past it, or ends far below: multiply a curve from 0 to 1 by "
            "`weight`.",
            **_schedule(lambda part: part.min() >= -1e-6 and part.max() <= 1 + 1e-5 and part[-1] >= 0.9),
        ),
        Case(
            (100, 1.0),
            hint="From one step to the next it rises by more than a fifth of the weight: a jump is as hard for the segmenter "
            "as full weight at once.",
            **_schedule(lambda part: part.diff().max() <= 0.2),
        ),
    ),
)
