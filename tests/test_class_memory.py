"""Class memories against numpy over all batches laid together, and lists; their state, and one memory over all processes."""

import copy

import numpy as np
import pytest
import torch

from course_lib import ranks
from course_lib.class_memory import CentroidQueue, FeatureQueue, RunningStatistics
from tests.bounds import bound, close, far, stated
from tests.processes import together

C, D, K = 5, 6, 4


def batch(seed: int, N: int = 2, H: int = 3, W: int = 4, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose mean changes from batch to batch, labels with ignored cells; the last class is nowhere."""
    numbers = torch.Generator().manual_seed(seed)
    features = seed + (1 + seed % 3) * torch.randn(N, D, H, W, generator=numbers)
    labels = torch.randint(0, C - 1, (N, H, W), generator=numbers)
    labels[0, 0, seed % W] = 255
    return features.to(dtype), labels


def rows(features: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return features.double().permute(0, 2, 3, 1).flatten(0, 2).numpy(), labels.flatten().numpy()


def together_of(*batches) -> tuple[np.ndarray, np.ndarray]:
    parts = [rows(*one) for one in batches]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def fed(memory, *batches):
    for features, labels in batches:
        memory.update(features, labels)
    return memory


# ---- running statistics ---------------------------------------------------------------------------------------------


def wanted(*batches) -> dict[str, np.ndarray]:
    """numpy's count, mean and population variance of all vectors of each class."""
    x, y = together_of(*batches)
    own = [x[y == c] for c in range(C)]
    return {
        "count": np.array([len(v) for v in own], dtype=float),
        "mean": np.stack([v.mean(0) if len(v) else np.zeros(D) for v in own]),
        "variance": np.stack([v.var(0) if len(v) else np.zeros(D) for v in own]),
    }


def rounding(batches: int, cells: int, size: float = 30.0):
    """Sums of x and x^2 over a batch's cells in float64, then six operations a batch; |x| < size."""
    return bound(cells + 6 * batches, torch.float64, 3 * size**2)


def test_they_are_those_of_all_batches_laid_together():
    batches = [batch(seed) for seed in range(20)]
    memory, found = fed(RunningStatistics(C, D), *batches), wanted(*batches)
    assert np.array_equal(memory.count.numpy(), found["count"]) and found["count"][C - 1] == 0
    close(memory.mean, found["mean"], rounding(20, 24))
    close(memory.variance, found["variance"], rounding(20, 24))
    assert far(memory.variance, np.mean([wanted(one)["variance"] for one in batches], axis=0), 1.0), "batches differ"
    assert memory.seen.tolist() == [True] * 4 + [False] and not memory.means[C - 1].any()
    assert memory.means.dtype == memory.variances.dtype == torch.float32 and memory.mean.dtype == torch.float64


@pytest.mark.parametrize("layout", ["flat", "channels_last", "bytes", "one by one", "in parts"])
def test_no_layout_and_no_division_changes_them(layout, monkeypatch):
    features, labels = batch(1)
    memory, found = RunningStatistics(C, D), wanted((features, labels))
    if layout == "in parts":
        monkeypatch.setattr("course_lib.prototypes._AT_A_TIME", 5 * D)
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    if layout == "bytes":
        labels = labels.byte()
    x, y = features.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    if layout == "one by one":
        fed(memory, *((x[i : i + 1], y[i : i + 1]) for i in range(len(x))))
    else:
        fed(memory, (x, y) if layout == "flat" else (features, labels))
    for name, value in found.items():
        close(getattr(memory, name), value, rounding(24, 24), what=name)


def test_a_mean_that_is_large_against_the_spread_keeps_its_variance():
    features, labels = batch(0)
    features = (features + 1000).double()
    memory = fed(RunningStatistics(C, D), (features, labels))
    close(memory.variance, wanted((features, labels))["variance"], rounding(1, 24, 1010.0))


def test_half_precision_and_autocast_are_summed_in_float64():
    features = torch.full((10_000, D), 1 + 2**-7, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory = fed(RunningStatistics(C, D), (features, torch.zeros(10_000, dtype=torch.int64)))
    assert memory.mean[0].tolist() == [1 + 2**-7] * D and not memory.variance.any() and memory.count[0] == 10_000


def test_nothing_is_forgotten_as_published():
    """After 359.5 million vectors 14,400 others move the mean by a share of 4e-5."""
    memory = RunningStatistics(1, 1)
    memory.mean[:], memory.count[:] = 1.0, 359.5e6
    fed(memory, (torch.full((14_400, 1), 2.0), torch.zeros(14_400, dtype=torch.int64)))
    close(memory.mean.item() - 1, 14_400 / (359.5e6 + 14_400), bound(10, torch.float64))


def test_with_a_horizon_older_features_fade():
    """w = n~ / (min(n, horizon) + n~): with 24 of 24, each batch counts half of what is there."""
    x = torch.arange(4.0).repeat_interleave(24)[:, None]
    y = torch.zeros(24, dtype=torch.int64)
    memory = fed(RunningStatistics(2, 1, horizon=24), *((x[24 * k : 24 * k + 24], y) for k in range(4)))
    close(memory.mean[0], [0 / 8 + 1 / 8 + 2 / 4 + 3 / 2], bound(30, torch.float64, 4.0))
    shares, values = np.array([1, 1, 2, 4]) / 8, np.arange(4)
    spread = (shares * values**2).sum() - (shares * values).sum() ** 2
    close(memory.variance[0], [spread], bound(60, torch.float64, 9.0))
    assert memory.count.tolist() == [24, 0]
    free = fed(RunningStatistics(2, 1), *((x[24 * k : 24 * k + 24], y) for k in range(4)))
    close(free.mean[0], [1.5], bound(30, torch.float64, 4.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("counted", [True, False])
def test_a_batch_that_is_not_finite_changes_nothing(bad, counted):
    """Of a queue of single features: such features alone do not enter."""
    features, labels = batch(2)
    labels[1, 0, 0] = 1 if counted else 255
    features[1, 3, 0, 0] = bad
    for memory in (RunningStatistics(C, D), CentroidQueue(C, D, K)):
        before = copy.deepcopy(fed(memory, batch(1)).state_dict())
        memory.update(features, labels)
        assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    queue, other = fed(FeatureQueue(C, D, K), (features, labels)), labels.clone()
    other[1, 0, 0] = 255
    assert torch.equal(queue.features, fed(FeatureQueue(C, D, K), (features, other)).features)


# ---- centroids ------------------------------------------------------------------------------------------------------


def test_a_queue_has_the_centroids_of_the_last_batches_that_had_the_class():
    memory, lists = CentroidQueue(C, D, K), [[] for _ in range(C)]
    for seed in range(2 * K + 1):
        features, labels = batch(seed, H=1, W=2)
        memory.update(features, labels)
        x, y = rows(features, labels)
        for c in range(C):
            if (y == c).any():
                lists[c].append(x[y == c].mean(0))
        for c in range(C):
            kept, there = memory.centroids[c][memory.there[c]], lists[c][-K:]
            assert len(kept) == len(there) and memory.seen[c] == bool(there)
            order = sorted(range(len(kept)), key=lambda k, kept=kept: kept[k].tolist())
            if there:
                close(kept[order], sorted(v.tolist() for v in there), bound(10, torch.float32, 30.0))
    assert len({len(entries) for entries in lists}) > 1 and memory.entered.tolist() == [len(entries) for entries in lists]


def test_it_starts_empty_and_the_released_one_with_the_zero_vector():
    ours, released = CentroidQueue(C, D, K), CentroidQueue(C, D, K, zero_start=True)
    assert not ours.there.any() and not ours.seen.any()
    assert released.seen.all() and released.there.sum(1).tolist() == [1] * C and not released.centroids.any()
    one = torch.ones(1, D), torch.zeros(1, dtype=torch.int64)
    for memory, counts in ((ours, [1, 2, 3, 4, 4]), (released, [2, 3, 4, 4, 4])):
        for count in counts:
            memory.update(*one)
            assert memory.there[0].sum() == count
        assert (memory.centroids[0] == 1).all(), "the zero vector has left by then"


# ---- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [None, 1, 2, 100])
@pytest.mark.parametrize("scored", [False, True])
def test_it_has_the_newest_features_with_the_highest_scores(most, scored):
    memory, lists = FeatureQueue(C, D, K), [[] for _ in range(C)]
    for seed in range(6):
        features, labels = batch(seed, W=2)
        scores = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) if scored else None
        memory.update(features, labels, scores, most)
        x, y = rows(features, labels)
        s = scores.flatten().numpy() if scored else np.zeros(len(y))
        for c in range(C):
            new = sorted(np.flatnonzero(y == c), key=lambda i, s=s: -s[i])[: min(most or K, K)]
            lists[c] = ([x[i].tolist() for i in new] + lists[c])[:K]
            assert memory.features[c][memory.there[c]].tolist() == lists[c], (seed, c)
    assert memory.filled.tolist() == [len(entries) for entries in lists] and memory.seen.tolist() == [True] * 4 + [False]


def test_the_released_one_keeps_the_lowest_scores():
    """Ours with the scores' sign changed."""
    x, y, s = torch.arange(4.0)[:, None], torch.zeros(4, dtype=torch.int64), torch.tensor([0.2, 0.9, 0.1, 0.5])
    for sign, wanted in ((1, [1.0, 3.0]), (-1, [2.0, 0.0])):
        memory = FeatureQueue(1, 1, 3)
        memory.update(x, y, sign * s, most=2)
        assert memory.features[0, :2].flatten().tolist() == wanted


def test_scores_that_are_not_finite_do_not_enter():
    memory = FeatureQueue(1, 1, 3)
    memory.update(torch.arange(3.0)[:, None], torch.zeros(3, dtype=torch.int64), torch.tensor([0.1, float("nan"), 0.3]))
    assert memory.features[0].flatten().tolist() == [2.0, 0.0, 0.0] and memory.filled.tolist() == [2]


# ---- all of them ----------------------------------------------------------------------------------------------------

MEMORIES = {"statistics": lambda: RunningStatistics(C, D), "centroids": lambda: CentroidQueue(C, D, K),
            "features": lambda: FeatureQueue(C, D, K)}  # fmt: skip
every = pytest.mark.parametrize("name", MEMORIES)


@every
def test_a_memory_that_is_saved_and_read_goes_on_bit_for_bit(name, tmp_path):
    whole = fed(MEMORIES[name](), *map(batch, range(6)))
    torch.save(fed(MEMORIES[name](), *map(batch, range(3))).state_dict(), tmp_path / "state.pt")
    parts = MEMORIES[name]()
    parts.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fed(parts, *map(batch, range(3, 6)))
    assert whole.state_dict().keys() == parts.state_dict().keys()
    assert all(torch.equal(value, parts.state_dict()[key]) for key, value in whole.state_dict().items())
    assert not list(whole.parameters())


@every
def test_cells_without_a_label_change_nothing(name):
    memory = fed(MEMORIES[name](), batch(1))
    before = copy.deepcopy(memory.state_dict())
    features, labels = batch(2)
    memory.update(features.requires_grad_(), torch.full_like(labels, 255))
    assert all(torch.equal(value, before[key]) for key, value in memory.state_dict().items())
    assert not any(value.requires_grad for value in memory.state_dict().values())


@every
def test_on_the_meta_device_nothing_asks_for_a_value(name):
    with torch.device("meta"):
        memory = MEMORIES[name]()
    memory.update(torch.zeros(2, D, 3, 4, device="meta"), torch.zeros(2, 3, 4, dtype=torch.int64, device="meta"))
    assert memory.seen.shape == (C,)


def of_part(name: str) -> dict[str, torch.Tensor]:
    memory = MEMORIES[name]()
    for seed in range(6):
        features, labels = batch(seed, N=4)
        labels[2:][labels[2:] == 1] = 255  # uneven between the processes
        own = slice(ranks.rank() * 4 // ranks.count(), (ranks.rank() + 1) * 4 // ranks.count())
        if name == "features":
            memory.update(features[own], labels[own], features[own, 0], most=3)
        else:
            memory.update(features[own], labels[own])
    return dict(memory.state_dict())


def all_parts() -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name in MEMORIES for key, value in of_part(name).items()}


def test_two_processes_hold_the_memory_of_one(tmp_path):
    whole, parts = all_parts(), together(all_parts, tmp_path)
    for name, value in whole.items():
        assert torch.equal(parts[0][name], parts[1][name]), name
        tolerance = rounding(6, 48) if value.dtype == torch.float64 else bound(2, torch.float32, 30.0)
        close(parts[0][name], value, stated(0.0, "whole numbers and copies") if "features." in name else tolerance, what=name)


def test_errors_say_what_came_and_what_was_wanted():
    x, y = torch.zeros(3, D + 1), torch.zeros(3, dtype=torch.int64)
    for make in (RunningStatistics, CentroidQueue, FeatureQueue):
        with pytest.raises(ValueError, match=rf"Got features of {D + 1} (channels|numbers); "):
            make(C, D).update(x, y)
        with pytest.raises(ValueError, match="dim is 0; it wants a whole number from 1"):
            make(C, 0)
        with pytest.raises(ValueError, match=r"Got label 5, wanted train ids 0 to 4, or 255"):
            make(C, D).update(x[:, :D], torch.full_like(y, 5))
    with pytest.raises(ValueError, match="horizon is 0; it wants a whole number from 1"):
        RunningStatistics(C, D, horizon=0)
    with pytest.raises(ValueError, match="length is 0; it wants a whole number from 1"):
        CentroidQueue(C, D, 0)
    queue = FeatureQueue(C, D)
    with pytest.raises(ValueError, match="most is 0; it is how many features of a class may enter at a time: at least 1"):
        queue.update(x[:, :D], y, most=0)
    with pytest.raises(ValueError, match=r"scores is \(2,\) and the labels are \(3,\); it wants one shape"):
        queue.update(x[:, :D], y, torch.zeros(2))
    assert str(queue) == "FeatureQueue(5 classes, 256 features of 6 numbers each)"
