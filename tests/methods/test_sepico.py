"""SePiCo's target windows: which of the drawn ones is taken, what moves with it, that processes take what one would."""

import math

import pytest
import torch
from torch import Tensor

from course_lib import ranks
from course_lib.data import Batch
from course_lib.experiments.parts import training_set
from course_lib.methods.sepico import SePiCo, SePiCoSettings, balanced_windows, windows_of
from course_lib.networks import small
from course_lib.recipes import recipe
from tests.engine.test_no_waiting import Waits
from tests.experiments.conftest import pair  # noqa: F401

C, H, W = 5, 32, 64


def labels(seed: int, n: int = 2) -> Tensor:
    """Blocks of 8 x 8 pixels; train ids, and 255 and C, which are no class."""
    blocks = torch.randint(0, C + 1, (n, H // 8, W // 8), generator=torch.Generator().manual_seed(seed))
    y = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    y[:, :3] = 255
    return y


def batch(seed: int, n: int = 2, width: int = W) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, H, width, generator=generator)
    label, valid = labels(seed, n)[..., :width], torch.ones(n, H, width, dtype=torch.bool)
    return Batch(image, torch.where(label == C, 255, label), list("ab"[:n]), image + 1, valid)


def by_loops(y: Tensor, size: tuple[int, int], drawn: Tensor) -> list[list[int]]:
    """The docstring in plain Python."""
    found = []
    for picture, places in zip(y.tolist(), drawn.tolist(), strict=True):
        best, chosen = -math.inf, None
        for u, v in places:
            top, left = int(u * (H - size[0] + 1)), int(v * (W - size[1] + 1))
            pixels = [c for row in picture[top : top + size[0]] for c in row[left : left + size[1]] if 0 <= c < C]
            counts = [pixels.count(c) for c in range(C) if c in pixels]
            varied = len(counts) > 1 and max(counts) < 0.75 * sum(counts)
            score = sum(map(math.log, counts)) if varied else -1.0
            if score > best:
                best, chosen = score, [top, left]
        found.append(chosen)
    return found


def method(**settings) -> SePiCo:
    torch.manual_seed(0)
    m = SePiCo(small(C, width=8), SePiCoSettings(mixed_photometric="none", mixed_blur=0.0, **settings)).train()
    m.begin_step(0, 10)
    return m


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (32, 16), (8, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_the_window_is_that_of_the_loops(size, seed):
    y, drawn = labels(seed, 3), torch.rand(3, 10, 2, generator=torch.Generator().manual_seed(seed))
    assert balanced_windows(y, size, drawn, C).tolist() == by_loops(y, size, drawn)


def test_where_no_window_has_two_classes_the_first_is_taken():
    y, drawn = torch.zeros(1, H, W, dtype=torch.int64), torch.tensor([[[0.5, 0.5], [0.0, 0.0]]])
    assert balanced_windows(y, (16, 16), drawn, C).tolist() == [[8, 24]]
    y[:, :, ::5] = 1  # a fifth: still 3/4 of the other class, and more
    assert balanced_windows(y, (16, 16), drawn, C).tolist() == [[8, 24]]


def test_all_of_a_batch_moves_with_the_window():
    place = torch.arange(2 * H * W).view(2, H, W)
    whole = Batch(place[:, None].expand(2, 3, H, W).float(), place, ["a", "b"], -place[:, None].float(), place % 2 == 0)
    found = windows_of(whole, torch.tensor([[3, 7], [16, 0]]), (8, 16))
    assert found.name == ["a", "b"] and found.image.shape == (2, 3, 8, 16)
    for n, (top, left) in enumerate(((3, 7), (16, 0))):
        wanted = place[n, top : top + 8, left : left + 16]
        assert torch.equal(found.label[n], wanted) and torch.equal(found.valid[n], wanted % 2 == 0)
        assert torch.equal(found.image[n, 2].long(), wanted) and torch.equal(found.plain[n, 0].long(), -wanted)


def test_a_picture_of_the_source_crops_size_is_not_cut():
    m, target = method(), batch(2)
    assert m.cut(target, (H, W)) is target
    cut = m.cut(target, (H, 32))
    assert cut.image.shape[-2:] == cut.label.shape[-2:] == cut.plain.shape[-2:] == cut.valid.shape[-2:] == (H, 32)


def test_labels_that_are_not_valid_do_not_choose():
    m, target = method(), batch(2)
    with torch.no_grad():
        m.segmenter.classifier.weight.mul_(50)
    m.begin_step(0, 10)
    y = m.teacher(target.plain).resized((H, W)).argmax(1)
    hidden = target._replace(valid=torch.zeros_like(y, dtype=torch.bool))
    drawn = torch.rand(2, 10, 2, generator=torch.Generator().manual_seed(0))
    assert len(y.unique()) > 1
    assert balanced_windows(y, (16, 16), drawn, C).tolist() == by_loops(y, (16, 16), drawn)
    first = m.cut(hidden, (16, 16))
    top, left = (int(x) for x in (first.image[0, 0, 0, 0] == target.image[0, 0]).nonzero()[0])
    assert (top, left) in {(t, s) for t in range(H - 15) for s in range(W - 15)}


def test_two_processes_cut_what_one_cuts(monkeypatch):
    m, target = method().eval(), batch(2)
    both = m.cut(target, (16, 16)).image
    monkeypatch.setattr(ranks, "count", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        own = m.cut(Batch(*(x if x is None else x[rank : rank + 1] for x in target)), (16, 16))
        assert torch.equal(own.image, both[rank : rank + 1])


def test_a_step_takes_windows_and_its_losses_are_finite():
    m = method()
    seen = []
    m.teacher.module.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    losses = [loss for losses in m.losses(source=batch(1, width=32), target=batch(2)) for loss in losses.values()]
    assert all(loss.isfinite() for loss in losses) and seen == [(H, W), (H, 32)], "whole pictures, then the windows"
    m = method(target_crops="drawn")
    assert not m.streams(m.settings)["target"].whole


def test_the_target_is_read_whole_and_the_source_in_crops(pair):  # noqa: F811
    for choice, width in (("balanced", 64), ("drawn", 32)):
        chosen = recipe("ministreet", "sepico").override(
            "source_size=64x32", "target_size=64x32", "crop=32x32", f"target_crops={choice}"
        )
        source, target = (training_set(chosen, text, name, "imagenet")[0] for text, name in (
            (pair.source, "source"), (pair.target, "target")))  # fmt: skip
        assert source[0].shape[-2:] == (32, 32) and target[0].shape[-2:] == (32, width)


def test_the_device_is_asked_nothing():
    with Waits() as waits:
        y = torch.empty(2, H, W, dtype=torch.int64, device="meta")
        drawn = torch.empty(2, 10, 2, device="meta")
        waits.on = True
        begins = balanced_windows(y, (16, 16), drawn, C)
        windows_of(Batch(torch.empty(2, 3, H, W, device="meta"), y, ["a", "b"]), begins, (16, 16))
    assert waits.questions == [] and waits.uploads == []


def test_windows_that_do_not_fit_and_unknown_choices_are_named():
    with pytest.raises(ValueError, match="Windows of 80x16 do not fit into target pictures of 64x32. Set target_size"):
        method().cut(batch(1), (16, 80))
    with pytest.raises(ValueError, match="target_crops.*'sorted'.*'balanced'"):
        SePiCoSettings(target_crops="sorted")
