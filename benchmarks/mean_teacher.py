"""The mean teacher beside AdaptSegNet, ProCA and BiDA: one table for each pair, with equal start, augmentation and compute.

    python -m benchmarks.mean_teacher ministreet [--design | --long] [--seeds 0 1 2 3 4] [--rows NAME ...] [--jobs 2]
    python -m benchmarks.mean_teacher ministreet_camvid --camvid FOLDER [...]
    python -m benchmarks.mean_teacher camvid_dusk --camvid FOLDER [...]

--design: the rows that constants were chosen from, on seeds 100 and 101 and pictures of their own. --long: 1,500 steps of the
three rows that were best at 300, with their controls, on seeds 0 to 2. --confused CLASS ...: what the networks in --out predict
where these classes are, and what is where they predict them: mean_teacher_PAIR[_long]_confused.md; nothing is trained.
Scores are kept in benchmarks/results/scores/mean_teacher_PAIR[_design|_long].json as they come: a run that was stopped
continues there, on any machine. Without --rows and --seeds, the tables mean_teacher_PAIR[_long].json and .md are written at the
end (of --design the table alone). Networks lie in --out. Reported seeds run only where MAIN names the row that the development
seeds have chosen.

FOLDER: with day/ and dusk/ for camvid_dusk; in SegNet's folders (train, trainannot, val, valannot) for ministreet_camvid.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measuring import command, hand_over
from course_lib.data import ministreet, test_loader, test_transform
from course_lib.experiments.compare import Kept, compare, row_folder
from course_lib.experiments.parts import Pair, opened
from course_lib.experiments.rows import ORACLE, control_of, find_rows, start_and_augmentation
from course_lib.experiments.state import load_network
from course_lib.experiments.table import table
from course_lib.files import write_whole
from course_lib.labels import IGNORE, label_space
from course_lib.networks.prediction import eval_mode
from course_lib.recipes import Row
from course_lib.registry import find_named

RESULTS = Path(__file__).parent / "results"
REPORTED, DESIGN = (0, 1, 2, 3, 4), (100, 101)

MAIN = {  # pair -> the row of SWITCHES that the claims are about, named before its reported seeds run
    "ministreet": "class-wise, half unmixed, rare classes first",
    "ministreet_camvid": "class-wise, rare class sampling",
    "camvid_dusk": "class-wise, rare class sampling",  # that of the other pair of photographs
}
LONG = ("class-wise, half of the pictures unmixed", MAIN["ministreet"], "ProCA")  # by the mean mIoU of the reported seeds
FAVOURED = {  # pair -> further switches that the development seeds favoured
    "ministreet": ("class-wise, half of the pictures unmixed", "class-wise, rare classes pasted first"),
}
# of the development seeds: the class-wise row, and changes of it
SWITCHES = {
    "class-wise": (),
    "one weight, as published": ("weighting=batch",),
    "class-wise, half of the pictures unmixed": ("unmixed=0.5",),
    "class-wise, rare classes pasted first": ("mix_rare=0.05",),
    "class-wise, half unmixed, rare classes first": ("unmixed=0.5", "mix_rare=0.05"),
    "class-wise, rare class sampling": ("sampling=rare-class", "rare_temperature=0.05", "rare_pixels=100"),
}


def pictures(pair: str, design: bool, camvid: Path | None) -> Pair:
    """The pictures of a table; those of --design were drawn from other seeds."""
    if pair != "ministreet" and camvid is None:
        raise SystemExit(f"{pair} wants CamVid: --camvid FOLDER.")
    if pair == "camvid_dusk":
        return Pair(f"camvid:{camvid}/day@all", f"camvid:{camvid}/dusk", f"camvid:{camvid}/dusk")
    source, target, scored = (101, 102, 103) if design else (1, 2, 3)
    made = f"gta5:{ministreet.cached('gta5', 400, source)}"
    if pair == "ministreet_camvid":
        return Pair(made, f"camvid:{camvid}@train", f"camvid:{camvid}@val")
    return Pair(
        made,
        f"cityscapes:{ministreet.cached('cityscapes', 400, target)}",
        f"cityscapes:{ministreet.cached('cityscapes', 120, scored, split='val')}@val",
    )


def method_rows(pair: str) -> list[Row]:
    """AdaptSegNet, ProCA and BiDA with the start, the network and the augmentation of DACS, and the latter two also as in their
    own tables."""
    (*network, _), same = start_and_augmentation("dacs", pair)
    own = [Row("ProCA", "self-training", plan="proca"), Row("BiDA", "bida", plan="bida")]
    rows = [Row("AdaptSegNet", "adaptsegnet", (*same, "target_photometric=strong"))]
    for row in own:
        rows.append(replace(row, overrides=(*same, "target_photometric=strong")))
    if network and pair == "ministreet":
        rows += [replace(row, name=f"{row.name}, five blocks frozen") for row in own]
    return rows


def rows_of(pair: str, design: bool) -> tuple[Row, ...]:
    """The rows of a table, each with the control that has its compute."""
    _, same = start_and_augmentation("dacs", pair)
    names = SWITCHES if design else dict.fromkeys(
        ["one weight, as published", "class-wise", *FAVOURED.get(pair, ()), *([MAIN[pair]] if pair in MAIN else [])]
    )
    methods = [] if design else method_rows(pair)
    methods += [Row(name, "dacs", SWITCHES[name]) for name in names]
    first, controls, placed = Row("source-only", "source-only", same), {}, []
    for row in methods:
        of_row = start_and_augmentation(row.method, pair, own=row.overrides)[1]
        frozen = pair == "ministreet" and of_row[0].startswith("start_steps=")  # the network of the pair itself
        control = control_of(row, pair, of_row if frozen else same)
        if frozen:
            control = replace(control, name=f"{control.name}, five blocks frozen")
        placed.append(replace(row, control=controls.setdefault(control.name, control).name))
        sampling = tuple(text for text in row.overrides if text.startswith(("sampling=", "rare_")))
        if sampling and not design:  # how much of the row's gain is that of source pictures drawn otherwise
            alone = "the control, its pictures drawn as in the row with rare class sampling"
            placed.append(Row(f"{control.name}, rare class sampling", "source-only", (*same, *sampling), compute_of=row,
                              control=control.name, explanation=alone))  # fmt: skip
    oracle = Row(ORACLE, "target-only", (*same, "target_photometric=strong"), control=first.name)
    return (first, *controls.values(), *placed, oracle)


def long_rows(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Of these, the ones of LONG with their controls, and the first, which the controls are read against."""
    controls = {row.control for row in rows if row.name in LONG}
    return tuple(row for row in rows if row is rows[0] or row.name in controls or row.name in LONG)


def confused(pair: Pair, out: Path, rows: tuple[Row, ...], seeds: tuple[int, ...], classes: list[str]) -> list[str]:
    """As a table, means over the seeds: what the pixels of a class are predicted as, the most frequent three; the area that is
    predicted as the class over its true area; and how much of the surest half of this area is right.

    Rows are the ones whose networks of all `seeds` are in `out`; ValueError without any, or for a class that the networks do
    not have.
    """
    head = "| row | class | its pixels are predicted as, % | predicted over true area | surest half right, % |"
    lines = [head, "|" + "---|" * 5]
    for row in rows:
        checkpoints = [row_folder(out, row.name, seed) / "best.pt" for seed in seeds]
        if not all(path.is_file() for path in checkpoints):
            continue
        found = [Pixels.of(path, pair.validation) for path in checkpoints]
        known = found[0].classes
        for name in classes:
            find_named("class", name, known)
            c = known.index(name)
            values, ids = torch.stack([pixels.predicted_as(c) for pixels in found]).mean(0).topk(3)
            most = ", ".join(f"{known[k]} {100 * value:.0f}" for value, k in zip(values.tolist(), ids))
            area, right = (statistics.fmean(each) for each in zip(*(pixels.area_and_right(c) for pixels in found)))
            lines.append(f"| {row.name} | {name} | {most} | {area:.1f} | {100 * right:.0f} |")
    if len(lines) == 2:
        raise ValueError(f"No row has its networks of the seeds {', '.join(map(str, seeds))} in {out}: train them first.")
    return [*lines, "", f"Seeds {', '.join(map(str, seeds))}, the scored pictures. Made by `{command()}`."]


class Pixels(NamedTuple):
    """All labelled pixels of some pictures, as a network sees them, each (pixels,), and the names of the classes."""

    truth: Tensor
    prediction: Tensor
    confidence: Tensor
    classes: tuple[str, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, checkpoint: Path, validation: str) -> "Pixels":
        network, recipe = load_network(checkpoint)
        transform, parts = test_transform(recipe.test_size, network.normalisation, resize_label=True), []
        with eval_mode(network):
            for batch in test_loader(opened(recipe, validation, "val", transform), 4):
                confidence, prediction = network(batch.image).resized(tuple(batch.label.shape[1:])).softmax(1).max(1)
                known = batch.label != IGNORE
                parts.append((batch.label[known], prediction[known], confidence[known]))
        return cls(*map(torch.cat, zip(*parts)), label_space(recipe.space).classes)

    def predicted_as(self, c: int) -> Tensor:
        """(C,): the share of the class's pixels that is predicted as each class; 0 where it has none."""
        counts = torch.bincount(self.prediction[self.truth == c], minlength=len(self.classes)).double()
        return counts / counts.sum().clamp(min=1)

    def area_and_right(self, c: int) -> tuple[float, float]:
        """(predicted over true area, the share of the surest half of the predicted area that is the class; nan without any)."""
        predicted = self.prediction == c
        sure = predicted & (self.confidence >= self.confidence[predicted].median()) if predicted.any() else predicted
        return (predicted.sum() / (self.truth == c).sum()).item(), (self.truth[sure] == c).double().mean().item()


def options(doc: str, pairs: tuple[str, ...]) -> argparse.ArgumentParser:
    """The command line of a table: the pair, and what of it runs where."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("pair", choices=pairs)
    parser.add_argument("--design", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    return parser


def print_score(row: str, seed: int, content: dict[str, Any]) -> None:
    """Print a row's score as soon as it is there."""
    print(f"{row}, seed {seed}: {100 * content['scores']['miou']:.1f}", flush=True)


def measure(
    args: argparse.Namespace,
    name: str,
    rows: tuple[Row, ...],
    overrides: tuple[str, ...] = (),
    also: Callable[[str, int, dict[str, Any]], None] = lambda row, seed, content: None,
    reported: tuple[int, ...] = REPORTED,
    kept: Kept | None = None,
) -> None:
    """Run the rows of the table ``name``, keep each score, print the table; a complete one is written to the results.

    also: called with each row that is scored, its seed and its scores, once its network is there. kept: by default the scores
    of this table, and equal rows of other tables.
    """
    torch.set_num_threads(1)
    scores = RESULTS / "scores"

    def tell(row: str, seed: int, content: dict[str, Any]) -> None:
        print_score(row, seed, content)
        also(row, seed, content)

    try:
        rows = find_rows(rows, args.rows) if args.rows else rows
    except ValueError as error:
        raise SystemExit(str(error)) from None
    results = compare(
        args.pair, pictures(args.pair, args.design, args.camvid), args.out / name,
        seeds=tuple(args.seeds or (DESIGN if args.design else reported)), rows=rows, overrides=overrides, jobs=args.jobs,
        kept=kept or Kept(scores / f"{name}.json", sorted(scores.glob("*.json"))), command=command(),
        tell=tell,
    )  # fmt: skip
    if not args.rows and not args.seeds:
        if not args.design:  # each of these files has a place in docs/results.md
            write_whole(RESULTS / f"{name}.json", json.dumps(results, indent=1) + "\n")
        write_whole(RESULTS / f"{name}.md", table(results))
    print(table(results))


def main() -> None:
    parser = options(__doc__, ("ministreet", "ministreet_camvid", "camvid_dusk"))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--confused", nargs="+", metavar="CLASS")
    args = parser.parse_args()
    if not args.design and args.pair not in MAIN:
        raise SystemExit(f"No main row is named for {args.pair}: run --design, then name one in MAIN, in a commit of its own.")
    name, rows = f"mean_teacher_{args.pair}" + "_design" * args.design, rows_of(args.pair, args.design)
    overrides, seeds = (), REPORTED
    if args.long:
        if args.pair != "ministreet" or args.design:
            raise SystemExit("--long is for the reported seeds of ministreet.")
        name, rows, overrides, seeds = f"{name}_long", long_rows(rows), ("steps=1500",), (0, 1, 2)
    if args.confused:
        seeds = tuple(args.seeds or (DESIGN if args.design else seeds))
        found = confused(pictures(args.pair, args.design, args.camvid), args.out / name, rows, seeds, args.confused)
        return hand_over(found, RESULTS / f"{name}_confused.md")
    measure(args, name, rows, overrides, reported=seeds)


if __name__ == "__main__":
    main()
