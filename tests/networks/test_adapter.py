"""Networks from outside: what they may return, how their features are found, sizes that do not divide, timm and torchvision."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.networks import NAMES, Adapter, Prediction, adapted, blank_options, build, parameter_groups
from course_lib.networks.adapter import pad, unpad
from tests.bounds import bound, close


class Net(nn.Module):
    """A small network whose last step is given."""

    def __init__(self, last, num_classes: int = 5, **attributes) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Conv2d(8, num_classes, 1)
        self.aux = nn.Conv2d(8, num_classes, 1)
        self.last = last
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        features = self.body(x)
        return self.last(self, x, features, self.head(features))


def full(mode, **more):
    return lambda net, x, f, y: F.interpolate(y, size=x.shape[2:], mode=mode, **more)


CLEAR = {
    "logits": lambda net, x, f, y: y,
    "bilinear": full("bilinear", align_corners=False),
    "bilinear, corners": full("bilinear", align_corners=True),
    "nearest": full("nearest"),
    "dictionary": lambda net, x, f, y: {"out": full("bilinear")(net, x, f, y), "aux": full("bilinear")(net, x, f, net.aux(f))},
    "object": lambda net, x, f, y: type("Output", (), {"logits": y}),
    "prediction": lambda net, x, f, y: Prediction(f, y, net.aux(f)),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_what_is_returned_becomes_a_prediction(kind):
    """Features and logits are those of the classifier, on its grid, whatever was made of them."""
    torch.manual_seed(0)
    inside = Net(CLEAR[kind])
    network = adapted(lambda num_classes: inside, "net", 5)
    assert isinstance(network, Adapter) and network.feature_dim == 8 and network.num_classes == 5
    x = torch.randn(2, 3, 40, 64)
    network.eval()
    found, f = network(x), inside.body(x)
    assert torch.equal(found.features, f) and torch.equal(found.logits, inside.head(f))
    with_aux = kind in ("dictionary", "prediction")
    assert (found.aux_logits is not None) == with_aux and (not with_aux or torch.equal(found.aux_logits, inside.aux(f)))
    if kind != "prediction":  # there the network alone knows its head
        heads = {id(p) for p in network.head_parameters()}
        assert heads == {id(p) for layer in [inside.head, *([inside.aux] if with_aux else [])] for p in layer.parameters()}
    assert len(list(network.parameters())) == sum(len(group["params"]) for group in parameter_groups(network, 1e-3))


@pytest.mark.filterwarnings("ignore:net wants sizes")
@pytest.mark.parametrize("divisor", [1, 28])
def test_a_network_that_predicts_depth_is_known_as_one(divisor):
    """By what it returned: methods that learn depth refuse others."""
    last = lambda net, x, f, y: Prediction(f, y, disparity=f.sigmoid().mean(1), aux_disparity=y.sigmoid().mean(1))  # noqa: E731
    network = adapted(lambda num_classes: Net(last, divisor=divisor), "net", 5).eval()
    assert network.gives_disparity and not adapted(lambda num_classes: Net(CLEAR["prediction"]), "net", 5).gives_disparity
    found = network(torch.randn(2, 3, 40, 64))
    assert found.disparity.shape == found.aux_disparity.shape == (2, *found.logits.shape[2:])


def test_trying_a_network_changes_nothing():
    """No statistics, no random number, no mode."""
    inside = Net(CLEAR["logits"]).train()
    before, state = copy.deepcopy(inside.state_dict()), torch.get_rng_state()
    adapted(lambda num_classes: inside, "net", 5)
    assert torch.equal(torch.get_rng_state(), state) and inside.training
    assert all(torch.equal(value, before[name]) for name, value in inside.state_dict().items())


def test_a_copy_has_features_of_its_own():
    """A teacher is a copy: its hooks must not read the student."""
    network = adapted(lambda num_classes: Net(CLEAR["logits"]), "net", 5).eval()
    teacher = copy.deepcopy(network)
    with torch.no_grad():
        teacher.network.head.weight.add_(1)
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(teacher(x).logits, network(x).logits)
    assert torch.equal(teacher(x).logits, teacher.network.head(teacher.network.body(x)))


def test_gradients_reach_everything():
    network = adapted(lambda num_classes: Net(CLEAR["dictionary"]), "net", 5)
    found = network(torch.randn(2, 3, 32, 32))
    (found.logits.sum() + found.aux_logits.square().sum() + found.features.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("last, words", [
    (lambda net, x, f, y: y.softmax(1), "returned probabilities, which sum to 1; wanted logits, before softmax"),
    (lambda net, x, f, y: 2 * y, r"the output of none of its convolutions with 5 outputs \(head\).* Return course_lib"),
    (lambda net, x, f, y: y + net.aux(f), r"none of its convolutions with 5 outputs \(head, aux\)"),
    (lambda net, x, f, y: y.mean((2, 3)), r"returned \(1, 5\); wanted logits \(N, 5, h, w\)"),
    (lambda net, x, f, y: f, r"returned \(1, 8, 32, 48\); wanted logits \(N, 5, h, w\): one channel for each of 5"),
    (lambda net, x, f, y: (y, f), r"returned a tuple; wanted logits \(N, 5, h, w\), a dictionary with 'out'"),
    (lambda net, x, f, y: {"result": y}, "returned a dictionary with result; wanted logits"),
    (lambda net, x, f, y: None, "returned a NoneType; wanted logits"),
    (lambda net, x, f, y: Prediction(f, y, disparity=y[:, :1]), r"a disparity \(1, 1, 32, 48\); wanted \(N, h, w\), in 0..1"),
    (lambda net, x, f, y: Prediction(f[:, :, 1:], y), r"features \(1, 8, 31, 48\) and logits \(1, 5, 32, 48\); wanted"),
    (lambda net, x, f, y: 1 / 0, "raised ZeroDivisionError on images .1, 3, 64, 96.: division by zero"),
], ids=["softmax", "scaled", "sum of two", "pooled", "classes", "tuple", "dictionary", "none", "disparity", "grids",
        "raises"])  # fmt: skip
def test_what_is_not_clear_is_an_error(last, words):
    with pytest.raises(ValueError, match=f"The network net .*{words}"):
        adapted(lambda num_classes: Net(last), "net", 5)


def test_a_function_that_builds_no_network():
    with pytest.raises(ValueError, match="The network net is a int; wanted a torch.nn.Module"):
        adapted(lambda num_classes: 3, "net", 5)


def test_a_transposed_classifier_brings_its_features_to_its_grid():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.ConvTranspose2d(8, 5, 2, 2)

        def forward(self, x):
            return self.head(self.body(x))

    found = adapted(lambda num_classes: Up(), "net", 5)(torch.randn(1, 3, 32, 64))
    assert found.features.shape == (1, 8, 16, 32) and found.logits.shape == (1, 5, 16, 32)


# ---- sizes that do not divide


def test_images_are_padded_and_the_grid_covers_the_image_alone():
    """A map that is linear in the coordinates of the padded image reads the same coordinates after the padding is cut off."""
    image = torch.zeros(1, 3, 33, 50)
    with pytest.warns(UserWarning, match="vit wants sizes that 14 divides: images of other sizes are padded"):
        padded = pad(image, 14, "vit")
    assert padded.shape == (1, 3, 42, 56)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("default")
        for width in (50, 51, 60):
            pad(torch.zeros(1, 3, 33, width), 14, "deit")
    assert len(notes) == 1, "one note for a network, whatever the sizes"
    cell = 14
    rows = (torch.arange(3.0) + 0.5) * cell
    x = rows.view(1, 1, 3, 1).expand(1, 1, 3, 4)
    found = unpad(x, image, padded)
    assert found.shape == (1, 1, 2, 4)  # 33 / 14 = 2.4 cells
    # a coordinate passes 10 roundings and is read between two cells of up to 42
    close(found[0, 0, :, 0], (torch.arange(2.0) + 0.5) * 33 / 2, bound(16, torch.float32, 42.0))


def test_a_network_that_cannot_be_built_is_named():
    with pytest.raises(ValueError, match=r"The network net raised ZeroDivisionError in net\(5, width=0\): .* by zero"):
        adapted(lambda num_classes, width: nn.Conv2d(3, num_classes // width, 1), "net", 5, width=0)


def test_a_network_that_is_one_convolution():
    network = adapted(lambda num_classes: nn.Conv2d(3, num_classes, 3, padding=1), "net", 5)
    found = network(torch.randn(1, 3, 16, 24))
    assert found.features.shape == (1, 3, 16, 24) and found.logits.shape == (1, 5, 16, 24)
    assert len([*network.head_parameters()]) == 2 and not [*network.backbone_parameters()]


def test_a_divisor_of_a_users_network():
    class Patches(nn.Module):
        divisor = 14

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 8, 14, 14), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            assert not x.shape[2] % 14 and not x.shape[3] % 14
            return self.head(self.body(x))

    network = adapted(lambda num_classes: Patches(), "net", 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert network(torch.randn(1, 3, 33, 50)).logits.shape == (1, 5, 2, 4)
        assert network(torch.randn(1, 3, 28, 56)).logits.shape == (1, 5, 2, 4)


# ---- timm and torchvision


@pytest.mark.parametrize("name, D, grid", [
    ("torchvision:resnet18", 128, (9, 13)), ("torchvision:mobilenet_v3_small", 128, (9, 13)),
    ("torchvision:lraspp_mobilenet_v3_large", None, None), ("torchvision:deeplabv3_mobilenet_v3_large", 256, (5, 7)),
    ("timm:resnet18", 128, (9, 13)), ("timm:mobilenetv3_small_050", 128, (9, 13)), ("timm:vit_tiny_patch16_224", 128, (4, 6)),
    ("timm:eva02_tiny_patch14_224", 128, (5, 7)), ("timm:test_convnext", 128, (8, 12)),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:timm. wants sizes", "ignore:.*wants sizes that")
def test_models_of_other_libraries(name, D, grid):
    """Images of 100x70, which no patch divides; the names of weights on the meta device are the same."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    if D is None:
        with pytest.raises(ValueError, match="the output of none of its convolutions .*low_classifier"):
            build(name, 5, seed=0)
        return
    network = build(name, 5, seed=0)
    found = network(torch.randn(2, 3, 70, 100))
    assert found.features.shape == (2, D, *grid) and found.logits.shape == (2, 5, *grid) and network.feature_dim == D
    with torch.device("meta"):
        blank = build(name, 5, **blank_options(name, {}))
    assert blank.state_dict().keys() == network.state_dict().keys()
    again = build(name, 5, seed=0)
    assert all(torch.equal(value, weight) for value, weight in zip(network.parameters(), again.parameters(), strict=True))
    groups = parameter_groups(network, 1e-3)
    assert {group["name"] for group in groups} == {"backbone", "head"}


def test_other_means_are_converted():
    """timm's vision transformers want (x - 0.5) / 0.5; images come in ImageNet's convention."""
    pytest.importorskip("timm")
    network = build("timm:vit_tiny_patch16_224", 5, seed=0).eval()
    rgb = torch.rand(1, 3, 32, 48)
    ours = (rgb - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen = []
    network.encoder.register_forward_pre_hook(lambda encoder, given: seen.append(given[0]))
    with torch.no_grad():
        network(ours)
    # two roundings to ours, four back; the largest terms are below 4
    close(seen[0], (rgb - 0.5) / 0.5, bound(8, torch.float32, 4.0))


@pytest.mark.parametrize("name, options, words", [
    ("timm:resnett18", {}, "timm .* has no model 'resnett18'. Did you mean resnet18"),
    ("timm:resnet18", {"wdith": 3}, "timm:resnet18 cannot be built with the options {'wdith': 3}"),
    ("torchvision:resnet19", {}, "There is no torchvision model 'resnet19'. Did you mean resnet1"),
    ("torchvision:resnet18", {"wdith": 3}, "torchvision:resnet18 cannot be built with the options"),
    ("torchvision:vit_b_16", {}, "has neither `layer4` nor `features`"),
    ("torchvision:swin_t", {}, r"gives no maps \(N, D, h, w\)"),
    ("smalll", {}, "There is no network 'smalll'. Did you mean small"),
    ("my_nets.py:unet", {}, "network my_nets.py:unet is code from outside this library, which no checkpoint"),
])  # fmt: skip
def test_a_model_that_is_not_there(name, options, words):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=words):
        build(name, 5, **options)


@pytest.mark.parametrize("name", NAMES)
def test_options_without_downloads(name):
    given = {} if name == "small" else {"norm": "frozen", "pretrained": True, "imagenet": True}
    key = "pretrained" if name == "efficientnet_lite0" else "imagenet"
    assert not blank_options(name, given).get(key)
    assert name == "small" or key in blank_options(name, given)
