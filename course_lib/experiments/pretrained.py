"""Start a network from what an earlier run has learnt, its heads left fresh: from SimCLR's pictures to segmentation."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.engine import CheckpointError, load_checkpoint
from course_lib.experiments.compute import blank_segmenter
from course_lib.networks import weights_of
from course_lib.networks.weight_file import read_tensors
from course_lib.recipes.recipe import Recipe


def take_backbone(segmenter: nn.Module, path: Path | str) -> None:
    """Copy the weights of the network in checkpoint `path` into `segmenter`, all but those of the heads.

    Names and shapes below the heads have to be the same: raises CheckpointError naming what is missing, left over or of
    another shape, for a network is then not the one that was trained.
    """
    given = scored_weights(load_checkpoint(path))
    heads = {id(parameter) for parameter in segmenter.head_parameters()}
    own = segmenter.state_dict(keep_vars=True)
    wanted = {name for name, value in own.items() if id(value) not in heads}
    missing, surplus = sorted(wanted - given.keys()), sorted(given.keys() - own.keys())
    misshapen = sorted(name for name in wanted & given.keys() if given[name].shape != own[name].shape)
    if wrong := missing + surplus + misshapen:
        raise CheckpointError(
            f"init_from={path} is another network than this one: {len(missing)} tensors missing, {len(surplus)} left over, "
            f"{len(misshapen)} of another shape, the first is {wrong[0]}. Take the checkpoint's network and network_options "
            "(recipe.json beside it)."
        )
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(given[name])


def take_network(path: Path | str, recipe: Recipe) -> dict[str, Tensor]:
    """The weights of the whole network in checkpoint `path`, heads included: the start of a later stage.

    A network with a stem for each domain takes both from the one stem of a network without. Also reads the weights of the
    recipe's network in a file that is no checkpoint of this library. Raises CheckpointError where the network in the file is
    another than the recipe's.
    """
    try:
        content = load_checkpoint(path)
    except CheckpointError as error:
        if not Path(path).is_file():
            raise
        try:
            return foreign_weights(path, recipe)
        except ValueError as other:
            raise CheckpointError(f"{error} Nor is it the weights of {recipe.network}: {other}") from None
    was = {key: content["recipe"].get(key) for key in ("network", "space")}
    wanted = {"network": recipe.network, "space": recipe.space}
    if was != wanted:
        raise CheckpointError(
            f"{path} holds {was['network']} with the classes of {was['space']}; this stage wants {wanted['network']} with "
            f"those of {wanted['space']}. Give the checkpoint of the same recipe's earlier stage."
        )
    weights = scored_weights(content)
    if recipe.network_options.get("domain_stem") and not any(name.startswith("target_") for name in weights):
        first = ("conv1.", "bn1.", "stem.", "layer1.")
        weights = weights | {f"target_{name}": value for name, value in weights.items() if name.startswith(first)}
    return weights


def scored_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the network that is a checkpoint's result: the segmenter's, or those of the teacher that it names."""
    scored = content.get("scored", "segmenter")  # an earlier version names none
    if scored == "segmenter":
        return content["segmenter"]
    prefix = f"{scored}.module."
    return {name.removeprefix(prefix): value for name, value in content.get("method", {}).items() if name.startswith(prefix)}


def foreign_weights(path: Path | str, recipe: Recipe) -> dict[str, Tensor]:
    """The weights of the recipe's network in a file that is no checkpoint of this library.

    Raises ValueError naming what does not fit (`networks.weights_of`), before memory is taken for the network.
    """
    with torch.device("meta"):
        blank = blank_segmenter(recipe)
    return weights_of(blank, read_tensors(Path(path))[0], path)
