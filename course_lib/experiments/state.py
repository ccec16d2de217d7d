"""What a run saves and how it goes on: its whole state, as one dictionary of tensors and plain values."""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import __version__, outside, ranks
from course_lib.data import SegmentationDataset
from course_lib.data.prepared import digest
from course_lib.engine import CheckpointError, Precision, load_checkpoint
from course_lib.engine.precision import random_state, set_random_state, to_device
from course_lib.experiments.compute import blank_segmenter
from course_lib.experiments.pretrained import foreign_weights, scored_weights
from course_lib.methods import Method
from course_lib.networks import LIBRARIES, NAMES, Segmenter, load_builder, load_published
from course_lib.recipes import PAPERS
from course_lib.recipes.recipe import Recipe, split_assignment
from course_lib.terminal import print

# Settings in which a run may differ from the one it goes on with: they change where work is done and what is written, not
# what is learnt (`colours_on` on CUDA: but for the rounding of colours).
FREE = ("workers", "colours_on", "loop.log_every", "loop.save_every", "loop.keep")

SAMPLED = 16  # pictures of a set whose files' content is looked at, to know it again


def training_state(
    recipe: Recipe,
    method: Method,
    precision: Precision,
    step: int,
    *,
    pictures: dict[str, str],
    choice: dict[str, Any],
    seconds: float,
    bits: int,
) -> dict[str, Any]:
    """All that a resumed run needs to be the same run; every process takes part (`random` holds the state of each).

    The position of the samplers is `step` times `loop.accumulate` batches, and their order depends on seed and position
    alone; the schedule depends on `step`, and the optimisers hold the rates it starts from.
    """
    return {
        "version": __version__,
        "recipe": recipe.to_dict(),
        "code": code_of(recipe),
        "step": step,
        "segmenter": method.segmenter.state_dict(),
        "method": {k: v for k, v in method.state_dict().items() if not k.startswith("segmenter.")},
        "scored": method.scored,
        "optimisers": {name: optimiser.state_dict() for name, optimiser in method.optimisers.items()},
        "scaler": precision.scaler.state_dict(),
        "random": ranks.collect(random_state(precision.device)),
        "pictures": pictures,
        "choice": choice,
        "seconds": seconds,
        "bits": bits,  # of the pictures that were read: a data set of one's own may say another number than the recipe
    }


def code_of(recipe: Recipe) -> dict[str, str]:
    """{name: SHA-256} of the code from outside this library that a recipe names (`outside`)."""
    return outside.hashes([("method", recipe.method), ("network", recipe.network), *(("term", name) for name in recipe.terms)])


def restore(
    content: dict[str, Any], recipe: Recipe, method: Method, precision: Precision, pictures: dict[str, str], where: Path
) -> None:
    """Put method, optimisers, scaler and random generators into the state of `content`.

    Raises CheckpointError if it was made with other settings or other pictures: then it would not be the same run.
    """
    was = str(content.get("version", "an unknown version"))
    if was.split(".")[:2] != __version__.split(".")[:2]:
        raise CheckpointError(
            f"{where} holds a run of course_lib {was}; this is {__version__}, whose steps may differ: the run can be scored "
            "and be a start (--start), but not resumed. Start again with --replace, or choose another --out."
        )
    wanted = {"recipe", "step", "method", "optimisers", "scaler", "random", "pictures", "choice", "seconds"}
    if missing := wanted - content.keys():
        raise CheckpointError(
            f"The checkpoint in {where} has no {', '.join(sorted(missing))}: it can be scored, but not resumed. Use --replace."
        )
    try:
        earlier = Recipe.from_dict(content["recipe"])
    except ValueError as error:
        raise CheckpointError(
            f"The recipe of the run in {where} cannot be read ({error}). Was it made by another "
            "version of this library? Start again with --replace."
        ) from error
    if changed := differences(earlier, recipe):
        was, now = (", ".join(f"{k}={pair[i]}" for k, pair in changed.items()) for i in (0, 1))
        raise CheckpointError(
            f"{where} holds a run with {was}; now asked for: {now}. Continue with the same settings, "
            "start again with --replace, or choose another --out."
        )
    if edited := outside.changed(content.get("code", {}), code_of(recipe)):
        raise CheckpointError(
            f"{where} holds a run with another version of {', '.join(edited)}: the file has changed (its SHA-256 is another). "
            "Restore the file, choose another --out, or start again (uda train: --replace)."
        )
    for domain, names in pictures.items():
        was = content["pictures"].get(domain)
        if not same_pictures(was, names):
            renamed = str(was).split(", ")[:2] != names.split(", ")[:2]
            raise CheckpointError(
                f"{where} holds a run on other {domain} pictures ({was}; now {names}"
                f"{'' if renamed else ': the names are the same, the files of pictures or labels are not'}). "
                "Give the folder that it was started with (and --skip-bad, if it was begun with it), or start again with "
                "--replace."
            )
    try:
        method.load_state_dict(content["method"] | {f"segmenter.{k}": v for k, v in content["segmenter"].items()})
        for name, optimiser in method.optimisers.items():
            optimiser.load_state_dict(content["optimisers"][name])
        precision.scaler.load_state_dict(content["scaler"])
        if ranks.rank() < len(content["random"]):  # a process that the earlier run did not have keeps its own
            set_random_state(content["random"][ranks.rank()], precision.device)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(
            f"The newest checkpoint in {where} does not fit this method ({reason}). Was it "
            "made by another version of this library? Start again with --replace."
        ) from error


def differences(a: Recipe, b: Recipe) -> dict[str, tuple[Any, Any]]:
    """The settings in which two recipes differ, {key: (in a, in b)}, those left out that do not change what is learnt."""
    flat_a, flat_b = (_flat(recipe.to_dict()) for recipe in (a, b))
    free = FREE + (("loop.steps",) if a.loop.schedule_steps and b.loop.schedule_steps else ())  # a longer run, same rates
    keys = [key for key in flat_b | flat_a if flat_a.get(key) != flat_b.get(key) and key not in free]
    return {key.removeprefix("loop."): (flat_a.get(key), flat_b.get(key)) for key in keys}


def learning_key(recipe: Recipe) -> str:
    """The same for two recipes that learn the same: of all settings but those of FREE."""
    flat = {key: value for key, value in _flat(recipe.to_dict()).items() if key not in FREE} | code_of(recipe)
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def fingerprint(pictures: SegmentationDataset) -> str:
    """What tells a set of pictures from another, wherever it lies: their number, a hash of their names (the order of training
    draws depends on nothing else), and one of the sizes of all files and of the content of some; one process looks at them.
    """
    return ranks.agree(_fingerprint(pictures) if ranks.is_main() else "")


def _fingerprint(pictures: SegmentationDataset) -> str:
    names = "\n".join(pictures.name_of(i) for i in range(len(pictures))).encode(errors="surrogateescape")
    files = [[path for path in (pair.image, pair.label, pair.depth) if path is not None] for pair in pictures.pairs]
    sizes = [path.stat().st_size if path.is_file() else None for pair in files for path in pair]
    some = [digest(path) if path.is_file() else None for pair in files[:: len(files) // SAMPLED + 1] for path in pair]
    mapping = [pictures.mapping] if pictures.mapping else []  # labels of one's own are others when dataset.toml is
    content = hashlib.sha256(json.dumps([sizes, some, *mapping]).encode()).hexdigest()[:12]
    kind = "prepared" if pictures.spec.startswith("prepared:") else "original"
    return f"{len(pictures)} pictures, {hashlib.sha256(names).hexdigest()[:12]}, {kind} {content}"


def same_pictures(was: Any, now: str) -> bool:
    """Whether two fingerprints are of the same pictures. Where the files cannot be compared (a prepared set and its originals;
    an earlier version, which did not look at them), the names decide.

    >>> same_pictures("4 pictures, 0ab, original 1cd", "4 pictures, 0ab, original 2ef")
    False
    >>> [same_pictures(was, "4 pictures, 0ab, original 2ef") for was in ("4 pictures, 0ab, prepared 1cd", "4 pictures, 0ab")]
    [True, True]
    """
    was, now = str(was).split(", "), now.split(", ")
    compared = 3 if len(was) == len(now) == 3 and was[2].split()[0] == now[2].split()[0] else 2
    return was[:compared] == now[:compared]


def load_network(
    path: Path | str, device: torch.device | str = "cpu", settings: tuple[str, ...] = ()
) -> tuple[Segmenter, Recipe]:
    """The scored network of a checkpoint and the recipe that made it; nothing is downloaded, no code of the file is run.

    settings: ("network=FILE.py:NAME",) for a network from outside this library, which a checkpoint may not import by itself:
    the same network has to be named. The checkpoint's method and terms need not be loaded: they take no part.

    Also reads the files that the authors of the papers released (`networks.load_published` lists them; its report
    goes to stderr; the recipe then holds the classes and the picture size that they are scored with), and, where `settings`
    names the network, the weights of any network in a foreign file: ("network=small", "network_options={'width': 32}",
    "space=synthia16", "test_size=512x256"). `workers` are 0, whatever the file says: how many processes are started is the
    caller's choice.
    """
    try:
        content = load_checkpoint(path)
    except CheckpointError as error:
        if not Path(path).is_file():
            raise
        try:
            return _foreign(path, device, settings) if settings else _published(path, device)
        except ValueError as other:
            if settings:
                raise CheckpointError(f"{error} Nor is it the weights of that network: {other}") from None
            what_to_do = "If it holds the weights of a network, say of which: --set network=NAME (in Python: settings)."
            raise CheckpointError(f"{error} Nor is it a released file: {other} {what_to_do}") from None
    with _buildable(path):
        recipe = replace(Recipe.of_network(content["recipe"]), workers=0)
    _check_network(path, content, recipe, settings)
    with _buildable(path):
        segmenter = _built(recipe, scored_weights(content))
    return to_device(segmenter, torch.device(device), recipe.loop.channels_last), recipe


def picture_bits(path: Path | str, recipe: Recipe) -> int:
    """How many bits of 16-bit pictures held data in a checkpoint's training: those of the target, where it had one; of a file
    that does not say so the recipe's."""
    try:
        return load_checkpoint(path).get("bits", recipe.bits)
    except CheckpointError:
        return recipe.bits


def network_settings(settings: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(those for `load_network`, the others) of "KEY=VALUE" texts."""
    own = ("network", "network_options", "space")
    chosen = [text for text in settings if split_assignment(text)[0].rpartition(".")[2] in own]
    return tuple(chosen), tuple(text for text in settings if text not in chosen)


@contextmanager
def _buildable(path: Path | str) -> Iterator[None]:
    """What the content of a checkpoint raises inside, as a CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is a checkpoint, but its network cannot be built from it ({' '.join(str(error).split())[:400]}). "
            "Was it made by a newer or changed version of this library?"
        ) from error


def _check_network(path: Path | str, content: dict[str, Any], recipe: Recipe, settings: tuple[str, ...]) -> None:
    """Compare the network of a checkpoint's recipe with what `settings` names, and with the code that is loaded."""
    for setting in settings:
        key, text = split_assignment(setting)
        if key.rpartition(".")[2] != "network":
            raise CheckpointError(f"{path} says what its network is; --set {key}= is for files that do not. Leave it out.")
        if (name := load_builder(text)) != recipe.network:
            raise CheckpointError(f"{path} holds the network {recipe.network}; --set network= names {name}. Name the same.")
    foreign = outside.is_reference(recipe.network) or recipe.network in outside.entry_point_names("network")
    if foreign and recipe.network.partition(":")[0] not in LIBRARIES and recipe.network not in NAMES:
        if ("network", recipe.network) not in outside.LOADED:
            raise CheckpointError(f"{path}: {outside.not_loaded(recipe.network, 'network')}")
    known = {name: sha256 for name, sha256 in content.get("code", {}).items() if name == recipe.network}
    if outside.changed(known, code_of(recipe)) and ranks.is_main():
        print(f"Note: {path} was trained with another version of {recipe.network}: the file has changed.", file=sys.stderr)


def _built(recipe: Recipe, weights: dict[str, Tensor]) -> nn.Module:
    """The recipe's network with the weights of a file."""
    with torch.device("meta"), warnings.catch_warnings():  # the shapes alone, before memory is taken for them
        warnings.simplefilter("ignore")  # that nothing is copied there
        blank_segmenter(recipe).load_state_dict(weights)
    segmenter = blank_segmenter(recipe)
    segmenter.load_state_dict(weights)
    return segmenter


def _foreign(path: Path | str, device: torch.device | str, settings: tuple[str, ...]) -> tuple[nn.Module, Recipe]:
    """Weights without our frame: `settings` says of which network."""
    recipe = Recipe("weights", "source-only").override(*settings)
    return _built(recipe, foreign_weights(path, recipe)).to(device), recipe


def _published(path: Path | str, device: torch.device | str) -> tuple[nn.Module, Recipe]:
    segmenter, report = load_published(path)
    spaces = {19: "cityscapes19", 16: "synthia16"}
    if segmenter.num_classes not in spaces:
        raise ValueError(f"it has {segmenter.num_classes} classes; the releases on Cityscapes have 19 or 16.")
    if ranks.is_main():
        print(str(report), file=sys.stderr)  # several lines
    size = next((paper.released_test_size for name, paper in PAPERS.items() if name in report.pattern.lower()), None)
    size = report.test_size or size
    recipe = Recipe("published", "source-only", space=spaces[segmenter.num_classes], test_size=size)
    return segmenter.to(device), recipe


def how_chosen(checkpoint: Path | str) -> str:
    """One sentence on how this checkpoint was chosen among its run's candidates, for whoever reads its score."""
    try:
        content = load_checkpoint(checkpoint)
    except CheckpointError:
        return "A released file: how its authors chose it, the file does not say."
    choice, step = content.get("choice") or {}, content.get("step")
    if choice.get("value") is None or choice.get("by") == "last":
        return "It was the only candidate, or the last one: nothing was chosen."
    if choice["step"] != step:
        return f"Step {step} of its run; the one that was chosen is step {choice['step']}, in best.pt."
    if choice["by"] == "target-labels":
        return f"Step {step} was chosen by its score on target validation labels: on the same pictures it is optimistic."
    return f"Step {step} was chosen by the information of its target predictions; no target label was looked at."
