"""How long the stages of a plan take and how much memory they want, before a picture is read.

Letters: N pictures in a batch, C classes, D channels, R processes; (H, W) sizes, written WIDTHxHEIGHT in tables.

    time   = forward passes of the network x their pixels x rate,    a backward pass costs two (`Method.passes`)
             rate: seconds per pixel of the same network here, measured forward and back on small pictures
    memory = weights and buffers, in training also gradients and the optimisers' state
             + the most bytes of other tensors that are alive at a time in a step, or in a look at a batch: the step is done
               on torch's meta device, which has shapes and no numbers

An estimate: reading pictures, discriminators, contrasts between features and cuDNN's workspaces are not in it.
"""

import json
import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from course_lib import ranks
from course_lib.data import Batch
from course_lib.data.few_labels import held_share
from course_lib.data.layouts import parse, survey
from course_lib.engine import Precision
from course_lib.engine.distributed import learning_weights, running_statistics
from course_lib.engine.memory import peak_bytes
from course_lib.engine.precision import to_device
from course_lib.evaluation.labelling import CACHE
from course_lib.evaluation.multiscale import SCALES
from course_lib.experiments.compute import blank_segmenter, build_meta, step_cost, step_key, training_cost
from course_lib.experiments.parts import Pair
from course_lib.experiments.plan import check_processes
from course_lib.experiments.prepared_sizes import enlarged
from course_lib.labels import label_space
from course_lib.losses import cross_entropy
from course_lib.losses.adversarial import probabilities
from course_lib.methods import Method, find_method
from course_lib.methods.step import Passes
from course_lib.recipes import PAIRS, Stage, find_pair
from course_lib.recipes.paper import Counts
from course_lib.recipes.recipe import Recipe, Size
from course_lib.terminal import duration, gigabytes

FULL_SIZE = (1024, 2048)  # of Cityscapes, where a recipe leaves pictures as they are
STATE = {"SGD": 1, "Adam": 2, "AdamW": 2, "LARS": 1}  # numbers that an optimiser keeps for every weight
SMALL = 64 * 128  # pixels that measuring begins with


@dataclass(frozen=True)
class Rate:
    """What this machine was measured to do: the best of `passes` timed passes, of pictures up to `size`."""

    seconds_per_pixel: float  # of a forward pass
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
    memory: int  # bytes
    seconds: float


# ---- memory, on the meta device: all in bytes


def training_memory(recipe: Recipe, processes: int = 1) -> int:
    """Of a training step of one of `processes`, which share the batch."""
    batch = _part(recipe, processes)
    try:
        find_method(recipe.method).check_batch(recipe.settings, batch)
    except ValueError:  # a step pastes one picture on another, which another process may have
        batch = 2
    return _training(step_key(recipe), batch, recipe.loop.steps)


def looking_memory(recipe: Recipe, size: Size | None, batch: int = 1) -> int:
    """Of a forward pass without gradient over a batch of pictures, logits brought to the pictures' size one at a time."""
    return _looking(step_key(recipe), size or FULL_SIZE, batch)


@lru_cache(maxsize=64)
def _training(key: str, batch: int, steps: int) -> int:
    recipe = Recipe.from_dict(json.loads(key))
    method = build_meta(recipe)
    method.terms.number = steps  # a step in which every term takes part
    with torch.device("meta"):
        pictures = {name: _blank(batch, size) for name, size in _training_sizes(recipe).items()}
        for name in (name for name, stream in recipe.streams.items() if stream.depth):
            pictures[name] = pictures[name]._replace(disparity=torch.zeros_like(pictures[name].label, dtype=torch.float32))
    for weight in method.parameters():
        weight.grad = torch.zeros_like(weight)  # they are among what is fixed

    def step() -> None:
        own = {name: pictures[name] for name in method.streams(method.settings)}
        for losses in chain(method.graphs(**own), method.terms.alone(pictures)):
            sum(tree_leaves(losses)).backward()

    half = 2 if recipe.loop.precision != "fp32" else 1
    return fixed_bytes(method) + peak_bytes(step) // half


@lru_cache(maxsize=64)
def _looking(key: str, size: Size, batch: int) -> int:
    with torch.device("meta"):
        segmenter = blank_segmenter(Recipe.from_dict(json.loads(key))).eval()

    def look() -> None:
        image = torch.zeros(batch, 3, *size, device="meta")
        probabilities(segmenter(image).logits[:1], size)

    with torch.no_grad():
        return _held(segmenter) + peak_bytes(look)


def _blank(batch: int, size: Size | None) -> Batch:
    H, W = size or FULL_SIZE
    return Batch(torch.zeros(batch, 3, H, W), torch.zeros(batch, H, W, dtype=torch.int64), ["blank"] * batch)


def fixed_bytes(method: Method) -> int:
    """Weights, buffers, gradients and the optimisers' state."""
    states = ((1 + STATE[type(optimiser).__name__], learning_weights([optimiser])) for optimiser in method.optimisers.values())
    return _held(method) + sum(times * weight.nbytes for times, weights in states for weight in weights)


def _held(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


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
    shrink, began, passes, rate = max(1.0, math.sqrt(H * W / SMALL)), time.perf_counter(), 0, math.inf
    while True:
        step = max(8, segmenter.multiple)
        size = tuple(min(side, max(4 * step, step * round(side / shrink / step))) for side in (H, W))
        batch = _blank(batch_size, size).to(device, recipe.loop.channels_last)
        for _ in range(2):  # the first pass of a size is slower: not counted
            started = time.perf_counter()
            with precision.autocast():
                loss = cross_entropy(segmenter(batch.image).logits, batch.label)
            loss.backward()
            if device.type != "cpu":
                getattr(torch, device.type).synchronize()
            took = time.perf_counter() - started
        cost = Passes(trained=1, frozen=0).cost(segmenter.cost)
        passes, rate = passes + 1, min(rate, took / (cost * batch_size * math.prod(size)))
        if size == (H, W) or time.perf_counter() - began + 2 * 4 * took > seconds:
            return Rate(rate, size, passes, str(device))
        shrink = max(1.0, shrink / 2)


def _alone() -> None:
    """Losses exchange numbers between processes that have joined: one that estimates alone would wait for ever."""
    if ranks.count() > 1:
        raise RuntimeError("Estimates are made by one process: call estimate and measure_rate before the processes join.")


# ---- the stages


class _Look(NamedTuple):
    """Forward passes without gradient."""

    pictures: float  # of one process
    size: Size | None
    batch: int


def estimate(stages: list[Stage], counts: Counts, seconds_per_pixel: float, processes: int = 1) -> list[StageEstimate]:
    """A row for every stage: the work of one of `processes`, which share batches and pictures."""
    _alone()
    rows = []
    for stage in stages:
        what, count, batch, pixels, memory = (_trains if stage.kind in ("start", "train") else _looks)(stage, counts, processes)
        rows.append(StageEstimate(stage.name, what, count, batch, memory, pixels * seconds_per_pixel))
    return rows


def _trains(stage: Stage, counts: Counts, R: int) -> tuple[str, int, int, float, int]:
    """What, steps, batch, pixels of forward passes, memory."""
    recipe = stage.recipe
    first = replace(recipe.of("source-only"), start_steps=0)  # the common start
    start_steps = 0 if recipe.start_from else recipe.start_steps
    start = start_steps * step_cost(first) * _pixels(first, R)
    if stage.kind == "start":
        return f"source-only, {_what(first)}", start_steps, first.batch_size, start, training_memory(first, R)
    steps = recipe.loop.steps
    what, pixels, trained = f"{recipe.method}, {_what(recipe)}", training_cost(recipe) * _pixels(recipe, R), [recipe]
    if stage.network is None and start_steps:
        what, pixels = f"{what}; before it {start_steps} steps source-only, unless cached", pixels + start
        trained.append(first)
    if recipe.select != "last" and steps > recipe.loop.save_every:  # which checkpoint is the result
        pictures = counts.validation if recipe.select == "target-labels" else min(recipe.select_pictures, counts.target)
        pixels += steps // recipe.loop.save_every * pictures / R * _seen(recipe, recipe.test_size or FULL_SIZE)
    return what, steps, recipe.batch_size, pixels, max(training_memory(each, R) for each in trained)


def _seen(recipe: Recipe, size: Size) -> float:
    """Pixels of the forward passes that a picture of this size costs in eval mode."""
    return build_meta(recipe).segmenter.passes_of(size) * math.prod(size)


def _training_sizes(recipe: Recipe, read: bool = True) -> dict[str, Size]:
    """Of the pictures of a batch: as they are read, or as a pass of the network takes them."""
    sizes = {"source": recipe.source_size, "target": recipe.target_size, "labelled": recipe.target_size}
    crop = {name: None if stream.whole and read else recipe.crop for name, stream in recipe.streams.items()}
    return {name: crop[name] or sizes[name] or FULL_SIZE for name in recipe.streams}


def _pixels(recipe: Recipe, R: int) -> float:
    """Of one pass of a process's part of a batch, the mean over the streams."""
    areas = [math.prod(size) for size in _training_sizes(recipe, read=False).values()]
    return _part(recipe, R) * sum(areas) / len(areas)


def _part(recipe: Recipe, R: int) -> int:
    """Pictures of a batch that each of R processes has."""
    return max(1, recipe.batch_size // R)


def _looks(stage: Stage, counts: Counts, R: int) -> tuple[str, int, int, float, int]:
    """What, pictures, batch, pixels of forward passes, memory."""
    recipe, size = stage.recipe, stage.recipe.test_size
    if stage.kind == "prepare":
        count, what = counts.source, f"look at {_wide(recipe.source_size)}"
        looks = [_Look(count / R, recipe.source_size, _part(recipe, R))]
    elif stage.kind == "labels":
        logits = 4 * label_space(recipe.space).num_classes * math.prod(side // 8 for side in size or FULL_SIZE)
        once = recipe.pseudo.one_threshold is not None or logits * counts.target / R <= CACHE
        count, what = counts.target, f"label {_wide(size)}{'' if once else ', three looks'}"
        looks = [_Look((1 if once else 3) * count / R, size, 1)]  # else: for confidences, thresholds and labels
    elif stage.kind == "choose":
        count = max(1, round(held_share(recipe.settings.held_out) * counts.source))
        what = f"score {len(stage.branches)} networks {_wide(size)} on held-out pictures"
        looks = [_Look(len(stage.branches) * count / R, size, 1)]
    else:
        count, what = counts.validation, f"score {_wide(size)}"
        looks = [_Look(count / R, size, 1)]
        if stage.multiscale:
            what += f", and at {len(SCALES)} scales with mirror images"
            H, W = size or FULL_SIZE
            looks += [_Look(2 * count / R, (int(H * scale), int(W * scale)), 2) for scale in SCALES]
        if find_method(recipe.method).kinds(recipe.settings):
            what += "; kinds of labels"  # every process looks at all pictures
            pairs = min(counts.source, counts.target)
            looks += [_Look(pairs, side, recipe.batch_size) for side in (recipe.source_size, recipe.target_size)]
    pixels = sum(look.pictures * _seen(recipe, look.size or FULL_SIZE) for look in looks)
    return what, count, looks[0].batch, pixels, max(looking_memory(recipe, look.size, look.batch) for look in looks)


def plan_text(
    stages: list[Stage], recipe_name: str, pair: Pair | None, device: torch.device | str, only: str | None = None
) -> str:
    """What `uda run --plan` prints: the stages, or one of them, with what they are estimated to take on this machine."""
    processes = ranks.launched().count
    shown = [stage for stage in stages if only in (None, stage.name)]
    check_processes(shown, processes)
    if pair is None:
        opened, notes, where = None, [], " (no data given: what the recipe is made for)"
    else:  # listed, not read: with --skip-bad a few of them will be left out
        opened = {name: len(survey(*parse(spec), split, labelled=False)[0]) for name, (spec, split) in pair.sets().items()
                  if name != "labelled"}  # fmt: skip
        notes, where = [f"Note: {text}" for text in enlarged(shown, pair)], ""
    counts, rate = counts_of(recipe_name, opened), measure_rate(stages[-1].recipe, device)
    rows = estimate(shown, counts, rate.seconds_per_pixel, processes)
    pictures = f"{counts.source} of the source, {counts.target} of the target, {counts.validation} to score on{where}"
    return "\n\n".join([plan_table(rows), f"Pictures: {pictures}. {plan_notes(shown, rate, processes)}", *notes])


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
        f"An estimate: the forward passes of every stage (a backward pass counts as two) at {1e-6 / rate.seconds_per_pixel:.3g}"
        f" megapixels a second, measured with this network forward and back (passes timed: {rate.passes}; pictures up to "
        f"{_wide(rate.size)}; {rate.device}, threads: {torch.get_num_threads()}). Not in it: reading pictures, discriminators, "
        "the contrasts' own work, the workspaces of cuDNN.",
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
    """Bytes of each process that are exchanged in a step, by kind; a ring all-reduce sends 2 (R - 1) / R times as much.

        gradients           4 bytes a weight that learns (discriminators too), and one flag for each tensor
        statistics          4 bytes for every running mean and variance
        and what the method says of one batch (`Method.exchanged`): sums of its prototypes, for example

    Numbers of labelled pixels, 8 bytes or C numbers a loss, travel too and are not listed.
    """
    method = build_meta(recipe)
    weights = learning_weights(method.optimisers.values())
    once = {
        "gradients": 4 * sum(weight.numel() for weight in weights) + 4 * (len(weights) + 1),
        "statistics": 4 * sum(buffer.numel() for buffer in running_statistics(method)),
    }
    return once | {name: size * recipe.loop.accumulate for name, size in method.exchanged().items()}


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


def _what(recipe: Recipe) -> str:
    return " + ".join(dict.fromkeys(map(_wide, _training_sizes(recipe).values())))


def _bytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"
