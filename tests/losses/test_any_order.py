"""Every loss on permuted inputs and in other chunks: what another processor's order of sums does, done on any processor.

float32 against float64 of the same numbers. The same comparison must fail when one operand is moved so that the loss changes by
four bounds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from course_lib import losses
from course_lib.losses import (
    MemoryBank,
    bank_contrast,
    berhu,
    bidirectional_contrast,
    cross_entropy,
    distribution_contrast,
    entropy,
    feature_distance,
    lovasz_softmax,
    memory_contrast,
    nt_xent,
    pair_contrast,
    patch_contrast,
    prototype_contrast,
    region_contrast,
    uniform_regulariser,
)
from course_lib.losses.adversarial import SOURCE, TARGET, domain_loss
from tests.bounds import Tolerance, bound, near
from tests.losses.test_region_contrast import even
from tests.oracles import nt_xent as oracle

N, C, D, H, W, K = 3, 5, 8, 6, 7, 20  # pictures, classes, channels, a map's size, rows of a bank
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A loss of some inputs, the ways to permute them that leave it as it is, and its bounds in float32.

    terms, size: of `bound`, for the loss. slope: how often a rounded exponent counts in the gradient, 1 + 2 / tau.
    """

    loss: Callable[[Inputs], Tensor]
    inputs: tuple[str, ...]
    moves: tuple[Callable[[Inputs], Inputs], ...]
    terms: int
    size: float
    slope: float = 3.0


def drawn() -> Inputs:
    """All inputs by name; floats are float32 numbers, labels have ignored pixels."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def labels() -> Tensor:
        label = torch.randint(0, C, (N, H, W), generator=generator)
        label[0, :2], label[2, 3, 1:4] = 255, 255
        return label

    a = randn(N * H, D)
    return {
        "logits": 2 * randn(N, C, H, W), "label": labels(), "score": 2 * randn(N, 1, H, W),
        "features": randn(N, D, H, W), "prototypes": randn(C, D), "other": randn(N, D, H, W), "other_label": labels(),
        "a": a, "b": a + randn(N * H, D), "bank": torch.nn.functional.normalize(randn(K, D)),
        "row_class": torch.arange(N * H) % C, "bank_class": torch.arange(K) % C,
        "depth": randn(N, H, W).sigmoid(), "true_depth": randn(N, H, W),
    }  # fmt: skip


def order(n: int, seed: int = 1) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def axis(dim: int, *names: str) -> Callable[[Inputs], Inputs]:
    """Permute this axis of the named inputs, alike."""
    return lambda x: x | {name: x[name].index_select(dim, order(x[name].shape[dim])) for name in names}


def pixels(*names: str) -> Callable[[Inputs], Inputs]:
    """Permute the places of the named maps, alike."""

    def move(x: Inputs) -> Inputs:
        return x | {name: x[name].flatten(-2)[..., order(H * W)].view(x[name].shape) for name in names}

    return move


def classes(scores: str, dim: int, *labels: str) -> Callable[[Inputs], Inputs]:
    """Give the classes other numbers: in `scores` along dim (none if empty), and in the labels."""

    def move(x: Inputs) -> Inputs:
        new_id = torch.arange(256)
        new_id[order(C)] = torch.arange(C)
        moved = {name: new_id[x[name]] for name in labels}
        return x | moved | ({scores: x[scores].index_select(dim, order(C))} if scores else {})

    return move


def against_bank(x: Inputs) -> Tensor:
    memory = MemoryBank(K, D).to(x["a"].dtype)
    memory.bank.copy_(x["bank"])
    return memory(x["a"], x["b"], 0.1)


def to_centroids(x: Inputs) -> Tensor:
    p = x["prototypes"]
    three, there = torch.stack([p, p / 2, p.abs()], dim=1), torch.ones(C, 3, dtype=torch.bool)
    return bank_contrast(x["features"], x["label"], three, there, 1.0)


def to_memory(x: Inputs) -> Tensor:
    p = x["prototypes"]
    three, there = torch.stack([p, p / 2 + 1, p.abs()], dim=1), torch.ones(C, 3, dtype=torch.bool)
    return memory_contrast(x["features"], x["label"], three, there, x["features"].square().mean(1) + 0.5)


def patches(x: Inputs, chunk: int) -> Tensor:
    u, v = (torch.nn.functional.normalize(x[name]) for name in ("a", "b"))
    sure = torch.arange(2.0)[:, None].expand(2, N * H)
    return patch_contrast(u, v, x["bank"], x["row_class"], x["bank_class"], *sure, 0.1, chunk=chunk)


def pairs(x: Inputs, chunk: int | None) -> Tensor:
    u, v = (torch.nn.functional.normalize(x[name]) for name in ("a", "b"))
    return pair_contrast(u, v, x["row_class"], x["row_class"], 0.1, chunk=chunk)


def regions(x: Inputs, chunk: int) -> Tensor:
    """Of cells that are drawn equally often: 12 is a multiple of the classes' sizes, 4 and 3."""
    y = x["row_class"]
    return region_contrast(x["a"], y, y < 255, even(12, 12, 3, C), 0.1, chunk=chunk)


def bidirectional(x: Inputs, **options) -> Tensor:
    both = bidirectional_contrast(x["features"], x["label"], x["other"], x["other_label"], C, 0.1, **options)
    return both.forward + 2 * both.backward


MAPS = (axis(0, "logits", "label"), pixels("logits", "label"), classes("logits", 1, "label"))
ALONE = (axis(0, "logits"), pixels("logits"), axis(1, "logits"))
SCORES = (axis(0, "score"), pixels("score"))
CONTRAST = (axis(0, "features", "label"), pixels("features", "label"), classes("prototypes", 0, "label"),
            axis(1, "features", "prototypes"))  # fmt: skip
BOTH = (pixels("features", "label"), pixels("other", "other_label"), classes("", 0, "label", "other_label"),
        axis(1, "features", "other"))  # fmt: skip
ROWS = (axis(0, "a", "b"), axis(1, "a", "b"), lambda x: x | {"a": x["b"], "b": x["a"]})

# terms: the sums on the way, over classes, channels and pixels (N H W = 126). size: the loss (below 5), and for each place of a
# product in an exponent its size: logits and dot products below 10, cosines 1 / tau.
CASES = {
    "cross_entropy": Case(lambda x: cross_entropy(x["logits"], x["label"]), ("logits",), MAPS, 126 + 2 * C + 10, 10.0),
    "entropy": Case(lambda x: entropy(x["logits"]), ("logits",), ALONE, 126 + 4 * C + 10, 5.0),
    "entropy, twice softmax": Case(lambda x: entropy(x["logits"], True), ("logits",), ALONE, 126 + 4 * C + 10, 5.0),
    "lovasz": Case(lambda x: lovasz_softmax(x["logits"], x["label"]), ("logits",), MAPS, 126 * C + C + 10, 2.0, 10.0),
    "discriminator": Case(lambda x: domain_loss(x["score"], SOURCE), ("score",), SCORES, 126 + 10, 5.0),
    "least squares": Case(lambda x: domain_loss(x["score"], TARGET, "least-squares"), ("score",), SCORES, 126 + 5, 8.0),
    "dot products": Case(lambda x: prototype_contrast(x["features"], x["label"], x["prototypes"], 1.0),
                         ("features",), CONTRAST, 126 + D + C + 10, 20.0, 20.0),
    "cosines": Case(lambda x: prototype_contrast(x["features"], x["label"], x["prototypes"], 0.1, "cosine"),
                    ("features",), CONTRAST, 126 + 3 * D + C + 10, 25.0, 21.0),
    "balanced": Case(lambda x: prototype_contrast(x["features"], x["label"], x["prototypes"], 0.1, "cosine", balanced=True),
                     ("features",), CONTRAST, 126 + 3 * D + C + 10, 25.0, 21.0),
    "distributions": Case(lambda x: distribution_contrast(x["features"], x["label"], x["prototypes"],
                                                          x["prototypes"].square() / 10, 1.0),
                          ("features",), CONTRAST, 126 + 2 * D + C + 10, 40.0, 20.0),
    "centroids": Case(to_centroids, ("features",), CONTRAST, 126 + D + C + 20, 20.0, 20.0),
    "memory": Case(to_memory, ("features",), CONTRAST[:3], 126 + 4 * D + 40, 2.0),
    "regulariser": Case(lambda x: uniform_regulariser(x["features"], x["label"], x["prototypes"], 0.1),
                        ("features",), CONTRAST, 126 + D + 2 * C + 10, 50.0, 20.0),
    "bidirectional": Case(bidirectional, ("features", "other"), BOTH, 2 * 126 + 4 * D + C + 20, 3 * 25.0, 3 * 21.0),
    "bidirectional, balanced": Case(lambda x: bidirectional(x, balanced=True), ("features", "other"), BOTH,
                                    2 * 126 + 4 * D + C + 20, 3 * 25.0, 3 * 21.0),
    "memory bank": Case(against_bank, ("a", "b"), (axis(0, "bank"), axis(0, "a", "b"), axis(1, "a", "b", "bank")),
                        2 * D + K + N * H + 30, 25.0, 21.0),
    "feature distance": Case(lambda x: feature_distance(x["features"], x["other"], x["label"] < 3), ("features",),
                             (axis(0, "features", "other", "label"), pixels("features", "other", "label"),
                              axis(1, "features", "other")), 126 + D + 6, 10.0),
    "berhu": Case(lambda x: berhu(x["depth"], x["true_depth"], bottom=0.0), ("depth",),
                  (axis(0, "depth", "true_depth"), pixels("depth", "true_depth")), 126 + 6, 10.0),
    **{f"pair contrast, chunk={chunk}": Case(lambda x, chunk=chunk: pairs(x, chunk), ("a", "b"),
                                             (axis(0, "a", "b", "row_class"), axis(1, "a", "b"), classes("", 0, "row_class")),
                                             2 * D + 4 * N * H + 30, 25.0, 21.0)
       for chunk in (None, 1, 5, 18, 1000)},
    **{f"patch contrast, chunk={chunk}": Case(lambda x, chunk=chunk: patches(x, chunk), ("a",),
                                              (axis(0, "a", "b", "row_class"), axis(0, "bank", "bank_class"),
                                               axis(1, "a", "b", "bank"), classes("", 0, "row_class", "bank_class")),
                                              2 * D + K + N * H + 30, 25.0, 21.0)
       for chunk in (1, 5, 18, 1000)},
    **{f"region contrast, chunk={chunk}": Case(lambda x, chunk=chunk: regions(x, chunk), ("a",),
                                               (axis(0, "a", "row_class"), axis(1, "a")),
                                               3 * D + 2 * N * H + 36 + 12 * C + 30, 25.0, 21.0)
       for chunk in (1, 5, 1000)},
    **{f"nt_xent, chunk={chunk}": Case(lambda x, chunk=chunk: nt_xent(x["a"], x["b"], 0.1, chunk), ("a", "b"), ROWS,
                                       2 * D + 4 * N * H + 30, 25.0, 21.0)
       for chunk in (None, 1, 2, 5, 7, 17, 35, 36, 1000)},
}  # fmt: skip


def wide(x: Inputs) -> Inputs:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in x.items()}


def computed(case: Case, x: Inputs, move: Callable[[Inputs], Inputs] = lambda x: x) -> tuple[Tensor, list[Tensor]]:
    """The loss of moved inputs, and its gradients in the order of the inputs before."""
    leaves = {name: x[name].clone().requires_grad_() for name in case.inputs}
    loss = case.loss(move(x | leaves))
    return loss.detach(), list(torch.autograd.grad(loss, list(leaves.values())))


def tolerances(case: Case, slopes: list[Tensor]) -> tuple[Tolerance, list[Tolerance]]:
    return bound(case.terms, torch.float32, case.size), [
        bound(case.terms, torch.float32, case.slope * slope.abs().max()) for slope in slopes
    ]


def agrees(case: Case, x: Inputs, move: Callable[[Inputs], Inputs] = lambda x: x) -> bool:
    """Whether float32 of the moved x is within the bounds of float64 of x: the loss and all gradients."""
    wanted, wanted_slopes = computed(case, wide(x))
    found, slopes = computed(case, x, move)
    rounding, slope_rounding = tolerances(case, wanted_slopes)
    return near(found, wanted, rounding) and all(near(*three) for three in zip(slopes, wanted_slopes, slope_rounding))


@pytest.mark.parametrize("name", CASES)
def test_no_order_and_no_chunk_leaves_the_bound(name):
    case, x = CASES[name], drawn()
    assert computed(case, x)[0].dtype == torch.float32 and agrees(case, x)
    for k, move in enumerate(case.moves):
        moved = move(x)
        assert any(not torch.equal(moved[key], x[key]) for key in x), f"move {k} moves nothing"
        assert agrees(case, x, move), f"move {k}"
    assert agrees(case, x, lambda x: case.moves[1](case.moves[0](x))), "both"


@pytest.mark.parametrize("name, key", [(name, key) for name, case in CASES.items() for key in case.inputs])
def test_an_error_of_four_bounds_in_one_operand_is_seen(name, key):
    """The shortest change of the operand that changes the loss by four bounds, up and down: the value alone shows it."""
    case, x = CASES[name], drawn()
    wanted, slopes = computed(case, wide(x))
    slope, rounding = slopes[case.inputs.index(key)], tolerances(case, [])[0]
    assert near(computed(case, x)[0], wanted, rounding)
    for way in (4, -4):
        step = way * float(rounding.value) / slope.square().sum() * slope
        assert not near(computed(case, x | {key: (x[key] + step).float()})[0], wanted, rounding), f"{way} bounds"


def test_the_cases_are_all_losses():
    """A new loss belongs into CASES."""
    functions = (against_bank, bidirectional, pairs, patches, regions, to_centroids, to_memory,
                 *(case.loss for case in CASES.values()))  # fmt: skip
    called = {name for function in functions for name in function.__code__.co_names}
    assert set(losses.__all__) - {"upsample", "probabilities", "label_down"} <= called


def test_other_chunks_are_within_the_bound_of_the_loop():
    """The bound of test_nt_xent, which knows n, d and tau, in all chunks of permuted rows."""
    x = drawn()
    wanted = oracle.nt_xent(x["a"].tolist(), x["b"].tolist(), 0.1)
    for seed in range(3):
        rows = order(N * H, seed)
        for chunk in (None, *range(1, 2 * N * H + 2, 5)):
            found = nt_xent(x["a"][rows], x["b"][rows], 0.1, chunk)
            assert near(found, wanted, oracle.rounding(N * H, D, 0.1, wanted, torch.float32)), (seed, chunk)
