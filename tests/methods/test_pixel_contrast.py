"""PiPa's pixel contrast: which cells are anchors, the value against loops, what moves it, switches as released, processes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.losses.prototype import labels_at
from course_lib.methods import DACS, OptimiserSettings, SourceOnly
from course_lib.methods.step import Passes, Step
from course_lib.methods.terms.pixel_contrast import PixelContrast, PixelContrastSettings, anchors
from course_lib.networks import HRDA, Box, Prediction, small
from tests.bounds import bound, close, far
from tests.engine.test_no_waiting import Waits, stand_in, steps_of  # noqa: F401
from tests.losses.test_pair_contrast import loops
from tests.networks.test_hrda import Means
from tests.processes import own_part, together

C, H, W = 5, 32, 64
FEW = PixelContrastSettings(anchors=40, per_class=6, least=4, out=8)
ALL = replace(FEW, anchors=10_000, per_class=10_000, least=0)  # every labelled cell is an anchor


def batch(seed: int = 1, n: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (n, H // 8, W // 8), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label[:, :8, :8] = 255
    return Batch(torch.randn(n, 3, H, W, generator=generator), label, [f"{seed}_{i}.png" for i in range(n)])


def term(settings: PixelContrastSettings = FEW, network: nn.Module | None = None) -> PixelContrast:
    torch.manual_seed(0)
    return PixelContrast(network or small(C, width=8), settings).train()


def step_of(source: Batch, seed: int = 3) -> Step:
    return Step(0, {"source": source}, None, torch.Generator().manual_seed(seed))


def value(t: PixelContrast, source: Batch | None = None, P: Prediction | None = None, seed: int = 3) -> torch.Tensor:
    source = source or batch()
    return t({"source": t.segmenter(source.image) if P is None else P}, step_of(source, seed))["contrast"]


class Unit(nn.Module):
    """In place of the projector: the finest map itself."""

    def forward(self, pyramid):
        return nn.functional.normalize(pyramid[0], dim=1)


def planted(label: torch.Tensor, noise: float = 0.0) -> Prediction:
    """Maps that say the class, one axis for each, at stride 4; the classifier is always wrong about class 0."""
    y = labels_at(label, (H // 4, W // 4))
    x = nn.functional.one_hot(torch.where(y == 255, C, y), C + 1).permute(0, 3, 1, 2).float()
    x = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return Prediction(x, x[:, :C].roll(1, 1), pyramid=(x,))


# ---- which cells are anchors ----------------------------------------------------------------------------------------


def chosen_by_loops(y, hard, numbers, classes, most, per_class, least) -> set[int]:
    """The rule, picture by picture and class by class."""
    cells = {}
    for at, (c, h, u) in enumerate(zip(y.flatten().tolist(), hard.flatten().tolist(), numbers.flatten().tolist())):
        if c < classes:
            cells.setdefault((at // y[0].numel(), c), []).append((u, at, h))
    pairs = [sorted(each) for each in cells.values() if len(each) > least]
    n = max(1, min(most // max(1, len(pairs)), per_class))
    found = set()
    for each in pairs:
        hard_cells, easy_cells = ([at for _, at, h in each if h == kind] for kind in (True, False))
        take = n // 2
        if len(easy_cells) < n - take:
            take = n - len(easy_cells)
        take = min(take, len(hard_cells))
        found |= set(hard_cells[:take]) | set(easy_cells[: n - take])
    return found


@pytest.mark.parametrize("most, per_class, least", [(40, 6, 4), (40, 100, 0), (1024, 100, 5), (7, 3, 2), (3, 9, 0), (1, 1, 30)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_anchors_are_those_of_the_rule(share, most, per_class, least):
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 7, (3, 8, 9), generator=generator).clamp(max=C)
    y[y == C], y[1] = 255, torch.where(y[1] > 1, 0, y[1])  # picture 1 has two classes, one of them in most cells
    hard, numbers = torch.rand(3, 8, 9, generator=generator) < share, torch.rand(3, 8, 9, generator=generator)
    index, there = anchors(y, hard, numbers, C, most, per_class, least)
    assert len(index) == len(there) == min(max(most, 3 * C), 3 * 72) and len(set(index.tolist())) == len(index)
    assert set(index[there].tolist()) == chosen_by_loops(y, hard, numbers, C, most, per_class, least)


def test_half_of_the_anchors_are_hard_where_there_are_enough():
    y = torch.zeros(1, 1, 40, dtype=torch.int64)
    for hard_cells, wanted in ((20, 5), (3, 3), (38, 8), (0, 0), (40, 10)):
        hard = torch.arange(40)[None, None] < hard_cells
        index, there = anchors(y, hard, torch.rand(1, 1, 40), C, most=10, per_class=100, least=10)
        assert there.sum() == 10 and (index[there] < hard_cells).sum() == wanted


def test_a_class_wants_more_cells_than_least_and_pairs_share_the_anchors():
    y = torch.tensor([0] * 5 + [1] * 6 + [255] * 9).view(1, 1, 20)
    easy, numbers = torch.zeros_like(y, dtype=torch.bool), torch.rand(1, 1, 20)
    assert y.flatten()[_there(anchors(y, easy, numbers, C, 8, 100, 5))].tolist() == [1] * 6  # all of 8 are its own: it has 6
    assert y.flatten()[_there(anchors(y, easy, numbers, C, 8, 100, 4))].sort().values.tolist() == [0] * 4 + [1] * 4


def _there(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return found[0][found[1]]


def test_cells_are_drawn_evenly():
    y, easy = torch.zeros(1, 4, 5, dtype=torch.int64), torch.zeros(1, 4, 5, dtype=torch.bool)
    generator, count = torch.Generator().manual_seed(0), torch.zeros(20)
    for _ in range(400):
        count[_there(anchors(y, easy, torch.rand(1, 4, 5, generator=generator), 1, 5, 5, 0))] += 1
    assert count.sum() == 2000 and (count - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5  # five standard deviations


def test_which_cells_depends_on_the_numbers_of_the_step_alone():
    t, P = term(), small(C, width=8)(batch().image)
    assert value(t, P=P) == value(t, P=P) != value(t, P=P, seed=4)


# ---- the value ------------------------------------------------------------------------------------------------------


def test_a_step_is_the_papers_with_loops():
    t, source = term(), batch()
    t.projector.eval()  # no statistics of the batch: the same embedding in both
    P, y = t.segmenter(source.image), labels_at(source.label, (H // 4, W // 4))
    with torch.no_grad():
        z = t.projector(P.pyramid).permute(0, 2, 3, 1).flatten(0, 2)
    numbers = torch.rand(2, H // 4 * W // 4, generator=torch.Generator().manual_seed(3)).view(y.shape)
    hard = P.logits.argmax(1) != y
    assert 0.1 < hard[y != 255].float().mean() < 0.95
    A = sorted(chosen_by_loops(y, hard, numbers, C, 40, 6, 4))
    assert 20 < len(A) <= 40
    wanted = loops(z[A], z[A], y.flatten()[A], y.flatten()[A], 0.1, same_rows=True)
    close(value(t, source, P), wanted / 0.7, bound(10, torch.float32, 2 / 0.1) + bound(200, torch.float32, 8.0))
    equal = term(replace(FEW, base_temperature=0.1))
    equal.projector.eval()
    close(value(equal, source, P), wanted, bound(10, torch.float32, 2 / 0.1) + bound(200, torch.float32, 8.0))


def test_the_order_of_pictures_and_cells_is_nothing():
    t, source = term(ALL), batch(n=3)
    P, mirrored = t.segmenter(source.image), lambda x: x.flip(0).flip(-1)
    turned = P._replace(logits=mirrored(P.logits), pyramid=tuple(mirrored(x) for x in P.pyramid))
    y = labels_at(source.label, (H // 4, W // 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    there = value(t, source._replace(label=y), P)
    close(value(t, source._replace(label=mirrored(y)), turned), there, bound(2000, torch.float32, 8.0))


def test_ignored_cells_get_no_gradient_and_nothing_labelled_gives_0():
    t, source = term(ALL), batch()
    t.projector.eval()
    P = t.segmenter(source.image)
    F_1 = P.pyramid[0].detach().requires_grad_()
    loss = value(t, source, P._replace(pyramid=(F_1, P.pyramid[1].detach())))
    (gradient,) = torch.autograd.grad(loss, F_1)
    ignored = labels_at(source.label, (H // 4, W // 4)) == 255
    assert not gradient.abs().sum(1)[ignored].any() and gradient.abs().sum(1)[~ignored].all()
    nothing = value(t, source._replace(label=torch.full_like(source.label, 255)))
    assert nothing == 0 and all(not g.any() for g in torch.autograd.grad(nothing, list(t.projector.parameters())))


@pytest.mark.parametrize("two", [False, True])
def test_the_gradient_reaches_the_encoder_and_the_projector(two):
    torch.manual_seed(0)
    t = term(network=HRDA(small(C, width=8), 8).train() if two else None, settings=replace(FEW, least=1))
    value(t).backward()
    encoder = (t.segmenter.segmenter if two else t.segmenter).deep
    for part in (encoder, t.projector):
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in part.parameters() if p.ndim > 1)


def test_labels_by_share():
    """A cell of two classes has none of them."""
    t, label = term(replace(FEW, cell_labels="share")), torch.zeros(1, H, W, dtype=torch.int64)
    label[:, :, 2:] = 1
    assert t.cells(label, (8, 16))[0, 0].tolist() == [255] + [1] * 15
    assert term().cells(label, (8, 16))[0, 0].tolist() == [0] + [1] * 15


# ---- two resolutions ------------------------------------------------------------------------------------------------


def test_on_two_resolutions_features_and_labels_are_of_one_picture_wherever_the_window_lies():
    """The network's map at a place is the picture there. The release pairs features of the window with all labels."""
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    label = torch.randint(0, 3, (2, 4, 6), generator=torch.Generator().manual_seed(2))
    label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
    source = Batch(colours[label].permute(0, 3, 1, 2), label, ["a.png", "b.png"])
    net = HRDA(Means(), 8).train()
    t = PixelContrast(net, replace(ALL, gather=False)).train()
    t.projector = Unit()
    found = []
    for box in (Box(0, 0, 32, 48), Box(32, 48, 32, 48), Box(8, 16, 32, 48)):
        P = net(source.image, box)
        found.append(value(t, source, P).item())
        crop = P._replace(pyramid=net.segmenter(box.of(source.image)).pyramid)  # as the release does
        assert value(t, source, crop) > found[0] + 3
    assert found[0] == found[1] == found[2] < 0.03


# ---- in a step ------------------------------------------------------------------------------------------------------


def method(kind=SourceOnly):
    torch.manual_seed(0)
    segmenter = small(C, width=8)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return kind(segmenter, optimiser=optimiser, terms={"pixel_contrast": PixelContrast(segmenter, FEW)}).train()


@pytest.mark.parametrize("kind", [SourceOnly, DACS])
def test_it_is_part_of_the_sources_backward_pass_and_learns(kind):
    m = method(kind)
    first = m.terms["pixel_contrast"].projector.layers[0].weight.detach().clone()
    loaders = {"source": [batch(1), batch(2)]} | ({} if kind is SourceOnly else {"target": [batch(3), batch(4)]})
    records = train(m, loaders, LoopSettings(steps=2, log_every=1), quiet=True).records
    assert all(record["losses"]["pixel_contrast.contrast"] > 1 for record in records)
    assert m.weight("pixel_contrast.contrast") == 0.1 and m.terms["pixel_contrast"].passes() == Passes(0, 0)
    assert far(m.terms["pixel_contrast"].projector.layers[0].weight, first, 1e-6)


def test_descending_it_draws_cells_of_a_class_together():
    t, source = term(ALL), batch()
    optimiser = torch.optim.Adam([*t.segmenter.parameters(), *t.projector.parameters()], 3e-3)
    losses = []
    for _ in range(25):
        loss = value(t, source)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses


def test_inside_autocast_it_is_computed_in_float32():
    t, source = term(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        P = t.segmenter(source.image)
        found = value(t, source, P)
    assert P.pyramid[0].dtype == torch.bfloat16 and found.dtype == torch.float32 and found.isfinite()


# ---- as released ----------------------------------------------------------------------------------------------------


def test_ignore_as_a_class():
    """As released, pixels without a label are drawn together, and the others away from them."""
    source = batch()
    P = planted(source.label)
    same = P._replace(pyramid=(torch.cat([P.pyramid[0][:, :C], torch.zeros_like(P.pyramid[0][:, :1])], 1) + 0.01,))
    values = {}
    for released in (False, True):
        t = term(replace(ALL, ignore_as_class=released))
        t.projector = Unit()
        F_1 = same.pyramid[0].clone().requires_grad_()
        loss = value(t, source, same._replace(pyramid=(F_1,)))
        (gradient,) = torch.autograd.grad(loss, F_1)
        ignored = labels_at(source.label, (H // 4, W // 4)) == 255
        values[released] = bool(gradient.abs().sum(1)[ignored].any())
    assert values == {False: False, True: True}


def test_hard_cells_by_a_head_that_never_learns():
    """As released: what the network has learnt changes nothing about which cells are hard."""
    source = batch()
    released, ours = term(replace(FEW, hard_by="random")), term()
    assert not any(p.requires_grad for p in released.random.parameters()) and ours.random is None
    P = released.segmenter(source.image)
    other = P._replace(logits=P.logits.roll(1, 1))
    assert value(released, source, P) == value(released, source, other)
    assert far(value(ours, source, P), value(ours, source, other), 1e-4)
    y = labels_at(source.label, (H // 4, W // 4))
    assert not torch.equal(released.predicted(P, tuple(y.shape[1:])), P.logits.argmax(1))
    assert torch.equal(ours.predicted(P, tuple(y.shape[1:])), P.logits.argmax(1))


# ---- two processes --------------------------------------------------------------------------------------------------


def part_of_four() -> dict:
    """One process's part of four pictures: the loss with anchors of all processes or its own, and the gradients."""
    whole, found = batch(n=4), {}
    whole.label[0] = 255  # unevenly labelled
    for gather in (True, False):
        t = term(replace(FEW, gather=gather, anchors=60))
        loss = value(t, own_part(whole))
        loss.backward()
        parts = [t.projector.layers[0].weight, t.projector.layers[3].weight, t.segmenter.deep[0].conv1.weight]
        found[str(gather)] = [loss.detach(), *(p.grad for p in parts)]
    return found


def test_two_processes_are_one(tmp_path):
    two, one = together(part_of_four, tmp_path), part_of_four()
    for gather, wanted in one.items():
        loss, *slopes = (sum(pair) / 2 for pair in zip(two[0][gather], two[1][gather]))
        if gather == "False":
            assert far(loss, wanted[0], 1e-2), "anchors are counted, and pairs made, in each process"
            continue
        close(loss, wanted[0], bound(1000, torch.float32, 20.0))
        for slope, exact in zip(slopes, wanted[1:]):
            close(slope, exact, bound(4000, torch.float32, 40 * exact.abs().max()))


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_errors_say_what_came_and_what_was_wanted():
    class Flat(Means):
        pyramid_channels = ()

    with pytest.raises(ValueError, match="pixel_contrast reads the encoder's maps, and Flat gives none. Choose another"):
        PixelContrast(Flat())
    for name, wrong, words in (
        ("contrast_temperature", 0.0, "contrast_temperature is 0.0; it wants a number"),
        ("base_temperature", -1.0, "base_temperature is -1.0"),
        ("anchors", 0, "anchors is 0; it wants a whole number from 1"),
        ("per_class", 0, "per_class is 0"),
        ("least", -1, "least is -1; it wants a whole number from 0"),
        ("hidden", 0, "hidden is 0"),
        ("cell_share", 0.0, "cell_share is 0.0"),
        ("cell_labels", "mean", "cell_labels.*'mean', wanted.*nearest"),
        ("hard_by", "teacher", "hard_by.*'teacher', wanted.*network"),
        ("weight", -1.0, "weight is -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            PixelContrastSettings(**{name: wrong})
