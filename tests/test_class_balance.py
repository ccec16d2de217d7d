"""Weights of classes from a window of steps: against numpy, what the window forgets, state, processes."""

import numpy as np
import pytest
import torch

from course_lib import ranks
from course_lib.pseudo_labels import ClassBalance, ramp
from tests.bounds import bound, close
from tests.engine.test_no_waiting import Waits
from tests.processes import together

C, T = 6, 3


def labels(seed: int, n: int = 4) -> torch.Tensor:
    """Class 5 is nowhere, class 0 often; some pixels without a label."""
    y = torch.randint(0, C - 1, (n, 5, 6), generator=torch.Generator().manual_seed(seed))
    y[:, :2], y[0, 2] = 0, 255
    return y


def wanted(*batches: torch.Tensor) -> np.ndarray:
    y = np.concatenate([batch.flatten().numpy() for batch in batches])
    f = np.array([(y == c).sum() for c in range(C)], dtype=float)
    w = np.sqrt(np.median(f[f > 0]) / np.maximum(f, 1))
    return np.where(f > 0, w, w[f > 0].max())


ROUNDING = bound(6, torch.float32, 3.0)


@pytest.mark.parametrize("steps", range(1, 7))
def test_it_is_the_root_of_the_median_over_the_frequency_of_the_last_steps(steps):
    balance = ClassBalance(C, T)
    for step in range(steps):
        balance.update(labels(2 * step), labels(2 * step + 1).byte())
    last = range(max(0, steps - T), steps)
    found = wanted(*(labels(2 * step + k) for step in last for k in (0, 1)))
    close(balance.weights, found, ROUNDING)
    assert found[0] < 1 < found[C - 1] == found[:-1].max(), "the frequent class counts less, one that is nowhere as the rarest"


@pytest.mark.parametrize("there, found", [
    ([], [1.0] * 6), ([2], [1.0] * 6), ([0, 0, 0, 0, 3], [(2.5 / 4) ** 0.5, *[2.5**0.5] * 5]),
    ([0, 1, 1, 1, 1, 2, 2, 2, 2], [2.0, 1, 1, 2, 2, 2]),
])  # fmt: skip
def test_few_classes(there, found):
    balance = ClassBalance(C, T)
    balance.update(torch.tensor([*there, 255]))
    close(balance.weights, found, ROUNDING)
    assert balance.weights.dtype == torch.float32


def test_it_is_in_the_state():
    balance, other = ClassBalance(C, T), ClassBalance(C, T)
    for step in range(5):
        balance.update(labels(step))
    other.load_state_dict(balance.state_dict())
    for each in (balance, other):
        each.update(labels(9))
    assert torch.equal(balance.weights, other.weights) and torch.equal(balance.counts, other.counts)


def parts() -> dict[str, torch.Tensor]:
    n = 4 // ranks.count()
    balance = ClassBalance(C, T)
    for step in range(5):
        balance.update(labels(step)[ranks.rank() * n : (ranks.rank() + 1) * n])
    return {"counts": balance.counts, "weights": balance.weights}


def test_two_processes_count_together(tmp_path):
    one = parts()
    for process in together(parts, tmp_path):
        assert all(torch.equal(process[name], value) for name, value in one.items())


def test_the_device_is_asked_nothing():
    with torch.device("meta"):
        balance = ClassBalance(C, T)
    with Waits() as waits:
        balance.update(torch.zeros(2, 3, dtype=torch.int64, device="meta"))
        assert balance.weights.shape == (C,)
    assert waits.questions == [] and waits.uploads == []


def test_the_ramp():
    """exp(-5 (1 - t/T)^2), and 1 from T on; without a ramp 1 from the first step on."""
    for t in range(11):
        close(ramp(t, 10), np.exp(-5 * (1 - t / 10) ** 2), bound(10, torch.float64))
    assert ramp(10, 10) == ramp(11, 10) == ramp(0, 0) == 1.0 and ramp(9, 10) < 1


def test_errors_say_what_was_wanted():
    with pytest.raises(ValueError, match="window is 0; it wants a whole number from 1"):
        ClassBalance(C, 0)
    with pytest.raises(ValueError, match="label 6, wanted train ids 0 to 5, or 255"):
        ClassBalance(C, T).update(torch.tensor([6]))
