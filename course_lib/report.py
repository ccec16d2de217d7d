"""Reports. Of a comparison: one HTML page with its figures beside it, readable without a server or a network. Of a run of all
stages of a paper: a Markdown page beside the published scores."""

import html
import io
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from course_lib.classroom import figures
from course_lib.data import NORMALISATIONS, test_transform
from course_lib.data.layouts import parse
from course_lib.data.ministreet.making import MADE_BY
from course_lib.data.prepared import read_manifest
from course_lib.engine import load_checkpoint
from course_lib.evaluation import ids_of
from course_lib.evaluation.labelling import MANIFEST, read_labels
from course_lib.experiments.areas import area_curve
from course_lib.experiments.compare import machine, row_folder
from course_lib.experiments.looks import label_table
from course_lib.experiments.parts import opened
from course_lib.experiments.plan import KIND as RUN
from course_lib.experiments.plan import folder_of, read_scores, stage_times
from course_lib.experiments.prepared_sizes import enlarged
from course_lib.experiments.rows import ORACLE
from course_lib.experiments.table import table
from course_lib.experiments.train import Pair, load_network
from course_lib.files import comment, mark, read_json, refuse_foreign, write_result
from course_lib.labels import label_space
from course_lib.outside import is_reference
from course_lib.recipes import METHODS, Stage, find_pair, own_paper
from course_lib.recipes.paper import PublishedScore
from course_lib.terminal import code, duration, gigabytes, in_markdown, shown

STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: .9rem }
td, th { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 100% } h1, h2 { line-height: 1.2 }"""


KIND = "uda demo"  # in the page and its figures
CAPTIONS = {
    "domains": "Source pictures with labels, target pictures without.",
    "predictions": "The same target pictures, labelled by each network, and the truth.",
    "iou": "IoU of each class on the labelled target validation pictures, sorted by the last row's.",
}


def refuse_foreign_report(out: Path | str) -> None:
    """Raise FileExistsError where `write_report` would overwrite a file that it did not write."""
    for path in (Path(out) / "report.html", *(Path(out) / "figures" / f"{name}.png" for name in ("first", *CAPTIONS))):
        refuse_foreign(path, KIND)


def write_report(results: dict[str, Any], pair: Pair, out: Path | str, *, pictures: int = 3, device: str = "cpu") -> Path:
    """Write `out/report.html` and `out/figures/`: the table, the two domains, labels before and after, IoU per class.

    `results` comes from `compare`, whose networks lie in `out` too. Returns the path of the page.
    """
    out, rows = Path(out), results["rows"]
    seed = next(iter(next(iter(rows.values()))["seeds"]))
    networks = {  # what a reader compares, in the order of the columns
        name: row_folder(out, name, seed) / "best.pt"
        for name, row in rows.items()
        if name in (*METHODS, ORACLE) and row["network_of"] is None
    }
    figures_of = {
        "domains": _domains(networks["source-only"], pair, pictures),
        "predictions": _predictions(networks, pair, pictures, device),
        "iou": _iou(rows, seed, results["space"]),
    }
    title = html.escape(shown(results["recipe"]))
    page = [f"<!doctype html>{comment(KIND)}<meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"]
    page += [f"<h1>{title}: from source to target</h1>", _html_table(table(results))]
    for name, figure in figures_of.items():
        _save(figure, out / "figures" / f"{name}.png", KIND)
        page.append(f'<h2>{CAPTIONS[name]}</h2>\n<img src="figures/{name}.png" alt="{CAPTIONS[name]}">')
    return write_result(out / "report.html", "\n".join(page) + "\n", KIND)


def _save(figure: Figure, path: Path, kind: str) -> Path:
    """Write a figure as PNG whole, over an older one of that kind alone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Comment": mark(kind)})
    return write_result(path, buffer.getvalue(), kind)


def first_picture(out: Path | str, name: str, seed: int, pair: Pair, *, device: str = "cpu") -> Path:
    """Write `out/figures/first.png`: target pictures, what the network of one row makes of them, the truth."""
    checkpoint = row_folder(out, name, seed) / "best.pt"
    return _save(_predictions({name: checkpoint}, pair, 3, device), Path(out) / "figures" / "first.png", KIND)


def write_ablation_figure(results: dict[str, Any], path: Path) -> Path:
    """Draw the rows of an ablation, every seed a point and the mean a bar, the paper's number beside where it has one."""
    return _save(figures.ablation(results["rows"]), path, "uda ablate")


def _samples(checkpoint: Path, text: str, split: str, count: int, labelled: bool = True):
    """The first pictures of a data set as the network of `checkpoint` sees them, and the network's conventions."""
    segmenter, recipe = load_network(checkpoint)
    dataset = opened(recipe, text, split, test_transform(recipe.test_size, segmenter.normalisation), labelled)
    samples = [dataset[i] for i in range(min(count, len(dataset)))]
    images = [NORMALISATIONS[segmenter.normalisation].denormalise(sample.image) for sample in samples]
    return samples, images, recipe


def _domains(checkpoint: Path, pair: Pair, count: int):
    source, source_images, recipe = _samples(checkpoint, pair.source, "train", count)
    _, target_images, _ = _samples(checkpoint, pair.target, "train", count, labelled=False)
    count = min(len(source_images), len(target_images))
    return figures.show(
        source=torch.stack(source_images[:count]),
        source_label=torch.stack([sample.label for sample in source[:count]]),
        target=torch.stack(target_images[:count]),
        space=recipe.space,
    )


def _predictions(checkpoints: dict[str, Path], pair: Pair, count: int, device: str):
    columns = {}
    for name, checkpoint in checkpoints.items():
        samples, images, recipe = _samples(checkpoint, pair.validation, "val", count)
        segmenter, _ = load_network(checkpoint, device)
        segmenter.eval()
        with torch.no_grad():
            maps = [ids_of(segmenter(s.image[None].to(device)), s.label.shape[-2:])[0].cpu() for s in samples]
        columns[name] = torch.stack(maps)
    truth = torch.stack([sample.label for sample in samples])
    columns = {"target": torch.stack(images), **columns, "truth": truth}
    return figures.show(**columns, space=recipe.space, width=13.0, across=len(columns))


def _iou(rows: dict[str, Any], seed: str, space: str):
    values = {
        name: [float("nan") if iou is None else iou for iou in row["seeds"][seed]["iou"].values()]
        for name, row in rows.items()
        if row.get("network_of") is None  # the others show a network a second time
    }
    return figures.iou_dots(values, space, width=13.0)


def _html_table(markdown: str) -> str:
    """The Markdown table of `compare` and the notes below it, as HTML."""
    lines = [line for line in markdown.splitlines() if line and not line.startswith("|---")]
    cells = [[html.escape(cell.strip()) for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, *body = cells
    rows = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    rows += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    notes = [html.escape(line.removeprefix("- ").replace("**", "")) for line in lines if not line.startswith("|")]
    return f"<table>{''.join(rows)}</table><ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>"


# ---- a run of all stages


def write_run_report(
    paper: str, stages: list[Stage], pair: Pair, out: Path | str, *, command: str = "", quiet: bool = False
) -> str:
    """Write `out/report.md` and return its text: scores beside published ones, pseudo-labels, predicted over true area
    (self-training with few labels), minutes, memory, versions.

    The last stage has to be done: `run_plan(stages, pair, out)`.
    """
    out, last = Path(out), stages[-1]
    scores = read_scores(folder_of(stages, last.name, out))
    few_labels = find_pair(last.recipe.name).labels is not None
    source, columns = published_scores(paper, last.recipe.space, few_labels)
    data = "Cityscapes with few labels" if few_labels else f"{source} -> Cityscapes" if source else last.recipe.space
    names = [code(text) for text in (pair.source, pair.target, pair.validation)]
    parts = [f"# {paper}, {last.recipe.name}", "Source {}, target {}, scored on {}.".format(*names)]
    if columns and (last.recipe.name.startswith("ministreet") or is_ministreet(pair)):
        parts.append(
            f"**These pictures are MiniStreet's. The published numbers are of another data set, {data}: they "
            "show the table's form, nothing more.**"
        )
    elif columns:
        parts.append(f'Published: {data}, {_network_of(last)}. IoU in %; "-": no reachable source gives it.')
    if pair.validation and pair.validation.startswith("prepared:"):
        parts.append("**Scored on prepared labels, which were resized: published scores are taken at the originals' size.**")
    with suppress(OSError, ValueError):  # a prepared folder that is gone by now is no reason to lose the report
        parts += [f"**{in_markdown(text)}**" for text in enlarged(stages, pair)]
    parts += [_score_table(scores, columns)]
    if not columns and source and not is_reference(paper):
        parts.append(f"No published score of {paper} on {data} has a source that we could reach.")
    parts.append("\n".join(f"- {_head(column)}: {column.source}." for column in columns))
    parts += ["## Pseudo-labels", labels] if (labels := _pseudo_labels(paper, stages, out, scores)) else []
    parts += ["## Predicted over true area", areas] if (areas := _areas(paper, stages, pair, out, quiet)) else []
    parts += ["## Stages", _time_table(stages, out), "## Versions"]
    parts.append("\n".join(f"- {what}: {value}" for what, value in machine(_device_of(out)).items()))
    parts += [f"Made by {code(command)}."] if command else []
    text = "\n\n".join(part.strip() for part in parts if part) + "\n"
    write_result(out / "report.md", comment(RUN) + text, RUN)
    return text


def published_scores(method: str, space: str, few_labels: bool = False) -> tuple[str, tuple[PublishedScore, ...]]:
    """(source, columns) of a method for a label space: GTA5's for the 19 classes, SYNTHIA's for its 16 or 13, none for others;
    with few labels Cityscapes' for the 19 classes.

    >>> published_scores('proca', "cityscapes19")[1][0].miou
    {'19': 55.1}
    """
    between = {"cityscapes19": "GTA5", "synthia16": "SYNTHIA", "synthia13": "SYNTHIA"}
    source = ({"cityscapes19": "Cityscapes"} if few_labels else between).get(space, "")
    paper = own_paper(method)
    return source, paper.scores.get(source, ()) if paper else ()


def is_ministreet(pair: Pair) -> bool:
    """Whether a folder of the pair was made by `uda data make`, as its manifest says, or prepared from one that was."""
    return any(_made_here(spec) for spec, _ in pair.sets().values())


def _made_here(spec: str) -> bool:
    with suppress(OSError, ValueError):  # a folder that is gone by now is no reason to lose the report
        layout, root = parse(spec)
        if layout == "prepared":
            _, root = parse(read_manifest(root).settings.source)
        return any(read_json(path).get("made_by") == MADE_BY for path in root.glob("manifest*.json"))
    return False


def _device_of(out: Path) -> str:
    """What the stages ran on."""
    return "cuda" if "cuda" in {stage["device"] for stage in stage_times(out).values()} and torch.cuda.is_available() else "cpu"


def _network_of(stage: Stage) -> str:
    return "DeepLabV2 on ResNet-101" + ("" if stage.recipe.network == "deeplab_v2" else f" (this run: {stage.recipe.network})")


def _head(column: PublishedScore) -> str:
    return f"{column.column}, {column.test}" if column.test else column.column


def _score_table(scores: dict[str, Any], columns: tuple[PublishedScore, ...]) -> str:
    """One class a row, then the means; ours first, then what was published."""
    ours = {head: scores[key] for key, head in (("single", "single"), ("multiscale", "multi-scale")) if key in scores}
    first = next(iter(ours.values()))
    lines = ["| class | " + " | ".join([*ours, *map(_head, columns)]) + " |", "|---|" + "---|" * (len(ours) + len(columns))]

    def row(name: str, own: list[float | None], others: list[float | None]) -> None:
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in own]
        cells += ["-" if value is None else f"{value:.1f}" for value in others]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    for name in first["classes"]:
        row(name, [each["iou"][name] for each in ours.values()], [column.iou.get(name) for column in columns])
    for count in first["subsets"]:
        own = [each["subsets"][count] for each in ours.values()]
        row(f"**mIoU-{count}**", own, [column.miou.get(count) for column in columns])
    row("pixel accuracy", [each["accuracy"] for each in ours.values()], [None] * len(columns))
    return "\n".join(lines)


def _pseudo_labels(paper: str, stages: list[Stage], out: Path, scores: dict[str, Any]) -> str:
    """Density and accuracy of every labelling stage, where the truth is known, and of the method's kinds of labels."""
    lines = ["| stage | labelled % | density % | accuracy % |", "|---|---|---|---|"]
    for stage in stages:
        path = folder_of(stages, stage.name, out) / MANIFEST
        if stage.kind == "labels" and path.is_file():
            made = read_labels(path.parent)
            known = made["quality"] or {"density": None, "accuracy": None}
            cells = (made["labelled"], known["density"], known["accuracy"])
            lines.append(f"| {stage.name} | " + " | ".join("-" if x is None else f"{100 * x:.1f}" for x in cells) + " |")
    text = "\n".join(lines) if len(lines) > 2 else ""
    if scores.get("label_kinds"):
        text += "\n\nAt the end, of the last network and its moving averages (paper: density / accuracy):\n\n"
        text += label_table(scores["label_kinds"], published.label_kinds if (published := own_paper(paper)) else {})
    return text


def _areas(paper: str, stages: list[Stage], pair: Pair, out: Path, quiet: bool) -> str:
    """Of self-training with few labels: predicted over true area of each class, for each network that a later stage reads."""
    of, curve = own_paper(paper), {}
    if of is not None and of.few_labels and any(stage.kind == "labels" for stage in stages):
        with suppress(OSError, ValueError):  # a network that is gone by now is no reason to lose the report
            curve = area_curve(stages, out, pair.validation, skip_bad=pair.skip_bad, device=_device_of(out), quiet=quiet)
    if not curve:
        return ""
    lines = [f"On {code(pair.validation)}, 1 is the right amount.", "", f"| class | {' | '.join(curve)} |"]
    lines.append("|---" * (1 + len(curve)) + "|")
    for name, ratios in zip(label_space(stages[-1].recipe.space).classes, zip(*curve.values())):
        lines.append(f"| {name} | " + " | ".join("-" if isnan(ratio) else f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines)


def _time_table(stages: list[Stage], out: Path) -> str:
    """How long each stage took over all calls, and the memory that was measured."""
    times, total = stage_times(out), 0.0
    lines = ["| stage | steps | minutes | peak memory |", "|---|---|---|---|"]
    for stage in stages:
        found, folder = times.get(stage.name, {"seconds": 0.0, "peak_bytes": None}), folder_of(stages, stage.name, out)
        seconds = found["seconds"]
        if stage.kind == "train" and (folder / "last.pt").is_file():  # knows of calls that were killed
            seconds = max(seconds, load_checkpoint(folder / "last.pt")["seconds"])
        start = stage.recipe.start_from or stage.recipe.start_steps
        steps = {"train": stage.recipe.loop.steps, "start": start}.get(stage.kind, "-")
        peak = "-" if found["peak_bytes"] is None else gigabytes(found["peak_bytes"])
        lines.append(f"| {stage.name} | {steps} | {seconds / 60:.1f} | {peak} |")
        total += seconds
    lines.append(f"| total |  | {total / 60:.1f} ({duration(total)}) |  |")
    devices = {found.get("device") for found in times.values()}
    what = "of tensors on the GPU in that stage" if devices == {"cuda"} else "that the process has held until then"
    return "\n".join([*lines, "", f"Minutes over all calls; peak memory: the most {what}."])
