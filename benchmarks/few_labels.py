"""Label 20 pictures, or adapt? mIoU against the number of labelled pictures, for the methods for few labels and for adaptation.

    python -m benchmarks.few_labels ministreet [--design] [--labels 0 10 20 80 400] [--seeds 0 1 2] [--rows NAME ...] [--jobs 2]
    python -m benchmarks.few_labels camvid --camvid FOLDER [...]

ministreet: MiniStreet's camera look, 400 pictures; adaptation comes from the game look, with 0 labels, too. camvid: CamVid's
training split in SegNet's folders, ClassMix and the labelled pictures alone, also with as many steps as ClassMix. Which
pictures are labelled depends on the seed, and for one seed 10 are among 20; with 400 labels no picture is left without, and
the unlabelled pictures are those with labels. All rows train after a start of as many steps, adaptation's on the game's
pictures; SegSDF's two stages replace the start. Methods of one training have as many steps after it, and read other batches
there than the start did. Each has a control, the labelled pictures alone with its start, augmentation and network passes,
hence with more steps (SegSDF with 20 labels alone, another network and start; else that of ClassMix, and the table marks its
gain; of adaptation those of the game, too). The passes that write GIST's and RIST's pseudo-labels are not counted. GIST learns
from four fifths of the labelled pictures, its control from all. SegSDF reads the exact depth of all 400 pictures
(depth_noise=0), which no other row has. Every row is scored after its last step, with the network that learns, ReCo, too. With
20 labels there are ReCo and SemiSegContrast without their contrast, and SemiSegContrast with its supervised loss alone, whose
class weights count the teacher's labels of unlabelled pictures all the same.

--design: the variants that constants were chosen from, with 20 labels, on seeds 100 and 101; of ministreet on pictures of their
own, of camvid on the photographs of @val that the reported seeds are scored on, with other choices of labelled ones. Reported
seeds run where CHOSEN names the rows that these have chosen. Scores are kept in
benchmarks/results/scores/few_labels_NAME_LABELS[_design].json as they come; without --labels, --seeds and --rows the tables
benchmarks/results/few_labels_NAME_LABELS.{json,md} are written at the end. Their page: benchmarks/few_labels_page.py.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.mean_teacher import DESIGN, MAIN, RESULTS, SWITCHES, options, print_score
from benchmarks.measuring import command
from course_lib.data import ministreet
from course_lib.experiments.compare import Kept, compare, over_seeds
from course_lib.experiments.parts import Pair, divided
from course_lib.experiments.rows import in_one_domain, method_row, row_recipe, start_and_augmentation, with_controls
from course_lib.experiments.table import table
from course_lib.files import write_whole
from course_lib.recipes import Row, recipe
from course_lib.registry import find_named

REPORTED = (0, 1, 2)
TWENTY = 20  # labels: of the development seeds, and with which SegSDF has a control of its compute
COUNTS = {"ministreet": (0, 10, 20, 80, 400), "camvid": (10, 20, 80)}
PICTURES = 400  # of MiniStreet's camera look
PLAIN, ADAPTED = "supervised, plain colours", "adapted from the game"
SHORT = "supervised, the steps of ClassMix"  # where no control of GIST or RIST has as many
GAME, BOTH = "game", "game and labels"  # controls of adaptation, without and with labelled pictures of the camera look
NOTES = {  # name -> what the tables of the reported seeds say, too
    "camvid": "The constants were chosen on the photographs that are scored here, with seeds 100 and 101, which label others.",
}

# row of the development seeds -> method, settings
PASTED = {
    "ClassMix, labelled pasted": ("classmix", ("mix_from=labelled",)),
    "ClassMix, unlabelled pasted": ("classmix", ("mix_from=unlabelled",)),
}
VARIANTS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "ministreet": {
        **PASTED,
        "ClassMix, labelled pasted, half unmixed": ("classmix", ("mix_from=labelled", "unmixed=0.5")),
        "ReCo, weight 1": ("reco", ("terms.region_contrast.weight=1",)),
        "ReCo, weight 0.1": ("reco", ("terms.region_contrast.weight=0.1",)),
        "SemiSegContrast, power of the confidence": ("semiseg", ()),
        "SemiSegContrast, class-wise": ("semiseg", ("weighting=class",)),
        "GIST": ("gist", ()),
        "RIST": ("rist", ()),
        # class outputs are untrained at the first step, where every other row has had its start
        "SegSDF, one threshold as published": ("segsdf", ("weighting=threshold", "share_after=yes", "ramp_steps=0")),
        "SegSDF, class-wise with a ramp": ("segsdf", ("ramp_steps=400",)),
    },
    "camvid": PASTED,
}  # fmt: skip
# Rows of the reported seeds: of a method's variants the recipe's own, unless the mean of another one over the development seeds
# is better by more than 0.3 points.
CHOSEN: dict[str, tuple[str, ...]] = {
    "ministreet": (
        "ClassMix, labelled pasted", "ReCo, weight 0.1", "SemiSegContrast, class-wise", "RIST",
        "SegSDF, class-wise with a ramp",
    ),
    "camvid": ("ClassMix, labelled pasted",),
}  # fmt: skip
# with 20 labels: a chosen row without its idea
WITHOUT = {"reco": "ReCo without its contrast", "semiseg": "SemiSegContrast without its memory"}
SUPERVISED_ROW = "SemiSegContrast's supervised loss alone"
SUPERVISED = ("lambda_mix=0", "lambda_entropy=0")
LAST = ("select=last",)  # else networks of long controls would be chosen on unlabelled pictures, and those of short rows not


def settings_of(name: str, design: bool) -> tuple[str, ...]:
    """Of all rows. Reported ones read other batches than their start did; GIST and RIST do so in any case (recipes)."""
    steps = recipe(f"{name}_few_labels", "classmix").start_steps
    return LAST if design else (*LAST, f"first_batch={steps}")


def rows_of(name: str, labels: int, design: bool) -> tuple[Row, ...]:
    """The rows of one number of labels in one domain, each with its control."""
    pair = f"{name}_few_labels"
    rows = []
    chosen = VARIANTS[name] if design else {text: VARIANTS[name][text] for text in CHOSEN[name]}
    if labels == TWENTY and not design:
        chosen |= without_ideas(chosen)
    for text, (method, settings) in chosen.items():
        if method == "semiseg" and "terms=none" not in settings:
            settings = (*settings, f"terms.memory_contrast.labelled={labels}")
        row = replace(method_row(method), name=text, overrides=settings)
        if method == "classmix":
            donor = "labelled" if "mix_from=labelled" in settings else "other unlabelled"
            explained = f"classes of {donor} pictures pasted on unlabelled ones, with a mean teacher's labels"
            row = replace(row, explanation=explained)
        if "terms=none" in settings:
            less = "its supervised loss alone, with class weights" if "lambda_mix=0" in settings else "without its contrast"
            row = replace(row, explanation=f"the step of {method}, {less}")
        if method == "segsdf":
            row = replace(row, explanation=f"{row.explanation}; the exact depth of all pictures, which no other row has")
        rows.append(row)
    placed, controls = with_controls(rows, pair)
    first = next(row for row in placed if row.method == "classmix")
    if design or labels != TWENTY:  # five times as long as any other row
        others = {row.control for row in placed if row.method == "segsdf"}
        controls = [row for row in controls if row.name not in others]
        placed = [replace(row, control=first.control) if row.control in others else row for row in placed]
    if not design:
        (*start, _), _ = start_and_augmentation("classmix", pair)  # what strong colours are worth
        placed.insert(0, Row(PLAIN, "source-only", tuple(start), control=first.control, compute_of=first,
                             explanation="source labels alone, no strong colours, the compute of ClassMix"))  # fmt: skip
        if not any(row.method in ("gist", "rist") for row in placed):  # their control has them, too
            same = next(row for row in controls if row.name == first.control).overrides
            steps = f"steps={row_recipe(first, pair, (), 0).loop.steps}"
            controls.append(Row(SHORT, "source-only", (*same, steps),
                                explanation="source labels alone, augmented likewise, the steps of ClassMix"))  # fmt: skip
    return in_one_domain((*controls, *placed))


def without_ideas(chosen: dict[str, tuple[str, tuple[str, ...]]]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """ReCo and SemiSegContrast of the chosen rows without their term, and SemiSegContrast with its supervised loss alone."""
    found = {}
    for method, settings in chosen.values():
        if method in WITHOUT:
            others = (*(text for text in settings if not text.startswith("terms.")), "terms=none")
            found[WITHOUT[method]] = (method, others)
            if method == "semiseg":
                found[SUPERVISED_ROW] = (method, (*others, *SUPERVISED))
    return found


def adaptation_rows(labels: int) -> tuple[Row, ...]:
    """From the game look, after as many steps of a start as the rows in one domain have; labelled pictures of the camera look
    are a third stream, with 0 labels there is none."""
    (*_, start), _ = start_and_augmentation("classmix", "ministreet_few_labels")
    _, same = start_and_augmentation("dacs", "ministreet", own=(start,))
    third = ("terms=+few_labels",) * (labels > 0)
    of_both, of_adapted = "of both looks, no other", "and the labelled pictures in each step"
    if not labels:
        of_both, of_adapted = "of the game alone", "no label of the camera look"
    adapted = Row(ADAPTED, "dacs", (*SWITCHES[MAIN["ministreet"]], start, *third), control=BOTH if labels else GAME,
                  explanation=f"the mean teacher's main row with as long a start as all rows, {of_adapted}")  # fmt: skip
    control = Row(adapted.control, "source-only", (*same, *third), compute_of=adapted,
                  explanation=f"labelled pictures {of_both}; the compute of the row below")  # fmt: skip
    return control, adapted


def planned(name: str, labels: int, design: bool, only: list[str] | None = None) -> dict[str, tuple[Row, ...]]:
    """recipe -> rows of the comparisons with so many labels; with 0 of adaptation alone. only: the names of some rows."""
    found = {f"{name}_few_labels": rows_of(name, labels, design)} if labels else {}
    if name == "ministreet" and not design:
        found["ministreet"] = adaptation_rows(labels)
    some = {recipe: tuple(row for row in rows if not only or row.name in only) for recipe, rows in found.items()}
    return {recipe: rows for recipe, rows in some.items() if rows}


def refuse_unknown(name: str, counts: tuple[int, ...], design: bool, only: list[str] | None) -> None:
    """SystemExit where a number of labels has no rows, or where a row is named that is in no table."""
    tables = {labels: planned(name, labels, design) for labels in counts}
    if without := [labels for labels, table_of in tables.items() if not table_of]:
        raise SystemExit(f"{name} has no rows with {without[0]} labels: adaptation alone has, on ministreet's reported seeds.")
    names = dict.fromkeys(row.name for table_of in tables.values() for rows in table_of.values() for row in rows)
    for row in only or ():
        try:
            find_named("row", row, names)
        except ValueError as error:
            raise SystemExit(str(error)) from None


def pictures(name: str, labels: int, seed: int, design: bool, camvid: Path | None) -> tuple[Pair | None, Pair | None]:
    """(in one domain, from the game) of one seed."""
    if name == "camvid":
        if camvid is None:
            raise SystemExit("camvid wants CamVid: --camvid FOLDER.")
        labelled, others = divided(f"camvid:{camvid}@train", str(labels), seed)
        return Pair(labelled, others, f"camvid:{camvid}@val"), None
    game, camera, scored = (101, 102, 103) if design else (1, 2, 3)
    whole = f"cityscapes:{ministreet.cached('cityscapes', PICTURES, camera)}"
    validation = f"cityscapes:{ministreet.cached('cityscapes', 120, scored, split='val')}@val"
    source = f"gta5:{ministreet.cached('gta5', PICTURES, game)}"
    if not labels:
        return None, Pair(source, whole, validation)
    labelled, others = (whole, whole) if labels == PICTURES else divided(whole, str(labels), seed)
    return Pair(labelled, others, validation), Pair(source, others, validation, labelled=labelled)


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One comparison of several: the rows of all, each with the seeds of all."""
    whole = {**parts[0], "rows": {}, "constants": {}, "notes": []}
    for part in parts:
        whole["constants"] = part["constants"] | whole["constants"]
        whole["notes"] += [note for note in part.get("notes", ()) if note not in whole["notes"]]
        for name, row in part["rows"].items():
            have = whole["rows"].setdefault(name, row | {"seeds": {}})
            have["seeds"] = have["seeds"] | row["seeds"]
    for row in whole["rows"].values():
        row |= over_seeds(row["seeds"])
    return whole


def measure(title: str, labels: int, args: Any) -> dict[str, Any]:
    """All rows with so many labels, on all seeds: one comparison for each seed, as its labelled pictures are its own."""
    scores, name, found = RESULTS / "scores", args.pair, []
    overrides = settings_of(name, args.design)
    for seed in args.seeds or (DESIGN if args.design else REPORTED):
        pairs = dict(zip((f"{name}_few_labels", "ministreet"), pictures(name, labels, seed, args.design, args.camvid)))
        for pair, rows in planned(name, labels, args.design, args.rows).items():
            found.append(compare(
                pair, pairs[pair], args.out / title / f"{pair}_seed{seed}", seeds=(seed,), rows=rows, overrides=overrides,
                kept=Kept(scores / f"{title}.json", sorted(scores.glob("*.json"))), jobs=args.jobs, command=command(),
                tell=print_score,
            ))  # fmt: skip
    whole = merged(found)
    if name in NOTES and not args.design:
        whole["notes"].append(NOTES[name])
    return whole


def main() -> None:
    torch.set_num_threads(1)
    parser = options(__doc__, tuple(COUNTS))
    parser.add_argument("--labels", type=int, nargs="+")
    args = parser.parse_args()
    if not args.design and args.pair not in CHOSEN:
        raise SystemExit(f"No rows are chosen for {args.pair}: run --design, then name them in CHOSEN, in a commit of its own.")
    complete = not (args.labels or args.rows or args.seeds)
    counts = tuple(args.labels or ((TWENTY,) if args.design else COUNTS[args.pair]))
    refuse_unknown(args.pair, counts, args.design, args.rows)
    for labels in counts:
        if not planned(args.pair, labels, args.design, args.rows):
            continue
        title = f"few_labels_{args.pair}_{labels}" + "_design" * args.design
        results = measure(title, labels, args)
        if complete:
            if not args.design:
                write_whole(RESULTS / f"{title}.json", json.dumps(results, indent=1) + "\n")
            write_whole(RESULTS / f"{title}.md", table(results))
        print(f"{labels} labels\n{table(results)}", flush=True)


if __name__ == "__main__":
    main()
