"""Two real processes train like one with both parts of the batch, and average as torch's own DistributedDataParallel does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from course_lib import ranks
from course_lib.data import Batch
from course_lib.engine.distributed import average_gradients, broadcast_module, device_of_rank, join, running_statistics
from course_lib.methods import AdaptSegNet, AdaptSegNetSettings, OptimiserSettings, SourceOnly
from course_lib.networks import small
from tests.processes import together

METHODS = {
    "vanilla": AdaptSegNetSettings("multi", discriminator_width=4, discriminator_depth=3, lambda_adv=0.5),
    "least-squares": AdaptSegNetSettings("single", "least-squares", discriminator_width=4, discriminator_depth=3),
}


def batch(seed: int) -> Batch:
    """This process's part of four pictures; the first two have hardly any label."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(4, 3, 32, 48, generator=generator)
    label = torch.randint(0, 5, (4, 32, 48), generator=generator)
    label[:2, 2:] = 255
    n = 4 // ranks.count()
    part = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    return Batch(image[part], label[part], [f"{i}.png" for i in range(4)][part])


def training(settings: AdaptSegNetSettings, norm: str = "group", steps: int = 2) -> dict:
    """Every loss of some steps of AdaptSegNet, averaged over the processes, and where the weights end."""
    torch.manual_seed(0)
    network = small(5, width=8, aux=settings.levels == "multi", norm=norm)
    method = AdaptSegNet(network, settings, OptimiserSettings(lr=0.01)).train()
    optimisers = method.optimisers.values()
    history = []
    for step in range(steps):
        for optimiser in optimisers:
            optimiser.zero_grad()
        record = {}
        for losses in method.losses(source=batch(2 * step), target=batch(2 * step + 1)):
            sum(method.weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
            record |= {name: ranks.total(loss).item() / ranks.count() for name, loss in losses.items()}
        average_gradients(optimisers)
        for optimiser in optimisers:
            optimiser.step()
        history.append(record)
    return {"losses": history, "weights": method.state_dict()}


def beside_torch() -> dict:
    """The gradients of one step: ours, and those of DistributedDataParallel."""
    torch.manual_seed(1)
    ours = SourceOnly(small(5, width=8))
    theirs = DistributedDataParallel(copy.deepcopy(ours.segmenter))
    source = batch(0)
    for losses in ours.losses(source):
        losses["segmentation"].backward()
    average_gradients(ours.optimisers.values())
    ours.supervised(theirs(source.image), source.label)["segmentation"].backward()
    return {
        "ours": {name: p.grad for name, p in ours.segmenter.named_parameters()},
        "theirs": {name: p.grad for name, p in theirs.module.named_parameters()},
    }


def averages() -> dict:
    """A weight with a gradient on both processes, on process 0 alone, nowhere, and one that does not learn."""
    both, one, none = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    still = nn.Parameter(torch.zeros(1), requires_grad=False)
    r = ranks.rank()
    both.grad = torch.full((2, 2), 1.0 + 2 * r)
    if r == 0:
        one.grad = torch.full((2, 2), 4.0)
    statistics = torch.tensor([10.0 * r, 2.0])
    optimisers = [torch.optim.SGD([{"params": [both, one]}, {"params": [none]}], lr=1), torch.optim.SGD([one, still], lr=1)]
    with_flag = average_gradients(optimisers, flag=r == 1, buffers=[statistics])
    grads = [both.grad, one.grad, none.grad, still.grad]
    return {"grads": grads, "flags": [with_flag, average_gradients(optimisers)], "statistics": statistics}


def start() -> dict:
    torch.manual_seed(ranks.rank())
    network = small(5, width=8, norm="batch")
    network(torch.randn(2, 3, 32, 32))
    broadcast_module(network)
    return network.state_dict()


def work() -> dict:
    result = {name: training(settings) for name, settings in METHODS.items()}
    result["sync"] = training(METHODS["vanilla"], norm="sync")
    return result | {"peer": beside_torch(), "averages": averages(), "start": start()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("distributed"))


def close(a: dict, b: dict, tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name, norm", [("vanilla", "group"), ("least-squares", "group"), ("sync", "batch")])
def test_two_processes_train_like_one(results, name, norm):
    whole = training(METHODS.get(name, METHODS["vanilla"]), norm)
    for result in results:
        for step, (ours, expected) in enumerate(zip(result[name]["losses"], whole["losses"], strict=True)):
            assert ours == pytest.approx(expected, abs=1e-5), f"step {step}"
        close(result[name]["weights"], whole["weights"], 1e-5)
    close(results[0][name]["weights"], results[1][name]["weights"], 0)


def test_gradients_are_those_of_torchs_own_wrapper(results):
    for result in results:
        close(result["peer"]["ours"], result["peer"]["theirs"], 1e-6)
    assert max(g.abs().max() for g in results[0]["peer"]["ours"].values()) > 1e-3


def test_each_weight_is_averaged_once_and_a_missing_gradient_counts_as_zero(results):
    for result in results:
        both, one, none, still = result["averages"]["grads"]
        assert both.tolist() == [[2.0, 2.0]] * 2 and one.tolist() == [[2.0, 2.0]] * 2
        assert none is None and still is None
        assert result["averages"]["statistics"].tolist() == [5.0, 2.0]
        assert result["averages"]["flags"] == [True, False]


def test_all_start_from_the_first(results):
    close(results[1]["start"], results[0]["start"], 0)
    torch.manual_seed(0)
    assert torch.equal(results[1]["start"]["classifier.weight"], small(5, width=8, norm="batch").classifier.weight)


def test_running_statistics_are_found():
    assert len(running_statistics(nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.BatchNorm1d(2)))) == 4


def test_alone_nothing_is_joined_or_averaged(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join("cuda"):
        assert ranks.count() == 1 and average_gradients([], flag=True) and not average_gradients([])
    assert device_of_rank("cuda:1") == torch.device("cuda:1")


def test_devices_of_several_processes(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_rank("cpu") == torch.device("cpu") and device_of_rank("cuda") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="each takes a GPU of its own. Give --device cuda"):
        device_of_rank("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="finds 1 GPUs.*at most that number"):
        device_of_rank("cuda")
    with pytest.raises(ValueError, match="not on mps"), join("mps"):
        pass
