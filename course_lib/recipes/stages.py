"""From a recipe to a scored network: open the data, build the method, train the common start, train, score."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib import __version__
from course_lib.data import (
    Batch,
    SegmentationDataset,
    cache_folder,
    open_dataset,
    test_loader,
    test_transform,
    train_loader,
    train_transform,
)
from course_lib.engine import JsonLines, load_checkpoint, save_checkpoint, seed_everything, train
from course_lib.engine.precision import to_device
from course_lib.evaluation import Scores, evaluate, reestimate_statistics
from course_lib.labels import SPACES
from course_lib.methods import AdaptSegNet, Method, NormalisationControl, SourceOnly, TargetOnly
from course_lib.networks import build
from course_lib.recipes.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two domains of an experiment, as "layout:path" or "layout:path@split" texts."""

    source: str  # labelled, for training
    target: str  # its labels are used by target-only and nobody else
    validation: str | None = None  # labelled target pictures for scoring


def split_of(text: str, default: str) -> tuple[str, str]:
    """Separate "layout:path@split" into ("layout:path", split).

    >>> split_of("cityscapes:/data/cs@val", "train"), split_of("gta5:/data/gta5", "train")
    (('cityscapes:/data/cs', 'val'), ('gta5:/data/gta5', 'train'))
    """
    name, _, split = text.partition("@")
    return name, split or default


# ---- the parts ------------------------------------------------------------------------------------------------------


def training_set(recipe: Recipe, text: str, domain: str, normalisation: str) -> SegmentationDataset:
    """The pictures of one domain with the recipe's transforms; only the source is disturbed photometrically."""
    name, split = split_of(text, "train")
    transform = train_transform(
        recipe.source_size if domain == "source" else recipe.target_size,
        normalisation,
        flip=recipe.flip,
        scale=recipe.scale,
        crop=recipe.crop,
        photometric=recipe.photometric if domain == "source" else "none",
    )
    labelled = domain == "source" or recipe.method == "target-only"
    return open_dataset(name, split=split, space=recipe.space, transform=transform, labelled=labelled)


def batches(recipe: Recipe, dataset: SegmentationDataset, domain: str, start: int = 0) -> Iterable[Batch]:
    """Endless shuffled batches; `start` batches have been drawn before."""
    return train_loader(
        dataset,
        recipe.batch_size,
        seed=2 * recipe.seed + (domain == "target"),
        start=start,
        workers=recipe.workers,
        sampling=recipe.sampling if domain == "source" else "uniform",
    )


def build_segmenter(recipe: Recipe) -> nn.Module:
    """The recipe's network, from its ImageNet start where the recipe says so."""
    return build(recipe.network, SPACES[recipe.space].num_classes, **recipe.network_options)


def build_method(recipe: Recipe, segmenter: nn.Module) -> Method:
    """The recipe's method around `segmenter`."""
    if recipe.method == "adaptsegnet":
        return AdaptSegNet(segmenter, recipe.adaptsegnet, recipe.optimiser)
    plain = {"source-only": SourceOnly, "target-only": TargetOnly, "bn-control": NormalisationControl}
    return plain[recipe.method](segmenter, recipe.optimiser, recipe.adaptsegnet.lambda_seg_aux)


def save_network(path: Path, recipe: Recipe, method: Method, step: int) -> Path:
    """A checkpoint from which `load_network` rebuilds the network and which holds all that training has learnt."""
    content = {
        "recipe": recipe.to_dict(),
        "step": step,
        "segmenter": method.segmenter.state_dict(),
        "method": {k: v for k, v in method.state_dict().items() if not k.startswith("segmenter.")},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in method.optimisers.items()},
    }
    return save_checkpoint(path, content)


def load_network(path: Path | str, device: torch.device | str = "cpu") -> tuple[nn.Module, Recipe]:
    """The scored network of a checkpoint and the recipe that made it; nothing is downloaded."""
    content = load_checkpoint(path, device)
    recipe = Recipe.from_dict(content["recipe"])
    options = {k: v for k, v in recipe.network_options.items() if k not in ("pretrained", "imagenet")}
    blank = {"efficientnet_lite0": {"pretrained": False}}.get(recipe.network, {})  # its weights are in the file
    segmenter = build(recipe.network, SPACES[recipe.space].num_classes, **options, **blank)
    segmenter.load_state_dict(content["segmenter"])
    return to_device(segmenter, torch.device(device), recipe.loop.channels_last), recipe


# ---- the stages -----------------------------------------------------------------------------------------------------


def common_start(
    recipe: Recipe, pair: Pair, *, device: torch.device | str = "cpu", quiet: bool = False
) -> dict[str, Any] | None:
    """The weights after `start_steps` source-only steps, the same for every method; trained once, then read from the cache.

    The key holds the recipe's settings that decide the result, the pictures' names, sizes and times, and the versions of
    torch and of this library. Developing the library itself, empty the folder `starts` of the cache.
    """
    if not recipe.start_steps:
        return None
    first = dataclasses.replace(
        recipe,
        method="source-only",
        photometric="none",
        start_steps=0,
        optimiser=dataclasses.replace(recipe.optimiser, lr=recipe.start_lr or recipe.optimiser.lr),
        loop=dataclasses.replace(recipe.loop, steps=recipe.start_steps, schedule_steps=None, save_every=recipe.start_steps),
    )
    segmenter = _seeded_segmenter(first)
    pictures = training_set(first, pair.source, "source", segmenter.normalisation)
    path = cache_folder() / "starts" / f"{_fingerprint(first, pictures)}.pt"
    if not path.exists():
        method = build_method(first, segmenter)
        train(
            method,
            batches(first, pictures, "source"),
            None,
            first.loop,
            device=device,
            description="common start",
            quiet=quiet,
        )
        save_network(path, first, method, first.loop.steps)
    return load_checkpoint(path, device)["segmenter"]


def _seeded_segmenter(recipe: Recipe) -> nn.Module:
    seed_everything(recipe.seed)
    return build_segmenter(recipe)


def _fingerprint(recipe: Recipe, pictures: SegmentationDataset) -> str:
    content = recipe.to_dict()
    content["lambda_seg_aux"] = recipe.adaptsegnet.lambda_seg_aux  # all that the start takes from this section
    for unused in ("name", "adaptsegnet", "statistics", "target_size", "test_size", "workers"):
        content.pop(unused)
    for unused in ("log_every", "save_every"):
        content["loop"].pop(unused)
    stats = ((path.name, path.stat()) for path in pictures.image_paths)
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    versions = [torch.__version__, __version__]
    return hashlib.sha256(json.dumps([content, files, versions], sort_keys=True).encode()).hexdigest()[:20]


def train_recipe(
    recipe: Recipe, pair: Pair, out: Path | str, *, device: torch.device | str = "cpu", quiet: bool = False
) -> Path:
    """Train the recipe's method; writes `out/last.pt` (which it returns), `out/log.jsonl` and `out/recipe.json`."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1) + "\n", encoding="utf-8")
    (out / "log.jsonl").unlink(missing_ok=True)

    start = common_start(recipe, pair, device=device, quiet=quiet)
    segmenter = _seeded_segmenter(recipe)
    if start is not None:
        segmenter.load_state_dict(start)
    method = build_method(recipe, segmenter)

    loaders = {}
    for domain, text, used in (
        ("source", pair.source, recipe.method != "target-only"),
        ("target", pair.target, method.uses_target),
    ):
        if used:
            loaders[domain] = batches(recipe, training_set(recipe, text, domain, segmenter.normalisation), domain)
    train(
        method,
        loaders.get("source"),
        loaders.get("target"),
        recipe.loop,
        device=device,
        log=JsonLines(out / "log.jsonl"),
        save=lambda step: save_network(out / "last.pt", recipe, method, step),
        description=recipe.method,
        quiet=quiet,
    )
    return out / "last.pt"


def score_network(
    checkpoint: Path | str,
    validation: str,
    *,
    target: str | None = None,
    statistics: str | None = None,
    multiscale: bool = False,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> Scores:
    """Score a checkpoint on labelled target pictures, with the recipe's convention for normalisation statistics.

    statistics="target" re-estimates them on the training pictures of `target` first; labels are not looked at.
    """
    segmenter, recipe = load_network(checkpoint, device)
    transform = test_transform(recipe.test_size, segmenter.normalisation)
    if (statistics or recipe.statistics) == "target":
        if target is None:
            raise ValueError(
                "statistics='target' re-estimates normalisation on target pictures; pass target='cityscapes:PATH'."
            )
        name, split = split_of(target, "train")
        pictures = open_dataset(name, split=split, space=recipe.space, transform=transform, labelled=False)
        reestimate_statistics(segmenter, test_loader(pictures, batch_size=recipe.batch_size), device=device, progress=not quiet)
    name, split = split_of(validation, "val")
    pictures = open_dataset(name, split=split, space=recipe.space, transform=transform)
    return evaluate(segmenter, test_loader(pictures), recipe.space, device=device, multiscale=multiscale, progress=not quiet)


def timed(function, *args, **kwargs) -> tuple[Any, float]:
    """A function's result and the seconds it took."""
    began = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - began
