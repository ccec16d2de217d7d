"""Patch contrast: against loops and a plain transcription, gradients, what counts, empty cases, memory, two processes."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from benchmarks.measuring import peak_bytes
from course_lib import ranks
from course_lib.losses import patch_contrast
from tests.bounds import Tolerance, bound, close, far
from tests.oracles.nt_xent import row_loss
from tests.processes import together

C = 4
CHUNKS = (1, 5, 512)  # blocks that do not fit, and one larger than the matrix


@dataclass(frozen=True)
class Places:
    """The arguments of the loss, in its order."""

    u: torch.Tensor
    v: torch.Tensor
    negatives: torch.Tensor
    y: torch.Tensor
    classes: torch.Tensor
    conf_u: torch.Tensor
    conf_v: torch.Tensor

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        return self.u, self.v, self.negatives, self.y, self.classes, self.conf_u, self.conf_v

    def to(self, dtype: torch.dtype) -> "Places":
        rows = (x.to(dtype) for x in (self.u, self.v, self.negatives))
        return Places(*rows, self.y, self.classes, self.conf_u, self.conf_v)

    @property
    def mirrored(self) -> "Places":
        return replace(self, u=self.v, v=self.u, conf_u=self.conf_v, conf_v=self.conf_u)


def unit(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def places(P: int = 13, M: int = 17, D: int = 6, seed: int = 0) -> Places:
    """v near u; some places and some negatives without a class."""
    g = torch.Generator().manual_seed(seed)
    u = unit(P, D, generator=g)
    v = F.normalize(u + 0.5 * unit(P, D, generator=g), dim=1)
    y, classes = (torch.randint(0, C, (n,), generator=g) for n in (P, M))
    y[::5], classes[::6] = 255, 255
    conf_u, conf_v = torch.rand(P, generator=g), 1 - 0.2 * torch.rand(P, generator=g)
    return Places(u, v, unit(M, D, generator=g), y, classes, conf_u, conf_v)


def by_loops(p: Places, tau: float = 0.1, least: float = 0.9) -> float:
    """From the equation, in plain Python."""
    u, v, negatives, y, classes, conf_u, conf_v = (x.tolist() for x in p.all)

    def dot(a: list[float], b: list[float]) -> float:
        return math.fsum(x * z for x, z in zip(a, b, strict=True))

    losses = []
    for i in range(len(u)):
        if conf_v[i] > least and conf_u[i] < conf_v[i] and y[i] != 255:
            others = [dot(u[i], n) / tau for n, c in zip(negatives, classes) if c not in (y[i], 255)]
            losses.append(row_loss(dot(u[i], v[i]) / tau, others))
    return math.fsum(losses) / len(losses) if losses else 0.0


def transcription(u, v, negatives, y, classes, conf_u, conf_v, tau=0.1, least=0.9):
    """With the whole matrix and a boolean mask, as one writes it first; no label of 255 in `y`."""
    s = u @ negatives.T / tau
    positive = (u * v.detach()).sum(1) / tau
    mask = (y[:, None] != classes) & (classes != 255)
    below = positive.exp() + (s.exp() * mask).sum(1)
    counted = ((conf_v > least) & (conf_u < conf_v) & (y != 255)).to(u.dtype)
    return (-(positive.exp() / below).log() * counted).sum() / counted.sum().clamp(min=1)


def rounding(p: Places, tau: float, loss: float, dtype: torch.dtype) -> Tolerance:
    """Of the loss: the inputs 2, inner products of D, over tau, in two places, times the slope 1 - exp(-l) of a place's loss,
    at most min(1, l). Then the sum over M, exp, log, softplus and the mean over P."""
    (P, D), M, slope = p.u.shape, len(p.negatives), min(1.0, loss)
    return bound(D + 6, dtype, slope * 2 / tau) + bound(M + P + 20, dtype, loss + slope)


def gradient_rounding(p: Places, tau: float, gradient: torch.Tensor, dtype: torch.dtype) -> Tolerance:
    """Weights have the exponents' absolute error as a relative one; they and v are added up to the largest gradient."""
    largest, ((P, D), M) = gradient.abs().max(), (p.u.shape, len(p.negatives))
    return bound(D + 6, dtype, largest * 2 / tau) + bound(2 * M + P + 30, dtype, 2 * largest)


def value_and_gradient(p: Places, *args, loss=patch_contrast, **more):
    u = p.u.detach().clone().requires_grad_()
    value = loss(u, *p.all[1:], *args, **more)
    with torch.autocast("cpu", enabled=False):
        value.backward()
    return value.detach(), u.grad


# ---- the value and its gradient -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("least", [0.9, 0.0])
@pytest.mark.parametrize("P, M, D", [(13, 17, 6), (1, 1, 2), (40, 9, 32)])
def test_equals_the_loop(P, M, D, least, tau, chunk):
    p = places(P, M, D)
    wanted = by_loops(p, tau, least)
    for dtype in (torch.float64, torch.float32):
        found = patch_contrast(*p.to(dtype).all, tau, least, chunk)
        assert found.dtype == dtype
        close(found, wanted, rounding(p, tau, wanted, dtype))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_value_and_gradient_are_those_of_the_plain_transcription(tau, chunk):
    p = places(40, 60)
    wanted, wanted_gradient = value_and_gradient(p, tau, 0.9, loss=transcription)
    assert 0 < (wanted_gradient == 0).all(1).sum() < 40, "some places do not count"
    for dtype in (torch.float64, torch.float32):
        found, gradient = value_and_gradient(p.to(dtype), tau, 0.9, chunk)
        close(found, wanted, rounding(p, tau, wanted.item(), dtype))
        close(gradient, wanted_gradient, gradient_rounding(p, tau, wanted_gradient, dtype))


def test_only_u_learns():
    p = places()
    rows = [x.clone().requires_grad_() for x in p.all[:3]]
    patch_contrast(*rows, *p.all[3:]).backward()
    assert rows[0].grad.abs().sum() > 0 and rows[1].grad is None and rows[2].grad is None
    with torch.no_grad():
        close(patch_contrast(*rows, *p.all[3:]), by_loops(p), rounding(p, 0.1, by_loops(p), torch.float64))


def test_the_mirrored_loss_teaches_the_other_view():
    p = replace(places(), conf_u=torch.full((13,), 0.95), conf_v=torch.full((13,), 0.92))
    close(patch_contrast(*p.mirrored.all), by_loops(p.mirrored), rounding(p, 0.1, by_loops(p.mirrored), torch.float64))
    assert patch_contrast(*p.all).item() == 0 and by_loops(p.mirrored) > 0.1


def test_all_alike_costs_the_logarithm_of_the_negatives_and_one():
    alike = torch.full((16, 16), 0.25)  # products and sums are exact
    y, classes = torch.zeros(16, dtype=torch.int64), torch.arange(16) % 4
    low, high = torch.zeros(16), torch.ones(16)
    found = patch_contrast(alike, alike, alike, y, classes, low, high, temperature=0.01)
    close(found, math.log(13), bound(60, torch.float32, 1 + math.log(13)))


def test_large_losses_are_not_capped():
    """The release adds 1e-8 inside the logarithm: no loss is above 18.4, and there the gradient ends."""
    u = torch.tensor([[1.0, 0.0]])
    one, other = torch.tensor([0]), torch.tensor([1])
    value, gradient = value_and_gradient(Places(u, -u, u, one, other, torch.zeros(1), torch.ones(1)), 0.01)
    close(value, 200, bound(20, torch.float32, 200)), close(gradient, [[200, 0]], bound(20, torch.float32, 200))


# ---- what counts ----------------------------------------------------------------------------------------------------


def test_a_place_counts_where_the_other_view_is_sure_and_surer():
    p = places(6, 8)
    conf_v = torch.tensor([0.95, 0.95, 0.95, 0.9, 0.3, 0.95])
    conf_u = torch.tensor([0.20, 0.95, 0.99, 0.1, 0.1, 0.94])
    p = replace(p, y=torch.arange(6) % C, conf_u=conf_u, conf_v=conf_v)
    _, gradient = value_and_gradient(p)
    assert (gradient != 0).any(1).tolist() == [True, False, False, False, False, True]


def test_a_place_without_a_class_gets_no_gradient_and_moves_nothing():
    p = replace(places(), conf_u=torch.zeros(13), conf_v=torch.ones(13))
    value, gradient = value_and_gradient(p)
    unlabelled = p.y == 255
    assert 0 < unlabelled.sum() < 13 and torch.equal((gradient == 0).all(1), unlabelled)
    moved = replace(p, u=torch.where(unlabelled[:, None], -p.u, p.u))
    assert torch.equal(patch_contrast(*moved.all), value)


def test_negatives_of_the_same_class_and_of_none_do_not_count():
    p = replace(places(), y=torch.ones(13, dtype=torch.int64))
    value = patch_contrast(*p.all)
    free, n = ((p.classes == 1) | (p.classes == 255))[:, None], p.negatives
    assert free.any() and torch.equal(patch_contrast(*replace(p, negatives=torch.where(free, -n, n)).all), value)
    assert far(patch_contrast(*replace(p, negatives=torch.where(free, n, -n)).all), value, 0.1)
    as_a_class = patch_contrast(*p.all, ignore_index=-1)  # as released, where ignore_label is -1 and pixels have 255
    assert far(as_a_class, value, 1e-3)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("empty", ["nothing counts", "no place", "no negative", "all of one class", "an empty queue"])
def test_empty_cases_are_0_with_a_gradient_of_0(empty, chunk):
    p = places()
    p = {
        "nothing counts": replace(p, conf_v=torch.full((13,), 0.5)),
        "no place": Places(p.u[:0], p.v[:0], p.negatives, p.y[:0], p.classes, p.conf_u[:0], p.conf_v[:0]),
        "no negative": replace(p, negatives=p.negatives[:0], classes=p.classes[:0]),
        "all of one class": replace(p, y=torch.ones_like(p.y), classes=torch.ones_like(p.classes)),
        "an empty queue": replace(p, negatives=torch.zeros_like(p.negatives), classes=torch.full_like(p.classes, 255)),
    }[empty]
    for tau in (0.001, 0.1, 100.0):
        value, gradient = value_and_gradient(p.to(torch.float32), tau, chunk=chunk)
        assert value.item() == 0 and (gradient == 0).all()


# ---- what it rewards ------------------------------------------------------------------------------------------------


def clusters(kind: str, seed: int = 0) -> Places:
    """Embeddings at the axis of their class, all at random, or those of the first view at the axis of the next class."""
    g = torch.Generator().manual_seed(seed)
    y, classes = torch.arange(24) % C, torch.arange(40) % C
    axes = torch.eye(C, dtype=torch.float64)
    u, n = axes[y], axes[classes]
    if kind == "random":
        u, n = unit(24, C, generator=g), unit(40, C, generator=g)
    if kind == "swapped":
        u = axes[(y + 1) % C]
    v = unit(24, C, generator=g) if kind == "random" else axes[y]
    return Places(u, v, n, y, classes, torch.zeros(24), torch.ones(24))


def test_perfect_clusters_cost_less_than_random_and_these_less_than_swapped_labels():
    perfect, random, swapped = (patch_contrast(*clusters(kind).all).item() for kind in ("perfect", "random", "swapped"))
    close(perfect, math.log1p(30 * math.exp(-10)), bound(60, torch.float64, 1.0))
    assert perfect < 0.01 < 1 < random < swapped
    close(swapped, 10 + math.log(10 + 21 * math.exp(-10)), bound(60, torch.float64, 20.0))


def test_the_value_moves_with_the_features_unless_the_temperature_is_100():
    spread = {
        tau: abs(patch_contrast(*clusters("perfect").all, tau) - patch_contrast(*clusters("swapped").all, tau)).item()
        for tau in (0.1, 100.0)
    }
    assert spread[0.1] > 1 and spread[100.0] < 0.02


# ---- how it is computed ---------------------------------------------------------------------------------------------


def test_it_holds_a_tenth_of_the_plain_transcriptions_memory():
    p = places(600, 900, 16).to(torch.float32)
    plain = peak_bytes(lambda: value_and_gradient(p, loss=transcription))
    chunked = peak_bytes(lambda: value_and_gradient(p, chunk=16))
    assert chunked < plain / 10 and plain > 3 * 4 * 600 * 900


def part() -> tuple[torch.Tensor, torch.Tensor]:
    """Of two processes each has half of the places, of which few of the second count."""
    p = replace(places(12, 17), y=torch.arange(12) % C)
    conf_v = torch.where(torch.arange(12) < 7, p.conf_v.clamp(min=0.95), 0.5)
    r, n = ranks.rank(), 12 // ranks.count()
    own = slice(r * n, (r + 1) * n)
    own = Places(p.u[own], p.v[own], p.negatives, p.y[own], p.classes, p.conf_u[own], conf_v[own])
    return value_and_gradient(own)


def test_two_processes_give_the_mean_of_the_whole_batch(tmp_path):
    (a, d_a), (b, d_b) = together(part, tmp_path)
    value, gradient = part()
    p = places(12, 17)
    assert a != b
    close((a + b) / 2, value, rounding(p, 0.1, value.item(), torch.float64) * 2)
    close(torch.cat([d_a, d_b]) / 2, gradient, gradient_rounding(p, 0.1, gradient, torch.float64))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"v": torch.zeros(13, 5)}, r"u \(13, 6\), v \(13, 5\) and negatives \(17, 6\); it wants rows of real numbers"),
        ({"u": torch.zeros(13, 6, dtype=torch.int64)}, "wants rows of real numbers"),
        ({"negatives": torch.zeros(17, 5)}, r"negatives \(17, 5\)"),
        ({"y": torch.zeros(12, dtype=torch.int64)}, r"y \(12,\) of torch.int64 .* whole train ids, \(13,\) and \(17,\)"),
        ({"classes": torch.zeros(17)}, r"negative_classes \(17,\) of torch.float32"),
        ({"conf_u": torch.zeros(13, 1)}, r"confidences \(13, 1\) and \(13,\); it wants one for each place, \(13,\) twice"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(change, words):
    with pytest.raises(ValueError, match=words):
        patch_contrast(*replace(places(), **change).all)


@pytest.mark.parametrize("settings", [{"least": 1.5}, {"least": float("nan")}, {"chunk": 0}])
def test_hostile_settings_are_refused(settings):
    with pytest.raises(ValueError, match="it wants a confidence from 0 to 1 and a number of rows, 1 or more"):
        patch_contrast(*places().all, **settings)
    with pytest.raises(ValueError, match="temperature is 0"):
        patch_contrast(*places().all, temperature=0)
