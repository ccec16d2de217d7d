"""The command `uda`: the words of the library and of the notebooks, typed in a terminal."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from course_lib import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Unsupervised domain adaptation for semantic segmentation, by adversarial and contrastive learning.",
)
data = typer.Typer(no_args_is_help=True, help="Make data sets.")
app.add_typer(data, name="data")

Source = Annotated[str, typer.Option(help="Labelled source, layout:path or layout:path@split, e.g. gta5:/data/gta5.")]
Target = Annotated[str, typer.Option(help="Target for training, e.g. cityscapes:/data/cityscapes (split train).")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a constant of the recipe.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ... or mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"course_lib {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: runs/demo, with --quick runs/demo_quick.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="At most a minute: fewer pictures and steps, no claims.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the networks and of the batches.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Adapt a network from MiniStreet's game look to its camera look; table, pictures and report in OUT."""
    from course_lib.demo import run_demo

    out = out or Path("runs/demo_quick" if quick else "runs/demo")
    run_demo(out, quick=quick, seed=seed, device=_device(device), quiet=quiet, command=_command())


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="source-only, target-only (the oracle), bn-control or adaptsegnet.")],
    source: Source,
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder for last.pt, log.jsonl and recipe.json.")],
    recipe: Annotated[str, typer.Option(help="The constants: ministreet, gta5_cityscapes, ...")] = "ministreet",
    settings: Settings = None,
    device: Device = "auto",
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Same bits from the same seed.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train METHOD from a labelled source to an unlabelled target."""
    from course_lib.engine import deterministic as make_deterministic
    from course_lib.recipes import recipe as find_recipe
    from course_lib.recipes.stages import Pair, train_recipe

    chosen = find_recipe(recipe, method).override(*settings or ())
    make_deterministic(deterministic)
    checkpoint = train_recipe(chosen, Pair(source, target), out, device=_device(device), quiet=quiet)
    data = target.partition("@")[0]
    print(f"Trained {method}: {checkpoint}")
    print("Score it: " + shlex.join(["uda", "evaluate", str(checkpoint), "--data", data, "--split", "val"]))


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A last.pt of `uda train`.")],
    data: Annotated[str, typer.Option(help="Labelled pictures, layout:path.")],
    split: Annotated[str | None, typer.Option(help="Which part of them; default: val.")] = None,
    multiscale: Annotated[bool, typer.Option("--multiscale", help="Average six scales, plain and flipped.")] = False,
    statistics: Annotated[
        str | None,
        typer.Option(help="running (as trained) or target (re-estimated on --target); default: the recipe's."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Unlabelled pictures for statistics=target.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score CHECKPOINT: IoU per class and mIoU over 19, 16 and 13 classes where they apply."""
    from course_lib.recipes.compare import machine, write_json
    from course_lib.recipes.stages import score_network

    validation = f"{data.partition('@')[0]}@{split}" if split else data
    scores = score_network(
        checkpoint,
        validation,
        target=target,
        statistics=statistics,
        multiscale=multiscale,
        device=_device(device),
        quiet=quiet,
    )
    print(scores.table())
    if out is not None:
        content = {"checkpoint": str(checkpoint), "data": validation, "command": _command(), **scores.to_dict()}
        write_json(out, content | {"machine": machine()})
        print(f"Written: {out}")


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A last.pt of `uda train`.")],
    images: Annotated[list[Path], typer.Argument(help="Your pictures (PNG, JPEG, ...).")],
    out: Annotated[Path, typer.Option(help="Folder for the coloured label maps and overlays.")],
    device: Device = "auto",
) -> None:
    """Label your own pictures: OUT/<name>_labels.png (train ids with colours) and OUT/<name>_overlay.png."""
    from course_lib.evaluation import predict as predict_images
    from course_lib.recipes.stages import load_network

    segmenter, recipe = load_network(checkpoint, _device(device))
    for path in predict_images(segmenter, images, out, recipe.space, size=recipe.test_size, device=_device(device)):
        print(path)


@app.command()
def compare(
    source: Source,
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder for results.json, results.md and the networks.")],
    validation: Annotated[str | None, typer.Option(help="Labelled target pictures; default: --target, split val.")] = None,
    recipe: Annotated[str, typer.Option(help="The constants.")] = "ministreet",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    settings: Settings = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Source-only, its controls, AdaptSegNet and the oracle on several seeds, in one table. Resumes where it stopped."""
    from course_lib.recipes.compare import compare as run
    from course_lib.recipes.compare import table
    from course_lib.recipes.stages import Pair

    pair = Pair(source, target, validation or f"{target.partition('@')[0]}@val")
    results = run(
        recipe,
        pair,
        out,
        seeds=_seeds(seeds),
        overrides=tuple(settings or ()),
        device=_device(device),
        command=_command(),
        quiet=quiet,
    )
    print(table(results))


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


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise ValueError(f"--seeds got {text!r}; it wants whole numbers separated by commas, for example 0,1,2.") from None


def _device(name: str):
    from course_lib.engine import choose_device

    return choose_device(name)


def _command() -> str:
    return shlex.join(["uda", *sys.argv[1:]])


def main() -> None:
    """Entry point: an expected error is one message and exit status 1; `--debug`, anywhere, shows where it came from."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if debug:
            raise
        print(f"uda: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
