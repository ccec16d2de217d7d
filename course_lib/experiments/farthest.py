"""Which pictures of a data set to label, by the features of a network that has learnt depth: names for a list file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from course_lib.data import SegmentationDataset, test_loader, test_transform
from course_lib.data.few_labels import random_order
from course_lib.data.names import names_in
from course_lib.engine import progress
from course_lib.evaluation.farthest import depth_error, farthest_points, place_features
from course_lib.experiments.parts import opened
from course_lib.experiments.state import load_network
from course_lib.methods.supervision import require_disparity
from course_lib.networks.prediction import eval_mode
from course_lib.recipes.recipe import Recipe


def farthest_names(
    checkpoint: Path | str,
    target: str,
    count: int,
    *,
    student: Path | str | None = None,
    begin: Path | str | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    settings: tuple[str, ...] = (),
    student_settings: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> list[str]:
    """The names of `count` pictures of "layout:path", each as far from those before it as can be (`farthest_points`).

    checkpoint: of the network whose features tell pictures apart. student: of one that has learnt depth from the pictures that
    are labelled so far; then what it gets wrong counts, too (`depth_error`), and the pictures have to have depth. begin: a list
    file of these pictures, which come first; None: one picture, by `seed`. Labels are not looked at. settings and
    student_settings: what networks the two files hold, as in `load_network`.

    The paper does so in rounds, of 25, 50, 100, ... pictures, with a student for each: call it again with begin=LIST.
    """
    network, recipe = load_network(checkpoint, device, settings)
    pictures = _pictures(recipe, target, network.normalisation, skip_bad, depth=False)
    names = [pictures.name_of(i) for i in range(len(pictures))]
    if not 1 <= count <= len(names):
        raise ValueError(f"Got count={count} of {len(names)} pictures of {target}; wanted 1 to {len(names)}.")
    chosen = [names.index(random_order(names, seed)[0])] if begin is None else _listed(Path(begin), names, target)
    if begin is not None and len(chosen) >= count:
        raise ValueError(
            f"{str(begin)!r} has {len(chosen)} pictures and count={count}; wanted more than these: count is that of all, the "
            "listed ones too."
        )
    features = torch.cat([place_features(P.features) for P, _ in _looks(network, pictures, device, quiet)])
    errors = None
    if student is not None:
        other, its = load_network(student, device, student_settings)
        require_disparity(other, f"The student {student}")
        with_depth = _pictures(its, target, other.normalisation, skip_bad, depth=True)
        there = {with_depth.name_of(i) for i in range(len(with_depth))}
        if without := [name for name in names if name not in there]:
            raise ValueError(
                f"{len(without)} of {len(names)} pictures of {target} have no depth that can be read, the first is "
                f"{without[0]!r}; the student's error is wanted of all. Repair these files, or leave --student out."
            )
        looks = _looks(other, with_depth, device, quiet)
        errors = torch.cat([depth_error(P.disparity, batch.disparity) for P, batch in looks])
    return [names[n] for n in farthest_points(features, count, chosen, errors)]


def _pictures(recipe: Recipe, target: str, normalisation: str, skip_bad: bool, depth: bool) -> SegmentationDataset:
    transform = test_transform(recipe.test_size, normalisation)
    return opened(recipe, target, "train", transform, labelled=False, skip_bad=skip_bad, depth=depth)


def _listed(path: Path, names: list[str], target: str) -> list[int]:
    found, unknown = names_in(path, names, path)
    if unknown:
        number, line = unknown[0]
        raise ValueError(f"{str(path)!r}, line {number}: no picture {line!r} in {target}, which has such as {names[0]!r}.")
    return [names.index(name) for name in found]


@torch.no_grad()
def _looks(network: Any, pictures: SegmentationDataset, device: Any, quiet: bool) -> Iterator[tuple[Any, Any]]:
    """The prediction of every picture beside its batch, in evaluation mode."""
    with eval_mode(network):
        for batch in progress(test_loader(pictures, 1, 0), "look at the pictures", quiet=quiet):
            batch = batch.to(device)
            yield network(batch.image), batch
