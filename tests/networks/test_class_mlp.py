"""The small networks of classes: against one network after the other, rows of no class, formats, the state."""

import pytest
import torch
from torch.nn import functional as F

from course_lib.networks.class_mlp import ClassMLP
from tests.bounds import bound, close, far

C, D, H = 5, 6, 7
ROUNDING = bound(D + H + 4, torch.float32, 10.0)


def mlp(block: int = 4) -> ClassMLP:
    torch.manual_seed(0)
    return ClassMLP(C, D, H, block)


def rows(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Some of no class; class 3 is nowhere, class 2 often."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, C, (n,), generator=g)
    y[y == 3] = 2
    y[::4] = 255
    return torch.randn(n, D, generator=g), y


def one_by_one(m: ClassMLP, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    found = [x.new_zeros(())] * len(x)
    for i, (row, c) in enumerate(zip(x, y.tolist())):
        if c != 255:
            hidden = F.leaky_relu(m.first[c] @ row + m.first_bias[c], 0.2)
            found[i] = m.second[c] @ hidden + m.second_bias[c]
    return torch.stack(found)


@pytest.mark.parametrize("block", [1, 4, 256])
@pytest.mark.parametrize("n", [1, 4, 33, 200])
def test_each_row_passes_the_network_of_its_class(n, block):
    m, (x, y) = mlp(block), rows(n)
    found, wanted = m(x, y), one_by_one(m, x, y)
    close(found, wanted, ROUNDING)
    assert (found[y == 255] == 0).all()
    if n > 10:
        assert far(m(x, torch.where(y == 255, 255, 3)), wanted, 0.1), "classes differ"
        numbers = torch.randn(n, generator=torch.Generator().manual_seed(1))
        both = (torch.autograd.grad(value @ numbers, list(m.parameters())) for value in (found, wanted))
        for got, slope in zip(*both, strict=True):
            close(got, slope, bound(n + D + H, torch.float32, 10.0 * n))


@pytest.mark.parametrize("y", [[0] * 9, [255] * 9, [4] * 9, [0, 0, 0, 0, 4, 4, 4, 4, 4], []])
def test_any_division_into_classes_fits(y):
    """Blocks that are full, that are not, and none."""
    m, y = mlp(), torch.tensor(y, dtype=torch.int64)
    x = rows(9)[0][: len(y)]
    close(m(x, y), one_by_one(m, x, y) if len(y) else torch.zeros(0), ROUNDING)


def test_half_precision_is_computed_in_float32_and_float64_stays():
    m, (x, y) = mlp(), rows(33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = m(x.bfloat16(), y)
    assert found.dtype == torch.float32
    close(found, one_by_one(m, x.bfloat16().float(), y), ROUNDING)
    assert m(x.double(), y).dtype == torch.float64


def test_the_order_of_rows_does_not_matter():
    m, (x, y) = mlp(), rows(33)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    close(m(x[order], y[order]), m(x, y)[order], ROUNDING * 2)


@pytest.mark.parametrize("change, words", [
    (lambda m, x, y: m(x[:, :4], y), r"rows \(33, 4\) and classes \(33,\); it wants \(P, 6\) and \(P,\)"),
    (lambda m, x, y: m(x, y[:4]), r"classes \(4,\)"),
    (lambda m, x, y: m(x, y + 1), "label 256|label 5"),
    (lambda m, x, y: ClassMLP(0, 1, 1), "num_classes=0, inside=1, hidden=1, block=256; it wants 1 or more"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        change(mlp(), *rows(33))
