"""The order of draws: for ever, seeded, resumable; rare classes more often."""

from itertools import islice

import numpy as np
import pytest

from course_lib.data import ClassBalancedSampler, EndlessSampler, RareClassSampler, RareClassSettings
from course_lib.data.sampling import mixed_seed

CLASSES = [[0, 1], [0], [0, 2], [0], [0, 1], []]  # of each file; class 3 occurs nowhere
COUNTS = np.array([[900, 60, 0], [700, 0, 0], [800, 0, 20], [900, 3, 0], [600, 40, 0], [0, 0, 0]])  # pixels, (F, C)
RARE = RareClassSettings(rare_temperature=0.3, rare_pixels=10)
SAMPLERS = {
    "uniform": lambda seed, start=0: EndlessSampler(len(CLASSES), seed, start),
    "class-balanced": lambda seed, start=0: ClassBalancedSampler(CLASSES, seed, start),
    "rare-class": lambda seed, start=0: RareClassSampler(COUNTS, seed, start, RARE),
}


def draws(sampler, count):
    return list(islice(sampler, count))


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
class TestEverySampler:
    def test_the_seed_decides_the_draws(self, make):
        assert draws(make(0), 40) == draws(make(0), 40) != draws(make(1), 40)

    @pytest.mark.parametrize("start", [1, 6, 17, 3100])
    def test_started_at_k_it_continues_as_if_never_stopped(self, make, start):
        assert draws(make(0, start), 20) == draws(make(0), start + 20)[start:]

    def test_its_position_counts_the_draws_and_a_new_iterator_goes_on_there(self, make):
        sampler, whole = make(0), draws(make(0), 12)
        assert draws(sampler, 5) == whole[:5] and sampler.position == 5
        assert draws(sampler, 7) == whole[5:] and sampler.position == 12

    def test_every_draw_has_an_augmentation_seed_of_its_own(self, make):
        seeds = [draw[1] for seed in (0, 1) for draw in draws(make(seed), 2000)]
        assert len(set(seeds)) == 4000 and all(0 <= seed < 2**63 for seed in seeds)

    def test_a_negative_start_is_refused(self, make):
        with pytest.raises(ValueError, match="start=-1, wanted the number of draws so far"):
            make(0, -1)


def test_a_pass_draws_every_picture_once_and_the_next_in_another_order():
    indices = [index for index, _ in draws(EndlessSampler(50, seed=3), 150)]
    passes = [indices[:50], indices[50:100], indices[100:]]
    assert all(sorted(p) == list(range(50)) for p in passes)
    assert passes[0] != passes[1] != passes[2] and passes[0] != sorted(passes[0])


def test_an_empty_data_set_cannot_be_drawn_from():
    with pytest.raises(ValueError, match="0 pictures to draw from"):
        EndlessSampler(0, seed=0)
    with pytest.raises(ValueError, match="None of the 2 files contains a class.*uniform"):
        ClassBalancedSampler([[], []], seed=0)


def test_mixed_seeds_differ_in_every_argument():
    seeds = {mixed_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000


# ---- class balance


def test_files_without_classes_are_left_out_and_rare_classes_come_more_often():
    count = np.bincount([index for index, _ in draws(ClassBalancedSampler(CLASSES, seed=0), 3000)], minlength=6)
    assert count[5] == 0
    assert count[2] > 1.5 * 3000 / 5  # the only file with class 2, against an even share
    assert count[2] > count[0] > count[1]


def test_a_used_up_list_starts_again_with_all_its_files():
    """The released code restarts at the second file: every later pass would lack one."""
    indices = [index for index, _ in draws(ClassBalancedSampler([[0]] * 7, seed=0), 70)]
    passes = [indices[i : i + 7] for i in range(0, 70, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes) and len({tuple(p) for p in passes}) > 5


def test_the_class_weights_are_those_of_the_paper_and_start_again_each_round(monkeypatch):
    seen = []

    class Spy:
        def __init__(self, seed):
            self.turn = 0

        def choices(self, classes, weights):
            seen.append(list(weights))
            self.turn += 1
            return [classes[self.turn % len(classes)]]

        def sample(self, files, count):
            return list(files)

    monkeypatch.setattr("course_lib.data.sampling.random.Random", Spy)
    monkeypatch.setattr(ClassBalancedSampler, "ROUND", 4)
    draws(ClassBalancedSampler([[0, 1], [1]], seed=0), 5)
    even = [1 / np.log(1.01)] * 2
    assert np.allclose(seen[0], even) and np.allclose(seen[4], even)
    # class 1 came first, from its last file, which holds it alone: n = (0, 1)
    assert np.allclose(seen[1], [1 / np.log(1.01), 1 / np.log(2.01)])
    # then class 0, from the file with both: n = (1, 2)
    assert np.allclose(seen[2], [1 / np.log(1.01 + 1 / 3), 1 / np.log(1.01 + 2 / 3)])


# ---- rare classes


def test_classes_are_drawn_with_the_softmax_of_their_rarity_and_pictures_that_have_enough_alike():
    pixels = COUNTS.sum(0)
    weights = [np.exp((1 - pixels[c] / pixels.sum()) / 0.3) for c in range(3)]
    found = draws(RareClassSampler(COUNTS, 0, settings=RARE), 20_000)
    for c, pictures in enumerate(([0, 1, 2, 3, 4], [0, 4], [2])):  # picture 3 has 3 pixels of class 1: too few
        drawn = [index for index, _, shown in found if shown == c]
        p = weights[c] / sum(weights)
        assert abs(len(drawn) / 20_000 - p) < 5 * (p * (1 - p) / 20_000) ** 0.5
        count = np.bincount(drawn, minlength=6)
        assert np.flatnonzero(count).tolist() == pictures
        q = 1 / len(pictures)
        assert (abs(count[pictures] / len(drawn) - q) <= 5 * (q * (1 - q) / len(drawn)) ** 0.5).all()


def test_a_class_that_no_picture_has_enough_of_is_left_out():
    found = draws(RareClassSampler(COUNTS, 0, settings=RareClassSettings(rare_temperature=0.3, rare_pixels=30)), 500)
    assert {shown for _, _, shown in found} == {0, 1}
    with pytest.raises(ValueError, match="None of the 6 files has more than 3,000 pixels of a class. Lower rare_pixels"):
        RareClassSampler(COUNTS, 0)


@pytest.mark.parametrize("field, value", [("rare_temperature", 0.0), ("rare_pixels", -1), ("rare_crop_pixels", -1)])
def test_rare_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; it wants a"):
        RareClassSettings(**{field: value})
