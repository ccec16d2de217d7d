"""What a checkpoint says of itself is not believed where it costs: processes, memory."""

import pytest
import torch

from course_lib.engine import CheckpointError, save_checkpoint
from course_lib.experiments import compute
from course_lib.experiments.state import load_network
from course_lib.networks import build
from course_lib.recipes import recipe

SMALL = recipe("ministreet", "source-only").override("network=small", "network_options={'width': 8}")


def saved(path, **settings):
    content = SMALL.to_dict() | settings
    return save_checkpoint(path, {"recipe": content, "segmenter": build("small", 19, seed=0, width=8).state_dict()})


def test_the_number_of_processes_is_the_callers(tmp_path):
    network, made_by = load_network(saved(tmp_path / "a.pt", workers=100_000))
    assert made_by.workers == 0 and made_by.to_dict() == SMALL.to_dict()
    assert torch.equal(*(net.state_dict()["classifier.weight"] for net in (network, build("small", 19, seed=0, width=8))))


@pytest.mark.parametrize("settings, words", [
    ({"test_size": [100_000, 100_000]}, "test_size is 100000x100000"),
    ({"network_options": {"width": 80_000}}, "size mismatch"),
    ({"workers": "x"}, "'workers' is 'x', wanted a whole number"), ({"seed": 10**30}, "seed is 1000"),
])  # fmt: skip
def test_what_would_take_all_memory_is_refused_before_it_is_taken(settings, words, tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pt", **settings)
    real = compute.build

    def on_meta(*arguments, **options):
        assert torch.get_default_device().type == "meta", "memory is taken"
        return real(*arguments, **options)

    monkeypatch.setattr(compute, "build", on_meta)
    with pytest.raises(CheckpointError, match=f"a.pt is a checkpoint, but its network cannot be built.*{words}"):
        load_network(path)
