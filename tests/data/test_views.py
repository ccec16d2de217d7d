"""The augmentation does what is published: against torchvision picture by picture, and its probabilities by counting."""

import math

import pytest
import torch
from torchvision.transforms import v2

from course_lib.data import WEAK_VIEWS, Views, ViewSettings
from course_lib.data import views as code
from course_lib.data.views import NUMBERS, boxes, colour_jitter, crop_and_resize, gaussian_blur, jitter_factors

NOTHING = dict(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0, jitter_probability=0,
               grey_probability=0, blur_probability=0)  # fmt: skip
MANY = 4000


def pictures(count: int, height: int = 20, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(count: int, seed: int = 0) -> torch.Tensor:
    return Views.draw(count, generator(seed))


def near(measured: float, wanted: float, spread: float, count: int = MANY) -> bool:
    """Within five standard errors of a mean over `count` draws."""
    return abs(measured - wanted) < 5 * spread / math.sqrt(count)


# ---- the whole


def test_the_defaults_are_the_published_ones():
    s = ViewSettings()
    assert (s.crop_area, s.crop_ratio, s.blur_sigma) == ((0.08, 1.0), (3 / 4, 4 / 3), (0.1, 2.0))
    assert (s.flip_probability, s.jitter_probability, s.grey_probability, s.blur_probability) == (0.5, 0.8, 0.2, 0.5)
    assert (code.BRIGHTNESS, code.CONTRAST, code.SATURATION, code.HUE, s.jitter_strength) == (0.8, 0.8, 0.8, 0.2, 1.0)


def test_settings_that_do_nothing_give_the_picture_itself():
    x = pictures(3, 16, 16)
    assert torch.allclose(Views(ViewSettings(**NOTHING))(x, generator()), x, atol=1e-6)


def test_a_constant_grey_picture_only_changes_its_brightness():
    """Crop, blur, saturation and contrast with a constant: no border, no gradient, no colour may appear."""
    x = torch.full((200, 3, 16, 16), 0.4)
    view = Views()(x, generator())
    assert (view.amax((1, 2, 3)) - view.amin((1, 2, 3))).max() < 1e-5
    assert 0 <= view.min() and view.max() <= 1 and view.flatten(1)[:, 0].std() > 0.1


def test_values_stay_between_0_and_1_and_the_size_is_the_one_asked_for():
    view = Views(ViewSettings(view_size=10))(pictures(64), generator())
    assert view.shape == (64, 3, 10, 10) and view.min() >= 0 and view.max() <= 1 + 1e-6


def test_the_given_pictures_stay_as_they_are():
    x = pictures(16)
    before = x.clone()
    Views()(x, generator())
    assert torch.equal(x, before)


def test_the_generator_decides_and_torchs_own_stays_where_it_is():
    x, state = pictures(8), torch.get_rng_state()
    first, again, other = (Views()(x, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_the_numbers_of_a_picture_do_not_depend_on_how_many_follow(count):
    assert torch.equal(numbers(200)[:count], numbers(count))


def test_views_of_a_part_are_that_part_of_the_views():
    """What makes several processes see the pictures that one process sees."""
    x, u, views = pictures(12), numbers(12), Views()
    whole = views.apply(x, u)
    parts = torch.cat([views.apply(x[rows], u[rows]) for rows in (slice(0, 6), slice(6, 12))])
    assert torch.allclose(whole, parts, atol=1e-6)


def test_weak_views_keep_the_colours():
    x = torch.rand(50, 3, 1, 1, generator=generator()).expand(50, 3, 16, 16)
    assert torch.allclose(Views(WEAK_VIEWS)(x, generator()), x, atol=1e-5)


# ---- crop and flip


def test_crop_and_resize_is_torchvisions_for_whole_pixels():
    x = pictures(4, 40, 48)
    box = torch.tensor([[3, 5, 20, 30], [0, 0, 40, 48], [10, 20, 8, 6], [1, 2, 39, 46]])
    ours = crop_and_resize(x, box.float(), (16, 16))
    for picture, (top, left, height, width), mine in zip(x, box.tolist(), ours):
        theirs = v2.functional.resized_crop(picture, top, left, height, width, [16, 16], antialias=True)
        assert torch.allclose(mine, theirs, atol=2e-5), (top, left)


def test_a_flip_mirrors_its_picture_alone():
    x = pictures(3)
    whole = torch.tensor([[0.0, 0, 20, 24]]).expand(3, 4)
    flipped = crop_and_resize(x, whole, (20, 24), flip=torch.tensor([True, False, True]))
    assert torch.allclose(flipped, torch.stack([x[0].flip(-1), x[1], x[2].flip(-1)]), atol=1e-6)


def test_boxes_have_the_published_areas_and_ratios_and_lie_in_the_picture():
    top, left, height, width = boxes(numbers(MANY)[:, :22], (100, 100), (0.08, 1.0), (3 / 4, 4 / 3)).unbind(1)
    area, ratio = height * width / 1e4, width / height
    assert 0.08 - 1e-6 <= area.min() < 0.1 and 0.95 < area.max() <= 1
    assert 0.75 - 1e-5 <= ratio.min() < 0.76 and 1.32 < ratio.max() <= 4 / 3 + 1e-5
    assert min(top.min(), left.min()) >= 0 and max((top + height).max(), (left + width).max()) <= 100 + 1e-4
    small = area < 0.5  # these always fit: uniform there, and the logarithm of the ratio too
    assert near(area[small].mean(), 0.29, 0.42 / math.sqrt(12), int(small.sum()))
    assert near(ratio[small].log().mean(), 0.0, math.log(16 / 9) / math.sqrt(12), int(small.sum()))
    assert near((top / (100 - height))[small].mean(), 0.5, 1 / math.sqrt(12), int(small.sum()))


def test_mean_area_is_torchvisions():
    ours = boxes(numbers(MANY)[:, :22], (60, 80), (0.08, 1.0), (3 / 4, 4 / 3))
    torch.manual_seed(0)
    draw = v2.RandomResizedCrop(8)
    theirs = [draw.make_params([torch.zeros(3, 60, 80)]) for _ in range(MANY)]
    theirs = torch.tensor([p["height"] * p["width"] for p in theirs], dtype=torch.float32)
    assert abs((ours[:, 2] * ours[:, 3]).mean() - theirs.mean()) < 5 * math.sqrt(2 / MANY) * theirs.std()


def test_a_box_that_never_fits_becomes_the_middle_of_the_picture():
    box = boxes(numbers(5)[:, :22], (10, 100), (1.0, 1.0), (1.0, 1.0))
    assert torch.allclose(box, torch.tensor([0.0, 45, 10, 10]).expand(5, 4))


def test_half_of_the_views_are_mirrored():
    x = torch.linspace(0, 1, 16).expand(MANY, 3, 16, 16)
    view = Views(ViewSettings(**NOTHING | {"flip_probability": 0.5}))(x, generator())
    assert near((view[:, 0, 0, 0] > 0.5).float().mean(), 0.5, 0.5)


# ---- colours


@pytest.mark.parametrize("kind, name", list(enumerate(["brightness", "contrast", "saturation", "hue"])))
def test_each_change_of_colour_is_torchvisions(kind, name):
    x, factors = pictures(6), jitter_factors(numbers(6, seed=3)[:, :4], 1.0)
    theirs = torch.stack([getattr(v2.functional, f"adjust_{name}")(p, f.item()) for p, f in zip(x, factors[:, kind])])
    ours = getattr(code, name)(x, factors[:, kind].view(-1, 1, 1, 1)).clamp(0, 1)
    assert torch.allclose(ours, theirs, atol=2e-4)  # their grey weighs red 0.2989, ours 0.299


def test_the_changes_come_in_each_pictures_own_order_and_are_clipped_after_each():
    x, factors = pictures(24), jitter_factors(numbers(24, seed=5)[:, :4], 1.0)
    order = numbers(24, seed=6)[:, :4].argsort(1)
    which = torch.arange(24) % 3 > 0
    ours = colour_jitter(x, factors, order, which)
    functions = [v2.functional.adjust_brightness, v2.functional.adjust_contrast,
                 v2.functional.adjust_saturation, v2.functional.adjust_hue]  # fmt: skip
    for i in range(24):
        wanted = x[i]
        for kind in order[i].tolist() if which[i] else ():
            wanted = functions[kind](wanted, factors[i, kind].item())
        assert torch.allclose(ours[i], wanted, atol=1e-3), i


def test_strengths_are_the_published_ones():
    for s in (1.0, 0.5):
        factors = jitter_factors(numbers(MANY)[:, :4], s)
        low, high = factors.amin(0), factors.amax(0)
        assert torch.allclose(low, torch.tensor([1 - 0.8 * s] * 3 + [-0.2 * s]), atol=0.005)
        assert torch.allclose(high, torch.tensor([1 + 0.8 * s] * 3 + [0.2 * s]), atol=0.005)
        assert near(factors[:, 0].mean(), 1.0, 1.6 * s / math.sqrt(12))
    assert jitter_factors(numbers(MANY)[:, :4], 2.0).amin(0)[0] >= 0  # a factor is never negative


def test_how_often_colours_are_changed_and_taken_away():
    x = torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1).expand(MANY, 3, 16, 16)
    no_grey = Views(ViewSettings(**NOTHING | {"jitter_probability": 0.8}))(x, generator())
    changed = (no_grey - x).abs().amax((1, 2, 3)) > 1e-4
    assert near(changed.float().mean(), 0.8, 0.4)
    view = Views(ViewSettings(**NOTHING | {"grey_probability": 0.2}))(x, generator())
    is_grey = (view.amax(1) - view.amin(1)).amax((1, 2)) < 1e-6
    assert near(is_grey.float().mean(), 0.2, 0.4)
    assert torch.allclose(view[is_grey], torch.tensor(0.299 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2), atol=1e-6)


def test_every_order_of_the_four_changes_is_as_frequent():
    order = numbers(MANY)[:, code._ORDER : code._GREY].argsort(1)
    counts = torch.unique(order, dim=0, return_counts=True)[1]
    assert len(counts) == 24 and all(near(n / MANY, 1 / 24, 0.2) for n in counts.tolist())


# ---- blur


def test_half_of_the_views_are_blurred_with_sigmas_from_a_tenth_to_two():
    x = torch.zeros(1000, 3, 40, 40)
    x[..., 20, 20] = 1.0
    view = Views(ViewSettings(**NOTHING | {"blur_probability": 0.5}))(x, generator())
    peak = view[:, 0, 20, 20]
    assert near(0.5 - (peak > 0.999).float().mean(), 0.0, 0.6, 1000)  # sigmas below 0.27, one in ten, change nothing
    assert peak.min() < 0.08 and torch.allclose(view.sum((1, 2, 3)), torch.tensor(3.0), atol=1e-4)


def test_blur_is_a_gaussian_as_wide_as_a_tenth_of_the_view():
    x = torch.zeros(1, 3, 41, 41)
    x[..., 20, 20] = 1.0
    sigma, radius = 1.3, 2
    line = torch.tensor([math.exp(-0.5 * (d / sigma) ** 2) for d in range(-radius, radius + 1)])
    line = line / line.sum()
    blurred = gaussian_blur(x, torch.tensor([sigma]))[0, 0]
    assert torch.allclose(blurred[18:23, 18:23], line[:, None] * line, atol=1e-6)
    assert blurred[:18].abs().max() == 0


# ---- what is refused


def test_what_is_no_picture_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"images.float\(\) / 255"):
        Views()(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), generator())
    with pytest.raises(ValueError, match="in \\[0, 1\\].*after the views"):
        Views()(pictures(2) * 4 - 2, generator())
    with pytest.raises(ValueError, match="one row each"):
        Views().apply(pictures(2), torch.zeros(3, NUMBERS))


@pytest.mark.parametrize("wrong, word", [
    ({"grey_probability": 1.2}, "grey_probability is 1.2.*0 to 1"),
    ({"crop_area": (0.5, 0.2)}, "crop_area.*lo <= hi"),
    ({"crop_area": (0.0, 0.2)}, "crop_area"),
    ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
    ({"jitter_strength": 3.0}, "jitter_strength is 3.0.*published: 1"),
])  # fmt: skip
def test_impossible_settings_are_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        ViewSettings(**wrong)
