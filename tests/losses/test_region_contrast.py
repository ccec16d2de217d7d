"""Region contrast: what is drawn and how often, value and gradient against loops, what counts, empty cases, two processes."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from benchmarks.measuring import peak_bytes
from course_lib import ranks
from course_lib.losses import region_contrast
from course_lib.losses.region_contrast import (
    MOST_CELLS,
    RegionNumbers,
    Regions,
    alias_table,
    class_means,
    directions,
    draw_regions,
)
from tests.bounds import CERTAINTY, Tolerance, bound, close, far
from tests.oracles.nt_xent import row_loss
from tests.processes import together

C = 4
CHUNKS = (1, 5, 10_000)  # blocks that do not fit, and one larger than all queries
ALMOST_1 = 1 - 2**-24  # the largest that torch.rand gives


@dataclass(frozen=True)
class Cells:
    """The arguments of the loss, in its order."""

    z: torch.Tensor
    y: torch.Tensor
    hard: torch.Tensor
    numbers: RegionNumbers

    @property
    def all(self) -> tuple:
        return self.z, self.y, self.hard, self.numbers

    def to(self, dtype: torch.dtype) -> "Cells":
        return replace(self, z=self.z.to(dtype))


def numbers(Q: int, K: int, seed: int = 0, classes: int = C) -> RegionNumbers:
    g = torch.Generator().manual_seed(seed)
    return RegionNumbers(*(torch.rand(shape, generator=g) for shape in ((classes, Q), (classes, Q, K), (classes, Q, K))))


def cells(P: int = 60, D: int = 6, Q: int = 5, K: int = 7, seed: int = 0) -> Cells:
    """Vectors of several lengths, near to those of their class; some cells without a class, about half of the others hard."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(P) % C
    z = torch.randn(C, D, generator=g, dtype=torch.float64)[y] + torch.randn(P, D, generator=g, dtype=torch.float64)
    y[::5] = 255
    return Cells(3 * z, y, torch.rand(P, generator=g) < 0.5, numbers(Q, K, seed))


def drawn(c: Cells, tau: float = 0.5, gather: bool = False) -> Regions:
    mu = directions(class_means(c.z, c.y, len(c.numbers.query), gather)[0])
    return draw_regions(c.y, c.hard, mu @ mu.T, c.numbers, tau)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b / (a.norm() * b.norm())


def by_loops(c: Cells, tau: float) -> torch.Tensor:
    """From the equation, cell by cell, with torch's own gradient; which cells is given."""
    found, per_class = drawn(c, tau), []
    means = [c.z[c.y == k].mean(0).detach() for k in range(len(found.query))]
    for k, there in enumerate(found.there.tolist()):
        if there:
            losses = []
            for q, negatives in zip(found.query[k].tolist(), found.cell[k].tolist()):
                positive = (cosine(c.z[q], means[k]) / tau).exp()
                others = sum((cosine(c.z[q], c.z[j].detach()) / tau).exp() for j in negatives)
                losses.append(-(positive / (positive + others)).log())
            per_class.append(sum(losses) / len(losses))
    return sum(per_class) / len(per_class)


def rounding(c: Cells, tau: float, loss: float, dtype: torch.dtype) -> Tolerance:
    """Of the loss: lengths, inner products of D and a mean over P in each of two exponents, over tau, whose slopes add up to at
    most 2 min(1, l); then the sum over K, exp, log, softplus and the means over the queries and over the classes."""
    (P, D), (_, Q, K), slope = c.z.shape, c.numbers.other.shape, min(1.0, loss)
    return bound(3 * D + P + 10, dtype, slope * 2 / tau) + bound(K + C * Q + 20, dtype, loss + slope)


def gradient_rounding(c: Cells, tau: float, gradient: torch.Tensor, dtype: torch.dtype) -> Tolerance:
    """Weights have the exponents' absolute error as a relative one. A query's slope is at most 2 / tau over its length, and a
    cell is drawn by at most C Q queries."""
    (P, D), (_, Q, K), largest = c.z.shape, c.numbers.other.shape, gradient.abs().max()
    return bound(3 * D + P + 10, dtype, largest * 2 / tau) + bound(2 * K + 2 * D + C * Q + 30, dtype, 4 * largest)


def value_and_gradient(c: Cells, *args, loss=region_contrast, **more):
    z = c.z.detach().clone().requires_grad_()
    value = loss(z, *c.all[1:], *args, **more)
    with torch.autocast("cpu", enabled=False):
        value.backward()
    return value.detach(), z.grad


# ---- what is drawn --------------------------------------------------------------------------------------------------


def expected(c: Cells, k: int, tau: float) -> list[float]:
    """The probability of each class as that of a negative of class k, from the equation."""
    means = {j: c.z[c.y == j].mean(0) for j in range(C) if (c.y == j).any()}
    e = [math.exp(cosine(means[k], means[j]) / tau) if j in means and j != k else 0.0 for j in range(C)]
    return [x / sum(e) for x in e]


def fits(count: torch.Tensor, probabilities: list[float]) -> bool:
    """Whether all counts of n draws are those of the probabilities: a count has the standard deviation sqrt(n p (1 - p)), and
    is off by five of them once in a million."""
    n, p = count.sum(), torch.tensor(probabilities, dtype=torch.float64)
    return bool(((count - n * p).abs() <= CERTAINTY * (n * p * (1 - p)).sqrt() + 1e-9).all())


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_negatives_are_of_a_class_with_the_softmax_of_the_means_cosines(tau):
    c = replace(cells(), numbers=numbers(40, 500))
    found = drawn(c, tau)
    for k in range(C):
        count = found.other[k].flatten().bincount(minlength=C)
        assert fits(count, expected(c, k, tau)), (count, expected(c, k, tau))
        assert not fits(count, expected(c, k, 2 * tau)), "the test tells one temperature from another"


def test_walkers_table_has_the_probabilities_exactly():
    """What each column keeps and what it gives away, added up; classes of 0 get nothing, also where one has all."""
    g = torch.Generator().manual_seed(0)
    parts = torch.randint(0, 1000, (50, 7), generator=g) * (torch.rand(50, 7, generator=g) < 0.6)
    parts[:3] = torch.tensor([[0, 0, 5, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [2**30, 1, 0, 0, 0, 0, 0]])
    share, instead = alias_table(parts)
    for row, s, other in zip(parts.tolist(), share.double().tolist(), instead.tolist()):
        found = [0.0] * 7
        for j in range(7):
            found[j] += s[j] / 7
            found[other[j]] += (1 - s[j]) / 7
        assert all((f == 0) == (p == 0) for f, p in zip(found, row)) or not any(row)
        if any(row):
            close(found, [p / sum(row) for p in row], bound(2, torch.float32, 1.0))


def test_a_uniform_number_is_always_below_the_last_place():
    """u n < n in float32 for all n below 2^24, which `_cells` and the table of classes rely on."""
    n = torch.cat([torch.arange(1, 2**16), 2 ** torch.arange(24), MOST_CELLS - torch.arange(1, 2**16)])
    assert ((ALMOST_1 * n.float()).int() == n - 1).all() and MOST_CELLS == 2**24
    assert torch.rand(10**6, generator=torch.Generator().manual_seed(0)).max() <= ALMOST_1


def test_a_class_that_is_not_there_is_never_drawn():
    c = cells()
    c = replace(c, y=torch.where(c.y == 2, 255, c.y), numbers=numbers(40, 500))
    found = drawn(c)
    assert found.there.tolist() == [True, True, False, True]
    for k in (0, 1, 3):
        count = found.other[k].flatten().bincount(minlength=C)
        assert count[2] == 0 and fits(count, expected(c, k, 0.5))


def test_each_cell_of_a_class_is_drawn_alike():
    c = replace(cells(), numbers=numbers(40, 500))
    found = drawn(c)
    for k in range(C):
        own = (c.y == k).nonzero().flatten()
        count = found.cell[found.other == k].bincount(minlength=len(c.y))
        assert count[own].sum() == count.sum() > 1000 and fits(count[own], [1 / len(own)] * len(own))


def test_queries_are_hard_cells_of_their_class_drawn_alike_and_with_replacement():
    c = replace(cells(), numbers=numbers(2000, 1))
    found = drawn(c)
    for k in range(C):
        own = ((c.y == k) & c.hard).nonzero().flatten()
        count = found.query[k].bincount(minlength=len(c.y))
        assert 1 < len(own) < (c.y == k).sum() and count[own].sum() == 2000 and fits(count[own], [1 / len(own)] * len(own))


@pytest.mark.parametrize("u", [0.0, 0.5, ALMOST_1])
@pytest.mark.parametrize("tau", [1e-3, 0.5, 100.0])
def test_at_the_ends_of_the_numbers_a_negative_is_a_valid_cell_of_its_class(tau, u):
    c = replace(cells(), numbers=RegionNumbers(*(torch.full_like(x, u) for x in numbers(3, 4))))
    for absent in (None, 0, C - 1):
        y = torch.where(c.y == absent, 255, c.y) if absent is not None else c.y
        found = drawn(replace(c, y=y), tau)
        for k in set(range(C)) - {absent}:
            assert found.there[k] and (y[found.query[k]] == k).all() and c.hard[found.query[k]].all()
            assert (y[found.cell[k]] == found.other[k]).all()
            assert not torch.isin(found.other[k], torch.tensor([k] if absent is None else [k, absent])).any()


def test_one_of_a_million_cells_can_be_the_last():
    """A class with more cells than a float32 number has digits for: the index stays in the class."""
    y = torch.zeros(2**20 + 1, dtype=torch.int64)
    y[-1] = 1
    ends = RegionNumbers(*(torch.full(shape, ALMOST_1) for shape in ((2, 1), (2, 1, 1), (2, 1, 1))))
    found = draw_regions(y, y < 2, torch.eye(2), ends)
    assert found.cell.flatten().tolist() == [2**20, 2**20 - 1] and found.query.flatten().tolist() == [2**20 - 1, 2**20]


# ---- the value and its gradient -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("P, D, Q, K", [(60, 6, 5, 7), (16, 2, 1, 1), (40, 32, 3, 20)])
def test_value_and_gradient_are_those_of_the_loop(P, D, Q, K, tau, chunk):
    c = cells(P, D, Q, K)
    wanted, slope = value_and_gradient(c, tau, loss=lambda z, *rest, **how: by_loops(replace(c, z=z), tau))
    for dtype in (torch.float64, torch.float32):
        value, gradient = value_and_gradient(c.to(dtype), tau, chunk=chunk)
        assert value.dtype == gradient.dtype == dtype
        close(value, wanted, rounding(c, tau, wanted.item(), dtype))
        close(gradient, slope, gradient_rounding(c, tau, slope, dtype))


def test_keys_and_means_get_no_gradient():
    """Cells that are no query, some of which are keys, all of them in the means."""
    c = cells()
    found = drawn(c)
    _, gradient = value_and_gradient(c)
    asked = torch.isin(torch.arange(len(c.y)), found.query)
    keys = torch.isin(torch.arange(len(c.y)), found.cell)
    assert (keys & ~asked).sum() > 5 and torch.equal((gradient != 0).any(1), asked)


def test_the_gradient_is_that_of_the_value_of_the_queries():
    """By differences: moving a query of its own copy, with keys and means as they are."""
    c = cells(20, 3)
    mu, found = class_means(c.z, c.y, C)[0], drawn(c)
    q = c.z[found.query.flatten()].clone().requires_grad_()

    def value(q: torch.Tensor) -> torch.Tensor:
        q, keys = F.normalize(q), F.normalize(c.z)[found.cell.flatten(0, 1)]
        own = (q * F.normalize(mu).repeat_interleave(5, 0)).sum(1, keepdim=True)
        return -(torch.cat([own, (keys @ q[:, :, None])[..., 0]], dim=1) / 0.5).log_softmax(1)[:, 0].mean()

    (wanted,) = torch.autograd.grad(value(q), q)
    _, gradient = value_and_gradient(c)
    summed = torch.zeros_like(c.z).index_add_(0, found.query.flatten(), wanted)
    close(gradient, summed, gradient_rounding(c, 0.5, summed, torch.float64))
    torch.autograd.gradcheck(value, q)


def test_all_alike_costs_the_logarithm_of_the_negatives_and_one():
    c = cells(Q=3, K=15)
    found = region_contrast(torch.full_like(c.z, 0.5), *c.all[1:])
    close(found, math.log(16), bound(60, torch.float64, 1 + math.log(16)))


def test_the_lengths_do_not_matter():
    c = cells()
    value = region_contrast(*c.all)
    close(region_contrast(1000 * c.z, *c.all[1:]), value, rounding(c, 0.5, value.item(), torch.float64))
    longer = torch.where((torch.arange(60) == 7)[:, None], 100 * c.z, c.z)  # but a long vector counts more in its class's mean
    assert far(region_contrast(longer, *c.all[1:]), value, 1e-3)


def test_classes_count_alike_whatever_their_cells():
    """The mean over classes of the mean over each one's queries."""
    y = torch.tensor([0] * 50 + [1] * 2 + [2] * 4)
    z = torch.eye(3, dtype=torch.float64)[y]
    hard = torch.ones(56, dtype=torch.bool)
    z[50] = torch.tensor([1.0, 0.0, 0.0])  # one of two: its class's mean is between
    u = numbers(400, 3, classes=3)
    losses = []
    for k in range(3):
        losses.append(region_contrast(z, y, hard & (y == k), u))
    value = region_contrast(z, y, hard, u)
    close(value, sum(losses) / 3, bound(400, torch.float64, 10.0))
    two = hard & (y != 2)  # a class without a hard cell: the mean is over the two others, or over all that are there
    close(region_contrast(z, y, two, u), sum(losses[:2]) / 2, bound(400, torch.float64, 10.0))
    close(region_contrast(z, y, two, u, mean_over="present"), sum(losses[:2]) / 3, bound(400, torch.float64, 10.0))
    u = numbers(400, 3, classes=4)  # a fourth class without any cell does not count
    assert torch.equal(region_contrast(z, y, hard, u, mean_over="present"), region_contrast(z, y, hard, u))


# ---- what counts ----------------------------------------------------------------------------------------------------


def test_ignored_cells_get_no_gradient_and_move_nothing():
    c = cells()
    value, gradient = value_and_gradient(c)
    ignored = c.y == 255
    assert ignored.sum() == 12 and (gradient[ignored] == 0).all() and (c.hard & ignored).any()
    assert torch.equal(region_contrast(torch.where(ignored[:, None], -c.z, c.z), *c.all[1:]), value)
    as_255 = c.y.to(torch.uint8)  # any type of whole numbers
    assert torch.equal(region_contrast(c.z, as_255, *c.all[2:]), value)


def even(Q: int, K: int, groups: int, classes: int = C) -> RegionNumbers:
    """Numbers that draw each of Q cells, or of a divisor of Q, equally often, and for each query and class likewise."""
    query = ((torch.arange(Q) + 0.5) / Q).expand(classes, Q)
    other = ((torch.arange(groups) + 0.5) / groups).repeat_interleave(K).expand(classes, Q, -1)
    cell = ((torch.arange(K) + 0.5) / K).repeat(groups).expand(classes, Q, -1)
    return RegionNumbers(query, other, cell)


def test_the_order_of_the_cells_does_not_matter():
    """Where each cell of a class is drawn equally often; one drawn at random depends on its place."""
    c = cells(48)
    y = torch.arange(48) % 6  # 8 of each of the classes 0 to 3
    y, hard = torch.where(y < C, y, 255), torch.arange(48) % 12 < 6  # 4 of each are hard
    c = Cells(c.z, y, hard, even(4, 8, 10))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(c)
    other, moved = value_and_gradient(Cells(c.z[order], y[order], hard[order], c.numbers))
    close(other, value, rounding(c, 0.5, value.item(), torch.float64))
    close(moved, gradient[order], gradient_rounding(c, 0.5, gradient, torch.float64))
    assert far(other, region_contrast(c.z.roll(1, 0), *c.all[1:]), 1e-2)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("empty", ["all ignored", "one class", "no query", "no cell", "vectors of 0"])
def test_empty_cases_are_0_with_a_gradient_of_0(empty, chunk):
    c = cells()
    c = {
        "all ignored": replace(c, y=torch.full_like(c.y, 255)),
        "one class": replace(c, y=torch.where(c.y == 1, 1, 255)),
        "no query": replace(c, hard=torch.zeros_like(c.hard)),
        "no cell": Cells(c.z[:0], c.y[:0], c.hard[:0], c.numbers),
        "vectors of 0": replace(c, z=torch.zeros_like(c.z)),
    }[empty]
    for tau in (0.001, 0.5, 100.0):
        value, gradient = value_and_gradient(c.to(torch.float32), tau, chunk=chunk)
        close(value, math.log(8) if empty == "vectors of 0" else 0.0, bound(60, torch.float32, 3.0))
        assert (gradient == 0).all()


def test_a_class_whose_cells_are_all_sure_is_contrasted_with_all_the_same():
    c = replace(cells(), numbers=numbers(40, 500))
    found = drawn(replace(c, hard=c.hard & (c.y != 1)))
    assert found.there.tolist() == [True, False, True, True] and (found.other[0] == 1).any()


# ---- what it rewards ------------------------------------------------------------------------------------------------


def clusters(kind: str, D: int = 64) -> Cells:
    """Vectors at the axis of their class, at random, or of each class half at the axis of the next one: were all of them there,
    the classes would be as far apart as before."""
    g = torch.Generator().manual_seed(0)
    y, place = torch.arange(40) % C, torch.arange(40) // C
    z = torch.eye(C, D, dtype=torch.float64)[(y + (kind == "swapped") * (place % 2)) % C]
    if kind == "random":
        z = torch.randn(40, D, generator=g, dtype=torch.float64)
    return Cells(z, y, torch.ones(40, dtype=torch.bool), numbers(50, 64))


def test_perfect_clusters_cost_less_than_random_vectors_and_these_less_than_swapped_ones():
    perfect, random, swapped = (region_contrast(*clusters(kind).all, 0.1).item() for kind in ("perfect", "random", "swapped"))
    close(perfect, math.log1p(64 * math.exp(-10)), bound(400, torch.float64, 1.0))
    assert perfect < 0.01 < 1 < random < swapped - 1, (random, swapped)


def test_a_confusable_class_costs_more_than_a_far_one():
    """Two classes near to one another: nearly all negatives of one are of the other, and its loss is the largest."""
    y = torch.arange(40) % C
    axes = torch.eye(C, dtype=torch.float64)
    axes[1] = F.normalize(axes[0] + 0.5 * axes[1], dim=0)
    c = Cells(axes[y], y, torch.ones(40, dtype=torch.bool), numbers(20, 64))
    near, away = (region_contrast(c.z, c.y, y == k, c.numbers, 0.1).item() for k in (0, 2))
    assert near > away + 3 and (drawn(c, 0.1).other[0] == 1).float().mean() > 0.99


# ---- how it is computed ---------------------------------------------------------------------------------------------


def test_memory_is_a_few_chunks():
    c = cells(400, 128, 100, 128).to(torch.float32)
    whole, few = (peak_bytes(lambda: value_and_gradient(c, chunk=chunk)) for chunk in (400, 8))  # noqa: B023
    rows = 4 * 400 * 128 * 128
    assert whole > rows and few < rows / 4, (whole, few, rows)


def part() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of two processes each has half of the cells, and class 3 lies in the first alone."""
    c, n, r = cells(), 60 // ranks.count(), ranks.rank()
    c = replace(c, y=torch.where((c.y == 3) & (torch.arange(60) >= 30), 0, c.y))
    own = slice(r * n, (r + 1) * n)
    c = Cells(c.z[own], c.y[own], c.hard[own], c.numbers)
    return {str(gather): value_and_gradient(c, gather=gather) for gather in (True, False)}


def test_two_processes_give_the_mean_of_the_whole_batch(tmp_path):
    two, one = together(part, tmp_path), part()
    (a, d_a), (b, d_b) = (process["True"] for process in two)
    (value, gradient), c = one["True"], cells()
    assert a != b
    close((a + b) / 2, value, rounding(c, 0.5, value.item(), torch.float64) * 2)
    close(torch.cat([d_a, d_b]) / 2, gradient, gradient_rounding(c, 0.5, gradient, torch.float64) * 2)
    assert far((two[0]["False"][0] + two[1]["False"][0]) / 2, value, 1e-3), "each process draws among its own cells"
    assert torch.equal(one["False"][0], value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"z": torch.zeros(60)}, r"vectors \(60,\) torch.float32, .*; it wants real numbers \(P, D\)"),
        ({"z": torch.zeros(60, 6, dtype=torch.int64)}, "it wants real numbers"),
        ({"y": torch.zeros(59, dtype=torch.int64)}, r"classes \(59,\)"),
        ({"hard": torch.zeros(60)}, r"hard \(60,\) torch.float32.*bool \(P,\)"),
        ({"y": torch.full((60,), 4)}, "Got label 4, wanted train ids 0 to 3"),
        ({"numbers": numbers(5, 7)._replace(cell=torch.zeros(C, 5, 6))}, r"\(4, 5, 7\) and \(4, 5, 6\).*wants \(C, Q\)"),
        ({"numbers": RegionNumbers(torch.zeros(C, 0), torch.zeros(C, 0, 7), torch.zeros(C, 0, 7))}, "none of them 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"z": torch.zeros(1).expand(MOST_CELLS, 6), "y": torch.zeros(1, dtype=torch.int64).expand(MOST_CELLS),
          "hard": torch.zeros(1, dtype=torch.bool).expand(MOST_CELLS)}, "16777216 cells; it wants fewer than 2.24"),
        ({"chunk": 0}, "chunk is 0; it is how many queries"),
        ({"mean_over": "all"}, "mean_over is 'all'; region_contrast wants 'hard' or 'present'"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(change, words):
    c = cells()
    named = dict(zip(("z", "y", "hard", "numbers"), c.all)) | change
    with pytest.raises(ValueError, match=words):
        region_contrast(**named)


def test_large_losses_are_not_capped():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 1, 1])
    u = RegionNumbers(torch.zeros(2, 1), torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))
    hard = torch.tensor([True, False, False, False, False])
    close(region_contrast(z, y, hard, u, 0.01), row_loss(-100.0, [100.0]), bound(20, torch.float64, 200))
