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
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.mean_teacher import RESULTS, measure, options, pictures
from course_lib.data import test_loader, test_transform
from course_lib.engine import load_checkpoint
from course_lib.evaluation import separation
from course_lib.experiments.compare import Kept, Task, row_folder
from course_lib.experiments.parts import Pair, opened
from course_lib.experiments.recipe_file import read_recipe
from course_lib.experiments.rows import row_compute
from course_lib.experiments.state import load_network
from course_lib.files import read_json, write_whole
from course_lib.losses import label_down
from course_lib.losses.inputs import IGNORE
from course_lib.methods.terms import Term
from course_lib.methods.terms.base import in_rows
from course_lib.networks.prediction import eval_mode
from course_lib.prototypes import ClassSums
from course_lib.pseudo_labels import accuracy_by_density, labels_from
from course_lib.recipes import Recipe, Row
from course_lib.recipes.recipe import build_method

PLANS = Path(__file__).parent / "plans"
PAIRS = ("ministreet", "ministreet_camvid")
CELL = 0.75  # of a cell's pixels are of its class
SOURCE_PICTURES = 100  # of which the prototypes of labels by the cosine are means
LEAST = 50  # cells of a class, to take part in how far classes are apart


def without_terms(row: Row) -> Row:
    """The row less its terms: what a term is added to."""
    return replace(row, overrides=tuple(text for text in row.overrides if not text.startswith("terms")))


def planned(pair: str, design: bool) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """(settings of all rows, rows) of a plan: each row with a term has a control, the row without it at its compute.

    design: the row without it, after as many steps; two weights of one term have one cost.
    """
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
        times = 1 if design else row_compute(row, pair, file.changes, 0) / row_compute(base, pair, file.changes, 0)
        name = base.name if times == 1 else f"{base.name}, {times:.3g} x compute"
        if name not in (other.name for other in rows):
            explanation = f"{base.name} at the compute of {row.name}"
            rows.append(replace(base, name=name, compute_of=row, explanation=explanation))
        rows.append(replace(row, control=name))
    return file.changes, tuple(rows)


@torch.no_grad()
def features_of(checkpoint: Path, pair: Pair) -> dict[str, float]:
    """What a network's features below the classifier are like, in cells of one class of the scored pictures.

    within, between, silhouette: `Separation` of classes with LEAST or more cells; own_...: of what the row's term compares,
    where that is not the features themselves. cosine_half, cosine_all: how many of the surest half, and of all, have the right
    class where the label of a cell is the nearest mean of the source's features, and its sureness the cosine;
    classifier_half, classifier_all: where both are the classifier's. loss_start, loss_end: the term's loss in its first and its
    last tenth.
    """
    (network, test), content = load_network(checkpoint), load_checkpoint(checkpoint)
    recipe, C = Recipe.from_dict(content["recipe"]), network.num_classes
    terms = build_method(recipe, network).terms
    state = content["method"].items()
    terms.load_state_dict({key.removeprefix("terms."): value for key, value in state if key.startswith("terms.")})
    own = next((term for term in terms.values() if type(term).embedding is not Term.embedding), None)

    def cells(text: str, split: str, size: tuple[int, int], most: int | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Cells (n, D) that have a class, and the classes (n,): of features, probabilities and what the term compares."""
        found = opened(test, text, split, test_transform(size, network.normalisation, resize_label=True))
        found = torch.utils.data.Subset(found, range(min(most or len(found), len(found))))
        rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for batch in test_loader(found, 4):
            P = network(batch.image)
            maps = {"features": P.features, "classes": P.resized(tuple(P.features.shape[2:])).softmax(dim=1)}
            for name, x in (maps if own is None else maps | {"own": own.embedding(P)}).items():
                y = label_down(batch.label, tuple(x.shape[2:]), C, CELL).flatten()
                rows.setdefault(name, []).append((in_rows(x)[y != IGNORE], y[y != IGNORE]))
        return {name: (torch.cat([x for x, _ in each]), torch.cat([y for _, y in each])) for name, each in rows.items()}

    with eval_mode(network), eval_mode(terms):
        f_S, y_S = cells(pair.source, "train", recipe.source_size, SOURCE_PICTURES)["features"]
        target = cells(pair.validation, "val", test.test_size)
    f, y = target["features"]
    found = _separated(f, y, C)
    if own is not None:
        found |= {f"own_{key}": value for key, value in _separated(*target["own"], C).items()}
    for name in terms:
        found |= _term_loss(checkpoint.parent, name)
    means = ClassSums(C, f_S.shape[1]).add(torch.nn.functional.normalize(f_S, dim=1), y_S)
    ways = {"cosine": labels_from(f, means.mean().float(), means.counts > 0), "classifier": target["classes"][0].max(dim=1)}
    for way, (sureness, label) in ways.items():
        half, every = accuracy_by_density(sureness, label, y, points=2)[1].tolist()
        found |= {f"{way}_half": half, f"{way}_all": every}
    return found


def _separated(f: Tensor, y: Tensor, C: int) -> dict[str, float]:
    """Of cells (n, D) with classes y (n,): classes with few cells, and cells without a direction, are left out."""
    enough = torch.bincount(y, minlength=C)[y] >= LEAST
    return separation(f, torch.where(enough & (f != 0).any(dim=1), y, IGNORE), C)._asdict()


def _term_loss(folder: Path, name: str) -> dict[str, float]:
    """Of a term's losses together, read from the log of the run."""
    (log,) = folder.rglob("log.jsonl")
    steps = [json.loads(line)["losses"] for line in log.read_text(encoding="utf-8").splitlines()]
    sums = [sum(values) for step in steps if (values := [step[key] for key in step if key.startswith(f"{name}.")])]
    tenth = max(1, len(sums) // 10)
    return {"loss_start": statistics.fmean(sums[:tenth]), "loss_end": statistics.fmean(sums[-tenth:])}


class WithFeatures(Kept):
    """Scores and, in a second file, what the features of the same networks are like.

    A row is taken where the features are those of its network: equal rows of other tables have none to look at, and a run may
    have been stopped between the two files.
    """

    def __init__(self, scores: Path, features: Path) -> None:
        super().__init__(scores)
        self.path_of_features = features

    def find(self, task: Task) -> dict[str, Any] | None:
        content, known = super().find(task), self.features().get(task.row.name, {}).get(str(task.recipe.seed), {})
        return content if content is not None and known.get("key") == content["key"] else None

    def features(self) -> dict[str, dict[str, dict[str, Any]]]:
        """row -> seed -> what `features_of` gives, and the key of its scores."""
        return read_json(self.path_of_features) if self.path_of_features.is_file() else {}

    def look(self, out: Path, pair: Pair, row: str, seed: int, content: dict[str, Any]) -> None:
        """Keep what a row's features are like as soon as it is scored."""
        found, key = self.features(), self.rows[row][str(seed)]["key"]
        found.setdefault(row, {})[str(seed)] = {"key": key} | features_of(row_folder(out, row, seed) / "best.pt", pair)
        write_whole(self.path_of_features, json.dumps(found, indent=1) + "\n")


def main() -> None:
    args = options(__doc__, PAIRS).parse_args()
    name = f"contrast_{args.pair}" + "_design" * args.design
    if not (PLANS / f"{name}.toml").is_file():
        raise SystemExit(f"There is no plan {name}.toml: run --design, then write it, in a commit of its own.")
    changes, rows = planned(args.pair, args.design)
    kept = WithFeatures(*(RESULTS / each / f"{name}.json" for each in ("scores", "features")))
    also: Callable[..., None] = partial(kept.look, args.out / name, pictures(args.pair, args.design, args.camvid))
    measure(args, name, rows, changes, also, kept=kept)


if __name__ == "__main__":
    main()
