"""Before ProCA's first step: the prototypes of the whole source, and the thresholds of the target's pseudo-labels."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib import ranks
from course_lib.data import Batch, open_dataset, test_transform
from course_lib.data.reading import READING
from course_lib.engine import CheckpointError, Precision, load_checkpoint, progress, save_checkpoint
from course_lib.evaluation.scoring import eval_mode
from course_lib.losses.prototype import labels_at
from course_lib.methods import ProCA
from course_lib.prototypes import ClassSums
from course_lib.pseudo_labels import class_thresholds, confidence
from course_lib.recipes.parts import Pair, own_part, split_of
from course_lib.recipes.recipe import Recipe


def initialise_proca(
    method: ProCA, recipe: Recipe, pair: Pair, *, device: torch.device, out: Path | None = None, quiet: bool = False
) -> None:
    """Give `method` its prototypes and thresholds, from the file `pair.prototypes` or from one pass over the pictures.

        p_c = sum_{n,i,j} F_{n,i,j} 1[Y_{n,i,j} = c] / sum_{n,i,j} 1[Y_{n,i,j} = c]       over the whole source

    in evaluation mode, without augmentation, float64 sums whatever the precision of the passes; the processes share the
    pictures, and their sums are added exactly. `out`: a file that keeps the sums (`pair.prototypes` of a later run).
    """
    settings, network = method.settings, hashlib.sha256()
    for value in method.segmenter.state_dict().values():
        network.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    made_of = {"network": network.hexdigest(), "source": pair.source, "size": list(recipe.source_size or ())}
    made_of |= {"bits of 16-bit pictures": recipe.bits, "way of reading": READING}
    if pair.prototypes is not None:
        content = load_checkpoint(pair.prototypes)
        for what, value in made_of.items():
            if content.get(what) != value:
                raise CheckpointError(
                    f"{pair.prototypes} holds the prototypes of another {what} than the one that training starts from. "
                    "Remove the file: they are made again from this start."
                )
        tables = content["tables"]
    else:
        tables = _tables(method, recipe, pair, device, quiet)
        if out is not None and ranks.is_main():
            save_checkpoint(out, {"segmenter": {}, **made_of, "tables": tables})
    sums = {}
    for space, bank in method.banks.items():
        sums[space] = ClassSums(*bank.mean.shape[1:], device=device)
        # whole sums on the main process, zeros elsewhere: `initialise` adds them up
        if ranks.is_main():
            sums[space].sums += tables[space]["sums"].to(sums[space].sums.device)
            sums[space].counts += tables[space]["counts"].to(sums[space].counts.device)
    thresholds = None
    if settings.target_labels == "class-wise":
        thresholds = _target_thresholds(method, recipe, pair, device, quiet)
    method.initialise(sums, thresholds)


def _tables(method: ProCA, recipe: Recipe, pair: Pair, device: torch.device, quiet: bool) -> dict[str, dict[str, Tensor]]:
    """The sums and counts of features and of logits over the whole source, those of all processes."""
    dims, C = {"feat": method.segmenter.feature_dim, "out": method.segmenter.num_classes}, method.segmenter.num_classes
    sums = {space: ClassSums(C, dim, device) for space, dim in dims.items()}
    for batch, prediction in _look(method, recipe, pair, "source", "prototypes", device, quiet):
        Y = labels_at(batch.label.to(device), prediction.logits.shape[-2:])
        sums["feat"].add(prediction.features, Y)
        sums["out"].add(prediction.logits, Y)
    whole = {space: part.total() for space, part in sums.items()}
    return {space: {"sums": part.sums.cpu(), "counts": part.counts.cpu()} for space, part in whole.items()}


def _target_thresholds(method: ProCA, recipe: Recipe, pair: Pair, device: torch.device, quiet: bool) -> Tensor:
    s = method.settings
    if s.score != "probability":
        raise ValueError("target_labels='class-wise' orders probabilities; choose score='probability'.")

    def read() -> Iterable[tuple[Tensor, Tensor]]:
        for _, prediction in _look(method, recipe, pair, "target", "thresholds", device, quiet):
            yield confidence(prediction.logits)

    return class_thresholds(read, method.segmenter.num_classes, 1 - s.target_share, s.target_cap, device)


def _look(method: ProCA, recipe: Recipe, pair: Pair, domain: str, description: str, device: torch.device, quiet: bool) -> Any:
    """(batch, prediction) of every training picture of a domain that is this process's, in evaluation mode."""
    size, text = {"source": (recipe.source_size, pair.source), "target": (recipe.target_size, pair.target)}[domain]
    name, split = split_of(text, "train")
    transform = test_transform(size, method.segmenter.normalisation, resize_label=True)
    labelled = domain == "source"
    pictures = open_dataset(name, split, recipe.space, transform, labelled, skip_bad=pair.skip_bad, bits=recipe.bits)
    precision = Precision(recipe.loop.precision, device)
    loader = own_part(pictures, recipe.batch_size, recipe.workers)
    with eval_mode(method.segmenter), torch.no_grad():
        batch: Batch
        for batch in progress(loader, description, quiet=quiet or not ranks.is_main()):
            with precision.autocast():
                prediction = method.segmenter(batch.image.to(device))
            yield batch, prediction
