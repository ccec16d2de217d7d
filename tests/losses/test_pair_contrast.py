"""Contrast of labelled rows: against loops, landmarks, chunks against the whole matrix, weights, what does not count, and two
processes."""

import math

import pytest
import torch

from benchmarks.measuring import peak_bytes
from course_lib import ranks
from course_lib.losses import pair_contrast
from tests.bounds import Tolerance, bound, close, far
from tests.oracles.nt_xent import row_loss
from tests.processes import together

CHUNKS = (None, 1, 3, 64)  # the whole matrix; blocks that fit, that do not, and one larger than the matrix
Y, Z = torch.tensor([0, 1, 2, 255, 0, 1, 3, 0]), torch.tensor([0, 0, 1, 1, 2, 255, 2, 0, 1, 255, 0])


def rows(n: int, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Of unit length."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1).to(dtype)


def factors(n: int, k: int = 2, seed: int = 5) -> torch.Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loops(u, v, y, z, tau, same_rows=False, positive=None, weight=None) -> float:
    """The equation in plain Python."""
    u, v, y, z = (x.tolist() for x in (u, v, y, z))
    s = [[math.fsum(a * b for a, b in zip(p, q)) / tau for q in v] for p in u]
    total, counted = [], 0
    for i, c in enumerate(y):
        negatives = [s[i][k] for k, other in enumerate(z) if other not in (c, 255)]
        pairs = [j for j, other in enumerate(z) if other == c != 255 and not (same_rows and i == j)]
        pairs = [j for j in pairs if positive is None or positive[j]]
        if pairs:
            counted += 1
            w = [1.0 if weight is None else float(weight[0][i] @ weight[1][j]) for j in pairs]
            total.append(math.fsum(w_j * row_loss(s[i][j], negatives) for w_j, j in zip(w, pairs)) / len(pairs))
    return math.fsum(total) / max(1, counted)


def rounding(d: int, m: int, tau: float, dtype: torch.dtype, size: float) -> Tolerance:
    """A cosine of d products, divided by tau, is twice in g; then exp, a sum over m candidates, log, softplus and two means of
    numbers as large as `size`. The slope of the loss in a similarity is at most 1."""
    return bound(d + 2, dtype, 2 / tau) + bound(2 * m + 30, dtype, 1 + size)


def gradients(u, v, *rest, weight=None, scale=1.0, **more):
    """The value and the gradients at u, v and the factors of the weight."""
    inputs = [x.detach().clone().requires_grad_() for x in (u, v, *(weight or ()))]
    loss = pair_contrast(*inputs[:2], *rest, weight=tuple(inputs[2:]) if weight else None, **more)
    (scale * loss).backward()
    return loss.detach(), [x.grad for x in inputs]


FORMS = {
    "two sets": {},
    "negatives alone": {"positive": torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0]).bool()},
    "weights": {"weight": (factors(8), factors(11, seed=6))},
    "all": {"positive": torch.arange(11) % 3 != 0, "weight": (factors(8), factors(11, seed=6))},
}


# ---- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_loops(form, tau, chunk):
    u, v, how = rows(8), rows(11, seed=1), FORMS[form]
    wanted = loops(u, v, Y, Z, tau, **how)
    size = max(1.0, wanted) * (2 if "weight" in how else 1)
    close(pair_contrast(u, v, Y, Z, tau, chunk=chunk, **how), wanted, rounding(5, 11, tau, torch.float64, size))
    single = pair_contrast(u.float(), v.float(), Y, Z, tau, chunk=chunk, **how)
    close(single, wanted, (rounding(5, 11, tau, torch.float32, size) + bound(2, torch.float32, 2 / tau)) * 2)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("other", [False, True])
def test_a_cell_is_no_positive_of_itself(other, chunk):
    """v is u, or another feature of the same cells; the pair (i, i) is left out of both."""
    u = rows(8)
    v = rows(8, seed=1) if other else u
    wanted = loops(u, v, Y, Y, 0.2, same_rows=True)
    close(pair_contrast(u, v, Y, Y, 0.2, True, chunk=chunk), wanted, rounding(5, 8, 0.2, torch.float64, wanted))
    assert far(pair_contrast(u, v, Y, Y, 0.2, chunk=chunk), wanted, 1e-3)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_rows_that_are_alike_pay_the_logarithm_of_the_negatives(tau, chunk):
    """16 times 1/4: all products and sums are exact. Four classes of five rows: fifteen negatives."""
    alike, y = torch.full((20, 16), 0.25), torch.arange(20) % 4
    close(pair_contrast(alike, alike, y, y, tau, True, chunk=chunk), math.log(16), bound(80, torch.float32, 1 + math.log(16)))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
def test_perfect_clusters_cost_less_than_random_rows_and_these_less_than_swapped_labels(tau, chunk):
    """ln(1 + n exp(-1/tau)) for n negatives at right angles; the first is 3e-8, below float32's steps at 1."""
    u, y = torch.eye(4).repeat_interleave(4, 0), torch.arange(4).repeat_interleave(4)
    swapped = torch.arange(16) % 4
    values = [pair_contrast(x, x, c, c, tau, True, chunk=chunk).item()
              for x, c in ((u, y), (rows(16, 16, dtype=torch.float32), y), (u, swapped))]  # fmt: skip
    exact = math.log1p(12 * math.exp(-1 / tau))
    close(values[0], exact, bound(100, torch.float32, exact * (1 + 1 / tau)))
    wrong = math.log(math.exp(1 / tau) * 3 + 9 + 1)  # each row: three wrong ones on the spot, all positives at right angles
    close(values[2], wrong, bound(100, torch.float32, 1 + wrong))
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.02, 0.001, 1e-6])
def test_large_losses_are_not_capped(tau, chunk):
    """The positive at the far side, a negative on the spot: 2 / tau, beyond what exp in float32 holds."""
    u, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 1])
    value, (d_u, _) = gradients(u, u, y, y, tau, True, chunk=chunk)
    wanted = (2 / tau + math.log(2)) / 2  # the second row's positive and negative are equally far
    close(value, wanted, bound(40, torch.float32, 2 / tau))
    assert d_u.isfinite().all()


def test_temperature_100_hardly_moves_and_a_tenth_does():
    """SePiCo's release has 100: on unit rows the loss is within 2/100 of the logarithm, whatever the rows are."""
    y = torch.arange(16) % 4
    spread = {tau: pair_contrast(rows(16), rows(16), y, y, tau, True) - pair_contrast(u, u, y, y, tau, True)
              for tau in (0.1, 1.0, 100.0) for u in [torch.eye(4).repeat(4, 1).double()]}  # fmt: skip
    assert spread[0.1] > 3 and spread[1.0] > 0.3 and abs(spread[100.0]) < 0.02


# ---- what does not count --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
def test_ignored_rows_and_candidates_change_nothing_and_get_no_gradient(chunk):
    u, v, keep_u, keep_v = rows(8), rows(11, seed=1), Y != 255, Z != 255
    weight = factors(8), factors(11, seed=6)
    value, found = gradients(u, v, Y, Z, 0.1, chunk=chunk, weight=weight)
    fewer = pair_contrast(u[keep_u], v[keep_v], Y[keep_u], Z[keep_v], 0.1, weight=(weight[0][keep_u], weight[1][keep_v]))
    close(value, fewer, rounding(5, 11, 0.1, torch.float64, 4.0))
    for gradient, keep in zip(found, (keep_u, keep_v) * 2):
        assert gradient[keep].any() and not gradient[~keep].any()
    huge = v.clone()
    huge[~keep_v] = 1e6
    close(pair_contrast(u, huge, Y, Z, 0.1, chunk=chunk, weight=weight), value, rounding(5, 11, 0.1, torch.float64, 4.0))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    "y, z, wanted",
    [
        ([255, 255], [0, 1], 0.0),  # no row
        ([0, 1], [255, 255], 0.0),  # no candidate
        ([0, 1], [2, 3], 0.0),  # no positive
        ([0, 0], [0, 0], 0.0),  # no negative
        ([], [0, 1], 0.0),
        ([0, 1], [], 0.0),
    ],
)
def test_nothing_to_do_is_0_with_a_gradient_of_0(y, z, wanted, chunk):
    y, z = torch.tensor(y, dtype=torch.int64), torch.tensor(z, dtype=torch.int64)
    weight = factors(len(y)), factors(len(z))
    value, found = gradients(rows(2)[: len(y)], rows(2, seed=1)[: len(z)], y, z, 0.1, chunk=chunk, weight=weight)
    assert value == wanted and not any(gradient.any() for gradient in found)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_mean_is_over_rows_that_have_a_positive(chunk):
    """One of three: the others' classes are nowhere among the candidates, or they alone have theirs."""
    u, v, z = rows(3), rows(4, seed=1), torch.tensor([0, 0, 2, 3])
    wanted = loops(u[:1], v, torch.tensor([0]), z, 0.3)
    found = pair_contrast(u, v, torch.tensor([0, 1, 255]), z, 0.3, chunk=chunk)
    close(found, wanted, rounding(5, 4, 0.3, torch.float64, wanted))
    alone = torch.tensor([0, 0, 1, 2])
    value, (gradient, _) = gradients(rows(4), rows(4), alone, alone, 0.3, True, chunk=chunk)
    close(value, loops(rows(4), rows(4), alone, alone, 0.3, True), rounding(5, 4, 0.3, torch.float64, 4.0))
    assert gradient[:2].any() and not gradient[2:].any(), "as rows that look"


def test_what_the_value_does_not_depend_on():
    u, generator = rows(8), torch.Generator().manual_seed(1)
    value, weight = pair_contrast(u, u, Y, Y, 0.2, True, chunk=3), factors(8)
    order = torch.randperm(8, generator=generator)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    names = torch.where(Y == 255, 255, (Y + 7) * 3)
    for x, c in ((u[order], Y[order]), (u @ turn, Y), (u, names), (u, Y.to(torch.uint8))):
        close(pair_contrast(x, x, c, c, 0.2, True, chunk=3), value, rounding(5, 8, 0.2, torch.float64, 4.0) * 2)
    same = pair_contrast(u, u, Y, Y, 0.2, True, weight=(weight, weight))
    moved = pair_contrast(u[order], u[order], Y[order], Y[order], 0.2, True, weight=(weight[order], weight[order]), chunk=3)
    close(moved, same, rounding(5, 8, 0.2, torch.float64, 4.0) * 2)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_weights_and_what_they_leave_are_all_of_it(chunk):
    """w and 1 - w, CLUDA's two kinds of pairs; vectors are factors of one column."""
    u, omega, one = rows(8), factors(8)[:, 0], torch.ones(8, dtype=torch.float64)
    rest = torch.stack([one, -omega], 1), torch.stack([one, omega], 1)
    parts = [pair_contrast(u, u, Y, Y, 0.2, True, weight=w, chunk=chunk) for w in ((omega, omega), rest)]
    whole = pair_contrast(u, u, Y, Y, 0.2, True, chunk=chunk)
    close(sum(parts), whole, rounding(5, 8, 0.2, torch.float64, 4.0) * 2)
    wanted = loops(u, u, Y, Y, 0.2, True, None, (omega[:, None], omega[:, None]))
    close(parts[0], wanted, rounding(5, 8, 0.2, torch.float64, 4.0))


# ---- the gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_gradient_is_the_slope(tau, chunk):
    u, v, a, b = (x.requires_grad_() for x in (rows(8), rows(11, seed=1), factors(8), factors(11, seed=6)))
    how = {"chunk": chunk, "positive": torch.arange(11) % 3 != 0}

    def loss(u, v, a, b):
        return pair_contrast(u, v, Y, Z, tau, weight=(a, b), **how)

    assert torch.autograd.gradcheck(loss, (u, v, a, b))
    for k in range(4):  # one of them alone
        given = [x if i == k else x.detach() for i, x in enumerate((u, v, a, b))]
        assert torch.autograd.gradcheck(loss, given)
    assert torch.autograd.gradcheck(lambda u: pair_contrast(u, u, Y, Y, tau, True, chunk=chunk), u), "rows and candidates"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_chunks_give_the_same_value_and_gradient(tau, dtype):
    y = torch.arange(33) % 5
    y[:4] = 255
    u, w = rows(33, 16, dtype=dtype), (factors(33).to(dtype), factors(33, seed=6).to(dtype))
    value, slopes = gradients(u, u, y, y, tau, True, weight=w, chunk=None)
    for chunk in (1, 7, 32, 33, 1000):
        again, found = gradients(u, u, y, y, tau, True, weight=w, chunk=chunk)
        assert again.dtype == dtype
        close(again, value, rounding(16, 33, tau, dtype, 2 / tau) * 2)
        for gradient, slope in zip(found, slopes):  # weights of pairs have the relative error of an exponent
            close(gradient, slope, bound(16, dtype, 8 / tau * slope.abs().max()) + bound(200, dtype, 4 * slope.abs().max()))
    scaled = gradients(u, u, y, y, tau, True, weight=w, chunk=7, scale=1000.0)[1]
    close(scaled[0], 1000 * slopes[0], bound(16, dtype, 8e3 / tau * slopes[0].abs().max()))


def test_the_whole_matrix_can_be_differentiated_twice_and_chunks_say_that_they_cannot():
    u = rows(8).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda u: pair_contrast(u, u, Y, Y, 0.5, True, chunk=None), u)
    with pytest.raises(RuntimeError, match="create_graph=True.*cannot be differentiated a second time.*chunk=None"):
        torch.autograd.grad(pair_contrast(u, u, Y, Y, 0.5, True), u, create_graph=True)
    with torch.no_grad():
        assert not pair_contrast(u, u, Y, Y).requires_grad


# ---- number formats and memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", (None, 16))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_no_more_than_the_rounded_input(dtype, chunk):
    u, y = rows(64, 16).to(dtype), torch.arange(64) % 5
    exact = pair_contrast(u.double(), u.double(), y, y, 0.1, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, found = pair_contrast(u, u, y, y, 0.1, True, chunk=chunk), pair_contrast(u.float(), u, y, y, 0.1, True)
    assert value.dtype == found.dtype == torch.float32
    for loss in (value, found):
        close(loss, exact, rounding(16, 64, 0.1, torch.float32, exact.item()))
    (gradient, _) = gradients(u, u, y, y, 0.1, True, chunk=chunk)[1]
    assert gradient.dtype == dtype and gradient.any()


def test_memory_is_that_of_a_few_chunks():
    def peak(n: int, chunk: int | None) -> int:
        u, y, w = rows(n, 16, dtype=torch.float32), torch.arange(n) % 5, factors(n).float()
        return peak_bytes(lambda: gradients(u, u, y, y, 0.1, True, weight=(w, w), chunk=chunk))

    assert peak(512, None) > 3.5 * peak(256, None) > 3.5 * 4 * 4 * 256**2
    assert peak(512, 16) < 2.3 * peak(256, 16) < 2.3 * 4 * 10 * 16 * 512


# ---- several processes ----------------------------------------------------------------------------------------------


def parts_of_twelve() -> list:
    """One process's part of twelve rows: classes, weights and positives lie unevenly."""
    n = 12 // ranks.count()
    part = slice(n * ranks.rank(), n * (ranks.rank() + 1))
    u, y = rows(12), torch.tensor([0, 0, 0, 255, 255, 1, 1, 2, 0, 2, 2, 3])
    how = {"positive": (torch.arange(12) != 7)[part], "same_rows": True}
    weight = tuple(x[part] for x in (factors(12), factors(12, seed=6)))
    ways = [{"gather": True, "chunk": 4}, {"gather": True, "chunk": None}, {"gather": False, "chunk": 4}]
    return [gradients(u[part], u[part], y[part], y[part], 0.2, weight=weight, **how, **way) for way in ways]


def test_two_processes_are_one(tmp_path):
    two, one = together(parts_of_twelve, tmp_path), parts_of_twelve()
    for way, gathered in enumerate((True, True, False)):
        mean = sum(process[way][0] for process in two) / 2
        slopes = [torch.cat(pair) / 2 for pair in zip(two[0][way][1], two[1][way][1])]
        value, wanted = one[way]
        if not gathered:
            assert far(mean, value, 1e-3), "pairs within each process alone"
            continue
        close(mean, value, rounding(5, 12, 0.2, torch.float64, 4.0) * 2)
        for gradient, slope in zip(slopes, wanted):
            close(gradient, slope, bound(200, torch.float64, 40 * slope.abs().max()))


def rows_of_one_process() -> torch.Tensor:
    """All rows that count are those of process 0; both have candidates."""
    y = torch.tensor([[0, 0, 1], [255, 255, 255]])[ranks.rank()]
    return pair_contrast(rows(3), rows(3), y, y, 0.2, True)


def test_without_gather_the_mean_is_over_the_rows_of_all_processes(tmp_path):
    first, second = together(rows_of_one_process, tmp_path)
    close((first + second) / 2, rows_of_one_process(), rounding(5, 3, 0.2, torch.float64, 4.0))
    assert second == 0


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"u": torch.zeros(8, 5, 2, 2)}, r"rows \(8, 5, 2, 2\) torch.float32 .*it wants real numbers \(A, D\) and \(M, D\)"),
        ({"v": torch.zeros(11, 4)}, r"candidates \(11, 4\)"),
        ({"u": torch.zeros(8, 5, dtype=torch.int64)}, "torch.int64.*real numbers"),
        ({"u_class": Y[:3]}, r"classes \(3,\) of 8 rows and \(11,\) of 11 candidates; it wants one train id for each"),
        ({"u_class": Y.double()}, "labels of torch.float64, wanted whole train ids"),
        ({"v_class": Z + 1}, "label 256, wanted train ids 0 to 254, or 255"),
        ({"same_rows": True}, "same_rows=True wants as many candidates as rows; got 11 and 8"),
        ({"positive": torch.ones(11)}, r"positive is \(11,\) of torch.float32; it wants one bool for each candidate, \(11,\)"),
        ({"temperature": 0.0}, "temperature is 0.0.*above 0"),
        ({"temperature": torch.tensor(0.1)}, "temperature is a tensor, and pair_contrast has no gradient for it"),
        ({"chunk": 0}, "chunk is 0.*1 or more"),
        ({"weight": (torch.ones(8), torch.ones(8))}, r"factors \(8,\) and \(8,\); it wants \(8,\) and \(11,\)"),
        ({"weight": (torch.ones(8, 2), torch.ones(11, 3))}, r"or \(8, K\) and \(11, K\)"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    given = {"u": rows(8), "v": rows(11), "u_class": Y, "v_class": Z} | change
    with pytest.raises(ValueError, match=words):
        pair_contrast(**given)
