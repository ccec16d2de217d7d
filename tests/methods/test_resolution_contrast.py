"""CLUDA's contrast of two resolutions: cells where the picture has them, the value against loops, the release's five mistakes,
each shown and absent, two processes."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.data import Batch
from course_lib.engine import LoopSettings, train
from course_lib.methods import DACS, OptimiserSettings, SourceOnly
from course_lib.methods.step import Passes, Step
from course_lib.methods.terms.base import at_middles
from course_lib.methods.terms.resolution_contrast import (
    Cells,
    ResolutionContrast,
    ResolutionContrastSettings,
    bilinear,
    by_cell,
    by_picture,
    resampled,
    rest,
)
from course_lib.networks import HRDA, Box, Boxes, build, small
from course_lib.networks.windows import most_uncertain, quarters
from tests.bounds import bound, close, far
from tests.engine.test_no_waiting import Waits, stand_in, steps_of  # noqa: F401
from tests.losses.test_pair_contrast import loops, rows
from tests.networks.test_hrda import Means
from tests.oracles.nt_xent import row_loss
from tests.processes import own_part, together

C, H, W, G = 5, 32, 64, 9
SETTINGS = ResolutionContrastSettings(grid=G, omega_width=8)
BOX = Box(8, 24, 16, 32)
LOSS = bound(1000, torch.float32, 10.0)


def at_cells(maps: torch.Tensor, cells: int) -> torch.Tensor:
    return at_middles(maps, (cells, cells), align_corners=True)


def batch(seed: int = 1, n: int = 2, side: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (n, H // side, W // side), generator=generator)
    label = label.repeat_interleave(side, 1).repeat_interleave(side, 2)
    label[:, :8, :8] = 255
    return Batch(torch.randn(n, 3, H, W, generator=generator), label, [f"{seed}_{i}.png" for i in range(n)])


def term(settings: ResolutionContrastSettings = SETTINGS, inside: nn.Module | None = None) -> ResolutionContrast:
    torch.manual_seed(0)
    found = ResolutionContrast(HRDA(inside or small(C, width=8), 8), settings).train()
    for part in (found, found.segmenter):
        for module in part.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
    return found


def cells_of(t: ResolutionContrast, source: Batch, box: Box = BOX, q: torch.Tensor | None = None) -> Cells:
    y = source.label
    return t.cells(t.segmenter(source.image, box), y, torch.ones(y.shape) if q is None else q)


def made_up(n: int = 24) -> Cells:
    """Rows of two pictures with everything that may differ: ignored ones, some inside, weights."""
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 3, (n,), generator=generator)
    S = torch.rand(n, generator=generator) < 0.5
    y[::7] = 255
    omega, q = torch.rand(2, n, generator=generator, dtype=torch.float64)
    return Cells(rows(n), torch.where(S[:, None], rows(n, seed=1), 0.0), y, S, torch.where(S, omega, 0.0), q)


# ---- maps at cells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, cells", [((8, 16), 9), ((33, 16), 5), ((4, 4), 65), ((2, 3), 2), ((1, 4), 3)])
def test_maps_are_brought_to_cells_as_torch_does_with_aligned_corners(size, cells):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(x.double(), size=(cells, cells), mode="bilinear", align_corners=True)
    close(resampled(x, cells), wanted, bound(12, torch.float32, 4.0))


def test_rows_of_the_matrix_sum_to_1():
    for size, cells in ((128, 65), (64, 65), (65, 65), (3, 2)):
        close(bilinear(size, cells, "cpu").sum(1), torch.ones(cells), bound(4, torch.float32, 1.0))
    assert torch.equal(bilinear(7, 7, "cpu"), torch.eye(7))


def test_a_window_is_pasted_at_its_place():
    x, place = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0)), Box(2, 6, 4, 8)
    pasted = torch.zeros(2, 3, 8, 16, dtype=torch.float64)
    place.of(pasted).copy_(x)
    wanted = F.interpolate(pasted, size=(G, G), mode="bilinear", align_corners=True)
    close(resampled(x, G, (8, 16), place), wanted, bound(12, torch.float32, 4.0))
    coarse = F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=False)  # a network whose grids round up
    assert resampled(coarse, G, (8, 16), place).shape == (2, 3, G, G)


def test_labels_are_those_of_the_nearest_pixel_of_the_same_place():
    ramp = torch.arange(64).view(1, 1, 64).expand(1, 32, 64)
    exact = torch.linspace(0, 63, G)
    assert torch.equal(at_cells(ramp, G)[0, 0], (exact + 0.5).floor().long())
    assert torch.equal(at_cells(ramp.mT, G)[0, :, 0], (exact + 0.5).floor().long())
    close(resampled(ramp[:, None].float(), G)[0, 0, 0], exact, bound(8, torch.float32, 63.0))


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("cells", [9, 13, 65])
def test_every_cell_that_counts_as_shown_has_features_of_the_window(stride, cells):
    """All boxes that HRDA may draw; unit vectors of cells between the window and the zeros round it point the same way."""
    size = 12 * stride, 20 * stride
    fused, label = (12, 20), torch.zeros(1, *size, dtype=torch.int64)
    for top in range(0, 7, 2):
        for left in range(0, 11, 2):
            box = Box(top * stride, left * stride, size[0] // 2, size[1] // 2)
            place = box.on(size, fused)
            assert place == Box(top, left, 6, 10)
            v = resampled(torch.ones(1, 2, 6, 10) * torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), cells, fused, place)
            S = at_cells(box.mask(label), cells)[0]
            v = F.normalize(v, dim=1)[0]
            close(v[:, S], torch.tensor([[0.6], [0.8]]).expand(2, int(S.sum())), bound(12, torch.float32, 1.0))
            assert 0.15 < S.float().mean() < 0.35


def test_windows_of_each_picture_are_those_of_one_for_all_picture_by_picture():
    t, source = term(), batch(n=3)
    places = [Box(0, 32, 16, 32), Box(8, 24, 16, 32), Box(16, 0, 16, 32)]
    boxes = Boxes(torch.tensor([0, 8, 16]), torch.tensor([32, 24, 0]), 16, 32)
    t.eval(), t.segmenter.eval()  # running statistics: a picture is its own
    t.segmenter.training = True
    found = cells_of(t, source, boxes)
    for k, place in enumerate(places):
        one = cells_of(t, Batch(source.image[k : k + 1], source.label[k : k + 1], ["a"]), place)
        mine = slice(k * G * G, (k + 1) * G * G)
        assert torch.equal(found.S[mine], one.S) and torch.equal(found.y[mine], one.y) and one.S.any()
        for name in ("u", "v", "omega"):
            close(getattr(found, name)[mine], getattr(one, name), bound(2000, torch.float32, 1.0))


# ---- features, labels and weights of one place ----------------------------------------------------------------------


class Painted(Means):
    """One axis for each colour, at stride 4: the features at a place are the colour of the picture there."""


def painted(side: int = 16) -> Batch:
    label = torch.randint(0, 3, (2, 64 // side, 96 // side), generator=torch.Generator().manual_seed(2))
    label = label.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return Batch(torch.eye(3)[label].permute(0, 3, 1, 2).contiguous(), label, ["a.png", "b.png"])


@pytest.mark.parametrize("box", [Box(0, 0, 32, 48), Box(32, 48, 32, 48), Box(8, 16, 32, 48)])
def test_rows_of_both_resolutions_labels_and_masks_are_of_one_cell_wherever_the_window_lies(box):
    t, source = term(replace(SETTINGS, grid=33), Painted()), painted()
    u, v, y, S, omega, q = cells_of(t, source, box)
    sure = u.amax(1) > 0.99  # cells that do not lie between two colours
    assert sure.float().mean() > 0.5 and torch.equal(u.argmax(1)[sure], y[sure])
    sure = (v.amax(1) > 0.99) & S
    assert 0.1 < sure.float().mean() < 0.3 and torch.equal(v.argmax(1)[sure], y[sure])
    assert torch.equal(omega > 0, S) and (q == 1).all() and (omega <= 1).all()
    close(u.norm(dim=1), torch.ones(len(u)), bound(8, torch.float32, 1.0))


def test_a_weight_is_that_of_the_labels_pixel_and_0_leaves_the_cell_out():
    t, source = term(), batch()
    q = torch.rand(2, H, W, generator=torch.Generator().manual_seed(0))
    q[0, :16, 32:] = 0
    cells = cells_of(t, source, q=q)
    assert torch.equal(cells.q, at_cells(q, G).flatten())
    y = at_cells(torch.where(q > 0, source.label, 255), G).flatten()
    assert torch.equal(cells.y, y) and far(y, at_cells(source.label, G).flatten(), 1)


# ---- the value ------------------------------------------------------------------------------------------------------


def by_loops(cells: Cells, tau: float) -> float:
    """The equation with loops over rows and pairs."""
    u, v, y, S, omega, q = (x.tolist() for x in cells)
    n, total, counted = len(y), 0.0, 0

    def dot(a, b):
        return sum(x * z for x, z in zip(a, b)) / tau

    for i in range(n):
        pairs = [j for j in range(n) if y[j] == y[i] != 255 and S[j] and j != i]
        low = [dot(u[i], u[k]) for k in range(n) if y[k] not in (y[i], 255)]
        high = [dot(u[i], v[k]) for k in range(n) if y[k] not in (y[i], 255) and S[k]]
        row = 0.0
        for j in pairs:
            w = omega[i] * omega[j]
            row += q[i] * q[j] * (w * row_loss(dot(u[i], u[j]), low) + (1 - w) * row_loss(dot(u[i], v[j]), high))
        if pairs:
            total, counted = total + row / len(pairs), counted + 1
    return total / counted / 2


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_loss_is_the_equation_with_loops(tau):
    t = term(replace(SETTINGS, contrast_temperature=tau))
    close(t.contrast(made_up()), by_loops(made_up(), tau), bound(400, torch.float64, 20 / tau))


def test_a_step_on_the_network_is_the_equation():
    t, source = term(), batch()
    P = t.segmenter(source.image)
    found = t({"source": P}, Step(0, {"source": source}))
    cells = t.cells(P, source.label, torch.ones(source.label.shape))
    assert found.keys() == {"source"} and cells.y.eq(255).any() and cells.S.any() and not cells.S.all()
    close(found["source"], by_loops(Cells(*(x.detach().double() if x.is_floating_point() else x for x in cells)), 1.0), LOSS)


def test_weights_of_pairs():
    """omega = 0 leaves the pairs of two resolutions, 1 those of one in the window; both together are all."""
    cells = made_up()._replace(q=torch.ones(24, dtype=torch.float64))
    t = term()
    none, one = (t.contrast(cells._replace(omega=x)) for x in (torch.zeros(24).double(), cells.S.double()))
    across = loops(cells.u, cells.v, cells.y, torch.where(cells.S, cells.y, 255), 1.0, same_rows=True)
    close(none, across / 2, bound(300, torch.float64, 10.0))
    a, b = rest(cells.q, cells.S.double())
    assert torch.equal(a @ b.T == 0, cells.S[:, None] & cells.S)
    assert far(one, none, 1e-3)


def test_the_order_of_cells_is_nothing_and_ignored_ones_get_no_gradient():
    t, cells = term(), made_up()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    close(t.contrast(Cells(*(x[order] for x in cells))), t.contrast(cells), bound(400, torch.float64, 20.0))
    u, v, omega = (x.clone().requires_grad_() for x in (cells.u, cells.v, cells.omega))
    t.contrast(cells._replace(u=u, v=v, omega=omega)).backward()
    ignored = cells.y == 255
    for x in (u, v, omega):
        assert not x.grad[ignored].any() and x.grad[~ignored & cells.S].any()
    assert not v.grad[~cells.S].any(), "what the window does not show is no pair"
    nothing = t.contrast(cells._replace(y=torch.full_like(cells.y, 255), u=u))
    assert nothing == 0 and not torch.autograd.grad(nothing, u)[0].any()


def test_the_gradient_reaches_the_encoder_by_both_resolutions_and_the_attention():
    t, source = term(), batch()
    P = t.segmenter(source.image)
    (loss,) = t({"source": P}, Step(0, {"source": source})).values()
    maps = P.features, P.detail.features, *t.segmenter.segmenter.deep.parameters(), t.omega.conv_seg.weight
    for gradient in torch.autograd.grad(loss, maps):
        assert gradient.any() and gradient.isfinite().all()


# ---- source and mixed pictures --------------------------------------------------------------------------------------


def test_mixed_pictures_count_by_their_weights():
    t, source, mixed = term(), batch(), batch(2)
    q = torch.rand(2, H, W, generator=torch.Generator().manual_seed(0))
    P = t.segmenter(mixed.image)
    step = Step(0, {"source": source, "mixed": mixed}, SimpleNamespace(mixed_weight=q))
    found = t({"mixed": P}, step)
    assert found.keys() == {"mixed"}
    close(found["mixed"], t.contrast(t.cells(P, mixed.label, q)), LOSS)
    assert far(found["mixed"], t.contrast(t.cells(P, mixed.label, torch.ones_like(q))), 1e-3)
    assert t({"source": P, "mixed": P}, step).keys() == {"source", "mixed"}


def method(kind=SourceOnly, settings=SETTINGS):
    t = term(settings)
    optimiser = OptimiserSettings(lr=0.01, head_factor=1.0, momentum=0.0, weight_decay=0.0)
    return kind(t.segmenter, optimiser=optimiser, terms={"resolution_contrast": t}).train()


def test_it_learns_beside_source_labels():
    m = method()
    first = copy.deepcopy(m.terms.state_dict())
    records = train(m, {"source": [batch(1), batch(2)]}, LoopSettings(steps=2, log_every=1), quiet=True).records
    assert all(record["losses"]["resolution_contrast.source"] > 0.5 for record in records)
    assert m.terms["resolution_contrast"].passes() == Passes(0, 0)
    assert any(not torch.equal(x, first[name]) for name, x in m.terms.state_dict().items() if "weight" in name)


def test_a_mean_teacher_has_both_each_in_its_own_backward_pass():
    m = method(DACS)
    for part in (m, m.terms):
        part.begin_step(0, 10)
    passes = [list(losses) for losses in m.losses(source=batch(1), target=batch(2))]
    assert passes == [["segmentation", "resolution_contrast.source"], ["mixed", "resolution_contrast.mixed"]]


def test_inside_autocast_it_is_computed_in_float32():
    t, source = term(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        P = t.segmenter(source.image)
        found = t({"source": P}, Step(0, {"source": source}))["source"]
        cells = t.cells(P, source.label, torch.ones(source.label.shape))
    assert P.features.dtype == torch.bfloat16 and found.dtype == cells.u.dtype == cells.omega.dtype == torch.float32
    close(found, by_loops(Cells(*(x.detach().double() if x.is_floating_point() else x for x in cells)), 1.0), LOSS)


@pytest.mark.parametrize("inside", ["deeplab_v2"])
def test_networks_whose_grids_round_up(inside):
    torch.manual_seed(0)
    net = HRDA(build(inside, C, form="adaptsegnet_single", blocks=(1, 1, 1, 1)), 8).train()
    source = Batch(torch.randn(1, 3, 64, 128), torch.arange(64 * 128).view(1, 64, 128) // 2048 % C, ["a.png"])
    t = ResolutionContrast(net, SETTINGS).train()
    (loss,) = t({"source": net(source.image)}, Step(0, {"source": source})).values()
    assert loss.isfinite() and loss > 0


# ---- the release's five mistakes ------------------------------------------------------------------------------------


def test_1_features_in_another_order_than_labels():
    """Of two pictures, cell by cell and picture by picture, two rows of 8,450 agree."""
    cells = torch.arange(2 * 65 * 65).view(2, 1, 65, 65)
    picture = by_picture(cells)[:, 0]
    assert torch.equal(picture, cells.flatten())
    agree = (by_cell(cells)[:, 0] == picture).nonzero().flatten().tolist()
    assert agree == [0, 8449]
    source, found = painted(), {}
    for released in (False, True):
        t = term(replace(SETTINGS, grid=33, as_released=released), Painted())
        u, _, y, *_ = cells_of(t, source)
        sure = u.amax(1) > 0.99
        found[released] = (u.argmax(1) == y)[sure].float().mean().item()
    assert found[False] == 1 and found[True] < 0.6, "a third is chance"


def test_2_255_is_a_class():
    source = batch(n=1)  # of one picture the order is right
    for released in (False, True):
        t = term(replace(SETTINGS, as_released=released))
        P = t.segmenter(source.image, BOX)
        cells = t.cells(P, source.label, torch.ones(source.label.shape))
        u = cells.u.detach().requires_grad_()
        t.contrast(cells._replace(u=u)).backward()
        ignored = at_cells(source.label, G).flatten() == 255
        assert ignored.any() and bool(u.grad[ignored].any()) == released


def test_3_road_is_outside_the_window():
    source = batch(n=1)
    label = torch.where(source.label == 255, 1, source.label)
    road = at_cells(label, G).flatten() == 0
    for released in (False, True):
        t = term(replace(SETTINGS, as_released=released))
        cells = cells_of(t, source._replace(label=label))
        inside = at_cells(BOX.mask(label).expand_as(label), G).flatten()
        assert (road & inside).any() and bool((cells.omega[road & inside] > 0).any()) == (not released)
        assert (cells.omega[~road & inside] > 0).all() and not cells.omega[~inside].any()


def test_4_zeros_outside_the_window_are_pairs():
    """They pull nowhere, and change the value of the rows of their class and of all others."""
    source = batch(n=1)
    label = torch.where(source.label == 255, 1, source.label) % 4 + 1  # no road, all labelled: the other mistakes do nothing
    found = {}
    for released in (False, True):
        t = term(replace(SETTINGS, as_released=released))
        cells = cells_of(t, source._replace(label=label))
        S = at_cells(BOX.mask(label).expand_as(label), G).flatten()
        assert not cells.v[~S].any() and bool(cells.S.all()) == released
        found[released] = t.contrast(cells), t.contrast(cells._replace(v=torch.where(S[:, None], cells.v, 0.3)))
    assert torch.equal(*found[False]) and far(*found[True], 1e-3)


def searched_as_released(entropy: torch.Tensor, windows: list[Box]) -> int:
    """The best window so far is a view of the map: writing a better one into it changes what later windows hold."""
    entropy = entropy.clone()
    best, index = windows[0].of(entropy), 0
    for k, box in enumerate(windows):
        if box.of(entropy).mean() > best.mean():
            best[:], index = box.of(entropy).clone(), k
    return index


def test_5_a_search_that_changes_its_map():
    windows = quarters(16, 16)
    assert len(set(windows)) == 9 and all(box.height == box.width == 8 for box in windows)
    entropy = torch.rand(400, 16, 16, generator=torch.Generator().manual_seed(0))
    before = entropy.clone()
    wanted = [max(range(9), key=lambda k: windows[k].of(picture).mean().item()) for picture in entropy]
    assert most_uncertain(entropy, windows).tolist() == wanted and torch.equal(entropy, before)
    wrong = sum(searched_as_released(picture, windows) != k for picture, k in zip(entropy, wanted)) / 400
    assert 0.1 < wrong < 0.5, "about three of ten"


# ---- two processes --------------------------------------------------------------------------------------------------


def part_of_four() -> dict:
    whole, found = batch(n=4), {}
    whole.label[0] = 255  # unevenly labelled
    source = own_part(whole)
    for gather in (True, False):
        t = term(replace(SETTINGS, gather=gather))
        (loss,) = t({"source": t.segmenter(source.image, BOX)}, Step(0, {"source": source})).values()
        loss.backward()
        parts = t.omega.fuse_layer.conv.weight, t.segmenter.segmenter.deep[0].conv1.weight
        found[str(gather)] = [loss.detach(), *(p.grad for p in parts)]
    return found


def test_two_processes_are_one(tmp_path):
    two, one = together(part_of_four, tmp_path), part_of_four()
    for gather, wanted in one.items():
        loss, *slopes = (sum(pair) / 2 for pair in zip(two[0][gather], two[1][gather]))
        if gather == "False":
            assert far(loss, wanted[0], 1e-3), "pairs are made in each process"
            continue
        close(loss, wanted[0], LOSS)
        for slope, exact in zip(slopes, wanted[1:]):
            close(slope, exact, bound(4000, torch.float32, 40 * exact.abs().max()))


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match="compares two resolutions, and Small has one. Choose network=hrda"):
        ResolutionContrast(small(C, width=8))
    for name, wrong, words in (
        ("contrast_temperature", 0.0, "contrast_temperature is 0.0; it wants a number"),
        ("grid", 1, "grid is 1; it wants a whole number from 2"),
        ("omega_width", 0, "omega_width is 0"),
        ("weight", -1.0, "weight is -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            ResolutionContrastSettings(**{name: wrong})
