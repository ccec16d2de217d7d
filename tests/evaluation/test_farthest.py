"""Farthest points on planted clusters and against loops; errors of depth; the command that writes a list."""

import shutil

import numpy as np
import pytest
import torch

from course_lib.data import ministreet, open_dataset, test_loader, test_transform
from course_lib.evaluation.farthest import depth_error, farthest_points, place_features
from course_lib.experiments.farthest import farthest_names
from course_lib.experiments.parts import Pair
from course_lib.experiments.state import load_network
from course_lib.experiments.train import train_recipe
from course_lib.recipes import recipe
from tests.bounds import bound, close
from tests.experiments.conftest import INSIDE, TINY

# ---- choice


def clusters(groups: int = 5, each: int = 8, seed: int = 0) -> torch.Tensor:
    """Points around corners that are 10 apart, within 0.5 of them, group after group."""
    generator = torch.Generator().manual_seed(seed)
    corners = 10 * torch.eye(groups, 6)
    return (corners[:, None] + 0.2 * torch.rand(groups, each, 6, generator=generator)).flatten(0, 1)


@pytest.mark.parametrize("first", [0, 13, 39])
def test_every_planted_cluster_is_visited_before_any_twice(first):
    found = farthest_points(clusters(), 12, [first])
    assert found[0] == first and len(set(found)) == 12
    assert sorted(n // 8 for n in found[:5]) == [0, 1, 2, 3, 4]


def test_the_first_of_a_longer_choice_are_the_shorter_one():
    f, e = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), torch.rand(30) / 1000
    for errors in (None, e):
        longer = farthest_points(f, 30, [7], errors)
        assert sorted(longer) == list(range(30))
        assert all(farthest_points(f, n, [7], errors) == longer[:n] for n in (1, 2, 5, 29))
        assert farthest_points(f, 20, longer[:8], errors) == longer[:20], "nor where an earlier choice is gone on with"


@pytest.mark.parametrize("weight", [0.0, 1.0, 1000.0])
def test_it_equals_the_loop(weight):
    f = torch.randn(15, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    e = torch.rand(15, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    S = [4, 1]
    while len(S) < 9:
        scores = {n: min(float(np.linalg.norm(f[n] - f[m])) for m in S) + weight * float(e[n]) for n in range(15) if n not in S}
        S.append(max(scores, key=scores.get))
    assert farthest_points(f, 9, [4, 1], e, weight) == S


def test_errors_decide_where_distances_are_alike():
    f = clusters(groups=1)
    e = torch.zeros(8)
    e[5] = 1.0
    assert farthest_points(f, 2, [0], e)[1] == 5 and farthest_points(f, 8, [5], e)[0] == 5


@pytest.mark.parametrize("arguments, words", [
    ((torch.zeros(3, 2), 4), r"features \(3, 2\) and count=4; it wants \(F, D\) and 1 to F"),
    ((torch.zeros(3, 2), 0), "count=0"), ((torch.zeros(3), 1), r"features \(3,\)"),
    ((torch.zeros(3, 2), 2, []), "it wants one index or more"), ((torch.zeros(3, 2), 2, [1, 1]), "different ones, 0 to 2"),
    ((torch.zeros(3, 2), 2, [3]), r"chosen=\[3\]"), ((torch.zeros(3, 2), 2, [0], torch.zeros(2)), r"errors is \(2,\)"),
])  # fmt: skip
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        farthest_points(*arguments)


# ---- features and errors


def test_features_are_the_unit_means_of_cells():
    maps = torch.randn(2, 5, 8, 16, generator=torch.Generator().manual_seed(0))
    found = place_features(maps, (4, 8)).view(2, 5, 4, 8)
    for n, i, j in np.ndindex(2, 4, 8):
        cell = maps[n, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].double().mean((1, 2))
        close(found[n, :, i, j], cell / cell.norm(), bound(30, torch.float32))
    with pytest.raises(ValueError, match=r"place_features got \(2, 5, 8\); it wants the features of a prediction"):
        place_features(maps[:, :, :, 0])


def test_the_error_of_depth_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    S, T = torch.rand(2, 3, 10, 9, generator=generator, dtype=torch.float64)
    T = torch.where(T < 0.2, -1.0, T**4)  # much of it is far away
    found = depth_error(S, T, bottom=0.2, nearest=0.07, window=3)
    counted = 0
    for n in range(3):
        errors = []
        for i, j in np.ndindex(8, 9):  # two of ten rows do not count
            near = T[n, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max()
            if T[n, i, j] >= 0 and near >= 0.07:
                errors.append(abs(np.log1p(float(S[n, i, j])) - np.log1p(float(T[n, i, j]))))
        close(found[n], np.mean(errors), bound(80, torch.float64))
        counted += len(errors)
    assert 20 < counted < 200


def test_nothing_to_count_is_an_error_of_0_and_shapes_are_looked_at():
    assert depth_error(torch.rand(2, 4, 4), torch.full((2, 8, 8), -1.0)).tolist() == [0.0, 0.0]
    assert depth_error(torch.rand(2, 4, 4), torch.full((2, 8, 8), 0.01)).tolist() == [0.0, 0.0], "all of it is far away"
    with pytest.raises(ValueError, match=r"depth_error got \(2, 4, 4\) and \(3, 8, 8\)"):
        depth_error(torch.rand(2, 4, 4), torch.rand(3, 8, 8))


# ---- names


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six pictures and a checkpoint that has seen depth for two steps."""
    root = tmp_path_factory.mktemp("choice")
    ministreet.make("cityscapes", root / "city", 6, 2, size=(32, 64), workers=1, progress=False)
    text = f"cityscapes:{root / 'city'}"
    options = INSIDE | {"tasks": "depth"}
    chosen = recipe("ministreet", "depth").override(*TINY, "network=multitask", f"network_options={options}")
    return text, train_recipe(chosen, Pair(text, text), root / "run", quiet=True)


def test_names_are_chosen_by_features_and_go_on_from_a_list(trained, tmp_path):
    text, checkpoint = trained
    names = open_dataset(text, labelled=False).pairs
    all_of_them = farthest_names(checkpoint, text, 6, quiet=True)
    assert sorted(all_of_them) == sorted(pair.name for pair in names)
    assert farthest_names(checkpoint, text, 3, quiet=True) == all_of_them[:3]
    assert {farthest_names(checkpoint, text, 1, seed=s, quiet=True)[0] for s in range(12)} > {all_of_them[0]}
    (tmp_path / "two.txt").write_text("\n".join(all_of_them[:2]), encoding="utf-8")
    assert farthest_names(checkpoint, text, 6, begin=tmp_path / "two.txt", quiet=True) == all_of_them


def test_the_errors_that_count_are_those_of_the_student(trained, tmp_path):
    text, checkpoint = trained
    student = train_recipe(load_network(checkpoint)[1].override("seed=1"), Pair(text, text), tmp_path / "run", quiet=True)
    errors = {checkpoint: {}, student: {}}  # of each picture
    for path, found in errors.items():
        network, chosen = load_network(path)
        transform = test_transform(chosen.test_size, network.normalisation)
        with torch.no_grad():
            for batch in test_loader(open_dataset(text, transform=transform, labelled=False, depth=True), 1, 0):
                found[batch.name[0]] = depth_error(network.eval()(batch.image).disparity, batch.disparity).item()
    by_errors = farthest_names(checkpoint, text, 6, student=student, quiet=True)
    assert by_errors[:1] == farthest_names(checkpoint, text, 1, quiet=True)
    hardest, others = (sorted(by_errors[1:], key=found.get, reverse=True) for found in (errors[student], errors[checkpoint]))
    assert by_errors[1:] == hardest != others, "a thousand times the error outweighs distances"


def test_the_student_wants_the_depth_of_every_picture(trained, tmp_path):
    text, checkpoint = trained
    shutil.copytree(text.partition(":")[2], tmp_path / "city")
    gone = open_dataset(f"cityscapes:{tmp_path / 'city'}", labelled=False, depth=True).pairs[2]
    gone.depth.unlink()
    said = "1 of 6 pictures of cityscapes:.* have no depth that can be read, the first is '.*'.*or leave --student out"
    with pytest.raises(ValueError, match=said) as refused:
        farthest_names(checkpoint, f"cityscapes:{tmp_path / 'city'}", 2, student=checkpoint, skip_bad=True, quiet=True)
    assert repr(gone.name) in str(refused.value)


def test_what_cannot_be_chosen_is_refused(trained, tmp_path):
    text, checkpoint = trained
    with pytest.raises(ValueError, match="Got count=7 of 6 pictures of cityscapes:.*; wanted 1 to 6"):
        farthest_names(checkpoint, text, 7, quiet=True)
    (tmp_path / "three.txt").write_text("\n".join(farthest_names(checkpoint, text, 3, quiet=True)), encoding="utf-8")
    for count in (2, 3):
        with pytest.raises(ValueError, match=f"three.txt' has 3 pictures and count={count}; wanted more than these"):
            farthest_names(checkpoint, text, count, begin=tmp_path / "three.txt", quiet=True)
    (tmp_path / "other.txt").write_text("nothing.png\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.txt', line 1: no picture 'nothing.png' in cityscapes:"):
        farthest_names(checkpoint, text, 2, begin=tmp_path / "other.txt", quiet=True)


def test_the_command_writes_a_list_that_a_part_of_a_split_reads(uda, trained, tmp_path):
    text, checkpoint = trained
    out = tmp_path / "list.txt"

    def choose(count, *words):
        return uda("data", "choose", text, "--network", checkpoint, "--count", count, "--out", out, "--quiet", *words)

    assert choose(2)[0] == 0
    names = out.read_text(encoding="utf-8").splitlines()
    assert names == farthest_names(checkpoint, text, 2, quiet=True)
    labelled = open_dataset(text, f"train+labelled={out}")
    assert sorted(pair.name for pair in labelled.pairs) == sorted(names)
    status, _, error = choose(3)
    assert status == 1 and "is no result of `uda data choose`, so it is not overwritten" in error
    assert choose(3, "--replace")[0] == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3


NETWORK = """
from course_lib.networks.multitask import multitask


def depth_net(num_classes, **options):
    return multitask(num_classes, **options)
"""


def test_networks_of_ones_own_are_named(uda, trained, tmp_path, monkeypatch):
    """A checkpoint does not import code by itself: the command names the network that was trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nets.py").write_text(NETWORK, encoding="utf-8")
    text, checkpoint = trained
    options = INSIDE | {"tasks": "depth"}
    own = load_network(checkpoint)[1].override("network=my_nets.py:depth_net", f"network_options={options}")
    student = train_recipe(own, Pair(text, text), tmp_path / "run", quiet=True)
    words = ["data", "choose", text, "--count", 2, "--out", tmp_path / "list.txt", "--quiet", "--device", "cpu"]
    monkeypatch.setattr("course_lib.outside.LOADED", {})  # a process that has not trained it
    status, _, error = uda(*words, "--network", student)
    assert status == 1 and "is code from outside" in error and "--set network=" in error
    status, _, error = uda(*words, "--network", checkpoint, "--student-set", "network=my_nets.py:depth_net")
    assert status == 1 and "--student-set says which network --student holds; give --student FILE" in error
    named = ["--set", "network=my_nets.py:depth_net"]
    assert uda(*words, "--network", student, *named)[0] == 0
    names = (tmp_path / "list.txt").read_text(encoding="utf-8").splitlines()
    assert names == farthest_names(student, text, 2, settings=("network=my_nets.py:depth_net",), quiet=True)
    assert uda(*words, "--network", checkpoint, "--student", student, "--student-set", named[1], "--replace")[0] == 0
    assert len((tmp_path / "list.txt").read_text(encoding="utf-8").splitlines()) == 2
