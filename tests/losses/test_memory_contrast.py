"""Memory contrast: against loops over pairs, weights of mean 1, what does not count, gradients, memory, two processes."""

import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.measuring import peak_bytes
from course_lib import ranks
from course_lib.losses import memory_contrast
from tests.bounds import Tolerance, bound, close, far
from tests.processes import together

C, K, D = 4, 3, 5
THERE = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]).bool()  # class 2 has no memory
Y = torch.tensor([0, 3, 255, 1, 0, 2, 0, 3, 255])


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(n: int = 9) -> dict[str, torch.Tensor]:
    """Features, memory and both weights, in float64."""
    return {"features": numbers(n, D), "memory": 3 * numbers(C, K, D, seed=1),
            "weight": numbers(n, seed=2).sigmoid(), "memory_weight": numbers(C, K, seed=3).sigmoid()}  # fmt: skip


def cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b)) / math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))


def mean_one(values: list[float]) -> list[float]:
    return [len(values) * x / math.fsum(values) for x in values]


def loops(features, labels, memory, there, weight=None, memory_weight=None) -> float:
    """The equation, pair by pair."""
    features, labels, memory, there = (x.tolist() for x in (features, labels, memory, there))
    weight = [1.0] * len(labels) if weight is None else weight.tolist()
    memory_weight = [[1.0] * len(row) for row in there] if memory_weight is None else memory_weight.tolist()
    total = []
    for c, row in enumerate(there):
        cells, places = [i for i, y in enumerate(labels) if y == c], [j for j, held in enumerate(row) if held]
        if not cells or not places:
            continue
        w, v = mean_one([weight[i] for i in cells]), mean_one([memory_weight[c][j] for j in places])
        pairs = [a * b * (1 - cosine(features[i], memory[c][j])) for a, i in zip(w, cells) for b, j in zip(v, places)]
        total.append(math.fsum(pairs) / len(pairs))
    return math.fsum(total) / len(there)


def rounding(n: int, k: int, dtype: torch.dtype, d: int = D) -> Tolerance:
    """Two lengths of d squares, two sums of n and k vectors below 1 over sums of weights, and an inner product of d numbers."""
    return bound(2 * n + 2 * k + 4 * d + 20, dtype, 2.0)


# ---- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [(), ("weight",), ("memory_weight",), ("weight", "memory_weight")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_loops_over_pairs(given, dtype):
    x = inputs()
    wanted = loops(x["features"], Y, x["memory"], THERE, **{name: x[name] for name in given})
    x = {name: value.to(dtype) for name, value in x.items()}
    found = memory_contrast(x["features"], Y, x["memory"], THERE, **{name: x[name] for name in given})
    assert found.dtype == dtype
    close(found, wanted, rounding(9, K, dtype) * (1 if dtype == torch.float64 else 2))  # the rounded inputs


def test_maps_are_rows_cell_by_cell():
    f, y = numbers(2, D, 3, 4), torch.randint(0, C, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    y[0, 0] = 255
    x = inputs()
    w = numbers(2, 3, 4, seed=4).sigmoid()
    found = memory_contrast(f, y.byte(), x["memory"], THERE, w)
    wanted = loops(f.movedim(1, 3).flatten(0, 2), y.flatten(), x["memory"], THERE, w.flatten())
    close(found, wanted, rounding(24, K, torch.float64))


def test_landmarks():
    """0, 1 and 2 for one class of two: the same direction, at right angles, the opposite one, whatever the lengths."""
    z, there, y = torch.eye(2, 4)[:, None], torch.ones(2, 1, dtype=torch.bool), torch.tensor([1, 1])
    for row, wanted in (([0.0, 7, 0, 0], 0.0), ([0.5, 0, 0, 0], 1.0), ([0.0, -2, 0, 0], 2.0)):
        assert memory_contrast(torch.tensor([row, row]), y, z, there).item() == wanted / 2


def test_both_weights_have_the_mean_1_over_their_own_axis_and_are_not_all_1():
    """How the loss counts each cell and each vector: its slope in 1 - cosine. The release's v is 1 everywhere."""
    x = {name: value.requires_grad_() for name, value in inputs().items() if name == "features"}
    given = inputs()
    unit = F.normalize(given["memory"], dim=2)
    cells, places = [0, 4, 6], [0, 1, 2]  # of class 0

    def counted(weight, memory_weight) -> torch.Tensor:
        """C M N times the slope of the loss in each of the pairs' cosines, (M, N)."""
        found = torch.zeros(3, 3, dtype=torch.float64)
        for i in cells:
            for j in places:
                moved = unit[0].clone()
                moved[[k for k in places if k != j]] = 0  # the cosine of this pair alone is left of the memory ...
                f = x["features"].detach().clone()
                f[[k for k in cells if k != i]] = 0  # ... and of the cells
                memory = torch.cat([moved[None], unit[1:]])
                loss = memory_contrast(f, torch.where(Y == 0, 0, 255), memory, THERE, weight, memory_weight)
                found[cells.index(i), places.index(j)] = (1 - C * loss) * 9 / cosine(f[i].tolist(), moved[j].tolist())
        return found

    w, v = given["weight"][cells], given["memory_weight"][0]
    both = counted(given["weight"], given["memory_weight"])
    close(both, torch.outer(w / w.mean(), v / v.mean()), bound(500, torch.float64, 100.0))
    close(both.mean(0).mean(), 1.0, bound(500, torch.float64, 100.0))
    assert far(both.mean(0), torch.ones(3), 0.1) and far(both.mean(1), torch.ones(3), 0.1), "neither is 1 everywhere"
    released = counted(given["weight"], None)
    close(released.mean(0), torch.ones(3, dtype=torch.float64), bound(500, torch.float64, 100.0))


def test_the_scale_of_the_weights_does_not_matter():
    x = inputs()
    value = memory_contrast(x["features"], Y, x["memory"], THERE, x["weight"], x["memory_weight"])
    other = memory_contrast(x["features"], Y, x["memory"], THERE, 1e6 * x["weight"], 1e-6 * x["memory_weight"])
    close(other, value, rounding(9, K, torch.float64) * 2)


def test_what_the_value_does_not_depend_on():
    x, generator = inputs(), torch.Generator().manual_seed(1)
    value = memory_contrast(x["features"], Y, x["memory"], THERE, x["weight"], x["memory_weight"])
    rows, places, classes = (torch.randperm(n, generator=generator) for n in (9, K, C))
    name = torch.full((256,), 255)
    name[classes] = torch.arange(C)
    moved = memory_contrast(
        x["features"][rows] * torch.rand(9, 1, generator=generator), name[Y[rows]], x["memory"][classes][:, places],
        THERE[classes][:, places], x["weight"][rows], x["memory_weight"][classes][:, places],
    )  # fmt: skip
    close(moved, value, rounding(9, K, torch.float64) * 2)


# ---- what does not count --------------------------------------------------------------------------------------------


def gradients(features, labels, memory, there, weight, memory_weight):
    leaves = [x.detach().clone().requires_grad_() for x in (features, weight, memory_weight)]
    loss = memory_contrast(leaves[0], labels, memory, there, *leaves[1:])
    loss.backward()
    return loss.detach(), [x.grad for x in leaves]


def test_cells_without_a_label_places_without_a_vector_and_classes_without_either_have_no_part():
    x = inputs()
    value, (f, w, v) = gradients(*x_of(x))
    counted = (Y == 0) | (Y == 1) | (Y == 3)
    assert f[counted].any(1).all() and not f[~counted].any()
    assert w[(Y == 0) | (Y == 3)].all() and not w[(Y == 2) | (Y == 255)].any()
    assert v[0].all() and not v[~THERE].any() and not v[2].any()
    close(w[Y == 1], torch.zeros_like(w[Y == 1]), bound(len(Y) + D, torch.float64), what="a single cell has the weight 1")
    other = x | {"features": torch.where(counted[:, None], x["features"], 1e6)}
    other["memory"] = torch.where(THERE[:, :, None], x["memory"], -1e6)
    close(gradients(*x_of(other))[0], value, rounding(9, K, torch.float64))


def x_of(x: dict[str, torch.Tensor], y: torch.Tensor = Y, there: torch.Tensor = THERE) -> tuple:
    return x["features"], y, x["memory"], there, x["weight"], x["memory_weight"]


@pytest.mark.parametrize("empty", ["labels", "memory", "cells", "features", "weights"])
def test_nothing_to_do_is_0_or_the_far_value_with_a_finite_gradient(empty):
    x, y, there, wanted = inputs(), Y, THERE, 0.0
    if empty == "labels":
        y = torch.full_like(Y, 255)
    elif empty == "memory":
        there = torch.zeros_like(THERE)
    elif empty == "cells":
        x, y = inputs(0), Y[:0]
    elif empty == "features":
        x["features"], wanted = torch.zeros_like(x["features"]), 3 / C  # no direction: the cosine 0
    else:
        x["weight"] = torch.zeros_like(x["weight"])  # underflown
    value, slopes = gradients(*x_of(x, y, there))
    assert value == wanted and all(slope.isfinite().all() for slope in slopes)
    if empty != "weights":
        assert not slopes[0].any()


# ---- the gradient ---------------------------------------------------------------------------------------------------


def test_gradient_is_the_slope():
    x = inputs()
    leaves = [x[name].requires_grad_() for name in ("features", "weight", "memory_weight")]
    assert torch.autograd.gradcheck(lambda f, w, v: memory_contrast(f, Y, x["memory"], THERE, w, v), leaves)
    assert torch.autograd.gradgradcheck(lambda f, w: memory_contrast(f, Y, x["memory"], THERE, w), leaves[:2])


def test_near_cells_and_near_vectors_gain_weight():
    """A step against the gradient gives pairs of a small distance more weight: what the selectors learn."""
    x = inputs()
    _, (_, w, v) = gradients(*x_of(x))
    p, z = F.normalize(x["features"], dim=1), F.normalize(x["memory"], dim=2)
    near_cells = (p[Y == 0] @ z[0].T).mean(1)
    assert w[Y == 0][near_cells.argmax()] < 0 < w[Y == 0][near_cells.argmin()]
    near_places = (p[Y == 0] @ z[0].T).mean(0)
    assert v[0][near_places.argmax()] < v[0][near_places.argmin()]


# ---- number formats and memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_no_more_than_the_rounded_input(dtype):
    f, x = inputs()["features"].to(dtype), inputs()
    exact = memory_contrast(f.double(), Y, x["memory"], THERE, x["weight"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = memory_contrast(f, Y, x["memory"].float(), THERE, x["weight"].float())
    assert found.dtype == torch.float32
    close(found, exact, rounding(9, K, torch.float32) * 2)


def test_memory_grows_with_the_cells_and_not_with_the_pairs():
    def peak(n: int, k: int) -> int:
        f, y = torch.randn(n, 16).requires_grad_(), torch.arange(n) % C
        z, there = torch.randn(C, k, 16), torch.ones(C, k, dtype=torch.bool)
        return peak_bytes(lambda: memory_contrast(f, y, z, there, torch.rand(n)).backward())

    assert peak(4000, 500) < 4000 * 16 * 4 * 8 + C * 500 * 16 * 4 * 8 < 4 * 4000 / C * 500 * 4


# ---- several processes ----------------------------------------------------------------------------------------------


def part_of_nine() -> list:
    """Process 0 has the cells 0 to 2, process 1 the next three and so on: classes lie unevenly."""
    n = 9 // ranks.count() if ranks.count() == 1 else 3
    part = slice(n * ranks.rank(), n * (ranks.rank() + 1))
    x = inputs()
    value, slopes = gradients(x["features"][part], Y[part], x["memory"], THERE, x["weight"][part], x["memory_weight"])
    return [value, *slopes]


def test_three_processes_are_one(tmp_path):
    three, one = together(part_of_nine, tmp_path, 3), part_of_nine()
    for process in three:
        close(process[0], one[0], rounding(9, K, torch.float64))
    for k in (1, 2):
        close(torch.cat([process[k] for process in three]) / 3, one[k], rounding(9, K, torch.float64) * 3)
    close(sum(process[3] for process in three) / 3, one[3], rounding(9, K, torch.float64) * 3)


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"features": torch.zeros(9, 6)}, r"features of 6 numbers, a memory \(4, 3, 5\) .*it wants \(C, K, 6\)"),
        ({"memory": torch.zeros(4, 5)}, r"a memory \(4, 5\)"),
        ({"there": torch.ones(4, 3)}, r"there \(4, 3\) of torch.float32; it wants .* bool"),
        ({"there": torch.ones(3, 4, dtype=torch.bool)}, r"there \(3, 4\)"),
        ({"memory": torch.zeros(4, 3, 5, requires_grad=True)}, "memory requires a gradient.*memory.detach"),
        ({"labels": Y[:4]}, r"Got features \(9, 5\) and labels \(4,\)"),
        ({"labels": torch.where(Y == 3, 4, Y)}, "label 4, wanted train ids 0 to 3, or 255"),
        ({"weight": torch.ones(3)}, r"weight is \(3,\) and the labels are \(9,\); it wants one positive number for each"),
        ({"memory_weight": torch.ones(3, 4)}, r"memory_weight is \(3, 4\) and the memory has \(4, 3\) places"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    x = inputs()
    given = {"features": x["features"], "labels": Y, "memory": x["memory"], "there": THERE} | change
    with pytest.raises(ValueError, match=words):
        memory_contrast(**given)
