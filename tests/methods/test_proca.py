"""ProCA's step: which losses with which weights, prototypes and pseudo-labels; gone on with, and in two processes."""

import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib import ranks
from course_lib.data import Batch
from course_lib.losses import cross_entropy, lovasz_softmax, prototype_contrast
from course_lib.losses.prototype import labels_at
from course_lib.methods import HeadSettings, OptimiserSettings, ProCA, ProCASettings
from course_lib.methods.step import Stream
from course_lib.networks import Prediction
from course_lib.pseudo_labels import class_thresholds, confidence
from tests.bounds import Tolerance, bound, close, near
from tests.processes import together

GRID = (8, 16)
# The convolutions' 75 and 6 products, logits below 20, cosines over tau = 0.1 or dot products over 2 of that size; then means
# over up to 4096 pixels of losses below 6
LOSS = bound(120, torch.float32, 20.0) + bound(4096, torch.float32, 6.0)
MEANS = bound(90, torch.float32, 20.0)  # float64 means of features below 4 and logits below 20, which are float32


class Tiny(nn.Module):
    """Two convolutions at stride 4; logits so large that some pixels are sure and others are not."""

    feature_dim, normalisation = 6, "imagenet"

    def __init__(self, num_classes: int = 4, aux: bool = False):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Conv2d(3, 6, 5, stride=4, padding=2)
        self.head = nn.Conv2d(6, num_classes, 1)
        self.aux = nn.Conv2d(6, num_classes, 1) if aux else None
        with torch.no_grad():  # no class is ahead on average
            self.head.bias.zero_()
            self.head.weight -= self.head.weight.mean(1, keepdim=True)

    def backbone_parameters(self):
        return list(self.backbone.parameters())

    def head_parameters(self):
        return list(self.head.parameters()) + (list(self.aux.parameters()) if self.aux else [])

    def forward(self, image):
        features = self.backbone(image).relu()
        return Prediction(features, 2 * (5 + self.num_classes) * self.head(features), self.aux(features) if self.aux else None)


def ready(m: ProCA) -> bool:
    """Whether every space has prototypes."""
    return all(bool(bank.seen.any()) for bank in m.banks.values())


def batch(seed: int, N: int = 2, C: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(N, 3, 32, 64, generator=generator)
    label = torch.randint(0, C, (N, 32, 64), generator=generator)
    label[0, :16] = 255
    return Batch(image, label, [f"{seed}-{k}.png" for k in range(N)])


def method(C: int = 4, aux: bool = False, prepared: bool = True, lambda_lovasz: float = 0.0, **settings) -> ProCA:
    torch.manual_seed(0)
    optimiser, heads = OptimiserSettings(lr=0.1, head_factor=1.0, weight_decay=0.0), HeadSettings(lambda_lovasz=lambda_lovasz)
    m = ProCA(Tiny(C, aux), ProCASettings(**settings), optimiser, heads)
    if prepared:
        prepare(m, batch(9, C=C), batch(10, C=C))
    return m


@torch.no_grad()
def prepare(m: ProCA, *batches: Batch) -> None:
    """`m.prepare` with one batch of the source, and one of the target."""
    of = dict(zip(("source", "target"), batches))
    m.prepare(lambda stream: iter([of[stream]]))


def rows(maps, labels, c):
    """Every vector of class c, (n, D) float64."""
    return maps.movedim(1, -1)[labels == c].double()


def plain_means(parts, C=4):
    """Per class the mean over all vectors of all (maps, labels)."""
    return torch.stack([torch.cat([rows(f, y, c) for f, y in parts]).mean(0) for c in range(C)])


def same_means(size: torch.Tensor) -> Tolerance:
    """Of two float64 means of the same float32 vectors: up to 256 of a class in each of 7 batches, 4 more to take a batch in.

    size: the mean of their magnitudes.
    """
    return bound(7 * (256 + 4), torch.float64, 2 * size)


def step(m: ProCA, source=None, target=None) -> dict[str, torch.Tensor]:
    (losses,) = m.losses(source or batch(1), target or batch(2))
    return losses


def numbers(losses) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


# ---- losses and weights ---------------------------------------------------------------------------------------------


def test_names_and_weights():
    m = method(aux=True, lambda_feat=0.5, lambda_out=2.0)
    assert list(step(m)) == [
        "segmentation",
        "segmentation_aux",
        "contrast_feat_target",
        "contrast_feat_source",
        "contrast_out_target",
        "contrast_out_source",
    ]
    assert m.weights == {
        "segmentation_aux": 0.1,
        "lovasz": 0.0,
        "contrast_feat_source": 0.5,
        "contrast_feat_target": 0.5,
        "contrast_out_source": 2.0,
        "contrast_out_target": 2.0,
    }
    close(m.landmarks["contrast_out_target"][0], math.log(4), bound(5, torch.float64, 2.0))
    assert m.streams(m.settings) == {"source": Stream("true"), "target": Stream("none")}


@pytest.mark.parametrize("similarity, temperature", [("cosine", 0.1), ("dot", 2.0)])
def test_values_are_the_equations(similarity, temperature):
    """From the parts: prototypes are plain means over everything seen, this step's batches included, target and source."""
    m, source, target = method(similarity=similarity, contrast_temperature=temperature), batch(1), batch(2)
    losses = numbers(step(m, source, target))
    with torch.no_grad():
        P_s, P_t, P_0 = (m.segmenter(b.image) for b in (source, target, batch(9)))
        Y, Y_0 = labels_at(source.label, GRID), labels_at(batch(9).label, GRID)
        probability, y = P_t.logits.softmax(1).max(1)
        y[probability < 0.9] = 255
        assert 0.2 < (y != 255).float().mean() < 0.8 and len(y.unique()) > 3
        close(losses.pop("segmentation"), cross_entropy(P_s.logits, source.label).item(), LOSS)
        for space, index in (("feat", 0), ("out", 1)):
            seen = [(P_0[index], Y_0), (P_t[index], y), (P_s[index], Y)]
            p = plain_means(seen)
            close(m.banks[space].mean[0], p, same_means(plain_means([(maps.abs(), labels) for maps, labels in seen])))
            close(m.banks[space].prototypes, p, bound(2, torch.float32, p))
            for side, maps, labels in (("source", P_s[index], Y), ("target", P_t[index], y)):
                flat, known = maps.double().movedim(1, -1)[labels != 255], labels[labels != 255]
                a, b = (flat, p) if similarity == "dot" else (F.normalize(flat), F.normalize(p))
                wanted = F.cross_entropy(a @ b.T / temperature, known)
                close(losses.pop(f"contrast_{space}_{side}"), wanted.item(), LOSS)
    assert not losses


def test_the_strict_mean_is_that_of_everything_seen():
    m, parts = method(), {"feat": [], "out": []}
    with torch.no_grad():
        for k in (9, 1, 3, 5):
            source, target = batch(k), batch(k + 1)
            P = m.segmenter(source.image)
            pairs = [(P, labels_at(source.label, GRID))]
            if k < 9:
                T = m.segmenter(target.image)
                pairs.append((T, m.pseudo_labels(T.logits)))
                step(m, source, target)
            for prediction, y in pairs:
                parts["feat"].append((prediction.features, y))
                parts["out"].append((prediction.logits, y))
    for space, bank in m.banks.items():
        sizes = plain_means([(maps.abs(), labels) for maps, labels in parts[space]])
        close(bank.mean[0], plain_means(parts[space]), same_means(sizes))
        assert bank.count.sum() == sum((y != 255).sum() for _, y in parts[space])


def test_the_target_is_taken_in_first_then_the_source_then_comes_the_loss():
    """With momentum 0.5 the order shows: the source's mean weighs a half, the target's a quarter."""
    m, source, target = method(rule="ema", prototype_momentum=0.5, contrast_temperature=0.1), batch(1), batch(2)
    before = m.banks["feat"].mean[0].clone()
    losses = step(m, source, target)
    with torch.no_grad():
        P_s, P_t = m.segmenter(source.image), m.segmenter(target.image)
        y, Y = m.pseudo_labels(P_t.logits), labels_at(source.label, GRID)
        of_target = torch.stack([rows(P_t.features, y, c).mean(0) if (y == c).any() else before[c] for c in range(4)])
        wanted = 0.25 * before + 0.25 * of_target + 0.5 * plain_means([(P_s.features, Y)])
        close(m.banks["feat"].mean[0], wanted, same_means(wanted))  # features after a ReLU
        loss = prototype_contrast(P_s.features, Y, wanted.float(), 0.1, "cosine")
    close(losses["contrast_feat_source"].item(), loss.item(), LOSS)


def test_released_temperature_keeps_every_contrast_near_ln_19():
    m = method(C=19)
    assert bool(m.banks["feat"].seen.all()) and m.settings == ProCASettings()
    for seed in (1, 3, 5):
        losses = numbers(step(m, batch(seed, C=19), batch(seed + 1, C=19)))
        contrasts = [loss for name, loss in losses.items() if name.startswith("contrast")]
        assert len(contrasts) == 4 and all(2.9066 <= loss <= 2.9824 for loss in contrasts)


@pytest.mark.parametrize("off, left", [("feat", "out"), ("out", "feat")])
def test_lambda_0_switches_a_space_off(off, left):
    m = method(**{f"lambda_{off}": 0.0})
    assert list(step(m)) == ["segmentation", f"contrast_{left}_target", f"contrast_{left}_source"]
    assert list(m.banks) == [left] and f"contrast_{off}_source" not in m.weights
    whole = numbers(step(method()))
    assert step(method(**{f"lambda_{off}": 0.0}))[f"contrast_{left}_source"].item() == whole[f"contrast_{left}_source"]


def test_without_either_space_it_is_source_only():
    m = method(lambda_feat=0.0, lambda_out=0.0, prepared=False)
    assert list(step(m)) == ["segmentation"] and ready(m)


def test_lovasz_is_a_switch():
    assert "lovasz" not in step(method())
    m = method(lambda_lovasz=0.75)
    losses = step(m)
    wanted = lovasz_softmax(m.segmenter(batch(1).image).logits, batch(1).label)
    assert near(losses["lovasz"].item(), wanted.item(), LOSS) and m.weights["lovasz"] == 0.75


@pytest.mark.parametrize("name", ["contrast_feat_target", "contrast_feat_source", "contrast_out_target", "contrast_out_source"])
def test_each_contrast_teaches_the_layers_below_its_space(name):
    m = method()
    step(m)[name].backward()
    assert m.segmenter.backbone.weight.grad.any()
    head = m.segmenter.head.weight.grad
    assert (head is not None and bool(head.any())) == ("out" in name)


# ---- pseudo-labels --------------------------------------------------------------------------------------------------


def some_logits() -> torch.Tensor:
    """Places that are: sure of 0; unsure of 1 with a large logit; 1 with a small one; sure of 3."""
    logits = torch.tensor([[9.0, 0, 0, 0], [0, 1.2, 1.0, 0], [0, 0.5, 0, 0], [-9, -9, -9, -0.5]])
    return logits.T.reshape(1, 4, 2, 2)


@pytest.mark.parametrize("score, wanted", [("probability", [0, 255, 255, 3]), ("logit", [0, 1, 255, 255])])
def test_pseudo_labels_are_the_sure_predictions(score, wanted):
    y = method(score=score).pseudo_labels(some_logits().requires_grad_())
    assert y.flatten().tolist() == wanted and y.shape == (1, 2, 2) and not y.requires_grad


def test_the_threshold_is_a_setting():
    assert method(threshold=0.3).pseudo_labels(some_logits()).flatten().tolist() == [0, 1, 1, 3]
    assert method(threshold=1.0).pseudo_labels(some_logits()).flatten().tolist() == [255] * 4


def test_class_wise_thresholds_come_with_the_prototypes():
    m = method(target_labels="class-wise")
    sure, prediction = confidence(m.segmenter(batch(10).image).logits.detach())
    wanted = class_thresholds(lambda: [(sure, prediction)], 4, 1 - 0.4, 0.9)
    assert torch.equal(m.thresholds, wanted) and len(wanted.unique()) > 1 and ready(m)
    m.thresholds.copy_(torch.tensor([1.0, 0.36, 0.0, 0.5]))
    y = m.pseudo_labels(some_logits()).flatten().tolist()  # probabilities 0.9996, 0.36..., 0.35..., 0.9994
    sure = some_logits().softmax(1).amax(1).flatten()
    assert y == [255, 1 if sure[1] >= 0.36 else 255, 1 if sure[2] >= 0.36 else 255, 3] and sorted(y).count(1) == 1


def test_a_target_that_is_nowhere_sure_costs_nothing():
    m = method(threshold=1.1)
    before = {space: bank.count.clone() for space, bank in m.banks.items()}
    losses = step(m)
    sum(losses.values()).backward()
    assert losses["contrast_feat_target"] == 0 and losses["contrast_out_target"] == 0
    assert losses["contrast_feat_source"] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
    counted = (labels_at(batch(1).label, GRID) != 255).sum()
    assert all(bank.count.sum() - before[space].sum() == counted for space, bank in m.banks.items())


# ---- before the first step, and going on ----------------------------------------------------------------------------


def test_without_prototypes_there_is_no_contrast():
    m = method(prepared=False, rule="fixed")
    assert not ready(m)
    losses = numbers(step(m))
    assert losses.pop("segmentation") > 0 and len(losses) == 4 and set(losses.values()) == {0.0}
    prepare(m, batch(9))
    assert ready(m) and all(loss > 0 for loss in numbers(step(m)).values())


def test_batches_alone_make_prototypes_too():
    """What a run without `prepare` does: it begins with the means of its first batches."""
    m, source, target = method(prepared=False), batch(1), batch(2)
    assert not ready(m)
    losses = numbers(step(m, source, target))
    with torch.no_grad():
        P_s, P_t = m.segmenter(source.image), m.segmenter(target.image)
        wanted = plain_means([(P_t.features, m.pseudo_labels(P_t.logits)), (P_s.features, labels_at(source.label, GRID))])
    close(m.banks["feat"].mean[0], wanted, same_means(wanted))
    assert ready(m) and losses["contrast_feat_source"] > 0


def test_prototypes_thresholds_and_counts_are_in_the_state():
    state = method().state_dict()
    assert {"thresholds", "banks.feat.mean", "banks.feat.count", "banks.out.mean", "banks.out.count"} <= state.keys()


def test_a_reloaded_method_goes_on_identically():
    def advance(m, seeds):
        history = []
        for seed in seeds:
            losses = step(m, batch(seed), batch(seed + 1))
            m.optimisers["segmenter"].zero_grad()
            sum(losses.values()).backward()
            m.optimisers["segmenter"].step()
            history.append(numbers(losses))
        return history

    settings = {"target_labels": "class-wise", "contrast_temperature": 0.1}
    first = method(**settings)
    first.thresholds.copy_(torch.tensor([0.5, 0.6, 0.7, 0.8]))
    advance(first, (1, 3))
    file = io.BytesIO()
    torch.save({"method": first.state_dict(), "optimiser": first.optimisers["segmenter"].state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    second = method(prepared=False, **settings)
    second.load_state_dict(content["method"])
    second.optimisers["segmenter"].load_state_dict(content["optimiser"])
    assert ready(second) and torch.equal(second.thresholds, first.thresholds)
    assert advance(second, (5, 7)) == advance(first, (5, 7))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="lambda_out is -0.1; it wants a number from 0.0 to 1,000,000"):
        ProCASettings(lambda_out=-0.1)


# ---- two processes --------------------------------------------------------------------------------------------------


def life(part: slice) -> dict:
    """Two steps on a part of the batches of four pictures, all labels of the first in few places."""

    def own(seed: int) -> Batch:
        whole = batch(seed, N=4)
        whole.label[:2, 4:] = 255
        return Batch(whole.image[part], whole.label[part], whole.name[part])

    m = method(prepared=False, contrast_temperature=0.1)
    prepare(m, own(9))
    history = [step(m, own(seed), own(seed + 1)) for seed in (1, 3)]
    (gradient,) = torch.autograd.grad(sum(history[-1].values()), m.segmenter.backbone.weight)
    banks = {name: value for name, value in m.state_dict().items() if name.startswith("banks")}
    return {"losses": [numbers(losses) for losses in history], "gradient": gradient, "banks": banks}


def work() -> dict:
    return life(slice(2 * ranks.rank(), 2 * ranks.rank() + 2))


def test_two_processes_are_one(tmp_path):
    whole, parts = life(slice(None)), together(work, tmp_path)
    for k, losses in enumerate(whole["losses"]):
        for name, loss in losses.items():
            each = [part["losses"][k][name] for part in parts]
            close(sum(each) / 2, loss, LOSS, what=name)
    assert abs(parts[0]["losses"][0]["segmentation"] - parts[1]["losses"][0]["segmentation"]) > 0.1
    for part in parts:
        for name, value in whole["banks"].items():
            close(part["banks"][name], value, MEANS)
    gradient = (parts[0]["gradient"] + parts[1]["gradient"]) / 2
    close(gradient, whole["gradient"], bound(4200, torch.float32, 20 * gradient.abs().max()))


def test_shares_of_a_batch_want_probabilities():
    with pytest.raises(ValueError, match="wants score='probability', 0 to 1; got 'logit'"):
        ProCASettings(target_labels="batch", score="logit")
