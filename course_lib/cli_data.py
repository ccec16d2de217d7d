"""`uda data`: make embedded data sets; check those on disk, and resize them once, before a long run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from course_lib.terminal import print, shown

data = typer.Typer(no_args_is_help=True, help="Make, check and prepare data sets.")

Bits = Annotated[int, typer.Option(help="How many bits of 16-bit pictures hold data: with 12, the value 4095 is white.")]
Device = Annotated[str, typer.Option(help="auto (CUDA or else the CPU), cpu, cuda, cuda:1, ... or mps (untested).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite a file that no earlier call wrote.")]
KIND = "uda data check"  # in a report


@contextmanager
def kept_after_ctrl_c() -> Iterator[None]:
    """For a command that continues where it stopped: Ctrl-C prints how."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nuda: Stopped by Ctrl-C. What is done is kept: repeat the same command to continue.", file=sys.stderr)
        raise


@data.command("make")
@kept_after_ctrl_c()
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
    part = f"@{split}" if layout == "cityscapes" and split != "train" else ""
    print(f"{count} pictures in {shown(folder)}. Use them as {layout}:{shown(folder)}{part}")


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
    print(f"{count} pictures without labels: folder:{shown(folder / 'unlabelled')}. With labels, for --probe: {shown(folder)}")


@data.command("prepare")
@kept_after_ctrl_c()
def prepare(
    spec: Annotated[str, typer.Argument(metavar="LAYOUT:PATH", help="The originals, e.g. gta5:/data/GTA5.")],
    out: Annotated[Path, typer.Option(help="Folder of the result, beside the originals or on another disk.")],
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT, the largest that a recipe reads; GTA5: 1280x720 for ProCA.")],
    split: Annotated[list[str] | None, typer.Option(help="Which part; may be repeated; default: train.")] = None,
    images: Annotated[str, typer.Option(help="jpeg (quality 95, 4:4:4) or lossless (slower, larger).")] = "jpeg",
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Pictures alone, as of a target.")] = False,
    bits: Bits = 16,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out and record pairs that cannot be used.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Resize a data set once, labels as train ids: training then reads it several times faster, as prepared:OUT."""
    from course_lib.data import prepare as prepare_data
    from course_lib.data.examine import summary
    from course_lib.data.prepared import notes_on
    from course_lib.recipes.recipe import Size, parse

    splits = tuple(split or ["train"])
    manifest = prepare_data(spec, out, parse("size", size, Size), splits=splits, images=images, labelled=not no_labels,
                            bits=bits, skip_bad=skip_bad, workers=workers, progress=not quiet)  # fmt: skip
    for name in splits:
        part = manifest.splits[name]
        spec = f"prepared:{shown(out)}" + (f"@{name}" if name != "train" else "")
        print(f"{len(part.pictures)} pictures of {size}. Use them as {spec}")
        if part.left_out:
            print(summary(part.left_out))
        for note in notes_on(manifest.settings, part):
            print(note if note.startswith("Warning") else f"note: {note}")
    if set(splits) - {"train", "all"} and not no_labels:
        print("Labels are reduced too: a score that is to stand beside published ones is taken on the originals.")


@data.command("describe")
def describe(
    folder: Annotated[Path, typer.Argument(help="The folder with the pictures and their labels.")],
    beside: Annotated[bool, typer.Option("--beside", help="Write the file next to FOLDER, not into it.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads; default: one a core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Look at a data set of your own and write a first dataset.toml: patterns, ids or colours with their shares, splits."""
    from course_lib.data.describing import describe as look

    found = look(folder, beside=beside, workers=workers, progress=not quiet)
    print(found.summary())
    print("Written:", shown(found.file), "- name the classes in it, then: uda data check", f"own:{shown(folder)}")


@data.command("choose")
def choose(
    spec: Annotated[str, typer.Argument(metavar="LAYOUT:PATH", help="The pictures; @SPLIT may follow.")],
    network: Annotated[Path, typer.Option(help="A checkpoint whose features tell pictures apart, best one of depth.")],
    count: Annotated[int, typer.Option(help="How many pictures.")],
    out: Annotated[Path, typer.Option(help="The list: one name a line, for --labels.")],
    student: Annotated[
        Path | None, typer.Option(help="A checkpoint that learnt depth from the labelled pictures: what it gets wrong counts.")
    ] = None,
    begin: Annotated[Path | None, typer.Option(help="A list of pictures that are labelled already.")] = None,
    seed: Annotated[int, typer.Option(help="Without --begin: which picture is the first.", min=0)] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="network=NAME", help="Which network --network holds, where it is code of your own."),
    ] = None,
    student_settings: Annotated[
        list[str] | None, typer.Option("--student-set", metavar="network=NAME", help="The same of --student.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be used.")] = False,
    replace: Replace = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Choose the pictures to label: each the farthest from those before it (SegSDF). No label is looked at."""
    from course_lib.engine import choose_device
    from course_lib.experiments.farthest import farthest_names
    from course_lib.files import refuse_foreign, write_whole

    read = [path for path in (network, student, begin) if path]
    refuse_foreign(out, "uda data choose", replace, reading=[*read, *_read_below(spec, out)])
    if student_settings and student is None:
        raise ValueError("--student-set says which network --student holds; give --student FILE, or leave it out.")
    names = farthest_names(network, spec, count, student=student, begin=begin, seed=seed, skip_bad=skip_bad,
                           settings=tuple(settings or ()), student_settings=tuple(student_settings or ()),
                           device=choose_device(device), quiet=quiet)  # fmt: skip
    write_whole(out, "".join(f"{name}\n" for name in names))
    print("Written:", out)


def _read_below(spec: str, out: Path, split: str | None = None) -> list[Path]:
    """What a command reads of a data set, as far as `out` could be it: its dataset.toml, the list of the split, a picture."""
    from course_lib.data.description import OWN, own_file
    from course_lib.data.layouts import parse
    from course_lib.data.names import PICTURES
    from course_lib.experiments.parts import split_of

    text, found = split_of(spec, "train")
    name, root = parse(text)
    own = [own_file(root)] if name == OWN else []
    folder = root if root.is_dir() else root.parent
    inside = folder.resolve() in out.resolve().parents
    return [*own, folder / f"{split or found}.txt", *([out] if inside and out.suffix.lower() in PICTURES else [])]


@data.command("check")
def check(
    spec: Annotated[str, typer.Argument(metavar="LAYOUT:PATH", help="e.g. gta5:/data/GTA5; @SPLIT may follow.")],
    split: Annotated[str | None, typer.Option(help="Which part; default: train.")] = None,
    space: Annotated[str | None, typer.Option(help="Classes to count; default: cityscapes19 (CamVid: camvid11).")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Look at the pictures alone, as of a target.")] = False,
    bits: Bits = 16,
    workers: Annotated[int | None, typer.Option(help="Threads; default: one a core.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the report, all problems in it, to this JSON file.")] = None,
    replace: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Read every file of a data set: counts, sizes, classes, problems and their cures. Exit status 1 if there are any."""
    from course_lib.data import check as check_data
    from course_lib.experiments.train import split_of
    from course_lib.files import refuse_foreign, write_json

    if out is not None:
        refuse_foreign(out, KIND, replace, reading=_read_below(spec, out, split))
    name, found = split_of(spec, "train")
    report = check_data(name, split or found, space, labelled=not no_labels, bits=bits, workers=workers, progress=not quiet)
    print(report.table())
    if out is not None:
        write_json(out, report.to_dict(), KIND, replace)
        print("Written:", out)
    raise typer.Exit(int(not report.ok))
