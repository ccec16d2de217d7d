"""Every loss in float32 against the slow oracle of the same numbers, and its gradient against that in float64: within the bound
in any order of sums, which other processors have, and in any chunk size; and the bound of the value is narrow enough that an
error of four of it in one operand is seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from course_lib import losses
from course_lib.losses.adversarial import SOURCE, TARGET, domain_loss
from tests.bounds import Tolerance, bound, close, near
from tests.losses import (
    test_bidirectional,
    test_distribution_contrast,
    test_entropy,
    test_lovasz,
    test_memory_contrast,
    test_pair_contrast,
    test_patch_contrast,
    test_prototype,
    test_region_contrast,
)
from tests.oracles import bidirectional as bidirectional_oracle
from tests.oracles import entropy as entropy_oracle
from tests.oracles import losses as losses_oracle
from tests.oracles import nt_xent as nt_xent_oracle
from tests.oracles import prototypes as prototypes_oracle

N, C, D, H, W, K = 2, 5, 5, 3, 4, 7  # pictures, classes, channels, a map's size, rows of a bank
SEEDS = range(5)
CONSTANTS = {"bank", "prototypes", "weight"}  # inputs that get no gradient
FLOAT = torch.float32
Inputs = dict[str, Tensor]


def drawn(seed: int) -> Inputs:
    """All inputs by name: float32 numbers, labels with ignored pixels and classes of different sizes."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def labels() -> Tensor:
        label = torch.randint(0, C, (N, H, W), generator=generator)
        label[0, 0, :2], label[1, 2, 1:3] = 255, torch.tensor([0, 1])
        return label

    a = randn(N * W, D)
    return {
        "logits": 2 * randn(N, C, H, W), "label": labels(), "weight": 0.5 + randn(C).abs(), "score": randn(N, 1, H, W),
        "features": randn(N, D, H, W), "other": randn(N, D, H, W), "other_label": labels(), "prototypes": randn(C, D),
        "a": a, "b": 3 * (a + randn(N * W, D)), "bank": torch.nn.functional.normalize(randn(K, D)), "tau": torch.tensor(0.1),
        "row_class": torch.arange(N * W) % C, "bank_class": torch.arange(K) % C,
        "depth": randn(N, H, W).sigmoid(), "true_depth": randn(N, H, W),
    }  # fmt: skip


Move = Callable[[Inputs, torch.Generator], Inputs]


def order(n: int, generator: torch.Generator) -> Tensor:
    """A random order that is another one."""
    drawn = torch.randperm(n, generator=generator)
    return drawn if (drawn != torch.arange(n)).any() else drawn.roll(1)


def axis(dim: int, *names: str) -> Move:
    """Permute this axis of the named inputs, alike."""

    def move(x: Inputs, generator: torch.Generator) -> Inputs:
        new = order(x[names[0]].shape[dim], generator)
        return x | {name: x[name].index_select(dim, new) for name in names}

    return move


def pixels(*names: str) -> Move:
    """Permute the H W places of the named maps, alike."""

    def move(x: Inputs, generator: torch.Generator) -> Inputs:
        new = order(H * W, generator)
        return x | {name: x[name].flatten(-2)[..., new].view(x[name].shape) for name in names}

    return move


def classes(labels: tuple[str, ...], **dims: int) -> Move:
    """Give the classes other numbers: in the labels, and along the named inputs' axis of classes."""

    def move(x: Inputs, generator: torch.Generator) -> Inputs:
        new, new_id = order(C, generator), torch.arange(256)
        new_id[new] = torch.arange(C)
        moved = {name: x[name].index_select(dim, new) for name, dim in dims.items()}
        return x | {name: new_id[x[name]] for name in labels} | moved

    return move


@dataclass(frozen=True)
class Case:
    """loss: of float32 inputs. exact: by the oracle, on the same numbers. operands: the floats that it depends on.
    moves: permutations that leave the value as it is. tolerance: of the exact value."""

    loss: Callable[[Inputs], Tensor]
    exact: Callable[[Inputs], float]
    operands: tuple[str, ...]
    moves: tuple[Move, ...]
    tolerance: Callable[[float], Tolerance]


def bank_loss(x: Inputs) -> Tensor:
    memory = losses.MemoryBank(K, D).to(x["bank"].dtype)
    memory.bank.copy_(x["bank"])
    return memory(x["a"], x["b"], x["tau"])


def unit_views(x: Inputs) -> list[Tensor]:
    """Both views, rows of length 1, in float32 at least."""
    wide = (x[name].to(torch.promote_types(x[name].dtype, FLOAT)) for name in ("a", "b"))
    return [torch.nn.functional.normalize(rows) for rows in wide]


def places(x: Inputs) -> test_patch_contrast.Places:
    n = len(x["a"])
    sure = torch.zeros(n), torch.ones(n)
    return test_patch_contrast.Places(*unit_views(x), x["bank"], x["row_class"][:n], x["bank_class"], *sure)


def pairs(x: Inputs, chunk: int | None) -> Tensor:
    y = x["row_class"][: len(x["a"])]
    return losses.pair_contrast(*unit_views(x), y, y, 0.1, chunk=chunk)


def pairs_exact(x: Inputs) -> float:
    rows = unit_views({name: x[name].double() for name in ("a", "b")})
    return test_pair_contrast.loops(*rows, x["row_class"], x["row_class"], 0.1)


def places_exact(x: Inputs) -> float:
    return test_patch_contrast.by_loops(places({n: t.double() if t.is_floating_point() else t for n, t in x.items()}))


def regions(x: Inputs) -> test_region_contrast.Cells:
    """Cells of which each is drawn equally often, as their place in a permutation is to be no matter."""
    y = x["row_class"][: len(x["a"])]
    return test_region_contrast.Cells(x["a"], y, y < 255, test_region_contrast.even(2, 2, 7, C))


def regions_exact(x: Inputs) -> float:
    wide = {n: t.double() if t.is_floating_point() else t for n, t in x.items()}
    return test_region_contrast.by_loops(regions(wide), 0.1).item()


def regions_rounding(wanted: float) -> Tolerance:
    return test_region_contrast.rounding(regions(drawn(0)), 0.1, wanted, FLOAT)


def statistics_of(x: Inputs) -> Inputs:
    """Class statistics that are permuted with the prototypes."""
    p = x["prototypes"].to(torch.promote_types(x["prototypes"].dtype, FLOAT))
    return {"means": p, "variances": p.square() / 100, "centroids": torch.stack([p, p / 2, p.abs()], dim=1),
            "there": torch.ones(C, 3, dtype=torch.bool)}  # fmt: skip


def statistics_case(head: str, tolerance: Tolerance) -> Case:
    def loss(x: Inputs, **options) -> Tensor:
        tau, m = x["tau"], statistics_of(x)
        if head == "uniform":
            return losses.uniform_regulariser(x["features"], x["label"], m["means"], tau, **options)
        tau = tau.item() if head == "bank" else tau
        return test_distribution_contrast.loss(head, x["features"], x["label"], m, tau, **options)

    def exact(x: Inputs) -> float:
        q, y = test_prototype.rows(x["features"]).double(), x["label"].flatten()
        m = {n: t.double() if t.is_floating_point() else t for n, t in statistics_of(x).items()}
        if head != "uniform":
            return test_distribution_contrast.by_hand(head, q, y, m, x["tau"].item())
        s = (m["means"] @ q[y != 255].mean(0) / x["tau"].double()).tolist()
        return -sum(e - math.log(sum(map(math.exp, s))) for e in s) / (C * math.log(C))

    moves = (axis(0, "features", "label"), pixels("features", "label"), axis(1, "features", "prototypes"),
             classes(("label",), prototypes=0))  # fmt: skip
    return Case(loss, exact, ("features",) if head == "bank" else ("features", "tau"), moves, lambda _: tolerance)


def memory_of(x: Inputs) -> tuple:
    """Cells with weights, and a memory of three vectors of each class with weights, permuted with the prototypes."""
    p = x["prototypes"]
    weight = (x["features"] > 0).sum(1) + 0.5  # a number that every format has
    with torch.autocast("cpu", enabled=False):  # which knows no stack of float16
        three = torch.stack([p, p.flip(1), p.abs()], 1)
    return x["features"], x["label"], three, torch.ones(C, 3, dtype=torch.bool), weight


def memory_exact(x: Inputs) -> float:
    features, label, memory, there, weight = memory_of({n: t.double() if t.is_floating_point() else t for n, t in x.items()})
    return test_memory_contrast.loops(test_prototype.rows(features), label.flatten(), memory, there, weight.flatten())


def views(x: Inputs, *names: str) -> list:
    return [x[name].tolist() for name in names]


def distance(x: Inputs) -> float:
    """The mean over cells of the classes 0 to 2 of the root of a sum of squares."""
    cells = (x["label"] < 3).nonzero().tolist()
    gap = (x["features"].double() - x["other"].double()).tolist()
    return sum(sum(gap[n][d][i][j] ** 2 for d in range(D)) ** 0.5 for n, i, j in cells) / len(cells)


def prototype_case(similarity: str, tolerance: Tolerance, balanced: bool = False) -> Case:
    def exact(x: Inputs) -> float:
        """balanced: the mean over the classes there of the mean over each one's pixels."""
        y = x["label"].flatten()
        groups = [torch.where(y == c, c, 255) for c in range(C) if c in y] if balanced else [y]
        rows, p = test_prototype.rows(x["features"]).tolist(), x["prototypes"].tolist()
        how = test_prototype.SIMILARITIES[similarity]
        each = [prototypes_oracle.contrast(rows, group.tolist(), p, x["tau"].item() if tau else 1.0, how) for group in groups]
        return sum(each) / len(each)

    def loss(x: Inputs) -> Tensor:
        return losses.prototype_contrast(
            x["features"], x["label"], x["prototypes"], x["tau"] if tau else 1.0, similarity, balanced=balanced
        )

    tau = similarity == "cosine"
    moves = (axis(0, "features", "label"), pixels("features", "label"), axis(1, "features", "prototypes"),
             classes(("label",), prototypes=0))  # fmt: skip
    return Case(loss, exact, ("features", "prototypes", "tau")[: 2 + tau], moves, lambda _: tolerance)


BOTH = ("features", "label", "other", "other_label")


def bidirectional_case(direction: int, **options) -> Case:
    def loss(x: Inputs) -> Tensor:
        return losses.bidirectional_contrast(*(x[name] for name in BOTH), C, x["tau"], **options)[direction]

    def exact(x: Inputs) -> float:
        maps = (x[name].double().numpy() if x[name].is_floating_point() else x[name].numpy() for name in BOTH)
        return bidirectional_oracle.contrast(*maps, C, x["tau"].item(), **options)[direction]

    moves = (axis(0, *BOTH), pixels(*BOTH[:2]), pixels(*BOTH[2:]), axis(1, "features", "other"),
             classes(("label", "other_label")))  # fmt: skip
    return Case(loss, exact, ("features", "other", "tau"), moves, lambda _: test_bidirectional.rounding(FLOAT))


MAPS = (axis(0, "logits", "label"), pixels("logits", "label"), classes(("label",), logits=1))
WEIGHTED = (*MAPS[:2], classes(("label",), logits=1, weight=0))
ALONE = (axis(0, "logits"), pixels("logits"), axis(1, "logits"))
SCORES = (axis(0, "score"), pixels("score"))
ROWS = (axis(0, "a", "b"), axis(1, "a", "b"), lambda x, _: x | {"a": x["b"], "b": x["a"]})
TO_BANK = (axis(0, "a", "b"), axis(0, "bank"), axis(1, "a", "b", "bank"))


def view_rounding(n: int) -> Callable[[float], Tolerance]:
    return lambda wanted: nt_xent_oracle.rounding(n, D, 0.1, wanted, FLOAT)  # derived there


CASES = {
    **{f"nt_xent, chunk {chunk}": Case(lambda x, chunk=chunk: losses.nt_xent(x["a"], x["b"], x["tau"], chunk),
                                       lambda x: nt_xent_oracle.nt_xent(*views(x, "a", "b", "tau")),
                                       ("a", "b", "tau"), ROWS, view_rounding(N * W))
       for chunk in (None, 1, 5, 64)},
    "MemoryBank": Case(bank_loss, lambda x: nt_xent_oracle.against_bank(*views(x, "a", "b", "bank", "tau")),
                       ("a", "b", "bank", "tau"), TO_BANK, view_rounding(N * W)),
    **{f"pair_contrast, chunk {chunk}": Case(lambda x, chunk=chunk: pairs(x, chunk), pairs_exact, ("a", "b"),
                                             (axis(0, "a", "b", "row_class"), axis(1, "a", "b"), classes(("row_class",))),
                                             view_rounding(N * W))
       for chunk in (None, 1, 5, 64)},
    **{f"patch_contrast, chunk {chunk}": Case(lambda x, chunk=chunk: losses.patch_contrast(*places(x).all, 0.1, chunk=chunk),
                                              places_exact, ("a", "bank"),
                                              (axis(0, "a", "b", "row_class"), axis(0, "bank", "bank_class"),
                                               axis(1, "a", "b", "bank"), classes(("row_class", "bank_class"))),
                                              view_rounding(N * W))
       for chunk in (1, 5, 64)},
    **{f"region_contrast, chunk {chunk}": Case(lambda x, chunk=chunk: losses.region_contrast(*regions(x).all, 0.1, chunk=chunk),
                                               regions_exact, ("a",), (axis(0, "a", "row_class"), axis(1, "a")),
                                               regions_rounding)
       for chunk in (1, 3, 64)},
    # log softmax over 5 classes (2 for each exp, 5 sums, the log), the mean over up to 24 pixels; no term is above 10
    "cross_entropy": Case(lambda x: losses.cross_entropy(x["logits"], x["label"]),
                          lambda x: losses_oracle.cross_entropy(*views(x, "logits", "label")),
                          ("logits",), MAPS, lambda _: bound(44, FLOAT, 10.0)),
    # the same with a sum of weights; torch in float64, as in test_segmentation
    "cross_entropy, weight": Case(lambda x: losses.cross_entropy(x["logits"], x["label"], x["weight"]),
                                  lambda x: torch.nn.functional.cross_entropy(x["logits"].double(), x["label"],
                                                                              x["weight"].double(), ignore_index=255).item(),
                                  ("logits", "weight"), WEIGHTED, lambda _: bound(70, FLOAT, 10.0)),
    # exp, log and two sums, or the square of a difference, and the mean over 24, of what is 5 at most (the mean of the squares)
    **{f"domain_loss, {gan}, {domain}": Case(lambda x, gan=gan, domain=domain: domain_loss(x["score"], domain, gan),
                                             lambda x, slow=slow, domain=domain: slow(x["score"].flatten().tolist(), domain),
                                             ("score",), SCORES, lambda _: bound(30, FLOAT, 5.0))
       for gan, slow in (("vanilla", losses_oracle.vanilla), ("least-squares", losses_oracle.least_squares))
       for domain in (SOURCE, TARGET)},
    **{f"entropy, double_softmax={double}": Case(lambda x, double=double: losses.entropy(x["logits"], double),
                                                 lambda x, double=double: entropy_oracle.entropy(x["logits"].tolist(), double),
                                                 ("logits",), ALONE, lambda _: test_entropy.rounding(C))
       for double in (False, True)},
    # softmax over 5 classes, then one inner product over 120 numbers and a constant, each up to 1 (test_lovasz.ROUNDING)
    "lovasz_softmax": Case(lambda x: losses.lovasz_softmax(x["logits"], x["label"]),
                           lambda x: test_lovasz.slow(x["logits"].double(), x["label"]),
                           ("logits",), MAPS, lambda _: bound(150, FLOAT, 2.0)),
    "prototype_contrast, dot": prototype_case("dot", test_prototype.rounding(1.0, FLOAT)),
    **{f"prototype_contrast, cosine, balanced={balanced}":
           prototype_case("cosine", test_prototype.rounding(10.0, FLOAT, size=1.0), balanced)
       for balanced in (False, True)},
    # products below 10, over tau twice; q^2 v below 2, over 2 tau^2 twice; softmax over 5 classes, the mean over up to 24 cells
    "distribution_contrast": statistics_case("distribution", bound(3 * D + 70, FLOAT, 2 * (10 / 0.1 + 2 / 0.02))),
    "bank_contrast": statistics_case("bank", bound(3 * D + 70, FLOAT, 2 * 10 / 0.1)),
    "uniform_regulariser": statistics_case("uniform", bound(3 * D + 70, FLOAT, 2 * 3 / 0.1)),
    # lengths of 5 squares, means over up to 24 cells (7 operations for a weight) and 3 vectors, a product of 5 numbers
    "memory_contrast": Case(lambda x: losses.memory_contrast(*memory_of(x)), memory_exact, ("features",),
                            (axis(0, "features", "label"), pixels("features", "label"), classes(("label",), prototypes=0)),
                            lambda _: bound(2 * 24 + 2 * 3 + 4 * D + 30, FLOAT, 2.0)),
    # a difference, 5 squares, their sum, a root, and the mean over up to 24 cells, of what is below 8
    "feature_distance": Case(lambda x: losses.feature_distance(x["features"], x["other"], x["label"] < 3), distance,
                             ("features",), (axis(0, "features", "other", "label"), pixels("features", "other", "label"),
                                             axis(1, "features", "other")), lambda _: bound(36, FLOAT, 8.0)),
    # a difference, a square, a sum, a quotient, and the mean over up to 24 pixels, of what is below (4^2 + c^2) / 2 c, c = 0.8
    "berhu": Case(lambda x: losses.berhu(x["depth"], x["true_depth"], bottom=0.0),
                  lambda x: losses_oracle.berhu(*views(x, "depth", "true_depth")), ("depth",),
                  (axis(0, "depth", "true_depth"), pixels("depth", "true_depth")), lambda _: bound(32, FLOAT, 10.4)),
    **{f"bidirectional_contrast, {name}, {way}": bidirectional_case(k, **options)
       for name, options in {"published": {}, "all classes": {"overlap_only": False}, "pairwise": {"pairwise": True},
                             "balanced": {"balanced": True}}.items()
       for k, way in enumerate(("forward", "backward"))},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_order_leaves_the_bound_and_no_bound_is_a_thousand_times_the_error(name):
    case, ratios = CASES[name], []
    for seed in SEEDS:
        x, generator = drawn(seed), torch.Generator().manual_seed(seed)
        wanted, orders = case.exact(x), [x]
        for move in case.moves:  # alone, and after those before it
            orders += [move(x, generator), move(orders[-1], generator)]
        for k, moved in enumerate(orders):
            found = case.loss(moved)
            assert found.dtype == FLOAT and found.ndim == 0
            close(found, wanted, case.tolerance(wanted), what=f"{name}, seed {seed}, order {k}")
            ratios.append(abs(found.item() - wanted) / float(case.tolerance(wanted).value))
    assert 1000 * max(ratios) > 1, "the bound is more than a thousand times the error"


# Of a gradient: the roundings on the way to it (sums over classes, channels, rows and the 24 pixels), and how often a rounded
# exponent counts in it: 1 + 2 / tau, times its products, which are below 10 for dot products and with variances below 20
GRADIENTS = {
    "nt_xent": (2 * D + 4 * N * W + 30, 21.0), "MemoryBank": (2 * D + K + N * W + 30, 21.0),
    "pair_contrast": (2 * D + 4 * N * W + 30, 21.0), "patch_contrast": (2 * D + K + N * W + 30, 21.0),
    "region_contrast": (3 * D + 2 * N * W + 2 * 7 + 2 * C + 30, 21.0),
    "cross_entropy": (24 + 2 * C + 10, 3.0), "entropy": (24 + 4 * C + 10, 3.0), "lovasz_softmax": (24 * C + C + 10, 10.0),
    "domain_loss": (24 + 10, 3.0), "prototype_contrast, dot": (24 + D + C + 10, 20.0),
    "prototype_contrast, cosine": (24 + 3 * D + C + 10, 21.0), "distribution_contrast": (24 + 2 * D + C + 10, 400.0),
    "bank_contrast": (24 + D + C + 20, 200.0), "uniform_regulariser": (24 + D + 2 * C + 10, 20.0),
    "memory_contrast": (24 + 4 * D + 40, 3.0), "feature_distance": (24 + D + 6, 3.0), "berhu": (24 + 6, 3.0),
    "bidirectional_contrast": (2 * 24 + 4 * D + C + 20, 21.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_order_moves_a_gradient_out_of_its_bound(name):
    case, x, generator = CASES[name], drawn(0), torch.Generator().manual_seed(0)
    terms, size = next(numbers for start, numbers in GRADIENTS.items() if name.startswith(start))

    def slopes(x: Inputs, moves: tuple[Move, ...] = ()) -> list[Tensor]:
        leaves = {key: x[key].clone().requires_grad_() for key in case.operands if key not in CONSTANTS | {"tau"}}
        moved = x | leaves
        for move in moves:
            moved = move(moved, generator)
        return list(torch.autograd.grad(case.loss(moved), list(leaves.values())))

    wanted = slopes({key: value.double() if value.is_floating_point() else value for key, value in x.items()})
    for moves in ((), *((move,) for move in case.moves), case.moves):
        for found, exact in zip(slopes(x, moves), wanted, strict=True):
            tolerance = bound(terms, FLOAT, size * exact.abs().max())
            close(found, exact, tolerance)
            assert tolerance.value < exact.abs().max() / 200, "an error of half a percent of the largest slope is seen"


def gradient(case: Case, x: Inputs, operand: str) -> Tensor:
    """In float64; of what is constant to the loss by differences of the oracle, which gives each row of a bank the length 1."""
    x = {name: value.double() if value.is_floating_point() else value for name, value in x.items()}
    # of depth the largest error counts as a constant, of regions means and keys are of the operand
    if operand in ("bank", "prototypes", "weight", "depth") or case.exact is regions_exact:
        steps = 1e-5 * torch.eye(x[operand].numel(), dtype=torch.float64).view(-1, *x[operand].shape)
        slopes = [(case.exact(x | {operand: x[operand] + h}) - case.exact(x | {operand: x[operand] - h})) / 2e-5 for h in steps]
        return torch.tensor(slopes, dtype=torch.float64).view(x[operand].shape)
    leaf = x[operand].requires_grad_()
    return torch.autograd.grad(case.loss(x), leaf)[0]


@pytest.mark.parametrize("name, operand", [(name, operand) for name, case in CASES.items() for operand in case.operands])
def test_an_error_of_four_bounds_in_one_operand_is_seen(name, operand):
    case, x = CASES[name], drawn(1)  # with seed 0 NT-Xent has hardly any slope in the temperature
    wanted = case.exact(x)
    rounding, slope = case.tolerance(wanted), gradient(case, x, operand)
    assert near(case.loss(x), wanted, rounding)
    for bounds in (4, -4):
        wrong = x | {operand: (x[operand] + bounds * rounding.value / slope.square().sum() * slope).float()}
        assert 3 < (case.exact(wrong) - wanted) * bounds / 4 / rounding.value < 5  # the exact value moves by four bounds
        assert not near(case.loss(wrong), wanted, rounding), f"{bounds} bounds"


def test_all_losses_are_in_the_table():
    assert {name.partition(",")[0] for name in CASES} == set(losses.__all__) - {"probabilities", "upsample", "label_down"}
