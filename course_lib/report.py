"""The report of a comparison: one HTML page with its figures beside it, readable without a server or a network."""

import html
from pathlib import Path
from typing import Any

import torch

from course_lib.classroom import figures
from course_lib.data import NORMALISATIONS, open_dataset, test_transform
from course_lib.evaluation import predicted_ids
from course_lib.recipes.compare import Arm, folder_name, table
from course_lib.recipes.stages import Pair, load_network, split_of

STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: .9rem }
td, th { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 100% } h1, h2 { line-height: 1.2 }"""


def write_report(
    results: dict[str, Any], pair: Pair, out: Path | str, *, pictures: int = 3, device: str = "cpu"
) -> Path:
    """Write `out/report.html` and `out/figures/`: the table, the two domains, labels before and after, IoU per class.

    `results` comes from `compare`, whose networks lie in `out` too. Returns the path of the page.
    """
    out = Path(out)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    rows = results["rows"]
    seed = next(iter(next(iter(rows.values()))["seeds"]))
    shown = {  # what a reader compares, in the order of the columns
        name: out / folder_name(Arm(name, row["method"])) / f"seed{seed}" / "best.pt"
        for name, row in rows.items()
        if name in ("source-only", "adaptsegnet", "proca", "target-only (oracle)")
    }

    drawn = {
        "domains": (
            _domains(shown["source-only"], pair, pictures),
            "Source pictures with labels, target pictures without.",
        ),
        "predictions": (
            _predictions(shown, pair, pictures, device),
            "The same target pictures, labelled by each network, and the truth.",
        ),
        "iou": (_iou(rows, seed, results["space"]), "IoU of each class on the labelled target validation pictures."),
    }
    body = [f"<h1>{html.escape(results['recipe'])}: from source to target</h1>", _html_table(table(results))]
    for name, (figure, caption) in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
        body.append(f'<h2>{caption}</h2>\n<img src="figures/{name}.png" alt="{caption}">')
    page = f"<!doctype html><meta charset=utf-8><title>{results['recipe']}</title><style>{STYLE}</style>\n" + "\n".join(
        body
    )
    path = out / "report.html"
    path.write_text(page + "\n", encoding="utf-8")
    return path


def write_ablation_figure(results: dict[str, Any], path: Path) -> Path:
    """Draw the rows of an ablation, every seed a point and the mean a bar, the paper's number beside where it has one."""
    figure = figures.ablation(results["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _samples(checkpoint: Path, text: str, split: str, count: int, labelled: bool = True):
    """The first pictures of a data set as the network of `checkpoint` sees them, and the network's conventions."""
    segmenter, recipe = load_network(checkpoint)
    name, split = split_of(text, split)
    transform = test_transform(recipe.test_size, segmenter.normalisation)
    dataset = open_dataset(name, split=split, space=recipe.space, transform=transform, labelled=labelled)
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
            maps = [
                predicted_ids(segmenter(s.image[None].to(device)).logits, s.label.shape[-2:])[0].cpu() for s in samples
            ]
        columns[name] = torch.stack(maps)
    truth = torch.stack([sample.label for sample in samples])
    return figures.show(target=torch.stack(images), **columns, truth=truth, space=recipe.space, width=13.0)


def _iou(rows: dict[str, Any], seed: str, space: str):
    values = {
        name: [float("nan") if iou is None else iou for iou in row["seeds"][seed]["iou"].values()]
        for name, row in rows.items()
        if row.get("network_of") is None  # the others show a network a second time
    }
    return figures.iou_bars(values, space, width=13.0)


def _html_table(markdown: str) -> str:
    """The Markdown table of `compare` and the notes below it, as HTML."""
    lines = [line for line in markdown.splitlines() if line and not line.startswith("|---")]
    cells = [
        [html.escape(cell.strip()) for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
    ]
    head, *body = cells
    rows = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    rows += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    notes = [html.escape(line.removeprefix("- ").replace("**", "")) for line in lines if not line.startswith("|")]
    return f"<table>{''.join(rows)}</table><ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>"
