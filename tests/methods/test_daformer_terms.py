"""Feature distance and masked consistency in a step of DACS: values against the equations, gradients, switches, state, cost."""

import copy
from dataclasses import replace

import pytest
import torch

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.experiments.compute import step_cost
from course_lib.losses import cross_entropy, label_down
from course_lib.masks import MaskSettings
from course_lib.methods import DACS, DACSSettings, OptimiserSettings, SourceOnly
from course_lib.methods.step import Passes
from course_lib.methods.terms.feature_distance import FeatureDistance, FeatureDistanceSettings
from course_lib.methods.terms.masked_consistency import MaskedConsistency, MaskedConsistencySettings
from course_lib.networks import HRDA, small
from course_lib.pseudo_labels.weights import LabelWeightSettings
from course_lib.recipes import recipe
from tests.bounds import bound, close, far
from tests.networks.test_hrda import Means

C, H, W = 5, 32, 64
PLAIN = DACSSettings(mixed_photometric="none", mixed_blur=0.0, labels=LabelWeightSettings(threshold=0.3))
THINGS = FeatureDistanceSettings(classes=(1, 3))
CELLS = MaskedConsistencySettings(masks=MaskSettings(mask_cell=8, mask_hidden=0.5), masked_photometric="none", masked_blur=0.0)
MEAN = bound(2 * H * W, torch.float32, 20.0)


def batch(seed: int, n: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, C, (n, H // 16, W // 16), generator=generator)
    label = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return Batch(torch.randn(n, 3, H, W, generator=generator), label, [f"{seed}_{i}.png" for i in range(n)])


def method(*names: str, settings: DACSSettings = PLAIN, network=None, **terms) -> DACS:
    torch.manual_seed(0)
    segmenter = network or small(C, width=8)
    with torch.no_grad():
        segmenter.classifier.weight.mul_(5)  # some pixels are sure
    chosen = {"feature_distance": (FeatureDistance, THINGS), "masked_consistency": (MaskedConsistency, CELLS)}
    built = {n: chosen[n][0](segmenter, terms.get(n, chosen[n][1])) for n in names}
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return DACS(segmenter, settings, optimiser, terms=built).train()


def step(m: DACS, number: int = 3) -> dict[str, torch.Tensor]:
    found = {}
    for part in (m, m.terms):
        part.begin_step(number, 10)
    for losses in m.losses(source=batch(1), target=batch(2)):
        found |= losses
    return found


def moved(m: DACS) -> DACS:
    """The segmenter away from the start of the run."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in m.segmenter.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return m


def test_the_distance_is_that_from_the_network_of_the_start():
    m = method("feature_distance")
    start = copy.deepcopy(m.segmenter).eval()
    assert step(m)["feature_distance.distance"].item() == 0
    found = step(moved(m))["feature_distance.distance"]
    x, y = batch(1).image, batch(1).label
    with torch.no_grad():
        now, then = m.segmenter(x).pyramid[-1], start(x).pyramid[-1]
    cells = [(n, i, j) for n in range(2) for i in range(H // 8) for j in range(W // 8) if y[n, 8 * i, 8 * j] in (1, 3)]
    wanted = sum((now[:, :, i, j] - then[:, :, i, j])[n].double().norm().item() for n, i, j in cells) / len(cells)
    assert 0 < len(cells) < 2 * H * W / 64 and wanted > 0.1
    close(found, wanted, bound(16 + len(cells) + 4, torch.float32, 2 * wanted))


def test_at_the_start_its_gradient_is_0_and_later_reaches_the_encoder():
    m = method("feature_distance")
    for change, some in (((lambda n: n), False), (moved, True)):
        loss = step(change(m))["feature_distance.distance"]
        gradients = torch.autograd.grad(loss, [*m.segmenter.deep.parameters()], allow_unused=True)
        assert any(bool((g != 0).any()) for g in gradients) == some and all(g.isfinite().all() for g in gradients)
    assert not any(p.requires_grad for p in m.terms.parameters())


def test_masked_consistency_is_the_mean_over_hidden_and_visible_pixels():
    m = method("masked_consistency")
    seen = {}
    m.segmenter.register_forward_pre_hook(lambda module, inputs: seen.setdefault(len(seen), inputs[0].detach().clone()))
    found = step(m)
    x_M, x_T = seen[2], batch(2).image  # source, mixed, masked
    M = (x_M == x_T).all(1)
    assert ((x_M == 0).all(1) ^ M).all() and 0.2 < M.float().mean() < 0.8
    assert M.view(2, H // 8, 8, W // 8, 8).float().mean((2, 4)).unique().tolist() == [0, 1], "whole cells"
    with torch.no_grad():
        p = torch.nn.functional.interpolate(m.teacher(x_T).logits, (H, W), mode="bilinear", align_corners=True).softmax(1)
        sure, y = p.max(1)
        q = (sure >= 0.3).float().mean()
        wanted = (q * cross_entropy(m.segmenter(x_M).logits, y, reduction="none")).mean()
    assert 0 < q < 1
    close(found["masked_consistency.consistency"], wanted, MEAN)


def test_its_gradient_reaches_the_logits_of_hidden_pixels():
    m, kept = method("masked_consistency"), {}

    def keep(module, inputs, P):
        if len(kept) == 2:
            P.logits.retain_grad()
        kept[len(kept)] = (inputs[0], P)

    m.segmenter.register_forward_hook(keep)
    step(m)["masked_consistency.consistency"].backward()
    image, P = kept[2]
    hidden = (image[:, :, ::4, ::4] == 0).all(1)
    assert hidden.any() and (P.logits.grad.abs().sum(1)[hidden] > 0).all()


def test_neither_changes_what_the_method_computes():
    """Its own random numbers come first."""
    coloured = replace(PLAIN, mixed_photometric="jitter", mixed_blur=0.5)
    alone, both = (step(method(*names, settings=coloured)) for names in ((), ("feature_distance", "masked_consistency")))
    assert all(torch.equal(alone[name], both[name]) for name in ("segmentation", "mixed"))
    assert both.keys() - alone.keys() == {"feature_distance.distance", "masked_consistency.consistency"}
    late = replace(CELLS, first_step=4)
    assert "masked_consistency.consistency" not in step(method("masked_consistency", masked_consistency=late))


def test_masks_and_colours_are_drawn_again_each_step_and_the_same_again():
    strong = replace(CELLS, masked_photometric="jitter", masked_blur=1.0)
    first, again, other = (
        step(method("masked_consistency", masked_consistency=strong), number)["masked_consistency.consistency"]
        for number in (3, 3, 4)
    )
    assert torch.equal(first, again) and far(first, other, 1e-4)
    assert far(first, step(method("masked_consistency"))["masked_consistency.consistency"], 1e-4), "colours of its own"


@pytest.mark.parametrize("name", ["feature_distance", "masked_consistency"])
def test_each_changes_the_encoder_and_a_weight_of_0_does_not(name):
    def weights(*names: str, weight: float) -> torch.Tensor:
        settings = replace({"feature_distance": THINGS, "masked_consistency": CELLS}[name], weight=weight)
        m = method(*names, **{name: settings})
        source, target = (iter(lambda k=k: batch(k), None) for k in (1, 2))
        train(m, {"source": source, "target": target}, LoopSettings(steps=3, warmup=0), quiet=True)
        return torch.cat([p.detach().flatten() for p in m.segmenter.skip.parameters()])

    plain = weights(weight=1.0)
    assert torch.equal(weights(name, weight=0.0), plain) and far(weights(name, weight=10.0), plain, 1e-6)


def test_a_resumed_run_has_the_start_of_the_first():
    m = method("feature_distance")
    moved(m)
    state = copy.deepcopy(m.state_dict())
    other = moved(method("feature_distance"))
    other.load_state_dict(state)
    assert torch.equal(step(other)["feature_distance.distance"], step(m)["feature_distance.distance"])


def test_passes_are_those_that_a_step_makes():
    m, seen = method("feature_distance", "masked_consistency"), {"trained": 0, "frozen": 0, "encoded": 0}

    def count(key):
        return lambda *_: seen.update({key: seen[key] + 1})

    m.segmenter.register_forward_pre_hook(count("trained"))
    m.teacher.module.register_forward_pre_hook(count("frozen"))
    frozen, note = m.terms["feature_distance"].frozen, count("encoded")
    pyramid = frozen.pyramid
    frozen.pyramid = lambda image: note() or pyramid(image)
    step(m)
    stated = [m.passes(), *(term.passes() for term in m.terms.values())]
    assert Passes(*map(sum, zip(*stated))) == Passes(**seen) == Passes(trained=3, frozen=1, encoded=1)


def test_the_cost_of_two_resolutions_is_counted_in_passes_of_one():
    plain = recipe("ministreet", "dacs").override("network=small", "network_options={'width': 16}")
    both = plain.override("network=hrda", "network_options={'of': 'small', 'width': 16, 'attention_width': 16}")
    assert step_cost(plain) == 7 and step_cost(both) == 3 * 2 * 0.5 + 2.5
    terms = "terms=feature_distance,masked_consistency"
    from course_lib.experiments.compute import training_cost

    for chosen, cost in ((plain, 7 + 1 + 3), (both, 5.5 + 0.25 + 1.5)):
        assert training_cost(chosen.override("steps=10", terms)) == 10 * cost


def test_both_work_on_two_resolutions():
    torch.manual_seed(0)
    net = HRDA(small(C, width=8), 8)
    net.classifier = net.segmenter.classifier
    m = method("feature_distance", "masked_consistency", network=net)
    moved(m)
    for part in (m, m.terms):
        part.begin_step(3, 10)
    for losses in m.losses(source=batch(1), target=batch(2)):
        sum(losses.values()).backward()
        assert all(loss.isfinite() and loss > 0 for loss in losses.values()), losses
    assert net.draws == 3, "source, mixed and masked pictures draw a window each"


def test_errors_say_what_came_and_what_was_wanted():
    class Flat(Means):
        pyramid_channels = ()

    with pytest.raises(ValueError, match="feature_distance reads the encoder's maps, and Flat gives none"):
        FeatureDistance(Flat())
    with pytest.raises(ValueError, match=r"classes is \(6, .*, 18\), and the network has 5 classes. Give the train ids"):
        FeatureDistance(small(C, width=8))
    with pytest.raises(ValueError, match=r"classes is \(\); it wants train ids"):
        FeatureDistanceSettings(classes=())
    with pytest.raises(ValueError, match="masked_blur is 2.0; it wants a number from 0.0 to 1.0"):
        MaskedConsistencySettings(masked_blur=2.0)
    segmenter = small(C, width=8)
    with pytest.raises(ValueError, match="masked_consistency reads the predictions of teacher; source-only offers source"):
        SourceOnly(segmenter, terms={"masked_consistency": MaskedConsistency(segmenter)})


def test_an_ignored_source_gives_no_distance():
    m = moved(method("feature_distance"))
    for part in (m, m.terms):
        part.begin_step(3, 10)
    nothing = batch(1)._replace(label=torch.full((2, H, W), 255))
    first = next(m.losses(source=nothing, target=batch(2)))
    assert first["feature_distance.distance"].item() == 0 and label_down(nothing.label, (4, 8), C).eq(255).all()
