"""The projection head: its published shape, and what a row may depend on."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from course_lib.networks import Projector
from tests.bounds import bound, near, roundings


def kinds(head: Projector) -> list[type]:
    return [nn.BatchNorm1d if isinstance(layer, _BatchNorm) else type(layer) for layer in head.layers]


def test_the_published_head():
    head = Projector(2048, 2048, 128)
    assert kinds(head) == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]  # normalised output, no relu
    assert [tuple(layer.weight.shape) for layer in head.layers if isinstance(layer, nn.Linear)] == [(2048, 2048), (128, 2048)]
    assert all(layer.bias is None for layer in head.layers if isinstance(layer, nn.Linear))


def test_three_layers_are_simclr_v2s():
    assert kinds(Projector(8, layers=3)) == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear, nn.BatchNorm1d]
    assert kinds(Projector(8, layers=1)) == [nn.Linear, nn.BatchNorm1d]


def test_without_normalisation_the_linear_layers_have_a_bias():
    head = Projector(8, out=16, norm="none")
    assert kinds(head) == [nn.Linear, nn.ReLU, nn.Linear] and all(layer.bias is not None for layer in head.layers[::2])


def test_no_layers_are_no_head():
    h, head = torch.randn(5, 8), Projector(8, layers=0)
    assert torch.equal(head(h), h) and head.out == 8


@pytest.mark.parametrize("norm, alone", [("batch", False), ("layer", True), ("none", True)])
def test_only_batch_normalisation_lets_rows_see_each_other(norm, alone):
    torch.manual_seed(0)
    head, h = Projector(16, out=8, norm=norm), torch.randn(6, 16)
    assert near(head(h)[:3], head(h[:3]), bound(roundings(head), torch.float32, head(h).abs().max())) == alone


def test_every_layer_learns():
    head = Projector(16, 24, 8, layers=3)
    head(torch.randn(6, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters() if p.ndim > 1)


@pytest.mark.parametrize("wrong, word", [
    ({"norm": "group"}, "norm='group'.*'batch'"),
    ({"layers": -1}, "layers=-1"),
])  # fmt: skip
def test_impossible_heads_are_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        Projector(8, **wrong)


def test_a_feature_map_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="pool the grid"):
        Projector(8)(torch.zeros(2, 8, 4, 4))
