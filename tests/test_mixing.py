"""ClassMix and CutMix against loops; what is pasted, one mask for all, random numbers, processes, no question to the device."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib import mixing, ranks
from course_lib.data import Batch
from course_lib.mixing import Mixer, MixingSettings, box_mask, class_mask, classes_present, draw_half, mix, uniform
from tests.oracles import mixing as oracle

C = 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(seed: int = 0, n: int = 4, h: int = 6, w: int = 8) -> torch.Tensor:
    """Pictures of 1 to C classes, the last ones with few; about a tenth ignored."""
    y = torch.stack([torch.randint(0, max(1, C - k), (h, w), generator=seeded(seed + k)) for k in range(n)])
    return torch.where(torch.rand(y.shape, generator=seeded(seed + 50)) < 0.1, 255, y)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return torch.rand(*shape, generator=seeded(seed)).double().numpy()


def sizes(y, M) -> list[tuple[int, int]]:
    """(classes pasted, classes there) of each picture; a class is pasted whole or not at all."""
    result = []
    for y_n, M_n in zip(y, M, strict=True):
        there = [c for c in y_n.unique().tolist() if c != 255]
        assert all(len(M_n[y_n == c].unique()) == 1 for c in there)
        result.append((sum(bool(M_n[y_n == c].all()) for c in there), len(there)))
    return result


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scope", ["picture", "batch"])
@pytest.mark.parametrize("rare", [None, 0.3])
def test_the_mask_equals_the_loop_over_pictures(seed, scope, rare):
    y, shares = labels(seed, n=7), None if rare is None else torch.linspace(0.5, 0.01, C)
    found = class_mask(y, C, scope, shares, rare or 1.0, generator=seeded(seed))
    wanted = oracle.class_mask(y.numpy(), numbers(seed, 7, C + 1), C, scope, None if rare is None else shares.tolist(), rare)
    assert np.array_equal(found.numpy(), wanted) and found.dtype == torch.bool and found.any()


def test_half_of_a_pictures_classes_rounded_up_and_never_an_ignored_pixel():
    y = labels(n=7)
    M = class_mask(y, C, generator=seeded())
    assert [(-(-n // 2), n) for _, n in sizes(y, M)] == sizes(y, M) and {n % 2 for _, n in sizes(y, M)} == {0, 1}
    assert (y == 255).any() and not M[y == 255].any()


def test_drawn_over_the_batch_a_picture_may_get_none_of_its_classes_and_ignored_pixels_are_pasted():
    y = labels(n=7)
    pasted = [class_mask(y, C, "batch", generator=seeded(k)) for k in range(20)]
    assert any(M[y == 255].any() for M in pasted)
    assert any(a == 0 for M in pasted for a, _ in sizes(y, M))


def test_a_picture_of_ignored_pixels_alone_pastes_nothing_and_one_of_one_class_all():
    y = torch.stack([torch.full((3, 4), 255), torch.full((3, 4), 2)])
    assert class_mask(y, C).tolist() == [[[False] * 4] * 3, [[True] * 4] * 3]


def test_all_classes_are_drawn_alike():
    there = torch.ones(20_000, 4, dtype=torch.bool)
    share = draw_half(there, uniform((20_000, 4), "cpu", seeded())).double().mean(0)
    assert ((share - 0.5).abs() < 5 * (0.25 / 20_000) ** 0.5).all()  # five standard deviations of a share of 20,000


def test_the_first_class_is_drawn_with_the_softmax_of_rarity():
    """Of two classes one is drawn: P(c) = exp(r_c) / sum exp(r)."""
    rarity = torch.tensor([0.0, 1.2])
    share = draw_half(torch.ones(20_000, 2, dtype=torch.bool), uniform((20_000, 2), "cpu", seeded()), rarity).double().mean(0)
    wanted = rarity.double().softmax(0)
    assert ((share - wanted).abs() < 5 * (0.25 / 20_000) ** 0.5).all()


def test_a_small_temperature_pastes_the_rarest_half():
    y = torch.arange(6).repeat(4, 5, 1)
    shares = torch.tensor([0.3, 0.01, 0.25, 0.02, 0.22, 0.2, 0.0])
    M = class_mask(y, C, shares=shares, temperature=1e-4, generator=seeded())
    assert all(set(y_n[M_n].tolist()) == {1, 3, 5} for y_n, M_n in zip(y, M, strict=True))


def test_presence_has_a_column_for_ignored_pixels():
    y = labels(n=7).byte()
    found = classes_present(y, C)
    wanted = [[bool((y_n == c).any()) for c in (*range(C), 255)] for y_n in y]
    assert found.tolist() == wanted


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_boxes_equal_the_loop_over_pixels(share):
    found = box_mask(20, (12, 17), share, generator=seeded(1))
    assert np.array_equal(found.numpy(), oracle.box_mask(numbers(1, 20, 3), (12, 17), share))
    assert found.all() == (share == 1) and found.any() == (share > 0)


def test_boxes_cover_their_share_in_many_shapes_and_reach_all_borders():
    M = box_mask(400, (40, 60), 0.25, generator=seeded())
    area, heights = M.sum((1, 2)), M.any(2).sum(1)
    # a side is rounded by at most half a pixel: |hw - H W share| <= (h + w) / 2 + 1/4 <= 50.25
    assert ((area - 600).abs() <= 50).all() and heights.min() <= 12 and heights.max() >= 38
    assert M[:, 0].any() and M[:, -1].any() and M[:, :, 0].any() and M[:, :, -1].any()


def batches(n=4, h=6, w=8):
    source = Batch(torch.rand(n, 3, h, w, generator=seeded(1)), labels(n=n, h=h, w=w), ["s"] * n)
    target = Batch(torch.rand(n, 3, h, w, generator=seeded(2)), torch.full((n, h, w), 255), ["t"] * n)
    y, q = torch.randint(0, C, (n, h, w), generator=seeded(3)), torch.rand(n, h, w, generator=seeded(4))
    return source, target, y, q


@pytest.mark.parametrize("settings", [MixingSettings(), MixingSettings(mix="box"), MixingSettings(mix_scope="batch")])
def test_one_mask_for_picture_label_and_weight(settings):
    source, target, y, q = batches()
    mixed = Mixer(C, settings)(source, target, y, q, seeded())
    assert mixed.mask.any() and not mixed.mask.all()
    for n, i, j in np.ndindex(*y.shape):
        pasted = mixed.mask[n, i, j]
        assert mixed.image[n, :, i, j].tolist() == (source if pasted else target).image[n, :, i, j].tolist()
        assert mixed.label[n, i, j] == (source.label if pasted else y)[n, i, j]
        assert mixed.weight[n, i, j] == (1 if pasted else q[n, i, j])


def test_a_share_of_the_pictures_stays_unmixed():
    y = torch.zeros(4000, 2, 2, dtype=torch.int64)
    for unmixed in (0.0, 0.3, 1.0):
        M = Mixer(C, MixingSettings(unmixed=unmixed)).mask(y, seeded())
        whole = M.flatten(1).any(1)
        assert torch.equal(whole, M.flatten(1).all(1))
        assert abs(whole.double().mean() - (1 - unmixed)) <= 5 * (unmixed * (1 - unmixed) / 4000) ** 0.5


def test_rare_classes_first_uses_the_shares_of_the_source_pixels_so_far():
    source, target, y, q = batches()
    mixer, counts = Mixer(C, MixingSettings(mix_rare=0.01)), np.zeros(C)
    assert mixer.shares.tolist() == [0] * C
    for k in (1, 2, 3):
        label = labels(seed=k)
        counts += [(label == c).sum().item() for c in range(C)]  # 255 does not count
        f = torch.from_numpy(counts / counts.sum()).float()
        rare = mixer(Batch(source.image, label, source.name), target, y, q, seeded())
        torch.testing.assert_close(mixer.shares, f, rtol=2**-23, atol=0)  # one division
        assert torch.equal(rare.mask, class_mask(label, C, "picture", f, 0.01, generator=seeded()))
    assert not torch.equal(rare.mask, Mixer(C).mask(label, seeded()))
    before = mixer.shares
    mixer.eval().mask(label, seeded())
    assert torch.equal(before, mixer.shares) and torch.equal(mixer.state_dict()["pixels"], torch.from_numpy(counts).long())


def test_scope_and_share_of_the_settings_are_used():
    y = labels(n=7)
    batch = Mixer(C, MixingSettings(mix_scope="batch")).mask(y, seeded())
    box = Mixer(C, MixingSettings(mix="box", mix_box=0.2)).mask(y, seeded())
    assert torch.equal(batch, class_mask(y, C, "batch", generator=seeded()))
    assert not torch.equal(batch, Mixer(C).mask(y, seeded()))
    assert torch.equal(box, box_mask(7, (6, 8), 0.2, generator=seeded()))


def test_the_generator_decides_and_torchs_own_is_left_alone():
    source, target, y, q = batches()
    mixer = Mixer(C, MixingSettings(unmixed=0.5))
    state = torch.get_rng_state()
    a, b, c = (mixer(source, target, y, q, seeded(k)).mask for k in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("changes", [{"unmixed": 0.3}, {"mix": "box"}, {"mix_scope": "batch"}, {"mix_rare": 0.05}])
def test_two_processes_mix_what_one_would(monkeypatch, changes):
    y, settings = labels(n=6), MixingSettings(**changes)
    whole, parts = Mixer(C, settings).mask(y, seeded()), []
    totals = {C + 1: classes_present(y, C).sum(0), C: torch.bincount(y[y != 255], minlength=C)}
    for r in (0, 1):
        monkeypatch.setattr(ranks, "count", lambda: 2)
        monkeypatch.setattr(ranks, "rank", lambda r=r: r)
        monkeypatch.setattr(ranks, "total", lambda part: totals[len(part)])
        parts.append(Mixer(C, settings).mask(y[3 * r : 3 * r + 3], seeded()))
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("settings", [MixingSettings(unmixed=0.3, mix_rare=0.1), MixingSettings(mix="box"),
                                      MixingSettings(mix_scope="batch")])  # fmt: skip
def test_the_device_is_not_asked_for_a_value(settings):
    """Tensors on "meta" have none: item(), a mask as an index and unique() are errors there."""
    source, target, y, q = ((x.to("meta") if isinstance(x, torch.Tensor) else x) for x in batches())
    source, target = (Batch(b.image.to("meta"), b.label.to("meta"), b.name) for b in (source, target))
    mixed = Mixer(C, settings).to("meta")(source, target, y, q, seeded())
    assert mixed.image.device.type == "meta" and mixed.mask.shape == (4, 6, 8)


def test_a_random_number_of_0_draws_like_any_other(monkeypatch):
    monkeypatch.setattr(mixing.torch, "rand", lambda *shape, **options: torch.zeros(*shape))
    assert uniform((2, 3), "cpu").min() > 0
    pasted = sizes(labels(), class_mask(labels(), C))
    assert pasted == [(-(-n // 2), n) for _, n in pasted]


@pytest.mark.parametrize("a, b, mask", [((2, 3, 4), (2, 3, 5), (2, 3, 4)), ((2, 3, 4, 5), (2, 3, 4, 5), (1, 4, 5))])
def test_sizes_that_do_not_fit_are_refused(a, b, mask):
    with pytest.raises(ValueError, match=re.escape(f"mix got {a} and {b} with a mask {mask}") + ".*Crop source and target"):
        mix(torch.ones(mask).bool(), torch.zeros(a), torch.zeros(b))


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(ValueError, match=r"class_mask got labels \(3, 4\); it wants train ids \(N, H, W\)"):
        class_mask(torch.zeros(3, 4).long(), C)
    with pytest.raises(ValueError, match="Got label 7, wanted train ids 0 to 6, or 255"):
        class_mask(torch.full((1, 2, 2), 7), C)
    with pytest.raises(ValueError, match=r"shares is \(3,\); it wants one number for each class, \(7,\)"):
        class_mask(labels(), C, shares=torch.zeros(3))
    with pytest.raises(ValueError, match="scope: it holds 'all', wanted one of 'picture', 'batch'"):
        class_mask(labels(), C, scope="all")
    with pytest.raises(ValueError, match="share is 1.5; it is the share of the picture that the box covers"):
        box_mask(1, (4, 4), 1.5)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("mix", "cut", "mix: it holds 'cut', wanted one of 'class', 'box'"),
        ("mix_scope", "all", "mix_scope: it holds 'all', wanted one of 'picture', 'batch'"),
        ("mix_rare", 0.0, "mix_rare is 0.0; it wants a number from 1e-06"),
        ("mix_box", 1.1, "mix_box is 1.1; it wants a number from 0.0 to 1.0"),
        ("unmixed", -0.1, "unmixed is -0.1; it wants a number from 0.0 to 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        replace(MixingSettings(), **{field: value})
