"""SePiCo's contrast in a step of DACS: values against the equations, memory, projectors, gradients, switches, state, cost."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.data import Batch
from course_lib.engine.loop import backward_passes
from course_lib.engine.precision import Precision
from course_lib.experiments.compute import training_cost
from course_lib.experiments.estimate import training_memory
from course_lib.losses import bank_contrast, distribution_contrast, label_down, prototype_contrast, uniform_regulariser
from course_lib.methods import DACS, OptimiserSettings, SourceOnly
from course_lib.methods.step import Passes
from course_lib.methods.terms.distribution_contrast import DistributionContrast, DistributionContrastSettings
from course_lib.networks import HRDA, build, small
from course_lib.pseudo_labels.weights import LabelWeightSettings
from course_lib.recipes import recipe
from course_lib.teacher import TeacherSettings
from tests.bounds import bound, close, far, roundings
from tests.methods.test_daformer_terms import PLAIN, C, H, W, batch
from tests.networks.test_hrda import Means
from tests.processes import own_part, together

OUT = 6
KINDS = ("distribution", "prototype", "bank")
QUIET = DistributionContrastSettings(loss_from=0, projector_hidden=8, projector_out=OUT, bank_length=3,
                                     target_photometric="none", target_blur=0.0)  # fmt: skip
LOSSES = ("source", "target", "regulariser")


def method(settings: DistributionContrastSettings = QUIET, network=None, **changes) -> DACS:
    """DACS with the term alone; always the same weights. Half of the target pixels count, more or less."""
    torch.manual_seed(0)
    segmenter = network or small(C, width=8)
    with torch.no_grad():
        getattr(segmenter, "segmenter", segmenter).classifier.weight.mul_(5)  # some pixels are sure
    term = DistributionContrast(segmenter, settings)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    threshold = LabelWeightSettings("threshold", threshold=0.5)
    chosen = replace(PLAIN, labels=threshold, **changes)
    return DACS(segmenter, chosen, optimiser, terms={"distribution_contrast": term}).train()


def term_of(m: DACS) -> DistributionContrast:
    return m.terms["distribution_contrast"]


def step(m: DACS, number: int = 3, source: Batch | None = None, target: Batch | None = None) -> dict[str, torch.Tensor]:
    """The term's losses in one step."""
    found = {}
    for part in (m, m.terms):
        part.begin_step(number, 10)
    for losses in m.losses(source=source or batch(1), target=target or batch(2)):
        found |= {name.partition(".")[2]: loss for name, loss in losses.items() if "." in name}
    return found


def rounding(m: DACS, tau: float = 0.1, size: float = 1.0):
    """Features of the network and the projector, products over tau and tau^2, means over cells."""
    times = 4 / tau + 2 / tau**2
    return bound(roundings(m.segmenter) + roundings(term_of(m).projector), torch.float32, size * times) + bound(
        2 * H * W, torch.float32, 10.0
    )


def teachers_features(m: DACS, image: torch.Tensor) -> torch.Tensor:
    """g'(F'(x)) in copies, so that no running statistics change."""
    network, projector = copy.deepcopy(m.teacher), copy.deepcopy(term_of(m).teacher)
    with torch.no_grad():
        return projector(network(image).pyramid)


def pooled(*batches: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
    """numpy's count, mean and variance of the features (N, D, h, w) with labels (N, h, w)."""
    x = np.concatenate([z.double().permute(0, 2, 3, 1).flatten(0, 2).numpy() for z, _ in batches])
    y = np.concatenate([y.flatten().numpy() for _, y in batches])
    own = [x[y == c] for c in range(C)]
    nothing = np.zeros(OUT)
    return {"count": np.array([len(v) for v in own]), "mean": np.stack([v.mean(0) if len(v) else nothing for v in own]),
            "variance": np.stack([v.var(0) if len(v) else nothing for v in own])}  # fmt: skip


def cells_of(label: torch.Tensor) -> torch.Tensor:
    return label_down(label, (H // 4, W // 4), C, 0.75)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", ["uniform", "released"])
def test_its_losses_are_the_equations(kind, sign):
    m = method(replace(QUIET, kind=kind, regulariser_sign=sign, regulariser=0.5))
    twin, found = copy.deepcopy(m), step(m)
    assert tuple(found) == LOSSES and all(loss.dtype == torch.float32 for loss in found.values())
    z, y_S = teachers_features(m, batch(1).image), cells_of(batch(1).label)
    memory = pooled((z, y_S))
    means, variances = (torch.tensor(memory[name]) for name in ("mean", "variance"))
    taught = twin.labeller(twin.teacher(batch(2).image).resized((H, W)))
    y_T = cells_of(torch.where(taught[1] > 0, taught[0], 255))
    assert 0.1 < (y_T == 255).float().mean() < 0.9
    total = 0.0
    for name, image, y in (("source", batch(1).image, y_S), ("target", batch(2).image, y_T)):
        q = term_of(twin).projector(twin.segmenter(image).pyramid).double()
        wanted = {
            "distribution": lambda q=q, y=y: distribution_contrast(q, y, means, variances, 0.1),
            "prototype": lambda q=q, y=y: prototype_contrast(q, y, means, 0.1),
            "bank": lambda q=q, y=y: bank_contrast(q, y, means[:, None], torch.ones(C, 1, dtype=torch.bool), 0.1),
        }[kind]()
        close(found[name], wanted, rounding(m), what=name)
        total = total + 0.5 * uniform_regulariser(q, y, means, 0.1, released=sign == "released")
    close(found["regulariser"], total, rounding(m))
    assert (found["regulariser"] > 0) == (sign == "uniform")


def test_without_its_weight_there_is_no_regulariser():
    assert tuple(step(method(replace(QUIET, regulariser=0.0)))) == LOSSES[:2]


def test_at_the_released_temperature_it_stays_at_ln_c():
    """Features without negative numbers, of unit length: within 0.0101 of ln 5."""
    for kind in KINDS:
        m = method(replace(QUIET, kind=kind, contrast_temperature=100.0))
        first, later = (step(m, number, batch(number), batch(9)) for number in (3, 4))
        for name in LOSSES[:2]:
            assert abs(first[name] - math.log(C)) < 0.0101 and abs(later[name] - math.log(C)) < 0.0101
    one, other = (step(method(), 3, batch(seed))["source"] for seed in (1, 5))
    assert far(one, other, 0.02)


# ---- the memory -----------------------------------------------------------------------------------------------------


def test_the_memory_is_fed_from_step_0_and_the_losses_begin_later():
    m, seen = method(replace(QUIET, loss_from=2)), []
    for number in range(4):
        source, target = batch(10 + number), batch(20 + number)
        found = step(m, number, source, target)
        assert tuple(found) == (LOSSES if number >= 2 else ())
        seen.append((teachers_features(m, source.image), cells_of(source.label)))
        wanted = pooled(*seen)
        for name, value in wanted.items():
            close(getattr(term_of(m).statistics, name), value, rounding(m), what=name)
        assert np.array_equal(term_of(m).statistics.count.numpy(), wanted["count"])


def test_what_it_remembers_is_the_teachers_of_the_plain_source():
    m = method()
    step(m, 0)
    with torch.no_grad():
        for p in (*m.segmenter.parameters(), *term_of(m).projector.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    fresh = copy.deepcopy(term_of(m).statistics)
    for value in term_of(m).statistics.state_dict().values():
        value.zero_()
    plain = batch(7).image
    step(m, 5, batch(1)._replace(plain=plain))
    wanted = pooled((teachers_features(m, plain), cells_of(batch(1).label)))
    close(term_of(m).statistics.mean, wanted["mean"], rounding(m))
    student = pooled((term_of(m).projector(m.segmenter(plain).pyramid).detach(), cells_of(batch(1).label)))
    assert far(term_of(m).statistics.mean, student["mean"], 0.01) and far(fresh.mean, wanted["mean"], 0.01)


def test_the_bank_keeps_the_centroids_of_the_last_batches():
    m, entered = method(replace(QUIET, kind="bank")), [0] * C
    for number in range(5):
        source = batch(10 + number)
        step(m, number, source)
        new = pooled((teachers_features(m, source.image), cells_of(source.label)))
        for c in new["count"].nonzero()[0]:
            close(term_of(m).queue.centroids[c, entered[c] % 3], new["mean"][c], rounding(m))
            entered[c] += 1
    assert term_of(m).queue.there.all() and term_of(m).queue.entered.tolist() == entered and max(entered) == 5
    released = term_of(method(replace(QUIET, kind="bank", zero_start=True))).queue
    assert released.seen.all() and not released.centroids.any()
    assert term_of(method()).queue is None


# ---- the teacher's projector ----------------------------------------------------------------------------------------


def test_the_teachers_projector_follows_at_the_methods_rate_once_a_step():
    m, alpha = method(teacher=TeacherSettings(alpha=0.6)), 0.6
    student, own = term_of(m).projector, term_of(m).teacher
    weight, wanted = student.layers[0].weight, None
    for number in range(4):
        with torch.no_grad():
            weight.fill_(1.0 + number)
        a = min(1 - 1 / (number + 1), alpha)
        wanted = a * (wanted or 0.0) + (1 - a) * (1.0 + number)
        for part in (m, m.terms):
            part.begin_step(number, 10)
        for seed in (1, 5):  # two batches of one step
            for _ in m.losses(source=batch(seed), target=batch(2)):
                pass
            close(own.module.layers[0].weight, torch.full_like(weight, wanted), bound(8, torch.float32, 4.0))
    assert own.settings == m.teacher.settings and not any(p.requires_grad for p in own.parameters())


def test_the_teachers_projector_normalises_as_the_teacher_does():
    for normalisation, training in (("batch", True), ("running", False)):
        m = method(teacher=TeacherSettings(teacher_normalisation=normalisation))
        step(m, 0)
        norms = [layer for layer in term_of(m).teacher.modules() if isinstance(layer, torch.nn.SyncBatchNorm)]
        assert len(norms) == 2 and all(layer.training == training for layer in norms)


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_teaches_the_encoder_and_the_projector(kind, loss):
    m = method(replace(QUIET, kind=kind))
    encoder = [p for part in (m.segmenter.stem, m.segmenter.skip, m.segmenter.deep) for p in part.parameters()]
    projector = list(term_of(m).projector.parameters())
    gradients = torch.autograd.grad(step(m)[loss], [*encoder, *projector], allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert sum(bool(g.any()) for g in gradients[: len(encoder)]) > len(encoder) // 2
    assert all(g.any() for g in (gradients[len(encoder)], gradients[-1]))


def test_it_does_not_change_what_the_method_computes():
    def whole(m: DACS) -> dict[str, torch.Tensor]:
        for part in (m, m.terms):
            part.begin_step(3, 10)
        return {name: loss for losses in m.losses(source=batch(1), target=batch(2)) for name, loss in losses.items()}

    alone = method()
    del alone.terms["distribution_contrast"]
    alone, both = whole(alone), whole(method(replace(QUIET, target_photometric="jitter", target_blur=1.0)))
    assert all(torch.equal(alone[name], both[name]) for name in ("segmentation", "mixed")) and len(both) == len(alone) + 3


def test_pixels_without_a_weight_do_not_count():
    left = torch.arange(W).expand(2, H, W) < W // 2
    m, kept = method(replace(QUIET, regulariser=0.0)), []

    def keep(module, inputs, z):
        z.retain_grad()
        kept.append(z)

    term_of(m).projector.register_forward_hook(keep)
    step(m, 3, target=batch(2)._replace(valid=left))["target"].backward()
    g = kept[1].grad.abs().sum(1)  # of z_T
    assert g[:, :, : W // 8].any() and not g[:, :, W // 8 :].any() and kept[0].grad is None
    m = method()
    nothing = step(m, 3, target=batch(2)._replace(valid=torch.zeros_like(left)))
    assert nothing["target"].item() == 0 and nothing["source"].item() > 0
    gradients = torch.autograd.grad(nothing["target"], list(term_of(m).projector.parameters()))
    assert not any(g.any() for g in gradients)


# ---- formats, processes, state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_inside_autocast_losses_and_memory_are_float32(kind):
    m = method(replace(QUIET, kind=kind))
    for part in (m, m.terms):
        part.begin_step(3, 10)
    passes = backward_passes(m, {"source": batch(1), "target": batch(2)}, Precision("bf16"))
    found = {name: loss for losses in passes for name, loss in losses.items() if "." in name}
    wanted = step(method(replace(QUIET, kind=kind)))
    for name, loss in found.items():
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert abs(loss - wanted[name.partition(".")[2]]) < 0.15 * wanted[name.partition(".")[2]]
    assert term_of(m).statistics.mean.dtype == torch.float64


def of_part(kind: str) -> dict[str, torch.Tensor]:
    m, found = method(replace(QUIET, kind=kind)), {}
    source, target = own_part(batch(1, 4)), own_part(batch(2, 4))
    for number in (0, 1):
        losses = step(m, number, source, target)
    sum(losses.values()).backward()
    found |= {f"loss.{name}": loss.detach() for name, loss in losses.items()}
    found["gradient"] = m.segmenter.skip.conv1.weight.grad
    found["projector"] = term_of(m).projector.layers[0].weight.grad
    found |= {f"memory.{name}": value for name, value in term_of(m).statistics.state_dict().items()}
    if kind == "bank":
        found["memory.centroids"] = term_of(m).queue.centroids
    return found


def all_kinds() -> dict[str, torch.Tensor]:
    return {f"{kind}.{name}": value for kind in KINDS for name, value in of_part(kind).items()}


def test_two_processes_are_one(tmp_path):
    whole, parts = all_kinds(), together(all_kinds, tmp_path)
    for name, wanted in whole.items():
        if ".memory." in name:
            assert torch.equal(parts[0][name], parts[1][name]), name
            close(parts[0][name], wanted, rounding(method()), what=name)
        else:
            size = 1 + float(wanted.abs().max())
            close((parts[0][name] + parts[1][name]) / 2, wanted, rounding(method(), size=size), what=name)


# ---- networks and cost ----------------------------------------------------------------------------------------------


def test_it_works_on_two_resolutions():
    torch.manual_seed(0)
    m = method(network=HRDA(small(C, width=8), 8))
    found = step(m)
    sum(found.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in found.values())
    assert term_of(m).statistics.count.sum() > 0 and m.segmenter.draws == 2, "the target's encoder draws no window"


def test_it_works_on_the_published_networks():
    """On the meta device: shapes, as an estimate of memory has them."""
    last = {"projector_hidden": 2048, "projector_maps": "last"}
    for name, options, changes in (("mit", {"size": "b0"}, {}), ("deeplab_v2", {"blocks": (1, 1, 1, 1)}, last)):
        with torch.device("meta"):
            network = build(name, C, **options)
            term = DistributionContrast(network, DistributionContrastSettings(**changes))
            pyramid = network.pyramid(torch.zeros(2, 3, 64, 128))
            z = term.projector(pyramid)
        assert z.shape == (2, 512, *pyramid[0 if name == "mit" else -1].shape[2:])


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_of_memory_has_its_losses(kind):
    plain = recipe("ministreet", "dacs").override("network=small", "network_options={'width': 16}")
    with_term = plain.override("terms=distribution_contrast", f"terms.distribution_contrast.kind={kind}", "loss_from=0")
    memory, without = (training_memory(chosen) for chosen in (with_term, with_term.override("loss_from=1000000")))
    assert memory > without + 2**20 > training_memory(plain) + 2**20


def test_passes_are_those_that_a_step_makes():
    m, seen = method(), {"student": 0, "teacher": 0}

    def count(key):
        return lambda *_: seen.update({key: seen[key] + 1})

    maps = dict.fromkeys(seen, 0)  # a whole pass makes the encoder's maps, too

    def counted(key, pyramid):
        return lambda image: maps.update({key: maps[key] + 1}) or pyramid(image)

    for key, network in (("student", m.segmenter), ("teacher", m.teacher.module)):
        network.register_forward_pre_hook(count(key))
        network.pyramid = counted(key, network.pyramid)
    step(m)
    assert seen == {"student": 2, "teacher": 1}, "source, mixed; target: the term's are of the encoder alone"
    alone = {key: maps[key] - seen[key] for key in seen}
    assert term_of(m).passes() == Passes(trained=0, frozen=0, encoded=alone["teacher"] + 3 * alone["student"])
    plain = recipe("ministreet", "dacs").override("network=small", "network_options={'width': 16}", "steps=10")
    assert training_cost(plain.override("terms=distribution_contrast")) == training_cost(plain) + 10 * 4


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_errors_say_what_came_and_what_was_wanted():
    class Flat(Means):
        pyramid_channels = ()

    with pytest.raises(ValueError, match="distribution_contrast reads the encoder's maps, and Flat gives none"):
        DistributionContrast(Flat())
    segmenter = small(C, width=8)
    with pytest.raises(ValueError, match="reads the predictions of source and teacher; source-only offers source"):
        SourceOnly(segmenter, terms={"distribution_contrast": DistributionContrast(segmenter)})
    for wrong, words in (
        ({"contrast_temperature": 0.0}, "contrast_temperature is 0.0; it wants a number from 1e-06"),
        ({"kind": "queue"}, "distribution_contrast.kind: it holds 'queue', wanted one of 'distribution', 'prototype', 'bank'"),
        ({"regulariser_sign": "minus"}, "regulariser_sign: it holds 'minus', wanted one of 'uniform', 'released'"),
        ({"loss_from": -1}, "loss_from is -1; it wants a whole number from 0"),
        ({"cell_share": 0.0}, "cell_share is 0.0; it wants a number from 0.01"),
        ({"bank_length": 0}, "bank_length is 0; it wants a whole number from 1"),
        ({"horizon": 0}, "horizon is 0; it wants a whole number from 1"),
        ({"target_blur": 2.0}, "target_blur is 2.0; it wants a number from 0.0 to 1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            DistributionContrastSettings(**wrong)
