"""ReCo: the weight of a mixed picture and L_mix against loops, one backward pass, which network is the result, a run that is
stopped and goes on, two processes, settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.data import Batch, ministreet
from course_lib.engine import LoopSettings, load_checkpoint, train
from course_lib.experiments import choice
from course_lib.experiments.parts import seeded_segmenter
from course_lib.experiments.pretrained import take_network
from course_lib.experiments.state import load_network
from course_lib.experiments.train import Pair, train_recipe
from course_lib.methods import DACS, ClassMix, ClassMixSettings, DACSSettings, OptimiserSettings, ReCo, ReCoSettings
from course_lib.methods.step import Taught
from course_lib.methods.terms.region_contrast import RegionContrast, RegionContrastSettings
from course_lib.mixing import MixingSettings
from course_lib.networks import small
from course_lib.pseudo_labels.weights import LabelWeightSettings
from course_lib.recipes import recipe
from course_lib.recipes.recipe import build_method
from tests.bounds import bound, close, far, roundings
from tests.methods.test_classmix import LOSS, batch, dictionaries, up
from tests.processes import own_part, together, whole_and_parts

C, H, W = 5, 16, 32
QUIET = {"mixed_photometric": "none", "mixed_blur": 0.0}
PLAIN = ReCoSettings(**QUIET, labels=LabelWeightSettings("picture", threshold=0.3))
FEW = RegionContrastSettings(queries=8, negatives=8, hidden=8, out=8, weak_threshold=0.25, strong_threshold=0.9)
LOSSES = ("segmentation", "mixed", "region_contrast.contrast")


def method(settings: DACSSettings = PLAIN, kind: type[DACS] = ReCo, term: RegionContrastSettings | None = FEW, width: int = 8):
    torch.manual_seed(0)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    network = small(C, width=width)
    with torch.no_grad():
        network.classifier.weight.mul_(3)  # some pixels are surer than others
    terms = {} if term is None else {"region_contrast": RegionContrast(network, term)}
    return kind(network, settings, optimiser, terms=terms).train()


def losses_of(m: DACS, source: Batch, target: Batch) -> dict[str, torch.Tensor]:
    return {name: loss for losses in dictionaries(m, source, target) for name, loss in losses.items()}


def seen_by(m: DACS, source: Batch, target: Batch) -> tuple[dict[str, Batch], Taught]:
    """What the student's backward passes are given."""
    found = []
    m.student = lambda batches, taught: found.append((batches, taught)) or iter(())
    m.begin_step(3, 10)
    list(DACS.losses(m, source, target))
    del m.student
    return found[0]


# ---- the mixed pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["labelled", "positive", "pixels"])
def test_the_weight_of_a_mixed_picture_and_its_loss_are_those_of_the_loop(over):
    """Pixel by pixel: the share of the sure ones among those with a label, and the mean over these."""
    m, source, target = method(replace(PLAIN, mixed_over=over), term=None), batch(1), batch(2)
    valid = torch.ones(3, H, W, dtype=torch.bool)
    valid[0, :5], valid[2] = False, False
    target = target._replace(valid=valid)
    batches, taught = seen_by(m, source, target)
    sure, y = taught.mixed_sure.numpy(), batches["mixed"].label.numpy()
    with torch.no_grad():
        P_m = up(m.segmenter(batches["mixed"].image).logits).log_softmax(1).double().numpy()
    total, counted = 0.0, 0
    for n in range(3):
        labelled = [(i, j) for i, j in np.ndindex(H, W) if sure[n, i, j] > 0]
        eta = sum(sure[n, i, j] >= 0.3 for i, j in labelled) / max(1, len(labelled))
        assert 0 < eta < 1
        total += sum(-eta * P_m[n, y[n, i, j], i, j] for i, j in labelled)
        counted += H * W if over == "pixels" else len(labelled)
    found = losses_of(m, source, target)
    close(found["mixed"], total / counted, LOSS)
    assert (counted == 3 * H * W) == (over == "pixels")


def test_confidences_are_those_of_the_pixels_that_are_mixed():
    """From the next unlabelled picture, or 1 where a labelled pixel was pasted; 0 where a pixel does not count."""
    source, target = batch(1), batch(2)
    valid = torch.rand(3, H, W, generator=torch.Generator().manual_seed(1)) < 0.8
    target = target._replace(valid=valid)
    unmixed = DACSSettings(**QUIET, mixing=MixingSettings(unmixed=1.0))
    for kind, settings in ((ClassMix, ClassMixSettings(**QUIET)), (ClassMix, ClassMixSettings(**QUIET, mix_from="labelled")),
                           (DACS, DACSSettings(**QUIET)), (DACS, unmixed)):  # fmt: skip
        m = method(settings, kind, term=None)
        batches, taught = seen_by(m, source, target)
        with torch.no_grad():
            p = up(m.teacher(target.image).logits).softmax(1).amax(1) * valid
        unlabelled = kind is ClassMix and settings.mix_from == "unlabelled"
        pasted = p.roll(-1, 0) if unlabelled else torch.ones_like(p)
        x_S = target.image.roll(-1, 0) if unlabelled else source.image
        M = (batches["mixed"].image == x_S).all(1)
        close(taught.mixed_sure, torch.where(M, pasted, p), bound(roundings(m.segmenter), torch.float32, 10.0))
        assert M.any() == (settings.mixing.unmixed < 1) and (taught.mixed_sure == 0).any()


def test_a_pixel_whose_loss_is_exactly_0_is_no_part_of_the_released_mean():
    """A student that is surer than float32 can say; the share of such pixels is what the two means differ by."""
    source, target = batch(1), batch(2)
    found, zero = {}, None
    for over in ("labelled", "positive"):
        m = method(replace(PLAIN, mixed_over=over), term=None)
        m.begin_step(3, 10)
        with torch.no_grad():
            m.segmenter.classifier.weight.mul_(60)  # the student alone
        m.begin_step = lambda *_: None
        batches, _ = seen_by(m, source, target)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(up(m.segmenter(batches["mixed"].image).logits), batches["mixed"].label,
                                                       reduction="none")  # fmt: skip
        zero = (losses == 0).float().mean()
        m.place = (3, 0)
        found[over] = losses_of(m, source, target)["mixed"]
    assert 0.05 < zero < 0.95
    close(found["positive"] * (1 - zero), found["labelled"], bound(4000, torch.float32, found["positive"].item()))


def test_nothing_with_a_label_is_0_with_a_finite_gradient():
    source, target = batch(1), batch(2)._replace(valid=torch.zeros(3, H, W, dtype=torch.bool))
    source.label.fill_(255)
    m = method()
    found = losses_of(m, source, target)
    sum(found.values()).backward()
    assert all(loss.item() == 0 for loss in found.values()) and set(found) == set(LOSSES)
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)


def test_without_contrast_and_with_another_weight_it_is_classmix():
    labels = LabelWeightSettings("power")
    own = method(replace(PLAIN, labels=labels, mixed_over="pixels"), term=None)
    other = method(ClassMixSettings(**QUIET, labels=labels), ClassMix, term=None)
    a, b = losses_of(own, batch(1), batch(2)), losses_of(other, batch(1), batch(2))
    assert {name: loss.item() for name, loss in a.items()} == {name: loss.item() for name, loss in b.items()}


# ---- the losses -----------------------------------------------------------------------------------------------------


def test_all_losses_are_one_backward_pass():
    assert [set(losses) for losses in dictionaries(method(), batch(1), batch(2))] == [set(LOSSES)]
    assert [set(losses) for losses in dictionaries(method(term=None), batch(1), batch(2))] == [{"segmentation"}, {"mixed"}]


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_finite_and_not_0_and_reaches_the_encoder(name):
    m = method()
    loss = losses_of(m, batch(1), batch(2))[name]
    slopes = torch.autograd.grad(loss, [*m.segmenter.stem.parameters()], allow_unused=True, materialize_grads=True)
    assert loss.isfinite() and loss > 0 and all(s.isfinite().all() for s in slopes) and any((s != 0).any() for s in slopes)


def trained(steps: int = 2, **how) -> torch.Tensor:
    m = method(**how)
    loaders = {"source": [batch(k) for k in range(steps)], "target": [batch(10 + k) for k in range(steps)]}
    train(m, loaders, LoopSettings(steps=steps, warmup=0, log_every=1), quiet=True)
    return torch.cat([p.detach().flatten() for p in m.segmenter.skip.parameters()])


def test_each_loss_moves_the_encoder_and_can_be_switched_off():
    whole = trained()
    off = bound(10**4, torch.float32, 1.0)
    for how in ({"settings": replace(PLAIN, lambda_mix=0.0)}, {"term": replace(FEW, weight=0.0)}, {"term": None}):
        assert far(trained(**how), whole, 10 * off.value), how
    close(trained(term=replace(FEW, weight=0.0)), trained(term=None), off)  # one backward pass, or two


# ---- the result -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("reco")
    options = {"size": (32, 64), "workers": 1, "progress": False}
    one, other = (ministreet.make("cityscapes", root / name, 4, k, **options) for k, name in enumerate(("labelled", "rest")))
    ministreet.make("cityscapes", root / "val", 2, 3, split="val", **options)
    return Pair(f"cityscapes:{one}", f"cityscapes:{other}", f"cityscapes:{root / 'val'}@val")


def small_recipe(*more: str):
    size = "64x32"
    return recipe("ministreet", "reco").override(
        "network=small", "network_options={'width': 8}", "batch_size=2", "start_steps=0", f"source_size={size}",
        f"target_size={size}", f"test_size={size}", "steps=5", "warmup=0", "log_every=1", "save_every=2", "lr=0.01",
        "select=last", "scored=teacher", "queries=4", "negatives=4", "weighting=picture", "threshold=0.1",
        "weak_threshold=0.05", *more,
    )  # fmt: skip


def test_the_teacher_is_what_a_run_leaves(pictures, tmp_path, monkeypatch):
    """It is compared in the choice of a checkpoint, and what a file is loaded as, and a later stage's start."""
    compared, evaluate = [], choice.evaluate
    monkeypatch.setattr(choice, "evaluate", lambda net, *rest, **how: compared.append(net) or evaluate(net, *rest, **how))
    chosen = small_recipe("select=target-labels")
    best = train_recipe(chosen, pictures, tmp_path / "run", quiet=True)
    content = load_checkpoint(best)
    teacher = {name.removeprefix("teacher.module."): value for name, value in content["method"].items()
               if name.startswith("teacher.module.")}  # fmt: skip
    network, _ = load_network(best)
    start = take_network(best, chosen)
    for name, value in teacher.items():
        assert torch.equal(network.state_dict()[name], value) and torch.equal(start[name], value)
    assert content["scored"] == "teacher" and far(teacher["classifier.weight"], content["segmenter"]["classifier.weight"], 1e-6)
    last = load_checkpoint(tmp_path / "run" / "last.pt")["method"]["teacher.module.classifier.weight"]
    assert len(compared) == 3 and torch.equal(compared[0].classifier.weight, last), "the network that goes on learning"
    assert len({id(network) for network in compared}) == 1 and not compared[0].classifier.weight.requires_grad


def test_a_setting_says_which_network_a_run_leaves(pictures, tmp_path):
    """On small pairs the one that learns; both are trained alike."""
    assert recipe("ministreet_few_labels", "reco").settings.scored == "segmenter"
    assert recipe("cityscapes_few_labels", "reco").settings.scored == "teacher", "as published"
    left = {}
    for scored in ("segmenter", "teacher"):
        best = train_recipe(small_recipe(f"scored={scored}"), pictures, tmp_path / scored, quiet=True)
        content = load_checkpoint(best)
        left[scored] = load_network(best)[0].state_dict()
        own = content["segmenter"] if scored == "segmenter" else {
            name.removeprefix("teacher.module."): value for name, value in content["method"].items()}  # fmt: skip
        assert all(torch.equal(value, own[name]) for name, value in left[scored].items())
    assert far(left["teacher"]["classifier.weight"], left["segmenter"]["classifier.weight"], 1e-6)
    with pytest.raises(ValueError, match="scored=student does not fit; scored wants one of teacher, segmenter"):
        small_recipe("scored=student")


def test_other_methods_leave_the_student(pictures, tmp_path):
    chosen = recipe("ministreet", "classmix")
    keys = ("network=small", "network_options={'width': 8}", "batch_size=2", "start_steps=0", "source_size=64x32", "steps=2",
            "target_size=64x32", "test_size=64x32", "select=last", "warmup=0")  # fmt: skip
    best = train_recipe(chosen.override(*keys), pictures, tmp_path / "run", quiet=True)
    content = load_checkpoint(best)
    assert content["scored"] == "segmenter"
    assert torch.equal(load_network(best)[0].classifier.weight, content["segmenter"]["classifier.weight"])
    del content["scored"]  # as earlier versions wrote it
    torch.save(content, tmp_path / "old.pt")
    assert torch.equal(load_network(tmp_path / "old.pt")[0].classifier.weight, content["segmenter"]["classifier.weight"])


def test_a_run_that_is_stopped_and_resumed_is_the_run(pictures, tmp_path):
    _, log = whole_and_parts(small_recipe(), pictures, tmp_path)
    assert all(f'"{name}"' in log for name in LOSSES)


# ---- processes ------------------------------------------------------------------------------------------------------


def part() -> dict:
    """One process's half of four labelled and four other pictures, two steps."""
    m = method()
    loaders = {"source": [own_part(batch(k, 4)) for k in (1, 2)], "target": [own_part(batch(k, 4)) for k in (3, 4)]}
    log = train(m, loaders, LoopSettings(steps=2, warmup=0, log_every=1), quiet=True)
    return {"losses": [record["losses"] for record in log.records], "state": m.state_dict()}


def test_two_processes_are_one(tmp_path):
    two, one = together(part, tmp_path), part()
    rounding = 3 * (bound(roundings(small(C, width=8)), torch.float32, 20.0).value + LOSS.value)
    for process in two:
        for ours, wanted in zip(process["losses"], one["losses"], strict=True):
            assert set(ours) == set(LOSSES) and all(abs(ours[name] - wanted[name]) <= rounding for name in LOSSES)
    assert all(torch.equal(value, two[1]["state"][key]) for key, value in two[0]["state"].items())


# ---- settings -------------------------------------------------------------------------------------------------------


def test_the_published_constants():
    chosen = recipe("gta5_cityscapes", "reco")
    term, s, o = chosen.terms["region_contrast"], chosen.settings, chosen.optimiser
    assert (term.queries, term.negatives, term.contrast_temperature, term.weight) == (256, 512, 0.5, 1.0)
    assert (term.weak_threshold, term.strong_threshold, term.hidden, term.out) == (0.7, 0.97, 256, 256)
    assert (s.labels.weighting, s.labels.threshold, s.mixed_over, s.teacher.alpha) == ("picture", 0.97, "positive", 0.99)
    assert (o.optimiser, o.lr, o.nesterov, o.momentum, o.weight_decay, o.head_factor) == ("sgd", 2.5e-3, True, 0.9, 5e-4, 1.0)
    assert (chosen.crop, chosen.batch_size, chosen.loop.steps, chosen.loop.power) == ((512, 512), 2, 40_000, 0.9)
    assert (s.mixed_photometric, s.mixed_blur, chosen.photometric, chosen.flip) == ("jitter", 0.5, "jitter", True)


def test_a_step_of_the_published_method_at_full_depth():
    """ResNet-101, DeepLabV3+, with fewer cells drawn and small pictures, 19 classes."""
    chosen = recipe("gta5_cityscapes", "reco").override("network_options={'imagenet': False}", "queries=8", "negatives=8")
    m = build_method(chosen, seeded_segmenter(chosen))
    assert len([name for name in m.segmenter.state_dict() if name.endswith("conv3.weight")]) == 33 == 3 + 4 + 23 + 3
    assert m.terms["region_contrast"].project[0].weight.shape == (256, 304, 3, 3)
    g = torch.Generator().manual_seed(0)
    image, label = torch.randn(4, 3, 64, 64, generator=g), torch.randint(0, 19, (4, 64, 64), generator=g)
    halves = {"source": slice(0, 2), "target": slice(2, 4)}
    streams = {name: [Batch(image[own], label[own], ["a.png", "b.png"])] for name, own in halves.items()}
    log = train(m, streams, replace(chosen.loop, steps=1, schedule_steps=1, log_every=1), quiet=True)
    assert set(log.records[0]["losses"]) == set(LOSSES) and log.records[0]["losses"]["region_contrast.contrast"] > 1


def test_nesterov_reaches_the_optimiser_and_wants_a_momentum():
    network = small(C, width=8)
    made = ReCo(network, PLAIN, OptimiserSettings(nesterov=True)).optimisers["segmenter"]
    assert made.param_groups[0]["nesterov"] and not method().optimisers["segmenter"].param_groups[0]["nesterov"]
    for wrong in ({"momentum": 0.0}, {"optimiser": "adamw"}):
        with pytest.raises(ValueError, match="nesterov goes with optimiser=sgd and a momentum; got .*Leave nesterov out"):
            OptimiserSettings(nesterov=True, **wrong)


def test_a_recipe_without_nesterov_is_the_recipe_of_before():
    """Starts and scores that were kept are found by it."""
    chosen = recipe("ministreet", "dacs").override("optimiser=sgd")
    assert "nesterov" not in chosen.identity()["optimiser"]
    assert chosen.override("nesterov=yes").identity()["optimiser"]["nesterov"] is True


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="mixed_over.*'all', wanted.*labelled"):
        ReCoSettings(mixed_over="all")
    with pytest.raises(ValueError, match="mixes two unlabelled pictures"):
        losses_of(method(), batch(1, n=1), batch(2, n=1))
    with pytest.raises(ValueError, match="region_contrast reads the predictions of source and mixed and teacher; source-only"):
        recipe("ministreet", "source-only").override("terms=region_contrast")
