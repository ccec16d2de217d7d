"""The ONNX file of a network, run by onnxruntime in a process that has neither this library nor torch."""

import json
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from course_lib.data import Sample, test_transform
from course_lib.evaluation import onnx_export
from course_lib.evaluation.onnx_export import BOUND, KIND, export_onnx
from course_lib.files import made_by
from course_lib.labels import CITYSCAPES19, SPACES
from course_lib.networks import NAMES, adapted, build, efficientnet
from course_lib.networks.deeplab import FORMS
from course_lib.networks.prediction import Prediction, eval_mode

SHALLOW = {"blocks": (1, 1, 1, 1)}  # ResNet-101 takes long, and repeats these blocks
# Of EfficientNet's 16 blocks, too, the others repeat: one of each stage, and of each kernel a second one with its sum.
FEW = tuple((count, *rest) for count, (_, *rest) in zip((1, 2, 2, 1, 1, 1, 1), efficientnet.STAGES, strict=True))
FEW_TAPS = {2: 24, 4: 40, 6: 112, 8: 320}
FAMILIES = {
    "small": ("small", {"width": 8}),
    "small, batch": ("small", {"width": 8, "norm": "batch", "aux": True}),
    "small, sync": ("small", {"width": 8, "norm": "sync"}),
    "efficientnet_lite0, 9 blocks": ("efficientnet_lite0", {"pretrained": False}),
    "efficientnet_lite0": ("efficientnet_lite0", {"pretrained": False}),
    **{f"deeplab_v2, {form}": ("deeplab_v2", {"form": form, **SHALLOW}) for form in FORMS},
    "deeplab_v3plus": ("deeplab_v3plus", SHALLOW),
    "mit, b0": ("mit", {"size": "b0"}),
    "hrda, small": ("hrda", {"of": "small", "width": 8, "attention_width": 8}),
    "multitask, small": ("multitask", {"of": "small", "width": 8, "decoder_width": 8}),
    "deeplab_v2, torchvision's colours": ("deeplab_v2", {"form": "bida", "normalisation": "imagenet", **SHALLOW}),
}
SIZES = ((1, 64, 96), (3, 75, 101), (2, 130, 33))  # (N, H, W): two of them divide by neither stride
ALONE = """
import sys, json, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **{name: session.run(["logits"], {"image": images[name]})[0] for name in images})
loaded = [name for name in sys.modules if name.partition(".")[0] in ("course_lib", "torch")]
print(json.dumps([session.get_modelmeta().custom_metadata_map, loaded]))
"""


def trained(name, options):
    """A network whose normalisation has seen pictures: fresh statistics would hide a wrong layer."""
    network = build(name, 19, seed=0, **options)
    with torch.no_grad():
        for parameter in network.head_parameters():
            parameter.mul_(10)  # logits of some size
        network.train()(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    return network


def pictures():
    """uint8 RGB, as from files."""
    draw = np.random.default_rng(0)
    return {f"{N}x{H}x{W}": draw.integers(0, 256, (N, 3, H, W), dtype=np.uint8) for N, H, W in SIZES}


def test_every_network_is_tested():
    assert {name for name, _ in FAMILIES.values()} == set(NAMES)


LONG = ("efficientnet_lite0", "hrda, small")  # two resolutions: ten networks in one graph, a minute


@pytest.mark.parametrize("family", [pytest.param(each, marks=[pytest.mark.full] if each in LONG else []) for each in FAMILIES])
def test_the_file_alone_gives_the_networks_logits(family, tmp_path, monkeypatch):
    if "9 blocks" in family:
        monkeypatch.setattr(efficientnet, "STAGES", FEW)
        monkeypatch.setattr(efficientnet, "TAPS", FEW_TAPS)
    network, path = trained(*FAMILIES[family]), tmp_path / "net.onnx"
    export_onnx(network, path, "cityscapes19", test_size=(512, 1024))
    assert network.training, "its mode stays"
    images = pictures()
    np.savez(tmp_path / "images.npz", **{name: (image / 255).astype(np.float32) for name, image in images.items()})
    words = [sys.executable, "-c", ALONE, str(path), str(tmp_path / "images.npz"), str(tmp_path / "logits.npz")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    metadata, loaded = json.loads(done.stdout)
    assert loaded == [], "it runs without this library and torch"
    assert json.loads(metadata["classes"]) == list(CITYSCAPES19.classes) and json.loads(metadata["test_size"]) == [512, 1024]
    assert "RGB from 0 to 1, not normalised" in metadata["input"] and "argmax over axis 1" in metadata["output"]

    found, transform = np.load(tmp_path / "logits.npz"), test_transform(None, network.normalisation)
    for name, image in images.items():
        unknown = tv_tensors.Mask(torch.zeros(image.shape[2:], dtype=torch.uint8))
        samples = [Sample(tv_tensors.Image(torch.from_numpy(one)), unknown, "") for one in image]
        batch = torch.stack([transform(sample).image.as_subclass(torch.Tensor) for sample in samples])
        with eval_mode(network), torch.no_grad():
            logits = network(batch).resized(batch.shape[2:]).numpy()
        assert found[name].shape == logits.shape
        assert np.abs(found[name] - logits).max() <= BOUND * max(1, np.abs(logits).max())


class Patches(nn.Module):
    """A network whose sizes have to be a multiple of 14."""

    divisor = 14

    def __init__(self, num_classes):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 14, 14), nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        return self.head(self.body(x).relu())


OTHERS = {
    "patches of 14": lambda: adapted(Patches, "net", 19),
    "torchvision": lambda: build("torchvision:resnet18", 19, seed=0, pretrained=False),
    "timm, patches of 16": lambda: build("timm:vit_tiny_patch16_224", 19, seed=0, pretrained=False),
}


@pytest.mark.parametrize("name", ["patches of 14", *(pytest.param(n, marks=pytest.mark.full) for n in list(OTHERS)[1:])])
def test_networks_from_outside_are_exported(name, tmp_path):
    """Their images are padded in the file as well: two of the sizes do not divide."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = export_onnx(OTHERS[name](), tmp_path / "net.onnx", "cityscapes19")
    assert list(exported.differences) == list(onnx_export.CHECKED) and max(exported.differences.values()) <= BOUND


def test_the_file_names_its_axes_and_nothing_of_this_machine(tmp_path):
    path = export_onnx(build("small", 16, seed=0, width=8), tmp_path / "net.onnx", "synthia16").path
    model, content = onnx.load(path), path.read_bytes()
    for value, channels in ((model.graph.input[0], 3), (model.graph.output[0], 16)):
        axes = value.type.tensor_type.shape.dim
        assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch", channels, "height", "width"]
    assert str(tmp_path.anchor + "tmp").encode() not in content and __file__.encode() not in content
    assert b"site-packages" not in content and b".py" not in content
    assert json.loads({prop.key: prop.value for prop in model.metadata_props}["test_size"]) is None


class Other(nn.Module):
    """A network of one's own, with a forward pass to choose."""

    num_classes, normalisation = 19, "unit"

    def __init__(self, scores):
        super().__init__()
        self.scores, self.convolution = scores, nn.Conv2d(3, 19, 3, padding=1)

    def forward(self, image):
        return Prediction(image, self.scores(self.convolution(image)))


def test_a_translation_that_follows_one_branch_is_noticed_and_not_written(tmp_path, monkeypatch):
    """What torch.export made of EfficientNet's padding before: right for even sizes alone, without a warning."""
    network = Other(lambda x: x)
    whole = onnx_export._translated

    def one_branch(network):
        model = whole(network)
        weight = next(each for each in model.graph.initializer if "weight" in each.name)
        weight.raw_data = bytes(len(weight.raw_data))
        return model

    monkeypatch.setattr(onnx_export, "_translated", one_branch)
    with pytest.raises(RuntimeError, match="exported Other gives other logits than the network: .* Nothing was written"):
        export_onnx(network, tmp_path / "net.onnx", "cityscapes19")
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_nan_are_not_written(tmp_path):
    network = Other(lambda x: x * torch.nan)
    with pytest.raises(RuntimeError, match="gives other logits"):
        export_onnx(network, tmp_path / "net.onnx", "cityscapes19")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_translated_is_named(tmp_path):
    network = Other(torch.special.bessel_j0)  # ONNX has none
    with pytest.raises(RuntimeError, match="torch.onnx cannot translate Other .*Nothing was written"):
        export_onnx(network, tmp_path / "net.onnx", "cityscapes19")
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_an_export_alone(tmp_path):
    network, path = build("small", 11, seed=0, width=8), tmp_path / "net.onnx"
    path.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError, match="net.onnx exists and is no result of `uda export`"):
        export_onnx(network, path, SPACES["camvid11"])
    assert path.read_bytes() == b"somebody's"
    assert export_onnx(network, path, "camvid11", replace=True).path == path and made_by(path, KIND)
    first = path.read_bytes()
    export_onnx(network, path, "camvid11")
    assert path.read_bytes() == first, "the same network is the same file"


def test_a_space_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="network has 16 classes, label space 'cityscapes19' has 19"):
        export_onnx(build("small", 16, seed=0, width=8), tmp_path / "net.onnx", "cityscapes19")


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package onnxscript\..*\.\[export\]"):
        export_onnx(build("small", 19, seed=0, width=8), tmp_path / "net.onnx", "cityscapes19")
