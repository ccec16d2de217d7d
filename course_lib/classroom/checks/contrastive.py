"""Exercises of notebook 03: cosine similarities, the loss of one pair, the loss of a batch.

Letters: N pictures with two views each, M = 2N rows, d numbers per embedding, tau the temperature.
"""

import math

import torch

from course_lib.classroom.checks.machinery import Case, Check


def _row_0(*similarities: float) -> torch.Tensor:
    """(M, M) similarities whose first row is this; the others are 0. Large ones let some terms outweigh the rest."""
    s = torch.zeros(len(similarities), len(similarities))
    s[0] = torch.tensor(similarities)
    return s


cosine_matrix = Check(
    name="cosine_matrix",
    level="fill in",
    task="Write cosine_matrix(z): (M, d) -> (M, M), the cosine similarity of every row with every row.",
    cases=(
        Case(
            (torch.eye(2, 3),),
            torch.eye(2),
            "Two rows at right angles: 1 with themselves, 0 with each other. Every row meets every row, so M rows give an "
            "(M, M) matrix: a matrix product with the transpose, z @ z.T.",
        ),
        Case(
            (torch.tensor([[3.0, 4.0], [3.0, 4.0]]),),
            torch.ones(2, 2),
            "Two equal rows have similarity 1, whatever their length (here 5, so that the product is 25). The lengths are "
            "still in yours: divide each row by its own.",
        ),
        Case(
            (torch.tensor([[2.0, 0.0], [1.0, 0.0]]),),
            torch.ones(2, 2),
            "Rows of length 2 and 1 in the same direction: similarity 1. A row is divided by its own length; the d numbers "
            "of a row stand along dim=1, not dim=0.",
        ),
        Case(
            (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]),),
            torch.tensor([[1.0, -1.0], [-1.0, 1.0]]),
            "Opposite directions have similarity -1: no absolute value, no square, no distance.",
        ),
    ),
)

pair_loss = Check(
    name="pair_loss",
    task="Write pair_loss(s, i, j, temperature): from the cosine similarities s (M, M), minus the logarithm of "
    "exp(s_ij / temperature) over the sum of exp(s_ik / temperature) for all k except i.",
    cases=(
        Case(
            (_row_0(1.0, 1.0, 20.0), 0, 1, 1.0),
            19.0,
            "A negative of 20 against a positive of 1 costs 20 - 1 = 19. The numerator is exp(s_ij / temperature): with the "
            "similarity itself there, as printed on the slide, it would be 20.",
        ),
        Case(
            (_row_0(20.0, 1.0, 20.0), 0, 1, 1.0),
            19.0,
            "Row 0 is as similar to itself as to its negative, and must not see itself: the sum leaves k = i out. "
            "ln 2 = 0.69 too much means that the self-pair is still in.",
        ),
        Case(
            (_row_0(1.0, 0.0, 0.0), 0, 1, 1.0),
            math.log(2),
            "One positive and one negative that look alike: ln 2 = 0.693, one of two. 0 means that the positive is missing "
            "from the denominator; only k = i is left out there.",
        ),
        Case(
            (_row_0(1.0, 1.0, -1.0), 0, 1, 0.5),
            math.log1p(math.exp(-4.0)),
            "Positive 1, negative -1, temperature 0.5: ln(1 + exp(-2 / 0.5)) = 0.018. Without the temperature it is 0.127: "
            "divide every similarity by it, above and below the line.",
        ),
        Case(
            (_row_0(0.0, 1.0, 1.0).flip(0), 2, 0, 1.0),
            math.log1p(math.e),
            "Row i = 2 with partner j = 0: read the row s[i], and of it the place j. Other rows say nothing about this pair.",
        ),
        Case(
            (_row_0(1.0, -1.0, 1.0), 0, 1, 0.01),
            200.0,
            "exp(1 / 0.01) is too large for a float32, so yours gives infinity or NaN. Take the logarithm of the whole sum at "
            "once: torch.logsumexp, or cross_entropy.",
        ),
    ),
)

RIGHT, UP = [1.0, 0.0], [0.0, 1.0]
LEFT = [-1.0, 0.0]


def _views(a: list, b: list) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(a), torch.tensor(b)


nt_xent = Check(
    name="nt_xent",
    task="Write nt_xent(z_a, z_b, temperature): two views (N, d) -> the mean over all 2N rows of the loss of the row's pair.",
    cases=(
        Case(
            (*_views([RIGHT], [RIGHT]), 1.0),
            0.0,
            "With one picture there is nobody to be mistaken for: the only other row is the partner, loss 0. ln 2 = 0.693 "
            "means that each row still meets itself: give the diagonal -inf. NaN or -inf: the partner was left out too.",
        ),
        Case(
            (*_views([RIGHT, RIGHT], [RIGHT, RIGHT]), 1.0),
            math.log(3),
            "All rows alike, N = 2: each chooses among 2N - 1 = 3 others, ln 3 = 1.099. ln 2 = 0.693 means that a row looks "
            "at the other view's rows alone; the rows of its own view are negatives too. 4.394 is the sum of the rows: take "
            "the mean.",
        ),
        Case(
            (*_views([RIGHT, UP], [RIGHT, UP]), 1.0),
            math.log1p(2 * math.exp(-1.0)),
            "Row i of z_a belongs with row i of z_b. In torch.cat([z_a, z_b]) its partner stands N rows further, "
            "(i + N) mod 2N, not beside it.",
        ),
        Case(
            (*_views([RIGHT, UP], [RIGHT, RIGHT]), 1.0),
            (2 * math.log(2 + math.exp(-1.0)) + math.log(3) + math.log(1 + 2 * math.e)) / 4,
            "Here the views b have a harder time than the views a. The mean goes over all 2N rows: a looks for its b, and b "
            "for its a. One direction only gives 0.980.",
        ),
        Case(
            (*_views([[1.0, 0.0], [2.0, 0.0]], [[3.0, 0.0], [4.0, 0.0]]), 1.0),
            math.log(3),
            "Four rows in one direction, of lengths 1 to 4, are all alike: ln 3 = 1.099. Divide each row by its own length "
            "first, or a network lowers the loss by longer embeddings alone.",
        ),
        Case(
            (*_views([RIGHT, UP], [RIGHT, UP]), 0.5),
            math.log1p(2 * math.exp(-2.0)),
            "The same pictures as in case 3, temperature 0.5: 0.240. You gave the value of temperature 1 (0.551), or "
            "multiplied: every similarity is divided by the temperature.",
        ),
        Case(
            (*_views([RIGHT, LEFT], [LEFT, RIGHT]), 0.01),
            200.0,
            "exp(1 / 0.01) is too large for a float32, so yours gives infinity or NaN. Take the logarithm of the whole sum "
            "at once: torch.logsumexp, or cross_entropy.",
        ),
        Case(
            (torch.eye(2).requires_grad_(), torch.eye(2).requires_grad_(), 0.5),
            hint="The network learns through this loss: no .item(), no detach(), no torch.no_grad().",
            holds=lambda loss, *_: isinstance(loss, torch.Tensor) and loss.requires_grad,
        ),
    ),
)


def _stripes() -> torch.Tensor:
    """(16, 3, 32, 32): upright stripes, each picture in two strong colours of its own."""
    hue = torch.linspace(0, 2 * math.pi, 17)[:-1, None] + torch.tensor([0.0, 2.1, 4.2])
    bright, dark = 0.6 + 0.35 * hue.sin(), 0.25 + 0.2 * hue.sin()
    wave = (torch.arange(32) // 4 % 2).float().expand(1, 1, 32, 32)
    return bright[:, :, None, None] * wave + dark[:, :, None, None] * (1 - wave)


_WAVES = 0.5 + 0.4 * torch.sin(0.7 * torch.arange(3 * 32 * 32)).view(1, 3, 32, 32)  # no two places alike


def found_by_colour(a: torch.Tensor, b: torch.Tensor) -> float:
    """Which share of the views a has its partner among the views b (N, 3, H, W) nearest in mean colour: 1/N is guessing."""
    nearest = torch.cdist(a.mean((2, 3)), b.mean((2, 3))).argmin(1)
    return (nearest == torch.arange(len(a))).float().mean().item()


def _upright(answer, *_) -> bool:
    """Whether most views of upright stripes change more from left to right than from top to bottom."""
    across, down = answer.diff(dim=3).abs().mean((1, 2, 3)), answer.diff(dim=2).abs().mean((1, 2, 3))
    return bool((across > 1.5 * down).float().mean() >= 0.75)


view = Check(
    name="view",
    level="design",
    task="Write view(pictures, seed): one random view of each picture, (N, 3, 32, 32) RGB from 0 to 1 -> the same shape and "
    "range; one seed always gives the same views. Mean colours must not tell the partner, shapes must stay.",
    cases=(
        Case(
            (_stripes(), 0),
            hint="The views have the pictures' shape (a crop is resized to 32 x 32) and values from 0 to 1 (clamp).",
            holds=lambda answer, x, _: answer.shape == x.shape and bool(answer.min() >= 0 and answer.max() <= 1),
        ),
        Case(
            (_WAVES.repeat(8, 1, 1, 1), 0),
            hint="These eight pictures are one picture, and yet their views have to differ: draw the numbers for each picture.",
            holds=lambda answer, *_: torch.cdist(answer.flatten(1), answer.flatten(1)).fill_diagonal_(9).min().item() > 0.1,
        ),
        Case(
            (_stripes().repeat(2, 1, 1, 1), 3),
            hint="The second half of the batch repeats the first. In more than half of the cases the mean colour alone tells "
            "which view belongs to which: the network would learn colours and nothing else. Change the colours at random, "
            "strongly (brightness, contrast, channels, grey).",
            holds=lambda answer, *_: found_by_colour(*answer.chunk(2)) <= 0.5,
        ),
        Case(
            (_stripes(), 5),
            hint="Upright stripes are no longer upright in your views, or gone. What has to stay alike must stay: no noise in "
            "place of the picture, no turning by 90 degrees (a street has an up and a down), not only grey areas.",
            holds=_upright,
        ),
    ),
)
