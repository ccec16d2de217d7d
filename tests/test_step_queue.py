"""The step queue: against a list of the last steps, unfilled rows, one queue in all processes, its state."""

import copy
from collections import deque

import pytest
import torch

from course_lib import ranks
from course_lib.class_memory import StepQueue
from tests.processes import together

D = 3


def entry(step: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(count, D, generator=generator), torch.randint(0, 19, (count,), generator=generator)


def as_set(features: torch.Tensor, classes: torch.Tensor) -> list[tuple[float, ...]]:
    """The filled rows, in no order."""
    return sorted((*row.tolist(), int(c)) for row, c in zip(features, classes) if c != 255)


def test_it_holds_the_last_three_steps_the_newest_among_them():
    queue, steps = StepQueue(5, D), deque(maxlen=3)
    assert as_set(*queue.held()) == []
    for step, count in enumerate([5, 3, 0, 4, 5, 1]):
        x, y = entry(step, count)
        queue.enter(x, y)
        steps.append((x, y))
        features, classes = queue.held()
        assert features.shape == (15, D) and classes.shape == (15,), "whatever came"
        assert as_set(features, classes) == sorted(row for x, y in steps for row in as_set(x, y))
        assert (features[classes == 255] == 0).all()
    assert torch.equal(features[:1], x) and torch.equal(classes[5:10], steps[1][1]), "the newest step first"


def test_what_is_not_finite_or_has_no_class_stays_out():
    queue = StepQueue(4, D)
    x, y = entry(0, 4)
    x[0, 1], x[2, 0], y[3] = float("nan"), float("inf"), 255
    queue.enter(x, y)
    features, classes = queue.held()
    assert classes[:4].tolist() == [255, int(y[1]), 255, 255] and features.isfinite().all()


def test_it_has_no_gradient_and_leaves_what_it_gave_before():
    queue = StepQueue(4, D)
    x, y = entry(0, 4)
    queue.enter(x.requires_grad_(), y)
    features, classes = queue.held()
    before = features.clone(), classes.clone()
    assert not features.requires_grad and not any(p.requires_grad for p in queue.parameters())
    weight = torch.ones(D, requires_grad=True)
    loss = (features * weight).square().sum()
    queue.enter(*entry(1, 4))
    loss.backward()  # torch refuses where a tensor of the graph was written to
    assert torch.equal(features, before[0]) and torch.equal(classes, before[1])


def test_a_resumed_queue_is_the_same():
    queue, other = StepQueue(4, D), StepQueue(4, D)
    for step in range(2):
        queue.enter(*entry(step, 4))
    state = copy.deepcopy(queue.state_dict())
    assert set(state) == {"features", "classes"}
    other.load_state_dict(state)
    for step in range(2, 4):
        queue.enter(*entry(step, 3)), other.enter(*entry(step, 3))
        assert all(torch.equal(a, b) for a, b in zip(queue.held(), other.held(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_are_kept_in_float32_and_classes_of_any_kind(dtype):
    queue = StepQueue(4, D)
    x, y = entry(0, 4)
    queue.enter(x.to(dtype), y.to(torch.uint8))
    features, classes = queue.held()
    assert torch.equal(features[:4], x.to(dtype).float()) and torch.equal(classes[:4], y)
    assert StepQueue(4, D).double().held()[0].dtype == torch.float64


def test_it_works_on_the_meta_device():
    with torch.device("meta"):
        queue = StepQueue(4, D)
    queue.enter(torch.zeros(3, D, device="meta"), torch.zeros(3, dtype=torch.int64, device="meta"))
    assert [x.shape for x in queue.held()] == [(12, D), (12,)]


def part() -> tuple[torch.Tensor, torch.Tensor]:
    queue, r, n = StepQueue(6, D), ranks.rank(), 4 // ranks.count()
    for step in range(4):
        queue.enter(*(x[r * n : (r + 1) * n] for x in entry(step, 4)))
    return queue.held()


def test_all_processes_hold_the_queue_of_one(tmp_path):
    first, second = together(part, tmp_path)
    for a, b, whole in zip(first, second, part(), strict=True):
        assert torch.equal(a, whole) and torch.equal(b, whole)


def test_errors_say_what_came_and_what_was_wanted():
    queue = StepQueue(4, D)
    with pytest.raises(ValueError, match=r"features \(4, 2\) and classes \(4,\); it wants \(P, 3\) and \(P,\)"):
        queue.enter(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"classes \(3,\); it wants"):
        queue.enter(torch.zeros(4, D), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="got 5 features in a step, of all processes; it has 4 rows"):
        queue.enter(*entry(0, 5))
    for wrong in ({"rows": 0}, {"dim": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is 0; it wants a whole number from 1"):
            StepQueue(**{"rows": 4, "dim": D, "steps": 3} | wrong)
