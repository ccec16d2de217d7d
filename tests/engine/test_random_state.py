"""The random generators of a checkpoint: those of the device that trains."""

import random

import numpy as np
import pytest
import torch

from course_lib.engine.precision import random_state, seed_everything, set_random_state


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


@pytest.fixture
def gpus(monkeypatch) -> dict[str, torch.Tensor]:
    """Two GPUs' generators; torch's calls reach them by the name of the device."""
    states = {f"cuda:{i}": torch.tensor([i], dtype=torch.uint8) for i in range(2)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda:0": states[str(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device="cuda:0": states.update({str(device): state}))
    return states


def test_a_run_that_goes_on_draws_what_it_would_have_drawn():
    seed_everything(3)
    draws()
    state, wanted = random_state(), draws()
    seed_everything(4)
    set_random_state(state)
    assert draws() == wanted and state["cuda"] is None


def test_the_generator_is_that_of_the_gpu_that_trains(gpus):
    """The current GPU is the first one, whichever the run was given."""
    state = random_state(torch.device("cuda:1"))
    gpus["cuda:1"] = torch.tensor([7], dtype=torch.uint8)
    set_random_state(state, torch.device("cuda:1"))
    assert {name: value.item() for name, value in gpus.items()} == {"cuda:0": 0, "cuda:1": 1}


def test_a_run_of_a_gpu_is_resumed_on_the_cpu(gpus):
    state = random_state("cuda:1")
    set_random_state(state, "cpu")
    assert random_state("cpu")["cuda"] is None and gpus["cuda:0"].item() == 0
