"""The reproduction ledger: for each method what the paper, the authors' code and others report, and what we measured.

    python -m benchmarks.ledger            reads benchmarks/results/*.json, writes benchmarks/ledger.md

Our numbers come from those files alone, so a new file there is a new row; the others are below with their source. A row without
a number gives the reason. The same files give the same text.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import mean
from course_lib.files import write_whole
from course_lib.labels import label_space

HERE = Path(__file__).resolve().parent
CONTROLS = ("source-only", "target-only", "bn-control")
BESIDE = ("source-only", "source-only + photometric")  # the second at a method's compute
FOREIGN = {"ProCA": {"adaptsegnet"}, "BiDA": {"adaptsegnet"}}  # methods that stand beside, in a file of an ablation
TASKS = {
    "ministreet": "MiniStreet game -> camera",
    "camvid_dusk": "CamVid day -> dusk",
    "ministreet_camvid": "MiniStreet -> CamVid",
    "gta5_cityscapes": "GTA5 -> Cityscapes",
    "synthia_cityscapes": "SYNTHIA -> Cityscapes",
}
NOT_REPORTED = "not reported"
NO_GPU = "not measured: no CUDA GPU at hand"
NO_MEMORY = "not measured: the file holds none"
APART = "training_memory.md"  # where memory is for results that were made before they recorded it


@dataclass(frozen=True)
class Entry:
    """A row: whose number, of what, and where it stands."""

    whose: str
    task: str
    score: str
    source: str
    seeds: str = NOT_REPORTED
    versions: str = NOT_REPORTED
    minutes: str = NOT_REPORTED
    memory: str = NOT_REPORTED


def missing(whose: str, why: str) -> Entry:
    """A row that says why there is no number."""
    return Entry(whose, "-", f"not measured: {why}", "-", "-", "-", "-", "-")


GTA, SYNTHIA = "GTA5 -> Cityscapes, 19 classes", "SYNTHIA -> Cityscapes"
PUBLISHED = {
    "AdaptSegNet": (
        Entry("paper", f"{GTA}, ResNet-101, two levels", "42.4", "authors' README; its table in issue 11 of their code: 42.37"),
        Entry("paper", f"{GTA}, ResNet-101, one level", "41.4", "issue 56 of the authors' code"),
        Entry("paper", f"{GTA}, ResNet-101, one level, least squares", "44.1", "authors' README"),
        Entry("paper", f"{GTA}, VGG-16, one level", "35.0", "authors' README"),
        Entry("paper", f"{GTA}, ResNet-101, source-only", "36.6", "issue 35 of the authors' code"),
        Entry("paper", f"{SYNTHIA}, 13 classes, two levels", "46.7", "from memory, unverified"),
        Entry("authors' code", f"{GTA}, the released network, scored by a user", "42.35", "its issue 56"),
        Entry("authors' code", f"{GTA}, trained by the authors", "41 to 42, the best of many snapshots", "its issue 19"),
        Entry("authors' code", f"{GTA}, trained by a user, COCO start", "42.0 after 60,000 steps", "its issue 56"),
        Entry("authors' code", f"{GTA}, trained by a user, ImageNet start", "40.6 after 95,000 steps", "its issue 56"),
        Entry("authors' code", f"{GTA}, trained by a user", "40.x, best after 40,000 steps", "its issue 98"),
        Entry("authors' code", f"{GTA}, trained by a user", "39.5 (source-only 35.95)", "its issue 65", versions="torch 0.4"),
        missing("other rewrites", "our sources name none with a number"),
    ),
    "SimCLR": (
        missing("paper", "our sources quote the authors' README alone"),
        Entry("authors' code", "ImageNet, ResNet-50, the released network, linear probe", "69.1", "authors' README"),
        Entry("authors' code", "ImageNet, ResNet-50, 100 epochs, linear probe", "about 64.5", "authors' README"),
        Entry("authors' code", "CIFAR-10, ResNet-18, 1000 epochs", "about 91", "authors' README"),
        Entry("lightly", "ImageNet, ResNet-50, batch 256, 100 epochs, linear probe", "63.2, best epoch", "its benchmarks"),
        Entry("lightly", "ImageNet, the same, nearest neighbours", "44.8", "its benchmarks"),
        Entry("lightly", "CIFAR-10, ResNet-18, batch 512, 800 epochs, nearest neighbours", "87.9", "its benchmarks"),
    ),
    "ProCA": (
        Entry("paper", f"{GTA}, source, then contrast", "48.8", "seminar slides"),
        Entry("paper", f"{GTA}, then Ada-ST", "55.1", "seminar slides"),
        Entry("paper", f"{GTA}, then six scales", "56.3", "seminar slides"),
        Entry("paper", f"{GTA}, source-only, then Ada-ST", "43.9", "seminar slides"),
        Entry("paper", f"{SYNTHIA}, 16 classes", "53.0 in one place, 52.6 in another", "second-hand notes"),
        Entry("authors' code", f"{GTA}, their log, six scales", "56.30", "authors' README", minutes="unknown; 4 Tesla V100"),
        Entry("authors' code", f"{GTA}, their log, one scale", "55.1", "authors' README"),
        Entry("authors' code", f"{SYNTHIA}, 16 classes, their log, six scales", "52.96", "authors' README"),
        missing("other rewrites", "our sources name none with a number"),
    ),
    "BiDA": (
        Entry("paper", GTA, "57.1", "seminar slides; confirmed in no source that could be reached"),
        Entry("paper", f"{SYNTHIA}, probably 16 classes", "55.6", "seminar slides; likewise"),
        missing("authors' code", "no number found with it; it computes dynamic labels and drops them"),
        missing("other rewrites", "our sources name none"),
    ),
}  # fmt: skip


def results(folder: Path = HERE / "results") -> dict[str, dict[str, Any]]:
    """Every file of scores by its name, in the order of the names."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.stem != "gpu_check"]  # which has none
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def belongs(paper: str, file: str, row: dict[str, Any]) -> bool:
    """Whether a row of a comparison is a row of this paper's."""
    method = row["method"]
    if method in CONTROLS:
        return False
    if paper == "AdaptSegNet":
        return method == "adaptsegnet"
    if "bida" in file:  # self-training is then a step towards BiDA
        return paper == "BiDA" and method not in FOREIGN[paper]
    return paper == {"bida": "BiDA", "proca": "ProCA", "self-training": "ProCA"}.get(method)


def versions(machine: dict[str, Any]) -> str:
    return f"torch {machine['torch']}, Python {machine['python']}, {machine['gpu'] or 'CPU'}"


def memory_apart(folder: Path) -> dict[tuple[str, str], str]:
    """{(recipe, method): "988 MiB*"}, measured by `training_memory.py`."""
    path = folder / APART
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    return {(recipe.removeprefix("| "), method): f"{size.removesuffix(' |')} MiB*" for recipe, method, size in rows}


def compared(paper: str, files: dict[str, dict[str, Any]], apart: dict[tuple[str, str], str]) -> Iterator[Entry]:
    """Our rows of a paper: from every comparison that has one."""
    for file, content in files.items():
        rows = content.get("rows", {})
        for name, row in rows.items():
            if not belongs(paper, file, row):
                continue
            runs = row["seeds"].values()
            score = mean([100 * run["miou"] for run in runs])
            beside = [f"{name} {rows[name]['miou_mean']:.1f}" for name in BESIDE if name in rows]
            score += f" ({', '.join(beside)})" if beside else ""
            seconds = statistics.fmean(run["train_seconds"] for run in runs)
            peaks = [run["peak_mib"] for run in runs if run.get("peak_mib")]
            task = TASKS.get(content["recipe"], content["recipe"])
            yield Entry(
                "ours",
                f"{task}, {label_space(content['space']).num_classes} classes: {name}",
                score,
                f"`results/{file}.json`",
                seeds=", ".join(row["seeds"]),
                versions=versions(content["machine"]),
                minutes=f"{seconds / 60:.1f}" if seconds else f"none: the network of {row['network_of']}",
                memory=_memory(content["recipe"], name, row, peaks, apart),
            )


def _memory(recipe: str, name: str, row: dict[str, Any], peaks: list[float], apart: dict[tuple[str, str], str]) -> str:
    """The most of a row's stages; of those with a contrast before self-training both count."""
    if row.get("network_of"):
        return f"none: the network of {row['network_of']}"
    if peaks:
        return f"{max(peaks):,.0f} MiB"
    methods = {row["method"], "proca"} if row["method"] == "self-training" and "F+O" in name else {row["method"]}
    found = [apart[recipe, method] for method in methods if (recipe, method) in apart]
    return max(found, key=lambda text: float(text.split()[0].replace(",", "")), default=NO_MEMORY)


def crops(files: dict[str, dict[str, Any]], apart: dict[tuple[str, str], str]) -> Iterator[Entry]:
    """Our rows of SimCLR: probes of object crops."""
    for file, content in files.items():
        if not file.startswith("simclr"):
            continue
        seeds = content["seeds"]
        budgets = [key for key, value in next(iter(seeds.values())).items() if isinstance(value, dict)]
        minutes = statistics.fmean(one["pretraining_seconds"] for one in seeds.values()) / 60
        for budget in budgets:
            for probe in ("linear", "kNN"):
                ours, random = ([one[budget][f"{start}, {probe}"] for one in seeds.values()] for start in ("simclr", "random"))
                yield Entry(
                    "ours",
                    f"object crops of MiniStreet, {budget} labels each: {probe}",
                    f"{mean(ours)} (random features {mean(random)})",
                    f"`results/{file}.json`",
                    seeds=", ".join(seeds),
                    versions=versions(content["machine"]),
                    minutes=f"{minutes:.1f}",
                    memory=apart.get((content["recipe"]["name"], "simclr"), NO_MEMORY),
                )


def ours(paper: str, files: dict[str, dict[str, Any]], apart: dict[tuple[str, str], str]) -> list[Entry]:
    """Our rows, and what is missing among them."""
    found = list(crops(files, apart) if paper == "SimCLR" else compared(paper, files, apart))
    places = ["MiniStreet"] if paper == "SimCLR" else ["MiniStreet game", "CamVid day"]
    for place in places:
        if not any(place in entry.task for entry in found):
            found.append(missing(f"ours, {place.split()[0]}", "no result file has it yet"))
    if not any("Cityscapes" in entry.task or "ImageNet" in entry.task for entry in found):
        full = "ImageNet" if paper == "SimCLR" else "GTA5 -> Cityscapes"
        found.append(Entry("ours, GPU", full, NO_GPU, "-", "-", "-", "-", "-"))
    return found


def text(folder: Path = HERE / "results") -> str:
    """The ledger of a folder of result files."""
    files, apart = results(folder), memory_apart(folder)
    lines = [
        "# Reproduction ledger",
        "",
        "Written by `python -m benchmarks.ledger` from `results/*.json`, not by hand. Scores are mIoU, of probes accuracy,",
        "in %: mean ± standard deviation over seeds. Numbers of different tasks are not comparable. Minutes are those of one",
        "network's training, without the common start, prototypes and label files; where a file says `jobs: 2`, another one",
        "ran beside it. With all controls: `results/*.md`.",
        f"Memory is the largest resident set of the process; with a star, measured apart in three steps: `results/{APART}`.",
        "Time, memory and the share of the machine's peak of one training step: `python -m benchmarks.step_speed`.",
    ]
    head = ("whose", "task", "score", "seeds", "versions", "minutes", "memory", "from")
    for paper, published in PUBLISHED.items():
        lines += ["", f"## {paper}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for e in (*published, *ours(paper, files, apart)):
            lines.append(
                f"| {e.whose} | {e.task} | {e.score} | {e.seeds} | {e.versions} | {e.minutes} | {e.memory} | {e.source} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=HERE / "ledger.md")
    arguments = parser.parse_args()
    write_whole(arguments.out, text(arguments.results))
    print(f"{arguments.out}: {len(results(arguments.results))} result files")


if __name__ == "__main__":
    main()
