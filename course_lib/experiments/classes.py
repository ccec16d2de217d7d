"""Which classes a run on data of one's own learns: those that all of its domains have, matched by name."""

import sys

from course_lib import ranks
from course_lib.data.layouts import default_space, parse
from course_lib.experiments.parts import Pair
from course_lib.labels import LabelSpace, own_space, same_class
from course_lib.recipes.recipe import split_assignment
from course_lib.terminal import print


def with_classes(settings: tuple[str, ...], pair: Pair | None, quiet: bool = False) -> tuple[str, ...]:
    """The "KEY=value" settings of a run, with `space=` in front where a domain has classes of its own; prints the table.

    A recipe says the classes of known data sets, and a `space=` of the user counts in any case: then nothing is added.
    Raises ValueError where no class is common.
    """
    if pair is None or any(split_assignment(text)[0] in ("space", "data.space") for text in settings):
        return settings
    domains = spaces_of(pair)
    if not any(space.own for space in domains.values()):
        return settings
    space = common_space(domains)
    if not quiet and ranks.launched().rank == 0:
        print(class_table(domains, space), file=sys.stderr)
    return (f"space={space.name}", *settings)


def spaces_of(pair: Pair) -> dict[str, LabelSpace]:
    """The classes of each data set of a pair, by its text without the split; sets of pictures alone are left out."""
    found = {}
    for spec, _ in pair.sets().values():
        space = default_space(*parse(spec))
        found |= {} if space is None else {spec: space}
    return found


def common_space(domains: dict[str, LabelSpace]) -> LabelSpace:
    """The classes that all domains have, in the order and colours of the first.

    >>> from course_lib.labels import label_space
    >>> common_space({"a": label_space("#804080 road, #4682b4 sky"), "b": label_space("cityscapes19")}).classes
    ('road', 'sky')
    """
    first, *others = domains.values()
    having = [set(map(same_class, space.classes)) for space in others]
    common = [
        (name, colour) for name, colour in zip(first.classes, first.palette) if all(same_class(name) in each for each in having)
    ]
    if not common:
        texts = "; ".join(f"{spec} has {', '.join(space.classes[:8])}{', ...' * (space.num_classes > 8)}"
                          for spec, space in domains.items())  # fmt: skip
        raise ValueError(
            f"The data sets have no class in common, and classes are matched by name: {texts}. Give the same class the same "
            "name in dataset.toml (docs/own_data.md)."
        )
    return own_space(common)


def class_table(domains: dict[str, LabelSpace], space: LabelSpace) -> str:
    """For a terminal: every class of any domain, its name in each, and whether it is learnt or ignored."""
    words: dict[str, str] = {}
    for each in domains.values():
        for name in each.classes:
            words.setdefault(same_class(name), name)
    learnt = set(map(same_class, space.classes))
    rows = [("class", *domains, "")]
    for word, name in words.items():
        spelled = [{same_class(each): each for each in of.classes}.get(word, "-") for of in domains.values()]
        rows.append((name, *spelled, "" if word in learnt else "ignored"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([f"Classes are matched by name; {space.num_classes} are learnt and scored:", *lines])
