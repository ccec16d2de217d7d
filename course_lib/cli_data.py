"""`uda data`: make embedded data sets, and look at those on disk before a long run."""

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True, help="Make and check data sets.")

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@data.command("make")
def make(
    name: Annotated[str, typer.Argument(help="ministreet")],
    layout: Annotated[str, typer.Option("--as", help="Folders and encodings: gta5, synthia or cityscapes.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    count: Annotated[int, typer.Option(help="Number of pictures.")],
    seed: Annotated[int, typer.Option(help="Sets of different seeds share no scene.")] = 0,
    split: Annotated[str, typer.Option(help="Cityscapes: train or val.")] = "train",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT.")] = "256x128",
    gap: Annotated[float | None, typer.Option(help="Strength of the camera look: 0 is the game look, 1 the full gap.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write embedded street scenes in the folders and encodings of a real data set."""
    from course_lib.data import ministreet
    from course_lib.recipes.recipe import Size, parse

    if name != "ministreet":
        raise ValueError(f"There is no data set {name!r} to make; there is: ministreet.")
    options = {} if gap is None else {"gap": gap}
    size = parse("size", size, Size)
    folder = ministreet.make(layout, out, count, seed, split=split, size=size, progress=not quiet, **options)
    print(f"{count} pictures in {folder}. Use them as {layout}:{folder}")


@data.command("crops")
def crops(
    out: Annotated[Path, typer.Option(help="Folder of the set: unlabelled/, train/<class>/, test/<class>/.")],
    count: Annotated[int, typer.Option(help="Number of unlabelled pictures.")] = 4000,
    seed: Annotated[int, typer.Option(help="Sets of different seeds share no street.")] = 0,
    per_class: Annotated[int, typer.Option(help="Labelled pictures of each class.")] = 20,
    test_per_class: Annotated[int, typer.Option(help="Test pictures of each class.")] = 60,
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 32,
    look: Annotated[str, typer.Option(help="game or camera.")] = "game",
    quiet: Quiet = False,
) -> None:
    """Cut cars, people, signs, ... out of embedded streets: many pictures without labels, few with, for `uda train simclr`."""
    from course_lib.data.ministreet import make_crops

    numbers = {"per_class": per_class, "test_per_class": test_per_class}
    folder = make_crops(out, count, seed, size=size, look=look, progress=not quiet, **numbers)
    print(f"{count} pictures without labels: folder:{folder / 'unlabelled'}. With labels, for --probe: {folder}")


@data.command("check")
def check(
    spec: Annotated[str, typer.Argument(metavar="LAYOUT:PATH", help="e.g. gta5:/data/GTA5; @SPLIT may follow.")],
    split: Annotated[str | None, typer.Option(help="Which part; default: train.")] = None,
    space: Annotated[str | None, typer.Option(help="Classes to count; default: cityscapes19, of CamVid camvid11.")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Look at the pictures alone, as of a target.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads; default: one a core.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the report, all problems in it, to this JSON file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Read every file of a data set: counts, sizes, classes, problems and their cures. Exit status 1 if there are any."""
    from course_lib.data import check as check_data
    from course_lib.recipes.compare import write_json
    from course_lib.recipes.stages import split_of

    name, found = split_of(spec, "train")
    report = check_data(name, split or found, space, labelled=not no_labels, workers=workers, progress=not quiet)
    print(report.table())
    if out is not None:
        write_json(out, report.to_dict())
        print(f"Written: {out}")
    raise typer.Exit(int(not report.ok))
