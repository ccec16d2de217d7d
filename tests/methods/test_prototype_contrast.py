"""ProCA's and BiDA's losses as a term of DACS: values by loops, what they read, switches, cost, errors."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from course_lib.data import Batch
from course_lib.losses.prototype import labels_at
from course_lib.methods import DACS, BiDASettings, DACSSettings, OptimiserSettings, ProCASettings, SourceOnly
from course_lib.methods.step import Passes
from course_lib.methods.terms.prototype_contrast import PrototypeContrast, PrototypeContrastSettings
from course_lib.networks import small
from course_lib.prototypes import PrototypeBank
from course_lib.pseudo_labels.weights import LabelWeightSettings
from tests.bounds import bound, close, far
from tests.oracles import bidirectional, prototypes

C, H, W = 5, 32, 64
SURE = 0.6
GRID = (H // 4, W // 4)
PLAIN = DACSSettings(mixed_photometric="none", mixed_blur=0.0, labels=LabelWeightSettings("threshold", threshold=SURE))
UNCHANGED = {"target_photometric": "none", "target_blur": 0.0}
# prototypes of up to 256 cells and cosines of 8 channels over tau = 0.1, both in two places; means of 4096 losses below 20
LOSS = bound(256 + 40, torch.float32, 2 / 0.1) + bound(2 * H * W, torch.float32, 20.0)


def batch(seed: int, n: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (n, H, W), generator=generator)
    label[0, : H // 4] = 255
    image, plain = (torch.randn(n, 3, H, W, generator=generator) for _ in range(2))
    return Batch(image, label, [f"{seed}_{i}.png" for i in range(n)], plain)


def method(settings: DACSSettings = PLAIN, network=None, **term) -> DACS:
    torch.manual_seed(0)
    segmenter = network or small(C, width=8)
    with torch.no_grad():
        segmenter.classifier.weight.mul_(5)  # some pixels are sure
        getattr(segmenter, "segmenter", segmenter).fuse[1].bias.fill_(1.0)  # no feature is 0: the oracles want a direction
    built = PrototypeContrast(segmenter, PrototypeContrastSettings(**UNCHANGED | term))
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    m = DACS(segmenter, settings, optimiser, terms={built.name: built}).train()
    with torch.no_grad():
        for p in m.segmenter.parameters():  # away from the teacher
            p.add_(0.05 * torch.randn(p.shape))
    return m


def step(m: DACS, number: int = 3, source: Batch | None = None, target: Batch | None = None) -> dict[str, torch.Tensor]:
    """The term's losses."""
    for part in (m, m.terms):
        part.begin_step(number, 10)
    return losses(m, source or batch(1), target or batch(2))


def losses(m: DACS, source: Batch, target: Batch) -> dict[str, torch.Tensor]:
    found = next(m.losses(source=source, target=target))
    return {name.partition(".")[2]: loss for name, loss in found.items() if name.startswith("prototype_contrast.")}


def seen(m: DACS, source: Batch, target: Batch) -> tuple[dict, dict, torch.Tensor]:
    """What student and teacher of a step say, features and logits by domain; y~."""
    with torch.no_grad():
        student = {"source": m.segmenter(source.image), "target": m.segmenter(target.plain)}
        teacher = {"source": m.teacher(source.plain), "target": m.teacher(target.plain)}
        sure, y = teacher["target"].resized((H, W)).softmax(1).max(1)
        y[sure < SURE] = 255
    assert 0.1 < (y == 255).float().mean() < 0.9 and len(y.unique()) > 3
    return student, teacher, y


def vectors(maps: torch.Tensor) -> list[list[float]]:
    return maps.movedim(1, -1).flatten(0, -2).double().tolist()


def cells(label: torch.Tensor) -> list[int]:
    return labels_at(label, GRID).flatten().tolist()


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner, feed, similarity, tau", [
    ("teacher", "both", "cosine", 0.1), ("teacher", "source", "dot", 5.0), ("student", "both", "cosine", 0.1),
    ("teacher", "target", "cosine", 0.1),
])  # fmt: skip
def test_the_losses_of_proca_are_the_equations(owner, feed, similarity, tau):
    """Prototypes are means over all that was fed in two steps, this step's batch included."""
    m = method(prototypes=owner, feed=feed, similarity=similarity, contrast_temperature=tau)
    fed = {"feat": ([], []), "out": ([], [])}
    for number in (3, 4):
        source, target = batch(number), batch(10 * number)
        for part in (m, m.terms):
            part.begin_step(number, 10)
        student, teacher, y = seen(m, source, target)
        labels = {"source": source.label, "target": y}
        for domain, P in (student if owner == "student" else teacher).items():
            if feed in ("both", domain):
                for space, maps in (("feat", P.features), ("out", P.logits)):
                    fed[space][0].extend(vectors(maps))
                    fed[space][1].extend(cells(labels[domain]))
        found = losses(m, source, target)
    how = {"cosine": prototypes.cosine, "dot": prototypes.dot}[similarity]
    wanted = {}
    for space, (features, known) in fed.items():
        p = prototypes.class_means(features, known, C)
        place = {c: len([k for k in range(c) if p[k]]) if p[c] else 255 for c in range(C)} | {255: 255}  # among those seen
        for domain, P in student.items():
            maps = P.features if space == "feat" else P.logits
            wanted[f"{space}_{domain}"] = prototypes.contrast(
                vectors(maps), [place[y] for y in cells(labels[domain])], [each for each in p if each], tau, how
            )
    assert all(value > 0.1 for value in wanted.values()), wanted
    close({name: found[name].item() for name in wanted}, wanted, LOSS)
    assert found.keys() == wanted.keys()


@pytest.mark.parametrize("owner", ["teacher", "student"])
@pytest.mark.parametrize("pairwise, balanced", [(True, False), (False, True)])
def test_the_losses_of_bida_are_the_equations(owner, pairwise, balanced):
    m = method(kind="bidirectional", prototypes=owner, pairwise=pairwise, balanced=balanced)
    source, target = batch(1), batch(2)
    for part in (m, m.terms):
        part.begin_step(3, 10)
    student, teacher, y = seen(m, source, target)
    own = student if owner == "student" else teacher
    labels = source.label.numpy(), y.numpy()
    arrays = {name: {k: P.features.double().numpy() for k, P in each.items()} for name, each in (("q", student), ("p", own))}

    def contrast(source_features, target_features):
        return bidirectional.contrast(source_features, labels[0], target_features, labels[1], C, 0.1, True, pairwise, balanced)

    wanted = {
        "forward": 0.2 * contrast(arrays["p"]["source"], arrays["q"]["target"])[0],
        "backward": 0.2 * contrast(arrays["q"]["source"], arrays["p"]["target"])[1],
    }
    close({name: loss.item() for name, loss in losses(m, source, target).items()}, wanted, LOSS)
    assert min(wanted.values()) > 0.05


def test_prototypes_of_teacher_and_student_differ_and_so_do_the_losses():
    for kind in ("prototype", "bidirectional"):
        by_owner = [step(method(kind=kind, prototypes=owner)) for owner in ("teacher", "student")]
        assert all(far(by_owner[0][name], by_owner[1][name], 1e-4) for name in by_owner[0]), kind


@pytest.mark.parametrize("rule", ["mean", "ema", "mix"])
def test_the_bank_is_fed_like_procas_and_is_in_the_state(rule):
    m, source, target = method(rule=rule, prototype_momentum=0.7, source_share=0.3), batch(1), batch(2)
    wanted = PrototypeBank(C, 8, rule, "both", 0.7, 0.3)
    for number in (3, 4):
        step(m, number, source, target)
        _, teacher, y = seen(m, source, target)
        wanted.update(teacher["target"].features, labels_at(y, GRID), "target")
        wanted.update(teacher["source"].features, labels_at(source.label, GRID), "source")
    state = m.state_dict()
    for name in ("mean", "count"):
        close(state[f"terms.prototype_contrast.banks.feat.{name}"], getattr(wanted, name), bound(300, torch.float64, 40.0))
    assert state["terms.prototype_contrast.banks.out.mean"].any() and not any(p.requires_grad for p in m.terms.parameters())


def test_pixels_of_weight_0_are_left_out():
    none = replace(PLAIN, labels=LabelWeightSettings("threshold", threshold=1.0))
    found = step(method(none))
    assert {name: loss.item() for name, loss in found.items() if "target" in name} == {"feat_target": 0.0, "out_target": 0.0}
    m, target = method(feed="target"), batch(2)
    half = target._replace(valid=torch.arange(W).expand(2, H, W) < W // 2)
    step(m, target=target)
    losses(m, batch(1), half)  # by the same teacher
    counted = m.terms["prototype_contrast"].banks["feat"].count.sum().item()
    y, q = m.labeller(m.teacher(target.plain).resized((H, W)))
    y = labels_at(torch.where(q > 0, y, 255), GRID)
    assert counted == (y != 255).sum() + (y[..., : GRID[1] // 2] != 255).sum()


def test_online_labels_class_by_class():
    """Part 14: the labels of one step, each class with a threshold of its own."""
    m = method(replace(PLAIN, labels=LabelWeightSettings("class", class_quantile=0.5)))
    found = step(m)
    assert all(loss.isfinite() and loss > 0 for loss in found.values()) and m.labeller.quantiles.moving.any()


def test_at_the_temperature_of_procas_release_the_loss_says_nothing():
    """ln C +- 0.02, whatever the features are; at 0.1 it moves."""
    for tau, moves in ((50.0, False), (0.1, True)):
        for loss in step(method(contrast_temperature=tau)).values():
            assert (abs(loss.item() - math.log(C)) > 2 / 50) == moves, (tau, loss)


# ---- what it sees ---------------------------------------------------------------------------------------------------


def pictures(m: DACS, *batches: Batch) -> dict[str, list[torch.Tensor]]:
    seen = {"student": [], "teacher": []}
    hooks = [
        network.register_forward_pre_hook(lambda module, inputs, name=name: seen[name].append(inputs[0].detach().clone()))
        for name, network in (("student", m.segmenter), ("teacher", m.teacher.module))
    ]
    step(m, 3, *batches)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_teacher_sees_plain_pictures_and_the_student_coloured_ones():
    source, target = batch(1), batch(2)
    found = pictures(method(target_photometric="jitter", target_blur=1.0), source, target)
    assert [torch.equal(x, y) for x, y in zip(found["teacher"], (target.plain, source.plain), strict=True)] == [True] * 2
    first, second = found["student"]
    assert torch.equal(first, source.image) and far(second, target.plain, 1e-3) and far(second, target.image, 1e-3)
    again = pictures(method(target_photometric="jitter", target_blur=1.0), source, target)["student"][1]
    assert torch.equal(again, second), "depends on seed, step and batch alone"
    assert torch.equal(pictures(method(), source, target)["student"][1], target.plain)


@pytest.mark.parametrize("settings, trained, frozen", [
    ({}, 1, 1), ({"prototypes": "student"}, 1, 0), ({"feed": "target"}, 1, 0), ({"kind": "bidirectional"}, 1, 1),
    ({"kind": "bidirectional", "lambda_fc": 0.0}, 1, 0), ({"kind": "bidirectional", "prototypes": "student"}, 1, 0),
])  # fmt: skip
def test_passes_are_those_that_a_step_makes(settings, trained, frozen):
    m = method(**settings)
    found = pictures(m, batch(1), batch(2))
    own = len(found["student"]) - 1, len(found["teacher"]) - 1  # the source; the labels. The mixed picture comes later
    assert m.terms["prototype_contrast"].passes() == Passes(*own) == Passes(trained, frozen)


@pytest.mark.parametrize("settings", [{}, {"prototypes": "student"}, {"kind": "bidirectional"}])
def test_the_gradient_reaches_the_encoder_and_no_teacher(settings):
    m = method(**settings)
    for name, loss in step(m).items():
        gradients = torch.autograd.grad(loss, [*m.segmenter.skip.parameters()], retain_graph=True)
        assert all(g.isfinite().all() for g in gradients) and any(bool((g != 0).any()) for g in gradients), name
    sum(step(m).values()).backward()
    assert all(p.grad is None for p in m.teacher.parameters())


def test_through_prototypes_switches_the_gradient_and_not_the_value():
    values, gradients = [], []
    for through in (True, False):
        m = method(kind="bidirectional", prototypes="student", through_prototypes=through)
        loss = step(m)["forward"]
        values.append(loss.item())
        gradients.append(torch.autograd.grad(loss, m.segmenter.fuse[0].weight)[0])
    assert values[0] == values[1] and far(*gradients, 1e-6)


def test_a_lambda_of_0_leaves_its_loss_out():
    found = step(method(lambda_feat=0.5, lambda_out=0.0))
    whole = step(method())
    assert found.keys() == {"feat_target", "feat_source"}
    assert all(torch.equal(2 * found[name], whole[name]) for name in found)
    assert step(method(kind="bidirectional", lambda_fc=0.0)).keys() == {"backward"}


# ---- settings -------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_methods():
    s = PrototypeContrastSettings()
    proca, bida, dacs = ProCASettings(), BiDASettings(), DACSSettings()
    same = {field.name for field in fields(ProCASettings)} & {field.name for field in fields(s)} - {"contrast_temperature"}
    assert same == {"lambda_feat", "lambda_out", "balanced", "similarity", "rule", "feed", "prototype_momentum", "source_share"}
    assert all(getattr(s, name) == getattr(proca, name) for name in same)
    same = {field.name for field in fields(BiDASettings)} & {field.name for field in fields(s)}
    assert same == {"lambda_fc", "lambda_bc", "overlap_only", "through_prototypes", "pairwise"}
    assert all(getattr(s, name) == getattr(bida, name) for name in same) and s.contrast_temperature == bida.tau
    assert (s.target_photometric, s.target_blur) == (dacs.mixed_photometric, dacs.mixed_blur)


@pytest.mark.parametrize("settings, words", [
    ({"kind": "proca"}, r"terms.prototype_contrast.kind: it holds 'proca', wanted one of 'prototype', 'bidirectional'"),
    ({"prototypes": "both"}, "prototypes: it holds 'both', wanted one of 'student', 'teacher'"),
    ({"rule": "fixed"}, "rule: it holds 'fixed', wanted one of 'mean', 'ema', 'mix'"),
    ({"feed": "none"}, "feed: it holds 'none', wanted one of"),
    ({"similarity": "l2"}, "similarity: it holds 'l2', wanted one of"),
    ({"target_photometric": "loud"}, "target_photometric: it holds 'loud', wanted one of"),
    ({"contrast_temperature": 0.0}, "contrast_temperature is 0.0; it wants a number from 1e-06"),
    ({"contrast_temperature": float("nan")}, "contrast_temperature is nan"),
    ({"target_blur": 2.0}, "target_blur is 2.0; it wants a number from 0.0 to 1.0"),
    ({"prototype_momentum": -0.1}, "prototype_momentum is -0.1"),
    ({"source_share": 1.5}, "source_share is 1.5"),
    ({"lambda_fc": -1.0}, "lambda_fc is -1.0"),
    ({"weight": -1.0}, "weight is -1.0"),
    ({"lambda_feat": 0.0, "lambda_out": 0.0}, "kind='prototype' has lambda_feat=0 and lambda_out=0: no loss is left. Give one"),
    ({"kind": "bidirectional", "lambda_fc": 0.0, "lambda_bc": 0.0}, "has lambda_fc=0 and lambda_bc=0: no loss is left"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        PrototypeContrastSettings(**settings)


def test_a_method_without_a_teacher_is_refused():
    segmenter = small(C, width=8)
    words = "prototype_contrast reads the predictions of source and teacher; source-only offers source"
    with pytest.raises(ValueError, match=words):
        SourceOnly(segmenter, terms={"prototype_contrast": PrototypeContrast(segmenter)})


def test_source_and_target_without_any_label_give_0():
    nothing = batch(1)._replace(label=torch.full((2, H, W), 255))
    unknown = batch(2)._replace(valid=torch.zeros(2, H, W, dtype=torch.bool))
    for settings in ({}, {"balanced": True}, {"kind": "bidirectional"}, {"kind": "bidirectional", "prototypes": "student"}):
        m = method(**settings)
        found = step(m, 3, nothing, unknown)
        sum(found.values()).backward()
        assert all(loss.item() == 0 for loss in found.values()), settings
        assert all(np.isfinite(p.grad.numpy()).all() for p in m.segmenter.parameters() if p.grad is not None)
