"""Scores of a set of pictures and re-estimated normalisation statistics."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.evaluation import Confusion, evaluate, predicted_ids, reestimate_statistics, scoring
from course_lib.networks import Prediction, build
from tests.bounds import bound, close, stated

ROUNDING = bound(50, torch.float64)  # counts are exact: one division, and means over 3 classes
STATISTICS = bound(2000, torch.float32, 2.0)  # sums over 1024 places in two passes, of squares of numbers below 2


class Painter(nn.Module):
    """Its logits are the picture's channels, at a quarter of the size: the picture decides what is predicted."""

    num_classes, normalisation = 3, "imagenet"

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image):
        x = image[..., ::4, ::4]
        return Prediction(x, x)


def batches(count=3, label_size=(24, 40), seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        image = torch.randn(2, 3, 16, 32, generator=generator)
        label = torch.randint(0, 3, (2, *label_size), generator=generator)
        label[:, :3] = 255
        yield SimpleNamespace(image=image, label=label)


def test_scores_are_those_of_logits_brought_to_the_labels_size():
    expected = Confusion(3)
    for batch in batches():
        logits = F.interpolate(batch.image[..., ::4, ::4], size=(24, 40), mode="bilinear", align_corners=True)
        expected.update(logits, batch.label)
    scores = evaluate(Painter(), batches(), 3, progress=False)
    close(scores.miou, expected.miou(), ROUNDING)
    close(scores.iou, expected.iou().tolist(), ROUNDING)
    close(scores.accuracy, expected.accuracy(), ROUNDING)
    close(scores.miou_common, expected.miou(), ROUNDING)  # all three classes are common here
    close(scores.shares, expected.shares().tolist(), ROUNDING)
    assert scores.images == 6
    close(scores.subsets, {"3": scores.miou}, ROUNDING)


def test_corners_are_aligned():
    """A row of scores -1 .. +1 changes sign in the middle; without aligned corners the end values would repeat."""
    scores = torch.zeros(1, 2, 1, 3)
    scores[0, 1] = torch.tensor([-1.0, -1.0, 3.0])
    assert predicted_ids(scores, (1, 9)).flatten().tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_pictures_with_labels_of_different_sizes():
    loader = [*batches(1, (24, 40)), *batches(1, (11, 13))]
    assert evaluate(Painter(), loader, 3, progress=False).images == 4


@pytest.mark.parametrize("multiscale", [False, True])
def test_runs_in_eval_mode_and_gives_every_mode_back(multiscale):
    network = Painter().train()
    network.norm.eval()  # frozen inside a training network
    modes = []
    network.register_forward_hook(lambda module, args, out: modes.append(module.training))
    scores = evaluate(network, batches(1), 3, multiscale=multiscale, progress=False)
    assert scores.multiscale is multiscale
    assert set(modes) == {False}
    assert network.training and not network.norm.training


def test_scores_become_json_and_a_table():
    loader = [SimpleNamespace(image=torch.randn(1, 3, 16, 16), label=torch.zeros(1, 16, 16, dtype=torch.int64))]
    network = build("small", 19, seed=0, width=8)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(-torch.arange(19.0))  # says road everywhere
    scores = evaluate(network, loader, "cityscapes19", progress=False)
    plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert plain["iou"]["road"] == plain["miou"] == 1.0
    assert plain["iou"]["train"] is None
    assert plain["miou_common"] == plain["shares"]["road"] == 1.0
    assert set(plain["subsets"]) == {"19", "16", "13"}
    table = scores.table()
    assert "road            100.00" in table and "mIoU-13" in table and "1 images in" in table
    assert math.isnan(scores.iou[16])


def test_bf16_runs_and_precision_is_checked():
    network = build("small", 3, seed=0, width=8)
    assert evaluate(network, batches(1), 3, precision="bf16", progress=False).images == 2
    with pytest.raises(ValueError, match="precision is 'half'; choose 'fp32', 'bf16' or 'fp16'"):
        evaluate(network, batches(1), 3, precision="half")


def test_a_target_without_labels_cannot_be_scored():
    loader = [SimpleNamespace(image=torch.randn(1, 3, 8, 8), label=torch.full((1, 8, 8), 255))]
    with pytest.raises(ValueError, match="None of the 1 pictures.*a target without labels cannot be scored"):
        evaluate(Painter(), loader, 3, progress=False)
    with pytest.raises(ValueError, match="the loader is empty"):
        evaluate(Painter(), [], 3, progress=False)


class TestStatistics:
    @staticmethod
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))

    def test_they_are_the_plain_average_over_batches(self):
        network = self.network().eval()
        network[1].running_mean.fill_(9.0)
        means, variances = [], []
        for batch in batches(3):
            x = network[0](batch.image)
            means.append(x.mean((0, 2, 3)))
            variances.append(x.transpose(0, 1).flatten(1).var(1))
        assert reestimate_statistics(network, batches(3), progress=False) == 6
        close(network[1].running_mean, torch.stack(means).mean(0), STATISTICS)
        close(network[1].running_var, torch.stack(variances).mean(0), STATISTICS)
        assert network[1].momentum == 0.1 and not network[1].training

    def test_no_weight_moves_and_modes_return(self):
        network = self.network().train()
        network[1].eval()
        before = [p.clone() for p in network.parameters()]
        reestimate_statistics(network, batches(1), progress=False)
        assert all(torch.equal(p, q) for p, q in zip(before, network.parameters()))
        assert network.training and not network[1].training

    def test_it_undoes_a_shift_of_the_target(self):
        """Brighter, flatter pictures: after re-estimation the normalised activations are those of before."""
        network, images = self.network().eval(), torch.randn(8, 3, 16, 16)
        loaders = [[SimpleNamespace(image=x)] for x in (images, 0.5 * images + 3)]
        reestimate_statistics(network, loaders[0], progress=False)
        expected = network(images)
        reestimate_statistics(network, loaders[1], progress=False)
        relative = 1.5 * network[1].eps / (4 * network[1].running_var.min().item())
        reason = "batch norm adds the same eps to the variance and to a quarter of it"
        eps = stated(relative * expected.abs().max().item(), reason)
        close(network(0.5 * images + 3), expected, eps + bound(100, torch.float32, expected.abs().max()))

    def test_an_endless_loader_is_cut(self):
        def forever():
            while True:
                yield SimpleNamespace(image=torch.randn(2, 3, 8, 8))

        assert reestimate_statistics(self.network(), forever(), images=5, progress=False) == 6

    def test_empty_loader_leaves_the_statistics(self):
        network = self.network()
        network[1].running_mean.fill_(2.0)
        with pytest.raises(ValueError, match="the loader is empty, the statistics stay"):
            reestimate_statistics(network, [], progress=False)
        assert (network[1].running_mean == 2.0).all() and network[1].momentum == 0.1

    def test_a_network_without_batch_norm_says_so(self, capsys):
        assert reestimate_statistics(build("small", 3, width=8), batches(1), progress=False) == 0
        assert "Small has no batch normalisation" in capsys.readouterr().out


def test_scores_in_float64_are_compared_in_float64():
    """Differences that float32 does not hold, at the grid's size and after upsampling."""
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    for size in ((2, 2), (3, 5)):
        assert predicted_ids(scores, size).tolist() == [[[1] * size[1]] * size[0]]


def test_a_network_that_gives_nan_is_an_error():
    """It was scored as saying class 0 everywhere."""
    network = Painter()
    network.register_forward_hook(lambda module, args, out: Prediction(out.features, torch.full_like(out.logits, torch.nan)))
    with pytest.raises(ValueError, match="logits are NaN"):
        evaluate(network, batches(1), 3, progress=False)
    assert predicted_ids(torch.full((1, 2, 2, 2), torch.nan), (3, 3)).unique().tolist() == [-1]


@pytest.mark.parametrize("shape", [(1, 19, 3, 5), (2, 4, 7, 2), (1, 1, 2, 2)])
def test_scores_that_are_compared_class_by_class_give_the_same_ids(shape, monkeypatch):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    scores[:, -1] = scores[:, 0]  # of equal scores the first class is taken
    for layout in (torch.contiguous_format, torch.channels_last):
        wanted = predicted_ids(scores.contiguous(memory_format=layout), (40, 33))
        monkeypatch.setattr(scoring, "AT_ONCE", 0)
        monkeypatch.setattr(scoring, "upsample", one_class(scoring.upsample))
        assert torch.equal(predicted_ids(scores.contiguous(memory_format=layout), (40, 33)), wanted)
        monkeypatch.undo()


def one_class(upsample):
    """`upsample`, which must not make more than one class at once."""

    def wrapped(scores, size, align_corners):
        assert scores.shape[1] == 1
        return upsample(scores, size, align_corners)

    return wrapped
