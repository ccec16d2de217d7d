"""SePiCo's three contrasts and its regulariser against loops and closed forms: values, gradients, switches, empty cases."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib import ranks
from course_lib.engine.memory import peak_bytes
from course_lib.losses import bank_contrast, distribution_contrast, prototype_contrast, uniform_regulariser
from tests.bounds import bound, close, far, stated
from tests.processes import together

MODULE = "course_lib.losses.distribution_contrast"
C, D, K, TAU = 5, 6, 3, 0.1
HEADS = ("distribution", "prototype", "bank")


def cells(P: int = 40, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features without negative numbers, as the projector gives them; a fifth of the cells has no label."""
    numbers = torch.Generator().manual_seed(seed)
    q = F.normalize(torch.rand(P, D, generator=numbers, dtype=torch.float64), dim=1)
    y = torch.randint(0, C, (P,), generator=numbers)
    return q.to(dtype), torch.where(torch.rand(P, generator=numbers) < 0.2, 255, y)


def memory(seed: int = 1, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.rand(C, D, generator=numbers, dtype=torch.float64), dim=1) * 0.9
    there = torch.tensor([[True] * 3, [True] * 2 + [False], [True] + [False] * 2, [True] * 3, [True] * 3])
    return {
        "means": means.to(dtype),
        "variances": (0.02 * torch.rand(C, D, generator=numbers, dtype=torch.float64)).to(dtype),
        "centroids": F.normalize(torch.rand(C, K, D, generator=numbers, dtype=torch.float64), dim=2).to(dtype),
        "there": there,
    }


def loss(head: str, q, y, m: dict, tau: float = TAU, **options) -> torch.Tensor:
    if head == "bank":
        return bank_contrast(q, y, m["centroids"], m["there"], tau, **options)
    if head == "prototype":
        return prototype_contrast(q, y, m["means"], tau, **options)
    return distribution_contrast(q, y, m["means"], m["variances"], tau, **options)


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def by_hand(head: str, q, y, m: dict, tau: float = TAU, weight=None) -> float:
    """The equations, cell by cell, in Python's numbers."""
    means, variances, centroids = (m[name].double().tolist() for name in ("means", "variances", "centroids"))
    there, total, weights = m["there"].tolist(), 0.0, 0.0
    for i, (f, c) in enumerate(zip(q.double().tolist(), y.tolist(), strict=True)):
        if c == 255:
            continue
        w = 1.0 if weight is None else float(weight[i])
        if head == "bank":
            kept = [[x for x, t in zip(centroids[k], there[k], strict=True) if t] for k in range(C)]
            others = sum(math.exp(sum(dot(f, x) / tau for x in kept[k]) / len(kept[k])) for k in range(C) if k != c)
            own = [math.exp(dot(f, x) / tau) for x in kept[c]]
            cell = sum(-math.log(e / (e + others)) for e in own) / len(own)
        else:
            spread = [dot([x * x for x in f], v) / (2 * tau**2) if head == "distribution" else 0.0 for v in variances]
            cell = -dot(f, means[c]) / tau + math.log(
                sum(math.exp(dot(f, mu) / tau + s) for mu, s in zip(means, spread, strict=True))
            )
        total, weights = total + w * cell, weights + w
    return total / max(weights, 1e-30)


# Products of at most D pairs, divided by tau twice; logarithm and exponential; a mean over at most 40 cells.
def rounding(dtype: torch.dtype = torch.float64, tau: float = TAU):
    return bound(3 * D + C + 3 * K + 60, dtype, 4 / tau + 0.02 / tau**2 + 3)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tau", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_equation(head, tau, dtype):
    (q, y), m = cells(dtype=dtype), memory(dtype=dtype)
    wanted = by_hand(head, q, y, m, tau)
    found = loss(head, q, y, m, tau)
    assert found.dtype == dtype and wanted > 0.1
    close(found, wanted, rounding(dtype, tau))
    maps, labels = q.view(2, 4, 5, D).permute(0, 3, 1, 2), y.view(2, 4, 5)
    for layout in (maps, maps.contiguous(), maps.contiguous(memory_format=torch.channels_last)):
        close(loss(head, layout, labels.byte(), m, tau), wanted, rounding(dtype, tau))


@pytest.mark.parametrize("head", ["distribution", "bank"])
@pytest.mark.parametrize("layout", ["flat", "maps"])
def test_the_gradient_is_that_of_the_equation(head, layout):
    (q, y), m = cells(6), memory()
    w = None
    if layout == "maps":
        q, y = q.view(2, 1, 3, D).permute(0, 3, 1, 2).contiguous(), y.view(2, 1, 3)
        w = torch.rand(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q: loss(head, q, y, m, cell_weight=w), q.requires_grad_())


@pytest.mark.parametrize("layout", ["flat", "maps", "channels_last"])
@pytest.mark.parametrize("seen", [None, torch.tensor([True, False, True, True, True])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_variance_it_is_the_prototypes_loss_bit_for_bit(layout, seen, dtype):
    (q, y), m = cells(dtype=dtype), memory(dtype=torch.float32)
    if layout != "flat":
        q, y = q.view(2, 4, 5, D).permute(0, 3, 1, 2).contiguous(), y.view(2, 4, 5)
    if layout == "channels_last":
        q = q.contiguous(memory_format=torch.channels_last)
    m["variances"] = torch.zeros(C, D)
    found = []
    for head in ("distribution", "prototype"):
        q_ = q.clone().requires_grad_()
        value = loss(head, q_, y, m, seen=seen)
        value.backward()
        found.append((value.detach(), q_.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_it_bounds_the_mean_over_pairs_from_above():
    """m_y and m_c drawn from N(mu_c, v_c): the mean of log(e^s + sum_c mean e^b_c) - s, InfoNCE over such pairs, is at most the
    closed form. Jensen's gap is seen: it is many times the samples' standard error."""
    (q, y), m, tau = cells(8), memory(), 0.2
    y, m["variances"] = y % C, 2 * m["variances"]
    numbers, J = torch.Generator().manual_seed(3), 100_000
    draws = m["means"] + m["variances"].sqrt() * torch.randn(J, C, D, generator=numbers, dtype=torch.float64)
    s = torch.einsum("id,jcd->jic", q, draws) / tau
    positive = s[:, torch.arange(len(q)), y]                                                 # (J, P)
    others = s.exp().mean(0).scatter(1, y[:, None], 0.0).sum(1)                              # the negatives' expectation
    expected = (q * m["means"][y]).sum(1) / tau                                              # of `positive`
    draw = (torch.log(positive.exp() + others) - expected).mean(1)
    closed = loss("distribution", q, y, m, tau)
    assert 10 * draw.std() / J**0.5 < closed - draw.mean() < 0.1
    m["variances"] *= 0
    assert loss("distribution", q, y, m, tau) < closed, "variance adds to the loss"


def test_the_expected_exponential_is_the_gaussians():
    q, m, tau = cells(4)[0], memory(), 0.2
    draws = torch.randn(200_000, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for f, mu, v in zip(q, m["means"], m["variances"], strict=False):
        e = ((mu + v.sqrt() * draws) @ f / tau).exp()
        wanted = torch.exp(f @ mu / tau + f.square() @ v / (2 * tau**2))
        close(e.mean(), wanted, stated(5 * float(e.std()) / len(draws) ** 0.5, "five standard errors of the mean"))


def test_one_centroid_for_each_class_is_the_prototypes_loss():
    (q, y), m = cells(), memory()
    m |= {"centroids": m["means"][:, None], "there": torch.ones(C, 1, dtype=torch.bool)}
    close(loss("bank", q, y, m), loss("prototype", q, y, m), rounding())


@pytest.mark.parametrize("block", [1, 3, 7, 128])
@pytest.mark.parametrize("at_a_time", [1, 2**21])
def test_blocks_do_not_change_it(block, at_a_time, monkeypatch):
    import sys

    module = sys.modules[MODULE]
    (q, y), m = cells(60), memory()
    wanted = by_hand("bank", q, y, m)
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "_AT_A_TIME", at_a_time)
    for labels in (y, torch.full_like(y, 2), y.sort().values):
        close(loss("bank", q, labels, m), by_hand("bank", q, labels, m), rounding())
    close(loss("bank", q, y, m), wanted, rounding())
    table, classes = module._blocks(torch.where(y == 255, C, y), C)
    used = table[table < 60]
    assert sorted(used.tolist()) == torch.arange(60)[y != 255].tolist()
    assert all(y[i] == classes[b] for b, row in enumerate(table.tolist()) for i in row if i < 60)


# ---- what all heads have in common ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_cells_without_a_label_have_no_say_and_no_gradient(head):
    (q, y), m = cells(), memory()
    changed = torch.where((y == 255)[:, None], 7.0, q).requires_grad_()
    value = loss(head, changed, y, m)
    value.backward()
    close(value, loss(head, q, y, m), rounding())
    assert not changed.grad[y == 255].any() and (changed.grad[y != 255].abs().amax(1) > 0).all()


@pytest.mark.parametrize("head", HEADS)
def test_without_labels_it_is_0_with_a_gradient_of_0(head):
    (q, y), m = cells(), memory()
    q.requires_grad_()
    value = loss(head, q, torch.full_like(y, 255), m)
    value.backward()
    assert value.item() == 0 and not q.grad.any()


@pytest.mark.parametrize("head", HEADS)
def test_classes_never_seen_are_left_out(head):
    (q, y), m = cells(), memory()
    kept, seen = [0, 2, 3, 4], torch.tensor([True, False, True, True, True])
    fewer = {name: value[kept] for name, value in m.items()}
    labels = torch.tensor([0, 255, 1, 2, 3, *[255] * 251])[y]
    m["there"] = m["there"] & seen[:, None]
    for name in ("means", "variances", "centroids"):
        m[name][1] = 50.0  # would be found at once
    options = {} if head == "bank" else {"seen": seen}
    q.requires_grad_()
    value = loss(head, q, y, m, **options)
    value.backward()
    close(value, loss(head, q, labels, fewer), rounding())
    assert not q.grad[y == 1].any() and q.grad.isfinite().all()
    none = torch.zeros(C, dtype=torch.bool)
    options = {} if head == "bank" else {"seen": none}
    q.grad = None
    value = loss(head, q, y, m | {"there": torch.zeros(C, K, dtype=torch.bool)}, **options)
    value.backward()
    assert value.item() == 0 and not q.grad.any()


@pytest.mark.parametrize("head", HEADS)
def test_with_one_class_seen_there_is_nothing_to_learn(head):
    (q, y), m = cells(), memory()
    only = torch.arange(C) == 3
    options = {} if head == "bank" else {"seen": only}
    m["variances"] *= 0
    q.requires_grad_()
    value = loss(head, q, y, m | {"there": m["there"] & only[:, None]}, **options)
    value.backward()
    close(value, 0.0, rounding())
    close(q.grad, torch.zeros_like(q), rounding() * (1 / TAU))


@pytest.mark.parametrize("head", HEADS)
def test_perfect_is_below_random_is_below_swapped(head):
    """Features at their centroid, anywhere, and at that of another class."""
    (q, y), m = cells(200), memory()
    y, m["there"] = y % C, torch.ones(C, K, dtype=torch.bool)
    means = torch.eye(C, D, dtype=torch.float64)
    m |= {"means": means, "centroids": means[:, None].expand(C, K, D).clone()}
    perfect, swapped = means[y], means[(y + 1) % C]
    low, middle, high = (loss(head, f, y, m).item() for f in (perfect, q, swapped))
    assert low + 1 < middle < high - 1


@pytest.mark.parametrize("head", ["distribution", "bank"])
def test_weights_of_cells(head):
    (q, y), m = cells(), memory()
    w = torch.rand(len(y), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    close(loss(head, q, y, m, cell_weight=w), by_hand(head, q, y, m, weight=w), rounding())
    close(loss(head, q, y, m, cell_weight=torch.full_like(w, 0.25)), loss(head, q, y, m), rounding())
    zero = torch.where(w < 0.5, 0.0, 1.0)
    close(loss(head, q, y, m, cell_weight=zero), loss(head, q, torch.where(w < 0.5, 255, y), m), rounding())
    assert loss(head, q, y, m, cell_weight=torch.zeros_like(w)).item() == 0


# ---- the released temperature ---------------------------------------------------------------------------------------


def many(P: int = 2000, classes: int = 19, dim: int = 64) -> tuple[torch.Tensor, ...]:
    numbers = torch.Generator().manual_seed(8)
    means = F.normalize(torch.rand(classes, dim, generator=numbers) ** 8, dim=1)
    return means, torch.randint(0, classes, (P,), generator=numbers), torch.rand(P, dim, generator=numbers)


@pytest.mark.parametrize("head", HEADS)
def test_at_temperature_100_it_stays_at_ln_19_whatever_the_features_are(head):
    """Dot products of unit vectors without negative numbers are in [0, 1]: logits differ by at most 0.01."""
    means, y, noise = many()
    m = {"means": means, "variances": torch.full_like(means, 1 / 64), "centroids": means[:, None].repeat(1, 3, 1),
         "there": torch.ones(19, 3, dtype=torch.bool)}  # fmt: skip
    features = {"perfect": means[y], "random": F.normalize(noise, dim=1), "swapped": means[(y + 1) % 19]}
    at = {tau: {name: loss(head, q, y, m, tau).item() for name, q in features.items()} for tau in (100.0, 0.1)}
    assert all(abs(value - math.log(19)) < 0.0101 for value in at[100.0].values()), at
    assert at[0.1]["perfect"] < 1 < 2 < at[0.1]["random"] < at[0.1]["swapped"] - 2, "at 0.1 it moves with the features"


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_at_100_is_a_thousandth_of_that_at_a_tenth(head):
    """dL/dq = (sum_c p_c mu_c - mu_y) / tau; at 0.1 p is no longer uniform, which makes the first factor smaller or larger."""
    means, y, noise = many()
    m = {"means": means, "variances": torch.zeros_like(means), "centroids": means[:, None].repeat(1, 3, 1),
         "there": torch.ones(19, 3, dtype=torch.bool)}  # fmt: skip
    q = F.normalize(noise, dim=1).requires_grad_()
    sizes = [torch.autograd.grad(loss(head, q, y, m, tau), q)[0].norm().item() for tau in (0.1, 100.0)]
    assert 800 < sizes[0] / sizes[1] < 1250


# ---- the regulariser ------------------------------------------------------------------------------------------------


def at_logits(s: torch.Tensor, released: bool = False, tau: float = TAU, **options) -> torch.Tensor:
    """R where Q.mu_c / tau is s_c."""
    return uniform_regulariser(tau * s[None], torch.zeros(1, dtype=torch.int64), torch.eye(len(s), dtype=s.dtype), tau,
                               released=released, **options)  # fmt: skip


def test_its_value_where_uniform_and_where_peaked():
    """1 and 1.65 for 19 classes, of which one leads by 5; the released sign: -1 and -1.65."""
    uniform, peaked = torch.zeros(19, dtype=torch.float64), 5.0 * torch.eye(19, dtype=torch.float64)[4]
    close(at_logits(uniform), 1.0, bound(60, torch.float64, 4.0))
    close(at_logits(peaked), -(5 / 19 - math.log(math.e**5 + 18)) / math.log(19), bound(60, torch.float64, 9.0))
    close(at_logits(peaked), 1.65, stated(0.005, "two decimals of section 3.6"))
    for s in (uniform, peaked):
        assert torch.equal(at_logits(s, released=True), -at_logits(s))


def test_its_form_pulls_towards_uniform_and_the_released_sign_away():
    means = torch.eye(4, D, dtype=torch.float64)
    for released, sign in ((False, -1), (True, 1)):
        q, y = means[[0, 0, 0, 1]].clone().requires_grad_(), torch.tensor([0, 0, 1, 255])

        def entropy(q):
            p = (q[:3].mean(0) @ means.T / TAU).softmax(0)
            return -(p * p.log()).sum().item()

        before = entropy(q.detach())
        (g,) = torch.autograd.grad(uniform_regulariser(q, y, means, TAU, released=released), q)
        assert not g[3].any() and (entropy((q - 0.01 * g).detach()) - before) * sign < 0
        assert torch.autograd.gradcheck(lambda q, r=released, y=y: uniform_regulariser(q, y, means, TAU, released=r), q)


def test_it_reads_the_mean_feature_of_the_labelled_cells_and_the_classes_seen():
    (q, y), m, seen = cells(), memory(), torch.tensor([True, True, False, True, True])
    known = (y != 255) & (y != 2)
    Q = q[known].mean(0)
    p = (m["means"][seen] @ Q / TAU).softmax(0)
    wanted = -p.log().sum() / (4 * math.log(4))
    found = uniform_regulariser(q, y, m["means"], TAU, seen)
    close(found, wanted, rounding() * 4)
    assert far(found, uniform_regulariser(q, y, m["means"], TAU), 1e-3)
    maps = q.view(2, 4, 5, D).permute(0, 3, 1, 2)
    close(uniform_regulariser(maps, y.view(2, 4, 5), m["means"], TAU, seen), wanted, rounding() * 4)


def test_it_is_0_without_labels_and_with_fewer_than_two_classes():
    (q, y), m = cells(), memory()
    q.requires_grad_()
    for labels, seen in ((torch.full_like(y, 255), None), (y, torch.arange(C) == 1), (y, torch.zeros(C, dtype=torch.bool))):
        value = uniform_regulariser(q, labels, m["means"], TAU, seen)
        (g,) = torch.autograd.grad(value, q)
        assert value.item() == 0 and not g.any()


# ---- several processes ----------------------------------------------------------------------------------------------


def of_part() -> dict[str, torch.Tensor]:
    """Values and gradients of this process's cells; labels are uneven between the halves."""
    (q, y), m = cells(), memory()
    y[20:] = torch.where(torch.arange(20) % 3 == 0, y[20:], 255)
    part = slice(ranks.rank() * 40 // ranks.count(), (ranks.rank() + 1) * 40 // ranks.count())
    found, w = {}, torch.linspace(0.1, 2, 40, dtype=torch.float64)
    losses = {head: lambda f, t, head=head: loss(head, f, t, m) for head in HEADS}
    losses["weighted"] = lambda f, t: loss("distribution", f, t, m, cell_weight=w[part])
    losses["weighted_bank"] = lambda f, t: loss("bank", f, t, m, cell_weight=w[part])
    losses["even"] = lambda f, t: uniform_regulariser(f, t, m["means"], TAU)
    for name, function in losses.items():
        own = q[part].clone().requires_grad_()
        value = function(own, y[part])
        value.backward()
        found[name], found[f"{name}_gradient"] = value.detach(), own.grad
    return found


def test_two_processes_give_the_mean_and_the_gradient_of_the_whole(tmp_path):
    whole, parts = of_part(), together(of_part, tmp_path)
    for name, wanted in whole.items():
        if name.endswith("_gradient"):
            close(torch.cat([part[name] for part in parts]) / 2, wanted, rounding() * (2 / TAU), what=name)
        else:
            close((parts[0][name] + parts[1][name]) / 2, wanted, rounding() * 2, what=name)
    assert torch.equal(parts[0]["even"], parts[1]["even"])


# ---- memory, and what is refused ------------------------------------------------------------------------------------


def test_the_bank_never_holds_cells_times_all_centroids():
    P, classes, length, dim = 8000, 19, 50, 16
    numbers = torch.Generator().manual_seed(9)
    q = torch.rand(P, dim, generator=numbers, requires_grad=True)
    y = torch.randint(0, classes, (P,), generator=numbers)
    m = torch.rand(classes, length, dim, generator=numbers)
    there = torch.ones(classes, length, dtype=torch.bool)
    peak = peak_bytes(lambda: bank_contrast(q, y, m, there, TAU).backward())
    assert peak < 4 * (P * classes * length) / 2, "half of one matrix of similarities"


def test_errors_say_what_came_and_what_was_wanted():
    (q, y), m = cells(), memory()
    with pytest.raises(ValueError, match=r"means is \(5, 7\), and the features have 6 channels; it wants \(5, 6\)"):
        loss("distribution", q, y, m | {"means": torch.zeros(C, 7)})
    with pytest.raises(ValueError, match=r"variances is \(4, 6\), and the features have 6 channels; it wants \(5, 6\)"):
        loss("distribution", q, y, m | {"variances": torch.zeros(4, D)})
    with pytest.raises(ValueError, match=r"centroids \(5, 6\) and there \(5, 3\); it wants \(C, K, D\) and \(C, K\)"):
        loss("bank", q, y, m | {"centroids": m["means"]})
    with pytest.raises(ValueError, match="temperature as a tensor; it has no gradient for it and wants a number"):
        loss("bank", q, y, m, torch.tensor(0.1))
    with pytest.raises(ValueError, match="temperature is 0; similarities are divided by it: give a number above 0"):
        loss("distribution", q, y, m, 0)
    with pytest.raises(ValueError, match="Got label 5, wanted train ids 0 to 4, or 255"):
        loss("bank", q, torch.full_like(y, 5), m)
    with pytest.raises(ValueError, match=r"Got features \(40, 6\) and labels \(39,\)"):
        loss("distribution", q, y[1:], m)
    with pytest.raises(ValueError, match=r"cell_weight is \(3,\) and the labels are \(40,\); it wants one shape"):
        loss("distribution", q, y, m, cell_weight=torch.ones(3))
    with pytest.raises(ValueError, match="means requires a gradient, and the loss has none for it"):
        uniform_regulariser(q, y, m["means"].requires_grad_(), TAU)
