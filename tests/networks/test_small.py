"""The CPU network and what all networks share: shapes, errors, groups, learning."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.networks import Discriminator, build, deeplab_v2, parameter_groups, small
from tests.bounds import bound, close, far, roundings


def test_about_a_million_weights_and_64_features_at_stride_4():
    network = small(19)
    prediction = network(torch.randn(2, 3, 64, 96))
    assert 0.8e6 < sum(p.numel() for p in network.parameters()) < 1.3e6
    assert network.feature_dim == 64
    assert prediction.features.shape == (2, 64, 16, 24)
    assert prediction.logits.shape == (2, 19, 16, 24)
    assert prediction.aux_logits is None


def test_auxiliary_logits_at_stride_8():
    assert small(5, aux=True)(torch.randn(1, 3, 64, 96)).aux_logits.shape == (1, 5, 8, 12)


@pytest.mark.parametrize("size", [(61, 97), (16, 16), (33, 64)])
def test_odd_sizes_pass(size):
    prediction = small(4)(torch.randn(1, 3, *size))
    assert prediction.logits.shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))


def test_channels_last_gives_the_same_numbers():
    network, image = small(4).eval(), torch.randn(1, 3, 32, 64)
    plain = network(image).logits
    network.to(memory_format=torch.channels_last)
    rounding = bound(roundings(network), torch.float32, plain.abs().max())
    close(network(image.to(memory_format=torch.channels_last)).logits, plain, rounding)


def test_training_and_testing_agree_without_batch_statistics():
    image = torch.randn(2, 3, 32, 32)
    group, batch = small(4), small(4, norm="batch")
    assert torch.equal(group.train()(image).logits, group.eval()(image).logits)
    assert far(batch.train()(image).logits, batch.eval()(image).logits, 1e-3)


def test_it_learns_one_batch():
    """A few steps on one picture bring the loss well below that of a network that knows nothing (ln 4)."""
    network = build("small", 4, seed=0, width=32)
    optimiser = torch.optim.AdamW(parameter_groups(network, 3e-3, head_factor=1.0))
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, 8, 8), generator=generator).repeat_interleave(2, 1).repeat_interleave(2, 2)
    image = F.one_hot(label.repeat_interleave(4, 1).repeat_interleave(4, 2), 4).permute(0, 3, 1, 2)[:, :3].float()
    for _ in range(25):
        loss = F.cross_entropy(network(image).logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3


def test_every_weight_gets_a_gradient():
    network = small(4, aux=True)
    prediction = network(torch.randn(2, 3, 32, 32))
    (prediction.logits.square().mean() + prediction.aux_logits.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_groups_name_rates_and_skip_frozen_weights():
    network = small(4, aux=True)
    network.stem.requires_grad_(False)
    backbone, head = parameter_groups(network, lr=0.01, head_factor=5, backbone_factor=0.5, weight_decay=0.1)
    assert (backbone["name"], backbone["lr"], backbone["weight_decay"]) == ("backbone", 0.005, 0.1)
    assert (head["name"], head["lr"], len(head["params"])) == ("head", 0.05, 4)
    total = sum(1 for p in network.parameters() if p.requires_grad)
    assert len(backbone["params"]) + len(head["params"]) == total < len(list(network.parameters()))
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="no weight to train"):
        parameter_groups(network, lr=0.01)
    with pytest.raises(ValueError, match="it wants lr > 0"):
        parameter_groups(small(4), lr=0)


def test_normalisation_layers_may_keep_their_scale_and_shift():
    for network in (small(4), small(4, norm="batch")):
        groups = {g["name"]: g for g in parameter_groups(network, 0.01, weight_decay=0.1, norm_decay=False)}
        norms = {id(p) for m in network.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d) for p in m.parameters()}
        assert norms and {id(p) for p in network.parameters()} - norms
        for name, group in groups.items():
            still = name.endswith(", normalisation")
            assert group["weight_decay"] == (0.0 if still else 0.1) and group["lr"] == (0.1 if "head" in name else 0.01)
            assert {id(p) in norms for p in group["params"]} == {still}
        assert sum(len(g["params"]) for g in groups.values()) == len(list(network.parameters()))
        assert not any("normalisation" in g["name"] for g in parameter_groups(network, 0.01, weight_decay=0.1))


def test_seed_decides_the_weights_and_disturbs_nothing():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build("small", 3, seed=s, width=8) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("network", [small(3, width=8), deeplab_v2(3, blocks=(1, 1, 1, 1))], ids=["small", "deeplab"])
@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (torch.zeros(3, 32, 32), ValueError, r"wants \(N, 3, H, W\). Add the batch axis: image\[None\]"),
        (torch.zeros(1, 32, 32, 3), ValueError, r"channels stand last: image.permute\(0, 3, 1, 2\)"),
        (torch.zeros(1, 4, 32, 32), ValueError, "Drop the alpha channel"),
        (torch.zeros(1, 1, 32, 32), ValueError, "Repeat the grey channel"),
        (torch.zeros(2, 7, 32, 32), ValueError, r"of shape \(2, 7, 32, 32\)"),
        (torch.zeros(1, 3, 8, 32), ValueError, "image of 8x32; it wants at least 16x16.*larger pictures or crops"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "got uint8 pixels.*Normalise first"),
    ],
)
def test_wrong_images_are_refused_with_advice(network, image, error, words):
    with pytest.raises(error, match=words):
        network(image)


def test_builder_errors():
    with pytest.raises(ValueError, match="no network 'smal'.*Did you mean small"):
        build("smal", 19)
    with pytest.raises(ValueError, match="Network 'small': .*unexpected keyword argument 'depth'"):
        build("small", 19, depth=3)
    with pytest.raises(ValueError, match="norm='layer'; it wants 'group', 'batch' or 'sync'"):
        small(19, norm="layer")
    with pytest.raises(ValueError, match="num_classes=0"):
        small(0)


class TestDiscriminator:
    def test_published_size_and_output(self):
        with torch.device("meta"):
            discriminator = Discriminator(19)
            assert discriminator(torch.empty(1, 19, 720, 1280)).shape == (1, 1, 22, 40)
            assert discriminator(torch.empty(1, 19, 512, 1024)).shape == (1, 1, 16, 32)
        assert sum(p.numel() for p in discriminator.parameters()) == 2_781_121  # "2.78 M"
        names = [name for name, _ in discriminator.named_children()]
        assert names == ["conv1", "conv2", "conv3", "conv4", "classifier"]
        assert [m.out_channels for m in discriminator.children()] == [64, 128, 256, 512, 1]

    def test_it_is_leaky_convolutions_and_nothing_else(self):
        discriminator = Discriminator(3, width=4, depth=3)
        x = torch.randn(1, 3, 16, 24).softmax(1)
        expected = x
        for i, layer in enumerate(discriminator.children()):
            expected = F.conv2d(expected, layer.weight, layer.bias, stride=2, padding=1)
            expected = torch.where(expected > 0, expected, 0.2 * expected) if i < 2 else expected
        close(discriminator(x), expected, bound(roundings(discriminator), torch.float32))
        assert expected.shape == (1, 1, 2, 3)

    def test_gradient_reaches_its_input(self):
        x = torch.rand(1, 3, 16, 16, requires_grad=True)
        Discriminator(3, width=4, depth=3)(x).sum().backward()
        assert x.grad.any()

    def test_errors(self):
        discriminator = Discriminator(19)
        with pytest.raises(ValueError, match="map of 16x64; it wants at least 32x32. Upsample the map"):
            discriminator(torch.zeros(1, 19, 16, 64))
        with pytest.raises(ValueError, match=r"shape \(1, 3, 64, 64\); it wants \(N, 19, H, W\)"):
            discriminator(torch.zeros(1, 3, 64, 64))
        with pytest.raises(ValueError, match="depth=1"):
            Discriminator(19, depth=1)
