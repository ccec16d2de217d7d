"""Estimates against counts by hand, and against what is really saved, sent and timed."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from course_lib import ranks
from course_lib.data import Batch
from course_lib.engine.distributed import average_gradients, running_statistics
from course_lib.engine.memory import peak_bytes
from course_lib.evaluation.multiscale import SCALES
from course_lib.experiments.compute import build_meta, step_cost
from course_lib.experiments.estimate import (
    counts_of,
    estimate,
    exchanged,
    fixed_bytes,
    looking_memory,
    measure_rate,
    plan_table,
    training_memory,
)
from course_lib.experiments.parts import build_segmenter
from course_lib.experiments.plan import plan
from course_lib.recipes import Stage, find_pair, recipe
from course_lib.recipes.paper import Counts
from course_lib.recipes.recipe import build_method
from tests.experiments.conftest import DISCRIMINATOR, TINY

SHALLOW = (
    "network_options={'imagenet': False, 'blocks': (1, 1, 1, 1)}", "batch_size=2",
    "source_size=64x32", "target_size=64x32", "test_size=64x32", "crop=64x32",
)  # fmt: skip
COUNTS = Counts(source=40, target=30, validation=10)


def shallow(method: str, *more: str):
    return recipe("gta5_cityscapes", method).override(*SHALLOW, *more)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_peak_bytes_of_a_small_network_are_those_counted_by_hand(device):
    N, H, W = 2, 8, 16
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)
    network = nn.Sequential(*layers).to(device)
    x = torch.zeros(N, 3, H, W, device=device)
    by_hand = N * H * W * (8 + 8 + 4)  # conv 1 for the norm; the norm's output, in place ReLU's and conv 2's input; conv 2's
    by_hand += 2 * 8  # the batch's mean and deviation
    assert peak_bytes(lambda: network(x)) == 4 * by_hand
    assert peak_bytes(lambda: network(x).sum().backward()) > 4 * by_hand


def test_what_is_freed_before_the_next_backward_pass_is_not_counted_again():
    conv = nn.Conv2d(1, 1, 1, device="meta")
    sizes = (4, 16, 8)
    inputs = [torch.zeros(1, 1, side, side, device="meta") for side in sizes]

    def step() -> None:
        for x in inputs:
            conv(x).exp().exp()

    assert peak_bytes(step) == 4 * (16 * 16 * 2)


@pytest.mark.parametrize(("make", "state"), [(lambda p: torch.optim.SGD(p, momentum=0.9), 1), (torch.optim.AdamW, 2)])
def test_fixed_bytes_are_weights_gradients_state_and_buffers(make, state):
    method = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    method[1].requires_grad_(False)
    method.optimisers = {"one": make(method[0].parameters())}
    learns, rests, buffers = 3 * 8 * 9 + 8, 16, 16
    assert fixed_bytes(method) == 4 * (learns * (1 + 1 + state) + rests + buffers) + 8  # num_batches_tracked is an int64


METHODS = ["source-only", "adaptsegnet", "proca", "bida", "self-training", "dacs"]


def moving(recipe, processes: int = 1) -> int:
    """Of a step, what grows with its pictures."""
    return training_memory(recipe, processes) - fixed_bytes(build_meta(recipe))


@pytest.mark.parametrize("method", METHODS)
def test_four_times_the_pixels_are_four_times_the_work_and_the_activations(method):
    small, large = (shallow(method, f"crop={size}", "select=last") for size in ("512x256", "1024x512"))
    stages = [Stage("train", "train", recipe, network="start") for recipe in (small, large)]
    one, four = estimate(stages, COUNTS, 1.0)
    assert four.seconds == 4 * one.seconds
    assert moving(large) / moving(small) == pytest.approx(4, rel=0.25)
    assert estimate(stages[:1], COUNTS, 1.0, processes=2)[0].seconds == one.seconds / 2
    assert moving(small, processes=2) / moving(small) == pytest.approx(1 / 2, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_that_of_a_step_on_the_cpu(method):
    """Of the real losses with their numbers, forward and back; labels that leave the contrasts their work."""
    recipe = shallow(method)
    model = build_method(recipe, build_segmenter(recipe)).train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    batch = Batch(torch.randn(2, 3, 32, 64), torch.randint(0, 19, (2, 32, 64)), ["a", "b"])
    model.terms.number = recipe.loop.steps

    def step() -> None:
        for losses in model.losses(**{name: batch for name in recipe.streams}):
            sum(losses.values()).backward()

    assert training_memory(recipe) == pytest.approx(fixed_bytes(model) + peak_bytes(step), rel=0.1)


def test_a_term_that_begins_late_takes_memory():
    """Unless the run ends before it."""
    term = ("terms=+patch_contrast", "terms.patch_contrast.queue_cells=64", "steps=20000")
    first, late, never = (moving(shallow("dacs", *term, f"terms.patch_contrast.first_step={k}")) for k in (0, 10_000, 30_000))
    assert first == late > never


def test_seconds_are_passes_pixels_and_rate():
    """By hand, from what the methods declare: 3 for each trained pass, 1 for each frozen one."""
    sizes = ("crop=none", "target_size=128x64", "steps=10", "batch_size=4", "select=last")
    rows = [Stage(name, "train", shallow(name, *sizes), network="start") for name in ("source-only", "bida", "bn-control")]
    one, two, control = (row.seconds for row in estimate(rows, COUNTS, 1e-6))
    source, target = 4 * 32 * 64, 4 * 64 * 128
    assert one == pytest.approx(1e-6 * 10 * 3 * source)
    assert two == pytest.approx(1e-6 * 10 * 3 * (source + target))
    assert control == pytest.approx(1e-6 * 10 * (3 + 1) * (source + target) / 2)


def test_two_domains_in_one_backward_pass_keep_twice_as_much_and_in_two_passes_once():
    deep = ("crop=512x256", "network_options={'blocks': (3, 4, 23, 3)}")  # what is kept is most of what is alive
    alone, both, in_turn = (moving(shallow(method, *deep)) for method in ("source-only", "bida", "adaptsegnet"))
    assert both / alone == pytest.approx(2, rel=0.05) and in_turn / alone == pytest.approx(1, rel=0.2)


def test_a_look_holds_less_than_training_keeps():
    assert looking_memory(shallow("source-only"), (32, 64), 2) < training_memory(shallow("source-only")) / 2


def test_stages_count_steps_pictures_looks_and_scales():
    rows = {row.stage: row for row in estimate(plan("gta5_cityscapes", "proca", (*SHALLOW, "source.steps=10")), COUNTS, 1e-6)}
    look = 1e-6 * 32 * 64
    assert rows["source"].seconds == pytest.approx(10 * 3 * 2 * look)
    assert rows["prototypes"].seconds == pytest.approx(40 * look)
    assert rows["labels"].seconds == pytest.approx(30 * look)  # all logits are kept: one look
    assert rows["test"].seconds == pytest.approx(10 * look * (1 + 2 * sum(s**2 for s in SCALES)), rel=0.15)
    half = {row.stage: row for row in estimate(plan("gta5_cityscapes", "proca", SHALLOW), COUNTS, 1e-6, processes=2)}
    assert half["labels"].seconds == pytest.approx(rows["labels"].seconds / 2)


FEW_LABELS = {
    "classmix": ["adapt", "test"],
    "reco": ["adapt", "test"],
    "semiseg": ["adapt", "test"],
    "segsdf": ["depth", "adapt", "test"],
    "gist": ["supervised", "labels-1", "labelled-1", "unlabelled-1", "choose-1", "test"],
    "rist": ["supervised", "labels-1", "unlabelled-1", "test"],  # as seed 0 draws
}


@pytest.mark.parametrize("method", FEW_LABELS)
def test_plans_for_few_labels_are_estimated_stage_by_stage(method):
    """Steps take what their passes take; labels are written for the other pictures; a choice looks at held-out ones alone."""
    sizes = [f"{key}=128x64" for key in ("source_size", "target_size", "test_size", "crop")]  # at half of it DeepLabV3+ fits
    few = ["rounds=1"] if method in ("gist", "rist") else []
    stages = plan("cityscapes_few_labels", method, (*SHALLOW, *sizes, *few, "steps=10"))
    rows, look = estimate(stages, COUNTS, 1e-6), 1e-6 * 64 * 128
    assert [row.stage for row in rows] == FEW_LABELS[method] and all(row.memory > 2**20 for row in rows)
    for stage, row in zip(stages, rows, strict=True):
        if stage.kind == "train":
            assert (row.count, row.batch) == (10, 2)
            assert row.seconds == pytest.approx(10 * 2 * step_cost(stage.recipe) * look)
        elif stage.kind == "labels":
            assert (row.count, row.seconds) == (30, pytest.approx(30 * look))
        elif stage.kind == "choose":
            assert row.what == "score 2 networks 128x64 on held-out pictures"
            assert (row.count, row.seconds) == (8, pytest.approx(2 * 8 * look)), "a fifth of 40, by two networks"


def test_logits_that_do_not_fit_are_asked_for_three_times():
    stages = [stage for stage in plan("gta5_cityscapes", "bida", SHALLOW) if stage.name == "labels-1"]
    few, many = (estimate(stages, Counts(1, target, 1), 1e-6)[0] for target in (1_000, 10**6))
    assert many.seconds == pytest.approx(3_000 * few.seconds) and "three looks" in many.what and "three" not in few.what


def test_a_start_inside_training_is_counted():
    stages = plan("ministreet", "adaptsegnet", (*TINY, DISCRIMINATOR, "network_options={'width': 16}"))
    recipe, row = stages[0].recipe, estimate(stages, COUNTS, 1e-6)[0]
    alone = estimate([replace(stages[0], network="start")], COUNTS, 1e-6)[0]
    assert "before it 2 steps source-only" in row.what and "before it" not in alone.what
    assert row.seconds - alone.seconds == pytest.approx(1e-6 * 2 * 3 * recipe.batch_size * math.prod(recipe.source_size))


def test_the_rate_is_measured_on_this_machine():
    rate = measure_rate(recipe("ministreet", "proca").override(*TINY, "network_options={'width': 16}"), "cpu", seconds=1)
    assert 0 < rate.seconds_per_pixel < 1e-3 and rate.size == (32, 64) and rate.passes == 1


@pytest.fixture
def sent(monkeypatch):
    """What is handed to the other process, when there are two."""
    tensors = []

    def total(tensor):
        tensors.append(tensor.detach())
        return tensor.detach()

    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "total", total)
    return tensors


@pytest.mark.parametrize(
    "chosen",
    [
        shallow("proca"),
        shallow("proca", "feed=source", "lambda_out=0"),
        shallow("bida"),
        shallow("bida", "pairwise=no"),
        shallow("adaptsegnet"),
    ],
    ids=["proca", "proca, source alone", "bida", "bida, whole batch", "adaptsegnet"],
)
def test_the_bytes_of_a_step_are_those_that_are_sent(chosen, sent):
    method = build_method(chosen, build_segmenter(chosen))
    batch = Batch(torch.randn(2, 3, 32, 64), torch.randint(0, 19, (2, 32, 64)), ["a", "b"])
    losses = [sum(part.values()) for part in method.losses(source=batch, target=batch)]
    banks = [tensor for tensor in sent if tensor.dtype == torch.float64 and tensor.ndim == 2]
    prototypes = [tensor for tensor in sent if tensor.dtype == torch.float32 and tensor.ndim == 2]
    bytes_of = exchanged(chosen)
    assert sum(tensor.nbytes for tensor in banks) == bytes_of.get("prototypes", 0)
    assert sum(tensor.nbytes + 4 * 19 for tensor in prototypes) == bytes_of.get("batch prototypes", 0)  # and C counts each
    losses[0].backward()
    sent.clear()
    average_gradients(method.optimisers.values(), buffers=running_statistics(method))
    assert sent[0].nbytes == bytes_of["gradients"] + bytes_of["statistics"]


def test_published_sizes():
    """The numbers of docs/scaling.md."""
    proca, bida = exchanged(recipe("gta5_cityscapes", "proca")), exchanged(recipe("gta5_cityscapes", "bida"))
    assert proca["prototypes"] == 2 * 8 * 19 * (2049 + 20) and bida["prototypes"] == 2 * 8 * 19 * 77
    assert bida["batch prototypes"] == 4 * 19 * 77  # of dynamic labels; contrasts are pairwise
    adaptsegnet = exchanged(recipe("gta5_cityscapes", "adaptsegnet"))
    page = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name, sent in (("ProCA contrast", proca), ("BiDA round", bida), ("AdaptSegNet", adaptsegnet)):
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} | ") and " MB" in line)
        wanted = [f"{sent['gradients'] / 1e6:.0f}", f"{sent['statistics'] / 1e6:.2f}"]
        assert re.findall(r"([\d.]+) MB", row)[:2] == wanted, name
    memory = {"ProCA | source": ("proca", 0), "ProCA | contrast": ("proca", 2), "BiDA | a round": ("bida", 2),
              "AdaptSegNet | adapt": ("adaptsegnet", 0)}  # fmt: skip
    for text, (paper, stage) in memory.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {text} | "))
        estimated = estimate([plan("gta5_cityscapes", paper)[stage]], find_pair("gta5_cityscapes").pictures, 1e-7)[0].memory
        assert f"| {estimated / 2**30:.1f} GiB |" in row, (text, estimated / 2**30)


def test_processes_that_have_joined_are_turned_away(sent):
    with pytest.raises(RuntimeError, match="made by one process: call estimate and measure_rate before the processes join"):
        estimate(plan("gta5_cityscapes", "adaptsegnet", SHALLOW), COUNTS, 1e-6)
    with pytest.raises(RuntimeError, match="before the processes join"):
        measure_rate(shallow("adaptsegnet"))


# ---- the command


@pytest.fixture
def uda(uda, monkeypatch):
    """With a short measurement of this machine's speed."""
    monkeypatch.setattr("course_lib.experiments.estimate.measure_rate.__defaults__", ("cpu", 0.1))
    return uda


SETTINGS = [word for setting in SHALLOW for word in ("--set", setting)]


def test_a_plan_needs_no_data_and_says_what_it_rests_on(uda):
    status, said, error = uda("run", "proca", "--plan", "--recipe", "gta5_cityscapes", "--device", "cpu", *SETTINGS)
    assert status == 0, error
    assert [line.split(" | ")[0] for line in said.splitlines()[2:9]] == [
        "| source", "| prototypes", "| contrast", "| labels", "| self-training", "| test", "| total",
    ]  # fmt: skip
    assert "24966 of the source" in said and "no data given" in said
    assert "An estimate" in said and "megapixels a second, measured" in said
    assert "in a step of contrast: " in said and "MB of gradients" in said


def test_a_plan_with_data_counts_its_pictures(uda, pair):
    words = ("--source", pair.source, "--target", pair.target, "--validation", pair.validation, "--device", "cpu")
    status, said, error = uda("run", "adaptsegnet", "--plan", "--recipe", "gta5_cityscapes", *words, *SETTINGS)
    assert status == 0 and "4 of the source, 4 of the target, 2 to score on." in said, error


def test_what_is_missing_is_said(uda, pair, tmp_path):
    assert "Missing --source and --target, as LAYOUT:PATH" in uda("run", "proca", "--out", tmp_path)[2]
    assert "Missing --target" in uda("run", "proca", "--plan", "--source", pair.source)[2]
    assert "Missing --out, the folder" in uda("run", "proca", "--source", pair.source, "--target", pair.target)[2]
    status, _, error = uda("run", "proca", "--data-root", tmp_path, "--out", tmp_path / "run", "--recipe", "synthia_cityscapes")
    assert (
        status == 1
        and f"No folder {tmp_path / 'SYNTHIA'} or {tmp_path / 'synthia'}, which --recipe synthia_cityscapes" in error
    )
    assert "instead of --data-root" in error
    error = uda("run", "proca", "--data-root", tmp_path, "--source", pair.source, "--out", tmp_path)[2]
    assert "--data-root replaces --source and --target" in error
    with pytest.raises(ValueError, match="'camvid_dusk' trains on is not known without data. Give --source and --target"):
        counts_of("camvid_dusk")


def test_the_table_ends_with_the_total():
    rows = estimate(plan("gta5_cityscapes", "adaptsegnet", (*SHALLOW, "steps=10")), COUNTS, 1e-6)
    lines = plan_table(rows).splitlines()
    assert len(lines) == 5 and lines[-1].startswith("| total |") and "at most" in lines[-1] and "| 10 x 2 |" in lines[2]


@pytest.mark.parametrize("method", ["classmix", "reco", "segsdf", "semiseg"])
def test_a_step_that_mixes_two_pictures_is_estimated_for_two_processes(method):
    """Each has one picture of a batch of two, and pastes it on that of the other."""
    small = recipe("ministreet_few_labels", method).override("batch_size=2")
    small = small.override("mix_from=unlabelled") if small.has("mix_from") else small
    assert training_memory(small, 2) == training_memory(small, 1) > 0
