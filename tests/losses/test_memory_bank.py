"""NT-Xent against a memory: the value, what enters and when, and what is saved."""

import math

import pytest
import torch

from course_lib import ranks
from course_lib.losses import MemoryBank
from tests.bounds import bound, close, far, near
from tests.oracles import nt_xent as oracle
from tests.processes import together


def views(n: int, d: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def test_equals_the_loop_with_the_bank_of_before():
    bank = MemoryBank(5, 4).double()
    bank.bank /= bank.bank.norm(dim=1, keepdim=True)  # they were of length 1 in float32
    for seed in range(3):
        a, b = views(3, seed=seed)
        wanted = oracle.against_bank(a.tolist(), b.tolist(), bank.bank.tolist(), 0.2)
        close(bank(a, b, 0.2).item(), wanted, oracle.rounding(5, 4, 0.2, wanted, torch.float64))


def test_gradient_is_the_slope_of_both_views_and_the_temperature_and_survives_the_update():
    a, b = views(3)
    t = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b, t: MemoryBank(5, 4).double()(a, b, t), (a, b, t))
    assert torch.autograd.gradgradcheck(lambda a, b, t: MemoryBank(5, 4).double()(a, b, t), (a, b, t))


def test_it_looks_in_one_direction():
    a, b = views(3)
    assert far(MemoryBank(5, 4)(a, b), MemoryBank(5, 4)(b, a), 1e-3)


def test_first_in_first_out_and_what_does_not_fit_is_left_out():
    bank, pointers = MemoryBank(10, 4).double(), []
    start = bank.bank.clone()
    batches = [views(3, seed=seed) for seed in range(5)]
    for a, b in batches:
        bank(a, b)
        pointers.append(int(bank.pointer))
    assert pointers == [3, 6, 9, 0, 3]
    rows = [b.detach() / b.detach().norm(dim=1, keepdim=True) for _, b in batches]
    close(bank.bank, torch.cat([rows[4], rows[1], rows[2], rows[3][:1]]), bound(20, torch.float64))
    assert not (bank.bank == start).all(dim=1).any()


def test_a_batch_larger_than_the_bank_fills_it():
    bank = MemoryBank(2, 4)
    bank(*views(5))
    assert int(bank.pointer) == 0
    close(bank.bank.norm(dim=1), torch.ones(2), bound(10, torch.float32))


def test_scoring_changes_nothing():
    bank = MemoryBank(4, 4)
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    a, b = views(3)
    bank(a.detach(), b)
    assert all(torch.equal(before[name], value) for name, value in bank.state_dict().items())


def test_who_cannot_tell_pays_the_logarithm_of_the_others():
    bank, alike = MemoryBank(6, 4), torch.ones(3, 4, requires_grad=True)
    for _ in range(2):
        bank(alike, alike)
    close(bank(alike, alike, 0.1).item(), math.log(6 + 1), oracle.rounding(6, 4, 0.1, math.log(7), torch.float32))


@pytest.mark.parametrize("tau", [0.1, 0.07, 0.01])
def test_rows_that_are_alike_cost_the_same_at_any_temperature(tau):
    """As in test_nt_xent: the cosines are exact, so their differences are 0 whatever they are divided by."""
    bank, alike = MemoryBank(6, 16), torch.full((3, 16), 0.25)
    bank.bank.copy_(alike[:1].expand(6, 16))
    close(bank(alike, alike, tau), math.log(6 + 1), oracle.rounding(6, 16, math.inf, math.log(7), torch.float32))


def test_bank_and_pointer_are_saved():
    bank = MemoryBank(7, 4)
    bank(*views(3))
    again = MemoryBank(7, 4, seed=1)
    again.load_state_dict(bank.state_dict())
    assert set(bank.state_dict()) == {"bank", "pointer"}
    assert again(*views(3, seed=1)) == bank(*views(3, seed=1))
    assert torch.equal(again.bank, bank.bank)


def test_it_prints_its_size_and_where_it_is():
    bank = MemoryBank(7, 4)
    bank(*views(3))
    assert repr(bank) == "MemoryBank(7 rows of 4 numbers, next row 3)"


def test_computes_in_float32_inside_autocast():
    a, b = (z.detach().float() for z in views(3))
    bank = MemoryBank(5, 4)
    exact = bank(a, b, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bank(a, b, 0.1) == exact


def two_steps() -> dict:
    bank, part = MemoryBank(9, 4).double(), slice(2 * ranks.rank(), 2 * ranks.rank() + 2)
    values = [bank(*(z[part] for z in views(4, seed=seed)), 0.2).detach() for seed in range(2)]
    return {"values": torch.stack(values), "bank": bank.bank, "pointer": bank.pointer}


def test_two_processes_are_one(tmp_path):
    first, second = together(two_steps, tmp_path)
    bank = MemoryBank(9, 4).double()
    values = torch.stack([bank(*views(4, seed=seed), 0.2).detach() for seed in range(2)])
    close((first["values"] + second["values"]) / 2, values, oracle.rounding(9, 4, 0.2, 2.0, torch.float64))
    assert near(first["bank"], bank.bank, bound(20, torch.float64)) and torch.equal(first["bank"], second["bank"])
    assert first["pointer"] == second["pointer"] == bank.pointer


@pytest.mark.parametrize("size, dim", [(0, 4), (-1, 4), (4, 0)])
def test_wrong_sizes_are_named(size, dim):
    with pytest.raises(ValueError, match=f"size {size} and dim {dim}.*at least one"):
        MemoryBank(size, dim)


def test_wrong_embeddings_are_named():
    with pytest.raises(ValueError, match="of 4 numbers per row got embeddings of 5"):
        MemoryBank(3, 4)(*views(2, 5))
    with pytest.raises(ValueError, match="temperature is 0"):
        MemoryBank(3, 4)(*views(2), 0)


def test_equals_lightly_step_by_step():
    peer = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.2, memory_bank_size=(10, 4)).double()
    bank = MemoryBank(10, 4).double()
    bank.bank.copy_(peer.memory_bank.bank)
    for seed in range(6):
        a, b = views(3, seed=seed)
        close(bank(a, b, 0.2).item(), peer(a, b).item(), oracle.rounding(10, 4, 0.2, 2.0, torch.float64) * 2)
        close(bank.bank, peer.memory_bank.bank, bound(20, torch.float64))
        assert bank.pointer == peer.memory_bank.bank_ptr
