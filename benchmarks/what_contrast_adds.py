"""What contrast adds to a mean teacher: base, one row for each contrastive term, and a base of equal compute for each cost.

    python -m benchmarks.what_contrast_adds ministreet [--design] [--seeds 0 1 2 3 4] [--rows NAME ...] [--jobs 2]
    python -m benchmarks.what_contrast_adds ministreet_camvid --camvid FOLDER [...]

The rows are those of the recipe file benchmarks/plans/contrast_PAIR[_design].toml. --design: weights of the terms, on seeds 100
and 101 and pictures of their own; reported seeds run once the plan without _design is there. Scores are kept in
benchmarks/results/scores/contrast_PAIR[_design].json as they come, and in benchmarks/results/features, by the same name, what
each network's features are like on the scored pictures (course_lib/evaluation/separation.py, and how right labels by the cosine
are).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.mean_teacher import RESULTS, measure, options, pictures
from course_lib.data import test_loader, test_transform
from course_lib.evaluation import separation
from course_lib.experiments.compare import Kept, row_folder
from course_lib.experiments.parts import Pair, opened
from course_lib.experiments.recipe_file import read_recipe
from course_lib.experiments.rows import row_compute
from course_lib.experiments.state import load_network
from course_lib.files import read_json, write_whole
from course_lib.losses import label_down
from course_lib.losses.inputs import IGNORE
from course_lib.networks.prediction import eval_mode
from course_lib.prototypes import ClassSums
from course_lib.pseudo_labels import accuracy_by_density, labels_from
from course_lib.recipes import Row

PLANS = Path(__file__).parent / "plans"
PAIRS = ("ministreet", "ministreet_camvid")
CELL = 0.75  # of a cell's pixels are of its class
SOURCE_PICTURES = 100  # of which the prototypes of labels by the cosine are means


def without_terms(row: Row) -> Row:
    """The row less its terms: what a term is added to."""
    return replace(row, overrides=tuple(text for text in row.overrides if not text.startswith("terms")))


def planned(pair: str, design: bool) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """(settings of all rows, rows) of a plan: each row with a term has a control, the row without it at its compute."""
    file = read_recipe(PLANS / f"contrast_{pair}{'_design' * design}.toml")
    bases = {row.overrides: row for row in file.rows if without_terms(row) == row}
    rows: list[Row] = []
    for row in file.rows:
        plain = without_terms(row)
        if plain == row:
            rows.append(row)
            continue
        if plain.overrides not in bases:
            raise ValueError(f"The plan has no row with the settings {plain.overrides}, which {row.name!r} adds a term to.")
        base = bases[plain.overrides]
        times = row_compute(row, pair, file.changes, 0) / row_compute(base, pair, file.changes, 0)
        name = base.name if times == 1 else f"{base.name}, {times:.3g} x compute"
        if name not in (other.name for other in rows):
            explanation = f"{base.name} at the compute of {row.name}"
            rows.append(replace(base, name=name, compute_of=row, explanation=explanation))
        rows.append(replace(row, control=name))
    return file.changes, tuple(rows)


@torch.no_grad()
def features_of(checkpoint: Path, pair: Pair) -> dict[str, float]:
    """What a network's features below the classifier are like, in cells of one class of the scored pictures.

    within, between, silhouette: `Separation`. cosine_labels: how many of the surest half of the cells have the right class,
    where a cell's class is that of the nearest mean of the source's features, and the sureness its cosine.
    """
    network, recipe = load_network(checkpoint)
    C = network.num_classes
    read = test_transform(recipe.test_size, network.normalisation, resize_label=True)

    def cells(text: str, split: str, most: int | None = None) -> tuple[Tensor, Tensor]:
        """(cells, D) and their classes; 255 where no class covers a cell."""
        found = opened(recipe, text, split, read)
        found = torch.utils.data.Subset(found, range(min(most or len(found), len(found))))
        rows = []
        for batch in test_loader(found, 4):
            f = network(batch.image).features
            rows.append((f.movedim(1, -1).flatten(0, 2), label_down(batch.label, tuple(f.shape[2:]), C, CELL).flatten()))
        return torch.cat([f for f, _ in rows]), torch.cat([y for _, y in rows])

    with eval_mode(network):
        f_S, y_S = cells(pair.source, "train", SOURCE_PICTURES)
        f_T, y_T = cells(pair.validation, "val")
    sums = ClassSums(C, f_S.shape[1]).add(torch.nn.functional.normalize(f_S, dim=1), y_S)
    cosine, label = labels_from(f_T, sums.mean().float(), sums.counts > 0)
    known = y_T != IGNORE
    right = accuracy_by_density(cosine[known], label[known], y_T[known], points=2)[1][0].item()
    return {**separation(f_T, y_T, C)._asdict(), "cosine_labels": right}


def look(kept: Path, out: Path, pair: Pair, row: str, seed: int, content: dict[str, Any]) -> None:
    """Keep what a row's features are like as soon as it is scored."""
    found = read_json(kept) if kept.is_file() else {}
    found.setdefault(row, {})[str(seed)] = features_of(row_folder(out, row, seed) / "best.pt", pair)
    write_whole(kept, json.dumps(found, indent=1) + "\n")


def with_features(scores: Path, features: Path) -> Kept:
    """Scores of rows whose features are kept too. The others, as equal rows of another table, have no network to look at."""
    kept, known = Kept(scores), read_json(features) if features.is_file() else {}
    for row, seeds in kept.rows.items():
        kept.rows[row] = {seed: content for seed, content in seeds.items() if seed in known.get(row, {})}
    return kept


def main() -> None:
    args = options(__doc__, PAIRS).parse_args()
    name = f"contrast_{args.pair}" + "_design" * args.design
    if not (PLANS / f"{name}.toml").is_file():
        raise SystemExit(f"There is no plan {name}.toml: run --design, then write it, in a commit of its own.")
    changes, rows = planned(args.pair, args.design)
    scores, features = (RESULTS / each / f"{name}.json" for each in ("scores", "features"))
    also: Callable[..., None] = partial(look, features, args.out / name, pictures(args.pair, args.design, args.camvid))
    measure(args, name, rows, changes, also, kept=with_features(scores, features))


if __name__ == "__main__":
    main()
