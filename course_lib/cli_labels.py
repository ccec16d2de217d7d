"""Options of the command line for few labels: which pictures are labelled, which of their pixels, and what follows from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import typer

Labels = Annotated[
    str | None,
    typer.Option("--labels", help="Few labels: so many pictures of --target are labelled, 20, or 1/30 of them, or those of a "
                 "list file; the others are not."),
]  # fmt: skip
LabelSeed = Annotated[int | None, typer.Option("--label-seed", min=0, help="Which ones; default: 0.")]
LabelChoice = Annotated[str, typer.Option("--label-choice", help="random, or class-balanced (every class about as often).")]
LabelPixels = Annotated[
    str, typer.Option("--label-pixels", help="Of each class of a labelled picture: 1 pixel, a share such as 5%, or all.")
]
COUNTED = "terms.memory_contrast.labelled"


@dataclass(frozen=True)
class FewLabels:
    """The four options."""

    labels: str | None = None
    seed: int | None = None
    choice: str = "random"
    pixels: str = "all"

    def check(self) -> None:
        """ValueError for options that say how labelled pictures are chosen where none are."""
        options = {"--label-seed": self.seed not in (None, 0), "--label-choice": self.choice != "random",
                   "--label-pixels": self.pixels != "all"}  # fmt: skip
        if self.labels is None and any(options.values()):
            raise ValueError(f"{next(name for name, given in options.items() if given)} wants --labels: how many there are.")

    def pair_name(self, recipe: str | None, source: str | None) -> str:
        """--recipe, or what it is where it is not given."""
        return recipe or ("ministreet_few_labels" if self.labels is not None and source is None else "ministreet")

    def notes(self, recipe: str | None, source: str | None) -> list[str]:
        """What a user may not expect: whose constants a command without --recipe has."""
        if self.labels is None or recipe is not None:
            return []
        full = "cityscapes_few_labels" if source is None else "gta5_cityscapes"
        return [f"The constants are those of {self.pair_name(None, source)}, small pictures and few steps. Name others with "
                f"--recipe, such as {full}."]  # fmt: skip

    def divide(self, recipe: str, source: str | None, target: str | None) -> tuple[str | None, str | None, str | None]:
        """(source, target, labelled) as `Pair` has them: without a source, the target's labelled pictures are the source; with
        one, they are a third stream, of the term `few_labels`."""
        from course_lib.experiments.parts import divided
        from course_lib.recipes import find_pair

        self.check()
        labels = self.labels if self.labels is not None or source is not None else find_pair(recipe).labels
        if labels is None:
            return source, target, None
        if target is None:
            if self.labels is None:
                return source, target, None
            raise ValueError("--labels says how many pictures of the target are labelled: give --target LAYOUT:PATH.")
        labelled, others = divided(target, labels, self.seed, self.choice, self.pixels)
        return (labelled, others, None) if source is None else (source, others, labelled)

    def without_file(self, target: str | None) -> int:
        """How many pictures of the target have no label file, where few of them are labelled; 0 in other commands."""
        from course_lib.data.layouts import parse, survey
        from course_lib.experiments.parts import split_of

        if self.labels is None or target is None:
            return 0
        text, split = split_of(target, "train")
        pictures, _ = survey(*parse(text), split, labelled=False)
        try:
            labelled, _ = survey(*parse(text), split)
        except (OSError, ValueError):  # no labels at all: what is labelled is reported where it is opened
            return len(pictures)
        return len(pictures) - len(labelled)

    def terms(self, source: str | None) -> tuple[str, ...]:
        """The setting that adds the term of the third stream, where there is a source."""
        return () if self.labels is None or source is None else ("terms=+few_labels",)

    def settings(
        self, recipe: str, methods: Iterable[str], changes: tuple[str, ...], given: list[str] | None, source: str | None,
        target: str | None,
    ) -> tuple[str, ...]:  # fmt: skip
        """All settings of a command: those of its recipe file, what follows from few labels, and its own, which come last."""
        own = (*changes, *self.terms(source), *(given or ()))
        return (*own, *self.counted(recipe, methods, own, target))

    def counted(
        self, recipe: str, methods: Iterable[str], given: tuple[str, ...], target: str | None = None
    ) -> tuple[str, ...]:
        """The setting of a term that depends on the number of labelled pictures, where one of these methods has the term, and
        `given`, the command's settings, do not set it. A share or a list is counted among the target's pictures."""
        from course_lib.data.layouts import find_pairs, parse
        from course_lib.experiments.parts import divided, split_of
        from course_lib.recipes import overridden
        from course_lib.recipes import recipe as find_recipe

        name = COUNTED.rpartition(".")[2]  # no other setting has it
        said = any(text.partition("=")[0].strip().rpartition(".")[2] == name for text in given)
        if said or self.labels is None:
            return ()
        chosen = (overridden({"": find_recipe(recipe, method)}, given, strict=False)[""] for method in methods)
        if not any(each.has(COUNTED) for each in chosen):
            return ()
        if self.labels.isdecimal():
            return (f"{COUNTED}={int(self.labels)}",) if int(self.labels) else ()
        if target is None:
            return ()
        text, split = split_of(divided(target, self.labels, self.seed, self.choice, self.pixels)[0], "train")
        return (f"{COUNTED}={len(find_pairs(*parse(text), split))}",)
