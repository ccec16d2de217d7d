"""SimCLR's step: which views, what is compared, who learns, and that a resumed or divided run is the same run."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import ranks
from course_lib.data import NORMALISATIONS, WEAK_VIEWS, Batch, ViewSettings
from course_lib.engine import LoopSettings, train
from course_lib.losses import MemoryBank, nt_xent
from course_lib.methods import LARS, OptimiserSettings, SimCLR, SimCLRSettings
from course_lib.methods.simclr import decay_groups
from course_lib.methods.terms.few_labels import FewLabels
from course_lib.networks import build
from tests.bounds import bound, close, far, roundings
from tests.processes import own_part, together

SETTINGS = SimCLRSettings(head_norm="layer", head_out=16)
ADAMW = OptimiserSettings(optimiser="adamw", lr=1e-2, weight_decay=1e-4)


def pictures(count: int, seed: int = 0) -> Batch:
    image = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    image = F.interpolate(image, size=(16, 16), mode="bilinear")  # large patches, as pictures have
    return Batch(image, torch.zeros(count, 16, 16, dtype=torch.int64), [f"{seed}/{i}" for i in range(count)])


def simclr(settings: SimCLRSettings | None = None, optimiser: OptimiserSettings = ADAMW, **options) -> SimCLR:
    torch.manual_seed(0)
    network = build("small", 5, seed=0, width=8)
    return SimCLR(network, settings or SETTINGS, optimiser, **options)


def rounding(method, tau):
    """What the network's roundings do to directions, whose cosines are divided by tau; and the loss itself, below 4.

    `make numerics` calls it too wide, about 1300 times the error of one step: the errors of 19 layers hardly ever add up. What
    three steps leave in two processes, with the same count of roundings, comes to a third of its bound.
    """
    return bound(roundings(method), torch.float32, 2 * 2 / tau) + bound(150, torch.float32, 2 * 2 / tau + 4)


def loss_of(method: SimCLR, batch: Batch) -> torch.Tensor:
    (losses,) = list(method.losses(batch))
    assert list(losses) == ["nt_xent"]
    return losses["nt_xent"]


def step(method: SimCLR, batch: Batch) -> float:
    """One step, gradients averaged over the processes as the engine does."""
    optimiser = method.optimisers["simclr"]
    optimiser.zero_grad()
    loss = loss_of(method, batch)
    loss.backward()
    for p in (p for group in optimiser.param_groups for p in group["params"]):
        p.grad = ranks.total(p.grad) / ranks.count()
    optimiser.step()
    return (ranks.total(loss) / ranks.count()).item()


# ---- the algorithm box


def test_the_loss_is_nt_xent_of_the_heads_outputs_on_two_views():
    method, batch = simclr(), pictures(6)
    seen = []
    method.segmenter.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    loss = loss_of(method, batch)
    assert len(seen) == 1 and seen[0].shape == (12, 3, 16, 16)  # both views in one pass
    x_a, x_b = seen[0].chunk(2)
    z_a, z_b = (method.projector(method.segmenter(x).features.mean((2, 3))) for x in (x_a, x_b))  # no batch norm
    close(loss, nt_xent(z_a, z_b, 0.1), rounding(method, 0.1))


def test_the_network_sees_normalised_views():
    nothing = ViewSettings(crop_area=(1, 1), crop_ratio=(1, 1), flip_probability=0, jitter_probability=0,
                           grey_probability=0, blur_probability=0)  # fmt: skip
    method, batch = simclr(replace(SETTINGS, views=nothing)), pictures(3)
    wanted = NORMALISATIONS["imagenet"].normalise(255 * batch.image)
    close(method.view(batch.image, 0), wanted, bound(20, torch.float32, 5.0))


def test_the_two_views_differ_and_every_batch_has_new_ones():
    method, batch = simclr(), pictures(4)
    first = method.view(batch.image, 0)
    assert torch.equal(first, method.view(batch.image, 0))
    assert far(first, method.view(batch.image, 1), 0.01)
    loss_of(method, batch)
    assert method.drawn == 1 and far(first, method.view(batch.image, 0), 0.01)
    assert far(first, simclr(seed=1).view(batch.image, 0), 0.01)


def test_backbone_and_head_learn_and_the_classifier_rests():
    method = simclr()
    before = {name: p.clone() for name, p in method.named_parameters()}
    step(method, pictures(8))
    moved = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "classifier" not in name}


def test_what_a_term_reads_learns_too():
    """A term has a pass of its own beside SimCLR's; the classifier is in no other loss."""
    made = simclr()
    method = SimCLR(made.segmenter, made.settings, terms={"few_labels": FewLabels(made.segmenter)})
    groups = method.optimisers["simclr"].param_groups
    learning = {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in method.segmenter.parameters()} <= learning and sum(len(g["params"]) for g in groups) == len(learning)


def test_it_learns_to_tell_pictures_apart():
    method = simclr(replace(SETTINGS, views=WEAK_VIEWS), OptimiserSettings(optimiser="adamw", lr=2e-3))
    loader = iter(lambda: pictures(8), None)
    log = train(method, {"source": loader}, LoopSettings(steps=30, schedule_steps=None, log_every=1), quiet=True)
    losses = [record["losses"]["nt_xent"] for record in log.records]
    assert losses[0] > 2 and losses[-1] < 0.75 * losses[0]
    close(method.landmarks["nt_xent"][0], math.log(15), bound(5, torch.float64, 3.0))


def test_decay_and_adaptation_leave_out_biases_and_normalisation():
    method = simclr(optimiser=OptimiserSettings(optimiser="lars", lr=1.0, weight_decay=1e-6))
    optimiser = method.optimisers["simclr"]
    assert isinstance(optimiser, LARS)
    weights, rest = optimiser.param_groups
    assert weights["weight_decay"] == 1e-6 and weights["adapt"] and all(p.ndim > 1 for p in weights["params"])
    assert rest["weight_decay"] == 0 and not rest["adapt"] and all(p.ndim == 1 for p in rest["params"])
    assert len(weights["params"] + rest["params"]) == sum("classifier" not in name for name, _ in method.named_parameters())


def test_frozen_weights_are_left_out():
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    (group,) = decay_groups([frozen, nn.Parameter(torch.ones(2, 2))], ADAMW)
    assert len(group["params"]) == 1


# ---- the memory bank


def test_the_memory_bank_replaces_the_batchs_negatives():
    method = simclr(SimCLRSettings(head_norm="layer", head_out=16, bank=32, temperature=0.5))
    batch, bank = pictures(6), method.bank.bank.clone()
    loss = loss_of(method, batch)
    other = MemoryBank(32, 16)
    other.bank.copy_(bank)
    method.drawn -= 1
    x = [method.view(batch.image, k) for k in (0, 1)]
    z_a, z_b = (method.projector(method.encode(v)) for v in x)
    close(loss, other(z_a, z_b, 0.5), rounding(method, 0.5))
    assert method.bank.pointer == 6 and not torch.equal(method.bank.bank, bank)
    close(method.landmarks["nt_xent"][0], math.log(33), bound(5, torch.float64, 4.0))


# ---- resumed, divided


@pytest.mark.parametrize("settings", [
    SimCLRSettings(head_out=16),
    SimCLRSettings(head_norm="layer", head_out=16, bank=20),
], ids=["batch", "bank"])  # fmt: skip
def test_a_resumed_run_is_the_run(settings):
    batches = [pictures(6, seed) for seed in range(4)]
    whole = simclr(settings)
    losses = [step(whole, batch) for batch in batches]
    first = simclr(settings)
    for batch in batches[:2]:
        step(first, batch)
    state, memory = first.state_dict(), first.optimisers["simclr"].state_dict()
    resumed = simclr(settings)
    resumed.load_state_dict({k: v.clone() for k, v in state.items()})
    resumed.optimisers["simclr"].load_state_dict(memory)
    assert [step(resumed, batch) for batch in batches[2:]] == losses[2:]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


def run(settings: SimCLRSettings, optimiser: OptimiserSettings) -> dict[str, torch.Tensor]:
    """Three steps on this process's part of batches of 8."""
    method = simclr(settings, optimiser)
    losses = [step(method, own_part(pictures(8, seed))) for seed in range(3)]
    return {"losses": torch.tensor(losses, dtype=torch.float32), **method.state_dict()}


@pytest.mark.parametrize("settings", [
    SimCLRSettings(head_out=16, temperature=0.5),
    SimCLRSettings(head_norm="layer", head_out=16, temperature=0.5, bank=20),
], ids=["batch norm, gathered", "bank"])  # fmt: skip
def test_two_processes_are_one(settings, tmp_path):
    """Views, global batch statistics, negatives and bank: as if one process had the whole batch."""
    work = partial(run, settings, OptimiserSettings(optimiser="sgd", lr=0.02))
    alone = work()
    steps = bound(3 * 3 * roundings(simclr(settings)), torch.float32)  # 3 steps: forward and twice backward; weights below 1
    for mine in together(work, tmp_path):
        for name, value in alone.items():
            close(value.double(), mine[name].double(), steps, what=name)


# ---- what is refused


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="temperature is 0; it wants a number from 1e-06"):
        SimCLRSettings(temperature=0)
    with pytest.raises(ValueError, match="bank is -1; it wants a whole number from 0"):
        SimCLRSettings(bank=-1)


def test_normalised_pictures_are_refused():
    batch = pictures(4)
    with pytest.raises(ValueError, match=r"RGB in \[0, 1\]"):
        loss_of(simclr(), batch._replace(image=batch.image * 4 - 2))


def test_one_picture_alone_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="A batch of 1 picture has no other pictures.*batch_size=2 or more"):
        loss_of(simclr(), pictures(1))
    assert loss_of(simclr(SimCLRSettings(head_norm="layer", head_out=16, bank=8)), pictures(1)) > 0
    assert loss_of(simclr(), pictures(2)) > 0
