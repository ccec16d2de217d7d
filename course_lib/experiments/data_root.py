"""From one folder with all data sets to the pair of a recipe."""

from pathlib import Path

from course_lib.data.prepared import MANIFEST, read_manifest
from course_lib.experiments.parts import Pair
from course_lib.recipes import find_pair

NAMES = {"gta5": ("GTA5", "gta5"), "synthia": ("SYNTHIA", "synthia"), "cityscapes": ("cityscapes", "Cityscapes")}  # folders


def pair_below(root: Path | str, recipe_name: str, skip_bad: bool = False, validation: str | None = None) -> Pair:
    """The pair of a recipe below `root`: its source (GTA5 or SYNTHIA) and cityscapes, with its val for scoring.

    A folder of these names that `uda data prepare` made is read as prepared. validation: other pictures to score on. Raises
    FileNotFoundError that says which folders were looked for, or that nothing is there to score on.
    """
    root, source_layout = Path(root).expanduser(), find_pair(recipe_name).source_layout
    if source_layout is None:
        one = find_pair(recipe_name).labels is not None
        give = "--target LAYOUT:PATH and --labels" if one else "--source and --target"
        raise ValueError(f"--data-root does not know the data sets of {recipe_name!r}. Give {give}.")
    found = {}
    for layout in (source_layout, "cityscapes"):
        there = [root / name for name in NAMES[layout] if (root / name).is_dir()]
        if not there:
            looked = " or ".join(str(root / name) for name in NAMES[layout])
            raise FileNotFoundError(
                f"No folder {looked}, which --recipe {recipe_name} wants as {layout}. Put (or link) the data set there, or "
                "give --source and --target instead of --data-root."
            )
        prepared = (there[0] / MANIFEST).is_file()
        found[layout] = f"{'prepared' if prepared else layout}:{there[0]}"
    source, target = found.values()
    layout, _, folder = target.partition(":")
    if validation is None and layout == "prepared" and "val" not in read_manifest(folder).splits:
        raise FileNotFoundError(
            f"{folder} was prepared without the split val, on which is scored. Score on the originals: --validation "
            "cityscapes:PATH@val."
        )
    return Pair(source, target, validation or f"{target}@val", skip_bad)
