"""Whether a prepared data set is large enough for the stages that read it."""

from course_lib.data import few_labels, layouts
from course_lib.data.prepared import read_manifest
from course_lib.experiments.parts import Pair
from course_lib.recipes import Stage
from course_lib.recipes.recipe import Size, parse


def enlarged(stages: list[Stage], pair: Pair) -> list[str]:
    """A sentence for each data set of the pair that was prepared smaller than a stage wants it, with the cure; else nothing.

    A stage wants its recipe's size, times the largest factor of a random scale, at most the originals' size: more than that was
    never there. Enlarged pictures are blurred ones, and such a run is not the published one.
    """
    said = []
    for domain, (spec, split) in pair.sets().items():
        if not spec.startswith("prepared:"):
            continue
        manifest = read_manifest(layouts.parse(spec)[1])
        split = few_labels.plain(split)
        entries = manifest.splits[split].pictures if split in manifest.splits else ()
        have, whole = _size(manifest.settings.size), _largest([_size(size) for size in {e.source_size for e in entries}])
        wants = [(stage.name, tuple(map(min, size, whole))) for stage in stages if (size := _wanted(stage, domain))]
        if small := [(name, size) for name, size in wants if size[0] > have[0] or size[1] > have[1]]:
            names = dict.fromkeys(name for name, _ in small)
            height, width = _largest([size for _, size in small])
            said.append(
                f"{spec} was prepared at {manifest.settings.size}; {', '.join(names)} want{'s' * (len(names) == 1)} up to "
                f"{width}x{height} and would enlarge it. Prepare it again with --size {width}x{height}, or give the originals "
                f"({manifest.settings.layout}:PATH): what is enlarged is blurred, and not the published run."
            )
    return said


def _wanted(stage: Stage, domain: str) -> Size | None:
    """(height, width) that a stage reads pictures of a domain at; None if it does not, or as they are."""
    recipe = stage.recipe
    sizes = {
        "test": {"validation": recipe.test_size}, "labels": {"target": recipe.test_size},
        "prepare": {"source": recipe.source_size}, "choose": {"source": recipe.test_size},
    }  # fmt: skip
    if stage.kind in sizes or domain == "validation":
        return sizes.get(stage.kind, {}).get(domain)
    size = recipe.source_size if domain == "source" else recipe.target_size
    if size is None or domain not in recipe.streams:
        return None
    factor = recipe.scale[1] if recipe.scale else 1.0
    return round(factor * size[0]), round(factor * size[1])


def _size(text: str) -> Size:
    return parse("size", text, Size)


def _largest(sizes: list[Size]) -> Size:
    return (max(size[0] for size in sizes), max(size[1] for size in sizes)) if sizes else (0, 0)
