"""Published files: their names written out by hand, every value where it belongs, nothing at random unsaid.

The dictionaries follow the released files, in networks of one block per layer. Each tensor holds one number of its own,
stored once and expanded, so that a file has a few kilobytes and every layer can be told from every other.
"""

import argparse
import io
import pickle
import pickletools
from collections import OrderedDict

import pytest
import torch

from course_lib.networks import Published, deeplab_v2, load_published
from course_lib.networks.resnet_starts import IMAGENET_STD
from tests.bounds import bound, close

TINY = (1, 1, 1, 1)
RESNET101 = (3, 4, 23, 3)


# ---- the patterns ---------------------------------------------------------------------------------------------------


def norm(name, channels, counters):
    names = [(f"{name}.{part}", (channels,)) for part in ("weight", "bias", "running_mean", "running_var")]
    return names + [(f"{name}.num_batches_tracked", ())] * counters


def stem(prefix="", counters=False):
    return [(f"{prefix}conv1.weight", (64, 3, 7, 7)), *norm(f"{prefix}bn1", 64, counters)]


def layer(name, inside, width, blocks, counters):
    shapes = []
    for block in range(blocks):
        at = f"{name}.{block}"
        shapes += [(f"{at}.conv1.weight", (width, inside, 1, 1)), *norm(f"{at}.bn1", width, counters)]
        shapes += [(f"{at}.conv2.weight", (width, width, 3, 3)), *norm(f"{at}.bn2", width, counters)]
        shapes += [(f"{at}.conv3.weight", (4 * width, width, 1, 1)), *norm(f"{at}.bn3", 4 * width, counters)]
        if block == 0:
            shapes += [(f"{at}.downsample.0.weight", (4 * width, inside, 1, 1))]
            shapes += norm(f"{at}.downsample.1", 4 * width, counters)
        inside = 4 * width
    return shapes


def resnet(blocks=TINY, counters=False):
    shapes = stem(counters=counters)
    for number, (inside, width) in enumerate(((64, 64), (256, 128), (512, 256), (1024, 512)), start=1):
        shapes += layer(f"layer{number}", inside, width, blocks[number - 1], counters)
    return shapes


def head(name, inside, classes):
    shapes = []
    for branch in range(4):
        shapes += [(f"{name}conv2d_list.{branch}.weight", (classes, inside, 3, 3))]
        shapes += [(f"{name}conv2d_list.{branch}.bias", (classes,))]
    return shapes


def filled(shapes, first=1):
    """Tensor number i is i / 4096 everywhere; a counter is 7."""
    numbers = enumerate(shapes, start=first)
    return OrderedDict(
        (name, torch.full((1,), i / 4096).expand(shape) if shape else torch.tensor(7)) for i, (name, shape) in numbers
    )


def multi(classes=19, **options):
    return filled(resnet(**options) + head("layer5.", 1024, classes) + head("layer6.", 2048, classes))


def single(classes=19, **options):
    return filled(resnet(**options) + head("layer5.", 2048, classes))


def bida(classes=19):
    target = stem("target_", counters=True) + layer("target_layer1", 64, 64, 1, counters=True)
    heads = head("layer5.", 2048, classes) + head("layer6.", 2048, classes)
    return filled(resnet(counters=True) + target + heads)


def proca(classes=19, prefix="module."):
    backbone, classifier = filled(resnet(counters=True)), filled(head("", 2048, classes), first=1000)
    return {
        "iteration": 90000,
        "feature_extractor": {f"{prefix}backbone.{name}": value for name, value in backbone.items()},
        "classifier": {prefix + name: value for name, value in classifier.items()},
        "optimizer_fea": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "optimizer_cls": {"state": {}, "param_groups": []},
    }


def imagenet(**options):
    return filled([*resnet(**options), ("fc.weight", (1000, 2048)), ("fc.bias", (1000,))])


def coco():
    return OrderedDict((f"Scale.{name}", value) for name, value in single(classes=21).items())


@pytest.fixture
def read(tmp_path):
    """Save and load: `read(content)`; a tiny network unless told otherwise."""

    def save_and_load(content, *args, name="weights.pth", **options) -> Published:
        torch.save(content, tmp_path / name)
        return load_published(tmp_path / name, *args, **{"blocks": TINY} | options)

    return save_and_load


def refused(read, content, *parts, **options):
    """The error's words hold the file's name and every part."""
    with pytest.raises(ValueError) as caught:
        read(content, **options)
    for part in ("weights.pth", *parts):
        assert part in str(caught.value)
    return str(caught.value)


def assert_arrived(network, expected: dict):
    """Every tensor of the network holds what `expected` says under its name, and there is no other."""
    own = network.state_dict()
    assert set(own) == set(expected)
    for name, value in expected.items():
        assert torch.equal(own[name], value), name


def with_zero_counters(state):
    norms = {name.rpartition(".")[0] for name in state if name.endswith("running_var")}
    return state | {f"{name}.num_batches_tracked": torch.tensor(0) for name in norms}


# ---- what is recognised ---------------------------------------------------------------------------------------------


def test_adaptsegnet_multi_level_of_an_old_torch(read):
    state = multi()
    network, report = read(state)
    assert_arrived(network, with_zero_counters(state))
    assert (network.form.heads, network.form.aspp_branches, network.num_classes) == (2, 2, 19)
    assert (network.form.stride_on, network.form.ceil_mode, network.normalisation) == ("1x1", True, "caffe_bgr")
    assert report.pattern == "AdaptSegNet, multi-level"
    assert (report.loaded, len(report.missing), report.fresh, report.left_over) == (101, 17, (), ())
    assert str(report).splitlines() == [
        "weights.pth: AdaptSegNet, multi-level",
        "  network    deeplab_v2(19, 'adaptsegnet', aspp_branches=2), images in the convention 'caffe_bgr'",
        "  loaded     101 tensors",
        "  missing    bn1.num_batches_tracked, layer1.0.bn1.num_batches_tracked, layer1.0.bn2.num_batches_tracked "
        "and 14 more (counters, start at 0)",
        "  random     nothing",
        "  left over  nothing",
        "  note       the first 2 of 4 ASPP branches are summed, as in the released code; aspp_branches=4 sums all",
    ]


def test_the_full_size_release_has_its_640_tensors(read):
    network, report = read(multi(blocks=RESNET101, counters=True), blocks=RESNET101)
    assert len(network.state_dict()) == report.loaded == 640
    assert report.missing == ()
    assert "missing    nothing" in str(report)


def test_adaptsegnet_single_level_and_other_classes(read):
    state = single(classes=16, counters=True)
    network, report = read(state, 16)
    assert_arrived(network, state)
    assert (network.form.heads, network.form.aspp_branches, network.num_classes) == (1, 2, 16)
    assert report.pattern == "AdaptSegNet, one level or oracle"


def test_proca_with_the_prefix_of_parallel_training(read):
    content = proca(classes=16)
    network, report = read(content)
    expected = {k.removeprefix("module.backbone."): v for k, v in content["feature_extractor"].items()}
    expected |= {f"layer5.{k.removeprefix('module.')}": v for k, v in content["classifier"].items()}
    assert_arrived(network, expected)
    assert (network.form, network.num_classes) == (deeplab_v2_form("proca"), 16)
    assert report.left_over == ("iteration", "optimizer_fea", "optimizer_cls")
    assert "left over  iteration, optimizer_fea, optimizer_cls" in str(report)
    assert read(proca(prefix="")).report.loaded == report.loaded == len(expected)


def deeplab_v2_form(name):
    with torch.device("meta"):
        return deeplab_v2(1, name, blocks=TINY).form


def test_bida_has_two_stems_and_a_head_that_nothing_calls(read):
    state = bida()
    network, report = read(state)
    assert_arrived(network, {name: value for name, value in state.items() if not name.startswith("layer6.")})
    assert not torch.equal(network.conv1.weight, network.target_conv1.weight)
    assert (network.form.domain_stem, network.form.aspp_branches, network.form.features) == (True, 4, "branches")
    assert len(report.left_over) == 8 and report.left_over[0] == "layer6.conv2d_list.0.weight"
    assert "scoring takes the target's" in str(report)


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_wrapped_and_prefixed_files_are_the_same_file(read, wrap):
    state = single()
    prefixed = {f"module.{name}": value for name, value in state.items()}
    network, report = read({"epoch": 3, wrap: prefixed, "optimizer": {"state": {}, "param_groups": []}})
    assert_arrived(network, with_zero_counters(state))
    assert report.left_over == ("epoch", "optimizer")


def python2(raw: bytes) -> bytes:
    """A file in torch's first format with the strings of Python 2, as the AdaptSegNet authors' Python wrote them."""
    stream, out = io.BytesIO(raw), b""
    for _ in range(5):  # magic number, version, system, the dictionary, the storages' keys
        ops = list(pickletools.genops(stream))
        ends = [op[2] for op in ops[1:]] + [stream.tell()]
        for (op, value, at), end in zip(ops, ends):
            text = op.name == "BINUNICODE"
            out += b"U" + bytes([len(value)]) + value.encode() if text else raw[at:end]
    return out + raw[stream.tell() :]


def test_a_file_of_python_2_and_the_first_format(tmp_path):
    state = single()
    torch.save(state, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    old = python2((tmp_path / "new.pth").read_bytes())
    assert b"U\x0cconv1.weight" in old
    (tmp_path / "old.pth").write_bytes(old)
    network, _ = load_published(tmp_path / "old.pth", blocks=TINY)
    assert_arrived(network, with_zero_counters(state))


# ---- starts ---------------------------------------------------------------------------------------------------------


def backbone_of(network):
    return {k: v for k, v in network.state_dict().items() if not k.startswith(("layer5.", "layer6."))}


def test_imagenet_start_fills_the_backbone_and_says_that_the_head_is_new(read):
    state = imagenet()
    before = torch.random.get_rng_state()
    network, report = read(state, num_classes=19)
    assert torch.equal(before, torch.random.get_rng_state())
    expected = with_zero_counters({k: v for k, v in state.items() if not k.startswith("fc.")})
    own = backbone_of(network)
    assert set(own) == set(expected) and all(torch.equal(own[k], v) for k, v in expected.items())
    assert (network.form, network.num_classes) == (deeplab_v2_form("proca"), 19)
    assert report.left_over == ("fc.weight", "fc.bias")
    assert report.fresh == tuple(name for name, _ in head("layer5.", 2048, 19))
    assert "random     layer5 (8 tensors, seed 0): train before use" in str(report)
    drawn = network.layer5.conv2d_list[3].weight
    assert 0.009 < drawn.std() < 0.011
    again = [read(state, num_classes=19, seed=seed).network.layer5.conv2d_list[3].weight for seed in (0, 1)]
    assert [torch.equal(drawn, other) for other in again] == [True, False]


def test_imagenet_start_of_a_bgr_network_rewrites_its_stem_and_fills_both(read):
    """w' = w mean(std) / std with the channels reversed; bn1's variance times (255 mean(std))^2."""
    state = imagenet()
    network, _ = read(state, num_classes=2, form="bida", domain_stem=True)
    mean = sum(IMAGENET_STD) / 3
    for at, std in zip((2, 1, 0), IMAGENET_STD):
        expected = state["conv1.weight"][:, 0] * mean / std
        close(network.conv1.weight[:, at], expected, bound(5, torch.float32, expected))
    wanted = state["bn1.running_var"] * (255 * mean) ** 2
    close(network.bn1.running_var, wanted, bound(5, torch.float32, wanted))
    assert torch.equal(network.target_conv1.weight, network.conv1.weight)
    assert torch.equal(network.target_layer1[0].conv2.weight, state["layer1.0.conv2.weight"])
    with torch.no_grad():
        network.conv1.weight.zero_()
    assert network.target_conv1.weight.any()  # a memory of its own: one may learn without the other


def test_coco_start_leaves_its_head_of_other_classes(read):
    state = coco()
    network, report = read(state, num_classes=19)
    own = backbone_of(network)
    for name in (*own,):
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(own[name], state[f"Scale.{name}"]), name
    assert (network.form.heads, network.form.aspp_branches, network.num_classes) == (2, 4, 19)
    assert report.left_over == tuple(f"Scale.{name}" for name, _ in head("layer5.", 2048, 21))
    assert report.missing[0] == "Scale.bn1.num_batches_tracked"
    assert "random     layer5, layer6 (16 tensors, seed 0): train before use" in str(report)
    assert "layer5.conv2d_list.0.weight" in report.fresh and not network.layer6.conv2d_list[0].weight.is_meta


def test_a_start_needs_classes_and_takes_the_forms_that_fit(read):
    refused(read, imagenet(), "an ImageNet start", "Give num_classes, for example 19")
    refused(read, coco(), "wants one of 'adaptsegnet', 'adaptsegnet_single', 'bida'", num_classes=2, form="proca")
    assert read(coco(), num_classes=2, form="adaptsegnet_single").report.network == "deeplab_v2(2, 'adaptsegnet_single')"
    with pytest.raises(ValueError, match="trained on 'caffe_bgr' images"):
        read(coco(), num_classes=2, normalisation="imagenet")


# ---- what the caller may change -------------------------------------------------------------------------------------


def test_switches_change_details_and_the_report_follows(read):
    network, report = read(single(), aspp_branches=4, bn="frozen")
    assert (network.form.aspp_branches, network.form.bn) == (4, "frozen")
    assert report.network == "deeplab_v2(19, 'adaptsegnet_single', aspp_branches=4, bn='frozen')"
    assert report.note == ""
    refused(read, single(), "8 missing: layer6.conv2d_list.0.weight", heads=2)


def test_classes_and_form_of_a_release_are_its_own(read):
    refused(read, multi(), "has 19 classes; num_classes is 16. Leave num_classes out", num_classes=16)
    refused(read, multi(), "whose form is 'adaptsegnet', not 'bida'", form="bida")


@torch.no_grad()
def test_the_network_runs_and_its_frozen_weights_stay_frozen(read):
    network, _ = read(single(classes=3))
    assert not network.bn1.weight.requires_grad and network.conv1.weight.requires_grad
    assert network.layer5.conv2d_list[0].weight.requires_grad
    assert network.eval()(torch.zeros(1, 3, 33, 33)).logits.shape == (1, 3, 5, 5)


def test_half_precision_is_widened_and_shared_memory_is_not_kept(read):
    state = single()
    state["layer1.0.bn1.weight"] = state["layer1.0.bn2.weight"]
    network, _ = read({name: value.half() for name, value in state.items()})
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    block = network.layer1[0]
    assert block.bn1.weight.data_ptr() != block.bn2.weight.data_ptr()


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options"),
    [(multi, {}), (single, {}), (bida, {}), (imagenet, {"num_classes": 2}), (coco, {"num_classes": 2})],
)
@pytest.mark.parametrize("which", ["conv1.weight", "bn1.running_var", "layer3.0.conv2.weight", "layer4.0.downsample.1.bias"])
def test_a_missing_layer_is_named_and_nothing_is_loaded(read, make, options, which):
    state = make()
    name = next(key for key in state if key.endswith(which))
    del state[name]
    refused(read, state, f"1 missing: {name}.", "No layer is left at random", **options)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (multi, "layer5.conv2d_list.2.bias"),
        (multi, "layer6.conv2d_list.0.weight"),
        (single, "layer5.conv2d_list.3.weight"),
        (bida, "target_conv1.weight"),
        (bida, "target_layer1.0.bn3.running_mean"),
    ],
)
def test_no_part_of_a_release_is_drawn(read, make, name):
    state = make()
    del state[name]
    refused(read, state, f"1 missing: {name}.")


def test_a_head_that_is_missing_as_a_whole(read):
    without_aux = {name: value for name, value in multi().items() if not name.startswith("layer5.")}
    refused(read, without_aux, "8 missing: layer5.conv2d_list.0.weight")
    without_main = {name: value for name, value in multi().items() if not name.startswith("layer6.")}
    refused(read, without_main, "looks like AdaptSegNet, multi-level, but has no classifier (layer6.conv2d_list.0.weight ...)")
    content = proca()
    del content["classifier"]
    refused(read, content, "looks like ProCA, but has no classifier (classifier.conv2d_list.0.weight ...)")


def test_bida_without_any_target_stem_is_not_taken_for_a_shared_one(read):
    state = {name: value for name, value in bida().items() if not name.startswith("target_")}
    refused(read, state, "none of its target_conv1, target_bn1, target_layer1", "copy conv1, bn1 and layer1")


def test_errors_of_proca_speak_the_files_names(read):
    content = proca(prefix="")
    extractor = content["feature_extractor"]
    extractor["backbone.conv7.weight"] = extractor.pop("backbone.conv1.weight")
    extractor["layer9.weight"] = torch.zeros(1)
    extractor["backbone.layer5.conv2d_list.0.weight"] = torch.zeros(19, 2048, 3, 3)  # must not pass for the classifier's
    message = refused(read, content, "1 missing: feature_extractor.backbone.conv1.weight; 3 unknown: ")
    for name in ("backbone.conv7.weight", "layer9.weight", "backbone.layer5.conv2d_list.0.weight"):
        assert f"feature_extractor.{name}" in message


def test_unknown_names_and_wrong_values_are_named_with_their_count(read):
    refused(read, multi() | {f"extra.{i}": torch.zeros(1) for i in range(5)}, "5 unknown: extra.0, extra.1, extra.2 and 2 more")
    refused(read, multi() | {"iteration": 7}, "1 unknown: iteration")
    refused(read, coco() | {"Scale.layer6.conv2d_list.0.bias": torch.zeros(2)}, "1 unknown: Scale.layer6", num_classes=2)
    state = multi()
    state["layer6.conv2d_list.1.weight"] = torch.zeros(19, 512, 3, 3)
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1, dtype=torch.int8)
    state["bn1.bias"] = torch.full((64,), float("nan"))
    state["bn1.weight"] = "ones"
    message = refused(read, state, "4 unfit: ", "bn1.weight (a str, wanted a tensor", "bn1.bias (not finite)", "and 1 more")
    assert "layer1.0.conv1.weight (int8, wanted float32)" in message
    state = multi() | {"layer6.conv2d_list.1.weight": torch.zeros(19, 512, 3, 3)}
    refused(read, state, "layer6.conv2d_list.1.weight ((19, 512, 3, 3), wanted (19, 2048, 3, 3))")
    mixed = {("module." if name == "conv1.weight" else "") + name: value for name, value in multi().items()}
    refused(read, mixed, "1 missing: conv1.weight; 1 unknown: module.conv1.weight")


def test_another_depth_is_not_guessed(read):
    words = "Its layers have (1, 2, 1, 1) blocks, wanted (1, 1, 1, 1): pass blocks=(1, 2, 1, 1) if that depth is meant"
    refused(read, multi(blocks=(1, 2, 1, 1)), words)
    state = {name: value for name, value in multi(blocks=(1, 3, 1, 1)).items() if not name.startswith("layer2.1.")}
    refused(read, state, "layer2.1.conv1.weight", blocks=(1, 3, 1, 1))  # a block inside a layer
    refused(read, state, "layer2.1.conv1.weight", "layer2.2.conv1.weight", blocks=(1, 2, 1, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": 2, "segmenter": {"a": torch.zeros(1)}}, "a checkpoint of this library"),
        ({"features.0.weight": torch.zeros(1), "classifier.conv2d_list.0.weight": torch.zeros(1)}, "is a VGG-16 network"),
        ({name: torch.zeros(1) for name in ("conv1.weight", "conv1.bias", "classifier.weight")}, "is a discriminator"),
        ({"Proto": torch.zeros(19, 2048), "Amount": torch.zeros(19)}, "ProCA's prototypes"),
        (filled(resnet()), "a ResNet without a head: neither layer5 nor ImageNet's fc"),
        ({"weight": torch.zeros(1), "bias": torch.zeros(1)}, "none of the published kinds: its names are weight, bias"),
        ({"model": {"a": torch.zeros(1)}, "model_D": {"b": torch.zeros(1)}}, "tensors of 2 networks: model, model_D"),
        (torch.zeros(3), "no tensors by name, but a torch.Tensor"),
        ({}, "no tensors by name"),
        ({3: torch.zeros(1)}, "no tensors by name"),
        (argparse.Namespace(lr=1), "holds an object of argparse.Namespace beside its tensors. To read it could run code"),
    ],
    ids=lambda value: value[:24].replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_no_published_network_is_refused_by_name(read, content, words):
    refused(read, content, words)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*nowhere.pth. Give the file"):
        load_published(tmp_path / "nowhere.pth")
    path = tmp_path / "weights.pth"
    torch.save(single(), path)
    whole = path.read_bytes()
    at = whole.index(torch.full((1,), 1 / 4096).numpy().tobytes())  # one weight's bytes: still a file that torch opens
    flipped = whole[:at] + b"\xff" + whole[at + 1 :]
    for broken in (b"", b"not weights", whole[: len(whole) // 2], flipped, pickle.dumps({}, protocol=2)[:-1]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"weights.pth cannot be read as weights .*Fetch it again"):
            load_published(path, blocks=TINY)


def test_nothing_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"conv1.weight": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="print beside its tensors. To read it could run code, so it is refused"):
        load_published(tmp_path / "weights.pth")
