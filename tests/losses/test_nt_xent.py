"""NT-Xent: against a loop, published landmarks, its own chunked form, and two processes."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measuring import peak_bytes
from course_lib import ranks
from course_lib.losses import nt_xent
from tests.bounds import bound, close, near, printed
from tests.oracles import nt_xent as oracle
from tests.processes import together

CHUNKS = (None, 1, 5, 64)  # the whole matrix; blocks that fit, that do not, and one larger than the matrix


def views(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of different lengths, b near a."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64)
    b = 3 * (a + torch.randn(n, d, generator=generator, dtype=torch.float64))
    return a.to(dtype), b.to(dtype)


def value_and_gradient(a: torch.Tensor, b: torch.Tensor, *args, loss=nt_xent, **more):
    a, b = a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()
    value = loss(a, b, *args, **more)
    with torch.autocast("cpu", enabled=False):  # torch's rule: the backward pass runs outside autocast
        value.backward()
        return value.detach(), torch.cat([a.grad, b.grad])


# ---- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.01, 0.05, 0.5, 10.0])
@pytest.mark.parametrize("n, d", [(1, 2), (2, 2), (3, 16), (8, 128)])
def test_equals_the_loop(n, d, tau, chunk):
    a, b = views(n, d)
    wanted = oracle.nt_xent(a.tolist(), b.tolist(), tau)
    close(nt_xent(a, b, tau, chunk).item(), wanted, oracle.rounding(n, d, tau, wanted, torch.float64))
    close(nt_xent(a.float(), b.float(), tau, chunk).item(), wanted, oracle.rounding(n, d, tau, wanted, torch.float32))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    "tau, wanted",
    [(0.07, "12.959188223632"), (0.1, "9.073158751833"), (0.5, "2.337352595859"), (1.0, "1.957507354244")],
)
def test_published_numbers(tau, wanted, chunk):
    """Three implementations agree on these."""
    x = torch.arange(12, dtype=torch.float64)
    value, digits = printed(wanted)
    near_it = digits + oracle.rounding(4, 3, tau, value, torch.float64)
    close(nt_xent(x.sin().view(4, 3), x.cos().view(4, 3), tau, chunk), value, near_it)


def alike_rounding(n, d, tau):
    """Equal rows: two inner products of the same d numbers, possibly in another order, over tau; then 2n equal terms."""
    loss = math.log(2 * n - 1)
    return bound(d, torch.float32, 2 / tau) + bound(4 * n + 20, torch.float32, 1 + loss)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("n", [2, 8, 64])
def test_who_cannot_tell_pays_the_logarithm_of_the_others(n, chunk):
    alike = torch.tensor([[1.0, 2.0, 3.0]]).expand(n, 3)
    close(nt_xent(alike, 2 * alike, 0.1, chunk).item(), math.log(2 * n - 1), alike_rounding(n, 3, 0.1))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.1, 0.07, 0.01])
def test_rows_that_are_alike_cost_the_same_at_any_temperature(tau, chunk):
    """16 times 1/4: all products and sums are exact in any order, so the differences of cosines are 0, whatever tau is.
    Rows divided by tau before the product, or a positive computed beside the matrix, leave rounding errors over tau."""
    alike = torch.full((8, 16), 0.25)
    close(nt_xent(alike, alike, tau, chunk), math.log(15), alike_rounding(8, 16, math.inf))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_one_picture_has_no_negatives(chunk):
    value, gradient = value_and_gradient(*views(1, 4), 0.01, chunk)
    assert value == 0 and torch.equal(gradient, torch.zeros(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau, wanted", [(0.05, "2.8856e-8"), (0.1, "6.35397109e-4"), (0.5, "1.06287939")])
def test_right_angles(tau, wanted, chunk):
    """Each picture its own axis: ln(1 + (2N - 2) exp(-1/tau)). The first is below float32's steps at 1."""
    eye = torch.eye(8)
    exact = math.log1p(14 * math.exp(-1 / tau))
    close(exact, *printed(wanted))
    close(nt_xent(eye, eye, tau, chunk).item(), exact, bound(4 * 8 + 20, torch.float32, exact * (1 + 1 / tau)))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_seminars_two_pictures(chunk):
    eye = torch.eye(2, dtype=torch.float64)
    right, swapped = nt_xent(eye, eye, 0.5, chunk).item(), nt_xent(eye, eye.flip(0), 0.5, chunk).item()
    close(right, *printed("0.2395447662"))
    close(swapped - right, 1 / 0.5, oracle.rounding(2, 2, 0.5, 2.2, torch.float64))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.02, 0.01, 0.001])
def test_large_losses_are_not_capped(tau, chunk):
    """The positive at the far side, a negative on the spot: 2 / tau, beyond what exp in float32 holds."""
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    value, gradient = value_and_gradient(a, -a, tau, chunk)
    close(value.item(), 2 / tau, bound(20, torch.float32, 2 / tau))
    assert gradient.isfinite().all()


def test_both_directions_summed_is_twice_the_mean():
    """The released code's objective: cross-entropy of a among (b, other a) plus of b among (a, other b)."""
    a, b = (F.normalize(z, dim=1) for z in views(6, 5))
    far = 1e9 * torch.eye(6, dtype=torch.float64)
    rows = [torch.cat([x @ y.T / 0.2, x @ x.T / 0.2 - far], dim=1) for x, y in ((a, b), (b, a))]
    total = sum(F.cross_entropy(row, torch.arange(6)) for row in rows)
    value = nt_xent(a, b, 0.2).item()
    close(total, 2 * value, oracle.rounding(6, 5, 0.2, value, torch.float64) * 4)


def test_a_duplicate_is_a_negative_like_any_other():
    a, b = views(4, 3)
    a[1], b[1] = a[0], b[0]
    wanted = oracle.nt_xent(a.tolist(), b.tolist(), 0.3)
    close(nt_xent(a, b, 0.3), wanted, oracle.rounding(4, 3, 0.3, wanted, torch.float64))


@pytest.mark.parametrize("chunk", (None, 5))
def test_what_the_value_does_not_depend_on(chunk):
    a, b = views(7, 4)
    value = nt_xent(a, b, 0.2, chunk).item()
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(7, generator=generator)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    lengths = torch.rand(7, 1, generator=generator, dtype=torch.float64) + 0.1
    for other in ((a * lengths, b / lengths), (a[order], b[order]), (a @ turn, b @ turn), (b, a)):
        close(nt_xent(*other, 0.2, chunk).item(), value, oracle.rounding(7, 4, 0.2, value, torch.float64) * 2)


# ---- the gradient ---------------------------------------------------------------------------------------------------


def learnable(tau: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(tau, dtype=dtype, requires_grad=True)


def test_the_whole_matrix_can_be_differentiated_twice_and_chunks_say_that_they_cannot():
    a, b = (z.requires_grad_() for z in views(4, 3))
    assert torch.autograd.gradgradcheck(nt_xent, (a, b, learnable(0.5)))
    with pytest.raises(RuntimeError, match="create_graph=True.*cannot be differentiated a second time.*chunk=None"):
        torch.autograd.grad(nt_xent(a, b, 0.5, 3), a, create_graph=True)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_gradient_of_a_learnable_temperature(chunk):
    """The number that finite differences gave when the chunked form had another one, -1.3400."""
    torch.manual_seed(0)
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    t = learnable(0.5)
    (slope,) = torch.autograd.grad(nt_xent(a, b, t, chunk), t)
    close(slope, *printed("-3.0970"))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_temperature_keeps_its_format(dtype, chunk):
    """One number of any format beside embeddings of another: the loss has the embeddings' format, the slope its own."""
    a, b = views(4, 3)
    t = learnable(0.5, dtype)
    loss = nt_xent(a, b, t, chunk)
    loss.backward()
    assert loss.dtype == torch.float64 and loss.item() == nt_xent(a, b, 0.5, chunk).item() and t.grad.dtype == dtype


@pytest.mark.parametrize("chunk", CHUNKS)
def test_one_picture_has_no_slope_in_the_temperature_either(chunk):
    t = learnable(0.01)
    nt_xent(*views(1, 4), t, chunk).backward()
    assert t.grad == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.05, 0.5, 10.0])
def test_chunks_give_the_same_value_and_gradient(tau, dtype):
    a, b = views(33, 16, dtype=dtype)
    value, gradient = value_and_gradient(a, b, tau)
    for chunk in (1, 7, 32, 33, 65, 66, 1000):
        again, again_gradient = value_and_gradient(a, b, tau, chunk)
        assert again.dtype == dtype and near(value, again, oracle.rounding(33, 16, tau, value.item(), dtype) * 2)
        close(gradient, again_gradient, oracle.gradient_rounding(33, 16, tau, gradient, dtype) * 2)


def test_chunks_pass_on_what_comes_from_above():
    a, b = views(5, 4)
    gradient = value_and_gradient(a, b, 0.2, 3)[1]
    scaled = value_and_gradient(a, b, loss=lambda a, b: 1000 * nt_xent(a, b, 0.2, 3))[1]
    close(scaled, 1000 * gradient, oracle.gradient_rounding(5, 4, 0.2, 1000 * gradient, torch.float64))
    whole = nt_xent(a, b, 0.2)
    rounding = oracle.rounding(5, 4, 0.2, whole.item(), torch.float64) * 2
    close(nt_xent(a, b, 0.2, 3), whole, rounding, what="and without a gradient")
    with torch.no_grad():
        assert not nt_xent(a.requires_grad_(), b, 0.2, 3).requires_grad


@pytest.mark.parametrize("chunk", (None, 5))
def test_only_directions_matter(chunk):
    a, b = views(7, 4)
    gradient = value_and_gradient(a, b, 0.2, chunk)[1]
    z = torch.cat([a, b])
    # row by row, as a gradient is as large as its embedding is short
    rounding = oracle.gradient_rounding(7, 4, 0.2, torch.ones(1), torch.float64)
    rounding *= (gradient.abs().amax(1) * z.abs().sum(1)).numpy()
    close((gradient * z).sum(1), torch.zeros(14), rounding)


@pytest.mark.parametrize("chunk", (None, 5))
def test_an_embedding_without_direction_gets_no_gradient(chunk):
    a, b = views(4, 3, dtype=torch.float32)
    a[2] = 0
    value, gradient = value_and_gradient(a, b, 0.5, chunk)
    assert value.isfinite() and gradient.abs().max() < 1
    assert torch.equal(gradient[2], torch.zeros(3))


# ---- number formats and memory --------------------------------------------------------------------------------------


def test_memory_of_chunks_grows_with_n_not_with_its_square():
    def peak(n: int, chunk: int | None) -> int:
        a, b = views(n, 16, dtype=torch.float32)
        return peak_bytes(lambda: value_and_gradient(a, b, 0.5, chunk))

    assert peak(512, None) > 3.5 * peak(256, None) > 3.5 * 4 * 512**2
    assert peak(512, 32) < 2.2 * peak(256, 32) < 2.2 * 4 * 8 * 32 * 512


# ---- several processes ----------------------------------------------------------------------------------------------


def both_ways() -> list:
    """One process's part of six pictures: the loss with and without the other's views, whole and in chunks."""
    part = slice(3 * ranks.rank(), 3 * ranks.rank() + 3)
    a, b = (z[part] for z in views(6, 4))
    return [value_and_gradient(a, b, 0.2, chunk, gather=gather) for gather in (True, False) for chunk in (None, 4)]


def test_two_processes_are_one(tmp_path):
    first, second = together(both_ways, tmp_path)
    value, gradient = value_and_gradient(*views(6, 4), 0.2)
    rounding = oracle.rounding(6, 4, 0.2, value.item(), torch.float64) * 2
    slope_rounding = oracle.gradient_rounding(6, 4, 0.2, gradient, torch.float64) * 2
    for way, gathered in enumerate((True, True, False, False)):
        (one, slope_one), (two, slope_two) = first[way], second[way]
        mean, slopes = (one + two) / 2, torch.stack([slope_one, slope_two]) / 2  # the loop's mean over the processes
        joined = slopes.view(2, 2, 3, 4).transpose(0, 1).reshape(12, 4)  # views a of both, then views b
        same = near(mean, value, rounding) and near(joined, gradient, slope_rounding)
        assert same == gathered


def test_gather_is_nothing_with_one_process():
    assert nt_xent(*views(3, 4), gather=True) == nt_xent(*views(3, 4))


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, words",
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), r"z_a is \(2, 3, 4, 4\).*\(N, d\)"),
        (torch.zeros(2, 3), torch.zeros(3), r"z_b is \(3,\).*\(N, d\)"),
        (torch.zeros(3, 0), torch.zeros(3, 0), r"z_a is \(3, 0\).*one row"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), "int64.*real numbers"),
        (torch.zeros(2, 3), torch.zeros(4, 3), r"z_a is \(2, 3\) and z_b \(4, 3\).*one shape"),
        (torch.zeros(2, 3), torch.zeros(2, 4), r"z_a is \(2, 3\) and z_b \(2, 4\)"),
        (torch.ones(2, 3), torch.tensor([[1.0, 2, 3], [4, math.nan, 5]]), "Row 1 of z_b has NaN.*finite"),
        (torch.tensor([[math.inf, 1.0]]), torch.ones(1, 2), "Row 0 of z_a"),
        (torch.tensor([[1e30, 1.0]]), torch.ones(1, 2), "Row 0 of z_a.*enormous"),
    ],
)
@pytest.mark.parametrize("chunk", (None, 2))
def test_wrong_embeddings_are_named(a, b, words, chunk):
    with pytest.raises(ValueError, match=words):
        nt_xent(a, b, chunk=chunk)


@pytest.mark.parametrize("tau", [0.0, -0.5, 1e-40, math.nan, math.inf])
@pytest.mark.parametrize("form", [float, torch.tensor])
def test_wrong_temperatures_are_named(tau, form):
    with pytest.raises(ValueError, match="temperature is .*above 0"):
        nt_xent(*views(2, 3), form(tau))


def test_a_temperature_is_one_number():
    with pytest.raises(ValueError, match=r"temperature is a tensor of shape \(2,\).*one number.*squeeze"):
        nt_xent(*views(2, 3), torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("chunk", [0, -1])
def test_wrong_chunks_are_named(chunk):
    with pytest.raises(ValueError, match=f"chunk is {chunk}.*1 or more"):
        nt_xent(*views(2, 3), chunk=chunk)


# ---- other libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5, 10.0])
@pytest.mark.parametrize("n, d", [(1, 2), (3, 16), (33, 128)])
def test_equals_lightly(n, d, tau, dtype):
    peer = pytest.importorskip("lightly.loss").NTXentLoss(temperature=tau)
    value, gradient = value_and_gradient(*views(n, d, dtype=dtype), tau)
    theirs, slope = value_and_gradient(*views(n, d, dtype=dtype), loss=peer)
    close(value.item(), theirs.item(), oracle.rounding(n, d, tau, value.item(), dtype) * 2 + bound(4, dtype, 1 / tau))
    close(gradient, slope, oracle.gradient_rounding(n, d, tau, slope, dtype) * 2)


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
@pytest.mark.parametrize("tau", [0.05, 0.5, 10.0])
def test_equals_pytorch_metric_learning(tau, name):
    """In float64 and with few rows: its NTXentLoss caps rows at 87 in float32 and holds 8 N^3 numbers."""
    library = pytest.importorskip("pytorch_metric_learning.losses")
    peer = getattr(library, name)(temperature=tau)
    a, b = views(8, 16)
    value, gradient = value_and_gradient(a, b, tau)
    theirs, slope = value_and_gradient(a, b, loss=lambda a, b: peer(torch.cat([a, b]), torch.arange(8).repeat(2)))
    wrapped = library.SelfSupervisedLoss(peer)(a, b)
    for other in (theirs, wrapped):
        close(other, value, oracle.rounding(8, 16, tau, value.item(), torch.float64) * 2)
    close(gradient, slope, oracle.gradient_rounding(8, 16, tau, slope, torch.float64) * 2)
