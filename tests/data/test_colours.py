"""Colours of a training picture: drawn as numbers, done where the picture is loaded or on the device, with one result."""

import colorsys
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as VF
from torchvision.transforms import v2

from course_lib.data import Batch, Sample, UnfinishedBatch, collate, colours, open_dataset, train_loader, train_transform
from course_lib.data.colours import apply, draw, draw_mixed, gaussian_blur
from course_lib.data.transforms import random_crop
from tests.data.trees import images_and_labels
from tests.engine.test_no_waiting import Waits

EVERY = [(name, blur) for name in ("none", "weak", "strong") for blur in (False, True)] + [
    ("jitter", False), ("small-jitter", False), ("mild", False)]  # fmt: skip


def picture(height=6, width=8, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return images_and_labels(tmp_path / "data", count=7)


# ---- what is drawn, and what it does


def test_strong_is_the_written_formula_with_draws_from_the_written_ranges(monkeypatch):
    image = picture()
    ranges = []
    drawn = {0.6: 1.2, 0.3: 0.9}
    monkeypatch.setattr(colours, "uniform", lambda low, high: ranges.append((low, high)) or drawn.get(low, 1.25))
    torch.manual_seed(0)
    got = apply(image, draw("strong", blur=False))
    assert ranges == [(0.6, 1.8), (0.3, 1.3), (0.5, 1.5), (0.5, 1.5)]
    torch.manual_seed(0)
    gains = torch.empty(3, 1, 1).uniform_(0.85, 1.15).numpy()
    x = (image.numpy() / 255.0) ** 1.2 * gains * 0.9
    x = x.mean() + 1.25 * (x - x.mean())
    grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    x = np.clip(255 * (grey + 1.25 * (x - grey)), 0, 255)
    assert np.abs(got.numpy() - x).max() <= 0.51 and got.dtype == torch.uint8


def test_weak_is_torchvisions_jitter_and_grey_with_procas_numbers():
    theirs = v2.Compose([v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2), v2.RandomGrayscale(0.2)])
    greys = 0
    for seed in range(100):
        torch.manual_seed(seed)
        wanted, after = theirs(picture(seed=seed)), torch.rand(())
        torch.manual_seed(seed)
        got = apply(picture(seed=seed), draw("weak", blur=False))
        assert torch.equal(got, wanted) and torch.equal(torch.rand(()), after)
        greys += torch.equal(got[0], got[1]) and torch.equal(got[1], got[2])
    assert 8 < greys < 35


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions_gaussian_3x3(sigma):
    image = picture(17, 23)
    wanted = VF.gaussian_blur(image, [3, 3], [sigma, sigma])
    assert (gaussian_blur(image, sigma).int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize("sigma, radius", [(0.15, 1), (0.7, 3), (1.15, 5)])
def test_a_wider_blur_is_torchvisions(sigma, radius):
    image, side = picture(17, 23), 2 * radius + 1
    wanted = VF.gaussian_blur(image, [side, side], [sigma, sigma])
    assert (gaussian_blur(image, sigma, radius).int() - wanted.int()).abs().max() <= 1
    small = picture(3, 2)
    assert torch.equal(gaussian_blur(small, sigma, radius), gaussian_blur(small, sigma, 1)), "cut to the picture"


@pytest.mark.parametrize("preset, s", [("jitter", 0.25), ("small-jitter", 0.2)])
def test_jitter_is_torchvisions_with_the_numbers_of_dacs_and_of_daformer(preset, s):
    theirs = v2.RandomApply([v2.ColorJitter(brightness=s, contrast=s, saturation=s, hue=s)], p=0.8)
    changed = 0
    for seed in range(200):
        torch.manual_seed(seed)
        drawn = draw(preset, blur=False)
        torch.manual_seed(seed)
        wanted = picture(seed=seed) if torch.rand(()) >= 0.8 else theirs.transforms[0](picture(seed=seed))
        assert torch.equal(apply(picture(seed=seed), drawn), wanted)
        changed += bool(drawn)
    assert abs(changed - 160) <= 5 * (200 * 0.8 * 0.2) ** 0.5


# ---- PiPa's colours, beside loops


def blurred_by_loops(image: torch.Tensor) -> torch.Tensor:
    """256 times the filter (1, 4, 6, 4, 1) x (1, 4, 6, 4, 1) in whole numbers, halves up; reflected borders."""
    _, H, W = image.shape
    weights, found = (1, 4, 6, 4, 1), torch.zeros_like(image)

    def reflected(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    for c in range(3):
        for y in range(H):
            for x in range(W):
                total = 0
                for i, a in enumerate(weights):
                    for j, b in enumerate(weights):
                        total += a * b * int(image[c, reflected(y + i - 2, H), reflected(x + j - 2, W)])
                found[c, y, x] = (total + 128) // 256
    return found


def changed_by_loops(image: torch.Tensor, name: str, factor: float | None = None) -> np.ndarray:
    """One change of colour of a picture (3, H, W), in float64 and not rounded."""
    if name == "blur of 5":
        return blurred_by_loops(image).numpy().astype(float)
    x = image.numpy().astype(float)
    grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    if name == "grey":
        return np.stack([grey] * 3)
    if name == "hue":
        found = np.zeros_like(x)
        for place in np.ndindex(*x.shape[1:]):
            h, s, v = colorsys.rgb_to_hsv(*(x[(c, *place)] / 255 for c in range(3)))
            found[(slice(None), *place)] = [255 * value for value in colorsys.hsv_to_rgb((h + factor) % 1, s, v)]
        return found
    other = {"brightness": 0 * x, "contrast": 0 * x + np.floor(grey).mean(), "saturation": np.stack([grey] * 3)}[name]
    return np.clip(other + factor * (x - other), 0, 255)


@pytest.mark.parametrize("seed", range(40))
def test_mild_does_what_loops_do_change_by_change(seed):
    """Each change of a drawn list, on what the one before has left; torchvision cuts fractions off, twice for contrast."""
    torch.manual_seed(seed)
    changes, image = draw("mild", blur=False), picture(seed=seed)
    for name, *factor in changes:
        done = apply(image, [(name, *factor)])
        off = np.abs(done.numpy() - changed_by_loops(image, name, *factor)).max()
        assert off == 0 if name == "blur of 5" else off < 2.01, (name, off)
        image = done
    assert torch.equal(image, apply(picture(seed=seed), changes))


def test_mild_draws_pipas_numbers():
    torch.manual_seed(0)
    many = [draw("mild", blur=False) for _ in range(2000)]
    names = [[name for name, *_ in changes] for changes in many]

    def share(there) -> float:
        return sum(map(there, names)) / len(names)

    shares = {0.5: lambda n: "blur of 5" in n, 0.8: lambda n: "hue" in n, 0.2: lambda n: "grey" in n}
    for p, there in shares.items():
        assert abs(share(there) - p) < 5 * (p * (1 - p) / 2000) ** 0.5, p
    assert all(n.index("blur of 5") == 0 for n in names if "blur of 5" in n), "before the colours"
    assert all(n[-1] == "grey" for n in names if "grey" in n), "after them"
    jitters = [[k for k in n if k not in ("blur of 5", "grey")] for n in names]
    assert {len(n) for n in jitters} == {0, 4} and len({tuple(n) for n in jitters}) == 25, "24 orders, or none"
    factors = [change for changes in many for change in changes if len(change) == 2]
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.6, 1.4), ("hue", -0.1, 0.1)):
        drawn = [factor for other, factor in factors if other == name]
        assert low <= min(drawn) < low + 0.05 * (high - low) and high - 0.05 * (high - low) < max(drawn) <= high


def test_the_blur_of_5_keeps_its_sum_and_rounds_halves_up():
    dot = torch.zeros(3, 9, 9, dtype=torch.uint8)
    dot[:, 4, 4] = 128  # 128 / 256 of each product of weights: halves
    weights = torch.tensor([1, 4, 6, 4, 1])
    wanted = (weights[:, None] * weights + 1) // 2
    assert torch.equal(apply(dot, [("blur of 5",)])[0, 2:7, 2:7].long(), wanted)
    assert torch.equal(apply(picture(2, 9), [("blur of 5",)]), picture(2, 9)), "too small"
    flat = torch.full((3, 4, 7), 255, dtype=torch.uint8)
    assert torch.equal(apply(flat, [("blur of 5",)]), flat)


def test_mixed_pictures_draw_a_preset_and_a_blur_from_one_generator():
    def drawn(seed, count, blur=0.5, photometric="strong"):
        return draw_mixed(photometric, blur, count, torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    state = torch.get_rng_state()
    many = drawn(0, 400)
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator is left alone"
    assert many == drawn(0, 400) != drawn(1, 400) and many[:7] == drawn(0, 7)
    blurs = [changes[-1] for changes in many if changes[-1][0] == "blur"]
    assert all(changes[0][0] == "strong" for changes in many) and abs(len(blurs) - 200) <= 5 * 10
    assert all(0.15 <= sigma <= 1.15 and 4 * sigma <= radius < 4 * sigma + 1 for _, sigma, radius in blurs)
    assert not any(drawn(0, 20, 0.0, "none")) and all(drawn(0, 20, 1.0, "none"))
    assert not any(name == "blur" for changes in drawn(0, 20, 0.0, "weak") for name, *_ in changes), "its own blur is left out"


@pytest.mark.parametrize("photometric, blur, blurred", [
    ("none", None, False), ("strong", None, False), ("weak", None, True), ("weak", False, False), ("none", True, True),
])  # fmt: skip
def test_blur_belongs_to_weak_unless_said_otherwise(tree, photometric, blur, blurred):
    transform = train_transform(None, "imagenet", photometric=photometric, blur=blur, colours_on="device")
    (changes,) = {finish.changes for finish in next(batches(tree, 1, transform)).finish}
    assert (changes[-1:] != () and changes[-1][0] == "blur") == blurred
    if blurred:
        assert 0.1 <= changes[-1][1] <= 2.0


# ---- where it is done


def batches(tree, size, transform, **options):
    return iter(train_loader(open_dataset(f"gta5:{tree}", transform=transform), size, seed=3, **options))


@pytest.mark.parametrize("photometric, blur", EVERY)
@pytest.mark.parametrize("normalisation", ["imagenet", "caffe_bgr", "unit"])
def test_the_device_does_what_the_loader_does(tree, photometric, blur, normalisation):
    options = dict(flip=True, scale=(0.7, 1.3), crop=(5, 6), photometric=photometric, blur=blur)
    here = batches(tree, 3, train_transform(None, normalisation, **options))
    later = batches(tree, 3, train_transform(None, normalisation, **options, colours_on="device"))
    for done, undone in islice(zip(here, later), 4):
        assert isinstance(undone, UnfinishedBatch) and undone.image.dtype == torch.uint8
        made = undone.to("cpu", channels_last=True)
        assert isinstance(made, Batch) and made.name == done.name
        assert made.image.is_contiguous(memory_format=torch.channels_last) and made.label.dtype == torch.int64
        assert torch.equal(made.image, done.image) and torch.equal(made.label, done.label)


@pytest.mark.parametrize("where", ["loader", "device"])
def test_plain_pictures_come_beside_coloured_ones(tree, where):
    """Of the same resize, crop and flip; the coloured ones and the draws of later batches are what they are without them."""
    options = dict(flip=True, scale=(0.7, 1.3), crop=(5, 6), colours_on=where)
    both, alone, colourless = (
        batches(tree, 3, train_transform(None, "imagenet", photometric=colour, plain=plain, **options))
        for colour, plain in (("strong", True), ("strong", False), ("none", False))
    )
    for found, wanted, plain in islice(zip(both, alone, colourless), 3):
        found, wanted, plain = (batch.to("cpu", channels_last=True) for batch in (found, wanted, plain))
        assert torch.equal(found.image, wanted.image) and torch.equal(found.plain, plain.image) and wanted.plain is None
        assert not torch.equal(found.image, found.plain)
        assert found.plain.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("where", ["loader", "device"])
def test_margins_are_those_of_the_whole_picture_and_go_through_crop_and_flip(tree, where):
    """The picture is 8 pixels high here; its upper quarter and the outermost column of each side do not count."""
    margins, options = (0.25, 0.0, 1 / 16), dict(flip=True, crop=(6, 10), colours_on=where, plain=True)
    labels = train_transform((8, 16), "unit", **options)
    with_margins = batches(tree, 3, train_transform((8, 16), "unit", **options, margins=margins))
    seen = []
    for found, wanted in islice(zip(with_margins, batches(tree, 3, labels)), 6):
        found, wanted = found.to("cpu"), wanted.to("cpu")
        assert torch.equal(found.image, wanted.image) and torch.equal(found.label, wanted.label) and wanted.valid is None
        assert found.valid.dtype == torch.bool and found.valid.shape == found.label.shape
        for valid in found.valid:
            rows, columns = valid.any(1), valid.any(0)
            assert torch.equal(valid, rows[:, None] & columns) and rows.sum() >= 4 and columns.sum() >= 9
            assert rows[2:].all() and columns[1:-1].all()
            seen.append((int((~rows).sum()), int((~columns).sum())))
    assert {top for top, _ in seen} == {0, 1, 2} and {side for _, side in seen} == {0, 1}


def test_a_crop_that_has_to_show_a_class_counts_labels_alone_beside_margins():
    """The pixels that count, 0 and 1, lie beside the label and are no classes."""
    torch.manual_seed(0)
    label = torch.zeros(20, 20, dtype=torch.uint8)
    label[:5, :5] = 1
    both = torch.stack([label, torch.ones_like(label)])
    shown = sum((random_crop(torch.zeros(3, 20, 20), both, (5, 5), 1, 0)[1][0] == 1).any().item() for _ in range(60))
    varied = sum(len(random_crop(torch.zeros(3, 20, 20), both, (5, 5), None, 0, 0.99)[1][0].unique()) > 1 for _ in range(60))
    plain = sum((random_crop(torch.zeros(3, 20, 20), both, (5, 5))[1][0] == 1).any().item() for _ in range(60))
    assert shown > 2 * plain and varied > 2 * plain


def test_what_a_crop_pads_is_not_valid():
    torch.manual_seed(0)
    transform = train_transform(None, "unit", crop=(12, 20), plain=True, margins=(0.0, 0.25, 0.0))
    found = transform(sample(0))
    H, W = sample(0).image.shape[-2:]
    assert torch.equal(found.valid, torch.arange(12)[:, None].lt(H - round(0.25 * H)) & torch.arange(20).lt(W))


@pytest.mark.parametrize("margins", [(0.1, 0.1), (0.1, -0.1, 0.0), (1.0, 0.0, 0.0)])
def test_margins_out_of_range_are_refused(margins):
    with pytest.raises(ValueError, match=r"margins are \(.*\); wanted \(top, bottom, side\), shares"):
        train_transform(None, "unit", margins=margins)


def test_the_number_of_workers_changes_nothing(tree):
    transform = train_transform(None, "imagenet", photometric="weak", crop=(4, 5), colours_on="device")
    for alone, two in islice(zip(batches(tree, 2, transform), batches(tree, 2, transform, workers=2)), 3):
        assert torch.equal(alone.to("cpu").image, two.to("cpu").image)


def test_an_unfinished_batch_travels_between_processes():
    transform = train_transform(None, "imagenet", photometric="strong", colours_on="device")
    batch = collate([transform(sample(k)) for k in range(2)])
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.to("cpu").image, batch.to("cpu").image)


def sample(seed):
    return Sample(picture(seed=seed), torch.zeros(6, 8, dtype=torch.uint8), f"{seed}.png")


def test_finishing_asks_the_device_nothing_and_brings_it_nothing():
    batch = collate([
        train_transform(None, "imagenet", photometric=name, blur=True, colours_on="device")(sample(k))
        for k, name in enumerate(("none", "weak", "strong"))
    ])  # fmt: skip
    with Waits() as waits:
        made = batch.to("meta")
    assert made.image.shape == (3, 3, 6, 8) and made.image.dtype == torch.float32
    assert waits.questions == [] and waits.uploads == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("photometric, blur", EVERY)
def test_cuda_agrees_with_the_cpu_to_a_rounded_level(photometric, blur):
    transform = train_transform(None, "unit", photometric=photometric, blur=blur, colours_on="device")
    batch = collate([transform(sample(k)) for k in range(4)])
    apart = 255 * (batch.to("cuda").image.cpu() - batch.to("cpu").image).abs()
    assert apart.max() <= 4.01 and apart.mean() <= 0.5  # one level, which the next changes may stretch
