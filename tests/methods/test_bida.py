"""BiDA's step: which losses with which weights, averages and labels by loops, switches, the released numbers, two processes."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib import ranks
from course_lib.data import Batch
from course_lib.losses import bidirectional_contrast, cross_entropy, entropy
from course_lib.losses.prototype import labels_at
from course_lib.methods import BiDA, BiDASettings, OptimiserSettings
from course_lib.methods.step import Stream
from course_lib.networks import Prediction, deeplab_v2
from course_lib.pseudo_labels import dynamic_labels, hybrid_labels
from tests.bounds import bound, close, near, printed
from tests.losses.test_bidirectional import golden
from tests.methods.test_proca import GRID, Tiny, batch, numbers, rows, same_means, step
from tests.oracles import pseudo_labels as oracle
from tests.processes import together

# The convolutions' 75 and 6 products, prototypes of up to 256 cells, cosines of 6 channels over tau = 0.1 in two places; then
# means over 4096 pixels of losses below 6
LOSS = bound(350, torch.float32, 2 / 0.1) + bound(4096, torch.float32, 6.0)
MEANS = bound(75 + 256 + 30, torch.float32, 4.0)  # features below 4, and their means over up to 256 cells in 5 batches
C = 4
T = 0.7  # about half of the places of these batches lie nearer to a prototype


def method(segmenter: nn.Module | None = None, aux: bool = False, **settings) -> BiDA:
    torch.manual_seed(0)
    chosen = BiDASettings(**{"dynamic_threshold": T, "bank_momentum": 0.9} | settings)
    return BiDA(segmenter or Tiny(C, aux), chosen, OptimiserSettings(lr=0.1, head_factor=1.0, weight_decay=0.0))


@torch.no_grad()
def parts(m: BiDA, source: Batch, target: Batch):
    """(f_S, Y, f_T, y_F) of a batch."""
    return m.see(source.image, "source").features, source.label, m.see(target.image, "target").features, target.label


def different(m: BiDA) -> BiDA:
    """After two steps: averages that differ between the domains."""
    for seed in (11, 13):
        step(m, batch(seed), batch(seed + 1))
    assert m.mu_S.seen.all() and m.mu_T.seen.all()
    return m


# ---- losses and weights ---------------------------------------------------------------------------------------------


def test_names_and_weights():
    m = method(aux=True, lambda_static=0.5, lambda_entropy=0.25, lambda_entropy_target=0.75, lambda_fc=2.0, lambda_bc=3.0)
    assert list(step(m)) == [
        "segmentation",
        "segmentation_aux",
        "static",
        "entropy",
        "entropy_target",
        "forward",
        "backward",
    ]
    assert m.weights == {
        "segmentation_aux": 0.1,
        "lovasz": 0.0,
        "static": 0.5,
        "entropy": 0.25,
        "entropy_target": 0.75,
        "forward": 2.0,
        "backward": 3.0,
    }
    assert near(m.landmarks["static"][0], math.log(C), bound(2, torch.float64, 2.0))
    assert m.streams(m.settings) == {"source": Stream("true"), "target": Stream("files")}


def test_released_weights_are_the_defaults():
    """papers/bida.md, B3: CE + 0.3 CE + 0.4 [E + 0.3 E] + 0.2 L_FC + 0.2 L_BC."""
    weights = BiDA(Tiny(C)).weights
    assert (weights["static"], weights["entropy"]) == (0.3, 0.4)
    close(weights["entropy_target"], 0.4 * 0.3, bound(2, torch.float64))
    assert (weights["forward"], weights["backward"], BiDASettings().tau) == (0.2, 0.2, 0.1)


def test_values_are_the_functions_of_the_parts():
    m, source, target = different(method(tau=0.3)), batch(1), batch(2)
    f_S, Y, f_T, y_F = parts(m, source, target)
    y_T = hybrid_labels(m.dynamic(f_S, Y, f_T), y_F)
    losses = numbers(step(m, source, target))
    with torch.no_grad():
        P_S, P_T = m.segmenter(source.image), m.segmenter(target.image)
        forward, backward = bidirectional_contrast(f_S, Y, f_T, y_T, C, 0.3, pairwise=True)
        wanted = {
            "segmentation": cross_entropy(P_S.logits, Y),
            "static": cross_entropy(P_T.logits, y_F),
            "entropy": entropy(P_S.logits),
            "entropy_target": entropy(P_T.logits),
            "forward": forward,
            "backward": backward,
        }
    close(losses, numbers(wanted), LOSS)
    assert len({round(loss, 3) for loss in losses.values()}) == 6 and not torch.equal(y_T, y_F)


def test_without_both_contrasts_it_is_the_base_alone():
    m = method(lambda_fc=0.0, lambda_bc=0.0)
    losses = numbers(step(m))
    assert list(losses) == ["segmentation", "static", "entropy", "entropy_target"]
    assert m.steps == 0 and not m.mu_S.seen.any() and not m.mu_T.seen.any()
    whole = numbers(step(method()))
    assert losses == {name: whole[name] for name in losses}


@pytest.mark.parametrize("off, left", [("fc", "bc"), ("bc", "fc")])
def test_one_direction_alone_is_a_weight_of_0(off, left):
    m, names = method(**{f"lambda_{off}": 0.0}), {"fc": "forward", "bc": "backward"}
    assert numbers(step(m)) == numbers(step(method()))
    assert m.weights[names[off]] == 0 and m.weights[names[left]] == 0.2


def test_double_softmax_is_a_switch():
    true, released = numbers(step(method())), numbers(step(method(double_softmax=True)))
    P_S, P_T = (method().segmenter(batch(seed).image) for seed in (1, 2))
    close(released.pop("entropy"), entropy(P_S.logits, double_softmax=True).item(), LOSS)
    close(released.pop("entropy_target"), entropy(P_T.logits, double_softmax=True).item(), LOSS)
    assert max(true.pop("entropy"), true.pop("entropy_target")) < math.log(math.e + C - 1) - 1  # below what the other can be
    assert released == true


@pytest.mark.parametrize(
    "switch, option",
    [
        ({"pairwise": False}, {"pairwise": False}),
        ({"by_class": True}, {"balanced": True}),
        ({"overlap_only": False}, {"overlap_only": False}),
        ({"tau": 0.5}, {"temperature": 0.5}),
    ],
)
def test_switches_of_the_contrast_reach_it(switch, option):
    source, target = batch(1), batch(2)
    target.label[0][target.label[0] == 1] = 3  # a class of one domain alone, in its picture
    f_S, Y, f_T, y_F = parts(method(), source, target)
    wanted = bidirectional_contrast(f_S, Y, f_T, y_F, C, **{"temperature": 0.1, "pairwise": True} | option)
    losses = step(method(dynamic="none", **switch), source, target)
    plain = step(method(dynamic="none"), source, target)
    for name, value in wanted._asdict().items():
        close(losses[name].item(), value.item(), LOSS)
    assert max(abs(losses[name] - plain[name]) for name in ("forward", "backward")) > 1e-4


@pytest.mark.parametrize("through", [True, False])
def test_gradient_through_prototypes_is_a_switch(through):
    """Source features get gradient from L_FC through rho_S alone."""
    seen = []
    m = method(through_prototypes=through)
    m.segmenter.register_forward_hook(lambda _, __, prediction: seen.append(prediction.features))
    (gradient,) = torch.autograd.grad(step(m)["forward"], seen[0], allow_unused=True)
    assert (gradient is not None and bool(gradient.any())) == through


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_the_contrasts_teach_the_layers_below_the_features(name):
    m = method()
    step(m)[name].backward()
    assert m.segmenter.backbone.weight.grad.any() and m.segmenter.head.weight.grad is None


# ---- the released numbers -------------------------------------------------------------------------------------------


class Given(nn.Module):
    """A segmenter whose features are the picture itself."""

    normalisation = "unit"

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.num_classes, self.feature_dim = num_classes, dim
        self.head = nn.Conv2d(dim, num_classes, 1)

    def backbone_parameters(self):
        return []

    def head_parameters(self):
        return list(self.head.parameters())

    def forward(self, image):
        return Prediction(image, self.head(image), None)


@pytest.mark.parametrize("count", [1, 2])
def test_the_released_switches_give_the_released_numbers(count):
    """papers/bida.md, B3, in float64 as in test_bidirectional; a pair twice is the same pair."""
    f_S, y_S, f_T, y_T = (torch.cat([x.double() if x.is_floating_point() else x] * count) for x in golden())
    m = method(Given(19, 4).double(), dynamic="none", pairwise=True, overlap_only=True)
    names = [f"{k}.png" for k in range(count)]
    source, target = Batch(f_S.requires_grad_(), y_S, names), Batch(f_T.requires_grad_(), y_T, names)
    losses = step(m, source, target)
    close(losses["forward"], *printed("1.35103"))
    close(losses["backward"], *printed("5.29309"))
    if count == 1:
        for name, norms in (("forward", ("5.49904", "0.24067")), ("backward", ("2.25484", "4.5368"))):
            gradients = torch.autograd.grad(losses[name], (f_S, f_T), retain_graph=True)
            for gradient, norm in zip(gradients, norms):
                close(gradient.norm(), *printed(norm))


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 1.0, 2.0])
def test_without_dynamic_labels_the_threshold_changes_nothing(threshold):
    """The released code reads none: its threshold changes the loss by exactly 0."""
    first, second = (method(dynamic="none", dynamic_threshold=t) for t in (T, threshold))
    for seed in (1, 3):
        assert numbers(step(first, batch(seed), batch(seed + 1))) == numbers(step(second, batch(seed), batch(seed + 1)))
    assert torch.equal(first.mu_T.mean, second.mu_T.mean)


# ---- dynamic labels -------------------------------------------------------------------------------------------------


def test_dynamic_labels_enter_both_contrasts():
    with_labels = [numbers(step(method(dynamic_threshold=t))) for t in (-1.0, T, 1.0)]
    for name in ("forward", "backward"):
        assert len({round(losses[name], 4) for losses in with_labels}) == 3
    for name in ("segmentation", "static", "entropy", "entropy_target"):
        assert len({losses[name] for losses in with_labels}) == 1


def test_a_threshold_that_nothing_passes_leaves_the_static_labels():
    assert numbers(step(method(dynamic_threshold=1.0))) == numbers(step(method(dynamic="none")))


@pytest.mark.parametrize("kind", ["uncalibrated", "calibrated"])
@pytest.mark.parametrize("prototypes", ["batch", "average"])
def test_averages_and_labels_after_some_steps_equal_a_plain_loop(kind, prototypes):
    """rho, xi, y_D, y_T and both averages from the equations, with lists that begin empty."""
    m = method(dynamic=kind, dynamic_prototypes=prototypes)
    mu_S, mu_T, shares = [None] * C, [None] * C, []
    for seed in (1, 3, 5, 7):
        source, target = batch(seed), batch(seed + 1)
        if seed == 1:
            source.label[source.label == 3] = 255  # class 3 comes later
        f_S, Y, f_T, y_F = parts(m, source, target)
        Y = labels_at(Y, GRID)
        rho_S = means(f_S, Y)
        rho = rho_S if prototypes == "batch" else list(mu_S)
        if kind == "calibrated":
            rho = [r if a is None or b is None or r is None else r + (b - a) for r, a, b in zip(rho, mu_S, mu_T, strict=True)]
        y_D = torch.tensor(oracle.dynamic_labels(f_T.double().tolist(), [r if r is None else r.tolist() for r in rho], T))
        shares.append((y_D != 255).double().mean().item())
        found = m.dynamic(*(parts(m, source, target)[k] for k in (0, 1, 2)))
        assert torch.equal(found, y_D)
        step(m, source, target)
        y_T = torch.where(y_D != 255, y_D, labels_at(y_F, GRID))  # a cell's labels are one and the same pixel's
        mu_S, mu_T = taken_in(mu_S, rho_S), taken_in(mu_T, means(f_T, y_T))
        for bank, wanted in ((m.mu_S, mu_S), (m.mu_T, mu_T)):
            assert bank.seen.tolist() == [mu is not None for mu in wanted]
            for c in range(C):
                if wanted[c] is not None:
                    close(bank.mean[0, c], wanted[c], same_means(wanted[c]))  # features after a ReLU
    assert 0.1 < shares[-1] < 0.9 and (shares[0] > 0) == (prototypes == "batch")


def means(features, labels):
    return [rows(features, labels, c).mean(0) if (labels == c).any() else None for c in range(C)]


def taken_in(mu, new, momentum=0.9):
    """mu <- momentum mu + (1 - momentum) rho, class by class; the first rho as it is."""
    return [m if r is None else r if m is None else momentum * m + (1 - momentum) * r for m, r in zip(mu, new, strict=True)]


def test_equal_averages_calibrate_nothing():
    m = different(method())
    f_S, Y, f_T, _ = parts(m, batch(1), batch(2))
    plain, moved = (m.dynamic(f_S, Y, f_T, kind) for kind in ("uncalibrated", "calibrated"))
    assert not torch.equal(plain, moved)
    m.mu_T.load_state_dict(m.mu_S.state_dict())
    assert torch.equal(m.dynamic(f_S, Y, f_T, "calibrated"), plain)


def test_averages_alone_calibrated_are_those_of_the_target():
    """mu_S + xi = mu_T."""
    m = different(method(dynamic_prototypes="average"))
    f_S, Y, f_T, _ = parts(m, batch(1), batch(2))
    assert torch.equal(m.dynamic(f_S, Y, f_T), dynamic_labels(f_T, m.mu_T.prototypes, T))
    assert torch.equal(m.dynamic(f_S, Y, f_T, "uncalibrated"), dynamic_labels(f_T, m.mu_S.prototypes, T))
    assert torch.equal(m.dynamic(f_S, torch.full_like(Y, 255), f_T), m.dynamic(f_S, Y, f_T)), "the batch's own do not matter"


def test_the_settings_kind_is_what_dynamic_gives():
    for kind in ("uncalibrated", "calibrated"):
        m = different(method(dynamic=kind))
        f_S, Y, f_T, _ = parts(m, batch(1), batch(2))
        assert torch.equal(m.dynamic(f_S, Y, f_T), m.dynamic(f_S, Y, f_T, kind))


def test_looking_at_labels_changes_no_state():
    m = different(method())
    before = {name: value.clone() for name, value in m.state_dict().items()}
    f_S, Y, f_T, y_F = parts(m, batch(1), batch(2))
    m.dynamic(f_S, Y, f_T)
    m.hybrid(f_S, Y, f_T, y_F)
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())


def test_a_crops_padding_has_no_dynamic_label():
    """Whatever the features there are like: the losses are those of a target without labels in these rows."""
    source, target = batch(1), batch(2)
    valid = torch.ones_like(target.label, dtype=torch.bool)
    valid[:, 8:] = False
    target = target._replace(label=torch.where(valid, target.label, 255))
    seen = []
    for each in (target, target._replace(valid=valid)):
        m = different(method())
        update = m.mu_T.update
        m.mu_T.update = lambda f, y, name, update=update: seen.append(y) or update(f, y, name)
        step(m, source, each)
    everywhere, masked = seen
    inside = labels_at(valid.long(), masked.shape[-2:]).bool()
    assert (everywhere[~inside] != 255).any() and (masked[~inside] == 255).all()
    assert torch.equal(everywhere[inside], masked[inside]) and (masked != 255).any()


def test_labels_are_measured_on_all_of_a_target_that_has_more_pictures_than_the_source():
    m, measured = different(method()), []

    def looks(domain, labels="files", shared=True):
        return iter([batch(seed) for seed in range(3 if domain == "source" else 5)])

    m.dynamic = lambda f_S, Y, f_T, kind=None, plain=m.dynamic: measured.append(kind) or plain(f_S, Y, f_T, kind)
    m.label_kinds(looks)
    assert measured == ["uncalibrated", "calibrated"] * 5


def test_the_first_steps_of_a_round_can_do_without_dynamic_labels():
    late, none, early = method(dynamic_after=2), method(dynamic="none"), method()
    for k, seed in enumerate((1, 3, 5), start=1):
        losses, static, dynamic = (numbers(step(m, batch(seed), batch(seed + 1))) for m in (late, none, early))
        assert (losses == static) == (k <= 2) and losses != dynamic
    assert late.steps == 3


# ---- a stem for each domain -----------------------------------------------------------------------------------------


class TwoStems(Tiny):
    """Notes which domain it is told."""

    def __init__(self, own: bool):
        super().__init__(C)
        self.form, self.told = SimpleNamespace(domain_stem=own), []

    def forward(self, image, domain="target"):
        self.told.append(domain)
        return super().forward(image)


@pytest.mark.parametrize("own, told", [(True, ["source", "target"]), (False, ["target", "target"])])
def test_a_segmenter_with_two_stems_is_told_the_domain(own, told):
    m = method(TwoStems(own))
    step(m)
    assert m.segmenter.told == told


def test_each_stem_of_deeplab_learns_from_its_own_domain():
    m = method(deeplab_v2(C, "bida", blocks=(1, 1, 1, 1), domain_stem=True))
    losses = step(m, batch(1, N=2), batch(2, N=2))
    for name, stem, other in (("segmentation", "conv1", "target_conv1"), ("static", "target_conv1", "conv1")):
        m.segmenter.zero_grad()
        losses[name].backward(retain_graph=True)
        assert getattr(m.segmenter, stem).weight.grad.any() and getattr(m.segmenter, other).weight.grad is None


# ---- nothing labelled -----------------------------------------------------------------------------------------------


def unlabelled(seed: int) -> Batch:
    whole = batch(seed)
    whole.label.fill_(255)
    return whole


@pytest.mark.parametrize("dynamic", ["none", "calibrated"])
@pytest.mark.parametrize("pairwise", [True, False])
def test_a_target_without_static_labels_is_no_nan(dynamic, pairwise):
    m = method(dynamic=dynamic, pairwise=pairwise, dynamic_threshold=1.0)
    losses = step(m, batch(1), unlabelled(2))
    sum(losses.values()).backward()
    assert losses["static"] == losses["forward"] == losses["backward"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
    assert not m.mu_T.seen.any() and m.mu_S.seen.all()


def test_dynamic_labels_alone_are_labels():
    m = method(dynamic_threshold=-1.0)
    losses = numbers(step(m, batch(1), unlabelled(2)))
    assert losses["static"] == 0 and losses["forward"] > 0.1 and losses["backward"] > 0.1
    features = m.segmenter(batch(2).image).features
    assert m.mu_T.count.sum() == features.any(dim=1).sum() > 250  # all places but the one that no channel sees


def test_a_source_without_labels_gives_no_dynamic_labels():
    m = method()
    losses = step(m, unlabelled(1), batch(2))
    sum(losses.values()).backward()
    assert losses["segmentation"] == losses["forward"] == losses["backward"] == 0 and losses["static"] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
    assert (m.dynamic(*parts(m, unlabelled(1), batch(2))[:3]) == 255).all()


# ---- going on, and settings -----------------------------------------------------------------------------------------


def test_averages_and_steps_are_in_the_state():
    state = method().state_dict()
    assert {"steps", "mu_S.mean", "mu_S.count", "mu_T.mean", "mu_T.count"} <= state.keys()


def test_a_reloaded_method_goes_on_identically():
    def advance(m, seeds):
        history = []
        for seed in seeds:
            losses = step(m, batch(seed), batch(seed + 1))
            m.optimisers["segmenter"].zero_grad()
            sum(m.weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
            m.optimisers["segmenter"].step()
            history.append(numbers(losses))
        return history

    first = method(dynamic_after=3)
    advance(first, (1, 3))
    file = io.BytesIO()
    torch.save({"method": first.state_dict(), "optimiser": first.optimisers["segmenter"].state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    second = method(dynamic_after=3)
    second.load_state_dict(content["method"])
    second.optimisers["segmenter"].load_state_dict(content["optimiser"])
    assert second.steps == 2 and advance(second, (5, 7, 9)) == advance(first, (5, 7, 9))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("name", ["lambda_static", "lambda_entropy", "lambda_entropy_target", "lambda_fc", "lambda_bc"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is -0.1; it wants a number from 0.0 to 1,000,000"):
        BiDASettings(**{name: -0.1})


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rounds": 0}, "rounds is 0; it wants a whole number from 1 to 1,000"),
        ({"dynamic_after": -1}, "dynamic_after is -1; it wants a whole number from 0"),
        ({"round_rate": 0.0}, "round_rate is 0.0; it wants a number from 1e-06 to 1.0"),
        ({"round_rate": 1.5}, "round_rate is 1.5; it wants a number from 1e-06 to 1.0"),
        ({"dynamic": "calibrate"}, "dynamic is 'calibrate' .*; choose none, uncalibrated or calibrated"),
        ({"dynamic_prototypes": "mean"}, "dynamic_prototypes 'mean'; .* batch or average"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        BiDASettings(**settings)


# ---- two processes --------------------------------------------------------------------------------------------------

SHARED = {
    "all": {"pairwise": False, "through_prototypes": False},
    "by class": {"pairwise": False, "through_prototypes": False, "by_class": True},
    "pairwise": {},
}


def life(part: slice, **settings) -> dict:
    """Three steps on a part of the batches of four pictures, of which the first two have few labels."""

    def own(seed: int) -> Batch:
        whole = batch(seed, N=4)
        whole.label[:2, 8:] = 255
        return Batch(whole.image[part], whole.label[part], whole.name[part])

    m = method(**settings)
    history = [step(m, own(seed), own(seed + 1)) for seed in (1, 3, 5)]
    (gradient,) = torch.autograd.grad(sum(history[-1].values()), m.segmenter.backbone.weight)
    banks = {name: value for name, value in m.state_dict().items() if name.startswith("mu")}
    return {"losses": [numbers(losses) for losses in history], "gradient": gradient, "banks": banks}


def work() -> dict:
    return {name: life(slice(2 * ranks.rank(), 2 * ranks.rank() + 2), **settings) for name, settings in SHARED.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_are_one(results, name):
    whole, both = life(slice(None), **SHARED[name]), [result[name] for result in results]
    for k, losses in enumerate(whole["losses"]):
        for loss in losses:
            each = [part["losses"][k][loss] for part in both]
            close(sum(each) / 2, losses[loss], LOSS, what=loss)
    assert abs(both[0]["losses"][0]["forward"] - both[1]["losses"][0]["forward"]) > 0.01
    for part in both:
        for bank, value in whole["banks"].items():
            close(part["banks"][bank], value, MEANS)
    gradient = (both[0]["gradient"] + both[1]["gradient"]) / 2
    close(gradient, whole["gradient"], bound(4200, torch.float32, 20 * gradient.abs().max()))
