"""The command `uda`: the words of the library and of the notebooks, typed in a terminal."""

import dataclasses
import functools
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from course_lib import __version__, outside
from course_lib.cli_data import Device, Quiet, Replace, data, kept_after_ctrl_c
from course_lib.cli_labels import FewLabels, LabelChoice, LabelPixels, Labels, LabelSeed
from course_lib.cli_results import Checkpoint, Network, difference, export, score
from course_lib.os_errors import advised, is_of_mps
from course_lib.terminal import print, shown

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Unsupervised domain adaptation for semantic segmentation, by adversarial and contrastive learning.",
)
app.add_typer(data, name="data")
recipes = typer.Typer(no_args_is_help=True, help="The constants of every method on every pair of domains.")
app.add_typer(recipes, name="recipe")

Source = Annotated[str, typer.Option(help="Labelled source, layout:path or layout:path@split, e.g. gta5:/data/gta5.")]
Target = Annotated[str, typer.Option(help="Target for training, e.g. cityscapes:/data/cityscapes (split train).")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a constant of the recipe.")]
Constants = Annotated[
    str | None,
    typer.Option(help="A pair of domains whose constants are used, or a file of `uda recipe show`; default: ministreet, or "
                 "ministreet_few_labels."),
]  # fmt: skip
Validation = Annotated[str | None, typer.Option(help="Labelled target pictures; default: --target, split val.")]
Bits = Annotated[
    int | None, typer.Option(help="How many bits of 16-bit pictures hold data, e.g. 12; default: as in CHECKPOINT's training.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be used, and say which.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write what log.jsonl has for TensorBoard, too (an extra).")]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Continue though the lock of another process is in OUT.")]


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
@kept_after_ctrl_c()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: runs/demo, with --quick runs/demo_quick.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="At most a minute: fewer pictures and steps, no claims.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the networks and of the batches.")] = 0,
    take_over: TakeOver = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Adapt a network from MiniStreet's game look to its camera look; table, pictures and report in OUT."""
    from course_lib.demo import run_demo

    out = out or Path("runs/demo_quick" if quick else "runs/demo")
    run_demo(out, quick=quick, seed=seed, device=_device(device), quiet=quiet, command=_command(), take_over=take_over)


@app.command()
def train(
    method: Annotated[
        str,
        typer.Argument(help="source-only, target-only (the oracle), a method of a paper, ...: `uda recipe list` has all; or "
                       "your own, FILE.py:CLASS."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for best.pt, last.pt, step_*.pt, log.jsonl and recipe.json.")],
    source: Source | None = None,
    target: Target | None = None,
    data: Annotated[
        str | None, typer.Option(help="In place of --source, for a method that reads no labels: pictures, e.g. folder:PATH.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Labelled target pictures, for --set select=target-labels alone.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The constants; default: ministreet (with --labels and no --source: ministreet_few_labels), for a "
                     "method without classifier ministreet_crops."),
    ] = None,
    settings: Settings = None,
    labels: Labels = None,
    label_seed: LabelSeed = None,
    label_choice: LabelChoice = "random",
    label_pixels: LabelPixels = "all",
    start: Annotated[Path | None, typer.Option(help="A checkpoint whose whole network is the start.")] = None,
    pseudo_labels: Annotated[
        Path | None, typer.Option(help="For a method that learns from label files: the folder that `uda label` wrote.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT, if there is one.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Start again and lose the run in OUT.")] = False,
    take_over: TakeOver = False,
    device: Device = "auto",
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Same bits from the same seed.")] = False,
    skip_bad: SkipBad = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Train METHOD from a labelled source to an unlabelled target, or on what it reads of these.

    A run that was killed goes on with the same command and --resume, bit for bit. For several processes, each with its
    part of the batch: torchrun --nproc-per-node 4 -m course_lib train ...
    """
    from course_lib import ranks
    from course_lib.engine import deterministic as make_deterministic
    from course_lib.engine.distributed import device_of_rank
    from course_lib.experiments.classes import with_classes
    from course_lib.experiments.hints import features_hints, scoring_hint
    from course_lib.experiments.prepared_sizes import enlarged
    from course_lib.experiments.train import train_recipe
    from course_lib.methods import find_method, load_method
    from course_lib.recipes import Stage
    from course_lib.recipes import recipe as find_recipe

    if resume and replace:
        raise ValueError("--resume goes on with the run in OUT, --replace loses it; give one of the two.")
    method = load_method(method)
    segments = find_method(method).segments
    few = FewLabels(labels, label_seed, label_choice, label_pixels)
    if labels is not None and not segments:
        raise ValueError(f"{method} reads no labels: leave out --labels.")
    chosen_pair = few.pair_name(recipe, source) if segments else recipe or "ministreet_crops"
    notes = few.notes(recipe, source)
    recipe, changes = _constants(chosen_pair, method, stages=False)
    chosen, given = find_recipe(recipe, method), few.settings(recipe, [method], changes, settings, source, target)
    source, target, labelled = few.divide(recipe, source, target) if segments else (source, target, None)
    pair = _pair(chosen.override(*given), source, target, data, validation, start and str(start), skip_bad)
    pair = dataclasses.replace(pair, labelled=labelled, pseudo_labels=pseudo_labels and str(pseudo_labels))
    chosen = chosen.override(*with_classes(given, pair, quiet))
    if pseudo_labels is not None and not any(stream.labels == "files" for stream in chosen.streams.values()):
        raise ValueError(f"{method} learns from no files of pseudo-labels: leave out --pseudo-labels.")
    make_deterministic(deterministic)
    existing = "resume" if resume else "replace" if replace else "refuse"
    _tell([*notes, *enlarged([Stage(method, "train", chosen)], pair)], quiet)
    with _stoppable(device, "the same command and --resume", f"The last checkpoint in {out} stays") as stop:
        checkpoint = train_recipe(chosen, pair, out, existing=existing, stop=stop, device=device_of_rank(_device(device)),
                                  quiet=quiet, take_over=take_over, tensorboard=tensorboard)  # fmt: skip
        if not ranks.is_main():
            return
    print(f"Trained {method}:", checkpoint)
    print(scoring_hint(checkpoint, chosen, pair) if segments else "\n".join(features_hints(checkpoint, chosen)))


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
    replace: Replace = False,
    bits: Bits = None,
    settings: Network = None,
    workers: Annotated[int, typer.Option(help="Processes that load pictures, at most one a core; 0: none.")] = 0,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score CHECKPOINT: IoU per class and mIoU over 19, 16 and 13 classes where they apply; or a linear probe and nearest
    neighbours on its frozen features, after the last epoch."""
    from course_lib import ranks
    from course_lib.engine.distributed import device_of_rank, join
    from course_lib.experiments.compare import machine
    from course_lib.experiments.parts import split_of
    from course_lib.experiments.state import how_chosen
    from course_lib.experiments.train import probe_network, score_network
    from course_lib.files import refuse_foreign, write_json

    if (data is None) == (probe is None):
        raise ValueError("Give either --data LAYOUT:PATH, to score label maps, or --probe FOLDER, to score frozen features.")
    if out is not None:
        refuse_foreign(out, "uda evaluate", replace, reading=[checkpoint])
    if probe is not None:
        scores = probe_network(checkpoint, probe, bits=bits, settings=tuple(settings or ()), device=_device(device))
        about = {"probe": str(probe)}
        print(scores.table())
    else:
        validation = f"{split_of(data, '')[0]}@{split}" if split else data
        with join(_device(device)):  # under torchrun each process scores its part of the pictures
            scores = score_network(checkpoint, validation, target=target, statistics=statistics, multiscale=multiscale,
                                   skip_bad=skip_bad, bits=bits, workers=workers, settings=tuple(settings or ()),
                                   device=device_of_rank(_device(device)), quiet=quiet or not ranks.is_main())  # fmt: skip
            if not ranks.is_main():
                return
        about = {"chosen": how_chosen(checkpoint), "data": validation}
        print(scores.table())
        print(about["chosen"])
    if out is not None:
        content = {"checkpoint": str(checkpoint), **about, "command": _command(), **scores.to_dict()}
        write_json(out, content | {"machine": machine(_device(device))}, "uda evaluate", replace)
        print("Written:", out)


@app.command()
def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Your pictures (PNG, JPEG, ...), or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the coloured label maps and overlays.")],
    replace: Replace = False,
    bits: Bits = None,
    settings: Network = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Label your own pictures: OUT/<name>_labels.png (train ids with colours) and OUT/<name>_overlay.png.

    What lies below a folder keeps its place below OUT.
    """
    from course_lib.evaluation import predict as predict_images
    from course_lib.experiments.state import picture_bits
    from course_lib.experiments.train import load_network

    segmenter, recipe = load_network(checkpoint, _device(device), tuple(settings or ()))
    bits = picture_bits(checkpoint, recipe) if bits is None else bits
    written = predict_images(segmenter, images, out, recipe.space, size=recipe.test_size, bits=bits, skip_bad=skip_bad,
                             replace=replace, progress=not quiet, device=_device(device))  # fmt: skip
    for path in written:
        print(path)


@app.command()
@kept_after_ctrl_c()
def compare(
    out: Annotated[Path, typer.Option(help="Folder for results.json, results.csv, results.md and the networks.")],
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]...", help="Default: adversarial alignment, AdaptSegNet's; with few labels: ClassMix."),
    ] = None,
    source: Source | None = None,
    target: Target | None = None,
    data_root: Annotated[Path | None, typer.Option(help="In place of both: see `uda run`.")] = None,
    validation: Validation = None,
    recipe: Constants = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    settings: Settings = None,
    labels: Labels = None,
    label_seed: LabelSeed = None,
    label_choice: LabelChoice = "random",
    label_pixels: LabelPixels = "all",
    skip_bad: SkipBad = False,
    take_over: TakeOver = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """METHODs with all their stages, source-only, its controls and the oracle on several seeds, in one table.

    Each METHOD, and each row of a recipe file, has the control of equal start, augmentation and compute. Resumes where it
    stopped.
    """
    from course_lib.experiments.classes import with_classes
    from course_lib.experiments.compare import compare as run
    from course_lib.experiments.parts import whole
    from course_lib.experiments.rows import standard_rows
    from course_lib.experiments.table import table

    _alone("uda compare")
    few = FewLabels(labels, label_seed, label_choice, label_pixels)
    given, notes = source or data_root, few.notes(recipe, source or data_root)
    chosen, (recipe, changes, own) = _seeds(seeds), _compared(few.pair_name(recipe, given), methods)
    pair = _run_pair(source, target, validation, data_root, recipe, skip_bad, few)
    every = target or whole(pair.target)  # of the target's pictures, labelled or not
    compared = (*(methods or ()), *(row.method for row in own))
    overrides = with_classes(few.settings(recipe, compared, changes, settings, given, every), pair, quiet)
    rows = standard_rows(recipe, tuple(methods or ()), own, overrides)
    if missing := few.without_file(every):
        rows = tuple(row for row in rows if row.method != "target-only")
        notes.append(f"{missing} pictures of {every} have no label file: there is no oracle, which learns from all labels.")
    _tell([*notes, *pair.trained_and_scored()], quiet)
    results = run(recipe, pair, out, seeds=chosen, rows=rows, overrides=overrides, device=_device(device),
                  command=_command(), quiet=quiet, take_over=take_over)  # fmt: skip
    print(table(results))


@app.command()
@kept_after_ctrl_c()
def run(
    method: Annotated[str, typer.Argument(help="A paper's method with all its stages; of others: training, then the test.")],
    source: Source | None = None,
    target: Target | None = None,
    data_root: Annotated[
        Path | None, typer.Option(help="In place of both: a folder with GTA5 or SYNTHIA, as the recipe says, and cityscapes.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder with a folder for every stage, and report.md.")] = None,
    validation: Validation = None,
    recipe: Constants = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[STAGE.]KEY=VALUE", help="Replace a constant, of one stage or of all that have it."),
    ] = None,
    labels: Labels = None,
    label_seed: LabelSeed = None,
    label_choice: LabelChoice = "random",
    label_pixels: LabelPixels = "all",
    stage: Annotated[str | None, typer.Option(help="This stage alone; those before it have to be done.")] = None,
    show: Annotated[
        bool, typer.Option("--plan", help="Print the stages, how long they take and what memory they want here, and leave.")
    ] = False,
    take_over: TakeOver = False,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Run all stages of METHOD, each into a folder of OUT, and report. Killed, the same command continues where it was.

    --plan wants no data; with data it counts their pictures.
    """
    from course_lib import ranks
    from course_lib.engine.distributed import device_of_rank
    from course_lib.experiments.classes import with_classes
    from course_lib.experiments.data_root import pair_below
    from course_lib.experiments.estimate import plan_text
    from course_lib.experiments.plan import KIND, plan, run_plan
    from course_lib.files import refuse_foreign
    from course_lib.methods import load_method
    from course_lib.registry import find_named
    from course_lib.report import write_run_report

    method = load_method(method)
    few = FewLabels(labels, label_seed, label_choice, label_pixels)
    notes = few.notes(recipe, source or data_root)
    recipe, changes = _constants(few.pair_name(recipe, source or data_root), method)
    counted = pair_below(data_root, recipe, skip_bad, validation).target if data_root and labels else target
    given = few.settings(recipe, [method], changes, settings, source or data_root, counted)
    stages = plan(recipe, method, given)
    if stage is not None:
        find_named("stage", stage, tuple(each.name for each in stages))
    pair = _run_pair(source, target, validation, data_root, recipe, skip_bad, few, optional=show)
    stages = plan(recipe, method, with_classes(given, pair, quiet))
    _tell([*notes, *(pair.trained_and_scored() if pair else ())], quiet)
    if show:
        print(plan_text(stages, recipe, pair, _device(device), stage))
        return
    if out is None:
        raise ValueError("Missing --out, the folder that the stages are written to, for example --out runs/proca.")
    refuse_foreign(out / "report.md", KIND)
    main_says = ranks.launched().rank == 0 and not quiet
    told = (lambda text: print(f"uda: {text}", file=sys.stderr)) if main_says else (lambda text: None)
    if main_says:  # before the processes join: this one works alone
        print(plan_text(stages, recipe, pair, device_of_rank(_device(device)), stage), file=sys.stderr)
    with _stoppable(device, "the same command") as stop:
        result = run_plan(stages, pair, out, only=stage, stop=stop, device=device_of_rank(_device(device)),
                          quiet=quiet or not ranks.is_main(), tell=told, take_over=take_over,
                          tensorboard=tensorboard)  # fmt: skip
        if not ranks.is_main():
            return
    for name in ("single", "multiscale"):
        if name in result:
            print(f"{name}: mIoU {100 * result[name]['miou']:.2f}, common classes {100 * result[name]['miou_common']:.2f}")
    if result.get("quality"):
        print(f"pseudo-labels: {_quality(result['quality'])}")
    if stage in (None, stages[-1].name):
        print(write_run_report(method, stages, pair, out, command=_command(), quiet=quiet))
    print("Written:", out)


def _tell(notes: list[str], quiet: bool) -> None:
    """Notes on stderr, from one of several processes."""
    from course_lib import ranks

    if not quiet and ranks.launched().rank == 0:
        for text in notes:
            print(f"uda: note: {text}", file=sys.stderr)


@contextmanager
def _stoppable(device: str, again: str, kept: str | None = None) -> Iterator:
    """Join the processes; a request to stop, which saves what was learnt, ends the command with how to continue."""
    from course_lib import ranks
    from course_lib.engine import Stopped, StopRequest
    from course_lib.engine.distributed import join

    with StopRequest() as stop, join(_device(device)):
        try:
            yield stop
        except Stopped as stopped:
            if ranks.is_main():
                print(f"uda: {stopped} Continue with {again}.", file=sys.stderr)
            # as the shell counts deaths by signal: 143 for SIGTERM (a process whose own signal has yet to come follows)
            raise typer.Exit(128 + (stop.signal or signal.SIGTERM)) from None
        except KeyboardInterrupt:
            if kept is not None:
                print(f"uda: Ended at once. {kept}: {again}.", file=sys.stderr)
            raise


def _run_pair(
    source: str | None, target: str | None, validation: str | None, data_root: Path | None, recipe: str, skip_bad: bool,
    few: FewLabels, optional: bool = False,
):  # fmt: skip
    """The data of `uda run`: --source and --target, or what lies below --data-root; None if `optional` and none is given.

    few: how many pictures of the target are labelled; without a source these are the source.
    """
    from course_lib.experiments.data_root import pair_below
    from course_lib.experiments.parts import Pair, split_of

    if data_root is not None:
        if source is not None or target is not None:
            raise ValueError("--data-root replaces --source and --target; give it, or both of them.")
        pair = pair_below(data_root, recipe, skip_bad, validation)
        source, target, labelled = few.divide(recipe, pair.source, pair.target)
        return dataclasses.replace(pair, source=source, target=target, labelled=labelled)
    if source is None and target is None and optional:
        return None
    source, target, labelled = few.divide(recipe, source, target)
    if missing := [f"--{name}" for name, value in (("source", source), ("target", target)) if value is None]:
        raise ValueError(
            f"Missing {' and '.join(missing)}, as LAYOUT:PATH, for example --target cityscapes:/data/cityscapes; or give "
            "--data-root, a folder with all data sets. `uda run --plan` needs neither."
        )
    return Pair(source, target, validation or f"{split_of(target, '')[0]}@val", skip_bad, labelled=labelled)


@app.command()
@kept_after_ctrl_c()
def label(
    checkpoint: Checkpoint,
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder for train-id PNGs, one for every picture, and labels.json.")],
    settings: Settings = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write CHECKPOINT's pseudo-labels of the target's training pictures: what it is sure of, class by class."""
    _alone("uda label")
    from course_lib.data.layouts import parse
    from course_lib.experiments.hints import labels_hint
    from course_lib.experiments.parts import Pair
    from course_lib.experiments.plan import label_target
    from course_lib.experiments.state import load_network, network_settings
    from course_lib.files import refuse_data

    pair = Pair(None, target, None, skip_bad)
    refuse_data(out, [parse(pair.sets()["target"][0])[1]])
    network, others = network_settings(settings or ())
    chosen = load_network(checkpoint, settings=network)[1].override(*others)
    made = label_target(checkpoint, pair, out, chosen, settings=network, device=_device(device), quiet=quiet)
    print(f"{made['pictures']} pictures, {made['labelled']:.1%} of the pixels labelled:", out)
    if made["quality"] is not None:
        print(f"Where the truth is known: {_quality(made['quality'])}")
    print(labels_hint(checkpoint, chosen, target, out))


@app.command()
@kept_after_ctrl_c()
def ablate(
    method: Annotated[str, typer.Argument(help="A method whose paper has an ablation, e.g. bida.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: runs/ablate_METHOD.")] = None,
    source: Annotated[str | None, typer.Option(help="Labelled source; without it and --target: MiniStreet, made here.")] = None,
    target: Annotated[str | None, typer.Option(help="Target for training.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="In place of both: see `uda run`.")] = None,
    validation: Validation = None,
    recipe: Constants = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, 0 to N - 1, or the seeds separated by commas.")] = "3",
    rows: Annotated[str | None, typer.Option(help="Some rows alone, separated by semicolons.")] = None,
    like: Annotated[str, typer.Option(help="Which embedded source, and which of the paper's: gta5 or synthia.")] = "gta5",
    settings: Settings = None,
    labels: Labels = None,
    label_seed: LabelSeed = None,
    label_choice: LabelChoice = "random",
    label_pixels: LabelPixels = "all",
    skip_bad: SkipBad = False,
    take_over: TakeOver = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """The rows of METHOD's ablation with the controls, beside the paper's numbers: JSON, a table and a figure. Resumes.

    Rows of ministreet train equally long; those of gta5_cityscapes and synthia_cityscapes as long as published.
    """
    from course_lib.demo import ministreet_pair
    from course_lib.experiments.classes import with_classes
    from course_lib.experiments.compare import compare as run_rows
    from course_lib.experiments.parts import check_imagenet
    from course_lib.experiments.rows import ablation_rows, find_rows, row_recipe
    from course_lib.experiments.table import table
    from course_lib.files import folder_name, refuse_foreign
    from course_lib.methods import load_method
    from course_lib.recipes import find_pair
    from course_lib.report import write_ablation_figure

    _alone("uda ablate")
    few = FewLabels(labels, label_seed, label_choice, label_pixels)
    method, notes = load_method(method), few.notes(recipe, source)
    recipe, changes = _constants(few.pair_name(recipe, source), method)
    one_domain = find_pair(recipe).labels is not None
    if (source is None) != (target is None) and not (one_domain and source is None):
        raise ValueError("Give both --source and --target; or neither, with --recipe ministreet: then MiniStreet is made.")
    like = "synthia" if recipe.startswith("synthia") else like
    made = find_pair(recipe).made
    given = few.settings(recipe, [method], changes, settings, source if one_domain else "of two domains", target)
    settings = (*(("space=synthia16",) if like == "synthia" else ()), *given)
    chosen_rows = ablation_rows(method, recipe, like.upper() if made else None, settings)
    if rows is not None:
        chosen_rows = find_rows(chosen_rows, [row.strip() for row in rows.split(";")])
    out = out or Path(f"runs/ablate_{folder_name(method)}")
    refuse_foreign(out / "ablation.png", "uda ablate")
    number = int(seeds) if re.fullmatch("[0-9]{1,4000}", seeds) else 0  # one number says how many; 0 is that seed
    if number > 1000:
        raise ValueError(f"--seeds got {seeds[:40]}; one number is how many seeds there are, at most 1,000. Or list them: 0,1.")
    chosen = tuple(range(number)) or _seeds(seeds)
    if data_root is None and source is None and target is None and made:
        check_imagenet(row_recipe(chosen_rows[0], recipe, settings, chosen[0]))  # before pictures are made
        pair = ministreet_pair(400, 120, layout=like, quiet=quiet)
        source, target, labelled = few.divide(recipe, None if one_domain else pair.source, pair.target)
        pair = dataclasses.replace(pair, source=source, target=target, labelled=labelled)
    else:
        pair = _run_pair(source, target, validation, data_root, recipe, skip_bad, few)
    if (matched := with_classes(given, pair, quiet)) != given:
        settings = matched
    _tell([*notes, *pair.trained_and_scored()], quiet)
    results = run_rows(recipe, pair, out, seeds=chosen, rows=chosen_rows, overrides=settings,
                       device=_device(device), command=_command(), quiet=quiet, take_over=take_over)  # fmt: skip
    print(table(results))
    print("Written:", out / "results.json", "results.csv", "results.md", write_ablation_figure(results, out / "ablation.png"))


for command in (export, score, difference):
    app.command()(command)


@recipes.command("show")
def show_recipe(
    pair: Annotated[str, typer.Argument(help="A pair of domains, e.g. gta5_cityscapes.")],
    method: Annotated[str, typer.Argument(help="A method, e.g. bida.")],
    settings: Settings = None,
) -> None:
    """Print every constant of METHOD on PAIR, by section, and where it comes from."""
    from course_lib.experiments.show import recipe_text
    from course_lib.methods import load_method

    print(recipe_text(pair, load_method(method), tuple(settings or ())))


@recipes.command("list")
def list_recipes() -> None:
    """Print the pairs of domains, the methods and their papers, and the terms."""
    from course_lib.experiments.show import listing

    print(listing())


def _constants(recipe: str, method: str, stages: bool = True) -> tuple[str, tuple[str, ...]]:
    """(pair, changes) of --recipe: the pair itself, or a recipe file, whose method has to be METHOD. stages: whether changes of
    single stages are of use."""
    from course_lib.experiments.recipe_file import is_file, read_recipe

    if not is_file(recipe):
        return recipe, ()
    found = read_recipe(recipe)
    if found.method != method:
        raise ValueError(f"{recipe} is a recipe of {found.method}; METHOD is {method}. Give the same.")
    return found.pair, found.changes if stages else found.own_changes


def _compared(recipe: str, methods: list[str] | None):
    """(pair, changes, rows) of --recipe; a recipe file without rows is a row of its method, unless METHODs are given."""
    from course_lib.experiments.recipe_file import is_file, read_recipe
    from course_lib.experiments.rows import method_row

    if not is_file(recipe):
        return recipe, (), ()
    found = read_recipe(recipe)
    rows = found.rows or (() if methods else (method_row(found.method),))
    return found.pair, found.changes, rows


def _quality(found: dict) -> str:
    accuracy = "unknown (none is labelled)" if found["accuracy"] is None else f"{found['accuracy']:.1%}"
    return f"density {found['density']:.1%}, accuracy {accuracy}"


def _alone(command: str) -> None:
    """Commands that start processes of their own, or need one, refuse to be started several times into one folder."""
    from course_lib import ranks

    if (processes := ranks.launched().count) > 1:
        raise ValueError(f"{command} was started as {processes} processes; start one. `uda run` and `uda train` take several.")


def _pair(recipe, source: str | None, target: str | None, data: str | None, validation: str | None, start: str | None,
          skip_bad: bool):  # fmt: skip
    """The data of `uda train`, as far as the recipe's method reads it."""
    from course_lib.experiments.parts import Pair

    streams = recipe.streams
    unlabelled = all(stream.labels == "none" for stream in streams.values())
    if data is not None and not unlabelled:
        raise ValueError(f"--data is for a method that reads no labels; {recipe.method} wants --source and --target.")
    given = {"source": data or source, "target": target}
    wanted = [*streams, *(["source"] if recipe.has_start and not recipe.start_from and start is None else [])]
    if missing := [name for name in given if given[name] is None and name in wanted]:
        if unlabelled and "target" not in streams:
            raise ValueError(f"{recipe.method} trains on pictures alone: give them as --data folder:PATH.")
        few = missing == ["source"] and _in_one_domain(recipe.method)
        raise ValueError(
            f"Missing {' and '.join(f'--{name}' for name in missing)}, as LAYOUT:PATH, for example --{missing[-1]} "
            f"{'cityscapes:/data/cityscapes' if missing[-1] == 'target' else 'gta5:/data/gta5'}"
            f"{', or --labels: how many pictures of --target are labelled' * few}."
        )
    return Pair(given["source"], target, validation, skip_bad, start)


def _in_one_domain(method: str) -> bool:
    """Whether a method is one for few labels."""
    from course_lib.recipes import own_paper

    paper = own_paper(method)
    return method == "supervised" or (paper is not None and paper.few_labels)


def _seeds(text: str) -> tuple[int, ...]:
    seeds = text.split(",")
    if not all(re.fullmatch("[0-9]{1,18}", seed.strip()) for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
        raise ValueError(
            f"--seeds got {text[:80]!r}; it wants different whole numbers, 0 or more, separated by commas, for example 0,1,2."
        )
    return tuple(map(int, seeds))


def _device(name: str):
    from course_lib.engine import choose_device

    if name == "auto":
        _tell_of_mps()
    return choose_device(name)


@functools.cache  # a command asks for its device more than once
def _tell_of_mps() -> None:
    import torch

    from course_lib import ranks

    if torch.backends.mps.is_available() and not torch.cuda.is_available() and ranks.launched().rank == 0:
        print("uda: note: Running on the CPU. --device mps may be faster on this Mac; it is untested.", file=sys.stderr)


def _at_home(word: str) -> str:
    """A word of the command line with ~ replaced by the home folder: shells leave it in `--out=~/x` and in quoted words.

    >>> _at_home("--out=~/a") == f"--out={Path.home()}/a", _at_home("init_from=~/a") == f"init_from={Path.home()}/a"
    (True, True)
    """
    before = re.match(r"([\w.-]+=)*", word)[0]
    return before + os.path.expanduser(word[len(before) :])


def _command() -> str:
    return shlex.join(["uda", *sys.argv[1:]])


EXPECTED = (ValueError, OSError, FloatingPointError, ImportError, RuntimeError, MemoryError)


def main() -> None:
    """Entry point: an expected error is one message and exit status 1; `--debug`, anywhere, shows where it came from."""
    debug = "--debug" in sys.argv
    sys.argv = [_at_home(word) for word in sys.argv if word != "--debug"]
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # torch reads it when it is imported, below this line
    warnings.formatwarning = _warning
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's, of a picture that is refused with a message
    try:
        app()
    except Exception as error:
        if debug or not (isinstance(error, EXPECTED) or is_of_mps(error)):
            raise
        place = outside.place(error)
        print(f"uda{_process()}: {shown(advised(error))}{place}", file=sys.stderr)  # one line, whatever names are in it
        sys.exit(1)


def _process() -> str:
    """Which of several processes this is, for a message; nothing where the environment is broken."""
    from course_lib import ranks

    with suppress(ValueError):
        job = ranks.launched()
        return f" (process {job.rank})" if job.count > 1 else ""
    return ""


_default_format = warnings.formatwarning


def _warning(message: Warning | str, *rest) -> str:
    return _default_format(shown(message), *rest)
