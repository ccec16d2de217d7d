"""Released files of DAFormer, HRDA and MIC: their names, all of them, and the logits of a plain transcription."""

import pytest
import torch

from course_lib.experiments.state import load_network
from course_lib.networks import load_published
from course_lib.networks.mit import SIZES
from tests.networks import released_names as names
from tests.networks import transcription

AGREE = 1e-4  # of the largest logit, as in test_mit


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        x = torch.rand(shape, generator=generator) * 2 - 1
        if len(shape) == 1:
            return x.abs() + 0.5 if name.endswith("running_var") else x
        return x / x[0].numel() ** 0.5

    return {name: value(name, shape) for name, shape in shapes.items()}


def written(path, state, *prefixes: str, **beside):
    """As the training scripts write it: networks beside each other, and what else there is."""
    content = {prefix + name: value + k for k, prefix in enumerate(prefixes or ("",)) for name, value in state.items()}
    torch.save({"meta": {"iter": 40_000, "CLASSES": ("road",)}, "state_dict": content, **beside}, path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "latest.pth"


@pytest.mark.parametrize("count, shapes", [(1110, names.daformer()), (1126, names.hrda())], ids=["daformer", "hrda"])
def test_every_name_of_a_release_has_its_place(count, shapes, path):
    """B5: as published, every tensor is loaded, none is left over, none is missing."""
    shared = {shape: torch.zeros(shape, dtype=torch.half) for shape in set(shapes.values())}  # one memory for all of a shape
    state = {name: torch.tensor(3) if not shape else shared[shape] for name, shape in shapes.items()}
    network, report = load_published(written(path, state, "model."))
    assert (report.loaded, report.missing, report.left_over, report.fresh) == (count, (), ("meta",), ())
    assert sum(p.numel() for p in network.parameters()) == {1110: 85_155_283, 1126: 85_685_990}[count]
    assert all(p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("size", ["B0", "B1"])
def test_daformer_gives_the_logits_of_the_transcription(size, path):
    state = filled(names.daformer(getattr(names, size)))
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
    state = filled(names.hrda(names.B0))
    network, report = load_published(written(path, state, "model."))
    image = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    wanted = transcription.hrda(state, image, SIZES["b0"].blocks)
    with torch.no_grad():
        found = network.eval()(image).logits
    assert (found - wanted).abs().max() < AGREE * wanted.abs().max()
    assert report.network == "hrda(19, of='mit', size='b0', window=1024)" and network.window == 1024
    assert report.pattern.startswith("HRDA, or MIC on HRDA")


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


@pytest.mark.parametrize("shapes, size", [(names.daformer, (512, 1024)), (names.hrda, (1024, 2048))])
def test_evaluate_and_predict_take_the_file_as_it_is(shapes, size, path, capsys):
    """`uda evaluate FILE`: the network, its classes and the size of the published test."""
    segmenter, recipe = load_network(written(path, filled(shapes(names.B0)), "model."))
    assert (recipe.space, recipe.test_size) == ("cityscapes19", size) and segmenter.num_classes == 19
    assert "\n  left over  meta" in capsys.readouterr().err, "a report of several lines"
