"""The command `uda`: the words of the library and of the notebooks, typed in a terminal."""

import os
import shlex
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from course_lib import __version__
from course_lib.cli_data import Quiet, data

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Unsupervised domain adaptation for semantic segmentation, by adversarial and contrastive learning.",
)
app.add_typer(data, name="data")

Source = Annotated[str, typer.Option(help="Labelled source, layout:path or layout:path@split, e.g. gta5:/data/gta5.")]
Target = Annotated[str, typer.Option(help="Target for training, e.g. cityscapes:/data/cityscapes (split train).")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a constant of the recipe.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ... or mps.")]
Checkpoint = Annotated[
    Path, typer.Argument(help="A best.pt or last.pt of `uda train`, or a file that a paper's authors released.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be used, and say which.")]


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
    method: Annotated[str, typer.Argument(help="source-only, target-only (the oracle), bn-control, adaptsegnet or simclr.")],
    out: Annotated[Path, typer.Option(help="Folder for best.pt, last.pt, step_*.pt, log.jsonl and recipe.json.")],
    source: Source | None = None,
    target: Target | None = None,
    data: Annotated[str | None, typer.Option(help="For simclr, in place of both: pictures, e.g. folder:PATH.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Labelled target pictures, for --set select=target-labels alone.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The constants: ministreet (the default), ministreet_crops (simclr's), gta5_cityscapes, ..."),
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, if there is one.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Start again and lose the run in OUT.")] = False,
    device: Device = "auto",
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Same bits from the same seed.")] = False,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Train METHOD from a labelled source to an unlabelled target; simclr: on --data, pictures without any labels.

    A run that was killed goes on with the same command and --resume, bit for bit. For several processes, each with its
    part of the batch: torchrun --nproc-per-node 4 -m course_lib train ...
    """
    from course_lib import ranks
    from course_lib.engine import Stopped, StopRequest
    from course_lib.engine import deterministic as make_deterministic
    from course_lib.engine.distributed import device_of_rank, join
    from course_lib.recipes import recipe as find_recipe
    from course_lib.recipes.stages import train_recipe

    if resume and replace:
        raise ValueError("--resume goes on with the run in OUT, --replace loses it; give one of the two.")
    alone = method == "simclr"
    chosen = find_recipe(recipe or ("ministreet_crops" if alone else "ministreet"), method).override(*settings or ())
    pair = _pair(alone, source, target, data, validation, skip_bad)
    make_deterministic(deterministic)
    existing = "resume" if resume else "replace" if replace else "refuse"
    with StopRequest() as stop, join(_device(device)):
        try:
            checkpoint = train_recipe(
                chosen,
                pair,
                out,
                existing=existing,
                stop=stop,
                device=device_of_rank(_device(device)),
                quiet=quiet,
            )
        except Stopped as stopped:
            if ranks.is_main():
                print(f"uda: {stopped} Go on with the same command and --resume.", file=sys.stderr)
            # as the shell counts deaths by signal: 143 for SIGTERM (a process whose own signal has yet to come follows)
            raise typer.Exit(128 + (stop.signal or signal.SIGTERM)) from None
        except KeyboardInterrupt:
            print(f"uda: Ended at once. The last checkpoint in {out} stays: the same command and --resume.", file=sys.stderr)
            raise
        if not ranks.is_main():
            return
    print(f"Trained {method}: {checkpoint}")
    if alone:
        print("Score it: " + shlex.join(["uda", "evaluate", str(checkpoint), "--probe", "FOLDER"]) + " (train/ and test/)")
        print(f"Start a segmenter from it: uda train ... --set init_from={checkpoint}")
        return
    data = target.partition("@")[0]
    print("Score it: " + shlex.join(["uda", "evaluate", str(checkpoint), "--data", data, "--split", "val"]))


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[str | None, typer.Option(help="Labelled pictures, layout:path.")] = None,
    probe: Annotated[
        Path | None, typer.Option(help="In place of --data: a folder with train/<class>/ and test/<class>/ for a linear probe.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which part of them; default: val.")] = None,
    multiscale: Annotated[bool, typer.Option("--multiscale", help="Average six scales, plain and flipped.")] = False,
    statistics: Annotated[
        str | None,
        typer.Option(help="running (as trained) or target (re-estimated on --target); default: the recipe's."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Unlabelled pictures for statistics=target.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score CHECKPOINT: IoU per class and mIoU over 19, 16 and 13 classes where they apply; or a linear probe and nearest
    neighbours on its frozen features, after the last epoch."""
    from course_lib import ranks
    from course_lib.engine.distributed import device_of_rank, join
    from course_lib.recipes.compare import machine, write_json
    from course_lib.recipes.stages import probe_network, score_network
    from course_lib.recipes.state import how_chosen

    if (data is None) == (probe is None):
        raise ValueError("Give either --data LAYOUT:PATH, to score label maps, or --probe FOLDER, to score frozen features.")
    if probe is not None:
        scores = probe_network(checkpoint, probe, device=_device(device))
        print(scores.table())
        if out is not None:
            content = {"checkpoint": str(checkpoint), "probe": str(probe), "command": _command(), **scores.to_dict()}
            write_json(out, content | {"machine": machine()})
            print(f"Written: {out}")
        return
    validation = f"{data.partition('@')[0]}@{split}" if split else data
    with join(_device(device)):  # under torchrun each process scores its part of the pictures
        scores = score_network(
            checkpoint,
            validation,
            target=target,
            statistics=statistics,
            multiscale=multiscale,
            skip_bad=skip_bad,
            device=device_of_rank(_device(device)),
            quiet=quiet or not ranks.is_main(),
        )
        if not ranks.is_main():
            return
    chosen = how_chosen(checkpoint)
    print(scores.table())
    print(chosen)
    if out is not None:
        content = {"checkpoint": str(checkpoint), "chosen": chosen, "data": validation, "command": _command()}
        content |= scores.to_dict()
        write_json(out, content | {"machine": machine()})
        print(f"Written: {out}")


@app.command()
def predict(
    checkpoint: Checkpoint,
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


def _pair(
    alone: bool, source: str | None, target: str | None, data: str | None, validation: str | None, skip_bad: bool
):
    """The data of `uda train`: --source and --target, or --data for a method that trains on pictures alone."""
    from course_lib.recipes.stages import Pair

    if alone:
        if (data or source) is None:
            raise ValueError("simclr trains on pictures alone: give them as --data folder:PATH.")
        return Pair(data or source, target, validation, skip_bad)
    if missing := [f"--{name}" for name, value in (("source", source), ("target", target)) if value is None]:
        raise ValueError(f"Missing {' and '.join(missing)}, as LAYOUT:PATH, for example --target cityscapes:/data/cityscapes.")
    if data is not None:
        raise ValueError("--data is for simclr, which trains on pictures alone; give --source and --target.")
    return Pair(source, target, validation, skip_bad)


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
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's, of a picture that is refused with a message
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError, RuntimeError, MemoryError) as error:
        if debug:
            raise
        process = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
        print(f"uda{process}: {_message(error)}", file=sys.stderr)
        sys.exit(1)


def _message(error: Exception) -> str:
    """What the error says; of one that a loader's worker has sent with its traceback, the error alone."""
    text = str(error)
    if "out of memory" in text:  # torch's own error for every device; what follows its first sentence are addresses
        return f"{text.partition('. ')[0]}. Choose a smaller size, crop or batch_size, or --set precision=bf16."
    return text.rstrip().rpartition(f"{type(error).__name__}: ")[2] if text.startswith("Caught ") else text


if __name__ == "__main__":
    main()
