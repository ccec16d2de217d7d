"""Why a method for few labels gains or not, from its networks: what their features are like, and what each stage scores.

    python -m benchmarks.few_labels_features [--out runs]       after benchmarks/few_labels.py ministreet, in the same folder

With 20 labels, of each reported seed: of ClassMix, of ReCo and SemiSegContrast with and without their contrast what
`benchmarks.what_contrast_adds.features_of` gives, the source being the labelled pictures; of RIST the mIoU of the network of
every stage. Kept in benchmarks/results/features/few_labels_ministreet_20.json with the key of each row's score, by which a test
finds out whether both are of one network. The page: benchmarks/few_labels_page.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.few_labels import REPORTED, SUPERVISED_ROW, TWENTY, WITHOUT, pictures, rows_of
from benchmarks.mean_teacher import RESULTS
from benchmarks.what_contrast_adds import features_of
from course_lib.experiments.compare import row_folder
from course_lib.experiments.parts import Pair
from course_lib.experiments.train import score_network
from course_lib.files import read_json, write_whole

NAME = f"few_labels_ministreet_{TWENTY}"
FEATURES, STAGES = ("classmix", *WITHOUT), ("rist",)  # methods whose features, and whose stages, are looked at


def stage_scores(folder: Path, pair: Pair) -> dict[str, float]:
    """Stage -> mIoU of its network on the scored pictures, in the order of the plan."""
    checkpoints = sorted(folder.glob("[0-9]*_*/best.pt"), key=lambda path: int(path.parent.name.partition("_")[0]))
    return {path.parent.name.partition("_")[2]: score_network(path, pair.validation).miou for path in checkpoints}


def measured(out: Path, known: dict[str, dict[str, str]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> seed -> what was found. known: row -> seed -> the key of its score."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows_of("ministreet", TWENTY, design=False):
        if row.method not in (*FEATURES, *STAGES) or row.name == SUPERVISED_ROW:
            continue
        for seed in REPORTED:
            pair, _ = pictures("ministreet", TWENTY, seed, design=False, camvid=None)
            folder = row_folder(out / NAME / f"ministreet_few_labels_seed{seed}", row.name, seed)
            if row.method in STAGES:
                content = {"stages": stage_scores(folder, pair)}
            else:
                content = features_of(folder / "best.pt", pair)
            found.setdefault(row.name, {})[str(seed)] = {"key": known[row.name][str(seed)]} | content
            print(row.name, seed, content, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    scores = read_json(RESULTS / "scores" / f"{NAME}.json")
    known = {row: {seed: run["key"] for seed, run in runs.items()} for row, runs in scores.items()}
    write_whole(RESULTS / "features" / f"{NAME}.json", json.dumps(measured(args.out, known), indent=1) + "\n")


if __name__ == "__main__":
    main()
