"""Probe and neighbours: right on features that are easy, from the equation, frozen, and honest about the last epoch."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.from_scratch import SupervisedSettings, accuracy, train_from_scratch
from course_lib.evaluation import ClassPictures, ProbeSettings, probe, read_classes
from course_lib.evaluation.probe import knn, linear_probe, pooled_features
from course_lib.networks import Prediction, build
from tests.bounds import bound, close, near, roundings, stated


class Colours(nn.Module):
    """Features are the picture itself on a coarse grid: pooled, the mean colour."""

    num_classes, feature_dim, normalisation = 2, 3, "unit"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        features = self.scale * nn.functional.avg_pool2d(image, 4)
        return Prediction(features, features[:, :2])


def coloured(count: int, seed: int = 0) -> ClassPictures:
    """Red, green and blue pictures with noise."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(3 * count) % 3
    image = torch.randint(0, 150, (3 * count, 3, 16, 16), generator=generator)
    image[torch.arange(3 * count), label] += 60
    return ClassPictures(image.to(torch.uint8), label, ("red", "green", "blue"))


def blobs(count: int, seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 4
    return scale * (3 * torch.eye(4)[y] + torch.randn(count, 4, generator=generator)), y


# ---- the two classifiers


def test_the_probe_reaches_the_optimum_of_logistic_regression():
    h, y = blobs(200)
    settings = ProbeSettings(epochs=400, lr=1.0, weight_decay=0.01)
    layer = linear_probe(h, y, 4, settings)
    mean, scale = h.mean(0), h.std(0)
    weight = (layer.weight * scale).requires_grad_()  # of the standardised features, where the decay acts
    bias = (layer.bias + layer.weight @ mean).requires_grad_()
    loss = nn.functional.cross_entropy((h - mean) / scale @ weight.T + bias, y)
    (loss + 0.005 * (weight.square().sum() + bias.square().sum())).backward()
    minimum = stated(1e-4, "the optimiser ends this near to the minimum")
    assert near(weight.grad, torch.zeros_like(weight), minimum) and near(bias.grad, torch.zeros_like(bias), minimum)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_size_of_features_does_not_matter(scale):
    (h, y), (q, wanted) = blobs(200), blobs(400, seed=1)
    h, q = scale * h, scale * q
    layer = linear_probe(h, y, 4, ProbeSettings(epochs=200))
    assert (layer(q).argmax(1) == wanted).float().mean() > 0.9
    assert (knn(h, y, q, 4, k=20) == wanted).float().mean() > 0.85


def test_without_standardisation_plain_features_are_fitted():
    h, y = blobs(200)
    layer = linear_probe(h, y, 4, ProbeSettings(epochs=200, standardise=False))
    assert (layer(h).argmax(1) == y).float().mean() > 0.9


@pytest.mark.parametrize("standardise", [True, False])
def test_one_labelled_picture_gives_a_classifier_of_numbers(standardise):
    """Its deviation is 0 / 0. It is its own mean, so only the bias learns: everything is of its class."""
    layer = linear_probe(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]), 4, ProbeSettings(standardise=standardise))
    assert layer.weight.isfinite().all() and layer.bias.isfinite().all()
    assert layer(torch.tensor([[1.0, 2.0, 3.0]])).argmax().item() == 2
    assert not (standardise and layer.weight.any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_other_formats(dtype):
    (h, y), (q, _) = blobs(40), blobs(20, seed=1)
    h, q = h.to(dtype), q.to(dtype)
    wanted = torch.promote_types(dtype, torch.float32)
    layer = linear_probe(h, y.byte(), 4, ProbeSettings(epochs=5))
    same = linear_probe(h.to(wanted), y, 4, ProbeSettings(epochs=5))
    assert layer.weight.dtype == wanted and torch.equal(layer.weight, same.weight)
    assert torch.equal(knn(h, y.byte(), q, 4, k=5), knn(h.to(wanted), y, q.to(wanted), 4, k=5))


@pytest.mark.parametrize("T", [1e-3, 0.01, 0.1])
def test_votes_that_underflow_are_still_votes(T):
    """Both neighbours point away from the query: exp(s / T) of both is 0, and class 0, without a picture, won."""
    assert knn(torch.eye(2), torch.tensor([1, 2]), torch.tensor([[-1.0, -0.9]]), 3, k=2, temperature=T).item() == 2
    assert knn(torch.eye(2), torch.tensor([1, 2]), torch.tensor([[-0.9, -1.0]]), 3, k=2, temperature=T).item() == 1
    assert knn(torch.eye(2), torch.tensor([1, 2]), torch.tensor([[0.0, 0.0]]), 3, k=2, temperature=T).item() in (1, 2)


def test_no_query_has_no_class():
    assert knn(torch.eye(2), torch.tensor([0, 1]), torch.zeros(0, 2), 2).shape == (0,)


def test_neighbours_vote_as_the_equation_says():
    rng = np.random.default_rng(0)
    h, q, y, k, T = rng.normal(size=(30, 5)), rng.normal(size=(12, 5)), rng.integers(0, 4, 30), 7, 0.2
    wanted = []
    for query in q:
        s = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in h]
        votes = [0.0] * 4
        for i in sorted(range(30), key=lambda i: -s[i])[:k]:
            votes[y[i]] += math.exp(s[i] / T)
        wanted.append(int(np.argmax(votes)))
    h, q, y = (torch.from_numpy(x) for x in (h, q, y))
    assert knn(h, y, q, 4, k, T).tolist() == wanted
    assert knn(h, y, q, 4, 500, T).tolist() == knn(h, y, q, 4, 30, T).tolist()  # no more than there are


# ---- the whole


def test_probe_scores_a_network_and_leaves_it_as_it_was():
    network = Colours()
    network.train()
    scores = probe(network, coloured(20), coloured(30, seed=1), ProbeSettings(epochs=100, neighbours=10))
    assert scores.linear > 0.95 and scores.knn > 0.95 and (scores.labelled, scores.tested) == (60, 90)
    assert network.training and network.scale.grad is None and network.scale == 1
    close(np.mean(list(scores.per_class.values())), scores.linear, bound(20, torch.float32))
    assert "linear probe" in scores.table() and "last epoch" in scores.table()
    assert scores.to_dict()["settings"]["epochs"] == 100


def test_the_score_is_the_last_epochs_and_test_labels_change_nothing_in_the_classifier():
    """With labels that the features cannot tell, any peeking at the test set would beat chance."""
    train, test = coloured(20), coloured(40, seed=1)
    layer = linear_probe(pooled_features(Colours(), train.image), train.label, 3, ProbeSettings(epochs=30))
    right = layer(pooled_features(Colours(), test.image)).argmax(1) == test.label
    close(probe(Colours(), train, test, ProbeSettings(epochs=30)).linear, right.float().mean().item(), bound(5, torch.float32))


def test_features_are_taken_in_eval_mode_in_any_batch_size():
    network = build("small", 5, seed=0, width=8, norm="batch")
    images = coloured(4).image
    h = pooled_features(network, images)
    assert h.shape == (12, 8)
    close(h, pooled_features(network, images, batch_size=5), bound(roundings(network), torch.float32, h.abs().max()))


def test_from_scratch_learns_from_the_labels():
    network = build("small", 5, seed=0, width=8, norm="batch")
    settings = SupervisedSettings(steps=60, batch_size=32, lr=1e-2)
    torch.manual_seed(0)
    classifier = train_from_scratch(network, coloured(20), settings)
    assert accuracy(network, classifier, coloured(20, seed=1)) > 0.8


# ---- class folders


def write(folder, name, size=(16, 16), colour=(255, 0, 0)):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)


def test_class_folders_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path, "tree/0.png", colour=(0, 255, 0))
    write(tmp_path, "car/b.png")
    write(tmp_path, "car/a.png", colour=(9, 0, 0))
    (tmp_path / "empty").mkdir()
    pictures = read_classes(tmp_path)
    assert pictures.classes == ("car", "tree") and pictures.label.tolist() == [0, 0, 1]
    assert pictures.image[:, 0, 0, 0].tolist() == [9, 255, 0]


def test_wrong_class_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder.*one folder per class"):
        read_classes(tmp_path / "nowhere")
    write(tmp_path, "car/0.png")
    with pytest.raises(ValueError, match="class folders car; wanted at least two"):
        read_classes(tmp_path)
    write(tmp_path, "tree/0.png", size=(20, 16))
    with pytest.raises(ValueError, match="20x16.*16x16.*Give a size"):
        read_classes(tmp_path)
    assert read_classes(tmp_path, size=8).image.shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="car, tree; wanted car, dog"):
        read_classes(tmp_path, size=8, classes=("car", "dog"))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="same F"):
        linear_probe(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="not finite"):
        knn(torch.full((3, 2), float("nan")), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 2), 2)
    with pytest.raises(ValueError, match="wanted the same"):
        probe(Colours(), coloured(2), coloured(2)._replace(classes=("a", "b", "c")))


@pytest.mark.parametrize("change, words", [
    ({"k": 0}, "k is 0.*1 or more"),
    ({"k": -3}, "k is -3.*1 or more"),
    ({"h": torch.zeros(0, 2), "y": torch.zeros(0).long()}, r"features \(0, 2\); wanted at least one labelled picture"),
    ({"h": torch.zeros(2, 0)}, r"features \(2, 0\); wanted at least one"),
    ({"queries": torch.tensor([[float("nan"), 1.0]])}, "Some queries are not finite"),
    ({"queries": torch.zeros(1, 3)}, r"queries \(1, 3\); wanted \(Q, 2\)"),
    ({"queries": torch.zeros(2)}, r"queries \(2,\); wanted \(Q, 2\)"),
    ({"temperature": 0.0}, "temperature is 0.0.*above 0"),
    ({"y": torch.tensor([0, 2])}, r"Got label 2, wanted train ids 0 to 1\. Map"),
    ({"y": torch.tensor([0, -1])}, r"Got label -1, wanted train ids 0 to 1\. Map"),
])  # fmt: skip
def test_what_neighbours_cannot_work_with_is_named(change, words):
    given = {"h": torch.eye(2), "y": torch.tensor([0, 1]), "queries": torch.eye(2), "classes": 2, "k": 1} | change
    with pytest.raises(ValueError, match=words):
        knn(**given)
    if set(change) <= {"h", "y"}:
        with pytest.raises(ValueError, match=words):
            linear_probe(given["h"], given["y"], 2)
