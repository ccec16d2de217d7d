"""What methods do outside of training steps: look at pictures before the first one, measure labels after the last."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib import ranks
from course_lib.data import Batch, SegmentationDataset, test_loader, test_transform
from course_lib.data.reading import READING
from course_lib.engine import CheckpointError, Precision, load_checkpoint, progress, save_checkpoint
from course_lib.evaluation.labelling import quality_content
from course_lib.experiments.parts import Pair, opened, own_part
from course_lib.experiments.state import load_network
from course_lib.methods import METHODS, Method
from course_lib.networks.prediction import eval_mode
from course_lib.recipes.recipe import Recipe, build_method


class Look:
    """The pictures of a recipe's streams without augmentation (`methods.step.Looks`)."""

    def __init__(self, recipe: Recipe, pair: Pair, normalisation: str, device: torch.device | str, quiet: bool) -> None:
        self.recipe, self.pair, self.normalisation, self.device = recipe, pair, normalisation, torch.device(device)
        self.quiet = quiet or not ranks.is_main()
        self.opened: set[str] = set()  # streams
        self.labelled: dict[str, SegmentationDataset] = {}  # what was opened with true labels, by stream

    def pictures(self, stream: str, labels: str | None = None):
        """The data set of a stream; labels: "none", "true" or "files" in place of the stream's own."""
        recipe, pair, labels = self.recipe, self.pair, labels or self.recipe.streams[stream].labels
        size, text = {"source": (recipe.source_size, pair.source), "target": (recipe.target_size, pair.target)}[stream]
        self.opened.add(stream)
        transform = test_transform(size, self.normalisation, resize_label=True)
        pictures = opened(recipe, text, "train", transform, labels == "true", pair.skip_bad)
        if labels == "true":
            self.labelled[stream] = pictures.require_labels(f"Looking at the {stream} ({text})")
            return self.labelled[stream]
        if labels == "files":  # of the same pictures as the true ones: skip_bad leaves out those without a true label
            return self.labelled.get(stream, pictures).with_labels(pair.pseudo_labels)
        return pictures

    def __call__(self, stream: str, labels: str | None = None, shared: bool = True) -> Iterator[Batch]:
        """Every picture once, this process's part; shared=False: all of them in every process."""
        pictures, recipe = self.pictures(stream, labels), self.recipe
        loader = own_part if shared else test_loader
        batches = loader(pictures, recipe.batch_size, recipe.workers)
        for batch in progress(batches, f"look at the {stream}", quiet=self.quiet or not shared and stream != "source"):
            yield batch.to(self.device)


@contextmanager
def looking(method: Method, precision: Precision) -> Iterator[None]:
    """Evaluation mode, without gradient, in the recipe's precision."""
    with eval_mode(method.segmenter), torch.no_grad(), precision.autocast():
        yield


def prepare(
    method: Method, recipe: Recipe, pair: Pair, *, device: torch.device | str, out: Path | None = None, quiet: bool = False
) -> None:
    """`Method.prepare`, or its result from the file `pair.prepared`.

    out: a file that keeps the result, the method's own state (`pair.prepared` of a later run). Raises CheckpointError for a
    file that was prepared for another start, other pictures or other settings; weights (lambda_...) may differ.
    """
    if type(method).prepare is Method.prepare:
        return
    settings = {key: value for key, value in recipe.to_dict()["settings"].items() if not key.startswith("lambda_")}
    made_of = {"network": _hash(method.segmenter), "source": pair.source, "size": list(recipe.source_size or ()),
               "bits of 16-bit pictures": recipe.bits, "way of reading": READING, "set of settings": settings}  # fmt: skip
    target = [pair.target, list(recipe.target_size or ())]
    if pair.prepared is not None:
        content = load_checkpoint(pair.prepared)
        wanted = made_of | {"target": content.get("target") and target}
        lacks = own_state(method).keys() - content["method"].keys()  # of a loss whose weight was 0
        for what, value in wanted.items():
            if content.get(what) != value or (lacks and what == "set of settings"):
                raise CheckpointError(
                    f"{pair.prepared} was prepared for another {what} than the one that training starts from. "
                    "Remove the file: it is made again from this start."
                )
        method.load_state_dict(content["method"], strict=False)
        return
    look = Look(recipe, pair, method.segmenter.normalisation, device, quiet)
    with looking(method, Precision(recipe.loop.precision, device)):
        method.prepare(look)
    if out is not None and ranks.is_main():
        looked = {"target": target if "target" in look.opened else None}
        save_checkpoint(out, {"segmenter": {}, **made_of, **looked, "method": own_state(method)})


def own_state(method: Method) -> dict[str, torch.Tensor]:
    """The state of a method without its segmenter's and its terms'."""
    return {name: value for name, value in method.state_dict().items() if not name.startswith(("segmenter.", "terms."))}


def _hash(network: nn.Module) -> str:
    found = hashlib.sha256()
    for value in network.state_dict().values():
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def load_method(checkpoint: Path | str, device: torch.device | str = "cpu") -> tuple[Method, Recipe]:
    """The method of a checkpoint with all its state, for example to look at what it would label."""
    segmenter, recipe = load_network(checkpoint, device)
    method = build_method(recipe, segmenter).to(device)
    own = load_checkpoint(checkpoint).get("method", {})
    method.load_state_dict(own | {f"segmenter.{name}": value for name, value in segmenter.state_dict().items()})
    return method, recipe


def label_kinds(
    checkpoint: Path | str, pair: Pair, *, workers: int = 0, device: torch.device | str = "cpu", quiet: bool = False
) -> dict[str, dict[str, Any]] | None:
    """`Method.label_kinds` of a checkpoint over the target's training pictures: {kind: density, accuracy, both per class}.

    None where the truth is not there. `pair.pseudo_labels`: the folder of its label files. Pictures without augmentation, in
    batches as in training; labels at the network's input size. Every process looks at all pictures. ValueError for a checkpoint
    of a method that has no such labels.
    """
    method, recipe = load_method(checkpoint, device)
    if type(method).label_kinds is Method.label_kinds:
        having = [name for name, known in METHODS.items() if known.label_kinds is not Method.label_kinds]
        raise ValueError(f"{checkpoint} was trained by {method.name}; this wants a checkpoint of {' or '.join(having)}.")
    look = Look(replace(recipe, workers=workers), pair, method.segmenter.normalisation, device, quiet)
    try:
        look.pictures("target", "true")
    except (OSError, ValueError):  # an unlabelled target is the ordinary case
        return None
    with looking(method, Precision("fp32", device)):
        return {kind: quality_content(each) for kind, each in method.label_kinds(look).items()}


def label_table(kinds: dict[str, dict[str, Any]], published: dict[str, tuple[float, float]]) -> str:
    """The measured densities and accuracies beside the paper's, as a Markdown table."""
    lines = ["| pseudo-labels | density % | accuracy % | paper |", "|---|---|---|---|"]
    for kind, found in kinds.items():
        accuracy = "-" if found["accuracy"] is None else f"{100 * found['accuracy']:.1f}"
        paper = "{:.1f} / {:.1f}".format(*published[kind]) if kind in published else "-"
        lines.append(f"| {kind} | {100 * found['density']:.1f} | {accuracy} | {paper} |")
    return "\n".join(lines) + "\n"
