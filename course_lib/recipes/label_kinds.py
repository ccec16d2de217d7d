"""How dense and how right BiDA's kinds of pseudo-labels are, of a network and its moving averages at one moment."""

from pathlib import Path
from typing import Any

import torch

from course_lib.data import open_dataset, test_loader, test_transform
from course_lib.engine import load_checkpoint, progress
from course_lib.evaluation.labelling import quality_content
from course_lib.evaluation.scoring import eval_mode
from course_lib.methods import BiDA
from course_lib.pseudo_labels import LabelQuality, hybrid_labels
from course_lib.recipes.parts import Pair, build_method, split_of
from course_lib.recipes.recipe import Recipe
from course_lib.recipes.state import load_network

KINDS = ("static", "dynamic, uncalibrated", "dynamic", "hybrid")
PUBLISHED = {  # the slides' table: density and accuracy in %; which pictures, round and network it was measured on is not said
    "static": (20.1, 98.5), "dynamic, uncalibrated": (22.2, 98.6), "dynamic": (34.3, 98.6), "hybrid": (42.3, 98.8),
}  # fmt: skip


def load_bida(checkpoint: Path | str, device: torch.device | str = "cpu") -> tuple[BiDA, Recipe]:
    """The method of a checkpoint, its moving averages too, to look at what it would label."""
    segmenter, recipe = load_network(checkpoint, device)
    if recipe.method != "bida":
        raise ValueError(f"{checkpoint} was trained by {recipe.method}; this wants a checkpoint of bida, a round's best.pt.")
    method = build_method(recipe, segmenter).to(device)
    own = load_checkpoint(checkpoint)["method"]
    method.load_state_dict(own | {f"segmenter.{name}": value for name, value in segmenter.state_dict().items()})
    return method, recipe


def measure_label_kinds(
    checkpoint: Path | str,
    pair: Pair,
    static: Path | str,
    *,
    workers: int = 0,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> dict[str, dict[str, Any]] | None:
    """{kind: density, accuracy, both per class} over the target's training pictures; None where their truth is not there.

    static: the folder of label files y_F. Pictures without augmentation, in batches as in training, each beside a batch of the
    source that gives rho_S; labels at the network's input size. Every process looks at all pictures.
    """
    method, recipe = load_bida(checkpoint, device)
    s, look = method.segmenter, method.segmenter.normalisation

    def pictures(text: str, size: tuple[int, int] | None):
        name, split = split_of(text, "train")
        transform = test_transform(size, look, resize_label=True)
        return open_dataset(name, split, recipe.space, transform, skip_bad=pair.skip_bad, bits=recipe.bits)

    try:
        truth = pictures(pair.target, recipe.target_size)
    except (OSError, ValueError):  # an unlabelled target is the ordinary case
        return None
    if not truth.labelled:
        return None
    sets = pictures(pair.source, recipe.source_size), truth, truth.with_labels(static)
    loaders = [test_loader(each, recipe.batch_size, workers) for each in sets]
    quality = {kind: LabelQuality(s.num_classes, device) for kind in KINDS}
    with eval_mode(s), torch.no_grad():
        steps = zip(*loaders, strict=False)  # the shorter domain ends it
        for S, T, F in progress(steps, "label kinds", total=min(map(len, loaders)), quiet=quiet):
            f_S = method.see(S.image.to(device), "source").features
            f_T = method.see(T.image.to(device), "target").features
            Y, y_F, true = S.label.to(device), F.label.to(device), T.label.to(device)
            nothing = torch.full_like(y_F, 255)
            plain, moved = (method.dynamic(f_S, Y, f_T, kind) for kind in ("uncalibrated", "calibrated"))
            labels = (y_F, hybrid_labels(plain, nothing), hybrid_labels(moved, nothing), hybrid_labels(moved, y_F))
            for kind, y in zip(KINDS, labels, strict=True):
                quality[kind].add(y, true)
    return {kind: quality_content(each) for kind, each in quality.items()}


def label_table(kinds: dict[str, dict[str, Any]]) -> str:
    """The measured densities and accuracies beside the paper's, as a Markdown table."""
    lines = ["| pseudo-labels | density % | accuracy % | paper |", "|---|---|---|---|"]
    for kind, found in kinds.items():
        accuracy = "-" if found["accuracy"] is None else f"{100 * found['accuracy']:.1f}"
        published = "{:.1f} / {:.1f}".format(*PUBLISHED[kind])
        lines.append(f"| {kind} | {100 * found['density']:.1f} | {accuracy} | {published} |")
    return "\n".join(lines) + "\n"
