"""docs/few_labels.md and its figure, from the result files of benchmarks/few_labels.py.

    python -m benchmarks.few_labels_page       the same result files give the same page and the same figure

Every number of the page is computed here from results/few_labels_NAME_LABELS.json and, of what networks are like, from
results/features/few_labels_ministreet_20.json. A method is compared, seed by seed, with its control, labelled pictures alone
that had as many network passes, and ClassMix and what is built on it also with those that had as many steps; ReCo and
SemiSegContrast also with ClassMix, which had as many steps, and with themselves without their contrast. The frames of CamVid
are numbers in the names of its pictures.
"""

import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.few_labels import ADAPTED, BOTH, COUNTS, GAME, PLAIN, SHORT, SUPERVISED_ROW, TWENTY, WITHOUT
from benchmarks.few_labels_features import NAME as FEATURES_OF
from benchmarks.mean_teacher import RESULTS
from benchmarks.measuring import gain_cells, png, training_hours
from course_lib.classroom import figures
from course_lib.experiments.paired import Difference, differences, half_interval
from course_lib.experiments.table import equal_compute
from course_lib.files import read_json, write_whole

HERE = Path(__file__).resolve().parent
PAGE, FIGURE = HERE.parent / "docs" / "few_labels.md", HERE.parent / "notebooks" / "figures" / "few_labels.png"
ALONE = "supervised, strong colours"  # the control of ClassMix, as the figure names it
EQUAL_STEPS = f"{ALONE}, equal steps"  # the control of RIST, whose passes are those of its steps alone
GAIN = 2.5  # points, with 20 labels: what ClassMix should gain at least
BESIDE = ("ReCo", "SemiSegContrast")  # methods that are ClassMix and more
ABLATED = {"ReCo": WITHOUT["reco"], "SemiSegContrast": WITHOUT["semiseg"]}  # -> the row without its contrast
PARTS = (*ABLATED.values(), SUPERVISED_ROW)  # rows with 20 labels that the figure leaves out

MEASURES = {"within": "cosine within", "between": "cosine between", "silhouette": "silhouette"}

Results = dict[int, dict[str, Any]]  # number of labels -> the table's content
Features = dict[str, dict[str, dict[str, Any]]]  # row -> seed -> what `benchmarks.few_labels_features` found


def read(name: str) -> Results:
    return {labels: read_json(RESULTS / f"few_labels_{name}_{labels}.json") for labels in COUNTS[name]}


# ---- rows by name ----------------------------------------------------------------------------------------------------


def called(rows: dict[str, Any]) -> dict[str, str]:
    """Row of one table -> its name on the page. Methods have one, and the controls of ClassMix, RIST and adaptation."""
    names = {GAME: BOTH, BOTH: BOTH, PLAIN: PLAIN, SHORT: EQUAL_STEPS}  # the game alone is "game and labels" with 0 labels
    controls = {"classmix": ALONE, "rist": EQUAL_STEPS}
    for row in rows.values():
        if row["method"] in controls:
            names[row["control"]] = controls[row["method"]]
    return {
        name: names.get(name, name.partition(",")[0])
        for name, row in rows.items()
        if name in names or row["control"] is not None
    }


def curves(results: Results) -> dict[str, dict[int, list[float]]]:
    """mIoU in %, of each seed, by name and number of labels."""
    found: dict[str, dict[int, list[float]]] = {}
    for labels, content in results.items():
        for row, name in called(content["rows"]).items():
            seeds = content["rows"][row]["seeds"].values()
            found.setdefault(name, {})[labels] = [100 * run["miou"] for run in seeds]
    return found


def row_of(content: dict[str, Any], name: str) -> str | None:
    """The row of one table that the page calls `name`."""
    return next((row for row, each in called(content["rows"]).items() if each == name), None)


def over_control(content: dict[str, Any], name: str) -> Difference | None:
    """mIoU of a method less that of its control, in points, seed by seed; None where the table has no such method."""
    row = row_of(content, name)
    control = row and content["rows"][row]["control"]
    return differences(content, row, control)[-1] if row and control else None


def less(content: dict[str, Any], name: str, other: str) -> Difference | None:
    """mIoU of one name less that of another, in points, seed by seed; None where the table has not both."""
    row, without = row_of(content, name), row_of(content, other)
    return differences(content, row, without)[-1] if row and without else None


def gain_text(gain: Difference | None) -> str:
    """Mean ± half of its 95 % interval, in points; "-" where a row is missing."""
    return "-" if gain is None else f"{gain.mean:+.1f} ± {gain.half:.1f}"


# ---- tables ----------------------------------------------------------------------------------------------------------


def head(results: Results) -> list[str]:
    return [f"| | {' | '.join(f'{labels} labels' for labels in results)} |", "|---" * (1 + len(results)) + "|"]


def scores_table(results: Results) -> str:
    """Mean mIoU ± standard deviation of the seeds, method by number of labels."""
    lines = head(results)
    for name, points in curves(results).items():
        cells = [f"{statistics.fmean(p):.1f} ± {statistics.stdev(p):.1f}" if (p := points.get(n)) else "-" for n in results]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains_table(results: Results) -> str:
    """Gains over the control of equal compute; an asterisk where the control had another."""
    lines = head(results)
    for name in curves(results):
        cells = []
        for content in results.values():
            gain = over_control(content, name)
            cells.append(gain_text(gain) + ("" if gain is None else _mark(content, name)))
        if set(cells) != {"-"}:
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mark(content: dict[str, Any], name: str) -> str:
    rows = content["rows"]
    row = rows[row_of(content, name)]
    return "" if equal_compute(row, rows[row["control"]]) else " *"


def equal_steps_table(results: Results) -> str:
    """ClassMix and methods that are ClassMix and more, less labelled pictures alone with as many steps, hence fewer passes."""
    return _less_table(results, ("ClassMix", *BESIDE), EQUAL_STEPS)


def ideas_table(results: Results) -> str:
    """A method that is ClassMix and more, less ClassMix, at equal steps."""
    return _less_table(results, BESIDE, "ClassMix")


def _less_table(results: Results, names: Collection[str], other: str) -> str:
    lines = head(results)
    for name in names:
        found = [less(content, name, other) for content in results.values()]
        if any(found):
            lines.append(f"| {name} | {' | '.join(map(gain_text, found))} |")
    return "\n".join(lines)


def parts_table(results: Results) -> str:
    """With 20 labels, what single parts of a method add."""
    content, lines = results[TWENTY], ["| | mean | 95 % interval | by seed |", "|---|---|---|---|"]
    found = {f"{name}, less {without}": less(content, name, without) for name, without in ABLATED.items()}
    without = ABLATED["SemiSegContrast"]
    found[f"{without}, less its supervised loss alone"] = less(content, without, SUPERVISED_ROW)
    found["its supervised loss alone, less labelled pictures alone at equal steps"] = less(content, SUPERVISED_ROW, EQUAL_STEPS)
    found["the same, at equal compute"] = over_control(content, SUPERVISED_ROW)
    for text, each in found.items():
        assert each is not None, text
        lines.append(f"| {text} | {gain_cells(each.points)} |")
    return "\n".join(lines)


def features_table(content: dict[str, Any], features: Features) -> str:
    """With 20 labels: what each contrast does to its loss, to what it compares, and to the features below the classifier."""
    lines = [f"| | loss | own silhouette | {' | '.join(MEASURES.values())} | right | mIoU |", "|---" * 8 + "|"]
    for name, without in ABLATED.items():
        row, gain = row_of(content, name), less(content, name, without)
        assert row is not None and gain is not None, name
        runs, others = features[row], features[without]
        start, end, own = (
            statistics.fmean(run[key] for run in runs.values()) for key in ("loss_start", "loss_end", "own_silhouette")
        )
        changes = [[run[key] - others[seed][key] for seed, run in runs.items()] for key in MEASURES]
        cells = [f"{statistics.fmean(each):+.3f} ± {half_interval(each):.3f}" for each in changes]
        right = [100 * (run["classifier_all"] - others[seed]["classifier_all"]) for seed, run in runs.items()]
        cells.append(f"{statistics.fmean(right):+.2f} ± {half_interval(right):.2f}")
        lines.append(f"| {name} | {start:.2f} → {end:.2f} | {own:+.2f} | {' | '.join(cells)} | {gain.mean:+.1f} |")
    return "\n".join(lines)


def changes_of_rounds(features: Features) -> dict[str, list[float]]:
    """What each of RIST's rounds changes mIoU by, in points, of all seeds: those on labels, those on pseudo-labels."""
    found: dict[str, list[float]] = {"labels": [], "pseudo-labels": []}
    for run in features["RIST"].values():
        names, mious = zip(*run["stages"].items())
        for name, before, after in zip(names[1:], mious, mious[1:]):
            found[_learnt_from(name)].append(100 * (after - before))
    return found


def rounds_table(features: Features) -> str:
    """RIST with 20 labels: mIoU of each round's network, in %."""
    rounds = max(len(run["stages"]) for run in features["RIST"].values()) - 1
    lines = [f"| seed | start | {' | '.join(f'round {k}' for k in range(1, rounds + 1))} |", "|---" * (2 + rounds) + "|"]
    for seed, run in features["RIST"].items():
        (_, first), *others = run["stages"].items()
        cells = [f"{_learnt_from(name)}: {100 * miou:.1f}" for name, miou in others]
        lines.append(f"| {seed} | {100 * first:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _learnt_from(stage: str) -> str:
    return "pseudo-labels" if stage.startswith("unlabelled") else "labels"


def bars(results: Results) -> dict[str, tuple[Difference, str, bool]]:
    """With 20 labels: what was expected beforehand -> (difference, bar, whether it is reached)."""
    content = results[TWENTY]
    classmix, reco = over_control(content, "ClassMix"), less(content, "ReCo", "ClassMix")
    assert classmix is not None and reco is not None
    spread = statistics.stdev(reco.points.values())
    return {
        "ClassMix over labels alone": (classmix, f"at least +{GAIN}", classmix.mean >= GAIN),
        "ReCo less ClassMix": (reco, "not below 0 by more than its standard deviation", reco.mean >= -spread),
    }


def bars_table(results: Results) -> str:
    lines = ["| | mean | 95 % interval | by seed | bar | reached |", "|---|---|---|---|---|---|"]
    for name, (found, bar, reached) in bars(results).items():
        lines.append(f"| {name} | {gain_cells(found.points)} | {bar} | {'yes' if reached else 'no'} |")
    return "\n".join(lines)


def worth(results: Results) -> str:
    """How many labels reach what adaptation reaches without any, in words."""
    means = {name: {n: statistics.fmean(points) for n, points in each.items()} for name, each in curves(results).items()}
    adapted = means[ADAPTED][0]
    texts = [f"{adapted:.1f} %, the game's labels alone {means[BOTH][0]:.1f} %"]
    for name in (ALONE, "ClassMix"):
        numbers = sorted(means[name])
        at = next((k for k, n in enumerate(numbers) if means[name][n] >= adapted), None)
        shown = numbers[-1:] if at is None else numbers[max(0, at - 1) : at + 1]
        scores = " and ".join(f"{means[name][n]:.1f} % with {n} labels" for n in shown)
        texts.append(f"{name}{' no more than' * (at is None)} {scores}")
    return "; ".join(texts)


def most_lost(content: dict[str, Any], name: str, other: str, count: int = 3) -> str:
    """The classes in which a row is furthest below another: mean change of IoU over the seeds in points, in words."""
    ours, theirs = (content["rows"][row_of(content, each)]["seeds"] for each in (name, other))
    classes = next(iter(ours.values()))["iou"]
    change = {c: statistics.fmean(100 * (ours[seed]["iou"][c] - theirs[seed]["iou"][c]) for seed in ours) for c in classes}
    return ", ".join(f"{c} {change[c]:+.1f}" for c in sorted(change, key=change.__getitem__)[:count])


def drawn(results: Results) -> bytes:
    """The figure: mIoU by the number of labels, with the hours of labelling above."""
    shown = {name: points for name, points in curves(results).items() if name not in PARTS}
    return png(figures.labels_curve(shown, width=11, bold=(ADAPTED, BOTH)))


# ---- the page --------------------------------------------------------------------------------------------------------

TEXT = """# Label 20 pictures, or adapt?

Made by `python -m benchmarks.few_labels_page` from the result files of `python -m benchmarks.few_labels ministreet`, of
`python -m benchmarks.few_labels camvid --camvid FOLDER` and of `python -m benchmarks.few_labels_features`; do not edit.

- **Without a label** adaptation reaches {worth}.
- **With 20 labels and the game's**, without adaptation: {both_twenty:.1f} %; adaptation less that, at equal compute:
  {adapted_twenty} points.
- **With 20 labels and no game** ClassMix less the labelled pictures alone, at equal compute: {classmix} points; ReCo less
  ClassMix, at equal steps: {reco} points.
- **With {most} labels** ClassMix less the labelled pictures alone: {most_compute} points at equal compute, {most_steps} at
  equal steps. There all pictures have labels, so that a teacher adds no further picture.

mIoU on the scored pictures, mean of three seeds; gains with half of their 95 % interval.

![mIoU by number of labels](../notebooks/figures/few_labels.png)

The domain is MiniStreet's camera look, 400 pictures; some have labels, which ones depends on the seed (0, 1, 2), and for
one seed 10 are among 20. With 400 labels none is left without, and the unlabelled pictures are those with labels. All rows
but *{plain}* have strong colours, and all a start of as many steps: *{adapted}* and *{both}* on the game's pictures, the
others on the labelled ones; SegSDF's two stages replace it. After the start, methods of one training have as many steps;
those that learn from labelled pictures alone have more, for equal compute. SegSDF reads the exact depth of all 400
pictures, which no other row has; its authors learn depth from video, which is left out. RIST, on the development seeds the
better one of GIST and RIST, has stages, each with a rate that falls to 0. Line: mean of the seeds; bar: the least and the
most. Above: hours of labelling, 1.5 a picture (Cityscapes' authors); the game's labels are not counted. The network that
learns is scored after its last step, ReCo's, too (its authors score the averaged teacher, which after some hundred steps is
a mean of a third of the training). Which rows and constants were chosen, on other seeds and pictures:
[MiniStreet](../benchmarks/results/few_labels_ministreet_20_design.md),
[CamVid](../benchmarks/results/few_labels_camvid_20_design.md).

## mIoU

Mean ± standard deviation over the seeds, in %.

{scores_table}

## Gains at equal compute

Over labelled pictures alone with the same start, augmentation and network passes (forward 1, backward 2; those that write the
pseudo-labels of RIST are not counted), of adaptation those of the game, too: mean ± half of the 95 % interval of three
seeds. *{plain}* differs from its control in the colours alone. An asterisk: the control had another compute, and SegSDF's
another network and start, too, so that the number is not the gain of its idea alone.

{gains_table}

A step of ClassMix has {ratio:.2f} times the passes of one on labels alone, so that its control takes more steps. Over labelled
pictures alone with as many steps as the method:

{equal_steps_table}

## What each idea adds to ClassMix

At equal steps; passes differ ([the tables](#files)). RIST is no addition to ClassMix, and SegSDF has more steps and
another network.

{ideas_table}

Beside ClassMix, ReCo has its contrast alone here. SemiSegContrast has more: pasted pictures without labels, two views, classes
weighted by their frequency in both losses, labelled pictures mixed with each other, an entropy loss. With 20 labels, part by
part; the class weights of its supervised loss count the teacher's labels of the unlabelled pictures, too:

{parts_table}

## Why an idea adds nothing here

**The contrasts.** Of the networks on the scored pictures, with 20 labels: each contrast lowers its own loss, and the output of
its projector, which it compares, is separated by class. The features below the classifier hardly change, and these are what the
classifier reads. *loss*: mean of the first and of the last tenth of the steps; *own silhouette*: of the projector's output, 1
where classes are far apart, 0 where they touch; the others are changes over the row without the contrast, mean ± half of the
95 % interval: *cosine within* a class and *between* classes, *silhouette* of the features, *right*: share of the cells of one
class that the classifier has right, and *mIoU*, in points.

{features_table}

**Self-training.** RIST's rounds with 20 labels, each from the network before, on labels or on pseudo-labels by chance; mIoU in
% on the scored pictures:

{rounds_table}

A round on labels changes mIoU by {on_labels:+.1f} points in the mean of {n_labels} rounds, one on pseudo-labels by
{on_pseudo:+.1f} in the mean of {n_pseudo}. The pseudo-labels are the network's own, of all pixels, with no teacher and
nothing mixed: it learns what it knows already, and its errors.

## The gains that were expected

With 20 labels; *bar*: the gain to reach, fixed before the runs.

{bars_table}

## Photographs: CamVid

The training split in SegNet's folders, scored on its validation split: frames 7959 to 8159 of a drive that most training
pictures are from, too. With seed 2 frame 7920 has a label, with any number of labels; with the other seeds no labelled picture
is within 60 frames of the clip. Scores of seed 2 are the highest; whether that picture is the reason was not tested (with 80
labels those of seed 1 are near). Compare rows within a seed. Constants were chosen on these photographs, with seeds 100 and
101, which label others.

{camvid_table}

Gains at equal compute:

{camvid_gains}

ClassMix has strong colours, as its control has. On these photographs they cost labels alone more than they give: *{plain}*
is better on every seed. Over labels alone with as many steps:

{camvid_equal_steps}

With {camvid_most} labels and equal steps ClassMix loses most IoU in these classes, in points: {camvid_lost}.

## Files

{files}

{hours:.0f} hours of training of one process with one thread, two at a time.
"""


def page(made: Results, camvid: Results, features: Features) -> str:
    """The whole page. made: MiniStreet; features: of its networks with 20 labels."""
    found, rounds, most = bars(made), changes_of_rounds(features), max(made)
    classmix, reco = (gain_text(gain) for gain, _, _ in found.values())
    rows = made[TWENTY]["rows"]
    long, short = (rows[row_of(made[TWENTY], name)]["passes"] for name in (ALONE, EQUAL_STEPS))
    places = [("ministreet", labels) for labels in made] + [("camvid", labels) for labels in camvid]
    return TEXT.format(
        classmix=classmix,
        reco=reco,
        most=most,
        most_compute=gain_text(over_control(made[most], "ClassMix")),
        most_steps=gain_text(less(made[most], "ClassMix", EQUAL_STEPS)),
        worth=worth(made),
        both_twenty=statistics.fmean(curves(made)[BOTH][TWENTY]),
        adapted_twenty=gain_text(over_control(made[TWENTY], ADAPTED)),
        plain=PLAIN,
        adapted=ADAPTED,
        both=BOTH,
        scores_table=scores_table(made),
        gains_table=gains_table(made),
        ratio=long / short,
        equal_steps_table=equal_steps_table(made),
        ideas_table=ideas_table(made),
        parts_table=parts_table(made),
        features_table=features_table(made[TWENTY], features),
        rounds_table=rounds_table(features),
        on_labels=statistics.fmean(rounds["labels"]),
        n_labels=len(rounds["labels"]),
        on_pseudo=statistics.fmean(rounds["pseudo-labels"]),
        n_pseudo=len(rounds["pseudo-labels"]),
        bars_table=bars_table(made),
        camvid_table=scores_table(camvid),
        camvid_gains=gains_table(camvid),
        camvid_equal_steps=equal_steps_table(camvid),
        camvid_most=max(camvid),
        camvid_lost=most_lost(camvid[max(camvid)], "ClassMix", EQUAL_STEPS),
        files="\n".join(f"- [{name}, {n} labels](../benchmarks/results/few_labels_{name}_{n}.md)" for name, n in places),
        hours=training_hours(*made.values(), *camvid.values()),
    )


def main() -> None:
    made, camvid = read("ministreet"), read("camvid")
    write_whole(PAGE, page(made, camvid, read_json(RESULTS / "features" / f"{FEATURES_OF}.json")))
    write_whole(FIGURE, drawn(made))
    print(f"{PAGE}, {FIGURE}")


if __name__ == "__main__":
    main()
