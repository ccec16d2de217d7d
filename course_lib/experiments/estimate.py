"""How long the stages of a plan take and how much memory they want, before a picture is read.

Letters: N pictures in a batch, C classes, D channels, R processes; (H, W) sizes, written WIDTHxHEIGHT in tables.

A stage's network is built on torch's meta device, which has shapes and no numbers, and looks at one batch there:

    FLOPs  = of convolutions and matrix products in the forward pass, a multiply-add is two; training: 3 times that
    memory = weights and buffers
             + in training: gradients, the optimisers' state, and what forward passes keep for the backward pass
             + else: the most that is alive at a time
    time   = FLOPs / rate,    rate: FLOPs per second of the same network here, forward and back, on small pictures

An estimate: reading pictures, contrasts between features and cuDNN's workspaces are not in it.
"""

import json
import math
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from course_lib import ranks
from course_lib.data import Batch
from course_lib.engine import Precision
from course_lib.engine.distributed import running_statistics
from course_lib.engine.precision import to_device
from course_lib.evaluation.labelling import CACHE
from course_lib.evaluation.multiscale import SCALES
from course_lib.labels import label_space
from course_lib.losses import cross_entropy
from course_lib.methods import Method, find_method
from course_lib.networks import blank_options, build
from course_lib.recipes import PAIRS, Stage, find_pair
from course_lib.recipes.paper import Counts
from course_lib.recipes.recipe import Recipe, Size, build_method

FULL_SIZE = (1024, 2048)  # of Cityscapes, where a recipe leaves pictures as they are
TRAINING = 3  # forward pass, gradient of the activations, gradient of the weights: each costs a forward pass
STATE = {"SGD": 1, "Adam": 2, "AdamW": 2, "LARS": 1}  # numbers that an optimiser keeps for every weight
SMALL = 64 * 128  # pixels that measuring begins with


@dataclass(frozen=True)
class Work:
    """One step, or one look at a batch."""

    flops: float
    fixed: int  # bytes of weights and buffers; in training also of gradients and the optimisers' state
    moving: int  # bytes of activations


@dataclass(frozen=True)
class Rate:
    """What this machine was measured to do: the best of `passes` timed passes, of pictures up to `size`."""

    flops_per_second: float
    size: Size
    passes: int
    device: str


@dataclass(frozen=True)
class StageEstimate:
    """One row of the table."""

    stage: str
    what: str
    count: int  # steps, or pictures
    batch: int
    flops: float
    memory: int  # bytes
    seconds: float


# ---- one step on the meta device


def training_work(recipe: Recipe, processes: int = 1) -> Work:
    """A training step of one of `processes`, which share the batch."""
    return _training(step_key(recipe), max(1, recipe.batch_size // processes))


def looking_work(recipe: Recipe, size: Size | None, batch: int = 1) -> Work:
    """A forward pass without gradient over a batch of pictures, logits brought to the pictures' size one at a time."""
    return _looking(step_key(recipe), size or FULL_SIZE, batch)


def step_key(recipe: Recipe) -> str:
    """What a step's cost depends on; steps and rates are not among it."""
    content = recipe.to_dict()
    content["optimiser"]["lr"], content["loop"]["steps"], content["loop"]["schedule_steps"] = 1.0, 1, None
    return json.dumps(content)


@lru_cache(maxsize=64)
def _training(key: str, batch: int) -> Work:
    recipe = Recipe.from_dict(json.loads(key))
    method = build_meta(recipe)
    with torch.device("meta"):
        sizes = {"source": recipe.source_size, "target": recipe.target_size}
        pictures = {name: _blank(batch, recipe.crop or sizes[name]) for name in method.streams(method.settings)}
    forward, kept = forward_cost(method, method.graphs(**pictures))
    half = 2 if recipe.loop.precision != "fp32" else 1
    return Work(TRAINING * forward * recipe.loop.accumulate, fixed_bytes(method), kept // half)


def blank_segmenter(recipe: Recipe) -> nn.Module:
    """The recipe's network with random weights: nothing is downloaded."""
    options = blank_options(recipe.network, recipe.network_options)
    return build(recipe.network, label_space(recipe.space).num_classes, **options)


def _blank(batch: int, size: Size | None) -> Batch:
    H, W = size or FULL_SIZE
    return Batch(torch.zeros(batch, 3, H, W), torch.zeros(batch, H, W, dtype=torch.int64), ["blank"] * batch)


def forward_cost(module: nn.Module, graphs: Iterable[Any]) -> tuple[int, int]:
    """(FLOPs, bytes) of forward passes: `graphs` runs them when iterated, one item for each backward pass.

    Bytes are what autograd saves, every storage once and the module's own weights not at all; of several backward passes
    the largest counts, for each frees what it used.

    >>> conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False, device="meta")
    >>> x = torch.zeros(1, 3, 10, 20, device="meta")
    >>> forward_cost(conv, (conv(x) for _ in range(1)))  # 2 * 8 * 3 * 3 * 3 * 10 * 20; it keeps its input: 3 * 10 * 20 * 4
    (86400, 2400)
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    largest = 0
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for _graph in graphs:
            largest = max(largest, sum(saved.values()))
            saved.clear()
    return counter.get_total_flops(), largest


def fixed_bytes(method: Method) -> int:
    """Weights, buffers, gradients and the optimisers' state."""
    total = sum(tensor.nbytes for tensor in (*method.parameters(), *method.buffers()))
    for optimiser in method.optimisers.values():
        weights = _weights(optimiser)
        total += (1 + STATE[type(optimiser).__name__]) * sum(weight.nbytes for weight in weights)
    return total


def _weights(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """What an optimiser moves, each once."""
    return list({id(p): p for group in optimiser.param_groups for p in group["params"] if p.requires_grad}.values())


@lru_cache(maxsize=64)
def _looking(key: str, size: Size, batch: int) -> Work:
    recipe = Recipe.from_dict(json.loads(key))
    with torch.device("meta"):
        segmenter = blank_segmenter(recipe).eval()
        image = _blank(batch, size).image
    fixed = sum(tensor.nbytes for tensor in (*segmenter.parameters(), *segmenter.buffers()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _Alive() as alive:
        logits = segmenter(image).logits
    one = 4 * logits.shape[1] * math.prod(size)  # a picture's logits, and its probabilities, at its size
    return Work(counter.get_total_flops(), fixed, image.nbytes + max(alive.peak, logits.nbytes + 2 * one))


class _Alive(TorchDispatchMode):
    """The most bytes of tensors, made inside, that are alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known | given:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


# ---- this machine


def measure_rate(recipe: Recipe, device: torch.device | str = "cpu", seconds: float = 8.0, *, batch_size: int = 1) -> Rate:
    """How fast the recipe's network trains here: forward and back on small pictures, then larger ones while time allows.

    The best rate counts: a GPU is only busy with large pictures, and others may use the machine. `seconds` is about what it
    takes in all.
    """
    _alone()
    device = torch.device(device)
    segmenter = to_device(blank_segmenter(recipe), device, recipe.loop.channels_last).train()
    precision = Precision(recipe.loop.precision, device)
    H, W = recipe.crop or recipe.source_size or recipe.target_size or FULL_SIZE
    shrink = max(1.0, math.sqrt(H * W / SMALL))
    begin, passes, rate, size = time.perf_counter(), 0, 0.0, None
    while True:
        size = tuple(min(side, max(32, 8 * round(side / shrink / 8))) for side in (H, W))
        batch = _blank(batch_size, size).to(device, recipe.loop.channels_last)
        with FlopCounterMode(display=False) as counter:  # the first pass of a size is slower: not timed
            with precision.autocast():
                loss = cross_entropy(segmenter(batch.image).logits, batch.label)
        loss.backward()
        _wait(device)
        started = time.perf_counter()
        with precision.autocast():
            loss = cross_entropy(segmenter(batch.image).logits, batch.label)
        loss.backward()
        _wait(device)
        took, passes = time.perf_counter() - started, passes + 1
        rate = max(rate, TRAINING * counter.get_total_flops() / took)
        if size == (H, W) or time.perf_counter() - begin + 2 * 4 * took > seconds:
            return Rate(rate, size, passes, str(device))
        shrink = max(1.0, shrink / 2)


def _alone() -> None:
    """Losses exchange numbers between processes that have joined: one that estimates alone would wait for ever."""
    if ranks.count() > 1:
        raise RuntimeError("Estimates are made by one process: call estimate and measure_rate before the processes join.")


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


# ---- the stages


class _Look(NamedTuple):
    """Forward passes without gradient."""

    batches: float  # of one process
    size: Size | None
    batch: int


def estimate(stages: list[Stage], counts: Counts, flops_per_second: float, processes: int = 1) -> list[StageEstimate]:
    """A row for every stage: the work of one of `processes`, which share batches and pictures."""
    _alone()
    rows = []
    for stage in stages:
        what, count, batch, flops, memory = (_trains if stage.kind in ("start", "train") else _looks)(stage, counts, processes)
        rows.append(StageEstimate(stage.name, what, count, batch, flops, memory, flops / flops_per_second))
    return rows


def _trains(stage: Stage, counts: Counts, R: int) -> tuple[str, int, int, float, int]:
    recipe = stage.recipe
    first = replace(recipe.of("source-only"), start_steps=0)  # the common start
    trains_start = 0 if recipe.start_from else recipe.start_steps
    if stage.kind == "start":
        steps, recipe = trains_start, first
    else:
        steps = recipe.loop.steps
    work = training_work(recipe, R)
    flops, memory = steps * work.flops, work.fixed + work.moving
    what = f"{recipe.method}, {' + '.join(dict.fromkeys(_wide(size) for size in _training_sizes(recipe)))}"
    if stage.kind == "train" and stage.network is None and trains_start:
        start = training_work(first, R)
        flops, memory = flops + trains_start * start.flops, max(memory, start.fixed + start.moving)
        what += f"; before it {trains_start} steps source-only, unless cached"
    candidates = steps // recipe.loop.save_every if stage.kind == "train" and recipe.select != "last" else 0
    if candidates and steps > recipe.loop.save_every:  # which checkpoint is the result
        pictures = counts.validation if recipe.select == "target-labels" else min(recipe.select_pictures, counts.target)
        flops += candidates * pictures * looking_work(recipe, recipe.test_size).flops / R
    return what, steps, recipe.batch_size, flops, memory


def _training_sizes(recipe: Recipe) -> list[Size | None]:
    sizes = {"source": recipe.source_size, "target": recipe.target_size}
    return [recipe.crop or sizes[name] for name in recipe.streams]


def _looks(stage: Stage, counts: Counts, R: int) -> tuple[str, int, int, float, int]:
    recipe, size, N = stage.recipe, stage.recipe.test_size, max(1, stage.recipe.batch_size // R)
    if stage.kind == "prepare":
        count, what = counts.source, f"look at {_wide(recipe.source_size)}"
        looks = [_Look(count / R / N, recipe.source_size, N)]
    elif stage.kind == "labels":
        logits = 4 * label_space(recipe.space).num_classes * math.prod(side // 8 for side in size or FULL_SIZE)
        once = recipe.pseudo.one_threshold is not None or logits * counts.target / R <= CACHE
        count, what = counts.target, f"label {_wide(size)}{'' if once else ', three looks'}"
        looks = [_Look((1 if once else 3) * count / R, size, 1)]  # else: for confidences, thresholds and labels
    else:
        count, what = counts.validation, f"score {_wide(size)}"
        looks = [_Look(count / R, size, 1)]
        if stage.multiscale:
            what += f", and at {len(SCALES)} scales with mirror images"
            H, W = size or FULL_SIZE
            looks += [_Look(count / R, (int(H * scale), int(W * scale)), 2) for scale in SCALES]
        if find_method(recipe.method).kinds(recipe.settings):
            what += "; kinds of labels"  # every process looks at all pictures
            pairs = min(counts.source, counts.target) / recipe.batch_size
            looks += [_Look(pairs, side, recipe.batch_size) for side in (recipe.source_size, recipe.target_size)]
    works = [looking_work(recipe, look.size, look.batch) for look in looks]
    flops = sum(look.batches * work.flops for look, work in zip(looks, works))
    return what, count, looks[0].batch, flops, max(work.fixed + work.moving for work in works)


def plan_table(rows: list[StageEstimate]) -> str:
    """The estimates as a Markdown table, with a total."""
    lines = ["| stage | what | steps x batch | time | memory |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row.stage, row.what, f"{row.count} x {row.batch}", duration(row.seconds), gigabytes(row.memory))
        lines.append(f"| {' | '.join(cells)} |")
    total = duration(sum(row.seconds for row in rows))
    return "\n".join([*lines, f"| total |  |  | {total} | {gigabytes(max(row.memory for row in rows))} at most |"])


def plan_notes(stages: list[Stage], rate: Rate, processes: int = 1) -> str:
    """What the table rests on: what was measured, what is left out, what several processes would send."""
    lines = [
        f"An estimate: FLOPs of every stage, counted, by {rate.flops_per_second / 1e9:.3g} GFLOP/s, measured with this network "
        f"forward and back (passes timed: {rate.passes}; pictures up to {_wide(rate.size)}; {rate.device}, threads: "
        f"{torch.get_num_threads()}). Not in it: reading pictures, the contrasts' own work, the workspaces of cuDNN.",
        *([f"Time and memory are those of one of {processes} processes."] if processes > 1 else []),
    ]
    senders: dict[str, list[str]] = {}
    for stage in stages:
        if stage.kind == "train":
            sent = ", ".join(f"{_bytes(size)} of {name}" for name, size in exchanged(stage.recipe).items() if size)
            senders.setdefault(sent, []).append(stage.name)
    lines += [f"Of several processes each hands over in a step of {', '.join(s)}: {sent}." for sent, s in senders.items()]
    return "\n".join(lines)


def exchanged(recipe: Recipe) -> dict[str, int]:
    """Bytes that each process hands to the others in a step, by what they are; a ring sends 2 (R - 1) / R times as much.

        gradients           4 bytes a weight that learns (discriminators too), and one flag for each tensor
        statistics          4 bytes for every running mean and variance
        and what the method says of one batch (`Method.exchanged`): sums of its prototypes, for example

    Numbers of labelled pixels, 8 bytes or C numbers a loss, travel too and are not listed.
    """
    method = build_meta(recipe)
    weights = [weight for optimiser in method.optimisers.values() for weight in _weights(optimiser)]
    once = {
        "gradients": 4 * sum(weight.numel() for weight in weights) + 4 * (len(weights) + 1),
        "statistics": 4 * sum(buffer.numel() for buffer in running_statistics(method)),
    }
    return once | {name: size * recipe.loop.accumulate for name, size in method.exchanged().items()}


def build_meta(recipe: Recipe) -> Method:
    """The recipe's method on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return build_method(recipe, blank_segmenter(recipe))


def counts_of(pair: str, opened: dict[str, int] | None = None) -> Counts:
    """The numbers of pictures: of the data where it is given, of the published lists where not."""
    if opened is not None:
        return Counts(**opened)
    if (pictures := find_pair(pair).pictures) is None:
        known = ", ".join(name for name, settings in PAIRS.items() if settings.pictures)
        raise ValueError(
            f"How many pictures {pair!r} trains on is not known without data. Give --source and --target with --plan; {known} "
            "need none."
        )
    return pictures


def _wide(size: Size | None) -> str:
    H, W = size or FULL_SIZE
    return f"{W}x{H}"


def duration(seconds: float) -> str:
    """In the unit that suits.

    >>> duration(3.2), duration(600), duration(9000), duration(400_000)
    ('3.2 s', '10 min', '2.5 h', '4.6 days')
    """
    for unit, length, least in (("days", 86_400, 2), ("h", 3_600, 2), ("min", 60, 2)):
        if seconds >= least * length:
            return f"{seconds / length:.0f} {unit}" if unit == "min" else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def gigabytes(size: float) -> str:
    """Bytes as GiB.

    >>> gigabytes(3 * 2**30), gigabytes(2**20)
    ('3.0 GiB', '0.001 GiB')
    """
    digits = 1 if size >= 0.95 * 2**30 else 2 if size >= 2**27 else 3
    return f"{size / 2**30:.{digits}f} GiB"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"
