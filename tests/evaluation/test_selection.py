"""Choosing a checkpoint by what its predictions tell, against a sum written from the equation."""

import math

import pytest
import torch
from torch import nn

from course_lib.data import Batch
from course_lib.evaluation import information
from course_lib.networks import Prediction
from tests.bounds import bound, close


def rounding(dtype):
    """Softmax over 3 classes and its logarithm in `dtype`; their sums over pixels are float64."""
    return bound(10, dtype, 2 * math.log(3))


class Fixed(nn.Module):
    """A network whose class scores are the picture's channels."""

    num_classes = 3

    def forward(self, image):
        return Prediction(image, image)


def batch(logits: torch.Tensor) -> Batch:
    return Batch(logits, torch.full((len(logits), *logits.shape[2:]), 255), ["a"] * len(logits))


def test_it_is_the_mutual_information_of_pixel_and_class():
    logits = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    pixels = torch.softmax(logits.double(), 1).permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    mean = [sum(p[c] for p in pixels) / len(pixels) for c in range(3)]
    joint = sum(p[c] * math.log(p[c] / mean[c]) for p in pixels for c in range(3)) / len(pixels)
    value = information(Fixed(), [batch(logits[:2]), batch(logits[2:])])
    close(value, joint, rounding(torch.float32))


def test_sure_and_varied_beats_sure_and_alike_and_unsure():
    wide = torch.zeros(1, 3, 2, 3)
    varied, alike = wide.clone(), wide.clone()
    for pixel in range(6):
        varied[0, pixel % 3, pixel // 3, pixel % 3] = 100
    alike[:, 0] = 100
    close(information(Fixed(), [batch(varied)]), math.log(3), rounding(torch.float64))
    close(information(Fixed(), [batch(alike)]), 0, rounding(torch.float64))  # entropy alone would be content with this
    close(information(Fixed(), [batch(wide)]), 0, rounding(torch.float64))


def test_nothing_to_look_at_is_an_error():
    with pytest.raises(ValueError, match="no pictures"):
        information(Fixed(), [])
