"""A pair of tiny domains on disk, made once per session by the generator that makes the real ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from course_lib.data import ministreet, open_dataset, test_transform
from course_lib.evaluation import write_pseudo_labels
from course_lib.experiments.train import Pair
from course_lib.networks import build

TINY = ("network=small", "steps=2", "start_steps=2", "batch_size=2", "log_every=1",
        "source_size=64x32", "target_size=64x32", "test_size=64x32")  # fmt: skip
# the tiny network at two resolutions, of the methods that are made for it
TWO_RESOLUTIONS = ("network=hrda", "network_options={'of': 'small', 'width': 16, 'attention_width': 16}")
# and with two tasks
INSIDE = {"of": "small", "width": 16, "decoder_width": 16, "decoder_norm": "group", "rates": [1, 2]}
TWO_TASKS = ("network=multitask", f"network_options={INSIDE}")
DISCRIMINATOR = "discriminator_input=image"  # of adaptsegnet: maps of such pictures are too small for its discriminator


def network_of(method: str) -> tuple[str, ...]:
    """The settings of the tiny network that a method trains, after TINY."""
    if method in ("segsdf", "depth"):
        return TWO_TASKS
    return TWO_RESOLUTIONS if method in ("hrda", "mic", "pipa-hrda", "cluda-hrda") else ("network_options={'width': 16}",)


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    root = tmp_path_factory.mktemp("ministreet")
    options = {"size": (32, 64), "workers": 1, "progress": False}
    source = ministreet.make("gta5", root / "gta5", 4, 1, **options)
    target = ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes_val", 2, 3, split="val", **options)
    return Pair(f"gta5:{source}", f"cityscapes:{target}", f"cityscapes:{root / 'cityscapes_val'}@val")


@pytest.fixture(scope="session")
def pseudo_labels(pair, tmp_path_factory) -> Path:
    """Train ids of the target's training pictures, by a network that knows nothing: 40 % of each class it says."""
    network = build("small", 19, seed=0, width=16)
    transform = test_transform((32, 64), network.normalisation)
    pictures = open_dataset(pair.target, "train", "cityscapes19", transform, labelled=False)
    folder = tmp_path_factory.mktemp("pseudo_labels")
    assert 0.2 < write_pseudo_labels(network, pictures, folder, progress=False)["labelled"] < 0.6
    return folder


@pytest.fixture(scope="session")
def labelled_pair(pair, pseudo_labels) -> Pair:
    """The pair with what self-training learns from."""
    return replace(pair, pseudo_labels=str(pseudo_labels))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
