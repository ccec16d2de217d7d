"""ClassMix against an oracle with loops; that it is DACS where labelled pictures are pasted; what subclasses and terms change;
processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.data import Batch
from course_lib.data.sampling import mixed_seed
from course_lib.methods import DACS, ClassMix, ClassMixSettings, DACSSettings, OptimiserSettings
from course_lib.methods.terms import Term
from course_lib.mixing import MixingSettings, class_mask, following
from course_lib.networks import small
from course_lib.pseudo_labels.weights import LabelWeightSettings
from tests.bounds import bound, close
from tests.processes import assert_like_one, together, trained

C, H, W = 5, 16, 32
SURE = LabelWeightSettings("power", confidence_power=1.0)
COLOURLESS = {"mixed_photometric": "none", "mixed_blur": 0.0, "labels": SURE}
PLAIN = ClassMixSettings(**COLOURLESS)
LOSS = bound(200, torch.float32, 20.0) + bound(2 * H * W, torch.float32, 20.0)  # logits below 20, as in test_dacs


def batch(seed: int, n: int = 3, labelled: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, H, W, generator=generator)
    label = torch.randint(0, C, (n, H, W), generator=generator)
    label[:, :2] = 255
    return Batch(image, label if labelled else torch.full_like(label, 255), [f"{seed}_{i}.png" for i in range(n)])


def method(settings: DACSSettings = PLAIN, kind: type[DACS] = ClassMix, **others) -> DACS:
    torch.manual_seed(0)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    network = small(C, width=8)
    terms = {name: term(network) for name, term in others.items()}
    return kind(network, settings, optimiser, terms=terms).train()


def dictionaries(m: DACS, source: Batch, target: Batch, step: int = 3) -> list[dict[str, torch.Tensor]]:
    m.begin_step(step, 10)
    m.terms.begin_step(step, 10)
    return list(m.losses(source=source, target=target))


def losses_of(m: DACS, source: Batch, target: Batch) -> dict[str, float]:
    return {name: loss.item() for losses in dictionaries(m, source, target) for name, loss in losses.items()}


def up(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(logits, size=(H, W), mode="bilinear", align_corners=True)


def test_a_step_is_the_papers_with_loops():
    """Two unlabelled pictures, both with the teacher's labels and weights, pixel by pixel from the equations."""
    m, source, target = method(), batch(1), batch(2)
    m.begin_step(3, 10)
    step = torch.Generator().manual_seed(mixed_seed(m.seed, 6, 3, 0))
    with torch.no_grad():
        p = up(m.teacher(target.image).logits).softmax(1).double().numpy()
    y, q = p.argmax(1), p.max(1)
    M = class_mask(torch.from_numpy(np.stack([y[1], y[2], y[0]])), C, generator=step).numpy()
    assert 0.05 < M.mean() < 0.95
    x_m, y_m, q_m = target.image.clone(), y.copy(), q.copy()
    for n, i, j in np.ndindex(3, H, W):
        if M[n, i, j]:
            x_m[n, :, i, j] = target.image[(n + 1) % 3, :, i, j]
            y_m[n, i, j], q_m[n, i, j] = y[(n + 1) % 3, i, j], q[(n + 1) % 3, i, j]
    with torch.no_grad():
        P_m = up(m.segmenter(x_m).logits).log_softmax(1).double().numpy()
    L_mix = -sum(q_m[n, i, j] * P_m[n, y_m[n, i, j], i, j] for n, i, j in np.ndindex(3, H, W)) / (3 * H * W)
    found = losses_of(m, source, target)
    close(found["mixed"], L_mix, LOSS)
    assert found["segmentation"] == losses_of(method(DACSSettings(**COLOURLESS), DACS), source, target)["segmentation"]


def test_labels_of_unlabelled_pictures_are_never_read():
    assert losses_of(method(), batch(1), batch(2)) == losses_of(method(), batch(1), batch(2, labelled=False))


def test_plain_pictures_are_mixed():
    """Changes of colour before the step are no part of it, as in DACS."""
    plain, target = batch(4).image, batch(2)
    found = [losses_of(method(), batch(1), b)["mixed"] for b in (target._replace(plain=plain), target._replace(image=plain))]
    assert found[0] == found[1] != losses_of(method(), batch(1), target)["mixed"]


@pytest.mark.parametrize("mixing", [MixingSettings(), MixingSettings(mix_rare=0.1, unmixed=0.5), MixingSettings("box")])
def test_with_labelled_pictures_pasted_it_is_dacs(mixing):
    own = method(replace(PLAIN, mixing=mixing, mix_from="labelled"))
    assert losses_of(own, batch(1), batch(2)) == losses_of(
        method(DACSSettings(**COLOURLESS, mixing=mixing), DACS), batch(1), batch(2)
    )


def test_one_unlabelled_picture_has_nothing_to_be_mixed_with():
    one = (batch(1, n=1), batch(2, n=1))
    words = "two unlabelled pictures, and a step has 1. Set batch_size to 2 or more, or mix_from=labelled, which"
    with pytest.raises(ValueError, match=words):
        losses_of(method(), *one)
    assert losses_of(method(replace(PLAIN, mix_from="labelled")), *one)["mixed"] > 0


def test_the_next_picture_of_one_process():
    x = torch.arange(24.0).view(4, 2, 3).requires_grad_()
    assert torch.equal(following(x), x.roll(-1, 0)) and not following(x).requires_grad


class LeftHalf(ClassMix):
    """A mask from elsewhere."""

    def mask(self, pasted, under, numbers):
        self.seen = pasted, under
        M = torch.zeros_like(pasted.label, dtype=torch.bool)
        M[:, :, : W // 2] = True
        return M


def test_a_subclass_makes_the_mask():
    m, target = method(kind=LeftHalf), batch(2)
    valid = torch.ones_like(target.label, dtype=torch.bool)
    valid[0, 5] = False
    with torch.no_grad():
        mixed = m.mix(batch(1), target._replace(valid=valid), target.label, torch.rand(3, H, W), torch.Generator())
    assert torch.equal(mixed.image[0, :, :, : W // 2], target.image[1, :, :, : W // 2])
    assert torch.equal(mixed.image[2, :, :, W // 2 :], target.image[2, :, :, W // 2 :])
    pasted, under = m.seen
    assert torch.equal(pasted.label, target.label.roll(-1, 0)) and torch.equal(under.label, target.label)
    assert torch.equal(pasted.valid, valid.roll(-1, 0)), "every map of a picture goes with it"


class Both(Term):
    """Wants both predictions in one backward pass."""

    name, reads, taught = "both", ("source", "mixed"), True

    def forward(self, P, step):
        assert set(P) == {"source", "mixed"} and step.taught is not None
        return {"product": (P["source"].logits.mean() * P["mixed"].logits.mean())}


class Source(Term):
    name = "first"

    def forward(self, P, step):
        return {"mean": P["source"].logits.mean()}


class Each(Term):
    """Once for each of two predictions."""

    name, reads, also = "each", ("source",), (("mixed",),)

    def forward(self, P, step):
        (name,) = P
        return {name: P[name].logits.mean()}


@pytest.mark.parametrize("kind, settings", [(ClassMix, PLAIN), (DACS, DACSSettings(**COLOURLESS))])
def test_a_term_that_reads_both_predictions_has_them_in_one_backward_pass(kind, settings):
    """The losses and the sum of the gradients are those of two passes."""
    one, two = method(settings, kind, both=Both, first=Source, each=Each), method(settings, kind, first=Source, each=Each)
    together, apart = dictionaries(one, batch(1), batch(2)), dictionaries(two, batch(1), batch(2))
    assert [sorted(losses) for losses in together] == [
        ["both.product", "each.mixed", "each.source", "first.mean", "mixed", "segmentation"]
    ]
    assert [sorted(losses) for losses in apart] == [["each.source", "first.mean", "segmentation"], ["each.mixed", "mixed"]]
    (losses,) = together
    losses.pop("both.product")
    assert losses == apart[0] | apart[1]
    gradients = []
    for m, found in ((one, together), (two, apart)):
        for losses in found:
            sum(losses.values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in m.segmenter.parameters() if p.grad is not None]))
    close(gradients[0], gradients[1], LOSS * gradients[1].abs().max().item())


SETTINGS = {
    "published": ClassMixSettings(),
    "class-wise, rare first": ClassMixSettings(
        mixed_photometric="strong", labels=LabelWeightSettings("class"), mixing=MixingSettings(mix_rare=0.1, unmixed=0.3)
    ),
    "picture": replace(PLAIN, labels=LabelWeightSettings("picture", threshold=0.25)),
}


def training(settings: ClassMixSettings) -> dict:
    return trained(method(settings), batch(1, 4), batch(2, 4))


def work() -> dict:
    return {name: training(settings) for name, settings in SETTINGS.items()}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Processes with one picture each, so that each one's partner is another's."""
    return together(work, tmp_path_factory.mktemp("classmix"), 4)


@pytest.mark.parametrize("name", SETTINGS)
def test_several_processes_train_like_one(four, name):
    # weights of three steps at rate 0.01 pass their rounding on
    assert_like_one([result[name] for result in four], training(SETTINGS[name]), LOSS * 3)


def test_settings_out_of_range_are_refused():
    wanted = "mix_from: it holds 'both', wanted one of"
    for field, value, words in (("mix_from", "both", wanted), ("lambda_mix", -1.0, "is -1.0")):
        with pytest.raises(ValueError, match=words):
            replace(PLAIN, **{field: value})
