"""The benchmark of DepthMix compares ways that give the same, and would see others."""

import torch

from benchmarks import depthmix_speed


def test_both_ways_give_the_same_pictures_labels_and_weight():
    for pictures in (2, 3):
        inputs = depthmix_speed.made(pictures, (16, 24), 5, torch.device("cpu"))
        ours, plain = depthmix_speed.ours(*inputs), depthmix_speed.plain(*inputs)
        assert depthmix_speed.agree(ours, plain) and 0.1 < ours[2].mean() < 0.9
        for k in range(3):
            wrong = list(plain)
            wrong[k] = plain[k] + 1
            assert not depthmix_speed.agree(ours, tuple(wrong))


def test_it_measures_both():
    inputs = depthmix_speed.made(2, (16, 24), 5, torch.device("cpu"))
    found = depthmix_speed.measured(1, inputs, torch.device("cpu"))
    assert found.keys() == {"ours", "plain"} and all(seconds > 0 for seconds in found.values())
