"""DeepLabV2: published sizes, names and counts; switches; the ImageNet start against torchvision's own ResNet."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from course_lib.networks import deeplab_v2, parameter_groups
from course_lib.networks.deeplab import FORMS
from course_lib.networks.resnet_starts import IMAGENET_STD
from tests.bounds import bound, close, roundings, stated

TINY = (1, 1, 1, 1)


def tiny(form: str = "adaptsegnet", num_classes: int = 3, **switches):
    torch.manual_seed(0)
    return deeplab_v2(num_classes, form, blocks=TINY, **switches)


def on_meta(form: str, num_classes: int = 19, **switches):
    with torch.device("meta"):
        return deeplab_v2(num_classes, form, **switches)


def millions(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("form", "size", "grid"),
    [
        ("adaptsegnet", (720, 1280), (91, 161)),
        ("adaptsegnet", (512, 1024), (65, 129)),
        ("adaptsegnet", (760, 1280), (96, 161)),
        ("adaptsegnet", (1024, 2048), (129, 257)),
        ("proca", (720, 1280), (90, 160)),
        ("proca", (512, 1024), (64, 128)),
        ("proca", (760, 1280), (95, 160)),
        ("proca", (1024, 2048), (128, 256)),
        ("bida", (730, 730), (92, 92)),
        ("bida", (730, 1460), (92, 183)),
        ("bida", (600, 600), (76, 76)),
    ],
)
def test_output_sizes_are_the_published_ones(form, size, grid):
    with torch.device("meta"):
        prediction = deeplab_v2(19, form, blocks=TINY)(torch.empty(1, 3, *size))
    channels = 76 if form == "bida" else 2048
    assert prediction.logits.shape == (1, 19, *grid)
    assert prediction.features.shape == (1, channels, *grid)


def test_full_network_has_the_published_parameters_and_names():
    network = on_meta("adaptsegnet")
    state = network.state_dict()
    assert round(millions(network), 2) == 44.60
    assert len(state) == 640
    assert state["layer5.conv2d_list.0.weight"].shape == (19, 1024, 3, 3)  # auxiliary
    assert state["layer6.conv2d_list.3.weight"].shape == (19, 2048, 3, 3)  # main
    assert state["layer3.22.conv2.weight"].shape == (256, 256, 3, 3)
    for name in ("conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"):
        assert name in state
    assert {name.split(".")[0] for name in state} == {"conv1", "bn1", *(f"layer{i}" for i in range(1, 7))}


def test_single_head_is_layer5_on_the_backbones_end():
    network = on_meta("adaptsegnet_single")
    assert network.layer5.conv2d_list[0].in_channels == 2048
    assert not hasattr(network, "layer6")
    assert network(torch.empty(1, 3, 65, 65, device="meta")).aux_logits is None


def test_proca_counts():
    state = on_meta("proca").state_dict()
    backbone = [name for name in state if not name.startswith("layer5.")]
    assert (len(backbone), len(state) - len(backbone)) == (624, 8)


def test_bida_release_counts_without_its_head_that_is_never_called():
    network = on_meta("bida", domain_stem=True)
    dead = sum(parameter.numel() for parameter in network.layer5.parameters()) / 1e6  # its unused twin, 1.40 M
    assert round(millions(network) + dead, 2) == 45.53
    assert len(network.state_dict()) + 8 == 706


def test_auxiliary_head_reads_layer3():
    network = tiny().eval()
    seen = {}
    network.layer3.register_forward_hook(lambda module, args, out: seen.update(layer3=out))
    prediction = network(torch.randn(1, 3, 65, 65))
    assert torch.equal(prediction.aux_logits, network.layer5(seen["layer3"]))
    assert torch.equal(prediction.logits, network.layer6(prediction.features))


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
def test_the_stride_stands_where_the_switch_says(stride_on):
    block = tiny(stride_on=stride_on).layer2[0]
    strides = {"1x1": block.conv1.stride, "3x3": block.conv2.stride}
    assert strides.pop(stride_on) == (2, 2)
    assert set(strides.values()) == {(1, 1)}
    assert block.downsample[0].stride == (2, 2)


@pytest.mark.parametrize(("layout", "expected"), [("caffe", [(2, 2), (4, 4)]), ("torchvision", [(1, 2), (2, 4)])])
def test_dilation_of_the_first_and_the_other_blocks(layout, expected):
    with torch.device("meta"):
        network = deeplab_v2(3, "adaptsegnet", blocks=(1, 1, 3, 3), dilation=layout)
    for layer, (first, others) in zip((network.layer3, network.layer4), expected):
        assert [block.conv2.dilation[0] for block in layer] == [first, others, others]
        assert all(block.conv2.padding == block.conv2.dilation for block in layer)


def torchvision_resnet() -> ResNet:
    """A thin-bodied torchvision ResNet with statistics that are not 0 and 1."""
    torch.manual_seed(1)
    resnet = ResNet(Bottleneck, list(TINY), replace_stride_with_dilation=[False, True, True])
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return resnet.eval()


@pytest.fixture(scope="module")
def resnet():
    return torchvision_resnet()


@pytest.fixture(scope="module")
def imagenet_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save(resnet.state_dict(), path)
    return path


@torch.no_grad()
def test_proca_backbone_is_torchvisions_dilated_resnet(resnet, imagenet_file):
    image = torch.randn(1, 3, 72, 88)
    expected = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        expected = layer(expected)
    features = tiny("proca", imagenet=imagenet_file).eval()(image).features
    close(features, expected, bound(roundings(resnet), torch.float32, expected.abs().max()))


@torch.no_grad()
def test_caffe_bgr_start_sees_the_same_picture(resnet, imagenet_file):
    """The stem after bn1 of a BGR 0..255 network equals that of the RGB one, up to the two means' distance."""
    rgb = torch.rand(1, 3, 32, 32)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    expected = resnet.bn1(resnet.conv1((rgb - mean) / std))
    network = tiny("adaptsegnet", imagenet=imagenet_file).eval()
    bgr = ((rgb - mean) * 255).flip(1)  # with the same mean the two must agree exactly
    reason = "batch norm adds the same eps to a variance and to one 255^2 times as large"
    eps = stated(network.bn1.eps / 2 / resnet.bn1.running_var.min().item() * expected.abs().max().item(), reason)
    close(network.bn1(network.conv1(bgr)), expected, eps + bound(3 * 49 + 10, torch.float32, expected.abs().max()))
    ratio = network.conv1.weight.norm() / resnet.conv1.weight.norm()
    assert 0.9 < ratio < 1.1  # the scale went into bn1: the weights keep their size and so their learning rate


def test_imagenet_start_reaches_both_stems(imagenet_file):
    network = tiny("bida", imagenet=imagenet_file, domain_stem=True)
    assert torch.equal(network.conv1.weight, network.target_conv1.weight)
    assert torch.equal(network.layer1[0].conv3.weight, network.target_layer1[0].conv3.weight)


def test_the_coco_start_of_adaptsegnet_is_a_start_too(resnet, tmp_path):
    """Names behind "Scale.", images as caffe_bgr, a head of other classes, no ImageNet classes."""
    backbone = {name: value for name, value in resnet.state_dict().items() if not name.startswith("fc.")}
    head = {"layer5.conv2d_list.0.weight": torch.zeros(21, 2048, 3, 3), "layer5.conv2d_list.0.bias": torch.zeros(21)}
    torch.save({f"Scale.{name}": value for name, value in (backbone | head).items()}, tmp_path / "coco.pth")
    network = tiny("adaptsegnet", imagenet=tmp_path / "coco.pth")
    assert torch.equal(network.conv1.weight, resnet.conv1.weight)  # as it is: it knows these images
    assert torch.equal(network.layer4[0].conv3.weight, resnet.layer4[0].conv3.weight)
    with pytest.raises(ValueError, match="trained on 'caffe_bgr' images.* Give it normalisation='caffe_bgr'"):
        tiny("proca", imagenet=tmp_path / "coco.pth")


@pytest.mark.parametrize("head", [{"layer5.conv2d_list.0.weight": torch.zeros(21, 2048, 3, 3)}, {}])
def test_the_coco_start_of_classmix_is_a_start_too(resnet, tmp_path, head):
    """resnet101COCO-41f33a49.pth: names without a prefix, images as caffe_bgr, no ImageNet classes, no counters of batches."""
    left_out = ("fc.", "num_batches_tracked")
    backbone = {k: v for k, v in resnet.state_dict().items() if not any(part in k for part in left_out)}
    torch.save(backbone | head, tmp_path / "coco.pth")
    network = tiny("adaptsegnet_single", imagenet=tmp_path / "coco.pth")
    assert torch.equal(network.conv1.weight, resnet.conv1.weight), "the stem is not rewritten"
    assert torch.equal(network.bn1.running_var, resnet.bn1.running_var)


@pytest.mark.parametrize("without", ["fc.", "num_batches_tracked"])
def test_torchvisions_file_without_its_head_or_of_an_old_torch_is_imagenets(resnet, tmp_path, without):
    torch.save({k: v for k, v in resnet.state_dict().items() if without not in k}, tmp_path / "imagenet.pth")
    network = tiny("adaptsegnet_single", imagenet=tmp_path / "imagenet.pth")
    assert not torch.equal(network.conv1.weight, resnet.conv1.weight), "rewritten for caffe_bgr images"


def test_another_kind_of_file_is_no_start(tmp_path):
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match="does not fit this ResNet: .*AdaptSegNet's start"):
        tiny("proca", imagenet=tmp_path / "vgg.pth")


def test_imagenet_file_errors_say_what_to_give(imagenet_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="Give torchvision's resnet101 file"):
        tiny(imagenet=tmp_path / "none.pth")
    with pytest.raises(ValueError, match="does not fit this ResNet: .* tensors missing"):
        with torch.device("cpu"):
            deeplab_v2(3, "proca", blocks=(2, 1, 1, 1), imagenet=imagenet_file)


@pytest.mark.parametrize("summed", [2, 4])
def test_only_summed_branches_learn(summed):
    network = tiny(aspp_branches=summed)
    prediction = network(torch.randn(2, 3, 33, 33))
    (prediction.logits.square().mean() + prediction.aux_logits.square().mean()).backward()
    for head in (network.layer5, network.layer6):
        learns = [conv.weight.grad is not None and bool(conv.weight.grad.any()) for conv in head.conv2d_list]
        assert learns == [True, True, summed == 4, summed == 4]


def test_main_loss_leaves_the_auxiliary_head_and_reaches_the_stem():
    network = tiny()
    network(torch.randn(2, 3, 33, 33)).logits.square().mean().backward()
    assert network.conv1.weight.grad.any()
    assert all(parameter.grad is None for parameter in network.layer5.parameters())


def test_branch_features_sum_to_the_logits():
    network = tiny("bida")
    prediction = network(torch.randn(2, 3, 33, 33))
    assert network.feature_dim == 12 == prediction.features.shape[1]
    branches = prediction.features.unflatten(1, (4, 3))
    close(branches.sum(1), prediction.logits, bound(40, torch.float32, branches.abs().max()))


def norms(network):
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    ("policy", "affine_learns", "statistics_move"),
    [("train", True, True), ("affine-frozen", False, True), ("frozen", False, False), ("sync", True, True)],
)
def test_batch_norm_policies(policy, affine_learns, statistics_move):
    network = tiny(bn=policy).eval().train()  # "frozen" must survive the call of train()
    before = network.bn1.running_mean.clone()
    network(torch.randn(2, 3, 33, 33))
    assert {p.requires_grad for norm in norms(network) for p in norm.parameters()} == {affine_learns}
    assert torch.equal(before, network.bn1.running_mean) is not statistics_move
    assert isinstance(network.bn1, nn.SyncBatchNorm) is (policy == "sync")


def test_domain_stem_separates_source_and_target():
    network = tiny("bida", domain_stem=True).eval()
    image = torch.randn(1, 3, 33, 33)
    source, target = network(image, domain="source").logits, network(image).logits
    assert not torch.equal(source, target)
    shared = tiny("bida").eval()
    assert torch.equal(shared(image, domain="source").logits, shared(image).logits)
    with pytest.raises(ValueError, match="'source' or 'target'"):
        network(image, domain="Source")


def test_published_duplicates_are_the_314_entries():
    network = on_meta("adaptsegnet_single")
    groups = parameter_groups(network, lr=2.5e-4, published_duplicates=True)
    rate = {group["name"]: group["lr"] for group in groups}
    count = {group["name"]: len(group["params"]) for group in groups}
    assert count == {"backbone": 1, "backbone x3": 99, "backbone x4": 4, "head": 8}
    assert count["backbone"] + 3 * count["backbone x3"] + 4 * count["backbone x4"] == 314
    close(rate, {"backbone": 2.5e-4, "backbone x3": 7.5e-4, "backbone x4": 1e-3, "head": 2.5e-3}, bound(3, torch.float64))


def test_backbone_and_heads_are_everything_once():
    network = tiny()
    parts = [*network.backbone_parameters(), *network.head_parameters()]
    assert len(parts) == len({id(p) for p in parts}) == len(list(network.parameters()))
    assert len(list(network.head_parameters())) == 16


def test_forms_carry_their_normalisation():
    assert {name: form.normalisation for name, form in FORMS.items()} == {
        "adaptsegnet": "caffe_bgr",
        "adaptsegnet_single": "caffe_bgr",
        "proca": "imagenet",
        "bida": "caffe_bgr",
        "sepico": "imagenet",
    }


def test_errors_of_the_builder():
    with pytest.raises(ValueError, match="no form 'deeplab'; it wants one of 'adaptsegnet'"):
        deeplab_v2(19, "deeplab")
    with pytest.raises(ValueError, match="no switch 'ceil'; the switches are align_corners, aspp_branches, bn"):
        deeplab_v2(19, ceil=True)
    with pytest.raises(ValueError, match="aspp_branches is 3; it wants one of 2, 4"):
        deeplab_v2(19, aspp_branches=3)
    with pytest.raises(ValueError, match="stem is '5x5'; it wants one of '7x7', '3x3'"):
        deeplab_v2(19, stem="5x5")


# ---- SePiCo's form: a stem of three convolutions


def test_sepico_counts_and_sizes():
    network = on_meta("sepico")
    state = network.state_dict()
    assert (len(state), round(millions(network), 2)) == (644, 43.92)
    assert [tuple(network.stem[i].weight.shape) for i in (0, 3, 6)] == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    assert not [name for name in state if name.startswith(("conv1.", "bn1.", "layer6."))]
    assert network(torch.empty(1, 3, 640, 1280, device="meta")).logits.shape == (1, 19, 80, 160)


def test_align_corners_is_the_predictions():
    image = torch.randn(1, 3, 33, 33)
    for form, corners in (("adaptsegnet", True), ("bida", True), ("proca", True), ("sepico", False)):
        assert tiny(form).eval()(image).align_corners is corners
        assert tiny(form, align_corners=not corners).eval()(image).align_corners is not corners


@torch.no_grad()
def test_the_stem_of_three_convolutions_is_their_chain():
    network, x = tiny("sepico").eval(), torch.randn(2, 3, 35, 50)
    wanted = x
    for i, stride in ((0, 2), (3, 1), (6, 1)):
        wanted = nn.functional.conv2d(wanted, network.stem[i].weight, stride=stride, padding=1)
        wanted = network.stem[i + 1](wanted).relu()
    found = network.stem(x)
    assert found.shape == (2, 64, 18, 25) and torch.equal(found, wanted)


def test_two_deep_stems_learn_apart_and_every_weight_learns():
    network = tiny("sepico", domain_stem=True)
    assert not torch.equal(network.stem[0].weight, network.target_stem[0].weight)
    image = torch.randn(2, 3, 33, 33)
    (network(image, domain="source").logits + network(image).logits).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters() if p.ndim == 4)
    parts = [*network.backbone_parameters(), *network.head_parameters()]
    assert len(parts) == len({id(p) for p in parts}) == len(list(network.parameters()))


@pytest.fixture
def v1c_file(resnet, tmp_path):
    """As mmsegmentation's start: stem.*, torchvision's layers, fc, in one entry."""
    stem = {f"stem.{name}": value for name, value in tiny("sepico").stem.state_dict().items()}
    rest = {name: value for name, value in resnet.state_dict().items() if not name.startswith(("conv1.", "bn1."))}
    torch.save({"state_dict": stem | rest, "meta": {}}, tmp_path / "v1c.pth")
    return tmp_path / "v1c.pth"


def test_the_start_of_a_deep_stem_is_mmsegmentations_file(v1c_file, imagenet_file, resnet):
    torch.manual_seed(5)
    network = deeplab_v2(3, "sepico", blocks=TINY, imagenet=v1c_file)
    assert torch.equal(network.layer4[0].conv3.weight, resnet.layer4[0].conv3.weight)
    assert torch.equal(network.stem[6].weight, tiny("sepico").stem[6].weight)
    with pytest.raises(ValueError, match="torchvision has no ImageNet weights for a stem of three convolutions"):
        tiny("sepico", imagenet=True)
    with pytest.raises(ValueError, match="does not fit this ResNet: .* Give mmsegmentation's resnet101_v1c file"):
        tiny("sepico", imagenet=imagenet_file)
    with pytest.raises(ValueError, match="does not fit this ResNet: .* Give torchvision's resnet101 file"):
        tiny("proca", imagenet=v1c_file)


@torch.no_grad()
def test_a_deep_stem_of_bgr_images_sees_the_same_picture(v1c_file):
    """As the 7x7: its first convolution and normalisation are rewritten, in both stems."""
    rgb = torch.rand(1, 3, 32, 32)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    own = tiny("sepico", imagenet=v1c_file).eval()
    network = tiny("sepico", imagenet=v1c_file, normalisation="caffe_bgr", domain_stem=True).eval()
    expected = own.stem[:2]((rgb - mean) / std)
    reason = "batch norm adds the same eps to a variance and to one 255^2 times as large"
    eps = stated(own.stem[1].eps / 2 / own.stem[1].running_var.min().item() * expected.abs().max().item(), reason)
    for stem in (network.stem, network.target_stem):
        close(stem[:2](((rgb - mean) * 255).flip(1)), expected, eps + bound(3 * 9 + 10, torch.float32, expected.abs().max()))
