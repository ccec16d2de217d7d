"""What every contrastive term has to do: one test for each property, one case for each term (`contrast_terms.CASES`).

The table of their outcomes: `python -m tests.methods.contrast_terms`.
"""

import copy
import itertools
from functools import partial
from inspect import signature

import pytest
import torch
from torch.nn import functional as F

from course_lib.data import ministreet
from course_lib.engine import LoopSettings, train
from course_lib.experiments.train import Pair
from course_lib.recipes import recipe
from tests.bounds import bound, close, far, roundings
from tests.methods.contrast_terms import (
    ALL_SURE,
    CASES,
    EACH,
    MARKED,
    SURE,
    H,
    W,
    again,
    build,
    calls_of,
    fixed_windows,
    in_half_precision,
    in_order,
    inner,
    measured,
    part_of,
    pictures,
    run,
    shifted,
    term_of,
    warmed,
)
from tests.processes import together, whole_and_parts

every_case = pytest.mark.parametrize("name", CASES)
every_term = pytest.mark.parametrize("name", EACH)


def rounding(m):
    """Of a loss: features of a network, cosines or logits over tau = 0.1, means over at most the pictures' pixels."""
    return bound(roundings(m.segmenter), torch.float32, 2 / 0.1) + bound(2 * H * W, torch.float32, 20.0)


def total(losses):
    return sum(loss for loss in losses.values())


# ---- values ---------------------------------------------------------------------------------------------------------


@every_case
def test_every_loss_is_finite_and_not_0(name):
    m = warmed(build(name), name)
    found = run(m, CASES[name].warm, pictures(1))
    assert found and all(loss.shape == () and loss.isfinite() and loss != 0 for loss in found.values()), found
    assert all(loss.requires_grad for loss in found.values())


@every_case
def test_perfect_features_are_better_than_noise_and_noise_than_swapped(name):
    modes = ("perfect", "noise", CASES[name].swapped)
    perfect, noise, swapped = (total(measured(name, mode)).item() for mode in modes)
    assert perfect < noise < swapped, (perfect, noise, swapped)


def moves(name, **settings):
    """Whether noise and perfect features differ by more than a tenth of the loss."""
    perfect, noise = (total(measured(name, mode, **settings)).item() for mode in ("perfect", "noise"))
    return abs(noise - perfect) > 0.1 * abs(noise)


@every_case
def test_the_value_moves_with_the_features(name):
    assert moves(name)


@every_case
def test_features_and_labels_are_of_the_same_place(name, monkeypatch):
    """Perfect features cost next to nothing, and with labels that are moved by two cells in any direction much more. Were
    features and labels, or two views, a cell apart, one of both would fail."""
    fixed_windows(monkeypatch)
    sharp = CASES[name].sharp
    m = warmed(build(name, plant=True, labels=SURE, **sharp), name)
    cell = H // inner(m.segmenter)(pictures(1)["source"].image).logits.shape[2]
    calls = calls_of(m, CASES[name].warm, pictures(1))
    values = {}
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        with torch.no_grad():
            by = partial(shifted, down=2 * cell * down, right=2 * cell * right)
            values[down, right] = sum(total(again(m, call, by)).item() for call in calls)
    least, noise = values.pop((0, 0)), total(measured(name, "noise", **sharp)).item()
    assert least < 0.05 * noise and min(values.values()) > 0.3 * noise, (least, values, noise)


@every_case
def test_the_order_of_the_pictures_does_not_matter(name, monkeypatch):
    fixed_windows(monkeypatch)
    m = warmed(build(name, **CASES[name].nothing_drawn), name)
    for call in calls_of(m, CASES[name].warm, pictures(1, n=3)):
        found = []
        for order in ([0, 1, 2], [2, 0, 1]):
            if CASES[name].follow is not None:
                CASES[name].follow(monkeypatch, order)
            found.append(again(m, call, partial(in_order, order=order)))
        close(found[1], found[0], rounding(m))


@every_case
def test_inside_autocast_it_is_computed_in_float32(name):
    """Features of half precision give what the same numbers give in float32."""
    found = {}
    for precision, inside in ((torch.float32, False), ("rounded", False), (torch.bfloat16, True)):
        m = warmed(build(name, plant=True, labels=SURE), name, "near")
        if precision != torch.float32:
            in_half_precision(m, wide=not inside)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found[precision] = run(m, CASES[name].warm, pictures(1))
    half, wide = found[torch.bfloat16], found["rounded"]
    assert all(loss.dtype == torch.float32 for loss in half.values()), half
    close(half, wide, bound(200, torch.float32, 2 / 0.1) + bound(2 * H * W, torch.float32, 20.0))
    assert far(total(wide), total(found[torch.float32]), 1e-6), "the numbers were rounded"


# ---- gradients ------------------------------------------------------------------------------------------------------


@every_case
def test_the_gradient_reaches_the_encoder(name):
    m = warmed(build(name), name)
    for loss_name, loss in run(m, CASES[name].warm, pictures(1)).items():
        weights = [*inner(m.segmenter).stem.parameters()]
        gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        assert all(g.isfinite().all() for g in gradients) and any(bool((g != 0).any()) for g in gradients), loss_name


@every_case
def test_cells_without_a_label_or_a_weight_get_no_gradient(name, monkeypatch):
    """Source pixels of the label 255, target pixels of the weight 0: cells that have no other within a cell of them."""
    fixed_windows(monkeypatch)
    m = build(name, plant=True, labels=SURE)
    if CASES[name].network == "hrda":
        m.segmenter.attention.eval()  # the statistics of its normalisation join all cells
    m = warmed(m, name, "near", marked=True)
    total(run(m, CASES[name].warm, pictures(1, marked=True))).backward()
    checked = {True: 0, False: 0}
    for features, code in inner(m.segmenter).emitted:
        if features.grad is not None:
            gradient = features.grad.abs().sum(1)
            away = -F.max_pool2d(-(code == MARKED).float(), 3, 1, 1) == 1
            assert (gradient[away] == 0).all()
            checked[True] += int(away.sum())
            checked[False] += int((gradient[~away] > 0).sum())
    assert min(checked.values()) > 10, checked


@every_case
def test_without_any_label_it_is_0_with_a_finite_gradient(name):
    m = warmed(build(name), name)
    batches = pictures(1)
    batches["source"].label.fill_(255)
    batches["target"] = batches["target"]._replace(valid=torch.zeros(2, H, W, dtype=torch.bool))
    m.mixer.settings = m.mixer.settings.__class__(unmixed=1.0)  # a mixed picture counts what is pasted
    found = run(m, CASES[name].warm, batches)
    total(found).backward()
    assert all(loss.item() == 0 for loss in found.values()), found
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)


# ---- training -------------------------------------------------------------------------------------------------------


def trained(name, steps=3, **settings):
    m = build(name, **settings)
    batches = [pictures(number) for number in range(steps)]
    streams = {k: [batch[k] for batch in batches] for k in ("source", "target")}
    log = train(m, streams, LoopSettings(steps=steps, warmup=0, log_every=1), quiet=True)
    return m, [record["losses"] for record in log.records]


def encoder(m):
    return torch.cat([p.detach().flatten() for p in inner(m.segmenter).skip.parameters()])


@every_term
def test_a_weight_of_0_changes_nothing_in_the_encoder_and_another_does(name, monkeypatch):
    fixed_windows(monkeypatch)
    steps = CASES[name].warm + 2
    (late, _), (none, _), (some, _) = (
        trained(name, steps, **how) for how in ({"first_step": 100}, {"weight": 0.0}, {"weight": 10.0})
    )
    moved = encoder(late) - encoder(build(name))
    # another layout of a gradient's memory is another order of sums
    tolerance = bound(roundings(late.segmenter), torch.float32, moved.abs().max())
    close(encoder(none), encoder(late), tolerance)
    assert far(encoder(some), encoder(late), 100 * tolerance.value)


@every_term
def test_nothing_happens_before_its_first_step(name):
    first = CASES[name].warm + 1
    before = copy.deepcopy(build(name).terms.state_dict())
    m, losses = trained(name, first, first_step=first)
    assert all("." not in loss for step in losses for loss in step)
    assert all(torch.equal(value, before[key]) for key, value in m.terms.state_dict().items())
    _, losses = trained(name, first + CASES[name].warm + 1, first_step=first)
    assert all("." not in loss for step in losses[:first] for loss in step) and any("." in loss for loss in losses[-1])


def work():
    """Every term in each process, on its part of batches of four pictures."""
    found = {}
    for name in EACH:
        m = build(name)
        batches = [part_of(pictures(number, n=4)) for number in range(CASES[name].warm + 2)]
        streams = {k: [batch[k] for batch in batches] for k in ("source", "target")}
        log = train(m, streams, LoopSettings(steps=len(batches), warmup=0, log_every=1), quiet=True)
        found[name] = {"losses": [record["losses"] for record in log.records], "state": m.terms.state_dict()}
    return found


@pytest.fixture(scope="module")
def one():
    return work()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return together(work, tmp_path_factory.mktemp("contrast"))


@every_term
def test_two_processes_are_one(one, two, name):
    m = build(name)
    tolerance = rounding(m) * len(one[name]["losses"])  # weights of some steps at rate 0.01 pass their rounding on
    for process in two:
        for ours, wanted in zip(process[name]["losses"], one[name]["losses"], strict=True):
            close(ours, wanted, tolerance)
        for key, value in one[name]["state"].items():
            got = process[name]["state"][key]
            if value.is_floating_point():
                close(got, value, bound(roundings(m.segmenter), torch.float32, value.abs().max() + 1) * 3, what=key)
            else:
                assert torch.equal(got, value), key
    assert all(torch.equal(value, two[1][name]["state"][key]) for key, value in two[0][name]["state"].items())


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    root = tmp_path_factory.mktemp("contrast")
    options = {"size": (H, W), "workers": 1, "progress": False}
    source = ministreet.make("gta5", root / "gta5", 4, 1, **options)
    target = ministreet.make("cityscapes", root / "cityscapes", 4, 2, **options)
    return Pair(f"gta5:{source}", f"cityscapes:{target}")


@every_term
def test_a_run_that_is_stopped_and_resumed_is_the_run(name, game, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    case, size = CASES[name], f"{W}x{H}"
    network = ("network=hrda", "network_options={'of': 'small', 'width': 16, 'attention_width': 8}")
    network = network if case.network == "hrda" else ("network=small", "network_options={'width': 16}")
    chosen = recipe("ministreet", "dacs").override(
        *network, "batch_size=2", "start_steps=0", f"source_size={size}", f"target_size={size}", f"test_size={size}",
        "select=last", f"steps={case.warm + 4}", "log_every=1", "weighting=threshold", "threshold=0", f"terms={case.term}",
        *(f"terms.{case.term}.{key}={value}" for key, value in case.settings.items()),
    )  # fmt: skip
    _, log = whole_and_parts(chosen, game, tmp_path, after=case.warm + 2)
    assert f'"{case.term}.' in log


# ---- the properties themselves --------------------------------------------------------------------------------------


RELEASED = {
    "at SePiCo's temperature the value does not move": (
        "distribution", {"contrast_temperature": 100.0, "regulariser": 0.0}, test_the_value_moves_with_the_features,
    ),
    "at ProCA's temperature the value does not move": (
        "prototype", {"contrast_temperature": 50.0}, test_the_value_moves_with_the_features,
    ),
    "PiPa's patches cannot move the network": ("patch", {"views": "teacher"}, test_the_gradient_reaches_the_encoder),
    "PiPa contrasts pixels without a label": (
        "pixel", {"ignore_as_class": True}, test_cells_without_a_label_or_a_weight_get_no_gradient,
    ),
    "CLUDA contrasts pixels without a label": (
        "resolution", {"as_released": True}, test_cells_without_a_label_or_a_weight_get_no_gradient,
    ),
    "ReCo's labels are of other cells": ("region", {"label_at": "corner"}, test_features_and_labels_are_of_the_same_place),
    "CLUDA's labels are of other cells": (
        "resolution", {"as_released": True}, test_perfect_features_are_better_than_noise_and_noise_than_swapped,
    ),
    "CLUDA's labels are of other places": ("resolution", {"as_released": True}, test_features_and_labels_are_of_the_same_place),
    "CLUDA's pairs depend on the order": ("resolution", {"as_released": True}, test_the_order_of_the_pictures_does_not_matter),
}  # fmt: skip


@pytest.mark.parametrize("mistake", RELEASED)
def test_mistakes_of_the_releases_are_found(mistake, monkeypatch):
    name, settings, test = RELEASED[mistake]
    monkeypatch.setitem(CASES, "released", CASES[name]._replace(settings=CASES[name].settings | settings))
    with pytest.raises(AssertionError):
        test("released", *([monkeypatch] if "monkeypatch" in signature(test).parameters else []))


def test_every_contrastive_term_is_here():
    from course_lib.methods.terms import TERMS

    assert {name for name in TERMS if name.endswith("_contrast")} == {case.term for case in CASES.values()}
    assert all(term_of(build(name)).Settings is TERMS[case.term].Settings for name, case in CASES.items())
    assert ALL_SURE.threshold == 0
