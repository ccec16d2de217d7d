"""Released files of DAFormer, HRDA, MIC, SePiCo, PiPa and CLUDA: their names, all of them, and the logits of a plain
transcription.
"""

import pytest
import torch

from course_lib.experiments.state import load_network
from course_lib.networks import load_published
from course_lib.networks.mit import SIZES
from tests.networks import released_names as names
from tests.networks import transcription

AGREE = 1e-4  # of the largest logit, as in test_mit
GAIN = 4.0  # of weights where logits are compared: with 1 biases decide them, with 4 a stride at a wrong place moves them
# by 15 %


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0, gain: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        x = torch.rand(shape, generator=generator) * 2 - 1
        if len(shape) == 1:
            return x.abs() + 0.5 if name.endswith("running_var") else x
        return gain * x / x[0].numel() ** 0.5

    return {name: value(name, shape) for name, shape in shapes.items()}


def blank(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Zeros that take no memory, where values do not matter."""
    zero = torch.zeros(1, dtype=torch.half)
    return {name: zero.expand(shape) if shape else torch.tensor(3) for name, shape in shapes.items()}


def written(path, state, *prefixes: str, **beside):
    """As the training scripts write it: networks beside each other, and what else there is."""
    parts = enumerate(prefixes or ("",))
    content = {prefix + name: value + k if k else value for k, prefix in parts for name, value in state.items()}
    torch.save({"meta": {"iter": 40_000, "CLASSES": ("road",)}, "state_dict": content, **beside}, path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "latest.pth"


RELEASES = {  # names of the network, names beside it, how many are loaded, parameters
    "DAFormer, or MIC on it (MiT-B5)": (names.daformer(), {}, 1110, 85_155_283),
    "HRDA, or MIC on HRDA (MiT-B5)": (names.hrda(), {}, 1126, 85_685_990),
    "SePiCo, DAFormer's network (MiT-B5)": (names.sepico(), {}, 1110, 85_155_283),
    "SePiCo, DeepLabV2 (ResNet-101)": (names.sepico_deeplab(), {}, 644, 43_920_300),
    "PiPa on DAFormer (MiT-B5)": (names.pipa_daformer(), names.pipa_beside(256), 1110, 85_155_283),
    "PiPa on HRDA (MiT-B5)": (names.pipa_hrda(), names.pipa_beside(19), 1126, 85_685_990),
    "CLUDA on HRDA (MiT-B5)": (names.cluda(), {}, 1126, 85_685_990),
}


@pytest.mark.parametrize("title", RELEASES)
def test_every_name_of_a_release_has_its_place(title, path):
    """At its full size: every tensor is loaded or is a head of the training's loss, none is missing or at random."""
    inside, beside, count, parameters = RELEASES[title]
    shapes = names.prefixed("model.", inside) | beside
    network, report = load_published(written(path, blank(shapes)))
    assert (report.loaded, report.missing, report.fresh, report.left_over[-1]) == (count, (), (), "meta")
    heads = ("model.auxiliary_head.", "model.cls_head.", "model.proj_head.", "model.decode_head.feat_weighter.", *beside)
    assert set(report.left_over[:-1]) == {name for name in shapes if name.startswith(heads)}
    assert report.loaded + len(report.left_over) - 1 == len(shapes)
    assert report.pattern == f"{title}, the student"
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert all(p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("size", ["B0", "B1"])
def test_daformer_gives_the_logits_of_the_transcription(size, path):
    state = filled(names.daformer(getattr(names, size)), gain=GAIN)
    network, report = load_published(written(path, state, "model."))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    pyramid = transcription.encoder(state, image, SIZES[size.lower()].blocks)
    wanted = transcription.daformer_head(state, "decode_head", pyramid)
    with torch.no_grad():
        found = network.eval()(image)
    assert (found.logits - wanted).abs().max() < AGREE * wanted.abs().max() and not found.align_corners
    assert report.pattern == f"DAFormer, or MIC on it (MiT-{size}), the student"
    assert report.network == f"mit(19, size='{size.lower()}')" and report.normalisation == "imagenet"


def test_hrda_gives_the_logits_of_the_transcription(path):
    state = filled(names.hrda(names.B0), gain=GAIN)
    network, report = load_published(written(path, state, "model."))
    image = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    wanted = transcription.hrda(state, image, SIZES["b0"].blocks)
    with torch.no_grad():
        found = network.eval()(image).logits
    assert (found - wanted).abs().max() < AGREE * wanted.abs().max()
    assert report.network == "hrda(19, of='mit', size='b0', window=1024)" and network.window == 1024
    assert report.pattern.startswith("HRDA, or MIC on HRDA")


def test_heads_of_a_training_change_no_logit(path):
    """SePiCo and PiPa on DAFormer's network, PiPa on HRDA: the student of a file that the training wrote."""
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    blocks = SIZES["b0"].blocks
    three = ("model.", "ema_model.", "imnet_model.")
    for shapes, beside, title, size, networks in (
        (names.sepico, {}, "SePiCo, DAFormer's network", (640, 1280), three[:2]),
        (names.pipa_daformer, names.pipa_beside(256), "PiPa on DAFormer", (640, 1280), three),
        (names.pipa_hrda, names.pipa_beside(19), "PiPa on HRDA", (1024, 2048), three[:1]),
    ):
        state = filled(shapes(names.B0), gain=GAIN)
        torch.save({p + n: x + k for k, p in enumerate(networks) for n, x in state.items()} | filled(beside), path)
        network, report = load_published(path)
        if "HRDA" in title:
            wanted = transcription.hrda(state, image, blocks)
        else:
            wanted = transcription.daformer_head(state, "decode_head", transcription.encoder(state, image, blocks))
        with torch.no_grad():
            found = network.eval()(image).logits
        assert (found - wanted).abs().max() < AGREE * wanted.abs().max()
        assert report.pattern == f"{title} (MiT-B0), the student" and report.test_size == size
        assert report.loaded + len(report.left_over) == len(networks) * len(state) + len(beside)


def test_the_teacher_of_a_pipa_training_is_read_too(path):
    state = filled(names.pipa_hrda(names.B0))
    torch.save({"model." + n: x for n, x in state.items()} | {"ema_model." + n: x + 1 for n, x in state.items()}
               | filled(names.pipa_beside(19)), path)  # fmt: skip
    network, report = load_published(path, which="teacher")
    assert torch.equal(network.attention.conv_seg.bias, state["decode_head.scale_attention.conv_seg.bias"] + 1)
    assert report.pattern == "PiPa on HRDA (MiT-B0), the teacher" and len(report.left_over) == len(state) + 17 + 6


def test_sepicos_deeplab_gives_the_logits_of_the_transcription(path):
    """Blocks enough to have a first one and others in both dilated layers, grids that do not divide by 8."""
    blocks = (1, 1, 2, 2)
    state = filled(names.sepico_deeplab(blocks), gain=GAIN)
    network, report = load_published(written(path, state, "model.", "ema_model."), blocks=blocks)
    image = torch.randn(1, 3, 97, 131, generator=torch.Generator().manual_seed(1))
    wanted = transcription.deeplab_v2(state, image, blocks)
    with torch.no_grad():
        found = network.eval()(image)
    assert (found.logits - wanted).abs().max() < AGREE * wanted.abs().max() and not found.align_corners
    assert report.network == "deeplab_v2(19, 'sepico')" and report.normalisation == "imagenet"
    assert report.pattern == "SePiCo, DeepLabV2 (ResNet of (1, 1, 2, 2) blocks), the student"
    assert report.test_size == (640, 1280)
    teacher = load_published(path, blocks=blocks, which="teacher").network
    assert torch.equal(teacher.stem[0].weight, state["backbone.stem.0.weight"] + 1)


@pytest.mark.parametrize("change, options, words", [
    (lambda s: None, {}, r"a ResNet of \(1, 1, 1, 1\) blocks, wanted \(3, 4, 23, 3\).* pass blocks=\(1, 1, 1, 1\)"),
    (lambda s: None, {"form": "bida", "blocks": (1, 1, 1, 1)}, "is SePiCo, DeepLabV2, whose form is 'sepico', not 'bida'"),
    (lambda s: s.pop("backbone.stem.4.bias"), {"blocks": (1, 1, 1, 1)}, "1 missing: model.backbone.stem.4.bias"),
    (lambda s: s.pop("auxiliary_head.convs.1.bn.bias"), {"blocks": (1, 1, 1, 1)},
     "1 missing: model.auxiliary_head.convs.1.bn.bias"),
    (lambda s: s.update({"auxiliary_head.conv_seg.bias": torch.zeros(19)}), {"blocks": (1, 1, 1, 1)},
     "1 unknown: model.auxiliary_head.conv_seg.bias"),
    (lambda s: [s.pop(name) for name in list(s) if name.startswith("decode_head.")], {"blocks": (1, 1, 1, 1)},
     r"an encoder ResNet without a head that is known \(auxiliary_head.convs.0.conv.weight.*'form': 'sepico'"),
])  # fmt: skip
def test_what_does_not_fit_sepicos_deeplab_is_named(change, options, words, path):
    state = blank(names.sepico_deeplab((1, 1, 1, 1)))
    change(state)
    with pytest.raises(ValueError, match=words):
        load_published(written(path, state, "model."), **options)


def test_details_of_sepicos_deeplab_can_be_changed_and_those_of_a_transformer_cannot(path):
    blocks = (1, 1, 1, 1)
    report = load_published(written(path, blank(names.sepico_deeplab(blocks)), "model."), blocks=blocks, bn="frozen").report
    assert report.network == "deeplab_v2(19, 'sepico', bn='frozen')"
    written(path, blank(names.daformer(names.B0)), "model.")
    for options, words in (({"bn": "frozen"}, "bn is of DeepLabV2 alone"), ({"form": "proca"}, "form is of DeepLabV2 alone")):
        with pytest.raises(ValueError, match=words):
            load_published(path, **options)


def test_a_plain_deeplab_of_mmsegmentation_is_read_too(path):
    blocks = (1, 1, 1, 1)
    shapes = {name: shape for name, shape in names.sepico_deeplab(blocks).items() if not name.startswith("auxiliary_head.")}
    report = load_published(written(path, blank(shapes), "model."), blocks=blocks).report
    assert report.pattern.startswith("DeepLabV2 of mmsegmentation (ResNet of")
    assert (report.note, report.test_size, report.left_over) == ("", None, ("meta",))


def test_cludas_logits_are_upsampled_before_they_are_mixed(path):
    """HRDA mixes first. Its weights of pairs are left over."""
    state = filled(names.cluda(names.B0), gain=GAIN)
    network, report = load_published(written(path, state, "model."))
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    wanted = transcription.hrda(state, image, SIZES["b0"].blocks, upsample_first=True)
    with torch.no_grad():
        found = network.eval()(image).logits
    assert (found - wanted).abs().max() < AGREE * wanted.abs().max()
    assert report.network == "hrda(19, of='mit', size='b0', window=1024, upsample_first=True)"
    assert report.pattern == "CLUDA on HRDA (MiT-B0), the student" and report.test_size == (1024, 2048)
    assert len(report.left_over) == 17 and "decode_head.feat_weighter: for the loss of the training alone" in str(report)
    plain = transcription.hrda(state, image, SIZES["b0"].blocks)
    assert (found - plain).abs().max() > 0.01 * plain.abs().max()


def test_the_report_names_heads_of_a_training(path):
    state = names.prefixed("model.", names.pipa_hrda(names.B0)) | names.pipa_beside(19)
    report = load_published(written(path, blank(state))).report
    assert "note       cls_head, proj_head, project, classifier: for the loss of the training alone" in str(report)
    report = load_published(written(path, blank(names.sepico(names.B0)), "model.")).report
    assert "note       auxiliary_head: for the loss of the training alone" in str(report)


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("model.backbone.norm2.weight"), "PiPa on HRDA .* 1 missing: model.backbone.norm2.weight"),
    (lambda s: s.pop("model.decode_head.scale_attention.conv_seg.bias"),
     "1 missing: model.decode_head.scale_attention.conv_seg.bias"),
    (lambda s: s.pop("model.cls_head.3.weight"), "1 missing: model.cls_head.3.weight"),
    (lambda s: s.pop("model.proj_head.proj.1.0.running_var"), "1 missing: model.proj_head.proj.1.0.running_var"),
    (lambda s: s.pop("project.2.bias"), "1 missing: project.2.bias"),
    (lambda s: s.update({"project.4.weight": torch.zeros(1)}), "1 unknown: project.4.weight"),
    (lambda s: s.update({"model.cls_head.3.bias": torch.zeros(19)}), "1 unknown: model.cls_head.3.bias"),
    (lambda s: s.update({"model.auxiliary_head.convs.0.conv.weight": torch.zeros(1)}),
     "1 unknown: model.auxiliary_head.convs.0.conv.weight"),
    (lambda s: s.update({"model.decode_head.feat_weighter.conv_seg.bias": torch.zeros(1)}),
     "1 unknown: model.decode_head.feat_weighter.conv_seg.bias"),
])  # fmt: skip
def test_pipas_heads_are_there_whole_or_not_at_all(change, words, path):
    shapes = names.prefixed("model.", names.pipa_hrda(names.B0)) | names.pipa_beside(19)
    state = blank(shapes)
    change(state)
    with pytest.raises(ValueError, match=words):
        load_published(written(path, state))


def test_parts_beside_a_pipa_network_and_counters_may_be_dropped(path):
    """As a script of publication would: the student alone, with or without model. before its names."""
    state = blank(names.pipa_daformer(names.B0))
    without = {name: value for name, value in state.items() if name != "cls_head.1.0.num_batches_tracked"}
    assert load_published(written(path, without, "model.")).report.pattern.startswith("PiPa on DAFormer")
    torch.save(state | blank(names.pipa_beside(256)), path)
    report = load_published(path).report
    assert (report.loaded, len(report.left_over)) == (234, 23)


def test_student_teacher_and_start_are_told_apart(path):
    state = filled(names.daformer(names.B0))
    written(path, state, "model.", "ema_model.", "imnet_model.", optimizer={"state": {}, "param_groups": []})
    name = "backbone.norm1.weight"
    for which, plus in (("student", 0), ("teacher", 1)):
        network, report = load_published(path, which=which)
        assert torch.equal(network.state_dict()[name], state[name] + plus) and report.pattern.endswith(f"the {which}")
        assert report.loaded == 234 and len(report.left_over) == 2 * 234 + 2
    published = written(path, state, "model.")
    with pytest.raises(ValueError, match=r"has no teacher \(ema_model.\*\), but model. Published files hold the student alone"):
        load_published(published, which="teacher")
    with pytest.raises(ValueError, match="which is 'best'; it wants one of 'student', 'teacher'"):
        load_published(published, which="best")


@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_other_prefixes_are_read_too(prefix, path):
    state = filled(names.daformer(names.B0))
    torch.save({prefix + name: value for name, value in state.items()}, path)
    assert load_published(path).report.loaded == 234


def test_mics_own_teacher_is_left_over(path):
    state = filled(names.hrda(names.B0))
    report = load_published(written(path, state, "model.", "mic.teacher.ema_model.")).report
    assert report.left_over[0].startswith("mic.teacher.")


def test_segformers_head_is_read_and_its_unused_layer_left_over(path):
    widths = names.B0["widths"]
    shapes = names.prefixed("backbone.", names.mit(**names.B0)) | {"decode_head.conv_seg.weight": (19, 128, 1, 1)}
    shapes |= {"decode_head.conv_seg.bias": (19,), "decode_head.linear_fuse.conv.weight": (256, 1024, 1, 1)}
    shapes |= {f"decode_head.linear_fuse.bn.{part}": (256,) for part in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"decode_head.linear_pred.weight": (19, 256, 1, 1), "decode_head.linear_pred.bias": (19,)}
    for k, D in enumerate(widths, start=1):
        shapes |= {f"decode_head.linear_c{k}.proj.weight": (256, D), f"decode_head.linear_c{k}.proj.bias": (256,)}
    network, report = load_published(written(path, filled(shapes)))
    assert report.left_over[:2] == ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
    assert report.missing == ("decode_head.linear_fuse.bn.num_batches_tracked",) and report.pattern.startswith("SegFormer")
    assert torch.isfinite(network.eval()(torch.randn(1, 3, 64, 64)).logits).all()


def broken(change):
    state = filled(names.hrda(names.B0))
    change(state)
    return state


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("backbone.norm2.weight"), "1 missing: model.backbone.norm2.weight"),
    (lambda s: s.update({"decode_head.extra.weight": torch.zeros(1)}), "1 unknown: model.decode_head.extra.weight"),
    (lambda s: s.update({"backbone.norm1.bias": torch.zeros(3)}),
     r"1 unfit: model.backbone.norm1.bias \(\(3,\), wanted \(32,\)\)"),
    (lambda s: s["backbone.norm1.bias"].fill_(float("nan")), r"1 unfit: model.backbone.norm1.bias \(not finite\)"),
    (lambda s: [s.pop(name) for name in list(s) if name.startswith("backbone.block1.1.")],
     r"an encoder MiT of \(1, 2, 2, 2\) blocks, 32 wide at first; this library has b0 \(2, 2, 2, 2\)"),
    (lambda s: [s.pop(name) for name in list(s) if name.startswith("decode_head.")],
     r"without a head that is known \(no other names\).*network_options"),
])  # fmt: skip
def test_what_does_not_fit_is_named(change, words, path):
    with pytest.raises(ValueError, match=words):
        load_published(written(path, broken(change), "model."))


def test_the_number_of_classes_is_the_files(path):
    head = {"decode_head.conv_seg.weight": (16, 256, 1, 1), "decode_head.conv_seg.bias": (16,)}
    state = filled(names.daformer(names.B0) | head)
    assert load_published(written(path, state, "model.")).network.num_classes == 16
    with pytest.raises(ValueError, match="has 16 classes; num_classes is 19. Leave num_classes out"):
        load_published(path, num_classes=19)


@pytest.mark.parametrize("shapes, size", [
    (names.daformer, (512, 1024)), (names.hrda, (1024, 2048)), (names.pipa_hrda, (1024, 2048)), (names.cluda, (1024, 2048)),
    (names.sepico, (640, 1280)), (names.pipa_daformer, (640, 1280)),
])  # fmt: skip
def test_evaluate_and_predict_take_the_file_as_it_is(shapes, size, path, capsys):
    """`uda evaluate FILE`: the network, its classes and the size of the published test."""
    segmenter, recipe = load_network(written(path, blank(shapes(names.B0)), "model."))
    assert (recipe.space, recipe.test_size) == ("cityscapes19", size) and segmenter.num_classes == 19
    assert "\n  left over  m" in capsys.readouterr().err, "a report of several lines: meta, or model.*"
