"""The parts of an experiment, as a recipe describes them: the pair of domains, pictures, batches, network, method."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from course_lib import ranks
from course_lib.data import (
    Batch,
    SegmentationDataset,
    UnfinishedBatch,
    open_dataset,
    test_loader,
    train_loader,
    train_transform,
)
from course_lib.data.examine import summary
from course_lib.data.few_labels import Part, behind, labels_are_all, listed, plain, separate
from course_lib.data.sampling import SeedStream, mixed_seed
from course_lib.engine import seed_everything
from course_lib.experiments.compute import blank_segmenter
from course_lib.experiments.pretrained import take_backbone
from course_lib.labels import label_space
from course_lib.networks import build
from course_lib.networks.efficientnet import imagenet_file
from course_lib.recipes import Stage
from course_lib.recipes.recipe import Recipe
from course_lib.terminal import print


@dataclass(frozen=True)
class Pair:
    """The two domains of an experiment, as "layout:path" or "layout:path@split" texts."""

    source: str | None  # for training, labelled unless the method reads no labels; None: of a method that does not read it
    # (few labels in one domain: the labelled part of it, and `target` the others)
    target: str | None  # its labels are used by target-only alone; None: of a method that does not read it
    validation: str | None = None  # labelled target pictures for scoring
    skip_bad: bool = False  # leave out files that cannot be used, and say which
    # what an earlier stage left (experiments.plan)
    start: str | None = None  # a checkpoint: its whole network is the start, in place of the recipe's
    prepared: str | None = None  # a file of `looks.prepare`; None: done before the first step
    pseudo_labels: str | None = None  # a folder of train-id PNGs for the target's training pictures
    content: str | None = None  # what tells these files from others under the same paths, where results are kept for them
    labelled: str | None = None  # few labelled target pictures beside a source: of the term `few_labels`

    def to_dict(self) -> dict[str, Any]:
        """As a plain dictionary; without `labelled`, which came later, where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "labelled" or value is not None}

    def sets(self) -> dict[str, tuple[str, str]]:
        """("layout:path", split) of each set that is given, by domain."""
        texts = {"source": (self.source, "train"), "target": (self.target, "train"), "validation": (self.validation, "val")}
        texts["labelled"] = (self.labelled, "train")
        return {domain: split_of(text, default) for domain, (text, default) in texts.items() if text is not None}

    def trained_and_scored(self) -> list[str]:
        """A note for each domain whose labels are learnt from and whose pictures are scored, too.

        >>> Pair("cityscapes:cs@val+labelled=3", "cityscapes:cs@val+unlabelled=3", "cityscapes:cs@val").trained_and_scored()
        ['Labels of cityscapes:cs@val are learnt from and scored: no score of unseen pictures. Give another --validation.']
        """
        sets = {domain: (name, plain(split)) for domain, (name, split) in self.sets().items()}
        twice = dict.fromkeys(sets[domain] for domain in ("source", "labelled") if domain in sets)
        return [f"Labels of {name}@{split} are learnt from and scored: no score of unseen pictures. Give another --validation."
                for name, split in twice if sets.get("validation") == (name, split)]  # fmt: skip


def split_of(text: str, default: str) -> tuple[str, str]:
    """Separate "layout:path@split" into ("layout:path", split), a part of it (`data.few_labels`) included. Where "path@split"
    is a folder, it is the path.

    >>> split_of("cityscapes:/data/cs@val", "train"), split_of("gta5:/data/me@home/gta5", "train")
    (('cityscapes:/data/cs', 'val'), ('gta5:/data/me@home/gta5', 'train'))
    """
    text, part = behind(text)
    name, at, split = text.rpartition("@")
    if not at or any(separator in split for separator in "/\\") or Path(text.partition(":")[2]).expanduser().is_dir():
        return text, default + part  # an @ in a folder's name
    return name, (split or default) + part


def divided(
    text: str, labels: str, seed: int | None = None, choice: str = "random", pixels: str = "all"
) -> tuple[str, str]:
    """The texts of the labelled part of a data set and of all other pictures; what is chosen how: `data.few_labels`. With some
    labelled pixels of all pictures (labels "1/1") the others are all pictures, without labels.

    >>> divided("cityscapes:/data/cs", "20", seed=1)
    ('cityscapes:/data/cs@train+labelled=20+seed=1', 'cityscapes:/data/cs@train+unlabelled=20+seed=1')
    """
    name, split = split_of(text, "train")
    if separate(split)[1] is not None:
        raise ValueError(f"{text} is a part of a data set already. Give the whole, or leave out how many labels there are.")
    labelled = Part(True, labels, seed or 0, choice, pixels)
    list_file = listed(labelled)
    if list_file is not None and seed is not None and pixels == "all":
        raise ValueError(f"The list {list_file!r} says which pictures are labelled: leave out the seed {seed}.")
    if pixels != "all" and labels_are_all(labels):  # some pixels of every picture: the others are the pixels without a label
        return f"{name}@{split}{labelled.text}", f"{name}@{split}"
    others = replace(labelled, labelled=False, seed=0 if list_file is not None else labelled.seed, pixels="all")
    return f"{name}@{split}{labelled.text}", f"{name}@{split}{others.text}"


def held_out(text: str, share: str) -> tuple[str, str]:
    """The texts of labelled pictures without those that are held out, and of these; share: "1/5".

    >>> held_out("cityscapes:/data/cs@train+labelled=20", "1/5")
    ('cityscapes:/data/cs@train+labelled=20+without=1/5', 'cityscapes:/data/cs@train+labelled=20+held=1/5')
    """
    name, split = split_of(text, "train")
    split, part = separate(split)
    part = part or Part(True, "1/1")
    return f"{name}@{split}{replace(part, without=share).text}", f"{name}@{split}{replace(part, held=share).text}"


def hold_out(stages: list[Stage], pair: Pair) -> tuple[Pair, str | None]:
    """The pair whose stages do not see the held-out labelled pictures, and the text of these; None where no stage chooses.
    Where all pictures are labelled, and the unlabelled ones are the same, they are held out of both."""
    choosing = next((stage for stage in stages if stage.kind == "choose"), None)
    if choosing is None or pair.source is None:
        return pair, None
    trained, held = held_out(pair.source, choosing.recipe.settings.held_out)
    return replace(pair, source=trained, target=trained if pair.target == pair.source else pair.target), held


def whole(text: str) -> str:
    """A data set's text without the part: all of its split.

    >>> whole("cityscapes:/data/cs@train+unlabelled=20"), whole("gta5:/data/gta5")
    ('cityscapes:/data/cs@train', 'gta5:/data/gta5')
    """
    return behind(text)[0]


def opened(
    recipe: Recipe, text: str, default: str, transform: Any = None, labelled: bool = True, skip_bad: bool = False,
    depth: bool = False,
) -> SegmentationDataset:  # fmt: skip
    """The data set "layout:path" or "layout:path@split" with the recipe's classes; default: the split where none is named."""
    name, split = split_of(text, default)
    return open_dataset(name, split, recipe.space, transform, labelled, skip_bad=skip_bad, bits=recipe.bits, depth=depth,
                        depth_noise=recipe.depth_noise)  # fmt: skip


def training_set(
    recipe: Recipe, text: str, domain: str, normalisation: str, skip_bad: bool = False, pseudo_labels: str | None = None
) -> SegmentationDataset:
    """The pictures of one of the recipe's streams with its transforms; `pseudo_labels`: the files of a stream that learns from
    such labels."""
    if text is None:
        if domain == "labelled":
            raise ValueError("The term few_labels reads labelled target pictures; say how many there are: --labels 20.")
        raise ValueError(f"{recipe.method} reads pictures of the {domain}; give --{domain} LAYOUT:PATH.")
    stream = recipe.streams[domain]
    if domain == "target" and stream.labels == "true":  # the oracle: of few labels in one domain, all
        text = whole(text)
    size = recipe.source_size if domain == "source" else recipe.target_size
    crop = None if stream.whole else recipe.crop
    if stream.look == "unit":  # the method's own views come later, on the whole batch; they want plain RGB
        transform = train_transform(size, "unit", crop=crop, colours_on=recipe.colours_on)
    else:
        transform = train_transform(
            size,
            normalisation,
            flip=recipe.flip,
            scale=recipe.scale,
            crop=crop,
            photometric=recipe.target_photometric if domain == "target" else recipe.photometric,
            colours_on=recipe.colours_on,
            crop_share=recipe.crop_share if domain == "source" else 1.0,
            plain=stream.plain,
            margins=recipe.target_margins if domain == "target" and stream.plain else (0.0, 0.0, 0.0),
            shown_pixels=recipe.rare_crop_pixels if domain == "source" and recipe.sampling == "rare-class" else 0,
        )
    labelled = stream.labels == "true"
    pictures = opened(recipe, text, "train", transform, labelled, skip_bad, stream.depth)
    if stream.labels == "files":
        if pseudo_labels is None:
            raise ValueError(
                f"{recipe.method} learns from pseudo-labels, and there are none. Make them with `uda label`, then give "
                "--pseudo-labels FOLDER; or let `uda run` do all stages."
            )
        return pictures.with_labels(pseudo_labels)
    return pictures.require_labels(f"Training on the {domain} ({text})") if labelled else pictures


def tell_skipped(pictures: SegmentationDataset) -> None:
    """Print how many files were left out, and the first of them."""
    if pictures.skipped and ranks.is_main():
        print(f"{pictures.spec}: {summary(pictures.skipped)}", file=sys.stderr)


def batches(recipe: Recipe, dataset: SegmentationDataset, domain: str, start: int = 0) -> Iterable[Batch | UnfinishedBatch]:
    """This process's part of endless shuffled batches; `start` batches have been drawn before, from the recipe's first on."""
    return train_loader(
        dataset,
        recipe.batch_size,
        seed=mixed_seed(recipe.seed, SeedStream.LABELLED) if domain == "labelled" else 2 * recipe.seed + (domain == "target"),
        start=recipe.first_batch + start,
        workers=recipe.workers,
        sampling=recipe.sampling if domain == "source" else "uniform",
        rare=recipe,
        rank=ranks.rank(),
        ranks=ranks.count(),
    )


def own_part(pictures: Dataset, batch_size: int = 1, workers: int = 0) -> Iterable[Batch]:
    """Every picture once, divided among the processes: what is measured on them is summed afterwards."""
    return test_loader(pictures, batch_size, workers, ranks.rank(), ranks.count())


def build_segmenter(recipe: Recipe) -> nn.Module:
    """The recipe's network, from its ImageNet start where the recipe says so."""
    if recipe.start_from:  # a shipped start holds the whole network
        segmenter = blank_segmenter(recipe)
    else:
        segmenter = build(recipe.network, label_space(recipe.space).num_classes, **recipe.network_options)
    if recipe.init_from is not None:
        take_backbone(segmenter, recipe.init_from)
    return segmenter


def check_imagenet(recipe: Recipe) -> None:
    """Raise ModuleNotFoundError or FileNotFoundError, before any other work, where the ImageNet weights that the recipe begins
    with are missing."""
    file = recipe.network_options.get("imagenet")
    if isinstance(file, str) and recipe.start_from is None and not Path(file).expanduser().is_file():
        raise FileNotFoundError(
            f"The network {recipe.network} begins with the weights of ImageNet in {file!r}, and there is no such file. Put it "
            "there, or say where it is: --set \"network_options={'imagenet': 'PATH'}\" (docs/commands.md says where such files "
            "are published)."
        )
    if recipe.network == "efficientnet_lite0" and recipe.start_from is None and recipe.network_options.get("pretrained", True):
        imagenet_file()


def seeded_segmenter(recipe: Recipe) -> nn.Module:
    """The network with the weights that the recipe's seed draws."""
    seed_everything(recipe.seed)
    return build_segmenter(recipe)
