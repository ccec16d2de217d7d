"""LARS against its equation over steps with a changing rate."""

import numpy as np
import pytest
import torch

from course_lib.methods import LARS, OptimiserSettings, ReCo
from course_lib.methods.terms.region_contrast import RegionContrast, RegionContrastSettings
from course_lib.networks import build
from tests.bounds import bound, close, stated

ETA, M, B = 0.001, 0.9, 0.01
ROUNDING = bound(4 * 40, torch.float64, 2.0)  # four steps: two norms of 12 numbers and a few products; weights below 2


def gradients(steps: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, 3, 4))


def oracle(w: np.ndarray, rates: list[float]) -> np.ndarray:
    """The module's equation, line by line, in NumPy."""
    v = np.zeros_like(w)
    for g, lr in zip(gradients(len(rates)), rates):
        decayed = g + B * w
        t = ETA * np.linalg.norm(w) / np.linalg.norm(decayed)
        v = M * v + lr * t * decayed
        w = w - v
    return w


def run(rates: list[float], adapt: bool = True, start: np.ndarray | None = None, grads=None) -> torch.Tensor:
    w = torch.nn.Parameter(torch.tensor(np.ones((3, 4)) if start is None else start))
    optimiser = LARS([{"params": [w], "adapt": adapt}], lr=1.0, momentum=M, weight_decay=B)
    for g, lr in zip(gradients(len(rates)) if grads is None else grads, rates):
        optimiser.param_groups[0]["lr"] = lr
        w.grad = torch.tensor(g)
        optimiser.step()
    return w.detach()


RATES = [1.0, 3.0, 0.5, 0.1]


def test_it_is_the_published_equation():
    wanted = oracle(np.ones((3, 4)), RATES)
    assert np.abs(wanted - 1).max() > 1e-3  # it moves
    close(run(RATES), wanted, ROUNDING)


def test_the_size_of_a_gradient_does_not_matter():
    one, many = (run([1.0], grads=s * gradients(1), start=np.full((3, 4), 5.0)) for s in (1e3, 1e6))
    decay = stated(1e-6, "weight decay is 5e-5 of the smaller gradient, and a step is 0.017 long")
    close(one, many, decay)
    close((one - 5).norm(), ETA * np.sqrt(12) * 5, decay * 2)  # a step is eta |w| long


def test_left_out_parameters_step_as_plain_sgd_does():
    w = torch.nn.Parameter(torch.ones(3, 4, dtype=torch.float64))
    sgd = torch.optim.SGD([w], lr=0.1, momentum=M, weight_decay=B)
    for g in gradients():
        w.grad = torch.tensor(g)
        sgd.step()
    close(run([0.1] * 4, adapt=False), w.detach(), ROUNDING)


def test_zero_weights_take_a_plain_step():
    g = gradients(1)
    close(run([0.1], start=np.zeros((3, 4)), grads=g), torch.tensor(-0.1 * g[0]), ROUNDING)


def test_a_zero_gradient_decays():
    close(run([1.0], grads=np.zeros((1, 3, 4))), torch.full((3, 4), 1 - ETA, dtype=torch.float64), ROUNDING)


def test_its_state_goes_through_a_checkpoint():
    def make():
        w = torch.nn.Parameter(torch.ones(3, 4))
        return w, LARS([w], lr=0.5, weight_decay=B)

    def steps(w, optimiser, rows):
        for g in gradients()[rows]:
            w.grad = torch.tensor(g, dtype=torch.float32)
            optimiser.step()

    w, optimiser = make()
    steps(w, optimiser, slice(0, 4))
    half, first = make()
    steps(half, first, slice(0, 2))
    again, second = make()
    again.data.copy_(half.data)
    second.load_state_dict(first.state_dict())
    steps(again, second, slice(2, 4))
    assert torch.equal(again, w)


def test_wrong_settings_are_refused():
    w = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="lr=-1"):
        LARS([w], lr=-1)


def test_biases_and_normalisation_layers_of_every_method_and_term_are_left_out():
    network = build("small", num_classes=5, seed=0, width=8)
    term = RegionContrast(network, RegionContrastSettings(hidden=8, out=6))
    method = ReCo(network, optimiser=OptimiserSettings(optimiser="lars"), terms={"region_contrast": term})
    groups = method.optimisers["segmenter"].param_groups
    assert all((p.ndim > 1) == group["adapt"] for group in groups for p in group["params"])
    learning = [id(p) for group in groups for p in group["params"]]
    assert sorted(learning) == sorted(id(p) for p in [*network.parameters(), *term.parameters()] if p.requires_grad)
    terms = [group for group in groups if group.get("name") == "terms"]
    assert len(terms) == 2 and len({group["lr"] for group in terms}) == 1
