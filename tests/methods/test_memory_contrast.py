"""The term of a memory, in a step of DACS: which cells enter it, ranks, weights, selectors, both switches. What all contrastive
terms have to do is in test_contrast_terms."""

import pytest
import torch

from course_lib.losses import memory_contrast
from course_lib.losses.inputs import IGNORE
from course_lib.losses.prototype import labels_at
from course_lib.methods import DACS
from course_lib.methods.step import Passes
from course_lib.methods.terms.base import in_rows
from course_lib.methods.terms.memory_contrast import MemoryContrast, MemoryContrastSettings
from tests.bounds import bound, close, far
from tests.methods.contrast_terms import C, build, calls_of, pictures, run, term_of

LOSS = bound(200, torch.float32, 20.0)


def stepped(steps: int = 2, **settings) -> tuple[DACS, MemoryContrast, list]:
    """A method after some steps, and what the term was called with in the last of them."""
    m = build("memory", **settings)
    for number in range(steps - 1):
        with torch.no_grad():
            run(m, number, pictures(100 + number))
    return m, term_of(m), calls_of(m, steps - 1, pictures(1))


def test_cells_enter_that_the_teacher_is_sure_and_right_about_with_the_highest_scores():
    """Cell by cell from the module docstring, on an empty memory."""
    m, term, (call, *_) = stepped(1, least_confidence=0.3, labelled=10)
    taught = call.step.taught
    with torch.no_grad():
        P = taught.teacher(taught.source)
        z, p = in_rows(term.teacher((P.features,))), P.logits.softmax(1)
    y = labels_at(call.step.batches["source"].label, tuple(P.features.shape[2:])).flatten()
    p = in_rows(p)
    good = [i for i in range(len(y)) if p[i].argmax() == y[i] and p[i].max() > 0.3]
    assert 10 < len(good) < len(y) - 10, "some are, some are not"
    most = 2 * term.settings.per_picture
    for c in range(C):
        own = torch.tensor([i for i in good if y[i] == c], dtype=torch.int64)
        s = term.selector(z[own], torch.full((len(own),), c)).detach()
        best = own[s.argsort(descending=True)[:most]]
        held = term.queue.features[c][term.queue.there[c]]
        assert torch.equal(held, z[best]), c
    assert max(term.queue.filled.tolist()) == most


def mean_scores(kept: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean score of what a step left in the memory, and that of all good cells, class by class."""
    m, term, (call, *_) = stepped(1, kept=kept, labelled=40)
    with torch.no_grad():
        P = call.step.taught.teacher(call.step.taught.source)
        z = in_rows(term.teacher((P.features,)))
        y = labels_at(call.step.batches["source"].label, tuple(P.features.shape[2:])).flatten()
        y = torch.where(in_rows(P.logits).argmax(1) == y, y, IGNORE)
        all_scores = term.selector(z, y)
        inside = torch.arange(C)[:, None].expand(C, term.settings.length)
        own = term.selector(term.queue.features.flatten(0, 1), inside.flatten()).view(inside.shape)
    there = [c for c in range(C) if (y == c).sum() > 5]
    assert len(there) > 1
    return (torch.stack([own[c][term.queue.there[c]].mean() for c in there]),
            torch.stack([all_scores[y == c].mean() for c in there]))  # fmt: skip


def test_the_memory_keeps_the_top_scores_and_as_released_the_lowest():
    held, every = mean_scores("highest")
    assert (held > every).all()
    held, every = mean_scores("lowest")
    assert (held < every).all()
    assert MemoryContrastSettings().kept == "highest" and MemoryContrastSettings().memory_weights == "learned"


def weights_of(term: MemoryContrast) -> torch.Tensor:
    """v of each place, scaled to the mean 1 of its class."""
    v, there = term._memory_weight(), term.queue.there
    v = torch.ones(there.shape) if v is None else v
    v = torch.where(there, v, 0.0)
    return v * (there.sum(1) / v.sum(1).clamp(min=1e-9))[:, None]


def test_weights_of_the_memory_are_learned_and_as_released_all_1():
    m, term, _ = stepped()
    found = weights_of(term).detach()[term.queue.there]
    close(found.mean(), 1.0, LOSS)
    assert far(found, torch.ones_like(found), 1e-3), "not all are 1"
    released, other, _ = stepped(memory_weights="released")
    assert (weights_of(other)[other.queue.there] == 1).all()


@pytest.mark.parametrize("loss", ["source", "mixed"])
@pytest.mark.parametrize("memory_weights, learns", [("learned", True), ("released", False)])
def test_selectors_of_the_memory_have_a_gradient_and_as_released_none(memory_weights, learns, loss):
    m, term, _ = stepped(memory_weights=memory_weights)
    value = run(m, 2, pictures(1))[loss]
    gradients = torch.autograd.grad(value, list(term.memory_selector.parameters()), allow_unused=True, materialize_grads=True,
                                    retain_graph=True)  # fmt: skip
    assert any(bool(g.any()) for g in gradients) == learns
    own = [*term.selector.parameters(), *term.projector.parameters(), *term.predictor.parameters()]
    assert any(bool(g.any()) for g in torch.autograd.grad(value, own, allow_unused=True, materialize_grads=True))


def test_the_loss_is_that_of_the_predictors_cells_and_of_the_memory():
    m, term, calls = stepped()
    for call, name in zip(calls, ("source", "mixed"), strict=True):
        y = call.step.batches[name].label
        if name == "mixed":
            y = torch.where(call.step.taught.mixed_weight > 0, y, IGNORE)
        found = term({name: call.P[name]}, call.step)[name]
        p = term.predictor((term.projector((call.P[name].features,)),))
        y = labels_at(y, tuple(p.shape[2:]))
        w = term.selector(in_rows(p.detach()), y.flatten()).sigmoid().view(y.shape)
        there = term.queue.there
        inside = torch.where(there, torch.arange(C)[:, None], IGNORE)
        v = term.memory_selector(term.queue.features.flatten(0, 1), inside.flatten()).sigmoid().view(there.shape)
        wanted = memory_contrast(p, y, term.queue.features, there, w, v)
        close(found, wanted, LOSS)
        close(p.norm(dim=1), torch.ones_like(y, dtype=torch.float32), LOSS)


def test_the_memory_is_fed_before_the_first_loss():
    m = build("memory", first_step=1, loss_from=3)
    found = []
    for number in range(4):
        found.append((sorted(run(m, number, pictures(number))), bool(term_of(m).queue.seen.any())))
    assert found == [([], False), ([], True), ([], True), (["mixed", "source"], True)]


def test_the_teachers_projector_follows_with_the_rate_of_the_methods_teacher():
    m, term, _ = stepped(1)
    before = term.teacher.module.layers[0].weight.clone()
    with torch.no_grad():
        term.projector.layers[0].weight.add_(1.0)
    run(m, 5, pictures(1))
    a = min(1 - 1 / 6, m.teacher.settings.alpha)
    close(term.teacher.module.layers[0].weight, a * before + (1 - a) * (before + 1), LOSS)
    assert term.passes() == Passes(trained=0, frozen=1)


@pytest.mark.parametrize("labelled, each", [(1, 256), (20, 13), (100, 3), (372, 1), (2975, 1)])
def test_the_labelled_pictures_fill_the_memory_once(labelled, each):
    assert MemoryContrastSettings(labelled=labelled).per_picture == each


@pytest.mark.parametrize("field, value, words", [
    ("length", 0, "length is 0"), ("labelled", 0, "labelled is 0; it wants a whole number from 1"),
    ("least_confidence", 1.5, "least_confidence is 1.5; it wants a number from 0.0 to 1.0"),
    ("memory_out", 0, "memory_out is 0"), ("memory_hidden", 0, "memory_hidden is 0"),
    ("selector_hidden", 0, "selector_hidden is 0"), ("loss_from", -1, "is -1"),
    ("kept", "best", "kept: it holds 'best', wanted one of 'highest', 'lowest'"), ("weight", float("nan"), "weight is nan"),
    ("memory_weights", "ones", "memory_weights: it holds 'ones', wanted one of 'learned', 'released'"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        MemoryContrastSettings(**{field: value})
