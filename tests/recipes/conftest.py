"""A pair of tiny domains on disk, made once per session by the generator that makes the real ones."""

import pytest

from course_lib.data import ministreet
from course_lib.recipes.stages import Pair

TINY = ("network=small", "steps=2", "start_steps=2", "batch_size=2", "log_every=1",
        "discriminator_input=image", "source_size=64x32", "target_size=64x32", "test_size=64x32")  # fmt: skip


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    root = tmp_path_factory.mktemp("ministreet")
    options = {"size": (32, 64), "workers": 1, "progress": False}
    source = ministreet.make("gta5", root / "gta5", 4, 1, **options)
    target = ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    ministreet.make("cityscapes", root / "cityscapes_val", 2, 3, split="val", **options)
    return Pair(f"gta5:{source}", f"cityscapes:{target}", f"cityscapes:{root / 'cityscapes_val'}@val")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
