"""What `gpu_check.py` measures: the rows of its items, each a function of a row's name and of a `Place`."""

import gc
import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

from benchmarks import (
    bida_speed,
    contrast_speed,
    few_label_speed,
    mean_teacher_speed,
    proca_speed,
    released_steps,
    step_speed,
)
from benchmarks.measuring import CPU, GIB, leaves, medians, peak_bytes, seconds, wait
from benchmarks.step_speed import TOLERANCE, Case, Runner, Way, batches, difference
from course_lib.data import SegmentationDataset, ministreet, open_dataset, test_loader, test_transform
from course_lib.engine import Stopped, deterministic, load_checkpoint, train
from course_lib.evaluation import reestimate_statistics, write_pseudo_labels
from course_lib.experiments.data_root import pair_below
from course_lib.experiments.parts import Pair, seeded_segmenter, split_of, training_set
from course_lib.experiments.parts import batches as training_batches
from course_lib.experiments.train import train_recipe
from course_lib.losses import cross_entropy, entropy, lovasz_softmax, nt_xent
from course_lib.losses.segmentation import upsample
from course_lib.methods import Method
from course_lib.networks import blank_options
from course_lib.recipes import METHODS, Recipe
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.recipe import build_method

RECIPES = {"simclr": "ministreet_crops"}  # of a method that GTA5 -> Cityscapes has no recipe for
RESNETS = ("deeplab_v2", "deeplab_v3plus")
TRANSFORMER = "mit"  # of DAFormer, inside the networks of HRDA and MIC
FULL, SHALLOW = (3, 4, 23, 3), (1, 1, 1, 1)  # blocks of ResNet-101, and of the smallest network with all its kinds of layers
ROUNDING = 1e-3  # of a probability and of a threshold between two devices: as of a loss
TERM_TOLERANCE = 1e-4  # of a value or gradient, in its largest element: float32 sums of millions of terms in another order


@dataclass(frozen=True)
class Place:
    """Where a worker measures: device, sizes ("full", "small", "least"), a folder for its files, the reader's data."""

    device: torch.device
    sizes: str
    folder: Path
    data_root: Path | None = None

    @property
    def picture(self) -> tuple[int, int]:
        """Of checks, whose results do not depend on the size."""
        return (33, 65) if self.sizes == "least" else (65, 129)

    def case(self, method: str) -> Case:
        """The size at which a step of ours is compared with the released one."""
        small = replace(step_speed.REDUCED[method], source=self.picture, target=self.picture, blocks=SHALLOW)
        return step_speed.PUBLISHED[method] if self.sizes == "full" else small


@dataclass
class Found:
    """What a row found: values by name, what is wrong with them, and a remark."""

    values: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    note: str = ""

    def expect(self, holds: bool, otherwise: str) -> None:
        """Remember `otherwise` unless it holds."""
        if not holds:
            self.wrong.append(otherwise)

    def compare(self, what: str, precision: str, difference: tuple[float, str]) -> None:
        """Note the largest difference of two runs' losses and where it is; it is wrong beyond the tolerance of `precision`."""
        (value, where), most = difference, TOLERANCE[precision]
        self.values[f"{what}: off by"] = value
        self.expect(value <= most, f"{what}: {where} differs by {value:.1e}, at most {most:.0e}.")


# ---- recipes --------------------------------------------------------------------------------------------------------


def recipe_of(name: str) -> Recipe:
    """The full-size recipe of a method."""
    return find_recipe(RECIPES.get(name, "gta5_cityscapes"), name)


# the methods that have a step: GIST and RIST are stages of `supervised` and `self-training`, which have their own rows
STEPS = tuple(name for name, method in METHODS.items() if not method.planned)
# those whose pictures a reader can have: nobody gives depth of GTA5
ON_REAL_DATA = tuple(name for name in STEPS if not any(stream.depth for stream in recipe_of(name).streams.values()))


def inside(recipe: Recipe) -> str:
    """The network whose encoder it is: that inside `hrda` and `multitask`."""
    return recipe.network_options.get("of", recipe.network)


def published(name: str, blocks: tuple[int, ...] = FULL) -> Recipe:
    """The full-size recipe of a method, its network with random weights.

    Rates are a tenth: at the published ones a network with random weights multiplies a difference of the last bit by up to 30
    in every step (measured on two orders of summation), and after 5 steps rounding would be as large as a fault.
    """
    recipe = recipe_of(name)
    recipe = replace(recipe, optimiser=replace(recipe.optimiser, lr=recipe.optimiser.lr / 10))
    if recipe.has("discriminator_lr"):
        recipe = recipe.updated({"discriminator_lr": recipe.settings.discriminator_lr / 10})
    if inside(recipe) in RESNETS:
        size = {"blocks": blocks}
    else:
        size = {"size": "b0"} if inside(recipe) == TRANSFORMER and blocks != FULL else {}
    recipe = replace(recipe, network_options=blank_options(recipe.network, recipe.network_options) | size)
    # all losses from the first step, also for uncertain predictions
    at_once = ("terms.patch_contrast.first_step=0", "terms.distribution_contrast.loss_from=0",
               "terms.memory_contrast.first_step=0", "terms.memory_contrast.loss_from=0",
               "terms.memory_contrast.least_confidence=0", "mix_after=0", "balance_from=0", "ramp_steps=0")  # fmt: skip
    return replace(recipe, init_from=None).override(*(text for text in at_once if recipe.has(text.partition("=")[0])))


def small(name: str, place: Place) -> Recipe:
    """The same on small pictures with a shallow network, on a CPU the course's small one, and two pictures in a batch."""
    recipe = published(name, SHALLOW)
    if place.sizes != "full" and inside(recipe) in RESNETS:
        width = 8 if place.sizes == "least" else 32
        if recipe.network == "multitask":
            tasks = {"of": "small", "tasks": recipe.network_options["tasks"], "decoder_width": width, "rates": (1, 2)}
            recipe = replace(recipe, network_options=tasks | {"width": width, "norm": "batch"})
        else:
            recipe = replace(recipe, network="small", network_options={"width": width, "norm": "batch", "aux": True})
    if place.sizes != "full" and "region_contrast" in recipe.terms:  # 2.5 million negatives are for a GPU
        recipe = recipe.override("terms.region_contrast.queries=16", "terms.region_contrast.negatives=32")
    size = recipe.source_size if name in RECIPES else place.picture
    if inside(recipe) == TRANSFORMER:
        size = (64, 128)  # two resolutions divide a picture; MiT wants windows of 32 pixels
    sizes = {"source_size": size, "target_size": size, "test_size": size, "crop": None, "scale": None}
    return replace(recipe, **sizes, batch_size=2, workers=0, select="last")


def case_of(recipe: Recipe, method: Method, pictures: int) -> Case:
    """The sizes of the recipe's training batches."""
    sizes = [recipe.crop or size for size in (recipe.source_size, recipe.target_size)]
    unit = any(stream.look == "unit" for stream in recipe.streams.values())
    look = "unit" if unit else method.segmenter.normalisation
    return Case(recipe.method, pictures, *sizes, normalisation=look)


def start(
    recipe: Recipe, device: torch.device, pictures: int | None = None, dropout: bool = True
) -> Callable[..., list[dict[str, float]]]:
    """The recipe's method on `device`, always with the same weights: a function that trains it and gives each step's losses.

    dropout: False switches it off, because two devices draw different random numbers."""
    method = build_method(recipe, seeded_segmenter(recipe)).to(device)
    for layer in () if dropout else method.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d | StochasticDepth):
            layer.p = 0.0
    both = dict(zip(("source", "target"), batches(case_of(recipe, method, pictures or recipe.batch_size), device)))

    def run(steps: int, **loop: Any) -> list[dict[str, float]]:
        settings = replace(recipe.loop, steps=steps, schedule_steps=recipe.loop.schedule_steps or steps, log_every=steps)
        loaders = {stream: repeat(both[stream]) for stream in recipe.streams}
        log = train(method, loaders, replace(settings, **loop), device=device, quiet=True)
        return [record["losses"] for record in log.records]

    run.method = method
    return run


def learns_from_labels(recipe: Recipe) -> bool:
    """Whether a step reads label files that an earlier network wrote."""
    return any(stream.labels == "files" for stream in recipe.streams.values())


def worst(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> tuple[float, str]:
    """The largest difference of all steps, and where it is; NaN counts as the largest."""
    steps = [(*difference(*pair), k) for k, pair in enumerate(zip(found, wanted, strict=True), start=1)]
    value, name, step = max(steps, key=lambda one: one[0] if one[0] == one[0] else float("inf"))
    return value, f"{name} of step {step}"


def full_float32() -> None:
    """No TF32 in matrix products and convolutions, and no choice of algorithms by time."""
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    except (AttributeError, RuntimeError):  # once torch has only the newer form
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = False


# ---- agreement ------------------------------------------------------------------------------------------------------


def agreement(name: str, place: Place) -> Found:
    """Losses on the device beside the CPU's, and the labels that the trained network writes on both."""
    full_float32()
    recipe, found = small(name, place), Found()
    on_cpu, on_device = (start(recipe, device, dropout=False) for device in (CPU, place.device))
    wanted = on_cpu(5, log_every=1)
    found.compare("fp32, 5 steps", "fp32", worst(on_device(5, log_every=1), wanted))
    losses = start(recipe, place.device, dropout=False)(5, log_every=1, precision="bf16")
    found.compare("bf16, 5 steps", "bf16", worst(losses, wanted))
    if inside(recipe) in RESNETS:
        deep = replace(recipe, network_options=recipe.network_options | {"blocks": FULL})
        found.compare("ResNet-101, 1 step", "fp32", worst(start(deep, place.device)(1), start(deep, CPU)(1)))
    pictures = unlabelled(recipe, domains(place).target, on_cpu.method)
    make_decisive(on_cpu.method.segmenter, pictures)
    on_device.method.load_state_dict(on_cpu.method.state_dict())
    compare_labels(recipe, on_cpu.method, on_device.method, pictures, place.folder, found)
    return found


def domains(place: Place) -> Pair:
    """MiniStreet in the folders of GTA5 and Cityscapes, made once."""
    options = {"size": (64, 128), "workers": 1, "progress": False}
    source = ministreet.make("gta5", place.folder / "GTA5", 4, 1, **options)
    target = ministreet.make("cityscapes", place.folder / "cityscapes", 4, 2, **options)
    return Pair(f"gta5:{source}", f"cityscapes:{target}")


def unlabelled(recipe: Recipe, text: str, method: Method, pictures: int | None = None) -> SegmentationDataset:
    """The target's first pictures, as a test sees them."""
    name, split = split_of(text, "train")
    transform = test_transform(recipe.test_size, method.segmenter.normalisation)
    dataset = open_dataset(name, split, recipe.space, transform, labelled=False)
    dataset.pairs = dataset.pairs[:pictures]
    return dataset


@torch.no_grad()
def make_decisive(segmenter: nn.Module, pictures: SegmentationDataset) -> None:
    """Make a network that is hardly trained predict many classes with high confidence: otherwise every pixel is a tie.

    Normalisation takes the statistics of these pictures, and the weights of the heads are scaled so that logits spread by 3
    over a picture. In a deep head the scales of its layers multiply, so that the scale is found by bisection of its logarithm.
    Larger logits would make a difference of rounding as large as the lead of the likeliest class.
    """
    reestimate_statistics(segmenter, test_loader(pictures, 2), device=CPU, progress=False)
    heads = [(weight, weight.clone()) for weight in segmenter.head_parameters()]

    def spread(scale: float) -> float:
        for weight, before in heads:
            weight.copy_(scale * before)
        return segmenter.eval()(pictures[0].image[None]).logits.std((2, 3)).mean().item()

    low, high = sorted((1.0, 3 / spread(1.0)))
    for _ in range(12):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spread(middle) < 3 else (low, middle)


def compare_labels(
    recipe: Recipe, on_cpu: Method, on_device: Method, pictures: SegmentationDataset, out: Path, found: Found
) -> None:
    """Pseudo-labels of the same network, written on both devices: equal but for pixels that rounding can decide.

    Such a pixel's two likeliest classes, or its confidence and a threshold, are nearer to each other than twice the largest
    difference of the two devices' probabilities in that picture, which has to be below 1e-3; these are few.
    """
    written = {}
    for side, method in (("cpu", on_cpu), ("device", on_device)):
        folder = out / f"labels_{recipe.method}_{side}"
        shutil.rmtree(folder, ignore_errors=True)
        written[side] = folder, write_pseudo_labels(method.segmenter, pictures, folder, recipe.pseudo, progress=False)
    thresholds = [torch.tensor(content["thresholds"]) for _, content in written.values()]
    apart = (thresholds[0] - thresholds[1]).abs().max().item()
    pixels, different, excused, unexplained, largest = 0, 0, 0, 0, 0.0
    for i in range(len(pictures)):
        labels = [torch.from_numpy(np.array(Image.open((folder / pictures.name_of(i)).with_suffix(".png"))))
                  for folder, _ in written.values()]  # fmt: skip
        differs = labels[0] != labels[1]
        probabilities = [look(method, pictures[i].image, differs.shape) for method in (on_cpu, on_device)]
        off = (probabilities[0] - probabilities[1]).abs().max().clamp(max=ROUNDING)
        largest = max(largest, off.item())
        near = near_a_tie(probabilities[0], thresholds[0], 2 * off + 1e-6, recipe.pseudo.picture_share)
        pixels, different = pixels + differs.numel(), different + int(differs.sum())
        excused, unexplained = excused + int(near.sum()), unexplained + int((differs & ~near).sum())
    found.values["labels equal, %"] = round(100 * (1 - different / pixels), 4)
    found.values["could differ, %"] = share = round(100 * excused / pixels, 4)
    found.expect(share <= 5, f"{share} % of the pixels are ties: nothing is compared there, allowed are 5 %.")
    text = "of pseudo-labels differ by {:.1e} or more, allowed is less than {:.0e}."
    found.expect(apart < ROUNDING, "Thresholds " + text.format(apart, ROUNDING))
    found.expect(largest < ROUNDING, "Probabilities " + text.format(largest, ROUNDING))
    found.expect(unexplained == 0, f"{unexplained} of {pixels} pseudo-labels differ, and not by rounding.")


@torch.no_grad()
def look(method: Method, image: Tensor, size: torch.Size) -> Tensor:
    """The probabilities (C, H, W) of a picture at its own size, on the CPU."""
    device = next(method.parameters()).device
    logits = method.segmenter.eval()(image[None].to(device)).logits.float()
    return upsample(logits, tuple(size)).softmax(dim=1)[0].cpu()


def near_a_tie(p: Tensor, thresholds: Tensor, rounding: Tensor, picture_share: float) -> Tensor:
    """Pixels (H, W) of probabilities p (C, H, W) whose label hangs on a difference below `rounding`."""
    (sure, second), (prediction, _) = p.topk(2, dim=0)
    near = (sure - second <= rounding) | ((sure - thresholds[prediction]).abs() <= rounding)
    if k := int(picture_share * sure.numel()):
        near |= (sure - sure.flatten().topk(k).values[-1]).abs() <= rounding
    return near


# ---- resume ---------------------------------------------------------------------------------------------------------


def resume(name: str, place: Place) -> Found:
    """6 steps beside 3 and 3 with a checkpoint between, as `uda train --deterministic` and `--resume` run them."""
    deterministic()
    recipe, pair, found = small(name, place), domains(place), Found()
    recipe = replace(recipe, loop=replace(recipe.loop, steps=6, schedule_steps=6, log_every=1, save_every=100))
    if learns_from_labels(recipe):
        method = build_method(recipe, seeded_segmenter(recipe))
        folder = place.folder / "labels"
        write_pseudo_labels(method.segmenter, unlabelled(recipe, pair.target, method), folder, recipe.pseudo, progress=False)
        pair = replace(pair, pseudo_labels=str(folder))
    asked = iter((False, False, True))
    straight, broken = (place.folder / f"{name}_{kind}" for kind in ("straight", "broken"))
    train_recipe(recipe, pair, straight, existing="replace", device=place.device, quiet=True)
    try:
        train_recipe(recipe, pair, broken, existing="replace", device=place.device, quiet=True, stop=lambda: next(asked))
    except Stopped as stopped:
        found.expect(stopped.step == 3, f"It stopped after step {stopped.step}, not 3.")
    train_recipe(recipe, pair, broken, existing="resume", device=place.device, quiet=True)
    once, twice = (dict(leaves(load_checkpoint(run / "last.pt"))) for run in (straight, broken))
    differ = [key for key in once.keys() | twice.keys() if not same(once.get(key), twice.get(key)) and key != "seconds"]
    logs = [(run / "log.jsonl").read_text(encoding="utf-8") for run in (straight, broken)]
    found.values |= {"numbers in the checkpoint": len(once), "that differ": len(differ), "losses equal": logs[0] == logs[1]}
    found.expect(not differ, f"{len(differ)} of {len(once)} differ, the first: {min(differ, default='')}.")
    found.expect(logs[0] == logs[1], "The losses of the two runs differ.")
    for run in (straight, broken):
        shutil.rmtree(run)
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same bits."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and a == b


# ---- speed ----------------------------------------------------------------------------------------------------------


@cache
def bf16_peak(device: torch.device) -> float | None:
    """Operations a second of a large matrix product in bf16; on a CPU none that a step could be measured by."""
    return step_speed.peaks(device)["bf16"] if device.type == "cuda" else None


def speed(name: str, place: Place) -> Found:
    """A step of the published batch, halved until it fits; on a CPU a small one."""
    torch.backends.cudnn.benchmark = True  # as `uda train` has it
    recipe = published(name) if place.sizes == "full" else small(name, place)
    pictures, peak = recipe.batch_size, bf16_peak(place.device)
    while True:
        try:
            return Found(step_values(recipe, place.device, pictures, peak))
        except torch.OutOfMemoryError:
            if pictures == 1:
                raise
            pictures //= 2
            gc.collect()
            torch.cuda.empty_cache()


def step_values(recipe: Recipe, device: torch.device, pictures: int, peak: float | None) -> dict[str, Any]:
    """Seconds, share of the peak and memory of a step in each way."""
    run = start(recipe, device, pictures)
    case = case_of(recipe, run.method, pictures)
    used = [getattr(case, stream) for stream in recipe.streams]
    run(1)
    with FlopCounterMode(display=False) as counter:
        run(1)
    work = counter.get_total_flops()
    batch = " + ".join(f"{pictures} x {height}x{width}" for height, width in used)
    values = {"pictures": batch, "Tflop": work / 1e12}
    ways = {"fp32": {}, "bf16": {"precision": "bf16"}, "bf16, channels_last": {"precision": "bf16", "channels_last": True}}
    for way, how in ways.items():
        run(2, **how)  # memory is laid out, algorithms are chosen
        count = 1
        if device.type == "cuda":  # about a second
            count = max(1, min(10, int(1 / max(1e-3, seconds(partial(run, 1, **how), device)))))
        (taken,) = medians([partial(run, count, **how)], 3, device)
        values[f"{way}: s"] = once = taken / count
        if peak:
            values[f"{way}: % of peak"] = round(100 * work / once / peak, 1)
        run.method.zero_grad(set_to_none=True)
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else bytes_of(run.method)
        values[f"{way}: GiB"] = (held + peak_bytes(partial(run, 1, **how), device)) / GIB
    return values | ({"peak, Tflop/s": peak / 1e12} if peak else {})


def bytes_of(method: Method) -> int:
    """Bytes of weights, buffers and what the optimisers remember."""
    states = [leaf for _, leaf in leaves([o.state_dict()["state"] for o in method.optimisers.values()])]
    tensors = [*method.state_dict().values(), *(leaf for leaf in states if isinstance(leaf, Tensor))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---- terms ----------------------------------------------------------------------------------------------------------


def maps(place: Place) -> tuple[Tensor, Tensor]:
    """Logits (1, 19, h, w) on the network's grid and a label (1, H, W), both on the device."""
    generator = torch.Generator().manual_seed(0)
    H, W = (720, 1280) if place.sizes == "full" else place.picture
    label = torch.randint(0, 19, (1, H, W), generator=generator)
    label[:, : H // 8] = 255
    logits = 3 * torch.randn(1, 19, H // 8 + 1, W // 8 + 1, generator=generator)
    return logits.to(place.device), label.to(place.device)


def proca_maps(place: Place) -> tuple[Tensor, Tensor]:
    """Features (1, 2048, h, w) and labels (1, h, w)."""
    features, labels = proca_speed.inputs(1, proca_speed.SIZE if place.sizes == "full" else (9, 16))
    return features.detach().to(place.device).requires_grad_(), labels.to(place.device)


def bida_maps(place: Place) -> tuple[Tensor, ...]:
    """Features and labels of both domains."""
    size = {} if place.sizes == "full" else {"grid": (9, 9), "picture": (65, 65)}
    tensors = [tensor.detach().to(place.device) for tensor in bida_speed.pair(1, **size)]
    return tuple(tensor.requires_grad_() if tensor.is_floating_point() else tensor for tensor in tensors)


def four_pictures(make: Callable, place: Place) -> tuple[Tensor, ...]:
    """What `make` gives for four pictures."""
    size = (512, 512) if place.sizes == "full" else place.picture
    return tuple(tensor.to(place.device) for tensor in make(4, size))


def embeddings(place: Place) -> tuple[Tensor, Tensor]:
    """Two views (N, 128)."""
    n = 1024 if place.sizes == "full" else 32
    z_a, z_b = torch.randn(2, n, 128, generator=torch.Generator().manual_seed(2))
    return z_a.to(place.device), (z_a + z_b).to(place.device)


def plain_nt_xent(z_a: Tensor, z_b: Tensor, tau: float = 0.5) -> Tensor:
    """Cross-entropy of the whole matrix of cosines, its diagonal left out: the class of a view is its partner."""
    z = F.normalize(torch.cat([z_a, z_b]))
    similarity = (z @ z.T / tau).fill_diagonal_(float("-inf"))
    n = len(z_a)
    return F.cross_entropy(similarity, torch.arange(2 * n, device=z.device).roll(n))


def with_gradients(loss: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """The value of a loss and its gradient for each real input."""
    return lambda *inputs: contrast_speed.value_and_gradient(loss, inputs)


def cells_of(part: contrast_speed.Part | few_label_speed.Part, place: Place) -> tuple[Tensor, ...]:
    """Inputs of a part: as many cells (of DepthMix pixels) as published, or a tenth or a hundredth."""
    share = {"full": 1, "small": 10, "least": 100}[place.sizes]
    return tuple(x.to(place.device) for x in part.make(part.cells // share))


# ours, plain, inputs; and where both draw by themselves, how far they are apart, of what is allowed
TERMS: dict[str, tuple[Callable, ...]] = {
    "cross-entropy": (
        with_gradients(cross_entropy),
        with_gradients(lambda x, y: F.cross_entropy(released_steps.upsample(x, y.shape[-2:]), y, ignore_index=255)),
        maps,
    ),
    "Lovász": (
        with_gradients(lovasz_softmax),
        with_gradients(lambda x, y: released_steps.lovasz(released_steps.upsample(x, y.shape[-2:]).softmax(dim=1), y)),
        maps,
    ),
    "entropy, softmax taken twice": (
        with_gradients(lambda x, y: entropy(x, double_softmax=True)),
        with_gradients(lambda x, y: released_steps.entropy(x)),
        maps,
    ),
    "ProCA's prototypes and contrast": (proca_speed.ours, proca_speed.plain, proca_maps),
    "BiDA's two contrasts": (bida_speed.ours, bida_speed.plain, bida_maps),
    "ClassMix's masks": (mean_teacher_speed.our_mask, mean_teacher_speed.plain_mask,
                         partial(four_pictures, mean_teacher_speed.mask_inputs)),
    "thresholds per class": (mean_teacher_speed.our_thresholds, mean_teacher_speed.plain_thresholds,
                             partial(four_pictures, mean_teacher_speed.threshold_inputs)),
    "NT-Xent": (with_gradients(lambda a, b: nt_xent(a, b, 0.5)), with_gradients(plain_nt_xent), embeddings),
    **{name: (with_gradients(part.ours), with_gradients(part.plain), partial(cells_of, part))
       for name, part in contrast_speed.PARTS.items()},
    **{name: (part.ours, part.plain, partial(cells_of, part), *([part.off] if part.off is few_label_speed.in_counts else []))
       for name, part in few_label_speed.PARTS.items()},
}
STEP = "a step of "
ALL_TERMS = (*TERMS, *(STEP + method for method in step_speed.METHODS))


def terms(name: str, place: Place) -> Found:
    """Values, gradients and times of a term, or losses and time of a whole step, ours and the plain way."""
    full_float32()
    if name.startswith(STEP):
        case, ours = place.case(name.removeprefix(STEP)), Way("course_lib")
        off = max(step_speed.check(case, [ours], place.device).values())  # raises where they disagree
        return Found({"off by": off} | in_turn(Runner(case, ours, place.device), Runner(case, None, place.device), place, 1))
    ours, plain, make, *apart = TERMS[name]
    inputs, found = make(place), Found()
    with torch.device(place.device):  # what the plain way makes by itself
        a, b = ours(*inputs), plain(*inputs)
        if apart:
            off = apart[0](a, b, inputs)
            found.expect(off <= 1, f"What is drawn differs by {off:.1f} times what chance allows.")
        else:
            off = max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(a, b, strict=True))
            words = f"Value or gradient differs by {off:.1e} of its size, at most {TERM_TOLERANCE:.0e}."
            found.expect(off <= TERM_TOLERANCE, words)
        found.values = {"off by": off} | in_turn(lambda _: ours(*inputs), lambda _: plain(*inputs), place, 1)
    return found


def in_turn(ours: Callable, plain: Callable, place: Place, steps: int) -> dict[str, float]:
    """Milliseconds of both, medians of rounds in which each runs once, and their ratio."""
    for action in (ours, plain):
        action(steps)
    a, b = medians([partial(ours, steps), partial(plain, steps)], 5 if place.device.type == "cuda" else 2, place.device)
    return {"ours, ms": 1e3 * a, "plain, ms": 1e3 * b, "times faster": b / a}


# ---- compile --------------------------------------------------------------------------------------------------------


def compiled(name: str, place: Place) -> Found:
    """The compiled network's losses beside those of the network as it is, and both times."""
    if place.device.type == "cpu" and shutil.which("g++") is None:
        return Found(note="not run: torch compiles for the CPU with a C++ compiler, and g++ is not here")
    torch.backends.cudnn.benchmark = True
    case, ways = place.case(name), [Way("as it is", fused=True), Way("compiled", fused=True, compile=True)]
    plain, fast = (Runner(case, way, place.device) for way in ways)
    wanted, found = plain(1), Found()
    wait(place.device)
    began = time.perf_counter()
    value, where = difference(fast(1), wanted)
    wait(place.device)
    found.values = {"off by": value, "first step, s": time.perf_counter() - began}
    found.expect(value <= TOLERANCE["fp32"], f"{where} differs by {value:.1e}, at most {TOLERANCE['fp32']:.0e}.")
    plain(1), fast(1)
    times = in_turn(fast, plain, place, 5 if place.device.type == "cuda" else 1)
    found.values |= dict(zip(("compiled, ms", "as it is, ms", "times faster"), times.values()))
    return found


# ---- the reader's data ----------------------------------------------------------------------------------------------


def imagenet_is_here() -> bool:
    """Whether torchvision has downloaded its ResNet-101 before."""
    from torchvision.models import ResNet101_Weights

    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(ResNet101_Weights.IMAGENET1K_V1.url).name).is_file()


def data(name: str, place: Place) -> Found:
    """50 steps on GTA5 and Cityscapes from the disk; label files of 64 pictures where the method reads some."""
    recipe = published(name) if place.sizes == "full" else small(name, place)
    start_from = imagenet_is_here() and place.sizes == "full" and recipe.network == "deeplab_v2"
    if start_from:
        recipe = replace(recipe, network_options=recipe.network_options | {"imagenet": True})
    steps = 50 if place.sizes != "least" else 2
    workers = min(4, (os.cpu_count() or 1) // 2) if place.device.type == "cuda" else 0
    pictures = min(16, recipe.batch_size)  # SimCLR's hundreds would be as many whole pictures to read in a step
    recipe = replace(recipe, batch_size=pictures, workers=workers, sampling="uniform")  # classes are not counted first
    pair = pair_below(place.data_root, recipe.name if name not in RECIPES else "gta5_cityscapes")
    method = build_method(recipe, seeded_segmenter(recipe)).to(place.device)
    sets, look = {}, method.segmenter.normalisation
    if "source" in recipe.streams:
        sets["source"] = training_set(recipe, pair.source, "source", look)
    if learns_from_labels(recipe):
        few = unlabelled(recipe, pair.target, method, 64)
        folder = place.folder / f"labels_{name}"
        write_pseudo_labels(method.segmenter, few, folder, recipe.pseudo, progress=False)
        whole = training_set(recipe.of("bn-control"), pair.target, "target", look)  # the target without labels
        whole.pairs = whole.pairs[:64]
        sets["target"] = whole.with_labels(folder)
    elif "target" in recipe.streams:
        sets["target"] = training_set(recipe, pair.target, "target", look)
    loaders = {domain: training_batches(recipe, dataset, domain) for domain, dataset in sets.items()}
    settings = replace(recipe.loop, steps=steps, schedule_steps=recipe.loop.schedule_steps or steps, log_every=1)
    wait(place.device)
    began = time.perf_counter()
    log = train(method, loaders, settings, device=place.device, quiet=True)
    wait(place.device)
    total = [sum(record["losses"].values()) for record in log.records]
    return Found({
        "pictures": " + ".join(f"{pictures} of {len(dataset)}" for dataset in sets.values()), "steps": steps,
        "start": "ImageNet" if start_from else "random", "first losses, sum": total[0],
        "mean of the last 5": statistics.fmean(total[-5:]), "s a step, loading too": (time.perf_counter() - began) / steps,
    })  # fmt: skip
