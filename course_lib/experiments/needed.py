"""What a command will read, looked at before its first step."""

from collections.abc import Iterable
from contextlib import suppress

from course_lib.data import SegmentationDataset
from course_lib.data.few_labels import separate
from course_lib.data.layouts import label_table, parse, survey
from course_lib.experiments.choice import selection_pictures
from course_lib.experiments.parts import Pair, check_imagenet, hold_out, opened, training_set
from course_lib.experiments.state import fingerprint
from course_lib.recipes import Stage
from course_lib.recipes.recipe import Recipe


def look_at_training(recipe: Recipe, pair: Pair) -> None:
    """Open all that a training reads: raises as its opening later would, for a set, a label, a file that is not there."""
    check_settings(recipe)
    _open(recipe, pair)


def _open(recipe: Recipe, pair: Pair, labels_later: bool = False) -> None:
    """labels_later: an earlier stage will write the pseudo-labels."""
    streams = recipe.streams
    if pair.start is None and recipe.has_start and recipe.start_from is None and "source" not in streams:
        training_set(recipe.of("source-only"), pair.source, "source", "imagenet", pair.skip_bad)
    for name, stream in streams.items():
        if labels_later and stream.labels == "files":
            opened(recipe, getattr(pair, name), "train", labelled=False, skip_bad=pair.skip_bad)
        else:
            training_set(recipe, getattr(pair, name), name, "imagenet", pair.skip_bad, pair.pseudo_labels)
    selection_pictures(recipe, pair, "imagenet")


def check_settings(recipe: Recipe) -> None:
    """What a training needs beside its pictures: raises as `check_imagenet`, and ValueError for steps beyond the end of the
    schedule, where the rate is 0 and nothing is learnt."""
    check_imagenet(recipe)
    steps, end = recipe.loop.steps, recipe.loop.schedule_steps
    if end and steps > end:
        raise ValueError(
            f"{recipe.method} has steps={steps}, and with schedule_steps={end} the rate is 0 from step {end} on. Give "
            f"schedule_steps={steps} as well, schedule_steps=none (as long as the steps), or fewer steps."
        )


def look_at_stages(stages: Iterable[Stage], pair: Pair) -> None:
    """The same for stages of one or more plans, each kind of opening once; pair: the whole, nothing is held out of it yet."""
    seen = set()
    for stage in stages:
        recipe = stage.recipe
        if stage.kind in ("start", "train"):
            check_settings(recipe)
        streams = tuple(recipe.streams.items())
        key = (stage.kind, streams, recipe.space, recipe.bits, recipe.statistics, recipe.select, recipe.network)
        if key in seen:
            continue
        seen.add(key)
        if stage.kind == "labels" or (stage.kind == "test" and recipe.statistics == "target"):
            opened(recipe, pair.target, "train", labelled=False, skip_bad=pair.skip_bad)
        if stage.kind == "test":
            opened(recipe, pair.validation, "val", skip_bad=pair.skip_bad).require_labels("Scoring")
        elif stage.kind == "choose":
            _, held = hold_out([stage], pair)
            opened(recipe, held, "train", skip_bad=pair.skip_bad).require_labels("Choosing")
        elif stage.kind != "labels":
            _open(recipe, pair, labels_later=True)


def content_of(pair: Pair, space: str) -> str | None:
    """`Pair.content`: the fingerprints of its sets with the labels that they have, None where one of them is gone."""
    found = []
    for domain, (text, split) in pair.sets().items():
        layout, root = parse(text)
        pictures = None
        for labelled in (True, False):  # a target may have none
            with suppress(OSError, ValueError):
                pairs = survey(layout, root, split, labelled=labelled)[0]
                table = label_table(layout, root, split, space) if labelled else None
                pictures = SegmentationDataset(pairs, space, table, spec=text, part=separate(split)[1])
                break
        if pictures is None:
            return None
        found.append(f"{domain}: {fingerprint(pictures)}")
        every, _ = survey(layout, root, split, labelled=False)
        if len(every) != len(pictures):  # a target may have labels of some pictures alone
            found.append(f"all of {domain}: {fingerprint(SegmentationDataset(every, space, None, spec=text))}")
    return "; ".join(found)
