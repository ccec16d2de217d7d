"""BerHu against a loop, its two parts and its gradient; unknown pixels, the rows at the bottom, sizes, several processes."""

import pytest
import torch

from course_lib import ranks
from course_lib.losses import berhu
from tests.bounds import bound, close, far
from tests.oracles import losses as oracle
from tests.processes import together

ROUNDING = bound(4 * 8 * 6 + 6, torch.float64, 3.0)  # the mean over the pixels of what is below (1 + 0.04) / 0.4


def maps(seed: int = 0, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions in (0, 1), and targets of which a fifth is unknown."""
    generator = torch.Generator().manual_seed(seed)
    D, truth, unknown = torch.rand(3, n, 8, 6, generator=generator, dtype=torch.float64)
    return D, torch.where(unknown < 0.2, -1.0, truth)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("bottom", [0.0, 0.1, 0.3])
def test_it_equals_the_loop(share, bottom):
    D, truth = maps()
    close(berhu(D, truth, share, bottom), oracle.berhu(D.tolist(), truth.tolist(), share, bottom), ROUNDING)


def test_it_is_linear_below_c_and_quadratic_above_and_one_curve():
    """c = 0.2 of the largest error, 1; both parts are c, with the slope 1, at c."""
    errors = torch.tensor([1.0, 0.1, 0.2, 0.4], dtype=torch.float64)
    D = errors.view(1, 1, 4).clone().requires_grad_()
    loss = berhu(D, torch.zeros(1, 1, 4), bottom=0.0)
    close(4 * loss, (1 + 0.04) / 0.4 + 0.1 + 0.2 + (0.16 + 0.04) / 0.4, ROUNDING)
    (slope,) = torch.autograd.grad(loss, D)
    close(4 * slope.flatten(), [1 / 0.2, 1.0, 1.0, 0.4 / 0.2], ROUNDING)  # r / c above c, which is a constant


def test_the_gradient_is_the_slope_while_another_pixel_has_the_largest_error():
    D, truth = maps()
    truth = torch.where(truth < 0, truth, truth.clamp(max=1))

    def loss(others: torch.Tensor) -> torch.Tensor:
        return berhu(torch.cat([torch.full((4, 1, 6), 5.0, dtype=D.dtype), others], dim=1), truth)

    assert torch.autograd.gradcheck(loss, D[:, 1:].clone().requires_grad_())


def test_unknown_pixels_and_the_bottom_rows_have_no_part_and_no_gradient():
    D, truth = (x.requires_grad_() if k == 0 else x for k, x in enumerate(maps()))
    loss = berhu(D, truth, bottom=0.25)
    (slope,) = torch.autograd.grad(loss, D)
    counts = (truth >= 0) & (torch.arange(8) < 6)[:, None]
    assert 0 < counts.sum() < counts.numel() and torch.equal(slope != 0, counts)
    changed = torch.where(counts, D.detach(), 9.0)
    assert torch.equal(berhu(changed, truth, bottom=0.25), loss.detach())  # nor is c of them
    assert far(berhu(changed, truth, bottom=0.0), loss.detach(), 0.1)


def test_nothing_known_and_nothing_wrong_give_0_and_a_finite_gradient():
    D, truth = maps()
    for prediction, target in ((D, torch.full_like(truth, -1)), (truth.clamp(min=0), truth)):
        x = prediction.clone().requires_grad_()
        loss = berhu(x, target)
        loss.backward()
        assert loss.item() == 0 and x.grad.isfinite().all()


def test_a_small_prediction_is_brought_to_the_targets_size():
    D, truth = maps()
    small = D[:, ::2, ::2]
    large = torch.nn.functional.interpolate(small[:, None], size=(8, 6), mode="bilinear")[:, 0]
    assert torch.equal(berhu(small, truth), berhu(large, truth))


@pytest.mark.parametrize("prediction, target, words", [
    ((2, 1, 8, 6), (2, 8, 6), r"predictions \(2, 1, 8, 6\) .* wants \(N, h, w\)"),
    ((2, 8, 6), (3, 8, 6), r"targets \(3, 8, 6\)"),
])  # fmt: skip
def test_other_shapes_are_refused(prediction, target, words):
    with pytest.raises(ValueError, match=words):
        berhu(torch.zeros(prediction), torch.zeros(target))


@pytest.mark.parametrize("options, words", [
    ({"share": 2.0}, "share is 2.0"), ({"bottom": -0.1}, "bottom is -0.1"), ({"share": 0.0}, "share is 0; .* above 0"),
])  # fmt: skip
def test_shares_beyond_their_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        berhu(*maps(), **options)


def _part() -> torch.Tensor:
    """The loss of this process's half, in which one process has nothing known, and its gradient."""
    D, truth = maps(1)
    truth[2:] = -1
    own = slice(2 * ranks.rank(), 2 * ranks.rank() + 2)
    x = D[own].clone().requires_grad_()
    loss = berhu(x, truth[own])
    loss.backward()
    return torch.cat([loss.detach().view(1), x.grad.flatten()])


def test_the_mean_over_two_processes_is_the_loss_of_the_whole_batch(tmp_path):
    D, truth = maps(1)
    truth[2:] = -1
    x = D.clone().requires_grad_()
    loss = berhu(x, truth)
    loss.backward()
    parts = together(_part, tmp_path)
    close(sum(part[0] for part in parts) / 2, loss, ROUNDING)
    close(torch.cat([part[1:] for part in parts]) / 2, x.grad.flatten(), ROUNDING)
