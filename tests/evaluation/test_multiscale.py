"""Multi-scale testing: against the plain sum of its definition, and the memory that must not grow."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.evaluation import SCALES, multiscale_probabilities
from course_lib.networks import Prediction, build
from tests.bounds import bound, close, roundings


class OneConvolution(nn.Module):
    """Stride 8 like DeepLab; counts its calls."""

    def __init__(self, num_classes: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 9, stride=8, padding=4)
        self.batches = []

    def forward(self, image):
        self.batches.append(tuple(image.shape))
        x = self.conv(image)
        return Prediction(x, x)


VIEW = bound(3 * 9 * 9 + 30, torch.float32, 2.0)  # a convolution, resizing, softmax, the mean of up to 6 views; logits below 2


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


@torch.no_grad()
def test_equals_the_mean_over_all_views():
    torch.manual_seed(0)
    network, image, size = OneConvolution().eval(), torch.randn(2, 3, 32, 48), (40, 56)
    scales, views = (0.5, 1.0, 1.5), []
    for scale in scales:
        x = resize(image, (int(32 * scale), int(48 * scale)))
        for mirrored in (False, True):
            p = resize(network(x.flip(3) if mirrored else x).logits, size).softmax(1)
            views.append(p.flip(3) if mirrored else p)
    result = multiscale_probabilities(network, image, size, scales)
    close(result, torch.stack(views).mean(0), VIEW)
    close(result.sum(1), torch.ones(2, *size), bound(20, torch.float32))


def test_one_scale_without_flip_is_the_plain_test():
    network, image = OneConvolution().eval(), torch.randn(1, 3, 32, 32)
    result = multiscale_probabilities(network, image, scales=(1.0,), flip=False)
    close(result, resize(network(image).logits, (32, 32)).softmax(1), VIEW)


def test_a_mirrored_image_gets_the_mirrored_answer():
    network, image = build("small", 4, seed=0, width=8).eval(), torch.randn(1, 3, 32, 64)
    straight = multiscale_probabilities(network, image, scales=(0.5, 1.0))
    mirrored = multiscale_probabilities(network, image.flip(3), scales=(0.5, 1.0))
    close(mirrored.flip(3), straight, bound(roundings(network), torch.float32))


def test_published_scales_pair_by_pair():
    network = OneConvolution().eval()
    multiscale_probabilities(network, torch.randn(1, 3, 32, 64))
    assert SCALES == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert network.batches == [(2, 3, int(32 * s), int(64 * s)) for s in SCALES]


class Alive(TorchDispatchMode):
    """The most bytes that new tensors (no views, no in-place results) held at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            size = out.nbytes
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(out, self._gone, size)
        return out

    def _gone(self, size):
        self.now -= size


def test_memory_does_not_grow_with_the_number_of_scales():
    network, image = OneConvolution().eval(), torch.randn(1, 3, 32, 32)

    def most(scales):
        with Alive() as alive:
            multiscale_probabilities(network, image, (128, 128), scales)
        return alive.most

    one_map = 4 * 128 * 128 * 4  # bytes
    few, many = most((1.0, 1.0)), most((1.0,) * 8)
    assert few > 2 * one_map  # the gauge sees the maps
    assert many - few < one_map


def test_needs_scales():
    with pytest.raises(ValueError, match="at least one, all above 0"):
        multiscale_probabilities(OneConvolution(), torch.zeros(1, 3, 8, 8), scales=())


def test_a_network_in_float64_gives_float64():
    class Double(nn.Module):
        def forward(self, image):
            logits = image.double()[:, :2]
            return Prediction(logits, logits)

    assert multiscale_probabilities(Double(), torch.rand(1, 3, 8, 8)).dtype == torch.float64
