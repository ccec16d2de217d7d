"""From one folder with all data sets to the pair of a recipe."""

from pathlib import Path

from course_lib.data.prepared import MANIFEST
from course_lib.recipes import recipe as find_recipe
from course_lib.recipes.parts import Pair

NAMES = {"gta5": ("GTA5", "gta5"), "synthia": ("SYNTHIA", "synthia"), "cityscapes": ("cityscapes", "Cityscapes")}  # folders


def pair_below(root: Path | str, recipe_name: str, skip_bad: bool = False) -> Pair:
    """The pair of a recipe below `root`: GTA5 (SYNTHIA for recipes on its classes) and cityscapes, with its val for scoring.

    A folder of these names that `uda data prepare` made is read as prepared. Raises FileNotFoundError that says which folders
    were looked for.
    """
    root, space = Path(root), find_recipe(recipe_name, "adaptsegnet").space
    if space.startswith("camvid"):
        raise ValueError(f"--data-root knows no CamVid, which {recipe_name!r} wants. Give --source and --target.")
    found = {}
    for layout in ("synthia" if space.startswith("synthia") else "gta5", "cityscapes"):
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
    return Pair(source, target, f"{target}@val", skip_bad)
