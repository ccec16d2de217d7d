"""SimCLR on object crops of MiniStreet against random features and against the same labels from scratch, in one table.

    python -m benchmarks.simclr_crops              three seeds, two processes of one thread; results in runs/simclr_crops
    python -m benchmarks.simclr_crops --bridge     then: the backbone as a start of segmentation

Constants were chosen on `--seeds 100 --crops-seed 100`.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.from_scratch import SupervisedSettings, accuracy, train_from_scratch
from benchmarks.measuring import command, mean
from course_lib.data import ViewSettings, ministreet, open_dataset, test_loader, test_transform
from course_lib.evaluation import ClassPictures, probe, read_classes, reestimate_statistics
from course_lib.experiments.compare import machine
from course_lib.experiments.train import Pair, build_segmenter, load_network, score_network, train_recipe
from course_lib.files import write_whole
from course_lib.recipes import recipe
from course_lib.recipes.pairs.ministreet_crops import PROBE

BUDGETS = (2, 5, 20)  # labelled pictures of each class
PLAIN = SupervisedSettings(  # the labelled pictures as they are, as the probe sees them; learnt by heart in 100 steps
    steps=100,
    views=ViewSettings(crop_area=(1, 1), crop_ratio=(1, 1), flip_probability=0, jitter_probability=0, grey_probability=0,
                       blur_probability=0),  # fmt: skip
)


def few(pictures: ClassPictures, count: int, seed: int) -> ClassPictures:
    """`count` pictures of each class, drawn again for each seed."""
    generator = torch.Generator().manual_seed(seed)
    rows = [(pictures.label == c).nonzero()[:, 0] for c in range(len(pictures.classes))]
    rows = torch.cat([row[torch.randperm(len(row), generator=generator)[:count]] for row in rows])
    return ClassPictures(pictures.image[rows], pictures.label[rows], pictures.classes)


def blank(chosen) -> torch.nn.Module:
    """The recipe's network with the random weights that its training starts from."""
    torch.manual_seed(chosen.seed)
    return build_segmenter(chosen)


def pretrain(seed: int, crops: Path, out: Path, overrides: tuple[str, ...]) -> dict:
    """SimCLR on the pictures without labels, then the probes at every budget, beside those of random weights."""
    torch.set_num_threads(1)
    chosen = recipe("ministreet_crops", "simclr").override(f"seed={seed}", *overrides)
    began = time.perf_counter()
    checkpoint = train_recipe(chosen, Pair(f"folder:{crops / 'unlabelled'}", None), out / f"seed{seed}", existing="replace",
                              quiet=True)  # fmt: skip
    result = {"pretraining_seconds": round(time.perf_counter() - began, 1), "checkpoint": str(checkpoint.relative_to(out))}
    train, test = read_classes(crops / "train"), read_classes(crops / "test")
    networks = {"random": blank(chosen), "simclr": load_network(checkpoint)[0]}
    pictures = open_dataset(f"folder:{crops / 'unlabelled'}", transform=test_transform(None, "imagenet"), labelled=False)
    reestimate_statistics(networks["random"], test_loader(pictures, 256), progress=False)  # random weights, fair statistics
    for budget in BUDGETS:
        result[str(budget)] = {}
        for name, network in networks.items():
            scores = probe(network, few(train, budget, seed), test, PROBE, seed=seed)
            result[str(budget)] |= {f"{name}, linear": 100 * scores.linear, f"{name}, kNN": 100 * scores.knn}
    return result


def from_labels(seed: int, budget: int, settings: SupervisedSettings, crops: Path, overrides: tuple[str, ...]) -> float:
    """The whole network trained from random weights on the labelled pictures alone."""
    torch.set_num_threads(1)
    chosen = recipe("ministreet_crops", "simclr").override(f"seed={seed}", *overrides)
    labelled, network = few(read_classes(crops / "train"), budget, seed), blank(chosen)
    classifier = train_from_scratch(network, labelled, settings, seed=seed)
    return 100 * accuracy(network, classifier, read_classes(crops / "test"))


def measure(seeds: list[int], crops: Path, out: Path, overrides: tuple[str, ...], pool: ProcessPoolExecutor) -> dict:
    """{seed: {budget: {what: accuracy in %}}}; the longest tasks first, so that no core idles at the end."""
    runs = {seed: pool.submit(pretrain, seed, crops, out, overrides) for seed in seeds}
    ways = {"from scratch": PLAIN, "from scratch, augmented": SupervisedSettings()}
    jobs = {(s, b, way): pool.submit(from_labels, s, b, settings, crops, overrides)
            for b in BUDGETS for s in seeds for way, settings in ways.items()}  # fmt: skip
    results = {str(seed): run.result() for seed, run in runs.items()}
    for (seed, budget, way), job in jobs.items():
        results[str(seed)][str(budget)][way] = job.result()
    return results


def bridge(seed: int, start: Path | None, sets: dict[str, str], out: Path) -> dict:
    """Segmentation of MiniStreet, trained on its game look from `start` or from random weights: mIoU in % on both looks."""
    torch.set_num_threads(1)
    words = ["network=small", "network_options={'width': 32, 'norm': 'batch'}", "start_steps=0", "lr=1e-3", "head_factor=1",
             "select=last", f"seed={seed}", f"init_from={start or 'none'}"]  # fmt: skip
    scores = {}
    for steps in (50, 200):
        folder = out / f"seed{seed}_{'simclr' if start else 'random'}_{steps}"
        chosen = recipe("ministreet", "source-only").override(*words, f"steps={steps}")
        checkpoint = train_recipe(chosen, Pair(sets["train"], sets["camera"]), folder, existing="replace", quiet=True)
        for look in ("game", "camera"):
            scores[f"{look} after {steps}"] = 100 * score_network(checkpoint, sets[look], quiet=True).miou
    return scores


def table(results: dict) -> str:
    """The page: accuracies by budget, mean and deviation over seeds."""
    seeds = results["seeds"]
    names = list(next(iter(seeds.values()))[str(BUDGETS[0])])
    lines = [
        "# SimCLR on object crops of MiniStreet",
        "",
        f"`{results['command']}`: {len(seeds)} seeds in {results['minutes']:.1f} minutes on "
        f"{results['machine']['cores']} cores (crops made before). {results['unlabelled']} pictures without labels, "
        f"{results['tested']} tested, 8 classes; accuracy in %, after the last epoch or step; mean and deviation over seeds, "
        "each with labelled pictures of its own.",
        "",
        "| labels per class | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for budget in BUDGETS:
        rows = [run[str(budget)] for run in seeds.values()]
        cells = [mean(row[name] for row in rows) for name in names]
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    if "bridge" in results:
        starts = results["bridge"]
        columns = list(next(iter(starts["random"].values())))
        lines += ["", "Segmentation of MiniStreet trained on the game look (mIoU in %, 19 classes), from two starts:", "",
                  "| start | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]  # fmt: skip
        for start, runs in starts.items():
            lines.append(f"| {start} | " + " | ".join(mean(run[c] for run in runs.values()) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/simclr_crops"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--crops-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--bridge", action="store_true", help="the segmentation part too, from the networks in --out")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    crops = ministreet.cached_crops(seed=asked.crops_seed)
    path = asked.out / "results.json"
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        if asked.bridge:
            results = json.loads(path.read_text(encoding="utf-8"))
            make = {"train": ("gta5", 400, 1, "train"), "game": ("gta5", 60, 9, "train"),
                    "camera": ("cityscapes", 120, 3, "val")}  # fmt: skip
            sets = {key: f"{kind}:{ministreet.cached(kind, count, seed, split=split)}@{split}"
                    for key, (kind, count, seed, split) in make.items()}  # fmt: skip
            trained = {s: asked.out / results["seeds"][str(s)]["checkpoint"] for s in seeds}
            starts = {"random": dict.fromkeys(seeds), "simclr": trained}
            jobs = {name: {s: pool.submit(bridge, s, start, sets, asked.out / "bridge") for s, start in each.items()}
                    for name, each in starts.items()}  # fmt: skip
            results["bridge"] = {name: {str(s): job.result() for s, job in each.items()} for name, each in jobs.items()}
        else:
            began = time.perf_counter()
            results = {
                "command": command(),
                "recipe": recipe("ministreet_crops", "simclr").override(*asked.overrides).to_dict(),
                "unlabelled": len(list((crops / "unlabelled").iterdir())),
                "tested": len(list((crops / "test").rglob("*.png"))),
                "seeds": measure(seeds, crops, asked.out, tuple(asked.overrides), pool),
                "minutes": (time.perf_counter() - began) / 60,
                "machine": machine() | {"jobs": asked.jobs, "threads": 1},
            }
    write_whole(path, json.dumps(results, indent=1) + "\n")
    write_whole(asked.out / "results.md", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
