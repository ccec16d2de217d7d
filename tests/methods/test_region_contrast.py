"""ReCo's term: which cells are valid and hard, the value against the loss's loops, where a cell's label is read, settings."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_lib.data import Batch
from course_lib.losses import region_contrast
from course_lib.methods.step import Passes, Step, Taught
from course_lib.methods.terms.base import at_middles
from course_lib.methods.terms.region_contrast import RegionContrast, RegionContrastSettings, region_numbers
from course_lib.networks import build, small
from tests.bounds import bound, close, far
from tests.losses.test_region_contrast import Cells, by_loops, rounding

C, H, W = 5, 32, 64
FEW = RegionContrastSettings(queries=4, negatives=6, hidden=8, out=6, strong_threshold=0.3)


def batch(seed: int, n: int = 2) -> Batch:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, C, (n, H // 8, W // 8), generator=g).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label[:, :8, :8] = 255
    return Batch(torch.randn(n, 3, H, W, generator=g), label, [f"{seed}_{i}.png" for i in range(n)])


def term(settings: RegionContrastSettings = FEW) -> RegionContrast:
    torch.manual_seed(0)
    segmenter = small(C, width=8)
    with torch.no_grad():
        segmenter.classifier.weight.mul_(5)  # some cells are surer than others
    return RegionContrast(segmenter, settings).train()


def step_of(sure: torch.Tensor, seed: int = 3) -> Step:
    taught = Taught(**dict.fromkeys(Taught._fields) | {"mixed_sure": sure})
    return Step(0, {"source": batch(1), "mixed": batch(2)}, taught, torch.Generator().manual_seed(seed))


def confidences() -> torch.Tensor:
    return torch.rand(2, H, W, generator=torch.Generator().manual_seed(5))


def predictions(t: RegionContrast, step: Step) -> dict:
    return {name: t.segmenter(step.batches[name].image) for name in t.reads}


def test_valid_and_hard_cells_are_those_of_the_rule():
    """Cell by cell: a label, in mixed pictures a sure one, and what the network itself gives to its class."""
    t, sure = term(), confidences()
    step = step_of(sure)
    for name, P in predictions(t, step).items():
        label, p = step.batches[name].label, P.logits.softmax(1)
        _, y, hard = t.cells(P, label, sure if name == "mixed" else None)
        y, hard = y.view(2, H // 4, W // 4), hard.view(2, H // 4, W // 4)
        kinds = set()
        for n in range(2):
            for i in range(H // 4):
                for j in range(W // 4):
                    row, column = round(i * (H - 1) / (H // 4 - 1)), round(j * (W - 1) / (W // 4 - 1))
                    own = label[n, row, column].item()
                    valid = own != 255 and (name == "source" or sure[n, row, column].item() >= 0.7)
                    unsure = valid and p[n, own, i, j].item() < 0.3
                    assert (y[n, i, j].item(), hard[n, i, j].item()) == (own if valid else 255, unsure)
                    kinds.add((valid, unsure))
        assert kinds == {(False, False), (True, False), (True, True)}


def test_the_value_is_that_of_the_losss_loops():
    t, step = term(), step_of(confidences())
    t.project.eval()  # no statistics of the batch: the same representations below
    P = predictions(t, step)
    found = t(P, step)["contrast"]
    cells = [t.cells(P[name], step.batches[name].label, sure) for name, sure in (("source", None), ("mixed", confidences()))]
    r, y, hard = (torch.cat([a[0], b[0], a[1], b[1]]).detach() for a, b in zip(*cells))  # picture by picture
    c = Cells(r.double(), y, hard, region_numbers((C, 4, 6), r.device, torch.Generator().manual_seed(3)))
    wanted = by_loops(c, 0.5).item()
    close(found, wanted, rounding(c, 0.5, wanted, torch.float32))


def test_views_of_one_picture_are_side_by_side():
    """As SemiSegContrast mixes: all first views, then all second ones. The order is picture by picture all the same."""
    t, first = term(), step_of(confidences())
    t.project.eval()
    again, sure = batch(7), torch.rand(2, H, W, generator=torch.Generator().manual_seed(6))
    views = [first.batches["mixed"], again]
    mixed = Batch(*(torch.cat([v[k] for v in views]) for k in (0, 1)), [name for v in views for name in v.name])
    taught = first.taught._replace(mixed_sure=torch.cat([confidences(), sure]))
    step = replace(first, batches=first.batches | {"mixed": mixed}, taught=taught)
    P = predictions(t, step)
    found = t(P, step)["contrast"]
    cells = [t.cells(P["source"], first.batches["source"].label, None), t.cells(P["mixed"], mixed.label, taught.mixed_sure)]
    r, y, hard = (torch.cat([a[0], b[0], b[2], a[1], b[1], b[3]]).detach() for a, b in zip(*cells))
    c = Cells(r.double(), y, hard, region_numbers((C, 4, 6), r.device, torch.Generator().manual_seed(3)))
    wanted = by_loops(c, 0.5).item()
    close(found, wanted, rounding(c, 0.5, wanted, torch.float32))


def test_negatives_and_means_are_of_both_pictures():
    """One picture alone has another value, and the gradient of each prediction is not 0."""
    t, step = term(), step_of(confidences())
    P = predictions(t, step)
    features = {name: P[name].features.detach().requires_grad_() for name in P}
    both = t({name: P[name]._replace(features=features[name]) for name in P}, step)["contrast"]
    assert all(slope.abs().sum() > 0 for slope in torch.autograd.grad(both, list(features.values())))
    alone = t(P, step_of(torch.zeros(2, H, W)))["contrast"]  # no mixed cell is valid
    assert far(both, alone, 1e-3) and alone > 0


def test_the_thresholds_are_weak_and_strong():
    """Nothing is sure enough to be valid in mixed pictures; or nothing is so sure that it is not hard."""
    t, step = term(replace(FEW, weak_threshold=1.0, strong_threshold=1.0)), step_of(confidences())
    P = predictions(t, step)
    _, y, hard = t.cells(P["mixed"], step.batches["mixed"].label, confidences())
    assert (y == 255).all() and not hard.any()
    _, y, hard = t.cells(P["source"], step.batches["source"].label, None)
    assert torch.equal(hard, y != 255)
    t = term(replace(FEW, strong_threshold=0.0))
    assert t(P, step)["contrast"] == 0


def test_which_cells_depends_on_the_numbers_of_the_step_alone():
    t, first = term(), step_of(confidences())
    P = predictions(t, first)
    assert t(P, first)["contrast"] == t(P, step_of(confidences()))["contrast"] != t(P, step_of(confidences(), 4))["contrast"]


@pytest.mark.parametrize("grid, size", [((4, 8), (16, 32)), ((3, 5), (17, 33)), ((65, 65), (512, 512)), ((1, 2), (9, 9))])
@pytest.mark.parametrize("align_corners", [True, False])
def test_the_middle_of_a_cell_is_where_enlarged_maps_have_its_value(grid, size, align_corners):
    """The row and the column of each cell, enlarged: within half a pixel of the exact ones."""
    rows = torch.arange(grid[0], dtype=torch.float64)[:, None].expand(grid)
    columns = torch.arange(grid[1], dtype=torch.float64).expand(grid)
    for maps, k in ((rows, 0), (columns, 1)):
        large = F.interpolate(maps[None, None], size=size, mode="bilinear", align_corners=align_corners)[0]
        step = (grid[k] - 1) / (size[k] - 1) if align_corners else grid[k] / size[k]
        off = (at_middles(large, grid, align_corners)[0] - maps).abs().max()
        assert off <= step / 2 + 1e-9


def test_at_the_corner_labels_of_enlarged_scores_are_those_of_other_cells():
    """As released: with aligned corners the upper left pixel of the last cells has the label of the cell before."""
    y = torch.arange(16)[None, :, None].expand(1, 16, 16) % C  # classes of cells
    scores = F.interpolate(F.one_hot(y, C).movedim(3, 1).float(), size=(64, 64), mode="bilinear", align_corners=True)
    label = scores.argmax(1)
    middle, corner = (term(replace(FEW, label_at=at)).at(label, (16, 16), True) for at in ("middle", "corner"))
    assert torch.equal(middle, y) and torch.equal(corner[:, :10], y[:, :10]) and torch.equal(corner[:, 11:], y[:, 10:-1])


def test_the_head_is_the_published_one():
    t = RegionContrast(build("small", C, seed=0, width=304))
    first, norm, _, last = t.project
    assert (first.weight.shape, last.weight.shape) == ((256, 304, 3, 3), (256, 256, 1, 1))
    assert first.bias is None and last.bias is not None and norm.num_features == 256
    assert t.passes() == Passes(0, 0) and t.settings.weight == 1.0


def test_the_loss_of_features_in_half_precision_is_computed_in_float32():
    t, step, sure = term(), step_of(confidences()), confidences()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        P = predictions(t, step)
        found = t(P, step)["contrast"]
        parts = [t.cells(P[name], step.batches[name].label, sure if name == "mixed" else None) for name in t.reads]
    r, y, hard = (torch.cat(part, dim=1).flatten(0, 1) for part in zip(*parts))
    assert P["source"].features.dtype == r.dtype == torch.bfloat16 and found.dtype == torch.float32
    numbers = region_numbers((C, FEW.queries, FEW.negatives), y.device, step_of(sure).numbers)
    wanted = region_contrast(r.float(), y, hard, numbers, FEW.contrast_temperature, mean_over=FEW.mean_over)
    assert wanted > 0
    close(found, wanted, bound(4 * FEW.queries * FEW.negatives, torch.float32, 1 / FEW.contrast_temperature))


def coloured(b: Batch, seed: int) -> Batch:
    """Pictures that say the class."""
    g = torch.Generator().manual_seed(seed)
    colours = 2 * torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    return b._replace(image=colours[b.label].movedim(3, 1) + torch.randn(b.image.shape, generator=g))


def test_descending_it_draws_cells_of_a_class_together():
    t = term(replace(FEW, queries=32, negatives=32, strong_threshold=1.0, contrast_temperature=0.1, out=16))
    optimiser = torch.optim.Adam([*t.segmenter.parameters(), *t.project.parameters()], 3e-3)
    losses = []
    for seed in range(12):
        step = step_of(torch.ones(2, H, W), seed)
        step = replace(step, batches={name: coloured(b, seed) for name, b in step.batches.items()})
        loss = t(predictions(t, step), step)["contrast"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize(
    "name, wrong, words",
    [
        ("contrast_temperature", 0.0, "contrast_temperature is 0.0; it wants a number"),
        ("queries", 0, "queries is 0; it wants a whole number from 1"),
        ("negatives", 0, "negatives is 0"),
        ("weak_threshold", 1.1, "weak_threshold is 1.1"),
        ("strong_threshold", -0.1, "strong_threshold is -0.1"),
        ("hidden", 0, "hidden is 0"),
        ("out", 0, "out is 0"),
        ("label_at", "centre", "label_at.*'centre', wanted.*middle"),
        ("weight", -1.0, "weight is -1.0"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(name, wrong, words):
    with pytest.raises(ValueError, match=words):
        RegionContrastSettings(**{name: wrong})
