"""Samples -> batches: the same ones whatever the number of workers, and after a resume."""

import pickle
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import Subset

from course_lib.data import (
    Batch,
    RareClassSettings,
    Sample,
    collate,
    loading,
    open_dataset,
    test_loader,
    test_transform,
    train_loader,
    train_transform,
)
from tests.data.trees import images_and_labels, write_image, write_label


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    random = train_transform(None, "imagenet", flip=True, crop=(4, 5), photometric="strong")
    return open_dataset(f"gta5:{images_and_labels(tmp_path / 'data', count=7)}", transform=random)


def same(a, b):
    return a.name == b.name and torch.equal(a.image, b.image) and torch.equal(a.label, b.label)


SAMPLING = ["uniform", "class-balanced", "rare-class"]


def batches(count, *arguments, **options):
    options = {"rare": RareClassSettings(rare_temperature=0.3, rare_pixels=0), **options}  # small pictures
    return list(islice(train_loader(*arguments, **options), count))


def test_batches_are_full_endless_and_named(dataset):
    for batch in batches(6, dataset, 3, seed=0):  # more than two passes over 7 pictures
        assert isinstance(batch, Batch)
        assert batch.image.shape == (3, 3, 4, 5) and batch.image.dtype == torch.float32
        assert batch.label.shape == (3, 4, 5) and batch.label.dtype == torch.int64
        assert isinstance(batch.name, list) and len(batch.name) == 3 and batch.name[0].endswith(".png")


@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_resumed_loader_continues_with_exactly_the_same_batches(dataset, sampling):
    whole = batches(7, dataset, 2, seed=5, sampling=sampling)
    resumed = batches(3, dataset, 2, seed=5, start=4, sampling=sampling)
    assert all(same(a, b) for a, b in zip(whole[4:], resumed))
    assert not same(whole[0], whole[4])


@pytest.mark.parametrize("sampling", SAMPLING)
def test_processes_load_the_parts_of_what_one_would_load(dataset, sampling):
    whole = batches(4, dataset, 6, seed=2, start=1, sampling=sampling)
    parts = [batches(4, dataset, 6, seed=2, start=1, sampling=sampling, rank=r, ranks=3) for r in range(3)]
    for batch, *own in zip(whole, *parts):
        assert [len(part.name) for part in own] == [2, 2, 2]
        assert [name for part in own for name in part.name] == batch.name
        assert torch.equal(torch.cat([part.image for part in own]), batch.image)


def test_the_number_of_workers_changes_nothing(dataset):
    alone, two = batches(5, dataset, 2, seed=1), batches(5, dataset, 2, seed=1, workers=2)
    assert all(same(a, b) for a, b in zip(alone, two))


def test_workers_that_start_afresh_would_get_all_they_need(dataset):
    """Spawned workers are sent the data set and collate by pickle; starting one takes seconds, so only that is tried."""
    sent, stack = pickle.loads(ForkingPickler.dumps((dataset, collate)))
    assert same(stack([sent[3, 9]]), collate([dataset[3, 9]]))


def test_loading_leaves_the_global_random_numbers_alone(dataset):
    before = torch.random.get_rng_state()
    batches(2, dataset, 2, seed=1)
    list(test_loader(dataset))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_other_seeds_give_other_orders_and_other_augmentations(dataset):
    assert [b.name for b in batches(4, dataset, 2, seed=0)] != [b.name for b in batches(4, dataset, 2, seed=1)]
    first, again = dataset[0, 1], dataset[0, 2]
    assert not torch.equal(first.image, again.image)


def test_class_balance_draws_the_rare_class_more_often(tmp_path, dataset):
    write_label(tmp_path / "data" / "labels" / "00006.png", torch.full((6, 8), 33))  # the only bicycle
    rare = open_dataset(f"gta5:{tmp_path / 'data'}", transform=dataset.transform)
    names = [name for batch in batches(30, rare, 2, seed=0, sampling="class-balanced") for name in batch.name]
    assert names.count("00006.png") > 18  # of 60; an even share is 8.6


def test_rare_class_sampling_shows_the_class_that_was_drawn(tmp_path, dataset):
    """Picture k has a small corner of its own class beside the common one; a crop is a quarter of the picture."""
    for index in range(7):
        label = torch.zeros(12, 12, dtype=torch.uint8).add(7).numpy()  # road
        label[:4, :4] = 26 if index == 0 else 7                        # car
        write_label(dataset.pairs[index].label, label)
        write_image(dataset.pairs[index].image, 12, 12)
    for shown_pixels, least in ((0, 0.9), (144, 0.0)):
        transform = train_transform(None, "imagenet", crop=(6, 6), shown_pixels=shown_pixels)
        rare = open_dataset(dataset.spec.split(" ")[0], transform=transform)
        settings = RareClassSettings(rare_temperature=0.05, rare_pixels=3)
        drawn = batches(30, rare, 2, seed=0, sampling="rare-class", rare=settings)
        cars = [(label == 13).any().item() for batch in drawn for label in batch.label]
        assert len(cars) == 60 and sum(cars) / 60 >= least


def test_testing_gives_every_picture_once_in_order(dataset):
    dataset.transform = test_transform(None, "imagenet")
    assert [batch.name for batch in test_loader(dataset, batch_size=3)] == [
        ["00000.png", "00001.png", "00002.png"], ["00003.png", "00004.png", "00005.png"], ["00006.png"]
    ]  # fmt: skip
    assert len(test_loader(dataset)) == 7


def test_processes_test_every_picture_once(dataset):
    names = [[name for b in test_loader(dataset, 2, rank=r, ranks=3) for name in b.name] for r in range(3)]
    assert names == [[f"0000{i}.png" for i in own] for own in ((0, 3, 6), (1, 4), (2, 5))]
    assert list(test_loader(Subset(dataset, [0]), rank=1, ranks=2)) == []  # fewer pictures than processes


def test_pictures_of_several_sizes_are_named(tmp_path):
    write_image(tmp_path / "a.png", 6, 8)
    write_image(tmp_path / "b.png", 5, 8)
    dataset = open_dataset(f"folder:{tmp_path}", transform=train_transform(None, "imagenet"))
    with pytest.raises(ValueError, match="'a.png' is 8x6 and 'b.png' 8x5.*a size or a crop, or use batch_size=1"):
        list(test_loader(dataset, batch_size=2))
    halves = [Sample(torch.zeros(3, 2, 2), torch.zeros(n, 2), f"{n}.png") for n in (2, 3)]
    with pytest.raises(ValueError, match="wants labels of one size"):
        collate(halves)


@pytest.mark.parametrize("options, words", [
    ({"sampling": "balanced"}, "'balanced', wanted 'uniform', 'class-balanced' or 'rare-class'"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"workers": -1}, "workers=-1"),
    ({"batch_size": 4, "ranks": 3}, "batch_size=4 does not divide among 3 processes.*Choose a multiple of 3"),
    ({"rank": 2, "ranks": 2}, "rank=2 of ranks=2; wanted 0 to ranks - 1"),
])  # fmt: skip
def test_wrong_settings_are_refused(dataset, options, words):
    with pytest.raises(ValueError, match=words):
        train_loader(**{"dataset": dataset, "batch_size": 2, "seed": 0, **options})


def test_a_batch_moves_as_a_whole():
    batch = Batch(torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64), ["a", "b"])
    moved = batch.to("cpu", channels_last=True)
    assert moved.image.is_contiguous(memory_format=torch.channels_last) and moved.name == ["a", "b"]
    assert batch.to("cpu").image.is_contiguous() and batch.to("meta").label.device.type == "meta"


def test_more_workers_than_cores_or_pictures_are_not_started(dataset, monkeypatch):
    monkeypatch.setattr(loading, "cores", lambda: 3)
    assert test_loader(dataset, workers=100_000).num_workers == 3
    assert test_loader(Subset(dataset, range(2)), workers=100_000).num_workers == 2
    assert train_loader(dataset, 2, seed=0, workers=100_000).num_workers == 3
