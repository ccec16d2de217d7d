"""Two real processes: their sums and lists, and that losses, statistics and scores are those of one process."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib import ranks
from course_lib.evaluation import evaluate, information, reestimate_statistics
from course_lib.losses import cross_entropy
from course_lib.networks import Prediction
from course_lib.networks.sync import SyncBatchNorm, synchronised
from tests.bounds import bound, close, stated
from tests.processes import together

NORM = bound(300, torch.float64, 100.0)  # sums over 120 places in two passes, of normalised numbers times ones below 10
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the whole problems, of which each process takes a part ---------------------------------------------------------


def labels() -> torch.Tensor:
    """(4, 6, 7): almost nothing is labelled in the first half, so that a plain mean over the processes is wrong."""
    label = torch.randint(0, 5, (4, 6, 7), generator=torch.Generator().manual_seed(1))
    label[:2, 1:] = 255
    return label


def segmentation(part: slice, weight=None, label=None) -> dict:
    logits = random(4, 5, 6, 7)[part].requires_grad_()
    loss = cross_entropy(logits, (labels() if label is None else label)[part], weight)
    loss.backward()
    return {"loss": loss.detach(), "gradient": logits.grad}


def normalisation(part: slice, norm: nn.Module) -> dict:
    """Two training steps of a norm; the loss is a sum over the whole batch."""
    with torch.no_grad():
        norm.double().weight.copy_(random(3, seed=7))
    x = (3 + 2 * random(4, 3, 5, 6, seed=2))[part].requires_grad_()
    y = norm(x)
    (ranks.count() * (y * random(4, 3, 5, 6, seed=3)[part]).sum()).backward()
    norm(x.detach() ** 2)
    return {"y": y.detach(), "dx": x.grad, "dw": norm.weight.grad, "db": norm.bias.grad, **norm.state_dict()}


class Painter(nn.Module):
    """Its logits are its norm's output."""

    num_classes, normalisation = 3, "imagenet"

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.norm = norm(3)

    def forward(self, image):
        x = self.norm(image)
        return Prediction(x, x)


def pictures(first: int = 0, stride: int = 1, count: int = 5) -> list:
    """Every stride-th of five batches of one picture."""
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        image = torch.randn(1, 3, 8, 8, generator=generator) * (1 + i)
        made.append(SimpleNamespace(image=image, label=torch.randint(0, 3, (1, 8, 8), generator=generator)))
    return made[first::stride]


def scoring(loader: list, norm=nn.BatchNorm2d) -> dict:
    network = Painter(norm)
    used = reestimate_statistics(network, loader, progress=False)
    scores = evaluate(network, loader, 3, progress=False)
    return {"used": used, "images": scores.images, "iou": list(scores.iou), **network.norm.state_dict()}


# ---- what a process does --------------------------------------------------------------------------------------------


def message_of(action) -> str:
    try:
        action()
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def unreadable(ranks_with_it: tuple[int, ...], error: Exception) -> Iterator[SimpleNamespace]:
    """Pictures, the second of which cannot be read in some processes."""
    yield pictures(count=1)[0]
    if ranks.rank() in ranks_with_it:
        raise error
    yield pictures(1, count=2)[0]


def work() -> dict:
    r, R = ranks.rank(), ranks.count()
    own = torch.tensor([[float(r + 1)]], requires_grad=True)
    rows = torch.full((2, 3), float(r), requires_grad=True)
    gathered = ranks.gather(rows)
    (gathered * (1 + r) * torch.arange(12.0).view(4, 3)).sum().backward()
    slope = torch.autograd.grad((ranks.gather(rows) ** 2).sum(), rows, create_graph=True)[0]
    half, uneven = slice(2 * r, 2 * r + 2), slice(0, 3) if r == 0 else slice(3, 4)
    summed = ranks.total(own)
    result = {
        "who": [r, R, ranks.is_main()],
        "total": [summed.item(), own.item(), summed.requires_grad],
        "gather": gathered.detach(),
        "gather_gradient": rows.grad,
        "second_derivative": torch.autograd.grad((slope * (1 + r)).sum(), rows)[0],
        "unequal": message_of(lambda: ranks.gather(torch.zeros(1 + r, 3))),
        "number": message_of(lambda: ranks.gather(torch.tensor(0.0))),
        "agree": ranks.agree({"step": 3, "t": torch.ones(2)} if r == 0 else None),
        "collect": ranks.collect(f"process {r}"),
        "any": [ranks.any_of(False), ranks.any_of(r == 1), ranks.any_of(True)],
        "segmentation": segmentation(half),
        "weighted": segmentation(half, WEIGHT),
        "nothing": segmentation(half, label=torch.full((4, 6, 7), 255)),
        "norm": normalisation(uneven, SyncBatchNorm(3)),
        "average": normalisation(uneven, SyncBatchNorm(3, momentum=None)),
        "scores": scoring(pictures(r, R)),
        "sync_scores": scoring(pictures(r, R), SyncBatchNorm),
        "few": scoring(pictures(r, R, count=1)),
        "none": message_of(lambda: evaluate(Painter(), [], 3, progress=False)),
        "unreadable": [
            message_of(lambda: evaluate(Painter(), unreadable((1,), FileNotFoundError("b.png")), 3, progress=False)),
            message_of(lambda: information(Painter(), unreadable((0, 1), ValueError("b.png is cut")))),
            message_of(lambda: information(Painter(), unreadable((0,), ValueError("b.png is cut")))),
            *ranks.collect(f"process {r} goes on"),
        ],
    }
    ranks.barrier()
    if r == 0:  # the other one is leaving
        result["lost"] = message_of(lambda: ranks.total(torch.ones(1)))
    return result


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("ranks"))


def joined(results: list, what: str, key: str) -> torch.Tensor:
    return torch.cat([result[what][key] for result in results])


def test_every_process_knows_its_place(results):
    assert [result["who"] for result in results] == [[0, 2, True], [1, 2, False]]


def test_total_is_the_sum_and_leaves_its_argument(results):
    assert [result["total"] for result in results] == [[3.0, 1.0, False], [3.0, 2.0, False]]


def test_gather_is_in_the_order_of_the_processes(results):
    for result in results:
        assert result["gather"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2


def test_gradient_of_gather_is_what_all_losses_say(results):
    """Process q weighs row i with (1 + q) c_i: a row of any process gets (1 + 2) c_i."""
    gradient = torch.cat([result["gather_gradient"] for result in results])
    assert torch.equal(gradient, 3 * torch.arange(12.0).view(4, 3))


def test_gather_can_be_differentiated_twice(results):
    """Both processes' losses are the sum of all squares, so the slope is 2 (2 x); process r weighs its own with 1 + r."""
    for r, result in enumerate(results):
        assert torch.equal(result["second_derivative"], torch.full((2, 3), 4.0 * (1 + r)))


def test_gather_names_sizes_that_differ(results):
    for result in results:
        assert "gather got (1, 3) on process 0, (2, 3) on process 1; it wants one size" in result["unequal"]
        assert "Use total for a sum" in result["number"]


def test_python_objects(results):
    for result in results:
        assert result["agree"]["step"] == 3 and torch.equal(result["agree"]["t"], torch.ones(2))
        assert result["collect"] == ["process 0", "process 1"]
        assert result["any"] == [False, True, True]


def test_a_lost_process_is_said_in_words(results):
    assert results[0]["lost"].startswith("ProcessLost: Process 0 waited for the others, and one of 2 has ended")


@pytest.mark.parametrize("what, weight", [("segmentation", None), ("weighted", WEIGHT)])
def test_cross_entropy_is_that_of_the_whole_batch(results, what, weight):
    whole = segmentation(slice(None), weight)
    mean = sum(result[what]["loss"] for result in results) / 2
    close(mean.item(), whole["loss"].item(), bound(250, torch.float64, 10.0))
    close(joined(results, what, "gradient") / 2, whole["gradient"], bound(250, torch.float64))
    assert all(result["nothing"]["loss"] == 0 and not result["nothing"]["gradient"].any() for result in results)


@pytest.mark.parametrize("what, momentum", [("norm", 0.1), ("average", None)])
def test_sync_batch_norm_is_batch_norm_of_the_whole_batch(results, what, momentum):
    whole = normalisation(slice(None), nn.BatchNorm2d(3, momentum=momentum))
    close(joined(results, what, "y"), whole["y"], NORM)
    close(joined(results, what, "dx") / 2, whole["dx"], NORM)
    for key in ("dw", "db"):
        close(sum(result[what][key] for result in results) / 2, whole[key], NORM)
    for result in results:
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            close(result[what][key], whole[key], NORM)


@pytest.mark.parametrize("what", ["scores", "sync_scores"])
def test_statistics_and_scores_are_those_of_all_pictures(results, what):
    """Five pictures: process 0 holds three of them, process 1 two."""
    whole = scoring(pictures())
    for result in results:
        assert result[what]["used"] == result[what]["images"] == 5
        close(result[what]["iou"], whole["iou"], stated(0.01, "a pixel may tip"))  # a pixel may tip
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            close(result[what][key], whole[key], bound(400, torch.float32, 5 * whole[key].abs().max()))
    assert results[0][what]["iou"] == results[1][what]["iou"]


def test_a_process_without_pictures_scores_those_of_the_others(results):
    whole = scoring(pictures(count=1))
    assert [result["few"]["images"] for result in results] == [1, 1]
    assert [result["few"]["iou"] for result in results] == [whole["iou"]] * 2
    assert all("evaluate got no pictures" in result["none"] for result in results)


def test_a_picture_that_one_process_cannot_read_ends_the_scoring_in_all(results):
    """Else this one saves, the others wait for its counts, and none of the two ends."""
    both, go_on = "ValueError: b.png is cut", ["process 0 goes on", "process 1 goes on"]
    first, second = (result["unreadable"] for result in results)
    assert first == ["OSError: Process 1 of 2 failed: b.png", both, both, *go_on]
    assert second == ["FileNotFoundError: b.png", both, "ValueError: Process 0 of 2 failed: b.png is cut", *go_on]


def test_alone_everything_is_what_it_was():
    x = torch.ones(2, 3, requires_grad=True)
    assert ranks.gather(x) is x and not ranks.total(x).requires_grad
    assert (ranks.rank(), ranks.count(), ranks.is_main()) == (0, 1, True)
    assert ranks.agree("a") == "a" and ranks.collect("a") == ["a"] and ranks.any_of(True) and not ranks.any_of(False)
    norm, whole = SyncBatchNorm(3), nn.BatchNorm2d(3)
    image = torch.randn(2, 3, 4, 4)
    assert torch.equal(norm(image), whole(image)) and torch.equal(norm.eval()(image), whole.eval()(image))


def test_synchronised_keeps_weights_and_modes():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)), nn.BatchNorm2d(4).eval())
    before = dict(network.named_parameters())
    assert synchronised(network) is network
    assert [type(m) for m in (network[1][0], network[2])] == [SyncBatchNorm] * 2
    assert all(p is before[name] for name, p in network.named_parameters())
    assert network[1][0].training and not network[2].training
